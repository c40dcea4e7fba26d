"""A pod's parts: what the API server adds to a new one, and the status that a kubelet writes."""

from __future__ import annotations

from typing import Any

from ..api.errors import ApiError
from ..api.store import Object
from .common import Cluster, condition, set_condition

LAUNCHER = {"kubevirt.io": "virt-launcher"}
GATE_TOLERATIONS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def is_launcher(pod: Object) -> bool:
    """Whether it is a virt-launcher: the pod that a VM runs in."""
    return bool((pod["metadata"].get("labels") or {}).items() >= LAUNCHER.items())


def is_finished(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    found = condition(pod.get("status", {}).get("conditions") or (), "Ready")
    return found is not None and found["status"] == "True"


def complete(cluster: Cluster, pod: Object) -> Object:
    """Add, in place, what defaulting and the admission plugins (ServiceAccount, Priority, DefaultTolerationSeconds) add
    to a new pod. 403 if it names a PriorityClass that is not there."""
    spec: dict[str, Any] = pod["spec"]
    for key, value in (("dnsPolicy", "ClusterFirst"), ("restartPolicy", "Always"), ("schedulerName", "default-scheduler"),
                       ("enableServiceLinks", True), ("terminationGracePeriodSeconds", 30), ("serviceAccountName", "default"),
                       ("preemptionPolicy", "PreemptLowerPriority")):
        spec.setdefault(key, value)
    spec.setdefault("securityContext", {})
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        tag = container.get("image", "").rpartition("/")[2].rpartition(":")
        container.setdefault("imagePullPolicy", "Always" if tag[2] == "latest" or (not tag[0] and "@" not in tag[2]) else "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("resources", {})
    _set_priority(cluster, pod)
    tolerations = spec.setdefault("tolerations", [])
    for key in GATE_TOLERATIONS:
        if not any(each.get("key") in (key, None, "") and each.get("effect") in ("NoExecute", None, "") for each in tolerations):
            tolerations.append({"effect": "NoExecute", "key": key, "operator": "Exists",
                                "tolerationSeconds": int(cluster.timing.kubernetes.default_toleration_seconds)})
    return pod


def _set_priority(cluster: Cluster, pod: Object) -> None:
    spec = pod["spec"]
    name = spec.get("priorityClassName")
    if name is None:
        spec.setdefault("priority", 0)
        return
    found = cluster.resources.find(cluster.resources.kind("priorityclasses"), "", name)
    if found is None:
        pod_name = pod["metadata"].get("name") or pod["metadata"].get("generateName")
        message = f'pods "{pod_name}" is forbidden: no PriorityClass with name {name} was found'
        raise ApiError(403, message, details={"name": pod_name, "kind": "pods"})
    spec["priority"] = found["value"]
    spec["preemptionPolicy"] = found.get("preemptionPolicy", "PreemptLowerPriority")


def from_template(template: Object, generate_name: str, namespace: str, owner: Object) -> Object:
    """A new pod of a workload, from its pod template. The caller completes it."""
    meta = template.get("metadata") or {}
    return {"metadata": {**{key: dict(meta[key]) for key in ("labels", "annotations") if meta.get(key)},
                         "generateName": generate_name, "namespace": namespace, "ownerReferences": [owner]},
            "spec": template["spec"]}


# The kubelet's part.

def container_status(container: Object, state: Object, restarts: int = 0) -> Object:
    """Of a container that does not run yet."""
    return {"name": container["name"], "image": container.get("image", ""), "imageID": "", "lastState": {}, "ready": False,
            "restartCount": restarts, "started": False, "state": state}


def set_readiness(pod: Object, now: str) -> bool:
    """ContainersReady and Ready, from the containers and the readiness gates. Returns whether anything changed."""
    status, spec = pod["status"], pod["spec"]
    conditions = status.get("conditions") or []
    phase = status.get("phase")
    sidecars = [each for each in status.get("initContainerStatuses") or ()
                if any(c["name"] == each["name"] and c.get("restartPolicy") == "Always" for c in spec.get("initContainers") or ())]
    statuses = [*sidecars, *(status.get("containerStatuses") or ())]
    unready = [each["name"] for each in statuses if not each["ready"]]
    if phase == "Succeeded":
        reason, message = "PodCompleted", ""
    elif phase == "Failed":
        reason, message = "PodFailed", ""
    elif unready or not status.get("containerStatuses"):
        names = unready or [container["name"] for container in spec["containers"]]
        reason, message = "ContainersNotReady", f"containers with unready status: [{' '.join(names)}]"
    else:
        reason, message = "", ""
    changed = set_condition(status, "ContainersReady", "False" if reason else "True", now, reason, message, lastProbeTime=None)
    if not reason:
        waiting = []
        for gate in spec.get("readinessGates") or ():
            found = condition(conditions, gate["conditionType"])
            if found is None:
                waiting.append(f'corresponding condition of pod readiness gate "{gate["conditionType"]}" does not exist.')
            elif found["status"] != "True":
                waiting.append(f'the status of pod readiness gate "{gate["conditionType"]}" is not "True", but {found["status"]}')
        if waiting:
            reason, message = "ReadinessGatesNotReady", ", ".join(waiting)
    return set_condition(status, "Ready", "False" if reason else "True", now, reason, message, lastProbeTime=None) or changed


def sort_conditions(status: Object) -> None:
    """The kubelet writes its own conditions first, in its order, and others' after them."""
    order = ("Initialized", "Ready", "ContainersReady", "PodReadyToStartContainers", "PodScheduled")
    status["conditions"].sort(key=lambda each: order.index(each["type"]) if each["type"] in order else len(order))
