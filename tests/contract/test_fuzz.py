"""Whatever is asked, the server answers as a server should, and what it keeps stays whole."""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Api, config_map, vm

TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
ROLE = {"metadata": {"name": "a"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
KINDS: dict[str, dict[str, Any]] = {  # a path, and a body that it takes
    "/api/v1/namespaces/default/configmaps": config_map("a", {"k": "v"}, x="y"),
    "/api/v1/namespaces/default/pods": {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "n"}},
    "/api/v1/namespaces/default/serviceaccounts": {"metadata": {"name": "a"}},
    "/apis/kubevirt.io/v1/namespaces/default/virtualmachines": vm("a", t="1"),
    "/apis/kubevirt.io/v1alpha3/namespaces/default/virtualmachineinstances": {"apiVersion": "kubevirt.io/v1alpha3", "kind": "VirtualMachineInstance", "metadata": {"name": "a"}, "spec": {"domain": {"devices": {}}}},
    "/apis/apps/v1/namespaces/default/deployments": {"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}},
    "/api/v1/nodes": {"metadata": {"name": "a"}},
    "/api/v1/namespaces": {"metadata": {"name": "a"}},
    "/apis/rbac.authorization.k8s.io/v1/clusterroles": ROLE,
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews": {"spec": {"resourceAttributes": {"verb": "list", "resource": "nodes"}}},
    "/apis/kubevirt.io/v1/virtualmachines": vm("a"),
    "/openapi/v3": {},
}
NAMES = st.sampled_from(["a", "a", "a", "a", "a", "b", "Bad_Name", "..", "a%2Fb", "x" * 300, "ü"])
SUBRESOURCES = st.sampled_from(["", "", "", "", "/status", "/status", "/scale", "/finalize", "/token", "/nope", "/status/more"])
METHODS = st.sampled_from(["GET", "POST", "POST", "POST", "PUT", "PUT", "PATCH", "PATCH", "PATCH", "DELETE", "HEAD", "OPTIONS"])
PATCHES = [f"application/{kind}" for kind in ("merge-patch+json", "merge-patch+json", "json-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")]
BODY_TYPES = ["application/json"] * 6 + ["application/yaml", "text/plain", ""]
ACCEPT = st.sampled_from(["application/json"] * 8 + ["*/*", "text/html", "application/yaml", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", ";;", ""])
KEYS = ["metadata", "spec", "status", "name", "labels", "finalizers", "$patch", "kind", "containers", "template", "a", ""]
JUNK = st.recursive(st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3), max_leaves=8)
METADATA = st.fixed_dictionaries({}, optional={
    "name": NAMES | JUNK, "namespace": st.sampled_from(["default", "kube-system"]) | JUNK, "labels": st.dictionaries(st.sampled_from(["a", "b/c", "-x"]), st.text(max_size=3) | JUNK, max_size=2) | JUNK,
    "finalizers": st.just(["a/b"]) | st.none() | JUNK, "resourceVersion": st.sampled_from(["", "0", "1", "x"]) | JUNK, "uid": JUNK, "deletionTimestamp": JUNK, "ownerReferences": JUNK, "annotations": JUNK,
    "generateName": st.sampled_from(["g-", "G"]) | JUNK, "managedFields": JUNK, "generation": JUNK, "creationTimestamp": JUNK})
OPERATIONS = st.lists(st.fixed_dictionaries({"op": st.sampled_from(["add", "add", "replace", "remove", "test", "move", "copy", "nope"]), "value": JUNK, "from": st.sampled_from(["", "/metadata", "/spec", "/nope"]),
    "path": st.sampled_from(["", "/", "/metadata", "/metadata/labels", "/metadata/labels/a", "/spec", "/spec/template", "/status", "/metadata/finalizers", "/metadata/finalizers/-", "/a/b", "x"])}), max_size=3)
DELETE = st.fixed_dictionaries({}, optional={"kind": st.sampled_from(["DeleteOptions", "Pod"]), "propagationPolicy": st.sampled_from(["Orphan", "Foreground", "Background"]) | JUNK, "preconditions": JUNK,
                                             "gracePeriodSeconds": st.integers(-5, 50) | JUNK, "dryRun": st.just(["All"]) | JUNK, "orphanDependents": JUNK})
BROKEN = st.sampled_from(["", "{", "[" * 3000, "{a: &a [*a]}", "\x00", "a: 2020-01-01", '{"metadata":' * 1200, "null", "[]", '"a"', "{a: b, a: c}", "? [a]\n: b"])
QUERIES = st.dictionaries(
    st.sampled_from(["limit", "continue", "resourceVersion", "labelSelector", "fieldSelector", "watch", "dryRun", "fieldValidation", "fieldManager", "force", "gracePeriodSeconds", "propagationPolicy",
                     "resourceVersionMatch", "sendInitialEvents", "allowWatchBookmarks", "includeObject"]),
    st.sampled_from(["", "0", "1", "2", "-1", "99999999999999999999999", "x", "true", "false", "All", "Strict", "Exact", "NotOlderThan", "Orphan", "Foreground", "a=b", "a in (b", "metadata.name=a", "None", "é"]), max_size=2)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Any, ...]:
    """A request that is nearly right: a good body with a few things changed, of a fitting type, most of the time."""
    method, path = draw(METHODS), draw(st.sampled_from(sorted(KINDS)))
    named = draw(st.booleans()) if method in ("GET", "DELETE", "HEAD", "OPTIONS") else draw(st.integers(0, 9)) != (method == "POST") and method != "POST"
    content = draw(st.sampled_from(PATCHES if method == "PATCH" else BODY_TYPES))
    body: Any = copy.deepcopy(KINDS[path])
    if draw(st.booleans()):
        body["metadata"] = {**body.get("metadata", {}), **draw(METADATA)}
    for _ in range(draw(st.integers(0, 2))):
        body = changed(draw, body)
    if "json-patch" in content:
        body = draw(OPERATIONS)
    elif method == "DELETE":
        body = draw(DELETE)
    elif draw(st.integers(0, 15)) == 0:
        body = draw(JUNK)
    text = draw(BROKEN) if draw(st.integers(0, 15)) == 0 else json.dumps(body)
    return method, path, named, draw(NAMES), draw(SUBRESOURCES), draw(QUERIES), text, content, draw(ACCEPT)


def changed(draw: st.DrawFn, value: Any) -> Any:
    """The value with junk at one place of it."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: changed(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        return [changed(draw, value[0]), *value[1:]]
    if isinstance(value, dict) and draw(st.booleans()):
        return {**value, draw(st.sampled_from(KEYS)): draw(JUNK)}
    return draw(JUNK)


FOLLOWED = ["/api/v1/configmaps", "/api/v1/pods", "/api/v1/namespaces", "/apis/kubevirt.io/v1/virtualmachines", "/apis/apps/v1/deployments"]


class Follower:
    """A watch held open through everything that is asked, and the state that its events add up to."""

    def __init__(self, server: Api, path: str) -> None:
        self.path, self.state, self.seen = path, {}, threading.Event()
        listed = server.get(path).json
        self.state = {(each["metadata"].get("namespace", ""), each["metadata"]["name"]): each["metadata"]["resourceVersion"] for each in listed["items"]}
        self._connection = server.connect(timeout=120)
        headers = {"Authorization": f"Bearer {server.token}"}
        self._connection.request("GET", f"{path}?watch=true&resourceVersion={listed['metadata']['resourceVersion']}", headers=headers)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, HTTPException):  # that is its end; one that comes too early has not seen the last one
            for line in self._connection.getresponse():
                self._follow(orjson.loads(line))

    def _follow(self, event: dict[str, Any]) -> None:
        meta = event["object"]["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        if event["type"] == "DELETED":
            del self.state[key]
        else:
            assert (event["type"] == "ADDED") == (key not in self.state), event
            self.state[key] = meta["resourceVersion"]
        if meta["name"] == "the-last-one":
            self.seen.set()

    def close(self) -> None:
        self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._connection.close()


@pytest.fixture(scope="module")
def followers(server: Api) -> Iterator[list[Follower]]:
    """From before the first strange request."""
    following = [] if server.embedded is None else [Follower(server, path) for path in FOLLOWED]
    yield following
    for each in following:
        each.close()


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(asked=st.lists(requests(), min_size=1, max_size=12))
def test_no_request_is_too_strange(server: Api, followers: list[Follower], asked: list[Any]) -> None:
    if server.embedded is None:
        return
    connection = server.connect()
    try:
        for path, body in KINDS.items():  # something to change
            ask(server, connection, "POST", path, False, "", "", {}, json.dumps(body), "application/json", "")
        for request in asked:
            ask(server, connection, *request)
    finally:
        connection.close()
    server.run(whole(server))


@pytest.mark.parametrize("number", range(len(FOLLOWED)))
def test_every_watch_has_seen_what_every_list_says(server: Api, followers: list[Follower], number: int) -> None:
    if server.embedded is None:
        pytest.skip("strange requests go to the embedded API only")
    follower = followers[number]
    where = next(path for path in KINDS if path.replace("/namespaces/default/", "/") == follower.path)
    body = {**copy.deepcopy(KINDS[where])}
    body["metadata"] = {**body.get("metadata", {}), "name": "the-last-one"}
    assert server.post(where, body).code == 201
    assert follower.seen.wait(20), "the watch no longer delivers"
    items = server.get(follower.path).json["items"]
    assert {(each["metadata"].get("namespace", ""), each["metadata"]["name"]): each["metadata"]["resourceVersion"] for each in items} == follower.state


def ask(server: Api, connection: HTTPSConnection, method: str, path: str, named: bool, name: str, subresource: str, query: dict[str, str], body: str, content: str, accept: str) -> None:
    path += (f"/{quote(name, safe='%')}{subresource}" if named else "")
    query = {**query, "timeoutSeconds": "1"} if "watch" not in query else {**query, "watch": "false"}
    connection.request(method, f"{path}?{urlencode(query)}", body=body.encode(), headers={"Authorization": f"Bearer {server.token}", "Content-Type": content, "Accept": accept})
    reply = connection.getresponse()
    answer = reply.read()
    expected = 504 if query.get("resourceVersion", "").startswith("999") or query.get("limit", "").startswith("999") else 499
    no_version = reply.status == 500 and b"strconv.ParseUint: parsing" in answer  # the real server's answer too
    assert reply.status <= expected or no_version, (method, path, query, body, answer)
    if reply.status >= 400 and reply.headers["Content-Type"].startswith("application/json") and method != "HEAD":
        status = orjson.loads(answer)
        assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", reply.status)


async def whole(server: Api) -> None:
    """Every object is what its key says, at the version that it says, under the prefix that lists rely on."""
    store = server.embedded.resources.store
    for kind in server.embedded.resources.kinds.all:
        for entry in store.entries(kind):
            obj = entry.obj
            meta = obj["metadata"]
            assert entry.raw.startswith(kind.prefix)
            assert (meta.get("namespace", ""), meta["name"]) == entry.key
            assert int(meta["resourceVersion"]) == entry.revision <= store.revision
            assert meta["uid"] and meta["creationTimestamp"]
            assert all(isinstance(value, str) for value in (meta.get("labels") or {}).values())
            if "deletionTimestamp" in meta:
                assert meta.get("finalizers") or meta.get("deletionGracePeriodSeconds") or obj.get("spec", {}).get("finalizers")
