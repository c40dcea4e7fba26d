"""What fio writes of what it did: its JSON as fio 3 has it, with the latencies' distribution in its own bins."""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from .iomodel import Served

if TYPE_CHECKING:
    from .fio import Report
    from .shell import Shell

VERSION = "fio-3.27"  # of RHEL 8.5's and Fedora 35's repositories
PERCENTILES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)
BITS_PER_GROUP, GROUPS = 6, 29  # of fio's histogram
LARGEST_SECONDS = 17.0  # about where the histogram ends
SUBMISSION_NS = (4000.0, 900.0)  # mean and deviation of slat, which is not the storage's


@dataclass(frozen=True)
class Lines:
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
class Document:
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

    edges, values = bins()
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


def bins() -> tuple[Any, Any]:
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
