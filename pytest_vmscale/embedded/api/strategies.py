"""What single kinds do at creation and deletion, in the server itself: namespaces, pods, claims, volumes."""

from __future__ import annotations

from datetime import datetime

from ..clock import SimClock
from .kinds import Kind
from .store import Object

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
DEFAULT_GRACE_SECONDS = 30.0
# The numbers in a status that are written even when they are 0: clients take them for granted.
ZERO_STATUS = {
    "daemonsets": ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"),
    "poddisruptionbudgets": ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"),
    "replicasets": ("replicas",), "statefulsets": ("replicas", "availableReplicas")}


def is_core(kind: Kind, plural: str) -> bool:
    return not kind.group and kind.plural == plural


def prepare_create(kind: Kind, obj: Object) -> None:
    """Fill what the server, not the client, gives a new object."""
    if kind.custom:
        return
    if is_core(kind, "namespaces"):
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        obj.setdefault("status", {}).setdefault("phase", "Active")
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    elif is_core(kind, "pods"):
        status = obj.setdefault("status", {})
        status.setdefault("phase", "Pending")
        status.setdefault("qosClass", quality_of_service(obj.get("spec") or {}))
    elif is_core(kind, "persistentvolumeclaims") or is_core(kind, "persistentvolumes"):
        obj.setdefault("status", {}).setdefault("phase", "Pending")
    elif is_core(kind, "services"):
        obj.setdefault("status", {}).setdefault("loadBalancer", {})
    elif kind.plural == "jobs":
        obj.setdefault("status", {})
        _select_own_pods(obj)
        labels = ((obj.get("spec") or {}).get("template") or {}).get("metadata", {}).get("labels")
        if labels and not obj["metadata"].get("labels"):
            obj["metadata"]["labels"] = dict(labels)
    elif kind.status:
        obj.setdefault("status", dict.fromkeys(ZERO_STATUS.get(kind.plural, ()), 0))


def _select_own_pods(job: Object) -> None:
    """A job's pods are known by its name and uid, unless its selector is its author's business (manualSelector)."""
    spec, meta = job.get("spec") or {}, job["metadata"]
    if spec.get("manualSelector"):
        return
    labels = spec.setdefault("template", {}).setdefault("metadata", {}).setdefault("labels", {})
    for name, value in (("job-name", meta["name"]), ("controller-uid", meta["uid"])):
        labels[name] = labels[f"batch.kubernetes.io/{name}"] = value
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": meta["uid"]}}


def quality_of_service(spec: Object) -> str:
    """BestEffort, Burstable or Guaranteed, from the containers' requests and limits of CPU and memory."""
    wanted: dict[str, list[Object]] = {"requests": [], "limits": []}
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        resources = container.get("resources") or {}
        for what, found in wanted.items():
            found.append({name: amount for name, amount in (resources.get(what) or {}).items() if name in ("cpu", "memory")})
    if not any(wanted["requests"]) and not any(wanted["limits"]):
        return "BestEffort"
    guaranteed = all(len(limits) == 2 and all(limits.get(name) == amount for name, amount in requests.items())
                     for requests, limits in zip(wanted["requests"], wanted["limits"], strict=True))
    return "Guaranteed" if guaranteed else "Burstable"


def set_propagation(meta: Object, policy: str | None) -> None:
    """Put the finalizer that the garbage collector acts on, as propagationPolicy says; None leaves what is there."""
    if policy is None:
        return
    wanted = {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(policy)
    finalizers = [name for name in meta.get("finalizers") or [] if name not in (FOREGROUND, ORPHAN)]
    if wanted:
        finalizers.append(wanted)
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)


def mark_deleted(kind: Kind, obj: Object, grace_seconds: float | None, clock: SimClock) -> None:
    """Set deletionTimestamp and grace period, or shorten the grace period of what is being deleted already."""
    meta = obj["metadata"]
    grace = grace_period(obj, grace_seconds) if is_core(kind, "pods") else 0
    if "deletionTimestamp" in meta:
        old = meta.get("deletionGracePeriodSeconds") or 0
        if grace_seconds is not None and grace < old:
            end = datetime.fromisoformat(meta["deletionTimestamp"]).timestamp() - clock.epoch
            meta["deletionTimestamp"], meta["deletionGracePeriodSeconds"] = clock.timestamp(end - old + grace), grace
        return
    if is_core(kind, "namespaces"):
        obj.setdefault("status", {})["phase"] = "Terminating"
        meta["deletionTimestamp"] = clock.timestamp()
        return
    if is_core(kind, "pods") or meta.get("finalizers"):
        meta["deletionTimestamp"], meta["deletionGracePeriodSeconds"] = clock.timestamp(clock.now() + grace), grace
        if meta.get("generation"):
            meta["generation"] += 1


def grace_period(pod: Object, asked_seconds: float | None) -> int:
    """A pod's grace period in seconds: as asked, else its own; none if it is on no node or has ended."""
    spec = pod.get("spec") or {}
    if not spec.get("nodeName") or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    own = spec.get("terminationGracePeriodSeconds")
    return max(0, int(asked_seconds if asked_seconds is not None else own if own is not None else DEFAULT_GRACE_SECONDS))


def holds(kind: Kind, obj: Object) -> bool:
    """True if the object may not go yet though it has no finalizers in its metadata: a namespace's spec has its own."""
    return is_core(kind, "namespaces") and bool((obj.get("spec") or {}).get("finalizers"))
