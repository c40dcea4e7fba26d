"""A cluster upgrade under load: asked for, followed to its end, and what the cluster's users noticed of it.

ClusterVersion, the ClusterOperators, the pools with their nodes and the fleet's VMIs are watched; the API is asked to read and to
write each second, and each guest's SSH in turn; fio runs in some of the guests, in windows one after the other. The time that
counts is ClusterVersion's: from the first entry of its history to its completion. The pools' rollout is told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..clock import Clock, parse_timestamp
from ..cluster.access import ClusterError
from ..cluster.requests import Cluster
from ..cluster.watch import Event, Projection, Watch
from ..guest.fio import Job
from ..guest.probe import Readiness, allow_open_files
from ..guest.route import Route, Target
from ..guest.workload import Barrier, GuestRun, Timed, Workload
from ..model import Fleet, Gap, Guest, Measurement, Status, UpgradeRecord
from .nodes import NodeWatch
from .upgrade_checks import AdmUpgrade, Hop, State, begin, kind
from .upgrade_probes import ApiProbe, GuestProbe, GuestProbes
from .vmi import VMIS, Vmi

SCENARIO, VERSION = "upgrade", "1.0.0"
WORKING = re.compile(r"Working towards (\S+): (\d+) of (\d+) done \((\d+)% complete\)")
PROGRESS_WALL_SECONDS = 0.5
# A guest that is down when the upgrade is done has so long to come back (cluster time): it may have been restarted just then.
BACK_SECONDS = 300.0
# A payload that was refused is asked for again and again by the cluster itself; after so long it is taken for refused.
REFUSED_SECONDS = 600.0
REFUSALS = ("ImageVerificationFailed", "UpgradePreconditionCheckFailed", "UpdatePayloadRetrievalFailed")
WINDOW_GAP_SECONDS = 5
FETCH_SECONDS = 120.0
STOP_WALL_SECONDS = 60.0


# What is read of the objects.


class Condition(msgspec.Struct):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    lastTransitionTime: str | None = None


class History(msgspec.Struct):
    state: str = ""
    version: str = ""
    image: str = ""
    startedTime: str | None = None
    completionTime: str | None = None


class VersionStatus(msgspec.Struct):
    history: list[History] = []
    conditions: list[Condition] = []


class ClusterVersion(Projection):
    status: VersionStatus = msgspec.field(default_factory=VersionStatus)


class OperandVersion(msgspec.Struct):
    name: str = ""
    version: str = ""


class OperatorStatus(msgspec.Struct):
    versions: list[OperandVersion] = []
    conditions: list[Condition] = []


class ClusterOperator(Projection):
    status: OperatorStatus = msgspec.field(default_factory=OperatorStatus)

    @property
    def version(self) -> str:
        return next((each.version for each in self.status.versions if each.name == "operator"), "")

    def is_(self, type_: str) -> bool:
        return any(each.type == type_ and each.status == "True" for each in self.status.conditions)

    def said(self, type_: str) -> str:
        found = next((each for each in self.status.conditions if each.type == type_), None)
        return ": ".join(each for each in (found.reason, found.message) if each) if found else ""


@dataclass
class OperatorTimes:
    """One operator. Windows are lists of [start, end]: cluster seconds from the start; None for an end that was not seen."""

    before: str
    version: str
    updated_at: float | None = None
    progressing: list[list[float | None]] = field(default_factory=list)
    unavailable: list[list[float | None]] = field(default_factory=list)
    degraded: list[list[float | None]] = field(default_factory=list)
    said: str = ""  # the last of what it said while it was not at rest

    def saw(self, operator: ClusterOperator, at: float) -> None:
        if operator.version != self.version:
            self.version, self.updated_at = operator.version, at
        for windows, now in (
            (self.progressing, operator.is_("Progressing")),
            (self.unavailable, not operator.is_("Available")),
            (self.degraded, operator.is_("Degraded")),
        ):
            is_open = bool(windows) and windows[-1][1] is None
            if now and not is_open:
                windows.append([at, None])
            elif is_open and not now:
                windows[-1][1] = at
        for type_ in ("Degraded", "Progressing"):
            if operator.is_(type_):
                self.said = f"{type_}=True: {operator.said(type_)}"
                break
        else:
            if not operator.is_("Available"):
                self.said = f"Available=False: {operator.said('Available')}"


@dataclass
class VmTimes:
    """What became of one VM."""

    guest: Guest
    uid: str
    node: str
    first_node: str
    phase: str = "Running"
    restarts: int = 0
    migrations: int = 0
    crashed: bool = False
    gone: bool = False


@dataclass(frozen=True)
class Progress:
    """How far the upgrade is. Seconds of cluster time from the request."""

    elapsed_seconds: float
    message: str
    share: float


@dataclass(frozen=True)
class Load:
    """fio that runs beside the upgrade: in windows, of which the first is over before the upgrade is asked for."""

    workload: Workload
    iops: int  # of reads and of writes, each
    baseline_seconds: int
    window_seconds: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def windows(self, deadline_seconds: float) -> list[Timed]:
        timed = [Timed(Job("io-000", "mixed", self.iops, self.baseline_seconds, ramp_seconds=0, **self.options))]
        while timed[-1].end_seconds < self.baseline_seconds + deadline_seconds:
            job = Job(f"io-{len(timed):03d}", "mixed", self.iops, self.window_seconds, ramp_seconds=0, **self.options)
            timed.append(Timed(job, timed[-1].end_seconds + WINDOW_GAP_SECONDS))
        return timed


async def upgrade(
    cluster: Cluster,
    fleet: Fleet,
    clock: Clock,
    *,
    run_id: str,
    hop: Hop,
    state: State,
    adm_upgrade: AdmUpgrade,
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
    on_record: Callable[[UpgradeRecord], None] | None = None,
    on_partial: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Upgrade the cluster by one hop, which has been checked (`state`), and follow it until it is complete or the deadline.

    The fleet is up; `targets` says where each guest answers. may_restart: the VMs that are not migrated but restarted when their node
    is drained. wait_for_pools: go on until the pools are updated too. A VM that is lost is a record that failed. ClusterError if it
    cannot be measured; on_partial has then what there is."""
    work = _Upgrade(cluster, fleet, clock, run_id, hop, state, targets, route, readiness, may_restart, ssh_interval_seconds, deadline_seconds, parameters)
    try:
        found = await work.run(adm_upgrade, load, wait_for_pools, on_progress)
    except BaseException as error:
        if on_partial and work.t0 is not None:
            on_partial(work.measurement("interrupted" if isinstance(error, asyncio.CancelledError) else str(error) or type(error).__name__))
        raise
    if on_record:
        for record in found.records:
            assert isinstance(record, UpgradeRecord)
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
        targets: Mapping[str, Target],
        route: Route,
        readiness: Mapping[str, Readiness],
        may_restart: Callable[[Guest], bool],
        ssh_interval_seconds: float,
        deadline_seconds: float,
        parameters: Mapping[str, Any],
    ) -> None:
        if not fleet.guests:
            raise ClusterError("an upgrade with no VMs says nothing of what becomes of them")
        self.cluster, self.fleet, self.clock, self.run_id, self.hop = cluster, fleet, clock, run_id, hop
        self.before, self.may_restart, self.deadline, self.parameters = state.current, may_restart, deadline_seconds, parameters
        self.t0: float | None = None  # cluster time of the request
        self.how = ""
        self.entry: History | None = None  # of ClusterVersion's history: this upgrade's
        self.history_before = len(state.version["status"].get("history") or ())
        self.started: float | None = None
        self.completed: float | None = None
        self.message, self.share = "", 0.0
        self.curve: list[list[Any]] = []
        self.failing: list[list[Any]] = []  # [start, end, what]
        self.refused = ""
        self.refused_since: float | None = None
        self.operators: dict[str, OperatorTimes] = {}
        self.vms: dict[str, VmTimes] = {}
        self.changed = asyncio.Event()
        self.versions = Watch(cluster, "/apis/config.openshift.io/v1/clusterversions", ClusterVersion, self.on_version)
        self.operator_watch = Watch(cluster, "/apis/config.openshift.io/v1/clusteroperators", ClusterOperator, self.on_operator)
        self.vmis = Watch(cluster, VMIS, Vmi, self.on_vmi, selector=fleet.selector)
        self.nodes = NodeWatch(cluster, clock)
        space = fleet.namespaces[0]
        self.read = ApiProbe("read", "GET", f"/api/v1/namespaces/{space}", clock, cluster)
        body = {"metadata": {"annotations": {"vmscale.io/upgrade-probe": run_id}}}
        self.write = ApiProbe("write", "PATCH", f"/api/v1/namespaces/{space}/configmaps/vmscale-upgrade-probe", clock, cluster, body)
        self.probes = GuestProbes(
            {guest.key: GuestProbe(guest.key, targets.get(guest.key), readiness[guest.os]) for guest in fleet.guests},
            route, clock, ssh_interval_seconds,
        )  # fmt: skip
        self.barrier: Barrier | None = None
        self.io: Mapping[str, GuestRun] = {}

    # -- the procedure ----------------------------------------------------------------------------------------------

    async def run(
        self, adm_upgrade: AdmUpgrade, load: Load | None, wait_for_pools: bool, on_progress: Callable[[Progress], None] | None
    ) -> Measurement:
        allow_open_files(3 * len(self.fleet.guests) + 256)
        await self._make_probed_object()
        if load:
            await self._begin_load(load)
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with self.versions, self.operator_watch, self.vmis, self.nodes:
                self._check_fleet()
                tasks = [asyncio.create_task(each.run()) for each in (self.read, self.write, self.probes)]
                state = State(await self.cluster.get("/apis/config.openshift.io/v1/clusterversions/version"), (), (), {}, {})
                self.nodes.begin()
                self.t0 = self.clock.now()
                if on_progress:
                    tasks.append(asyncio.create_task(self._tick(on_progress)))
                self.how = await begin(self.cluster, state, self.hop, adm_upgrade)
                await self._until(lambda: self.completed is not None or self._is_refused(), tasks)
                if self.completed is not None and wait_for_pools:
                    await self._until(lambda: all(pool.updated for pool in self.nodes.pools.values()), tasks)
                await self._until(self._all_back, tasks, BACK_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if load and self.barrier:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_WALL_SECONDS):
                        await load.workload.stop()
        if load and self.barrier:
            self.io = await load.workload.fetch(self.barrier, 0.0)
        return self.measurement(None)

    async def _make_probed_object(self) -> None:
        """What the write probe writes to; it goes with its namespace."""
        space = self.fleet.namespaces[0]
        if await self.cluster.get_or_none(self.write.path) is None:
            obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vmscale-upgrade-probe", "namespace": space}, "data": {}}
            await self.cluster.create(f"/api/v1/namespaces/{space}/configmaps", obj)

    async def _begin_load(self, load: Load) -> None:
        """Start fio in its guests, and let the window without an upgrade pass."""
        self.barrier = await load.workload.start(load.windows(self.deadline))
        end = self.barrier.epoch + self.barrier.timed[0].end_seconds
        await self.clock.sleep(end - self.clock.now())

    def _check_fleet(self) -> None:
        for guest in self.fleet.guests:
            vmi = self.vmis.objects.get(guest.key)
            if vmi is None or vmi.status.phase != "Running":
                raise ClusterError(f"{guest.key} does not run: an upgrade is measured with all of its fleet up")
            node = vmi.status.nodeName or ""
            self.vms[guest.key] = VmTimes(guest, vmi.metadata.uid, node, node)

    async def _until(self, met: Callable[[], bool], tasks: Sequence[asyncio.Task[Any]], seconds: float | None = None) -> None:
        """Until it is so, or the deadline (or so many cluster seconds). ClusterError if something broke."""
        assert self.t0 is not None
        give_up = self.t0 + self.deadline if seconds is None else self.clock.now() + seconds
        while not met() and self.clock.now() < give_up:
            for failure in (self.versions.failure, self.operator_watch.failure, self.vmis.failure, self.nodes.failure):
                if failure:
                    raise ClusterError(f"a watch broke: {failure}") from failure
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(0.5, max(0.01, self.clock.wall(give_up - self.clock.now())))):
                    await self.changed.wait()

    def _is_refused(self) -> bool:
        return self.refused_since is not None and self.clock.now() - self.refused_since > REFUSED_SECONDS

    def _all_back(self) -> bool:
        return all(each.target is None or each.down_since is None for each in self.probes.probes.values()) and all(
            vm.phase == "Running" and not vm.gone for vm in self.vms.values()
        )

    async def _tick(self, on_progress: Callable[[Progress], None]) -> None:
        while True:
            on_progress(Progress(self.at(self.clock.now()), self.message, self.share))
            await asyncio.sleep(PROGRESS_WALL_SECONDS)

    # -- what is seen -----------------------------------------------------------------------------------------------

    def at(self, cluster_time: float) -> float:
        """Seconds from the request."""
        return 0.0 if self.t0 is None else cluster_time - self.t0

    def on_version(self, event: Event[ClusterVersion]) -> None:
        if event.object.metadata.name != "version" or self.t0 is None:
            return
        status, now = event.object.status, self.clock.at(event.arrived)
        conditions = {each.type: each for each in status.conditions}
        self._saw_failing(conditions.get("Failing"), now)
        self._saw_refusal(conditions, now)
        if progressing := conditions.get("Progressing"):
            self._saw_progress(progressing.message, now)
        first = status.history[0] if status.history else History()
        wanted = first.version == self.hop.version or (self.hop.image is not None and first.image == self.hop.image)
        if not wanted or len(status.history) <= self.history_before:
            return
        self.entry = first
        # A state that was only learnt after the stream was broken: the object's own time is nearer.
        if self.started is None:
            self.started = parse_timestamp(first.startedTime) if event.upper_bound and first.startedTime else now
        if self.completed is None and first.state == "Completed":
            self.completed = parse_timestamp(first.completionTime) if event.upper_bound and first.completionTime else now
            self.share = 1.0
            self.changed.set()

    def _saw_refusal(self, conditions: Mapping[str, Condition], now: float) -> None:
        """From 4.10 on a payload is not accepted; before it, the ClusterVersion fails with one of a few reasons."""
        accepted, failing = conditions.get("ReleaseAccepted"), conditions.get("Failing")
        against = next((each for each in (accepted if accepted and accepted.status == "False" else None,
                                          failing if failing and failing.status == "True" and failing.reason in REFUSALS else None) if each), None)  # fmt: skip
        self.refused = f"{against.reason}: {' '.join(against.message.split())}" if against else ""
        self.refused_since = None if against is None else self.refused_since or now

    def _saw_progress(self, message: str, now: float) -> None:
        self.message = " ".join(message.split())
        if match := WORKING.match(message):
            done, total, percent = int(match[2]), int(match[3]), int(match[4])
            self.share = done / total if total else 0.0
            if not self.curve or self.curve[-1][1] != done:
                self.curve.append([round(self.at(now), 1), done, total, percent])

    def _saw_failing(self, failing: Condition | None, now: float) -> None:
        is_failing = failing is not None and failing.status == "True"
        is_open = bool(self.failing) and self.failing[-1][1] is None
        if failing is not None and is_failing and not is_open:
            self.failing.append([self.at(now), None, f"{failing.reason}: {' '.join(failing.message.split())}"])
        elif is_open and not is_failing:
            self.failing[-1][1] = self.at(now)

    def on_operator(self, event: Event[ClusterOperator]) -> None:
        operator = event.object
        name = operator.metadata.name
        if name not in self.operators:
            self.operators[name] = OperatorTimes(operator.version, operator.version)
        if event.type != "DELETED":
            self.operators[name].saw(operator, self.at(self.clock.at(event.arrived)))

    def on_vmi(self, event: Event[Vmi]) -> None:
        vmi, vm = event.object, self.vms.get(event.object.key)
        if vm is None:
            return
        if event.type == "DELETED":
            vm.gone = vm.gone or vm.uid == vmi.metadata.uid
            self.changed.set()
            return
        if vmi.metadata.uid != vm.uid:
            vm.uid, vm.gone, vm.node = vmi.metadata.uid, False, ""
            vm.restarts += 1
        vm.phase = vmi.status.phase
        vm.crashed = vm.crashed or vmi.status.phase == "Failed"
        node = vmi.status.nodeName or ""
        if node and vm.node and node != vm.node:
            vm.migrations += 1
        vm.node = node or vm.node
        probe = self.probes.probes[vmi.key]
        if vmi.address and probe.target is not None and vmi.address != probe.target.address:
            probe.target = Target(probe.target.namespace, probe.target.name, vmi.address, probe.target.port)
        self.changed.set()

    # -- what was measured ------------------------------------------------------------------------------------------

    def measurement(self, incomplete: str | None) -> Measurement:
        now, t0 = self.clock.now(), self.t0 or self.clock.now()
        records = tuple(self._record(self.vms[guest.key], now) for guest in self.fleet.guests if guest.key in self.vms)
        seconds = self.completed - self.started if self.completed is not None and self.started is not None else None
        blind = [*self.versions.gaps, *self.operator_watch.gaps, *self.vmis.gaps, *self.nodes.gaps]
        return Measurement(
            scenario=SCENARIO,
            version=VERSION,
            run_id=self.run_id,
            started_epoch=t0,
            parameters=dict(self.parameters),
            records=records,
            deadline_seconds=self.deadline,
            duration_seconds=seconds,
            gaps=tuple(Gap(each.kind, self.at(self.clock.at(each.start)), self.at(self.clock.at(each.end)), each.reason) for each in blind),
            details=self._details(now),
            complete=incomplete is None,
            incomplete_reason=incomplete,
            named=f"{self.before} to {self.hop.version}",
            time_rate=self.clock.rate,
        )

    def _record(self, vm: VmTimes, now: float) -> UpgradeRecord:
        probe = self.probes.probes[vm.guest.key]
        longest, total = probe.downtime(now)
        io = self.io.get(vm.guest.key)
        errors = []
        if vm.gone:
            errors.append("its VMI is gone")
        elif vm.phase != "Running":
            errors.append(f"its VMI is {vm.phase or 'Pending'} and not Running")
        elif probe.down_since is not None and not vm.restarts:
            errors.append(f"it does not answer since {self.at(probe.down_since):.0f} s: {probe.last_error}")
        if vm.crashed:
            errors.append("its VMI failed" + (" and was started again" if vm.restarts else ""))
        elif vm.restarts and not self.may_restart(vm.guest):
            errors.append("it was restarted, though it is to be migrated")
        means = {name: job.result for name, job in (io.jobs if io else {}).items() if job.result}
        return UpgradeRecord(
            namespace=vm.guest.namespace,
            vm_name=vm.guest.name,
            os=vm.guest.os,
            status=Status.FAILED if errors else Status.SUCCESS,
            requested_at=0.0,
            node=vm.node or None,
            error="; ".join(errors) or None,
            last_phase=vm.phase,
            ssh_downtime_seconds=longest if probe.probes else None,
            ssh_downtime_total_seconds=total if probe.probes else None,
            probes=probe.probes,
            probes_failed=probe.failed,
            restarts=vm.restarts,
            migrations=vm.migrations,
            node_before=vm.first_node or None,
            io_windows=len(means),
            io_error=_io_error(io),
            io_baseline_mean_seconds=_mean([means["io-000"]]) if "io-000" in means else None,
            io_upgrade_mean_seconds=_mean([each for name, each in means.items() if name != "io-000"]),
        )

    def _details(self, now: float) -> dict[str, Any]:
        entry = self.entry
        own = None
        if entry and entry.startedTime and entry.completionTime:
            own = parse_timestamp(entry.completionTime) - parse_timestamp(entry.startedTime)
        vms = self.vms.values()
        return {
            "from": self.before,
            "to": self.hop.version,
            "kind": kind(self.before, self.hop.version),
            "asked_by": self.how,
            "channel": self.hop.channel,
            "state": entry.state if entry else "not begun",
            "started_seconds": None if self.started is None else self.at(self.started),
            "completed_seconds": None if self.completed is None else self.at(self.completed),
            "started_epoch": self.started,
            "completed_epoch": self.completed,
            "object_seconds": own,
            "message": self.message,
            "refused": self.refused,
            "failing": self.failing,
            "curve": self.curve,
            "operators": [
                {"name": name, "before": each.before, "version": each.version, "updated_seconds": each.updated_at, "said": each.said,
                 "progressing": each.progressing, "unavailable": each.unavailable, "degraded": each.degraded}
                for name, each in sorted(self.operators.items())
            ],
            "unhealthy": self._unhealthy(),
            "pools": self._pools(),
            "nodes": [
                {"name": each.name, "cordoned_seconds": each.cordoned_seconds, "drained_seconds": each.drained_seconds,
                 "rebooted_seconds": each.rebooted_seconds, "ready_seconds": each.ready_seconds, "done_seconds": each.done_seconds}
                for each in self.nodes.records(sorted(self.nodes.nodes)) if each.cordoned_seconds is not None or each.rebooted
            ],
            "api": {"read": self.read.found(), "write": self.write.found()},
            "ssh_interval_seconds": self.probes.interval_seconds,
            "vms": {"restarted": sum(vm.restarts > 0 for vm in vms), "migrated": sum(vm.migrations > 0 for vm in vms), "migrations": sum(vm.migrations for vm in vms)},
            "io": self._io(),
            "measured_seconds": self.at(now),
        }  # fmt: skip

    def _unhealthy(self) -> list[dict[str, str]]:
        """The operators that are not as an upgraded cluster has them, at the end."""
        found = []
        for name, times in sorted(self.operators.items()):
            operator = self.operator_watch.objects.get(name)
            if operator is None:
                found.append({"name": name, "why": "its ClusterOperator is gone"})
            elif not operator.is_("Available"):
                found.append({"name": name, "why": f"Available=False: {operator.said('Available')}"})
            elif operator.is_("Degraded"):
                found.append({"name": name, "why": f"Degraded=True: {operator.said('Degraded')}"})
            elif times.version != self.hop.version and times.before == self.before:
                why = f"it is at {times.version or 'no version'}"
                found.append({"name": name, "why": why + (f", Progressing=True: {operator.said('Progressing')}" if operator.is_("Progressing") else "")})
        return found

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

    def _io(self) -> list[dict[str, Any]]:
        """The fleet's latency in each window: the mean over its guests' means, and the slowest guest."""
        if self.barrier is None or self.t0 is None:
            return []
        found = []
        for timed in self.barrier.timed:
            results = [job.result for run in self.io.values() if (job := run.jobs.get(timed.job.name)) and job.result]
            means = [mean for each in results if (mean := _mean([each])) is not None]
            if means:
                start = self.barrier.epoch + timed.at_seconds - self.t0
                found.append(
                    {
                        "start_seconds": start,
                        "end_seconds": start + timed.job.runtime_seconds,
                        "vms": len(means),
                        "mean_seconds": sum(means) / len(means),
                        "slowest_mean_seconds": max(means),
                        "iops": sum(side.iops for each in results for side in each.directions.values()),
                    }
                )
        return found


def _mean(results: Sequence[Any]) -> float | None:
    """Mean latency in seconds over all I/Os of these results."""
    sides = [side for each in results for side in each.directions.values() if side.ios]
    ios = sum(side.ios for side in sides)
    return sum(side.mean_ns * side.ios for side in sides) / ios / 1e9 if ios else None


def _io_error(run: GuestRun | None) -> str | None:
    """Why a window has no result, though it ended; or why there is none at all."""
    if run is None:
        return None
    said = [job.error for job in run.jobs.values() if job.error]
    return "; ".join(said) or (run.error if not run.jobs else None)
