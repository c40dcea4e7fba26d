"""What Go programs send, recorded from client-go 0.35: informers over built-in kinds that prefer protobuf, over custom resources, over metadata
alone, and leader election. Their requests are replayed here, and the answers are held to what those clients decode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Api, Reply, config_map, vm

PROTOBUF = "application/vnd.kubernetes.protobuf"
TYPED = f"{PROTOBUF},application/json"  # a clientset's Accept: protobuf where the server has it, else JSON
PARTIAL = ",".join([*(f"{media};as=PartialObjectMetadata;g=meta.k8s.io;v=v1" for media in (PROTOBUF, "application/json")), "application/json"])
PARTIAL_LIST = PARTIAL.replace("PartialObjectMetadata;", "PartialObjectMetadataList;")
WATCH_LIST = "allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&timeout=5m54s&timeoutSeconds=1&watch=true"
WATCH = "allowWatchBookmarks=true&timeout=5m54s&timeoutSeconds=1&watch=true"


def readable(api: Api, accept: str) -> str:
    """The same wish, for a server that could grant protobuf: these tests read JSON alone."""
    return accept if api.embedded is not None else ",".join(each for each in accept.split(",") if not each.startswith(PROTOBUF))


def events(reply: Reply) -> list[dict[str, Any]]:
    """A watch's events. Clients choose their decoder by the Content-Type."""
    assert (reply.code, reply.headers["Content-Type"]) == (200, "application/json"), reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def types(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(event["object"]["apiVersion"], event["object"]["kind"]) for event in found}


def ends_initially(event: dict[str, Any]) -> bool:
    """Whether the reflector takes this for the end of the initial events."""
    return bool(event["type"] == "BOOKMARK" and event["object"]["metadata"].get("annotations") == {"k8s.io/initial-events-end": "true"})


def follow(api: Api, path: str, accept: str) -> list[dict[str, Any]]:
    """The reflector's way: all there is, its end marked by a bookmark, and then from that version on. Returns the initial events."""
    initial = events(api.get(f"{path}?{WATCH_LIST}", accept=accept))
    ends = [index for index, event in enumerate(initial) if ends_initially(event)]
    assert ends, "without that bookmark, an informer never says that it has synced"
    version = initial[ends[0]]["object"]["metadata"]["resourceVersion"]
    assert {event["type"] for event in initial[:ends[0]]} <= {"ADDED"}
    again = events(api.get(f"{path}?{WATCH}&resourceVersion={version}", accept=accept))
    assert not [event for event in again if event["type"] == "ERROR"]
    return initial[:ends[0] + 1]


def test_an_informer_on_a_built_in_kind(api: Api) -> None:
    api.post(api.core("configmaps"), config_map("a"))
    found = follow(api, api.core("configmaps"), readable(api, TYPED))
    assert "a" in [event["object"]["metadata"].get("name") for event in found] and types(found) == {("v1", "ConfigMap")}


def test_an_informer_on_a_custom_kind(api: Api) -> None:
    api.post(api.vms, vm("a"))
    found = follow(api, api.vms, "application/json")
    assert [event["object"]["metadata"].get("name") for event in found] == ["a", None] and types(found) == {("kubevirt.io/v1", "VirtualMachine")}


