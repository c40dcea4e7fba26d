"""The deployment's objectives: every VM deployed; by the clone strategy that was asked for; nothing left behind; limits where the
profile has them; and which bulk size is the fastest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pytest_vmscale.model import Measurement, Objective, Outcome
from pytest_vmscale.records import DeployRecord
from pytest_vmscale.settings import Settings, SettingsError
from pytest_vmscale.slo.compare import NEEDED, Difference, difference
from pytest_vmscale.slo.objectives import at_most, every_vm, lost, so_many, timed, trouble_of
from pytest_vmscale.slo.profile import Profile
from pytest_vmscale.slo.reference import reference_at

NOT_DONE = "were not deployed"
LEFT_SHOWN = 3
DEFAULT_BULK = 100  # what the reference found to be the fastest


@dataclass(frozen=True)
class Point:
    """One deployment of a session: so many VMs, in bulks of so many (None: all at once), for the so-manieth time."""

    vms: int
    bulk_size: int | None
    run: int
    runs: int

    @property
    def named(self) -> str:
        """Short: it is a row of a table."""
        bulks = "at once" if self.bulk_size is None else f"by {self.bulk_size}"
        return f"{self.vms} VMs {bulks}" + (f" #{self.run}" if self.runs > 1 else "")

    @property
    def slug(self) -> str:
        bulks = "at-once" if self.bulk_size is None else f"bulks-of-{self.bulk_size}"
        return f"{self.vms}-{bulks}" + (f"-run-{self.run}" if self.runs > 1 else "")


def points(settings: Settings) -> list[Point]:
    """In the order in which they are taken: every size once before any is taken again, so that what drifts on a cluster hits
    all sizes alike."""
    return [
        Point(vms, size, run, settings.repeat)
        for vms in settings.vms
        for run in range(1, settings.repeat + 1)
        for size in bulk_sizes(settings, vms)
    ]


def bulk_sizes(settings: Settings, vms: int) -> tuple[int | None, ...]:
    return settings.bulk_sizes or ((DEFAULT_BULK if vms > DEFAULT_BULK else None),)


def deadline_seconds(settings: Settings, profile: Profile, vms: int) -> float:
    """Cluster seconds after which one deployment is given up."""
    return settings.deadline_seconds or profile.deployment.deadline.of(vms)


def deadlines_seconds(settings: Settings, profile: Profile, tolerance_percent: float) -> list[float]:
    for name in settings.mix(settings.largest):
        if settings.guest(name).image is None:
            raise SettingsError(f"--vm-mix {settings.vm_mix}: {name} has a container disk, and a deployment clones disks")
    for vms in settings.vms:
        for size in bulk_sizes(settings, vms):
            if size is not None and size > vms:
                raise SettingsError(f"--bulk-size {size}: is more than the {vms} VMs of --vms; give all for all at once")
    if settings.reuse_fleet:
        raise SettingsError("--reuse-fleet: a deployment makes its VMs")
    if settings.keep and len(points(settings)) > 1:
        raise SettingsError("--keep: keeps one deployment; give one --vms, one --bulk-size and no --repeat")
    if settings.cluster == "real" and settings.clone_strategy != "profile" and not settings.allow_disruptive:
        raise SettingsError(
            f"--clone-strategy {settings.clone_strategy}: edits the storage class' StorageProfile, which is cluster-scoped: give --allow-disruptive"
        )
    return [deadline_seconds(settings, profile, point.vms) for point in points(settings)]


def judge(measurement: Measurement, profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    wanted, size = profile.deployment, measurement.size
    clones = measurement.sample("clone_duration_seconds")
    bulk = measurement.parameters.get("bulk_size") or size
    walls = [each["wall_seconds"] for each in measurement.details.get("bulks", ())]
    slowest = None if measurement.failed or not walls or None in walls else max(walls)
    every = wanted.every_vm_deployed
    return (
        every_vm("deployment.every_vm_deployed", "Every VM deployed", measurement, every.minimum_percent, every.source, NOT_DONE),
        _strategy(measurement, profile),
        _nothing_left(measurement, profile),
        timed(
            "deployment.duration",
            "Deployment duration",
            None if measurement.failed else measurement.duration_seconds,
            reference_at(wanted.duration.points, size),
            tolerance_percent,
            measurement=measurement,
            source=wanted.duration.source,
            not_done=NOT_DONE,
        ),
        timed(
            "deployment.bulk_duration",
            "Slowest bulk",
            slowest,
            reference_at(wanted.bulk_duration.points, bulk),
            tolerance_percent,
            measurement=measurement,
            source=wanted.bulk_duration.source,
            not_done=NOT_DONE,
        ),
        *(
            timed(
                f"deployment.clone_time_p{percent:g}",
                f"Clone time p{percent:g}",
                clones.percentile(percent) if size else None,
                reference_at(wanted.percentiles.points.get(percent, {}), size),
                tolerance_percent,
                measurement=measurement,
                source=wanted.percentiles.source,
                not_done=NOT_DONE,
            )
            for percent in wanted.percentiles.all
        ),
    )


def strategies(measurement: Measurement) -> Counter[str]:
    """How many clones each strategy made, of those that are complete."""
    return Counter(record.clone_strategy or "unknown" for record in deploy_records(measurement) if record.succeeded)


def deploy_records(measurement: Measurement) -> tuple[DeployRecord, ...]:
    return cast("tuple[DeployRecord, ...]", measurement.records)


def fallback(measurement: Measurement) -> str:
    """Why clones were made in another way than was asked for, in CDI's words; the most frequent one, or ""."""
    reasons = Counter(record.clone_fallback for record in deploy_records(measurement) if record.clone_fallback)
    return reasons.most_common(1)[0][0] if reasons else ""


