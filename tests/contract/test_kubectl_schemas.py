"""kubectl, as a user has it: OpenAPI, protobuf, tables and server-side apply together."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from .conftest import Api, vm

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
    "spec": {"selector": {"matchLabels": {"a": "b"}},
             "template": {"metadata": {"labels": {"a": "b"}},
                          "spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "e", "image": "e:1"}]}}}}


def kubectl(api: Api, *arguments: str, given: Any = None, code: int = 0) -> str:
    """What it prints; `given` goes to its standard input as JSON. It must exit with this code."""
    done = subprocess.run(["kubectl", "--kubeconfig", str(api.kubeconfig), "--cache-dir", str(api.kubeconfig.parent / "cache"), "-n",
                           api.namespace, *arguments],
                          input=json.dumps(given) if given is not None else None, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("words", [
    "create configmap c --from-literal=a=b", "create secret generic s --from-literal=a=b", "create serviceaccount s",
    "create deployment d --image=i --replicas=2",
    "create job j --image=i", "create cronjob j --image=i --schedule=@daily", "create pdb p --selector=a=b --min-available=1",
    "create service clusterip s --tcp=80:8080", "create role r --verb=get --resource=pods", "create rolebinding b --role=r --user=u",
    "run p --image=i --port=80 --labels=a=b"])
def test_create_of_every_built_in_kind_that_it_has_a_word_for(api: Api, words: str) -> None:
    assert "created" in kubectl(api, *words.split())


def test_a_pod_made_with_run_is_whole(api: Api) -> None:
    kubectl(api, "run", "p", "--image=i", "--port=80", "--env=A=1", "--labels=a=b", "--", "sleep", "5")
    pod = json.loads(kubectl(api, "get", "pod", "p", "-o", "json"))
    container = pod["spec"]["containers"][0]
    assert pod["metadata"]["labels"] == {"a": "b"}
    assert (container["args"], container["env"], container["ports"]) == (["sleep", "5"], [{"name": "A", "value": "1"}],
                                                                         [{"containerPort": 80, "protocol": "TCP"}])


def test_apply_diff_and_apply_again(api: Api) -> None:
    assert "created" in kubectl(api, "apply", "-f", "-", given=DEPLOYMENT)
    assert "unchanged" in kubectl(api, "apply", "-f", "-", given=DEPLOYMENT)
    changed = json.loads(json.dumps(DEPLOYMENT))
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2"
    assert "+      - image: i:2" in kubectl(api, "diff", "-f", "-", given=changed, code=1)
    assert "configured" in kubectl(api, "apply", "-f", "-", given=changed)
    containers = json.loads(kubectl(api, "get", "deploy", "d", "-o", "json"))["spec"]["template"]["spec"]["containers"]
    assert [(each["name"], each["image"]) for each in containers] == [("c", "i:2"), ("e", "e:1")]


def test_server_side_apply_of_a_custom_resource(api: Api) -> None:
    obj = vm("v", a="x")
    assert "serverside-applied" in kubectl(api, "apply", "--server-side", "--field-manager=one", "-f", "-", given=obj)
    obj["spec"]["runStrategy"] = "Always"
    refused = kubectl(api, "apply", "--server-side", "--field-manager=two", "-f", "-", given=obj, code=1)
    assert 'conflict with "one": .spec.runStrategy' in refused
    assert "serverside-applied" in kubectl(api, "apply", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-", given=obj)


def test_create_refuses_a_field_that_there_is_not(api: Api) -> None:
    obj = vm("v")
    obj["spec"]["template"]["spec"]["domain"]["devises"] = {}
    assert 'unknown field "spec.template.spec.domain.devises"' in kubectl(api, "create", "-f", "-", given=obj, code=1)


@pytest.mark.parametrize(("path", "field"), [
    ("vm.spec.template.spec.domain.cpu", "cores\t<integer>"), ("pod.spec.containers", "image\t<string>"), ("dv.spec.source", "pvc\t<"),
    ("mcp.spec", "maxUnavailable\t<"), ("deployment.spec.strategy", "rollingUpdate\t<")])
def test_explain(api: Api, path: str, field: str) -> None:
    assert field in kubectl(api, "explain", path)


def test_explain_recursive(api: Api) -> None:
    assert "terminationGracePeriodSeconds\t<integer>" in kubectl(api, "explain", "vm", "--recursive")


def test_get_prints_the_printer_columns(quiet: Api) -> None:
    assert quiet.post(quiet.vms, vm("v")).code == 201
    assert kubectl(quiet, "get", "vm").splitlines()[0].split() == ["NAME", "AGE", "STATUS", "READY"]
    vmi = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "i"}, "spec": {"domain": {"devices": {}}}}
    kubectl(quiet, "create", "-f", "-", given=vmi)
    assert kubectl(quiet, "get", "vmi", "-o", "wide").splitlines()[0].split() == [
        "NAME", "AGE", "PHASE", "IP", "NODENAME", "READY", "LIVE-MIGRATABLE", "PAUSED"]
    kubectl(quiet, "run", "p", "--image=i")
    header, row = kubectl(quiet, "get", "pods", "-o", "wide").splitlines()
    assert header.split("  ")[0] == "NAME" and header.endswith("IP       NODE     NOMINATED NODE   READINESS GATES")
    assert row.split()[:4] == ["p", "0/1", "Pending", "0"]
