"""Watches: what is told, in which order, and how they end."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest

from .conftest import Api, config_map, vm

pytestmark = pytest.mark.usefixtures("quiet")


class Watching:
    """A watch that is read in a thread; `events` grows."""

    def __init__(self, api: Api, path: str, accept: str = "application/json") -> None:
        self.events: list[dict[str, Any]] = []
        self._connection = api.connect(timeout=30)
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {api.token}", "Accept": accept} if api.token else {"Accept": accept})
        self._reply = self._connection.getresponse()
        assert self._reply.status == 200
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while line := self._reply.readline():
                with self._arrived:
                    self.events.append(json.loads(line))
                    self._arrived.notify_all()
        except (OSError, ValueError, AttributeError):
            return  # closed under it

    def until(self, count: int) -> list[dict[str, Any]]:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.events) >= count, 20), f"only {[brief(event) for event in self.events]}"
            return self.events[:count]

    def close(self) -> None:
        if self._connection.sock:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._connection.close()

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def brief(event: dict[str, Any]) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"].get("name", "")


def version(api: Api) -> str:
    return str(api.get(api.vms).json["metadata"]["resourceVersion"])


def test_every_change_from_a_version_on(api: Api) -> None:
    api.post(api.vms, vm("before"))
    with Watching(api, f"{api.vms}?watch=true&resourceVersion={version(api)}") as watching:
        api.post(api.vms, vm("a"))
        api.patch(f"{api.vms}/a", {"metadata": {"labels": {"x": "y"}}})
        api.delete(f"{api.vms}/a")
        events = watching.until(3)
    assert [brief(event) for event in events] == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("query", ["resourceVersion=0", ""])
def test_without_a_version_it_starts_with_what_is_there(api: Api, query: str) -> None:
    for name in "ba":
        api.post(api.vms, vm(name))
    with Watching(api, f"{api.vms}?watch=true&{query}") as watching:
        events = watching.until(2)
        api.post(api.vms, vm("c"))
        events = watching.until(3)
    assert sorted(brief(event) for event in events[:2]) == [("ADDED", "a"), ("ADDED", "b")]
    assert brief(events[2]) == ("ADDED", "c")


def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    api.post(api.vms, vm("a"))
    path = f"{api.vms}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    with Watching(api, path) as watching:
        added, bookmark = watching.until(2)
        api.post(api.vms, vm("b"))
        assert brief(watching.until(3)[2]) == ("ADDED", "b")
    assert brief(added) == ("ADDED", "a")
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(added["object"]["metadata"]["resourceVersion"])
    assert api.get(f"{api.vms}?watch=true&sendInitialEvents=true").code == 422


def test_bookmarks_come_by_themselves(embedded: Api) -> None:
    async def speed(value: float) -> None:
        embedded.embedded.clock.set_speed(value)

    embedded.run(speed(1000.0))
    try:
        with Watching(embedded, f"{embedded.vms}?watch=true&allowWatchBookmarks=true&resourceVersion={version(embedded)}") as watching:
            event = watching.until(1)[0]
    finally:
        embedded.run(speed(1.0))
    assert (event["type"], event["object"]["kind"], event["object"]["apiVersion"]) == ("BOOKMARK", "VirtualMachine", "kubevirt.io/v1")


def test_a_selector_is_left_and_entered(api: Api) -> None:
    with Watching(api, f"{api.vms}?watch=true&labelSelector=t%3Dx&resourceVersion={version(api)}") as watching:
        api.post(api.vms, vm("other", t="y"))
        api.post(api.vms, vm("a", t="x"))
        api.patch(f"{api.vms}/a", {"metadata": {"labels": {"t": "y"}}})
        api.patch(f"{api.vms}/a", {"metadata": {"annotations": {"unseen": "1"}}})
        api.patch(f"{api.vms}/a", {"metadata": {"labels": {"t": "x"}}})
        events = watching.until(3)
    assert [brief(event) for event in events] == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a")]
    assert events[1]["object"]["metadata"]["labels"] == {"t": "x"}  # as it was last seen, at the version of the change
    assert int(events[1]["object"]["metadata"]["resourceVersion"]) > int(events[0]["object"]["metadata"]["resourceVersion"])


def test_one_object_by_its_name(api: Api) -> None:
    with Watching(api, f"{api.vms}?watch=true&fieldSelector=metadata.name%3Db&resourceVersion={version(api)}") as watching:
        api.post(api.vms, vm("a"))
        api.post(api.vms, vm("b"))
        assert brief(watching.until(1)[0]) == ("ADDED", "b")


def test_it_ends_when_the_client_said(api: Api) -> None:
    assert api.watch(f"{api.vms}?watch=true&timeoutSeconds=1&resourceVersion={version(api)}") == []


def test_a_version_that_is_forgotten_is_gone(embedded: Api) -> None:
    old = version(embedded)
    embedded.post(embedded.vms, vm("a"))

    async def compact() -> None:
        embedded.embedded.forget()

    embedded.run(compact())
    events = embedded.watch(f"{embedded.vms}?watch=true&timeoutSeconds=1&resourceVersion={old}")
    assert [(event["type"], event["object"]["code"], event["object"]["reason"]) for event in events] == [("ERROR", 410, "Expired")]
    assert embedded.watch(f"{embedded.vms}?watch=true&timeoutSeconds=1&resourceVersion={version(embedded)}") == []


def test_watch_expiry_ends_watches_and_forgets(embedded: Api) -> None:
    old = version(embedded)
    embedded.embedded.faults.watch_expiry_seconds = 0.2
    try:
        events = embedded.watch(f"{embedded.vms}?watch=true&timeoutSeconds=20&resourceVersion={old}")
    finally:
        embedded.embedded.faults.watch_expiry_seconds = None
    assert [(event["type"], event["object"]["code"]) for event in events] == [("ERROR", 410)]


def test_a_bad_version_is_refused_before_it_starts(api: Api) -> None:
    assert api.get(f"{api.vms}?watch=true&resourceVersion=abc").code == 500  # as the real server does


def test_as_a_table(api: Api) -> None:
    api.post(api.vms, vm("a"))
    with Watching(api, f"{api.vms}?watch=true", accept="application/json;as=Table;v=v1;g=meta.k8s.io") as watching:
        watching.until(1)
        api.post(api.vms, vm("b"))
        first, second = watching.until(2)
    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert not second["object"].get("columnDefinitions")
    assert [event["object"]["rows"][0]["cells"][0] for event in (first, second)] == ["a", "b"]


def test_all_events_arrive_whole_in_a_burst(api: Api) -> None:
    with Watching(api, f"{api.vms}?watch=true&resourceVersion={version(api)}") as watching:
        connection = api.connect()
        for index in range(200):
            connection.request("POST", api.vms, body=json.dumps(vm(f"vm-{index}")), headers={"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"})
            assert connection.getresponse().read()
        events = watching.until(200)
        connection.close()
    assert [brief(event) for event in events] == [("ADDED", f"vm-{index}") for index in range(200)]


def test_a_watcher_that_does_not_read_costs_nobody_else_and_can_come_back(embedded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off when its buffer is full, and finds what it missed from the last version it had read."""
    watches, path = embedded.embedded.watches, embedded.core("configmaps")
    monkeypatch.setattr(watches, "buffer_bytes", 2_000_000)
    before, start = watches.count, embedded.get(path).json["metadata"]["resourceVersion"]
    deaf = embedded.connect()
    deaf.request("GET", f"{path}?watch=true&resourceVersion={start}", headers={"Authorization": f"Bearer {embedded.token}"})
    reply = deaf.getresponse()
    with Watching(embedded, f"{path}?watch=true&resourceVersion={start}") as other:
        assert embedded.post(path, config_map("big", {"k": "x" * 900_000})).code == 201
        first = json.loads(reply.readline())
        assert brief(first) == ("ADDED", "big")
        count = 1
        deadline = time.monotonic() + 30
        while watches.count > before + 1:  # more than sockets and the buffer hold
            assert time.monotonic() < deadline, "it was not cut off"
            assert embedded.patch(f"{path}/big", {"metadata": {"annotations": {"n": str(count)}}}).code == 200
            count += 1
        told = [event["object"]["metadata"].get("annotations", {}).get("n") for event in other.until(count)]
        assert told == [None, *(str(number) for number in range(1, count))]
    deaf.close()
    resumed = f"{path}?watch=true&resourceVersion={first['object']['metadata']['resourceVersion']}"
    monkeypatch.setattr(watches, "buffer_bytes", 2**30)  # it reads at once, but all that it missed comes at once too
    with Watching(embedded, resumed) as back:
        assert [event["object"]["metadata"]["annotations"]["n"] for event in back.until(count - 1)] == [str(number) for number in range(1, count)]


