"""Where a boot's time went: the phases of single, real VMs. An average of phases would belong to no VM that ever booted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from pytest_vmscale.model import Measurement
from pytest_vmscale.records import BootRecord

PHASES = ("VMI created", "scheduled", "running", "SSH answers")
PERCENTILES = (50, 75, 90, 95, 99, 100)


@dataclass(frozen=True)
class Breakdown:
    """One VM's boot, cut into `PHASES`: the seconds that each took, which add up to its time to SSH.

    A phase that was not seen is None, and its time is in the next one that was.
    """

    label: str
    record: BootRecord
    seconds: tuple[float | None, ...]

    @property
    def total_seconds(self) -> float:
        return sum(each for each in self.seconds if each is not None)


def breakdowns(measurement: Measurement) -> list[Breakdown]:
    """The VM on which each percentile falls ("max" is the slowest), then each operating system's median, if there are several.

    Percentiles are over all VMs: one that falls on a VM that never booted has no breakdown, and is left out.
    """
    records = boot_records(measurement)
    rows = [row for percent in PERCENTILES if (row := _at(records, percent, "max" if percent == 100 else f"p{percent}")) is not None]
    systems = sorted({record.os for record in records})
    if len(systems) > 1:
        for os in systems:
            if row := _at(tuple(record for record in records if record.os == os), 50, f"{os} p50"):
                rows.append(row)
    return rows


def _at(records: tuple[BootRecord, ...], percent: int, label: str) -> Breakdown | None:
    up = sorted(
        (record.time_to_ssh_seconds, record.namespace, record.vm_name, record) for record in booted(records) if record.time_to_ssh_seconds
    )
    rank = -(-percent * len(records) // 100)
    return _cut(label, up[rank - 1][3]) if 0 < rank <= len(up) else None


def boot_records(measurement: Measurement) -> tuple[BootRecord, ...]:
    return cast("tuple[BootRecord, ...]", measurement.records)


def booted(records: tuple[BootRecord, ...]) -> list[BootRecord]:
    return [record for record in records if record.succeeded and record.time_to_ssh_seconds is not None]


def _cut(label: str, record: BootRecord) -> Breakdown:
    scheduled = next((moment.seconds for moment in record.timeline if moment.phase == "Scheduled"), None)
    reached = (record.time_to_vm_created_seconds, scheduled, record.time_to_vmi_running_seconds, record.time_to_ssh_seconds)
    seconds: list[float | None] = []
    before = 0.0
    for moment in reached:
        seconds.append(None if moment is None else moment - before)
        before = before if moment is None else moment
    return Breakdown(label, record, tuple(seconds))
