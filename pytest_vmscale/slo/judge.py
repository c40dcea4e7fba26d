"""Measurements against a profile: one Objective for each thing promised, and one Verdict over all of them.

The rules, for every objective: what was not measured never passes; a VM that never came up is beyond the deadline,
not left out; a measurement that was cut short is inconclusive; a limit is reference * (1 + tolerance).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_vmscale.model import Measurement, Objective, Outcome, Sample, Status
from pytest_vmscale.slo.profile import Profile
from pytest_vmscale.slo.reference import Reference, reference_at


class Ruling(enum.StrEnum):
    """What a whole run came to."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    UNFIT = "unfit"


EXIT_INTERRUPTED = 2  # pytest's own: Ctrl-C ends a run so, whatever it had found
EXIT_CODES = {Ruling.PASS: 0, Ruling.FAIL: 1, Ruling.UNFIT: 10, Ruling.INCONCLUSIVE: 11}


@dataclass(frozen=True)
class Verdict:
    """A run's ruling, its exit code, and why, in sentences (never empty)."""

    ruling: Ruling
    why: tuple[str, ...]
    objectives: tuple[Objective, ...] = ()
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        return EXIT_INTERRUPTED if self.interrupted else EXIT_CODES[self.ruling]


def boot_times(measurement: Measurement) -> Sample:
    """Seconds from a VM's start request to SSH. A VM that did not succeed is censored, whatever else was measured of it."""
    return Sample(record.time_to_ssh_seconds if record.succeeded else None for record in measurement.records)


def judge_boot_storm(measurement: Measurement, profile: Profile, tolerance_percent: float | None = None) -> tuple[Objective, ...]:
    """Every VM boots; the storm's duration; the boot times' percentiles. `tolerance_percent` overrides the profile's."""
    tolerance = profile.tolerance_percent if tolerance_percent is None else tolerance_percent
    if tolerance < 0:
        raise ValueError(f"a tolerance must be at least 0 %, not {tolerance}")
    wanted, size, times = profile.bootstorm, measurement.size, boot_times(measurement)
    duration = _timed(
        measurement,
        "bootstorm.duration",
        "Storm duration" if wanted.duration.statistic == "duration" else "Longest boot",
        _seconds(measurement, wanted.duration.statistic),
        reference_at(wanted.duration.points, size),
        tolerance,
        wanted.duration.source,
    )
    percentiles = [
        _timed(
            measurement,
            f"bootstorm.boot_time_p{percent:g}",
            f"Boot time p{percent:g}",
            times.percentile(percent) if size else None,
            reference_at(wanted.percentiles.points.get(percent, {}), size),
            tolerance,
            wanted.percentiles.source,
        )
        for percent in wanted.percentiles.all
    ]
    return _every_vm_boots(measurement, profile), duration, *percentiles


