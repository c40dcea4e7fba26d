"""GET: one object, a list, a watch."""

from __future__ import annotations

import asyncio
from typing import Protocol

import orjson
from aiohttp import web

from ..clock import SimClock
from . import tables
from .calls import Call
from .kinds import Kind
from .lists import ListOptions, Lists, Page, encode_list, get_version, item_encoder, parse_options, too_large
from .representations import Form, accepted, answer
from .resources import Resources
from .selectors import Selection, selection
from .store import Entry, Object
from .watches import Encoder, Watcher, Watches, in_version

# What a bookmark is an object of, in each form of a watch; None: of the kind that is watched.
BOOKMARKS: dict[Form, Object | None] = {
    Form.OBJECT: None, Form.PARTIAL: {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"},
    Form.TABLE: {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": None, "rows": []}}


class Expiry(Protocol):
    """The part of the faults that ends watches. None: they live as long as asked for."""

    @property
    def watch_expiry_seconds(self) -> float | None: ...


class Reads:
    def __init__(self, resources: Resources, clock: SimClock, watches: Watches, faults: Expiry) -> None:
        self._resources, self._clock, self._watches, self._faults = resources, clock, watches, faults
        self.lists = Lists(resources.store)

    async def get(self, call: Call) -> web.StreamResponse:
        assert call.kind is not None
        form, media = accepted(call.request.headers.get("Accept", ""))
        version = get_version(call.query)
        if version > self._resources.store.revision:
            raise too_large(version, self._resources.store.revision)
        entry = self._resources.entry(call.kind, object_namespace(call), call.name)
        if form is Form.OBJECT:
            return answer(in_version(call.kind, call.api_version, entry.raw), media=media)
        return answer(self._encoder(call, form)(entry), media=media)

    async def list(self, call: Call) -> web.StreamResponse:
        assert call.kind is not None
        form, media = accepted(call.request.headers.get("Accept", ""))
        options = parse_options(call.query)
        chosen = selection(call.kind, call.namespace, options.label_selector, options.field_selector)
        if options.watch:
            return await self.watch(call, call.kind, chosen, options, None if form is Form.OBJECT else self._encoder(call, form), BOOKMARKS[form])
        page = self.lists.page(call.kind, chosen, options)
        return answer(self._encode_page(call, page, form), media=media)

    def _encode_page(self, call: Call, page: Page, form: Form) -> bytes:
        kind = call.kind
        assert kind is not None
        if form is Form.TABLE:
            table = tables.table(kind, page.entries, self.now(), include_object=call.query.get("includeObject", "Metadata"))
            table["metadata"] = list_metadata(page)
            return orjson.dumps(table)
        if form is Form.PARTIAL:
            return encode_list(kind, "meta.k8s.io/v1", page, "PartialObjectMetadataList", (_partial(entry) for entry in page.entries))
        return encode_list(kind, call.api_version, page, f"{kind.kind}List", map(item_encoder(kind, call.api_version), page.entries))

    def now(self) -> float:
        return self._clock.epoch + self._clock.now()

    def _encoder(self, call: Call, form: Form) -> Encoder:
        assert call.kind is not None
        if form is Form.PARTIAL:
            return _partial
        kind, include = call.kind, call.query.get("includeObject", "Metadata")
        headers = True

        def as_table(entry: Entry) -> bytes:
            nonlocal headers
            table = tables.table(kind, [entry], self.now(), include_object=include, headers=headers)
            table["metadata"] = {"resourceVersion": str(entry.revision)}
            headers = False
            return orjson.dumps(table)

        return as_table

    async def watch(self, call: Call, kind: Kind, chosen: Selection, options: ListOptions, encoder: Encoder | None, bookmark: Object | None) -> web.StreamResponse:
        """Follow this kind's objects. `encoder` and `bookmark` as Watcher takes them."""
        version = options.resource_version
        initial = options.send_initial_events if options.send_initial_events is not None else not version
        if options.send_initial_events and version and version > self._resources.store.revision:
            raise too_large(version, self._resources.store.revision)
        watcher = Watcher(kind, chosen, encoder, call.api_version, options.bookmarks, version or self._resources.store.revision, bookmark)
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"})
        await response.prepare(call.request)
        watcher.transport = call.request.transport
        self._watches.open(watcher, initial=initial, initial_events_end=bool(options.send_initial_events) and options.bookmarks)
        loop = asyncio.get_running_loop()
        end = loop.call_later(self._watches.timeout(options.timeout_seconds), watcher.finish)
        expiry = self._faults.watch_expiry_seconds
        if expiry is not None:
            self._clock.call_later(expiry, lambda: self._expire(watcher))
        try:
            await watcher.send(response)
            await response.write_eof()
        except ConnectionError:
            pass  # the client has gone, or was cut off because it did not read
        finally:
            end.cancel()
            watcher.finish()
            self._watches.close(watcher)
        return response

    def _expire(self, watcher: Watcher) -> None:
        if not watcher.finished:
            self.lists.forget()
            self._resources.store.forget(watcher.kind)
            self._watches.expire_one(watcher)


def object_namespace(call: Call) -> str:
    return call.namespace if call.kind and call.kind.namespaced else ""


def list_metadata(page: Page) -> dict[str, object]:
    meta: dict[str, object] = {"resourceVersion": str(page.revision)}
    if page.next_token:
        meta["continue"] = page.next_token
        if page.remaining is not None:
            meta["remainingItemCount"] = page.remaining
    return meta


def _partial(entry: Entry) -> bytes:
    return orjson.dumps(tables.partial_metadata(entry.obj))
