"""Nodes, scheduler and kubelet: where pods go, what they pass through, how they end."""

from __future__ import annotations

import asyncio

import pytest

from pytest_vmscale.embedded.controllers.common import PodsByClaim
from pytest_vmscale.embedded.controllers.garbage import GarbageCollector
from pytest_vmscale.embedded.controllers.kubelet import Kubelet
from pytest_vmscale.embedded.controllers.nodes import NodeLifecycle, Nodes
from pytest_vmscale.embedded.controllers.processes import ending
from pytest_vmscale.embedded.controllers.scheduler import Scheduler
from pytest_vmscale.embedded.faults import Fault

from .kubernetes_side import StandIn, running

MASTER_TAINT = "3 node(s) had taint {node-role.kubernetes.io/master: }, that the pod didn't tolerate"


def condition(obj, type_):
    return next((each for each in obj["status"].get("conditions", ()) if each["type"] == type_), None)


def phase(cluster, name):
    pod = cluster.get("pods", name)
    return pod and pod["status"]["phase"]


def node_of(cluster, name):
    return (cluster.get("pods", name) or {"spec": {}})["spec"].get("nodeName")


def test_nodes_are_those_of_the_reference_cluster():
    async def scenario():
        async with running(StandIn(workers=100), Nodes) as cluster:
            nodes = cluster.list("nodes")
            assert len(nodes) == 103
            worker = cluster.get("nodes", "worker-000")
            assert worker["metadata"]["labels"]["kubevirt.io/schedulable"] == "true"
            assert worker["metadata"]["labels"]["kubernetes.io/hostname"] == "worker-000"
            assert worker["status"]["allocatable"]["devices.kubevirt.io/kvm"] == "1k"
            assert worker["status"]["allocatable"]["pods"] == "500"
            assert condition(worker, "Ready")["status"] == "True"
            assert worker["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"] == '{"openshift-storage.rbd.csi.ceph.com":"worker-000"}'
            assert cluster.get("nodes", "master-0")["spec"]["taints"] == [{"key": "node-role.kubernetes.io/master", "effect": "NoSchedule"}]
            assert len({node["status"]["addresses"][0]["address"] for node in nodes}) == 103
            before = cluster.get("leases", "worker-000", "kube-node-lease")["spec"]["renewTime"]
            await cluster.until(lambda: cluster.get("leases", "worker-000", "kube-node-lease")["spec"]["renewTime"] != before, 1000)

    asyncio.run(scenario())


def test_a_pod_is_scheduled_started_and_gets_what_a_running_pod_has():
    async def scenario():
        async with running(StandIn(), Nodes, Scheduler, Kubelet) as cluster:
            cluster.pod("p", resources={"requests": {"cpu": "1", "memory": "1Gi"}})
            await cluster.until(lambda: phase(cluster, "p") == "Running")
            pod = cluster.get("pods", "p")
            assert pod["spec"]["nodeName"].startswith("worker-")
            assert {each["type"]: each["status"] for each in pod["status"]["conditions"]} == dict.fromkeys(
                ("Initialized", "Ready", "ContainersReady", "PodReadyToStartContainers", "PodScheduled"), "True")
            assert pod["status"]["podIP"].startswith("10.1") and pod["status"]["podIPs"] == [{"ip": pod["status"]["podIP"]}]
            assert pod["status"]["hostIP"] == cluster.get("nodes", pod["spec"]["nodeName"])["status"]["addresses"][0]["address"]
            container = pod["status"]["containerStatuses"][0]
            assert container["ready"] and container["started"] and "running" in container["state"]
            for reason in ("Scheduled", "Pulling", "Pulled", "Created", "Started"):
                assert len(cluster.events(reason)) == 1, reason

    asyncio.run(scenario())


