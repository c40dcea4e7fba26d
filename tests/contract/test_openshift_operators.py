"""What OpenShift's machine-config and virtualization operators do, asked by kubectl.

Runs on an embedded cluster of its own, or on the OpenShift that VMSCALE_CONTRACT_KUBECONFIG names: nothing here drains or reboots a node.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator

import pytest

from .test_cluster import Kubectl, kubeconfig  # noqa: F401  (the fixture)

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
JSON_PATCH = "kubevirt.kubevirt.io/jsonpatch"


@pytest.fixture
def kubectl(kubeconfig: str) -> Kubectl:  # noqa: F811
    found = Kubectl(kubeconfig)
    if "machineconfigpools" not in found("api-resources", "--api-group", "machineconfiguration.openshift.io"):
        pytest.skip("that server is no OpenShift")
    return found


def words(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_pools_configs_and_nodes_look_as_they_do_on_openshift(kubectl):
    header, *pools = words(kubectl("get", "mcp"))
    assert header == ["NAME", "CONFIG", "UPDATED", "UPDATING", "DEGRADED", "MACHINECOUNT", "READYMACHINECOUNT", "UPDATEDMACHINECOUNT",
                      "DEGRADEDMACHINECOUNT", "AGE"]
    worker = next(line for line in pools if line[0] == "worker")
    assert worker[1].startswith("rendered-worker-") and worker[2:5] == ["True", "False", "False"]
    header, *configs = words(kubectl("get", "mc"))
    assert header == ["NAME", "GENERATEDBYCONTROLLER", "IGNITIONVERSION", "AGE"]
    assert {"00-worker", "01-worker-container-runtime", "01-worker-kubelet", "99-worker-generated-registries", "99-worker-ssh"} <= {
        line[0] for line in configs}
    assert words(kubectl("get", "kubeletconfig"))[0] == ["NAME", "AGE"] or "No resources" in kubectl("get", "kubeletconfig")
    config = kubectl.json("mc", worker[1])
    assert config["metadata"]["ownerReferences"][0]["name"] == "worker" and config["spec"]["osImageURL"]
    for node in kubectl.json("nodes", "-l", "node-role.kubernetes.io/worker")["items"]:
        notes = node["metadata"]["annotations"]
        assert notes["machineconfiguration.openshift.io/state"] == "Done"
        assert notes["machineconfiguration.openshift.io/currentConfig"] == notes["machineconfiguration.openshift.io/desiredConfig"]


def test_what_a_kubelet_runs_with_is_what_its_node_allows(kubectl):
    node = kubectl.json("nodes", "-l", "node-role.kubernetes.io/worker")["items"][0]
    config = json.loads(kubectl("get", "--raw", f"/api/v1/nodes/{node['metadata']['name']}/proxy/configz"))["kubeletconfig"]
    assert str(config["maxPods"]) == node["status"]["allocatable"]["pods"]
    assert {"kubeAPIQPS", "kubeAPIBurst", "nodeStatusMaxImages"} <= set(config)


def test_a_pool_without_nodes_is_rendered_and_updated_at_once(kubectl):
    name = f"contract-{uuid.uuid4().hex[:6]}"
    role = {"key": "machineconfiguration.openshift.io/role", "operator": "In", "values": ["worker", name]}
    kubectl.create({"apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineConfigPool", "metadata": {"name": name}, "spec": {
        "machineConfigSelector": {"matchExpressions": [role]}, "nodeSelector": {"matchLabels": {f"node-role.kubernetes.io/{name}": ""}}}})
    try:
        pool = kubectl.until(lambda: (found := kubectl.json("mcp", name)).get("status", {}).get("configuration", {}).get("name") and found)
        worker = kubectl.json("mcp", "worker")["spec"]["configuration"]
        # The same content has the same hash, whatever the pool.
        assert pool["spec"]["configuration"]["name"] == worker["name"].replace("rendered-worker-", f"rendered-{name}-")
        assert pool["spec"]["configuration"]["source"] == worker["source"] and pool["status"]["machineCount"] == 0
    finally:
        kubectl("delete", "mcp", name)
    kubectl.until(lambda: f"rendered-{name}-" not in kubectl("get", "mc"))  # it owned what was rendered for it


@pytest.fixture
def hyperconverged(kubectl: Kubectl) -> Iterator[Kubectl]:
    found = kubectl.json("hyperconverged", "-A")["items"]
    if not found:
        pytest.skip("HyperConverged is not installed")
    before = found[0]
    kubectl.namespace = before["metadata"]["namespace"]
    yield kubectl
    patch = {"metadata": {"annotations": {JSON_PATCH: (before["metadata"].get("annotations") or {}).get(JSON_PATCH)}},
             "spec": {"liveMigrationConfig": before["spec"]["liveMigrationConfig"]}}
    kubectl("patch", "hyperconverged", before["metadata"]["name"], "--type=merge", "-p", json.dumps(patch))


def conditions(kubectl: Kubectl) -> dict[str, tuple[str, str]]:
    found = kubectl.json("hyperconverged")["items"][0]["status"]["conditions"]
    return {each["type"]: (each["status"], each.get("message", "")) for each in found}


def test_hyperconverged_decides_what_kubevirt_says_of_migrations(hyperconverged):
    def migrations():
        return hyperconverged.json("kubevirt")["items"][0]["spec"]["configuration"]["migrations"]

    name = hyperconverged.json("hyperconverged")["items"][0]["metadata"]["name"]
    spec = {"spec": {"liveMigrationConfig": {"parallelMigrationsPerCluster": 17, "parallelOutboundMigrationsPerNode": 3}}}
    hyperconverged("patch", "hyperconverged", name, "--type=merge", "-p", json.dumps(spec))
    hyperconverged.until(lambda: (migrations()["parallelMigrationsPerCluster"], migrations()["parallelOutboundMigrationsPerNode"]) == (17, 3))
    kubevirt = hyperconverged.json("kubevirt")["items"][0]["metadata"]["name"]
    mine = {"spec": {"configuration": {"migrations": {"parallelMigrationsPerCluster": 1}}}}
    hyperconverged("patch", "kubevirt", kubevirt, "--type=merge", "-p", json.dumps(mine))
    hyperconverged.until(lambda: migrations()["parallelMigrationsPerCluster"] == 17)  # the operator puts it back


def test_the_annotation_scales_virt_api_and_taints_the_configuration(hyperconverged):
    name = hyperconverged.json("hyperconverged")["items"][0]["metadata"]["name"]

    def annotate(text):
        hyperconverged("annotate", "--overwrite", "hyperconverged", name, f"{JSON_PATCH}{text}")

    def replicas():
        return hyperconverged.json("deployment", "virt-api")["status"].get("readyReplicas")

    scale = [{"resourceType": "Deployment", "resourceName": "virt-api", "type": "json", "patch": '[{"op": "replace", "path": "/spec/replicas", "value": 3}]'}]
    annotate("=" + json.dumps([{"op": "add", "path": "/spec/customizeComponents/patches", "value": scale}]))
    hyperconverged.until(lambda: replicas() == 3)
    assert conditions(hyperconverged)["TaintedConfiguration"] == ("True", "Unsupported feature was activated via an HCO annotation")
    annotate('=[{"op": "add", "path": "/metadata/name", "value": "x"}]')
    hyperconverged.until(lambda: conditions(hyperconverged)["ReconcileComplete"][0] == "False")
    assert conditions(hyperconverged)["ReconcileComplete"][1] == (
        f"Error while reconciling: invalid jsonPatch in the {JSON_PATCH} annotation: can only modify spec fields")
    annotate("-")
    hyperconverged.until(lambda: "TaintedConfiguration" not in conditions(hyperconverged) and replicas() == 2)
    assert conditions(hyperconverged)["ReconcileComplete"][0] == "True"
