"""Nodes and their pools while a machine config is rolled out: what happens to each node, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.conditions import Condition, condition_of, find, is_true
from ..cluster.requests import Cluster, Object
from ..cluster.watch import AnnotatedMeta, Blind, Event, Meta, Projection, Watch

NODES = "/api/v1/nodes"
SCHEDULABLE = "kubevirt.io/schedulable=true"  # selects the nodes that take VMs
EVENTS = "/api/v1/namespaces/default/events"
POOLS = "/apis/machineconfiguration.openshift.io/v1/machineconfigpools"
PREFIX = "machineconfiguration.openshift.io/"
LOOK_EVERY_SECONDS = 1.0
AFTER_DRAIN = ("OSUpdateStarted", "OSUpdateStaged", "PendingConfig", "Reboot", "SkipReboot")  # reasons of a daemon's events


# What is read of the objects.


class NodeInfo(msgspec.Struct):
    bootID: str = ""


class NodeStatus(msgspec.Struct):
    conditions: list[Condition] = []
    nodeInfo: NodeInfo = msgspec.field(default_factory=NodeInfo)


class NodeSpec(msgspec.Struct):
    unschedulable: bool = False


class Node(Projection):
    """Of a Node: metadata with annotations, spec.unschedulable, status.{conditions, nodeInfo.bootID}."""

    metadata: AnnotatedMeta = msgspec.field(default_factory=AnnotatedMeta)
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    def note(self, name: str) -> str:
        """The machine-config-daemon's annotation: currentConfig, desiredConfig, state, reason, ..."""
        return self.metadata.annotations.get(PREFIX + name, "")

    @property
    def ready(self) -> bool:
        return is_true(self.status.conditions, "Ready")

    @property
    def done(self) -> bool:
        """It has the config that it should have."""
        return self.note("currentConfig") == self.note("desiredConfig") and self.note("state") == "Done"


def takes_pods(node: Object | None) -> bool:
    """Of a node that was read whole: it is there, Ready, and not cordoned."""
    return node is not None and not node.get("spec", {}).get("unschedulable") and condition_of(node, "Ready", "True") is not None


class Configuration(msgspec.Struct):
    name: str = ""


class PoolSpec(msgspec.Struct):
    configuration: Configuration = msgspec.field(default_factory=Configuration)
    paused: bool = False


class PoolStatus(msgspec.Struct):
    configuration: Configuration = msgspec.field(default_factory=Configuration)
    conditions: list[Condition] = []
    observedGeneration: int = 0
    machineCount: int = 0
    updatedMachineCount: int = 0
    readyMachineCount: int = 0
    unavailableMachineCount: int = 0
    degradedMachineCount: int = 0


class PoolMeta(Meta):
    generation: int = 0


class Pool(Projection):
    """Of a MachineConfigPool: spec.{configuration.name, paused}, and its status' configuration, conditions and counts."""

    metadata: PoolMeta = msgspec.field(default_factory=PoolMeta)
    spec: PoolSpec = msgspec.field(default_factory=PoolSpec)
    status: PoolStatus = msgspec.field(default_factory=PoolStatus)

    @property
    def updated(self) -> bool:
        """Every node of the pool has its config and is ready; and its status is about its present spec."""
        status = self.status
        return (
            is_true(status.conditions, "Updated")
            and status.updatedMachineCount == status.readyMachineCount == status.machineCount
            and not status.degradedMachineCount
            and bool(self.spec.configuration.name)
            and status.configuration.name == self.spec.configuration.name
        )

    @property
    def trouble(self) -> str:
        """Why it is not fit for a rollout, or empty."""
        for name in ("RenderDegraded", "NodeDegraded", "Degraded"):
            if found := find(self.status.conditions, name, "True"):
                return f"pool {self.metadata.name} is {name}: {found.message or found.reason or 'it does not say why'}"
        if self.spec.paused:
            return f"pool {self.metadata.name} is paused"
        return "" if self.updated else f"pool {self.metadata.name} is being updated"


class Involved(msgspec.Struct):
    kind: str = ""
    name: str = ""


