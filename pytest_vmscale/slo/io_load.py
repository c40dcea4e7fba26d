"""What the scenarios that run fio in their guests share: which guests can, whether rates were achieved, and what a load adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.quantity import amount
from pytest_vmscale.records import LatencyRecord, MigrationLoadRecord
from pytest_vmscale.settings import Settings, SettingsError
from pytest_vmscale.slo.objectives import at_most, so_many
from pytest_vmscale.slo.profile import Added, Share

# The load that the document's figures are of.
REFERENCE_LOAD = {"baseline_iops": 1, "workload_iops": 1000, "block_bytes": 4096, "depth": 1}
# Around the runs themselves: all guests are reached before the barrier, and fetched from after the last run.
AROUND_SECONDS = 1800.0


def check_guests(settings: Settings, names: Sequence[str], suite: str) -> None:
    """SettingsError if one of these guests cannot run fio, or has no room for its files. `suite`: the scenario, in words."""
    fio = settings.site.fio
    for name in names:
        image = settings.guest(name)
        if image.family == "windows" or not image.ready.ssh:
            raise SettingsError(f"--vm-mix: {name} has no SSH or no fio: {suite} needs both; give a --vm-mix without it")
        if image.image and fio.dataset_bytes > amount(image.disk_size):
            raise SettingsError(
                f"fio: {fio.directories} directories of {fio.files_per_directory} files of {fio.file_size} are {fio.dataset_bytes / 2**30:.1f} GiB,"
                f" more than the {image.disk_size} disk of guests.{name}"
            )


def achieved(
    id: str,
    measurement: Measurement,
    records: Sequence[LatencyRecord] | Sequence[MigrationLoadRecord],
    wanted: Share,
    trouble: str,
    short: str,
) -> Objective:
    """So many percent of the VMs achieved their rate. `short`: those that did not, in words."""
    kept_up = sum(not record.overloaded for record in records)
    why = f"{len(records) - kept_up} VMs achieved less than 99 % of their rate{short}" if kept_up < len(records) else ""
    title = "VMs that achieved their rate"
    return so_many(id, title, kept_up, len(records), wanted.minimum_percent, wanted.source, measurement, trouble, why)


def added(
    id: str, title: str, percent: float | None, wanted: Added, measurement: Measurement, tolerance_percent: float, trouble: str, beyond: str
) -> Objective:
    """At most so many percent more, to which the tolerance is added. It holds for the reference's own load and number of VMs; others are
    reported. `percent` None: there is none because of `beyond`."""
    same_load = all(measurement.parameters.get(key) == value for key, value in REFERENCE_LOAD.items())
    reference = wanted.percent if measurement.size >= wanted.from_vms and same_load else None
    limit = None if reference is None else reference + abs(reference) * tolerance_percent / 100
    found = at_most(
        id,
        title,
        percent,
        unit="%",
        limit=limit,
        reference=reference,
        how="" if reference is None else f"reference + {tolerance_percent:g} %",
        source=wanted.source,
        scope=measurement.scope,
        trouble=trouble,
        beyond=beyond,
        text=None if percent is None else f"{percent:+.1f} %",
    )
    if found.measured is None or limit is None:
        return found
    # A limit may lie below zero: the margin is how far it is from it, for better or worse.
    return replace(found, margin_percent=(limit - found.measured) / abs(limit) * 100 if limit else None)
