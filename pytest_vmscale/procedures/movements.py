"""How VMs leave their nodes: every eviction, live migration and restart of a fleet, from watches of VMIs, migrations and launcher pods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..clock import Clock, parse_timestamp
from ..cluster.access import ClusterError
from ..cluster.requests import Cluster
from ..cluster.watch import Blind, Event, Watch
from ..model import LABEL_OS, Fleet, Guest, Moment, Status
from ..records import LIVE_MIGRATION, RESTART, MigrationRecord
from .vmi import CREATED_BY, MIGRATIONS, PENDING, VMIS, Launcher, Migration, MigrationState, MovingVmi, PhaseTransition

FINAL = ("Succeeded", "Failed")
# A migration is under way from when its target pod is asked for; before, it waits for one of the cluster's and its node's slots.
ACTIVE = ("Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running")
TARGET_READY, STARTED, ENDED = "TargetReady", "Started", "Ended"


@dataclass(frozen=True)
class Stamp:
    """When something was seen: a stamp of time.monotonic(), told in cluster time only when it is asked for, since what is told of the embedded
    cluster's clock may come after it. object_epoch: what the object itself says, to the second."""

    clock: Clock
    arrived: float
    upper_bound: bool = False
    object_epoch: float | None = None

    @property
    def at(self) -> float:
        """The cluster's Unix time."""
        return self.clock.at(self.arrived)


@dataclass
class Attempt:
    """One live migration of a VM. `steps`: its phases, and STARTED and ENDED, which are the VMI's migrationState's."""

    uid: str
    name: str = ""
    phase: str = PENDING
    source: str = ""
    target: str = ""
    steps: dict[str, Stamp] = field(default_factory=dict)
    failure: str | None = None  # why it failed

    @property
    def active(self) -> bool:
        return self.phase in ACTIVE

    def between(self, first: str, last: str) -> float | None:
        """Seconds from one step to the other, or None if one of them was not seen."""
        return self.steps[last].at - self.steps[first].at if first in self.steps and last in self.steps else None


@dataclass
class Restart:
    """A VMI that ended, and the VM's next one. `phases`: of the next."""

    old_uid: str
    evicted: Stamp | None
    phases: dict[str, Stamp] = field(default_factory=dict)


@dataclass
class Moving:
    """One VM of the fleet, and all that became of it."""

    guest: Guest
    moves_by: str
    uid: str
    node: str
    first_node: str
    not_migratable: str = ""
    phase: str = "Running"
    gone: bool = False
    leaving: str = ""  # the node that it was asked to leave
    requested: Stamp | None = None  # the first time
    evictions: dict[str, Stamp] = field(default_factory=dict)  # of a VM that is not migrated: of the launcher pods of its VMIs, by their uids
    moved: Stamp | None = None  # it runs on another node than its first
    runs_on: str = ""  # the node that it last ran on
    departures: list[tuple[Stamp, str]] = field(default_factory=list)  # when it ran on another node than this one
    attempts: dict[str, Attempt] = field(default_factory=dict)  # by uid
    restarts: list[Restart] = field(default_factory=list)
    unexpected: int = 0  # restarts that its eviction strategy does not have

    @property
    def at_rest(self) -> bool:
        return not self.gone and self.phase == "Running" and not any(each.phase not in FINAL for each in self.attempts.values())

    @property
    def left(self) -> bool:
        return self.moved is not None