class DaemonEvent(Projection):
    """Of an Event: what it is about, and its reason."""

    involvedObject: Involved = msgspec.field(default_factory=Involved)
    reason: str = ""


# What happened.


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """One node's way through a rollout. Times are cluster seconds after t0; None for what was not seen to happen."""

    name: str
    cordoned_seconds: float | None = None
    drained_seconds: float | None = None  # the drain was reported as done, the daemon said that it goes on, or the node went down
    down_seconds: float | None = None  # it stopped being Ready
    rebooted_seconds: float | None = None  # its boot ID changed
    ready_seconds: float | None = None  # Ready again, after the reboot
    uncordoned_seconds: float | None = None
    done_seconds: float | None = None  # it has its new config
    boot_id_before: str = ""
    boot_id: str = ""
    state: str = ""  # the daemon's: Working, Done, Degraded, Unreconcilable
    reason: str = ""  # why it is degraded
    upper_bound: bool = False  # some of it was only learnt from a list after the watch was broken

    @property
    def rebooted(self) -> bool:
        return bool(self.boot_id_before) and self.boot_id != self.boot_id_before

    @property
    def trouble(self) -> str:
        """What keeps it from being done, or empty."""
        if self.state in ("Degraded", "Unreconcilable"):
            return f"node {self.name} is {self.state}: {self.reason}"
        if self.down_seconds is not None and self.ready_seconds is None:
            return f"node {self.name} is not Ready since {self.down_seconds:.0f} s"
        if self.cordoned_seconds is not None and self.drained_seconds is None:
            return f"node {self.name} is not drained since {self.cordoned_seconds:.0f} s"
        return ""


@dataclass
class PoolTimes:
    """When a pool was first seen updating, and updated since; and its counts, each with its cluster second after t0."""

    updating_seconds: float | None = None
    updated_seconds: float | None = None
    counts: list[tuple[float, int, int, int]] = field(default_factory=list)  # at, updated, ready, unavailable


