"""Golden images: imported once, used again by later runs, and ready to be cloned before a thousand clones are asked for.

Nothing here is measured; waits and deadlines are cluster seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.conditions import Condition, condition_of, find, is_true
from ..cluster.requests import ApiError, Cluster, Object, resource_path
from ..cluster.watch import Event, Projection, Watch
from ..manifests.cdi import ANNOTATION_CONTENT
from .fleet import Wait

DATA_VOLUME = "cdi.kubevirt.io/v1beta1"
# An importer that has ended with an error so often does not get better: its URL, its credentials or its disk are wrong.
RESTARTS_UNTIL_GIVEN_UP = 3


class ImageError(ClusterError):
    """A golden image is not there, or cannot be cloned."""


class _Status(msgspec.Struct):
    phase: str = ""
    progress: str = ""
    restartCount: int = 0
    conditions: list[Condition] = []


class _DataVolume(Projection):
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def ready(self) -> bool:
        return self.status.phase == "Succeeded" and is_true(self.status.conditions, "Ready")

    @property
    def trouble(self) -> str:
        found = find(self.status.conditions, "Running", "False")
        return found.message if found else ""


@dataclass(frozen=True)
class Source:
    """An image by the kind of object that it is: PersistentVolumeClaim, VolumeSnapshot or DataSource."""

    api_version: str
    plural: str
    kind: str
    namespace: str
    name: str

    @property
    def path(self) -> str:
        return resource_path(self.api_version, self.plural, self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @classmethod
    def pvc(cls, namespace: str, name: str) -> Source:
        return cls("v1", "persistentvolumeclaims", "PersistentVolumeClaim", namespace, name)

    @classmethod
    def volume_snapshot(cls, namespace: str, name: str) -> Source:
        return cls("snapshot.storage.k8s.io/v1", "volumesnapshots", "VolumeSnapshot", namespace, name)

    @classmethod
    def data_source(cls, namespace: str, name: str) -> Source:
        return cls(DATA_VOLUME, "datasources", "DataSource", namespace, name)


async def import_image(
    cluster: Cluster, manifest: Object, clock: Clock, *, deadline_seconds: float, on_progress: Callable[[str], None] | None = None
) -> bool:
    """Have the DataVolume there, Succeeded and Ready; False if it was there already. `on_progress` is told its phase and progress.

    ImageError if it fails, is not ready by the deadline, or is somebody else's. One that failed before is imported anew."""
    metadata = manifest["metadata"]
    collection = resource_path(DATA_VOLUME, "datavolumes", metadata["namespace"])
    path, shown = f"{collection}/{metadata['name']}", f"DataVolume {metadata['namespace']}/{metadata['name']}"
    found = await cluster.get_or_none(path)
    if (
        found is not None
        and (found["metadata"].get("annotations") or {}).get(ANNOTATION_CONTENT) != metadata["annotations"][ANNOTATION_CONTENT]
    ):
        raise ImageError(f"{shown} is there, and is no image of ours: remove it, or import to another namespace (golden.namespace)")
    restarts_before = int((found or {}).get("status", {}).get("restartCount") or 0)  # of an earlier run
    wait = Wait(clock, deadline_seconds)
    seen: dict[str, _DataVolume] = {}

    def on_event(event: Event[_DataVolume]) -> None:
        seen.clear()
        if event.type != "DELETED":
            seen["it"] = event.object
        wait(event)

    def told() -> str:
        now = seen.get("it")
        return f"{now.status.phase or 'new'} {now.status.progress}".strip() if now else "not there"

    async with Watch(cluster, collection, _DataVolume, on_event, fields=f"metadata.name={metadata['name']}") as watch:
        if found is not None and found.get("status", {}).get("phase") == "Failed":
            await cluster.delete(path)
            await wait.until_none(lambda: dict.fromkeys(seen, ""), [watch], "removed", 1)
            found, restarts_before = None, 0
        if found is None:
            try:
                await cluster.create(collection, manifest)
            except ApiError as error:
                raise ImageError(f"{shown} cannot be imported: {error.message}") from error

        def unfinished() -> dict[str, str]:
            if on_progress:
                on_progress(told())
            now = seen.get("it")
            if now and (
                now.status.phase == "Failed" or (now.status.restartCount - restarts_before >= RESTARTS_UNTIL_GIVEN_UP and now.trouble)
            ):
                why = now.trouble or "CDI gives no reason"
                raise ImageError(f"{shown} cannot be imported ({told()}, {now.status.restartCount} restarts): {why}")
            return {} if now and now.ready else {shown: told()}

        if await wait.until_none(unfinished, [watch], "imported", 1):
            why = seen["it"].trouble if "it" in seen else ""
            raise ImageError(f"{shown} was not imported within {deadline_seconds:.0f} s: {told()}" + (f": {why}" if why else ""))
    return found is None


async def check_source(cluster: Cluster, source: Source) -> None:
    """It is there, can be cloned from, and nothing uses it. ImageError. What we may not read is not judged: cloning needs no right to."""
    try:
        found = await cluster.get_or_none(source.path)
    except ApiError as error:
        if error.status == 403:
            return
        raise
    if found is None:
        raise ImageError(f"{source} is not there")
    if why := _not_ready(source, found):
        raise ImageError(f"{source} cannot be cloned: {why}")
    if source.kind == "DataSource":
        await check_source(cluster, _points_to(source, found))
    if source.kind != "PersistentVolumeClaim":
        return
    try:
        pods = await cluster.list_all(resource_path("v1", "pods", source.namespace))
    except ApiError as error:
        if error.status == 403:
            return
        raise
    users = [each["metadata"]["name"] for each in pods if _uses(each, source.name)]
    if users:
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        raise ImageError(f"{source} is in use by pod {users[0]}{more}: a source in use is not cloned until it is free")


def _points_to(source: Source, found: Object) -> Source:
    told = (found.get("spec") or {}).get("source") or {}
    for kind, made in (("pvc", Source.pvc), ("snapshot", Source.volume_snapshot)):
        if told.get(kind):
            return made(told[kind].get("namespace") or source.namespace, told[kind]["name"])
    raise ImageError(f"{source} cannot be cloned: it names neither a pvc nor a snapshot")


def _not_ready(source: Source, found: Object) -> str:
    status = found.get("status") or {}
    if source.kind == "PersistentVolumeClaim":
        return "" if status.get("phase") == "Bound" else f"it is {status.get('phase') or 'without a phase'}, not Bound"
    if source.kind == "VolumeSnapshot":
        return (
            "" if status.get("readyToUse") else f"it is not ready to use: {(status.get('error') or {}).get('message') or 'no reason given'}"
        )
    # Releases that set no condition leave it to what the DataSource points to.
    ready = condition_of(found, "Ready")
    return f"it is not Ready: {ready.message or 'no reason given'}" if ready and ready.status != "True" else ""


def _uses(pod: Object, claim: str) -> bool:
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    volumes = pod.get("spec", {}).get("volumes") or ()
    return any((each.get("persistentVolumeClaim") or {}).get("claimName") == claim for each in volumes)
