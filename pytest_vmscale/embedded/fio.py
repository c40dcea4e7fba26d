"""fio, as the guests run it: job files in, fio's own JSON out, latencies from the storage pool."""

from __future__ import annotations

import bisect
import errno
import itertools
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from .disk import Bulk
from .iomodel import Demand, Direction, Load, Pool, Served

if TYPE_CHECKING:
    from .shell import Shell
    from .shell_commands import Streams

VERSION = "fio-3.27"  # of RHEL 8.5's and Fedora 35's repositories
NOT_FOUND = 127
PERCENTILES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)
BITS_PER_GROUP, GROUPS = 6, 29  # of fio's histogram
LARGEST_SECONDS = 17.0  # about where the histogram ends
SUBMISSION_NS = (4000.0, 900.0)  # mean and deviation of slat, which is not the storage's
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
    told: Callable[[], bytes] = _Document(shell, shared, reports, "json+" in formats) if "json" in formats else _Lines(reports)
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


# What fio writes.

@dataclass(frozen=True)
class _Lines:
    """The output format `normal`, in its first lines alone."""

    reports: list[Report]

    def __call__(self) -> bytes:
        lines = []
        for report in self.reports:
            lines.append(f"{report.section.name}: (groupid={report.number}, jobs={report.section.copies}): err={report.error:2d}")
            for direction, served in report.served().items():
                lines.append(f"  {direction}: IOPS={served.iops:.0f}, clat (usec): avg={served.mean * 1e6:.2f}")
        return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True)
class _Document:
    """The JSON document, worked out when somebody reads it."""

    shell: Shell
    shared: dict[str, str]
    reports: list[Report]
    plus: bool

    def __call__(self) -> bytes:
        shell = self.shell
        at = shell.clock.epoch + max(report.end for report in self.reports) + shell.machine.clock_offset_seconds
        document = {
            "fio version": VERSION, "timestamp": int(at), "timestamp_ms": int(at * 1000),
            "time": datetime.fromtimestamp(at, UTC).strftime("%a %b %e %H:%M:%S %Y"),
            **({"global options": self.shared} if self.shared else {}),
            "jobs": [_job(report, self.plus) for report in self.reports],
            "disk_util": [{"name": "vda", "read_ios": 0, "write_ios": 0, "read_merges": 0, "write_merges": 0, "read_ticks": 0, "write_ticks": 0,
                           "in_queue": 0, "util": 0.0}]}
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _job(report: Report, plus: bool) -> dict[str, Any]:
    seconds = report.end - report.start
    served = report.served()
    sides = {name: _side(served.get(name), seconds, report.section.block_bytes)
             for name in ("read", "write", "trim")}
    shares = _latency_shares(sides)
    for side in sides.values() if not plus else ():
        side["clat_ns"].pop("bins", None)
    count = sum(side["total_ios"] for side in sides.values())
    depth = report.section.number("iodepth", 1)
    levels = {name: 100.0 if name == _level(depth) and count else 0.0 for name in ("1", "2", "4", "8", "16", "32", ">=64")}
    batches = {name: 100.0 if name == "4" and count else 0.0 for name in ("0", "4", "8", "16", "32", "64", ">=64")}
    return {
        "jobname": report.section.name, "groupid": report.number, "error": report.error, "eta": 0,
        "elapsed": int(report.end - report.started) + 1, "job options": {"name": report.section.name, **report.section.options}, **sides,
        "sync": {"total_ios": 0, "lat_ns": {"min": 0, "max": 0, "mean": 0.0, "stddev": 0.0, "N": 0}},
        "job_runtime": int(seconds * 1000), "usr_cpu": 1.0 if count else 0.0, "sys_cpu": 1.5 if count else 0.0, "ctx": count, "majf": 0, "minf": 12,
        "iodepth_level": levels, "iodepth_submit": batches, "iodepth_complete": dict(batches), **shares,
        "latency_depth": depth, "latency_target": 0, "latency_percentile": 100.0, "latency_window": 0}


def _level(depth: int) -> str:
    return next((name for name, most in (("1", 1), ("2", 3), ("4", 7), ("8", 15), ("16", 31), ("32", 63)) if depth <= most), ">=64")


