"""What a cluster is: versions and nodes, for the reports. What it does not tell is None."""

from __future__ import annotations

from typing import Any

from .access import ClusterError
from .requests import ApiError, Cluster, Object

WORKER = "node-role.kubernetes.io/worker"


async def cluster_facts(cluster: Cluster) -> dict[str, Any]:
    """As the result files' `cluster` has them. ClusterError if the server has no KubeVirt."""
    version = await cluster.get("/version")
    if await cluster.get_or_none("/apis/kubevirt.io/v1") is None:
        raise ClusterError(f"{cluster.access.server} serves no kubevirt.io/v1: OpenShift Virtualization is not installed")
    nodes = await cluster.list_all("/api/v1/nodes")
    workers = [node for node in nodes if WORKER in (node["metadata"].get("labels") or {})]
    openshift = await _optional(cluster, "/apis/config.openshift.io/v1/clusterversions/version")
    history = (openshift or {}).get("status", {}).get("history") or [{}]
    return {
        "distribution": "openshift" if openshift else "kubernetes",
        "openshift_version": history[0].get("version"),
        "kubernetes_version": version.get("gitVersion"),
        "kubevirt_version": await _observed(cluster, "/apis/kubevirt.io/v1/kubevirts", "observedKubeVirtVersion"),
        "cdi_version": await _observed(cluster, "/apis/cdi.kubevirt.io/v1beta1/cdis", "observedVersion"),
        "node_count": len(nodes),
        "worker_count": len(workers),
        "node_shape": _shape(workers),
    }


async def _optional(cluster: Cluster, path: str) -> Object | None:
    """A fact for the report only: who may not read it still may measure."""
    try:
        return await cluster.get_or_none(path)
    except ApiError as error:
        if error.status == 403:
            return None
        raise


async def _observed(cluster: Cluster, path: str, field: str) -> str | None:
    found = await _optional(cluster, path)
    return next((item.get("status", {}).get(field) for item in (found or {}).get("items") or ()), None)


def _shape(workers: list[Object]) -> dict[str, Any] | None:
    """CPU and memory of the workers, or None where they differ (or there are none)."""
    shapes = {(w["status"]["capacity"].get("cpu"), w["status"]["capacity"].get("memory")) for w in workers if w.get("status", {}).get("capacity")}
    if len(shapes) != 1:
        return None
    cpu, memory = shapes.pop()
    return {"cpu": int(cpu) if str(cpu).isdigit() else cpu, "memory": memory}
