"""The rows of built-in kinds, as the real API server prints them. Cells of `Table` answers (see tables.py).

Columns are written as words: "Age", "Desired#" (an integer), "Node*" (priority 1: printed with -o wide only).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .kinds import Column, Kind
from .store import Object

NONE, UNSET, UNKNOWN = "<none>", "<unset>", "<unknown>"
ACCESS_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
ROLE_PREFIX = "node-role.kubernetes.io/"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
POD_ENDS = {"Succeeded": "The pod has completed successfully.", "Failed": "The pod failed."}
ENDPOINTS_SHOWN = 3


@dataclass(frozen=True)
class BuiltIn:
    columns: tuple[Column, ...]
    cells: Callable[[Object, float], list[Any]]


BUILT_IN: dict[str, BuiltIn] = {}


def _prints(resource: str, *columns: str) -> Callable[[Callable[[Object, float], list[Any]]], Callable[[Object, float], list[Any]]]:
    def register(cells: Callable[[Object, float], list[Any]]) -> Callable[[Object, float], list[Any]]:
        BUILT_IN[resource] = BuiltIn(tuple(Column(word.rstrip("#*"), "integer" if "#" in word else "string", "", priority=int("*" in word))
                                           for word in columns), cells)
        return cells

    return register


def row_conditions(kind: Kind, obj: Object) -> list[Object]:
    """The conditions of a Table's row: a pod that has ended says so (kubectl can leave it out)."""
    phase = obj.get("status", {}).get("phase") if kind.kind == "Pod" and not kind.custom else None
    return [{"type": "Completed", "status": "True", "reason": phase, "message": POD_ENDS[phase]}] if phase in POD_ENDS else []


