"""Pruning, defaults and validation, and the schemas behind them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.embedded.api.errors import ApiError, Cause
from pytest_vmscale.embedded.api.kinds import load_kinds
from pytest_vmscale.embedded.api.quantities import canonical_quantity
from pytest_vmscale.embedded.api.schema import MISSING, Node, Notation, schema_of
from pytest_vmscale.embedded.api.validation import Schemas

KINDS, SCHEMAS = load_kinds(), Schemas()
REAL = Path(__file__).parents[3] / "shared"
VM: dict[str, Any] = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "v"},
                      "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}}
POD: dict[str, Any] = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}
# What Infrastructure says of single platforms is kept as it comes.
KEPT_OPEN = ("Infrastructure.spec.platformSpec", "Infrastructure.status.platformStatus")


def changed(obj: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(obj)
    *parents, last = path.split(".")
    place = copied
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    return copied


def causes(resource: str, obj: dict[str, Any], old: dict[str, Any] | None = None) -> list[Cause]:
    kind, obj = KINDS[resource], copy.deepcopy(obj)
    SCHEMAS.prune(kind, obj)
    SCHEMAS.default(kind, obj)
    return SCHEMAS.validate(kind, obj, old)


def defaulted(resource: str, obj: dict[str, Any]) -> dict[str, Any]:
    copied = copy.deepcopy(obj)
    SCHEMAS.prune(KINDS[resource], copied)
    SCHEMAS.default(KINDS[resource], copied)
    return copied


def test_every_kind_served_has_a_schema() -> None:
    for kind in KINDS.all:
        assert schema_of(kind).fields["metadata"].fields["name"].type == "string"


def test_unknown_fields_are_dropped_and_named() -> None:
    obj = changed(VM, "spec.template.spec.domain.devices.disks", [{"name": "a", "dsik": {}}])
    obj["spec"]["bogus"], obj["other"], obj["metadata"]["nmae"] = 1, 2, 3
    assert SCHEMAS.prune(KINDS["virtualmachines"], obj) == ["metadata.nmae", "other", "spec.bogus",
                                                            "spec.template.spec.domain.devices.disks[0].dsik"]
    assert obj == changed(VM, "spec.template.spec.domain.devices.disks", [{"name": "a"}])


def test_what_a_schema_leaves_open_is_kept() -> None:
    obj = changed(VM, "spec.template.metadata", {"labels": {"a": "b"}, "annotations": {"c": "d"}, "creationTimestamp": None})
    before = copy.deepcopy(obj)
    assert SCHEMAS.prune(KINDS["virtualmachines"], obj) == []
    assert SCHEMAS.validate(KINDS["virtualmachines"], obj) == []
    assert obj == before


def test_wrong_types_and_missing_fields_read_as_on_a_real_server() -> None:
    assert causes("virtualmachines", {**VM, "spec": {"runStrategy": 5}}) == [
        Cause("spec.runStrategy", 'Invalid value: "integer": spec.runStrategy in body must be of type string: "integer"',
              "FieldValueTypeInvalid"),
        Cause("spec.template", "Required value", "FieldValueRequired")]
    assert causes("virtualmachines", {"metadata": {"name": "v"}}) == [Cause("spec", "Required value", "FieldValueRequired")]


def test_constraints_of_custom_kinds() -> None:
    profile = {"metadata": {"name": "s"}, "spec": {"claimPropertySets": [{"accessModes": ["ReadWriteMany"], "volumeMode": "Blok"}] * 9}}
    assert [cause.reason for cause in causes("storageprofiles", profile)] == ["FieldValueNotSupported"] * 9 + ["FieldValueTooMany"]
    assert causes("storageprofiles", profile)[0].message == 'Unsupported value: "Blok": supported values: "Block", "Filesystem"'
    memory = causes("virtualmachines", changed(VM, "spec.template.spec.domain.memory", {"guest": "4 gigs"}))
    assert memory[0].field == "spec.template.spec.domain.memory.guest" and "should match" in memory[0].message
    log = causes("kubeletconfigs", {"metadata": {"name": "k"}, "spec": {"logLevel": 11}})
    assert log == [Cause("spec.logLevel", "Invalid value: 11: spec.logLevel in body should be less than or equal to 10")]


def test_null_is_no_value_unless_the_field_takes_it() -> None:
    assert causes("virtualmachines", changed(VM, "spec.running", None))[0].reason == "FieldValueTypeInvalid"
    assert causes("virtualmachines", changed(VM, "status.startFailure", None)) == []


def test_a_map_list_refuses_two_items_of_one_key() -> None:
    obj = changed(VM, "spec.template.spec.resourceClaims", [{"name": "a"}, {"name": "a"}])
    assert causes("virtualmachines", obj) == [Cause("spec.template.spec.resourceClaims[1]", 'Duplicate value: {"name":"a"}',
                                                    "FieldValueDuplicate")]


def test_defaults_of_custom_kinds_reach_into_lists_and_leave_absent_parents_absent() -> None:
    volumes = [{"name": "a", "cloudInitNoCloud": {"secretRef": {}}}, {"name": "b", "containerPath": {"path": "/x"}}]
    spec = defaulted("virtualmachines", changed(VM, "spec.template.spec.volumes", volumes))["spec"]["template"]["spec"]
    assert spec["volumes"][0]["cloudInitNoCloud"]["secretRef"] == {"name": ""}
    assert spec["volumes"][1]["containerPath"]["readOnly"] is True
    assert "status" not in defaulted("virtualmachines", VM)


def test_pods_get_the_real_servers_defaults() -> None:
    spec = defaulted("pods", POD)["spec"]
    assert {key: spec[key] for key in spec if key not in ("tolerations", "serviceAccount", "serviceAccountName")} == {
        "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        "resources": {},
                        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": True, "preemptionPolicy": "PreemptLowerPriority", "priority": 0,
        "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30}
    assert defaulted("pods", defaulted("pods", POD)) == defaulted("pods", POD)


@pytest.mark.parametrize(("image", "policy"), [("r:5000/i", "Always"), ("r:5000/i:v1", "IfNotPresent"), ("i:latest", "Always"),
                                               ("i@sha256:aa", "IfNotPresent")])
def test_the_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": image}]}}
    assert defaulted("pods", pod)["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_limits_become_requests() -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": 1}}}]}}
    assert defaulted("pods", pod)["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}


def test_a_service_gets_an_address_and_keeps_it() -> None:
    def service(name: str) -> dict[str, Any]:
        return defaulted("services", {"metadata": {"name": name, "namespace": "n"}, "spec": {"ports": [{"port": 80}]}})["spec"]

    assert service("a")["clusterIP"].startswith("172.30.") and service("a")["clusterIPs"] == [service("a")["clusterIP"]]
    assert service("a") == service("a") and service("a")["clusterIP"] != service("b")["clusterIP"]


def test_ports_of_the_nodes_are_given_to_services_that_want_them() -> None:
    def ports(type_: str, *ports: dict[str, Any]) -> list[Any]:
        given = {"metadata": {"name": "s", "namespace": "n"}, "spec": {"type": type_, "ports": list(ports)}}
        return [each.get("nodePort") for each in defaulted("services", given)["spec"]["ports"]]

    assert ports("ClusterIP", {"port": 80}) == [None]
    first, second, own = ports("NodePort", {"name": "a", "port": 80}, {"name": "b", "port": 81}, {"name": "c", "port": 82, "nodePort": 30123})
    assert 30000 <= first < 32768 and 30000 <= second < 32768 and first != second and own == 30123
    assert ports("LoadBalancer", {"name": "a", "port": 80}) == [first]


@pytest.mark.parametrize(("given", "port"), [({}, 22), ({"targetPort": ""}, 22), ({"targetPort": 0}, 22), ({"targetPort": "ssh"}, "ssh"), ({"targetPort": 2222}, 2222)])
def test_a_services_port_leads_to_the_same_port_unless_it_says_another(given: dict[str, Any], port: Any) -> None:
    spec = defaulted("services", {"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": [{"port": 22, **given}]}})["spec"]
    assert spec["ports"][0]["targetPort"] == port


def test_built_in_kinds_lose_nulls_and_empty_maps() -> None:
    obj = {"metadata": {"name": "c", "labels": {}, "creationTimestamp": None, "finalizers": None}, "data": {"a": "b"}}
    assert SCHEMAS.prune(KINDS["configmaps"], obj) == []
    assert obj == {"metadata": {"name": "c"}, "data": {"a": "b"}}


def test_a_wrong_type_in_a_built_in_kind_is_a_decoding_error() -> None:
    with pytest.raises(ApiError, match="json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string") as caught:
        causes("pods", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": 5}]}})
    assert caught.value.code == 400


def test_hand_written_checks() -> None:
    assert causes("pods", {"metadata": {"name": "p"}, "spec": {"containers": []}}) == [Cause("spec.containers", "Required value",
                                                                                             "FieldValueRequired")]
    assert causes("configmaps", {"metadata": {"name": "c"}, "data": {"bad/key": "v"}})[0].field == "data[bad/key]"
    mounts = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "x",
                                                                                                               "mountPath": "/x"}]}]}}
    assert causes("pods", mounts) == [Cause("spec.containers[0].volumeMounts[0].name", 'Not found: "x"', "FieldValueNotFound")]
    deployment = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": POD}}
    assert "`selector` does not match template `labels`" in causes("deployments", deployment)[0].message
    budget = {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "maxUnavailable": 1}}
    assert "cannot be both set" in causes("poddisruptionbudgets", budget)[0].message
    claim = {"metadata": {"name": "c"}, "spec": {}}
    assert [cause.field for cause in causes("persistentvolumeclaims", claim)] == ["spec.accessModes", "spec.resources[storage]"]


def test_a_pods_node_is_immutable_and_its_image_is_not() -> None:
    old = defaulted("pods", POD)
    assert causes("pods", changed(old, "spec.nodeName", "other"), old)[0].field == "spec"
    new = copy.deepcopy(old)
    new["spec"]["containers"][0]["image"] = "i2"
    assert causes("pods", new, old) == []


@pytest.mark.parametrize(("text", "canonical"), [
    ("1", "1"), ("0.5", "500m"), ("1500m", "1500m"), ("2000m", "2"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1000", "1k"), ("1000k",
                                                                                                                              "1M"), ("0",
                                                                                                                                      "0"),
    ("512", "512"), ("0.5Ki", "512"), ("1e3", "1e3")])
def test_quantities_are_written_canonically(text: str, canonical: str) -> None:
    assert canonical_quantity(text) == canonical


def test_the_notation_names_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="unknown type in a schema: 'strnig'"):
        Notation({"X.y": {"a": "strnig"}})
    with pytest.raises(ValueError, match="unknown constraints"):
        Notation({"X.y": {"a": {"$": "string", "maximun": 1}}})


# Against the real definitions, where they are beside the checkout.

def differences(ours: Node, real: dict[str, Any], path: str) -> list[str]:
    """Where our schema and the real one differ."""
    if ours.type == "any" or path in KEPT_OPEN:
        return [] if real.get("x-kubernetes-preserve-unknown-fields") or path in KEPT_OPEN else [f"{path}: open here, closed there"]
    type_ = "intOrString" if real.get("x-kubernetes-int-or-string") else real.get("type")
    if ours.type != type_:
        return [f"{path}: {ours.type} here, {type_} there"]
    found = [f"{path}: {word}: {mine!r} here, {theirs!r} there" for word, mine, theirs in [
        ("nullable", ours.nullable, bool(real.get("nullable"))), ("enum", ours.enum, real.get("enum")),
        ("default", None if ours.default is MISSING else ours.default, real.get("default")),
        ("list type", ours.list_type, real.get("x-kubernetes-list-type", "atomic")),
        ("list keys", list(ours.keys), real.get("x-kubernetes-list-map-keys", [])),
        ("minimum", ours.minimum, real.get("minimum")), ("maximum", ours.maximum, real.get("maximum")),
        ("maxItems", ours.maxItems, real.get("maxItems")), ("pattern", ours.pattern_text, real.get("pattern", "")),
        ("atomic", ours.atomic, real.get("x-kubernetes-map-type") == "atomic")] if mine != theirs]
    if type_ == "object" and not isinstance(real.get("additionalProperties"), dict):
        theirs = real.get("properties", {})
        found += [f"{path}.{name}: missing here" for name in theirs.keys() - ours.fields.keys()]
        found += [f"{path}.{name}: invented" for name in ours.fields.keys() - theirs.keys()]
        if sorted(ours.required) != sorted(real.get("required", [])):
            found.append(f"{path}: required: {sorted(ours.required)} here, {sorted(real.get('required', []))} there")
        for name in ours.fields.keys() & theirs.keys():
            found += differences(ours.fields[name], theirs[name], f"{path}.{name}")
    elif type_ == "object":
        assert ours.values is not None, path
        found += differences(ours.values, real["additionalProperties"], path + ".*")
    elif type_ == "array":
        assert ours.items is not None, path
        found += differences(ours.items, real["items"], path + "[]")
    return found


def real_definitions() -> list[Any]:
    found = []
    for path in sorted((REAL / "crds").glob("*.json")) if REAL.is_dir() else []:
        spec = json.loads(path.read_text())["spec"]
        kind = KINDS.by_kind(spec["group"] + "/", spec["names"]["kind"])
        if kind is not None:
            version = next(v for v in spec["versions"] if v["name"] == kind.version)
            found.append(pytest.param(kind, version["schema"]["openAPIV3Schema"], id=kind.kind))
    return found or [pytest.param(None, None, marks=pytest.mark.skip("no real CRDs beside the checkout"))]


@pytest.mark.parametrize(("kind", "real"), real_definitions())
def test_schemas_are_those_of_the_real_definitions(kind: Any, real: dict[str, Any]) -> None:
    ours, mine = schema_of(kind), real["properties"]
    names = mine.keys() - {"apiVersion", "kind", "metadata"}
    assert ours.fields.keys() - {"apiVersion", "kind", "metadata"} == names
    assert sorted(ours.required) == sorted(set(real.get("required", [])) - {"apiVersion", "kind", "metadata"})
    assert [text for name in sorted(names) for text in differences(ours.fields[name], mine[name], f"{kind.kind}.{name}")] == []


def test_objects_that_a_real_cluster_wrote_pass_unpruned() -> None:
    folder = REAL / "oracle" / "lifecycle"
    if not folder.is_dir():
        pytest.skip("no recorded objects beside the checkout")
    seen = 0
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            obj = event.get("object", event)
            kind = KINDS.by_kind(obj["apiVersion"], obj["kind"]) if "apiVersion" in obj else None
            if kind is not None:
                assert SCHEMAS.prune(kind, obj) == [], path
                if kind.custom:
                    assert SCHEMAS.validate(kind, obj) == [], path
                seen += 1
    assert seen > 50


def test_a_null_in_a_list_or_a_map_is_the_types_zero_value() -> None:
    """As Go reads it. A null container once reached the defaulting, and was an internal error."""
    pods = KINDS["pods"]
    pod: dict[str, Any] = {"metadata": {"name": "p", "labels": {"a": None}}, "spec": {"containers": [None, {"name": "c", "image": "i", "args": [None], "ports": [None]}]}}
    SCHEMAS.prune(pods, pod)
    SCHEMAS.default(pods, pod)
    assert pod["metadata"]["labels"] == {"a": ""}
    assert pod["spec"]["containers"][1]["args"] == [""]
    fields = [cause.field for cause in SCHEMAS.validate(pods, pod)]
    assert "spec.containers[0].name" in fields and "spec.containers[1].ports[0].containerPort" in fields
