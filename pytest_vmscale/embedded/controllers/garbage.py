"""The garbage collector: what becomes of objects whose owners go, and of owners that wait for theirs."""

from __future__ import annotations

from ..api.kinds import Kind
from ..api.store import Change, Entry, Key, Object
from ..api.strategies import FOREGROUND, ORPHAN
from ..queue import TokenBucket, Workers
from .common import Cluster, decoded

Item = tuple[Kind, Key]
UNOWNED = ("events",)  # own nothing and are owned by nothing: not worth a look
FIXED_OWNERS = ("leases",)  # renewed all the time, by the same owner


class GarbageCollector:
    """Knows every object's uid and owners, from watches on all kinds."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        timing = cluster.timing.kubernetes
        self._tokens = TokenBucket(cluster.clock, timing.controller_client_qps, timing.controller_client_burst)
        self._workers = Workers("garbage-collector", cluster.clock, timing.garbage_workers, self._work)
        self._live: dict[str, Item] = {}
        self._uids: dict[Item, str] = {}
        self._owners: dict[Item, frozenset[str]] = {}
        self._dependents: dict[str, set[Item]] = {}
        self._waiting: set[str] = set()  # uids of owners in foreground deletion

    def start(self) -> None:
        kinds = [kind for kind in self._resources.kinds.all if kind.plural not in UNOWNED]
        for kind in kinds:
            self._resources.watch(kind, self._changed)
            for entry in self._resources.store.entries(kind):
                self._learn(kind, entry)
        for item in list(self._owners):
            self._workers.queue.add(item)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    # The graph.

    def _changed(self, change: Change) -> None:
        item = (change.kind, change.key)
        if change.type == "DELETED":
            uid = self._uids.pop(item, "")
            self._live.pop(uid, None)
            self._waiting.discard(uid)
            owners = self._owners.pop(item, frozenset())
            for owner in owners:
                self._unlink(owner, item)
            for dependent in self._dependents.get(uid, ()):
                self._workers.queue.add(dependent)
        elif change.type == "ADDED" or change.kind.plural not in FIXED_OWNERS:
            self._learn(change.kind, change.new)

    def _learn(self, kind: Kind, entry: Entry) -> None:
        item, meta = (kind, entry.key), decoded(entry)["metadata"]
        uid = meta["uid"]
        self._uids[item], self._live[uid] = uid, item
        owners = frozenset(owner["uid"] for owner in meta.get("ownerReferences") or ())
        old = self._owners.get(item, frozenset())
        if owners != old:
            for owner in old - owners:
                self._unlink(owner, item)
            for owner in owners - old:
                self._dependents.setdefault(owner, set()).add(item)
            if owners:
                self._owners[item] = owners
            else:
                self._owners.pop(item, None)
            if any(owner not in self._live or owner in self._waiting for owner in owners):
                self._workers.queue.add(item)
        if "deletionTimestamp" in meta and {FOREGROUND, ORPHAN} & set(meta.get("finalizers") or ()):
            if FOREGROUND in meta["finalizers"]:
                self._waiting.add(uid)
            self._workers.queue.add(item)

    def _unlink(self, owner: str, item: Item) -> None:
        dependents = self._dependents.get(owner, set())
        dependents.discard(item)
        if not dependents:
            self._dependents.pop(owner, None)
        if owner in self._waiting and owner in self._live:
            self._workers.queue.add(self._live[owner])  # it may have waited for this one

    # What is done about it.

    async def _work(self, item: Item) -> None:
        kind, key = item
        obj = self._resources.find(kind, *key)
        if obj is None:
            return
        finalizers = obj["metadata"].get("finalizers") or ()
        if "deletionTimestamp" in obj["metadata"]:
            if ORPHAN in finalizers:
                await self._orphan(kind, obj)
            elif FOREGROUND in finalizers:
                await self._foreground(kind, obj)
            return
        await self._collect(kind, obj)

    async def _collect(self, kind: Kind, obj: Object) -> None:
        """Delete it if all its owners are gone; drop the references to those that are if one is left."""
        meta = obj["metadata"]
        solid, absent, waiting = [], [], []
        for owner in meta.get("ownerReferences") or ():
            if owner["uid"] in self._waiting:
                waiting.append(owner)
            elif owner["uid"] in self._live or self._resources.kinds.by_kind(owner["apiVersion"], owner["kind"]) is None:
                solid.append(owner)  # of a kind that is not served here nothing can be said
            else:
                absent.append(owner)
        if not absent and not waiting:
            return
        await self._tokens.take()
        key = (meta.get("namespace", ""), meta["name"])
        if solid:
            gone = {owner["uid"] for owner in absent + waiting}
            self._resources.modify(kind, *key, lambda obj: _drop_owners(obj, gone))
            return
        finalizers = meta.get("finalizers") or ()
        policy = "Foreground" if (waiting and self._dependents.get(meta["uid"])) or FOREGROUND in finalizers else "Background"
        if ORPHAN in finalizers:
            policy = "Orphan"
        found = self._resources.find(kind, *key)
        if found is not None and found["metadata"]["uid"] == meta["uid"] and "deletionTimestamp" not in found["metadata"]:
            self._resources.delete(kind, *key, policy=policy)

    async def _foreground(self, kind: Kind, obj: Object) -> None:
        """Delete the dependents; the owner may go when none is left that blocks it."""
        uid, blocked = obj["metadata"]["uid"], False
        for item in sorted(self._dependents.get(uid, ()), key=lambda item: (str(item[0]), item[1])):
            dependent = self._resources.find(item[0], *item[1])
            if dependent is None:
                continue
            blocked = blocked or any(owner["uid"] == uid and owner.get("blockOwnerDeletion") for owner in dependent["metadata"]["ownerReferences"])
            if "deletionTimestamp" not in dependent["metadata"]:
                self._workers.queue.add(item)
        if not blocked:
            await self._tokens.take()
            self._finish(kind, obj, FOREGROUND)

    async def _orphan(self, kind: Kind, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        for item in sorted(self._dependents.get(uid, ()), key=lambda item: (str(item[0]), item[1])):
            await self._tokens.take()
            self._resources.modify(item[0], *item[1], lambda dependent: _drop_owners(dependent, {uid}))
        await self._tokens.take()
        self._finish(kind, obj, ORPHAN)

    def _finish(self, kind: Kind, obj: Object, finalizer: str) -> None:
        def remove(obj: Object) -> None:
            obj["metadata"]["finalizers"] = [each for each in obj["metadata"].get("finalizers") or () if each != finalizer]
            if not obj["metadata"]["finalizers"]:
                del obj["metadata"]["finalizers"]

        self._resources.modify(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], remove)


def _drop_owners(obj: Object, uids: set[str]) -> None:
    left = [owner for owner in obj["metadata"].get("ownerReferences") or () if owner["uid"] not in uids]
    if left:
        obj["metadata"]["ownerReferences"] = left
    else:
        obj["metadata"].pop("ownerReferences", None)
