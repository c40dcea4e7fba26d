"""I/O latency: fio in every guest of some nodes, a baseline and then a workload, reads and writes apart.

All guests begin each run at one moment. A guest that did not achieve its rate measured its own queue: it is flagged, and counts in
no latency of the fleet. Fleet percentiles come from the guests' histograms added up, which loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..clock import Clock
from ..cluster.access import ClusterError
from ..guest.fio import Job, Latencies
from ..guest.histogram import Histogram
from ..guest.workload import Barrier, GuestRun, Workload, one_after_the_other
from ..model import Fleet, Guest, Measurement, Status
from ..records import LatencyRecord
from .outcome import why_cut_short

SCENARIO, VERSION = "fio", "1.0.0"
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
ACHIEVED_SHARE = 0.99  # below this share of its rate a guest is overloaded
FETCH_SECONDS = 600.0  # cluster time after the last run's end
RESAMPLES, SEED = 1000, 20220215  # of the confidence interval; the same records give the same one
STOP_WALL_SECONDS = 20.0


@dataclass(frozen=True)
class Progress:
    """How far it is: in words, and the share of it that is done."""

    doing: str
    share: float
    elapsed_seconds: float


def jobs(rates: Mapping[str, int], seconds: Mapping[str, int], **options: Any) -> list[Job]:
    """The four runs of one point. rates and seconds: by load."""
    return [
        Job(f"{load}-{direction}", direction, iops=rates[load], runtime_seconds=seconds[load], **options)  # type: ignore[arg-type]
        for load in LatencyRecord.LOADS
        for direction in LatencyRecord.DIRECTIONS
    ]


async def latency(
    workload: Workload,
    fleet: Fleet,
    clock: Clock,
    *,
    run_id: str,
    nodes: Mapping[str, str],
    runs: Sequence[Job],
    named: str,
    parameters: Mapping[str, Any],
    on_progress: Callable[[Progress], None] | None = None,
    on_record: Callable[[LatencyRecord], None] | None = None,
    on_partial: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Take one point: the four runs in each guest of the fleet, whose datasets are laid out. nodes: where each guest runs, by its key.

    A guest whose results cannot be had is a record that failed. ClusterError for a fleet of no VMs."""
    if not fleet.guests:
        raise ClusterError("a latency measurement of no VMs measures nothing")
    began = clock.now()
    timed = one_after_the_other(runs)

    def measurement(records: Sequence[LatencyRecord], details: Mapping[str, Any], incomplete: str | None) -> Measurement:
        done = clock.now() - began
        return Measurement(
            scenario=SCENARIO,
            version=VERSION,
            run_id=run_id,
            started_epoch=began,
            parameters=dict(parameters),
            records=tuple(records),
            deadline_seconds=timed[-1].end_seconds + FETCH_SECONDS,
            duration_seconds=done if any(record.succeeded for record in records) else None,
            details=details,
            complete=incomplete is None,
            incomplete_reason=incomplete,
            named=named,
            time_rate=clock.rate,
        )

    def tell(doing: str, share: float) -> None:
        if on_progress:
            on_progress(Progress(doing, share, clock.now() - began))

    try:
        tell("starting", 0.0)
        barrier = await workload.start(timed, [guest.key for guest in fleet.guests])
        await workload.wait(barrier, lambda share: tell(doing(barrier, clock.now()), 0.05 + 0.85 * share))
        tell("fetching", 0.9)
        fetched = await workload.fetch(barrier, FETCH_SECONDS)
    except BaseException as error:
        await stop_at_once(workload)
        if on_partial:
            why = why_cut_short(error)
            lost = [_record(guest, GuestRun(guest.key, error=why), runs, nodes)[0] for guest in fleet.guests]
            on_partial(measurement(lost, {}, why))
        raise
    records: list[LatencyRecord] = []
    histograms: dict[str, list[Histogram]] = {}
    for guest in fleet.guests:
        record, counted = _record(guest, fetched[guest.key], runs, nodes)
        records.append(record)
        for phase, histogram in counted.items():
            histograms.setdefault(phase, []).append(histogram)
        if on_record:
            on_record(record)
    tell("done", 1.0)
    details = {
        "phases": {run.name: _phase(run, records, histograms.get(run.name, [])) for run in runs},
        "added": {direction: added(records, direction) for direction in LatencyRecord.DIRECTIONS},
        "barrier_tries": barrier.tries,
        **_quality(fetched),
    }
    return measurement(records, details, None)


