"""One list+watch stream for a kind and selector, that survives what API servers do to streams.

An event is stamped when its bytes arrive, before it is decoded. A projection (a msgspec Struct with the few fields
that are used) is all that is decoded of an object: about a tenth of the cost of the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from .access import ClusterError
from .requests import (
    BACKOFF_FIRST_SECONDS,
    BACKOFF_MAX_SECONDS,
    CONNECT_TIMEOUT_WALL_SECONDS,
    TRANSIENT,
    ApiError,
    Cluster,
    ListMeta,
    network_reason,
    retry_after,
)
from .runtime import cancel_all

if TYPE_CHECKING:
    import aiohttp

# Bookmarks come about once a minute; a stream that is silent for longer than this may be a dead connection.
SILENCE_WALL_SECONDS = 150.0
# How long the server is asked to keep one stream, as client-go asks: spread, so that streams do not end together.
STREAM_WALL_SECONDS = (300, 600)
# A stream that lasted longer, or brought an event, did its work: the next one is opened at once.
HEALTHY_WALL_SECONDS = 1.0


class Meta(msgspec.Struct):
    """Of an object's metadata, what watches and their users need."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None
    labels: dict[str, str] = {}


class AnnotatedMeta(Meta):
    annotations: dict[str, str] = {}


class OwnedMeta(Meta):
    ownerReferences: list[dict[str, Any]] = []


