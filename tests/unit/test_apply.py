"""Server-side apply, and who owns which field."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from pytest_vmscale.embedded.api.apply import apply, paths, track_update, tree
from pytest_vmscale.embedded.api.errors import ApiError
from pytest_vmscale.embedded.api.kinds import load_kinds

KINDS = load_kinds()
VM, POD, CONFIG_MAP, NODE = (KINDS[name] for name in ("virtualmachines", "pods", "configmaps", "nodes"))
T1, T2, T3 = "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z", "2026-01-01T00:00:03Z"


def vm(strategy: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "v", **({"labels": labels} if labels else {})},
            "spec": {"runStrategy": strategy, "template": {"spec": {"domain": {"devices": {}}}}}}


def pod(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": list(containers)}}


def owners(obj: dict[str, Any]) -> dict[str, Any]:
    return {entry["manager"]: entry["fieldsV1"] for entry in obj["metadata"].get("managedFields", [])}


def test_applying_creates_and_owns_what_it_names() -> None:
    obj = apply(VM, None, vm("Halted", a="x"), "m1", False, T1)
    assert owners(obj) == {"m1": {"f:metadata": {"f:labels": {"f:a": {}}},
                                  "f:spec": {"f:runStrategy": {}, "f:template": {"f:spec": {"f:domain": {"f:devices": {}}}}}}}
    assert obj["metadata"]["managedFields"][0]["operation"] == "Apply" and obj["spec"]["runStrategy"] == "Halted"


def test_applying_the_same_again_changes_nothing_at_all() -> None:
    obj = apply(VM, None, vm("Halted"), "m1", False, T1)
    assert apply(VM, obj, vm("Halted"), "m1", False, T2) == obj


def test_a_conflict_names_the_owner_and_the_field_and_force_takes_it() -> None:
    live = apply(VM, None, vm("Halted", a="x"), "m1", False, T1)
    with pytest.raises(ApiError) as caught:
        apply(VM, live, vm("Always", a="x"), "m2", False, T2)
    assert caught.value.code == 409 and caught.value.reason == "Conflict"
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "m1": .spec.runStrategy'
    assert caught.value.details == {"causes": [{"reason": "FieldManagerConflict", "message": 'conflict with "m1"',
                                                "field": ".spec.runStrategy"}]}
    forced = apply(VM, live, vm("Always", a="x"), "m2", True, T2)
    assert forced["spec"]["runStrategy"] == "Always"
    assert "f:runStrategy" not in owners(forced)["m1"]["f:spec"] and "f:runStrategy" in owners(forced)["m2"]["f:spec"]
    with pytest.raises(ApiError, match='conflict with "m2": .spec.runStrategy'):
        apply(VM, forced, vm("Halted", a="x"), "m1", False, T3)


def test_two_may_own_one_field_if_they_agree() -> None:
    live = apply(VM, None, vm("Halted", a="x"), "m1", False, T1)
    both = apply(VM, live, vm("Halted", a="x"), "m2", False, T2)
    without = apply(VM, both, vm("Halted"), "m1", False, T3)
    assert without["metadata"]["labels"] == {"a": "x"}, "m2 still owns it"
    gone = apply(VM, without, vm("Halted"), "m2", False, T3)
    assert not gone["metadata"].get("labels")


def test_a_field_no_longer_applied_goes() -> None:
    live = apply(VM, None, vm("Halted", a="x", b="y"), "m1", False, T1)
    assert apply(VM, live, vm("Halted", b="y"), "m1", False, T2)["metadata"]["labels"] == {"b": "y"}


def test_lists_merge_by_their_keys() -> None:
    live = apply(POD, None, pod({"name": "a", "image": "1"}, {"name": "b", "image": "1"}), "m1", False, T1)
    more = apply(POD, live, pod({"name": "c", "image": "1"}), "m2", False, T2)
    assert [c["name"] for c in more["spec"]["containers"]] == ["a", "b", "c"]
    less = apply(POD, more, pod({"name": "b", "image": "2"}), "m1", False, T3)
    assert less["spec"]["containers"] == [{"name": "b", "image": "2"}, {"name": "c", "image": "1"}]
    with pytest.raises(ApiError, match=r'\.spec\.containers\[name="c"\]\.image'):
        apply(POD, less, pod({"name": "b", "image": "2"}, {"name": "c", "image": "3"}), "m1", False, T3)


def test_a_key_that_is_not_given_has_its_default() -> None:
    container = {"name": "a", "image": "1", "ports": [{"containerPort": 80}]}
    fields = owners(apply(POD, None, pod(container), "m", False, T1))["m"]
    assert list(fields["f:spec"]["f:containers"]['k:{"name":"a"}']["f:ports"]) == ['k:{"containerPort":80,"protocol":"TCP"}']


def test_an_atomic_list_is_one_field() -> None:
    def node(*taints: str) -> dict[str, Any]:
        return {"metadata": {"name": "n"}, "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]}}

    live = apply(NODE, None, node("a", "b"), "m1", False, T1)
    assert owners(live)["m1"] == {"f:spec": {"f:taints": {}}}
    assert apply(NODE, live, node("c"), "m1", False, T2)["spec"]["taints"] == [{"key": "c", "effect": "NoSchedule"}]


def test_finalizers_are_a_set() -> None:
    def with_finalizer(name: str) -> dict[str, Any]:
        return {"metadata": {"name": "c", "finalizers": [name]}}

    live = apply(CONFIG_MAP, None, with_finalizer("k.io/a"), "m1", False, T1)
    both = apply(CONFIG_MAP, live, with_finalizer("k.io/b"), "m2", False, T2)
    assert both["metadata"]["finalizers"] == ["k.io/a", "k.io/b"]
    assert apply(CONFIG_MAP, both, {"metadata": {"name": "c"}}, "m1", False, T3)["metadata"]["finalizers"] == ["k.io/b"]


def test_updates_own_what_they_change() -> None:
    live = apply(VM, None, vm("Halted", a="x"), "m1", False, T1)
    new = copy.deepcopy(live)
    new["spec"]["runStrategy"] = "Always"
    track_update(VM, live, new, "kubectl-edit", "Update", T2)
    assert owners(new)["kubectl-edit"] == {"f:spec": {"f:runStrategy": {}}}
    with pytest.raises(ApiError) as caught:
        apply(VM, new, vm("Halted", a="x"), "m1", False, T3)
    assert caught.value.message == f'Apply failed with 1 conflict: conflict with "kubectl-edit" using kubevirt.io/v1 at {T2}: .spec.runStrategy'


def test_an_update_that_changes_nothing_leaves_the_account_alone() -> None:
    live = vm("Halted")
    track_update(VM, None, live, "m", "Update", T1)
    new = copy.deepcopy(live)
    track_update(VM, live, new, "other", "Update", T2)
    assert new == live


def test_status_belongs_to_its_subresource() -> None:
    live = vm("Halted")
    track_update(VM, None, live, "m", "Update", T1)
    new = {**copy.deepcopy(live), "status": {"ready": True}}
    track_update(VM, live, new, "virt-controller", "Update", T2, "status")
    entry = new["metadata"]["managedFields"][-1]
    assert (entry["manager"], entry["subresource"], entry["fieldsV1"]["f:status"]["f:ready"]) == ("virt-controller", "status", {})
    applied = {**vm("Halted"), "status": {"ready": False}}
    assert apply(VM, new, applied, "m2", False, T3)["status"] == {"ready": True}


def test_what_nobody_accounted_for_has_an_owner_of_its_own() -> None:
    with pytest.raises(ApiError, match='conflict with "before-first-apply" using kubevirt.io/v1'):
        apply(VM, vm("Halted"), vm("Always"), "m", False, T1)


def test_the_account_can_be_cleared() -> None:
    live = apply(VM, None, vm("Halted"), "m1", False, T1)
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"] = [{}]
    track_update(VM, live, new, "m", "Update", T2)
    assert "managedFields" not in new["metadata"]


def test_several_conflicts_are_listed_by_owner() -> None:
    live = apply(CONFIG_MAP, None, {"metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}}, "m1", False, T1)
    with pytest.raises(ApiError) as caught:
        apply(CONFIG_MAP, live, {"metadata": {"name": "c"}, "data": {"a": "2", "b": "2"}}, "m2", False, T2)
    assert caught.value.message == 'Apply failed with 2 conflicts: conflicts with "m1":\n- .data.a\n- .data.b'


def test_sets_and_their_trees_are_two_ways_to_write_one_thing() -> None:
    fields = {"f:spec": {"f:containers": {'k:{"name":"a"}': {".": {}, "f:image": {}, "f:name": {}}}}, "f:data": {".": {}, "f:x": {}}}
    assert tree(paths(fields)) == fields


def annotated(configuration: dict[str, Any]) -> dict[str, Any]:
    """As kubectl's client-side apply writes an object."""
    whole = copy.deepcopy(configuration)
    whole["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(configuration)}
    return whole


def test_server_side_apply_takes_over_from_kubectls_client_side_apply() -> None:
    """Not what somebody changed since, and not for other managers than kubectl."""
    live = annotated(vm("Halted", a="x"))
    track_update(VM, None, live, "kubectl-client-side-apply", "Update", T1)
    taken = apply(VM, live, vm("Always", a="x"), "kubectl", False, T2)
    assert taken["spec"]["runStrategy"] == "Always" and "f:runStrategy" in owners(taken)["kubectl"]["f:spec"]
    with pytest.raises(ApiError, match='conflict with "kubectl-client-side-apply" using kubevirt.io/v1'):
        apply(VM, live, vm("Always", a="x"), "other", False, T2)
    changed = copy.deepcopy(live)
    changed["spec"]["runStrategy"] = "Manual"
    track_update(VM, live, changed, "somebody", "Update", T2)
    with pytest.raises(ApiError, match='conflict with "somebody" using kubevirt.io/v1'):
        apply(VM, changed, vm("Always", a="x"), "kubectl", False, T3)


def test_the_account_can_be_rewritten() -> None:
    live = vm("Halted", a="x")
    track_update(VM, None, live, "kubectl-client-side-apply", "Update", T1)
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"][0] |= {"manager": "kubectl", "operation": "Apply"}
    track_update(VM, live, new, "kubectl", "Update", T2)
    assert [(entry["manager"], entry["operation"]) for entry in new["metadata"]["managedFields"]] == [("kubectl", "Apply")]


@pytest.mark.parametrize("given", [[{"manager": "x", "fieldsV1": {"f:spec": 1}}], [{"manager": "x", "fieldsV1": "no"}], ["no"]])
def test_an_account_that_cannot_be_read_changes_nothing(given: list[Any]) -> None:
    live = vm("Halted", a="x")
    track_update(VM, None, live, "m1", "Update", T1)
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"] = given
    track_update(VM, live, new, "m2", "Update", T2)
    assert new["metadata"]["managedFields"] == live["metadata"]["managedFields"]
