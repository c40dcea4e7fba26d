"""ResourceQuotas: what a namespace may have of each resource, as admission enforces it, and what it has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..api.errors import ApiError, details, qualified
from ..api.kinds import Kind
from ..api.store import Change, Entry, Key, Object
from ..api.strategies import quality_of_service
from ..queue import Workers
from .common import Cluster, milli

if TYPE_CHECKING:
    from ..api.server import ApiServer

# Plain names of counts, beside `count/<resource>`.
COUNTED = ("pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims")
# What every container of a pod must say where a quota counts it.
REQUIRED = ("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory")

Amounts = dict[str, int]  # thousandths, by the names that quotas have


@dataclass(frozen=True, slots=True)
class Taken:
    """What one object takes, and what quotas with a scope go by."""

    amounts: Amounts
    best_effort: bool = False
    terminating: bool = False
    priority_class: str = ""


class Ledger:
    """What the objects of one kind take, by namespace. Kept up to date by a watch, so that nobody has to add up a fleet."""

    def __init__(self, cluster: Cluster, kind: Kind, changed: Callable[[str], None]) -> None:
        """`changed` is called with the namespace whose sums have changed."""
        self._kind, self._tell = kind, changed
        self._taken: dict[str, dict[Key, Taken]] = {}
        self._sums: dict[str, Amounts] = {}
        cluster.resources.watch(kind, self._changed)
        for entry in cluster.resources.store.entries(kind):
            self._add(entry)

    def used(self, namespace: str, name: str, spec: Object) -> int:
        """How much the objects in a quota's scope take of this."""
        if not _has_scopes(spec):
            return self._sums.get(namespace, {}).get(name, 0)
        return sum(taken.amounts.get(name, 0) for taken in self._taken.get(namespace, {}).values() if in_scope(spec, taken))

    def _changed(self, change: Change) -> None:
        namespace = change.key[0]
        known = self._taken.get(namespace, {}).get(change.key)
        if change.type == "DELETED":
            if known is not None:
                self._forget(change.key, known)
        elif known is None:
            self._add(change.new)
        elif self._kind.plural != "pods" or _has_ended(change.new):  # what a pod asks for never changes
            self._forget(change.key, known)
            self._add(change.new)
        else:
            return
        self._tell(namespace)

    def _add(self, entry: Entry) -> None:
        if self._kind.plural == "pods" and _has_ended(entry):
            return
        taken = self._taken.setdefault(entry.key[0], {})[entry.key] = taken_by(self._kind, entry.obj)
        sums = self._sums.setdefault(entry.key[0], {})
        for name, amount in taken.amounts.items():
            sums[name] = sums.get(name, 0) + amount

    def _forget(self, key: Key, taken: Taken) -> None:
        del self._taken[key[0]][key]
        for name, amount in taken.amounts.items():
            self._sums[key[0]][name] -= amount


