"""The objects, each as the bytes that go over the wire, under one revision counter.

An object is encoded once per revision; lists and watches send those bytes. What `get` and `list` return is
decoded anew for each caller, so nobody can change what is stored but through `put` and `remove`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from .kinds import Kind

Object = dict[str, Any]
Key = tuple[str, str]  # namespace ("" if cluster-scoped) and name


class Entry:
    """One revision of one object."""

    __slots__ = ("key", "labels", "raw", "revision", "selectable")

    def __init__(self, key: Key, revision: int, raw: bytes, labels: dict[str, str], selectable: dict[str, str]) -> None:
        self.key, self.revision, self.raw, self.labels, self.selectable = key, revision, raw, labels, selectable

    @property
    def obj(self) -> Object:
        return orjson.loads(self.raw)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `old` is None for ADDED; `new` is the last state, with the revision of its deletion, for DELETED."""

    type: str  # ADDED, MODIFIED, DELETED
    kind: Kind
    new: Entry
    old: Entry | None

    @property
    def key(self) -> Key:
        return self.new.key

    @property
    def revision(self) -> int:
        return self.new.revision


Listener = Callable[[Change], None]


class Store:
    """Objects by kind and key. Raw: it knows revisions and events, and none of the API's semantics."""

    def __init__(self, history: int = 5_000) -> None:
        self.revision = 1
        self._objects: dict[Kind, dict[Key, Entry]] = {}
        self._sorted: dict[Kind, list[Key]] = {}  # until a key comes or goes
        self._history: dict[Kind, deque[Change]] = {}
        self._history_length = history
        self._forgotten: dict[Kind, int] = {}
        self._listeners: dict[Kind, list[Listener]] = {}

    def entry(self, kind: Kind, namespace: str, name: str) -> Entry | None:
        return self._objects.get(kind, {}).get((namespace, name))

    def entries(self, kind: Kind, namespace: str = "") -> list[Entry]:
        """In the order of etcd's keys: namespace, then name."""
        objects = self._objects.get(kind, {})
        keys = self._sorted.get(kind)
        if keys is None:
            keys = self._sorted[kind] = sorted(objects)
        if namespace:
            keys = keys[bisect_left(keys, (namespace, "")) : bisect_left(keys, (namespace + "\0", ""))]
        return [objects[key] for key in keys]

    def entries_at(self, kind: Kind, namespace: str, revision: int) -> list[Entry] | None:
        """As they were at this revision, or None if what changed since is forgotten (410)."""
        if revision >= self.revision:
            return self.entries(kind, namespace)
        changes = self.since(kind, revision)
        if changes is None:
            return None
        objects = dict(self._objects.get(kind, {}))
        for change in reversed(list(changes)):
            if change.old is None:
                objects.pop(change.key, None)
            else:
                objects[change.key] = change.old
        return [objects[key] for key in sorted(objects) if not namespace or key[0] == namespace]

    def count(self, kind: Kind) -> int:
        return len(self._objects.get(kind, {}))

    def put(self, kind: Kind, obj: Object) -> Entry:
        """Commit a new state. Sets metadata.resourceVersion in `obj` and tells the listeners."""
        self.revision += 1
        meta = obj["metadata"]
        meta["resourceVersion"] = str(self.revision)
        key = (meta.get("namespace", ""), meta["name"])
        entry = Entry(key, self.revision, self._encode(kind, obj), meta.get("labels") or {}, self._selectable(kind, obj))
        objects = self._objects.setdefault(kind, {})
        old = objects.get(key)
        objects[key] = entry
        if old is None:
            self._sorted.pop(kind, None)
        self._tell(Change("MODIFIED" if old else "ADDED", kind, entry, old))
        return entry

    def remove(self, kind: Kind, namespace: str, name: str) -> Entry:
        """Commit a deletion; KeyError if it is not there."""
        old = self._objects[kind].pop((namespace, name))
        self._sorted.pop(kind, None)
        self.revision += 1
        obj = old.obj
        obj["metadata"]["resourceVersion"] = str(self.revision)
        last = Entry(old.key, self.revision, self._encode(kind, obj), old.labels, old.selectable)
        self._tell(Change("DELETED", kind, last, old))
        return last

    def subscribe(self, kind: Kind, listener: Listener) -> Callable[[], None]:
        """Call the listener, at once and in order, with each change of the kind. Returns its end."""
        listeners = self._listeners.setdefault(kind, [])
        listeners.append(listener)
        return lambda: listeners.remove(listener) if listener in listeners else None

    def since(self, kind: Kind, revision: int) -> Iterator[Change] | None:
        """The changes after this revision, or None if some of them are forgotten (410)."""
        if revision < self._forgotten.get(kind, 0):
            return None
        newer: list[Change] = []
        for change in reversed(self._history.get(kind, ())):
            if change.revision <= revision:
                break
            newer.append(change)
        return iter(newer[::-1])

    def forget(self, kind: Kind | None = None) -> None:
        """Drop the history, as etcd's compaction does: watches from an older revision get 410."""
        for each in [kind] if kind else list(self._history):
            self._forgotten[each] = self.revision
            self._history.get(each, deque()).clear()

    def _tell(self, change: Change) -> None:
        history = self._history.setdefault(change.kind, deque())
        history.append(change)
        if len(history) > self._history_length:
            self._forgotten[change.kind] = history.popleft().revision
        for listener in tuple(self._listeners.get(change.kind, ())):
            listener(change)

    @staticmethod
    def _encode(kind: Kind, obj: Object) -> bytes:
        """The JSON, which always starts with Kind.prefix: lists and other versions replace just that."""
        # orjson hands out the 8 KiB buffer that it wrote into; a copy is as long as the object, a tenth of that.
        return bytes(memoryview(orjson.dumps({"apiVersion": kind.api_version, "kind": kind.kind, **obj})))

    @staticmethod
    def _selectable(kind: Kind, obj: Object) -> dict[str, str]:
        found = {}
        for path in kind.selectable_fields:
            value: Any = obj
            for part in path.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            found[path] = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        return found