def human_duration(seconds: float) -> str:
    """An age as kubectl says it: 119s, 2m5s, 15m, 3h5m, 47h, 3d4h, 30d, 3y20d."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    whole = max(whole, 0)
    minutes, hours = whole // 60, whole // 3600
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 24 * 8:
        return _two(hours // 24, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{hours // 24}d"
    if hours < 24 * 365 * 8:
        return _two(hours // 24 // 365, "y", hours // 24 % 365, "d")
    return f"{hours // 24 // 365}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def age(timestamp: Any, now: float) -> str:
    """How long ago an RFC 3339 timestamp was, at Unix time `now`."""
    if not timestamp:
        return UNKNOWN
    try:
        return human_duration(now - datetime.fromisoformat(timestamp).timestamp())
    except (TypeError, ValueError):
        return "<invalid>"


def _age(obj: Object, now: float) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _or_none(value: Any) -> Any:
    return value if value else NONE


def _labels(labels: dict[str, str] | None) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) if labels else NONE


def _selector(selector: Object | None) -> str:
    """A LabelSelector as text: a=b,c in (x,y),!d."""
    if not selector:
        return NONE
    found = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for each in selector.get("matchExpressions") or ():
        key, values = each["key"], ",".join(sorted(each.get("values") or ()))
        words = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}
        found.append((key, words.get(each["operator"], key)))
    return ",".join(text for _, text in sorted(found)) or NONE


def _containers(spec: Object) -> list[str]:
    containers = spec.get("template", {}).get("spec", {}).get("containers") or []
    return [",".join(c["name"] for c in containers), ",".join(c.get("image", "") for c in containers)]


def _true(conditions: Iterable[Object] | None, type_: str) -> bool:
    return any(c.get("type") == type_ and c.get("status") == "True" for c in conditions or ())


@_prints("pods", "Name", "Ready", "Status", "Restarts", "Age", "IP*", "Node*", "Nominated Node*", "Readiness Gates*")
def _pod(obj: Object, now: float) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    reason, ready, total, restarts, last = _pod_reason(obj)
    told = str(restarts) if not restarts or not last else f"{restarts} ({age(last, now)} ago)"
    ips = [each["ip"] for each in status.get("podIPs") or ()] or [status.get("podIP", "")]
    gates = spec.get("readinessGates") or []
    passed = sum(_true(status.get("conditions"), gate["conditionType"]) for gate in gates)
    return [_name(obj), f"{ready}/{total}", reason, told, _age(obj, now), _or_none(ips[0]), _or_none(spec.get("nodeName")),
            _or_none(status.get("nominatedNodeName")), f"{passed}/{len(gates)}" if gates else NONE]


def _pod_reason(obj: Object) -> tuple[str, int, int, int, str]:
    """STATUS, ready containers, all containers, restarts, and when the last restart was."""
    spec, status = obj.get("spec", {}), obj.get("status", {})
    conditions = status.get("conditions") or []
    reason = status.get("reason") or status.get("phase", "")
    if any(c.get("type") == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in conditions):
        reason = "SchedulingGated"
    sidecars = {c["name"] for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    total, ready = len(spec.get("containers") or ()) + len(sidecars), 0
    all_init, side_init = [], []
    initializing = False
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        all_init.append(container)
        sidecar = container["name"] in sidecars
        if sidecar:
            side_init.append(container)
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended is not None and not ended.get("exitCode", 0):
            continue
        if sidecar and container.get("started"):
            ready += bool(container.get("ready"))
            continue
        initializing = True
        if ended is not None:
            reason = "Init:" + _end(ended)
        elif waiting is not None and waiting.get("reason", "") not in ("", "PodInitializing"):
            reason = "Init:" + waiting["reason"]
        else:
            reason = f"Init:{index}/{len(spec.get('initContainers') or ())}"
        break
    counted = all_init
    if not initializing or _true(conditions, "Initialized"):
        counted = side_init + (status.get("containerStatuses") or [])
        running = False
        for container in reversed(status.get("containerStatuses") or ()):
            state = container.get("state") or {}
            if (state.get("waiting") or {}).get("reason"):
                reason = state["waiting"]["reason"]
            elif state.get("terminated") is not None:
                reason = _end(state["terminated"])
            elif container.get("ready") and state.get("running") is not None:
                running, ready = True, ready + 1
        if reason == "Completed" and running:
            reason = "Running" if _true(conditions, "Ready") else "NotReady"
    if "deletionTimestamp" in obj["metadata"]:
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif status.get("phase") not in POD_ENDS:
            reason = "Terminating"
    ends = [((c.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or "" for c in counted]
    return reason, ready, total, sum(c.get("restartCount", 0) for c in counted), max(ends, default="")


def _end(ended: Object) -> str:
    """Why a container ended."""
    return str(ended.get("reason") or (f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"))


@_prints("nodes", "Name", "Status", "Roles", "Age", "Version", "Internal-IP*", "External-IP*", "OS-Image*", "Kernel-Version*",
         "Container-Runtime*")
def _node(obj: Object, now: float) -> list[Any]:
    status, labels = obj.get("status", {}), obj["metadata"].get("labels") or {}
    ready = [c for c in status.get("conditions") or () if c.get("type") == "Ready"]
    told = [("Ready" if ready[0].get("status") == "True" else "NotReady") if ready else "Unknown"]
    if obj.get("spec", {}).get("unschedulable"):
        told.append("SchedulingDisabled")
    roles = {key.removeprefix(ROLE_PREFIX) for key in labels if key.startswith(ROLE_PREFIX)} | {labels.get("kubernetes.io/role", "")}
    addresses: dict[str, str] = {}
    for each in status.get("addresses") or ():
        addresses.setdefault(each["type"], each["address"])
    info = status.get("nodeInfo") or {}
    return [_name(obj), ",".join(told), ",".join(sorted(filter(None, roles))) or NONE, _age(obj, now), info.get("kubeletVersion", ""),
            addresses.get("InternalIP", NONE), addresses.get("ExternalIP", NONE),
            *(info.get(key) or UNKNOWN for key in ("osImage", "kernelVersion", "containerRuntimeVersion"))]


@_prints("namespaces", "Name", "Status", "Age")
def _namespace(obj: Object, now: float) -> list[Any]:
    return [_name(obj), obj.get("status", {}).get("phase", ""), _age(obj, now)]


def _modes(modes: Iterable[str] | None) -> str:
    found = set(modes or ())
    return ",".join(short for mode, short in ACCESS_MODES.items() if mode in found)


def _phase(obj: Object) -> str:
    return "Terminating" if "deletionTimestamp" in obj["metadata"] else obj.get("status", {}).get("phase", "")


@_prints("persistentvolumes", "Name", "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass",
         "VolumeAttributesClass", "Reason", "Age", "VolumeMode*")
def _volume(obj: Object, now: float) -> list[Any]:
    spec, claim = obj.get("spec", {}), obj.get("spec", {}).get("claimRef")
    return [_name(obj), (spec.get("capacity") or {}).get("storage", "0"), _modes(spec.get("accessModes")),
            spec.get("persistentVolumeReclaimPolicy", ""), _phase(obj),
            f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
            spec.get("storageClassName", ""), spec.get("volumeAttributesClassName", UNSET), obj.get("status", {}).get("reason", ""),
            _age(obj, now), spec.get("volumeMode", UNSET)]


@_prints("resourcequotas", "Name", "Request", "Limit", "Age")
def _resource_quota(obj: Object, now: float) -> list[Any]:
    status = obj.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    words = {name: f"{name}: {used.get(name, 0)}/{hard[name]}" for name in sorted(hard)}
    return [_name(obj), ", ".join(text for name, text in words.items() if not name.startswith("limits.")),
            ", ".join(text for name, text in words.items() if name.startswith("limits.")), _age(obj, now)]


@_prints("persistentvolumeclaims", "Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age",
         "VolumeMode*")
def _claim(obj: Object, now: float) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    bound = bool(spec.get("volumeName"))
    return [_name(obj), _phase(obj), spec.get("volumeName", ""), (status.get("capacity") or {}).get("storage", "0") if bound else "",
            _modes(status.get("accessModes")) if bound else "", spec.get("storageClassName", ""),
            spec.get("volumeAttributesClassName", UNSET), _age(obj, now), spec.get("volumeMode", UNSET)]


@_prints("configmaps", "Name", "Data", "Age")
def _config_map(obj: Object, now: float) -> list[Any]:
    return [_name(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), _age(obj, now)]


@_prints("secrets", "Name", "Type", "Data#", "Age")
def _secret(obj: Object, now: float) -> list[Any]:
    return [_name(obj), obj.get("type", ""), len(obj.get("data") or ()), _age(obj, now)]


@_prints("serviceaccounts", "Name", "Secrets", "Age")
def _service_account(obj: Object, now: float) -> list[Any]:
    return [_name(obj), len(obj.get("secrets") or ()), _age(obj, now)]


@_prints("services", "Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector*")
def _service(obj: Object, now: float) -> list[Any]:
    spec = obj.get("spec", {})
    ports = ",".join(f"{p['port']}{':' + str(p['nodePort']) if p.get('nodePort') else ''}/{p.get('protocol', 'TCP')}"
                     for p in spec.get("ports") or ())
    ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [_name(obj), spec.get("type", ""), _or_none(ips[0]), _external(obj), _or_none(ports), _age(obj, now),
            _labels(spec.get("selector"))]


def _external(obj: Object) -> str:
    spec = obj.get("spec", {})
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    addresses = list(spec.get("externalIPs") or ())
    if spec.get("type") == "LoadBalancer":
        ingress = obj.get("status", {}).get("loadBalancer", {}).get("ingress") or ()
        addresses = [each.get("ip") or each.get("hostname", "") for each in ingress] + addresses
        return ",".join(addresses) or "<pending>"
    return ",".join(addresses) or NONE


@_prints("endpoints", "Name", "Endpoints", "Age")
def _endpoints(obj: Object, now: float) -> list[Any]:
    found = [f"{address['ip']}:{port['port']}" for subset in obj.get("subsets") or () for port in subset.get("ports") or ()
             for address in subset.get("addresses") or ()]
    return [_name(obj), _first(found) or NONE, _age(obj, now)]


def _first(found: list[str]) -> str:
    more = f" + {len(found) - ENDPOINTS_SHOWN} more..." if len(found) > ENDPOINTS_SHOWN else ""
    return ",".join(found[:ENDPOINTS_SHOWN]) + more


@_prints("events", "Last Seen", "Type", "Reason", "Object", "Subobject*", "Source*", "Message", "First Seen*", "Count#*", "Name*")
def _event(obj: Object, now: float) -> list[Any]:
    first = age(obj.get("firstTimestamp") or obj.get("eventTime"), now)
    last, count = age(obj["lastTimestamp"], now) if obj.get("lastTimestamp") else first, obj.get("count") or 1
    if obj.get("series"):
        last, count = age(obj["series"].get("lastObservedTime"), now), obj["series"].get("count", 0)
    about, source = obj.get("involvedObject", {}), obj.get("source") or {}
    component, host = source.get("component") or obj.get("reportingComponent", ""), source.get("host") or obj.get("reportingInstance", "")
    target = about.get("kind", "").lower() + (f"/{about['name']}" if about.get("name") else "")
    return [last, obj.get("type", ""), obj.get("reason", ""), target, about.get("fieldPath", ""), f"{component}, {host}"
            if host else component,
            obj.get("message", "").strip(), first, count, _name(obj)]


@_prints("deployments.apps", "Name", "Ready", "Up-to-date", "Available", "Age", "Containers*", "Images*", "Selector*")
def _deployment(obj: Object, now: float) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    return [_name(obj), f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}", status.get("updatedReplicas", 0),
            status.get("availableReplicas", 0),
            _age(obj, now), *_containers(spec), _selector(spec.get("selector"))]


@_prints("replicasets.apps", "Name", "Desired#", "Current#", "Ready#", "Age", "Containers*", "Images*", "Selector*")
def _replica_set(obj: Object, now: float) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    return [_name(obj), spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0), _age(obj, now),
            *_containers(spec),
            _selector(spec.get("selector"))]


@_prints("statefulsets.apps", "Name", "Ready", "Age", "Containers*", "Images*")
def _stateful_set(obj: Object, now: float) -> list[Any]:
    spec = obj.get("spec", {})
    return [_name(obj), f"{obj.get('status', {}).get('readyReplicas', 0)}/{spec.get('replicas', 1)}", _age(obj, now), *_containers(spec)]


@_prints("daemonsets.apps", "Name", "Desired#", "Current#", "Ready#", "Up-to-date#", "Available#", "Node Selector", "Age", "Containers*",
         "Images*",
         "Selector*")
def _daemon_set(obj: Object, now: float) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    return [_name(obj), *(status.get(key, 0) for key in counts), _labels(spec.get("template", {}).get("spec", {}).get("nodeSelector")),
            _age(obj, now),
            *_containers(spec), _selector(spec.get("selector"))]


@_prints("controllerrevisions.apps", "Name", "Controller", "Revision", "Age")
def _controller_revision(obj: Object, now: float) -> list[Any]:
    owner = next((o for o in obj["metadata"].get("ownerReferences") or () if o.get("controller")), None)
    group = owner["apiVersion"].rpartition("/")[0] if owner else ""
    told = f"{owner['kind'].lower()}{'.' + group if group else ''}/{owner['name']}" if owner else NONE
    return [_name(obj), told, obj.get("revision", 0), _age(obj, now)]


@_prints("jobs.batch", "Name", "Status", "Completions", "Duration", "Age", "Containers*", "Images*", "Selector*")
def _job(obj: Object, now: float) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    done, parallel = status.get("succeeded", 0), spec.get("parallelism") or 0
    completions = f"{done}/{spec['completions']}" if spec.get("completions") is not None else f"{done}/1"
    if spec.get("completions") is None and parallel > 1:
        completions += f" of {parallel}"
    end = datetime.fromisoformat(status["completionTime"]).timestamp() if status.get("completionTime") else now
    return [_name(obj), _job_status(obj), completions, age(status["startTime"], end) if status.get("startTime") else "", _age(obj, now),
            *_containers(spec), _selector(spec.get("selector"))]


def _job_status(obj: Object) -> str:
    conditions = obj.get("status", {}).get("conditions")
    for type_ in ("Complete", "Failed"):
        if _true(conditions, type_):
            return type_
    if "deletionTimestamp" in obj["metadata"]:
        return "Terminating"
    return next((type_ for type_ in ("Suspended", "FailureTarget", "SuccessCriteriaMet") if _true(conditions, type_)), "Running")


@_prints("cronjobs.batch", "Name", "Schedule", "Timezone", "Suspend", "Active#", "Last Schedule", "Age", "Containers*", "Images*",
         "Selector*")
def _cron_job(obj: Object, now: float) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    last, job = status.get("lastScheduleTime"), spec.get("jobTemplate", {}).get("spec", {})
    return [_name(obj), spec.get("schedule", ""), spec.get("timeZone", NONE), UNSET
            if spec.get("suspend") is None else str(bool(spec["suspend"])),
            len(status.get("active") or ()), age(last, now) if last else NONE, _age(obj, now), *_containers(job),
            _selector(job.get("selector"))]


@_prints("poddisruptionbudgets.policy", "Name", "Min Available", "Max Unavailable", "Allowed Disruptions#", "Age")
def _budget(obj: Object, now: float) -> list[Any]:
    spec = obj.get("spec", {})
    return [_name(obj), str(spec.get("minAvailable", "N/A")), str(spec.get("maxUnavailable", "N/A")), obj.get("status",
                                                                                                              {}).get("disruptionsAllowed",
                                                                                                                      0),
            _age(obj, now)]


@_prints("storageclasses.storage.k8s.io", "Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age")
def _storage_class(obj: Object, now: float) -> list[Any]:
    default = (obj["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    return [_name(obj) + (" (default)" if default else ""), obj.get("provisioner", ""), obj.get("reclaimPolicy", "Delete"),
            obj.get("volumeBindingMode", "Immediate"), bool(obj.get("allowVolumeExpansion")), _age(obj, now)]


@_prints("csidrivers.storage.k8s.io", "Name", "AttachRequired", "PodInfoOnMount", "StorageCapacity", "TokenRequests", "RequiresRepublish",
         "Modes", "Age")
def _csi_driver(obj: Object, now: float) -> list[Any]:
    spec = obj.get("spec", {})
    audiences = ",".join(request.get("audience", "") for request in spec.get("tokenRequests") or ())
    return [_name(obj), spec.get("attachRequired", True), spec.get("podInfoOnMount", False), spec.get("storageCapacity", False), audiences
            or UNSET,
            spec.get("requiresRepublish", False), ",".join(spec.get("volumeLifecycleModes") or ()) or NONE, _age(obj, now)]


@_prints("csinodes.storage.k8s.io", "Name", "Drivers#", "Age")
def _csi_node(obj: Object, now: float) -> list[Any]:
    return [_name(obj), len(obj.get("spec", {}).get("drivers") or ()), _age(obj, now)]


@_prints("volumeattachments.storage.k8s.io", "Name", "Attacher", "PV", "Node", "Attached", "Age")
def _volume_attachment(obj: Object, now: float) -> list[Any]:
    spec = obj.get("spec", {})
    return [_name(obj), spec.get("attacher", ""), (spec.get("source") or {}).get("persistentVolumeName", ""), spec.get("nodeName", ""),
            bool(obj.get("status", {}).get("attached")), _age(obj, now)]


@_prints("leases.coordination.k8s.io", "Name", "Holder", "Age")
def _lease(obj: Object, now: float) -> list[Any]:
    return [_name(obj), obj.get("spec", {}).get("holderIdentity", ""), _age(obj, now)]


@_prints("endpointslices.discovery.k8s.io", "Name", "AddressType", "Ports", "Endpoints", "Age")
def _endpoint_slice(obj: Object, now: float) -> list[Any]:
    ports = [str(port["port"]) if port.get("port") is not None else "*" for port in obj.get("ports") or ()]
    addresses = [address for endpoint in obj.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    return [_name(obj), obj.get("addressType", ""), _first(ports) or UNSET, _first(addresses) or UNSET, _age(obj, now)]


def _created_at(obj: Object, now: float) -> list[Any]:
    return [_name(obj), obj["metadata"].get("creationTimestamp", UNKNOWN)]


for _resource in ("roles.rbac.authorization.k8s.io", "clusterroles.rbac.authorization.k8s.io",
                  "customresourcedefinitions.apiextensions.k8s.io", "limitranges"):
    BUILT_IN[_resource] = BuiltIn((Column("Name", "string", ""), Column("Created At", "date", "")), _created_at)


@_prints("rolebindings.rbac.authorization.k8s.io", "Name", "Role", "Age", "Users*", "Groups*", "ServiceAccounts*")
@_prints("clusterrolebindings.rbac.authorization.k8s.io", "Name", "Role", "Age", "Users*", "Groups*", "ServiceAccounts*")
def _binding(obj: Object, now: float) -> list[Any]:
    role, subjects = obj.get("roleRef", {}), obj.get("subjects") or []
    accounts = ", ".join(f"{s.get('namespace', '')}/{s['name']}" for s in subjects if s["kind"] == "ServiceAccount")
    return [_name(obj), f"{role.get('kind', '')}/{role.get('name', '')}", _age(obj, now),
            *(", ".join(s["name"] for s in subjects if s["kind"] == wanted) for wanted in ("User", "Group")), accounts]


@_prints("priorityclasses.scheduling.k8s.io", "Name", "Value", "Global-Default", "Age", "PreemptionPolicy")
def _priority_class(obj: Object, now: float) -> list[Any]:
    return [_name(obj), obj.get("value", 0), bool(obj.get("globalDefault")), _age(obj, now), obj.get("preemptionPolicy",
                                                                                                     "PreemptLowerPriority")]
