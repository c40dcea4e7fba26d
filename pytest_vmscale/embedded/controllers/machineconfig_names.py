"""The words of machineconfiguration.openshift.io that its controllers share."""

from __future__ import annotations

from typing import Any

from ..api.store import Object
from .common import Cluster, selects

GROUP = "machineconfiguration.openshift.io"
CONFIGS, POOLS = f"machineconfigs.{GROUP}", f"machineconfigpools.{GROUP}"
KUBELET_CONFIGS, CONTROLLER_CONFIGS = f"kubeletconfigs.{GROUP}", f"controllerconfigs.{GROUP}"
CONTROLLER_CONFIG = "machine-config-controller"  # the only one there is

# Annotations of a node.
CURRENT, DESIRED = f"{GROUP}/currentConfig", f"{GROUP}/desiredConfig"
STATE, REASON = f"{GROUP}/state", f"{GROUP}/reason"
DESIRED_DRAIN, LAST_DRAIN = f"{GROUP}/desiredDrain", f"{GROUP}/lastAppliedDrain"
FAILED_STATES = ("Degraded", "Unreconcilable")

# Of a MachineConfig.
ROLE = f"{GROUP}/role"
GENERATED_BY = f"{GROUP}/generated-by-controller-version"
RELEASE = f"{GROUP}/release-image-version"

CONTROLLER_COMPONENT = "machineconfigcontroller-nodecontroller"
RENDER_COMPONENT = "machineconfigcontroller-rendercontroller"
DAEMON_COMPONENT = "machineconfigdaemon"


def controller_config(cluster: Cluster) -> Object:
    return cluster.resources.get(cluster.resources.kind(CONTROLLER_CONFIGS), "", CONTROLLER_CONFIG)


def generated_by(cluster: Cluster) -> str:
    """The controller's own version: a commit, as it writes on what it makes."""
    return str(controller_config(cluster)["metadata"]["annotations"][GENERATED_BY])


def annotation(node: Object, key: str) -> str:
    return str((node["metadata"].get("annotations") or {}).get(key, ""))


def is_done(node: Object) -> bool:
    return annotation(node, CURRENT) != "" and annotation(node, CURRENT) == annotation(node, DESIRED) and annotation(node, STATE) == "Done"


def is_failing(node: Object) -> bool:
    return annotation(node, CURRENT) != annotation(node, DESIRED) and annotation(node, STATE) in FAILED_STATES


def is_ready(node: Object) -> bool:
    """Ready, with room on its disk and a network, and not cordoned."""
    for each in node.get("status", {}).get("conditions") or ():
        if each["status"] != {"Ready": "True", "DiskPressure": "False", "NetworkUnavailable": "False"}.get(each["type"], each["status"]):
            return False
    return not node.get("spec", {}).get("unschedulable")


def is_unavailable(node: Object) -> bool:
    """Not ready, or at work on a config: it may yet become unready."""
    return not is_ready(node) or not (is_done(node) or is_failing(node))


class PoolError(ValueError):
    """A node that cannot belong where its labels say."""


def pools_of(node: Object, pools: list[Object]) -> list[Object]:
    """The pools that a node belongs to, the one whose config it gets first. PoolError if its labels contradict each other."""
    labels, name = node["metadata"].get("labels") or {}, node["metadata"]["name"]
    if labels.get("kubernetes.io/os") == "windows":
        return []
    found = {each["metadata"]["name"]: each for each in pools if not _empty(each["spec"].get("nodeSelector")) and selects(
        each["spec"]["nodeSelector"], labels)}
    master, worker = found.pop("master", None), found.pop("worker", None)
    custom = list(found.values())
    if len(custom) > 1:
        raise PoolError(f"node {name} belongs to {len(custom)} custom roles, cannot proceed with this Node")
    if custom and master is not None:
        raise PoolError(f"node {name} has both master role and custom role {custom[0]['metadata']['name']}")
    if master is not None:
        return [master]
    return [each for each in (*custom, worker) if each is not None]


def _empty(selector: Any) -> bool:
    return not selector or not (selector.get("matchLabels") or selector.get("matchExpressions"))
