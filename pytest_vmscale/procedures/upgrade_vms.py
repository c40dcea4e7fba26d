"""What becomes of a fleet's VMs while the cluster is upgraded under them: their VMIs, their SSH, and fio in some of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..clock import Clock
from ..cluster.requests import Cluster
from ..cluster.watch import Event, Watch
from ..guest.fio import FioResult, Job
from ..guest.workload import SETTLE_SECONDS, Barrier, GuestRun, Timed, Workload
from ..model import Fleet, Guest, Status
from ..records import UpgradeRecord
from .upgrade_probes import GuestProbe, GuestProbes
from .vmi import VMIS, Vmi

BASELINE = "io-000"
WINDOW_GAP_SECONDS = 5


@dataclass
class Load:
    """fio that runs beside the upgrades: in windows one after the other, of which the first is over before any is asked for.

    iops: of reads and of writes, each. longest_seconds: what the upgrades may take in all; there are windows for so long. at_rest: entered
    around what is done in each guest while nothing is measured, so that cluster time need not run on meanwhile."""

    workload: Workload
    clock: Clock
    iops: int
    baseline_seconds: int
    window_seconds: int
    longest_seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)
    at_rest: Callable[[], contextlib.AbstractAsyncContextManager[None]] = contextlib.nullcontext
    barrier: Barrier | None = None  # once it runs

    def windows(self) -> list[Timed]:
        timed = [Timed(Job(BASELINE, "mixed", self.iops, self.baseline_seconds, ramp_seconds=0, **self.options))]
        while timed[-1].end_seconds < self.baseline_seconds + self.longest_seconds:
            job = Job(f"io-{len(timed):03d}", "mixed", self.iops, self.window_seconds, ramp_seconds=0, **self.options)
            timed.append(Timed(job, timed[-1].end_seconds + WINDOW_GAP_SECONDS))
        return timed

    async def begin(self) -> None:
        """Start it, unless it runs, and let the window without an upgrade pass."""
        if self.barrier is None:
            async with self.at_rest():
                self.barrier = await self.workload.start(self.windows())
        end = self.barrier.epoch + self.barrier.timed[0].end_seconds
        while (left := end - self.clock.now()) > 0:  # cluster time may stand still for a moment, where its machine is behind
            await self.clock.sleep(left)

    async def fetch(self, since: float) -> Barrier:
        """The windows that have ended so far, without those that had before `since` (cluster time) but for the first; with what came
        of each in each guest. fio goes on."""
        assert self.barrier is not None
        began, now = self.barrier, self.clock.now() - self.barrier.epoch - SETTLE_SECONDS
        timed = [
            each for each in began.timed if each.end_seconds <= now and (each is began.timed[0] or began.epoch + each.end_seconds > since)
        ]
        # A guest that could not be reached the last time may be reached now.
        runs = {key: GuestRun(key, run.offset, error=run.error) for key, run in began.runs.items()}
        found = replace(began, timed=tuple(timed), runs=runs)
        if timed:
            async with self.at_rest():
                await self.workload.fetch(found, 0.0)
        return found


@dataclass
class VmTimes:
    """What became of one VM's instances."""

    guest: Guest
    uid: str
    first_node: str
    node: str
    phase: str = "Running"
    restarts: int = 0
    migrations: int = 0
    failed: bool = False  # one of its instances was
    gone: bool = False
    never_ran: bool = False  # not when the upgrade was asked for
    down_since: float | None = None  # cluster time; None while an instance runs

    def error(self, may_restart: bool) -> str:
        """What befell its instances that must not, or empty."""
        if self.never_ran:
            return "it did not run when the upgrade was asked for"
        if self.failed:
            return "its VMI failed" + (" and was started again" if self.restarts else "")
        return "it was restarted, though it is to be migrated" if self.restarts and not may_restart else ""

    @property
    def state(self) -> str:
        return "its VMI is gone" if self.gone else f"its VMI is {self.phase or 'Pending'} and not Running"


class VmWatch:
    """Follows the VMIs of a fleet. A VM whose instance changes is asked at once whether it answers, and again soon."""

    def __init__(self, cluster: Cluster, clock: Clock, fleet: Fleet, probes: GuestProbes, on_change: Callable[[], None]) -> None:
        self._clock, self._fleet, self._probes, self._on_change = clock, fleet, probes, on_change
        self.vms: dict[str, VmTimes] = {}
        self.watch = Watch(cluster, VMIS, Vmi, self._saw, selector=fleet.selector)

    def begin(self, t0: float) -> None:
        """t0: cluster time, of just before the request. A VM that does not run by then is lost before it begins."""
        for guest in self._fleet.guests:
            vmi = self.watch.objects.get(guest.key)
            if vmi is not None and vmi.status.phase == "Running":
                node = vmi.status.nodeName or ""
                self.vms[guest.key] = VmTimes(guest, vmi.metadata.uid, node, node)
            else:
                phase = vmi.status.phase if vmi else ""
                self.vms[guest.key] = VmTimes(guest, "", "", "", phase, never_ran=True, gone=vmi is None, down_since=t0)

    def down_since(self, key: str) -> float | None:
        """Cluster time; None if it runs and its guest answers."""
        both = [each for each in (self.vms[key].down_since, self._probes.probes[key].down_since) if each is not None]
        return min(both, default=None)

    def _saw(self, event: Event[Vmi]) -> None:
        vmi, vm = event.object, self.vms.get(event.object.key)
        if vm is None:
            return
        before = (vm.uid, vm.phase, vm.node, vm.gone)
        if event.type == "DELETED":
            vm.gone = vm.gone or vm.uid == vmi.metadata.uid
        else:
            self._changed(vm, vmi)
        if (vm.uid, vm.phase, vm.node, vm.gone) != before:
            self._probes.look(vmi.key)
        if vm.phase == "Running" and not vm.gone:
            vm.down_since = None
        elif vm.down_since is None:
            vm.down_since = self._clock.at(event.arrived)
        self._on_change()

    def _changed(self, vm: VmTimes, vmi: Vmi) -> None:
        if vmi.metadata.uid != vm.uid:
            vm.uid, vm.gone, vm.node = vmi.metadata.uid, False, ""
            vm.restarts += 1
        vm.phase = vmi.status.phase
        vm.failed = vm.failed or vmi.status.phase == "Failed"
        node = vmi.status.nodeName or ""
        if node and vm.node and node != vm.node:
            vm.migrations += 1
        vm.node = node or vm.node
        if vmi.address:
            self._probes.moved(vmi.key, vmi.address)


