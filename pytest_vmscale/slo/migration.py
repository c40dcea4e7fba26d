"""A migration's objectives: every VM leaves as it should, none fails, in time, and what was evicted is back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.records import LIVE_MIGRATION, MigrationRecord
from pytest_vmscale.settings import Settings, SettingsError
from pytest_vmscale.slo.objectives import at_least, at_most, lost_by_name, none_failed, not_whole, so_many, some
from pytest_vmscale.slo.profile import Average, Points, Profile
from pytest_vmscale.slo.reference import reference_at

DEADLINE_FACTOR = 3.0  # a zone is given up after this multiple of its limit
MIX = "rhel=40%,fedora=40%,windows=20%"
PODS_PER_VM = 7  # the reference's 7000 beside 1000 VMs
MACHINE_CONFIG = "machineconfig"


def migration_records(measurement: Measurement) -> tuple[MigrationRecord, ...]:
    return cast("tuple[MigrationRecord, ...]", measurement.records)


def pods_of(settings: Settings) -> int:
    """How many idle pods there are beside the VMs."""
    if settings.migration_pods is not None:
        return settings.migration_pods
    return 0 if settings.migration_trigger == "vmim" else PODS_PER_VM * settings.largest


def deadline_seconds(settings: Settings, profile: Profile, tolerance_percent: float) -> float:
    """Cluster seconds after which the zone is given up. SettingsError if nothing says."""
    if settings.deadline_seconds is not None:
        return settings.deadline_seconds
    reference = reference_at(profile.migration.zone_duration.points, settings.largest)
    if reference is None:
        raise SettingsError(f"the SLO profile {profile.name} says nothing of how long a zone with {settings.largest} VMs takes: give --deadline")
    return DEADLINE_FACTOR * reference.seconds * (1 + tolerance_percent / 100)


def deadlines_seconds(settings: Settings, profile: Profile, tolerance_percent: float) -> list[float]:
    if len(settings.vms) > 1:
        raise SettingsError(f"--vms {','.join(map(str, settings.vms))}: a zone is drained once; give one number of VMs")
    if settings.reuse_fleet:
        raise SettingsError("--reuse-fleet: the migration suite makes a fleet of its own")
    if settings.migration_trigger == "vmim":
        fixed = [name for name in settings.mix(settings.largest, vmim_mix(settings)) if settings.guest(name).eviction_strategy == "None"]
        if fixed:
            raise SettingsError(
                f"--migration-trigger vmim: {', '.join(fixed)} VMs have the eviction strategy None and are not live migrated; give a --vm-mix without them"
            )
    return [deadline_seconds(settings, profile, tolerance_percent)]


def vmim_mix(settings: Settings) -> str:
    """The scenario's mix: with migrations that are asked for, only of VMs that can be live migrated."""
    return "rhel=67%,windows=33%" if settings.migration_trigger == "vmim" else MIX


