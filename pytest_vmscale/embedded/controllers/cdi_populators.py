"""CDI's populators: fill the claims whose source is one of CDI's objects. Clones are in cdi_clones.py, imports and uploads here."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from ..api.store import Change, Key, Object
from ..queue import Workers
from .cdi_claims import CLONE, COMMON_LABELS, GROUP, IMPORT, UPLOAD
from .cdi_clones import Clones, Gone
from .cdi_profiles import StorageProfiles
from .cdi_status import FATAL, POD_PHASE, POD_RESTARTS, PROGRESS, RUNNING
from .common import Cluster, key_of, owner_reference
from .events import Recorder
from .volumes import SELECTED_NODE, gib_of, is_bound, is_populated, rebind, waits_for_consumer

BIND_NOW = f"{GROUP}/storage.bind.immediate.requested"
PREALLOCATION = f"{GROUP}/storage.preallocation.requested"


@dataclass(frozen=True)
class Failure:
    """How an import fails: what the importer says, after which share of the data, and whether it is of use to try again."""

    message: str
    share: float
    fatal: bool = False


FAILURES = {
    "not-found": Failure("Unable to connect to {source} data source: expected status code 200, got 404. Status: 404 Not Found", 0.0),
    "bad-checksum": Failure("Unable to process data: checksum validation failed: checksum mismatch", 1.0, fatal=True),
    "no-space": Failure("DataVolume too small to contain image", 0.5),
}


def parked(resources: Any, claim: Object) -> bool:
    """Whether the claim's class binds late, and there is no consumer yet, nor a wish to do without."""
    return BIND_NOW not in (claim["metadata"].get("annotations") or {}) and waits_for_consumer(resources, claim)


