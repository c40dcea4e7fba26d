"""The API's three servers behind one address: what a client sees when one ends, and when all of them are away."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Api, config_map


@pytest.fixture
def ours(api: Api) -> Api:
    if api.embedded is None:
        pytest.skip("that server's replicas are not ours to end")
    return api


def ask(api: Api, connection: Any, path: str) -> Any:
    connection.request("GET", path, headers={"Authorization": f"Bearer {api.token}"})
    return connection.getresponse()


def end(api: Api, *indexes: int) -> None:
    async def close() -> None:
        for index in indexes:
            api.embedded.close_replica(index)

    api.run(close())


def test_a_watch_ends_in_order_with_its_server_and_goes_on_at_another(ours: Api) -> None:
    created = ours.post(ours.core("configmaps"), config_map("one")).json
    version = created["metadata"]["resourceVersion"]
    connection = ours.connect(timeout=10)
    reply = ask(ours, connection, f"{ours.core('configmaps')}?watch=1&resourceVersion={version}")
    ours.post(ours.core("configmaps"), config_map("two"))
    assert json.loads(reply.readline())["object"]["metadata"]["name"] == "two"
    end(ours, 0, 1, 2)
    assert reply.read() == b""  # the stream's own end, not a broken connection
    again = ours.watch(f"{ours.core('configmaps')}?watch=1&resourceVersion={version}&timeoutSeconds=1")
    assert [event["object"]["metadata"]["name"] for event in again] == ["two"]


def test_only_the_connections_of_the_server_that_ends_are_closed(ours: Api) -> None:
    connections = [ours.connect(timeout=10) for _ in range(3)]
    for connection in connections:
        ask(ours, connection, "/version").read()
    end(ours, 1)
    lost = 0
    for connection in connections:
        try:
            assert ask(ours, connection, "/version").status == 200
        except (ConnectionError, OSError):
            lost += 1
    assert lost == 1


def test_a_server_that_is_left_gets_no_new_connections_and_comes_back_as_another_version(ours: Api) -> None:
    replicas = ours.embedded.replicas
    before = replicas.versions[0]

    async def leave() -> None:
        for index in (1, 2):
            replicas.leave(index)

    async def join(index: int, version: dict[str, str]) -> None:
        replicas.join(index, version)

    ours.run(leave())
    try:
        ours.run(join(0, {**before, "gitVersion": "v1.23.5"}))
        assert {ours.get("/version").json["gitVersion"] for _ in range(5)} == {"v1.23.5"}
    finally:
        for index in range(3):
            ours.run(join(index, before))


def test_nobody_listens_in_an_outage_and_what_was_there_is_there_again(ours: Api) -> None:
    ours.post(ours.core("configmaps"), config_map("kept"))
    held = ours.connect(timeout=10)
    ask(ours, held, "/version").read()
    ours.run(ours.embedded.refuse())
    try:
        with pytest.raises(ConnectionRefusedError):
            ours.get("/version")
        with pytest.raises((ConnectionError, OSError)):
            ask(ours, held, "/version")
    finally:
        ours.run(ours.embedded.resume())
    assert ours.get(f"{ours.core('configmaps')}/kept").code == 200
