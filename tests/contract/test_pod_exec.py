"""Commands in containers as kubectl and the Python client run them, over a WebSocket; and what virsh tells in a launcher."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import aiohttp
import pytest

from .test_kubevirt import Cluster, fresh, started, vm
from .test_pod_logs import log, phase, pod

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, CLOSE = b"\0", b"\1", b"\2", b"\3", b"\xff"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With a pod "p" of one container "c0" that runs, and a VM "v"."""
    with started(tmp_path_factory.mktemp("exec")) as path:
        cluster = fresh(path)
        idle = pod("p", "sleep infinity")
        idle["spec"]["containers"][0]["env"] = [{"name": "COLOUR", "value": "blue"}]
        cluster.create("pods", idle)
        cluster.create("virtualmachines", vm("v", "Always"))
        cluster.until(lambda: phase(cluster, "p") == "Running")
        cluster.running("v")
        yield cluster


@dataclass
class Ended:
    """What a command wrote, and the Status that it ended with."""

    out: str = ""
    error: str = ""
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> int:
        causes = (self.status.get("details") or {}).get("causes") or []
        return next((int(cause["message"]) for cause in causes if cause["reason"] == "ExitCode"), 0 if self.status["status"] == "Success" else -1)


def url(cluster: Cluster, name: str, *command: str, what: str = "exec", **options: Any) -> str:
    query = [f"command={quote(word)}" for word in command] + [f"{key}={value}" for key, value in {"stdout": "true", "stderr": "true", **options}.items()]
    return f"{cluster.path('pods', name)}/{what}?{'&'.join(query)}"


def run(cluster: Cluster, name: str, *command: str, protocol: str = V4, sends: tuple[bytes, ...] = (), **options: Any) -> Ended:
    async def inside() -> Ended:
        ended, written = Ended(), {STDOUT: b"", STDERR: b"", ERROR: b""}
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.token}"}) as session, session.ws_connect(
                cluster.server + url(cluster, name, *command, **options), protocols=(protocol,), ssl=cluster.context, timeout=aiohttp.ClientWSTimeout(ws_receive=30)) as socket:
            assert socket.protocol == protocol
            for message in sends:
                await socket.send_bytes(message)
            async for message in socket:
                written[message.data[:1]] += message.data[1:]
        ended.out, ended.error, ended.status = written[STDOUT].decode(), written[STDERR].decode(), json.loads(written[ERROR])
        return ended

    return asyncio.run(inside())


@pytest.mark.parametrize("protocol", [V4, V5])
def test_a_command_and_its_streams(cluster: Cluster, protocol: str) -> None:
    done = run(cluster, "p", "sh", "-c", "echo one; echo two >&2; hostname", protocol=protocol)
    assert (done.out, done.error, done.status) == ("one\np\n", "two\n", {"metadata": {}, "status": "Success"})


def test_its_exit_code(cluster: Cluster) -> None:
    done = run(cluster, "p", "sh", "-c", "exit 3")
    assert (done.code, done.status["status"], done.status["reason"]) == (3, "Failure", "NonZeroExitCode")
    assert done.status["message"].startswith("command terminated with non-zero exit code")


def test_a_program_that_is_not_there(cluster: Cluster) -> None:
    done = run(cluster, "p", "nano")
    assert done.code == 255 and 'exec: "nano": executable file not found in $PATH' in done.error


def test_an_input_that_ends(cluster: Cluster) -> None:
    done = run(cluster, "p", "cat", protocol=V5, sends=(STDIN + b"on", STDIN + "e ü".encode()[:-1], STDIN + "ü".encode()[1:], CLOSE + STDIN), stdin="true")
    assert done.out == "one ü"


def test_a_shell_that_is_typed_to(cluster: Cluster) -> None:
    done = run(cluster, "p", "/bin/sh", sends=(STDIN + b"X=4; echo $", STDIN + b"X\necho oops >&2\nexit 5\n"), stdin="true")
    assert (done.out, done.error, done.code) == ("4\n", "oops\n", 5)


