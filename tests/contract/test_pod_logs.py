"""The log subresource: plain text, and refusals in the real server's and kubelet's words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from .test_kubevirt import Cluster, fresh, started, vm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("logs")) as path:
        yield fresh(path)


def pod(name: str, *containers: str, **spec: Any) -> dict[str, Any]:
    """Containers c0, c1, ... each of which runs a line of shell."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "restartPolicy": "Never", "containers": [{"name": f"c{number}", "image": "busybox", "command": ["sh", "-c", line]} for number, line in enumerate(containers)], **spec}}


def log(cluster: Cluster, name: str, **options: Any) -> tuple[int, str]:
    """The code, and the log or the message of the Status."""
    query = "&".join(f"{key}={quote(str(value))}" for key, value in options.items())
    code, answer = cluster.ask("GET", f"{cluster.path('pods', name)}/log?{query}")
    return code, answer["message"] if isinstance(answer, dict) and answer.get("kind") == "Status" else answer if isinstance(answer, str) else json.dumps(answer)


def phase(cluster: Cluster, name: str) -> str:
    return str(cluster.get("pods", name)["status"].get("phase"))


def test_what_a_container_printed(cluster: Cluster) -> None:
    cluster.create("pods", pod("p", "echo one; sleep 2; echo 'two  words'; sleep 1; echo three"))
    cluster.until(lambda: phase(cluster, "p") == "Succeeded")
    assert log(cluster, "p") == (200, "one\ntwo  words\nthree\n")
    assert log(cluster, "p", tailLines=2) == (200, "two  words\nthree\n")
    assert log(cluster, "p", tailLines=0) == (200, "")
    assert log(cluster, "p", limitBytes=6) == (200, "one\ntw")
    assert log(cluster, "p", container="c0", follow="true")[1].endswith("three\n")
    first = log(cluster, "p", timestamps="true")[1].splitlines()[0]
    stamp, text = first.split(" ", 1)
    state = cluster.get("pods", "p")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert text == "one" and stamp.startswith(state["startedAt"].rstrip("Z"))
    assert log(cluster, "p", sinceTime=state["finishedAt"]) == (200, "three\n")
    assert log(cluster, "p", sinceSeconds=100_000)[1].startswith("one\n")


def test_a_log_is_followed_until_its_container_ends(cluster: Cluster) -> None:
    cluster.create("pods", pod("f", "echo one; sleep 40; echo two", "sleep 3600"))
    cluster.until(lambda: phase(cluster, "f") == "Running")
    assert log(cluster, "f", container="c0") == (200, "one\n")
    assert log(cluster, "f", container="c0", follow="true") == (200, "one\ntwo\n")
    assert "terminated" in cluster.get("pods", "f")["status"]["containerStatuses"][0]["state"] and phase(cluster, "f") == "Running"


def test_the_log_before_the_last_restart(cluster: Cluster) -> None:
    cluster.create("pods", pod("r", "echo again; sleep 5; exit 1", restartPolicy="Always"))
    cluster.until(lambda: phase(cluster, "r") == "Running")
    assert log(cluster, "r", previous="true") == (400, 'previous terminated container "c0" in pod "r" not found')
    cluster.until(lambda: "terminated" in cluster.get("pods", "r")["status"]["containerStatuses"][0].get("lastState", {}))
    assert log(cluster, "r", previous="true") == (200, "again\n")


def test_logs_that_there_are_not(cluster: Cluster) -> None:
    cluster.create("pods", pod("two", "sleep 3600", "sleep 3600"))
    cluster.create("pods", pod("nowhere", "true", nodeSelector={"no": "such-node"}))
    assert log(cluster, "none") == (404, 'pods "none" not found')
    assert log(cluster, "two") == (400, "a container name must be specified for pod two, choose one of: [c0 c1]")
    assert log(cluster, "two", container="q") == (400, "container q is not valid for pod two")
    assert log(cluster, "nowhere") == (204, "")
    for option, words in (("tailLines=-1", "tailLines: Invalid value: -1: must be greater than or equal to 0"), ("limitBytes=0", "limitBytes: Invalid value: 0: must be greater than 0"),
                          ("sinceSeconds=0", "sinceSeconds: Invalid value: 0: must be greater than 0")):
        key, _, value = option.partition("=")
        assert log(cluster, "two", **{key: value}) == (422, f'PodLogOptions "two" is invalid: {words}')
    assert log(cluster, "two", tailLines="x") == (400, 'strconv.ParseInt: parsing "x": invalid syntax')
    assert log(cluster, "two", sinceSeconds=1, sinceTime="2026-01-01T00:00:00Z")[1].endswith("at most one of `sinceTime` or `sinceSeconds` may be specified")


def test_virt_launcher_tells_of_its_domain(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("v", "Always"))
    cluster.running("v")
    launcher = next(each["metadata"]["name"] for each in cluster.ask("GET", cluster.path("pods"))[1]["items"] if each["metadata"]["name"].startswith("virt-launcher-v-"))
    code, text = cluster.until(lambda: (found := log(cluster, launcher, container="compute", timestamps="true"))[1].count("Domain started.") and found)
    lines = [json.loads(line.partition(" ")[2]) for line in text.splitlines()]
    assert code == 200 and {each["component"] for each in lines} == {"virt-launcher"}
    said = [each["msg"] for each in lines]
    assert said.index("Connected to libvirt daemon") < said.index("Domain defined.") < said.index("Domain started.")


def test_a_nodes_journal_has_what_its_kubelet_told(cluster: Cluster) -> None:
    """As oc adm node-logs reads it."""
    cluster.create("pods", pod("j", "sleep infinity"))
    cluster.until(lambda: phase(cluster, "j") == "Running")
    node = cluster.get("pods", "j")["spec"]["nodeName"]
    path = f"/api/v1/nodes/{node}/proxy/logs/journal"
    line = rf'^\w{{3}} \d\d [\d:.]+ {node} hyperkube\[\d+\]: I.* "Event occurred" object="{cluster.namespace}/j" kind="Pod" .* reason="Started" message="Started container c0"$'
    code, text = cluster.ask("GET", f"{path}?unit=kubelet&since=-1h")
    assert code == 200 and re.search(line, text, re.MULTILINE), text
    assert cluster.ask("GET", f"{path}?tail=1&tailLines=1&grep=container%20c0")[1].count("\n") == 1
    for query in ("unit=crio", "until=-1h", "pattern=nothing%20says%20this"):
        assert cluster.ask("GET", f"{path}?{query}") == (200, "-- No entries --\n")
    assert cluster.ask("GET", f"{path}?since=yesterday")[0] == cluster.ask("GET", f"{path}?grep=%28")[0] == 400
