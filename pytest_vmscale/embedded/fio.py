"""fio, as the guests run it: job files in, fio's own JSON out, latencies from the storage pool."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .disk import Bulk
from .fio_results import VERSION, Document, Lines
from .iomodel import Demand, Direction, Load, Pool, Served

if TYPE_CHECKING:
    from .shell import Shell
    from .shell_commands import Streams

NOT_FOUND = 127
ACCESS: dict[str, tuple[Direction, ...]] = {
    "read": ("read",), "randread": ("read",), "write": ("write",), "randwrite": ("write",),
    "rw": ("read", "write"), "readwrite": ("read", "write"), "randrw": ("read", "write")}
# What a job may say; what has no part in the model (engines, buffers, seeds) is taken and changes nothing.
OPTIONS = frozenset((
    "name", "description", "directory", "filename", "filename_format", "opendir", "nrfiles", "openfiles", "filesize", "size", "rw", "readwrite", "bs",
    "blocksize", "direct", "buffered", "ioengine", "iodepth", "numjobs", "rate", "rate_iops", "rate_process", "time_based", "ramp_time", "runtime",
    "startdelay", "create_only", "create_fsync", "create_serialize", "group_reporting", "randrepeat", "norandommap", "random_generator", "rwmixread",
    "rwmixwrite", "overwrite", "fallocate", "invalidate", "thread", "sync", "fsync", "end_fsync", "stonewall", "refill_buffers", "file_service_type",
    "percentile_list", "clat_percentiles", "lat_percentiles", "slat_percentiles", "disable_slat", "unlink", "allow_file_create", "gtod_reduce", "thinktime",
    "log_avg_msec", "write_lat_log", "write_iops_log", "write_bw_log", "write_hist_log", "log_hist_msec", "eta", "continue_on_error", "randseed",
    "verify", "do_verify", "unique_filename", "kb_base", "unit_base", "exitall", "loops", "per_job_logs", "buffer_compress_percentage"))
SYNCHRONOUS = ("sync", "psync", "vsync", "pvsync", "pvsync2", "mmap")


class BadJob(Exception):
    """What fio prints of a job file or command line that it does not take."""


@dataclass(frozen=True)
class Section:
    """One job with the global options below its own, as text."""

    name: str
    options: dict[str, str]

    def flag(self, name: str) -> bool:
        return name in self.options and self.options[name] not in ("0", "false")

    def number(self, name: str, default: int = 0) -> int:
        """A size or count with fio's suffixes: k, m, g are powers of 1024."""
        text = self.options.get(name, "").split(",")[0].strip().lower()
        found = re.fullmatch(r"(\d+)([kmgt]?)(i?b)?", text)
        if not text:
            return default
        if not found:
            raise BadJob(f"failed parsing {name}={self.options[name]}")
        return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2]]

    def seconds(self, name: str) -> float:
        text = self.options.get(name, "0").strip().lower()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)?", text)
        if not found:
            raise BadJob(f"failed parsing {name}={text}")
        return float(found[1]) * {None: 1, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]

    @property
    def directions(self) -> tuple[Direction, ...]:
        text = self.options.get("rw", self.options.get("readwrite", "read")).split(":")[0]
        if text not in ACCESS:
            raise BadJob(f"fio: bad value for readwrite: {text}")
        return ACCESS[text]

    @property
    def block_bytes(self) -> int:
        return self.number("bs", self.number("blocksize", 4096)) or 4096

    @property
    def copies(self) -> int:
        return max(1, self.number("numjobs", 1))


def read_jobs(text: str) -> tuple[dict[str, str], list[Section]]:
    """A job file's global options and its jobs. BadJob as fio would complain."""
    shared: dict[str, str] = {}
    jobs: list[Section] = []
    current: dict[str, str] | None = None
    for line in text.splitlines():
        line = line.split("#")[0].split(";")[0].strip()
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1]
            if name == "global":
                current = shared
            else:
                current = dict(shared)
                jobs.append(Section(name, current))
            continue
        if current is None:
            raise BadJob("fio: option outside of a job section")
        key, equals, value = (part.strip() for part in line.partition("="))
        if key not in OPTIONS:
            raise BadJob(f"Bad option <{line}>\nfio: job {jobs[-1].name if current is not shared else 'global'} dropped")
        current[key] = value if equals else "1"
    return shared, jobs


