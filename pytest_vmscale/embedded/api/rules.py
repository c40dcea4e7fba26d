"""What the server knows of built-in kinds beyond their schemas: defaults that depend on other fields, and hand-written checks."""

from __future__ import annotations

import base64
import functools
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import available_timezones

import orjson

from . import event_view, limit_rules
from .cron import Schedule
from .errors import Cause
from .kinds import Kind
from .quantities import quantity
from .store import Object

CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
CONFIG_KEY_TEXT = ("a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
                   "(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_TEXT = ("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
              "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')")
POD_UPDATE_TEXT = ("Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
                   "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
                   "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)")
NOT_READY_SECONDS = 300  # how long a pod stays on a node that fails, unless it says otherwise (kube-apiserver's own default)
NODE_PORTS = range(30000, 32768)
SERVICE_NETWORK = ipaddress.ip_network("172.30.0.0/16")  # an OpenShift cluster's, unless its installer was told otherwise
# What is a struct in Go, and so is there even when nobody gives it: what lacks is what is in it.
STRUCTS = {"pods": ("spec",), "jobs.batch": ("spec.template.spec",), "cronjobs.batch": ("spec.jobTemplate.spec.template.spec",),
           **{f"{name}.apps": ("spec.template.spec",) for name in ("deployments", "replicasets", "statefulsets", "daemonsets")}}
SECRET_KEYS = {"kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",), "kubernetes.io/dockercfg": (".dockercfg",)}
MOST_CRON_JOB_NAME = 52  # its jobs' names are 11 longer
PERCENT = re.compile("[0-9]+%")
PERCENT_TEXT = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
NODE_FAILURE_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


# Defaults that depend on other fields.

def default_before(kind: Kind, obj: Object) -> None:
    """Before the schema's defaults."""
    for field in STRUCTS.get(str(kind), ()):
        _fill(obj, field.split("."))
    name, spec = str(kind), obj.get("spec") or {}
    if name == "secrets" and "stringData" in obj:
        data = obj.setdefault("data", {})
        data.update({key: base64.b64encode(text.encode()).decode() for key, text in obj.pop("stringData").items()})
    elif name == "jobs.batch" and spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = spec["parallelism"] = 1
    elif name == "jobs.batch":
        spec.setdefault("parallelism", 1)
    if name == "jobs.batch" and "podFailurePolicy" not in spec:
        spec.setdefault("podReplacementPolicy", "TerminatingOrFailed")
    if name == "services" and spec.get("type") != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if name == "services" and spec.get("type") in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")


def _fill(obj: Object, path: list[str]) -> None:
    for name in path:
        if obj.get(name) is None:
            obj[name] = {}
        if not isinstance(obj[name], dict):
            return
        obj = obj[name]


def default_after(kind: Kind, obj: Object) -> None:
    """After the schema's defaults."""
    name, spec = str(kind), obj.get("spec") or {}
    for pod_spec in _pod_specs(name, obj):
        _default_pod(pod_spec)
    if name == "pods":
        _default_running_pod(spec)
    elif name == "deployments.apps" and (spec.get("strategy") or {}).get("type") == "RollingUpdate":
        rolling = spec["strategy"].setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")
    elif name == "daemonsets.apps" and (spec.get("updateStrategy") or {}).get("type") == "RollingUpdate":
        rolling = spec["updateStrategy"].setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", 0)
        rolling.setdefault("maxUnavailable", 1)
    elif name == "statefulsets.apps" and (spec.get("updateStrategy") or {}).get("type") == "RollingUpdate":
        spec["updateStrategy"].setdefault("rollingUpdate", {}).setdefault("partition", 0)
    elif name == "services":
        for port in spec.get("ports") or ():
            port["targetPort"] = port.get("targetPort") or port.get("port")  # Go's clients send "" or 0 for none
        if spec.get("type") != "ExternalName":
            address = spec.setdefault("clusterIP", _cluster_ip(obj["metadata"]))
            spec.setdefault("clusterIPs", [address])
            spec.setdefault("ipFamilies", ["IPv4"])
            spec.setdefault("ipFamilyPolicy", "SingleStack")
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            for port in spec.get("ports") or ():
                if not port.get("nodePort"):
                    port["nodePort"] = _node_port(obj["metadata"], port)
    elif name == "limitranges":
        limit_rules.default(spec)
    elif kind.group == "rbac.authorization.k8s.io":
        for subject in obj.get("subjects") or ():
            if subject.get("kind") in ("User", "Group"):
                subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _cluster_ip(meta: Object) -> str:
    """An address of the service network that depends on the service's name alone, so that an update without one finds the same."""
    digest = hashlib.sha256(f"{meta.get('namespace', '')}/{meta.get('name', '')}".encode()).digest()
    return str(SERVICE_NETWORK[1 + int.from_bytes(digest[:4], "big") % (SERVICE_NETWORK.num_addresses - 2)])


