"""What the cluster behind the API does by itself, asked by kubectl: rollouts, drains, deletions.

Runs on an embedded cluster of its own, or on the one that VMSCALE_CONTRACT_KUBECONFIG names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
DEADLINE_WALL_SECONDS = 120.0
IMAGE = "registry.k8s.io/pause:3.9"


@dataclass
class Kubectl:
    kubeconfig: str
    namespace: str = "default"

    def __call__(self, *words: str, stdin: str | None = None, code: int = 0) -> str:
        """Its output (of a failure: its errors). AssertionError if it ends otherwise than expected."""
        command = ["kubectl", "--kubeconfig", self.kubeconfig, "--namespace", self.namespace, *words]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=DEADLINE_WALL_SECONDS, check=False)
        assert result.returncode == code, f"{' '.join(words)}: {result.stdout}{result.stderr}"
        return result.stdout if not code else result.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self("get", *words, "-o", "json"))

    def create(self, obj: dict[str, Any]) -> None:
        self("create", "--validate=false", "-f", "-", stdin=json.dumps(obj))

    def until(self, check: Callable[[], Any]) -> Any:
        end = time.monotonic() + DEADLINE_WALL_SECONDS
        while not (found := check()):
            assert time.monotonic() < end, "not so in time"
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("VMSCALE_CONTRACT_KUBECONFIG")
    if given:
        if not Kubectl(given).json("nodes")["items"]:
            pytest.skip("that server has no nodes")
        yield given
        return
    folder: Path = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, "-m", "pytest_vmscale.embedded", "--state-dir", str(folder / "state"), "--workers", "3", "--speed", "50", "--parent-pipe"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        line = process.stdout.readline().strip()
        assert line, "the embedded cluster did not start"
        yield line
        process.stdin.close()
        process.wait(30)


@pytest.fixture
def kubectl(kubeconfig: str) -> Iterator[Kubectl]:
    found = Kubectl(kubeconfig, f"contract-{uuid.uuid4().hex[:6]}")
    found.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": found.namespace}})
    yield found
    found("delete", "namespace", found.namespace, "--wait=false")


def deployment(replicas: int = 2) -> dict[str, Any]:
    containers = [{"name": "pause", "image": IMAGE}]
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers, "terminationGracePeriodSeconds": 1}}}}


def pods(kubectl: Kubectl) -> list[Any]:
    found: list[Any] = kubectl.json("pods")["items"]
    return found


def test_a_rollout_and_its_undoing(kubectl: Kubectl) -> None:
    kubectl.create(deployment())
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web")
    kubectl("set", "image", "deployment/web", f"pause={IMAGE}0")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web")
    kubectl("rollout", "undo", "deployment/web")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web")
    assert {pod["spec"]["containers"][0]["image"] for pod in pods(kubectl) if "deletionTimestamp" not in pod["metadata"]} == {IMAGE}
    assert "3" in kubectl("rollout", "history", "deployment/web")


def test_scale_up_and_down(kubectl: Kubectl) -> None:
    kubectl.create(deployment(1))
    kubectl("scale", "deployment/web", "--replicas=3")
    kubectl("wait", "deployment/web", "--for=jsonpath={.status.availableReplicas}=3", f"--timeout={DEADLINE_WALL_SECONDS}s")
    kubectl("scale", "deployment/web", "--replicas=1")
    kubectl.until(lambda: len(pods(kubectl)) == 1)


@pytest.mark.parametrize(("cascade", "left"), [("background", 0), ("foreground", 0), ("orphan", 2)])
def test_deletion_with_cascade(kubectl: Kubectl, cascade: str, left: int) -> None:
    kubectl.create(deployment())
    kubectl("rollout", "status", "deployment/web")
    kubectl("delete", "deployment/web", f"--cascade={cascade}")
    assert "NotFound" in kubectl("get", "deployment/web", code=1)
    kubectl.until(lambda: len(pods(kubectl)) == left)


def test_a_deleted_namespace_takes_everything_with_it(kubectl: Kubectl) -> None:
    name = f"{kubectl.namespace}-2"
    inside = Kubectl(kubectl.kubeconfig, name)
    inside.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    inside.create(deployment())
    inside("rollout", "status", "deployment/web")
    inside("delete", "namespace", name)
    assert "NotFound" in inside("get", "namespace", name, code=1)
    assert not pods(inside)


def test_a_drain_keeps_to_the_disruption_budget(kubectl: Kubectl) -> None:
    kubectl.create(deployment())
    kubectl("rollout", "status", "deployment/web")
    kubectl.create({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
                    "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}})
    kubectl.until(lambda: kubectl.json("pdb", "web").get("status", {}).get("currentHealthy") == 2)
    node = pods(kubectl)[0]["spec"]["nodeName"]
    try:
        drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--pod-selector=app=web")
        assert "Cannot evict pod as it would violate the pod's disruption budget." in kubectl(*drain, "--timeout=2s", code=1)
        assert kubectl.json("node", node)["spec"]["unschedulable"] is True
        kubectl("delete", "pdb", "web")
        assert "drained" in kubectl(*drain, f"--timeout={DEADLINE_WALL_SECONDS}s")
        kubectl("rollout", "status", "deployment/web")
        assert node not in {pod["spec"]["nodeName"] for pod in pods(kubectl)}
    finally:
        kubectl("uncordon", node)
    assert "unschedulable" not in kubectl.json("node", node)["spec"]


def test_why_a_pod_is_not_scheduled(kubectl: Kubectl) -> None:
    kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"}, "spec": {
        "containers": [{"name": "c", "image": IMAGE, "resources": {"requests": {"cpu": "10k"}}}]}})

    def scheduled() -> Any:
        conditions = kubectl.json("pod", "big")["status"].get("conditions", ())
        return next((each for each in conditions if each["type"] == "PodScheduled"), None)

    found = kubectl.until(scheduled)
    assert (found["status"], found["reason"]) == ("False", "Unschedulable")
    assert "nodes are available" in found["message"] and "Insufficient cpu" in found["message"]
    assert "FailedScheduling" in kubectl("get", "events")


def test_another_scheduler_binds_its_pods(kubectl: Kubectl) -> None:
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/own/binding"
    kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own"}, "spec": {
        "schedulerName": "of-our-own", "containers": [{"name": "pause", "image": IMAGE}], "terminationGracePeriodSeconds": 1}})
    node = next(each["metadata"]["name"] for each in kubectl.json("nodes")["items"] if not each["spec"].get("taints"))
    binding = json.dumps({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "own"}, "target": {"apiVersion": "v1", "kind": "Node", "name": node}})
    kubectl("create", "--raw", path, "-f", "-", stdin=binding)
    kubectl("wait", "--for=condition=Ready", "pod/own", "--timeout=60s")
    assert kubectl.json("pod", "own")["spec"]["nodeName"] == node
    assert "pod own is already assigned to node" in kubectl("create", "--raw", path, "-f", "-", stdin=binding, code=1)


def test_a_pod_of_nothing_is_invalid_and_no_internal_error(kubectl: Kubectl) -> None:
    for spec in ({}, {"spec": {}}, {"spec": {"containers": []}}):
        obj = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "nothing"}, **spec}
        refused = kubectl("create", "--validate=false", "-f", "-", stdin=json.dumps(obj), code=1)
        assert 'The Pod "nothing" is invalid: spec.containers: Required value' in refused