async def fio(shell: Shell, args: list[str], streams: Streams) -> int:
    """The program. Its time is that of its longest job."""
    if "--version" in args or "-v" in args:
        streams.out.append(f"{VERSION}\n")
        return 0
    formats, output, files, line = "normal", None, [], []
    chosen: list[str] = []
    for each in args:
        name, _, value = each.partition("=")
        if name == "--output-format":
            formats = value
        elif name == "--output":
            output = shell.path(value)
        elif name == "--section":
            chosen.append(value)
        elif name in ("--status-interval", "--eta", "--eta-newline", "--max-jobs", "--alloc-size", "--warnings-fatal"):
            continue
        elif name.startswith("--"):
            line.append((name[2:], value or "1"))
        else:
            files.append(each)
    try:
        shared, jobs = _asked(shell, files, line)
        jobs = [each for each in jobs if not chosen or each.name in chosen]
        if not jobs:
            raise BadJob("No job(s) defined")
        reports, code = await _run(shell, jobs, streams)
    except BadJob as problem:
        streams.error.append(f"{problem}\n")
        return 1
    told: Callable[[], bytes] = Document(shell, shared, reports, "json+" in formats) if "json" in formats else Lines(reports)
    if output is None:
        streams.out.append(told().decode())
    else:
        shell.machine.disk.write(output, told)
    return code


def _asked(shell: Shell, files: list[str], line: list[tuple[str, str]]) -> tuple[dict[str, str], list[Section]]:
    shared: dict[str, str] = {}
    jobs: list[Section] = []
    for name in files:
        path = shell.path(name)
        if not shell.machine.disk.is_file(path):
            raise BadJob(f"fio: unable to open '{name}' job file")
        more, found = read_jobs(shell.machine.disk.read(path).decode(errors="replace"))
        shared.update(more)
        jobs.extend(found)
    own: dict[str, str] = {}
    for key, value in line:
        if key not in OPTIONS:
            raise BadJob(f"fio: unrecognized option '--{key}'")
        own[key] = value
    if "name" in own:
        jobs.append(Section(own.pop("name"), own))
    return shared, jobs


@dataclass
class Report:
    """What one job did: for each direction what the pool served it, from `start` to `end`."""

    section: Section
    number: int  # of its group
    error: int = 0
    started: float = 0.0
    start: float = 0.0
    end: float = 0.0
    served: Callable[[], dict[str, Served]] = dict


async def _run(shell: Shell, jobs: list[Section], streams: Streams) -> tuple[list[Report], int]:
    guest, pool, began = shell.guest, _pool(shell), shell.at
    reports: list[Report] = []
    for number, section in enumerate(jobs):
        error = await _files(shell, section, streams)
        copies = 1 if section.flag("group_reporting") or error else section.copies
        reports.extend(Report(section, number, error, began, shell.at, shell.at) for _ in range(copies))
    loads: list[Load] = []
    slowness = pool.slowness((guest.namespace, guest.name), guest.node)
    try:
        for report in reports:
            if not report.error and not report.section.flag("create_only"):
                loads.extend(_begin(shell, report, slowness))
        last = max(report.end for report in reports)
        if loads:
            shell.machine.io_begins(last - shell.at)
        await shell.sleep(last - shell.at)
    finally:
        for load in loads:
            pool.remove(load, min(load.ended, shell.clock.now()))
    return reports, int(any(report.error for report in reports))


def _pool(shell: Shell) -> Pool:
    if shell.machine.pool is None:
        raise BadJob("fio: no storage")
    return shell.machine.pool


