"""A fleet's life around a measurement: create it and wait until it is provisioned, stop it, find it again, remove it.

Nothing here is measured; waits and deadlines are cluster seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.conditions import conditions_in
from ..cluster.journal import NAMESPACES
from ..cluster.requests import ApiError, Cluster, Object, in_parallel, resource_path
from ..cluster.watch import Event, OwnedMeta, Projection, Watch
from ..model import LABEL_FLEET, LABEL_INDEX, LABEL_OS, LABEL_RUN, Fleet, Guest
from .vmi import VMIS

VMS = "/apis/kubevirt.io/v1/virtualmachines"
DATA_VOLUMES = "/apis/cdi.kubevirt.io/v1beta1/datavolumes"
# What a fleet consists of on a cluster, in the order in which it goes. Idle pods go with their Deployments, which would make new ones.
PARTS = (
    "/apis/apps/v1/deployments",
    "/apis/kubevirt.io/v1/virtualmachineinstancemigrations",
    VMS,
    VMIS,
    "/api/v1/pods",
    DATA_VOLUMES,
    "/api/v1/persistentvolumeclaims",
)
NAMED_LEFTOVERS = 20

# What a wait is for, how many are done, and of how many.
OnProgress = Callable[[str, int, int], None]


class FleetError(ClusterError):
    """A fleet did not get where it should. `states`: what each guest that did not is in, by key."""

    def __init__(self, text: str, states: Mapping[str, str]) -> None:
        super().__init__(text)
        self.states = dict(states)


@dataclass(frozen=True)
class Removal:
    """What became of a removal: `left` names each object that is still there, and why as far as it tells."""

    deleted: int
    seconds: float
    left: tuple[str, ...] = ()


class Part(Projection):
    """Of anything that a run made: metadata with its owners."""

    metadata: OwnedMeta = msgspec.field(default_factory=OwnedMeta)


class _Named(msgspec.Struct):
    metadata: dict[str, Any] = {}


class _VmSpec(msgspec.Struct):
    dataVolumeTemplates: list[_Named] = []


class _VmStatus(msgspec.Struct):
    printableStatus: str = ""


class Vm(Projection):
    """Of a VirtualMachine: metadata, spec.dataVolumeTemplates[].metadata, status.printableStatus."""

    spec: _VmSpec = msgspec.field(default_factory=_VmSpec)
    status: _VmStatus = msgspec.field(default_factory=_VmStatus)


class _DataVolumeStatus(msgspec.Struct):
    phase: str = ""
    progress: str = ""


class DataVolume(Projection):
    """Of a DataVolume: metadata, status.{phase, progress}."""

    status: _DataVolumeStatus = msgspec.field(default_factory=_DataVolumeStatus)


async def provision(
    cluster: Cluster,
    manifests: Iterable[Object],
    fleet: Fleet,
    clock: Clock,
    *,
    deadline_seconds: float,
    on_progress: OnProgress | None = None,
) -> float:
    """Create the manifests (kinds in the order given: namespaces first), and wait until the fleet's VMs are stopped with their
    disks there. Returns the cluster seconds it took. FleetError if they are not by the deadline, ApiError if one is refused."""
    began = clock.now()
    seen_volumes: set[str] = set()
    wait = Wait(clock, deadline_seconds, on_progress)

    def on_volume(event: Event[DataVolume]) -> None:
        seen_volumes.add(event.object.key)
        wait(event)

    vms = Watch(cluster, VMS, Vm, wait, selector=fleet.selector)
    volumes = Watch(cluster, DATA_VOLUMES, DataVolume, on_volume, selector=fleet.selector)
    async with vms, _if_served(volumes) as data_volumes:
        await create_all(cluster, manifests, on_progress)

        def unfinished() -> dict[str, str]:
            states = ((guest.key, _not_provisioned(guest, vms, data_volumes, seen_volumes)) for guest in fleet.guests)
            return {key: state for key, state in states if state}

        left = await wait.until_none(unfinished, (vms, data_volumes), "provisioned", len(fleet.guests))
    if left:
        raise unfinished_error("provisioned", left, len(fleet.guests), deadline_seconds)
    return clock.now() - began


def _not_provisioned(guest: Guest, vms: Watch[Vm], volumes: Watch[DataVolume] | None, seen: set[str]) -> str | None:
    """What a VM still waits for, or None. Its own "Stopped" is not enough: it may be said before the DataVolumes are made."""
    vm = vms.objects.get(guest.key)
    if vm is None:
        return "no VM"
    for template in vm.spec.dataVolumeTemplates:
        name = f"{guest.namespace}/{template.metadata.get('name')}"
        volume = volumes.objects.get(name) if volumes else None
        # Releases that clean up DataVolumes remove one that has succeeded: then the VM's word stands.
        if volume is None and name not in seen:
            return f"{vm.status.printableStatus or 'new'}, no DataVolume yet"
        if volume is not None and volume.status.phase != "Succeeded":
            return f"{vm.status.printableStatus or 'new'}, DataVolume {volume.status.phase or 'new'} {volume.status.progress}".rstrip()
    return None if vm.status.printableStatus == "Stopped" else vm.status.printableStatus or "new"


async def create_all(cluster: Cluster, manifests: Iterable[Object], on_progress: OnProgress | None = None) -> None:
    """Create them kind after kind, those of one kind in parallel. ApiError of the first that is refused."""
    for (api_version, kind), group in itertools.groupby(manifests, key=lambda m: (m["apiVersion"], m["kind"])):
        objects = list(group)
        done = itertools.count(1)

        async def create(
            obj: Object, api_version: str = api_version, kind: str = kind, done: Any = done, total: int = len(objects)
        ) -> None:
            await cluster.create(await cluster.path(api_version, kind, obj["metadata"].get("namespace")), obj)
            if on_progress:
                on_progress(f"{kind}s created", next(done), total)

        await in_parallel(create, objects)


async def stop_all(
    cluster: Cluster, fleet: Fleet, clock: Clock, *, deadline_seconds: float, on_progress: OnProgress | None = None
) -> float:
    """Stop the fleet's VMs and wait until no VMI of theirs is left. Returns the cluster seconds it took; FleetError if
    some are still up by the deadline."""
    began = clock.now()
    wait = Wait(clock, deadline_seconds, on_progress)
    vms = Watch(cluster, VMS, Vm, wait, selector=fleet.selector)
    vmis = Watch(cluster, VMIS, Projection, wait, selector=fleet.selector)
    async with vms, vmis:

        def unstopped() -> dict[str, str]:
            states = {}
            for guest in fleet.guests:
                vm = vms.objects.get(guest.key)
                if vm is None:
                    states[guest.key] = "no VM"
                elif guest.key in vmis.objects or vm.status.printableStatus != "Stopped":
                    states[guest.key] = vm.status.printableStatus or "new"
            return states

        async def stop(key: str) -> None:
            namespace, name = key.split("/")
            path = resource_path("subresources.kubevirt.io/v1", "virtualmachines", namespace, name) + "/stop"
            try:
                await cluster.send("PUT", path, body={})
            except ApiError as error:
                # 409: it is stopped, or on its way; 404: no VM, which the wait tells.
                if error.status not in (404, 409):
                    raise

        await in_parallel(stop, list(unstopped()))
        left = await wait.until_none(unstopped, (vms, vmis), "stopped", len(fleet.guests))
    if left:
        raise unfinished_error("stopped", left, len(fleet.guests), deadline_seconds)
    return clock.now() - began


async def find_fleet(cluster: Cluster, run_id: str, name: str = "main") -> Fleet:
    """The fleet that a run left (--keep), by its labels. ClusterError if there is none, or one cannot be told from its labels."""
    selector = f"{LABEL_RUN}={run_id},{LABEL_FLEET}={name}"
    guests = []
    for vm in await cluster.list_all(VMS, selector=selector):
        metadata = vm["metadata"]
        labels = metadata.get("labels") or {}
        try:
            guests.append(Guest(metadata["namespace"], metadata["name"], labels[LABEL_OS], int(labels[LABEL_INDEX])))
        except (KeyError, ValueError) as error:
            raise ClusterError(f"VM {metadata['namespace']}/{metadata['name']} of run {run_id} has no usable label {error}") from error
    if not guests:
        raise ClusterError(f"{cluster.access.server} has no fleet {name!r} of run {run_id!r}")
    return Fleet(run_id, name, tuple(sorted(guests, key=lambda guest: guest.index)))


async def remove(
    cluster: Cluster, selector: str, clock: Clock, *, deadline_seconds: float, on_progress: OnProgress | None = None
) -> Removal:
    """Delete everything that a selector names (a fleet's, or `vmscale.io/run-id=...`) and wait until it is gone: VMs first, then what is left of them, then its namespaces.

    What refuses to go is in the result, with its reason."""
    began = clock.now()
    wait = Wait(clock, deadline_seconds, on_progress)
    refused: dict[str, str] = {}
    deleted = 0

    async def delete(path: str) -> None:
        try:
            await cluster.delete(path)
        except ApiError as error:
            refused[path] = error.message

    async with contextlib.AsyncExitStack() as stack:
        parts: list[tuple[str, Watch[Part]]] = []
        for path in (*PARTS, NAMESPACES):
            watch = Watch(cluster, path, Part, wait, selector=selector)
            if await stack.enter_async_context(_if_served(watch)):
                parts.append((path, watch))

        def present(stage: Sequence[tuple[str, Watch[Part]]]) -> dict[str, str]:
            paths = (_object_path(path, key) for path, watch in stage for key in watch.objects)
            return {path: "" for path in paths if path not in refused}

        for stage, what in ((parts[:-1], "objects removed"), (parts[-1:], "namespaces removed")):
            for path, watch in stage:
                # What has an owner goes with it: to delete it as well would be a second request for nothing.
                mine = [_object_path(path, key) for key, obj in watch.objects.items() if not obj.metadata.ownerReferences]
                deleted += len(mine)
                await in_parallel(delete, mine)
            await wait.until_none(functools.partial(present, stage), [watch for _, watch in stage], what, len(present(stage)))
        left = [*present(parts), *refused]
    reasons = [await _why_left(cluster, path, refused.get(path)) for path in left[:NAMED_LEFTOVERS]]
    more = [f"and {len(left) - NAMED_LEFTOVERS} more"] if len(left) > NAMED_LEFTOVERS else []
    return Removal(deleted, clock.now() - began, (*(reason for reason in reasons if reason), *more))


async def _why_left(cluster: Cluster, path: str, refused: str | None) -> str | None:
    """One line, or None if it went meanwhile."""
    try:
        found = await cluster.get_or_none(path)
    except ApiError as error:
        return f"{path}: {error.message}"
    if found is None:
        return None
    metadata = found["metadata"]
    if "deletionTimestamp" not in metadata:
        return f"{path}: {refused or 'not being deleted'}"
    finalizers = metadata.get("finalizers") or found.get("spec", {}).get("finalizers") or []
    told = [each.message for each in conditions_in(found.get("status", {})) if "Remaining" in each.type and each.status == "True"]
    waits = "; ".join(told) or ", ".join(finalizers) or "its grace period"
    return f"{path}: deleted at {metadata['deletionTimestamp']}, waits for {waits}"


def _object_path(path: str, key: str) -> str:
    """/apis/kubevirt.io/v1/virtualmachines and a/b: /apis/kubevirt.io/v1/namespaces/a/virtualmachines/b"""
    base, plural = path.rsplit("/", 1)
    namespace, _, name = key.rpartition("/")
    return f"{base}/namespaces/{namespace}/{plural}/{name}" if namespace else f"{base}/{plural}/{name}"


class Wait:
    """Waits until watches show that nothing is unfinished, or until a cluster time. It is their on_event."""

    def __init__(self, clock: Clock, deadline_seconds: float, on_progress: OnProgress | None = None) -> None:
        self._clock, self._on_progress = clock, on_progress
        self._give_up = clock.now() + deadline_seconds
        self._changed = asyncio.Event()

    def __call__(self, event: object) -> None:
        self._changed.set()

    async def until_none(
        self, unfinished: Callable[[], dict[str, str]], watches: Sequence[Watch[Any] | None], what: str, total: int
    ) -> dict[str, str]:
        """What is still unfinished at the end. ClusterError if a watch breaks."""
        while True:
            for watch in watches:
                if watch and watch.failure:
                    raise ClusterError(f"a watch broke while waiting until all is {what}: {watch.failure}") from watch.failure
            self._changed.clear()
            left = unfinished()
            if self._on_progress:
                self._on_progress(what, total - len(left), total)
            if not left or self._clock.now() >= self._give_up:
                return left
            # Not for each of thousands of events: where nothing is measured, a quarter of a second (wall) is soon enough.
            await asyncio.sleep(min(0.25, self._left()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(1.0, self._left()))

    def _left(self) -> float:
        return max(0.0, self._clock.wall(self._give_up - self._clock.now()))


@contextlib.asynccontextmanager
async def _if_served(watch: Watch[Any]) -> AsyncIterator[Watch[Any] | None]:
    """A watch, or None where the cluster does not know its kind."""
    try:
        await watch.start()
    except ApiError as error:
        if error.status != 404:
            raise
        yield None
        return
    try:
        yield watch
    finally:
        await watch.stop()


def unfinished_error(what: str, left: Mapping[str, str], total: int, deadline_seconds: float) -> FleetError:
    states = ", ".join(f"{count} {state}" for state, count in Counter(left.values()).most_common(4))
    return FleetError(
        f"{len(left)} of {total} VMs were not {what} within {deadline_seconds:.0f} s: {states} (first: {next(iter(left))})", left
    )
