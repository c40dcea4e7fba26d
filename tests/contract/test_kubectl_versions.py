"""What differs between kubectls of several ages: the schemas that they fetch, the bodies that they send, and how apply moves to the server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Api, config_map, kubectls, vm

pytestmark = pytest.mark.skipif(not kubectls(), reason="needs kubectl")
CONTAINERS = [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}, {"name": "d", "image": "j:1"}]
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
    "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
             "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": CONTAINERS}}}}


def deployment(image: str) -> dict[str, Any]:
    """DEPLOYMENT with another image in its first container."""
    found: dict[str, Any] = json.loads(json.dumps(DEPLOYMENT))
    found["spec"]["template"]["spec"]["containers"][0]["image"] = image
    return found


class Kubectl:
    def __init__(self, binary: str, api: Api, cache: Path) -> None:
        self._command = [binary, "--kubeconfig", str(api.kubeconfig), "--cache-dir", str(cache), "--namespace", api.namespace]

    def __call__(self, words: str, *more: str, given: Any = None, code: int = 0, **environment: str) -> str:
        """What it prints on both of its streams; `given` is its standard input, as JSON."""
        done = subprocess.run([*self._command, *words.split(), *more], input=None if given is None else json.dumps(given), capture_output=True,
                              text=True, timeout=60, check=False, env={**os.environ, **environment})
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def json(self, words: str) -> Any:
        return json.loads(self(f"{words} -o json"))


@pytest.fixture(params=kubectls(), ids=lambda path: Path(path).name)
def kubectl(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> Kubectl:
    return Kubectl(request.param, api, tmp_path)


def test_apply_goes_by_the_schemas(kubectl: Kubectl) -> None:
    """kubectl before 1.28 takes them from OpenAPI v2, in protobuf, and could apply nothing without."""
    everything = {"apiVersion": "v1", "kind": "List", "items": [config_map("c", {"k": "v"}, x="1"), DEPLOYMENT, vm("v", x="1")]}
    assert kubectl("apply -f -", given=everything).split()[1::2] == ["created"] * 3
    assert kubectl("apply -f -", given=everything).split()[1::2] == ["unchanged"] * 3
    assert "+      - image: i:2" in kubectl("diff -f -", given=deployment("i:2"), code=1)
    assert "web configured" in kubectl("apply -f -", given=deployment("i:2"))
    found = kubectl.json("get deploy web")["spec"]["template"]["spec"]["containers"]
    assert [(each["name"], each["image"]) for each in found] == [("c", "i:2"), ("d", "j:1")]
    assert found[0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]


def test_a_mistake_in_an_applied_object_quotes_the_patch_as_go_prints_it(kubectl: Kubectl) -> None:
    kubectl("apply -f -", given=DEPLOYMENT)
    wrong = deployment("i:1")
    wrong["spec"]["replicaz"] = wrong["spec"].pop("replicas")
    answer = kubectl("apply -f -", given=wrong, code=1)
    assert answer.startswith('The request is invalid: patch: Invalid value: "map[metadata:map[annotations:map[')
    assert 'spec:map[replicas:<nil> replicaz:2]]": strict decoding error: unknown field "spec.replicaz"' in answer


def test_explain(kubectl: Kubectl) -> None:
    assert "containers\t<[]Container> -required-" in kubectl("explain pod.spec --recursive")
    assert "runStrategy\t<string>" in kubectl("explain vm.spec")
    assert "metadata\t<ObjectMeta>" in kubectl("explain vm")
    assert "FIELD: conditions <[]Object>" in kubectl("explain vm.status.conditions") and "message\t<string>" in kubectl("explain vm.status.conditions")
    assert "<no description>" not in kubectl("explain vm.spec.runStrategy")
    assert 'field "nope" does not exist' in kubectl("explain vm.spec.nope", code=1)
    old = kubectl("explain pod.spec --output=plaintext-openapiv2")  # which reads OpenAPI v2
    assert "containers\t<[]Object> -required-" in old and "KIND:     Pod" in old


def managers(obj: Any) -> set[tuple[str, str]]:
    """Who owns what, the status left out: where there are controllers, that is theirs."""
    return {(entry["manager"], entry["operation"]) for entry in obj["metadata"]["managedFields"] if "subresource" not in entry}


def test_apply_moves_to_the_server(kubectl: Kubectl) -> None:
    """What client-side apply owned, server-side apply takes over without a conflict; its manager goes, and what is no longer applied with it."""
    kubectl("apply -f -", given=deployment("i:1"))
    assert kubectl("apply --server-side -f -", given=deployment("i:2")) == "deployment.apps/web serverside-applied\n"
    found = kubectl.json("get deploy web --show-managed-fields")
    assert managers(found) == {("kubectl", "Apply"), ("kubectl-last-applied", "Apply")}
    less = deployment("i:2")
    del less["spec"]["template"]["spec"]["containers"][1]
    kubectl("apply --server-side -f -", given=less)
    assert [each["name"] for each in kubectl.json("get deploy web")["spec"]["template"]["spec"]["containers"]] == ["c"]


def test_a_conflict_between_managers_and_who_wins_it(kubectl: Kubectl) -> None:
    kubectl("apply --server-side -f -", given=config_map("c", {"k": "1"}))
    refused = kubectl("apply --server-side --field-manager=other -f -", given=config_map("c", {"k": "2"}), code=1)
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .data.k' in refused
    kubectl("apply --server-side --field-manager=other --force-conflicts -f -", given=config_map("c", {"k": "2"}))
    found = kubectl.json("get cm c --show-managed-fields")
    assert found["data"] == {"k": "2"} and ("other", "Apply") in managers(found)


def test_edit(kubectl: Kubectl) -> None:
    kubectl("create deployment d --image=i --replicas=2")
    assert "edited" in kubectl("edit deploy d", EDITOR="sed -i s/replicas:.2/replicas:\\ 3/")
    assert kubectl.json("get deploy d")["spec"]["replicas"] == 3
    assert "no changes made" in kubectl("edit deploy d", EDITOR="true")


@pytest.mark.parametrize("field", ["replicas", "minReadySeconds", "revisionHistoryLimit"])
def test_there_is_nothing_of_less_than_none(kubectl: Kubectl, field: str) -> None:
    kubectl("create deployment d --image=i")
    answer = kubectl("patch deploy d -p", json.dumps({"spec": {field: -1}}), code=1)
    assert f'The Deployment "d" is invalid: spec.{field}: Invalid value: -1: must be greater than or equal to 0' in answer


def test_small_commands(kubectl: Kubectl) -> None:
    """One line each, as a real server makes it print them."""
    kubectl("create deployment d --image=i")
    assert kubectl("set image deploy/d i=i:2") == "deployment.apps/d image updated\n"
    assert kubectl("rollout restart deploy/d") == "deployment.apps/d restarted\n"
    assert kubectl("rollout pause deploy/d") == "deployment.apps/d paused\n"
    assert "is already paused" in kubectl("rollout pause deploy/d", code=1)
    assert kubectl("expose deploy d --port=80") == "service/d exposed\n"
    assert kubectl("scale deploy d --replicas=3 --current-replicas=1") == "deployment.apps/d scaled\n"
    assert "Expected replicas to be 9, was 3" in kubectl("scale deploy d --replicas=4 --current-replicas=9", code=1)
    assert kubectl("label deploy d x=y") == "deployment.apps/d labeled\n"
    assert "'x' already has a value (y), and --overwrite is false" in kubectl("label deploy d x=z", code=1)
    assert kubectl("patch deploy d -p", '{"metadata":{"labels":{"x":"y"}}}') == "deployment.apps/d patched (no change)\n"
    assert kubectl("delete deploy d") == 'deployment.apps "d" deleted\n'
    assert "(NotFound)" in kubectl("get deploy d", code=1)
    assert kubectl("get deploy d --ignore-not-found") == ""


def test_a_watch_follows(kubectl: Kubectl) -> None:
    kubectl("create configmap a --from-literal=k=v")
    words = kubectl("get cm a --watch --request-timeout=1s").split()
    assert words[:3] == ["NAME", "DATA", "AGE"] and words[3:5] == ["a", "1"]
