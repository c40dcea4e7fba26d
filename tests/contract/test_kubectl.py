"""The everyday commands of kubectl, which asks for discovery, OpenAPI, tables and protobuf in its own ways."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Api, config_map, kubectls, vm

pytestmark = pytest.mark.skipif(not kubectls(), reason="needs kubectl")


@pytest.fixture(params=kubectls(), ids=lambda path: Path(path).name)
def kubectl(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> Any:
    def run(*words: str, stdin: Any = None, code: int = 0) -> str:
        command = [request.param, "--kubeconfig", str(api.kubeconfig), "--cache-dir", str(tmp_path), "--namespace", api.namespace, *words]
        text = stdin if stdin is None or isinstance(stdin, str) else yaml.safe_dump_all(stdin if isinstance(stdin, list) else [stdin])
        result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == code, f"{' '.join(words)}: {result.stdout}{result.stderr}"
        return result.stdout if code == 0 else result.stderr

    return run


def test_objects_from_files(kubectl: Any) -> None:
    assert kubectl("create", "-f", "-", stdin=[vm("a", x="1"), config_map("c", {"k": "v"})]).splitlines() == ["virtualmachine.kubevirt.io/a created", "configmap/c created"]
    assert "(AlreadyExists)" in kubectl("create", "-f", "-", stdin=vm("a"), code=1)
    assert kubectl("replace", "-f", "-", stdin=vm("a", x="2")) == "virtualmachine.kubevirt.io/a replaced\n"
    assert kubectl("get", "vm", "a", "-o", "jsonpath={.metadata.labels.x}") == "2"
    assert kubectl("delete", "-f", "-", stdin=[vm("a"), config_map("c")]).count("deleted") == 2


def test_apply(kubectl: Any) -> None:
    assert kubectl("apply", "-f", "-", stdin=vm("a", x="1")) == "virtualmachine.kubevirt.io/a created\n"
    assert kubectl("apply", "-f", "-", stdin=vm("a", x="1")) == "virtualmachine.kubevirt.io/a unchanged\n"
    assert kubectl("apply", "-f", "-", stdin=vm("a", x="2")) == "virtualmachine.kubevirt.io/a configured\n"
    assert kubectl("diff", "-f", "-", stdin=vm("a", x="2")) == ""
    assert kubectl("apply", "--server-side", "-f", "-", stdin=config_map("s", {"k": "v"})) == "configmap/s serverside-applied\n"
    assert "conflict with" in kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=config_map("s", {"k": "w"}), code=1)


def test_a_mistake_is_named(kubectl: Any) -> None:
    body = vm("a")
    body["spec"]["bogus"] = 1
    assert 'unknown field "spec.bogus"' in kubectl("create", "-f", "-", stdin=body, code=1)


def test_built_in_kinds_by_command(kubectl: Any) -> None:
    """These travel as protobuf."""
    kubectl("create", "configmap", "c", "--from-literal=a=b")
    kubectl("create", "serviceaccount", "s")
    kubectl("create", "deployment", "d", "--image=registry.k8s.io/pause:3.9", "--replicas=2")
    kubectl("create", "role", "r", "--verb=get", "--resource=pods")
    kubectl("create", "rolebinding", "b", "--role=r", "--serviceaccount=default:s")
    kubectl("create", "poddisruptionbudget", "p", "--selector=app=d", "--min-available=1")
    kubectl("create", "job", "j", "--image=i")
    kubectl("create", "secret", "generic", "x", "--from-literal=a=b")
    assert len(kubectl("create", "token", "s").strip().split(".")) == 3
    found = json.loads(kubectl("get", "cm/c", "sa/s", "deployment/d", "pdb/p", "job/j", "secret/x", "-o", "json"))["items"]
    assert [item["kind"] for item in found] == ["ConfigMap", "ServiceAccount", "Deployment", "PodDisruptionBudget", "Job", "Secret"]
    assert (found[2]["spec"]["replicas"], found[5]["data"]) == (2, {"a": "Yg=="})
    assert kubectl("scale", "deployment", "d", "--replicas=5") == "deployment.apps/d scaled\n"
    assert kubectl("get", "deployment", "d", "-o", "jsonpath={.spec.replicas}") == "5"


def test_tables(kubectl: Any) -> None:
    kubectl("create", "-f", "-", stdin=[vm("b"), vm("a")])
    lines = kubectl("get", "vm").splitlines()
    assert lines[0].split()[0] == "NAME"
    assert [line.split()[0] for line in lines[1:]] == ["a", "b"]
    assert kubectl("get", "vm", "-o", "name").splitlines() == ["virtualmachine.kubevirt.io/a", "virtualmachine.kubevirt.io/b"]
    assert "virtualmachine.kubevirt.io/a" in kubectl("get", "all")


@pytest.mark.usefixtures("quiet")
def test_edits(kubectl: Any) -> None:
    kubectl("create", "-f", "-", stdin=[vm("a"), config_map("c", {"k": "v"})])
    kubectl("label", "vm", "a", "x=y")
    kubectl("annotate", "vm", "a", "p=q")
    kubectl("patch", "vm", "a", "--type=merge", "-p", '{"spec":{"runStrategy":"Manual"}}')
    kubectl("patch", "vm", "a", "--type=json", "-p", '[{"op":"replace","path":"/metadata/labels/x","value":"z"}]')
    kubectl("patch", "configmap", "c", "-p", '{"data":{"l":"w"}}')
    kubectl("patch", "vm", "a", "--type=merge", "--subresource=status", "-p", '{"status":{"ready":true}}')
    body = json.loads(kubectl("get", "vm", "a", "-o", "json"))
    assert (body["metadata"]["labels"], body["metadata"]["annotations"], body["spec"]["runStrategy"], body["status"]["ready"]) == ({"x": "z"}, {"p": "q"}, "Manual", True)
    assert json.loads(kubectl("get", "cm", "c", "-o", "json"))["data"] == {"k": "v", "l": "w"}


def test_waiting_and_asking(kubectl: Any) -> None:
    kubectl("create", "-f", "-", stdin=vm("a"))
    assert "condition met" in kubectl("wait", "vm/a", "--for=jsonpath={.spec.runStrategy}=Halted", "--timeout=20s")
    assert "deleted" in kubectl("delete", "vm", "a", "--wait")
    assert kubectl("auth", "can-i", "delete", "nodes") == "yes\n"
    kubectl("auth", "can-i", "delete", "nodes", "--as=jane", code=1)
    assert "FIELD: runStrategy <string>" in kubectl("explain", "vm.spec.runStrategy")
    assert "kubevirt.io/v1" in kubectl("api-versions")
    assert "error: the server doesn't have a resource type" in kubectl("get", "nopes", code=1)
