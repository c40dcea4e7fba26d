"""Watches: every change of a kind, as bytes, to everyone who asked for it.

A change is encoded once for all its watchers, and each watcher's pending frames leave in one write. A
watcher that does not read is cut off when its buffer is full: it costs the others nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator

import orjson
from aiohttp import web

from ..clock import SimClock
from . import event_view
from .kinds import Kind
from .selectors import Selection
from .store import Change, Entry, Object, Store

BUFFER_BYTES = 32 * 2**20  # of changes that one watcher may fall behind
PIECE_BYTES = 256 * 2**10  # of the objects that a watch starts with, encoded as they are sent
BOOKMARK_SECONDS = 60.0  # cluster time between bookmarks, as the real watch cache's
LEAST_BOOKMARK_WALL_SECONDS = 1.0
DEFAULT_TIMEOUT_SECONDS = 1800  # kube-apiserver's --min-request-timeout; up to twice that

Encoder = Callable[[Entry], bytes]  # an entry as the client asked for it: as it is, as a Table, as metadata only


def frame(type_: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (type_.encode(), body)


class Watcher:
    """One watch request: what it selects, and the frames that wait to be sent."""

    def __init__(self, kind: Kind, selection: Selection, encoder: Encoder | None, api_version: str, bookmarks: bool, after: int,
                 bookmark: Object | None = None) -> None:
        """`encoder` None means the object as it is stored. Changes up to revision `after` are not told.
        `bookmark` is what a bookmark is an object of, where that is not the kind itself: clients decode it as they do the rest."""
        self.kind, self.selection, self.encoder, self.bookmarks = kind, selection, encoder, bookmarks
        self.api_version, self.sent_revision = api_version, after
        self._bookmark = bookmark or {"kind": kind.kind, "apiVersion": api_version}
        self._frames: list[bytes] = []
        self._pending = 0
        self.initial: Iterator[bytes] | None = None  # frames of what there was at the start; they go out before all others
        self.buffer_bytes = BUFFER_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self.finished = False
        self.transport: asyncio.Transport | None = None

    def push(self, data: bytes) -> None:
        if self.finished:
            return
        self._frames.append(data)
        self._pending += len(data)
        if self._pending > self.buffer_bytes:
            self.finish()
            self._frames.clear()
            self.initial = None
            if self.transport:
                self.transport.abort()
        else:
            self._wake()

    def finish(self) -> None:
        """Send what is pending, then end."""
        self.finished = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def bookmark(self, revision: int, *, initial_events_end: bool = False) -> None:
        meta: dict[str, object] = {"resourceVersion": str(max(revision, self.sent_revision))}
        if initial_events_end:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        self.push(frame("BOOKMARK", orjson.dumps({**self._bookmark, "metadata": meta})))

    def expire(self, message: str) -> None:
        """End with an ERROR event: the version asked for, or the watch itself, is too old."""
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": "Expired", "code": 410}
        self.push(frame("ERROR", orjson.dumps(status)))
        self.finish()

    async def send(self, response: web.StreamResponse) -> None:
        """Write frames until the watch has ended and everything is sent."""
        while True:
            if self.initial is not None:
                await response.write(self._piece(self.initial))
                await asyncio.sleep(0)  # a long list must not keep the others waiting
            elif self._frames:
                data = b"".join(self._frames)
                self._frames.clear()
                self._pending = 0
                await response.write(data)
            elif self.finished:
                return
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    def _piece(self, initial: Iterator[bytes]) -> bytes:
        frames, size = [], 0
        for data in initial:
            frames.append(data)
            size += len(data)
            if size >= PIECE_BYTES:
                return b"".join(frames)
        self.initial = None
        return b"".join(frames)


class Watches:
    """All watchers of a server, by kind."""

    def __init__(self, store: Store, clock: SimClock) -> None:
        self._store, self._clock = store, clock
        self.buffer_bytes = BUFFER_BYTES  # of watches to come
        self._watchers: dict[Kind, set[Watcher]] = {}
        self._bookmarks: asyncio.Task[None] | None = None
        self._random = random.Random(0)

    @property
    def count(self) -> int:
        return sum(len(watchers) for watchers in self._watchers.values())

    def open(self, watcher: Watcher, *, initial: bool, initial_events_end: bool) -> None:
        """Tell it of all there is (`initial`), or of what came after its version; then of each change.
        It ends at once with 410 if what came after is forgotten."""
        kind = watcher.kind
        watcher.buffer_bytes = self.buffer_bytes
        if initial:
            entries = watcher.selection.filter(self._store.entries(kind, watcher.selection.namespace))
            watcher.initial = (frame("ADDED", self._encoded(watcher, entry)) for entry in entries)
            watcher.sent_revision = self._store.revision
            if initial_events_end:
                watcher.bookmark(self._store.revision, initial_events_end=True)
        else:
            changes = self._store.since(kind, watcher.sent_revision)
            if changes is None:
                watcher.expire(f"too old resource version: {watcher.sent_revision} ({self._store.revision})")
                return
            for change in changes:
                self._offer(watcher, change, {})
        if kind not in self._watchers:
            self._watchers[kind] = set()
            self._store.subscribe(kind, self._on_change)
        self._watchers[kind].add(watcher)
        if self._bookmarks is None or self._bookmarks.done():
            self._bookmarks = asyncio.create_task(self._send_bookmarks(), name="watch-bookmarks")

    def close(self, watcher: Watcher) -> None:
        self._watchers.get(watcher.kind, set()).discard(watcher)

    def all(self) -> list[Watcher]:
        return [watcher for watchers in self._watchers.values() for watcher in watchers]

    def finish(self, watchers: list[Watcher]) -> None:
        """End these watches, as a server that goes down does: what is pending is sent first."""
        for watcher in watchers:
            watcher.finish()

    def expire(self) -> None:
        """End every watch with 410, as a compaction under a slow client does."""
        for watcher in self.all():
            self.expire_one(watcher)

    def expire_one(self, watcher: Watcher) -> None:
        watcher.expire("The resourceVersion for the provided watch is too old.")

    async def stop(self) -> None:
        for watchers in self._watchers.values():
            for watcher in tuple(watchers):
                watcher.finish()
        if self._bookmarks:
            self._bookmarks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._bookmarks

    def timeout(self, asked_seconds: int) -> float:
        """How long a watch lives, in seconds of wall time: it is the client's clock that counts them."""
        return float(asked_seconds) if asked_seconds > 0 else DEFAULT_TIMEOUT_SECONDS * (1 + self._random.random())

    def _on_change(self, change: Change) -> None:
        frames: dict[object, bytes] = {}  # the encodings of this change so far
        for watcher in tuple(self._watchers[change.kind]):
            self._offer(watcher, change, frames)

    def _offer(self, watcher: Watcher, change: Change, frames: dict[object, bytes]) -> None:
        if watcher.finished or change.revision <= watcher.sent_revision:
            return
        selection = watcher.selection
        if selection.namespace and selection.namespace != change.key[0]:
            return
        if selection.everything:
            type_ = change.type
        else:
            before = change.old is not None and selection.matches(change.old)
            after = change.type != "DELETED" and selection.matches(change.new)
            if not before and not after:
                return
            type_ = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
        left = type_ == "DELETED" and change.type != "DELETED"
        cache_key = (type_, left, watcher.encoder, watcher.api_version)
        data = frames.get(cache_key)
        if data is None:
            data = frames[cache_key] = frame(type_, self._encoded(watcher, self._last_seen(change) if left else change.new))
        watcher.sent_revision = change.revision
        watcher.push(data)

    @staticmethod
    def _last_seen(change: Change) -> Entry:
        """What a watcher is told whose selector no longer matches: the old object at the new version."""
        assert change.old is not None
        obj = change.old.obj
        obj["metadata"]["resourceVersion"] = str(change.revision)
        return Entry(change.key, change.revision, orjson.dumps(obj), change.old.labels, change.old.selectable)

    @staticmethod
    def _encoded(watcher: Watcher, entry: Entry) -> bytes:
        if watcher.encoder:
            return watcher.encoder(entry)
        return in_version(watcher.kind, watcher.api_version, entry.raw)

    async def _send_bookmarks(self) -> None:
        while True:
            await asyncio.gather(asyncio.sleep(LEAST_BOOKMARK_WALL_SECONDS), self._clock.sleep(BOOKMARK_SECONDS))
            for watchers in self._watchers.values():
                for watcher in watchers:
                    if watcher.bookmarks and not watcher.finished:
                        watcher.bookmark(self._store.revision)


def in_version(kind: Kind, api_version: str, raw: bytes) -> bytes:
    """A stored object as another version that is served of the same kind (they differ in nothing else), or as the kind that shows it."""
    if api_version == kind.api_version:
        return raw
    if api_version == event_view.API_VERSION:
        return orjson.dumps(event_view.from_core(orjson.loads(raw)))
    return b'{"apiVersion":"%b","kind":"%b",' % (api_version.encode(), kind.kind.encode()) + raw[len(kind.prefix):]
