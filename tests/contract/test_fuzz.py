"""Whatever is asked, the server answers as a server should, and what it keeps stays whole."""

from __future__ import annotations

import json
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Api, config_map, vm

NAMES = st.sampled_from(["a", "b", "c", "Bad_Name", "..", "a%2Fb", "x" * 300, "ü"])
PLURALS = ["/api/v1/namespaces/{ns}/configmaps", "/api/v1/namespaces/{ns}/pods", "/api/v1/namespaces/{ns}/serviceaccounts", "/apis/kubevirt.io/v1/namespaces/{ns}/virtualmachines",
           "/apis/kubevirt.io/v1alpha3/namespaces/{ns}/virtualmachineinstances", "/apis/apps/v1/namespaces/{ns}/deployments", "/api/v1/nodes", "/api/v1/namespaces",
           "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "/apis/kubevirt.io/v1/virtualmachines", "/openapi/v3", "/"]
SUBRESOURCES = st.sampled_from(["", "", "", "/status", "/scale", "/finalize", "/token", "/nope", "/status/more"])
METHODS = st.sampled_from(["GET", "GET", "POST", "POST", "PUT", "PATCH", "PATCH", "PATCH", "DELETE", "HEAD", "OPTIONS"])
CONTENT = st.sampled_from(["application/json", "application/json", "application/yaml", "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json", "text/plain", ""])
ACCEPT = st.sampled_from(["application/json", "*/*", "text/html", "application/yaml", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", ";;", ""])
JUNK = st.recursive(st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["metadata", "spec", "status", "name", "$patch", "kind", "a", ""]), inner, max_size=3), max_leaves=8)
METADATA = st.fixed_dictionaries({}, optional={
    "name": NAMES | JUNK, "namespace": st.sampled_from(["default", "kube-system"]) | JUNK, "labels": st.dictionaries(st.sampled_from(["a", "b/c", "-x"]), JUNK, max_size=2) | JUNK, "finalizers": JUNK,
    "resourceVersion": st.sampled_from(["", "0", "1", "x"]) | JUNK, "uid": JUNK, "deletionTimestamp": JUNK, "ownerReferences": JUNK, "annotations": JUNK, "generateName": st.sampled_from(["g-", "G"]) | JUNK,
    "managedFields": JUNK, "generation": JUNK, "creationTimestamp": JUNK})
KINDS = st.sampled_from([{}, {"apiVersion": "v1", "kind": "ConfigMap"}, {"apiVersion": "v1", "kind": "Pod"}, {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine"},
                         {"apiVersion": "apps/v1", "kind": "Deployment"}, {"apiVersion": "v1", "kind": "DeleteOptions"}, {"kind": 5}, {"apiVersion": []}])
GOOD = st.sampled_from([vm("a", t="1"), vm("b"), config_map("a", {"k": "v"}), {"metadata": {"name": "c", "finalizers": ["a/b"]}}, {"metadata": {"finalizers": None}},
                        {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}, {"spec": {"replicas": 3}},
                        {"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}])


@st.composite
def objects(draw: st.DrawFn) -> Any:
    body: dict[str, Any] = {**draw(KINDS), "metadata": draw(METADATA)}
    for key in draw(st.sets(st.sampled_from(["spec", "status", "data", "rules", "bogus", "propagationPolicy", "preconditions", "gracePeriodSeconds"]), max_size=3)):
        body[key] = draw(JUNK)
    return body


OPERATIONS = st.lists(st.fixed_dictionaries({"op": st.sampled_from(["add", "remove", "replace", "test", "move", "copy", "nope"]), "path": st.sampled_from(
    ["", "/", "/metadata", "/metadata/name", "/metadata/labels/a", "/spec", "/metadata/finalizers/-", "/metadata/finalizers/0", "/a/b", "x"])},
    optional={"value": JUNK, "from": st.sampled_from(["", "/metadata", "/spec", "/nope"])}), max_size=3)
BODIES = (GOOD | objects() | OPERATIONS | JUNK).map(json.dumps) | st.sampled_from(["", "{", "[" * 3000, "{a: &a [*a]}", "\x00", "a: 2020-01-01", '{"metadata":' * 1200])
QUERIES = st.dictionaries(
    st.sampled_from(["limit", "continue", "resourceVersion", "labelSelector", "fieldSelector", "watch", "dryRun", "fieldValidation", "fieldManager", "force", "gracePeriodSeconds", "propagationPolicy",
                     "resourceVersionMatch", "sendInitialEvents", "allowWatchBookmarks", "includeObject"]),
    st.sampled_from(["", "0", "1", "2", "-1", "99999999999999999999999", "x", "true", "false", "All", "Strict", "Exact", "NotOlderThan", "Orphan", "Foreground", "a=b", "a in (b", "metadata.name=a", "None", "é"]), max_size=3)
REQUESTS = st.tuples(METHODS, st.sampled_from(PLURALS), st.booleans(), NAMES, SUBRESOURCES, QUERIES, BODIES, CONTENT, ACCEPT)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(REQUESTS, min_size=1, max_size=10))
def test_no_request_is_too_strange(server: Api, requests: list[Any]) -> None:
    if server.embedded is None:
        return
    connection = server.connect()
    try:
        for request in requests:
            ask(server, connection, *request)
    finally:
        connection.close()
    server.run(whole(server))


def ask(server: Api, connection: HTTPSConnection, method: str, path: str, named: bool, name: str, subresource: str, query: dict[str, str], body: str, content: str, accept: str) -> None:
    path = path.format(ns="default") + (f"/{quote(name, safe='%')}{subresource}" if named else "")
    if path.startswith("/api/v1/namespaces/") and path.count("/") == 4 and method == "DELETE":
        return  # the other tests need their namespaces
    query = {**query, "timeoutSeconds": "1"} if "watch" not in query else {**query, "watch": "false"}
    connection.request(method, f"{path}?{urlencode(query)}", body=body.encode(), headers={"Authorization": f"Bearer {server.token}", "Content-Type": content, "Accept": accept})
    reply = connection.getresponse()
    answer = reply.read()
    expected = 504 if query.get("resourceVersion", "").startswith("999") or query.get("limit", "").startswith("999") else 499
    assert reply.status <= expected, (method, path, query, body, answer)
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
