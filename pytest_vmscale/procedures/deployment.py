"""The deployment: VMs whose disks are clones of a golden image, asked for in bulks; each is timed until its disk is cloned.

t0 of a VM is stamped before its create request is sent. Its DataVolume's phases come from one watch. The next bulk is asked
for when the one before is settled. A clone that fails or sticks stays in the sample.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..clock import Clock, parse_timestamp
from ..cluster.access import ClusterError
from ..cluster.requests import ApiError, Attempt, Cluster, Object, resource_path
from ..cluster.watch import Event, Meta, Projection, Watch
from ..model import DeployRecord, Fleet, Gap, Guest, Measurement, Moment, Status
from .clones import CLONE_TYPE, Clone, strategy_of_phases
from .fleet import DATA_VOLUMES
from .vmi import Condition

SCENARIO, VERSION = "datasource-clone", "1.0.0"
PROGRESS_WALL_SECONDS = 0.5
# The reference looked at each VM this often.
POLL_SECONDS = 2.0
# A watch that is broken for longer than it takes to mend one (cluster time) says nothing of what happens meanwhile.
BLIND_SECONDS = 30.0


class _Meta(Meta):
    annotations: dict[str, str] = {}


class _Status(msgspec.Struct):
    phase: str = ""
    progress: str = ""
    conditions: list[Condition] = []


class ClonedVolume(Projection):
    """Of a DataVolume: metadata with annotations, status.{phase, progress, conditions}."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    status: _Status = msgspec.field(default_factory=_Status)


@dataclass(frozen=True)
class Progress:
    """How far the deployment is. Times in cluster seconds from the first request."""

    elapsed_seconds: float
    total: int
    requested: int
    cloned: int
    failed: int
    bulk: int
    bulks: int


