"""The boot storm's objectives: every VM boots; the storm's duration; boot times' percentiles; near-linear growth over a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_vmscale.model import Measurement, Objective, Outcome
from pytest_vmscale.settings import Settings, SettingsError
from pytest_vmscale.slo.objectives import every_vm, lost, percent_below, timed, trouble_of
from pytest_vmscale.slo.profile import Profile
from pytest_vmscale.slo.reference import Reference, reference_at

DEADLINE_FACTOR = 3.0  # a storm is given up after this multiple of its limit
NOT_DONE = "never booted"
# Of the limit: a machine that has nothing else to do sends the requests of a storm in less than 0.5 % of it.
SENDING_SHARE = 0.02


def reference_for(profile: Profile, vms: int) -> Reference | None:
    """What the profile's reference says of a storm of this size."""
    return reference_at(profile.bootstorm.duration.points, vms)


def deadline_seconds(settings: Settings, profile: Profile, tolerance_percent: float, vms: int) -> float:
    """Cluster seconds after which a storm of this size is given up. SettingsError if nothing says."""
    if settings.deadline_seconds is not None:
        return settings.deadline_seconds
    reference = reference_for(profile, vms)
    if reference is None:
        raise SettingsError(f"--vms {vms}: the SLO profile {profile.name} says nothing of so many: give --deadline")
    return DEADLINE_FACTOR * reference.seconds * (1 + tolerance_percent / 100)


def deadlines_seconds(settings: Settings, profile: Profile, tolerance_percent: float) -> list[float]:
    return [deadline_seconds(settings, profile, tolerance_percent, vms) for vms in settings.vms]


def judge(measurement: Measurement, profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    wanted, size = profile.bootstorm, measurement.size
    times = measurement.sample("time_to_ssh_seconds")
    duration = timed(
        "bootstorm.duration",
        "Storm duration" if wanted.duration.statistic == "duration" else "Longest boot",
        _seconds(measurement, wanted.duration.statistic),
        reference_at(wanted.duration.points, size),
        tolerance_percent,
        measurement=measurement,
        source=wanted.duration.source,
        not_done=NOT_DONE,
    )
    percentiles = [
        timed(
            f"bootstorm.boot_time_p{percent:g}",
            f"Boot time p{percent:g}",
            times.percentile(percent) if size else None,
            reference_at(wanted.percentiles.points.get(percent, {}), size),
            tolerance_percent,
            measurement=measurement,
            source=wanted.percentiles.source,
            not_done=NOT_DONE,
        )
        for percent in wanted.percentiles.all
    ]
    all_boot = wanted.every_vm_boots
    return (
        every_vm("bootstorm.every_vm_boots", "Every VM boots", measurement, all_boot.minimum_percent, all_boot.source, NOT_DONE),
        _not_our_own_slowness(duration, measurement) if wanted.duration.statistic == "duration" else duration,
        *percentiles,
    )


def _not_our_own_slowness(duration: Objective, measurement: Measurement) -> Objective:
    """A storm that is beyond its limit by no more than the time that its requests took to be sent says nothing of the cluster: each has a
    connection of its own and waits for nobody, so that only the measuring machine can be late with it. With --qps it is asked for."""
    rate = measurement.details.get("request_rate_achieved")
    if duration.outcome is not Outcome.FAIL or duration.measured is None or duration.limit is None or not rate:
        return duration
    sending_seconds = (measurement.size - 1) / rate
    in_time = sending_seconds <= SENDING_SHARE * duration.limit or measurement.parameters.get("request_rate_wanted")
    if in_time or duration.measured - sending_seconds > duration.limit:
        return duration
    why = f"the machine that measures took {sending_seconds:.1f} s to send the requests ({rate:.0f}/s): without them the limit is met"
    return replace(duration, outcome=Outcome.INCONCLUSIVE, why=why)


def judge_together(measurements: Sequence[Measurement], profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
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
            margin_percent=percent_below(deviation, limit) if judged and deviation is not None else None,
            source=wanted.source,
            how=f"largest deviation from the least-squares line of {len(points)} points",
            scope=f"{min(sizes)}-{max(sizes)} VMs",
            why=why,
        )

    line_points: list[tuple[int, float]] = []
    for measurement in points:
        if trouble := trouble_of(measurement):
            return (objective(Outcome.INCONCLUSIVE, f"the point of {measurement.size} VMs: {trouble}"),)
        seconds = _seconds(measurement, profile.bootstorm.duration.statistic)
        if seconds is not None:
            line_points.append((measurement.size, seconds))
    if len(line_points) < len(points):
        short = next(measurement for measurement in points if measurement.failed)
        return (objective(Outcome.FAIL, f"the point of {short.size} VMs has no duration: {lost(short, NOT_DONE)}"),)
    start, slope = _least_squares(line_points)
    # In percent of the point's own duration, which is above 0; a line may run below 0 where it is worst.
    deviation, worst = max((abs(seconds - start - slope * size) / seconds * 100, size) for size, seconds in line_points)
    why = f"the point of {worst} VMs is {deviation:.1f} % off the line {start:.1f} s + {slope:.3f} s a VM"
    if len(sizes) < wanted.minimum_points:
        return (
            objective(Outcome.REPORTED, f"{len(sizes)} sizes are too few to judge, {wanted.minimum_points} are needed; {why}", deviation),
        )
    return (objective(Outcome.PASS if deviation <= limit else Outcome.FAIL, why, deviation),)


def _seconds(measurement: Measurement, statistic: str) -> float | None:
    """None: beyond the deadline, because a VM never came up. (Of no samples too: those are trouble, and told first.)"""
    if measurement.failed or not measurement.size:
        return None
    return measurement.duration_seconds if statistic == "duration" else measurement.sample("time_to_ssh_seconds").maximum


def _least_squares(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Start and slope of the line with the least squared deviations; at least two sizes."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in points) / sum((x - middle_x) ** 2 for x, _ in points)
    return middle_y - slope * middle_x, slope
