"""A zone is emptied of its VMs and pods: by a machine config that reboots its nodes, by draining them, or by asking for each migration.

VMIs, migrations, launcher pods, nodes with their pools and idle pods are watched. t0 is stamped just before the trigger's first request.
Which node each VM leaves is read before it. A live migration and a restart are two things, and are never counted as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.requests import Cluster
from ..model import Fleet, Guest, Measurement, Record
from ..records import MigrationRecord
from .fillers import Fillers, FillerWatch
from .migration_checks import Limits, budgets_of, look
from .movements import Movements
from .nodes import NodeRecord, NodeWatch
from .outcome import gaps, object_skew, tell_progress, why_cut_short
from .triggers import Trigger

SCENARIO, VERSION = "migration", "1.0.0"
# What was moved last may still be starting when all nodes are done: pods and VMs have so long to come up (cluster time).
BACK_SECONDS = 300.0
BLOCKED_NAMED = 20


@dataclass(frozen=True)
class Progress:
    """How far it is. `nodes_done`: of the zone's."""

    elapsed_seconds: float
    moved: int
    migrating: int
    waiting: int
    nodes_done: int


@dataclass(frozen=True)
class Area:
    """The nodes that are to be emptied, so many at a time, and the name of their pool if a machine config does it."""

    name: str
    nodes: tuple[str, ...]
    pool: str | None
    at_once: int


