"""fio: the job files that go into a guest, and what comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .histogram import Histogram

Access = Literal["read", "write", "mixed"]
DIRECTIONS = ("read", "write")
# Relative to where fio is started: no path of anybody's is part of a job file.
DATASET_FOLDER = "data"
LAYOUT = "layout"
LAYOUT_BLOCK_BYTES = 1 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
_FIO_ACCESS = {"read": "randread", "write": "randwrite", "mixed": "randrw"}


class FioError(Exception):
    """fio did not run, or what it wrote is no result; one line says what."""


@dataclass(frozen=True)
class Dataset:
    """The files that a guest's I/O goes to. The reference's: 300 directories of 8 files of 2 MiB, 4.7 GiB."""

    directories: int = 300
    files_per_directory: int = 8
    file_bytes: int = 2 << 20

    @property
    def files(self) -> int:
        return self.directories * self.files_per_directory

    @property
    def bytes(self) -> int:
        return self.files * self.file_bytes


@dataclass(frozen=True)
class Job:
    """One run of fio in one guest: random I/O on its dataset at a limited rate.

    iops: of each direction. ramp_seconds: I/O that is not counted, before the runtime_seconds that are."""

    name: str
    access: Access
    iops: int
    runtime_seconds: int
    ramp_seconds: int = 10
    block_bytes: int = 4096
    engine: str = "libaio"
    depth: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a fio job cannot be called {self.name!r}: lower-case letters, digits and dashes, 61 at most")
        if not re.fullmatch(r"[a-z0-9_]+", self.engine):
            raise ValueError(f"there is no fio ioengine {self.engine!r}")
        for what, value, least in (("iops", self.iops, 1), ("runtime", self.runtime_seconds, 1), ("ramp time", self.ramp_seconds, 0),
                                   ("block size", self.block_bytes, 512), ("iodepth", self.depth, 1)):  # fmt: skip
            if value < least:
                raise ValueError(f"fio job {self.name}: the {what} must be at least {least}, not {value}")

    @property
    def directions(self) -> tuple[str, ...]:
        return DIRECTIONS if self.access == "mixed" else (self.access,)

    @property
    def total_seconds(self) -> int:
        return self.ramp_seconds + self.runtime_seconds


def render_layout(dataset: Dataset) -> str:
    """The job file that writes the dataset once. numjobs makes the directories, each with its own files."""
    return _render(
        LAYOUT,
        {
            "directory": DATASET_FOLDER,
            "filename_format": "d$jobnum/f$filenum",
            "numjobs": dataset.directories,
            "nrfiles": dataset.files_per_directory,
            "filesize": dataset.file_bytes,
            "rw": "write",
            "bs": min(LAYOUT_BLOCK_BYTES, dataset.file_bytes),
            "ioengine": "psync",
            "create_only": 1,
            "create_fsync": 1,
            "group_reporting": 1,
        },
    )


def render_job(job: Job) -> str:
    """The job file of a run on a dataset that is there: one thread, all files of it open."""
    return _render(
        job.name,
        {
            "opendir": DATASET_FOLDER,
            "rw": _FIO_ACCESS[job.access],
            "bs": job.block_bytes,
            "direct": 1,
            "ioengine": job.engine,
            "iodepth": job.depth,
            "rate_iops": job.iops,
            "time_based": 1,
            "ramp_time": f"{job.ramp_seconds}s",
            "runtime": f"{job.runtime_seconds}s",
            # Another run must not find in a cache what this one read, and each file may be read again and again.
            "randrepeat": 0,
            "norandommap": 1,
        },
    )


def _render(section: str, options: Mapping[str, object]) -> str:
    return f"[{section}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


@dataclass(frozen=True)
class Latencies:
    """What fio measured of one direction: completion latencies, in nanoseconds, of the counted time."""

    ios: int
    iops: float
    seconds: float
    mean_ns: float
    stddev_ns: float
    min_ns: int
    max_ns: int
    histogram: Histogram


@dataclass(frozen=True)
class FioResult:
    """One job's result. `directions` has what it did: read, write, or both."""

    job: str
    version: str
    directions: Mapping[str, Latencies]


def parse(text: str) -> FioResult:
    """The result of the one job (or group) in fio's json+. FioError if fio says it failed, or if it is none."""
    start = text.find("{")  # fio's complaints may stand before it
    complaint = " ".join((text[:start] if start >= 0 else text).split())
    try:
        document = json.loads(text[start:]) if start >= 0 else None
    except ValueError as error:
        raise FioError(f"fio's result is cut off or broken: {error}") from None
    if document is None:
        raise FioError(f"fio wrote no result: {complaint[:300] or 'nothing at all'}")
    try:
        jobs = document["jobs"]
        if len(jobs) != 1:
            raise FioError(f"fio reports {len(jobs)} jobs where one was asked for")
        job = jobs[0]
        if job["error"]:
            raise FioError(f"fio failed with error {job['error']}" + (f": {complaint[:300]}" if complaint else ""))
        found = {name: _latencies(job[name]) for name in DIRECTIONS if job[name]["total_ios"]}
        return FioResult(job["jobname"], document["fio version"], found)
    except (KeyError, TypeError, ValueError) as error:
        raise FioError(f"fio's result is not as fio 3 writes it: {error!r}") from None


def _latencies(side: Mapping[str, Any]) -> Latencies:
    clat = side["clat_ns"]
    if "bins" not in clat:
        raise FioError("fio's result has no bins: it must be asked for --output-format=json+")
    return Latencies(
        ios=side["total_ios"],
        iops=side["iops"],
        seconds=side["runtime"] / 1000,
        mean_ns=clat["mean"],
        stddev_ns=clat["stddev"],
        min_ns=clat["min"],
        max_ns=clat["max"],
        histogram=Histogram({int(value): count for value, count in clat["bins"].items() if count}),
    )
