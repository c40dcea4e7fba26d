"""The boot storm: all guests of a stopped fleet are started at once, and each is timed until it answers.

t0 of a guest is stamped before its start request is sent. Its phases come from one watch of the VMIs; from Running on
it is probed until it answers, or until the deadline. A guest that fails stays in the sample.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.requests import ApiError, Cluster, resource_path
from ..cluster.runtime import cancel_all
from ..cluster.watch import Event, Watch
from ..guest.login import Credentials, LoginError, run_command
from ..guest.probe import Probing, Readiness, allow_open_files_for, probe_until_up
from ..guest.route import Route, Target
from ..model import Fleet, Guest, Measurement, Status
from ..records import BootRecord
from .boot import Boot
from .outcome import gaps, object_skew, request_retries, tell_progress, upper_bounds, why_blind, why_cut_short
from .vmi import VMIS, Vmi

SCENARIO, VERSION = "boot-storm", "1.0.0"
# A guest's sshd may be up before cloud-init has put our key there: its login is tried for this long (cluster time).
LOGIN_DEADLINE_SECONDS = 120.0
LOGIN_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Progress:
    """How far the storm is. Times in cluster seconds from the first request."""

    elapsed_seconds: float
    deadline_seconds: float
    total: int
    requested: int
    created: int
    running: int
    up: int
    failed: int


async def boot_storm(
    cluster: Cluster,
    fleet: Fleet,
    clock: Clock,
    *,
    run_id: str,
    route: Route,
    readiness: Mapping[str, Readiness],
    ssh_interval_seconds: float,
    deadline_seconds: float,
    parameters: Mapping[str, Any],
    prove_login: Callable[[Guest], Credentials | None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_record: Callable[[BootRecord], None] | None = None,
    on_partial: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Start all guests of the fleet, which must be stopped, and follow each until it answers.

    readiness: what "up" means, by guest OS. deadline_seconds: from the first request, in cluster time; ends earlier if all
    guests are settled. prove_login: how to log in to a guest, or None for those that have no SSH; the first guest that
    answered is logged in to, after the storm. The callbacks run on the event loop: on_record as each guest is settled;
    on_partial with what was measured so far if the storm is cancelled or breaks. ClusterError if it cannot be measured."""
    storm = _Storm(cluster, fleet, clock, run_id, route, readiness, ssh_interval_seconds, deadline_seconds, parameters, on_record)
    try:
        return await storm.run(prove_login, on_progress)
    except BaseException as error:
        if on_partial and storm.began:
            on_partial(storm.measurement(why_cut_short(error)))
        raise