async def migration(
    cluster: Cluster,
    fleet: Fleet,
    clock: Clock,
    *,
    run_id: str,
    area: Area,
    make_trigger: Callable[[Movements], Trigger],
    may_restart: Callable[[Guest], bool],
    fillers: Fillers | None,
    limits: Limits,
    deadline_seconds: float,
    parameters: Mapping[str, Any],
    named: str = "",
    scenario: str = SCENARIO,
    on_begin: Callable[[float], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_partial: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Empty the area of a fleet that runs there, and follow it until nothing is left to do, or the deadline.

    may_restart: the VMs that are restarted elsewhere, not live migrated. on_begin gets t0 (cluster time). A VM that is lost, restarted
    though it should have migrated, or still there at the deadline, is a record that failed. ClusterError if it cannot be measured;
    on_partial has then what there is."""
    if not fleet.guests:
        raise ClusterError("a migration of no VMs says nothing")
    work = _Work(cluster, fleet, clock, run_id, area, may_restart, fillers, limits, deadline_seconds, parameters, named, scenario)
    try:
        found = await work.run(make_trigger, on_begin, on_progress)
    except BaseException as error:
        if on_partial and work.t0 is not None:
            on_partial(work.measurement(why_cut_short(error)))
        raise
    if on_record:
        for record in found.records:
            on_record(record)
    return found


class _Work:
    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        clock: Clock,
        run_id: str,
        area: Area,
        may_restart: Callable[[Guest], bool],
        fillers: Fillers | None,
        limits: Limits,
        deadline_seconds: float,
        parameters: Mapping[str, Any],
        named: str,
        scenario: str,
    ) -> None:
        self.cluster, self.fleet, self.clock, self.run_id, self.area = cluster, fleet, clock, run_id, area
        self.limits, self.deadline, self.parameters, self.named, self.scenario = limits, deadline_seconds, parameters, named, scenario
        self.movements = Movements(cluster, fleet, clock, may_restart)
        self.nodes = NodeWatch(cluster, clock, pools=area.pool is not None, daemons=area.pool is not None)
        self.pods = FillerWatch(cluster, clock, fillers) if fillers else None
        self.trigger: Trigger | None = None
        self.t0: float | None = None
        self.ended: float | None = None  # cluster time, once nothing was left to do
        self.blocked: list[dict[str, str]] = []

    # -- the procedure ----------------------------------------------------------------------------------------------

    async def run(
        self, make_trigger: Callable[[Movements], Trigger], on_begin: Callable[[float], None] | None, on_progress: Callable[[Progress], None] | None
    ) -> Measurement:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.movements)
            await stack.enter_async_context(self.nodes)
            if self.pods:
                await stack.enter_async_context(self.pods)
            trigger = self.trigger = make_trigger(self.movements)
            ticking: asyncio.Task[None] | None = None
            try:
                await trigger.start(lambda stamp: self._begin(stamp, on_begin))
                assert self.t0 is not None
                if on_progress:
                    ticking = asyncio.create_task(tell_progress(on_progress, self._progress))
                give_up = self.t0 + self.deadline
                if await self._until(lambda: trigger.done(self.movements, self.nodes if self.area.pool else None), give_up):
                    self.ended = self.clock.now()
                    await self._until(self._all_back, self.ended + BACK_SECONDS)
                if self.ended is None or not self._all_back():
                    self.blocked = await self._blocked()
            finally:
                if ticking:
                    ticking.cancel()
                await trigger.stop()
        return self.measurement(None)

    def _begin(self, stamp: float, on_begin: Callable[[float], None] | None) -> None:
        """All that is seen from here on counts. ClusterError if the fleet is not up."""
        self.movements.begin(stamp)
        self.nodes.begin(stamp)
        self.t0 = self.clock.at(stamp)
        if self.pods:
            self.pods.begin(self.t0)
        if on_begin:
            on_begin(self.t0)

    async def _until(self, met: Callable[[], bool], give_up: float) -> bool:
        def checked() -> bool:
            failure = self.nodes.failure or (self.pods.watch.failure if self.pods else None)
            if failure:
                raise ClusterError(f"a watch broke: {failure}") from failure
            return met()

        return await self.movements.until(checked, give_up)

    def _all_back(self) -> bool:
        return all(vm.at_rest for vm in self.movements.vms.values()) and (self.pods is None or self.pods.all_back)

    def _progress(self) -> Progress:
        active, waiting = self.movements.in_flight[-1][1:] if self.movements.in_flight else (0, 0)
        done = sum(each.done_seconds is not None for each in self.nodes.records(self.area.nodes))
        return Progress(self._at(self.clock.now()), sum(vm.left for vm in self.movements.vms.values()), active, waiting, done)

    async def _blocked(self) -> list[dict[str, str]]:
        """What is still on the nodes that are being drained, and what holds it: read once, when it is given up."""
        draining = [each.name for each in self._nodes() if each.cordoned_seconds is not None and each.drained_seconds is None]
        if not draining:
            return []
        site = await look(self.cluster)
        found = []
        for node in draining:
            for pod in site.by_node.get(node, ()):
                if pod.stays:
                    continue
                vm = self.movements.vms.get(f"{pod.metadata.namespace}/{pod.metadata.annotations.get('kubevirt.io/domain', '')}")
                name = f"VM {vm.guest.key}" if vm else f"pod {pod.metadata.namespace}/{pod.metadata.name}"
                why = [f"held by the disruption budget {budget}" for budget in budgets_of(site, pod)]
                if vm and vm.not_migratable:
                    why.append(f"it cannot be live migrated: {vm.not_migratable}")
                if failed := [each.failure for each in vm.attempts.values() if each.phase == "Failed"] if vm else []:
                    why.append(f"{len(failed)} of its migrations failed, the last because: {failed[-1]}")
                found.append({"node": node, "what": name, "why": "; ".join(why) or "it does not say why"})
        # What is held tells more than what only has not had its turn.
        return sorted(found, key=lambda each: each["why"] == "it does not say why")[:BLOCKED_NAMED]

    # -- what was measured ------------------------------------------------------------------------------------------

    def _at(self, cluster_time: float) -> float:
        return 0.0 if self.t0 is None else cluster_time - self.t0

    def _nodes(self) -> list[NodeRecord]:
        """Of the area. Those that the run drained itself were drained when it said so."""
        drained = self.trigger.drained if self.trigger else {}
        return [replace(each, drained_seconds=self._at(drained[each.name])) if each.name in drained else each for each in self.nodes.records(self.area.nodes)]

    def measurement(self, incomplete: str | None) -> Measurement:
        records = tuple(self._record(guest) for guest in self.fleet.guests if guest.key in self.movements.vms)
        blind = [*self.movements.gaps, *self.nodes.gaps, *(self.pods.gaps if self.pods else ())]
        details = self._details(records)
        return Measurement(
            scenario=self.scenario,
            version=VERSION,
            run_id=self.run_id,
            started_epoch=self.t0 or self.clock.now(),
            parameters=dict(self.parameters),
            records=records,
            deadline_seconds=self.deadline,
            duration_seconds=details["zone_seconds"],
            gaps=gaps(blind, lambda stamp: self._at(self.clock.at(stamp))),
            details=details,
            complete=incomplete is None,
            incomplete_reason=incomplete,
            named=self.named,
            time_rate=self.clock.rate,
        )

    def _record(self, guest: Guest) -> MigrationRecord:
        record = self.movements.record(self.movements.vms[guest.key], must_leave=True)
        refused = self.trigger.refused.get(guest.key) if self.trigger else None
        return replace(record, error=f"its migration was refused: {refused}") if refused and not record.succeeded else record

    def _details(self, records: Sequence[MigrationRecord]) -> dict[str, Any]:
        assert self.trigger is not None
        moves = self.movements
        pool = self.nodes.pool_times(self.area.pool) if self.area.pool else None
        nodes = self._nodes()
        off = self._vms_off()
        zone_seconds = self._zone_seconds(off, nodes)
        wait = _node_wait(nodes, self.area.at_once) if self.area.pool else None
        # Without a reboot there is nothing to wait for: all of the time is one of drains.
        draining = zone_seconds if self.trigger.name == "drain" else None if zone_seconds is None or wait is None else zone_seconds - wait
        return {
            "trigger": self.trigger.name,
            "started_cluster_epoch": self.t0,
            "zone": self.area.name,
            "zone_nodes": len(self.area.nodes),
            "vms_off_seconds": off,
            "zone_seconds": zone_seconds,
            "drain_seconds": draining,
            "node_wait_seconds": wait,
            "drains_covered_seconds": _covered([(each.cordoned_seconds, each.drained_seconds) for each in nodes]),
            "at_once": self.area.at_once,
            "limits": asdict(self.limits),
            "most_in_flight": moves.most_active,
            "most_from_one_node": moves.most_from_node,
            "in_flight": [[round(self._at(stamp.at), 2), active, waiting] for stamp, active, waiting in moves.in_flight],
            "failed_migrations": sum(len(each.failures) for each in records),
            "object_skew_seconds": object_skew(records),
            "moved_again": sum(each.migrations + each.restarts > 1 for each in records),
            "nodes": [_node_data(each) for each in nodes],
            "pool": None if pool is None or self.area.pool is None else self._pool(self.area.pool),
            "pods": self._pods(),
            "blocked": self.blocked,
            "measured_seconds": self._at(self.clock.now()),
            "finished": self.ended is not None,
        }

    def _vms_off(self) -> float | None:
        """When the last VM left a node of the area, whether it was its first one or one of the others, for a while; None if one has not left."""
        vms = self.movements.vms.values()
        departures = [stamp.at for vm in vms for stamp, node in vm.departures if node in self.area.nodes]
        return self._at(max(departures)) if departures and all(vm.left for vm in vms) else None

    def _zone_seconds(self, off: float | None, nodes: Sequence[NodeRecord]) -> float | None:
        """From t0 until the zone is done: its pool Updated; all its nodes drained; or, where only VMs were moved, the last one's arrival."""
        if self.area.pool:
            return self.nodes.pool_times(self.area.pool).updated_seconds
        if self.ended is None:
            return None
        drained = [each.drained_seconds for each in nodes if each.drained_seconds is not None]
        return max([*drained, *([off] if off is not None else [])], default=None)

    def _pool(self, name: str) -> dict[str, Any]:
        times, pool = self.nodes.pool_times(name), self.nodes.pools.get(name)
        return {
            "name": name,
            "updating_seconds": times.updating_seconds,
            "updated_seconds": times.updated_seconds,
            "counts": [[round(each[0], 1), *each[1:]] for each in times.counts],
            "trouble": "" if pool is None or pool.updated else pool.trouble,
        }

    def _pods(self) -> dict[str, Any] | None:
        if self.pods is None:
            return None
        watch = self.pods
        away = sorted(watch.away_seconds)
        return {
            "wanted": watch.wanted,
            "ready": watch.ready,
            "evicted": watch.evicted,
            "back": len(away),
            "last_evicted_seconds": None if watch.last_evicted is None else self._at(watch.last_evicted),
            "last_ready_seconds": None if watch.last_ready is None else self._at(watch.last_ready),
            "away_mean_seconds": sum(away) / len(away) if away else None,
            "away_max_seconds": away[-1] if away else None,
            "curve": [[round(self._at(at), 1), ready] for at, ready in watch.curve],
        }


def _node_data(record: NodeRecord) -> dict[str, Any]:
    return {**asdict(record), "rebooted": record.rebooted, "trouble": record.trouble}


def _node_wait(nodes: Sequence[NodeRecord], at_once: int) -> float | None:
    """What waiting for nodes comes to: the rounds that it takes with so many at a time, times the mean from a node's drain to its being done.
    (The next node begins as soon as one is done, so there is no moment at which nobody drains, and everybody waits.) None if one is not done."""
    away = [each.done_seconds - each.drained_seconds for each in nodes if each.done_seconds is not None and each.drained_seconds is not None]
    return math.ceil(len(nodes) / at_once) * sum(away) / len(away) if nodes and len(away) == len(nodes) else None


def _covered(spans: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Seconds that at least one of the spans covers; None if one has no end."""
    if any(start is not None and end is None for start, end in spans):
        return None
    total, until = 0.0, 0.0
    for start, end in sorted((start, end) for start, end in spans if start is not None and end is not None):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