def _side(served: Served | None, seconds: float, block_bytes: int) -> dict[str, Any]:
    count = round(served.iops * seconds) if served else 0
    if served is None or not count:
        nothing = {"min": 0, "max": 0, "mean": 0.0, "stddev": 0.0, "N": 0}
        return {"io_bytes": 0, "io_kbytes": 0, "bw_bytes": 0, "bw": 0, "iops": 0.0, "runtime": 0, "total_ios": 0, "short_ios": 0, "drop_ios": 0,
                "slat_ns": dict(nothing), "clat_ns": dict(nothing), "lat_ns": dict(nothing), "bw_min": 0, "bw_max": 0, "bw_agg": 0.0, "bw_mean": 0.0,
                "bw_dev": 0.0, "bw_samples": 0, "iops_min": 0, "iops_max": 0, "iops_mean": 0.0, "iops_stddev": 0.0, "iops_samples": 0}
    counts, smallest, largest = _count(served, count)
    held = sum(served.pauses)
    mean, deviation = served.mean * 1e9 + held * 1e9 / count, math.sqrt(served.deviation**2 + sum(each**2 for each in served.pauses) / count) * 1e9
    slat_mean, slat_deviation = SUBMISSION_NS
    iops, bytes_per_second = count / seconds, count * block_bytes / seconds
    clat: dict[str, Any] = {"min": smallest, "max": largest, "mean": mean, "stddev": deviation, "N": count, "percentile": _percentiles(counts, count),
                            "bins": {str(value): number for value, number in counts.items()}}
    samples = max(1, int(seconds * 2))  # fio looks every 500 ms
    return {
        "io_bytes": count * block_bytes, "io_kbytes": count * block_bytes // 1024, "bw_bytes": int(bytes_per_second), "bw": int(bytes_per_second / 1024),
        "iops": iops, "runtime": round(seconds * 1000), "total_ios": count, "short_ios": 0, "drop_ios": 0,
        "slat_ns": {"min": int(slat_mean - 3 * slat_deviation), "max": int(slat_mean + 20 * slat_deviation), "mean": slat_mean, "stddev": slat_deviation,
                    "N": count},
        "clat_ns": clat,
        "lat_ns": {"min": smallest + int(slat_mean), "max": largest + int(slat_mean), "mean": mean + slat_mean,
                   "stddev": math.hypot(deviation, slat_deviation), "N": count},
        "bw_min": int(bytes_per_second / 1024), "bw_max": int(bytes_per_second / 1024), "bw_agg": 100.0, "bw_mean": bytes_per_second / 1024, "bw_dev": 0.0,
        "bw_samples": samples, "iops_min": int(iops), "iops_max": math.ceil(iops), "iops_mean": iops, "iops_stddev": 0.0, "iops_samples": samples}


def _count(served: Served, count: int) -> tuple[dict[int, int], int, int]:
    """So many I/Os in fio's bins (by the nanoseconds that name them), the shortest and the longest.

    They are spread evenly over the distribution: what is random in a run is in its mean already."""
    import numpy

    edges, values = _bins()
    reached = numpy.floor(served.below(edges / 1e9) * count + 0.5).astype(int)
    reached[-1] = count
    numbers = numpy.diff(reached, prepend=0)
    used = numpy.nonzero(numbers)[0]
    counts = {int(values[place]): int(numbers[place]) for place in used}
    longest = int(edges[used[-1]]) - 1 if len(used) else 0
    shortest = int(edges[used[0] - 1]) if len(used) and used[0] else 0
    for pause in sorted(served.pauses):
        # The I/O that the pause met takes so much longer: it moves from a bin in the middle to one of its own.
        middle = max(counts, key=lambda value: counts[value])
        counts[middle] -= 1
        taken = min(pause * 1e9, LARGEST_SECONDS * 1e9) + middle
        place = int(numpy.searchsorted(edges, taken, side="right"))
        counts[int(values[place])] = counts.get(int(values[place]), 0) + 1
        longest = max(longest, int(taken))
    return {value: counts[value] for value in sorted(counts) if counts[value]}, shortest, longest


_cached_bins: tuple[Any, Any] | None = None


def _bins() -> tuple[Any, Any]:
    """fio's histogram: where each bin ends (nanoseconds, itself excluded), and the value in its middle that names it."""
    global _cached_bins
    if _cached_bins is None:
        import numpy

        per_group = 1 << BITS_PER_GROUP
        starts, values = list(range(2 * per_group)), list(range(2 * per_group))
        for shift in range(1, GROUPS - 1):
            for place in range(per_group):
                start = (per_group + place) << shift
                starts.append(start)
                values.append(start + (1 << shift >> 1))
        edges = [*starts[1:], per_group << GROUPS - 1]
        _cached_bins = numpy.array(edges, dtype=float), numpy.array(values)
    return _cached_bins


def _percentiles(counts: dict[int, int], count: int) -> dict[str, int]:
    found: dict[str, int] = {}
    seen, wanted = 0, list(PERCENTILES)
    for value, number in counts.items():
        seen += number
        while wanted and seen >= wanted[0] / 100 * count:
            found[f"{wanted.pop(0):.6f}"] = value
    return found


def _latency_shares(sides: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """In percent of all I/Os: how many took at most 2 ns, 4 ns and so on, each not counting the one before."""
    counts: dict[int, int] = {}
    for side in sides.values():
        for value, number in (side["clat_ns"].get("bins") or {}).items():
            counts[int(value)] = counts.get(int(value), 0) + number
    values = sorted(counts)
    sums = [0, *itertools.accumulate(counts[value] for value in values)]
    total, below = sums[-1], 0
    shares: dict[str, dict[str, float]] = {}
    for name, unit in (("latency_ns", 1), ("latency_us", 1000), ("latency_ms", 1_000_000)):
        shares[name] = {}
        for step in (2, 4, 10, 20, 50, 100, 250, 500, 750, 1000, *((2000,) if unit == 1_000_000 else ())):
            reached = sums[bisect.bisect_left(values, step * unit)]
            shares[name][str(step)] = round(100 * (reached - below) / total, 6) if total else 0.0
            below = reached
    shares["latency_ms"][">=2000"] = round(100 * (total - below) / total, 6) if total else 0.0
    return shares
