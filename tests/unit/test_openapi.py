"""The OpenAPI documents, as kubectl reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from pytest_vmscale.embedded.api.kinds import load_kinds
from pytest_vmscale.embedded.api.openapi import DESCRIPTIONS, documents
from pytest_vmscale.embedded.api.protobuf import _fields
from pytest_vmscale.embedded.api.schema import Node, any_node, custom_schemas, object_meta

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


SWAGGER = json.loads(DOCUMENTS.version_2)


def test_version_2_has_every_kind_and_can_be_followed() -> None:
    assert SWAGGER["swagger"] == "2.0"
    assert references(SWAGGER) <= {f"#/definitions/{name}" for name in SWAGGER["definitions"]}
    found = {tuple(sorted(kind.items())) for each in SWAGGER["definitions"].values() for kind in each.get("x-kubernetes-group-version-kind", ())}
    assert {tuple(sorted({"group": kind.group, "version": kind.version, "kind": kind.kind}.items())) for kind in KINDS.all} <= found


def test_version_2_says_nothing_that_is_new_in_version_3() -> None:
    def keys(schema: Any) -> set[str]:
        children = [*schema.get("properties", {}).values(), schema.get("items", {}), schema.get("additionalProperties", {})]
        return set(schema).union(*(keys(each) for each in children if each))

    assert not {"nullable", "oneOf", "anyOf", "allOf"} & set().union(*map(keys, SWAGGER["definitions"].values()))
    assert not [operation for item in SWAGGER["paths"].values() for operation in item.values() if "requestBody" in operation]


def test_version_2_keeps_what_apply_needs() -> None:
    """kubectl before 1.28 reads patch strategies and the parameters of patches from it."""
    spec = SWAGGER["definitions"]["io.k8s.api.PodSpec"]["properties"]
    assert (spec["containers"]["x-kubernetes-patch-merge-key"], spec["containers"]["x-kubernetes-patch-strategy"]) == ("name", "merge")
    patch = SWAGGER["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert {"fieldValidation", "dryRun"} <= {each["name"] for each in patch["parameters"] if each["in"] == "query" and each["type"] == "string"}
    assert patch["x-kubernetes-group-version-kind"]["kind"] == "Deployment"


def messages(data: bytes) -> dict[int, list[Any]]:
    """A protobuf message's fields by number: bytes, or numbers."""
    found: dict[int, list[Any]] = {}
    for number, value in _fields(data):
        found.setdefault(number, []).append(value)
    return found


def test_version_2_in_protobuf_says_the_same() -> None:
    """Read with gnostic's field numbers (Document.definitions is 9, Schema.properties 25, and so on)."""
    document = messages(DOCUMENTS.version_2_protobuf)
    assert document[1] == [b"2.0"]
    definitions = {pair[1][0].decode(): messages(pair[2][0]) for pair in map(messages, messages(document[9][0])[1])}
    assert definitions.keys() == SWAGGER["definitions"].keys()
    pod = definitions["io.k8s.api.PodSpec"]
    properties = {pair[1][0].decode(): messages(pair[2][0]) for pair in map(messages, messages(pod[25][0])[1])}
    assert properties.keys() == SWAGGER["definitions"]["io.k8s.api.PodSpec"]["properties"].keys()
    assert [name.decode() for name in pod[19]] == SWAGGER["definitions"]["io.k8s.api.PodSpec"]["required"]
    assert messages(properties["containers"][22][0])[1] == [b"array"] and 23 in properties["containers"]
    extensions = {pair[1][0]: json.loads(messages(pair[2][0])[2][0]) for pair in map(messages, properties["containers"][31])}
    assert extensions[b"x-kubernetes-patch-merge-key"] == "name"
    paths = {pair[1][0].decode(): messages(pair[2][0]) for pair in map(messages, messages(document[8][0])[2])}
    assert paths.keys() == SWAGGER["paths"].keys()
    patch = messages(paths["/api/v1/namespaces/{namespace}/pods/{name}"][8][0])
    queries = [messages(messages(messages(messages(each)[1][0])[2][0])[3][0])[4][0] for each in patch[8]
               if 2 in messages(messages(each)[1][0])]
    assert {b"fieldValidation", b"dryRun"} <= set(queries)


# Descriptions.

LOOKED_UP = ["VirtualMachine.kubevirt.io", "VirtualMachineInstance.kubevirt.io", "VirtualMachineInstanceMigration.kubevirt.io", "DataVolume.cdi.kubevirt.io",
             "StorageProfile.cdi.kubevirt.io", "MachineConfigPool.machineconfiguration.openshift.io", "ClusterVersion.config.openshift.io"]


def described(name: str) -> dict[str, Any]:
    kind = next(each for each in KINDS.all if f"{each.kind}.{each.group}" == name)
    document = json.loads(DOCUMENTS[f"openapi/v3/apis/{kind.group}/{kind.version}"])
    found: dict[str, Any] = next(each for each in document["components"]["schemas"].values()
                                 if any(gvk["kind"] == kind.kind for gvk in each.get("x-kubernetes-group-version-kind", ())))
    return found


@pytest.mark.parametrize("name", LOOKED_UP)
def test_the_fields_that_people_look_up_are_described(name: str) -> None:
    schema = described(name)
    parts = {"": schema, **{part: schema["properties"][part] for part in ("spec", "status")}}
    assert all(schema["properties"][part].get("description") for part in ("apiVersion", "kind", "metadata", "spec", "status"))
    missing = [f"{part}.{field}" for part, node in parts.items() for field, child in node["properties"].items() if not child.get("description")]
    assert schema["description"] and not missing


def test_what_is_described_is_there() -> None:
    def words(node: Node, text: Any, path: str) -> list[str]:
        node = node.items if node.items is not None else node
        names = [] if isinstance(text, str) else [name for name in text if name != "$"]
        wrong = [f"{path}.{name}" for name in names if name not in node.fields]
        return wrong + [each for name in names if name in node.fields for each in words(node.fields[name], text[name], f"{path}.{name}")]

    types: dict[str, list[Node]] = {}
    any_node(Node("object", fields={**custom_schemas(), "metadata": object_meta()}), lambda node: bool(types.setdefault(node.name, []).append(node)))
    for name, text in yaml.safe_load(DESCRIPTIONS.read_text()).items():
        if name == "Object":
            assert set(text) == {"apiVersion", "kind", "metadata"}
        else:
            wrong = [words(node, text, name) for node in ([custom_schemas()[name]] if "." in name else types[name])]
            assert [] in wrong, wrong


def test_custom_kinds_types_are_written_out_as_a_definition_does() -> None:
    conditions = described("VirtualMachine.kubevirt.io")["properties"]["status"]["properties"]["conditions"]
    assert conditions["items"]["type"] == "object" and conditions["items"]["properties"]["reason"]["description"]
    metadata = described("VirtualMachine.kubevirt.io")["properties"]["metadata"]
    assert metadata["allOf"] == [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]
