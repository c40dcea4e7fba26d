"""What the server checks of ResourceQuotas and LimitRanges, and fills in."""

from __future__ import annotations

import orjson

from .errors import Cause
from .quantities import quantity
from .store import Object

COMPUTE = {f"{side}{name}" for side in ("", "requests.", "limits.") for name in ("cpu", "memory", "ephemeral-storage")}
COUNTS = {"pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims", "services.nodeports",
          "services.loadbalancers"}
# What a quota of this scope can be about.
SCOPES = {"BestEffort": {"pods"}, **{scope: {"pods", *COMPUTE} for scope in ("NotBestEffort", "Terminating", "NotTerminating", "PriorityClass", "CrossNamespacePodAffinity")}}
LIMIT_TYPES = ("Container", "PersistentVolumeClaim", "Pod")
# Of two amounts the first must not be greater: the names of both, the field that is blamed, whose value is quoted, and how both are called.
PAIRS = (("min", "max", "min", "min", "min value", "max value"),
         ("min", "defaultRequest", "defaultRequest", "defaultRequest", "min value", "default request value"),
         ("defaultRequest", "max", "defaultRequest", "defaultRequest", "default request value", "max value"),
         ("defaultRequest", "default", "defaultRequest", "defaultRequest", "default request value", "default limit value"),
         ("min", "default", "default", "min", "min value", "default value"),
         ("default", "max", "default", "default", "default value", "max value"))


def default(spec: Object) -> None:
    """A LimitRange's: what containers are not limited to by default is the most they may, and what they ask for is that limit, else the least."""
    for item in spec.get("limits") or ():
        if item.get("type") != "Container":
            continue
        for target, sources in (("default", ("max",)), ("defaultRequest", ("default", "min"))):
            for source in sources:
                for resource, amount in (item.get(source) or {}).items():
                    item.setdefault(target, {}).setdefault(resource, amount)


def limit_range(obj: Object, old: Object | None) -> list[Cause]:
    found, types = [], set()
    for index, item in enumerate((obj.get("spec") or {}).get("limits") or ()):
        here, type_ = f"spec.limits[{index}]", item["type"]
        if type_ not in LIMIT_TYPES and "/" not in type_:
            found.append(Cause(f"{here}.type", f"Invalid value: {_json(type_)}: must be a standard limit type or fully qualified"))
        if type_ in types:
            found.append(Cause(f"{here}.type", f"Duplicate value: {_json(type_)}", "FieldValueDuplicate"))
        types.add(type_)
        if type_ == "Pod":
            found += [Cause(f"{here}.{key}", "Forbidden: may not be specified when `type` is 'Pod'", "FieldValueForbidden")
                      for key in ("default", "defaultRequest") if item.get(key)]
        if type_ == "PersistentVolumeClaim" and not any("storage" in (item.get(key) or {}) for key in ("min", "max")):
            found.append(Cause(f"{here}.limits", "Required value: either minimum or maximum storage value is required, but neither was provided", "FieldValueRequired"))
        found += _contradictions(item, here)
    return found


def _contradictions(item: Object, here: str) -> list[Cause]:
    found = []
    for resource in sorted({name for key in ("min", "max", "default", "defaultRequest", "maxLimitRequestRatio") for name in item.get(key) or ()}):
        amounts = {key: item[key][resource] for key in ("min", "max", "default", "defaultRequest") if resource in (item.get(key) or {})}
        for less, more, field, quoted, less_words, more_words in PAIRS:
            if less in amounts and more in amounts and quantity(amounts[less]) > quantity(amounts[more]):
                found.append(Cause(f"{here}.{field}[{resource}]", f"Invalid value: {_json(str(amounts[quoted]))}: {less_words} {amounts[less]} "
                                                                   f"is greater than {more_words} {amounts[more]}"))
        ratio = (item.get("maxLimitRequestRatio") or {}).get(resource)
        if ratio is not None and quantity(ratio) < 1:
            found.append(Cause(f"{here}.maxLimitRequestRatio[{resource}]", f"Invalid value: {_json(str(ratio))}: ratio {ratio} is less than 1"))
    return found


def quota(obj: Object, old: Object | None) -> list[Cause]:
    spec, found = obj.get("spec") or {}, []
    hard, scopes = spec.get("hard") or {}, spec.get("scopes") or []
    for name, amount in hard.items():
        standard = name in COMPUTE or name in COUNTS or name == "requests.storage" or name.removeprefix("requests.").startswith("hugepages-")
        if "/" not in name and not standard:
            found += [Cause(f"spec.hard[{name}]", f"Invalid value: {_json(name)}: must be a standard resource {words}") for words in ("type or fully qualified", "for quota")]
        if quantity(amount) < 0:
            found.append(Cause(f"spec.hard[{name}]", f"Invalid value: {_json(str(amount))}: must be greater than or equal to 0"))
    for scope in scopes:
        if scope not in SCOPES:
            found.append(Cause("spec.scopes", f"Invalid value: {_json(scopes)}: unsupported scope"))
        else:
            found += [Cause("spec.scopes", f"Invalid value: {_json(scopes)}: unsupported scope applied to resource") for name in hard if name not in SCOPES[scope]]
    if old is not None and sorted(scopes) != sorted((old.get("spec") or {}).get("scopes") or []):
        found.append(Cause("spec.scopes", f"Invalid value: {_json(scopes)}: field is immutable"))
    return found


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