def test_what_no_node_can_take_says_why_and_is_scheduled_when_the_cluster_changes():
    async def scenario():
        async with running(StandIn(), Nodes, NodeLifecycle, Scheduler, Kubelet) as cluster:
            cluster.pod("big", resources={"requests": {"cpu": "64"}})
            found = await cluster.until(lambda: condition(cluster.get("pods", "big"), "PodScheduled"))
            assert (found["status"], found["reason"]) == ("False", "Unschedulable")
            assert found["message"] == f"0/6 nodes are available: 3 Insufficient cpu, {MASTER_TAINT}."
            assert cluster.events("FailedScheduling")[0]["message"] == found["message"]
            cluster.change("nodes", "worker-001", lambda node: node["status"]["allocatable"].update(cpu="80"), subresource="status")
            await cluster.until(lambda: phase(cluster, "big") == "Running")
            assert node_of(cluster, "big") == "worker-001"

    asyncio.run(scenario())


@pytest.mark.parametrize(("spec", "reason"), [
    ({"nodeSelector": {"zone": "x"}}, "3 node(s) didn't match Pod's node affinity/selector"),
    ({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}]}]}}}}, "3 node(s) didn't match Pod's node affinity/selector"),
    ({"resources": {"requests": {"devices.kubevirt.io/kvm": "2k"}}}, "3 Insufficient devices.kubevirt.io/kvm"),
])
def test_filters(spec, reason):
    async def scenario():
        async with running(StandIn(), Nodes, Scheduler) as cluster:
            cluster.pod("p", **spec)
            found = await cluster.until(lambda: condition(cluster.get("pods", "p"), "PodScheduled"))
            assert found["message"] == f"0/6 nodes are available: {', '.join(sorted([reason, MASTER_TAINT]))}."

    asyncio.run(scenario())


def test_a_claim_that_is_not_there_holds_a_pod_until_it_is_bound():
    async def scenario():
        async with running(StandIn(), Nodes, Scheduler) as cluster:
            cluster.pod("p", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}])
            found = await cluster.until(lambda: condition(cluster.get("pods", "p"), "PodScheduled"))
            assert found["message"] == '0/6 nodes are available: 6 persistentvolumeclaim "data" not found.'
            cluster.create("persistentvolumeclaims", {"metadata": {"name": "data"}, "spec": {}})
            await cluster.until(lambda: "unbound immediate" in condition(cluster.get("pods", "p"), "PodScheduled")["message"])
            cluster.change("persistentvolumeclaims", "data", lambda claim: claim.update(status={"phase": "Bound"}), subresource="status")
            await cluster.until(lambda: node_of(cluster, "p"))

    asyncio.run(scenario())


