"""The OpenAPI documents, as kubectl reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_vmscale.embedded.api.kinds import load_kinds
from pytest_vmscale.embedded.api.openapi import documents

KINDS = load_kinds()
DOCUMENTS = documents(KINDS)


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(each) for each in value.values()))
    return set().union(*(references(each) for each in value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path != "openapi/v3"])
def test_every_reference_leads_somewhere(path: str) -> None:
    document = json.loads(DOCUMENTS[path])
    assert references(document) <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert all(document["components"]["schemas"].values())


def test_the_index_names_every_group_and_version() -> None:
    paths = json.loads(DOCUMENTS["openapi/v3"])["paths"]
    assert {"api/v1", "apis/apps/v1", "apis/kubevirt.io/v1", "apis/kubevirt.io/v1alpha3"} <= paths.keys()
    assert all(entry["serverRelativeURL"].startswith(f"/openapi/v3/{path}?hash=") for path, entry in paths.items())


def test_patches_take_field_validation_and_strategic_ones_only_of_built_in_kinds() -> None:
    for kind in KINDS.all:
        root = f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"
        document = json.loads(DOCUMENTS[f"openapi/v3/{root}"])
        patch = next(path["patch"] for name, path in document["paths"].items() if name.endswith(f"/{kind.plural}/{{name}}"))
        assert patch["x-kubernetes-group-version-kind"] == {"group": kind.group, "version": kind.version, "kind": kind.kind}
        assert {"fieldValidation", "dryRun", "fieldManager"} <= {parameter["name"] for parameter in patch["parameters"]}
        assert ("application/strategic-merge-patch+json" in patch["requestBody"]["content"]) == (not kind.custom)


def test_merge_keys_of_strategic_patches() -> None:
    schemas = json.loads(DOCUMENTS["openapi/v3/api/v1"])["components"]["schemas"]
    containers = schemas["io.k8s.api.PodSpec"]["properties"]["containers"]
    assert (containers["x-kubernetes-patch-merge-key"], containers["x-kubernetes-patch-strategy"]) == ("name", "merge")
    assert schemas["io.k8s.api.PodSpec"]["properties"]["volumes"]["x-kubernetes-patch-strategy"] == "merge,retainKeys"
    assert schemas["io.k8s.api.ServiceSpec"]["properties"]["ports"]["x-kubernetes-patch-merge-key"] == "port"


def test_explanations_come_along() -> None:
    pod = json.loads(DOCUMENTS["openapi/v3/api/v1"])["components"]["schemas"]["io.k8s.api.core.v1.Pod"]
    assert pod["description"].startswith("Pod is a collection of containers") and "Attributes:" not in pod["description"]