class _Storm:
    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        clock: Clock,
        run_id: str,
        route: Route,
        readiness: Mapping[str, Readiness],
        interval_seconds: float,
        deadline_seconds: float,
        parameters: Mapping[str, Any],
        on_record: Callable[[BootRecord], None] | None,
    ) -> None:
        if not fleet.guests:
            raise ClusterError("a boot storm of no VMs measures nothing")
        if unknown := sorted(set(fleet.os_mix) - set(readiness)):
            raise ClusterError(f"nothing says when a guest of {', '.join(unknown)} is up")
        self.cluster, self.fleet, self.clock, self.run_id, self.route = cluster, fleet, clock, run_id, route
        self.readiness, self.interval, self.deadline = readiness, interval_seconds, deadline_seconds
        self.parameters, self.on_record = parameters, on_record
        self.boots = {guest.key: Boot(guest) for guest in fleet.guests}
        self.unsettled = len(self.boots)
        self.all_settled = asyncio.Event()
        self.broken: BaseException | None = None
        self.began: float | None = None  # the first request's stamp
        self.details: dict[str, Any] = {}
        self.watch = Watch(cluster, VMIS, Vmi, self.on_vmi, selector=fleet.selector)

    # -- the procedure ----------------------------------------------------------------------------------------------

    async def run(
        self, prove_login: Callable[[Guest], Credentials | None] | None, on_progress: Callable[[Progress], None] | None
    ) -> Measurement:
        self.details["open_files_limit"] = allow_open_files_for(len(self.boots))
        ticking: asyncio.Task[None] | None = None
        async with self.watch:
            left = [key for key in self.watch.objects if key in self.boots]
            if left:
                raise ClusterError(
                    f"{len(left)} of the fleet's VMs are not stopped ({', '.join(sorted(left)[:3])}): a boot storm starts from stopped VMs"
                )
            await self.cluster.warm_up(len(self.boots))
            try:
                if on_progress:
                    ticking = asyncio.create_task(tell_progress(on_progress, self.progress))
                for boot in self.boots.values():
                    boot.tasks.append(asyncio.create_task(self._guarded(self._start, boot)))
                await self._wait()
            finally:
                if ticking:
                    ticking.cancel()
                await self._stop_tasks()
        if prove_login:
            self.details["login"] = await self._prove(prove_login)
        if on_progress:
            on_progress(self.progress())
        return self.measurement(None)

    async def _wait(self) -> None:
        """Until all are settled, the deadline, or something breaks."""
        while not self.all_settled.is_set():
            self._check()
            left = self.deadline if self.began is None else self.deadline - self._elapsed()
            if left <= 0:
                break
            waiting = [asyncio.create_task(event.wait()) for event in (self.all_settled, self.watch.failed)]
            try:
                # Woken at times all the same: the clock's rate may change, and a broken task sets no event.
                await asyncio.wait(waiting, timeout=min(self.clock.wall(left), 1.0), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
        self._check()  # what settled the last guest may have broken too
        self._check_sight()
        for boot in self.boots.values():
            if boot.status is None:
                self._settle(boot, Status.TIMED_OUT, boot.why_not_up(self.deadline))

    def _check(self) -> None:
        if self.broken:
            raise self.broken
        if self.watch.failure:
            raise ClusterError(f"the watch of the VMIs broke: {self.watch.failure}") from self.watch.failure

    def _check_sight(self) -> None:
        """Guests whose way up could not be watched are not guests that did not come up."""
        unseen = sum(boot.status is None and "Running" not in boot.seen for boot in self.boots.values())
        if unseen and (why := why_blind(self.watch, self.clock)):
            raise ClusterError(
                f"what became of {unseen} VMs could not be seen: the watch of the VMIs was broken until the deadline ({why})"
            )

    async def _guarded(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """What goes wrong with one guest's task must end the storm with its reason, not be lost with the task."""
        try:
            await work(*arguments)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.broken = self.broken or error
            self.watch.failed.set()

    async def _stop_tasks(self) -> None:
        tasks = [task for boot in self.boots.values() for task in boot.tasks]
        await cancel_all(tasks)

    # -- one guest --------------------------------------------------------------------------------------------------

    async def _start(self, boot: Boot) -> None:
        def sent(stamp: float) -> None:
            boot.sent = stamp
            if self.began is None:
                self.began = stamp

        path = resource_path("subresources.kubevirt.io/v1", "virtualmachines", boot.guest.namespace, boot.guest.name) + "/start"
        try:
            await self.cluster.send("PUT", path, body={}, attempts=boot.attempts, on_sent=sent)
        except ApiError as error:
            # After a try without a clear answer, "already running" says that it was that try which started it.
            if not (error.status == 409 and error.maybe_done_before):
                boot.refused = error.message
                self._settle(boot, Status.FAILED, f"the start request failed: {error.message}")
                return
        boot.accepted = True

    def on_vmi(self, event: Event[Vmi]) -> None:
        boot = self.boots.get(event.object.key)
        if boot is None or boot.sent is None or boot.status is not None:
            return
        vmi = event.object
        if event.type == "DELETED":
            if boot.vmi_uid == vmi.metadata.uid:
                self._settle(boot, Status.FAILED, f"its VMI was deleted in phase {boot.phase or 'Pending'}")
            return
        if boot.vmi_uid is None:
            boot.vmi_uid = vmi.metadata.uid
        elif boot.vmi_uid != vmi.metadata.uid:
            self._settle(boot, Status.FAILED, f"its VMI was replaced by another in phase {boot.phase or 'Pending'}")
            return
        boot.saw_vmi(vmi, event.arrived, event.upper_bound)
        if vmi.status.phase in ("Failed", "Succeeded"):
            self._settle(boot, Status.FAILED, f"its VMI ended in phase {vmi.status.phase}")
        elif "Running" in boot.seen and boot.probing is None and (boot.address or not self.route.needs_address):
            ready = self.readiness[boot.guest.os]
            boot.probing = Probing(Target(boot.guest.namespace, boot.guest.name, boot.address, ready.port), ready)
            boot.tasks.append(asyncio.create_task(self._guarded(self._probe, boot, boot.probing)))

    async def _probe(self, boot: Boot, probing: Probing) -> None:
        await probe_until_up(probing, self.route, self.clock, self.interval)
        if boot.status is None and probing.answered is not None:
            boot.saw("ssh" if probing.readiness.banner else f"tcp-{probing.readiness.port}", probing.answered, False, None)
            self._settle(boot, Status.SUCCESS, None)

    def _settle(self, boot: Boot, status: Status, error: str | None) -> None:
        boot.status, boot.error = status, error
        for task in boot.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self.unsettled -= 1
        if not self.unsettled:
            self.all_settled.set()
        if self.on_record:
            self.on_record(boot.record(self.clock, self.began))

    # -- the proof --------------------------------------------------------------------------------------------------

    async def _prove(self, how: Callable[[Guest], Credentials | None]) -> dict[str, Any]:
        """Log in to the guest that answered first. After the storm: a login in the middle of it would disturb the probes."""
        answered = [(boot.answered, boot) for boot in self.boots.values() if boot.answered is not None]
        for _, boot in sorted(answered, key=lambda each: each[0]):
            credentials = how(boot.guest)
            if credentials is None or boot.probing is None or not boot.probing.readiness.banner:
                continue
            proof = {"guest": boot.guest.key, "user": credentials.user, "route": self.route.name}
            give_up = self.clock.now() + LOGIN_DEADLINE_SECONDS
            for tries in itertools.count(1):
                try:
                    output = await run_command(self.route, boot.probing.target, credentials)
                    return {
                        **proof,
                        "tries": tries,
                        "ok": output.status == 0,
                        "exit_status": output.status,
                        "wall_seconds": output.wall_seconds,
                    }
                except LoginError as error:
                    if self.clock.now() >= give_up:
                        return {**proof, "tries": tries, "ok": False, "error": str(error)}
                await self.clock.sleep(LOGIN_EVERY_SECONDS)
        return {"ok": None, "error": "no guest to log in to: none that has SSH and credentials answered"}

    # -- what was measured ------------------------------------------------------------------------------------------

    def _elapsed(self) -> float:
        return 0.0 if self.began is None else self.clock.now() - self.clock.at(self.began)

    def progress(self) -> Progress:
        boots = self.boots.values()
        return Progress(
            elapsed_seconds=self._elapsed(),
            deadline_seconds=self.deadline,
            total=len(boots),
            requested=sum(boot.sent is not None for boot in boots),
            created=sum("created" in boot.seen for boot in boots),
            running=sum("Running" in boot.seen for boot in boots),
            up=sum(boot.status is Status.SUCCESS for boot in boots),
            failed=sum(boot.status in (Status.FAILED, Status.TIMED_OUT) for boot in boots),
        )

    def _since(self, start: float | None, stamp: float | None) -> float | None:
        return None if start is None or stamp is None else self.clock.at(stamp) - self.clock.at(start)

    def measurement(self, incomplete: str | None) -> Measurement:
        records = tuple(boot.record(self.clock, self.began) for boot in self.boots.values())
        began = self.began if self.began is not None else time.monotonic()
        answered = [boot.answered for boot in self.boots.values() if boot.answered is not None]
        return Measurement(
            scenario=SCENARIO,
            version=VERSION,
            run_id=self.run_id,
            started_epoch=self.clock.at(began),
            parameters=dict(self.parameters),
            records=records,
            deadline_seconds=self.deadline,
            duration_seconds=self._since(began, max(answered)) if answered else None,
            gaps=gaps(self.watch.gaps, lambda stamp: self.clock.at(stamp) - self.clock.at(began)),
            details={**self.details, **self._figures(records)},
            complete=incomplete is None,
            incomplete_reason=incomplete,
            time_rate=self.clock.rate,
        )

    def _figures(self, records: tuple[BootRecord, ...]) -> dict[str, Any]:
        boots = self.boots.values()
        sent = sorted(boot.sent for boot in boots if boot.sent is not None)
        spread = self._since(sent[0], sent[-1]) if sent else None
        return {
            "started_cluster_epoch": None if self.began is None else self.clock.at(self.began),
            "requests_sent": sum(max(1, len(boot.attempts)) for boot in boots if boot.sent is not None),
            "requests_accepted": sum(boot.accepted for boot in boots),
            "requests_refused": sum(bool(boot.refused) for boot in boots),
            "request_retries": request_retries(records),
            "request_rate_achieved": (len(sent) - 1) / spread if spread else None,
            "request_seconds_max": max((r.request_seconds for r in records if r.request_seconds is not None), default=None),
            "object_skew_seconds": object_skew(records),
            "probes": sum(record.probes for record in records),
            "probe_lag_seconds_max": max((r.probe_lag_seconds for r in records if r.probe_lag_seconds is not None), default=None),
            "upper_bounds": upper_bounds(records),
            "watch_events": self.watch.events,
            "watch_relists": sum(gap.relisted for gap in self.watch.gaps),
            "ssh_via": self.route.name,
        }