def judge_sweep(measurements: Iterable[Measurement], profile: Profile) -> tuple[Objective, ...]:
    """Near linearity of the storm's duration over the fleet's size, as the profile defines it.

    Two sizes are reported, not judged: any two points lie on a line. One size is no sweep, and gives no objective.
    """
    points = sorted(measurements, key=lambda measurement: measurement.size)
    sizes = {measurement.size for measurement in points}
    if len(sizes) < 2:
        return ()
    wanted = profile.bootstorm.linearity
    limit = wanted.largest_deviation_percent

    def objective(outcome: Outcome, why: str, deviation: float | None = None) -> Objective:
        judged = outcome is not Outcome.REPORTED
        return Objective(
            id="bootstorm.linearity",
            title="Near-linear growth",
            outcome=outcome,
            measured=deviation,
            measured_text="not measured" if deviation is None else f"{deviation:.1f} %",
            limit=limit if judged else None,
            reference=None,
            unit="%",
            margin_percent=_margin(deviation, limit) if judged else None,
            source=wanted.source,
            how=f"largest deviation from the least-squares line of {len(points)} points",
            scope=f"{min(sizes)}-{max(sizes)} VMs",
            why=why,
        )

    line_points: list[tuple[int, float]] = []
    for measurement in points:
        if trouble := _trouble(measurement):
            return (objective(Outcome.INCONCLUSIVE, f"the point of {measurement.size} VMs: {trouble}"),)
        seconds = _seconds(measurement, profile.bootstorm.duration.statistic)
        if seconds is not None:
            line_points.append((measurement.size, seconds))
    if len(line_points) < len(points):
        lost = next(measurement for measurement in points if measurement.failed)
        return (objective(Outcome.FAIL, f"the point of {lost.size} VMs has no duration: {_lost(lost)}"),)
    start, slope = _least_squares(line_points)
    # In percent of the point's own duration, which is above 0; a line may run below 0 where it is worst.
    deviation, worst = max((abs(seconds - start - slope * size) / seconds * 100, size) for size, seconds in line_points)
    why = f"the point of {worst} VMs is {deviation:.1f} % off the line {start:.1f} s + {slope:.3f} s a VM"
    if len(sizes) < wanted.minimum_points:
        return (
            objective(Outcome.REPORTED, f"{len(sizes)} sizes are too few to judge, {wanted.minimum_points} are needed; {why}", deviation),
        )
    return (objective(Outcome.PASS if deviation <= limit else Outcome.FAIL, why, deviation),)


def verdict(
    objectives: Sequence[Objective], troubles: Sequence[str] = (), unfit: Sequence[str] = (), failures: Sequence[str] = ()
) -> Verdict:
    """The verdict of a run. `unfit`: why the cluster does not suit the suite. `troubles`: what kept a measurement
    from being taken. `failures`: tests that failed for a reason of their own. A broken objective outweighs trouble: what was
    measured does not get better by what was not."""
    everything = tuple(objectives)
    if unfit:
        return Verdict(Ruling.UNFIT, (*unfit, *troubles), everything)
    broken = [*(_sentence(each) for each in everything if each.outcome is Outcome.FAIL), *failures]
    doubts = [*troubles, *_doubts(each for each in everything if each.outcome is Outcome.INCONCLUSIVE)]
    if broken:
        return Verdict(Ruling.FAIL, (*broken, *doubts), everything)
    if doubts:
        return Verdict(Ruling.INCONCLUSIVE, tuple(doubts), everything)
    passed = sum(each.outcome is Outcome.PASS for each in everything)
    if not passed:
        return Verdict(Ruling.INCONCLUSIVE, ("No objective was judged.",), everything)
    return Verdict(Ruling.PASS, (f"All {passed} judged objectives are met.",), everything)


def _every_vm_boots(measurement: Measurement, profile: Profile) -> Objective:
    wanted = profile.bootstorm.every_vm_boots
    trouble = _trouble(measurement)
    booted = measurement.size - len(measurement.failed)
    percent = None if trouble else booted / measurement.size * 100
    outcome = Outcome.INCONCLUSIVE if percent is None else Outcome.PASS if percent >= wanted.minimum_percent else Outcome.FAIL
    return Objective(
        id="bootstorm.every_vm_boots",
        title="Every VM boots",
        outcome=outcome,
        measured=percent,
        measured_text=f"{booted} of {measurement.size}",
        limit=wanted.minimum_percent,
        reference=wanted.minimum_percent,
        unit="%",
        # A lower limit, so the other way round: negative is a breach here too.
        margin_percent=None if percent is None else (percent - wanted.minimum_percent) / wanted.minimum_percent * 100,
        source=wanted.source,
        scope=_scope(measurement),
        why=trouble or _lost(measurement),
    )


