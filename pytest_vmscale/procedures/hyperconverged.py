"""What HyperConverged says of live migration, and how many virt-api there are: changed for a run, and put back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..cluster.access import ClusterError
from ..cluster.edits import Edits
from ..cluster.journal import Ref, pointer
from ..cluster.requests import Cluster, Object
from .vmi import KUBEVIRTS

GROUP = "hco.kubevirt.io"
JSON_PATCH = "kubevirt.kubevirt.io/jsonpatch"  # annotation of HyperConverged: a JSON patch of the KubeVirt object, as text
PATCHES = "/spec/customizeComponents/patches"
VIRT_API = "virt-api"
VMS_PER_VIRT_API, LEAST_VIRT_API = 750, 2
# Where the settings are in each of the API's versions; v1beta1 first, as it is what most clusters serve.
WHERE = {"v1beta1": ("spec", "liveMigrationConfig"), "v1": ("spec", "virtualization", "liveMigrationConfig")}
TAKEN_OVER_SECONDS, LOOK_EVERY_SECONDS = 600.0, 2.0


def virt_api_replicas(vms: int) -> int:
    """The reference's rule: one virt-api for each 750 VMs, and two at least."""
    return max(LEAST_VIRT_API, math.ceil(vms / VMS_PER_VIRT_API))


@dataclass(frozen=True)
class HyperConverged:
    """The cluster's one HyperConverged, in an API version that it serves."""

    obj: Object
    ref: Ref
    where: tuple[str, ...]

    @property
    def namespace(self) -> str:
        return str(self.obj["metadata"]["namespace"])


async def find(cluster: Cluster) -> HyperConverged:
    """ClusterError if there is none: what it would be told, nobody else keeps."""
    group = await cluster.get_or_none(f"/apis/{GROUP}")
    served = {each["version"] for each in (group or {}).get("versions") or ()}
    version = next((each for each in WHERE if each in served), None)
    if version is None:
        raise ClusterError("this cluster has no HyperConverged (hco.kubevirt.io): OpenShift Virtualization is not installed by its operator")
    found = await cluster.list_all(f"/apis/{GROUP}/{version}/hyperconvergeds")
    if len(found) != 1:
        raise ClusterError(f"this cluster has {len(found)} HyperConverged objects, and one was expected")
    meta = found[0]["metadata"]
    return HyperConverged(found[0], Ref(f"{GROUP}/{version}", "HyperConverged", meta["name"], meta["namespace"]), WHERE[version])


async def set_live_migration(cluster: Cluster, edits: Edits, wanted: Mapping[str, Any]) -> None:
    """Set fields of liveMigrationConfig, and wait until KubeVirt has them. ClusterError if it does not take them over."""
    found = await find(cluster)
    await edits.change(found.ref, {pointer(*found.where, name): value for name, value in wanted.items()})

    async def taken_over() -> str:
        for kubevirt in await cluster.list_all(KUBEVIRTS):
            effective = (kubevirt["spec"].get("configuration") or {}).get("migrations") or {}
            late = [f"{name} is {effective.get(name)}, not {value}" for name, value in wanted.items() if effective.get(name) != value]
            if late:
                return f"KubeVirt {kubevirt['metadata']['name']} does not take over what HyperConverged says: {'; '.join(late)}"
        return ""

    await _wait(cluster, taken_over)


async def set_virt_api_replicas(cluster: Cluster, edits: Edits, vms: int) -> int:
    """See to it that there are enough virt-api for so many VMs: how many there are. A release that scales them by itself, or a
    site that has enough, is left alone."""
    found, wanted = await find(cluster), virt_api_replicas(vms)
    path = f"/apis/apps/v1/namespaces/{found.namespace}/deployments/{VIRT_API}"
    deployment = await cluster.get(path)
    replicas = int(deployment["spec"].get("replicas", 1))
    if replicas >= wanted:
        return replicas
    old = (found.obj["metadata"].get("annotations") or {}).get(JSON_PATCH)
    await edits.change(found.ref, {pointer("metadata", "annotations", JSON_PATCH): patched(old, wanted)})

    async def ready() -> str:
        ready = (await cluster.get(path)).get("status", {}).get("readyReplicas", 0)
        return "" if ready >= wanted else f"{VIRT_API} has {ready} of {wanted} replicas ready"

    await _wait(cluster, ready)
    return wanted


def patched(old: str | None, replicas: int) -> str:
    """The annotation with virt-api's replicas in it: other patches that it has stay. ClusterError if it cannot be read."""
    scale = json.dumps([{"op": "replace", "path": "/spec/replicas", "value": replicas}])
    ours = {"resourceType": "Deployment", "resourceName": VIRT_API, "type": "json", "patch": scale}
    try:
        operations: list[Object] = json.loads(old) if old else []
        existing = next((each for each in operations if each.get("path") == PATCHES), None)
        if existing is None:
            operations.append({"op": "add", "path": PATCHES, "value": [ours]})
        else:
            kept = [each for each in existing["value"] if not (each.get("resourceName") == VIRT_API and "/spec/replicas" in str(each.get("patch")))]
            existing["value"] = [*kept, ours]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(f"HyperConverged's annotation {JSON_PATCH} cannot be read: {error!r}") from None
    return json.dumps(operations)


async def _wait(cluster: Cluster, missing: Callable[[], Any]) -> None:
    """Until nothing is missing. ClusterError with what is, if that takes too long."""
    give_up = cluster.clock.now() + TAKEN_OVER_SECONDS
    while why := await missing():
        if cluster.clock.now() >= give_up:
            raise ClusterError(str(why))
        await cluster.clock.sleep(LOOK_EVERY_SECONDS)
