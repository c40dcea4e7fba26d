"""How fast the embedded API server is: requests a second by kind, watch fan-out, a long list, memory per object.

    python benchmarks/api.py [--seconds 2] [--objects 10000]

The server runs in a process of its own, over TLS, as it does in use. Takes about half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import ssl
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.contract.conftest import certificate, config_map, vm

TOKEN, NAMESPACE = "benchmark", "default"
CONNECTIONS, WATCHERS = 16, 10
VMS = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachines"
VMIS = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachineinstances"
CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"


def vmi(index: int) -> dict[str, Any]:
    """A running VMI of about the size of a real one (4 KB)."""
    disks = [{"name": f"disk-{n}", "disk": {"bus": "virtio"}} for n in range(3)]
    conditions = [{"type": type_, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "x" * 60, "reason": type_}
                  for type_ in ("Ready", "LiveMigratable", "StorageLiveMigratable", "AgentConnected")]
    return {"metadata": {"name": f"vmi-{index:05}", "namespace": NAMESPACE, "labels": {"vmscale.io/run-id": "r", "vmscale.io/index": str(index)}, "annotations": {"a": "x" * 200},
                         "finalizers": ["kubevirt.io/virtualMachineControllerFinalize"]},
            "spec": {"domain": {"cpu": {"cores": 2, "sockets": 1, "threads": 1}, "memory": {"guest": "4Gi"}, "devices": {"disks": disks, "interfaces": [{"name": "default", "masquerade": {}}]}},
                     "networks": [{"name": "default", "pod": {}}], "volumes": [{"name": f"disk-{n}", "dataVolume": {"name": f"dv-{index}-{n}"}} for n in range(3)]},
            "status": {"phase": "Running", "nodeName": f"worker-{index % 100:03}", "conditions": conditions, "guestOSInfo": {"id": "rhel", "prettyName": "Red Hat Enterprise Linux 8.5"},
                       "interfaces": [{"name": "default", "ipAddress": "10.128.0.1", "mac": "02:00:00:00:00:01", "infoSource": "domain, guest-agent"}],
                       "phaseTransitionTimestamps": [{"phase": phase, "phaseTransitionTimestamp": "2026-01-01T00:00:00Z"} for phase in ("Pending", "Scheduling", "Scheduled", "Running")],
                       "volumeStatus": [{"name": f"disk-{n}", "target": f"vd{n}", "persistentVolumeClaimInfo": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "40Gi"}}} for n in range(3)]}}


def serve(pipe: Connection, folder: str, objects: int) -> None:
    """The server's process: says its port and its memory before and after it has the objects."""
    from pytest_vmscale.embedded.api.kinds import load_kinds
    from pytest_vmscale.embedded.api.resources import Resources
    from pytest_vmscale.embedded.api.server import ApiServer
    from pytest_vmscale.embedded.api.store import Store
    from pytest_vmscale.embedded.clock import SimClock

    async def main() -> None:
        clock = SimClock(1.0)
        resources = Resources(Store(), load_kinds(), clock)
        api = ApiServer(resources, clock, admin_token=TOKEN)
        resources.create(resources.kind("namespaces"), {"metadata": {"name": NAMESPACE}})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/server.crt", f"{folder}/server.key")
        port = await api.serve("127.0.0.1", 0, context)
        before = memory_bytes()
        for index in range(objects):
            resources.create(resources.kind("virtualmachineinstances"), vmi(index))
        pipe.send((port, (memory_bytes() - before) / objects))
        await asyncio.sleep(600)

    asyncio.run(main())


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Connected:
    """A kept-alive connection that only counts and reads bodies: the server is what is measured."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port, self._context = port, context

    async def open(self) -> Connected:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context, server_hostname="127.0.0.1", limit=2**26)
        return self

    def send(self, method: str, path: str, body: bytes = b"", content: str = "application/json") -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nAccept: application/json\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)

    async def ask(self, method: str, path: str, body: bytes = b"", content: str = "application/json") -> bytes:
        self.send(method, path, body, content)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"{method} {path}: {answer[:300]!r}")
        return answer

    async def chunks(self) -> bytes:
        return await self._reader.read(2**20)

    def close(self) -> None:
        self._writer.close()


async def rate(port: int, context: ssl.SSLContext, seconds: float, request: Any) -> float:
    """Requests a second, over CONNECTIONS connections. `request(connection, worker, number)` sends one."""
    connections = [await Connected(port, context).open() for _ in range(CONNECTIONS)]
    end = time.monotonic() + seconds

    async def work(worker: int) -> int:
        number = 0
        while time.monotonic() < end:
            await request(connections[worker], worker, number)
            number += 1
        return number

    start = time.monotonic()
    counts = await asyncio.gather(*(work(worker) for worker in range(CONNECTIONS)))
    took = time.monotonic() - start
    for connection in connections:
        connection.close()
    return sum(counts) / took


async def fan_out(port: int, context: ssl.SSLContext, seconds: float) -> tuple[float, float]:
    """Events a second to each of WATCHERS watchers of the VMs, and writes a second, while VMs are patched."""
    watchers = [await Connected(port, context).open() for _ in range(WATCHERS)]
    for watcher in watchers:
        watcher.send("GET", f"{VMS}?watch=true&resourceVersion=0")
    seen = [0] * WATCHERS

    async def read(index: int) -> None:
        while data := await watchers[index].chunks():
            seen[index] += data.count(b'{"type":"MODIFIED"')

    readers = [asyncio.create_task(read(index)) for index in range(WATCHERS)]

    async def patch(connection: Connected, worker: int, number: int) -> None:
        body = json.dumps({"metadata": {"annotations": {"n": str(number)}}}).encode()
        await connection.ask("PATCH", f"{VMS}/b-{worker}-0", body, "application/merge-patch+json")

    writes = await rate(port, context, seconds, patch)
    await asyncio.sleep(0.3)
    for reader in readers:
        reader.cancel()
    for watcher in watchers:
        watcher.close()
    return min(seen) / seconds, writes


async def measure(port: int, context: ssl.SSLContext, seconds: float, objects: int, per_object: float) -> None:
    def line(what: str, value: str) -> None:
        print(f"{what:<46}{value:>18}", flush=True)

    async def create_vm(connection: Connected, worker: int, number: int) -> None:
        await connection.ask("POST", VMS, json.dumps(vm(f"b-{worker}-{number}", a="x")).encode())

    async def create_map(connection: Connected, worker: int, number: int) -> None:
        await connection.ask("POST", CONFIG_MAPS, json.dumps(config_map(f"b-{worker}-{number}", {"k": "v"})).encode())

    async def get(connection: Connected, worker: int, number: int) -> None:
        await connection.ask("GET", f"{VMS}/b-{worker}-0")

    async def list_one(connection: Connected, worker: int, number: int) -> None:
        await connection.ask("GET", f"{VMIS}?labelSelector=vmscale.io/index={worker}&limit=1")

    async def patch_vm(connection: Connected, worker: int, number: int) -> None:
        body = json.dumps({"spec": {"runStrategy": ("Always", "Halted")[number % 2]}}).encode()
        await connection.ask("PATCH", f"{VMS}/b-{worker}-0", body, "application/merge-patch+json")

    line("create VM", f"{await rate(port, context, seconds, create_vm):,.0f} /s")
    line("create ConfigMap", f"{await rate(port, context, seconds, create_map):,.0f} /s")
    line("get VM", f"{await rate(port, context, seconds, get):,.0f} /s")
    line("merge patch of a VM's spec", f"{await rate(port, context, seconds, patch_vm):,.0f} /s")
    line(f"one of {objects:,} VMIs by label", f"{await rate(port, context, seconds, list_one):,.0f} /s")
    each, writes = await fan_out(port, context, seconds)
    line(f"events to each of {WATCHERS} watchers ({writes:,.0f} writes/s)", f"{each:,.0f} /s")
    connection = await Connected(port, context).open()
    best, size = float("inf"), 0
    for _ in range(5):
        start = time.monotonic()
        size = len(await connection.ask("GET", VMIS))
        best = min(best, time.monotonic() - start)
    line(f"list of {objects:,} VMIs ({size / 2**20:.0f} MiB)", f"{best * 1000:,.0f} ms")
    start = time.monotonic()
    pages, token = 0, ""
    while pages == 0 or token:
        page = json.loads(await connection.ask("GET", f"{VMIS}?limit=500" + (f"&continue={token}" if token else "")))
        token, pages = page["metadata"].get("continue", ""), pages + 1
    line(f"the same in {pages} pages, read by the client", f"{(time.monotonic() - start) * 1000:,.0f} ms")
    line("server memory per VMI", f"{per_object:,.0f} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each rate is measured")
    parser.add_argument("--objects", type=int, default=10_000, help="VMIs in the long list")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cert, _ = certificate(Path(folder))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, folder, options.objects), daemon=True)
        process.start()
        try:
            if not ours.poll(60):
                print("the server did not start within 60 s", file=sys.stderr)
                return 1
            port, per_object = ours.recv()
            asyncio.run(measure(port, ssl.create_default_context(cafile=cert), options.seconds, options.objects, per_object))
        finally:
            process.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
