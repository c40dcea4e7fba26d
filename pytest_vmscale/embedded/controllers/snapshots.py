"""VolumeSnapshots: external-snapshotter and its sidecar, which have the CSI driver make them, and unmake them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..api.store import Change, Key, Object
from ..ceph import CsiError
from ..queue import Workers
from .common import Cluster, key_of, milli
from .events import Recorder
from .volumes import CLUSTER_ID, gib_of, is_bound

CONTROLLER = "snapshot-controller"
DEFAULT_CLASS = "snapshot.storage.kubernetes.io/is-default-class"


class Snapshots:
    """Makes each VolumeSnapshot's content, and what is behind it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock, self._ceph = cluster, cluster.resources, cluster.clock, cluster.ceph
        kind = cluster.resources.kind
        self._snapshots, self._contents = kind("volumesnapshots.snapshot.storage.k8s.io"), kind("volumesnapshotcontents.snapshot.storage.k8s.io")
        self._classes, self._claims = kind("volumesnapshotclasses.snapshot.storage.k8s.io"), kind("persistentvolumeclaims")
        self._volumes = kind("persistentvolumes")
        self._events = Recorder(cluster)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._workers = Workers("snapshots", self._clock, cluster.timing.kubernetes.volume_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._snapshots, self._changed)
        self._resources.watch(self._contents, self._content_changed)
        self._resources.watch(self._claims, self._claim_changed)
        for entry in self._resources.store.entries(self._snapshots):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            name = (change.new.obj.get("status") or {}).get("boundVolumeSnapshotContentName")
            if name:
                self._workers.queue.add(("", name))
        else:
            self._workers.queue.add(change.key)

    def _content_changed(self, change: Change) -> None:
        if change.type == "DELETED":
            content = change.new.obj
            if content["spec"]["deletionPolicy"] == "Delete":
                uid = content["spec"]["volumeSnapshotRef"].get("uid", "")
                self._run(f"remove {uid}", self._ceph.deleter.call(lambda: self._ceph.remove(f"snapshot-{uid}")))

    def _claim_changed(self, change: Change) -> None:
        if len(self._resources.store.entries(self._snapshots, change.key[0])) and is_bound(change.new.obj):
            for entry in self._resources.store.entries(self._snapshots, change.key[0]):
                if f'"{change.key[1]}"'.encode() in entry.raw and b'"readyToUse":true' not in entry.raw:
                    self._workers.queue.add(entry.key)

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        if name in self._tasks:
            work.close()
        else:
            task = self._tasks[name] = asyncio.create_task(work, name=name)
            task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def _reconcile(self, key: Key) -> None:
        if not key[0]:  # the content of a snapshot that is gone
            content = self._resources.find(self._contents, *key)
            if content is not None and content["spec"]["deletionPolicy"] == "Delete":
                self._resources.delete(self._contents, *key)
            return
        snapshot = self._resources.find(self._snapshots, *key)
        if snapshot is None or "deletionTimestamp" in snapshot["metadata"] or (snapshot.get("status") or {}).get("readyToUse"):
            return
        source = snapshot["spec"]["source"]
        claim_name = source.get("persistentVolumeClaimName")
        if claim_name is None:
            self._bind_existing(snapshot, source.get("volumeSnapshotContentName", ""))
            return
        claim = self._resources.find(self._claims, key[0], claim_name)
        if claim is None:
            self._fail(snapshot, "SnapshotContentCreationFailed", f"Failed to create snapshot content with error snapshot controller failed to update {claim_name} on API "
                       f'server: cannot get claim from snapshot: failed to retrieve PVC {claim_name} from the lister: "persistentvolumeclaim \\"{claim_name}\\" not found"')
            return
        if not is_bound(claim):
            self._fail(snapshot, "SnapshotContentCreationFailed", f"Failed to create snapshot content with error the PVC {claim_name} is not yet bound to a PV, will not attempt to take a snapshot")
            return
        volume = self._resources.get(self._volumes, "", claim["spec"]["volumeName"])
        snapshot_class = self._class(snapshot, volume["spec"]["csi"]["driver"])
        if snapshot_class is None:
            wanted = snapshot["spec"].get("volumeSnapshotClassName")
            if wanted:
                self._fail(snapshot, "GetSnapshotClassFailed", f'Failed to get snapshot class with error failed to retrieve snapshot class {wanted} from the informer: "volumesnapshotclass.snapshot.storage.k8s.io \\"{wanted}\\" not found"')
            else:
                self._fail(snapshot, "SetDefaultSnapshotClassFailed", "Failed to set default snapshot class with error cannot find default snapshot class")
            return
        self._run(f"snapshot {snapshot['metadata']['uid']}", self._take(snapshot, claim, volume, snapshot_class))

    def _class(self, snapshot: Object, driver: str) -> Object | None:
        name = snapshot["spec"].get("volumeSnapshotClassName")
        if name:
            return self._resources.find(self._classes, "", name)
        return next((each for each in self._resources.list(self._classes) if each["driver"] == driver
                     and (each["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"), None)

    def _fail(self, snapshot: Object, reason: str, message: str) -> None:
        now = self._clock.timestamp()
        self._events.event(snapshot, "Warning", reason, message, CONTROLLER)

        def change(snapshot: Object) -> None:
            status = snapshot.setdefault("status", {})
            if (status.get("error") or {}).get("message") != message:
                status.update(error={"message": message, "time": now}, readyToUse=False)

        self._resources.modify(self._snapshots, *key_of(snapshot), change, subresource="status")

    async def _take(self, snapshot: Object, claim: Object, volume: Object, snapshot_class: Object) -> None:
        key, uid = key_of(snapshot), snapshot["metadata"]["uid"]
        name, size = f"snapcontent-{uid}", volume["spec"]["capacity"]["storage"]
        if self._resources.find(self._contents, "", name) is None:
            self._resources.create(self._contents, {
                "metadata": {"name": name},
                "spec": {"deletionPolicy": snapshot_class["deletionPolicy"], "driver": snapshot_class["driver"],
                         "source": {"volumeHandle": volume["spec"]["csi"]["volumeHandle"]}, "sourceVolumeMode": volume["spec"]["volumeMode"],
                         "volumeSnapshotClassName": snapshot_class["metadata"]["name"],
                         "volumeSnapshotRef": {"apiVersion": self._snapshots.api_version, "kind": "VolumeSnapshot", "namespace": key[0], "name": key[1],
                                               "uid": uid, "resourceVersion": snapshot["metadata"]["resourceVersion"]}},
                "status": {"readyToUse": False}})
        if not snapshot["spec"].get("volumeSnapshotClassName"):
            self._resources.modify(self._snapshots, *key, lambda each: each["spec"].update(volumeSnapshotClassName=snapshot_class["metadata"]["name"]))
        self._update(key, uid, {"boundVolumeSnapshotContentName": name, "readyToUse": False})
        self._events.event(snapshot, "Normal", "CreatingSnapshot", f"Waiting for a snapshot {key[0]}/{key[1]} to be created by the CSI driver.", CONTROLLER)

        def failed(error: CsiError) -> bool:
            found = self._resources.find(self._snapshots, *key)
            if found is not None and found["metadata"]["uid"] == uid:
                self._fail(found, "SnapshotCreationFailed", f"Failed to check and update snapshot content: failed to take snapshot of the volume: {error}")
                return False
            return True

        source = claim["spec"]["volumeName"]
        try:
            await self._ceph.snapshotter.call(lambda: self._ceph.create(f"snapshot-{uid}", gib_of(size), source), failed)
        except CsiError:
            return
        now, moment = self._clock.timestamp(), int((self._clock.epoch + self._clock.now()) * 1e9)
        if self._resources.find(self._contents, "", name) is None:
            await self._ceph.remove(f"snapshot-{uid}")  # nobody wants it any more
            return
        self._resources.modify(self._contents, "", name, lambda content: content.update(status={
            "creationTime": moment, "readyToUse": True, "restoreSize": milli(size) // 1000, "snapshotHandle": f"{CLUSTER_ID}-{uid}"}), subresource="status")
        self._update(key, uid, {"boundVolumeSnapshotContentName": name, "creationTime": now, "readyToUse": True, "restoreSize": size})
        for reason, words in (("SnapshotCreated", "was successfully created by the CSI driver."), ("SnapshotReady", "is ready to use.")):
            self._events.event(snapshot, "Normal", reason, f"Snapshot {key[0]}/{key[1]} {words}", CONTROLLER)

    def _update(self, key: Key, uid: str, status: Object) -> None:
        def change(snapshot: Object) -> None:
            if snapshot["metadata"]["uid"] == uid:
                snapshot["status"] = status

        self._resources.modify(self._snapshots, *key, change, subresource="status")

    def _bind_existing(self, snapshot: Object, name: str) -> None:
        """A snapshot for a content that was there before it."""
        content = self._resources.find(self._contents, "", name)
        status = (content or {}).get("status") or {}
        if content is None or not status.get("readyToUse"):
            self._fail(snapshot, "SnapshotContentMissing", f"VolumeSnapshotContent is missing or not ready: {name}")
            return
        self._update(key_of(snapshot), snapshot["metadata"]["uid"], {"boundVolumeSnapshotContentName": name, "readyToUse": True,
                                                                     "restoreSize": str(status.get("restoreSize", 0)), "creationTime": self._clock.timestamp()})