def _node_port(meta: Object, port: Object) -> int:
    """Likewise a port of the nodes, for each of the service's own."""
    digest = hashlib.sha256(f"{meta.get('namespace', '')}/{meta.get('name', '')}:{port.get('port')}/{port.get('protocol')}".encode()).digest()
    return NODE_PORTS[int.from_bytes(digest[:4], "big") % len(NODE_PORTS)]


def _pod_specs(name: str, obj: Object) -> Iterator[Object]:
    """The pod specs in an object: a pod's own, or its template's."""
    spec = obj.get("spec") or {}
    if name == "pods":
        yield spec
    elif name == "cronjobs.batch":
        yield ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template", {}).get("spec") or {}
    elif name in ("deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch"):
        yield (spec.get("template") or {}).get("spec") or {}


def _default_pod(spec: Object) -> None:
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        image = container.get("image", "")
        tag = image.rpartition("/")[2].partition(":")[2]
        container.setdefault("imagePullPolicy", "Always" if "@" not in image and tag in ("", "latest") else "IfNotPresent")
        limits = (container.get("resources") or {}).get("limits") or {}
        if limits:
            requests = container["resources"].setdefault("requests", {})
            for resource, amount in limits.items():
                requests.setdefault(resource, amount)
        if spec.get("hostNetwork"):
            for port in container.get("ports") or ():
                port.setdefault("hostPort", port.get("containerPort"))


def _default_running_pod(spec: Object) -> None:
    """What only pods get, not templates: in part from the admission plugins that every cluster runs."""
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    tolerations = spec.get("tolerations") or []
    for taint in NODE_FAILURE_TAINTS:
        if not any(t.get("key", taint) == taint and t.get("effect", "NoExecute") == "NoExecute" for t in tolerations):
            tolerations.append({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NOT_READY_SECONDS})
    spec["tolerations"] = tolerations


# Checks.

def causes(kind: Kind, obj: Object, old: Object | None) -> list[Cause]:
    """What is wrong with an object whose fields are of the right types."""
    name, found = str(kind), []
    for path, spec in zip(_pod_spec_paths(name), _pod_specs(name, obj), strict=True):
        found += _pod_spec_causes(spec, path)
    check = CHECKS.get(name)
    return found + (check(obj, old) if check else [])


def also(kind: Kind, obj: Object, found: list[Cause]) -> list[Cause]:
    """These causes, which the schema gave, with what the real server finds wrong besides."""
    name, spec = str(kind), obj.get("spec") or {}
    if kind.group in ("apps", "batch"):
        found = sorted(found, key=lambda cause: cause.field.count("."))  # a struct's own fields before what is in them
    if name == "jobs.batch":
        return found + _restart_policy((spec.get("template") or {}).get("spec") or {}, "spec.template.spec")
    if name == "cronjobs.batch":
        template = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template") or {}
        return found + _restart_policy(template.get("spec") or {}, "spec.jobTemplate.spec.template.spec")
    if kind.group == "apps":
        at = next((place for place, cause in enumerate(found) if cause.field == "spec.selector" and cause.reason == "FieldValueRequired"), None)
        if at is not None:
            labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
            mismatch = Cause("spec.template.metadata.labels", f"Invalid value: {_json(labels)}: `selector` does not match template `labels`")
            return [*found[:at], *(() if name == "daemonsets.apps" else (found[at],)), mismatch, *found[at + 1:]]
    return found


def _restart_policy(pod_spec: Object, path: str) -> list[Cause]:
    if pod_spec.get("restartPolicy") in ("Never", "OnFailure"):
        return []
    return [Cause(f"{path}.restartPolicy", 'Required value: valid values: "OnFailure", "Never"', "FieldValueRequired")]


