"""What the Kubernetes controllers share: the cluster they run on, selectors, quantities, conditions, owners."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from random import Random
from typing import Any, Protocol

from ..api.kinds import Kind
from ..api.resources import Resources
from ..api.store import Change, Entry, Key, Object
from ..ceph import Ceph
from ..clock import SimClock
from ..hosts import Hosts
from ..truth import Truth


class Cluster(Protocol):
    """What a controller is given."""

    resources: Resources
    clock: SimClock
    timing: Any  # timing.kubernetes.<name>: seconds, rates and limits of this side of the cluster
    truth: Truth
    faults: Any
    random: Random
    hosts: Hosts
    ceph: Ceph
    evictions: Any  # disruption.Evictions
    workers: int
    ca_certificate: str  # PEM, for kube-root-ca.crt


_last: tuple[Entry | None, Object] = (None, {})


def decoded(entry: Entry) -> Object:
    """The entry's object, for reading only. Several listeners of one change share one decoding."""
    global _last
    if _last[0] is not entry:
        _last = (entry, entry.obj)
    return _last[1]


def key_of(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


# Labels.

def selects(selector: Object | None, labels: dict[str, str]) -> bool:
    """A metav1.LabelSelector: null selects nothing, an empty one everything."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _requirement(expression, labels) for expression in selector.get("matchExpressions") or ())


def _requirement(expression: Object, labels: dict[str, str]) -> bool:
    """One requirement of a label selector or of a node selector term (which has Gt and Lt as well)."""
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    match operator:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case "Gt" | "Lt":
            try:
                have, limit = int(labels.get(key, "")), int(values[0])
            except (ValueError, IndexError):
                return False
            return have > limit if operator == "Gt" else have < limit
    return False


def node_selector_matches(node_selector: Object, labels: dict[str, str], name: str) -> bool:
    """A v1.NodeSelector: its terms are alternatives, a term's requirements all hold; an empty term matches nothing."""
    for term in node_selector.get("nodeSelectorTerms") or ():
        expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
        if (expressions or fields) and all(_requirement(each, labels) for each in expressions) and all(
                _requirement(each, {"metadata.name": name}) for each in fields):
            return True
    return False


# Quantities.

_QUANTITY = re.compile(r"([+-]?[0-9.]+)(?:[eE]([+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)")
_SUFFIXES = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
             **{letter: Fraction(1000 ** n) for n, letter in enumerate("kMGTPE", 1)},
             **{letter + "i": Fraction(1024 ** n) for n, letter in enumerate("KMGTPE", 1)}}


@lru_cache(maxsize=4096)
def milli(quantity: str | int | float) -> int:
    """A resource.Quantity in thousandths, rounded up. ValueError if it is none."""
    found = _QUANTITY.fullmatch(str(quantity))
    if not found:
        raise ValueError(f"not a quantity: {quantity!r}")
    number, exponent, suffix = found.groups()
    value = Fraction(number) * (Fraction(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""]) * 1000
    return -(-value.numerator // value.denominator)


# Conditions.

def condition(conditions: Iterable[Object], type_: str) -> Object | None:
    return next((each for each in conditions if each["type"] == type_), None)


def is_true(obj: Object, type_: str) -> bool:
    found = condition(obj.get("status", {}).get("conditions") or (), type_)
    return found is not None and found["status"] == "True"


def set_condition(status: Object, type_: str, value: str, now: str, reason: str = "", message: str = "", **more: Any) -> bool:
    """Set it in place, or append it. lastTransitionTime moves with the status alone. Returns whether anything changed."""
    conditions: list[Object] = status.setdefault("conditions", [])
    old = condition(conditions, type_)
    new: Object = {**(old or {}), "type": type_, "status": value, **more}
    for key, text in (("reason", reason), ("message", message)):
        if text:
            new[key] = text
        else:
            new.pop(key, None)
    if old is not None and all(old.get(key) == new.get(key) for key in ("status", "reason", "message")):
        return False
    if old is None or old["status"] != value:
        new["lastTransitionTime"] = now
    if old is None:
        conditions.append(new)
    else:
        conditions[conditions.index(old)] = new
    return True


# Owners.

def controller_of(obj: Object) -> Object | None:
    """The owner reference that manages this object."""
    return next((owner for owner in obj["metadata"].get("ownerReferences") or () if owner.get("controller")), None)


def owner_reference(kind: Kind, owner: Object) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
            "controller": True, "blockOwnerDeletion": True}