async def stop_at_once(workload: Workload) -> None:
    """For a measurement that is given up. A guest in which fio goes on goes with its fleet: no reason to hide why it was given up."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(STOP_WALL_SECONDS):
            await workload.stop()


def doing(barrier: Barrier, now: float) -> str:
    """Which of the runs is under way at this cluster time, in words."""
    current = [each.job.name for each in barrier.timed if barrier.epoch + each.at_seconds <= now]
    return current[-1].replace("-", " ") if current else "waiting for the barrier"


# One guest.


def _record(guest: Guest, run: GuestRun, runs: Sequence[Job], nodes: Mapping[str, str]) -> tuple[LatencyRecord, dict[str, Histogram]]:
    """Its record, and the histograms of the runs in which it achieved its rate."""
    figures: dict[str, float] = {}
    histograms: dict[str, Histogram] = {}
    errors = [run.error] if run.error else []
    overloaded = []
    for job in runs:
        done = run.jobs.get(job.name)
        measured = done.result.directions.get(job.access) if done and done.result else None
        if measured is None:
            if done:
                errors.append(done.error or f"{job.name}: fio did no I/O")
            continue
        figures.update(_figures(job.name.replace("-", "_"), measured))
        if measured.iops < ACHIEVED_SHARE * job.iops:
            overloaded.append(job.name)
        else:
            histograms[job.name] = measured.histogram
    late = [done.late_seconds for done in run.jobs.values() if done.late_seconds is not None]
    record = LatencyRecord(
        namespace=guest.namespace,
        vm_name=guest.name,
        os=guest.os,
        status=Status.FAILED if errors else Status.SUCCESS,
        requested_at=0.0,
        node=nodes.get(guest.key),
        error="; ".join(errors) or None,
        request_retries=tuple(run.lost),
        overloaded=tuple(overloaded),
        clock_offset_seconds=run.offset.seconds if run.offset else None,
        clock_bound_seconds=run.offset.bound_seconds if run.offset else None,
        late_seconds=max(late, default=None),
        fetch_tries=run.tries,
        **figures,  # type: ignore[arg-type]
    )
    return record, histograms


def _figures(prefix: str, measured: Latencies) -> dict[str, float]:
    values = measured.histogram.percentiles(PERCENTILES.values())
    return {
        f"{prefix}_mean_seconds": measured.mean_ns / 1e9,
        **{f"{prefix}_{name}_seconds": value / 1e9 for name, value in zip(PERCENTILES, values, strict=True)},
        f"{prefix}_iops": measured.iops,
    }


# The fleet.


def _phase(job: Job, records: Sequence[LatencyRecord], histograms: Sequence[Histogram]) -> dict[str, Any]:
    """What the fleet's VMs that achieved their rate measured; how many did not is beside it."""
    iops = [value for record in records if (value := record.of(job.name, "iops")) is not None]
    counted = [mean for record in records if (mean := record.mean_seconds(job.name)) is not None]
    merged = Histogram.merged(histograms)
    percentiles = dict(zip(PERCENTILES, merged.percentiles(PERCENTILES.values()), strict=True)) if merged.total else {}
    return {
        "vms": len(records),
        "reported": len(iops),
        "overloaded": sum(job.name in record.overloaded for record in records),
        "iops_wanted": job.iops * len(records),
        "iops_achieved": sum(iops),
        "samples": merged.total,
        "mean_seconds": sum(counted) / len(counted) if counted else None,
        **{f"{name}_seconds": value / 1e9 for name, value in percentiles.items()},
        "histogram": {str(value): merged.counts[value] for value in sorted(merged.counts)},
    }


def added(records: Sequence[LatencyRecord], direction: str) -> dict[str, float | int | None]:
    """What the workload adds to a direction's mean latency, in percent of the baseline, with its 95 % confidence interval (bootstrap
    over VMs). Of the VMs that achieved both rates; each counts alike. None if there are none."""
    both = ((record.mean_seconds(f"baseline-{direction}"), record.mean_seconds(f"workload-{direction}")) for record in records)
    pairs = [(base, load) for base, load in both if base is not None and load is not None]
    if not pairs:
        return {"vms": 0, "percent": None, "low_percent": None, "high_percent": None}

    def percent(chosen: Sequence[tuple[float, float]]) -> float:
        return (sum(load for _, load in chosen) / sum(base for base, _ in chosen) - 1) * 100

    generator = random.Random(SEED)
    resampled = sorted(percent(generator.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    low, high = resampled[round(0.025 * RESAMPLES)], resampled[round(0.975 * RESAMPLES) - 1]
    return {"vms": len(pairs), "percent": percent(pairs), "low_percent": low, "high_percent": high}


def _quality(runs: Mapping[str, GuestRun]) -> dict[str, Any]:
    """How far the figures can be trusted."""
    offsets = [run.offset for run in runs.values() if run.offset]
    late = [done.late_seconds for run in runs.values() for done in run.jobs.values() if done.late_seconds is not None]
    return {
        "clock_offset_seconds_max": max((abs(each.seconds) for each in offsets), default=None),
        "clock_bound_seconds_max": max((each.bound_seconds for each in offsets), default=None),
        "late_seconds_max": max(late, default=None),
        "fetched_after_loss": sum(bool(run.lost) and run.error is None for run in runs.values()),
        "fio_versions": sorted({done.result.version for run in runs.values() for done in run.jobs.values() if done.result}),
    }