def _pod_spec_paths(name: str) -> list[str]:
    if name == "pods":
        return ["spec"]
    if name == "cronjobs.batch":
        return ["spec.jobTemplate.spec.template.spec"]
    return ["spec.template.spec"] if name in ("deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps",
                                              "jobs.batch") else []


def _pod_spec_causes(spec: Object, path: str) -> list[Cause]:
    found, names = [], set()
    volumes = {volume["name"] for volume in spec.get("volumes") or ()}
    for where in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(where) or ()):
            here, name = f"{path}.{where}[{index}]", container["name"]
            if not LABEL.fullmatch(name):
                found.append(Cause(f"{here}.name", f"Invalid value: {_json(name)}: {LABEL_TEXT}"))
            if name in names:
                found.append(Cause(f"{here}.name", f"Duplicate value: {_json(name)}", "FieldValueDuplicate"))
            names.add(name)
            if not container.get("image"):
                found.append(Cause(f"{here}.image", "Required value", "FieldValueRequired"))
            for position, mount in enumerate(container.get("volumeMounts") or ()):
                if mount["name"] not in volumes:
                    found.append(Cause(f"{here}.volumeMounts[{position}].name", f"Not found: {_json(mount['name'])}", "FieldValueNotFound"))
            found += _resource_causes(container.get("resources") or {}, here)
    return found


def _resource_causes(resources: Object, here: str) -> list[Cause]:
    limits = resources.get("limits") or {}
    return [Cause(f"{here}.resources.requests",
                  f"Invalid value: {_json(amount)}: must be less than or equal to {resource} limit of {limits[resource]}")
            for resource, amount in (resources.get("requests") or {}).items() if resource in limits
            and quantity(amount) > quantity(limits[resource])]


def _pod(obj: Object, old: Object | None) -> list[Cause]:
    if old is None:
        return []
    def fixed(spec: Object) -> Object:
        kept = {key: value for key, value in spec.items()
                if key not in ("activeDeadlineSeconds", "tolerations", "ephemeralContainers")}
        if (kept.get("terminationGracePeriodSeconds") or 0) < 0:
            kept["terminationGracePeriodSeconds"] = 1  # which is what it may be changed to
        for where in ("containers", "initContainers"):
            kept[where] = [{key: value for key, value in container.items() if key != "image"} for container in spec.get(where) or ()]
        return kept

    return [Cause("spec", POD_UPDATE_TEXT, "FieldValueForbidden")] if fixed(obj.get("spec") or {}) != fixed(old.get("spec") or {}) else []