class Children:
    """Which objects of a kind each owner controls, by the owner's uid. Kept up to date by a watch."""

    def __init__(self, resources: Resources, kind: Kind) -> None:
        self._resources, self._kind = resources, kind
        self._by_owner: dict[str, set[Key]] = {}
        self._owner: dict[Key, str] = {}
        resources.watch(kind, self._changed)
        for entry in resources.store.entries(kind):
            self._add(entry)

    def of(self, owner: Object) -> list[Object]:
        """The owner's children, own copies, in the order of their keys."""
        keys = sorted(self._by_owner.get(owner["metadata"]["uid"], ()))
        found = [self._resources.find(self._kind, *key) for key in keys]
        return [obj for obj in found if obj is not None]

    def count(self, owner_uid: str) -> int:
        return len(self._by_owner.get(owner_uid, ()))

    def _add(self, entry: Entry) -> None:
        owner = controller_of(decoded(entry))
        uid = owner["uid"] if owner else None
        if self._owner.get(entry.key) != uid:
            self._drop(entry.key)
            if uid is not None:
                self._owner[entry.key] = uid
                self._by_owner.setdefault(uid, set()).add(entry.key)

    def _drop(self, key: Key) -> None:
        uid = self._owner.pop(key, None)
        if uid is not None:
            self._by_owner[uid].discard(key)
            if not self._by_owner[uid]:
                del self._by_owner[uid]

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            self._drop(change.key)
        else:
            self._add(change.new)


class PodsByNode:
    """Which pods are bound to each node, finished ones included. Kept up to date by a watch."""

    def __init__(self, resources: Resources) -> None:
        kind = resources.kind("pods")
        self._by_node: dict[str, set[Key]] = {}
        resources.watch(kind, self._changed)
        for entry in resources.store.entries(kind):
            self._add(entry)

    def on(self, node: str) -> list[Key]:
        return sorted(self._by_node.get(node, ()))

    def _add(self, entry: Entry) -> None:
        node = entry.selectable["spec.nodeName"]
        if node:
            self._by_node.setdefault(node, set()).add(entry.key)

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":  # a pod never changes its node
            self._by_node.get(change.new.selectable["spec.nodeName"], set()).discard(change.key)
        else:
            self._add(change.new)


class PodsByClaim:
    """Which pods have each claim among their volumes. Kept up to date by a watch."""

    def __init__(self, resources: Resources) -> None:
        self._resources, self._kind = resources, resources.kind("pods")
        self._by_claim: dict[Key, set[Key]] = {}
        resources.watch(self._kind, self._changed)
        for entry in resources.store.entries(self._kind):
            self._add(entry)

    def using(self, claim: Key) -> list[Object]:
        """Own copies, those that have ended too, in the order of their names."""
        pods = (self._resources.find(self._kind, *key) for key in sorted(self._by_claim.get(claim, ())))
        return [pod for pod in pods if pod is not None]

    @staticmethod
    def _claims(entry: Entry) -> list[Key]:
        if b'"persistentVolumeClaim"' not in entry.raw:  # most pods have none: they need not be decoded
            return []
        volumes = entry.obj["spec"].get("volumes") or ()
        return [(entry.key[0], each["persistentVolumeClaim"]["claimName"]) for each in volumes if each.get("persistentVolumeClaim")]

    def _add(self, entry: Entry) -> None:
        for claim in self._claims(entry):
            self._by_claim.setdefault(claim, set()).add(entry.key)

    def _changed(self, change: Change) -> None:
        if change.type == "ADDED":  # a pod's volumes never change
            self._add(change.new)
        elif change.type == "DELETED":
            for claim in self._claims(change.new):
                pods = self._by_claim.get(claim, set())
                pods.discard(change.key)
                if not pods:
                    self._by_claim.pop(claim, None)


class PodsByLabel:
    """Which pods have each label, so that a selector looks at few of them. Kept up to date by a watch."""

    def __init__(self, resources: Resources) -> None:
        self._resources, self._kind = resources, resources.kind("pods")
        self._by_label: dict[tuple[str, str, str], set[Key]] = {}
        resources.watch(self._kind, self._changed)
        for entry in resources.store.entries(self._kind):
            self._add(entry)

    def matching(self, namespace: str, selector: Object | None) -> list[Object]:
        """The namespace's pods that the selector finds, own copies, in the order of their names."""
        if selector is None:
            return []
        wanted: dict[str, str] = selector.get("matchLabels") or {}
        groups: list[set[Key]] = [self._by_label.get((namespace, *label), set()) for label in wanted.items()]
        if not groups:
            entries = self._resources.store.entries(self._kind, namespace)
        else:
            smallest: set[Key] = min(groups, key=len)
            entries = [entry for key in sorted(smallest) if (entry := self._resources.store.entry(self._kind, *key))]
        return [entry.obj for entry in entries if selects(selector, entry.labels)]

    def _add(self, entry: Entry) -> None:
        for label in entry.labels.items():
            self._by_label.setdefault((entry.key[0], *label), set()).add(entry.key)

    def _drop(self, entry: Entry) -> None:
        for label in entry.labels.items():
            keys = self._by_label.get((entry.key[0], *label), set())
            keys.discard(entry.key)
            if not keys:
                self._by_label.pop((entry.key[0], *label), None)

    def _changed(self, change: Change) -> None:
        if change.old is not None and (change.type == "DELETED" or change.old.labels != change.new.labels):
            self._drop(change.old)
        if change.type != "DELETED":
            self._add(change.new)


# Tolerations.

def tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def untolerated(taints: Iterable[Object], tolerations: Iterable[Object], effects: tuple[str, ...]) -> Object | None:
    """The first taint of these effects that none of the tolerations covers."""
    return next((taint for taint in taints if taint["effect"] in effects and not any(tolerates(each, taint) for each in tolerations)), None)
