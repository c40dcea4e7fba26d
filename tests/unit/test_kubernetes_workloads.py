"""Workloads, garbage, namespaces, budgets and claims, on the Kubernetes side without a server."""

from __future__ import annotations

import asyncio

import pytest

from pytest_vmscale.embedded.api.errors import ApiError
from pytest_vmscale.embedded.controllers import KUBERNETES_CONTROLLERS
from pytest_vmscale.embedded.controllers.bootstrap import Bootstrap
from pytest_vmscale.embedded.controllers.deployments import Deployments, bounds
from pytest_vmscale.embedded.controllers.disruption import Disruption, Evictions
from pytest_vmscale.embedded.controllers.events import EventExpiry, Recorder
from pytest_vmscale.embedded.controllers.garbage import GarbageCollector
from pytest_vmscale.embedded.controllers.jobs import Jobs
from pytest_vmscale.embedded.controllers.kubelet import Kubelet
from pytest_vmscale.embedded.controllers.namespaces import Namespaces
from pytest_vmscale.embedded.controllers.nodes import NodeLifecycle, Nodes
from pytest_vmscale.embedded.controllers.scheduler import Scheduler
from pytest_vmscale.embedded.controllers.sets import DaemonSets, StatefulSets
from pytest_vmscale.embedded.controllers.volumes import Volumes
from pytest_vmscale.embedded.controllers.workloads import ReplicaSets

from .kubernetes_side import StandIn, running

RUN = (Nodes, NodeLifecycle, Scheduler, Kubelet)


def template(image="registry/pause:3.5", **spec):
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}], **spec}}


def deployment(replicas=3, **spec):
    return {"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(), **spec}}


def status(cluster, plural="deployments.apps", name="web"):
    return cluster.get(plural, name).get("status", {})


def condition(cluster, type_, plural="deployments.apps", name="web"):
    return next((each for each in status(cluster, plural, name).get("conditions", ()) if each["type"] == type_), {})


def ready_pods(cluster):
    return [pod for pod in cluster.list("pods", "ns") if "deletionTimestamp" not in pod["metadata"]
            and any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))]


def play(scenario):
    asyncio.run(scenario())


