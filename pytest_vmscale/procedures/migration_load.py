"""I/O under live migration: fio in every guest of a fleet, first while nothing moves, then the same while VMs are migrated.

The same load with migrations against the same load without: what else could be compared (a load that was not there before) says nothing of
migration. Some of the VMs, twice as many as the cluster lets migrate at once, are migrated again and again, so that one waits for each slot and all are full
for as long as fio measures. They are the same under both loads: how long a migration takes differs more by VM than by load.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.requests import ApiError, Cluster, resource_path
from ..cluster.runtime import cancel_all
from ..guest.fio import Job
from ..guest.workload import Barrier, GuestRun, Timed, Workload
from ..manifests.kubevirt import live_migration
from ..model import Fleet, Guest, Measurement, Record, Status
from ..records import MigrationLoadRecord
from .latency import ACHIEVED_SHARE, FETCH_SECONDS, Progress, doing, stop_at_once
from .migration_checks import Limits
from .movements import ENDED, STARTED, Attempt, Movements
from .outcome import gaps, skew, why_cut_short

SCENARIO, VERSION = "migration-latency", "1.0.0"
GAP_SECONDS = 10  # between two runs of one load
# Between two loads: what is under way has so long to end, less the lead of the next one's migrations.
QUIET_SECONDS = 120
ASKED_FOR_EACH_SLOT = 2  # one is under way, and one waits until that has ended
LEAD_SECONDS = 60  # migrations begin so long before fio does: until all slots are full
LOOK_SECONDS = 1.0


def schedule(rates: Mapping[str, int], seconds: Mapping[str, int], **options: Any) -> list[Timed]:
    """All runs of fio, in the order of MigrationLoadRecord.PHASES. rates and seconds: by load."""
    timed: list[Timed] = []
    for name in MigrationLoadRecord.PHASES:
        state, load, direction = name.split("-")
        job = Job(name, direction, iops=rates[load], runtime_seconds=seconds[load], **options)  # type: ignore[arg-type]
        before = timed[-1].job.name.split("-")[:2] if timed else [state, load]
        gap = GAP_SECONDS if before == [state, load] else QUIET_SECONDS
        timed.append(Timed(job, timed[-1].end_seconds + gap if timed else 0.0))
    return timed


def moving_spans(timed: Sequence[Timed]) -> dict[str, tuple[float, float]]:
    """When fio runs while VMs are migrated, by load: from the start of its first run to the end of its last, in seconds after the barrier."""
    found = {}
    for load in MigrationLoadRecord.LOADS:
        runs = [each for each in timed if each.job.name.startswith(f"moving-{load}-")]
        found[load] = (runs[0].at_seconds, runs[-1].end_seconds)
    return found


async def migration_load(
    cluster: Cluster,
    workload: Workload,
    fleet: Fleet,
    clock: Clock,
    *,
    run_id: str,
    timed: Sequence[Timed],
    limits: Limits,
    parameters: Mapping[str, Any],
    on_progress: Callable[[Progress], None] | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_partial: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Take all runs. The fleet is up, and its datasets are laid out. A guest whose results cannot be had is a record that failed.
    ClusterError if it cannot be measured; on_partial has then what there is."""
    if not fleet.guests:
        raise ClusterError("a migration of no VMs measures nothing")
    work = _Work(cluster, workload, fleet, clock, run_id, timed, limits, parameters)
    try:
        await work.run(on_progress)
    except BaseException as error:
        await stop_at_once(workload)
        if on_partial and work.movements.vms:
            on_partial(work.measurement(why_cut_short(error)))
        raise
    found = work.measurement(None)
    if on_record:
        for record in found.records:
            on_record(record)
    return found


