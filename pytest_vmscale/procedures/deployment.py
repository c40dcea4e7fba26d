"""The deployment: VMs whose disks are clones of a golden image, asked for in bulks; each is timed until its disk is cloned, and on
request until it runs or answers.

t0 of a VM is stamped before its create request is sent. Its DataVolume's phases come from one watch. The next bulk is asked
for when all of the one before are cloned or lost. A clone that fails or sticks stays in the sample.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.requests import ApiError, Cluster, Object, resource_path
from ..cluster.runtime import cancel_all
from ..cluster.watch import Event, Watch
from ..guest.probe import Probing, Readiness, allow_open_files_for, probe_until_up
from ..guest.route import Route, Target
from ..model import Fleet, Measurement, Status
from ..records import DeployRecord
from .clones import Clone
from .deployed import CLONED, ClonedVolume, DeployedVm
from .fleet import DATA_VOLUMES
from .outcome import gaps, object_skew, request_retries, tell_progress, upper_bounds, why_blind, why_cut_short
from .vmi import VMIS, Vmi

SCENARIO, VERSION = "datasource-clone", "1.0.0"
Until = Literal["cloned", "running", "ssh"]
WORDS = {"cloned": "cloned", "running": "running", "ssh": "up"}


@dataclass(frozen=True)
class Progress:
    """How far the deployment is. Times in cluster seconds from the first request."""

    elapsed_seconds: float
    total: int
    requested: int
    cloned: int
    done: int
    failed: int
    bulk: int
    bulks: int


@dataclass(frozen=True)
class Guests:
    """How guests are reached, what "up" means by their OS, and how often they are asked (cluster seconds)."""

    route: Route
    readiness: Mapping[str, Readiness]
    interval_seconds: float


async def deploy(
    cluster: Cluster,
    fleet: Fleet,
    manifests: Sequence[Object],
    clock: Clock,
    *,
    run_id: str,
    bulk_size: int | None,
    deadline_seconds: float,
    parameters: Mapping[str, Any],
    named: str = "",
    until: Until = "cloned",
    guests: Guests | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_record: Callable[[DeployRecord], None] | None = None,
    on_partial: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Create the fleet's VMs (`manifests`: theirs, in its order; their namespaces are there) bulk by bulk, and follow each until
    its disk is cloned (or, with `until`, it runs or answers; the manifests must then be of VMs that start by themselves, and
    `guests` says how they are reached), or until the deadline (cluster seconds from the first request).

    The callbacks run on the event loop: on_record as each VM is settled; on_partial with what was measured so far if the
    deployment is cancelled or breaks. ClusterError if it cannot be measured."""
    deployment = _Deployment(
        cluster, fleet, manifests, clock, run_id, bulk_size, deadline_seconds, parameters, named, until, guests, on_record
    )
    try:
        return await deployment.run(on_progress)
    except BaseException as error:
        if on_partial and deployment.began is not None:
            on_partial(deployment.measurement(why_cut_short(error)))
        raise


def with_clones(measurement: Measurement, clones: Mapping[str, Clone]) -> Measurement:
    """The same, with what the claims tell of how each was cloned (by namespace/VM name); what they do not tell stays as the
    DataVolume's phases told it."""
    records = []
    for record in measurement.records:
        assert isinstance(record, DeployRecord)
        clone = clones.get(f"{record.namespace}/{record.vm_name}")
        if clone is not None:
            record = replace(
                record, clone_strategy=clone.strategy or record.clone_strategy, clone_fallback=clone.fallback or record.clone_fallback
            )
        records.append(record)
    return replace(measurement, records=tuple(records))


def _all_cloned(bulk: Sequence[DeployedVm]) -> bool:
    return all(vm.cloned or vm.status for vm in bulk)