def judge(measurement: Measurement, profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    wanted, details, scope, trouble = profile.migration, measurement.details, measurement.scope, trouble_of(measurement)
    moved = measurement.size - len(measurement.failed)
    failures = [f"{each.namespace}/{each.vm_name}: {failure}" for each in migration_records(measurement) for failure in each.failures]
    most, limit = details.get("most_in_flight"), (details.get("limits") or {}).get("per_cluster")
    held = "" if measurement.duration_seconds is not None else why_not_done(measurement)
    lost = lost_by_name(measurement, "did not leave as they should")
    found = [
        so_many(
            "migration.every_vm_moved",
            "VMs that left as they should",
            moved,
            measurement.size,
            wanted.every_vm_moved.minimum_percent,
            wanted.every_vm_moved.source,
            measurement,
            trouble,
            lost,
        ),
        none_failed("migration.failures", "Failed migrations", failures, "migrations", measurement, wanted.failures.source, trouble),
        at_most(
            "migration.limits",
            "Most migrations at once",
            None if most is None else float(most),
            unit="migrations",
            limit=None if limit is None else float(limit),
            source=wanted.limits.source,
            scope=scope,
            trouble=trouble,
            text=str(most),
        ),
        _timed(measurement, "zone_duration", "Zone updated", measurement.duration_seconds, wanted.zone_duration, tolerance_percent, trouble, held),
        _timed(measurement, "vms_off", "Last VM off its node", details.get("vms_off_seconds"), wanted.vms_off, tolerance_percent, trouble,
               held or lost),
    ]  # fmt: skip
    trigger = details.get("trigger", MACHINE_CONFIG)
    if trigger != "vmim":
        found.append(_timed(measurement, "drain_time", "Time of drains", details.get("drain_seconds"), wanted.drain_time, tolerance_percent, trouble, held))
    if trigger == MACHINE_CONFIG:
        found.append(_timed(measurement, "node_wait", "Waiting for nodes", details.get("node_wait_seconds"), wanted.node_wait, tolerance_percent, trouble, held))
    pods = details.get("pods") or {}
    if pods or not measurement.size:
        evicted, back = pods.get("evicted", 0), pods.get("back", 0)
        away = max(0, pods.get("wanted", 0) - pods.get("ready", 0))
        found.append(
            at_least(
                "migration.pods_back",
                "Pods that are ready again",
                None if trouble else 100.0 if not evicted and not away else min(back / max(1, evicted), 1 - away / max(1, pods.get("wanted", 1))) * 100,
                unit="%",
                limit=wanted.pods_back.minimum_percent,
                source=wanted.pods_back.source,
                scope=scope,
                trouble=trouble,
                text=f"{back} of {evicted}",
                why=f"{away} of {pods.get('wanted', 0)} pods are not ready at the end" if away else "",
            )
        )
    by_os = {"rhel": wanted.average_rhel, "windows": wanted.average_windows, "fedora": wanted.average_fedora}
    present = dict.fromkeys(each.os for each in measurement.records) if measurement.size else dict.fromkeys(by_os)
    unknown = Average(source="this project: the profile says nothing of this OS")
    found += [_average(measurement, os, by_os.get(os, unknown), tolerance_percent, trouble) for os in sorted(present)]
    return tuple(found)


def judge_together(measurements: Sequence[Measurement], profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    """A zone is drained once."""
    return ()


def averages(measurement: Measurement, os: str) -> tuple[str, list[float], int]:
    """How the VMs of an OS moved, the seconds that each took, and how many of them have none."""
    records = [each for each in migration_records(measurement) if each.os == os]
    moves_by = records[0].moves_by if records else LIVE_MIGRATION
    metric = "migration_duration_seconds" if moves_by == LIVE_MIGRATION else "restart_start_seconds"
    values = [value for each in records if (value := each.value(metric)) is not None]
    return moves_by, values, len(records) - len(values)


def _average(measurement: Measurement, os: str, wanted: Average, tolerance_percent: float, trouble: str) -> Objective:
    moves_by, values, missing = averages(measurement, os)
    enough = len(values) + missing >= wanted.from_vms
    comparable = wanted.seconds is not None and moves_by == wanted.moves_by and enough
    # A mean of those that got there would flatter: with one missing it lies beyond.
    mean = sum(values) / len(values) if values and not missing else None
    return at_most(
        f"migration.average_{os}",
        f"Average {moves_by} of {os}",
        mean,
        unit="s",
        limit=wanted.seconds * (1 + tolerance_percent / 100) if comparable and wanted.seconds is not None else None,
        reference=wanted.seconds if comparable else None,
        how=f"reference + {tolerance_percent:g} %" if comparable else "",
        source=wanted.source,
        scope=measurement.scope,
        trouble=trouble,
        beyond=f"{missing} have none",
        why="" if mean is not None else f"{missing} of {missing + len(values)} {os} VMs did not get there: there is no average of all",
    )


def _timed(
    measurement: Measurement, name: str, title: str, seconds: float | None, wanted: Points, tolerance_percent: float, trouble: str, why: str
) -> Objective:
    """A time of the zone. The reference's is of a machine config: what another trigger took is reported."""
    asked = measurement.details.get("trigger", MACHINE_CONFIG)
    reference = reference_at(wanted.points, measurement.size) if asked == MACHINE_CONFIG else None
    return at_most(
        f"migration.{name}",
        title,
        seconds,
        unit="s",
        limit=None if reference is None else reference.seconds * (1 + tolerance_percent / 100),
        reference=None if reference is None else reference.seconds,
        how="" if reference is None else f"{reference.how} + {tolerance_percent:g} %",
        source=wanted.source,
        scope=measurement.scope,
        trouble=trouble,
        beyond=f"> {measurement.deadline_seconds:g} s" if asked == MACHINE_CONFIG else "-",
        why="" if seconds is not None else why,
    )


def why_not_done(measurement: Measurement) -> str:
    """What kept the zone from being done: nodes, what blocks their drains, the pool."""
    details = measurement.details
    if details.get("finished") and details.get("trigger") != MACHINE_CONFIG:
        return ""
    after = f"not done after {details.get('measured_seconds', measurement.deadline_seconds):.0f} s"
    troubled = [each["trouble"] for each in details.get("nodes") or () if each["trouble"]]
    blocked = [f"{each['what']} on {each['node']}: {each['why']}" for each in details.get("blocked") or ()]
    pool = (details.get("pool") or {}).get("trouble")
    parts = [after, *([some(troubled)] if troubled else []), *([f"blocked by {some(blocked)}"] if blocked else [])]
    return "; ".join([*parts, *([pool] if pool and not troubled else [])])


def trouble_of(measurement: Measurement) -> str:
    """Why this measurement cannot be judged, or "" if it can. A zone that was not done in time is judged: it is beyond its deadline."""
    if missing_part := not_whole(measurement):
        return missing_part
    if missing := sum(each.succeeded and each.value(each.OUTCOME) is None for each in measurement.records):
        return f"{missing} VMs moved without a time"
    return ""
