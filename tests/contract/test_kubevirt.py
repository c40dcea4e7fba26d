"""What KubeVirt does to VMs and their guests, over HTTPS, WebSocket and SSH, on an embedded cluster of its own.

Where a real virt-controller's recorded watch streams lie beside the checkout, a start is held against them.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncssh
import pytest
import yaml

SPEED = 60.0
DEADLINE_WALL_SECONDS = 60.0
ORACLE = Path(__file__).parents[3] / "shared" / "oracle"
USER_DATA = "#cloud-config\npassword: secret\nssh_pwauth: true\n"
OWNER_ALONE = 0o600


class Cluster:
    """An embedded cluster, a namespace on it, and how to ask it."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self.kubeconfig, self.folder = kubeconfig, kubeconfig.parent
        self.server = config["clusters"][0]["cluster"]["server"]
        self.token = config["users"][0]["user"]["token"]
        self.told = config["clusters"][0]["cluster"]["extensions"][0]
        self.context = ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])
        self.namespace = f"ns-{uuid.uuid4().hex[:6]}"

    def ask(self, method: str, path: str, body: Any = None, content: str = "application/json") -> tuple[int, Any]:
        parts = urlsplit(self.server)
        connection = HTTPSConnection(parts.hostname or "", parts.port, context=self.context, timeout=DEADLINE_WALL_SECONDS)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content}
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            reply = connection.getresponse()
            text = reply.read()
            return reply.status, json.loads(text) if text.startswith(b"{") else text.decode()
        finally:
            connection.close()

    def path(self, plural: str, name: str = "") -> str:
        group = {"datavolumes": "cdi.kubevirt.io/v1beta1"}.get(plural, "kubevirt.io/v1")
        prefix = "/api/v1" if plural in ("pods", "persistentvolumeclaims", "events", "secrets") else f"/apis/{group}"
        return f"{prefix}/namespaces/{self.namespace}/{plural}{'/' + name if name else ''}"

    def get(self, plural: str, name: str) -> Any:
        """The object, or None."""
        code, obj = self.ask("GET", self.path(plural, name))
        return obj if code == 200 else None

    def create(self, plural: str, obj: Any) -> Any:
        code, created = self.ask("POST", self.path(plural), obj)
        assert code == 201, created
        return created

    def action(self, name: str, action: str, plural: str = "virtualmachines", version: str = "v1", body: Any = None) -> tuple[int, str]:
        """Do it; the answer's code, and its message if it is a Status."""
        code, answer = self.ask("PUT", f"/apis/subresources.kubevirt.io/{version}/namespaces/{self.namespace}/{plural}/{name}/{action}", body)
        return code, answer["message"] if isinstance(answer, dict) else answer

    def until(self, check: Callable[[], Any]) -> Any:
        end = time.monotonic() + DEADLINE_WALL_SECONDS
        while not (found := check()):
            assert time.monotonic() < end, "not so in time"
            time.sleep(0.02)
        return found

    def status(self, name: str) -> str:
        vm = self.get("virtualmachines", name) or {}
        return str(vm.get("status", {}).get("printableStatus"))

    def running(self, name: str) -> Any:
        """Wait until its VMI is Running, and return that."""
        return self.until(lambda: (vmi := self.get("virtualmachineinstances", name)) and vmi["status"].get("phase") == "Running" and vmi)

    def address(self, name: str) -> str:
        return str(self.until(lambda: self.get("virtualmachineinstances", name)["status"].get("interfaces", [{}])[0].get("ipAddress")))


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with started(tmp_path_factory.mktemp("kubevirt")) as path:
        yield path