class Populators:
    """One task for each claim that is being filled."""

    def __init__(self, cluster: Cluster, profiles: StorageProfiles) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing: Any = cluster.timing.cdi
        kind = cluster.resources.kind
        self._claims, self._snapshots = kind("persistentvolumeclaims"), kind("volumesnapshots.snapshot.storage.k8s.io")
        self._import_sources, self._classes = kind("volumeimportsources.cdi.kubevirt.io"), kind("storageclasses.storage.k8s.io")
        self._events = Recorder(cluster)
        self._limit = asyncio.Semaphore(self._timing.workers)
        self._clones = Clones(cluster, profiles, self._limit)
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by the claim's uid
        self._waiting: dict[Key, list[asyncio.Future[None]]] = {}
        self._workers = Workers("cdi-populators", cluster.clock, self._timing.workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._claims, self._claim_changed)
        self._resources.watch(self._snapshots, lambda change: self._clones.changed(self._snapshots, change.key))
        self._resources.watch(self._classes, self._class_changed)
        for entry in self._resources.store.entries(self._claims):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _claim_changed(self, change: Change) -> None:
        self._clones.changed(self._claims, change.key)
        for future in self._waiting.pop(change.key, ()):
            if not future.done():
                future.set_result(None)
        self._workers.queue.add(change.key)

    def _class_changed(self, change: Change) -> None:
        for entry in self._resources.store.entries(self._claims):
            if b'"Pending"' in entry.raw:
                self._workers.queue.add(entry.key)

    async def _reconcile(self, key: Key) -> None:
        claim = self._resources.find(self._claims, *key)
        if claim is None or not is_populated(claim):
            return
        meta = claim["metadata"]
        if "deletionTimestamp" in meta:
            self._give_up(claim)
        elif not is_bound(claim) and not parked(self._resources, claim) and meta["uid"] not in self._tasks:
            self._run(meta["uid"], self._fill(claim))

    def _run(self, uid: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[uid] = asyncio.create_task(work, name=f"cdi {uid}")
        task.add_done_callback(lambda _: self._tasks.pop(uid, None))

    def _give_up(self, claim: Object) -> None:
        """The target is being deleted: what was made for it goes, and the finalizer that keeps it."""
        task = self._tasks.get(claim["metadata"]["uid"])
        if task is not None:
            task.cancel()
        if claim["spec"]["dataSourceRef"]["kind"] == CLONE:
            self._clones.give_up(claim)

    async def _fill(self, claim: Object) -> None:
        try:
            match claim["spec"]["dataSourceRef"]["kind"]:
                case "VolumeCloneSource":
                    await self._clones.fill(claim)
                case "VolumeImportSource" | "VolumeUploadSource" as kind:
                    await self._populate(claim, upload=kind == UPLOAD)
        except Gone:
            return

    # Imports and uploads: a claim that is filled in the target's place, and a pod that fills it.

    async def _populate(self, target: Object, upload: bool) -> None:
        key, uid = key_of(target), target["metadata"]["uid"]
        queued = self._clock.now()
        prime = (key[0], f"prime-{uid}")
        source = {} if upload else await self._source(target)
        await self._clock.sleep(self._timing.schedule_seconds)
        self._prime(self._live(key, uid), prime, UPLOAD if upload else IMPORT)
        self._annotate(key, uid, {f"{GROUP}/storage.pvcPrime": prime[1], POD_PHASE: "Pending"})
        while not is_bound(self._resources.find(self._claims, *prime)):
            future = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(prime, []).append(future)
            await future
            self._live(key, uid)
        await self._clock.sleep(self._timing.pod_start_seconds)
        started = self._clock.now()
        if upload:
            self._annotate(key, uid, {POD_PHASE: "Running", f"{GROUP}/storage.pod.ready": "true", **running("true", "Pod is running")})
            await asyncio.Event().wait()  # for data that nobody can send to this cluster
        if not await self._import(key, uid, source):
            return
        ended = self._clock.now()
        await self._clock.sleep(self._timing.rebind_seconds)
        target, filled = self._live(key, uid), self._resources.find(self._claims, *prime)
        if filled is not None:
            rebind(self._cluster, filled, target)
            self._resources.delete(self._claims, *prime)
        self._annotate(key, uid, {POD_PHASE: "Succeeded", PROGRESS: "100.0%", **running("false", "Completed", "Import Complete")})
        self._cluster.truth.write("data-volume-imported", *key, queued=round(queued, 4), started=round(started, 4), ended=round(ended, 4))

    async def _source(self, target: Object) -> Object:
        key, uid = key_of(target), target["metadata"]["uid"]
        while (found := self._resources.find(self._import_sources, key[0], target["spec"]["dataSourceRef"]["name"])) is None:
            await self._clock.sleep(self._timing.retry_seconds)
            self._live(key, uid)
        source: Object = found["spec"].get("source") or {}
        return source

    def _prime(self, target: Object, prime: Key, populator: str) -> None:
        if self._resources.find(self._claims, *prime):
            return
        meta, spec = target["metadata"], target["spec"]
        annotations = {BIND_NOW: "", f"{GROUP}/storage.populator.kind": populator, f"{GROUP}/storage.contentType": "kubevirt", PREALLOCATION: "false"}
        claim = {"metadata": {"namespace": prime[0], "name": prime[1], "annotations": annotations,
                              "labels": {**COMMON_LABELS, "velero.io/exclude-from-backup": "true"}, "ownerReferences": [owner_reference(self._claims, target)]},
                 "spec": {name: spec[name] for name in ("accessModes", "resources", "storageClassName", "volumeMode") if name in spec},
                 "status": {"phase": "Pending"}}
        if waits_for_consumer(self._resources, claim):
            chosen = (meta.get("annotations") or {}).get(SELECTED_NODE)
            annotations[SELECTED_NODE] = chosen or self._clones.any_node(meta["uid"])
        self._resources.create(self._claims, claim)
        self._events.event(target, "Normal", "CreatedPVCPrimeSuccessfully", "PVC Prime created successfully", "import-populator")

    async def _import(self, key: Key, uid: str, source: Object) -> bool:
        """Run the importer until it succeeds. False if it fails for good."""
        restarts, backoff = 0, self._timing.importer_backoff_first_seconds
        kind = next(iter(source), "blank")
        while True:
            self._annotate(key, uid, {POD_PHASE: "Running", POD_RESTARTS: str(restarts), **running("true", "Pod is running")})
            name = self._cluster.faults.import_failure(*key) if kind != "blank" else None
            failure = FAILURES[name] if name else None
            await self._transfer(key, uid, kind, failure.share if failure else 1.0)
            if failure is None:
                return True
            message = failure.message.format(source=kind)
            if failure.fatal:
                self._annotate(key, uid, {POD_PHASE: "Failed", FATAL: "true", **running("false", "Error", message)})
                return False
            restarts += 1
            self._annotate(key, uid, {POD_RESTARTS: str(restarts), **running("false", "Error", message)})
            await self._clock.sleep(backoff)
            backoff = min(2 * backoff, self._timing.importer_backoff_most_seconds)

    async def _transfer(self, key: Key, uid: str, kind: str, share: float) -> None:
        """Fetch so much of the image, and say how far it is."""
        if kind == "blank":
            await self._clock.sleep(self._timing.blank_seconds)
            return
        target, network = self._live(key, uid), self._cluster.ceph.network
        gib = gib_of(target["spec"]["resources"]["requests"]["storage"]) * self._cluster.timing.ceph.data_share * share
        if not gib:
            return
        transfer = network.start(gib, self._clones.any_node(uid), most=self._timing.import_gib_per_second)
        try:
            while not transfer.done.done():
                await self._clock.sleep(self._timing.progress_seconds)
                done = network.share_done(transfer)
                if done < 1.0:
                    self._annotate(key, uid, {PROGRESS: f"{100 * share * done:.2f}%"})
        finally:
            network.stop(transfer)
        if share == 1.0:
            self._cluster.ceph.fill(f"pvc-{self._resources.get(self._claims, key[0], f'prime-{uid}')['metadata']['uid']}", gib)

    def _live(self, key: Key, uid: str) -> Object:
        claim = self._resources.find(self._claims, *key)
        if claim is None or claim["metadata"]["uid"] != uid or "deletionTimestamp" in claim["metadata"]:
            raise Gone
        return claim

    def _annotate(self, key: Key, uid: str, annotations: dict[str, str]) -> None:
        self._live(key, uid)
        self._resources.modify(self._claims, *key, lambda claim: claim["metadata"].setdefault("annotations", {}).update(annotations))


def running(value: str, reason: str, message: str = "") -> dict[str, str]:
    return {RUNNING: value, f"{RUNNING}.reason": reason, f"{RUNNING}.message": message}


