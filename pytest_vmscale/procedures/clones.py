"""What a cluster tells of clones: which strategy made each, and what is left of them after they were deleted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from ..clock import Clock
from ..cluster.requests import ApiError, Cluster, Object, resource_path
from ..model import Fleet
from .fleet import OnProgress

CLONE_TYPE = "cdi.kubevirt.io/cloneType"
FALLBACK_REASON = "cdi.kubevirt.io/cloneFallbackReason"
STRATEGIES = ("copy", "snapshot", "csi-clone")
# Phases that only one of the strategies has. Releases before the annotation tell it by these alone.
_PHASES = {
    "CSICloneInProgress": "csi-clone",
    "SnapshotForSmartCloneInProgress": "snapshot",
    "CloneFromSnapshotSourceInProgress": "snapshot",
    "SmartClonePVCInProgress": "snapshot",
    "CloneInProgress": "copy",
}
# Volumes are removed after their claims, one after the other: as long as some go, they are waited for (cluster seconds).
STALLED_SECONDS = 300.0
LOOK_EVERY_SECONDS = 5.0
PERSISTENT_VOLUMES = "/api/v1/persistentvolumes"
CONTENTS = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents"


@dataclass(frozen=True)
class Clone:
    """How a claim was filled, as CDI noted on it; None where it noted nothing. `fallback`: why not as its profile says."""

    strategy: str | None
    fallback: str | None


def strategy_of_phases(phases: Iterable[str]) -> str | None:
    return next((_PHASES[phase] for phase in phases if phase in _PHASES), None)


async def read_clones(cluster: Cluster, fleet: Fleet, disk_of: Callable[[str], str]) -> dict[str, Clone]:
    """Of each guest (by key) whose claim is there. `disk_of`: the claim's name, from the VM's."""
    claims: dict[str, Object] = {}
    for space in fleet.namespaces:
        for each in await cluster.list_all(resource_path("v1", "persistentvolumeclaims", space)):
            claims[f"{space}/{each['metadata']['name']}"] = each["metadata"].get("annotations") or {}
    found = {}
    for guest in fleet.guests:
        notes = claims.get(f"{guest.namespace}/{disk_of(guest.name)}")
        if notes is not None:
            found[guest.key] = Clone(notes.get(CLONE_TYPE), notes.get(FALLBACK_REASON))
    return found


async def inventory(cluster: Cluster, spaces: Collection[str], sources: Collection[str]) -> dict[str, str]:
    """What clones consist of: everything of storage in `spaces`, the temporary objects that cloning makes in `sources`' namespaces,
    and the volumes and snapshot contents behind both. By "Kind namespace/name", with its phase."""
    found: dict[str, str] = {}
    namespaced = (
        ("DataVolume", "cdi.kubevirt.io/v1beta1", "datavolumes"),
        ("PersistentVolumeClaim", "v1", "persistentvolumeclaims"),
        ("VolumeSnapshot", "snapshot.storage.k8s.io/v1", "volumesnapshots"),
    )
    for space in (*spaces, *(each for each in sources if each not in spaces)):
        for kind, api_version, plural in namespaced:
            for each in await _list(cluster, resource_path(api_version, plural, space)):
                name = each["metadata"]["name"]
                if space in spaces or name.startswith(("tmp-pvc-", "tmp-snapshot-", "tmp-source-")):
                    found[f"{kind} {space}/{name}"] = _state(each)
    of_ours = {*spaces}
    for each in await _list(cluster, PERSISTENT_VOLUMES):
        claim = each.get("spec", {}).get("claimRef") or {}
        if claim.get("namespace") in of_ours or (claim.get("namespace") in sources and str(claim.get("name")).startswith("tmp-pvc-")):
            found[f"PersistentVolume {each['metadata']['name']} (of {claim.get('namespace')}/{claim.get('name')})"] = _state(each)
    for each in await _list(cluster, CONTENTS):
        snapshot = each.get("spec", {}).get("volumeSnapshotRef") or {}
        if snapshot.get("namespace") in of_ours or (
            snapshot.get("namespace") in sources and str(snapshot.get("name")).startswith(("tmp-snapshot-", "tmp-source-"))
        ):
            of = f"{snapshot.get('namespace')}/{snapshot.get('name')}"
            found[f"VolumeSnapshotContent {each['metadata']['name']} (of {of})"] = _state(each)
    return found


async def wait_purged(
    cluster: Cluster,
    spaces: Collection[str],
    sources: Collection[str],
    before: Mapping[str, str],
    clock: Clock,
    *,
    deadline_seconds: float,
    on_progress: OnProgress | None = None,
) -> tuple[str, ...]:
    """Wait until all that was not there `before` is gone: as long as some of it goes, and until the deadline at most. What is
    left, a line each."""
    began = moved = clock.now()
    least: int | None = None
    total = 0
    while True:
        now = await inventory(cluster, spaces, sources)
        left = {name: state for name, state in now.items() if name not in before}
        total = max(total, len(left))
        if on_progress:
            on_progress("storage objects purged", total - len(left), total)
        if not left:
            return ()
        if least is None or len(left) < least:
            least, moved = len(left), clock.now()
        if clock.now() - moved >= STALLED_SECONDS or clock.now() - began >= deadline_seconds:
            return tuple(f"{name}: {state}" for name, state in sorted(left.items()))
        await clock.sleep(LOOK_EVERY_SECONDS)


async def _list(cluster: Cluster, path: str) -> list[Object]:
    """Nothing where the cluster does not know the kind. What we may not read cannot be said to be gone: 403 is an error."""
    try:
        return await cluster.list_all(path)
    except ApiError as error:
        if error.status == 404:
            return []
        raise


def _state(obj: Object) -> str:
    status = obj.get("status") or {}
    phase = str(status.get("phase") or (status.get("readyToUse") is not None and f"readyToUse {status['readyToUse']}") or "no phase")
    why = (status.get("message") or (status.get("error") or {}).get("message") or "").strip()
    deleted = ", deleted" if obj["metadata"].get("deletionTimestamp") else ""
    return f"{phase}{deleted}" + (f": {why}" if why else "")