class Quota:
    """Checks what is to be created against the namespace's quotas."""

    def __init__(self, cluster: Cluster, changed: Callable[[str], None] = lambda namespace: None) -> None:
        """`changed` is called with a namespace where something is used that a quota has asked for."""
        self._cluster, self._resources, self._tell = cluster, cluster.resources, changed
        self._quotas = cluster.resources.kind("resourcequotas")
        self._ledgers: dict[Kind, Ledger] = {}

    def charge(self, kind: Kind, obj: Object, old: Object | None = None) -> None:
        """403, in the words of the real one, if there is a quota that this object (or what it is more than `old`) would exceed."""
        namespace = obj["metadata"].get("namespace", "")
        quotas = self._resources.list(self._quotas, namespace) if namespace else []
        if not quotas:
            return
        taken = taken_by(kind, obj)
        before = taken_by(kind, old).amounts if old else {}
        for quota in quotas:
            spec = quota.get("spec") or {}
            hard: dict[str, str] = spec.get("hard") or {}
            if not in_scope(spec, taken):
                continue
            if kind.plural == "pods" and (unsaid := _unsaid(obj, hard)):
                raise _forbidden(kind, obj, f"failed quota: {quota['metadata']['name']}: must specify {unsaid}")
            asked = {name: more for name, amount in taken.amounts.items() if name in hard and (more := amount - before.get(name, 0)) > 0}
            used = {name: self.used(namespace, name, spec) for name in asked}
            over = sorted(name for name, amount in asked.items() if used[name] + amount > milli(hard[name]))
            if over:
                requested, has = (",".join(f"{name}={quantity(Fraction(amounts[name], 1000), hard[name])}" for name in over) for amounts in (asked, used))
                limited = ",".join(f"{name}={hard[name]}" for name in over)
                raise _forbidden(kind, obj, f"exceeded quota: {quota['metadata']['name']}, requested: {requested}, used: {has}, limited: {limited}")

    def used(self, namespace: str, name: str, spec: Object) -> int:
        """How much of this resource the namespace's objects take that are in the quota's scope."""
        kind = self._counted_kind(name)
        if kind is None:
            return 0
        if kind not in self._ledgers:
            self._ledgers[kind] = Ledger(self._cluster, kind, self._tell)
        return self._ledgers[kind].used(namespace, name, spec)

    def _counted_kind(self, name: str) -> Kind | None:
        if name.startswith("count/"):
            plural = name.removeprefix("count/")
        elif name in COUNTED:
            plural = name
        elif name == "requests.storage" or ".storageclass.storage.k8s.io/" in name:
            plural = "persistentvolumeclaims"
        else:
            plural = "pods"
        try:
            return self._resources.kind(plural)
        except KeyError:
            return None

    def status(self, quota: Object) -> Object:
        spec, namespace = quota.get("spec") or {}, quota["metadata"]["namespace"]
        hard: dict[str, str] = spec.get("hard") or {}
        return {"hard": dict(hard), "used": {name: quantity(Fraction(self.used(namespace, name, spec), 1000), limit) for name, limit in hard.items()}}


class Quotas:
    """Keeps the quotas' status, and is there when something is created."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        self._quotas, self._pods = cluster.resources.kind("resourcequotas"), cluster.resources.kind("pods")
        self._quota = Quota(cluster, self._content_changed)
        self._workers = Workers("resourcequotas", cluster.clock, cluster.timing.kubernetes.workload_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._quotas, self._changed)
        self._resources.add_check(self._pods, functools.partial(self._quota.charge, self._pods))
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def serve(self, server: ApiServer) -> None:
        for kind in self._resources.kinds.all:
            if kind.namespaced and kind is not self._pods:
                server.add_admission(kind, functools.partial(self._admit, kind))

    def _admit(self, kind: Kind, obj: Object, old: Object | None) -> None:
        if old is None or kind.plural == "persistentvolumeclaims":  # a claim that grows
            self._quota.charge(kind, obj, old)

    def _changed(self, change: Change) -> None:
        if change.type != "DELETED":
            self._workers.queue.add(change.key)

    def _content_changed(self, namespace: str) -> None:
        for entry in self._resources.store.entries(self._quotas, namespace):
            self._workers.queue.add(entry.key)

    async def _reconcile(self, key: Key) -> None:
        self._resources.modify(self._quotas, *key, lambda quota: quota.update(status=self._quota.status(quota)), subresource="status")


def _forbidden(kind: Kind, obj: Object, why: str) -> ApiError:
    name = obj["metadata"].get("name") or obj["metadata"].get("generateName", "")
    return ApiError(403, f'{qualified(kind.plural, kind.group)} "{name}" is forbidden: {why}', details=details(kind.group, kind.plural, name))


def taken_by(kind: Kind, obj: Object) -> Taken:
    """What one object takes, by the names that quotas have for it."""
    found = {f"count/{qualified(kind.plural, kind.group)}": 1000}
    if not kind.group and kind.plural in COUNTED:
        found[kind.plural] = 1000
    if kind.plural == "persistentvolumeclaims":
        size = milli((obj["spec"].get("resources") or {}).get("requests", {}).get("storage", "0"))
        found["requests.storage"] = size
        storage_class = obj["spec"].get("storageClassName")
        if storage_class:
            prefix = f"{storage_class}.storageclass.storage.k8s.io"
            found[f"{prefix}/persistentvolumeclaims"], found[f"{prefix}/requests.storage"] = 1000, size
    elif kind.plural == "pods":
        return _taken_by_pod(obj["spec"], found)
    return Taken(found)


def _taken_by_pod(spec: Object, found: Amounts) -> Taken:
    for side in ("requests", "limits"):
        for name, amount in pod_resources(spec, side).items():
            found[f"{side}.{name}"] = amount
    for name in ("cpu", "memory", "ephemeral-storage"):
        if f"requests.{name}" in found:
            found[name] = found[f"requests.{name}"]
    return Taken(found, quality_of_service(spec) == "BestEffort", spec.get("activeDeadlineSeconds") is not None, spec.get("priorityClassName", ""))


def pod_resources(spec: Object, side: str) -> Amounts:
    """A pod's requests or limits, in thousandths: its containers' together, or an init container's if that needs more by itself."""
    found: Amounts = {}
    for container in spec.get("containers") or ():
        for name, amount in ((container.get("resources") or {}).get(side) or {}).items():
            found[name] = found.get(name, 0) + milli(amount)
    for container in spec.get("initContainers") or ():
        for name, amount in ((container.get("resources") or {}).get(side) or {}).items():
            found[name] = max(found.get(name, 0), milli(amount))
    return found


