"""Zones, triggers, HyperConverged's patch, and what becomes of nodes: without a cluster."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.manifests.machineconfig import pool, trigger
from pytest_vmscale.procedures.hyperconverged import patched, virt_api_replicas
from pytest_vmscale.procedures.nodes import Node, NodeRecord, Pool, _advanced
from pytest_vmscale.procedures.zones import Zone, Zones, check, deal
from pytest_vmscale.settings import SettingsError, parse_max_unavailable

ROLE = "node-role.kubernetes.io/"
NOTE = "machineconfiguration.openshift.io/"


@pytest.mark.parametrize(("workers", "count"), [(100, 3), (7, 3), (3, 3), (10, 2)])
def test_every_worker_is_in_one_zone_and_sizes_differ_by_one_at_most(workers, count):
    names = [f"worker-{index:03d}" for index in range(workers)]
    shares = deal(names, count)
    assert sorted(name for share in shares for name in share) == names
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_zones_need_a_worker_each():
    with pytest.raises(ClusterError, match="3 zones cannot be made of 2 workers"):
        deal(["a", "b"], 3)


def test_a_zones_pool_takes_the_workers_machine_configs_and_its_own():
    spec = pool("zone-0", 10)["spec"]
    assert spec["machineConfigSelector"]["matchExpressions"] == [
        {"key": "machineconfiguration.openshift.io/role", "operator": "In", "values": ["worker", "zone-0"]}]
    assert spec["nodeSelector"] == {"matchLabels": {"node-role.kubernetes.io/zone-0": ""}} and spec["maxUnavailable"] == 10


def test_two_triggers_differ_in_name_path_and_content():
    def told(name):
        manifest = trigger(name, "zone-0")
        (file,) = manifest["spec"]["config"]["storage"]["files"]
        return manifest["metadata"]["name"], file["path"], base64.b64decode(file["contents"]["source"].partition(",")[2])

    one, other = told("99-vmscale-r1-0"), told("99-vmscale-r1-1")
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert one == ("99-vmscale-r1-0", "/etc/vmscale/99-vmscale-r1-0", b"99-vmscale-r1-0\n")


def node(name="n", labels=(), unschedulable=False, ready=True, boot="a", **notes):
    return msgspec.convert({
        "metadata": {"name": name, "labels": dict.fromkeys(labels, ""), "annotations": {NOTE + key: value for key, value in notes.items()}},
        "spec": {"unschedulable": unschedulable},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}], "nodeInfo": {"bootID": boot}}}, Node)


def test_nodes_are_held_against_their_zones():
    zones = Zones((Zone("zone-0", ("a",), f"{ROLE}zone-0", True), Zone("zone-1", ("b",), f"{ROLE}zone-1", True)))
    worker = f"{ROLE}worker"
    good = {"a": node("a", (worker, f"{ROLE}zone-0")), "b": node("b", (worker, f"{ROLE}zone-1")), "m": node("m", (f"{ROLE}master",))}
    check(zones, good)
    with pytest.raises(ClusterError, match="node b is in zone-0 and zone-1, and should be in zone-1"):
        check(zones, {**good, "b": node("b", (worker, f"{ROLE}zone-0", f"{ROLE}zone-1"))})
    with pytest.raises(ClusterError, match="node a is in no zone, and should be in zone-0"):
        check(zones, {**good, "a": node("a", (worker,))})
    with pytest.raises(ClusterError, match="node a has lost its role worker"):
        check(zones, {**good, "a": node("a", (f"{ROLE}zone-0",))})
    with pytest.raises(ClusterError, match="differ in size by more than one: 3, 1"):
        check(Zones((Zone("zone-0", ("a", "c", "d"), "l", True), Zone("zone-1", ("b",), "m", True))), {})


def followed(*states):
    record = NodeRecord(name="n", boot_id_before="a", boot_id="a", state="Done")
    for at, state in states:
        record = _advanced(record, state, at)
    return record


DRAINED = {"state": "Working", "desiredDrain": "drain-x", "lastAppliedDrain": "drain-x", "currentConfig": "w", "desiredConfig": "x"}
DRAINING = {**DRAINED, "lastAppliedDrain": "uncordon-w"}
BACK = {**DRAINED, "desiredDrain": "uncordon-x", "lastAppliedDrain": "uncordon-x"}
DONE = {**BACK, "state": "Done", "currentConfig": "x"}


def test_each_step_of_a_node_has_its_first_time():
    record = followed((1, node(**DRAINING)), (2, node(unschedulable=True, **DRAINING)), (9, node(unschedulable=True, **DRAINED)),
                      (20, node(unschedulable=True, ready=False, **DRAINED)), (30, node(unschedulable=True, ready=False, boot="b", **DRAINED)),
                      (31, node(unschedulable=True, boot="b", **DRAINED)), (40, node(boot="b", **BACK)), (41, node(boot="b", **DONE)),
                      (99, node(boot="b", **DONE)))
    assert (record.cordoned_seconds, record.drained_seconds, record.down_seconds, record.rebooted_seconds, record.ready_seconds,
            record.uncordoned_seconds, record.done_seconds) == (2, 9, 20, 30, 31, 40, 41)
    assert record.rebooted and record.trouble == ""


def test_releases_that_do_not_tell_of_the_drain_have_it_end_when_the_node_goes_down():
    old = {"state": "Working", "currentConfig": "w", "desiredConfig": "x"}
    record = followed((2, node(unschedulable=True, **old)), (20, node(unschedulable=True, ready=False, **old)))
    assert (record.drained_seconds, record.down_seconds) == (20, 20)


def test_a_node_that_moved_to_another_pool_without_a_reboot_took_no_step():
    record = followed((1, node(**{**DONE, "desiredConfig": "y", "state": "Working"})), (5, node(**{**DONE, "currentConfig": "y", "desiredConfig": "y"})))
    assert not record.rebooted and record.cordoned_seconds is None and record.done_seconds is None


@pytest.mark.parametrize(("states", "trouble"), [
    ([(2, node(unschedulable=True, **DRAINING))], "node n is not drained since 2 s"),
    ([(2, node(unschedulable=True, **DRAINED)), (20, node(unschedulable=True, ready=False, **DRAINED))], "node n is not Ready since 20 s"),
    ([(2, node(**{**DRAINING, "state": "Degraded"}, reason="a file was changed"))], "node n is Degraded: a file was changed"),
])
def test_a_node_that_is_stuck_says_where(states, trouble):
    assert followed(*states).trouble == trouble


def a_pool(paused=False, updated="True", counts=(2, 2, 2), degraded=0, spec="x", status="x", **conditions):
    found = {"Updated": (updated, ""), **conditions}
    return msgspec.convert({
        "metadata": {"name": "worker"}, "spec": {"configuration": {"name": spec}, "paused": paused},
        "status": {"configuration": {"name": status}, "machineCount": counts[0], "updatedMachineCount": counts[1], "readyMachineCount": counts[2],
                   "degradedMachineCount": degraded,
                   "conditions": [{"type": key, "status": value, "message": text} for key, (value, text) in found.items()]}}, Pool)


def test_a_pool_is_updated_only_if_all_of_it_says_so():
    assert a_pool().updated and a_pool().trouble == ""
    for stale in (a_pool(updated="False"), a_pool(counts=(2, 1, 2)), a_pool(counts=(2, 2, 1)), a_pool(degraded=1), a_pool(spec="y")):
        assert not stale.updated
    assert a_pool(spec="y").trouble == "pool worker is being updated"
    assert a_pool(paused=True).trouble == "pool worker is paused"
    assert a_pool(RenderDegraded=("True", "bad ignition")).trouble == "pool worker is RenderDegraded: bad ignition"


@pytest.mark.parametrize(("machines", "replicas"), [(1, 2), (1500, 2), (1501, 3), (3000, 4)])
def test_virt_api_goes_by_the_references_rule(machines, replicas):
    assert virt_api_replicas(machines) == replicas


def test_hyperconvergeds_patch_keeps_what_others_patch():
    def patches(text):
        return [(each["resourceName"], each["patch"]) for each in json.loads(text)[0]["value"]]

    first = patched(None, 3)
    assert patches(first) == [("virt-api", '[{"op": "replace", "path": "/spec/replicas", "value": 3}]')]
    assert [value for _, value in patches(patched(first, 4))] == ['[{"op": "replace", "path": "/spec/replicas", "value": 4}]']
    other = {"resourceType": "DaemonSet", "resourceName": "virt-handler", "type": "merge", "patch": "{}"}
    old = json.dumps([{"op": "add", "path": "/spec/configuration/x", "value": 1}, {"op": "add", "path": "/spec/customizeComponents/patches", "value": [other]}])
    operations = json.loads(patched(old, 4))
    assert operations[0]["path"] == "/spec/configuration/x"
    assert [each["resourceName"] for each in operations[1]["value"]] == ["virt-handler", "virt-api"]
    with pytest.raises(ClusterError, match="cannot be read"):
        patched("no JSON", 4)


def test_how_many_may_be_away_is_a_number_or_a_percentage():
    assert (parse_max_unavailable("--x", "10"), parse_max_unavailable("--x", "30%")) == (10, "30%")
    for bad in ("0", "-1", "0%", "101%", "ten", ""):
        with pytest.raises(SettingsError, match=f"^--x {bad}: must be a whole number above 0, or a percentage from 1% to 100%"):
            parse_max_unavailable("--x", bad)
