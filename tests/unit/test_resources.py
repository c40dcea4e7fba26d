"""The store and its semantics as controllers use them: without HTTP, a call a transaction."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vmscale.embedded.api.errors import ApiError
from pytest_vmscale.embedded.api.kinds import load_kinds
from pytest_vmscale.embedded.api.resources import Resources
from pytest_vmscale.embedded.api.store import Change, Store
from pytest_vmscale.embedded.clock import SimClock


@pytest.fixture
def resources() -> Resources:
    return Resources(Store(history=5), load_kinds(), SimClock(1.0))


def config_map(name: str, namespace: str = "n", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


def test_what_is_read_is_a_copy(resources: Resources) -> None:
    kind = resources.kind("configmaps")
    resources.create(kind, config_map("a", k="v"))
    resources.get(kind, "n", "a")["data"]["k"] = "changed"
    assert resources.get(kind, "n", "a")["data"] == {"k": "v"}


def test_listeners_hear_each_change_once_and_in_order(resources: Resources) -> None:
    kind, heard = resources.kind("configmaps"), []

    def listen(change: Change) -> None:
        heard.append((change.type, change.key[1], change.revision))

    resources.watch(kind, listen)
    resources.create(kind, config_map("a"))
    resources.modify(kind, "n", "a", lambda obj: obj["data"].update(k="v"))
    resources.modify(kind, "n", "a", lambda obj: None)
    resources.delete(kind, "n", "a")
    assert [(type_, name) for type_, name, _ in heard] == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert [revision for *_, revision in heard] == sorted({revision for *_, revision in heard})


def test_modify_of_what_is_gone(resources: Resources) -> None:
    assert resources.modify(resources.kind("configmaps"), "n", "gone", lambda obj: obj.clear()) is None


def test_a_stale_write_is_refused(resources: Resources) -> None:
    kind = resources.kind("configmaps")
    old = resources.create(kind, config_map("a"))
    resources.modify(kind, "n", "a", lambda obj: obj["data"].update(k="v"))
    with pytest.raises(ApiError) as caught:
        resources.update(kind, old)
    assert caught.value.code == 409


def test_lists_are_in_the_order_of_keys_and_of_one_namespace(resources: Resources) -> None:
    kind = resources.kind("configmaps")
    for namespace, name in (("n", "b"), ("n-1", "a"), ("n", "a"), ("m", "z")):
        resources.create(kind, config_map(name, namespace))
    assert [(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in resources.list(kind)] == [("m", "z"), ("n", "a"), ("n", "b"), ("n-1", "a")]
    assert [obj["metadata"]["name"] for obj in resources.list(kind, "n")] == ["a", "b"]


def test_the_past_is_there_until_it_is_forgotten(resources: Resources) -> None:
    kind, store = resources.kind("configmaps"), resources.store
    resources.create(kind, config_map("a", k="1"))
    before = store.revision
    resources.modify(kind, "n", "a", lambda obj: obj["data"].update(k="2"))
    resources.create(kind, config_map("b"))
    past = store.entries_at(kind, "", before)
    assert past is not None
    assert [entry.obj["data"] for entry in past] == [{"k": "1"}]
    for number in range(10):  # more than the history holds
        resources.modify(kind, "n", "b", lambda obj, number=number: obj["data"].update(k=str(number)))
    assert store.entries_at(kind, "", before) is None
    assert store.since(kind, before) is None


def test_the_generation_is_the_specs(resources: Resources) -> None:
    kind = resources.kind("virtualmachines.kubevirt.io")
    resources.create(kind, {"metadata": {"name": "a", "namespace": "n"}, "spec": {"runStrategy": "Halted"}})
    resources.modify(kind, "n", "a", lambda obj: obj.update(status={"ready": True}), subresource="status")
    resources.modify(kind, "n", "a", lambda obj: obj["metadata"].update(labels={"a": "b"}))
    assert resources.get(kind, "n", "a")["metadata"]["generation"] == 1
    resources.modify(kind, "n", "a", lambda obj: obj["spec"].update(runStrategy="Always"))
    assert resources.get(kind, "n", "a")["metadata"]["generation"] == 2


def test_the_last_finalizer_takes_the_object_with_it(resources: Resources) -> None:
    kind, heard = resources.kind("configmaps"), []
    resources.create(kind, {"metadata": {"name": "a", "namespace": "n", "finalizers": ["k.io/f"]}})
    resources.watch(kind, lambda change: heard.append(change.type))
    assert "deletionTimestamp" in resources.delete(kind, "n", "a")["metadata"]
    resources.modify(kind, "n", "a", lambda obj: obj["metadata"].pop("finalizers"))
    assert resources.find(kind, "n", "a") is None
    assert heard == ["MODIFIED", "DELETED"]


@pytest.mark.parametrize(("spec", "phase", "asked", "grace"), [
    ({"nodeName": "w"}, "Running", None, 30), ({"nodeName": "w", "terminationGracePeriodSeconds": 5}, "Running", None, 5), ({"nodeName": "w"}, "Running", 7, 7),
    ({}, "Pending", None, 0), ({"nodeName": "w"}, "Succeeded", None, 0), ({"nodeName": "w"}, "Running", 0, 0),
])
def test_a_pods_grace(resources: Resources, spec: dict[str, Any], phase: str, asked: int | None, grace: int) -> None:
    kind = resources.kind("pods")
    resources.create(kind, {"metadata": {"name": "p", "namespace": "n"}, "spec": {**spec, "containers": []}, "status": {"phase": phase}})
    assert resources.delete(kind, "n", "p", grace_seconds=asked)["metadata"]["deletionGracePeriodSeconds"] == grace
    assert (resources.find(kind, "n", "p") is None) == (grace == 0)


@pytest.mark.parametrize(("resources_", "expected"), [
    ([{}], "BestEffort"), ([{"requests": {"cpu": "1"}}], "Burstable"), ([{"requests": {"devices.kubevirt.io/kvm": "1"}}], "BestEffort"),
    ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"), ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
])
def test_quality_of_service(resources: Resources, resources_: list[dict[str, Any]], expected: str) -> None:
    body = {"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": str(n), "resources": each} for n, each in enumerate(resources_)]}}
    assert resources.create(resources.kind("pods"), body)["status"]["qosClass"] == expected


def test_every_kind_is_stored_under_its_prefix(resources: Resources) -> None:
    for kind in resources.kinds.all:
        resources.create(kind, {"metadata": {"name": "a", **({"namespace": "n"} if kind.namespaced else {})}})
        assert resources.store.entries(kind)[0].raw.startswith(kind.prefix)