def test_a_watch_may_start_with_more_than_its_buffer_holds(embedded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    path = embedded.core("configmaps")
    monkeypatch.setattr(embedded.embedded.watches, "buffer_bytes", 100_000)
    for name in "abc":
        assert embedded.post(path, config_map(name, {"k": "x" * 200_000})).code == 201
    with Watching(embedded, f"{path}?watch=true") as watching:
        assert [brief(event) for event in watching.until(3)] == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]
        assert embedded.post(path, config_map("d")).code == 201
        assert brief(watching.until(4)[3]) == ("ADDED", "d")


def test_a_client_that_goes_leaves_no_watcher(embedded: Api) -> None:
    async def watchers() -> int:
        return int(embedded.embedded.watches.count)

    before = embedded.run(watchers())
    with Watching(embedded, f"{embedded.vms}?watch=true"):
        deadline = time.monotonic() + 20
        while embedded.run(watchers()) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert embedded.run(watchers()) == before + 1
    deadline = time.monotonic() + 20
    while embedded.run(watchers()) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert embedded.run(watchers()) == before


def test_the_older_paths_of_watches(api: Api) -> None:
    api.post(api.core("configmaps"), config_map("a"))
    api.post(api.core("configmaps"), config_map("b"))
    for path, names in ((f"/api/v1/watch/namespaces/{api.namespace}/configmaps", {"a", "b"}), (f"/api/v1/watch/namespaces/{api.namespace}/configmaps/a", {"a"})):
        seen = api.watch(f"{path}?timeoutSeconds=1")
        assert {each["object"]["metadata"]["name"] for each in seen} - {"kube-root-ca.crt"} == names
