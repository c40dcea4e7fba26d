"""The list+watch stream against servers that end, expire, reset and refuse it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.cluster.requests import ApiError
from pytest_vmscale.cluster.watch import Event, Projection, Watch

from .scripted import Handler, Scripted, answer, event, expired_event, listed, refusal, reset, serving, stream, thing

PATH = "/api/v1/things"


class ThingStatus(msgspec.Struct):
    word: str = ""


class Thing(Projection):
    phase: str = ""
    status: ThingStatus = msgspec.field(default_factory=ThingStatus)


class Bare(Projection):
    """Has no field that a Status could contradict."""


class Api:
    """Lists and watches have scripts of their own; `head` answers the limit=1 list that mends a gap."""

    def __init__(self, lists: list[Handler], streams: list[Handler], head: Handler | None = None) -> None:
        self.lists, self.streams = Scripted(*lists), Scripted(*streams)
        self.head = Scripted(head or listed(1))

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self.streams(request)
        return await (self.head if request.query.get("limit") == "1" else self.lists)(request)


def watched(api: Api, tmp_path: Path, until: Callable[[list[Event[Thing]], Watch[Thing]], bool]) -> tuple[list[Event[Thing]], Watch[Thing]]:
    """All events until the condition holds."""

    async def run() -> tuple[list[Event[Thing]], Watch[Thing]]:
        events: list[Event[Thing]] = []
        async with serving(api, tmp_path) as cluster, Watch(cluster, PATH, Thing, events.append, selector="x=y", page=2) as watch:
            async with asyncio.timeout(10):
                while not until(events, watch) and not watch.failed.is_set():
                    await asyncio.sleep(0.005)
        if watch.failure:
            raise watch.failure
        return events, watch

    return asyncio.run(run())


def summary(events: list[Event[Thing]]) -> list[tuple[str, str, bool]]:
    return [(e.type, e.object.key, e.upper_bound) for e in events]


def test_lists_all_pages_then_watches_from_the_lists_version(tmp_path: Path) -> None:
    api = Api(
        [listed(7, thing("one", 1), thing("two", 2), more="next"), listed(7, thing("three", 3))],
        [stream(event("MODIFIED", thing("one", 8, phase="Running")), then="hang")],
    )
    events, watch = watched(api, tmp_path, lambda events, _: len(events) == 4)
    assert summary(events) == [
        ("ADDED", "a/one", False),
        ("ADDED", "a/two", False),
        ("ADDED", "a/three", False),
        ("MODIFIED", "a/one", False),
    ]
    assert [e.initial for e in events] == [True, True, True, False]
    assert watch.objects["a/one"].phase == "Running"
    first, second = api.lists.requests
    assert (first.query["limit"], first.query["labelSelector"], second.query["continue"]) == ("2", "x=y", "next")
    assert api.streams.requests[0].query["resourceVersion"] == "7"
    assert api.streams.requests[0].query["allowWatchBookmarks"] == "true"
    assert watch.gaps == []


def test_an_event_larger_than_any_buffer_and_split_anywhere(tmp_path: Path) -> None:
    line = event("ADDED", thing("big", 8, phase="x" * 3_000_000))
    api = Api([listed(7)], [stream(line[:5], line[5:1_000_000], line[1_000_000:] + event("ADDED", thing("small", 9)), then="hang")])
    events, _ = watched(api, tmp_path, lambda events, _: len(events) == 2)
    assert [len(e.object.phase) for e in events] == [3_000_000, 0]


def test_bookmarks_move_the_version_and_are_no_events(tmp_path: Path) -> None:
    api = Api([listed(7)], [stream(event("BOOKMARK", {"metadata": {"resourceVersion": "90"}})), stream(then="hang")], head=listed(95))
    events, _ = watched(api, tmp_path, lambda _, watch: len(watch.gaps) == 1)
    assert events == []
    assert api.streams.requests[1].query["resourceVersion"] == "90"


@pytest.mark.parametrize("ending", ["end", "reset"])
def test_after_a_break_the_stream_goes_on_and_late_events_are_upper_bounds(tmp_path: Path, ending: str) -> None:
    api = Api(
        [listed(7)],
        [
            stream(event("ADDED", thing("one", 8)), then=ending),
            stream(event("ADDED", thing("two", 9)), event("ADDED", thing("three", 11)), then="hang"),
        ],
        head=listed(10),  # at the end of the gap the server was at 10: "two" came into being in the gap, "three" after it
    )
    events, watch = watched(api, tmp_path, lambda events, _: len(events) == 3)
    assert summary(events) == [("ADDED", "a/one", False), ("ADDED", "a/two", True), ("ADDED", "a/three", False)]
    assert api.streams.requests[1].query["resourceVersion"] == "8"
    (gap,) = watch.gaps
    assert gap.kind == "things" and gap.end > gap.start and not gap.relisted
    assert gap.reason == {"end": "the server ended the stream", "reset": "the connection broke in the middle of the answer"}[ending]


@pytest.mark.parametrize("expiry", [stream(expired_event()), refusal(410, "Expired")], ids=["error-event", "http-410"])
def test_an_expired_version_is_relisted_and_what_changed_meanwhile_is_found(tmp_path: Path, expiry: Handler) -> None:
    api = Api(
        [
            listed(7, thing("same", 1), thing("changed", 2)),
            listed(7, thing("changed", 2), thing("gone", 3), thing("again", 4, uid="old")),
            listed(50, thing("same", 1), thing("changed", 40)),
            listed(50, thing("again", 41, uid="new"), thing("new", 42)),
        ],
        [expiry, stream(then="hang")],
    )
    api.lists.steps[0] = listed(7, thing("same", 1), thing("changed", 2), more="p")
    api.lists.steps[2] = listed(50, thing("same", 1), thing("changed", 40), more="p")
    events, watch = watched(api, tmp_path, lambda _, watch: len(api.streams.requests) == 2)
    late = [e for e in events if not e.initial]
    assert sorted(summary(late)) == sorted(
        [
            ("MODIFIED", "a/changed", True),
            ("DELETED", "a/again", True),
            ("ADDED", "a/again", True),
            ("ADDED", "a/new", True),
            ("DELETED", "a/gone", True),
        ]
    )
    assert set(watch.objects) == {"a/same", "a/changed", "a/again", "a/new"}
    (gap,) = watch.gaps
    assert gap.relisted and "410" in gap.reason
    assert api.streams.requests[1].query["resourceVersion"] == "50"


def test_a_list_that_expires_between_pages_is_asked_for_in_one_piece(tmp_path: Path) -> None:
    api = Api(
        [listed(7, thing("one", 1), more="p"), refusal(410, "Expired"), listed(9, thing("one", 1), thing("two", 8))], [stream(then="hang")]
    )
    events, _ = watched(api, tmp_path, lambda _, watch: bool(api.streams.requests))
    assert summary(events) == [("ADDED", "a/one", False), ("ADDED", "a/two", False)]
    assert "limit" not in api.lists.requests[2].query


def test_refusals_and_outages_are_waited_for(tmp_path: Path) -> None:
    api = Api(
        [listed(7)],
        [reset(), refusal(429, "TooManyRequests", Retry_After="1"), refusal(503), stream(event("ADDED", thing("one", 8)), then="hang")],
        head=listed(7),
    )
    events, watch = watched(api, tmp_path, lambda events, _: len(events) == 1)
    assert summary(events) == [("ADDED", "a/one", False)]
    assert len(watch.gaps) == 1  # one blindness, however many tries it took
    assert len(api.streams.requests) == 4


def test_a_server_that_starts_again_with_an_older_version_is_relisted(tmp_path: Path) -> None:
    api = Api([listed(900, thing("one", 800)), listed(3, thing("one", 2, uid="other"))], [stream(), stream(then="hang")], head=listed(3))
    events, _ = watched(api, tmp_path, lambda _, watch: len(api.streams.requests) == 2)
    assert summary(events) == [("ADDED", "a/one", False), ("DELETED", "a/one", True), ("ADDED", "a/one", True)]


def test_what_waiting_does_not_mend_ends_the_watch(tmp_path: Path) -> None:
    api = Api([listed(7)], [refusal(403, "Forbidden", "things is forbidden: User u cannot watch")])
    with pytest.raises(ClusterError, match="cannot watch"):
        watched(api, tmp_path, lambda *_: False)


def test_a_first_list_that_is_refused_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="forbids it: cannot list things"):
        watched(Api([refusal(403, "Forbidden", "cannot list things")], [stream()]), tmp_path, lambda *_: False)


def test_a_handler_that_raises_ends_the_watch_with_its_error(tmp_path: Path) -> None:
    async def run() -> BaseException | None:
        def fail(_: object) -> None:
            raise ValueError("bad handler")

        api = Api([listed(7)], [stream(event("ADDED", thing("one", 8)), then="hang")])
        async with serving(api, tmp_path) as cluster, Watch(cluster, PATH, Thing, fail) as watch:
            await asyncio.wait_for(watch.failed.wait(), 10)
            return watch.failure

    assert str(asyncio.run(run())) == "bad handler"


@pytest.mark.parametrize("projection", [Thing, Bare])
def test_an_error_event_is_understood_whatever_is_watched(tmp_path: Path, projection: type[Projection]) -> None:
    async def run() -> list[str]:
        other = event("ERROR", {"kind": "Status", "status": "Failure", "code": 500, "reason": "InternalError"})
        api = Api([listed(7)], [stream(expired_event()), stream(other), stream(then="hang")], head=listed(7))
        async with serving(api, tmp_path) as cluster, Watch(cluster, PATH, projection) as watch, asyncio.timeout(10):
            while len(api.streams.requests) < 3 or len(watch.gaps) < 2:
                await asyncio.sleep(0.005)
                assert watch.failure is None
            return [gap.reason for gap in watch.gaps]

    assert asyncio.run(run()) == ["410 Expired", "500 InternalError"]


def test_what_is_no_event_ends_the_watch(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="the answer is not as expected"):
        watched(Api([listed(7)], [stream(b"<html>\n")]), tmp_path, lambda *_: False)


def test_an_empty_list_and_null_items_are_lists(tmp_path: Path) -> None:
    api = Api([answer({"metadata": {"resourceVersion": "5"}, "items": None})], [stream(then="hang")])
    events, watch = watched(api, tmp_path, lambda *_: bool(api.streams.requests))
    assert events == [] and watch.objects == {}