def _begin(shell: Shell, report: Report, slowness: float) -> list[Load]:
    """Start a job's threads; says in the report until when they run."""
    guest, pool, section = shell.guest, _pool(shell), report.section
    directions = section.directions
    depth = 1 if section.options.get("ioengine", "psync") in SYNCHRONOUS else max(1, section.number("iodepth", 1))
    threads = section.copies if section.flag("group_reporting") else 1
    rates = _rates(section)
    ramp, runtime = section.seconds("ramp_time"), section.seconds("runtime")
    key = (guest.namespace, guest.name)
    loads: list[tuple[Direction, Load]] = []
    for direction in directions:
        # A thread that does both has one in flight of either, or half of what it may have.
        demand = Demand(direction, rates[direction], max(1, depth // len(directions)), section.block_bytes, slowness)
        loads.extend((direction, pool.add(key, demand, shell.at)) for _ in range(threads))
    seconds = runtime
    if not section.flag("time_based") or not runtime:
        bulk = shell.machine.disk.bulk(_folder(shell, section))
        size = section.number("size") or (bulk.bytes if bulk else 0)
        rate = pool.iops_of(key)
        seconds = size / section.block_bytes / rate if rate else 0.0
        seconds = min(seconds, runtime) if runtime else seconds
    report.start, report.end = shell.at + ramp, shell.at + ramp + seconds
    for _, load in loads:
        load.ended = report.end

    def served() -> dict[str, Served]:
        found: dict[str, Served] = {}
        for direction in directions:
            parts = [pool.served(load, report.start, report.end) for which, load in loads if which == direction]
            found[direction] = replace(parts[0], iops=sum(part.iops for part in parts))
        return found

    report.served = served
    return [load for _, load in loads]


def _rates(section: Section) -> dict[Direction, float]:
    """I/Os a second that each direction is held to; math.inf without a limit."""
    found: dict[Direction, float] = {}
    for number, direction in enumerate(("read", "write")):
        rate = math.inf
        for name, unit in (("rate_iops", 1), ("rate", section.block_bytes)):
            parts = section.options.get(name, "").split(",")
            text = parts[min(number, len(parts) - 1)].strip()
            if text and text != "0":
                rate = min(rate, Section("", {name: text}).number(name) / unit)
        found[direction] = rate  # type: ignore[index]
    return found


def _folder(shell: Shell, section: Section) -> str:
    """Where the job's files are."""
    if "filename" in section.options:
        return shell.path(section.options["filename"]) + ".d"  # one file is a dataset of one
    return shell.path(section.options.get("opendir", section.options.get("directory", ".")))


async def _files(shell: Shell, section: Section, streams: Streams) -> int:
    """See that the job's files are there, laying them out if they are not. Returns fio's error number."""
    disk = shell.machine.disk
    folder = _folder(shell, section)
    there = disk.bulk(folder)
    if "opendir" in section.options:
        if there is None:
            streams.error.append(f"fio: opendir added 0 files\n{section.name}: you need to specify size=\n"
                                 "fio: pid=0, err=22/file:filesetup.c:1078, func=total_file_size, error=Invalid argument\n")
            return errno.EINVAL
        return 0
    count = max(1, section.number("nrfiles", 1)) * section.copies
    each = section.number("filesize") or section.number("size") // count
    if not each:
        streams.error.append(f"{section.name}: you need to specify size=\n"
                             "fio: pid=0, err=22/file:filesetup.c:1078, func=total_file_size, error=Invalid argument\n")
        return errno.EINVAL
    wanted = Bulk(count, each)
    if there and there.bytes >= wanted.bytes:
        return 0
    if not disk.is_folder(folder):
        if "filename" not in section.options:
            streams.error.append(f"fio: {section.options.get('directory', '.')} is not a directory\n")
            return errno.ENOENT
        disk.make_folder(folder, parents=True)
    try:
        if shell.machine.free_bytes < wanted.bytes - (there.bytes if there else 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        disk.fill(folder, wanted)
    except OSError as error:
        streams.error.append(f"fio: pid=0, err={error.errno}/file:filesetup.c:240, func=write, error={error.strerror}\n")
        return error.errno or errno.EIO
    if shell.machine.write_out:
        await shell.machine.write_out(wanted.bytes)
        shell.at = max(shell.at, shell.clock.now())
    return 0
