"""Plain claims: default class, provisioning, binding, release. Claims of DataVolumes are CDI's to populate."""

from __future__ import annotations

from ..api.resources import Resources
from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, key_of
from .events import Recorder

PROVISIONER = "openshift-storage.rbd.csi.ceph.com"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def is_populated_by_cdi(claim: Object) -> bool:
    return any(owner["kind"] == "DataVolume" for owner in claim["metadata"].get("ownerReferences") or ())


def default_class(resources: Resources) -> str | None:
    """The name of the StorageClass that claims get that name none."""
    return next((each["metadata"]["name"] for each in resources.list(resources.kind("storageclasses"))
                 if (each["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"), None)


def bind(cluster: Cluster, claim: Object) -> Object:
    """Make a volume for this claim and bind the two, at once. Returns the bound claim; 404 if it is not there any more."""
    resources, now = cluster.resources, cluster.clock.timestamp()
    claims, volumes = resources.kind("persistentvolumeclaims"), resources.kind("persistentvolumes")
    key, uid, spec = key_of(claim), claim["metadata"]["uid"], claim["spec"]
    class_name = spec.get("storageClassName", "")
    storage_class = resources.find(resources.kind("storageclasses"), "", class_name) or {}
    name, modes, size = f"pvc-{uid}", spec.get("accessModes", []), spec["resources"]["requests"]["storage"]
    if resources.find(volumes, "", name) is None:
        resources.create(volumes, {
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": storage_class.get("provisioner", PROVISIONER)},
                         "finalizers": ["kubernetes.io/pv-protection"]},
            "spec": {"accessModes": modes, "capacity": {"storage": size}, "volumeMode": spec.get("volumeMode", "Filesystem"),
                     "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": key[0], "name": key[1], "uid": uid},
                     "csi": {"driver": storage_class.get("provisioner", PROVISIONER), "volumeHandle": f"0001-0011-openshift-storage-0000000000000001-{uid}",
                             "volumeAttributes": {"pool": (storage_class.get("parameters") or {}).get("pool", "rbdpool")}},
                     "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy", "Delete"), "storageClassName": class_name},
            "status": {"phase": "Bound", "lastPhaseTransitionTime": now}})

    def bound(claim: Object) -> None:
        claim["spec"]["volumeName"] = name
        annotations = claim["metadata"].setdefault("annotations", {})
        annotations.update({"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes",
                            "volume.kubernetes.io/storage-provisioner": storage_class.get("provisioner", PROVISIONER)})

    resources.modify(claims, *key, bound)
    resources.modify(claims, *key, lambda claim: claim.update(status={
        "phase": "Bound", "accessModes": modes, "capacity": {"storage": size}}), subresource="status")
    return resources.get(claims, *key)


class Volumes:
    """external-provisioner and the volume binder, for claims that nobody else populates; and what follows a claim's end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing = cluster.timing.kubernetes
        self._claims, self._volumes = self._resources.kind("persistentvolumeclaims"), self._resources.kind("persistentvolumes")
        self._classes = self._resources.kind("storageclasses")
        self._events = Recorder(cluster)
        self._workers = Workers("volumes", self._clock, self._timing.volume_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._claims, self._changed)
        self._resources.watch(self._classes, self._class_changed)
        for entry in self._resources.store.entries(self._claims):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            name = change.new.obj["spec"].get("volumeName")
            if name:
                self._release(name)
        else:
            self._workers.queue.add(change.key)

    def _class_changed(self, change: Change) -> None:
        for entry in self._resources.store.entries(self._claims):
            self._workers.queue.add(entry.key)

    async def _reconcile(self, key: Key) -> None:
        claim = self._resources.find(self._claims, *key)
        if claim is None or claim.get("status", {}).get("phase") == "Bound" or "deletionTimestamp" in claim["metadata"] or is_populated_by_cdi(claim):
            return
        if "storageClassName" not in claim["spec"]:
            default = default_class(self._resources)
            if default is None:
                self._events.event(claim, "Normal", "FailedBinding", "no persistent volumes available for this claim and no storage class is set",
                                   "persistentvolume-controller")
                return
            claim = self._resources.modify(self._claims, *key, lambda claim: claim["spec"].update(storageClassName=default)) or claim
        name = claim["spec"]["storageClassName"]
        storage_class = self._resources.find(self._classes, "", name)
        if storage_class is None:
            if name:
                self._events.event(claim, "Warning", "ProvisioningFailed", f'storageclass.storage.k8s.io "{name}" not found', "persistentvolume-controller")
            return
        if storage_class.get("volumeBindingMode") == "WaitForFirstConsumer" and SELECTED_NODE not in (claim["metadata"].get("annotations") or {}):
            self._events.event(claim, "Normal", "WaitForFirstConsumer", "waiting for first consumer to be created before binding", "persistentvolume-controller")
            return
        provisioner = storage_class["provisioner"]
        self._events.event(claim, "Normal", "Provisioning", f'External provisioner is provisioning volume for claim "{key[0]}/{key[1]}"', provisioner)
        await self._clock.sleep(self._timing.volume_bind_seconds)
        claim = self._resources.find(self._claims, *key)
        if claim is not None and claim.get("status", {}).get("phase") != "Bound" and "deletionTimestamp" not in claim["metadata"]:
            claim = bind(self._cluster, claim)
            self._events.event(claim, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {claim['spec']['volumeName']}", provisioner)

    def _release(self, name: str) -> None:
        """The claim is gone: its volume goes too, or stays Released if the class says Retain."""
        volume = self._resources.find(self._volumes, "", name)
        if volume is None:
            return
        if volume["spec"].get("persistentVolumeReclaimPolicy") == "Retain":
            self._clock.call_later(0, lambda: self._retain(name))
        else:
            self._clock.call_later(self._timing.volume_bind_seconds, lambda: self._delete(name))

    def _retain(self, name: str) -> None:
        self._resources.modify(self._volumes, "", name, lambda volume: volume["status"].update(phase="Released"), subresource="status")

    def _delete(self, name: str) -> None:
        if self._resources.find(self._volumes, "", name):
            self._resources.modify(self._volumes, "", name, lambda volume: volume["metadata"].pop("finalizers", None))
            self._resources.delete(self._volumes, "", name)
