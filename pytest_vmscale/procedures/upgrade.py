"""A cluster upgrade under load: asked for, followed to its end, and what the cluster's users noticed of it.

ClusterVersion, the ClusterOperators, the pools with their nodes and the fleet's VMIs are watched; the API is asked to read and to
write each second, and each guest's SSH in turn; fio runs in some of the guests, in windows one after the other. The time that
counts is ClusterVersion's own: from the start of its history's entry to the completion. The pools' rollout is told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.requests import Cluster
from ..cluster.runtime import cancel_all
from ..guest.probe import Readiness, allow_open_files_for
from ..guest.route import Route, Target
from ..guest.workload import Barrier
from ..model import Fleet, Guest, Measurement, Record
from .nodes import NodeWatch
from .outcome import gaps, tell_progress, why_cut_short
from .upgrade_checks import Asker, Hop, State, kind
from .upgrade_probes import ApiProbe, GuestProbe, GuestProbes
from .upgrade_vms import Load, VmWatch, io_windows, records
from .upgrade_watch import OperatorWatch, VersionWatch

SCENARIO, VERSION = "upgrade", "1.0.0"
# A guest that is down when the upgrade is done has so long to come back (cluster time): it may have been restarted just then.
BACK_SECONDS = 300.0
# A payload that was refused is asked for again and again by the cluster itself; after so long it is taken for refused.
REFUSED_SECONDS = 600.0
# Pools in which no node has become ready, updated or unavailable for so long have come to a stand (cluster time).
POOL_SECONDS = 3600.0
PROBED_OBJECT = "vmscale-upgrade-probe"


@dataclass(frozen=True)
class Progress:
    """How far the upgrade is. Seconds of cluster time from the request."""

    elapsed_seconds: float
    message: str
    share: float


async def upgrade(
    cluster: Cluster,
    fleet: Fleet,
    clock: Clock,
    *,
    run_id: str,
    hop: Hop,
    state: State,
    asker: Asker,
    targets: Mapping[str, Target],
    route: Route,
    readiness: Mapping[str, Readiness],
    may_restart: Callable[[Guest], bool],
    load: Load | None,
    ssh_interval_seconds: float,
    deadline_seconds: float,
    wait_for_pools: bool,
    parameters: Mapping[str, Any],
    on_progress: Callable[[Progress], None] | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_partial: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Upgrade the cluster by one hop, which has been checked (`state`), and follow it until it is complete or the deadline.

    The fleet is up; `targets` says where each guest answers. may_restart: the VMs that are not migrated but restarted when their node
    is drained. wait_for_pools: go on until the pools are updated too. A VM that is lost is a record that failed. ClusterError if it
    cannot be measured; on_partial has then what there is."""
    if not fleet.guests:
        raise ClusterError("an upgrade with no VMs says nothing of what becomes of them")
    probes = GuestProbes(
        {guest.key: GuestProbe(guest.key, targets[guest.key], readiness[guest.os]) for guest in fleet.guests},
        route,
        clock,
        ssh_interval_seconds,
    )
    work = _Upgrade(cluster, fleet, clock, run_id, hop, state, probes, may_restart, deadline_seconds, parameters)
    try:
        found = await work.run(asker, load, wait_for_pools, on_progress)
    except BaseException as error:
        if on_partial and work.t0 is not None:
            on_partial(work.measurement(why_cut_short(error)))
        raise
    if on_record:
        for record in found.records:
            on_record(record)
    return found