class _Work:
    def __init__(
        self,
        cluster: Cluster,
        workload: Workload,
        fleet: Fleet,
        clock: Clock,
        run_id: str,
        timed: Sequence[Timed],
        limits: Limits,
        parameters: Mapping[str, Any],
    ) -> None:
        self.cluster, self.workload, self.fleet, self.clock, self.run_id = cluster, workload, fleet, clock, run_id
        self.timed, self.limits, self.parameters = list(timed), limits, parameters
        self.movements = Movements(cluster, fleet, clock, lambda guest: False)
        self.barrier: Barrier | None = None
        self.began = clock.now()
        self.runs: Mapping[str, GuestRun] = {}
        self.refused: dict[str, str] = {}  # by VM

    async def run(self, on_progress: Callable[[Progress], None] | None) -> None:
        async with self.movements:
            self.barrier = barrier = await self.workload.start(self.timed, [guest.key for guest in self.fleet.guests])
            self.movements.begin(time.monotonic())
            end = barrier.end_epoch

            def tell(share: float) -> None:
                if on_progress:
                    on_progress(Progress(self._doing(), share, self.clock.now() - self.began))

            migrating = asyncio.create_task(self._migrate())
            try:
                waiting = asyncio.create_task(self.workload.wait(barrier, lambda share: tell(0.95 * share)))
                done, _ = await asyncio.wait((migrating, waiting), return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
                await self.movements.until(lambda: all(vm.at_rest for vm in self.movements.vms.values()), end + QUIET_SECONDS)
            finally:
                await cancel_all((migrating, waiting))
            self._follow_addresses()
            tell(0.97)
            self.runs = await self.workload.fetch(barrier, FETCH_SECONDS)

    def _doing(self) -> str:
        assert self.barrier is not None
        active = self.movements.in_flight[-1][1] if self.movements.in_flight else 0
        return doing(self.barrier, self.clock.now()) + (f", {active} migrating" if active else "")

    def _follow_addresses(self) -> None:
        """A VM on the pods' network has another address on another node."""
        for guest in self.fleet.guests:
            vmi, host = self.movements.vmis.objects.get(guest.key), self.workload.hosts.get(guest.key)
            if vmi is not None and host is not None and vmi.address and vmi.address != host.target.address:
                self.workload.hosts[guest.key] = replace(host, target=replace(host.target, address=vmi.address))

    # -- migrations -------------------------------------------------------------------------------------------------

    async def _migrate(self) -> None:
        """Keep the cluster's slots full during the runs that are named `moving`, by migrating the fleet's first VMs again and again."""
        assert self.barrier is not None
        chosen = self.fleet.guests[: ASKED_FOR_EACH_SLOT * self.limits.per_cluster]
        for start, end in moving_spans(self.timed).values():
            await self.clock.sleep(self.barrier.epoch + start - LEAD_SECONDS - self.clock.now())
            async with asyncio.TaskGroup() as group:
                for guest in chosen:
                    group.create_task(self._again_and_again(guest, self.barrier.epoch + end))

    async def _again_and_again(self, guest: Guest, until: float) -> None:
        """One migration of this VM after the other, until the time is over, or one is refused. The last one is not waited for."""
        vm = self.movements.vms[guest.key]
        while self.clock.now() < until and guest.key not in self.refused:
            if vm.at_rest:
                try:
                    uid = (await self._ask(guest))["metadata"]["uid"]
                except ApiError as error:
                    self.refused[guest.key] = error.message
                    return
                while uid not in vm.attempts and self.clock.now() < until:
                    await self.clock.sleep(LOOK_SECONDS)
            await self.clock.sleep(LOOK_SECONDS)

    async def _ask(self, guest: Guest) -> Any:
        manifest = live_migration(guest, self.run_id, self.fleet.name)
        # Once: a name that the server makes up cannot be told from that of a try which got no answer.
        answer = await self.cluster.send("POST", resource_path("kubevirt.io/v1", "virtualmachineinstancemigrations", guest.namespace), body=manifest, tries=1)
        return answer.object

    # -- what was measured ------------------------------------------------------------------------------------------

    def measurement(self, incomplete: str | None) -> Measurement:
        records = tuple(self._record(guest) for guest in self.fleet.guests)
        done = self.clock.now() - self.began
        return Measurement(
            scenario=SCENARIO,
            version=VERSION,
            run_id=self.run_id,
            started_epoch=self.barrier.epoch if self.barrier else self.began,
            parameters=dict(self.parameters),
            records=records,
            deadline_seconds=self.timed[-1].end_seconds + FETCH_SECONDS,
            duration_seconds=done if any(record.succeeded for record in records) else None,
            gaps=gaps(self.movements.gaps, lambda stamp: self.clock.at(stamp) - self.began),
            details=self._details(records),
            complete=incomplete is None,
            incomplete_reason=incomplete,
            time_rate=self.clock.rate,
        )

    def _record(self, guest: Guest) -> MigrationLoadRecord:
        run = self.runs.get(guest.key) or GuestRun(guest.key, error="its results were not fetched")
        vm = self.movements.vms.get(guest.key)
        errors = [run.error] if run.error else []
        figures: dict[str, float] = {}
        overloaded, gaps = [], []
        for each in self.timed:
            name, done = each.job.name, run.jobs.get(each.job.name)
            measured = done.result.directions.get(each.job.access) if done and done.result else None
            if measured is None:
                errors += [done.error or f"{name}: fio did no I/O"] if done else []
                continue
            field = name.replace("-", "_")
            figures[f"{field}_mean_seconds"], figures[f"{field}_iops"] = measured.mean_ns / 1e9, measured.iops
            if measured.iops < ACHIEVED_SHARE * each.job.iops:
                overloaded.append(name)
            if name.startswith("moving-"):
                gaps.append(measured.max_ns / 1e9)
        if vm is not None and (vm.gone or vm.restarts):
            errors.append("its VMI is gone" if vm.gone else "it was restarted, though it is to be live migrated")
        if guest.key in self.refused:
            errors.append(f"its migration was refused: {self.refused[guest.key]}")
        attempts = list(vm.attempts.values()) if vm else []
        return MigrationLoadRecord(
            namespace=guest.namespace,
            vm_name=guest.name,
            os=guest.os,
            status=Status.FAILED if errors else Status.SUCCESS,
            requested_at=0.0,
            node=vm.node if vm else None,
            error="; ".join(errors) or None,
            request_retries=tuple(run.lost),
            longest_gap_seconds=max(gaps, default=None),
            migration_baseline_seconds=_mean(self._durations(attempts, "baseline")),
            migration_workload_seconds=_mean(self._durations(attempts, "workload")),
            migrations=sum(each.phase == "Succeeded" for each in attempts),
            failures=tuple(each.failure or "no reason given" for each in attempts if each.phase == "Failed"),
            overloaded=tuple(overloaded),
            **figures,  # type: ignore[arg-type]
        )

    def _durations(self, attempts: Sequence[Attempt], load: str) -> list[float]:
        """Of those that ran under this load from beginning to end."""
        assert self.barrier is not None
        start, end = (self.barrier.epoch + at for at in moving_spans(self.timed)[load])
        whole = [each for each in attempts if each.phase == "Succeeded" and STARTED in each.steps and ENDED in each.steps]
        return [each.steps[ENDED].at - each.steps[STARTED].at for each in whole if each.steps[STARTED].at >= start and each.steps[ENDED].at <= end]

    def _details(self, records: Sequence[MigrationLoadRecord]) -> dict[str, Any]:
        attempts = [attempt for _, attempt in self.movements.attempts()] if self.movements.vms else []
        times = {load: self._durations(attempts, load) for load in MigrationLoadRecord.LOADS} if self.barrier else {}
        means = {load: _mean(found) for load, found in times.items()}
        zero = self.barrier.epoch if self.barrier else self.began
        return {
            "phases": {each.job.name: _phase(each, records) for each in self.timed},
            "added": {f"{load}-{direction}": added(records, load, direction) for load in MigrationLoadRecord.LOADS for direction in MigrationLoadRecord.DIRECTIONS},
            "migrations": {load: {"count": len(found), "mean_seconds": means[load]} for load, found in times.items()},
            "duration_added": duration_added(records),
            "moving": {load: list(span) for load, span in moving_spans(self.timed).items()},
            "limits": asdict(self.limits),
            "most_in_flight": self.movements.most_active,
            "in_flight": [[round(stamp.at - zero, 2), active, waiting] for stamp, active, waiting in self.movements.in_flight],
            "failed_migrations": sum(len(each.failures) for each in records),
            "refused": len(self.refused),
            "object_skew_seconds": skew(each.at - each.object_epoch for attempt in attempts for each in attempt.steps.values() if each.object_epoch is not None),
        }


def _phase(timed: Timed, records: Sequence[MigrationLoadRecord]) -> dict[str, Any]:
    """One run of the whole fleet. Of the VMs that achieved their rate; how many did not is beside it."""
    name = timed.job.name
    means = [mean for record in records if (mean := record.mean_seconds(name)) is not None]
    iops = [value for record in records if (value := getattr(record, f"{name.replace('-', '_')}_iops")) is not None]
    return {
        "start_seconds": timed.at_seconds + timed.job.ramp_seconds,
        "end_seconds": timed.end_seconds,
        "reported": len(iops),
        "overloaded": sum(name in record.overloaded for record in records),
        "iops_wanted": timed.job.iops * len(records),
        "iops_achieved": sum(iops),
        "mean_seconds": _mean(means),
        "slowest_mean_seconds": max(means, default=None),
    }


def added(records: Sequence[MigrationLoadRecord], load: str, direction: str) -> dict[str, float | int | None]:
    """What migrations add to a mean latency, in percent of the same load's without: over the VMs that achieved their rate in both."""
    both = ((each.mean_seconds(f"still-{load}-{direction}"), each.mean_seconds(f"moving-{load}-{direction}")) for each in records)
    pairs = [(still, moving) for still, moving in both if still is not None and moving is not None]
    total = sum(still for still, _ in pairs)
    return {"vms": len(pairs), "percent": (sum(moving for _, moving in pairs) / total - 1) * 100 if total else None}


def duration_added(records: Sequence[MigrationLoadRecord]) -> dict[str, float | int | None]:
    """What the workload adds to the time of a migration, in percent of the baseline's: over the VMs that were migrated under both, because how
    long one takes differs more by VM than by load."""
    both = [(each.migration_baseline_seconds, each.migration_workload_seconds) for each in records]
    pairs = [(base, load) for base, load in both if base is not None and load is not None]
    total = sum(base for base, _ in pairs)
    return {"vms": len(pairs), "percent": (sum(load for _, load in pairs) / total - 1) * 100 if total else None}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
