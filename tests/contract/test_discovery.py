"""What a client asks before anything else."""

from __future__ import annotations

import pytest

from .conftest import Api

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/readyz/ping"])
def test_health(server: Api, path: str) -> None:
    reply = server.get(path)
    assert (reply.code, reply.text) == (200, "ok")


def test_version_has_what_kubectl_reads(server: Api) -> None:
    version = server.get("/version").json
    assert {"major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"} <= set(version)


def test_core_version(server: Api) -> None:
    assert server.get("/api").json["versions"] == ["v1"]


def test_groups_and_their_versions(server: Api) -> None:
    groups = {group["name"]: group for group in server.get("/apis").json["groups"]}
    assert {"apps", "kubevirt.io"} <= set(groups)
    assert server.get("/apis/kubevirt.io").json["preferredVersion"] == groups["kubevirt.io"]["preferredVersion"] == {"groupVersion": "kubevirt.io/v1", "version": "v1"}


def test_resources_of_a_group_version(server: Api) -> None:
    document = server.get("/apis/kubevirt.io/v1").json
    assert document["groupVersion"] == "kubevirt.io/v1"
    resources = {entry["name"]: entry for entry in document["resources"]}
    vm = resources["virtualmachines"]
    assert (vm["kind"], vm["singularName"], vm["namespaced"], vm["shortNames"]) == ("VirtualMachine", "virtualmachine", True, ["vm", "vms"])
    assert set(vm["verbs"]) == {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
    assert set(resources["virtualmachines/status"]["verbs"]) == {"get", "patch", "update"}
    assert "virtualmachineinstances/status" not in resources  # a VMI has no status subresource


def test_aggregated_discovery_says_the_same(server: Api) -> None:
    reply = server.get("/apis", accept=AGGREGATED)
    assert reply.headers["Content-Type"].startswith("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
    for item in reply.json["items"]:
        for version in item["versions"]:
            plain = server.get(f"/apis/{item['metadata']['name']}/{version['version']}").json["resources"]
            assert {resource["resource"] for resource in version["resources"]} == {entry["name"].partition("/")[0] for entry in plain}


@pytest.mark.parametrize("path", ["/apis/nope.io/v1", "/apis/nope.io", "/nope", "/apis/kubevirt.io/v1/namespaces/default/nopes", "/apis/kubevirt.io/v9/virtualmachines"])
def test_what_is_not_served_is_no_status(server: Api, path: str) -> None:
    reply = server.get(path)
    assert (reply.code, reply.text.strip()) == (404, "404 page not found")


@pytest.mark.parametrize("path", ["/api/v2", "/api/v1/nopes", "/apis/apps/v9", "/apis/apps/v1/nopes/a", "/api/v1/pods/p", "/api/v1/namespaces/default/pods/p/nope"])
def test_what_the_built_in_groups_do_not_serve_is_a_status(server: Api, path: str) -> None:
    reply = server.get(path)
    assert (reply.code, reply.json["message"]) == (404, "the server could not find the requested resource")


def test_what_is_built_in_comes_first_and_by_name(api: Api) -> None:
    """kubectl looks a name up in this order, and prints `get all` in it."""
    built_in = ["apps", "authentication.k8s.io", "authorization.k8s.io", "batch", "policy", "rbac.authorization.k8s.io", "storage.k8s.io"]
    for groups in ([each["name"] for each in api.get("/apis").json["groups"]],
                   [each["metadata"]["name"] for each in api.get("/apis", accept=AGGREGATED).json["items"]]):
        assert [name for name in groups if name in built_in] == built_in
        assert groups.index("kubevirt.io") > groups.index("storage.k8s.io")
    for path in ("/api/v1", "/apis/apps/v1", "/apis/batch/v1"):
        names = [each["name"] for each in api.get(path).json["resources"]]
        assert names == sorted(names)