class _Upgrade:
    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        clock: Clock,
        run_id: str,
        hop: Hop,
        state: State,
        probes: GuestProbes,
        may_restart: Callable[[Guest], bool],
        deadline_seconds: float,
        parameters: Mapping[str, Any],
    ) -> None:
        self.cluster, self.fleet, self.clock, self.run_id, self.hop, self.state = cluster, fleet, clock, run_id, hop, state
        self.probes, self.may_restart, self.deadline, self.parameters = probes, may_restart, deadline_seconds, parameters
        self.t0: float | None = None  # cluster time of the request
        self.ended: float | None = None  # cluster time at which the upgrade was complete, or given up
        self.looked: float | None = None  # cluster time at which nothing was looked at any more
        self.how = ""
        self.changed = asyncio.Event()
        self.version = VersionWatch(cluster, clock, hop, state, self.changed.set)
        self.operators = OperatorWatch(cluster, clock)
        self.vms = VmWatch(cluster, clock, fleet, probes, self.changed.set)
        self.nodes = NodeWatch(cluster, clock)
        self.watches = (self.version.watch, self.operators.watch, self.vms.watch, self.nodes)
        space = f"/api/v1/namespaces/{fleet.namespaces[0]}"
        body = {"metadata": {"annotations": {"vmscale.io/upgrade-probe": run_id}}}
        self.api = (
            ApiProbe("read", "GET", space, clock, cluster.access),
            ApiProbe("write", "PATCH", f"{space}/configmaps/{PROBED_OBJECT}", clock, cluster.access, body),
        )
        self.io: Barrier | None = None

    # -- the procedure ----------------------------------------------------------------------------------------------

    async def run(
        self, asker: Asker, load: Load | None, wait_for_pools: bool, on_progress: Callable[[Progress], None] | None
    ) -> Measurement:
        allow_open_files_for(len(self.fleet.guests))
        await self._make_probed_object()
        if load:
            await load.begin()
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with self.version.watch, self.operators.watch, self.vms.watch, self.nodes:
                tasks = await self._ask(asker, on_progress)
                await self._until(self._over, tasks, self.deadline)
                if self.version.times.completed_seconds is not None and wait_for_pools:
                    await self._until(self._pools_over, tasks, math.inf)
                self.ended = self.clock.now()
                await self._until(self._all_back, tasks, self.at(self.ended) + BACK_SECONDS)
                self.looked = self.clock.now()
        finally:
            await cancel_all(tasks)
        if load:
            self.io = await load.fetch(self.t0 or 0.0)
        return self.measurement(None)

    async def _make_probed_object(self) -> None:
        """What the write probe writes to; it goes with its namespace."""
        space = self.fleet.namespaces[0]
        if await self.cluster.get_or_none(self.api[1].path) is None:
            obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": PROBED_OBJECT, "namespace": space}, "data": {}}
            await self.cluster.create(f"/api/v1/namespaces/{space}/configmaps", obj)

    async def _ask(self, asker: Asker, on_progress: Callable[[Progress], None] | None) -> list[asyncio.Task[Any]]:
        """Begin to look, and ask for the upgrade. Returns what goes on until the end."""
        self.t0 = self.clock.now()
        self.vms.begin(self.t0)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(each.run(self.t0)) for each in self.api]
        tasks.append(asyncio.create_task(self.probes.run()))
        self.nodes.begin()
        self.operators.begin(self.t0)
        self.version.begin(self.t0)
        if on_progress:
            tasks.append(asyncio.create_task(tell_progress(on_progress, self._progress)))
        self.how = await asker.begin(self.state, self.hop)
        return tasks

    async def _until(self, met: Callable[[], bool], tasks: Sequence[asyncio.Task[Any]], seconds: float) -> None:
        """Until it is so, or so many cluster seconds after the request. ClusterError if something broke."""
        assert self.t0 is not None
        give_up = self.t0 + seconds
        while not met() and self.clock.now() < give_up:
            for failure in (each.failure for each in self.watches):
                if failure:
                    raise ClusterError(f"a watch broke: {failure}") from failure
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(0.5, max(0.01, self.clock.wall(give_up - self.clock.now())))):
                    await self.changed.wait()

    def _over(self) -> bool:
        """It is complete, or will not be."""
        times = self.version.times
        refused = times.refused_seconds is not None and self.at(self.clock.now()) - times.refused_seconds > REFUSED_SECONDS
        return times.completed_seconds is not None or refused or bool(times.superseded)

    def _pools_over(self) -> bool:
        """All pools are updated, or nothing goes on in them any more. How long it takes depends on their nodes."""
        done = self.version.times.completed_seconds or 0.0
        last = max((counts[-1][0] for name in self.nodes.pools if (counts := self.nodes.pool_times(name).counts)), default=done)
        return all(pool.updated for pool in self.nodes.pools.values()) or self.at(self.clock.now()) - max(done, last) > POOL_SECONDS

    def _all_back(self) -> bool:
        """No VM is down that was so when the upgrade ended. Nodes may go on to be drained, and VMs to be restarted with them."""
        assert self.ended is not None
        return all((since := self.vms.down_since(key)) is None or since > self.ended for key in self.vms.vms)

    def _progress(self) -> Progress:
        return Progress(self.at(self.clock.now()), self.version.times.message, self.version.times.share)

    def at(self, cluster_time: float) -> float:
        """Seconds from the request."""
        return 0.0 if self.t0 is None else cluster_time - self.t0

    # -- what was measured ------------------------------------------------------------------------------------------

    def measurement(self, incomplete: str | None) -> Measurement:
        now = self.looked or self.clock.now()
        t0, ended = self.t0 or now, self.ended or now
        return Measurement(
            scenario=SCENARIO,
            version=VERSION,
            run_id=self.run_id,
            started_epoch=t0,
            parameters=dict(self.parameters),
            records=records(self.vms, self.probes, self.io.runs if self.io else {}, self.may_restart, t0, ended, now),
            deadline_seconds=self.deadline,
            duration_seconds=self.version.times.duration_seconds,
            gaps=gaps((gap for watch in self.watches for gap in watch.gaps), lambda stamp: self.at(self.clock.at(stamp))),
            details=self._details(t0, ended, now),
            complete=incomplete is None,
            incomplete_reason=incomplete,
            named=f"{self.state.current} to {self.hop.version}",
            time_rate=self.clock.rate,
        )

    def _details(self, t0: float, ended: float, now: float) -> dict[str, Any]:
        times, vms = self.version.times, self.vms.vms.values()
        return {
            "from": self.state.current,
            "to": self.hop.version,
            "kind": kind(self.state.current, self.hop.version),
            "asked_by": self.how,
            "channel": self.hop.channel,
            "state": times.entry.state if times.entry else "not begun",
            "started_seconds": times.started_seconds,
            "completed_seconds": times.completed_seconds,
            "seen_late": times.upper_bound,
            "message": times.message,
            "refused": times.refused,
            "superseded": times.superseded,
            "failing": times.failing,
            "curve": times.curve,
            "operators": self.operators.found(),
            "unhealthy": self.operators.unhealthy(self.state.current, self.hop.version),
            "pools": self._pools(),
            "nodes": self._nodes(),
            "api": {each.name: each.found(now) for each in self.api},
            "ssh_interval_seconds": self.probes.interval_seconds,
            "vms": {
                "restarted": sum(vm.restarts > 0 for vm in vms),
                "migrated": sum(vm.migrations > 0 for vm in vms),
                "migrations": sum(vm.migrations for vm in vms),
            },
            "io": io_windows(self.io, t0) if self.io else [],
            "ended_seconds": self.at(ended),
            "measured_seconds": self.at(now),
        }

    def _pools(self) -> list[dict[str, Any]]:
        found = []
        for name, pool in sorted(self.nodes.pools.items()):
            times = self.nodes.pool_times(name)
            found.append(
                {
                    "name": name,
                    "machines": pool.status.machineCount,
                    "updated": pool.status.updatedMachineCount,
                    "is_updated": pool.updated,
                    "paused": pool.spec.paused,
                    "updating_seconds": times.updating_seconds,
                    "updated_seconds": times.updated_seconds,
                    "trouble": "" if pool.updated else pool.trouble,
                }
            )
        return found

    def _nodes(self) -> list[dict[str, Any]]:
        """Those that had something to do."""
        return [
            {
                "name": each.name,
                "cordoned_seconds": each.cordoned_seconds,
                "drained_seconds": each.drained_seconds,
                "rebooted_seconds": each.rebooted_seconds,
                "ready_seconds": each.ready_seconds,
                "done_seconds": each.done_seconds,
            }
            for each in self.nodes.records(sorted(self.nodes.nodes))
            if each.cordoned_seconds is not None or each.rebooted
        ]