@pytest.mark.parametrize(("strategy", "replicas", "expected"), [
    ({}, 10, (3, 2)), ({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}, 10, (0, 1)),
    ({"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 1}}, 3, (2, 1)), ({}, 1, (1, 0))])
def test_the_bounds_of_a_rolling_update(strategy, replicas, expected):
    assert bounds(strategy, replicas) == expected


def test_a_deployment_comes_up_scales_and_rolls_without_falling_below_its_minimum():
    async def scenario():
        async with running(StandIn(), *RUN, ReplicaSets, Deployments) as cluster:
            cluster.create("deployments.apps", deployment(4))
            await cluster.until(lambda: status(cluster).get("availableReplicas") == 4)
            await cluster.until(lambda: condition(cluster, "Progressing").get("reason") == "NewReplicaSetAvailable")
            assert condition(cluster, "Available")["status"] == "True"
            first = cluster.list("replicasets.apps", "ns")[0]
            assert first["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
            assert first["metadata"]["ownerReferences"][0]["name"] == "web"

            cluster.change("deployments.apps", "web", lambda obj: obj["spec"].update(replicas=6))
            await cluster.until(lambda: status(cluster).get("availableReplicas") == 6)
            assert len(cluster.list("replicasets.apps", "ns")) == 1

            lowest = 6
            cluster.change("deployments.apps", "web", lambda obj: obj["spec"]["template"]["spec"]["containers"][0].update(image="registry/pause:3.6"))
            generation = cluster.get("deployments.apps", "web")["metadata"]["generation"]

            def rolled():
                nonlocal lowest
                lowest = min(lowest, len(ready_pods(cluster)))
                now = status(cluster)
                return now.get("observedGeneration", 0) >= generation and now.get("updatedReplicas") == now.get("replicas") == now.get("availableReplicas") == 6

            await cluster.until(rolled)
            assert lowest >= 5  # 25 % of 6, rounded down
            assert sorted(each["spec"]["replicas"] for each in cluster.list("replicasets.apps", "ns")) == [0, 6]
            assert cluster.get("deployments.apps", "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
            assert {pod["spec"]["containers"][0]["image"] for pod in ready_pods(cluster)} == {"registry/pause:3.6"}

    play(scenario)


def test_a_rollback_uses_the_old_replica_set_under_a_new_revision():
    async def scenario():
        async with running(StandIn(), *RUN, ReplicaSets, Deployments) as cluster:
            cluster.create("deployments.apps", deployment(1))
            await cluster.until(lambda: status(cluster).get("availableReplicas") == 1)
            image = lambda name: cluster.change(  # noqa: E731
                "deployments.apps", "web", lambda obj: obj["spec"]["template"]["spec"]["containers"][0].update(image=name))
            image("new")
            await cluster.until(lambda: len(cluster.list("replicasets.apps", "ns")) == 2)
            image("registry/pause:3.5")
            await cluster.until(lambda: sorted(each["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
                                               for each in cluster.list("replicasets.apps", "ns")) == ["2", "3"])

    play(scenario)


def test_recreate_never_has_two_templates_at_once_and_pause_holds_a_roll():
    async def scenario():
        async with running(StandIn(), *RUN, ReplicaSets, Deployments) as cluster:
            cluster.create("deployments.apps", deployment(2, strategy={"type": "Recreate"}))
            await cluster.until(lambda: status(cluster).get("availableReplicas") == 2)

            def pause(obj):
                obj["spec"]["paused"] = True
                obj["spec"]["template"]["spec"]["containers"][0]["image"] = "new"

            cluster.change("deployments.apps", "web", pause)
            await cluster.until(lambda: condition(cluster, "Progressing").get("reason") == "DeploymentPaused")
            assert len(cluster.list("replicasets.apps", "ns")) == 1
            cluster.change("deployments.apps", "web", lambda obj: obj["spec"].update(paused=False))

            def images():
                found = {pod["spec"]["containers"][0]["image"] for pod in ready_pods(cluster)}
                assert len(found) <= 1
                return found

            await cluster.until(lambda: images() == {"new"} and status(cluster).get("availableReplicas") == 2)

    play(scenario)


def test_a_replica_set_replaces_a_lost_pod_and_adopts_a_stray_one():
    async def scenario():
        async with running(StandIn(), *RUN, ReplicaSets) as cluster:
            cluster.pod("stray", labels={"app": "web"})
            cluster.create("replicasets.apps", {"metadata": {"name": "web"}, "spec": deployment(2)["spec"]})
            await cluster.until(lambda: status(cluster, "replicasets.apps").get("readyReplicas") == 2)
            assert cluster.get("pods", "stray")["metadata"]["ownerReferences"][0]["name"] == "web"
            assert len(cluster.list("pods", "ns")) == 2
            cluster.delete("pods", "stray", grace_seconds=0)
            await cluster.until(lambda: status(cluster, "replicasets.apps").get("readyReplicas") == 2 and cluster.get("pods", "stray") is None)

    play(scenario)


def test_a_job_completes_and_one_that_keeps_failing_fails():
    def job(name, command):
        return {"metadata": {"name": name}, "spec": {"completions": 3, "parallelism": 2, "backoffLimit": 1, "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "command": command}]}}}}

    async def scenario():
        async with running(StandIn(), *RUN, Jobs) as cluster:
            cluster.create("jobs.batch", job("good", ["sleep", "2"]))
            cluster.create("jobs.batch", job("bad", ["false"]))
            await cluster.until(lambda: condition(cluster, "Complete", "jobs.batch", "good"))
            assert status(cluster, "jobs.batch", "good")["succeeded"] == 3
            assert status(cluster, "jobs.batch", "good")["completionTime"]
            failed = await cluster.until(lambda: condition(cluster, "Failed", "jobs.batch", "bad"))
            assert failed["reason"] == "BackoffLimitExceeded"

    play(scenario)


def test_a_daemon_set_has_a_pod_on_each_node_that_will_have_it():
    async def scenario():
        async with running(StandIn(workers=3), *RUN, DaemonSets) as cluster:
            cluster.create("daemonsets.apps", {"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template()}})
            await cluster.until(lambda: status(cluster, "daemonsets.apps").get("numberAvailable") == 3)
            assert {pod["spec"]["nodeName"] for pod in ready_pods(cluster)} == {"worker-000", "worker-001", "worker-002"}
            cluster.change("daemonsets.apps", "web", lambda obj: obj["spec"]["template"]["spec"].update(tolerations=[{"operator": "Exists"}]))
            await cluster.until(lambda: status(cluster, "daemonsets.apps").get("updatedNumberScheduled") == 6
                                and status(cluster, "daemonsets.apps").get("numberAvailable") == 6)

    play(scenario)


def test_a_stateful_set_starts_in_order_with_a_claim_for_each_pod():
    async def scenario():
        async with running(StandIn(), Nodes, Bootstrap, NodeLifecycle, Scheduler, Kubelet, Volumes, StatefulSets) as cluster:
            claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
            cluster.create("statefulsets.apps", {"metadata": {"name": "web"}, "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template(), "volumeClaimTemplates": [claim]}})
            await cluster.until(lambda: status(cluster, "statefulsets.apps").get("readyReplicas") == 2)
            first, second = cluster.get("pods", "web-0"), cluster.get("pods", "web-1")
            assert first["status"]["startTime"] <= second["metadata"]["creationTimestamp"]
            assert cluster.get("persistentvolumeclaims", "data-web-1")["status"]["phase"] == "Bound"

    play(scenario)


def test_claims_get_the_default_class_and_wait_for_a_consumer_where_the_class_says_so():
    async def scenario():
        async with running(StandIn(), Nodes, Bootstrap, NodeLifecycle, Scheduler, Kubelet, Volumes) as cluster:
            spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
            cluster.create("persistentvolumeclaims", {"metadata": {"name": "now"}, "spec": dict(spec)})
            late = {**spec, "storageClassName": "ocs-external-storagecluster-ceph-rbd-wffc"}
            cluster.create("persistentvolumeclaims", {"metadata": {"name": "late"}, "spec": late})
            await cluster.until(lambda: cluster.get("persistentvolumeclaims", "now")["status"]["phase"] == "Bound")
            claim = cluster.get("persistentvolumeclaims", "now")
            assert claim["spec"]["storageClassName"] == "ocs-external-storagecluster-ceph-rbd"
            assert cluster.get("persistentvolumes", claim["spec"]["volumeName"])["spec"]["claimRef"]["name"] == "now"
            await cluster.clock.sleep(10)
            assert cluster.get("persistentvolumeclaims", "late")["status"]["phase"] == "Pending"
            cluster.pod("consumer", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "late"}}])
            await cluster.until(lambda: cluster.get("pods", "consumer")["status"]["phase"] == "Running")
            cluster.delete("persistentvolumeclaims", "now")
            await cluster.until(lambda: cluster.get("persistentvolumes", claim["spec"]["volumeName"]) is None)

    play(scenario)


@pytest.mark.parametrize(("policy", "pods_after"), [("Background", 0), ("Foreground", 0), ("Orphan", 2)])
def test_what_becomes_of_the_pods_of_a_deleted_deployment(policy, pods_after):
    async def scenario():
        async with running(StandIn(), *RUN, ReplicaSets, Deployments, GarbageCollector) as cluster:
            cluster.create("deployments.apps", deployment(2))
            await cluster.until(lambda: status(cluster).get("availableReplicas") == 2)
            cluster.delete("deployments.apps", "web", policy=policy)
            if policy == "Foreground":
                await cluster.until(lambda: not cluster.list("pods", "ns") or cluster.get("deployments.apps", "web"))
                await cluster.until(lambda: cluster.get("deployments.apps", "web") is None)
                assert not cluster.list("pods", "ns") and not cluster.list("replicasets.apps", "ns")
            await cluster.until(lambda: cluster.get("deployments.apps", "web") is None)
            if policy == "Orphan":
                assert "ownerReferences" not in cluster.list("replicasets.apps", "ns")[0]["metadata"]
                await cluster.clock.sleep(60)
            await cluster.until(lambda: len(cluster.list("pods", "ns")) == pods_after)

    play(scenario)


def test_an_object_whose_owner_never_was_is_collected_and_one_with_a_second_owner_is_not():
    async def scenario():
        async with running(StandIn(), GarbageCollector) as cluster:
            owner = cluster.create("configmaps", {"metadata": {"name": "owner"}})
            reference = {"apiVersion": "v1", "kind": "ConfigMap"}
            nobody = {**reference, "name": "nobody", "uid": "0"}
            cluster.create("configmaps", {"metadata": {"name": "stray", "ownerReferences": [nobody]}})
            cluster.create("configmaps", {"metadata": {"name": "kept", "ownerReferences": [
                nobody, {**reference, "name": "owner", "uid": owner["metadata"]["uid"]}]}})
            await cluster.until(lambda: cluster.get("configmaps", "stray") is None)
            await cluster.until(lambda: len(cluster.get("configmaps", "kept")["metadata"]["ownerReferences"]) == 1)

    play(scenario)


def test_a_namespace_is_furnished_and_when_deleted_emptied_first():
    async def scenario():
        async with running(StandIn(), *RUN, Namespaces) as cluster:
            cluster.create("namespaces", {"metadata": {"name": "ns"}})
            await cluster.until(lambda: cluster.get("configmaps", "kube-root-ca.crt"))
            assert cluster.get("serviceaccounts", "default")
            cluster.pod("p")
            cluster.create("configmaps", {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})
            await cluster.until(lambda: cluster.get("pods", "p")["status"]["phase"] == "Running")
            cluster.delete("namespaces", "ns")
            await cluster.until(lambda: condition(cluster, "NamespaceFinalizersRemaining", "namespaces", "ns").get("status") == "True")
            assert status(cluster, "namespaces", "ns")["phase"] == "Terminating"
            await cluster.until(lambda: cluster.get("pods", "p") is None)
            assert cluster.get("serviceaccounts", "default") is None
            message = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            await cluster.until(lambda: condition(cluster, "NamespaceFinalizersRemaining", "namespaces", "ns")["message"] == message)
            cluster.change("configmaps", "held", lambda obj: obj["metadata"].pop("finalizers"))
            await cluster.until(lambda: cluster.get("namespaces", "ns") is None)

    play(scenario)


def test_evictions_keep_to_the_budget():
    async def scenario():
        async with running(StandIn(), *RUN, ReplicaSets, Disruption) as cluster:
            cluster.create("replicasets.apps", {"metadata": {"name": "web"}, "spec": deployment(3)["spec"]})
            cluster.create("poddisruptionbudgets.policy", {"metadata": {"name": "web"}, "spec": {
                "maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}})
            await cluster.until(lambda: status(cluster, "poddisruptionbudgets.policy").get("disruptionsAllowed") == 1)
            evictions = Evictions(cluster.resources, cluster.clock.timestamp, cluster.truth)
            names = [pod["metadata"]["name"] for pod in cluster.list("pods", "ns")]
            assert evictions.evict("ns", names[0], dry_run=True)["code"] == 201
            assert "deletionTimestamp" not in cluster.get("pods", names[0])["metadata"]
            assert evictions.evict("ns", names[0])["status"] == "Success"
            with pytest.raises(ApiError) as refused:
                evictions.evict("ns", names[1])
            assert refused.value.code == 429 and not refused.value.headers
            assert refused.value.message == "Cannot evict pod as it would violate the pod's disruption budget."
            assert refused.value.details["causes"][0]["reason"] == "DisruptionBudget"
            await cluster.until(lambda: status(cluster, "poddisruptionbudgets.policy").get("disruptionsAllowed") == 1)
            evictions.evict("ns", names[1])
            with pytest.raises(ApiError) as missing:
                evictions.evict("ns", "nobody")
            assert missing.value.code == 404

    play(scenario)


def test_an_eviction_hook_answers_before_the_budget():
    async def scenario():
        async with running(StandIn(), *RUN) as cluster:
            cluster.pod("p")
            evictions = Evictions(cluster.resources, cluster.clock.timestamp, cluster.truth)

            def refuse(pod, dry_run):
                raise ApiError(429, f"Eviction triggered evacuation of VMI {pod['metadata']['name']}")

            evictions.hooks.append(refuse)
            with pytest.raises(ApiError, match="evacuation of VMI p"):
                evictions.evict("ns", "p")
            assert "deletionTimestamp" not in cluster.get("pods", "p")["metadata"]

    play(scenario)


def test_repeated_events_are_counted_and_old_ones_expire():
    async def scenario():
        async with running(StandIn(event_ttl_seconds=100), EventExpiry) as cluster:
            about = cluster.create("configmaps", {"metadata": {"name": "c"}})
            recorder = Recorder(cluster)
            for _ in range(3):
                recorder.event(about, "Warning", "Again", "and again", "tester")
            recorder.event(about, "Normal", "Other", "thing", "tester")
            assert {event["reason"]: event["count"] for event in cluster.list("events")} == {"Again": 3, "Other": 1}
            await cluster.until(lambda: not cluster.list("events"))

    play(scenario)


def test_the_whole_side_comes_up_and_virtualization_is_available():
    async def scenario():
        async with running(StandIn(workers=10), *KUBERNETES_CONTROLLERS) as cluster:
            await cluster.until(lambda: all(each.get("status", {}).get("availableReplicas") == each["spec"]["replicas"]
                                            for each in cluster.list("deployments.apps", "openshift-cnv")))
            await cluster.until(lambda: cluster.get("daemonsets.apps", "virt-handler", "openshift-cnv").get("status", {}).get("numberReady") == 10)
            assert cluster.get("serviceaccounts", "default", "openshift-cnv")

    play(scenario)


def test_a_stored_object_takes_little_more_memory_than_its_text():
    """orjson's own buffers are 8 KiB each: 24,400 pods with their events would take a gigabyte more."""
    import tracemalloc

    cluster = StandIn()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for index in range(200):
            cluster.create("configmaps", {"metadata": {"name": f"c{index}"}})
        assert (tracemalloc.get_traced_memory()[0] - before) / 200 < 3000
    finally:
        tracemalloc.stop()
