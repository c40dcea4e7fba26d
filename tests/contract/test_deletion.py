"""How objects go: finalizers, grace periods, preconditions, namespaces."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Api, config_map, vm

OPTIONS = {"kind": "DeleteOptions", "apiVersion": "v1"}


def pod(name: str, node: str | None = "no-such-node") -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "c", "image": "i"}], **({"nodeName": node} if node else {})}
    return {"metadata": {"name": name, "labels": {"app": "p"}}, "spec": spec}


def test_delete(api: Api) -> None:
    uid = api.post(api.vms, vm("a")).json["metadata"]["uid"]
    reply = api.delete(f"{api.vms}/a")
    assert (reply.code, reply.json["status"]) == (200, "Success")
    assert reply.json["details"] == {"name": "a", "group": "kubevirt.io", "kind": "virtualmachines", "uid": uid}
    assert api.get(f"{api.vms}/a").code == 404
    assert api.delete(f"{api.vms}/a").code == 404


def test_finalizers_hold_an_object(api: Api) -> None:
    path = api.core("configmaps") + "/c"
    body = config_map("c")
    body["metadata"]["finalizers"] = ["k.io/f"]
    api.post(api.core("configmaps"), body)
    marked = api.delete(path)
    assert (marked.code, marked.json["metadata"]["deletionGracePeriodSeconds"], "deletionTimestamp" in marked.json["metadata"]) == (200, 0, True)
    assert api.delete(path).json == marked.json  # again changes nothing
    added = api.patch(path, {"metadata": {"finalizers": ["k.io/f", "k.io/g"]}})
    assert (added.code, "no new finalizers can be added if the object is being deleted" in added.json["message"]) == (422, True)
    assert api.patch(path, {"metadata": {"labels": {"still": "writable"}}}).code == 200
    assert api.patch(path, {"metadata": {"finalizers": None}}).code == 200
    assert api.get(path).code == 404


def test_marking_for_deletion_moves_the_generation(api: Api) -> None:
    body = vm("a")
    body["metadata"]["finalizers"] = ["k.io/f"]
    api.post(api.vms, body)
    assert api.delete(f"{api.vms}/a").json["metadata"]["generation"] == 2
    api.patch(f"{api.vms}/a", {"metadata": {"finalizers": None}})


@pytest.mark.usefixtures("quiet")
def test_preconditions(api: Api) -> None:
    meta = api.post(api.vms, vm("a")).json["metadata"]
    reply = api.delete(f"{api.vms}/a", {**OPTIONS, "preconditions": {"uid": "other"}})
    assert (reply.code, reply.json["reason"]) == (409, "Conflict")
    assert f"the UID in the precondition (other) does not match the UID in record ({meta['uid']})" in reply.json["message"]
    assert api.delete(f"{api.vms}/a", {**OPTIONS, "preconditions": {"resourceVersion": "1"}}).code == 409
    assert api.delete(f"{api.vms}/a", {**OPTIONS, "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}}).code == 200


@pytest.mark.parametrize(("policy", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
def test_propagation_is_left_to_the_garbage_collector(api: Api, policy: str, finalizer: str) -> None:
    api.post(api.vms, vm("a"))
    marked = api.delete(f"{api.vms}/a", {**OPTIONS, "propagationPolicy": policy}).json
    assert marked["metadata"]["finalizers"] == [finalizer]
    api.patch(f"{api.vms}/a", {"metadata": {"finalizers": None}})


@pytest.mark.parametrize("body", [{**OPTIONS, "propagationPolicy": "Sideways"}, {**OPTIONS, "dryRun": ["Some"]}, {**OPTIONS, "orphanDependents": True, "propagationPolicy": "Orphan"}])
def test_options_that_make_no_sense(api: Api, body: dict[str, Any]) -> None:
    api.post(api.vms, vm("a"))
    assert api.delete(f"{api.vms}/a", body).code == 422
    assert api.get(f"{api.vms}/a").code == 200


@pytest.mark.parametrize("wrong", [{"propagationPolicy": ["Orphan"]}, {"dryRun": "All"}, {"gracePeriodSeconds": "5"}, {"orphanDependents": "true"}, {"preconditions": []}])
def test_options_of_another_type(api: Api, wrong: dict[str, Any]) -> None:
    api.post(api.vms, vm("a"))
    reply = api.delete(f"{api.vms}/a", {**OPTIONS, **wrong})
    assert (reply.code, f"DeleteOptions.{next(iter(wrong))} of type" in reply.json["message"]) == (400, True)
    assert api.get(f"{api.vms}/a").code == 200


def test_a_collection(api: Api) -> None:
    for name, label in (("a", "x"), ("b", "y"), ("c", "x")):
        api.post(api.vms, vm(name, t=label))
    reply = api.delete(f"{api.vms}?labelSelector=t%3Dx")
    assert (reply.code, [item["metadata"]["name"] for item in reply.json["items"]]) == (200, ["a", "c"])
    assert [item["metadata"]["name"] for item in api.get(api.vms).json["items"]] == ["b"]


def test_a_pod_is_given_time(api: Api) -> None:
    path = api.core("pods") + "/p"
    api.post(api.core("pods"), pod("p"))
    marked = api.delete(path).json["metadata"]
    assert (marked["deletionGracePeriodSeconds"], marked["generation"]) == (30, 2)
    assert marked["deletionTimestamp"] > marked["creationTimestamp"]
    assert api.delete(path + "?gracePeriodSeconds=50").json["metadata"]["deletionGracePeriodSeconds"] == 30  # never longer
    assert api.delete(path + "?gracePeriodSeconds=5").json["metadata"]["deletionGracePeriodSeconds"] == 5
    last = api.delete(path, {**OPTIONS, "gracePeriodSeconds": 0})
    assert (last.code, last.json["metadata"]["deletionGracePeriodSeconds"]) == (200, 0)
    assert api.get(path).code == 404


def test_a_pod_on_no_node_goes_at_once(embedded: Api) -> None:
    embedded.post(embedded.core("pods"), pod("p", node=None))
    assert embedded.delete(embedded.core("pods") + "/p").code == 200
    assert embedded.get(embedded.core("pods") + "/p").code == 404


def test_a_namespace_ends_by_its_finalizer(embedded: Api) -> None:
    path = "/api/v1/namespaces/ending"
    created = embedded.post("/api/v1/namespaces", {"metadata": {"name": "ending"}}).json
    assert (created["status"]["phase"], created["spec"]["finalizers"], created["metadata"]["labels"]) == ("Active", ["kubernetes"], {"kubernetes.io/metadata.name": "ending"})
    assert embedded.delete(path).json["status"]["phase"] == "Terminating"
    refused = embedded.post("/api/v1/namespaces/ending/configmaps", config_map("c"))
    assert (refused.code, refused.json["reason"]) == (403, "Forbidden")
    assert "unable to create new content in namespace ending because it is being terminated" in refused.json["message"]
    assert refused.json["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    body = embedded.get(path).json
    body["spec"] = {}
    assert embedded.put(path + "/finalize", body).code == 200
    assert embedded.get(path).code == 404


@pytest.mark.parametrize("name", ["default", "kube-system"])
def test_some_namespaces_stay(api: Api, name: str) -> None:
    reply = api.delete(f"/api/v1/namespaces/{name}")
    assert (reply.code, reply.json["message"]) == (403, f'namespaces "{name}" is forbidden: this namespace may not be deleted')
