"""What has a fleet's VMs leave their nodes: a machine config that reboots the zone, drains through the API, or migrations asked for one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..clock import Clock
from ..cluster.edits import Edits
from ..cluster.journal import Ref
from ..cluster.requests import ApiError, Cluster, in_parallel, resource_path
from ..cluster.runtime import cancel_all
from ..manifests.kubevirt import live_migration
from ..model import Fleet, Guest
from .migration_checks import Pod, list_pods
from .movements import Movements
from .nodes import NodeWatch
from .zones import Zone, roll_out

# As `kubectl drain` has it: an eviction that is refused is tried again after so long, and pods are looked for as often.
EVICT_AGAIN_SECONDS, LOOK_AGAIN_SECONDS = 5.0, 1.0
DEFAULT_WORKERS = 40  # requests at a time of those that evict one node's pods


class Trigger(Protocol):
    """`start` calls `begin` with a stamp of time.monotonic(), just before it sends the first request. `done`: nothing is left for it to do.
    `drained`: cluster times, of the nodes that it drains itself. `refused`: requests that were, by VM."""

    name: str
    drained: Mapping[str, float]
    refused: Mapping[str, str]

    async def start(self, begin: Callable[[float], None]) -> None: ...

    async def stop(self) -> None: ...

    def done(self, movements: Movements, nodes: NodeWatch | None) -> bool: ...


@dataclass
class MachineConfigTrigger:
    """The zone's pool gets a machine config: the operator drains and reboots its nodes, as many at a time as the pool lets it."""

    edits: Edits
    zone: Zone
    run_id: str
    number: int = 0
    name: str = "machineconfig"
    drained: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    async def start(self, begin: Callable[[float], None]) -> None:
        begin(time.monotonic())
        await roll_out(self.edits, self.zone, self.run_id, self.number)

    async def stop(self) -> None:
        """The operator goes on with what it was told, until the machine config is taken back with all that the run changed."""

    def done(self, movements: Movements, nodes: NodeWatch | None) -> bool:
        return nodes is not None and nodes.pool_times(self.zone.name).updated_seconds is not None


@dataclass
class MigrationsTrigger:
    """One VirtualMachineInstanceMigration for each VM, all at once."""

    cluster: Cluster
    fleet: Fleet
    movements: Movements
    name: str = "vmim"
    drained: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    async def start(self, begin: Callable[[float], None]) -> None:
        begin(time.monotonic())
        await in_parallel(self._ask, self.fleet.guests)

    async def _ask(self, guest: Guest) -> None:
        manifest = live_migration(guest, self.fleet.run_id, self.fleet.name, f"{guest.name}-{self.fleet.run_id}")
        path = resource_path("kubevirt.io/v1", "virtualmachineinstancemigrations", guest.namespace)
        try:
            await self.cluster.send("POST", path, body=manifest, on_sent=lambda stamp: self.movements.asked(guest.key, stamp))
        except ApiError as error:
            self.refused[guest.key] = error.message

    async def stop(self) -> None:
        """Migrations that were asked for go with the fleet."""

    def done(self, movements: Movements, nodes: NodeWatch | None) -> bool:
        return all(key in self.refused or (vm.attempts and vm.at_rest) for key, vm in movements.vms.items())


@dataclass
class DrainTrigger:
    """Cordon and evict, as `kubectl drain` does it, so many nodes at a time: for clusters without machine configs. The nodes stay cordoned
    until what the run changed is put back."""

    cluster: Cluster
    edits: Edits
    clock: Clock
    nodes: Sequence[str]
    at_once: int
    name: str = "drain"
    drained: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, begin: Callable[[float], None]) -> None:
        slots = asyncio.Semaphore(self.at_once)
        begin(time.monotonic())
        self._tasks = [asyncio.create_task(self._drain(node, slots)) for node in self.nodes]

    async def stop(self) -> None:
        await cancel_all(self._tasks)

    def done(self, movements: Movements, nodes: NodeWatch | None) -> bool:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error
        return all(task.done() for task in self._tasks) and all(vm.at_rest for vm in movements.vms.values())

    async def _drain(self, node: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            await self.edits.change(Ref("v1", "Node", node), {"/spec/unschedulable": True})
            refused_at: dict[str, float] = {}
            while pods := await self._left(node):
                now = self.clock.now()
                due = [pod for pod in pods if not pod.metadata.deletionTimestamp and now - refused_at.get(pod.metadata.uid, -1e9) >= EVICT_AGAIN_SECONDS]

                async def evict(pod: Pod) -> None:
                    if not await self._evict(pod):
                        refused_at[pod.metadata.uid] = self.clock.now()

                await in_parallel(evict, due, DEFAULT_WORKERS)
                await self.clock.sleep(LOOK_AGAIN_SECONDS)
            self.drained[node] = self.clock.now()

    async def _left(self, node: str) -> list[Pod]:
        return [pod for pod in await list_pods(self.cluster, fields=f"spec.nodeName={node}") if not pod.stays]

    async def _evict(self, pod: Pod) -> bool:
        """False if it may not go yet: by a disruption budget, or because its VM is to be migrated first."""
        meta = pod.metadata
        path = resource_path("v1", "pods", meta.namespace, meta.name) + "/eviction"
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": meta.name, "namespace": meta.namespace}}
        try:
            await self.cluster.send("POST", path, body=body, tries=1)
        except ApiError as error:
            if error.status == 404:
                return True
            if error.status == 429 or error.transient:
                return False
            raise
        return True