def _strategy(measurement: Measurement, profile: Profile) -> Objective:
    asked = measurement.parameters.get("clone_strategy", "profile")
    wanted, used = profile.deployment.clone_strategy, strategies(measurement)
    text = ", ".join(f"{count} {name}" for name, count in used.most_common()) or "no clone"
    why = fallback(measurement)
    told = f"{text}: {why}" if why else text
    done = sum(used.values())
    if asked == "profile" or not done:
        said = told if done else "no clone was completed"
        trouble = trouble_of(measurement)
        return _reported(
            "deployment.clone_strategy", "Clone strategy", said if not trouble else "not measured", wanted.source, measurement.scope
        )
    trouble = trouble_of(measurement) or ("how the clones were made cannot be told" if set(used) == {"unknown"} else "")
    others = ", ".join(f"{count} of {done} clones were made by {name}" for name, count in used.most_common() if name != asked)
    why = f"asked for {asked}: {others}" + (f" ({why})" if why else "") if others else ""
    id, title = "deployment.clone_strategy", "Clone strategy used"
    return so_many(id, title, used[asked], done, wanted.minimum_percent, wanted.source, measurement, trouble, why)


def _nothing_left(measurement: Measurement, profile: Profile) -> Objective:
    source, left = profile.deployment.nothing_left.source, measurement.details.get("left_behind")
    if measurement.parameters.get("kept"):
        return _reported("deployment.nothing_left", "Nothing left", "kept (--keep)", source, measurement.scope)
    named = "; ".join(left[:LEFT_SHOWN]) + (f"; and {len(left) - LEFT_SHOWN} more" if len(left) > LEFT_SHOWN else "") if left else ""
    return at_most(
        "deployment.nothing_left",
        "Nothing left",
        None if left is None else float(len(left)),
        unit="objects",
        limit=0.0,
        source=source,
        scope=measurement.scope,
        trouble="" if left is not None else f"what is left was not looked at: {measurement.details.get('teardown_trouble') or 'cut short'}",
        text=None if left is None else f"{len(left)} left",
        why=named,
    )


def _reported(id: str, title: str, text: str, source: str, scope: str) -> Objective:
    return Objective(
        id=id,
        title=title,
        outcome=Outcome.REPORTED,
        measured=None,
        measured_text=text,
        limit=None,
        reference=None,
        unit="",
        margin_percent=None,
        source=source,
        scope=scope,
    )


