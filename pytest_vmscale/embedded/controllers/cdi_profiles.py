"""CDI's StorageProfiles: what is known of a StorageClass's provisioner, and what somebody asked for in its stead."""

from __future__ import annotations

from typing import Any

from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, condition

RWX, RWO = "ReadWriteMany", "ReadWriteOnce"
DEFAULT_SNAPSHOT_CLASS = "snapshot.storage.kubernetes.io/is-default-class"
ADVISED_STRATEGY = "cdi.kubevirt.io/clone-strategy"  # annotation of a StorageClass

# CDI's table of provisioners, of those that this cluster knows: access and volume modes, the best first, and the advised clone strategy.
BLOCK_OR_FILES = ((RWX, "Block"), (RWO, "Block"), (RWO, "Filesystem"))
NOT_SHARED = ((RWO, "Block"), (RWO, "Filesystem"))
FILES = ((RWX, "Filesystem"), (RWO, "Filesystem"))
PROVISIONERS: dict[str, tuple[tuple[tuple[str, str], ...], str | None, str]] = {
    **dict.fromkeys(("rbd.csi.ceph.com", "rook-ceph.rbd.csi.ceph.com", "openshift-storage.rbd.csi.ceph.com"), (BLOCK_OR_FILES, "csi-clone", "snapshot")),
    **dict.fromkeys(("cephfs.csi.ceph.com", "rook-ceph.cephfs.csi.ceph.com", "openshift-storage.cephfs.csi.ceph.com"), (FILES, "csi-clone", "pvc")),
    **dict.fromkeys(("topolvm.io", "topolvm.cybozu.com"), (NOT_SHARED, "copy", "pvc")),
    "nfs.csi.k8s.io": (((RWX, "Filesystem"),), None, "pvc"),
}


class StorageProfiles:
    """One for each StorageClass, under its name."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources, self._clock = cluster.resources, cluster.clock
        kind = cluster.resources.kind
        self._classes, self._profiles = kind("storageclasses.storage.k8s.io"), kind("storageprofiles.cdi.kubevirt.io")
        self._snapshot_classes, self._cdis = kind("volumesnapshotclasses.snapshot.storage.k8s.io"), kind("cdis.cdi.kubevirt.io")
        self._workers = Workers("cdi-storage-profiles", cluster.clock, 1, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._classes, lambda change: self._workers.queue.add(change.key))
        self._resources.watch(self._profiles, lambda change: self._workers.queue.add(change.key))
        self._resources.watch(self._snapshot_classes, self._snapshot_class_changed)
        for entry in self._resources.store.entries(self._classes):
            self._sync(entry.key[1])
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _snapshot_class_changed(self, change: Change) -> None:
        for entry in self._resources.store.entries(self._classes):
            self._workers.queue.add(entry.key)

    async def _reconcile(self, key: Key) -> None:
        self._sync(key[1])

    def _sync(self, name: str) -> None:
        storage_class = self._resources.find(self._classes, "", name)
        profile = self._resources.find(self._profiles, "", name)
        if storage_class is None:
            if profile is not None:
                self._resources.delete(self._profiles, "", name)
            return
        if profile is None:
            owner = next(iter(self._resources.list(self._cdis)), None)
            references = [{"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDI", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
                           "controller": True, "blockOwnerDeletion": True}] if owner else []
            self._resources.create(self._profiles, {
                "metadata": {"name": name, "labels": {
                    "app": "containerized-data-importer", "app.kubernetes.io/component": "storage", "app.kubernetes.io/managed-by": "cdi-controller",
                    "cdi.kubevirt.io": ""}, **({"ownerReferences": references} if references else {})}, "spec": {}})
        self._resources.modify(self._profiles, "", name, lambda profile: self._set_status(profile, storage_class), subresource="status")

    def _set_status(self, profile: Object, storage_class: Object) -> None:
        spec, provisioner = profile.get("spec") or {}, storage_class["provisioner"]
        modes, _, source_format = PROVISIONERS.get(provisioner, ((), None, "pvc"))
        snapshot_class = self.snapshot_class(provisioner, spec.get("snapshotClass"))
        sets = spec.get("claimPropertySets") or [{"accessModes": [access], "volumeMode": mode} for access, mode in modes]
        if source_format == "snapshot" and snapshot_class is None:
            source_format = "pvc"
        profile["status"] = {
            **({"claimPropertySets": sets} if sets else {}),
            "cloneStrategy": self._strategy(storage_class, spec.get("cloneStrategy"), snapshot_class),
            "conditions": [self._recognized(profile, provisioner in PROVISIONERS)],
            "dataImportCronSourceFormat": spec.get("dataImportCronSourceFormat") or source_format,
            "provisioner": provisioner, **({"snapshotClass": snapshot_class} if snapshot_class else {}), "storageClass": storage_class["metadata"]["name"]}

    def _strategy(self, storage_class: Object, asked: str | None, snapshot_class: str | None) -> str:
        """What is asked for is taken as it is: whether it can be done, each clone finds out."""
        annotated = (storage_class["metadata"].get("annotations") or {}).get(ADVISED_STRATEGY)
        if asked or annotated:
            return str(asked or annotated)
        advised = PROVISIONERS.get(storage_class["provisioner"], ((), None, ""))[1] or ("snapshot" if snapshot_class else "copy")
        return "copy" if advised == "snapshot" and snapshot_class is None else advised

    def _recognized(self, profile: Object, known: bool) -> Object:
        value, reason = ("True", "RecognizedProvisioner") if known else ("False", "UnrecognizedProvisioner")
        old = condition((profile.get("status") or {}).get("conditions") or (), "Recognized")
        if old is not None and old["status"] == value:
            return old
        now = self._clock.timestamp()
        return {"type": "Recognized", "status": value, "reason": reason, "message": f"Provisioner is {'' if known else 'not '}recognized",
                "lastTransitionTime": now, "lastHeartbeatTime": now}

    def snapshot_class(self, driver: str, wanted: str | None = None) -> str | None:
        """The VolumeSnapshotClass of this driver: the wanted one, else the default one, else the first by name."""
        found: list[Any] = sorted((each for each in self._resources.list(self._snapshot_classes) if each["driver"] == driver), key=lambda each: each["metadata"]["name"])
        if wanted:
            return next((each["metadata"]["name"] for each in found if each["metadata"]["name"] == wanted), None)
        default = [each for each in found if (each["metadata"].get("annotations") or {}).get(DEFAULT_SNAPSHOT_CLASS) == "true"]
        return next((str(each["metadata"]["name"]) for each in (*default, *found)), None)

    def status(self, storage_class: str) -> Object:
        profile = self._resources.find(self._profiles, "", storage_class)
        return (profile or {}).get("status") or {}


