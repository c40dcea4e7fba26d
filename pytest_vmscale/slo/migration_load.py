"""Migration under load: what migrations add to the latency of the same load, and the load to their time; what the guests noticed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pytest_vmscale.model import Measurement, MigrationLoadRecord, Objective
from pytest_vmscale.settings import Settings, SettingsError, size_bytes
from pytest_vmscale.slo.objectives import at_least, at_most, every_vm, some, trouble_of
from pytest_vmscale.slo.profile import Added, Profile

MIX = "rhel=100%"
# The load that the document's figures are of.
REFERENCE_LOAD = {"baseline_iops": 1, "workload_iops": 1000, "block_bytes": 4096, "depth": 1}
# Around the runs themselves: all guests are reached before the barrier, and fetched from after the last run.
AROUND_SECONDS = 1800.0
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
    for name in settings.mix(settings.largest, MIX):
        image = settings.guest(name)
        if image.family == "windows" or not image.ready.ssh:
            raise SettingsError(f"--vm-mix: {name} has no SSH or no fio: migration under load needs both; give a --vm-mix without it")
        if image.eviction_strategy == "None":
            raise SettingsError(f"--vm-mix: {name} has the eviction strategy None and is not live migrated; give a --vm-mix without it")
        if image.image and fio.dataset_bytes > size_bytes(image.disk_size):
            raise SettingsError(f"fio: its files are {fio.dataset_bytes / 2**30:.1f} GiB, more than the {image.disk_size} disk of guests.{name}")
    runs = RUNS_OF_A_LOAD * (fio.baseline_seconds + fio.workload_seconds + 2 * fio.ramp_seconds)
    return [AROUND_SECONDS + runs + 2 * RUNS_OF_A_LOAD * BETWEEN_SECONDS]


def judge(measurement: Measurement, profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    wanted, details, scope, trouble = profile.migration_load, measurement.details, measurement.scope, trouble_of(measurement)
    records = records_of(measurement)
    short = [each for each in records if each.overloaded]
    failures = [f"{each.namespace}/{each.vm_name}: {failure}" for each in records for failure in each.failures]
    gaps = [each.longest_gap_seconds for each in records if each.longest_gap_seconds is not None]
    return (
        every_vm("migration_load.every_vm_reported", "Every VM reported", measurement, wanted.every_vm_reported.minimum_percent,
                 wanted.every_vm_reported.source, "did not report", trouble),
        at_least(
            "migration_load.achieved_iops",
            "VMs that achieved their rate",
            None if trouble else (len(records) - len(short)) / len(records) * 100,
            unit="%",
            limit=wanted.achieved_iops.minimum_percent,
            source=wanted.achieved_iops.source,
            scope=scope,
            trouble=trouble,
            text=f"{len(records) - len(short)} of {len(records)}",
            why=f"{len(short)} VMs achieved less than 99 % of their rate: "
                + some([f"{each.namespace}/{each.vm_name} in {', '.join(each.overloaded)}" for each in short]) if short else "",
        ),
        at_most(
            "migration_load.failures",
            "Failed migrations",
            float(len(failures)),
            unit="migrations",
            limit=0.0,
            source=wanted.failures.source,
            scope=scope,
            trouble=trouble,
            text=str(len(failures)),
            why=some(failures),
        ),
        _added(measurement, "added_read", "Read latency added by migrations", _percent(measurement, "workload-read"), wanted.added_read, tolerance_percent, trouble),
        _added(measurement, "added_write", "Write latency added by migrations", _percent(measurement, "workload-write"), wanted.added_write, tolerance_percent, trouble),
        _added(measurement, "added_duration", "Migration time added by load", (details.get("duration_added") or {}).get("percent"), wanted.added_duration, tolerance_percent, trouble),
        at_most(
            "migration_load.longest_gap",
            "Longest gap in a VM's I/O",
            max(gaps, default=None),
            unit="s",
            limit=wanted.longest_gap.seconds,
            source=wanted.longest_gap.source,
            scope=scope,
            trouble=trouble,
        ),
    )  # fmt: skip


def judge_together(measurements: Sequence[Measurement], profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    """It is measured once."""
    return ()


def _percent(measurement: Measurement, run: str) -> float | None:
    found: float | None = ((measurement.details.get("added") or {}).get(run) or {}).get("percent")
    return found


def _added(measurement: Measurement, name: str, title: str, percent: float | None, wanted: Added, tolerance_percent: float, trouble: str) -> Objective:
    """At most so many percent more. It holds for the reference's own load and number of VMs; others are reported."""
    same_load = all(measurement.parameters.get(key) == value for key, value in REFERENCE_LOAD.items())
    applies = wanted.percent is not None and measurement.size >= wanted.from_vms and same_load
    return at_most(
        f"migration_load.{name}",
        title,
        percent,
        unit="%",
        limit=wanted.percent * (1 + tolerance_percent / 100) if applies and wanted.percent is not None else None,
        reference=wanted.percent if applies else None,
        how=f"reference + {tolerance_percent:g} %" if applies else "",
        source=wanted.source,
        scope=measurement.scope,
        trouble=trouble,
        beyond="no VM kept up" if name != "added_duration" else "no migration under both loads",
        text=None if percent is None else f"{percent:+.1f} %",
    )
