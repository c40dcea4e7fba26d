"""--plan: what a run would create, change and measure, in words. Contacts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .fleets import namespaces, plan_guests

if TYPE_CHECKING:
    from .run import Run
    from .settings import Settings


def plan(run: Run, scenarios: list[str]) -> Iterator[str]:
    settings = run.settings
    if not scenarios:
        yield "Nothing is selected: no scenario would run."
        return
    yield f"Would run: {', '.join(scenarios)}"
    yield ""
    yield from _created(settings)
    yield ""
    yield from _changed(settings)
    yield ""
    yield "Would measure"
    if "bootstorm" in scenarios:
        yield from _boot_storm(run)
    yield f"  results to {settings.results}/"


def _created(settings: Settings) -> Iterator[str]:
    guests = plan_guests(settings)
    yield "Would create"
    if settings.cluster == "embedded":
        yield f"  an embedded cluster: {settings.simulation.workers} workers, timing profile {settings.simulation.profile}"
    if settings.reuse_fleet:
        yield f"  no VMs: the fleet of run {settings.reuse_fleet} is used again"
        return
    yield f"  {len(namespaces(settings))} namespaces {namespaces(settings)[0]} to {namespaces(settings)[-1]}"
    for name, count in settings.vm_mix.items():
        image = settings.guest(name)
        source = (
            f"a {image.disk_size} disk cloned from {image.source_pvc}" if image.source_pvc else f"container disk {image.container_disk}"
        )
        yield f"  {count} VirtualMachines {name} ({image.cpu} CPU, {image.memory}), each from {source}"
    yield f"  first {guests[0].key}, last {guests[-1].key}; every object labelled vmscale.io/run-id={settings.run_id}"
    yield "  and remove it all at the end" if not settings.keep else "  and keep it (--keep)"


def _changed(settings: Settings) -> Iterator[str]:
    yield "Would change"
    yield "  nothing that was there before; the Lease default/vmscale-run is held while it runs"


def _boot_storm(run: Run) -> Iterator[str]:
    for count in run.settings.vms:
        found = run.reference_for(count)
        if found is None:
            yield f"  boot storm of {count} VMs, first start request to the last SSH: no reference, given up after {run.deadline_seconds(count):.0f} s"
            continue
        reference, how = found
        limit = reference * (1 + run.tolerance_percent / 100)
        yield (
            f"  boot storm of {count} VMs, first start request to the last SSH: at most {limit:.1f} s"
            f" (reference {reference:.1f} s, {how}; +{run.tolerance_percent:g} %), given up after {run.deadline_seconds(count):.0f} s"
        )