class Projection(msgspec.Struct):
    """Base of projections. Every field needs a default: bookmarks and errors arrive in the place of objects."""

    metadata: Meta = msgspec.field(default_factory=Meta)

    @property
    def key(self) -> str:
        """namespace/name, or the name of a cluster-scoped object."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.metadata.namespace else self.metadata.name


P = TypeVar("P", bound=Projection)


@dataclass(frozen=True)
class Event(Generic[P]):
    """What happened to an object. `arrived` is a stamp of time.monotonic(), made before decoding.

    upper_bound: the stream was blind before this event; it happened between the last one and `arrived`.
    initial: the object was there when the watch began."""

    type: str  # ADDED, MODIFIED, DELETED
    object: P
    arrived: float
    upper_bound: bool = False
    initial: bool = False


@dataclass(frozen=True)
class Blind:
    """A time in which a stream was not there: stamps of time.monotonic(), and why it broke. `relisted` if states may
    have been missed altogether, not only learnt late."""

    kind: str
    start: float
    end: float
    reason: str
    relisted: bool


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


class _ErrorEvent(msgspec.Struct):
    type: str
    object: _Status


_ERROR_EVENT = msgspec.json.Decoder(_ErrorEvent)


class _Break(Exception):
    """The stream ended. `expired`: its version is gone, only a list helps."""

    def __init__(self, reason: str, *, expired: bool = False, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.expired, self.wait_seconds = reason, expired, wait_seconds


class Watch(Generic[P]):
    """Keeps `objects` (by key) as the server has them, and calls `on_event` for every change, in order.

    `on_event` runs on the event loop and must be quick. An exception from it, or an error that waiting does not mend
    (403, 404), ends the watch: `failed` is then set, and `failure` says why."""

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        projection: type[P],
        on_event: Callable[[Event[P]], None] | None = None,
        *,
        selector: str = "",
        fields: str = "",
        page: int = 500,
    ) -> None:
        self.objects: dict[str, P] = {}
        self.gaps: list[Blind] = []
        self.events = 0
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None
        self._cluster, self._path, self._page = cluster, path, page
        self._selector, self._fields = selector, fields
        self._on_event = on_event or (lambda event: None)
        self._event = msgspec.json.Decoder(msgspec.defstruct("WatchEvent", [("type", str), ("object", projection)]))
        self._list = msgspec.json.Decoder(
            msgspec.defstruct(
                "ObjectList",
                [("metadata", ListMeta, msgspec.field(default_factory=ListMeta)), ("items", list[projection] | None, None)],  # type: ignore[valid-type]
            )
        )
        self._version = ""
        self._late_until = 0  # events up to this version happened while the stream was broken
        self._blind_since: tuple[float, str] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """List, then watch in the background: on return `objects` is filled, and nothing after it will be missed.
        ApiError if the list fails in a way that waiting does not mend."""
        await self._relist(initial=True)
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task:
            await cancel_all([self._task])
            self._task = None
        if self._blind_since:
            self._seeing(relisted=True)

    @property
    def blind_since(self) -> tuple[float, str] | None:
        """A stamp of time.monotonic() and a reason, while the stream is broken."""
        return self._blind_since

    async def __aenter__(self) -> Watch[P]:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def _follow(self) -> None:
        failures = 0
        try:
            while True:
                events_before, began = self.events, time.monotonic()
                try:
                    await self._stream()
                except _Break as broken:
                    if self._blind_since is None:
                        self._blind_since = (time.monotonic(), broken.reason)
                    healthy = self.events > events_before or time.monotonic() - began > HEALTHY_WALL_SECONDS
                    failures = 0 if healthy else failures + 1
                    backoff = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2**failures) * random.uniform(0.5, 1.0) if failures else 0.0
                    await self._cluster.clock.sleep(max(broken.wait_seconds or 0.0, backoff))
                    await self._mend(expired=broken.expired)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.failure = error
            self.failed.set()

    async def _mend(self, expired: bool) -> None:
        """After a break: learn up to which version events are late, or all states anew if the version is gone."""
        if not expired:
            head = await self._retried(lambda: self._cluster.get(self._path, limit="1", **self._selectors()))
            version = str(head.get("metadata", {}).get("resourceVersion", ""))
            # A version behind ours is that of another store: a restored backup, or a restarted embedded cluster.
            if version.isdigit() and self._version.isdigit() and int(version) >= int(self._version):
                self._late_until = int(version)
                return
        await self._relist(initial=False)

    def _selectors(self) -> dict[str, str]:
        both = {"labelSelector": self._selector, "fieldSelector": self._fields}
        return {key: value for key, value in both.items() if value}

    # -- the list ---------------------------------------------------------------------------------------------------

    async def _relist(self, initial: bool) -> None:
        found, version, arrived = await self._retried(self._listed)
        known, self.objects = self.objects, found
        self._version = version
        if not initial:
            self._seeing(relisted=True)
        for key, obj in found.items():
            before = known.pop(key, None)
            if before and before.metadata.uid != obj.metadata.uid:
                self._emit(Event("DELETED", before, arrived, upper_bound=True))
                before = None
            if before is None:
                self._emit(Event("ADDED", obj, arrived, upper_bound=not initial, initial=initial))
            elif before.metadata.resourceVersion != obj.metadata.resourceVersion:
                self._emit(Event("MODIFIED", obj, arrived, upper_bound=True))
        for lost in known.values():
            self._emit(Event("DELETED", lost, arrived, upper_bound=True))

    async def _listed(self) -> tuple[dict[str, P], str, float]:
        try:
            return await self._list_pages(self._page)
        except ApiError as error:
            if error.status != 410:
                raise
            return await self._list_pages(0)  # it expired between two pages: in one piece then

    async def _list_pages(self, page: int) -> tuple[dict[str, P], str, float]:
        found: dict[str, P] = {}
        version, arrived = "", time.monotonic()
        async for body in self._cluster.pages(self._path, selector=self._selector, fields=self._fields, page=page):
            arrived = time.monotonic()
            part = self._decoded(self._list, body)
            version = part.metadata.resourceVersion
            found.update((obj.key, obj) for obj in part.items or ())
        return found, version, arrived

    async def _retried(self, ask: Callable[[], Any]) -> Any:
        """A watch has all the time of its user: a server that is away for minutes is waited for."""
        while True:
            try:
                return await ask()
            except ApiError as error:
                # The first list fails at once: a wrong address is no outage.
                if self._blind_since is None or not (error.transient or error.status == 410):
                    raise
                await self._cluster.clock.sleep(max(error.retry_after_seconds or 0.0, BACKOFF_MAX_SECONDS * random.uniform(0.5, 1.0)))

    # -- the stream -------------------------------------------------------------------------------------------------

    async def _stream(self) -> None:
        """Follow one stream until it breaks, which it always does: raises _Break, or what cannot be mended."""
        import aiohttp

        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*STREAM_WALL_SECONDS)),
            **self._selectors(),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_WALL_SECONDS, sock_read=SILENCE_WALL_SECONDS)
        try:
            async with self._cluster.raw("GET", self._path, parameters, timeout=timeout) as response:
                await self._check(response)
                self._seeing(relisted=False)
                async with contextlib.aclosing(_lines(response)) as lines:
                    async for arrived, line in lines:
                        self._take(line, arrived)
        except (OSError, aiohttp.ClientError) as error:
            reason = "silent" if isinstance(error, TimeoutError) else network_reason(error)
            raise _Break(reason) from error
        raise _Break("the server ended the stream")

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 200:
            return
        body = await response.read()
        status = response.status
        if status == 410:
            raise _Break("410 Gone", expired=True)
        if status in TRANSIENT or status == 429:
            raise _Break(f"HTTP {status}", wait_seconds=retry_after(response.headers))
        if status == 401:  # the request that mends the gap renews the credentials, or fails with the reason
            raise _Break("HTTP 401")
        raise ClusterError(f"watch of {self._path}: HTTP {status} {' '.join(body[:200].decode('utf-8', 'replace').split())}")

    def _take(self, line: bytes, arrived: float) -> None:
        event = self._event_of(line)
        obj: P = event.object
        self._version = obj.metadata.resourceVersion
        if event.type == "BOOKMARK":
            return
        if event.type == "DELETED":
            self.objects.pop(obj.key, None)
        else:
            self.objects[obj.key] = obj
        late = bool(self._late_until) and int(self._version) <= self._late_until
        self._emit(Event(event.type, obj, arrived, upper_bound=late))

    def _event_of(self, line: bytes) -> Any:
        """_Break for an ERROR event. Its object is a Status, whose fields seldom fit the projection's: `status` is a word."""
        wrong: Exception | str = "an ERROR without a Status"
        try:
            event: Any = self._event.decode(line)
            if event.type != "ERROR":
                return event
        except msgspec.DecodeError as error:
            wrong = error
        with contextlib.suppress(msgspec.DecodeError):
            failure = _ERROR_EVENT.decode(line)
            if failure.type == "ERROR":
                status = failure.object
                raise _Break(f"{status.code} {status.reason or status.message}".strip(), expired=status.code == 410)
        raise ClusterError(f"watch of {self._path}: the answer is not as expected: {wrong}: {line[:120]!r}")

    def _emit(self, event: Event[P]) -> None:
        self.events += 1
        self._on_event(event)

    def _seeing(self, relisted: bool) -> None:
        if self._blind_since:
            start, reason = self._blind_since
            self._blind_since = None
            self.gaps.append(Blind(self._path.rsplit("/", 1)[-1], start, time.monotonic(), reason, relisted))

    def _decoded(self, decoder: Any, body: bytes) -> Any:
        try:
            return decoder.decode(body)
        except msgspec.DecodeError as error:
            raise ClusterError(f"watch of {self._path}: the answer is not as expected: {error}: {body[:120]!r}") from error


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[tuple[float, bytes]]:
    """Lines with the stamp of the bytes that completed them. aiohttp's own readline has a limit that objects exceed."""
    rest = b""
    while chunk := await response.content.readany():
        arrived = time.monotonic()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield arrived, line
