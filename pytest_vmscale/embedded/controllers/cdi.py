"""CDI: from a DataVolume to a claim with the data in it. The claim is filled by the populators; the DataVolume says how far they are."""

from __future__ import annotations

import copy
from typing import Any

from ..api.errors import ApiError
from ..api.store import Change, Key, Object
from ..queue import Workers
from . import cdi_status
from .cdi_claims import CLONE, GROUP, IMPORT, PREFIXES, UPLOAD, ClaimNotValid, Claims, population
from .cdi_clones import TYPE
from .cdi_populators import Populators, parked
from .cdi_profiles import StorageProfiles
from .cdi_status import POD_PHASE, PROGRESS, Seen, phase_of
from .common import Cluster, key_of, milli, owner_reference
from .events import Recorder
from .quota import Quota
from .volumes import bind, gib_of, volume_name

COMPONENTS = {"pvc": "datavolume-pvc-clone-controller", "snapshot": "datavolume-snapshot-clone-controller",
              IMPORT: "datavolume-import-controller", UPLOAD: "datavolume-upload-controller"}
USE_POPULATOR = f"{GROUP}/storage.usePopulator"

# The golden images of the reference's fleets, there before anybody asks.
GOLDEN = (("rhel-dv", "http://images.example.com/rhel8.qcow2"), ("win10-dv", "http://images.example.com/win10.qcow2"))
GOLDEN_NAMESPACE, GOLDEN_CLASS, GOLDEN_SIZE = "default", "ocs-external-storagecluster-ceph-rbd", "40Gi"