@dataclass(frozen=True)
class Ranked:
    """One bulk size with the durations of its runs, and how much slower it is than the fastest (None for that one)."""

    bulk_size: int | None
    seconds: tuple[float, ...]
    slower: Difference | None

    @property
    def mean_seconds(self) -> float:
        return sum(self.seconds) / len(self.seconds)

    @property
    def named(self) -> str:
        return "all at once" if self.bulk_size is None else f"bulks of {self.bulk_size}"


def ranking(measurements: Sequence[Measurement]) -> list[Ranked]:
    """The bulk sizes of deployments of the same number of VMs, the fastest first. One that lost VMs in any run has no place."""
    runs: dict[int | None, list[Measurement]] = {}
    for each in measurements:
        runs.setdefault(each.parameters.get("bulk_size"), []).append(each)
    whole = {
        size: tuple(float(each.duration_seconds or 0.0) for each in taken)
        for size, taken in runs.items()
        if not any(trouble_of(each) or each.failed for each in taken)
    }
    order = sorted(whole, key=lambda size: sum(whole[size]) / len(whole[size]))
    return [Ranked(size, whole[size], difference(whole[order[0]], whole[size]) if size != order[0] else None) for size in order]


def judge_together(measurements: Sequence[Measurement], profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    """The fastest bulk size for each number of VMs. An observation: it is reported, never judged."""
    found = []
    for vms in sorted({each.size for each in measurements}):
        taken = [each for each in measurements if each.size == vms]
        if len({each.parameters.get("bulk_size") for each in taken}) > 1:
            found.append(_best_bulk(vms, taken, profile))
    return tuple(found)


def _best_bulk(vms: int, taken: Sequence[Measurement], profile: Profile) -> Objective:
    ranked, wanted = ranking(taken), profile.deployment.best_bulk
    lost_sizes = {each.parameters.get("bulk_size") for each in taken} - {each.bulk_size for each in ranked}
    without = [f"{'all at once' if size is None else f'bulks of {size}'} lost VMs or was cut short" for size in lost_sizes]
    text = best_text(ranked) if ranked else "no bulk size deployed every VM"
    return Objective(
        id="deployment.best_bulk",
        title="Fastest bulk size",
        outcome=Outcome.REPORTED if ranked else Outcome.INCONCLUSIVE,
        measured=float(ranked[0].bulk_size or vms) if ranked else None,
        measured_text=text,
        limit=None,
        reference=None if wanted.seen is None else float(wanted.seen),
        unit="VMs",
        margin_percent=None,
        source=wanted.source,
        how=f"mean duration of {len(ranked[0].seconds)} runs each" if ranked and len(ranked[0].seconds) > 1 else "one run each",
        scope=f"{vms} VMs",
        why="; ".join(without) or ("" if ranked else next((lost(each, NOT_DONE) or trouble_of(each) for each in taken), "")),
    )


def best_text(ranked: Sequence[Ranked]) -> str:
    """ "bulks of 100 (812 s); bulks of 50 take 9.1 % longer, more than noise (p 0.029)" """
    best = ranked[0]
    parts = [f"{best.named} ({best.mean_seconds:.0f} s)"]
    for each in ranked[1:]:
        assert each.slower is not None
        parts.append(f"{each.named} {each.slower.percent:.1f} % longer{verdict_of(each.slower)}")
    if len(ranked) > 1 and len(best.seconds) < NEEDED:
        parts.append(
            f"{len(best.seconds)} run{'s' if len(best.seconds) > 1 else ''} each cannot tell that from noise: --repeat {NEEDED} can"
        )
    return "; ".join(parts)


def verdict_of(slower: Difference) -> str:
    told = ""
    if slower.low_percent is not None and slower.high_percent is not None:
        told = f" ({slower.low_percent:+.1f} to {slower.high_percent:+.1f} %)"
    if slower.p is None:
        return told
    return f"{told}, {'more than' if slower.real else 'no more than'} noise (p {slower.p:.3f})"
