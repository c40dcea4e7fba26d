"""CDI: from a DataVolume to a claim with the data in it, and a StorageProfile for each StorageClass."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, owner_reference, set_condition
from .events import Recorder
from .volumes import SELECTED_NODE, bind

COMPONENT = "datavolume-controller"
BIND_NOW = "cdi.kubevirt.io/storage.bind.immediate.requested"
RBD_CLAIMS = [{"accessModes": ["ReadWriteMany"], "volumeMode": "Block"}, {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block"},
              {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"}]

# The steps of each way to fill a volume, and which entry of the profile says how long the long one takes.
CLONES = {
    "csi-clone": ("CSICloneInProgress", "PrepClaimInProgress", "RebindInProgress"),
    "snapshot": ("SnapshotForSmartCloneInProgress", "CloneFromSnapshotSourceInProgress", "PrepClaimInProgress", "RebindInProgress"),
    "copy": ("CloneInProgress", "RebindInProgress"),
}
SHORT_STEPS = ("PrepClaimInProgress", "RebindInProgress", "SnapshotForSmartCloneInProgress")

# The golden images of the reference's fleets, there before anybody asks.
GOLDEN = (("rhel-dv", "http://images.example.com/rhel8.qcow2"), ("win10-dv", "http://images.example.com/win10.qcow2"))
GOLDEN_NAMESPACE, GOLDEN_CLASS, GOLDEN_SIZE = "default", "ocs-external-storagecluster-ceph-rbd", "40Gi"


class DataVolumes:
    """Makes each DataVolume's claim and fills it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing: Any = cluster.timing.cdi
        kind = cluster.resources.kind
        self._data_volumes, self._claims = kind("datavolumes.cdi.kubevirt.io"), kind("persistentvolumeclaims")
        self._classes = kind("storageclasses.storage.k8s.io")
        self._profiles, self._snapshot_classes = kind("storageprofiles.cdi.kubevirt.io"), kind("volumesnapshotclasses.snapshot.storage.k8s.io")
        self._events = Recorder(cluster)
        self._clones, self._imports = asyncio.Semaphore(self._timing.parallel_clones), asyncio.Semaphore(self._timing.parallel_imports)
        self._filling: dict[str, asyncio.Task[None]] = {}  # by the DataVolume's uid
        self._workers = Workers("cdi", cluster.clock, self._timing.workers, self._reconcile)

    def start(self) -> None:
        for name, url in GOLDEN:
            self._create_golden(name, url)
        self._resources.watch(self._classes, lambda change: self._profile(change.key[1]))
        self._resources.watch(self._profiles, lambda change: self._workers.queue.add(("profile", change.key[1])))
        for entry in self._resources.store.entries(self._classes):
            self._profile(entry.key[1])
        self._resources.watch(self._data_volumes, lambda change: self._workers.queue.add(change.key))
        self._resources.watch(self._claims, self._claim_changed)
        for entry in self._resources.store.entries(self._data_volumes):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()
        tasks = list(self._filling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _claim_changed(self, change: Change) -> None:
        self._workers.queue.add(change.key)  # a DataVolume's claim has its name
        if change.old is None:  # maybe the source that clones wait for
            for entry in self._resources.store.entries(self._data_volumes):
                if b'"Pending"' in entry.raw:
                    self._workers.queue.add(entry.key)

    # DataVolumes.

    async def _reconcile(self, key: Key) -> None:
        if key[0] == "profile":
            self._profile(key[1])
            return
        data_volume = self._resources.find(self._data_volumes, *key)
        if data_volume is None or "deletionTimestamp" in data_volume["metadata"] or _phase(data_volume) in ("Succeeded", "Failed"):
            return
        claim = self._resources.find(self._claims, *key)
        if claim is None:
            if self._source_missing(data_volume):
                self._report(data_volume, "Pending", "Pending")
                return
            claim = self._resources.create(self._claims, self._claim_for(data_volume))
            self._events.event(data_volume, "Normal", "Pending", f"PVC {key[1]} Pending", COMPONENT)
        if claim.get("status", {}).get("phase") != "Bound" and self._waits_for_consumer(claim):
            self._report(data_volume, "WaitForFirstConsumer", "Pending")
            return
        uid = data_volume["metadata"]["uid"]
        if uid not in self._filling:
            task = asyncio.create_task(self._fill(key, uid), name=f"cdi {key[0]}/{key[1]}")
            self._filling[uid] = task
            task.add_done_callback(lambda _: self._filling.pop(uid, None))

    def _source_missing(self, data_volume: Object) -> bool:
        source = self._source_claim(data_volume)
        if source is None or self._resources.find(self._claims, *source):
            return False
        self._events.event(data_volume, "Warning", "CloneSourceMissing", f"The source PVC {source[0]}/{source[1]} doesn't exist", COMPONENT)
        return True

    def _source_claim(self, data_volume: Object) -> Key | None:
        """The claim to clone from, by the source itself or by the DataSource it refers to."""
        spec, namespace = data_volume["spec"], data_volume["metadata"]["namespace"]
        source = spec.get("source") or {}
        reference = spec.get("sourceRef")
        if reference:
            found = self._resources.find(self._resources.kind("datasources.cdi.kubevirt.io"), reference.get("namespace") or namespace, reference["name"])
            source = (found or {}).get("spec", {}).get("source") or {"pvc": {"namespace": namespace, "name": reference["name"]}}
        if "pvc" not in source:
            return None
        return source["pvc"].get("namespace") or namespace, source["pvc"]["name"]

    def _claim_for(self, data_volume: Object) -> Object:
        meta, spec = data_volume["metadata"], data_volume["spec"]
        literal = "pvc" in spec
        asked = copy.deepcopy(spec.get("pvc") or spec.get("storage") or {})
        asked.setdefault("storageClassName", self._default_class())
        if not literal:
            best = (self._profile_of(asked["storageClassName"]).get("claimPropertySets") or [{}])[0]
            asked.setdefault("accessModes", best.get("accessModes") or ["ReadWriteOnce"])
            asked.setdefault("volumeMode", best.get("volumeMode") or "Filesystem")
        asked.setdefault("volumeMode", "Filesystem")
        source = self._source_claim(data_volume)
        if not (asked.get("resources") or {}).get("requests", {}).get("storage") and source:
            origin = self._resources.get(self._claims, *source)
            asked.setdefault("resources", {}).setdefault("requests", {})["storage"] = origin["spec"]["resources"]["requests"]["storage"]
        annotations = {**(meta.get("annotations") or {}), "cdi.kubevirt.io/storage.contentType": spec.get("contentType", "kubevirt"),
                       "cdi.kubevirt.io/storage.pod.restarts": "0", "cdi.kubevirt.io/storage.preallocation.requested": "false"}
        if source:
            annotations["k8s.io/CloneRequest"] = f"{source[0]}/{source[1]}"
        return {"metadata": {"name": meta["name"], "namespace": meta["namespace"], "annotations": annotations,
                             "labels": {**(meta.get("labels") or {}), "app": "containerized-data-importer", "app.kubernetes.io/component": "storage",
                                        "app.kubernetes.io/managed-by": "cdi-controller"},
                             "ownerReferences": [owner_reference(self._data_volumes, data_volume)]},
                "spec": asked, "status": {"phase": "Pending"}}

    def _waits_for_consumer(self, claim: Object) -> bool:
        annotations = claim["metadata"].get("annotations") or {}
        if BIND_NOW in annotations or SELECTED_NODE in annotations:
            return False
        found = self._resources.find(self._classes, "", claim["spec"].get("storageClassName") or "")
        return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"

    async def _fill(self, key: Key, uid: str) -> None:
        """Put the data in, and bind the claim. A slot of those that the storage has is waited for."""
        data_volume = self._live(key, uid)
        if data_volume is None:
            return
        source = self._source_claim(data_volume)
        self._report(data_volume, _scheduled(data_volume), "Pending")
        await self._clock.sleep(self._timing.schedule_seconds)
        if source:
            await self._clone(key, uid, self._strategy(data_volume))
        else:
            await self._import(key, uid)
        done = self._live(key, uid)
        if done is None:
            return
        self._report(done, "Succeeded", "Completed", progress="100.0%")
        what = "Cloned from" if source else "Imported into"
        self._events.event(done, "Normal", "CloneSucceeded" if source else "ImportSucceeded",
                           f"Successfully cloned from {source[0]}/{source[1]} into {key[0]}/{key[1]}" if source else f"Successfully imported into PVC {key[1]}",
                           COMPONENT)
        self._cluster.truth.write("data-volume-succeeded", *key, how=what.split()[0].lower())

    async def _clone(self, key: Key, uid: str, strategy: str) -> None:
        async with self._clones:
            for step in CLONES[strategy]:
                data_volume = self._live(key, uid)
                if data_volume is None:
                    return
                self._report(data_volume, step, "CloneInProgress")
                if self._cluster.faults.stuck_clone(*key):
                    await asyncio.Event().wait()
                await self._clock.sleep(self._timing.rebind_seconds if step in SHORT_STEPS else self._timing.clone_seconds[strategy])
                if step not in SHORT_STEPS:
                    self._bind(key, uid)

    async def _import(self, key: Key, uid: str) -> None:
        async with self._imports:
            data_volume = self._live(key, uid)
            if data_volume is None:
                return
            await self._clock.sleep(self._timing.bind_seconds)
            self._bind(key, uid)
            blank = "blank" in (data_volume["spec"].get("source") or {})
            seconds = self._timing.blank_seconds if blank else self._timing.import_seconds
            for share in range(4):
                data_volume = self._live(key, uid)
                if data_volume is None:
                    return
                self._report(data_volume, "ImportInProgress", "TransferRunning", progress=f"{25.0 * share:.2f}%")
                await self._clock.sleep(seconds / 4)

    def _bind(self, key: Key, uid: str) -> None:
        """The volume is there: bind the claim to it, if it is not."""
        claim = self._resources.find(self._claims, *key)
        if self._live(key, uid) and claim and claim.get("status", {}).get("phase") != "Bound" and "deletionTimestamp" not in claim["metadata"]:
            bind(self._cluster, claim)

    def _live(self, key: Key, uid: str) -> Object | None:
        data_volume = self._resources.find(self._data_volumes, *key)
        return data_volume if data_volume and data_volume["metadata"]["uid"] == uid and "deletionTimestamp" not in data_volume["metadata"] else None

    def _strategy(self, data_volume: Object) -> str:
        """The profile's, if it is one that the class can do: without a snapshot class it is a copy through pods."""
        claim = self._resources.find(self._claims, data_volume["metadata"]["namespace"], data_volume["metadata"]["name"])
        name = (claim or {}).get("spec", {}).get("storageClassName") or self._default_class()
        return str(self._profile_of(name).get("cloneStrategy") or "copy")

    def _report(self, data_volume: Object, phase: str, reason: str, progress: str | None = None) -> None:
        """Bring its status up to this phase."""
        meta = data_volume["metadata"]
        now = self._clock.timestamp()
        done, bound = phase == "Succeeded", self._bound(meta)

        def change(data_volume: Object) -> None:
            status = data_volume.setdefault("status", {})
            if _phase(data_volume) == "Succeeded":
                return
            status["phase"], status["claimName"] = phase, meta["name"]
            if progress is not None or "progress" not in status:
                status["progress"] = progress or "N/A"
            running = phase.endswith("InProgress")
            for type_, value, why in (("Bound", bound, "Bound" if bound else "Pending"), ("Running", running, reason),
                                      ("Ready", done, "" if done else "TransferRunning" if running else "")):
                message = f"PVC {meta['name']} {'Bound' if bound else 'Pending'}" if type_ == "Bound" else ""
                if set_condition(status, type_, "True" if value else "False", now, why, message):
                    found = next(each for each in status["conditions"] if each["type"] == type_)
                    found["lastHeartbeatTime"] = now

        before = _phase(data_volume)
        self._resources.modify(self._data_volumes, meta["namespace"], meta["name"], change, subresource="status")
        if phase != before and not done:
            self._events.event(data_volume, "Normal", phase, f"{phase}: {meta['namespace']}/{meta['name']}", COMPONENT)

    def _bound(self, meta: Object) -> bool:
        claim = self._resources.find(self._claims, meta["namespace"], meta["name"])
        return claim is not None and claim.get("status", {}).get("phase") == "Bound"

    # StorageProfiles.

    def _default_class(self) -> str:
        classes = self._resources.list(self._classes)
        chosen = [each for each in classes if (each["metadata"].get("annotations") or {}).get("storageclass.kubernetes.io/is-default-class") == "true"]
        return str((chosen or classes)[0]["metadata"]["name"]) if classes else ""

    def _profile_of(self, storage_class: str) -> Object:
        profile = self._resources.find(self._profiles, "", storage_class)
        return (profile or {}).get("status") or {}

    def _profile(self, name: str) -> None:
        """Make or update a StorageClass's profile: what its spec asks for, else what is known of its provisioner."""
        storage_class = self._resources.find(self._classes, "", name)
        if storage_class is None:
            return
        if self._resources.find(self._profiles, "", name) is None:
            self._resources.create(self._profiles, {
                "metadata": {"name": name, "labels": {"app": "containerized-data-importer", "cdi.kubevirt.io": ""},
                             "ownerReferences": [{"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDI", "name": "cdi-kubevirt-hyperconverged",
                                                  "uid": self._cdi_uid(), "controller": True, "blockOwnerDeletion": True}]}, "spec": {}})
        snapshots = any(each.get("driver") == storage_class["provisioner"] for each in self._resources.list(self._snapshot_classes))

        def change(profile: Object) -> None:
            spec = profile.get("spec") or {}
            asked = spec.get("cloneStrategy") or self._timing.default_clone_strategy
            known = RBD_CLAIMS if storage_class["provisioner"].endswith(".rbd.csi.ceph.com") else []
            status: Object = {"storageClass": name, "provisioner": storage_class["provisioner"],
                              "cloneStrategy": "copy" if asked == "snapshot" and not snapshots else asked}
            sets = spec.get("claimPropertySets") or known
            if sets:
                status["claimPropertySets"] = sets
            profile["status"] = status

        self._resources.modify(self._profiles, "", name, change, subresource="status")

    def _cdi_uid(self) -> str:
        found = self._resources.list(self._resources.kind("cdis.cdi.kubevirt.io"))
        return str(found[0]["metadata"]["uid"]) if found else ""

    # The golden images.

    def _create_golden(self, name: str, url: str) -> None:
        now = self._clock.timestamp()
        meta = {"name": name, "namespace": GOLDEN_NAMESPACE}
        asked = {"accessModes": ["ReadWriteMany"], "volumeMode": "Block", "storageClassName": GOLDEN_CLASS,
                 "resources": {"requests": {"storage": GOLDEN_SIZE}}}
        data_volume = self._resources.create(self._data_volumes, {
            "metadata": dict(meta), "spec": {"source": {"http": {"url": url}}, "pvc": copy.deepcopy(asked)},
            "status": {"phase": "Succeeded", "progress": "100.0%", "claimName": name, "conditions": [
                {"type": type_, "status": status, "lastTransitionTime": now, "lastHeartbeatTime": now, **({"reason": reason} if reason else {}),
                 **({"message": message} if message else {})}
                for type_, status, reason, message in (("Bound", "True", "Bound", f"PVC {name} Bound"), ("Running", "False", "Completed", "Import Complete"),
                                                       ("Ready", "True", "", ""))]}})
        bind(self._cluster, self._resources.create(self._claims, self._claim_for(data_volume)))


def _phase(data_volume: Object) -> str:
    return str(data_volume.get("status", {}).get("phase", ""))


def _scheduled(data_volume: Object) -> str:
    spec = data_volume["spec"]
    clones = "pvc" in (spec.get("source") or {}) or "sourceRef" in spec
    return "CloneScheduled" if clones else "ImportScheduled"