@pytest.mark.parametrize("plural", ["secrets", "configmaps"])
def test_an_informer_on_metadata(api: Api, plural: str) -> None:
    """Its bookmarks are PartialObjectMetadata too: the client has no type for anything else."""
    api.post(api.core(plural), {"metadata": {"name": "a"}})
    found = follow(api, api.core(plural), readable(api, PARTIAL))
    assert types(found) == {("meta.k8s.io/v1", "PartialObjectMetadata")}
    page = api.get(f"{api.core(plural)}?limit=500&resourceVersion=0", accept=readable(api, PARTIAL_LIST)).json
    assert (page["kind"], page["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")


def test_an_informer_that_kubectl_prints(api: Api) -> None:
    """A watch of tables has bookmarks that are tables."""
    api.post(api.core("configmaps"), config_map("a"))
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    assert types(events(api.get(f"{api.core('configmaps')}?{WATCH_LIST}", accept=accept))) == {("meta.k8s.io/v1", "Table")}


@pytest.mark.parametrize("accept", [TYPED, PARTIAL])
def test_an_informer_after_its_version_was_forgotten(embedded: Api, accept: str) -> None:
    """The 410 comes as an event in a watch, a Status whatever was asked for; then it starts again from that same version, and all is there."""
    path = embedded.core("configmaps")
    version = embedded.get(path).json["metadata"]["resourceVersion"]
    embedded.post(path, config_map("a"))

    async def forget() -> None:
        embedded.embedded.forget()

    embedded.run(forget())
    (event,) = events(embedded.get(f"{path}?{WATCH}&resourceVersion={version}", accept=accept))
    assert event["type"] == "ERROR"
    assert {key: event["object"][key] for key in ("kind", "code", "reason")} == {"kind": "Status", "code": 410, "reason": "Expired"}
    initial = events(embedded.get(f"{path}?{WATCH_LIST}&resourceVersion={version}", accept=accept))
    assert "a" in [each["object"]["metadata"].get("name") for each in initial] and any(map(ends_initially, initial))


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def part(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(api_version: str, kind: str, message: bytes) -> bytes:
    return b"k8s\0" + part(1, part(1, api_version) + part(2, kind)) + part(2, message)


def lease(name: str, holder: str, version: str = "", seconds: int = 1_700_000_000, nanos: int = 5000) -> bytes:
    """As leaderelection writes it: holder, duration, acquireTime and renewTime to the microsecond, transitions."""
    time = part(1, seconds) + part(2, nanos)
    spec = part(1, holder) + part(2, 4) + part(3, time) + part(4, time) + part(5, 0)
    return envelope("coordination.k8s.io/v1", "Lease", part(1, part(1, name) + (part(6, version) if version else b"")) + part(2, spec))


def test_leader_election(api: Api) -> None:
    path, accept = f"/apis/coordination.k8s.io/v1/namespaces/{api.namespace}/leases", readable(api, TYPED)
    missing = api.get(f"{path}/lead", accept=accept)
    assert (missing.code, missing.json["reason"]) == (404, "NotFound")
    created = api.post(path, lease("lead", "me"), content=PROTOBUF, accept=accept)
    assert created.code == 201, created.text
    assert created.json["spec"] == {"holderIdentity": "me", "leaseDurationSeconds": 4, "leaseTransitions": 0,
                                    "acquireTime": "2023-11-14T22:13:20.000005Z", "renewTime": "2023-11-14T22:13:20.000005Z"}
    assert api.post(path, lease("lead", "you"), content=PROTOBUF, accept=accept).json["reason"] == "AlreadyExists"
    version = created.json["metadata"]["resourceVersion"]
    renewed = api.put(f"{path}/lead", lease("lead", "me", version, nanos=9000), content=PROTOBUF, accept=accept)
    assert (renewed.code, renewed.json["spec"]["renewTime"]) == (200, "2023-11-14T22:13:20.000009Z")
    late = api.put(f"{path}/lead", lease("lead", "you", version), content=PROTOBUF, accept=accept)
    assert (late.code, late.json["reason"]) == (409, "Conflict"), "two leaders"
    released = api.put(f"{path}/lead", lease("lead", "", renewed.json["metadata"]["resourceVersion"]), content=PROTOBUF, accept=accept)
    assert (released.code, released.json["spec"]["holderIdentity"]) == (200, "")


def test_writes_in_protobuf(api: Api) -> None:
    data = part(2, part(1, "k") + part(2, "v"))
    created = api.post(api.core("configmaps"), envelope("v1", "ConfigMap", part(1, part(1, "pb")) + data), content=PROTOBUF, accept=readable(api, TYPED))
    assert (created.code, created.headers["Content-Type"], created.json["data"]) == (201, "application/json", {"k": "v"})
    options = envelope("v1", "DeleteOptions", part(1, 0))
    assert api.delete(f"{api.core('configmaps')}/pb", options, content=PROTOBUF, accept=readable(api, TYPED)).code == 200


def test_a_client_that_takes_protobuf_alone_is_told_so(embedded: Api) -> None:
    """Every Go clientset that asks for protobuf says whether JSON will do; one that does not must not get what it cannot read."""
    refused = embedded.get(embedded.core("configmaps"), accept=PROTOBUF)
    assert (refused.code, refused.json["reason"]) == (406, "NotAcceptable")


def test_openapi_2_as_go_clients_ask_for_it(api: Api) -> None:
    reply = api.get("/openapi/v2", accept="application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
    assert (reply.code, reply.headers["Content-Type"]) == (200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    assert reply.body.startswith(part(1, "2.0"))
    assert api.get("/openapi/v2").json["swagger"] == "2.0"
    assert api.get("/openapi/v2", accept="text/html").code == 406