def test_a_terminal_echoes_and_has_one_output(cluster: Cluster) -> None:
    done = run(cluster, "p", "sh", sends=(STDIN + b"echo x\x7fhi >&2\r", STDIN + b"\x04"), stdin="true", tty="true", stderr="false")
    assert done.out == "sh-4.4# echo x\b \bhi >&2\r\nhi\r\nsh-4.4# " and done.code == 0


def test_files_and_the_environment_stay_while_the_container_runs(cluster: Cluster) -> None:
    assert run(cluster, "p", "sh", "-c", "echo kept > /tmp/file").code == 0
    assert run(cluster, "p", "cat", "/tmp/file").out == "kept\n"
    assert "COLOUR=blue\n" in run(cluster, "p", "env").out


def test_output_comes_as_it_is_written(cluster: Cluster) -> None:
    async def first() -> tuple[bytes, bool]:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.token}"}) as session, session.ws_connect(
                cluster.server + url(cluster, "p", "sh", "-c", "echo now; sleep 100000; echo never"), protocols=(V4,), ssl=cluster.context) as socket:
            assert (await socket.receive(timeout=10)).data == STDOUT
            return (await socket.receive(timeout=10)).data, socket.closed

    assert asyncio.run(first()) == (STDOUT + b"now\n", False)


# virsh.

def launcher(cluster: Cluster) -> str:
    found = cluster.ask("GET", f"{cluster.path('pods')}?labelSelector=kubevirt.io%3Dvirt-launcher")[1]["items"]
    return str(found[0]["metadata"]["name"])


def test_virsh_lists_the_domain_of_its_launcher(cluster: Cluster) -> None:
    domain = f"{cluster.namespace}_v"
    assert run(cluster, launcher(cluster), "virsh", "list", "--name").out == f"{domain}\n\n"
    lines = run(cluster, launcher(cluster), "virsh", "-c", "qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock", "list").out.splitlines()
    assert [lines[0].split(), lines[2].split()] == [["Id", "Name", "State"], ["1", domain, "running"]]
    assert run(cluster, launcher(cluster), "virsh", "domstate", domain).out == "running\n\n"
    missing = run(cluster, launcher(cluster), "virsh", "domstate", "other")
    assert (missing.code, missing.error) == (1, "error: failed to get domain 'other'\n\n")
    assert run(cluster, "p", "virsh", "list").code == 255


def test_a_paused_domain(cluster: Cluster) -> None:
    assert cluster.action("v", "pause", "virtualmachineinstances")[0] == 202
    assert run(cluster, launcher(cluster), "virsh", "domstate", f"{cluster.namespace}_v").out == "paused\n\n"
    assert cluster.action("v", "unpause", "virtualmachineinstances")[0] == 202


def test_the_domain_is_what_the_vmi_says(cluster: Cluster) -> None:
    root = ElementTree.fromstring(run(cluster, launcher(cluster), "virsh", "dumpxml", f"{cluster.namespace}_v").out)
    vmi = cluster.running("v")
    assert (root.findtext("name"), root.findtext("vcpu"), root.findtext("memory")) == (f"{cluster.namespace}_v", "1", str(256 * 1024))
    assert [each.get("dev") for each in root.findall("devices/disk/target")] == ["vda", "vdb"]
    assert [each.get("address") for each in root.findall("devices/interface/mac")] == [vmi["status"]["interfaces"][0]["mac"]]
    asked = run(cluster, launcher(cluster), "virsh", "domblklist", f"{cluster.namespace}_v").out
    assert asked.splitlines()[0].split() == ["Target", "Source"] and "vda" in asked


# What is refused.

@pytest.mark.parametrize("name, words, options, code, message", [
    ("p", ("true",), {}, 400, "Upgrade request required"),
    ("p", (), {}, 400, "you must specify at least one command for the container"),
    ("p", ("true",), {"stdout": "false", "stderr": "false"}, 400, "you must specify at least 1 of stdin, stdout, stderr"),
    ("p", ("true",), {"container": "x"}, 400, "container x is not valid for pod p"),
    ("none", ("true",), {}, 404, 'pods "none" not found'),
])
def test_commands_that_cannot_be(cluster: Cluster, name: str, words: tuple[str, ...], options: dict[str, str], code: int, message: str) -> None:
    for method in ("GET", "POST"):
        answered, status = cluster.ask(method, url(cluster, name, *words, **options))
        assert (answered, status["message"]) == (code, message)


