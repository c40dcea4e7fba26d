"""CDI's clone populator: chooses how a claim is cloned, and does it, by temporary claims and snapshots beside the source."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ..api.errors import ApiError
from ..api.store import Key, Object
from ..ceph import Transfer
from .cdi_claims import CLONE, COMMON_LABELS, GROUP
from .cdi_profiles import StorageProfiles
from .cdi_status import CLONE_PHASE, PROGRESS, RUNNING
from .common import Cluster, PodsByClaim, key_of, milli
from .events import Recorder
from .pods import is_finished
from .volumes import SELECTED_NODE, gib_of, is_bound, rebind, waits_for_consumer

COMPONENT = "clone-populator"
TYPE, FALLBACK, ERROR = f"{GROUP}/cloneType", f"{GROUP}/cloneFallbackReason", f"{GROUP}/cloneError"
OWNED_BY, FINALIZER = f"{GROUP}/OwnedByUID", f"{GROUP}/clonePopulator"
PERMISSIVE = f"{GROUP}/permissiveClone"
STUCK_SHARE = 0.4  # of a copy that the fault makes stick

# Why it is copied through pods after all: an event's reason, and the message that the claim keeps.
NO_SNAPSHOT_CLASS = ("NoVolumeSnapshotClass", "No compatible volumesnapshotclass found")
OTHER_PROVISIONER = ("IncompatibleProvisioners", "Provisioners are incompatible")
OTHER_MODE = ("IncompatibleVolumeModes", "The volume modes of source and target are incompatible")
NO_EXPANSION = ("NoVolumeExpansion", "No volume expansion is possible")
OTHER_DRIVER = ("NoProvisionerMatch", "The storageclass provisioner does not match the volumesnapshotcontent driver")
NO_POPULATOR = ("NoPopulator", "In tree storage class does not support snapshot/clone")


class CloneError(Exception):
    """It cannot be cloned as things are; it is tried again."""


class Gone(Exception):
    """The claim that was to be filled is not wanted any more."""


@dataclass(frozen=True)
class Job:
    """One clone. `kind` is that of the source."""

    target: Key
    uid: str
    kind: str
    source: Key

    @property
    def temporary(self) -> Key:
        return self.source[0], f"tmp-pvc-{self.uid}"

    @property
    def snapshot(self) -> Key:
        return self.source[0], f"tmp-snapshot-{self.uid}"


class Clones:
    """What it takes to clone one claim. The populators start it, and stop it."""

    def __init__(self, cluster: Cluster, profiles: StorageProfiles, limit: asyncio.Semaphore) -> None:
        """`limit`: the controller's workers, which reading the progress of many copies takes time of."""
        self._cluster, self._resources, self._clock, self._profiles, self._limit = cluster, cluster.resources, cluster.clock, profiles, limit
        self._timing: Any = cluster.timing.cdi
        kind = cluster.resources.kind
        self._claims, self._classes, self._volumes = kind("persistentvolumeclaims"), kind("storageclasses.storage.k8s.io"), kind("persistentvolumes")
        self._sources, self._snapshots = kind("volumeclonesources.cdi.kubevirt.io"), kind("volumesnapshots.snapshot.storage.k8s.io")
        self._contents, self._drivers = kind("volumesnapshotcontents.snapshot.storage.k8s.io"), kind("csidrivers")
        self._cdis, self._pods = kind("cdis.cdi.kubevirt.io"), PodsByClaim(cluster.resources)
        self._events = Recorder(cluster)
        self._waiting: dict[tuple[Any, Key], list[asyncio.Future[None]]] = {}

    def changed(self, kind: Any, key: Key) -> None:
        """Somebody may wait for this object."""
        for future in self._waiting.pop((kind, key), ()):
            if not future.done():
                future.set_result(None)

    async def _change_of(self, kind: Any, key: Key) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((kind, key), []).append(future)
        await future

    # Which way.

    def override(self) -> str | None:
        cdi = next(iter(self._resources.list(self._cdis)), {})
        return (cdi.get("spec") or {}).get("cloneStrategyOverride")

    def strategy(self, target: Object, job: Job) -> tuple[str, tuple[str, str] | None]:
        """How it is to be cloned, and why it is not as it was wanted. CloneError if that cannot be said now."""
        storage_class = self._resources.find(self._classes, "", target["spec"].get("storageClassName") or "")
        if storage_class is None:
            raise CloneError("target storage class not found")
        if self._resources.find(self._drivers, "", storage_class["provisioner"]) is None:
            return "copy", NO_POPULATOR
        return self._of_snapshot(target, storage_class, job) if job.kind == "VolumeSnapshot" else self._of_claim(target, storage_class, job)

    def _of_claim(self, target: Object, storage_class: Object, job: Job) -> tuple[str, tuple[str, str] | None]:
        source = self._resources.find(self._claims, *job.source)
        if source is None:
            self._tell(job, "Warning", "CloneWithoutSource", f"The source pvc {job.source[1]} doesn't exist")
            raise CloneError("")
        wanted, has = (milli(claim["spec"]["resources"]["requests"]["storage"]) // 1000 for claim in (target, source))
        if has > wanted and PERMISSIVE not in (target["metadata"].get("annotations") or {}):
            self._tell(job, "Warning", "CloneValidationFailed", "The clone doesn't meet the validation requirements")
            raise CloneError(f"target resources requests storage size is smaller than the source {wanted} < {has}")
        status = self._profiles.status(storage_class["metadata"]["name"])
        strategy = self.override() or status.get("cloneStrategy") or "snapshot"
        driver = self._driver(source)
        if strategy == "snapshot" and (driver != storage_class["provisioner"] or not self._snapshot_class(source, storage_class)):
            return "copy", NO_SNAPSHOT_CLASS
        if strategy == "copy":
            return strategy, None
        if driver != storage_class["provisioner"]:
            return "copy", OTHER_PROVISIONER
        if source["spec"].get("volumeMode", "Filesystem") != target["spec"].get("volumeMode", "Filesystem"):
            return "copy", OTHER_MODE
        if not is_bound(source):
            raise CloneError("source/target size info missing")
        if milli(source["status"]["capacity"]["storage"]) // 1000 < wanted and not storage_class.get("allowVolumeExpansion"):
            return "copy", NO_EXPANSION
        return strategy, None

    def _of_snapshot(self, target: Object, storage_class: Object, job: Job) -> tuple[str, tuple[str, str] | None]:
        snapshot = self._resources.find(self._snapshots, *job.source)
        if snapshot is None:
            self._tell(job, "Warning", "CloneWithoutSource", f"The source snapshot {job.source[1]} doesn't exist")
            raise CloneError("")
        status = snapshot.get("status") or {}
        content = self._resources.find(self._contents, "", status.get("boundVolumeSnapshotContentName") or "")
        if content is None or "restoreSize" not in status:
            raise CloneError("volumeSnapshotContent name not found" if content is None else "snapshot has no RestoreSize")
        if content["spec"]["driver"] != storage_class["provisioner"]:
            return "copy", OTHER_DRIVER
        wanted = milli(target["spec"]["resources"]["requests"]["storage"])
        if milli(status["restoreSize"]) < wanted and not storage_class.get("allowVolumeExpansion"):
            return "copy", NO_EXPANSION
        if content["spec"].get("sourceVolumeMode", "Filesystem") != target["spec"].get("volumeMode", "Filesystem"):
            return "copy", OTHER_MODE
        return "snapshot", None

    def _driver(self, claim: Object) -> str:
        volume = self._resources.find(self._volumes, "", claim["spec"].get("volumeName") or "")
        if volume is not None:
            return str(volume["spec"]["csi"]["driver"])
        found = self._resources.find(self._classes, "", claim["spec"].get("storageClassName") or "") or {}
        return str(found.get("provisioner", ""))

    def _snapshot_class(self, source: Object, storage_class: Object) -> str | None:
        """That of both storage classes, if they agree on one."""
        names = {self._profiles.status(name).get("snapshotClass") for name in (source["spec"].get("storageClassName", ""), storage_class["metadata"]["name"])}
        agreed = next(iter(names)) if len(names) == 1 else None
        return self._profiles.snapshot_class(storage_class["provisioner"], agreed)

    # Doing it.

    def job(self, target: Object) -> Job | None:
        """What the claim's VolumeCloneSource says; None while that is not there."""
        namespace = _source_namespace(target)
        found = self._resources.find(self._sources, namespace, target["spec"]["dataSourceRef"]["name"])
        if found is None:
            return None
        source = found["spec"]["source"]
        return Job(key_of(target), target["metadata"]["uid"], source["kind"], (namespace, source["name"]))

    async def fill(self, target: Object) -> None:
        """Clone the source into the target, however long that takes. Gone if the target goes."""
        waited = False
        queued = self._clock.now()
        while (job := self.job(target)) is None:
            await self._clock.sleep(self._timing.retry_seconds)
            self._live(key_of(target), target["metadata"]["uid"])
        while True:
            target = self._live(job.target, job.uid)
            chosen = (target["metadata"].get("annotations") or {}).get(TYPE)
            try:
                if chosen is None:
                    chosen = self._choose(target, job)
                await self._run(job, str(chosen), queued)
                return
            except (CloneError, ApiError) as error:
                if str(error) or not waited:
                    self._annotate(job, **self._running("Error" if str(error) else "Pending", str(error)))
                if "exceeded quota" in str(error):
                    self._tell(job, "Warning", "ErrExceededQuota", str(error))
                waited = True
                await self._clock.sleep(self._timing.retry_seconds)

    def _choose(self, target: Object, job: Job) -> str:
        strategy, fallback = self.strategy(target, job)
        if fallback is not None:
            self._tell(job, "Warning", *fallback)

        def change(claim: Object) -> None:
            claim["metadata"].setdefault("annotations", {}).update({TYPE: strategy, **({FALLBACK: fallback[1]} if fallback else {}), **self._running("Pending")})
            claim["metadata"].setdefault("labels", {}).update(COMMON_LABELS)
            finalizers = claim["metadata"].setdefault("finalizers", [])
            if FINALIZER not in finalizers:
                finalizers.append(FINALIZER)

        self._resources.modify(self._claims, *job.target, change)
        return strategy

    async def _run(self, job: Job, strategy: str, queued: float) -> None:
        await self._clock.sleep(self._timing.schedule_seconds)
        started = self._clock.now()
        if strategy == "copy":
            await self._copy(job)
        else:
            await self._clone(job, strategy)
        ended = self._clock.now()
        self._annotate(job, **self._running("Rebind"))
        await self._clock.sleep(self._timing.rebind_seconds)
        target, temporary = self._live(job.target, job.uid), self._resources.find(self._claims, *job.temporary)
        if temporary is None:
            raise CloneError("source claim does not exist")
        if not is_bound(target):
            rebind(self._cluster, temporary, target)
        self._annotate(job, **self._running("Succeeded"), **{PROGRESS: "100.0%", **({"k8s.io/CloneOf": "true"} if strategy == "copy" else {})})
        self._cluster.truth.write("data-volume-cloned", *job.target, strategy=strategy, source="/".join(job.source), queued=round(queued, 4),
                                  started=round(started, 4), ended=round(ended, 4))
        self.clean_up(job)

    async def _clone(self, job: Job, strategy: str) -> None:
        if strategy == "csi-clone":
            phase, source = "CSIClone", {"kind": "PersistentVolumeClaim", "name": job.source[1]}
        else:
            name = job.source[1]
            if job.kind != "VolumeSnapshot":
                await self._take_snapshot(job)
                name = job.snapshot[1]
            phase, source = "SnapshotClone", {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name}
        self._annotate(job, **self._running(phase))
        await self._stay_if_stuck_here(job)
        if strategy == "csi-clone":
            await self._source_free(job)
        await self._temporary_claim(job, source, self._source_size(job, strategy))
        self._annotate(job, **self._running("PrepClaim"))
        await self._clock.sleep(self._timing.prep_seconds)
        self._grow(job)

    def _source_size(self, job: Job, strategy: str) -> str:
        if strategy == "csi-clone":
            return str(self._resources.get(self._claims, *job.source)["status"]["capacity"]["storage"])
        snapshot = self._resources.get(self._snapshots, *(job.source if job.kind == "VolumeSnapshot" else job.snapshot))
        return str(snapshot["status"]["restoreSize"])

    async def _take_snapshot(self, job: Job) -> None:
        self._annotate(job, **self._running("Snapshot"))
        await self._stay_if_stuck_here(job)
        if self._resources.find(self._snapshots, *job.snapshot) is None:
            await self._source_free(job)
            source, target = self._resources.get(self._claims, *job.source), self._live(job.target, job.uid)
            storage_class = self._resources.get(self._classes, "", target["spec"]["storageClassName"])
            self._resources.create(self._snapshots, {
                "metadata": {"namespace": job.snapshot[0], "name": job.snapshot[1], "labels": {**COMMON_LABELS, OWNED_BY: job.uid}},
                "spec": {"source": {"persistentVolumeClaimName": job.source[1]}, "volumeSnapshotClassName": self._snapshot_class(source, storage_class)}})
        while not ((self._resources.find(self._snapshots, *job.snapshot) or {}).get("status") or {}).get("readyToUse"):
            await self._change_of(self._snapshots, job.snapshot)
            self._live(job.target, job.uid)

    async def _source_free(self, job: Job) -> None:
        """Wait until the source is filled, and no pod uses it."""
        while True:
            source = self._resources.find(self._claims, *job.source)
            users = [pod["metadata"]["name"] for pod in self._pods.using(job.source) if not is_finished(pod)]
            for name in users:
                self._tell(job, "Warning", "CloneSourceInUse", f"pod {job.source[0]}/{name} using PersistentVolumeClaim {job.source[1]}")
            if source is not None and is_bound(source) and not users:
                return
            await self._clock.sleep(self._timing.source_retry_seconds)
            self._live(job.target, job.uid)

    async def _temporary_claim(self, job: Job, source: Object | None, size: str) -> Object:
        """Make the claim that is filled in the target's place, and wait until it is bound."""
        target = self._live(job.target, job.uid)
        if self._resources.find(self._claims, *job.temporary) is None:
            meta, spec = target["metadata"], target["spec"]
            annotations = {key: value for key, value in (meta.get("annotations") or {}).items() if not key.startswith(RUNNING)}
            annotations.update({f"{GROUP}/storage.populator.kind": CLONE, f"{GROUP}/eventSourceKind": "PersistentVolumeClaim",
                                f"{GROUP}/eventSource": "/".join(job.target)})
            if source is None:
                annotations.update({"k8s.io/CloneRequest": "/".join(job.source), f"{GROUP}/ownerUID": job.uid, f"{GROUP}/storage.bind.immediate.requested": ""})
            claim = {"metadata": {"namespace": job.temporary[0], "name": job.temporary[1], "annotations": annotations,
                                  "labels": {**(meta.get("labels") or {}), OWNED_BY: job.uid, "velero.io/exclude-from-backup": "true"}},
                     "spec": {key: spec[key] for key in ("accessModes", "storageClassName", "volumeMode") if key in spec}, "status": {"phase": "Pending"}}
            claim["spec"]["resources"] = {"requests": {"storage": size}}
            if source is not None:
                claim["spec"].update(dataSource=source, dataSourceRef=dict(source))
            if waits_for_consumer(self._resources, claim):
                annotations[SELECTED_NODE] = self.any_node(job.uid)  # the pod that fills it, or prepares it, is its consumer
            self._resources.create(self._claims, claim)
        while not is_bound(found := self._resources.find(self._claims, *job.temporary)):
            if found is None:
                raise CloneError("source claim does not exist")
            await self._change_of(self._claims, job.temporary)
            self._live(job.target, job.uid)
        return found or {}

    def _grow(self, job: Job) -> None:
        """The target may ask for more than the source has: the volume is expanded before it is handed over."""
        target, temporary = self._live(job.target, job.uid), self._resources.find(self._claims, *job.temporary)
        if temporary is None:
            raise CloneError("source claim does not exist")
        wanted = target["spec"]["resources"]["requests"]["storage"]
        if milli(temporary["status"]["capacity"]["storage"]) < milli(wanted):
            self._resources.modify(self._volumes, "", temporary["spec"]["volumeName"], lambda volume: volume["spec"].update(capacity={"storage": wanted}))

    async def _copy(self, job: Job) -> None:
        """Read the source in one pod and write the target in another, through the network."""
        self._annotate(job, **self._running("HostClone"))
        target = self._live(job.target, job.uid)
        wanted = target["spec"]["resources"]["requests"]["storage"]
        await self._temporary_claim(job, None, wanted)
        if job.kind != "VolumeSnapshot":
            await self._source_free(job)
        await self._clock.sleep(self._timing.pod_start_seconds)
        gib = gib_of(wanted)
        transfer = self._cluster.ceph.network.start(gib, self.any_node(f"{job.uid} source"), self.any_node(f"{job.uid} target"))
        try:
            await self._watch_copy(job, transfer)
        finally:
            self._cluster.ceph.network.stop(transfer)
        self._cluster.ceph.fill(f"pvc-{self._resources.get(self._claims, *job.temporary)['metadata']['uid']}", gib)

    async def _watch_copy(self, job: Job, transfer: Transfer) -> None:
        stuck = self._cluster.faults.stuck_clone(*job.target)
        while not transfer.done.done():
            late = asyncio.get_running_loop().create_future()
            self._clock.call_later(self._timing.progress_seconds, lambda late=late: late.done() or late.set_result(None))  # type: ignore[misc]
            await asyncio.wait({transfer.done, late}, return_when=asyncio.FIRST_COMPLETED)
            share = self._cluster.ceph.network.share_done(transfer)
            if stuck and share >= STUCK_SHARE:
                self._cluster.ceph.network.stop(transfer)
                self._annotate(job, **{PROGRESS: f"{100 * STUCK_SHARE:.2f}%"})
                await asyncio.Event().wait()
            if share < 1.0:
                async with self._limit:
                    await self._clock.sleep(self._timing.progress_read_seconds)
                    self._annotate(job, **{PROGRESS: f"{100 * share:.2f}%"})

    def any_node(self, seed: str) -> str:
        """Where a pod of CDI's runs: any of the machines."""
        machines = sorted(self._cluster.hosts.machines)
        return machines[sum(seed.encode()) % len(machines)] if machines else "node"

    async def _stay_if_stuck_here(self, job: Job) -> None:
        if self._cluster.faults.stuck_clone(*job.target):
            await asyncio.Event().wait()

    # The target claim.

    def _live(self, key: Key, uid: str) -> Object:
        claim = self._resources.find(self._claims, *key)
        if claim is None or claim["metadata"]["uid"] != uid or "deletionTimestamp" in claim["metadata"]:
            raise Gone
        return claim

    def _tell(self, job: Job, type_: str, reason: str, message: str) -> None:
        claim = self._resources.find(self._claims, *job.target)
        if claim is not None:
            self._events.event(claim, type_, reason, message, COMPONENT)

    @staticmethod
    def _running(phase: str, error: str = "") -> dict[str, str]:
        """The annotations of a claim whose clone is in this phase."""
        value, reason, message = {"Succeeded": ("false", "Completed", "Clone Complete"), "Pending": ("false", "Pending", "Clone Pending"),
                                  "Error": ("false", "Error", error)}.get(phase, ("true", "Populator is running", ""))
        return {CLONE_PHASE: phase, RUNNING: value, f"{RUNNING}.reason": reason, f"{RUNNING}.message": message, **({ERROR: error} if error else {})}

    def _annotate(self, job: Job, **annotations: str) -> None:
        self._live(job.target, job.uid)
        self._resources.modify(self._claims, *job.target, lambda claim: claim["metadata"].setdefault("annotations", {}).update(annotations))

    def give_up(self, target: Object) -> None:
        """The target is being deleted; what told its source may be gone already."""
        self.clean_up(Job(key_of(target), target["metadata"]["uid"], "", (_source_namespace(target), "")))

    def clean_up(self, job: Job) -> None:
        """What was only needed for the clone goes, and the target's finalizer with it."""
        for kind, key in ((self._claims, job.temporary), (self._snapshots, job.snapshot)):
            if self._resources.find(kind, *key):
                self._resources.delete(kind, *key)

        def release(claim: Object) -> None:
            claim["metadata"]["finalizers"] = [each for each in claim["metadata"].get("finalizers") or () if each != FINALIZER]

        target = self._resources.find(self._claims, *job.target)
        if target is not None and target["metadata"]["uid"] == job.uid and FINALIZER in (target["metadata"].get("finalizers") or ()):
            self._resources.modify(self._claims, *job.target, release)


def _source_namespace(target: Object) -> str:
    meta = target["metadata"]
    return str((meta.get("annotations") or {}).get(f"{GROUP}/dataSourceNamespace") or meta["namespace"])