class Movements:
    """Follows a fleet from before t0 on. `begin(t0)` starts the records; what happened before is in none.

    in_flight: when, how many migrations were under way, and how many waited, at each change."""

    def __init__(self, cluster: Cluster, fleet: Fleet, clock: Clock, may_restart: Callable[[Guest], bool]) -> None:
        self._fleet, self._clock = fleet, clock
        self._moves_by = {guest.key: RESTART if may_restart(guest) else LIVE_MIGRATION for guest in fleet.guests}
        self.vms: dict[str, Moving] = {}
        self.changed = asyncio.Event()
        self.in_flight: list[tuple[Stamp, int, int]] = []
        self.most_active, self.most_from_node = 0, 0
        self.active_by_node: dict[str, int] = {}
        self._active: dict[str, str] = {}  # uid -> source
        self._waiting: set[str] = set()
        self._t0: Stamp | None = None
        self.vmis = Watch(cluster, VMIS, MovingVmi, self._on_vmi, selector=fleet.selector)
        # Evacuations' migrations have no label of the fleet's: all of the cluster's are followed.
        self.migrations = Watch(cluster, MIGRATIONS, Migration, self._on_migration)
        restarting = sorted({guest.os for guest in fleet.guests if self._moves_by[guest.key] == RESTART})
        self.launchers = (
            Watch(cluster, "/api/v1/pods", Launcher, self._on_launcher,
                  selector=f"{fleet.selector},kubevirt.io=virt-launcher,{LABEL_OS} in ({','.join(restarting)})")
            if restarting
            else None
        )  # fmt: skip
        self._watches: list[Watch[MovingVmi] | Watch[Migration] | Watch[Launcher]] = [self.migrations, self.vmis]
        if self.launchers:
            self._watches.append(self.launchers)

    async def __aenter__(self) -> Movements:
        started: list[Watch[MovingVmi] | Watch[Migration] | Watch[Launcher]] = []
        try:
            for watch in self._watches:
                await watch.start()
                started.append(watch)
        except BaseException:
            for watch in started:
                await watch.stop()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        for watch in self._watches:
            await watch.stop()

    @property
    def gaps(self) -> list[Blind]:
        return [gap for watch in self._watches for gap in watch.gaps]

    @property
    def failure(self) -> BaseException | None:
        return next((watch.failure for watch in self._watches if watch.failure), None)

    def begin(self, stamp: float) -> None:
        """From this stamp of time.monotonic() on. ClusterError if one of the fleet does not run."""
        self._t0 = Stamp(self._clock, stamp)
        self.vms = {}
        for guest in self._fleet.guests:
            vmi = self.vmis.objects.get(guest.key)
            if vmi is None or vmi.status.phase != "Running" or not vmi.status.nodeName:
                raise ClusterError(f"{guest.key} does not run: what becomes of it cannot be measured")
            node = vmi.status.nodeName
            self.vms[guest.key] = Moving(guest, self._moves_by[guest.key], vmi.metadata.uid, node, node, vmi.not_migratable, runs_on=node)

    def asked(self, key: str, stamp: float) -> None:
        """The run itself asks for this VM's migration, at this stamp of time.monotonic()."""
        self.vms[key].requested = self.vms[key].requested or Stamp(self._clock, stamp)

    async def until(self, met: Callable[[], bool], give_up: float) -> bool:
        """Whether it came before this cluster time. ClusterError if a watch breaks."""
        while not met():
            if self.failure:
                raise ClusterError(f"a watch broke: {self.failure}") from self.failure
            if self._clock.now() >= give_up:
                return False
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(0.25, max(0.01, self._clock.wall(give_up - self._clock.now())))):
                    await self.changed.wait()
        return True

    # -- what is seen -----------------------------------------------------------------------------------------------

    def _stamp(self, event: Event[MovingVmi] | Event[Migration] | Event[Launcher], told: str | None = None) -> Stamp:
        return Stamp(self._clock, event.arrived, event.upper_bound, parse_timestamp(told) if told else None)

    def _on_vmi(self, event: Event[MovingVmi]) -> None:
        vmi, vm = event.object, self.vms.get(event.object.key)
        if vm is None:
            return
        self.changed.set()
        if event.type == "DELETED":
            if vmi.metadata.uid == vm.uid:
                vm.gone = True
            return
        if vmi.metadata.uid != vm.uid:
            self._replaced(vm, vmi)
        status = vmi.status
        if status.phase != vm.phase or (vm.restarts and status.phase not in vm.restarts[-1].phases):
            vm.phase = status.phase
            if vm.restarts:
                vm.restarts[-1].phases.setdefault(status.phase, self._stamp(event, _told(status.phaseTransitionTimestamps, status.phase)))
        vm.not_migratable = vmi.not_migratable if vm.moves_by == LIVE_MIGRATION else ""
        leaving = status.evacuationNodeName or ""
        if leaving and leaving != vm.leaving and vm.requested is None:
            vm.requested = self._stamp(event)
        vm.leaving = leaving
        if status.migrationState and status.migrationState.migrationUid:
            self._on_state(vm, status.migrationState, event)
        vm.node = status.nodeName or vm.node
        if vm.phase == "Running" and vm.node != vm.runs_on:
            stamp = self._stamp(event)
            vm.departures.append((stamp, vm.runs_on))
            vm.runs_on = vm.node
            vm.moved = vm.moved or stamp

    def _replaced(self, vm: Moving, vmi: MovingVmi) -> None:
        """The VM has a new VMI: it was restarted."""
        vm.restarts.append(Restart(vm.uid, vm.evictions.get(vm.uid)))
        vm.uid, vm.gone, vm.phase = vmi.metadata.uid, False, ""
        if vm.moves_by != RESTART:
            vm.unexpected += 1

    def _on_state(self, vm: Moving, state: MigrationState, event: Event[MovingVmi]) -> None:
        attempt = vm.attempts.setdefault(state.migrationUid, Attempt(state.migrationUid))
        attempt.source, attempt.target = state.sourceNode or attempt.source, state.targetNode or attempt.target
        if state.startTimestamp and STARTED not in attempt.steps:
            attempt.steps[STARTED] = self._stamp(event, state.startTimestamp)
        if state.completed and ENDED not in attempt.steps:
            attempt.steps[ENDED] = self._stamp(event, state.endTimestamp)
            if state.failed:
                attempt.failure = state.failureReason or (f"aborted ({state.abortStatus})" if state.abortStatus else "no reason given")

    def _on_migration(self, event: Event[Migration]) -> None:
        migration = event.object
        vm = self.vms.get(f"{migration.metadata.namespace}/{migration.spec.vmiName}")
        if vm is None or event.initial:
            return
        uid, phase = migration.metadata.uid, migration.phase
        if event.type == "DELETED":
            attempt = vm.attempts.get(uid)
            if attempt is not None and attempt.phase not in FINAL:
                attempt.phase, attempt.failure = "Failed", attempt.failure or "it was deleted before it ended"
                self._count(attempt, event)
            return
        attempt = vm.attempts.setdefault(uid, Attempt(uid))
        attempt.name = migration.metadata.name
        attempt.source = attempt.source or vm.node
        state = migration.status.migrationState
        if state is not None and state.failureReason and attempt.failure is None and phase == "Failed":
            attempt.failure = state.failureReason
        if phase not in attempt.steps:
            told = _told(migration.status.phaseTransitionTimestamps, phase)
            attempt.steps[phase] = self._stamp(event, told or (migration.metadata.creationTimestamp if phase == PENDING else None))
        if attempt.phase != phase or phase == PENDING:
            attempt.phase = phase
            self._count(attempt, event)
        if phase == "Failed":
            attempt.failure = attempt.failure or "no reason given"
        self.changed.set()

    def _count(self, attempt: Attempt, event: Event[Migration]) -> None:
        """Keep account of how many migrations are under way, on the whole and from each node."""
        uid, was_active, was_waiting = attempt.uid, attempt.uid in self._active, attempt.uid in self._waiting
        if attempt.active:
            self._active.setdefault(uid, attempt.source)
        else:
            self._active.pop(uid, None)
        if attempt.phase == PENDING:
            self._waiting.add(uid)
        else:
            self._waiting.discard(uid)
        if (uid in self._active, uid in self._waiting) == (was_active, was_waiting):
            return
        self.in_flight.append((Stamp(self._clock, event.arrived), len(self._active), len(self._waiting)))
        self.most_active = max(self.most_active, len(self._active))
        if uid in self._active:
            source = self._active[uid]
            from_node = sum(each == source for each in self._active.values())
            self.active_by_node[source] = max(self.active_by_node.get(source, 0), from_node)
            self.most_from_node = max(self.most_from_node, from_node)

    def _on_launcher(self, event: Event[Launcher]) -> None:
        pod, vm = event.object, self.vms.get(event.object.vm)
        uid = pod.metadata.labels.get(CREATED_BY, "")
        if vm is None or event.initial or not uid or uid in vm.evictions:
            return
        if event.type == "DELETED" or pod.metadata.deletionTimestamp:
            stamp = vm.evictions[uid] = self._stamp(event)
            vm.requested = vm.requested or stamp
            for restart in vm.restarts:  # another stream may have brought the next VMI before
                if restart.old_uid == uid:
                    restart.evicted = stamp
            self.changed.set()

    # -- what was measured ------------------------------------------------------------------------------------------

    def attempts(self) -> Iterable[tuple[Moving, Attempt]]:
        return ((vm, attempt) for vm in self.vms.values() for attempt in vm.attempts.values())

    def record(self, vm: Moving, must_leave: bool) -> MigrationRecord:
        """`must_leave`: whether it should be on another node by now."""
        assert self._t0 is not None
        zero = vm.requested or self._t0
        first = next((each for each in vm.attempts.values() if each.phase == "Succeeded" and each.source == vm.first_node), None)
        restart = vm.restarts[0] if vm.restarts and vm.moves_by == RESTART else None
        failures = tuple(each.failure or "no reason given" for each in vm.attempts.values() if each.phase == "Failed")
        error, status = self._verdict(vm, must_leave, failures)
        running = restart.phases.get("Running") if restart else None
        evicted = restart.evicted if restart else None
        scheduling = (restart.phases.get("Scheduling") or restart.phases.get(PENDING)) if restart else None
        return MigrationRecord(
            namespace=vm.guest.namespace,
            vm_name=vm.guest.name,
            os=vm.guest.os,
            status=status,
            requested_at=zero.at - self._t0.at,
            node=None if vm.gone else vm.node or None,
            error=error,
            last_phase=vm.phase or "Pending",
            timeline=_timeline(vm, zero),
            moves_by=vm.moves_by,
            node_before=vm.first_node,
            time_to_moved_seconds=vm.moved.at - zero.at if vm.moved and vm.requested else None,
            migration_duration_seconds=first.between(STARTED, ENDED) if first else None,
            migration_queued_seconds=first.between(PENDING, "Scheduling") if first else None,
            migration_prepared_seconds=first.between("Scheduling", TARGET_READY) if first else None,
            restart_duration_seconds=running.at - evicted.at if running and evicted else None,
            restart_start_seconds=running.at - scheduling.at if running and scheduling else None,
            migrations=sum(each.phase == "Succeeded" for each in vm.attempts.values()),
            restarts=len(vm.restarts),
            failures=failures,
        )

    def _verdict(self, vm: Moving, must_leave: bool, failures: tuple[str, ...]) -> tuple[str | None, Status]:
        if vm.gone:
            return "its VMI is gone", Status.FAILED
        if vm.unexpected:
            return "it was restarted, though it is to be live migrated", Status.FAILED
        if vm.phase != "Running":
            return f"its VMI is {vm.phase or 'Pending'} and not Running", Status.FAILED
        if vm.left and vm.requested is None:
            return "it moved without having been asked to", Status.FAILED
        if vm.left or not must_leave:
            return None, Status.SUCCESS
        why = f"it is still on {vm.node}"
        if vm.not_migratable:
            why += f": it cannot be live migrated: {vm.not_migratable}"
        elif vm.requested is None:
            why += ", and was not asked to leave"
        elif failures:
            why += f": {len(failures)} migrations failed, the last because: {failures[-1]}"
        return why, Status.TIMED_OUT


def _timeline(vm: Moving, zero: Stamp) -> tuple[Moment, ...]:
    """All that was seen of it, in order: its eviction, the steps of each live migration, the phases of each VMI that came after a restart."""
    found: list[tuple[str, Stamp]] = []
    if vm.requested:
        found.append(("Requested", vm.requested))
    for number, attempt in enumerate(vm.attempts.values(), 1):
        again = f" (migration {number})" if number > 1 else ""
        found += [(f"{step}{again}", stamp) for step, stamp in attempt.steps.items()]
    for number, restart in enumerate(vm.restarts, 1):
        again = f" (restart {number})" if number > 1 else ""
        found += [(f"VMI {phase or PENDING}{again}", stamp) for phase, stamp in restart.phases.items()]
    if vm.moved:
        found.append(("Moved", vm.moved))
    moments = [
        Moment(phase, stamp.at - zero.at, stamp.upper_bound, None if stamp.object_epoch is None else stamp.object_epoch - zero.at)
        for phase, stamp in found
    ]
    return tuple(sorted(moments, key=lambda each: each.seconds))


def _told(transitions: Iterable[PhaseTransition], phase: str) -> str | None:
    return next((each.phaseTransitionTimestamp for each in transitions if each.phase == phase), None)