class _Deployment:
    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        manifests: Sequence[Object],
        clock: Clock,
        run_id: str,
        bulk_size: int | None,
        deadline_seconds: float,
        parameters: Mapping[str, Any],
        named: str,
        until: Until,
        guests: Guests | None,
        on_record: Callable[[DeployRecord], None] | None,
    ) -> None:
        if not fleet.guests:
            raise ClusterError("a deployment of no VMs measures nothing")
        size = bulk_size or len(fleet.guests)
        self.cluster, self.clock, self.run_id, self.named = cluster, clock, run_id, named
        self.deadline, self.parameters, self.on_record = deadline_seconds, parameters, on_record
        self.until, self.guests = until, guests
        self.vms = [
            DeployedVm(guest, manifest, bulk=index // size + 1, ordinal=index + 1)
            for index, (guest, manifest) in enumerate(zip(fleet.guests, manifests, strict=True))
        ]
        self.by_volume = {vm.volume: vm for vm in self.vms}
        self.by_guest = {vm.guest.key: vm for vm in self.vms}
        self.bulks = [[vm for vm in self.vms if vm.bulk == number + 1] for number in range(math.ceil(len(self.vms) / size))]
        self.done_at: dict[int, float] = {}  # by bulk: when its last disk was cloned, or lost
        self.broken: BaseException | None = None
        self.changed = asyncio.Event()
        self.began: float | None = None
        self.watch = Watch(cluster, DATA_VOLUMES, ClonedVolume, self.on_volume, selector=fleet.selector)
        self.vmis = Watch(cluster, VMIS, Vmi, self.on_vmi, selector=fleet.selector) if until != "cloned" else None

    # -- the procedure ----------------------------------------------------------------------------------------------

    async def run(self, on_progress: Callable[[Progress], None] | None) -> Measurement:
        ticking: asyncio.Task[None] | None = None
        async with contextlib.AsyncExitStack() as stack:
            for watch in self._watches():
                await stack.enter_async_context(watch)
            if self.watch.objects:
                raise ClusterError(f"{len(self.watch.objects)} of the fleet's DataVolumes are there already: a deployment starts from none")
            if self.until == "ssh":
                allow_open_files_for(len(self.vms))
            await self.cluster.warm_up(max(len(bulk) for bulk in self.bulks))
            requests: list[asyncio.Task[None]] = []
            try:
                if on_progress:
                    ticking = asyncio.create_task(tell_progress(on_progress, self.progress))
                for bulk in self.bulks:
                    requests += [asyncio.create_task(self._guarded(self._create, vm)) for vm in bulk]
                    if not await self._wait(functools.partial(_all_cloned, bulk)):
                        break
                await self._wait(lambda: all(vm.status for vm in self.vms))
            finally:
                tasks = [*requests, *(vm.task for vm in self.vms if vm.task), *([ticking] if ticking else [])]
                await cancel_all(tasks)
            self._check()
            self._check_sight()
            for vm in self.vms:
                if vm.status is None:
                    self._settle(vm, Status.TIMED_OUT, f"not {WORDS[self.until]} after {self.deadline:g} s: {vm.where}")
        if on_progress:
            on_progress(self.progress())
        return self.measurement(None)

    def _watches(self) -> list[Watch[Any]]:
        return [self.watch, self.vmis] if self.vmis else [self.watch]

    async def _wait(self, done: Callable[[], bool]) -> bool:
        """Until it is so. False at the deadline."""
        while not done():
            self._check()
            left = self.deadline if self.began is None else self.deadline - self._elapsed()
            if left <= 0:
                return False
            self.changed.clear()
            waiting = [asyncio.create_task(event.wait()) for event in (self.changed, *(watch.failed for watch in self._watches()))]
            try:
                # Woken at times all the same: the clock's rate may change.
                await asyncio.wait(waiting, timeout=min(self.clock.wall(left), 1.0), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
        return True

    def _check(self) -> None:
        if self.broken:
            raise self.broken
        for watch in self._watches():
            if watch.failure:
                raise ClusterError(f"a watch of the deployment broke: {watch.failure}") from watch.failure

    def _check_sight(self) -> None:
        """Clones that could not be watched are not clones that stuck."""
        unseen = sum(vm.status is None and vm.sent is not None for vm in self.vms)
        for why in filter(None, (why_blind(watch, self.clock) for watch in self._watches())):
            if unseen:
                raise ClusterError(f"what became of {unseen} VMs could not be seen: a watch was broken until the deadline ({why})")

    async def _guarded(self, work: Callable[[DeployedVm], Awaitable[None]], vm: DeployedVm) -> None:
        try:
            await work(vm)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.broken = self.broken or error
            self.changed.set()

    async def _create(self, vm: DeployedVm) -> None:
        def sent(stamp: float) -> None:
            vm.sent = stamp
            if self.began is None:
                self.began = stamp

        path = resource_path("kubevirt.io/v1", "virtualmachines", vm.guest.namespace)
        try:
            await self.cluster.send("POST", path, body=vm.manifest, attempts=vm.attempts, on_sent=sent)
        except ApiError as error:
            # After a try without a clear answer, "already exists" says that it was that try which made it.
            if not (error.reason == "AlreadyExists" and error.maybe_done_before):
                self._settle(vm, Status.FAILED, f"the VM could not be created: {error.message}")

    def on_volume(self, event: Event[ClonedVolume]) -> None:
        vm = self.by_volume.get(event.object.key)
        if vm is None or vm.sent is None or vm.status is not None:
            return
        vm.saw_volume(event.object, event.arrived, event.upper_bound)
        if vm.cloned:
            self.done_at[vm.bulk] = max(self.done_at.get(vm.bulk, 0.0), vm.seen[CLONED][0])
            self.changed.set()
            self._advance(vm)
        elif vm.phase == "Failed":
            self._settle(vm, Status.FAILED, f"its DataVolume failed: {vm.trouble or 'CDI gives no reason'}")
        elif event.type == "DELETED":
            self._settle(vm, Status.FAILED, f"its DataVolume was deleted in phase {vm.phase or 'Pending'}")

    def on_vmi(self, event: Event[Vmi]) -> None:
        vm = self.by_guest.get(event.object.key)
        if vm is None or vm.sent is None or vm.status is not None:
            return
        vm.saw_vmi(event.object, event.arrived, event.upper_bound)
        if event.type == "DELETED" or vm.vmi_phase in ("Failed", "Succeeded"):
            self._settle(vm, Status.FAILED, f"its VMI ended in phase {vm.vmi_phase or 'Pending'}")
        else:
            self._advance(vm)

    def _advance(self, vm: DeployedVm) -> None:
        """What is next for it, after what was seen last."""
        reached = {"cloned": CLONED, "running": "Running", "ssh": "up"}[self.until]
        if vm.cloned and reached in vm.seen:
            self._settle(vm, Status.SUCCESS, None)
        elif self.until == "ssh" and self.guests and "Running" in vm.seen and vm.probing is None and self._reachable(vm):
            ready = self.guests.readiness[vm.guest.os]
            vm.probing = Probing(Target(vm.guest.namespace, vm.guest.name, vm.address, ready.port), ready)
            vm.task = asyncio.create_task(self._guarded(self._probe, vm))

    def _reachable(self, vm: DeployedVm) -> bool:
        return bool(vm.address) or not (self.guests and self.guests.route.needs_address)

    async def _probe(self, vm: DeployedVm) -> None:
        assert self.guests and vm.probing
        await probe_until_up(vm.probing, self.guests.route, self.clock, self.guests.interval_seconds)
        if vm.probing.answered is not None and vm.status is None:
            vm.saw("up", vm.probing.answered, False)
            self._advance(vm)

    def _settle(self, vm: DeployedVm, status: Status, error: str | None) -> None:
        vm.status, vm.error = status, error
        if not vm.cloned:
            self.done_at[vm.bulk] = time.monotonic()
        self.changed.set()
        if self.on_record:
            self.on_record(self._record(vm))

    # -- what was measured ------------------------------------------------------------------------------------------

    def _elapsed(self) -> float:
        return 0.0 if self.began is None else self.clock.now() - self.clock.at(self.began)

    def progress(self) -> Progress:
        asked = [vm for vm in self.vms if vm.sent is not None]
        return Progress(
            elapsed_seconds=self._elapsed(),
            total=len(self.vms),
            requested=len(asked),
            cloned=sum(vm.cloned for vm in asked),
            done=sum(vm.status is Status.SUCCESS for vm in asked),
            failed=sum(vm.status in (Status.FAILED, Status.TIMED_OUT) for vm in self.vms),
            bulk=max((vm.bulk for vm in asked), default=1),
            bulks=len(self.bulks),
        )

    def _since(self, start: float | None, stamp: float | None) -> float | None:
        return None if start is None or stamp is None else self.clock.at(stamp) - self.clock.at(start)

    def _record(self, vm: DeployedVm) -> DeployRecord:
        return vm.record(self.clock, self.began, time.monotonic())

    def measurement(self, incomplete: str | None) -> Measurement:
        records = tuple(self._record(vm) for vm in self.vms)
        began = self.began if self.began is not None else time.monotonic()
        done = [max(stamp for stamp, _ in vm.seen.values()) for vm in self.vms if vm.status is Status.SUCCESS]
        return Measurement(
            scenario=SCENARIO,
            version=VERSION,
            run_id=self.run_id,
            started_epoch=self.clock.at(began),
            parameters=dict(self.parameters),
            records=records,
            deadline_seconds=self.deadline,
            duration_seconds=self._since(began, max(done)) if done else None,
            gaps=gaps((gap for watch in self._watches() for gap in watch.gaps), lambda stamp: self.clock.at(stamp) - self.clock.at(began)),
            details=self._figures(records, began),
            complete=incomplete is None,
            incomplete_reason=incomplete,
            named=self.named,
            time_rate=self.clock.rate,
        )

    def _figures(self, records: Sequence[DeployRecord], began: float) -> dict[str, Any]:
        bulks = self._bulk_figures(began)
        waits = [each["pause_after_seconds"] for each in bulks if each["pause_after_seconds"] is not None]
        return {
            "started_cluster_epoch": self.clock.at(began),
            "bulks": bulks,
            "pauses_seconds": sum(waits),
            "bulk_seconds": sum(each["wall_seconds"] for each in bulks if each["wall_seconds"] is not None),
            "requests_sent": sum(max(1, len(vm.attempts)) for vm in self.vms if vm.sent is not None),
            "request_retries": request_retries(records),
            "request_seconds_max": max((r.request_seconds for r in records if r.request_seconds is not None), default=None),
            "object_skew_seconds": object_skew(records),
            "upper_bounds": upper_bounds(records),
            "watch_events": sum(watch.events for watch in self._watches()),
            "watch_relists": sum(gap.relisted for watch in self._watches() for gap in watch.gaps),
        }

    def _bulk_figures(self, began: float) -> list[dict[str, Any]]:
        """wall_seconds: first request to the last disk cloned, or lost. pause_after_seconds: from then to the next bulk's first request."""
        found: list[dict[str, Any]] = []
        for number, bulk in enumerate(self.bulks, 1):
            sent = [vm.sent for vm in bulk if vm.sent is not None]
            if not sent:
                break
            settled = self.done_at.get(number) if _all_cloned(bulk) else None
            if found:
                found[-1]["pause_after_seconds"] = self._since(self.done_at.get(number - 1), min(sent))
            found.append(
                {
                    "bulk": number,
                    "vms": len(bulk),
                    "cloned": sum(vm.cloned for vm in bulk),
                    "requested_at_seconds": self._since(began, min(sent)),
                    "wall_seconds": self._since(min(sent), settled),
                    "pause_after_seconds": None,
                }
            )
        return found