def _has_ended(entry: Entry) -> bool:
    """Pods that have ended take nothing any more."""
    return entry.selectable["status.phase"] in ("Succeeded", "Failed")


def _unsaid(pod: Object, hard: dict[str, str]) -> str:
    """What the pod's containers do not say though a quota counts it: `limits.cpu for: a,b; memory for: a`."""
    found: dict[str, set[str]] = {}
    for container in [*(pod["spec"].get("containers") or ()), *(pod["spec"].get("initContainers") or ())]:
        resources = container.get("resources") or {}
        for name in set(REQUIRED) & set(hard):
            side, _, resource = name.rpartition(".")
            if resource not in (resources.get(side or "requests") or {}):
                found.setdefault(name, set()).add(container["name"])
    return "; ".join(f"{name} for: {','.join(sorted(found[name]))}" for name in sorted(found))


# Scopes.

def _has_scopes(spec: Object) -> bool:
    return bool(spec.get("scopes") or (spec.get("scopeSelector") or {}).get("matchExpressions"))


def in_scope(spec: Object, taken: Taken) -> bool:
    """Whether the quota is about this object: all of its scopes match. Only pods have any."""
    selectors: list[dict[str, Any]] = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    selectors += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_matches(each, taken) for each in selectors)


def _matches(selector: dict[str, Any], taken: Taken) -> bool:
    match selector["scopeName"]:
        case "BestEffort":
            return taken.best_effort
        case "NotBestEffort":
            return not taken.best_effort
        case "Terminating":
            return taken.terminating
        case "NotTerminating":
            return not taken.terminating
        case "PriorityClass":
            values: list[str] = selector.get("values") or []
            match selector["operator"]:
                case "Exists":
                    return bool(taken.priority_class)
                case "DoesNotExist":
                    return not taken.priority_class
                case "In":
                    return taken.priority_class in values
                case "NotIn":
                    return taken.priority_class not in values
    return False


_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def quantity(amount: Fraction, like: str) -> str:
    """In the notation of another quantity: binary suffixes where that has one, else decimal."""
    if amount.denominator != 1:
        return f"{-(-amount.numerator * 1000 // amount.denominator)}m"
    number, power = int(amount), 0
    if str(like).endswith("i"):
        while number and number % 1024 == 0 and power < len(_BINARY) - 1:
            number, power = number // 1024, power + 1
        return f"{number}{_BINARY[power]}"
    for suffix in ("", "k", "M", "G", "T", "P"):
        if number == 0 or number % 1000 or suffix == "P":
            return f"{number}{suffix}"
        number //= 1000
    return str(number)
