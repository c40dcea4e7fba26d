"""--plan: what a run would create, change and measure, in words. Contacts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .fleets import plan_fleet
from .manifests.cdi import golden_name
from .rights import sentences

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
    yield "Would need to be allowed to"
    yield from (f"  {line}" for line in sentences(run.rights()))
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
        source = f"container disk {image.container_disk}"
        if golden := image.image:
            source = f"a {image.disk_size} disk cloned from {'/'.join(golden_name(name, image, golden, settings.site.storage))}"
        told.append(f"{count} VirtualMachines {name} ({image.cpu} CPU, {image.memory}), each from {source}")
    told.append(f"first {fleet.guests[0].key}, last {fleet.guests[-1].key}")
    told += image_lines(settings, fleet)
    return tuple(told)


def image_lines(settings: Settings, fleet: Fleet) -> list[str]:
    """The golden images that would be imported, if they are not there yet."""
    told = []
    for name in fleet.os_mix:
        image = settings.guest(name)
        if (golden := image.image) and golden.imported:
            where = "/".join(golden_name(name, image, golden, settings.site.storage))
            told.append(f"the golden image {where} from {golden.http or golden.registry or golden.s3}, if it is not there (it is kept)")
    return told


def main_fleet_lines(settings: Settings) -> tuple[str, ...]:
    return fleet_lines(settings, plan_fleet(settings, "main", settings.largest))