class DataVolumes:
    """Makes each DataVolume's claim, and reports what becomes of it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing: Any = cluster.timing.cdi
        kind = cluster.resources.kind
        self._data_volumes, self._claims = kind("datavolumes.cdi.kubevirt.io"), kind("persistentvolumeclaims")
        self._data_sources, self._snapshots = kind("datasources.cdi.kubevirt.io"), kind("volumesnapshots.snapshot.storage.k8s.io")
        self._source_kinds = {name: kind(f"{name.lower()}s.{GROUP}") for name in (CLONE, IMPORT, UPLOAD)}
        self._events, self._wanted, self._quota = Recorder(cluster), Claims(cluster), Quota(cluster)
        self._profiles = StorageProfiles(cluster)
        self._populators = Populators(cluster, self._profiles)
        self._without_claim: set[Key] = set()
        self._workers = Workers("cdi", cluster.clock, self._timing.workers, self._reconcile)

    def start(self) -> None:
        self._profiles.start()
        for name, url in GOLDEN:
            self._create_golden(name, url)
        self._resources.watch(self._data_volumes, self._changed)
        self._resources.watch(self._claims, self._claim_changed)
        self._resources.watch(self._data_sources, self._source_changed)
        self._resources.watch(self._snapshots, self._source_changed)
        for entry in self._resources.store.entries(self._data_volumes):
            self._workers.queue.add(entry.key)
        self._workers.start()
        self._populators.start()

    async def stop(self) -> None:
        await self._workers.stop()
        await self._populators.stop()
        await self._profiles.stop()

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            self._without_claim.discard(change.key)
            return
        self._workers.queue.add(change.key)

    def _claim_changed(self, change: Change) -> None:
        self._workers.queue.add(change.key)  # a DataVolume's claim has its name
        if self._without_claim and (change.old is None or change.type == "DELETED"):
            self._source_changed(change)

    def _source_changed(self, change: Change) -> None:
        """Maybe what the DataVolumes without a claim wait for: their source, or room in a quota."""
        for key in self._without_claim:
            self._workers.queue.add(key)

    # One DataVolume.

    async def _reconcile(self, key: Key) -> None:
        data_volume = self._resources.find(self._data_volumes, *key)
        if data_volume is None or "deletionTimestamp" in data_volume["metadata"]:
            return
        if phase_of(data_volume) == "Succeeded":
            self._drop_source(data_volume)
            return
        try:
            source = self._wanted.source(data_volume)
        except LookupError:
            self._without_claim.add(key)
            return  # its DataSource brings it back
        origin, kind = self._wanted.clone_source(source, key[0]), population(source)
        claim = self._resources.find(self._claims, *key)
        refusal: tuple[str, str] | None = None
        if claim is None:
            claim, refusal = self._make_claim(data_volume, source)
        (self._without_claim.add if claim is None else self._without_claim.discard)(key)
        if claim is not None and "deletionTimestamp" in claim["metadata"]:
            return
        seen = Seen(claim, kind, claim is not None and claim["status"].get("phase") != "Bound" and parked(self._resources, claim), refusal)
        self._report(data_volume, seen, origin)
        if refusal is not None and refusal[0] == "ErrExceededQuota":
            self._workers.queue.add_after(key, self._timing.retry_seconds)

    def _make_claim(self, data_volume: Object, source: Object) -> tuple[Object | None, tuple[str, str] | None]:
        """The claim, or why there is none."""
        key = key_of(data_volume)
        origin = self._wanted.clone_source(source, key[0])
        if origin is not None:
            found = self._wanted.origin(*origin)
            if found is None:
                return None, ("CloneWithoutSource", f"The source {origin[0]} {origin[1][1]} doesn't exist")
            problem = self._size_problem(data_volume, found) if origin[0] == "pvc" else None
            if problem:
                return None, ("CloneValidationFailed", f"The clone doesn't meet the validation requirements: {problem}")
        try:
            wanted = self._wanted.claim(data_volume, source)
        except ClaimNotValid as error:
            return None, ("ErrClaimNotValid", str(error))
        try:
            self._quota.charge(self._claims, wanted)
        except ApiError as error:
            return None, ("ErrExceededQuota", error.message)
        if (data_volume["metadata"].get("annotations") or {}).get(USE_POPULATOR) != "true":
            self._resources.modify(self._data_volumes, *key, lambda each: each["metadata"].setdefault("annotations", {}).update({USE_POPULATOR: "true"}))
        self._make_source(data_volume, source, origin)
        return self._resources.create(self._claims, wanted), None

    @staticmethod
    def _size_problem(data_volume: Object, source: Object) -> str | None:
        """A clone must not be smaller than its source, as far as both say their size in the same way."""
        literal = data_volume["spec"].get("pvc")
        asked = (literal or data_volume["spec"].get("storage") or {}).get("resources", {}).get("requests", {}).get("storage")
        if literal is None and (asked is None or source["spec"].get("volumeMode", "Filesystem") != "Block"):
            return None
        if asked is None:
            return "source/target missing storage resource requests"
        wanted, has = milli(asked) // 1000, milli(source["spec"]["resources"]["requests"]["storage"]) // 1000
        return f"target resources requests storage size is smaller than the source {wanted} < {has}" if has > wanted else None

    def _make_source(self, data_volume: Object, source: Object, origin: tuple[str, Key] | None) -> None:
        """The object that tells the populators what to fill the claim with."""
        meta, kind = data_volume["metadata"], population(source)
        namespace = origin[1][0] if origin else meta["namespace"]
        name = f"{PREFIXES[kind]}-{meta['uid']}"
        if self._resources.find(self._source_kinds[kind], namespace, name):
            return
        made: Object = {"metadata": {"name": name, "namespace": namespace}, "spec": {}}
        if namespace == meta["namespace"]:
            made["metadata"]["ownerReferences"] = [owner_reference(self._data_volumes, data_volume)]
        else:
            made["metadata"]["annotations"] = {f"{GROUP}/storage.ownedByDataVolume": f"{meta['namespace']}/{meta['name']}"}
        if origin is not None:
            what = {"kind": "PersistentVolumeClaim"} if origin[0] == "pvc" else {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot"}
            made["spec"]["source"] = {**what, "name": origin[1][1]}
        elif kind == IMPORT:
            made["spec"].update(source=copy.deepcopy(source) or {"blank": {}}, contentType=data_volume["spec"].get("contentType") or "kubevirt")
        else:
            made["spec"]["contentType"] = data_volume["spec"].get("contentType") or "kubevirt"
        self._resources.create(self._source_kinds[kind], made)

    def _drop_source(self, data_volume: Object) -> None:
        try:
            source = self._wanted.source(data_volume)
        except LookupError:
            return
        origin, kind = self._wanted.clone_source(source, data_volume["metadata"]["namespace"]), population(source)
        key = (origin[1][0] if origin else data_volume["metadata"]["namespace"], f"{PREFIXES[kind]}-{data_volume['metadata']['uid']}")
        if self._resources.find(self._source_kinds[kind], *key):
            self._resources.delete(self._source_kinds[kind], *key)

    def _report(self, data_volume: Object, seen: Seen, origin: tuple[str, Key] | None) -> None:
        key, now = key_of(data_volume), self._clock.timestamp()
        strategy = ((seen.claim or {"metadata": {}})["metadata"].get("annotations") or {}).get(TYPE)
        if strategy and (data_volume["metadata"].get("annotations") or {}).get(TYPE) != strategy:
            self._resources.modify(self._data_volumes, *key, lambda each: each["metadata"].setdefault("annotations", {}).update({TYPE: strategy}))
        after = self._resources.modify(self._data_volumes, *key, lambda each: cdi_status.update(each, seen, now), subresource="status")
        if after is None:
            return
        component = COMPONENTS[origin[0] if origin else seen.population]
        for type_, reason, message in cdi_status.events(data_volume, after, seen, origin):
            self._events.event(after, type_, reason, message, component)
        if phase_of(after) == "Succeeded":
            self._cluster.truth.write("data-volume-succeeded", *key, how=strategy or seen.population)

    # The golden images.

    def _create_golden(self, name: str, url: str) -> None:
        asked = {"accessModes": ["ReadWriteMany"], "volumeMode": "Block", "storageClassName": GOLDEN_CLASS,
                 "resources": {"requests": {"storage": GOLDEN_SIZE}}}
        data_volume = self._resources.create(self._data_volumes, {
            "metadata": {"name": name, "namespace": GOLDEN_NAMESPACE, "annotations": {USE_POPULATOR: "true"}},
            "spec": {"source": {"http": {"url": url}}, "pvc": asked}})
        wanted = self._wanted.claim(data_volume, data_volume["spec"]["source"])
        wanted["metadata"]["annotations"].update({POD_PHASE: "Succeeded", PROGRESS: "100.0%", f"{GROUP}/storage.condition.running": "false",
                                                  f"{GROUP}/storage.condition.running.reason": "Completed",
                                                  f"{GROUP}/storage.condition.running.message": "Import Complete"})
        claim = self._resources.create(self._claims, wanted)
        self._cluster.ceph.adopt(volume_name(claim), gib_of(GOLDEN_SIZE))
        seen = Seen(bind(self._cluster, claim), IMPORT)
        self._resources.modify(self._data_volumes, GOLDEN_NAMESPACE, name,
                               lambda each: cdi_status.update(each, seen, self._clock.timestamp()), subresource="status")


