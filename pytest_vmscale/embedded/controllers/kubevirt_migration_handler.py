"""The virt-handlers' part of a migration: the target makes ready, the source's memory goes over, and the guest goes on there."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from ..api.store import Change, Key, Object
from ..guests import Guest, Guests
from .common import Cluster, decoded
from .kubevirt_client import NODE_LABEL, is_deleting, is_final
from .kubevirt_config import migration_config
from .kubevirt_handler import VirtHandlers
from .kubevirt_migration import state_of
from .kubevirt_migration_network import Network, Stream
from .kubevirt_pod import guest_memory_bytes

GIB = 1024**3
PROXY_PORTS = (32768, 60999)  # the target's virt-handler listens on one of its own, and passes it on to its launcher's socket (0)


class Failed(Exception):
    """The migration has failed, for this reason; the guest runs on where it was."""


class Over(Exception):
    """There is nothing left to migrate: the VMI is gone or ends, or its source has no power any more."""


@dataclass
class Job:
    """One migration, as the virt-handlers see it."""

    key: Key
    vmi_uid: str
    uid: str
    source: str
    target: str
    source_pod: str
    target_pod: str
    aborted: asyncio.Event


class MigrationHandlers:
    """Goes by each VMI's migrationState, as soon as it names a target."""

    def __init__(self, cluster: Cluster, guests: Guests, handlers: VirtHandlers) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._guests, self._handlers, self._timing = guests, handlers, cluster.timing.migration
        self._vmis, self._nodes = cluster.resources.kind("virtualmachineinstances.kubevirt.io"), cluster.resources.kind("nodes")
        self._network = Network(cluster.clock, self._timing.node_link_bytes_per_second)
        self._jobs: dict[str, Job] = {}  # by the migration's uid
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._resources.watch(self._vmis, self._changed)

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, change: Change) -> None:
        vmi = decoded(change.new)
        state = vmi.get("status", {}).get("migrationState") or {}
        uid = state.get("migrationUid")
        if not uid or state.get("completed"):
            return
        job = self._jobs.get(uid)
        if job is not None:
            if state.get("abortRequested"):
                job.aborted.set()
        elif change.type != "DELETED" and state.get("targetNode") and not is_deleting(vmi):
            job = self._jobs[uid] = Job(change.key, vmi["metadata"]["uid"], uid, state["sourceNode"], state["targetNode"],
                                        state.get("sourcePod", ""), state["targetPod"], asyncio.Event())
            task = asyncio.create_task(self._run(job), name=f"migration {uid}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job) -> None:
        pool: Any = getattr(self._cluster, "pool", None)
        try:
            await self._prepare(job)
            guest = await self._begin(job)
            downtime = await self._transfer(job, guest)
            if pool is not None:
                pool.paused(job.key, downtime)
            await self._finish(job, guest, downtime)
        except Failed as failure:
            await self._fail(job, str(failure))
        except Over:
            self._cluster.hosts.pod_exited(job.key[0], job.target_pod, 0)
        finally:
            del self._jobs[job.uid]

    def _vmi(self, job: Job) -> Object:
        """The VMI while there is something to migrate."""
        vmi = self._resources.find(self._vmis, *job.key)
        if vmi is None or vmi["metadata"]["uid"] != job.vmi_uid or is_deleting(vmi) or is_final(vmi) or not self._cluster.hosts.is_up(job.source):
            raise Over
        return vmi

    async def _write(self, job: Job, node: str, **fields: Any) -> None:
        """Add to the migrationState, from this node's virt-handler."""

        def change(vmi: Object) -> None:
            state_of(vmi, job.uid).update(fields)

        await self._handlers.client(node).modify(self._vmis, *job.key, change)

    def _check(self, job: Job) -> Object:
        vmi = self._vmi(job)
        state = state_of(vmi, job.uid)
        if not state or state.get("completed"):
            raise Over
        if not self._cluster.hosts.is_up(job.target):
            raise Failed("error encountered during MigrateToURI3 libvirt api call: virError(Code=38, Domain=7, "
                         "Message='Cannot recv data: Connection reset by peer')")
        return vmi

    # The steps.

    async def _prepare(self, job: Job) -> None:
        await self._clock.sleep(self._timing.prepare_target_seconds)
        vmi = self._check(job)
        client, address = self._handlers.client(job.target), self._address(job.target)
        ports = {str(random.Random(job.uid).randint(*PROXY_PORTS)): 0}
        await self._write(job, job.target, targetNodeAddress=address, targetDirectMigrationNodePorts=ports, sourceState={},
                          targetState={"nodeAddress": address})
        client.event(vmi, "PreparingTarget", f"Migration Target is listening at {address}, on ports: {','.join(ports)}")
        client.event(vmi, "PreparingTarget", "VirtualMachineInstance Migration Target Prepared.")

    def _address(self, node: str) -> str:
        found = self._resources.find(self._nodes, "", node) or {}
        return next((each["address"] for each in found.get("status", {}).get("addresses") or () if each["type"] == "InternalIP"), "")

    async def _begin(self, job: Job) -> Guest:
        await self._clock.sleep(self._timing.source_sync_seconds)
        vmi = self._check(job)
        guest = self._guests.find(*job.key)
        if guest is None or guest.uid != job.vmi_uid:
            raise Over
        await self._write(job, job.source, startTimestamp=self._clock.timestamp(), mode="PreCopy")
        self._handlers.client(job.source).event(vmi, "Migrating", "VirtualMachineInstance is migrating.")
        self._cluster.truth.write("migration-started", *job.key, source=job.source, target=job.target)
        return guest

    async def _transfer(self, job: Job, guest: Guest) -> float:
        """Copy the guest's memory until what it dirtied meanwhile is little enough to stop it for. Returns that pause in seconds."""
        vmi, config = self._check(job), migration_config(self._cluster)
        spec = vmi["spec"]
        most = min(self._timing.stream_bytes_per_second, config.bandwidth or float("inf"))
        stream = self._network.connect(job.source, job.target, most)
        started = self._clock.now()
        limit = config.completion_seconds_per_gib * max(1, -(-guest_memory_bytes(spec) // GIB))
        copying = asyncio.create_task(self._copy(job, guest, guest_memory_bytes(spec), stream), name=f"migration {job.uid} memory")
        aborted = asyncio.create_task(job.aborted.wait())
        deadline = asyncio.create_task(self._clock.sleep_until(started + limit))
        stuck = asyncio.create_task(self._stuck(job, config.progress_seconds))
        lost = asyncio.create_task(self._lost(job))
        waiting: list[asyncio.Task[Any]] = [copying, aborted, deadline, stuck, lost]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if copying in done:
                downtime = copying.result()
                await self._clock.sleep(downtime)
                return downtime
            for task in (lost, aborted, stuck):
                if task in done:
                    task.result()
                    raise Failed("Live migration has been aborted") if task is aborted else Failed(
                        f"Live migration stuck for {config.progress_seconds} sec and has been aborted")
            raise Failed(f"Live migration is not completed after {limit} sec and has been aborted")
        finally:
            self._network.disconnect(stream)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _copy(self, job: Job, guest: Guest, memory: float, stream: Stream) -> float:
        """Round after round, each copying what the one before left dirty."""
        timing = self._timing
        await self._clock.sleep(timing.set_up_seconds + memory / timing.scan_bytes_per_second)
        if self._cluster.faults.migration_hangs(*job.key):
            await asyncio.get_running_loop().create_future()
        left = self._touched(guest, memory)
        if self._cluster.faults.migration_fails(*job.key):
            await self._network.send(stream, left / 2)
            raise Failed("error encountered during MigrateToURI3 libvirt api call: virError(Code=1, Domain=10, "
                         "Message='internal error: qemu unexpectedly closed the monitor')")
        while True:
            at = self._clock.now()
            await self._network.send(stream, left)
            seconds = self._clock.now() - at
            left = min(self._touched(guest, memory), self._dirty_rate(job) * seconds)
            if left <= stream.rate * timing.max_downtime_seconds:
                return float(timing.switchover_seconds + left / stream.rate)

    def _touched(self, guest: Guest, memory: float) -> float:
        """Bytes of the guest's memory that are not zero: the same for each migration of a VM."""
        share, spread = self._timing.memory_touched[guest.system], self._timing.memory_touched_spread[guest.system]
        own = random.Random(f"memory {guest.namespace}/{guest.name}").uniform(1 - spread, 1 + spread)
        return min(memory, memory * float(share) * own)

    def _dirty_rate(self, job: Job) -> float:
        """Bytes a second, of the guest's own housekeeping and of its I/O."""
        pool: Any = getattr(self._cluster, "pool", None)
        iops = float(pool.iops_of(job.key)) if pool is not None else 0.0
        return float(self._timing.dirty_bytes_per_second + iops * self._timing.dirty_bytes_per_io)

    async def _stuck(self, job: Job, seconds: float) -> None:
        """Ends when nothing has moved for so long."""
        if not self._cluster.faults.migration_hangs(*job.key):
            await asyncio.get_running_loop().create_future()
        await self._clock.sleep(self._timing.set_up_seconds + seconds)

    async def _lost(self, job: Job) -> None:
        """Raises when there is nothing left to migrate, or nowhere to."""
        while True:
            await self._clock.sleep(self._timing.monitor_seconds)
            self._check(job)

    async def _finish(self, job: Job, guest: Guest, downtime: float) -> None:
        """The guest runs on the target: its virt-handler says so, and the source's launcher ends."""
        self._guests.move(guest.uid, job.target)
        now = self._clock.timestamp()
        self._cluster.truth.write("migrated", *job.key, source=job.source, target=job.target, downtime=round(downtime, 4))
        client = self._handlers.client(job.target)
        await self._write(job, job.target, targetNodeDomainDetected=True, targetNodeDomainReadyTimestamp=now)
        vmi = self._resources.find(self._vmis, *job.key)

        def arrived(vmi: Object) -> None:
            state = state_of(vmi, job.uid)
            if not state or vmi["metadata"]["uid"] != job.vmi_uid:
                return
            vmi["metadata"].setdefault("labels", {})[NODE_LABEL] = job.target
            status = vmi["status"]
            status["nodeName"] = job.target
            status.pop("evacuationNodeName", None)
            state.update(completed=True, endTimestamp=now)

        await client.modify(self._vmis, *job.key, arrived)
        if vmi is not None:
            client.event(vmi, "Migrated", f"The VirtualMachineInstance migrated to node {job.target}.")
        self._cluster.hosts.pod_exited(job.key[0], job.source_pod, 0)

    async def _fail(self, job: Job, reason: str) -> None:
        """The guest stays; the target's launcher ends."""
        now, aborted = self._clock.timestamp(), job.aborted.is_set() or reason.endswith("aborted")
        self._cluster.truth.write("migration-failed", *job.key, reason=reason)
        fields: Object = {"failed": True, "completed": True, "endTimestamp": now, "failureReason": reason}
        if aborted:
            fields["abortStatus"] = "Succeeded"
        client = self._handlers.client(job.source)
        vmi = self._resources.find(self._vmis, *job.key)
        if vmi is not None and not state_of(vmi, job.uid).get("startTimestamp"):
            fields["startTimestamp"] = now
        await self._write(job, job.source, **fields)
        if vmi is not None:
            client.event(vmi, "Migrated", f"VirtualMachineInstance migration uid {job.uid} failed. reason:{reason}", "Warning")
        self._cluster.hosts.pod_exited(job.key[0], job.target_pod, 1)
