"""Migration under load: what migrations add to the latency of the same load, and the load to their time; what the guests noticed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.records import MigrationLoadRecord
from pytest_vmscale.settings import Settings, SettingsError
from pytest_vmscale.slo.io_load import AROUND_SECONDS, achieved, added, check_guests
from pytest_vmscale.slo.objectives import every_vm, longest, none_failed, some, trouble_of
from pytest_vmscale.slo.profile import Profile

MIX = "rhel=100%"
RUNS_OF_A_LOAD = 4  # reads and writes, without migrations and with them
BETWEEN_SECONDS = 120.0  # at most, between two runs


def records_of(measurement: Measurement) -> tuple[MigrationLoadRecord, ...]:
    return cast("tuple[MigrationLoadRecord, ...]", measurement.records)


def deadlines_seconds(settings: Settings, profile: Profile, tolerance_percent: float) -> list[float]:
    """Cluster seconds that all runs take at most. SettingsError for a fleet that cannot do I/O, or not be migrated."""
    if len(settings.vms) > 1:
        raise SettingsError(f"--vms {','.join(map(str, settings.vms))}: migration under load is measured once; give one number of VMs")
    if settings.reuse_fleet:
        raise SettingsError("--reuse-fleet: migration under load makes a fleet of its own")
    fio = settings.site.fio
    names = list(settings.mix(settings.largest, MIX))
    check_guests(settings, names, "migration under load")
    if fixed := [name for name in names if settings.guest(name).eviction_strategy == "None"]:
        raise SettingsError(f"--vm-mix: {fixed[0]} has the eviction strategy None and is not live migrated; give a --vm-mix without it")
    runs = RUNS_OF_A_LOAD * (fio.baseline_seconds + fio.workload_seconds + 2 * fio.ramp_seconds)
    return [AROUND_SECONDS + runs + 2 * RUNS_OF_A_LOAD * BETWEEN_SECONDS]


def judge(measurement: Measurement, profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    wanted, trouble = profile.migration_load, trouble_of(measurement)
    duration_added = (measurement.details.get("duration_added") or {}).get("percent")
    records = records_of(measurement)
    short = [f"{each.namespace}/{each.vm_name} in {', '.join(each.overloaded)}" for each in records if each.overloaded]
    failures = [f"{each.namespace}/{each.vm_name}: {failure}" for each in records for failure in each.failures]
    gaps = [each.longest_gap_seconds for each in records]
    return (
        every_vm("migration_load.every_vm_reported", "Every VM reported", measurement, wanted.every_vm_reported.minimum_percent,
                 wanted.every_vm_reported.source, "did not report", trouble),
        achieved("migration_load.achieved_iops", measurement, records, wanted.achieved_iops, trouble, f": {some(short)}"),
        none_failed("migration_load.failures", "Failed migrations", failures, "migrations", measurement, wanted.failures.source, trouble),
        *(
            added(f"migration_load.{key}", title, percent, getattr(wanted, key), measurement, tolerance_percent, trouble, beyond)
            for key, title, percent, beyond in (
                ("added_read", "Read latency added by migrations", _percent(measurement, "workload-read"), "no VM kept up"),
                ("added_write", "Write latency added by migrations", _percent(measurement, "workload-write"), "no VM kept up"),
                ("added_duration", "Migration time added by load", duration_added, "no migration under both loads"),
            )
        ),
        longest("migration_load.longest_gap", "Longest gap in a VM's I/O", gaps, wanted.longest_gap, measurement, trouble),
    )  # fmt: skip


def judge_together(measurements: Sequence[Measurement], profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    """It is measured once."""
    return ()


def _percent(measurement: Measurement, run: str) -> float | None:
    found: float | None = ((measurement.details.get("added") or {}).get(run) or {}).get("percent")
    return found
