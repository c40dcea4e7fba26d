"""--plan: what a run would create, change and measure, in words. Contacts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .fleets import plan_fleet

if TYPE_CHECKING:
    from .model import Fleet
    from .run import Run
    from .settings import Settings


def plan(run: Run) -> Iterator[str]:
    settings = run.settings
    if not run.selected:
        yield "Nothing is selected: no scenario would run."
        return
    yield f"Would run: {', '.join(each.marker for each in run.selected)}"
    plans = [each.report.plan(run) for each in run.selected]
    yield ""
    yield "Would create"
    if settings.cluster == "embedded":
        yield f"  an embedded cluster: {settings.simulation.workers} workers, timing profile {settings.simulation.profile}"
    created = list(dict.fromkeys(line for each in plans for line in each.create))
    yield from (f"  {line}" for line in created)
    if created:
        yield f"  every object labelled vmscale.io/run-id={settings.run_id}"
        yield "  and remove it all at the end" if not settings.keep else "  and keep it (--keep)"
    yield ""
    yield "Would change"
    changed = list(dict.fromkeys(line for each in plans for line in each.change))
    yield from (f"  {line}" for line in changed or ["nothing that was there before"])
    yield "  the Lease default/vmscale-run is held while it runs"
    yield ""
    yield "Would measure"
    yield from (f"  {line}" for each in plans for line in each.measure)
    yield f"  results to {settings.results}/"


def fleet_lines(settings: Settings, fleet: Fleet) -> tuple[str, ...]:
    """What a fleet consists of, for a scenario's plan."""
    if settings.reuse_fleet:
        return (f"no VMs: the fleet of run {settings.reuse_fleet} is used again",)
    spaces = fleet.namespaces
    told = [f"{len(spaces)} namespaces {spaces[0]} to {spaces[-1]}" if len(spaces) > 1 else f"the namespace {spaces[0]}"]
    for name, count in fleet.os_mix.items():
        image = settings.guest(name)
        source = (
            f"a {image.disk_size} disk cloned from {image.source_pvc}" if image.source_pvc else f"container disk {image.container_disk}"
        )
        told.append(f"{count} VirtualMachines {name} ({image.cpu} CPU, {image.memory}), each from {source}")
    told.append(f"first {fleet.guests[0].key}, last {fleet.guests[-1].key}")
    return tuple(told)


def main_fleet_lines(settings: Settings) -> tuple[str, ...]:
    return fleet_lines(settings, plan_fleet(settings, "main", settings.largest))
