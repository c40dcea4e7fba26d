"""cdi.kubevirt.io/v1beta1: golden images, and the disks that are cloned from them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from .core import Manifest

if TYPE_CHECKING:
    from ..site import GoldenImage, GuestImage, Storage

# What an imported image was made from, so that the next run knows it again. It carries no run's id: it outlives the run.
ANNOTATION_CONTENT = "vmscale.io/content"
LABEL_GOLDEN = "vmscale.io/golden"
# An image nobody runs must be bound all the same, on classes that wait for the first consumer.
BIND_IMMEDIATE = "cdi.kubevirt.io/storage.bind.immediate.requested"


def golden_image(os: str, image: GuestImage, golden: GoldenImage, storage: Storage) -> Manifest:
    """The DataVolume that imports it. Its name ends in a hash of its description: another description is another image."""
    content = content_hash(image, golden, storage)
    namespace, name = golden_name(os, image, golden, storage)
    return {
        "apiVersion": "cdi.kubevirt.io/v1beta1",
        "kind": "DataVolume",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {LABEL_GOLDEN: os},
            "annotations": {ANNOTATION_CONTENT: content, BIND_IMMEDIATE: "true"},
        },
        "spec": {"source": _import_source(golden), **claim(golden.size or image.disk_size, storage)},
    }


def golden_name(os: str, image: GuestImage, golden: GoldenImage, storage: Storage) -> tuple[str, str]:
    """Namespace and name of an image: of one that is imported, those that the import gives it."""
    existing = golden.pvc or golden.volume_snapshot or golden.data_source
    if existing:
        namespace, name = existing.split("/")
        return namespace, name
    return golden.namespace, f"{os}-golden-{content_hash(image, golden, storage).removeprefix('sha256:')[:10]}"


def content_hash(image: GuestImage, golden: GoldenImage, storage: Storage) -> str:
    """Of the source's description, not of its bytes: a new image needs a new URL (or tag), as it does for everybody."""
    described = [_import_source(golden), claim(golden.size or image.disk_size, storage)]
    return "sha256:" + hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def clone_source(os: str, image: GuestImage, golden: GoldenImage, storage: Storage) -> Manifest:
    """What a DataVolume's spec says to be a clone of the image."""
    namespace, name = golden_name(os, image, golden, storage)
    where = {"namespace": namespace, "name": name}
    if golden.data_source:
        return {"sourceRef": {"kind": "DataSource", **where}}
    return {"source": {"snapshot" if golden.volume_snapshot else "pvc": where}}


def claim(size: str, storage: Storage) -> Manifest:
    """`spec.pvc` where the site says access and volume mode: it is taken literally. Else `spec.storage`, which the class'
    StorageProfile completes."""
    asked: Manifest = {"resources": {"requests": {"storage": size}}}
    if storage.volume_mode:
        asked = {"volumeMode": storage.volume_mode, **asked}
    if storage.access_mode:
        asked = {"accessModes": [storage.access_mode], **asked}
    if storage.storage_class:
        asked["storageClassName"] = storage.storage_class
    return {"pvc" if storage.access_mode and storage.volume_mode else "storage": asked}


def _import_source(golden: GoldenImage) -> Manifest:
    kind, url = next((kind, url) for kind in ("http", "registry", "s3") if (url := getattr(golden, kind)))
    source: Manifest = {"url": url}
    if golden.secret:
        source["secretRef"] = golden.secret
    if golden.cert_config_map:
        source["certConfigMap"] = golden.cert_config_map
    return {kind: source}
