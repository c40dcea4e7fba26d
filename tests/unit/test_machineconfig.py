"""The machine-config-operator at work: pools, drains, reboots, kubelet configs, and what goes wrong."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from pytest_vmscale.embedded.controllers.bootstrap import Bootstrap
from pytest_vmscale.embedded.controllers.disruption import Disruption
from pytest_vmscale.embedded.controllers.kubelet import Kubelet
from pytest_vmscale.embedded.controllers.machineconfig import MachineConfigOperator
from pytest_vmscale.embedded.controllers.machineconfig_names import CURRENT, DESIRED, DESIRED_DRAIN, LAST_DRAIN, REASON, STATE
from pytest_vmscale.embedded.controllers.nodes import NodeLifecycle, Nodes
from pytest_vmscale.embedded.controllers.scheduler import Scheduler
from pytest_vmscale.embedded.faults import Fault
from tests.unit.kubernetes_side import StandIn, running
from tests.unit.virtual import run

POOLS, CONFIGS, KUBELETS = (f"{plural}.machineconfiguration.openshift.io" for plural in ("machineconfigpools", "machineconfigs", "kubeletconfigs"))
SPEED = 1000.0
ROLLOUT_SECONDS = 3000.0


@asynccontextmanager
async def operator(workers=3, faults=None, speed=SPEED, **values):
    cluster = StandIn(workers=workers, faults=faults, speed=speed)
    cluster.timing = cluster.timing.replaced("machine_config", **values) if values else cluster.timing
    async with running(cluster, Nodes, Bootstrap, NodeLifecycle, Scheduler, Kubelet, Disruption, MachineConfigOperator):
        yield cluster


def node(cluster, index):
    return cluster.get("nodes", f"worker-{index:03d}")


def notes(obj):
    return obj["metadata"]["annotations"]


def condition(cluster, pool, type_):
    return next((each for each in cluster.get(POOLS, pool).get("status", {}).get("conditions", ()) if each["type"] == type_), {"status": None})


def updated(cluster, pool):
    return condition(cluster, pool, "Updated")["status"] == "True"


def label(cluster, index, zone, on=True):
    def change(obj):
        if on:
            obj["metadata"]["labels"][f"node-role.kubernetes.io/{zone}"] = ""
        else:
            del obj["metadata"]["labels"][f"node-role.kubernetes.io/{zone}"]

    cluster.change("nodes", f"worker-{index:03d}", change)


async def zone(cluster, *members, name="zone-0", limit=10, **spec):
    for index in members:
        label(cluster, index, name)
    role = {"key": "machineconfiguration.openshift.io/role", "operator": "In", "values": ["worker", name]}
    cluster.create(POOLS, {"metadata": {"name": name}, "spec": {
        "machineConfigSelector": {"matchExpressions": [role]}, "nodeSelector": {"matchLabels": {f"node-role.kubernetes.io/{name}": ""}},
        "maxUnavailable": limit, "paused": False, **spec}})
    await cluster.until(lambda: updated(cluster, name) and cluster.get(POOLS, name)["status"]["machineCount"] == len(members), ROLLOUT_SECONDS)


def trigger(cluster, name="99-trigger", role="zone-0", path="/etc/vmscale/trigger", **config):
    files = {"storage": {"files": [{"path": path, "mode": 420, "overwrite": True, "contents": {"source": "data:,foo"}}]}}
    cluster.create(CONFIGS, {"metadata": {"name": name, "labels": {"machineconfiguration.openshift.io/role": role}},
                             "spec": {"config": {"ignition": {"version": "3.2.0"}, **files, **config}}})


async def rolled(cluster, pool="zone-0"):
    await cluster.until(lambda: not updated(cluster, pool), ROLLOUT_SECONDS)
    await cluster.until(lambda: updated(cluster, pool), ROLLOUT_SECONDS)


def boots(cluster, count):
    return [node(cluster, index)["status"]["nodeInfo"]["bootID"] for index in range(count)]


def events(cluster, reason):
    return [each for each in cluster.list("events") if each["reason"] == reason]


def test_a_cluster_at_rest_is_updated_and_says_what_it_was_rendered_from():
    async def scenario():
        async with operator(workers=4) as cluster:
            pool, machine = cluster.get(POOLS, "worker"), node(cluster, 0)
            assert {key: value for key, value in pool["status"].items() if key.endswith("Count")} == {
                "machineCount": 4, "updatedMachineCount": 4, "readyMachineCount": 4, "unavailableMachineCount": 0, "degradedMachineCount": 0}
            assert updated(cluster, "worker") and updated(cluster, "master")
            name = pool["status"]["configuration"]["name"]
            assert condition(cluster, "worker", "Updated")["message"] == f"All nodes are updated with {name}"
            assert pool["status"]["configuration"] == pool["spec"]["configuration"]
            assert [each["name"] for each in pool["spec"]["configuration"]["source"]] == [
                "00-worker", "01-worker-container-runtime", "01-worker-kubelet", "99-worker-generated-kubelet", "99-worker-generated-registries", "99-worker-ssh"]
            assert notes(machine)[CURRENT] == notes(machine)[DESIRED] == name and notes(machine)[STATE] == "Done"
            assert cluster.get(CONFIGS, name)["metadata"]["ownerReferences"][0]["name"] == "worker"
            assert machine["status"]["allocatable"]["pods"] == "500" and cluster.get("nodes", "master-0")["status"]["allocatable"]["pods"] == "250"

    run(scenario())


def test_a_new_zone_takes_its_nodes_without_a_reboot_and_its_config_reboots_them_alone():
    async def scenario():
        async with operator(workers=3, drained_by="controller") as cluster:
            before = boots(cluster, 3)
            await zone(cluster, 0, 1)
            assert boots(cluster, 3) == before and not events(cluster, "Cordon")
            assert cluster.get(POOLS, "worker")["status"]["machineCount"] == 1
            assert notes(node(cluster, 0))[CURRENT].startswith("rendered-zone-0-") and notes(node(cluster, 0))[REASON] == ""
            seen = []
            cluster.resources.watch(cluster.resources.kind("nodes"), lambda change: seen.append(change.new.obj) if change.key[1] == "worker-000" else None)
            trigger(cluster)
            await rolled(cluster)
            after = boots(cluster, 3)
            assert after[0] != before[0] and after[1] != before[1] and after[2] == before[2]
            target = cluster.get(POOLS, "zone-0")["spec"]["configuration"]["name"]
            assert notes(node(cluster, 0))[DESIRED_DRAIN] == notes(node(cluster, 0))[LAST_DRAIN] == f"uncordon-{target}"
            steps = []
            for each in seen:
                ready = next(c["status"] for c in each["status"]["conditions"] if c["type"] == "Ready")
                step = (notes(each)[STATE], notes(each)[DESIRED_DRAIN].partition("-")[0], bool(each["spec"].get("unschedulable")), ready)
                if not steps or steps[-1] != step:
                    steps.append(step)
            assert steps == [("Done", "uncordon", False, "True"), ("Working", "uncordon", False, "True"), ("Working", "drain", False, "True"),
                             ("Working", "drain", True, "True"), ("Working", "drain", True, "Unknown"), ("Working", "drain", True, "False"),
                             ("Working", "drain", True, "True"), ("Working", "uncordon", True, "True"), ("Working", "uncordon", False, "True"),
                             ("Done", "uncordon", False, "True")]
            assert [each["message"] for each in events(cluster, "Completed")] == [f"Pool zone-0 has completed update to {target}"]

    run(scenario())


def test_the_same_file_under_another_name_changes_nothing():
    async def scenario():
        async with operator(workers=2) as cluster:
            await zone(cluster, 0)
            trigger(cluster)
            await rolled(cluster)
            before, target = boots(cluster, 1), cluster.get(POOLS, "zone-0")["spec"]["configuration"]["name"]
            trigger(cluster, name="99-trigger-again")
            await cluster.until(lambda: len(cluster.get(POOLS, "zone-0")["spec"]["configuration"]["source"]) == 8)
            await cluster.until(lambda: len(cluster.get(POOLS, "zone-0")["status"]["configuration"]["source"]) == 8)
            assert cluster.get(POOLS, "zone-0")["spec"]["configuration"]["name"] == target and boots(cluster, 1) == before

    run(scenario())


def test_no_more_nodes_than_allowed_are_away_at_once():
    async def scenario():
        async with operator(workers=5) as cluster:
            await zone(cluster, *range(5), limit="40%")
            away = []

            def look(change):
                nodes = [node(cluster, index) for index in range(5)]
                away.append(sum(bool(each["spec"].get("unschedulable")) for each in nodes))

            cluster.resources.watch(cluster.resources.kind("nodes"), look)
            trigger(cluster)
            await rolled(cluster)
            assert max(away) == 2

    run(scenario())


def test_a_bad_machine_config_degrades_the_pool_and_touches_no_node():
    async def scenario():
        async with operator(workers=2) as cluster:
            await zone(cluster, 0)
            target = cluster.get(POOLS, "zone-0")["spec"]["configuration"]["name"]
            trigger(cluster, ignition={"version": "9.0.0"})
            await cluster.until(lambda: condition(cluster, "zone-0", "Degraded")["status"] == "True")
            assert condition(cluster, "zone-0", "RenderDegraded")["message"] == (
                "Failed to render configuration for pool zone-0: parsing Ignition config failed: unknown version. Supported spec versions: 2.2, 3.0, 3.1, 3.2")
            assert cluster.get(POOLS, "zone-0")["spec"]["configuration"]["name"] == target and notes(node(cluster, 0))[DESIRED] == target
            cluster.delete(CONFIGS, "99-trigger")
            await cluster.until(lambda: condition(cluster, "zone-0", "Degraded")["status"] == "False")

    run(scenario())


def test_a_paused_pool_waits():
    async def scenario():
        async with operator(workers=2) as cluster:
            await zone(cluster, 0)
            cluster.change(POOLS, "zone-0", lambda pool: pool["spec"].update(paused=True))
            trigger(cluster)
            await cluster.until(lambda: condition(cluster, "zone-0", "Updating").get("message", "").startswith("Pool is paused; will not update to "))
            assert condition(cluster, "zone-0", "Updating")["status"] == "False" and not updated(cluster, "zone-0")
            assert notes(node(cluster, 0))[STATE] == "Done"
            cluster.change(POOLS, "zone-0", lambda pool: pool["spec"].update(paused=False))
            await cluster.until(lambda: updated(cluster, "zone-0"), ROLLOUT_SECONDS)

    run(scenario())


def test_a_node_whose_files_were_changed_by_hand_degrades_its_pool():
    async def scenario():
        async with operator(workers=2, faults=[Fault("degraded-pool", 1, seconds=600)]) as cluster:
            await zone(cluster)
            label(cluster, 0, "zone-0")
            await cluster.until(lambda: condition(cluster, "zone-0", "NodeDegraded")["status"] == "True")
            current = notes(node(cluster, 0))[CURRENT]
            reason = f'unexpected on-disk state validating against {current}: content mismatch for file "/etc/containers/storage.conf"'
            assert notes(node(cluster, 0))[STATE] == "Degraded" and notes(node(cluster, 0))[REASON] == reason
            found = condition(cluster, "zone-0", "NodeDegraded")
            assert found["reason"] == "1 nodes are reporting degraded status on sync"
            assert found["message"] == f'Node worker-000 is reporting: "{reason}"'.replace('"/etc/containers/storage.conf"', '\\"/etc/containers/storage.conf\\"')
            assert cluster.get(POOLS, "zone-0")["status"]["degradedMachineCount"] == 1 and condition(cluster, "zone-0", "Degraded")["status"] == "True"
            await cluster.until(lambda: updated(cluster, "zone-0"), ROLLOUT_SECONDS)  # somebody put the file back
            assert notes(node(cluster, 0))[REASON] == ""

    run(scenario())


def test_a_node_that_never_comes_back_holds_its_pool_up_and_nothing_else():
    async def scenario():
        async with operator(workers=3, faults=[Fault("node-stays-down", 1)]) as cluster:
            await zone(cluster, 0, 1)
            trigger(cluster)
            await cluster.until(lambda: cluster.get(POOLS, "zone-0")["status"]["readyMachineCount"] == 1 and cluster.get(
                POOLS, "zone-0")["status"]["updatedMachineCount"] == 1, ROLLOUT_SECONDS)
            down = [index for index in range(2) if not cluster.hosts.is_up(f"worker-{index:03d}")]
            assert len(down) == 1
            status = cluster.get(POOLS, "zone-0")["status"]
            assert (status["machineCount"], status["unavailableMachineCount"], status["degradedMachineCount"]) == (2, 1, 0)
            assert condition(cluster, "zone-0", "Updating")["status"] == "True" and updated(cluster, "worker")

    run(scenario())


def test_a_slow_reboot_takes_longer():
    async def took(faults):
        async with operator(workers=1, faults=faults) as cluster:
            await zone(cluster, 0)
            start = cluster.clock.now()
            trigger(cluster)
            await rolled(cluster)
            return cluster.clock.now() - start

    usual, slow = run(took([])), run(took([Fault("slow-reboot", 3)]))
    assert slow - usual == pytest.approx(2 * 410, rel=0.15)  # shutdown, firmware and boot


def budget(cluster, **spec):
    cluster.create("poddisruptionbudgets", {"metadata": {"name": "budget"}, "spec": {"selector": {"matchLabels": {"app": "held"}}, **spec}})


async def with_pod(cluster, name="held"):
    cluster.create("namespaces", {"metadata": {"name": "ns"}})
    cluster.pod(name, labels={"app": "held"}, nodeName="worker-000")
    await cluster.until(lambda: cluster.get("pods", name)["status"].get("phase") == "Running")


def test_a_drain_that_a_budget_blocks_is_tried_again_as_the_operator_does():
    async def scenario():
        async with operator(workers=2, speed=2000, drained_by="controller") as cluster:
            await with_pod(cluster)
            budget(cluster, minAvailable=1)
            await zone(cluster, 0)
            trigger(cluster)
            await cluster.until(lambda: node(cluster, 0)["spec"].get("unschedulable"))
            start = cluster.clock.now()
            await cluster.until(lambda: events(cluster, "DrainThresholdExceeded"), 1500)
            # Tries at 0, 150, 300, 450 and 600 s: the first after ten minutes is the one that says so, at its end.
            assert cluster.clock.now() - start == pytest.approx(690, abs=60)
            message = events(cluster, "DrainThresholdExceeded")[0]["message"]
            assert message.startswith("Drain failed. Drain has been failing for more than 10 minutes. Waiting 5 minutes then retrying. Error message from drain: ")
            assert 'error when evicting pods/"held" -n "ns": global timeout reached: 1m30s' in message
            await cluster.until(lambda: notes(node(cluster, 0))[STATE] == "Degraded", 4000)
            assert cluster.clock.now() - start == pytest.approx(3600, abs=120)
            assert notes(node(cluster, 0))[REASON] == (
                "failed to drain node: worker-000 after 1 hour. Please see machine-config-controller logs for more information")
            assert events(cluster, "FailedToDrain")
            cluster.delete("poddisruptionbudgets", "budget")
            await cluster.until(lambda: updated(cluster, "zone-0"), ROLLOUT_SECONDS)
            assert events(cluster, "DrainFailed") and not cluster.get("pods", "held")

    run(scenario())


def test_a_drain_takes_every_pod_but_those_of_daemon_sets():
    async def scenario():
        async with operator(workers=2) as cluster:
            await with_pod(cluster)
            owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": True}
            cluster.create("pods", {"metadata": {"name": "daemon", "ownerReferences": [owner]}, "spec": {
                "nodeName": "worker-000", "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "i"}]}})
            await zone(cluster, 0)
            trigger(cluster)
            await rolled(cluster)
            assert not cluster.get("pods", "held")
            assert cluster.get("pods", "daemon")["status"]["containerStatuses"][0]["restartCount"] == 1

    run(scenario())


def test_one_client_serves_all_drains_of_the_controller():
    async def scenario():
        async with operator(workers=4, drained_by="controller", drain_client_qps=2, drain_client_burst=1) as cluster:
            cluster.create("namespaces", {"metadata": {"name": "ns"}})
            for index in range(40):
                cluster.pod(f"p{index}", nodeName=f"worker-{index % 4:03d}")
            await cluster.until(lambda: all(each["status"].get("phase") == "Running" for each in cluster.list("pods", "ns")))
            await zone(cluster, 0, 1, 2, 3)
            trigger(cluster)
            await cluster.until(lambda: node(cluster, 0)["spec"].get("unschedulable"))
            start = cluster.clock.now()
            await cluster.until(lambda: not cluster.list("pods", "ns"), ROLLOUT_SECONDS)
            assert cluster.clock.now() - start >= 40 / 2  # forty evictions at two a second, whatever they wait for besides

    run(scenario())


def test_daemons_that_drain_by_themselves_have_a_client_each_and_ask_no_controller():
    async def scenario():
        async with operator(workers=4, drain_client_qps=2, drain_client_burst=1) as cluster:
            cluster.create("namespaces", {"metadata": {"name": "ns"}})
            for index in range(40):
                cluster.pod(f"p{index}", nodeName=f"worker-{index % 4:03d}")
            await cluster.until(lambda: all(each["status"].get("phase") == "Running" for each in cluster.list("pods", "ns")))
            await zone(cluster, 0, 1, 2, 3)
            trigger(cluster)
            await cluster.until(lambda: node(cluster, 0)["spec"].get("unschedulable"))
            start = cluster.clock.now()
            await cluster.until(lambda: not cluster.list("pods", "ns"), ROLLOUT_SECONDS)
            # Ten evictions on each node, and the looks whether the pods are gone, at two a second.
            assert 10 / 2 <= cluster.clock.now() - start < 40 / 2
            await cluster.until(lambda: updated(cluster, "zone-0"), ROLLOUT_SECONDS)
            assert all(DESIRED_DRAIN not in notes(node(cluster, index)) and LAST_DRAIN not in notes(node(cluster, index)) for index in range(4))
            assert not node(cluster, 0)["spec"].get("unschedulable")
            assert len(events(cluster, "Cordon")) == len(events(cluster, "Drain")) == 4

    run(scenario())


@pytest.mark.parametrize(("free_after", "drained_after"), [(200, 206), (250, 300), (700, 750), (900, 1140), (1300, 1530)])
def test_a_daemon_tries_to_drain_each_minute_and_after_six_failures_every_five(free_after, drained_after):
    async def scenario():
        async with operator(workers=2) as cluster:
            await with_pod(cluster)
            budget(cluster, minAvailable=1)
            await zone(cluster, 0)
            trigger(cluster)
            await cluster.until(lambda: node(cluster, 0)["spec"].get("unschedulable"))
            start = cluster.clock.now()
            await cluster.clock.sleep(free_after)
            cluster.delete("poddisruptionbudgets", "budget")
            await cluster.until(lambda: not cluster.get("pods", "held"), ROLLOUT_SECONDS)
            # A try lasts 90 s: with the pauses they begin at 0, 150, 300, 450, 600, 750, 1140 and 1530 s.
            assert cluster.clock.now() - start == pytest.approx(drained_after, abs=6)

    run(scenario())


def test_a_daemon_gives_its_node_up_after_an_hour_and_goes_on_once_it_can():
    async def scenario():
        async with operator(workers=2) as cluster:
            await with_pod(cluster)
            budget(cluster, minAvailable=1)
            await zone(cluster, 0)
            trigger(cluster)
            await cluster.until(lambda: notes(node(cluster, 0))[STATE] == "Degraded", 5000)
            assert notes(node(cluster, 0))[REASON] == "failed to drain node : worker-000 after 1 hour"
            assert events(cluster, "FailedToDrain")
            await cluster.until(lambda: condition(cluster, "zone-0", "NodeDegraded")["status"] == "True")
            cluster.delete("poddisruptionbudgets", "budget")
            await cluster.until(lambda: updated(cluster, "zone-0"), ROLLOUT_SECONDS)
            assert not node(cluster, 0)["spec"].get("unschedulable") and notes(node(cluster, 0))[REASON] == ""

    run(scenario())


def test_a_config_that_is_taken_back_in_mid_drain_leaves_nothing_behind():
    async def scenario():
        async with operator(workers=3) as cluster:
            await with_pod(cluster)
            budget(cluster, minAvailable=1)
            await zone(cluster, 0, 1)
            before, current = boots(cluster, 2), notes(node(cluster, 0))[CURRENT]
            cluster.change(POOLS, "zone-0", lambda pool: pool["spec"].update(maxUnavailable=1))
            trigger(cluster)
            await cluster.until(lambda: node(cluster, 0)["spec"].get("unschedulable"))
            cluster.delete(CONFIGS, "99-trigger")
            cluster.delete("poddisruptionbudgets", "budget")
            await cluster.until(lambda: cluster.get(POOLS, "zone-0")["spec"]["configuration"]["name"] == current)
            await cluster.until(lambda: updated(cluster, "zone-0"), ROLLOUT_SECONDS)
            for index in range(2):
                machine = node(cluster, index)
                assert not machine["spec"].get("unschedulable") and not machine["spec"].get("taints")
                assert (notes(machine)[CURRENT], notes(machine)[DESIRED], notes(machine)[STATE], notes(machine)[REASON]) == (current, current, "Done", "")
            assert boots(cluster, 2)[1] == before[1]  # the second node's turn never came

    run(scenario())


def test_nodes_leave_a_zone_before_it_is_deleted_or_they_are_stuck():
    async def scenario():
        async with operator(workers=2) as cluster:
            await zone(cluster, 0, 1)
            before = boots(cluster, 2)
            label(cluster, 0, "zone-0", on=False)
            await cluster.until(lambda: cluster.get(POOLS, "worker")["status"]["machineCount"] == 1 and updated(cluster, "worker"))
            assert notes(node(cluster, 0))[CURRENT].startswith("rendered-worker-") and boots(cluster, 2) == before
            # As the garbage collector does, which is not here: with a pool go the configs rendered for it.
            cluster.delete(CONFIGS, cluster.get(POOLS, "zone-0")["spec"]["configuration"]["name"])
            cluster.delete(POOLS, "zone-0")
            label(cluster, 1, "zone-0", on=False)
            await cluster.until(lambda: notes(node(cluster, 1))[STATE] == "Degraded")
            assert notes(node(cluster, 1))[REASON].startswith('machineconfig.machineconfiguration.openshift.io "rendered-zone-0-')
            assert notes(node(cluster, 1))[REASON].endswith(" not found")
            await cluster.until(lambda: condition(cluster, "worker", "Degraded")["status"] == "True")

    run(scenario())


def test_a_node_of_two_custom_pools_gets_nothing_from_either():
    async def scenario():
        async with operator(workers=2) as cluster:
            await zone(cluster, 0)
            current = notes(node(cluster, 0))[CURRENT]
            await zone(cluster, name="zone-1")
            label(cluster, 0, "zone-1")
            await cluster.until(lambda: cluster.get(POOLS, "zone-0")["status"]["machineCount"] == 0)
            assert cluster.get(POOLS, "zone-1")["status"]["machineCount"] == 0 and cluster.get(POOLS, "worker")["status"]["machineCount"] == 1
            assert notes(node(cluster, 0))[DESIRED] == current

    run(scenario())


# Kubelet configs.

def kubelet_config(cluster, name, config, **spec):
    cluster.create(KUBELETS, {"metadata": {"name": name}, "spec": {
        "machineConfigPoolSelector": {"matchLabels": {"custom-kubelet": "enabled"}}, "kubeletConfig": config, **spec}})


def last_condition(cluster, name):
    conditions = cluster.get(KUBELETS, name).get("status", {}).get("conditions") or [{}]
    return conditions[-1].get("type"), conditions[-1].get("status"), conditions[-1].get("message")


def test_a_second_kubelet_config_resets_what_the_first_one_set():
    async def scenario():
        async with operator(workers=1) as cluster:
            assert cluster.get(KUBELETS, "set-max-pods")["metadata"]["finalizers"] == ["99-worker-generated-kubelet"]
            kubelet_config(cluster, "custom-scheduling", {"nodeStatusMaxImages": -1})
            await rolled(cluster, "worker")
            assert cluster.get(CONFIGS, "99-worker-generated-kubelet-1")
            assert last_condition(cluster, "custom-scheduling") == ("Success", "True", "Success")
            assert node(cluster, 0)["status"]["allocatable"]["pods"] == "250"  # the template's default is back
            cluster.delete(KUBELETS, "custom-scheduling")
            await cluster.until(lambda: not cluster.get(KUBELETS, "custom-scheduling") and not cluster.get(CONFIGS, "99-worker-generated-kubelet-1"))
            await rolled(cluster, "worker")
            assert node(cluster, 0)["status"]["allocatable"]["pods"] == "500"

    run(scenario())


@pytest.mark.parametrize(("config", "spec", "message"), [
    ({"maxPods": 1}, {"machineConfigPoolSelector": {"matchLabels": {"custom-kubelet": "enable"}}},
     "Error: KubeletConfig bad does not match any MachineConfigPools"),
    ({"clusterDomain": "x"}, {}, "Error: KubeletConfiguration: clusterDomain is not allowed to be set, but contains: x"),
    ({}, {"logLevel": 11}, "Error: KubeletConfig's LogLevel is not valid [1,10]: 11"),
])
def test_a_kubelet_config_that_cannot_be_applied_says_why(config, spec, message):
    async def scenario():
        async with operator(workers=1) as cluster:
            kubelet_config(cluster, "bad", config, **spec)
            await cluster.until(lambda: last_condition(cluster, "bad")[0])
            assert last_condition(cluster, "bad") == ("Failure", "False", message)
            assert not cluster.get(CONFIGS, "99-worker-generated-kubelet-1")

    run(scenario())


def test_newer_releases_say_accepted_as_well():
    async def scenario():
        async with operator(workers=1, kubelet_config_accepted=True) as cluster:
            kubelet_config(cluster, "bad", {"clusterDomain": "x"})
            await cluster.until(lambda: last_condition(cluster, "bad")[0])
            message = "Error: KubeletConfiguration: clusterDomain is not allowed to be set, but contains: x"
            found = [(each["type"], each["status"], each["message"]) for each in cluster.get(KUBELETS, "bad")["status"]["conditions"]]
            assert found == [("Accepted", "False", message), ("Failure", "True", message)]

    run(scenario())
