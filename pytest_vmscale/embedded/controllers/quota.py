"""ResourceQuotas: what a namespace may have of each resource, as admission enforces it, and what it has."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import TYPE_CHECKING

from ..api.errors import ApiError, details, qualified
from ..api.kinds import Kind
from ..api.store import Change, Entry, Key, Object
from ..queue import Workers
from .common import Cluster, milli

if TYPE_CHECKING:
    from ..api.server import ApiServer

# Plain names of counts, beside `count/<resource>`.
COUNTED = ("pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims")


class Quota:
    """Checks what is to be created against the namespace's quotas."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        self._quotas = cluster.resources.kind("resourcequotas")
        self._known: dict[tuple[Kind, Key], tuple[Entry, dict[str, Fraction]]] = {}

    def charge(self, kind: Kind, obj: Object) -> None:
        """403, in the words of the real one, if there is a quota that this object would exceed."""
        namespace = obj["metadata"].get("namespace", "")
        quotas = self._resources.list(self._quotas, namespace) if namespace else []
        for quota in quotas:
            hard: dict[str, str] = (quota.get("spec") or {}).get("hard") or {}
            asked = {name: amount for name, amount in usage(kind, obj).items() if name in hard}
            used = {name: self.used(namespace, name) for name in asked}
            over = sorted(name for name, amount in asked.items() if used[name] + amount > _exact(hard[name]))
            if over:
                requested, has, limited = (",".join(f"{name}={words[name]}" for name in over) for words in (
                    {name: quantity(asked[name], hard[name]) for name in over}, {name: quantity(used[name], hard[name]) for name in over}, hard))
                raise ApiError(403, f'{qualified(kind.plural, kind.group)} "{obj["metadata"].get("name", "")}" is forbidden: exceeded quota: '
                                    f"{quota['metadata']['name']}, requested: {requested}, used: {has}, limited: {limited}",
                               details=details(kind.group, kind.plural, obj["metadata"].get("name", "")))

    def used(self, namespace: str, name: str) -> Fraction:
        """How much of this resource the namespace's objects take."""
        kind = self.counted_kind(name)
        if kind is None:
            return Fraction(0)
        return sum((self._usage(kind, entry).get(name, Fraction(0)) for entry in self._resources.store.entries(kind, namespace)), Fraction(0))

    def _usage(self, kind: Kind, entry: Entry) -> dict[str, Fraction]:
        """What the object takes; each of its revisions is read once."""
        known = self._known.get((kind, entry.key))
        if known is None or known[0] is not entry:
            obj = entry.obj
            known = self._known[kind, entry.key] = (entry, {} if _is_over(kind, obj) else usage(kind, obj))
        return known[1]

    def counted_kind(self, name: str) -> Kind | None:
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
        hard: dict[str, str] = (quota.get("spec") or {}).get("hard") or {}
        namespace = quota["metadata"]["namespace"]
        return {"hard": dict(hard), "used": {name: quantity(self.used(namespace, name), limit) for name, limit in hard.items()}}


class Quotas:
    """Keeps the quotas' status, and is there when something is created."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        self._quotas = cluster.resources.kind("resourcequotas")
        self._quota = Quota(cluster)
        self._watched: set[Kind] = set()
        self._workers = Workers("resourcequotas", cluster.clock, cluster.timing.kubernetes.workload_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._quotas, self._changed)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def serve(self, server: ApiServer) -> None:
        for kind in self._resources.kinds.all:
            if kind.namespaced:
                server.add_admission(kind, functools.partial(self._admit, kind))

    def _admit(self, kind: Kind, obj: Object, old: Object | None) -> None:
        if old is None:
            self._quota.charge(kind, obj)

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            return
        for name in (change.new.obj.get("spec") or {}).get("hard") or {}:
            kind = self._quota.counted_kind(name)
            if kind is not None and kind not in self._watched:
                self._watched.add(kind)
                self._resources.watch(kind, self._content_changed)
        self._workers.queue.add(change.key)

    def _content_changed(self, change: Change) -> None:
        for entry in self._resources.store.entries(self._quotas, change.key[0]):
            self._workers.queue.add(entry.key)

    async def _reconcile(self, key: Key) -> None:
        self._resources.modify(self._quotas, *key, lambda quota: quota.update(status=self._quota.status(quota)), subresource="status")


def usage(kind: Kind, obj: Object) -> dict[str, Fraction]:
    """What one object takes, by the names that quotas have for it."""
    found = {f"count/{qualified(kind.plural, kind.group)}": Fraction(1)}
    if not kind.group and kind.plural in COUNTED:
        found[kind.plural] = Fraction(1)
    if kind.plural == "persistentvolumeclaims":
        size = _exact((obj["spec"].get("resources") or {}).get("requests", {}).get("storage", "0"))
        found["requests.storage"] = size
        storage_class = obj["spec"].get("storageClassName")
        if storage_class:
            prefix = f"{storage_class}.storageclass.storage.k8s.io"
            found[f"{prefix}/persistentvolumeclaims"], found[f"{prefix}/requests.storage"] = Fraction(1), size
    elif kind.plural == "pods":
        for side in ("requests", "limits"):
            for container in obj["spec"].get("containers") or ():
                for name, amount in ((container.get("resources") or {}).get(side) or {}).items():
                    found[f"{side}.{name}"] = found.get(f"{side}.{name}", Fraction(0)) + _exact(amount)
        for name in ("cpu", "memory"):
            if f"requests.{name}" in found:
                found[name] = found[f"requests.{name}"]
    return found


def _is_over(kind: Kind, obj: Object) -> bool:
    """Pods that have ended take nothing any more."""
    return kind.plural == "pods" and (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _exact(text: str | int | float) -> Fraction:
    return Fraction(milli(text), 1000)


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
