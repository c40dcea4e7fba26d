"""How soon the embedded cluster serves, and how much memory the reference's cluster takes: 3,000 VMs and 21,400 pods on 100 workers.

    python benchmarks/size.py [--scale 1.0] [--speed 600] [--seconds 180]

The VMs are 1,500 clones of a golden image with 2 GiB, 1,000 with a container disk, 500 clones with 4 GiB; the pods are those of
deployments of 100. Ends after --seconds with what is there by then, and says so.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import yaml

CLONES, CONTAINER_DISKS, LARGE_CLONES, PODS, PODS_OF_ONE = 1_500, 1_000, 500, 21_400, 100
NAMESPACE, SOURCE = "size", "golden"
POLL_WALL_SECONDS = 2.0
IN_FLIGHT = 32


def vm(name: str, memory: str, cloned: bool) -> dict[str, Any]:
    disk = {"dataVolume": {"name": name}} if cloned else {"containerDisk": {"image": "quay.io/containerdisks/fedora:35"}}
    spec: dict[str, Any] = {"runStrategy": "Always", "template": {"metadata": {"labels": {"size": "x"}}, "spec": {
        "domain": {"resources": {"requests": {"memory": memory}}, "devices": {
            "disks": [{"name": "root", "disk": {"bus": "virtio"}}, {"name": "init", "disk": {"bus": "virtio"}}],
            "interfaces": [{"name": "default", "masquerade": {}}]}},
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [{"name": "root", **disk}, {"name": "init", "cloudInitNoCloud": {"userData": "#cloud-config\nuser: cloud-user\n"}}]}}}
    if cloned:
        spec["dataVolumeTemplates"] = [{"metadata": {"name": name}, "spec": {
            "storage": {"accessModes": ["ReadWriteMany"], "volumeMode": "Block", "resources": {"requests": {"storage": "40Gi"}}},
            "source": {"pvc": {"namespace": NAMESPACE, "name": SOURCE}}}}]
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": spec}


def deployment(name: str) -> dict[str, Any]:
    container = {"name": "pause", "image": "registry.k8s.io/pause:3.9", "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}
    return {"metadata": {"name": name}, "spec": {"replicas": PODS_OF_ONE, "selector": {"matchLabels": {"app": name}},
                                                 "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}}}


def memory_mib(pid: int, key: str) -> float:
    """VmHWM (the peak) or VmRSS of a process."""
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(key)) / 1024


class Api:
    def __init__(self, session: aiohttp.ClientSession, server: str, context: ssl.SSLContext) -> None:
        self._session, self._server, self._context = session, server, context
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._slots, self._session.request(method, self._server + path, json=body, ssl=self._context) as reply:
            answer = await reply.json()
            if reply.status >= 300:
                raise SystemExit(f"{method} {path}: {reply.status} {answer}")
            return answer


async def fill(api: Api, scale: float, pid: int, deadline: float) -> None:
    kubevirt = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}"
    await api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    volumes = f"/apis/cdi.kubevirt.io/v1beta1/namespaces/{NAMESPACE}/datavolumes"
    await api.ask("POST", volumes, {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": SOURCE}, "spec": {"source": {"blank": {}}, "storage": {
        "accessModes": ["ReadWriteMany"], "volumeMode": "Block", "resources": {"requests": {"storage": "40Gi"}}}}})
    vms = [vm(f"rhel-{i}", "2Gi", True) for i in range(int(CLONES * scale))]
    vms += [vm(f"fedora-{i}", "1Gi", False) for i in range(int(CONTAINER_DISKS * scale))]
    vms += [vm(f"windows-{i}", "4Gi", True) for i in range(int(LARGE_CLONES * scale))]
    deployments = [deployment(f"pause-{i}") for i in range(int(PODS * scale) // PODS_OF_ONE)]
    wanted_pods = len(vms) + len(deployments) * PODS_OF_ONE
    await asyncio.gather(*(api.ask("POST", f"{kubevirt}/virtualmachines", each) for each in vms),
                         *(api.ask("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", each) for each in deployments))
    print("wall s  VMs running  pods running   now MiB  peak MiB", flush=True)
    while True:
        listed = await api.ask("GET", f"{kubevirt}/virtualmachineinstances")
        running = sum(each.get("status", {}).get("phase") == "Running" for each in listed["items"])
        # Listing all pods each time would cost more than the rest: the deployments know.
        found = await api.ask("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
        pods = running + sum(each["status"].get("readyReplicas", 0) for each in found["items"])
        left = deadline - time.monotonic()
        done = running == len(vms) and pods == wanted_pods
        if done or left < 0 or int(left) % 10 < POLL_WALL_SECONDS:
            print(f"{time.monotonic() - START:6.0f}  {running:5}/{len(vms):5}  {pods:6}/{wanted_pods:6}  {memory_mib(pid, 'VmRSS'):7.0f}  "
                  f"{memory_mib(pid, 'VmHWM'):8.0f}", flush=True)
        if done:
            return
        if left < 0:
            print("out of time: the figures are of a cluster that was not full yet")
            return
        await asyncio.sleep(POLL_WALL_SECONDS)


async def main(scale: float, speed: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest_vmscale.embedded", "--state-dir", folder, "--speed", f"{speed:g}", "--parent-pipe"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
            assert process.stdin and process.stdout
            config = yaml.safe_load(Path(process.stdout.readline().strip()).read_text())
            print(f"from launch to serving: {time.monotonic() - START:.2f} s; then {memory_mib(process.pid, 'VmRSS'):.0f} MiB")
            cluster, token = config["clusters"][0]["cluster"], config["users"][0]["user"]["token"]
            context = ssl.create_default_context(cafile=cluster["certificate-authority"])
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(60)) as session:
                try:
                    await fill(Api(session, cluster["server"], context), scale, process.pid, START + seconds)
                finally:
                    process.stdin.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the 3,000 VMs and 21,400 pods (default: 1.0)")
    parser.add_argument("--speed", type=float, default=600.0, help="cluster seconds in a second (default: 600)")
    parser.add_argument("--seconds", type=float, default=180.0, help="wall time after which it ends (default: 180)")
    arguments = parser.parse_args()
    START = time.monotonic()
    asyncio.run(main(arguments.scale, arguments.speed, arguments.seconds))