def records(
    watch: VmWatch,
    probes: GuestProbes,
    io: Mapping[str, GuestRun],
    may_restart: Callable[[Guest], bool],
    t0: float,
    until: float,
    now: float,
) -> tuple[UpgradeRecord, ...]:
    """A VM that was down at `until`, and is still, is lost; one that went down since may well be restarted with its node just now.
    t0, until, now: cluster time. may_restart: the VMs that are not migrated when their node is drained, but restarted."""
    return tuple(
        _record(watch, key, probes.probes[key], io.get(key), may_restart(vm.guest), t0, until, now) for key, vm in watch.vms.items()
    )


def _record(
    watch: VmWatch, key: str, probe: GuestProbe, io: GuestRun | None, may_restart: bool, t0: float, until: float, now: float
) -> UpgradeRecord:
    vm, down, down_since = watch.vms[key], probe.downtime(now), watch.down_since(key)
    errors = [vm.error(may_restart)]
    if down_since is not None and down_since <= until:
        errors.append(vm.state if vm.down_since is not None else f"it does not answer since {down_since - t0:.0f} s: {probe.last_error}")
    results = {name: job.result for name, job in (io.jobs if io else {}).items() if job.result}
    meanwhile = [result for name, result in results.items() if name != BASELINE]
    return UpgradeRecord(
        namespace=vm.guest.namespace,
        vm_name=vm.guest.name,
        os=vm.guest.os,
        status=Status.FAILED if any(errors) else Status.SUCCESS,
        requested_at=0.0,
        node=vm.node or None,
        error="; ".join(filter(None, errors)) or None,
        last_phase=vm.phase,
        ssh_downtime_seconds=down.longest_seconds if probe.probes else None,
        ssh_downtime_most_seconds=down.longest_most_seconds if probe.probes else None,
        ssh_downtime_total_seconds=down.total_seconds if probe.probes else None,
        probes=probe.probes,
        probes_failed=probe.failed,
        restarts=vm.restarts,
        migrations=vm.migrations,
        node_before=vm.first_node or None,
        io_windows=len(results),
        io_error=_io_error(io, vm),
        io_baseline_mean_seconds=mean_latency([results[BASELINE]]) if BASELINE in results else None,
        io_upgrade_mean_seconds=mean_latency(meanwhile),
        io_longest_stall_seconds=longest_stall(meanwhile),
    )


def mean_latency(results: Sequence[FioResult]) -> float | None:
    """In seconds, over all I/Os of these results; None if there are none."""
    sides = [side for each in results for side in each.directions.values() if side.ios]
    ios = sum(side.ios for side in sides)
    return sum(side.mean_ns * side.ios for side in sides) / ios / 1e9 if ios else None


def longest_stall(results: Sequence[FioResult]) -> float | None:
    """The time in seconds that the slowest I/O of these results took: so long the guest's disk stood still for fio."""
    longest = [side.max_ns for each in results for side in each.directions.values() if side.ios]
    return max(longest) / 1e9 if longest else None


def _io_error(run: GuestRun | None, vm: VmTimes) -> str | None:
    """Why a window has no result, though it ended; or why there is none at all."""
    if run is None:
        return None
    said = [job.error for job in run.jobs.values() if job.error]
    if vm.restarts:
        said.append(
            f"fio ended with the guest, which was restarted {vm.restarts} times"
            if vm.restarts > 1
            else "fio ended with the guest, which was restarted"
        )
    return "; ".join(said) or (run.error if not run.jobs else None)


def io_windows(barrier: Barrier, t0: float) -> list[dict[str, Any]]:
    """The fleet's latency in each window: the mean over its guests' means, and its slowest guest. Times are seconds from the request."""
    found = []
    for timed in barrier.timed:
        results = [job.result for run in barrier.runs.values() if (job := run.jobs.get(timed.job.name)) and job.result]
        means = [mean for each in results if (mean := mean_latency([each])) is not None]
        if means:
            start = barrier.epoch + timed.at_seconds - t0
            found.append(
                {
                    "baseline": timed.job.name == BASELINE,
                    "start_seconds": start,
                    "end_seconds": start + timed.job.runtime_seconds,
                    "vms": len(means),
                    "mean_seconds": sum(means) / len(means),
                    "slowest_mean_seconds": max(means),
                    "longest_stall_seconds": longest_stall(results),
                    "iops": sum(side.iops for each in results for side in each.directions.values()),
                }
            )
    return found