class started:
    """A context: an embedded cluster as a process, with further options."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._command = [sys.executable, "-m", "pytest_vmscale.embedded", "--state-dir", str(folder / "state"), "--truth", str(folder / "truth.jsonl"),
                         "--workers", "3", "--speed", f"{SPEED:g}", "--parent-pipe", *options]

    def __enter__(self) -> Path:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        assert line, "the embedded cluster did not start"
        return Path(line)

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(30) == 0


@pytest.fixture
def cluster(kubeconfig: Path) -> Cluster:
    return fresh(kubeconfig)


def fresh(kubeconfig: Path) -> Cluster:
    found = Cluster(kubeconfig)
    code, answer = found.ask("POST", "/api/v1/namespaces", {"metadata": {"name": found.namespace}})
    assert code == 201, answer
    return found


def vm(name: str, strategy: str = "Halted", user_data: str = USER_DATA, **template: Any) -> dict[str, Any]:
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": {"runStrategy": strategy, "template": {
        "metadata": {"labels": {"app": "x"}}, "spec": {
            "terminationGracePeriodSeconds": 30,
            "domain": {"resources": {"requests": {"memory": "256Mi"}}, "devices": {
                "disks": [{"name": "disk", "disk": {"bus": "virtio"}}, {"name": "init", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "default", "masquerade": {}}]}},
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [{"name": "disk", "containerDisk": {"image": "quay.io/kubevirt/fedora-container-disk-images:35"}},
                        {"name": "init", "cloudInitNoCloud": {"userData": user_data}}], **template}}}}


def cloned(name: str, source: str = "rhel-dv", storage_class: str = "ocs-external-storagecluster-ceph-rbd", **root: Any) -> dict[str, Any]:
    obj = vm(name, **root)
    obj["spec"]["dataVolumeTemplates"] = [{"metadata": {"name": f"{name}-root"}, "spec": {
        "pvc": {"accessModes": ["ReadWriteMany"], "volumeMode": "Block", "storageClassName": storage_class, "resources": {"requests": {"storage": "40Gi"}}},
        "source": {"pvc": {"namespace": "default", "name": source}}}}]
    spec = obj["spec"]["template"]["spec"]
    spec["volumes"] = [{"name": "disk", "dataVolume": {"name": f"{name}-root"}}]
    spec["domain"]["devices"]["disks"] = [{"name": "disk", "disk": {"bus": "virtio"}}]
    return obj


def ssh(cluster: Cluster, address: str, command: str, jump: bool = False, **login: Any) -> str:
    """Log in and run it; what it wrote."""
    told = cluster.told["extension"]
    options = {"username": "fedora", "password": "secret", "client_keys": None, "known_hosts": None, "config": None, **login}

    async def inside() -> str:
        if not jump:
            async with asyncssh.connect(address, told["guestSshPort"], **options) as connection:
                return str((await connection.run(command, check=True)).stdout)
        host = told["jumpHost"]
        async with asyncssh.connect(host["host"], host["port"], username=host["user"], client_keys=[host["keyFile"]], known_hosts=None, config=None) as bastion, \
                bastion.connect_ssh(address, 22, **options) as connection:
            return str((await connection.run(command, check=True)).stdout)

    return asyncio.run(inside())


def answers(cluster: Cluster, address: str, port: int | None = None) -> bool:
    async def inside() -> bool:
        try:
            _, writer = await asyncio.open_connection(address, port or cluster.told["extension"]["guestSshPort"])
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    return asyncio.run(inside())


# The cluster as a process.

def test_what_it_leaves_on_disk_is_for_its_owner_alone(kubeconfig: Path) -> None:
    files = list(kubeconfig.parent.iterdir())
    assert {"kubeconfig", "ca.crt", "server.key", "jump-host-key"} <= {each.name for each in files}
    assert {each.stat().st_mode & 0o777 for each in files} == {OWNER_ALONE}
    assert kubeconfig.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("options, complaint", [
    (["--profile", "refrence"], "embedded cluster: --profile refrence: is no timing profile; there are "),
    (["--fault", "boots-slow=1"], "embedded cluster: --fault boots-slow=1: there is no fault 'boots-slow'; "),
    (["--profile", "nowhere.yaml"], "embedded cluster: --profile nowhere.yaml: no such file"),
    (["--fault", "nowhere.yaml"], "embedded cluster: --fault nowhere.yaml: no such file"),
    (["--fault", "nothing"], "embedded cluster: --fault nothing: must be NAME=VALUE"),
    (["--workers", "0"], "embedded cluster: --workers 0: must be at least 1"),
    (["--speed", "-1"], "embedded cluster: --speed -1: must be above 0"),
])
def test_bad_options_get_one_line(tmp_path: Path, options: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "pytest_vmscale.embedded", "--state-dir", str(tmp_path), *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_WALL_SECONDS, check=False)
    assert result.returncode == 4
    assert result.stderr.startswith(complaint) and result.stderr.count("\n") == 1


def test_the_clock_can_be_read_and_sped_up(cluster: Cluster) -> None:
    before, (code, told) = time.monotonic(), cluster.ask("GET", "/vmscale/clock")
    assert code == 200 and told["speed"] == SPEED and before <= told["monotonic"] <= time.monotonic()
    assert cluster.ask("PUT", "/vmscale/clock", {"speed": SPEED + 1})[1]["speed"] == SPEED + 1
    code, refusal = cluster.ask("PUT", "/vmscale/clock", {"speed": -1})
    assert code == 400 and "speed" in refusal["message"]
    assert cluster.ask("PUT", "/vmscale/clock", {"speed": SPEED})[0] == 200


# Starting and stopping.

def test_a_vm_starts_answers_and_stops(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("a"))
    cluster.until(lambda: cluster.status("a") == "Stopped")
    assert cluster.action("a", "start") == (202, "")
    vmi = cluster.running("a")
    address = cluster.address("a")
    assert cluster.until(lambda: answers(cluster, address))
    assert ssh(cluster, address, "hostname") == "a\n"
    assert ssh(cluster, address, "hostname", jump=True) == "a\n"
    cluster.until(lambda: cluster.status("a") == "Running" and cluster.get("virtualmachines", "a")["status"].get("ready"))
    assert [each["phase"] for each in vmi["status"]["phaseTransitionTimestamps"]] == ["Scheduling", "Scheduled", "Running"]
    node = vmi["status"]["nodeName"]
    assert vmi["metadata"]["labels"]["kubevirt.io/nodeName"] == node and set(vmi["status"]["activePods"].values()) == {node}
    with pytest.raises(asyncssh.PermissionDenied):
        ssh(cluster, address, "true", password="wrong")
    assert cluster.action("a", "stop") == (202, "")
    cluster.until(lambda: not answers(cluster, address))
    cluster.until(lambda: cluster.status("a") == "Stopped" and cluster.get("virtualmachineinstances", "a") is None)
    cluster.until(lambda: not cluster.ask("GET", cluster.path("pods"))[1]["items"])
    reasons = {each["reason"] for each in cluster.ask("GET", cluster.path("events"))[1]["items"]}
    assert {"SuccessfulCreate", "Scheduled", "Created", "Started", "ShuttingDown", "Stopped", "SuccessfulDelete"} <= reasons


def test_a_guest_refuses_until_it_has_booted(tmp_path: Path) -> None:
    with started(tmp_path, "--fault", "guests-never-boot=1") as path:
        cluster = fresh(path)
        cluster.create("virtualmachines", vm("first", "Always"))
        cluster.running("first")
        cluster.create("virtualmachines", vm("second", "Always"))
        second = cluster.running("second")
        assert cluster.until(lambda: answers(cluster, cluster.address("second")))
        assert second["status"]["phase"] == "Running"
        first = cluster.get("virtualmachineinstances", "first")
        assert first["status"]["phase"] == "Running" and not answers(cluster, cluster.address("first"))
        assert "AgentConnected" not in {each["type"] for each in first["status"]["conditions"]}


def test_stuck_pods_stay_unschedulable(tmp_path: Path) -> None:
    with started(tmp_path, "--fault", "stuck-scheduling=1") as path:
        cluster = fresh(path)
        cluster.create("virtualmachines", vm("stuck", "Always"))
        cluster.until(lambda: cluster.status("stuck") == "ErrorUnschedulable")
        vmi = cluster.get("virtualmachineinstances", "stuck")
        assert next(each for each in vmi["status"]["conditions"] if each["type"] == "PodScheduled")["reason"] == "Unschedulable"


@pytest.mark.parametrize("version", ["v1", "v1alpha3"])
def test_refusals_are_worded_as_virt_api_does(cluster: Cluster, version: str) -> None:
    cluster.create("virtualmachines", vm("on", "Always"))
    cluster.create("virtualmachines", vm("off"))
    conflict = 'Operation cannot be fulfilled on virtualmachine.kubevirt.io "{}": {}'
    cluster.running("on")
    for name, action, why in (("on", "start", "VM is already running"), ("off", "stop", "VM is not running"),
                              ("off", "restart", "RunStategy Halted does not support manual restart requests")):
        assert cluster.action(name, action, version=version) == (409, conflict.format(name, why))
    assert cluster.action("none", "start", version=version) == (404, 'virtualmachine.kubevirt.io "none" not found')
    assert cluster.action("off", "migrate", version=version) == (404, 'virtualmachineinstance.kubevirt.io "off" not found')


def test_what_a_vm_leaves_out_its_instance_gets(cluster: Cluster) -> None:
    """A VM as `virtctl create vm` writes it names no network and no disks."""
    body = vm("terse", "Always")
    spec = body["spec"]["template"]["spec"]
    spec["domain"]["devices"] = {"disks": [{"name": "init", "cdrom": {}}]}
    del spec["networks"]
    cluster.create("virtualmachines", body)
    found = cluster.running("terse")
    domain = found["spec"]["domain"]
    assert domain["devices"] == {"interfaces": [{"name": "default", "masquerade": {}}],
                                 "disks": [{"name": "init", "cdrom": {"bus": "sata"}}, {"name": "disk", "disk": {"bus": "sata"}}]}
    assert domain["machine"]["type"] == found["status"]["machine"]["type"] == "pc-q35-rhel8.4.0"
    assert {each["name"]: each["target"] for each in found["status"]["volumeStatus"]} == {"init": "sda", "disk": "sdb"}
    assert cluster.address("terse")
    assert cluster.get("virtualmachines", "terse")["spec"]["template"]["spec"]["domain"]["devices"] == {"disks": [{"name": "init", "cdrom": {}}]}


def test_the_older_field_running_works_too(cluster: Cluster) -> None:
    obj = vm("old")
    del obj["spec"]["runStrategy"]
    cluster.create("virtualmachines", {**obj, "spec": {"running": False, **obj["spec"]}})
    assert cluster.action("old", "start")[0] == 202
    cluster.running("old")
    assert cluster.get("virtualmachines", "old")["spec"]["running"] is True


def test_manual_vms_start_and_stop_on_request(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("m", "Manual"))
    cluster.until(lambda: cluster.status("m") == "Stopped")
    assert cluster.get("virtualmachineinstances", "m") is None
    assert cluster.action("m", "start")[0] == 202
    cluster.running("m")
    cluster.until(lambda: not cluster.get("virtualmachines", "m")["status"].get("stateChangeRequests"))
    assert cluster.action("m", "stop")[0] == 202
    cluster.until(lambda: cluster.status("m") == "Stopped")
    assert cluster.get("virtualmachines", "m")["spec"]["runStrategy"] == "Manual"


def test_a_restart_makes_another_instance(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("r", "Always"))
    first = cluster.running("r")["metadata"]["uid"]
    assert cluster.action("r", "restart")[0] == 202
    cluster.until(lambda: (vmi := cluster.get("virtualmachineinstances", "r")) and vmi["metadata"]["uid"] != first)
    cluster.running("r")


def test_deleting_the_pod_ends_the_guest_and_always_starts_another(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("e", "Always"))
    first = cluster.running("e")["metadata"]["uid"]
    pod = cluster.ask("GET", cluster.path("pods"))[1]["items"][0]["metadata"]["name"]
    assert cluster.ask("DELETE", cluster.path("pods", pod))[0] in (200, 202)
    cluster.until(lambda: (vmi := cluster.get("virtualmachineinstances", "e")) and vmi["metadata"]["uid"] != first)
    cluster.running("e")


def test_pause_and_unpause(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("p", "Always"))
    cluster.running("p")
    plural = "virtualmachineinstances"
    assert cluster.action("p", "pause", plural)[0] == 202
    cluster.until(lambda: cluster.status("p") == "Paused")
    assert cluster.action("p", "pause", plural)[0] == 409
    cluster.until(lambda: not cluster.get("virtualmachines", "p")["status"].get("ready"))
    assert cluster.action("p", "unpause", plural)[0] == 202
    cluster.until(lambda: cluster.status("p") == "Running" and cluster.get("virtualmachines", "p")["status"].get("ready"))


@pytest.mark.parametrize("change, message", [
    ({"running": True}, "Running and RunStrategy are mutually exclusive"),
    ({"runStrategy": None}, "One of Running or RunStrategy must be specified"),
    ({"dataVolumeTemplates": [{"metadata": {"name": "x"}, "spec": {"source": {"blank": {}}}}]}, "must be referenced in the VMI template's 'volumes' list"),
])
def test_a_vm_that_cannot_be_is_refused(cluster: Cluster, change: dict[str, Any], message: str) -> None:
    obj = vm("bad")
    obj["spec"] = {key: value for key, value in {**obj["spec"], **change}.items() if value is not None}
    code, answer = cluster.ask("POST", cluster.path("virtualmachines"), obj)
    assert code == 422 and message in answer["message"] and 'admission webhook "virtualmachine-validator.kubevirt.io" denied' in answer["message"]


# Volumes.

def test_a_vm_with_a_cloned_disk_starts_and_takes_it_along_when_it_goes(cluster: Cluster) -> None:
    cluster.create("virtualmachines", cloned("c", strategy="Always"))
    cluster.until(lambda: cluster.status("c") == "Provisioning")
    vmi = cluster.running("c")
    data_volume, claim = cluster.get("datavolumes", "c-root"), cluster.get("persistentvolumeclaims", "c-root")
    assert data_volume["status"]["phase"] == "Succeeded" and claim["status"]["phase"] == "Bound"
    assert {each["type"]: each["status"] for each in data_volume["status"]["conditions"]} == {"Bound": "True", "Running": "False", "Ready": "True"}
    assert next(each for each in vmi["status"]["conditions"] if each["type"] == "LiveMigratable")["status"] == "True"
    cluster.until(lambda: answers(cluster, cluster.address("c")))
    assert ssh(cluster, cluster.address("c"), "cat /etc/os-release").startswith('NAME="Red Hat Enterprise Linux"')
    assert cluster.ask("DELETE", cluster.path("virtualmachines", "c"))[0] == 200
    cluster.until(lambda: all(cluster.get(*each) is None for each in (
        ("virtualmachines", "c"), ("virtualmachineinstances", "c"), ("datavolumes", "c-root"), ("persistentvolumeclaims", "c-root"))))


def test_a_vm_clones_what_its_namespaces_service_account_may(cluster: Cluster) -> None:
    images = f"{cluster.namespace}-images"
    assert cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": images}})[0] == 201
    obj = cloned("x")
    template = obj["spec"]["dataVolumeTemplates"][0]["spec"]

    def asked(source: dict[str, Any]) -> tuple[int, str]:
        template["source"] = source
        code, answer = cluster.ask("POST", cluster.path("virtualmachines"), obj)
        return code, answer.get("message", "")

    elsewhere = {"pvc": {"namespace": images, "name": "golden"}}
    code, message = asked(elsewhere)
    assert code == 422
    assert message == (
        'admission webhook "virtualmachine-validator.kubevirt.io" denied the request: Authorization failed, message is: '
        f"User system:serviceaccount:{cluster.namespace}:default has insufficient permissions in clone source namespace {images}"
    )
    rbac, named = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{images}", {"metadata": {"name": "clone"}}
    role = {"rules": [{"apiGroups": ["cdi.kubevirt.io"], "resources": ["datavolumes/source"], "verbs": ["create"]}]}
    assert cluster.ask("POST", f"{rbac}/roles", {**named, **role})[0] == 201
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "clone"}
    account = {"kind": "ServiceAccount", "name": "default", "namespace": cluster.namespace}
    assert cluster.ask("POST", f"{rbac}/rolebindings", {**named, "roleRef": reference, "subjects": [account]})[0] == 201
    assert asked(elsewhere)[0] == 201
    # What it has is not asked about again, and its own namespace's claims are always its own.
    cluster.ask("DELETE", f"{rbac}/rolebindings/clone")
    patch = {"metadata": {"labels": {"a": "b"}}}
    assert cluster.ask("PATCH", cluster.path("virtualmachines", "x"), patch, "application/merge-patch+json")[0] == 200
    obj["metadata"]["name"], template_name = "y", obj["spec"]["dataVolumeTemplates"][0]["metadata"]
    template_name["name"] = obj["spec"]["template"]["spec"]["volumes"][0]["dataVolume"]["name"] = "y-root"
    assert asked({"snapshot": {"namespace": images, "name": "golden"}})[0] == 422
    assert asked({"pvc": {"namespace": cluster.namespace, "name": "mine"}})[0] == 201


def test_a_clone_waits_for_its_source(cluster: Cluster) -> None:
    cluster.create("virtualmachines", cloned("w", source="nothing-there", strategy="Always"))
    data_volume = cluster.until(lambda: (found := cluster.get("datavolumes", "w-root")) and found.get("status") and found)
    bound = next(each for each in data_volume["status"]["conditions"] if each["type"] == "Bound")
    assert (bound["status"], bound["reason"], bound["message"]) == ("False", "CloneWithoutSource", "The source pvc nothing-there doesn't exist")
    assert "phase" not in data_volume["status"]  # CDI leaves it as it was: unset
    assert cluster.get("virtualmachineinstances", "w") is None


def test_a_class_that_waits_for_its_consumer(cluster: Cluster) -> None:
    obj = cloned("late", storage_class="ocs-external-storagecluster-ceph-rbd-wffc")
    cluster.create("virtualmachines", obj)
    cluster.until(lambda: (cluster.get("datavolumes", "late-root") or {}).get("status", {}).get("phase") == "PendingPopulation")
    cluster.until(lambda: cluster.status("late") == "WaitingForVolumeBinding")
    assert cluster.action("late", "start")[0] == 202
    cluster.running("late")
    cluster.until(lambda: cluster.get("datavolumes", "late-root")["status"]["phase"] == "Succeeded")


def test_a_claim_that_is_not_there(cluster: Cluster) -> None:
    obj = vm("lost", "Always")
    obj["spec"]["template"]["spec"]["volumes"][0] = {"name": "disk", "persistentVolumeClaim": {"claimName": "nowhere"}}
    cluster.create("virtualmachines", obj)
    cluster.until(lambda: cluster.status("lost") == "ErrorPvcNotFound")


def test_windows_shows_its_desktop_port_and_lets_anybody_in(cluster: Cluster) -> None:
    cluster.create("virtualmachines", cloned("win", source="win10-dv", strategy="Always"))
    cluster.running("win")
    address = cluster.address("win")
    cluster.until(lambda: answers(cluster, address))
    assert answers(cluster, address, 3389)
    assert ssh(cluster, address, "echo hello", password=None, client_keys=[asyncssh.generate_private_key("ssh-ed25519")]) == "hello\n"


# Port forwarding.

def forwarded(cluster: Cluster, path: str) -> tuple[bytes, str | None]:
    """The first bytes that a WebSocket brings, and the protocol that it agreed to. aiohttp's WSServerHandshakeError if it is refused."""
    async def inside() -> tuple[bytes, str | None]:
        headers = {"Authorization": f"Bearer {cluster.token}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.ws_connect(
                f"{cluster.server}/apis/subresources.kubevirt.io/v1/namespaces/{cluster.namespace}/{path}",
                protocols=("plain.kubevirt.io",), ssl=cluster.context) as socket:
            return await socket.receive_bytes(timeout=DEADLINE_WALL_SECONDS), socket.protocol

    return asyncio.run(inside())


