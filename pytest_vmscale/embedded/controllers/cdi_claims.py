"""Which claim a DataVolume asks for, and where its data comes from. Reads alone."""

from __future__ import annotations

import copy
import math

from ..api.store import Key, Object
from .common import Cluster, milli, owner_reference
from .volumes import default_class

GROUP = "cdi.kubevirt.io"
CLONE, IMPORT, UPLOAD = "VolumeCloneSource", "VolumeImportSource", "VolumeUploadSource"
PREFIXES = {CLONE: "volume-clone-source", IMPORT: "volume-import-source", UPLOAD: "volume-upload-source"}
COMMON_LABELS = {"app": "containerized-data-importer"}
LEAST_BYTES = 2**20
ALIGNMENT_BYTES = 2**20  # an image in a file system ends on a whole MiB


class ClaimNotValid(Exception):
    """The DataVolume asks for what cannot be made into a claim. The message is CDI's."""


class Claims:
    """What DataVolumes ask for, by the StorageProfiles and CDIConfig of now."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        kind = cluster.resources.kind
        self._data_volumes, self._claims = kind("datavolumes.cdi.kubevirt.io"), kind("persistentvolumeclaims")
        self._classes, self._profiles = kind("storageclasses.storage.k8s.io"), kind("storageprofiles.cdi.kubevirt.io")
        self._sources, self._configs = kind("datasources.cdi.kubevirt.io"), kind("cdiconfigs.cdi.kubevirt.io")
        self._snapshots = kind("volumesnapshots.snapshot.storage.k8s.io")

    # Where the data comes from.

    def source(self, data_volume: Object) -> Object:
        """The DataVolume's source, or that of the DataSource it refers to. LookupError if that one is not there or says nothing."""
        spec, namespace = data_volume["spec"], data_volume["metadata"]["namespace"]
        reference = spec.get("sourceRef")
        if not reference:
            found: Object = spec.get("source") or {}
            return found
        where = reference.get("namespace") or namespace
        seen = self._resources.find(self._sources, where, reference["name"])
        source = ((seen or {}).get("spec") or {}).get("source") or {}
        if "dataSource" in source:  # a pointer to another
            source = ((seen or {}).get("status") or {}).get("source") or {}
        if "pvc" not in source and "snapshot" not in source:
            raise LookupError(f"datasources.cdi.kubevirt.io \"{reference['name']}\" not found" if seen is None
                              else f"Empty source field in '{reference['name']}'. DataSource may not be ready yet")
        return {key: source[key] for key in ("pvc", "snapshot") if key in source}

    @staticmethod
    def clone_source(source: Object, namespace: str) -> tuple[str, Key] | None:
        """`pvc` or `snapshot`, and which; None if it is no clone."""
        for kind in ("pvc", "snapshot"):
            if kind in source:
                return kind, (source[kind].get("namespace") or namespace, source[kind]["name"])
        return None

    def origin(self, kind: str, key: Key) -> Object | None:
        return self._resources.find(self._claims if kind == "pvc" else self._snapshots, *key)

    # The claim.

    def claim(self, data_volume: Object, source: Object) -> Object:
        """ClaimNotValid if there can be none."""
        meta, spec = data_volume["metadata"], data_volume["spec"]
        kind = population(source)
        labels = {**COMMON_LABELS, **(meta.get("labels") or {})}
        asked = self._spec(data_volume, source)
        if asked.get("volumeMode", "Filesystem") == "Filesystem":
            labels["alerts.k8s.io/KubePersistentVolumeFillingUp"] = "disabled"
        annotations = {**(meta.get("annotations") or {}), f"{GROUP}/storage.contentType": spec.get("contentType") or "kubevirt",
                       f"{GROUP}/storage.pod.restarts": "0", f"{GROUP}/storage.preallocation.requested": str(bool(spec.get("preallocation"))).lower(),
                       f"{GROUP}/createdForDataVolume": meta["uid"], f"{GROUP}/storage.usePopulator": "true"}
        if spec.get("priorityClassName"):
            annotations[f"{GROUP}/storage.pod.priorityclassname"] = spec["priorityClassName"]
        clone = self.clone_source(source, meta["namespace"])
        if clone and clone[1][0] != meta["namespace"]:
            annotations[f"{GROUP}/dataSourceNamespace"] = clone[1][0]
        asked["dataSourceRef"] = {"apiGroup": GROUP, "kind": kind, "name": f"{PREFIXES[kind]}-{meta['uid']}"}
        asked.setdefault("volumeMode", "Filesystem")
        return {"metadata": {"name": meta["name"], "namespace": meta["namespace"], "annotations": annotations, "labels": labels,
                             "ownerReferences": [owner_reference(self._data_volumes, data_volume)]},
                "spec": asked, "status": {"phase": "Pending"}}

    def _spec(self, data_volume: Object, source: Object) -> Object:
        spec = data_volume["spec"]
        if "pvc" in spec:
            literal: Object = copy.deepcopy(spec["pvc"])
            if "storageClassName" not in literal and (default := default_class(self._resources)):
                literal["storageClassName"] = default
            return literal
        if "storage" not in spec:
            raise ClaimNotValid("datavolume one of {pvc, storage} field is required")
        asked: Object = copy.deepcopy(spec["storage"])
        name = asked.get("storageClassName") or default_class(self._resources)
        if name is None or self._resources.find(self._classes, "", name) is None:
            raise ClaimNotValid("DataVolume.storage spec is missing accessMode and no storageClass to choose profile")
        asked["storageClassName"] = name
        self._fill_modes(asked, name)
        self._fill_size(asked, self.clone_source(source, data_volume["metadata"]["namespace"]))
        return asked

    def _fill_modes(self, asked: Object, storage_class: str) -> None:
        sets = ((self._resources.find(self._profiles, "", storage_class) or {}).get("status") or {}).get("claimPropertySets") or []
        if not asked.get("accessModes") and not asked.get("volumeMode"):
            if not sets:
                raise ClaimNotValid(f"no accessMode specified in StorageProfile {storage_class}")
            asked["accessModes"], asked["volumeMode"] = list(sets[0]["accessModes"]), sets[0]["volumeMode"]
        elif not asked.get("accessModes"):
            found = next((each for each in sets if each["volumeMode"] == asked["volumeMode"]), None)
            if found is None:
                raise ClaimNotValid(f"no matching accessMode specified in StorageProfile {storage_class}")
            asked["accessModes"] = list(found["accessModes"])
        elif not asked.get("volumeMode"):
            found = next((each for each in sets if set(each["accessModes"]) & set(asked["accessModes"])), None)
            asked["volumeMode"] = found["volumeMode"] if found else "Filesystem"

    def _fill_size(self, asked: Object, clone: tuple[str, Key] | None) -> None:
        requests = asked.setdefault("resources", {}).setdefault("requests", {})
        size = requests.get("storage")
        if size is None or milli(size) == 0:
            if clone is None:
                raise ClaimNotValid("PVC Spec is not valid - missing storage size")
            origin = self.origin(*clone) or {}
            status = origin.get("status") or {}
            size = (status.get("capacity") or {}).get("storage") if clone[0] == "pvc" else status.get("restoreSize")
            if size is None:
                raise ClaimNotValid("PVC Spec is not valid - missing storage size")  # until the source is bound, or the snapshot taken
            requests["storage"] = size
            if asked.get("volumeMode") == "Block" or self._is_files(clone):
                return  # the source's own size, its overhead included
        elif milli(size) // 1000 < LEAST_BYTES:
            raise ClaimNotValid("PVC Spec is not valid - storage size should be at least 1MiB")
        if asked.get("volumeMode") != "Block":
            requests["storage"] = str(with_overhead(milli(size) // 1000, self._overhead(asked["storageClassName"])))

    def _is_files(self, clone: tuple[str, Key]) -> bool:
        origin = self.origin(*clone)
        return clone[0] == "pvc" and origin is not None and origin["spec"].get("volumeMode", "Filesystem") == "Filesystem"

    def _overhead(self, storage_class: str) -> float:
        config = next(iter(self._resources.list(self._configs)), {})
        found = (config.get("status") or {}).get("filesystemOverhead") or {}
        return float((found.get("storageClass") or {}).get(storage_class) or found.get("global") or 0)


def population(source: Object) -> str:
    """Which kind of source object says what a claim is to be filled with."""
    if "pvc" in source or "snapshot" in source:
        return CLONE
    return UPLOAD if "upload" in source else IMPORT


def with_overhead(size: int, share: float) -> int:
    """The bytes of a file system that has room for so many."""
    return math.ceil(math.ceil(size / ALIGNMENT_BYTES) * ALIGNMENT_BYTES * (1.0 + share))
