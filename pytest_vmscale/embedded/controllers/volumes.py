"""Claims and their volumes: default class, external-provisioner, binding, release. What CDI's populators fill is theirs to bind."""

from __future__ import annotations

import asyncio
import functools

from ..api.resources import Resources
from ..api.store import Change, Key, Object
from ..ceph import CsiError, Image
from ..queue import Workers
from .common import Cluster, key_of, milli
from .events import Recorder

PROVISIONER = "openshift-storage.rbd.csi.ceph.com"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
CONTROLLER = "persistentvolume-controller"
PROTECTION, DELETION = "kubernetes.io/pv-protection", "external-provisioner.volume.kubernetes.io/finalizer"
CDI_GROUP = "cdi.kubevirt.io"
CLUSTER_ID = "0001-0011-openshift-storage-0000000000000001"


def default_class(resources: Resources) -> str | None:
    """The name of the StorageClass that claims get that name none."""
    return next((each["metadata"]["name"] for each in resources.list(resources.kind("storageclasses"))
                 if (each["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"), None)


def data_source(claim: Object) -> Object | None:
    """What the claim is to be filled from; `kind`, `name`, and `apiGroup` but for claims."""
    found: Object | None = claim["spec"].get("dataSourceRef") or claim["spec"].get("dataSource")
    return found


def is_populated(claim: Object) -> bool:
    """Whether one of CDI's populators fills it, and not the CSI driver."""
    return ((data_source(claim) or {}).get("apiGroup") or "") == CDI_GROUP


def is_bound(claim: Object | None) -> bool:
    return claim is not None and claim.get("status", {}).get("phase") == "Bound"


def is_rbd(provisioner: str) -> bool:
    return provisioner.endswith(".rbd.csi.ceph.com")


def gib_of(quantity: str) -> float:
    return milli(quantity) / 1000 / 2**30


def volume_name(claim: Object) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def waits_for_consumer(resources: Resources, claim: Object) -> bool:
    """Whether its class binds late, and nobody has chosen a node yet."""
    found = resources.find(resources.kind("storageclasses"), "", claim["spec"].get("storageClassName") or "")
    return (found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"
            and SELECTED_NODE not in (claim["metadata"].get("annotations") or {}))


def bind(cluster: Cluster, claim: Object) -> Object:
    """Make a volume for this claim and bind the two, at once. Returns the bound claim; 404 if it is not there any more."""
    resources = cluster.resources
    spec, uid, name = claim["spec"], claim["metadata"]["uid"], volume_name(claim)
    storage_class = resources.find(resources.kind("storageclasses"), "", spec.get("storageClassName", "")) or {}
    provisioner, policy = storage_class.get("provisioner", PROVISIONER), storage_class.get("reclaimPolicy", "Delete")
    if resources.find(resources.kind("persistentvolumes"), "", name) is None:
        attributes = {"imageName": f"csi-vol-{uid}", "pool": (storage_class.get("parameters") or {}).get("pool", "rbdpool")} if is_rbd(provisioner) else {}
        resources.create(resources.kind("persistentvolumes"), {
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": provisioner},
                         "finalizers": [PROTECTION, *([DELETION] if policy == "Delete" else [])]},
            "spec": {"accessModes": spec.get("accessModes", []), "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                     "volumeMode": spec.get("volumeMode", "Filesystem"), "claimRef": _reference(claim),
                     "csi": {"driver": provisioner, "volumeHandle": f"{CLUSTER_ID}-{uid}", "volumeAttributes": attributes},
                     "persistentVolumeReclaimPolicy": policy, "storageClassName": spec.get("storageClassName", "")},
            "status": {"phase": "Bound", "lastPhaseTransitionTime": cluster.clock.timestamp()}})
    return _bound(cluster, claim, name, provisioner, spec["resources"]["requests"]["storage"])


def rebind(cluster: Cluster, source: Object, target: Object) -> Object:
    """Give a claim's volume to another claim, which is bound to it then. Returns that."""
    resources, name = cluster.resources, source["spec"]["volumeName"]
    volumes = resources.kind("persistentvolumes")
    volume = resources.modify(volumes, "", name, lambda volume: volume["spec"].update(claimRef=_reference(target)))
    assert volume is not None
    return _bound(cluster, target, name, volume["spec"]["csi"]["driver"], volume["spec"]["capacity"]["storage"])


def _reference(claim: Object) -> Object:
    meta = claim["metadata"]
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}


def _bound(cluster: Cluster, claim: Object, volume: str, provisioner: str, capacity: str) -> Object:
    resources, claims, key = cluster.resources, cluster.resources.kind("persistentvolumeclaims"), key_of(claim)

    def chosen(claim: Object) -> None:
        claim["spec"]["volumeName"] = volume
        claim["metadata"].setdefault("annotations", {}).update({
            "pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes",
            "volume.beta.kubernetes.io/storage-provisioner": provisioner, "volume.kubernetes.io/storage-provisioner": provisioner})

    resources.modify(claims, *key, chosen)
    resources.modify(claims, *key, lambda claim: claim.update(status={
        "phase": "Bound", "accessModes": claim["spec"].get("accessModes", []), "capacity": {"storage": capacity}}), subresource="status")
    return resources.get(claims, *key)