def _timed(
    measurement: Measurement, id: str, title: str, seconds: float | None, reference: Reference | None, tolerance: float, source: str
) -> Objective:
    trouble = _trouble(measurement)
    limit = None if reference is None else reference.seconds * (1 + tolerance / 100)
    deadline = measurement.deadline_seconds
    why = trouble
    if trouble:
        outcome, seconds, text = Outcome.INCONCLUSIVE, None, "not measured"
    elif limit is None:
        outcome, text = Outcome.REPORTED, _seconds_text(seconds, deadline)
        why = "" if seconds is not None else _lost(measurement)
    elif seconds is None:
        outcome, text = Outcome.FAIL, _seconds_text(seconds, deadline)
        why = _lost(measurement)
    else:
        outcome, text = Outcome.PASS if seconds <= limit else Outcome.FAIL, _seconds_text(seconds, deadline)
        why = "" if seconds <= limit else f"{seconds:.1f} s is {-_percent_below(seconds, limit):.1f} % above the limit of {limit:.1f} s"
    return Objective(
        id=id,
        title=title,
        outcome=outcome,
        measured=seconds,
        measured_text=text,
        limit=limit,
        reference=None if reference is None else reference.seconds,
        unit="s",
        margin_percent=_margin(seconds, limit),
        source=source,
        how="" if reference is None else f"{reference.how} + {tolerance:g} %",
        scope=_scope(measurement),
        why=why,
    )


def _trouble(measurement: Measurement) -> str:
    """Why this measurement cannot be judged, or "" if it can."""
    if not measurement.complete:
        return f"the measurement was cut short: {measurement.incomplete_reason or 'no reason given'}"
    if not measurement.size:
        return "there are no samples"
    asked = measurement.parameters.get("vms")
    if asked is not None and asked != measurement.size:
        return f"{asked} VMs were asked for and {measurement.size} recorded"
    times = [record.time_to_ssh_seconds for record in measurement.records if record.succeeded]
    if missing := times.count(None):
        return f"{missing} VMs succeeded without a time to SSH"
    if wrong := [time for time in (*times, measurement.duration_seconds) if time is not None and not (math.isfinite(time) and time > 0)]:
        return f"{wrong[0]} s is no duration: the clock cannot be trusted"
    if not measurement.failed and measurement.duration_seconds is None:
        return "every VM booted, and yet there is no duration"
    return ""


def _seconds(measurement: Measurement, statistic: str) -> float | None:
    """None: beyond the deadline, because a VM never came up. (Of no samples too: those are trouble, and told first.)"""
    if measurement.failed or not measurement.size:
        return None
    return measurement.duration_seconds if statistic == "duration" else boot_times(measurement).maximum


def _seconds_text(seconds: float | None, deadline_seconds: float) -> str:
    return f"> {deadline_seconds:g} s" if seconds is None else f"{seconds:.1f} s"


def _lost(measurement: Measurement) -> str:
    failed = measurement.failed
    if not failed:
        return ""
    timed_out = sum(record.status is Status.TIMED_OUT for record in failed)
    parts = [f"{timed_out} not up after {measurement.deadline_seconds:g} s"] if timed_out else []
    parts += [f"{len(failed) - timed_out} failed"] if len(failed) > timed_out else []
    return f"{len(failed)} of {measurement.size} VMs never booted ({', '.join(parts)})"


def _scope(measurement: Measurement) -> str:
    return f"{measurement.size} VMs"


def _doubts(objectives: Iterable[Objective]) -> list[str]:
    """A sentence for each; but one for all objectives of a measurement that fail to be judged for the same reason."""
    groups: dict[tuple[str, str], list[Objective]] = {}
    for each in objectives:
        groups.setdefault((each.scope, each.why), []).append(each)
    return [
        _sentence(group[0]) if len(group) == 1 else f"{len(group)} objectives{f' ({scope})' if scope else ''}: {why}."
        for (scope, why), group in groups.items()
    ]


def _sentence(objective: Objective) -> str:
    scope = f" ({objective.scope})" if objective.scope else ""
    return f"{objective.title}{scope}: {objective.why or objective.measured_text}."


def _margin(measured: float | None, limit: float | None) -> float | None:
    return None if measured is None or limit is None else _percent_below(measured, limit)


def _percent_below(measured: float, limit: float) -> float:
    return (limit - measured) / limit * 100


def _least_squares(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Start and slope of the line with the least squared deviations; at least two sizes."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in points) / sum((x - middle_x) ** 2 for x, _ in points)
    return middle_y - slope * middle_x, slope