@dataclass
class _Vm:
    """One VM on its way. Stamps are of time.monotonic()."""

    guest: Guest
    manifest: Object
    bulk: int
    ordinal: int
    sent: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    seen: dict[str, tuple[float, bool]] = field(default_factory=dict)  # phase: when, and whether only a relist told
    phase: str = ""
    progress: str = ""
    trouble: str = ""
    object_epoch: float | None = None  # what the DataVolume itself says of when it was ready
    strategy: str | None = None
    fallback: str | None = None
    status: Status | None = None
    error: str | None = None

    @property
    def volume(self) -> str:
        """The key of its DataVolume."""
        return f"{self.guest.namespace}/{self.manifest['spec']['dataVolumeTemplates'][0]['metadata']['name']}"

    @property
    def where(self) -> str:
        if self.sent is None:
            return "it was never asked for: the bulks before it were not done"
        if not self.phase:
            return "its VM was created, and no DataVolume came"
        progress = f" at {self.progress}" if self.progress not in ("", "N/A") else ""
        return f"its DataVolume is {self.phase}{progress}" + (f": {self.trouble}" if self.trouble else "")


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
    on_progress: Callable[[Progress], None] | None = None,
    on_record: Callable[[DeployRecord], None] | None = None,
    on_partial: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Create the fleet's VMs (`manifests`: theirs, in its order; their namespaces are there) bulk by bulk, and follow each until
    its disk is cloned, or until the deadline (cluster seconds from the first request).

    The callbacks run on the event loop: on_record as each VM is settled; on_partial with what was measured so far if the
    deployment is cancelled or breaks. ClusterError if it cannot be measured."""
    deployment = _Deployment(cluster, fleet, manifests, clock, run_id, bulk_size, deadline_seconds, parameters, named, on_record)
    try:
        return await deployment.run(on_progress)
    except BaseException as error:
        if on_partial and deployment.began is not None:
            why = "interrupted" if isinstance(error, asyncio.CancelledError) else str(error) or type(error).__name__
            on_partial(deployment.measurement(why))
        raise


def with_clones(measurement: Measurement, clones: Mapping[str, Clone]) -> Measurement:
    """The same, with what the claims tell of how each was cloned (by namespace/VM name); what they do not tell stays as the
    DataVolume's phases told it."""
    from dataclasses import replace

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
        on_record: Callable[[DeployRecord], None] | None,
    ) -> None:
        if not fleet.guests:
            raise ClusterError("a deployment of no VMs measures nothing")
        size = bulk_size or len(fleet.guests)
        self.cluster, self.clock, self.run_id, self.named = cluster, clock, run_id, named
        self.deadline, self.parameters, self.on_record = deadline_seconds, parameters, on_record
        self.vms = [
            _Vm(guest, manifest, bulk=index // size + 1, ordinal=index + 1)
            for index, (guest, manifest) in enumerate(zip(fleet.guests, manifests, strict=True))
        ]
        self.by_volume = {vm.volume: vm for vm in self.vms}
        self.bulks = [[vm for vm in self.vms if vm.bulk == number + 1] for number in range(math.ceil(len(self.vms) / size))]
        self.settled_at: dict[int, float] = {}  # by bulk: when its last VM was settled
        self.broken: BaseException | None = None
        self.changed = asyncio.Event()
        self.began: float | None = None
        self.watch = Watch(cluster, DATA_VOLUMES, ClonedVolume, self.on_volume, selector=fleet.selector)

    # -- the procedure ----------------------------------------------------------------------------------------------

    async def run(self, on_progress: Callable[[Progress], None] | None) -> Measurement:
        ticking: asyncio.Task[None] | None = None
        async with self.watch:
            if self.watch.objects:
                raise ClusterError(f"{len(self.watch.objects)} of the fleet's DataVolumes are there already: a deployment starts from none")
            await self.cluster.warm_up(max(len(bulk) for bulk in self.bulks))
            try:
                if on_progress:
                    ticking = asyncio.create_task(self._tick(on_progress))
                for number, bulk in enumerate(self.bulks, 1):
                    if not await self._bulk(number, bulk):
                        break
            finally:
                if ticking:
                    ticking.cancel()
            self._check()
            self._check_sight()
            for vm in self.vms:
                if vm.status is None:
                    self._settle(vm, Status.TIMED_OUT, f"not cloned after {self.deadline:g} s: {vm.where}")
        if on_progress:
            on_progress(self.progress())
        return self.measurement(None)

    async def _bulk(self, number: int, bulk: Sequence[_Vm]) -> bool:
        """Ask for all at once, and wait until all are settled. False at the deadline."""
        requests = [asyncio.create_task(self._guarded(vm)) for vm in bulk]
        try:
            while any(vm.status is None for vm in bulk):
                self._check()
                left = self.deadline if self.began is None else self.deadline - self._elapsed()
                if left <= 0:
                    return False
                self.changed.clear()
                waiting = [asyncio.create_task(event.wait()) for event in (self.changed, self.watch.failed)]
                try:
                    # Woken at times all the same: the clock's rate may change.
                    await asyncio.wait(waiting, timeout=min(self.clock.wall(left), 1.0), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in waiting:
                        task.cancel()
            return True
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    def _check(self) -> None:
        if self.broken:
            raise self.broken
        if self.watch.failure:
            raise ClusterError(f"the watch of the DataVolumes broke: {self.watch.failure}") from self.watch.failure

    def _check_sight(self) -> None:
        """Clones that could not be watched are not clones that stuck."""
        blind = self.watch.blind_since
        if blind is None or self.clock.now() - self.clock.at(blind[0]) < BLIND_SECONDS:
            return
        if unseen := sum(vm.status is None and vm.sent is not None for vm in self.vms):
            raise ClusterError(
                f"what became of {unseen} clones could not be seen: the watch of the DataVolumes was broken until the deadline ({blind[1]})"
            )

    async def _guarded(self, vm: _Vm) -> None:
        try:
            await self._create(vm)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.broken = self.broken or error
            self.changed.set()

    async def _create(self, vm: _Vm) -> None:
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

    async def _tick(self, on_progress: Callable[[Progress], None]) -> None:
        while True:
            on_progress(self.progress())
            await asyncio.sleep(PROGRESS_WALL_SECONDS)

    def on_volume(self, event: Event[ClonedVolume]) -> None:
        vm = self.by_volume.get(event.object.key)
        if vm is None or vm.sent is None or vm.status is not None:
            return
        volume = event.object
        vm.seen.setdefault("created", (event.arrived, event.upper_bound))
        status = volume.status
        if status.phase:
            vm.phase, vm.progress = status.phase, status.progress
            vm.seen.setdefault(status.phase, (event.arrived, event.upper_bound))
        vm.strategy = volume.metadata.annotations.get(CLONE_TYPE) or strategy_of_phases(vm.seen) or vm.strategy
        vm.trouble = next((each.message for each in status.conditions if each.type in ("Running", "Bound") and each.status == "False"), "")
        if status.phase == "Succeeded":
            vm.object_epoch = _ready_since(status.conditions)
            self._settle(vm, Status.SUCCESS, None)
        elif status.phase == "Failed":
            self._settle(vm, Status.FAILED, f"its DataVolume failed: {vm.trouble or 'CDI gives no reason'}")
        elif event.type == "DELETED":
            self._settle(vm, Status.FAILED, f"its DataVolume was deleted in phase {vm.phase or 'Pending'}")

    def _settle(self, vm: _Vm, status: Status, error: str | None) -> None:
        vm.status, vm.error = status, error
        self.settled_at[vm.bulk] = vm.seen["Succeeded"][0] if status is Status.SUCCESS else time.monotonic()
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
            cloned=sum(vm.status is Status.SUCCESS for vm in asked),
            failed=sum(vm.status in (Status.FAILED, Status.TIMED_OUT) for vm in self.vms),
            bulk=max((vm.bulk for vm in asked), default=1),
            bulks=len(self.bulks),
        )

    def _since(self, start: float | None, stamp: float | None) -> float | None:
        return None if start is None or stamp is None else self.clock.at(stamp) - self.clock.at(start)

    def _record(self, vm: _Vm) -> DeployRecord:
        def after(phase: str) -> float | None:
            return self._since(vm.sent, vm.seen[phase][0]) if phase in vm.seen else None

        cloned = after("Succeeded")
        answered = vm.attempts[-1].ended if vm.attempts else None
        own = None if vm.object_epoch is None or vm.sent is None else vm.object_epoch - self.clock.at(vm.sent)
        return DeployRecord(
            namespace=vm.guest.namespace,
            vm_name=vm.guest.name,
            os=vm.guest.os,
            status=vm.status or Status.TIMED_OUT,
            requested_at=self._since(self.began, vm.sent if vm.sent is not None else time.monotonic()) or 0.0,
            error=vm.error or (None if vm.status else vm.where),
            last_phase=vm.phase or None,
            request_retries=tuple(attempt.reason for attempt in vm.attempts[:-1]),
            timeline=tuple(
                Moment(phase, self._since(vm.sent, stamp) or 0.0, bound, own if phase == "Succeeded" else None)
                for phase, (stamp, bound) in vm.seen.items()
            ),
            bulk=vm.bulk,
            ordinal=vm.ordinal,
            time_to_data_volume_seconds=after("created"),
            clone_duration_seconds=cloned,
            polled_clone_duration_seconds=None if cloned is None else math.ceil(cloned / POLL_SECONDS) * POLL_SECONDS,
            clone_strategy=vm.strategy,
            clone_fallback=vm.fallback,
            request_seconds=self._since(vm.sent, answered),
        )

    def measurement(self, incomplete: str | None) -> Measurement:
        records = tuple(self._record(vm) for vm in self.vms)
        began = self.began if self.began is not None else time.monotonic()
        cloned = [vm.seen["Succeeded"][0] for vm in self.vms if vm.status is Status.SUCCESS]
        return Measurement(
            scenario=SCENARIO,
            version=VERSION,
            run_id=self.run_id,
            started_epoch=self.clock.at(began),
            parameters=dict(self.parameters),
            records=records,
            deadline_seconds=self.deadline,
            duration_seconds=self._since(began, max(cloned)) if cloned else None,
            gaps=tuple(
                Gap(gap.kind, self.clock.at(gap.start) - self.clock.at(began), self.clock.at(gap.end) - self.clock.at(began), gap.reason)
                for gap in self.watch.gaps
            ),
            details=self._figures(records, began),
            complete=incomplete is None,
            incomplete_reason=incomplete,
            named=self.named,
            time_rate=self.clock.rate,
        )

    def _figures(self, records: Sequence[DeployRecord], began: float) -> dict[str, Any]:
        bulks = self._bulk_figures(began)
        retries: dict[str, int] = {}
        for record in records:
            for reason in record.request_retries:
                retries[reason] = retries.get(reason, 0) + 1
        skews = [m.seconds - m.object_seconds for r in records for m in r.timeline if m.object_seconds is not None and not m.upper_bound]
        waits = [each["pause_after_seconds"] for each in bulks if each["pause_after_seconds"] is not None]
        return {
            "bulks": bulks,
            "pauses_seconds": sum(waits),
            "bulk_seconds": sum(each["wall_seconds"] for each in bulks if each["wall_seconds"] is not None),
            "requests_sent": sum(max(1, len(vm.attempts)) for vm in self.vms if vm.sent is not None),
            "request_retries": retries,
            "request_seconds_max": max((r.request_seconds for r in records if r.request_seconds is not None), default=None),
            "object_skew_seconds": {"min": min(skews), "mean": sum(skews) / len(skews), "max": max(skews), "count": len(skews)}
            if skews
            else None,
            "upper_bounds": sum(moment.upper_bound for record in records for moment in record.timeline),
            "watch_events": self.watch.events,
            "watch_relists": sum(gap.relisted for gap in self.watch.gaps),
        }

    def _bulk_figures(self, began: float) -> list[dict[str, Any]]:
        """wall_seconds: first request to the last VM settled. pause_after_seconds: from then to the next bulk's first request."""
        found: list[dict[str, Any]] = []
        for number, bulk in enumerate(self.bulks, 1):
            sent = [vm.sent for vm in bulk if vm.sent is not None]
            if not sent:
                break
            settled = self.settled_at.get(number) if all(vm.status for vm in bulk) else None
            if found:
                found[-1]["pause_after_seconds"] = self._since(self.settled_at.get(number - 1), min(sent))
            found.append(
                {
                    "bulk": number,
                    "vms": len(bulk),
                    "cloned": sum(vm.status is Status.SUCCESS for vm in bulk),
                    "requested_at_seconds": self._since(began, min(sent)),
                    "wall_seconds": self._since(min(sent), settled),
                    "pause_after_seconds": None,
                }
            )
        return found


def _ready_since(conditions: Sequence[Condition]) -> float | None:
    stamp = next((each.lastTransitionTime for each in conditions if each.type == "Ready" and each.status == "True"), None)
    try:
        return parse_timestamp(stamp) if stamp else None
    except ValueError:
        return None