class Volumes:
    """external-provisioner and the volume binder; and what follows a claim's end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock, self._ceph = cluster, cluster.resources, cluster.clock, cluster.ceph
        self._claims, self._volumes = self._resources.kind("persistentvolumeclaims"), self._resources.kind("persistentvolumes")
        self._classes, self._snapshots = self._resources.kind("storageclasses"), self._resources.kind("volumesnapshots.snapshot.storage.k8s.io")
        self._events = Recorder(cluster)
        self._provisioning: dict[str, asyncio.Task[None]] = {}  # by the claim's uid
        self._deleting: dict[str, asyncio.Task[None]] = {}  # by the volume's name
        self._workers = Workers("volumes", self._clock, cluster.timing.kubernetes.volume_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._claims, self._changed)
        self._resources.watch(self._volumes, self._volume_changed)
        self._resources.watch(self._classes, self._class_changed)
        for entry in self._resources.store.entries(self._claims):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()
        tasks = [*self._provisioning.values(), *self._deleting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._ceph.stop()

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            claim = change.new.obj
            if claim["spec"].get("volumeName"):
                self._workers.queue.add(("", claim["spec"]["volumeName"]))
        else:
            self._workers.queue.add(change.key)

    def _volume_changed(self, change: Change) -> None:
        if change.type == "MODIFIED" and b'"deletionTimestamp"' in change.new.raw:
            self._workers.queue.add(change.key)

    def _class_changed(self, change: Change) -> None:
        for entry in self._resources.store.entries(self._claims):
            self._workers.queue.add(entry.key)

    async def _reconcile(self, key: Key) -> None:
        if not key[0]:
            self._reclaim(key[1])
            return
        claim = self._resources.find(self._claims, *key)
        if claim is None or is_bound(claim) or "deletionTimestamp" in claim["metadata"] or is_populated(claim):
            return
        if "storageClassName" not in claim["spec"]:
            default = default_class(self._resources)
            if default is None:
                self._events.event(claim, "Normal", "FailedBinding", "no persistent volumes available for this claim and no storage class is set", CONTROLLER)
                return
            claim = self._resources.modify(self._claims, *key, lambda claim: claim["spec"].update(storageClassName=default)) or claim
        name = claim["spec"]["storageClassName"]
        storage_class = self._resources.find(self._classes, "", name)
        if storage_class is None:
            if name:
                self._events.event(claim, "Warning", "ProvisioningFailed", f'storageclass.storage.k8s.io "{name}" not found', CONTROLLER)
            return
        if waits_for_consumer(self._resources, claim):
            self._events.event(claim, "Normal", "WaitForFirstConsumer", "waiting for first consumer to be created before binding", CONTROLLER)
            return
        uid = claim["metadata"]["uid"]
        if uid not in self._provisioning:
            task = self._provisioning[uid] = asyncio.create_task(self._provision(key, uid, storage_class), name=f"provision {key[0]}/{key[1]}")
            task.add_done_callback(lambda _: self._provisioning.pop(uid, None))

    # Provisioning.

    def _live(self, key: Key, uid: str) -> Object | None:
        claim = self._resources.find(self._claims, *key)
        return claim if claim and claim["metadata"]["uid"] == uid and "deletionTimestamp" not in claim["metadata"] else None

    async def _provision(self, key: Key, uid: str, storage_class: Object) -> None:
        claim = self._live(key, uid)
        if claim is None:
            return
        provisioner, name = storage_class["provisioner"], volume_name(claim)
        self._events.event(claim, "Normal", "Provisioning", f'External provisioner is provisioning volume for claim "{key[0]}/{key[1]}"', provisioner)

        def failed(error: CsiError) -> bool:
            claim = self._live(key, uid)
            if claim is not None:
                self._events.event(claim, "Warning", "ProvisioningFailed",
                                   f'failed to provision volume with StorageClass "{storage_class["metadata"]["name"]}": {error}', provisioner)
            return claim is None

        try:
            await self._ceph.provisioner.call(lambda: self._create(key, uid, provisioner), failed)
        except CsiError:
            return  # nobody wants it any more
        claim = self._live(key, uid)
        if claim is None:
            await self._ceph.remove(name)
        elif not is_bound(claim):
            claim = bind(self._cluster, claim)
            self._events.event(claim, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {name}", provisioner)

    async def _create(self, key: Key, uid: str, provisioner: str) -> Image | None:
        """One CreateVolume. CsiError as the driver, or external-provisioner before it, gives it."""
        claim = self._live(key, uid)
        if claim is None:
            raise CsiError("NotFound", f"claim {key[0]}/{key[1]} is gone")
        source = data_source(claim)
        if not is_rbd(provisioner):
            if source is not None:
                what = "snapshot restore: controller CREATE_DELETE_SNAPSHOT" if source["kind"] == "VolumeSnapshot" else "clone operations: controller CLONE_VOLUME"
                raise CsiError("InvalidArgument", f"CSI driver does not support {what} capability is not reported")
            await self._clock.sleep(self._cluster.timing.kubernetes.volume_bind_seconds)
            return None
        origin = None if source is None else self._source_image(claim, source)
        image: Image = await self._ceph.create(volume_name(claim), gib_of(claim["spec"]["resources"]["requests"]["storage"]), origin)
        return image

    def _source_image(self, claim: Object, source: Object) -> str:
        namespace, name, size = claim["metadata"]["namespace"], source["name"], claim["spec"]["resources"]["requests"]["storage"]
        where = f"error getting handle for DataSource Type {source['kind']} by Name {name}"
        if source["kind"] == "VolumeSnapshot":
            snapshot = self._resources.find(self._snapshots, namespace, name)
            if snapshot is None:
                raise CsiError("Unknown", f'{where}: error getting snapshot {name} from api server: volumesnapshots.snapshot.storage.k8s.io "{name}" not found')
            status = snapshot.get("status") or {}
            if not status.get("readyToUse"):
                raise CsiError("Unknown", f"{where}: snapshot {name} is not Ready")
            if milli(size) < milli(status["restoreSize"]):
                raise CsiError("Unknown", f"{where}: requested volume size {milli(size) // 1000} is less than the size {milli(status['restoreSize']) // 1000} "
                                          f"for the source snapshot {name}")
            return f"snapshot-{snapshot['metadata']['uid']}"
        origin = self._resources.find(self._claims, namespace, name)
        if origin is None:
            raise CsiError("Unknown", f'{where}: error getting PVC {name} (namespace "{namespace}") from api server: persistentvolumeclaims "{name}" not found')
        if not is_bound(origin):
            raise CsiError("Unknown", f"{where}: the PVC {name} in namespace {namespace} is not bound")
        if milli(size) < milli(origin["spec"]["resources"]["requests"]["storage"]):
            raise CsiError("Unknown", f"{where}: error, new PVC request must be greater than or equal in size to the specified PVC data source, "
                                      f"requested {milli(size) // 1000} but source is {milli(origin['spec']['resources']['requests']['storage']) // 1000}")
        return str(origin["spec"]["volumeName"])

    # Release and deletion.

    def _reclaim(self, name: str) -> None:
        """The claim is gone, or somebody deletes the volume: it goes too, or stays Released if its policy says Retain."""
        volume = self._resources.find(self._volumes, "", name)
        if volume is None:
            return
        reference = volume["spec"].get("claimRef") or {}
        claim = self._resources.find(self._claims, reference.get("namespace", ""), reference.get("name", ""))
        if claim is not None and claim["metadata"]["uid"] == reference.get("uid"):
            return
        if volume["status"].get("phase") == "Bound":
            now = self._clock.timestamp()
            self._resources.modify(self._volumes, "", name, lambda volume: volume["status"].update(phase="Released", lastPhaseTransitionTime=now),
                                   subresource="status")
        if "deletionTimestamp" in volume["metadata"]:
            self._unprotect(name, PROTECTION)
        if volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete" and name not in self._deleting:
            task = self._deleting[name] = asyncio.create_task(self._delete(volume), name=f"delete {name}")
            task.add_done_callback(lambda _: self._deleting.pop(name, None))

    async def _delete(self, volume: Object) -> None:
        name, provisioner = volume["metadata"]["name"], volume["spec"]["csi"]["driver"]

        def failed(error: CsiError) -> None:
            self._events.event(volume, "Warning", "VolumeFailedDelete", str(error), provisioner)

        await self._ceph.deleter.call(functools.partial(self._remove, name), failed)
        self._unprotect(name, PROTECTION, DELETION)
        if self._resources.find(self._volumes, "", name):
            self._resources.delete(self._volumes, "", name)

    async def _remove(self, name: str) -> None:
        image = self._ceph.images.get(name)
        if image is not None and image.is_clone and self._cluster.faults.unpurgeable_clone(name):
            raise CsiError("Internal", f"rbd image rbdpool/{name.replace('pvc-', 'csi-vol-', 1)} is still being used")
        await self._ceph.remove(name)

    def _unprotect(self, name: str, *finalizers: str) -> None:
        def change(volume: Object) -> None:
            volume["metadata"]["finalizers"] = [each for each in volume["metadata"].get("finalizers") or () if each not in finalizers]

        self._resources.modify(self._volumes, "", name, change)
