"""Requests in protobuf. The encoder here is written from the wire format alone, so that it can disagree with the decoder."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from pytest_vmscale.embedded.api.errors import ApiError
from pytest_vmscale.embedded.api.kinds import load_kinds
from pytest_vmscale.embedded.api.protobuf import _table, decode
from pytest_vmscale.embedded.api.schema import Node, schema_of


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def message(*fields: tuple[int, Any]) -> bytes:
    """Numbers as varints, text and bytes with their length."""
    found = b""
    for number, value in fields:
        if isinstance(value, int):
            found += varint(number << 3) + varint(int(value))
        else:
            data = value.encode() if isinstance(value, str) else value
            found += varint(number << 3 | 2) + varint(len(data)) + data
    return found


def body(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\0" + message((1, message((1, api_version), (2, kind))), (2, raw), (3, ""), (4, ""))


def meta(name: str, *more: tuple[int, Any]) -> bytes:
    """As Go writes it: what is no pointer is there even when it is empty."""
    return message((1, name), (2, ""), (3, ""), (4, ""), (5, ""), (6, ""), (7, 0), (8, b""), *more)


def test_a_config_map() -> None:
    raw = message((1, meta("c", (11, message((1, "l"), (2, "v"))))), (2, message((1, "k"), (2, ""))), (3, message((1, "b"), (2,
                                                                                                                             b"\xff\0"))))
    assert decode(body("v1", "ConfigMap", raw)) == {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"l": "v"}}, "data": {"k": ""},
        "binaryData": {"b": base64.b64encode(b"\xff\0").decode()}}


def test_pointers_keep_their_zeros_and_others_stand_for_nothing() -> None:
    deployment = message((1, meta("d")), (2, message((1, 0), (5, 0), (7, False))), (3, b""))
    assert decode(body("apps/v1", "Deployment", deployment))["spec"] == {"replicas": 0}


def test_inlined_messages_and_special_types() -> None:
    volume = message((1, "v"), (2, message((2, message((1, ""), (2, message((1, "1Gi"))))))))
    port = message((1, ""), (2, message((1, 1), (2, 0), (3, "ssh"))))
    probe = message((1, message((2, port))), (2, -5))
    container = message((1, "c"), (2, "i"), (8, message((1, message((1, "cpu"), (2, message((1, "500m"))))))), (10, probe))
    pod = message((1, meta("p", (9, message((1, 1735689600), (2, 0))))), (2, message((1, volume), (2, container), (4, 0))))
    decoded = decode(body("v1", "Pod", pod))
    assert decoded["metadata"]["deletionTimestamp"] == "2025-01-01T00:00:00Z"
    assert decoded["spec"] == {
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}], "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "500m"}},
                        "livenessProbe": {"httpGet": {"port": "ssh"}, "initialDelaySeconds": -5}}]}


def test_a_lease_has_microseconds() -> None:
    lease = message((1, meta("l")), (2, message((1, "me"), (2, 15), (4, message((1, 1735689600), (2, 5_000))))))
    assert decode(body("coordination.k8s.io/v1", "Lease", lease))["spec"] == {
        "holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2025-01-01T00:00:00.000005Z"}


def test_an_access_review_and_an_eviction() -> None:
    review = message((1, meta("")), (2, message((1, message((1, "ns"), (2, "list"), (5, "pods"))))))
    assert decode(body("authorization.k8s.io/v1", "SelfSubjectAccessReview", review))["spec"] == {
        "resourceAttributes": {"namespace": "ns", "verb": "list", "resource": "pods"}}
    eviction = message((1, meta("p")), (2, message((1, 0), (4, "Background"))))
    assert decode(body("policy/v1", "Eviction", eviction)) == {
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0,
                                                                                                    "propagationPolicy": "Background"}}


def test_delete_options_are_of_any_group() -> None:
    raw = message((4, "Foreground"), (5, "All"))
    for version in ("v1", "apps/v1", "meta.k8s.io/v1"):
        assert decode(body(version, "DeleteOptions", raw)) == {
            "apiVersion": version, "kind": "DeleteOptions", "propagationPolicy": "Foreground", "dryRun": ["All"]}


@pytest.mark.parametrize(("data", "text"), [
    (b"{}", "does not appear to be a protobuf message"), (body("v1", "Nope", b""), 'no kind "Nope" is registered for version "v1"'),
    (body("v1", "ConfigMap", message((99, "x"))), "unknown field 99 of message ConfigMap"), (body("v1", "Pod", b"\x0a\xff"),
                                                                                             "no valid protobuf"),
    (b"k8s\0" + b"\xff" * 20, "no valid protobuf"), (body("v1", "Pod", b"\x0f"), "wire type 7")])
def test_what_is_no_message_is_a_clear_400(data: bytes, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        decode(data)
    assert caught.value.code == 400


def test_the_table_names_the_fields_of_the_schemas() -> None:
    """A wrong name or a forgotten field would show here, as the two come from different places."""
    kinds, messages = _table()
    served = load_kinds()
    checked = set()

    def names(name: str) -> set[str]:
        return set().union(*(names(f.type) if f.inline else {f.name} for f in messages[name].values()))

    def compare(name: str, node: Node) -> None:
        if name in checked or node.type != "object" or node.values is not None:
            return
        checked.add(name)
        ours = names(name)
        assert ours <= node.fields.keys(), (name, ours - node.fields.keys())
        for each in messages[name].values():
            if each.inline:
                for inner in messages[each.type].values():
                    follow(inner.type, node.fields[inner.name])
            else:
                follow(each.type, node.fields[each.name])

    def follow(type_: str, node: Node) -> None:
        if type_ in messages:
            compare(type_, node.items or node.values or node)

    for (group, kind_name), message_name in kinds.items():
        kind = served.by_kind(f"{group}/v1" if group else "v1", kind_name)
        if kind is not None:
            compare(message_name, schema_of(kind))
    assert len(checked) > 200