class NodeWatch:
    """Follows nodes and pools from before t0 on. `begin(t0)` starts the records; what happened before it is not in them.

    pools: False on a cluster that has none, or where they do not matter. daemons: follow what the machine-config-daemons say in events, too:
    those of 4.10 and before drain their own nodes, and nothing else tells when one is done with that before its node goes down."""

    def __init__(
        self, cluster: Cluster, clock: Clock, on_change: Callable[[NodeRecord], None] | None = None, pools: bool = True, daemons: bool = False
    ) -> None:
        self._clock, self._on_change, self._with_pools = clock, on_change or (lambda record: None), pools
        self._events_watch = Watch(cluster, EVENTS, DaemonEvent, self._said, fields="involvedObject.kind=Node") if daemons else None
        self._t0: float | None = None
        self._records: dict[str, NodeRecord] = {}
        self._pools: dict[str, PoolTimes] = {}
        self._nodes_watch = Watch(cluster, NODES, Node, self._node)
        self._pools_watch = Watch(cluster, POOLS, Pool, self._pool)

    async def __aenter__(self) -> NodeWatch:
        await self._nodes_watch.start()
        try:
            if self._with_pools:
                await self._pools_watch.start()
            if self._events_watch:
                await self._events_watch.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._nodes_watch.stop()
        await self._pools_watch.stop()
        if self._events_watch:
            await self._events_watch.stop()

    def begin(self, t0: float | None = None) -> None:
        """`t0` is a stamp of time.monotonic(), of just before what starts the rollout is sent (default: now)."""
        self._t0 = self._clock.at(time.monotonic() if t0 is None else t0)
        self._records = {name: NodeRecord(name=name, boot_id_before=node.status.nodeInfo.bootID, boot_id=node.status.nodeInfo.bootID,
                                          state=node.note("state")) for name, node in self.nodes.items()}  # fmt: skip
        self._pools = {name: PoolTimes() for name in self.pools}

    @property
    def nodes(self) -> dict[str, Node]:
        return self._nodes_watch.objects

    @property
    def pools(self) -> dict[str, Pool]:
        return self._pools_watch.objects

    @property
    def gaps(self) -> list[Blind]:
        return [*self._nodes_watch.gaps, *self._pools_watch.gaps, *(self._events_watch.gaps if self._events_watch else ())]

    @property
    def failure(self) -> BaseException | None:
        return self._nodes_watch.failure or self._pools_watch.failure or (self._events_watch.failure if self._events_watch else None)

    def records(self, names: Iterable[str]) -> list[NodeRecord]:
        return [self._records[name] for name in names if name in self._records]

    def pool_times(self, name: str) -> PoolTimes:
        return self._pools.get(name, PoolTimes())

    async def wait(self, met: Callable[[], bool], deadline_seconds: float) -> bool:
        """Until it is so: whether it came within so many cluster seconds. ClusterError if the watches cannot go on."""
        end = self._clock.now() + deadline_seconds
        while not met():
            if self.failure is not None:
                raise ClusterError(f"the nodes cannot be watched any longer: {self.failure}")
            if self._clock.now() >= end:
                return False
            await asyncio.sleep(min(0.1, self._clock.wall(LOOK_EVERY_SECONDS)))
        return True

    # What the watches bring.

    def _at(self, arrived: float) -> float:
        assert self._t0 is not None
        return self._clock.at(arrived) - self._t0

    def _node(self, event: Event[Node]) -> None:
        node, name = event.object, event.object.metadata.name
        before = self._records.get(name)
        if self._t0 is None or before is None or event.type == "DELETED":
            return
        at = self._at(event.arrived)
        after = _advanced(before, node, at)
        if after == before:
            return
        self._records[name] = replace(after, upper_bound=before.upper_bound or event.upper_bound)
        self._on_change(self._records[name])

    def _said(self, event: Event[DaemonEvent]) -> None:
        """A daemon writes its files once its node is drained, and not before."""
        said = event.object
        record = self._records.get(said.involvedObject.name)
        if self._t0 is None or record is None or event.initial or event.type == "DELETED" or said.reason not in AFTER_DRAIN:
            return
        if record.cordoned_seconds is not None and record.drained_seconds is None:
            upper = record.upper_bound or event.upper_bound
            self._records[record.name] = replace(record, drained_seconds=self._at(event.arrived), upper_bound=upper)
            self._on_change(self._records[record.name])

    def _pool(self, event: Event[Pool]) -> None:
        if self._t0 is None or event.type == "DELETED":
            return
        pool, at = event.object, self._at(event.arrived)
        times = self._pools.setdefault(pool.metadata.name, PoolTimes())
        status = pool.status
        counts = (status.updatedMachineCount, status.readyMachineCount, status.unavailableMachineCount)
        if not times.counts or times.counts[-1][1:] != counts:
            times.counts.append((at, *counts))
        if pool.updated:
            if times.updating_seconds is not None and times.updated_seconds is None:
                times.updated_seconds = at
        else:
            times.updated_seconds = None
            if times.updating_seconds is None:
                times.updating_seconds = at


def _advanced(record: NodeRecord, node: Node, at: float) -> NodeRecord:
    """The record after this state of its node. A step that was seen keeps its first time."""
    new: dict[str, Any] = {"boot_id": node.status.nodeInfo.bootID, "state": node.note("state"), "reason": node.note("reason")}

    def first(step: str, so: bool) -> None:
        if so and getattr(record, step) is None:
            new[step] = at

    seen = {**vars(record)}
    first("cordoned_seconds", node.spec.unschedulable)
    cordoned = seen["cordoned_seconds"] is not None or "cordoned_seconds" in new
    last = node.note("lastAppliedDrain")
    first("drained_seconds", cordoned and last.startswith("drain-") and last == node.note("desiredDrain"))
    first("down_seconds", cordoned and not node.ready)
    first("drained_seconds", "down_seconds" in new or record.down_seconds is not None)
    rebooted = bool(record.boot_id_before) and node.status.nodeInfo.bootID not in ("", record.boot_id_before)
    first("rebooted_seconds", rebooted)
    first("ready_seconds", rebooted and node.ready)
    first("uncordoned_seconds", cordoned and not node.spec.unschedulable)
    first("done_seconds", cordoned and not node.spec.unschedulable and node.done)
    return replace(record, **new)