@pytest.mark.parametrize("plural", ["virtualmachines", "virtualmachineinstances"])
@pytest.mark.parametrize("port", ["22", "22/tcp", "2222/tcp"])
def test_port_forwarding_reaches_sshd(cluster: Cluster, plural: str, port: str) -> None:
    cluster.create("virtualmachines", vm("f", "Always"))
    cluster.running("f")
    cluster.until(lambda: answers(cluster, cluster.address("f")))
    banner, protocol = forwarded(cluster, f"{plural}/f/portforward/{port}")
    assert banner.startswith(b"SSH-2.0-") and protocol == "plain.kubevirt.io"


def test_files_go_in_and_out_by_scp(cluster: Cluster, tmp_path: Path) -> None:
    """The real scp, which takes a transfer for failed unless the other side says that it ended well."""
    if shutil.which("scp") is None:
        pytest.skip("there is no scp")
    key = tmp_path / "key"
    private = asyncssh.generate_private_key("ssh-ed25519")
    key.write_bytes(private.export_private_key())
    key.chmod(0o600)
    cluster.create("virtualmachines", vm("files", "Always", f"#cloud-config\nssh_authorized_keys: [{private.export_public_key().decode().strip()}]\n"))
    cluster.running("files")
    address = cluster.address("files")
    cluster.until(lambda: answers(cluster, address))
    (tmp_path / "sent").write_text("content\n")
    command = ["scp", "-q", "-i", str(key), "-P", str(cluster.told["extension"]["guestSshPort"]), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    subprocess.run([*command, str(tmp_path / "sent"), f"fedora@{address}:file"], check=True)
    subprocess.run([*command, f"fedora@{address}:file", str(tmp_path / "back")], check=True)
    assert (tmp_path / "back").read_text() == "content\n"


@pytest.mark.parametrize("path, code", [("none/portforward/22", 404), ("f/portforward/x", 400), ("f/portforward/9", 500)])
def test_port_forwarding_that_cannot_be(cluster: Cluster, path: str, code: int) -> None:
    cluster.create("virtualmachines", vm("f", "Always"))
    cluster.running("f")
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        forwarded(cluster, f"virtualmachineinstances/{path}")
    assert error.value.status == code


# Against the real virt-controller's recorded streams.

def recorded(kind: str) -> list[dict[str, Any]]:
    path = ORACLE / "lifecycle" / f"start-{kind}.jsonl"
    if not path.exists():
        pytest.skip("the recorded streams are not beside this checkout")
    return [json.loads(line)["object"] for line in path.read_text().splitlines()]


def stages(objects: list[dict[str, Any]], stage: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """What each object says, repeats dropped."""
    found: list[Any] = []
    for each in map(stage, objects):
        if not found or found[-1] != each:
            found.append(each)
    return found


def ready(obj: dict[str, Any]) -> tuple[str | None, str | None]:
    found = next((each for each in obj.get("status", {}).get("conditions") or () if each["type"] == "Ready"), {})
    return found.get("status"), found.get("reason")


def fields(value: Any, at: str = "") -> set[str]:
    """The paths of everything in it; of lists, of what their items have in common by type or name."""
    if isinstance(value, dict):
        return {at, *(path for key, item in value.items() for path in fields(item, f"{at}.{key}"))}
    if isinstance(value, list):
        return {at, *(path for item in value for path in fields(item, f"{at}[{item.get('type', '') if isinstance(item, dict) else ''}]"))}
    return {at}


@pytest.fixture(scope="module")
def start_streams(kubeconfig: Path) -> dict[str, list[dict[str, Any]]]:
    """The recorded VM, started here: every object of its VM, VMI and pod until it is ready and its agent has connected."""
    cluster = fresh(kubeconfig)
    obj = {key: value for key, value in recorded("vm")[0].items() if key != "status"}
    obj["metadata"] = {"name": "vm1"}
    plurals = {"vm": "virtualmachines", "vmi": "virtualmachineinstances", "pod": "pods"}
    seen: dict[str, list[dict[str, Any]]] = {kind: [] for kind in plurals}

    async def follow(session: aiohttp.ClientSession, kind: str, open: asyncio.Event) -> None:
        async with session.get(f"{cluster.server}{cluster.path(plurals[kind])}?watch=true", ssl=cluster.context) as reply:
            open.set()
            async for line in reply.content:
                seen[kind].append(json.loads(line)["object"])

    def done() -> bool:
        conditions = seen["vm"][-1].get("status", {}).get("conditions", []) if seen["vm"] else []
        return bool(seen["vm"] and seen["vm"][-1].get("status", {}).get("ready")) and any(each["type"] == "AgentConnected" for each in conditions)

    async def inside() -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.token}"}) as session:
            opened = {kind: asyncio.Event() for kind in plurals}
            tasks = [asyncio.create_task(follow(session, kind, opened[kind])) for kind in plurals]
            await asyncio.wait_for(asyncio.gather(*(each.wait() for each in opened.values())), DEADLINE_WALL_SECONDS)
            await asyncio.to_thread(cluster.create, "virtualmachines", obj)
            end = time.monotonic() + DEADLINE_WALL_SECONDS
            while not done():
                assert time.monotonic() < end, "the VM did not get ready"
                await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(inside())
    return seen


def test_a_start_has_the_real_phases(start_streams: dict[str, list[dict[str, Any]]]) -> None:
    def vm_stage(obj: dict[str, Any]) -> Any:
        status = obj.get("status", {}).get("printableStatus")
        return None if status == "ErrorUnschedulable" else status, ready(obj)  # the recorded cluster had no room at first

    def without_unschedulable(found: list[Any]) -> list[Any]:
        return stages([{"x": each} for each in found if each[0] is not None or each[1] == (None, None)], lambda each: each["x"])

    assert without_unschedulable(stages(start_streams["vm"], vm_stage)) == without_unschedulable(stages(recorded("vm"), vm_stage))
    for kind in ("vmi", "pod"):
        def stage(obj: dict[str, Any], kind: str = kind) -> Any:
            return obj.get("status", {}).get("phase"), ready(obj)[0]

        assert stages(start_streams[kind], stage)[-1] == stages(recorded(kind), stage)[-1]
        assert stages(start_streams[kind], lambda obj: obj.get("status", {}).get("phase")) == stages(recorded(kind), lambda obj: obj.get("status", {}).get("phase"))


# What the recorded version has, and what it says of an unscheduled pod, are not asked for here.
NEWER = {
    "vm": {".metadata.managedFields"},
    "vmi": {".metadata.managedFields"},
    "pod": {".metadata.managedFields", ".spec.containers[].args", ".spec.initContainers[]", ".status.initContainerStatuses", ".spec.volumes[].image"},
}


@pytest.mark.parametrize("kind", ["vm", "vmi", "pod"])
def test_a_started_vm_has_every_field_of_the_real_one(start_streams: dict[str, list[dict[str, Any]]], kind: str) -> None:
    last = fields(start_streams[kind][-1])
    missing = {path for path in fields(recorded(kind)[-1]) - last if not any(path.startswith(each) for each in NEWER[kind])}
    if kind == "vmi":
        missing = {path for path in missing if not path.startswith(".status.activePods.")}  # keyed by the pod's uid
    assert not missing


def test_all_that_is_written_is_valid_by_the_real_definitions(start_streams: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    validate = ORACLE / "validate.py"
    if not validate.exists():
        pytest.skip("the real definitions are not beside this checkout")
    path = tmp_path / "objects.json"
    path.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": [*start_streams["vm"], *start_streams["vmi"]]}))
    result = subprocess.run([sys.executable, str(validate), str(path)], capture_output=True, text=True, timeout=DEADLINE_WALL_SECONDS, check=False)
    assert result.returncode == 0, result.stdout