def test_a_container_that_has_ended(cluster: Cluster) -> None:
    cluster.create("pods", pod("over", "true"))
    cluster.until(lambda: phase(cluster, "over") == "Succeeded")
    code, status = cluster.ask("GET", url(cluster, "over", "true"))
    assert code == 500 and status["message"].endswith('container not found ("c0")')


def test_whoever_may_not(cluster: Cluster) -> None:
    path = url(cluster, "p", "true")
    cluster.ask("POST", f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts", {"metadata": {"name": "nobody"}})
    token = cluster.ask("POST", f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/nobody/token", {"spec": {}})[1]["status"]["token"]
    other = Cluster(cluster.kubeconfig)
    other.token = token
    code, status = other.ask("POST", path)
    assert code == 403 and 'cannot create resource "pods/exec"' in status["message"]


def test_the_shell_that_oc_rsh_starts(cluster: Cluster) -> None:
    typed = (b"\x00echo $0 typed\r", b"\x00exit 3\r")
    ended = run(cluster, "p", "/bin/sh", "-c", 'TERM="xterm" /bin/sh', sends=typed, stdin="true", tty="true")
    assert "sh typed\r\n" in ended.out and ended.out.endswith("exit 3\r\n") and ended.code == 3


def test_a_debug_pod_ends_with_its_shell(cluster: Cluster) -> None:
    """What oc debug node/NAME makes and attaches to: a container on the node's network, with the node's kernel."""
    node = "worker-000"
    cluster.create("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "debug"}, "spec": {
        "nodeName": node, "hostNetwork": True, "restartPolicy": "Never", "priorityClassName": "openshift-user-critical",
        "containers": [{"name": "debug", "image": "tools", "command": ["/bin/sh"], "stdin": True, "stdinOnce": True, "tty": True}]}})
    cluster.until(lambda: phase(cluster, "debug") == "Running")
    ended = run(cluster, "debug", what="attach", sends=(b"\x00chroot /host\rhostname\runame -r\rexit\r",), stdin="true", tty="true")
    kernel = cluster.ask("GET", f"/api/v1/nodes/{node}")[1]["status"]["nodeInfo"]["kernelVersion"]
    assert f"{node}\r\n" in ended.out and f"{kernel}\r\n" in ended.out and ended.code == 0
    cluster.until(lambda: phase(cluster, "debug") == "Succeeded")


def test_a_debug_pod_runs_its_command_and_logs_what_it_says(cluster: Cluster) -> None:
    """oc debug node/NAME -- COMMAND"""
    made = pod("command", "unused")
    made["metadata"]["annotations"] = {"debug.openshift.io/source-resource": "/v1, Resource=nodes/worker-000"}
    made["spec"]["containers"][0]["command"] = ["chroot", "/host", "sh", "-c", "echo here; nonsense; exit 4"]
    cluster.create("pods", made)
    cluster.until(lambda: phase(cluster, "command") == "Failed")
    (status,) = cluster.get("pods", "command")["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 4
    assert log(cluster, "command") == (200, "here\nsh: nonsense: command not found\n")


def test_who_attaches_to_what_says_nothing_waits_for_its_end(cluster: Cluster) -> None:
    cluster.create("pods", pod("brief", "sleep 30"))
    cluster.until(lambda: phase(cluster, "brief") == "Running")
    ended = run(cluster, "brief", what="attach")
    assert (ended.out, ended.code) == ("", 0) and phase(cluster, "brief") == "Succeeded"
    assert cluster.ask("POST", url(cluster, "brief", what="attach"))[1]["message"] == (
        'Internal error occurred: unable to upgrade connection: container not found ("c0")')
