"""What the API server does to objects beside keeping them: names, versions, generations, finalizers, deletion.

Both the HTTP handlers and the controllers come through here, so an object obeys the same rules whoever
writes it. Everything is synchronous: a call is one transaction.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any

import orjson

from ..clock import SimClock
from . import errors, strategies
from .kinds import Kind, Kinds
from .store import Change, Entry, Object, Store

SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # what Kubernetes draws generated names from
MAX_GENERATE_NAME = 58  # of a generated name's 63 letters, 5 are drawn
FIXED_METADATA = ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")


class Resources:
    """Create, read, update and delete with the API's semantics. Raises errors.ApiError."""

    def __init__(self, store: Store, kinds: Kinds, clock: SimClock, seed: int = 0) -> None:
        self.store, self.kinds, self.clock = store, kinds, clock
        self._random = random.Random(seed)
        self._checks: dict[Kind, list[Callable[[Object], None]]] = {}

    def add_check(self, kind: Kind, check: Callable[[Object], None]) -> None:
        """Call `check` with each new object of the kind before anything is done with it, whoever creates it: a client over HTTP or a
        controller. It may edit the object, or refuse it (ApiError)."""
        self._checks.setdefault(kind, []).append(check)

    def kind(self, name: str) -> Kind:
        """`pods`, `virtualmachines.kubevirt.io`: see Kinds.__getitem__."""
        return self.kinds[name]

    # Reading: every object returned is the caller's own copy.

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        entry = self.store.entry(kind, namespace, name)
        return entry.obj if entry else None

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """404 if it is not there."""
        return self.entry(kind, namespace, name).obj

    def list(self, kind: Kind, namespace: str = "") -> list[Object]:
        return [entry.obj for entry in self.store.entries(kind, namespace)]

    def watch(self, kind: Kind, listener: Callable[[Change], None]) -> None:
        """Tell a controller of every change from now on (it lists what is there already by itself)."""
        self.store.subscribe(kind, listener)

    # Writing.

    def create(self, kind: Kind, obj: Object, *, dry_run: bool = False) -> Object:
        """Add it, under a generated name if it has none but a generateName; 409 if it is there already."""
        meta = obj.setdefault("metadata", {})
        obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
        for check in self._checks.get(kind, ()):
            check(obj)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = self.generated_name(meta["generateName"])
        if self.store.entry(kind, meta.get("namespace", ""), meta["name"]):
            raise errors.already_exists(kind.plural, kind.group, meta["name"])
        meta["uid"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        meta["creationTimestamp"] = self.clock.timestamp()
        if kind.generation:
            meta["generation"] = 1
        strategies.prepare_create(kind, obj)
        if not dry_run:
            self.store.put(kind, obj)
        return obj

    def generated_name(self, prefix: str) -> str:
        return prefix[:MAX_GENERATE_NAME] + "".join(self._random.choices(SUFFIX_LETTERS, k=5))

    def update(self, kind: Kind, obj: Object, *, subresource: str = "", dry_run: bool = False) -> Object:
        """Replace. 409 if obj carries a resourceVersion that is not the current one. `subresource` "status"
        takes only the status from obj; without it, a kind with a status subresource keeps its status."""
        meta = obj["metadata"]
        old = self.entry(kind, meta.get("namespace", ""), meta["name"]).obj
        if meta.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise errors.conflict(kind.plural, kind.group, meta["name"])
        new = self.merged(kind, old, obj, subresource)
        return self._commit(kind, old, new, dry_run)

    def modify(self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Any], *, subresource: str = "") -> Object | None:
        """Read, let `change` edit the copy, and write it back if it is any different: how controllers write.
        None if the object is not there."""
        obj = self.find(kind, namespace, name)
        if obj is None:
            return None
        change(obj)
        return self.update(kind, obj, subresource=subresource)

    def delete(self, kind: Kind, namespace: str, name: str, *, policy: str | None = None, grace_seconds: float | None = None,
               uid: str | None = None, resource_version: str | None = None, dry_run: bool = False) -> Object:
        """Delete, or mark as being deleted where finalizers (or a pod's grace period) hold it.

        `policy` is Foreground, Background or Orphan: the first and last leave a finalizer for the garbage collector.
        `grace_seconds` counts for pods only; 0 removes at once. 409 if uid or resource_version is another than the
        object's. Returns the object's last or marked state.
        """
        obj = self.entry(kind, namespace, name).obj
        meta = obj["metadata"]
        for what, wanted, actual, happened in (("UID", uid, meta["uid"], "deleted and then recreated"),
                                               ("ResourceVersion", resource_version, meta["resourceVersion"], "modified")):
            if wanted and wanted != actual:
                raise errors.conflict(kind.kind, kind.group, name, f"the {what} in the precondition ({wanted}) does not match the {what} in record ({actual}). "
                                                                   f"The object might have been {happened}")
        before = orjson.dumps(obj)
        strategies.set_propagation(meta, policy)
        strategies.mark_deleted(kind, obj, grace_seconds, self.clock)
        held = bool(meta.get("finalizers")) or bool(meta.get("deletionGracePeriodSeconds")) or strategies.holds(kind, obj)
        if dry_run:
            return obj
        if held:
            if orjson.dumps(obj) != before:
                self.store.put(kind, obj)
            return obj
        if kind.plural == "pods" and not kind.group and orjson.dumps(obj) != before:
            self.store.put(kind, obj)  # watchers of pods see the end of the grace period before the end of the pod
        self.store.remove(kind, namespace, name)
        return obj

    def finalize(self, kind: Kind, obj: Object, *, dry_run: bool = False) -> Object:
        """Write a namespace's spec.finalizers (the finalize subresource); the last one gone, the namespace goes."""
        meta = obj["metadata"]
        old = self.entry(kind, "", meta["name"]).obj
        if meta.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise errors.conflict(kind.plural, kind.group, meta["name"])
        new = {**old, "metadata": dict(old["metadata"]), "spec": {**old.get("spec", {}), "finalizers": obj.get("spec", {}).get("finalizers") or []}}
        if not new["spec"]["finalizers"]:
            new["spec"].pop("finalizers")
        return self._commit(kind, old, new, dry_run)

    # The rules behind them.

    def entry(self, kind: Kind, namespace: str, name: str) -> Entry:
        entry = self.store.entry(kind, namespace, name)
        if entry is None:
            raise errors.not_found(kind.plural, kind.group, name)
        return entry

    def merged(self, kind: Kind, old: Object, obj: Object, subresource: str) -> Object:
        """What an update may change: the rest of the new object comes from the old one."""
        if subresource == "status":
            new = {**old, "status": obj.get("status", {})}
            if not new["status"]:
                new.pop("status")
            fields = (obj.get("metadata") or {}).get("managedFields")
            if fields is not None:
                new["metadata"] = {**old["metadata"], "managedFields": fields}
            return new
        new = {**obj, "apiVersion": kind.api_version, "kind": kind.kind}
        if kind.status:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        meta = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in FIXED_METADATA}
        new["metadata"] = {**meta, **{key: old["metadata"][key] for key in FIXED_METADATA if key in old["metadata"]}}
        if strategies.is_core(kind, "namespaces") and "finalizers" in (old.get("spec") or {}):
            new["spec"] = {**(new.get("spec") or {}), "finalizers": old["spec"]["finalizers"]}  # `finalize` alone takes them
        return new

    def _commit(self, kind: Kind, old: Object, new: Object, dry_run: bool) -> Object:
        meta = new["metadata"]
        meta["resourceVersion"] = old["metadata"]["resourceVersion"]
        if orjson.dumps(new, option=orjson.OPT_SORT_KEYS) == orjson.dumps(old, option=orjson.OPT_SORT_KEYS):
            return new  # a write that changes nothing keeps the revision
        if kind.generation and self._spec(kind, new) != self._spec(kind, old):
            meta["generation"] = old["metadata"].get("generation", 0) + 1
        if dry_run:
            return new
        if "deletionTimestamp" in meta and not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds") and not strategies.holds(kind, new):
            self.store.remove(kind, meta.get("namespace", ""), meta["name"])  # what held it is gone
        else:
            self.store.put(kind, new)
        return new

    @staticmethod
    def _spec(kind: Kind, obj: Object) -> Object:
        """What generation counts: everything but metadata, and but the status where it is a subresource."""
        return {key: value for key, value in obj.items() if key != "metadata" and not (kind.status and key == "status")}
