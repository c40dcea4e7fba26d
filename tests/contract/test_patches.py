"""JSON, merge and strategic patches, and server-side apply."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Api, config_map, vm

pytestmark = pytest.mark.usefixtures("quiet")

JSON_PATCH, MERGE, STRATEGIC, APPLY = (f"application/{kind}" for kind in ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"))


@pytest.fixture
def path(api: Api) -> str:
    api.post(api.vms, vm("a", x="1"))
    return f"{api.vms}/a"


@pytest.fixture
def pod(api: Api) -> str:
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]}], "nodeName": "no-such-node"}}
    assert api.post(api.core("pods"), body).code == 201
    return api.core("pods") + "/p"


def test_merge(api: Api, path: str) -> None:
    patched = api.patch(path, {"metadata": {"labels": {"x": None, "y": "2"}}, "spec": {"runStrategy": "Manual"}}).json
    assert (patched["metadata"]["labels"], patched["spec"]["runStrategy"], patched["metadata"]["generation"]) == ({"y": "2"}, "Manual", 2)


def test_a_merge_patch_drops_the_nulls_of_objects_in_a_list(api: Api, path: str) -> None:
    conditions = [{"type": "A", "status": "True", "lastProbeTime": None}]
    patched = api.patch(f"{path}/status", {"status": {"conditions": conditions}}).json
    assert patched["status"]["conditions"] == [{"type": "A", "status": "True"}]


def test_a_patch_that_changes_nothing_keeps_the_version(api: Api, path: str) -> None:
    before = api.get(path).json
    assert api.patch(path, {"spec": {"runStrategy": "Halted"}}).json["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_a_merge_patch_may_insist_on_a_version(api: Api, path: str) -> None:
    current = api.get(path).json["metadata"]["resourceVersion"]
    assert api.patch(path, {"metadata": {"resourceVersion": current, "labels": {"z": "1"}}}).code == 200
    assert api.patch(path, {"metadata": {"resourceVersion": current, "labels": {"z": "2"}}}).json["reason"] == "Conflict"


def test_json(api: Api, path: str) -> None:
    operations: list[dict[str, Any]] = [{"op": "test", "path": "/spec/runStrategy", "value": "Halted"}, {"op": "add", "path": "/metadata/annotations", "value": {"a/b": "1", "c": "2"}},
                                        {"op": "remove", "path": "/metadata/annotations/a~1b"}, {"op": "copy", "from": "/metadata/annotations/c", "path": "/metadata/annotations/d"},
                                        {"op": "replace", "path": "/spec/runStrategy", "value": "Always"}]
    patched = api.patch(path, operations, JSON_PATCH).json
    assert (patched["metadata"]["annotations"], patched["spec"]["runStrategy"]) == ({"c": "2", "d": "2"}, "Always")


@pytest.mark.parametrize("operations", [
    [{"op": "test", "path": "/spec/runStrategy", "value": "Always"}],
    [{"op": "remove", "path": "/spec/nope"}],
    [{"op": "add", "path": "/nope/nope", "value": 1}],
    [{"op": "add", "path": "/metadata/labels", "value": {"changed": "1"}}, {"op": "test", "path": "/spec/runStrategy", "value": "Always"}],
])
def test_a_json_patch_that_fails_changes_nothing(api: Api, path: str, operations: list[dict[str, Any]]) -> None:
    before = api.get(path).json
    reply = api.patch(path, operations, JSON_PATCH)
    assert (reply.code, reply.json["reason"], reply.json["message"]) == (422, "Invalid", "the server rejected our request due to an error in our request")
    assert api.get(path).json == before


@pytest.mark.parametrize(("content", "body", "code"), [
    (JSON_PATCH, {"op": "x"}, 400), (JSON_PATCH, "{nope", 400), (MERGE, "{nope", 400), (MERGE, "[]", 400), (STRATEGIC, {}, 415), ("application/json", {}, 415), (APPLY, "{nope: [", 400),
    (MERGE, {"metadata": {"name": "other"}}, 400), (MERGE, {"metadata": {"uid": "other"}}, 422), (MERGE, {"spec": {"template": None}}, 422), (MERGE, {"metadata": "text"}, 422),
])
def test_patches_that_are_refused(api: Api, path: str, content: str, body: Any, code: int) -> None:
    before = api.get(path).json
    reply = api.patch(path + ("?fieldManager=m" if content == APPLY else ""), body, content)
    assert (reply.code, reply.json["code"]) == (code, code)
    assert api.get(path).json == before


@pytest.mark.parametrize(("content", "patch", "why"), [
    (MERGE, {"metadata": []}, "json: cannot unmarshal array into Go"), (MERGE, {"metadata": {"labels": {"a": 5}}}, "json: cannot unmarshal number into Go struct field ObjectMeta"),
    (MERGE, {"data": {"a": 5}}, "json: cannot unmarshal number into Go struct field ConfigMap.data"), (MERGE, {"kind": "Other"}, 'no kind \\"Other\\" is registered'),
    (JSON_PATCH, [{"op": "add", "path": "/immutable", "value": "x"}], "json: cannot unmarshal string into Go struct field ConfigMap.immutable"), (STRATEGIC, {"data": {"a": 5}}, "")])
def test_a_patch_that_makes_something_else_is_invalid(api: Api, content: str, patch: Any, why: str) -> None:
    """Not a bad request: each part of it can be read, only its result cannot."""
    api.post(api.core("configmaps"), config_map("c"))
    reply = api.patch(api.core("configmaps") + "/c", patch, content)
    assert (reply.code, reply.json["reason"], reply.json["details"]["causes"][0]["field"]) == (422, "Invalid", "patch")
    assert reply.json["message"].startswith(' "" is invalid: patch: Invalid value: ') and why in reply.text


def test_a_patch_cannot_take_the_name(api: Api, path: str) -> None:
    reply = api.patch(path, {"metadata": None})
    assert (reply.code, reply.json["message"]) == (400, "the name of the object (a based on URL) was undeterminable: name must be provided")


def test_what_is_not_there_cannot_be_patched(api: Api) -> None:
    assert api.patch(f"{api.vms}/nope", {}).code == 404


def test_a_status_patch_reaches_the_status_only(api: Api, path: str) -> None:
    patched = api.patch(f"{path}/status", [{"op": "add", "path": "/status", "value": {"ready": True}}, {"op": "replace", "path": "/spec/runStrategy", "value": "Always"}], JSON_PATCH).json
    assert (patched["status"]["ready"], patched["spec"]["runStrategy"]) == (True, "Halted")


def test_strategic_merges_lists_by_key(api: Api, pod: str) -> None:
    patched = api.patch(pod, {"spec": {"containers": [{"name": "c", "image": "i2"}]}}, STRATEGIC).json
    container = patched["spec"]["containers"][0]
    assert (len(patched["spec"]["containers"]), container["image"], container["env"]) == (1, "i2", [{"name": "A", "value": "1"}])


@pytest.mark.parametrize("before, patch, order, after", [
    ("a", "b", None, "ba"), ("abc", "c", None, "abc"), ("abc", "cx", None, "abcx"), ("abc", "xa", None, "xabc"), ("ab", "ba", None, "ba"),
    ("abc", "x", "axbc", "axbc"), ("abc", "", "cab", "cab"), ("abcd", "x", "xd", "xabcd"), ("ge", "-gc", "c", "ec"), ("abc", "x", "xcb", "xacb")])
def test_where_strategic_merge_puts_what_is_new(api: Api, before: str, patch: str, order: str | None, after: str) -> None:
    """New members come in front of those that the patch does not name; -g deletes g."""
    def environment(names: str) -> list[dict[str, str]]:
        return [{"name": name, "value": "1"} for name in names if name != "-"]

    def container(**more: Any) -> dict[str, Any]:
        return {"spec": {"template": {"spec": {"containers": [{"name": "c", **more}]}}}}

    path = f"/apis/apps/v1/namespaces/{api.namespace}/deployments"
    obj = container(image="i", env=environment(before))
    obj["spec"] |= {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}}
    obj["spec"]["template"]["metadata"] = {"labels": {"a": "b"}}
    assert api.post(path, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, **obj}).code == 201
    deleted = [{"name": patch[1], "$patch": "delete"}] if patch.startswith("-") else []
    wanted: dict[str, Any] = {"env": deleted + environment(patch[2 * len(deleted):])} if patch else {}
    if order:
        wanted["$setElementOrder/env"] = [{"name": name} for name in order]
    found = api.patch(f"{path}/d", container(**wanted), STRATEGIC).json["spec"]["template"]["spec"]["containers"][0]["env"]
    assert "".join(each["name"] for each in found) == after


def test_a_strategic_patch_whose_order_contradicts_it(api: Api, pod: str) -> None:
    patch = {"metadata": {"finalizers": ["a/x", "b/x"], "$setElementOrder/finalizers": ["b/x", "a/x"]}}
    reply = api.patch(pod, patch, STRATEGIC)
    message = "The order in patch list:\n[a/x b/x]\n doesn't match $setElementOrder list:\n[b/x a/x]\n"
    assert (reply.code, reply.json["message"]) == (500, message)


def test_strategic_directives(api: Api, pod: str) -> None:
    taint = {"$patch": "replace", "a": "1"}
    api.patch(pod, {"metadata": {"labels": {"old": "1"}}}, STRATEGIC)
    assert api.patch(pod, {"metadata": {"labels": taint}}, STRATEGIC).json["metadata"]["labels"] == {"a": "1"}
    api.patch(pod + "/status", {"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}}, STRATEGIC)
    patched = api.patch(pod + "/status", {"status": {"conditions": [{"type": "A", "$patch": "delete"}, {"type": "B", "status": "False"}]}}, STRATEGIC).json
    assert [(condition["type"], condition["status"]) for condition in patched["status"]["conditions"]] == [("B", "False")]
    api.patch(pod, {"metadata": {"finalizers": ["a/b", "c/d"]}}, STRATEGIC)
    assert api.patch(pod, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"]}}, STRATEGIC).json["metadata"]["finalizers"] == ["c/d"]
    api.patch(pod, {"metadata": {"finalizers": None}}, STRATEGIC)


def test_strict_validation_of_a_patch(api: Api, path: str) -> None:
    reply = api.patch(f"{path}?fieldValidation=Strict", {"spec": {"bogus": 1}})
    assert (reply.code, 'strict decoding error: unknown field "spec.bogus"' in reply.json["message"]) == (422, True)
    assert api.patch(path, {"spec": {"bogus": 1}}).warnings == ['299 - "unknown field \\"spec.bogus\\""']


def test_apply_creates_and_owns(api: Api) -> None:
    target = f"{api.vms}/s?fieldManager=one"
    created = api.patch(target, vm("s", a="1"), APPLY)
    assert created.code == 201
    again = api.patch(target, vm("s", a="1"), APPLY)
    assert (again.code, again.json["metadata"]["resourceVersion"]) == (200, created.json["metadata"]["resourceVersion"])
    assert [(entry["manager"], entry["operation"]) for entry in again.json["metadata"]["managedFields"]] == [("one", "Apply")]


def test_apply_conflicts(api: Api) -> None:
    api.patch(f"{api.vms}/s?fieldManager=one", vm("s"), APPLY)
    other = vm("s")
    other["spec"]["runStrategy"] = "Always"
    reply = api.patch(f"{api.vms}/s?fieldManager=two", other, APPLY)
    assert (reply.code, reply.json["message"]) == (409, 'Apply failed with 1 conflict: conflict with "one": .spec.runStrategy')
    assert reply.json["details"]["causes"] == [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.runStrategy"}]
    assert api.patch(f"{api.vms}/s?fieldManager=two&force=true", other, APPLY).json["spec"]["runStrategy"] == "Always"


def test_an_empty_map_is_owned_though_it_is_not_kept(api: Api) -> None:
    empty = {**config_map("s", {"k": "v"}), "metadata": {"name": "s", "labels": {}}}
    target = api.core("configmaps") + "/s?fieldManager="
    first = api.patch(target + "one", empty, APPLY)
    assert first.json["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"] == {"f:labels": {}} and "labels" not in first.json["metadata"]
    assert api.patch(target + "one", empty, APPLY).json["metadata"]["resourceVersion"] == first.json["metadata"]["resourceVersion"]
    refused = api.patch(target + "two", empty, APPLY)
    assert (refused.code, refused.json["message"]) == (409, 'Apply failed with 1 conflict: conflict with "one": .metadata.labels')


def test_what_is_no_longer_applied_goes(api: Api) -> None:
    api.patch(f"{api.vms}/s?fieldManager=one", vm("s", a="1", b="2"), APPLY)
    assert api.patch(f"{api.vms}/s?fieldManager=one", vm("s", a="1"), APPLY).json["metadata"]["labels"] == {"a": "1"}


def test_apply_needs_a_manager(api: Api) -> None:
    reply = api.patch(f"{api.vms}/s", vm("s"), APPLY)
    assert (reply.code, "fieldManager: Required value: is required for apply patch" in reply.json["message"]) == (422, True)
    assert api.patch(f"{api.vms}/s?force=true", {}).code == 422  # force is for apply alone


def test_who_wrote_what_is_kept(api: Api) -> None:
    api.post(api.core("configmaps") + "?fieldManager=creator", config_map("c", {"k": "1"}))
    fields = api.patch(api.core("configmaps") + "/c?fieldManager=editor", {"data": {"l": "2"}}).json["metadata"]["managedFields"]
    assert {(entry["manager"], entry["operation"]) for entry in fields} == {("creator", "Update"), ("editor", "Update")}
    assert next(entry for entry in fields if entry["manager"] == "editor")["fieldsV1"] == {"f:data": {"f:l": {}}}


def test_who_wrote_the_status_is_kept_apart(api: Api, path: str) -> None:
    api.patch(f"{path}/status?fieldManager=controller", {"status": {"ready": True}})
    fields = api.get(path).json["metadata"]["managedFields"]
    assert [(entry["manager"], entry["fieldsV1"]["f:status"].get("f:ready")) for entry in fields if entry.get("subresource") == "status"] == [("controller", {})]


LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def test_server_side_apply_by_kubectl_keeps_the_annotation_of_its_client_side_apply_true(api: Api) -> None:
    path = f"{api.core('configmaps')}/c"
    old = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "annotations": {LAST_APPLIED: '{"data":{"k":"1"}}\n'}}, "data": {"k": "1"}}
    assert api.post(f"{api.core('configmaps')}?fieldManager=kubectl-client-side-apply", old).code == 201

    def annotation(manager: str, data: dict[str, str]) -> str | None:
        applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}
        reply = api.patch(f"{path}?force=true&fieldManager={manager}", applied, APPLY)
        assert reply.code == 200, reply.text
        found: dict[str, str] = reply.json["metadata"].get("annotations", {})
        return found.get(LAST_APPLIED)

    assert annotation("other", {"k": "2"}) == '{"data":{"k":"1"}}\n'
    true = '{"apiVersion":"v1","data":{"k":"\\u003c3\\u003e"},"kind":"ConfigMap","metadata":{"name":"c"}}\n'
    assert annotation("kubectl", {"k": "<3>"}) == annotation("kubectl", {"k": "<3>"}) == true
    assert annotation("kubectl", {"k": "x" * 256 * 1024}) is None  # it would not fit
    assert annotation("kubectl", {"k": "4"}) is None  # and is not invented


@pytest.mark.parametrize("content", ["text/plain", "application/json", "application/yaml"])
def test_what_is_no_patch_of_a_built_in_kind(api: Api, content: str) -> None:
    api.post(api.core("configmaps"), config_map("c"))
    reply = api.patch(api.core("configmaps/c"), "{}", content=content)
    assert (reply.code, reply.json["reason"], reply.json["message"]) == (415, "UnsupportedMediaType", "415: Unsupported Media Type")
