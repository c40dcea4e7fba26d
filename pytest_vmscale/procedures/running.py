"""Start a fleet that other procedures work on, and wait until each guest answers. Nothing here is measured: see boot_storm.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ..clock import Clock
from ..cluster.requests import ApiError, Cluster, in_parallel, resource_path
from ..cluster.runtime import cancel_all
from ..cluster.watch import Event, Watch
from ..guest.probe import Probing, Readiness, allow_open_files_for, probe_until_up
from ..guest.route import Route, Target
from ..model import Fleet, Guest
from .fleet import FleetError, OnProgress, Wait, unfinished_error
from .vmi import VMIS, Vmi

# Nothing is measured here: where cluster time runs fast, a guest is not asked again and again while the cluster is busy starting it,
# and what asks many guests at once waits for their answers instead of asking anew.
PROBE_FLOOR_WALL_SECONDS = 1.0
PROBES_AT_ONCE, CONNECT_WALL_SECONDS = 64, 5.0


async def start_all(
    cluster: Cluster,
    fleet: Fleet,
    clock: Clock,
    *,
    route: Route,
    readiness: Mapping[str, Readiness],
    interval_seconds: float,
    deadline_seconds: float,
    on_progress: OnProgress | None = None,
) -> dict[str, Target]:
    """Start those of the fleet's VMs that do not run, and return where each guest answers, by its key. FleetError if some do
    not by the deadline."""
    allow_open_files_for(len(fleet.guests))
    wait = Wait(clock, deadline_seconds, on_progress)
    interval_seconds = max(interval_seconds, clock.rate * PROBE_FLOOR_WALL_SECONDS)
    guests = {guest.key: guest for guest in fleet.guests}
    probings: dict[str, Probing] = {}
    tasks: dict[str, asyncio.Task[None]] = {}
    slots = asyncio.Semaphore(PROBES_AT_ONCE)

    def on_vmi(event: Event[Vmi]) -> None:
        vmi = event.object
        guest = guests.get(vmi.key)
        if (
            guest
            and vmi.key not in probings
            and event.type != "DELETED"
            and vmi.status.phase == "Running"
            and (vmi.address or not route.needs_address)
        ):
            ready = readiness[guest.os]
            probing = probings[vmi.key] = Probing(Target(guest.namespace, guest.name, vmi.address, ready.port), ready)
            probe = probe_until_up(probing, route, clock, interval_seconds, slots=slots, connect_floor_wall_seconds=CONNECT_WALL_SECONDS)
            task = tasks[vmi.key] = asyncio.create_task(probe)
            task.add_done_callback(wait)
        wait(event)

    async def start(guest: Guest) -> None:
        path = resource_path("subresources.kubevirt.io/v1", "virtualmachines", guest.namespace, guest.name) + "/start"
        try:
            await cluster.send("PUT", path, body={})
        except ApiError as error:
            if error.status != 409:  # it runs, or is on its way
                raise FleetError(f"{guest.key} could not be started: {error.message}", {guest.key: error.message}) from error

    vmis = Watch(cluster, VMIS, Vmi, on_vmi, selector=fleet.selector)
    try:
        async with vmis:
            await in_parallel(start, [guest for guest in fleet.guests if guest.key not in vmis.objects])

            def unfinished() -> dict[str, str]:
                for task in tasks.values():
                    if task.done() and not task.cancelled() and (error := task.exception()):
                        raise error
                return {key: state for key in guests if (state := _not_up(vmis.objects.get(key), probings.get(key)))}

            left = await wait.until_none(unfinished, (vmis,), "started", len(guests))
    finally:
        await cancel_all(tasks.values())
    if left:
        raise unfinished_error("up", left, len(guests), deadline_seconds)
    return {key: probing.target for key, probing in probings.items()}


def _not_up(vmi: Vmi | None, probing: Probing | None) -> str | None:
    """What a guest is in that does not answer yet, or None."""
    if probing and probing.answered is not None:
        return None
    if probing and probing.probes:
        return f"Running, {probing.last_error or 'no answer yet'}"
    if vmi is None:
        return "no VMI"
    return vmi.why_unscheduled or vmi.status.phase or "Pending"