def _config_map(obj: Object, old: Object | None) -> list[Cause]:
    found = []
    for part in ("data", "binaryData"):
        found += [Cause(f"{part}[{key}]", f"Invalid value: {_json(key)}: {CONFIG_KEY_TEXT}") for key in obj.get(part) or ()
                  if not CONFIG_KEY.fullmatch(key)]
    if old and old.get("immutable"):
        if not obj.get("immutable"):
            found.append(Cause("immutable", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden"))
        found += [Cause(part, "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden") for part in ("data",
                                                                                                                           "binaryData")
                  if (obj.get(part) or {}) != (old.get(part) or {})]
    return found


def _secret(obj: Object, old: Object | None) -> list[Cause]:
    found = _config_map(obj, old)
    if old and obj.get("type") != old.get("type"):
        found.append(_immutable("type", obj.get("type")))
    needed = SECRET_KEYS.get(obj.get("type", ""), ())
    return found + [Cause(f"data[{key}]", "Required value", "FieldValueRequired") for key in needed if key not in (obj.get("data") or {})]


def _workload(obj: Object, old: Object | None) -> list[Cause]:
    """Deployments, replica sets, stateful sets, daemon sets."""
    spec = obj.get("spec") or {}
    selector = (spec.get("selector") or {}).get("matchLabels") or {}
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    found = []
    if not selector and not (spec.get("selector") or {}).get("matchExpressions"):
        found.append(Cause("spec.selector",
                           f"Invalid value: {_json(spec.get('selector') or {})}: empty selector is invalid for {obj.get('kind', '').lower()}"))
    elif any(labels.get(key) != value for key, value in selector.items()):
        found.append(Cause("spec.template.metadata.labels", f"Invalid value: {_json(labels)}: `selector` does not match template `labels`"))
    if old and (old.get("spec") or {}).get("selector") != spec.get("selector"):
        found.append(_immutable("spec.selector", spec.get("selector")))
    return found + _not_negative(spec, "replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")


def _not_negative(spec: Object, *names: str) -> list[Cause]:
    return [Cause(f"spec.{name}", f"Invalid value: {spec[name]}: must be greater than or equal to 0") for name in names if (spec.get(name) or 0) < 0]


def _job(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found = _restart_policy((spec.get("template") or {}).get("spec") or {}, "spec.template.spec")
    if old:
        before = old.get("spec") or {}
        found += [_immutable(f"spec.{key}", spec.get(key)) for key in ("selector", "template", "completions") if key in before
                  and before[key] != spec.get(key)]
    return found + _not_negative(spec, "parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")


@functools.cache
def _is_zone(name: str) -> bool:
    return name in available_timezones()


def _cron_job(obj: Object, old: Object | None) -> list[Cause]:
    spec, name = obj.get("spec") or {}, obj["metadata"].get("name", "")
    found = _restart_policy(spec["jobTemplate"]["spec"]["template"]["spec"], "spec.jobTemplate.spec.template.spec")
    text = spec.get("schedule")
    if not text:
        found.append(Cause("spec.schedule", "Required value", "FieldValueRequired"))
    elif "TZ" in text:
        found.append(Cause("spec.schedule", f"Invalid value: {_json(text)}: cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
    else:
        try:
            Schedule(text)
        except ValueError as error:
            found.append(Cause("spec.schedule", f"Invalid value: {_json(text)}: {error}"))
    zone = spec.get("timeZone")
    if zone is not None and not _is_zone(zone):
        found.append(Cause("spec.timeZone", f"Invalid value: {_json(zone)}: unknown time zone {zone}"))
    if not old and len(name) > MOST_CRON_JOB_NAME:
        found.append(Cause("metadata.name", f"Invalid value: {_json(name)}: must be no more than {MOST_CRON_JOB_NAME} characters"))
    return found + _not_negative(spec, "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")


def _claim(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    requests = (spec.get("resources") or {}).get("requests") or {}
    found = []
    if not spec.get("accessModes"):
        found.append(Cause("spec.accessModes", "Required value: at least 1 access mode is required", "FieldValueRequired"))
    if "storage" not in requests:
        found.append(Cause("spec.resources[storage]", "Required value", "FieldValueRequired"))
    elif quantity(requests["storage"]) <= 0:
        found.append(Cause("spec.resources[storage]", f"Invalid value: {_json(requests['storage'])}: must be greater than zero"))
    if old:
        before = old.get("spec") or {}
        # Binding fills these two in; until then they may be set.
        bound = (old.get("status") or {}).get("phase") == "Bound"
        free = {*(("resources", "volumeAttributesClassName") if bound else ()), *(key for key in ("volumeName", "storageClassName") if not before.get(key))}
        if {k: v for k, v in spec.items() if k not in free} != {k: v for k, v in before.items() if k not in free}:
            found.append(Cause("spec", "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName "
                               "for bound claims",
                               "FieldValueForbidden"))
        was = ((old.get("status") or {}).get("capacity") or {}).get("storage")
        if was and "storage" in requests and quantity(requests["storage"]) < quantity(was):
            found.append(Cause("spec.resources.requests.storage", "Forbidden: field can not be less than status.capacity",
                               "FieldValueForbidden"))
    return found


def _volume(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    found = []
    if not spec.get("accessModes"):
        found.append(Cause("spec.accessModes", "Required value", "FieldValueRequired"))
    if not spec.get("capacity"):
        found.append(Cause("spec.capacity", "Required value", "FieldValueRequired"))
    return found


def _service(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    ports = spec.get("ports") or []
    found = []
    if not ports and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        found.append(Cause("spec.ports", "Required value", "FieldValueRequired"))
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            found.append(Cause(f"spec.ports[{index}].name", "Required value", "FieldValueRequired"))
        if not 1 <= port["port"] <= 65535:
            found.append(Cause(f"spec.ports[{index}].port", f"Invalid value: {port['port']}: must be between 1 and 65535, inclusive"))
    was = ((old or {}).get("spec") or {}).get("clusterIP")
    if was and spec.get("clusterIP") != was and spec.get("type") != "ExternalName":
        found.append(_immutable("spec.clusterIP", spec.get("clusterIP") or ""))
    return found


def _budget(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    if "minAvailable" in spec and "maxUnavailable" in spec:
        return [Cause("spec", f"Invalid value: {_json(spec)}: minAvailable and maxUnavailable cannot be both set")]
    found = []
    for name in ("minAvailable", "maxUnavailable"):
        amount = spec.get(name)
        if isinstance(amount, str) and not PERCENT.fullmatch(amount):
            found.append(Cause(f"spec.{name}", f"Invalid value: {_json(amount)}: {PERCENT_TEXT}"))
        elif isinstance(amount, int) and amount < 0:
            found.append(Cause(f"spec.{name}", f"Invalid value: {amount}: must be greater than or equal to 0"))
        elif isinstance(amount, str) and int(amount[:-1]) > 100:
            found.append(Cause(f"spec.{name}", f"Invalid value: {_json(amount)}: must not be greater than 100%"))
    return found


def _lease(obj: Object, old: Object | None) -> list[Cause]:
    seconds = (obj.get("spec") or {}).get("leaseDurationSeconds")
    return [Cause("spec.leaseDurationSeconds", f"Invalid value: {seconds}: must be greater than 0")] if seconds is not None and seconds <= 0 else []


def _storage_class(obj: Object, old: Object | None) -> list[Cause]:
    if old is None:
        return []
    found = [Cause(key, f"Forbidden: updates to {key} are forbidden.", "FieldValueForbidden") for key in ("parameters", "provisioner",
                                                                                                          "reclaimPolicy")
             if obj.get(key) != old.get(key)]
    if obj.get("volumeBindingMode") != old.get("volumeBindingMode"):
        found.append(_immutable("volumeBindingMode", obj.get("volumeBindingMode")))
    return found


def _role(obj: Object, old: Object | None) -> list[Cause]:
    found = []
    for index, rule in enumerate(obj.get("rules") or ()):
        if not rule.get("verbs"):
            found.append(Cause(f"rules[{index}].verbs", "Required value: verbs must contain at least one value", "FieldValueRequired"))
        if rule.get("nonResourceURLs"):
            continue
        found += [Cause(f"rules[{index}].{field}", f"Required value: resource rules must supply at least one {words}", "FieldValueRequired")
                  for field, words in (("apiGroups", "api group"), ("resources", "resource")) if not rule.get(field)]
    return found


def _role_binding(obj: Object, old: Object | None) -> list[Cause]:
    found = [Cause(f"subjects[{index}].kind", f'Unsupported value: {_json(subject.get("kind") or "")}: supported values: "ServiceAccount", "User", "Group"', "FieldValueNotSupported")
             for index, subject in enumerate(obj.get("subjects") or ()) if subject.get("kind") not in ("ServiceAccount", "User", "Group")]
    if old and obj.get("roleRef") != old.get("roleRef"):
        found.append(Cause("roleRef", f"Invalid value: {_json(obj.get('roleRef'))}: cannot change roleRef"))
    return found


def _immutable(path: str, value: Any) -> Cause:
    return Cause(path, f"Invalid value: {_json(value)}: field is immutable")


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


CHECKS: dict[str, Callable[[Object, Object | None], list[Cause]]] = {
    "pods": _pod, "configmaps": _config_map, "secrets": _secret, "persistentvolumeclaims": _claim, "persistentvolumes": _volume,
                                                                     "services": _service,
    "deployments.apps": _workload, "replicasets.apps": _workload, "statefulsets.apps": _workload, "daemonsets.apps": _workload,
                                                                     "jobs.batch": _job, "cronjobs.batch": _cron_job,
    "limitranges": limit_rules.limit_range, "resourcequotas": limit_rules.quota, "events": event_view.core_causes,
    "poddisruptionbudgets.policy": _budget, "storageclasses.storage.k8s.io": _storage_class,
                                                                     "rolebindings.rbac.authorization.k8s.io": _role_binding,
    "clusterrolebindings.rbac.authorization.k8s.io": _role_binding, "roles.rbac.authorization.k8s.io": _role, "clusterroles.rbac.authorization.k8s.io": _role,
    "leases.coordination.k8s.io": _lease}