def test_anti_affinity_keeps_pods_of_a_kind_on_different_nodes():
    term = {"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "kubernetes.io/hostname"}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}

    async def scenario():
        async with running(StandIn(), Nodes, Scheduler) as cluster:
            for index in range(4):
                cluster.pod(f"p{index}", labels={"app": "a"}, affinity=affinity)
            await cluster.until(lambda: sum(bool(node_of(cluster, f"p{index}")) for index in range(4)) == 3)
            assert len({node_of(cluster, f"p{index}") for index in range(4)} - {None}) == 3
            left = next(name for name in ("p0", "p1", "p2", "p3") if not node_of(cluster, name))
            found = await cluster.until(lambda: condition(cluster.get("pods", left), "PodScheduled"))
            assert "3 node(s) didn't match pod anti-affinity rules" in found["message"]
            # An ordinary pod of that label is kept away by those that are there.
            cluster.pod("plain", labels={"app": "a"})
            found = await cluster.until(lambda: condition(cluster.get("pods", "plain"), "PodScheduled"))
            assert "3 node(s) didn't satisfy existing pods anti-affinity rules" in found["message"]

    asyncio.run(scenario())


def test_pods_are_spread_evenly_and_only_one_pods_worth_apart():
    async def scenario():
        async with running(StandIn(workers=10, speed=2000.0), Nodes, Scheduler) as cluster:
            for index in range(100):
                cluster.pod(f"p{index:03d}", resources={"requests": {"cpu": "100m", "memory": "256Mi"}})
            await cluster.until(lambda: all(node_of(cluster, f"p{index:03d}") for index in range(100)), 5000)
            counts = {}
            for index in range(100):
                counts[node_of(cluster, f"p{index:03d}")] = counts.get(node_of(cluster, f"p{index:03d}"), 0) + 1
            assert len(counts) == 10 and max(counts.values()) - min(counts.values()) <= 1

    asyncio.run(scenario())


def test_a_cordoned_node_takes_no_pods_and_is_tainted():
    async def scenario():
        async with running(StandIn(workers=1), Nodes, NodeLifecycle, Scheduler) as cluster:
            cluster.change("nodes", "worker-000", lambda node: node["spec"].update(unschedulable=True))
            await cluster.until(lambda: cluster.get("nodes", "worker-000")["spec"].get("taints"))
            assert cluster.get("nodes", "worker-000")["spec"]["taints"][0]["key"] == "node.kubernetes.io/unschedulable"
            cluster.pod("p")
            found = await cluster.until(lambda: condition(cluster.get("pods", "p"), "PodScheduled"))
            assert "1 node(s) were unschedulable" in found["message"]
            cluster.change("nodes", "worker-000", lambda node: node["spec"].pop("unschedulable"))
            await cluster.until(lambda: node_of(cluster, "p"))
            await cluster.until(lambda: "taints" not in cluster.get("nodes", "worker-000")["spec"])

    asyncio.run(scenario())


def test_stuck_scheduling_strikes_launcher_pods_only():
    async def scenario():
        async with running(StandIn(faults=[Fault("stuck-scheduling", 1)]), Nodes, Scheduler) as cluster:
            cluster.pod("plain")
            cluster.pod("launcher-1", labels={"kubevirt.io": "virt-launcher"})
            cluster.pod("launcher-2", labels={"kubevirt.io": "virt-launcher"})
            await cluster.until(lambda: node_of(cluster, "plain") and node_of(cluster, "launcher-2"))
            assert condition(cluster.get("pods", "launcher-1"), "PodScheduled")["reason"] == "Unschedulable"

    asyncio.run(scenario())


def test_the_scheduler_binds_no_faster_than_its_client_may():
    async def scenario():
        cluster = StandIn(scheduler_client_qps=10, scheduler_client_burst=1)
        async with running(cluster, Nodes, Scheduler):
            begin = cluster.clock.now()
            for index in range(31):
                cluster.pod(f"p{index}")
            await cluster.until(lambda: all(node_of(cluster, f"p{index}") for index in range(31)))
            assert cluster.clock.now() - begin >= 3.0

    asyncio.run(scenario())


def test_a_deleted_pod_ends_in_its_grace_period_and_gives_back_its_address():
    async def scenario():
        async with running(StandIn(workers=1), Nodes, Scheduler, Kubelet) as cluster:
            cluster.pod("p")
            await cluster.until(lambda: phase(cluster, "p") == "Running")
            address = cluster.get("pods", "p")["status"]["podIP"]
            cluster.delete("pods", "p", grace_seconds=30)
            assert cluster.get("pods", "p")["metadata"]["deletionTimestamp"]
            await cluster.until(lambda: cluster.get("pods", "p") is None, 30)
            assert len(cluster.events("Killing")) == 1
            cluster.pod("q")
            await cluster.until(lambda: phase(cluster, "q") == "Running")
            assert cluster.get("pods", "q")["status"]["podIP"] == address

    asyncio.run(scenario())


def test_readiness_gates_decide_whether_a_running_pod_is_ready():
    async def scenario():
        async with running(StandIn(), Nodes, Scheduler, Kubelet) as cluster:
            cluster.pod("p", readinessGates=[{"conditionType": "example.com/go"}])
            await cluster.until(lambda: phase(cluster, "p") == "Running")
            ready = condition(cluster.get("pods", "p"), "Ready")
            assert (ready["status"], ready["reason"]) == ("False", "ReadinessGatesNotReady")
            assert condition(cluster.get("pods", "p"), "ContainersReady")["status"] == "True"
            cluster.change("pods", "p", lambda pod: pod["status"]["conditions"].append({"type": "example.com/go", "status": "True"}), subresource="status")
            await cluster.until(lambda: condition(cluster.get("pods", "p"), "Ready")["status"] == "True")

    asyncio.run(scenario())


@pytest.mark.parametrize(("command", "policy", "expected"), [
    (["true"], "Never", "Succeeded"), (["sh", "-c", "sleep 5; exit 3"], "Never", "Failed"), (["sleep", "10"], "OnFailure", "Succeeded")])
def test_a_pod_whose_processes_end_finishes(command, policy, expected):
    async def scenario():
        async with running(StandIn(), Nodes, Scheduler, Kubelet) as cluster:
            cluster.pod("p", restartPolicy=policy, containers=[{"name": "c", "image": "i", "command": command}])
            await cluster.until(lambda: phase(cluster, "p") == expected)
            assert "terminated" in cluster.get("pods", "p")["status"]["containerStatuses"][0]["state"]
            assert condition(cluster.get("pods", "p"), "Ready")["status"] == "False"

    asyncio.run(scenario())


def test_a_container_that_keeps_ending_is_restarted_with_a_back_off():
    async def scenario():
        async with running(StandIn(), Nodes, Scheduler, Kubelet) as cluster:
            cluster.pod("p", restartPolicy="Always", containers=[{"name": "c", "image": "i", "command": ["false"]}])
            status = lambda: cluster.get("pods", "p")["status"]["containerStatuses"][0]  # noqa: E731
            await cluster.until(lambda: cluster.get("pods", "p")["status"].get("containerStatuses") and status()["restartCount"] >= 2)
            await cluster.until(lambda: status()["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff")
            assert status()["lastState"]["terminated"]["exitCode"] == 1

    asyncio.run(scenario())


def launcher(cluster, vmi):
    owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": vmi["metadata"]["name"], "uid": vmi["metadata"]["uid"], "controller": True}
    return cluster.create("pods", {"metadata": {"name": "virt-launcher-vm", "labels": {"kubevirt.io": "virt-launcher"}, "ownerReferences": [owner]},
                                   "spec": {"containers": [{"name": "compute", "image": "l"}], "terminationGracePeriodSeconds": 60, "restartPolicy": "Never"}})


def test_a_launcher_pod_ends_when_its_guest_does_and_not_before():
    async def scenario():
        async with running(StandIn(), Nodes, Scheduler, Kubelet) as cluster:
            vmi = cluster.create("virtualmachineinstances.kubevirt.io", {"metadata": {"name": "vm"}, "spec": {}, "status": {"phase": "Running"}})
            launcher(cluster, vmi)
            await cluster.until(lambda: phase(cluster, "virt-launcher-vm") == "Running")
            cluster.delete("pods", "virt-launcher-vm")
            await cluster.clock.sleep(30)
            assert cluster.get("pods", "virt-launcher-vm") is not None
            cluster.change("virtualmachineinstances.kubevirt.io", "vm", lambda vmi: vmi["status"].update(phase="Succeeded"))
            await cluster.until(lambda: cluster.get("pods", "virt-launcher-vm") is None, 25)

    asyncio.run(scenario())


def test_a_launcher_pod_whose_guest_stopped_by_itself_succeeds():
    async def scenario():
        async with running(StandIn(), Nodes, Scheduler, Kubelet) as cluster:
            vmi = cluster.create("virtualmachineinstances.kubevirt.io", {"metadata": {"name": "vm"}, "spec": {}, "status": {"phase": "Running"}})
            launcher(cluster, vmi)
            await cluster.until(lambda: phase(cluster, "virt-launcher-vm") == "Running")
            cluster.hosts.pod_exited("ns", "virt-launcher-vm", 0)
            assert phase(cluster, "virt-launcher-vm") == "Succeeded"

    asyncio.run(scenario())


def test_a_dead_node_becomes_unknown_loses_its_pods_and_comes_back():
    async def scenario():
        cluster = StandIn(workers=2, default_toleration_seconds=60)
        async with running(cluster, Nodes, NodeLifecycle, Scheduler, Kubelet):
            tolerations = [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
                           for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")]
            cluster.pod("p", tolerations=tolerations)
            await cluster.until(lambda: phase(cluster, "p") == "Running")
            node = node_of(cluster, "p")
            boot_id = cluster.get("nodes", node)["status"]["nodeInfo"]["bootID"]
            begin = cluster.clock.now()
            cluster.hosts.power_off(node)
            await cluster.until(lambda: condition(cluster.get("nodes", node), "Ready")["status"] == "Unknown")
            assert cluster.clock.now() - begin >= 40
            assert condition(cluster.get("pods", "p"), "Ready")["status"] == "False"
            await cluster.until(lambda: {taint["effect"] for taint in cluster.get("nodes", node)["spec"].get("taints", ())} == {"NoSchedule", "NoExecute"})
            await cluster.until(lambda: "deletionTimestamp" in cluster.get("pods", "p")["metadata"])
            assert cluster.clock.now() - begin >= 100
            cluster.hosts.power_on(node)
            await cluster.until(lambda: cluster.get("pods", "p") is None)
            await cluster.until(lambda: condition(cluster.get("nodes", node), "Ready")["status"] == "True")
            await cluster.until(lambda: "taints" not in cluster.get("nodes", node)["spec"])
            assert cluster.get("nodes", node)["status"]["nodeInfo"]["bootID"] != boot_id

    asyncio.run(scenario())


def test_a_reboot_restarts_pods_that_restart_and_fails_the_others():
    async def scenario():
        async with running(StandIn(workers=1), Nodes, Scheduler, Kubelet) as cluster:
            cluster.pod("always", restartPolicy="Always")
            cluster.pod("never", restartPolicy="Never")
            await cluster.until(lambda: phase(cluster, "always") == phase(cluster, "never") == "Running")
            cluster.hosts.power_off("worker-000")
            cluster.hosts.power_on("worker-000")
            await cluster.until(lambda: phase(cluster, "never") == "Failed")
            await cluster.until(lambda: phase(cluster, "always") == "Running"
                                and cluster.get("pods", "always")["status"]["containerStatuses"][0]["restartCount"] == 1)

    asyncio.run(scenario())


def test_pods_are_found_by_their_claims():
    def volume(claim):
        return {"name": claim, "persistentVolumeClaim": {"claimName": claim}}

    async def scenario():
        async with running(StandIn(), GarbageCollector) as cluster:
            cluster.pod("before", volumes=[volume("disk")])
            pods = PodsByClaim(cluster.resources)
            cluster.pod("both", volumes=[volume("disk"), volume("other"), {"name": "e", "emptyDir": {}}])
            cluster.pod("none", volumes=[{"name": "disk", "emptyDir": {}}])

            def using(claim, namespace="ns"):
                return [pod["metadata"]["name"] for pod in pods.using((namespace, claim))]

            assert (using("disk"), using("other"), using("disk", "elsewhere")) == (["before", "both"], ["both"], [])
            cluster.delete("pods", "both", grace_seconds=0)
            assert (using("disk"), using("other")) == (["before"], [])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("command", "ends"),
    [
        (["sleep", "5"], (5.0, 0)),
        (["sh", "-c", "sleep 2; exit 3"], (2.0, 3)),
        (["sleep", "infinity"], None),
        (["/bin/serve"], None),
        (["/bin/bash", "-c", "if true; then\n  /usr/bin/gather\nfi; sync"], (100.0, 0)),  # oc adm must-gather waits for it
    ],
)
def test_when_a_containers_process_ends(command, ends):
    assert ending({"command": command}, False, 100.0) == ends
