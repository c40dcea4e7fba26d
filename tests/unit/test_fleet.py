"""A fleet's life: created, provisioned, stopped, found, removed; and what is said when one of these does not end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.cluster.requests import ApiError, Cluster
from pytest_vmscale.model import LABEL_FLEET, LABEL_INDEX, LABEL_OS, LABEL_RUN, Fleet, Guest
from pytest_vmscale.procedures.fleet import FleetError, find_fleet, provision, remove, stop_all

from .scripted import event, serving

RATE = 100.0
KINDS = {
    "Namespace": ("/api/v1", "namespaces", False),
    "Pod": ("/api/v1", "pods", True),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims", True),
    "VirtualMachine": ("/apis/kubevirt.io/v1", "virtualmachines", True),
    "VirtualMachineInstance": ("/apis/kubevirt.io/v1", "virtualmachineinstances", True),
    "DataVolume": ("/apis/cdi.kubevirt.io/v1beta1", "datavolumes", True),
}


class Objects:
    """A store of objects by path, listed, watched, created and deleted; hooks stand for the controllers."""

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        self.kinds = {kind: where for kind, where in KINDS.items() if kind not in without}
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 10
        self.watchers: list[tuple[str, asyncio.Queue[bytes]]] = []
        self.on_create: Callable[[str, dict[str, Any]], None] = lambda path, obj: None
        self.on_delete: Callable[[str], None] = self.drop
        self.on_stop: Callable[[str], web.Response] = lambda path: web.Response(status=202)
        self.deleted: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/apis/subresources.kubevirt.io/v1/"):
            return self.on_stop(request.path.replace("subresources.", "").removesuffix("/stop"))
        if request.method == "DELETE":
            self.deleted.append(request.path)
            self.on_delete(request.path)
            return web.json_response({})
        if request.method == "POST":
            obj = await request.json()
            path = f"{request.path}/{obj['metadata']['name']}"
            self.put(path, obj)
            self.on_create(path, obj)
            return web.json_response(obj, status=201)
        if request.path in self.objects:
            return web.json_response(self.objects[request.path])
        served = [{"kind": k, "name": plural, "namespaced": n} for k, (base, plural, n) in self.kinds.items() if base == request.path]
        if served:
            return web.json_response({"resources": served})
        if request.path not in {f"{base}/{plural}" for base, plural, _ in self.kinds.values()}:
            return web.json_response({"message": "the server could not find the requested resource", "reason": "NotFound"}, status=404)
        if request.query.get("watch"):
            return await self._watch(request)
        items = [obj for path, obj in self.objects.items() if collection(path) == request.path and selected(obj, request)]
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        for path, obj in self.objects.items():
            if collection(path) == request.path and int(obj["metadata"]["resourceVersion"]) > int(request.query["resourceVersion"]):
                queue.put_nowait(event("ADDED", obj))
        self.watchers.append((request.path, queue))
        while True:
            await response.write(await queue.get())

    def _tell(self, kind: str, path: str, obj: dict[str, Any]) -> None:
        line = event(kind, json.loads(json.dumps(obj)))
        for watched, queue in self.watchers:
            if watched == collection(path):
                queue.put_nowait(line)

    def put(self, path: str, obj: dict[str, Any]) -> None:
        self.version += 1
        parts = path.split("/namespaces/")
        if len(parts) == 2 and "/" in parts[1]:
            obj["metadata"]["namespace"] = parts[1].split("/")[0]
        obj["metadata"].update(resourceVersion=str(self.version), uid=obj["metadata"].get("uid", f"u{self.version}"))
        kind = "MODIFIED" if path in self.objects else "ADDED"
        self.objects[path] = obj
        self._tell(kind, path, obj)

    def change(self, path: str, **status: Any) -> None:
        self.put(path, {**self.objects[path], "status": {**self.objects[path].get("status", {}), **status}})

    def drop(self, path: str) -> None:
        obj = self.objects.pop(path, None)
        if obj:
            self.version += 1
            obj["metadata"]["resourceVersion"] = str(self.version)
            self._tell("DELETED", path, obj)


def collection(path: str) -> str:
    """/api/v1/namespaces/a/pods/b is of /api/v1/pods."""
    parts = path.rsplit("/", 1)[0].split("/namespaces/")
    return f"{parts[0]}/{parts[1].split('/')[1]}" if len(parts) == 2 else parts[0]


def selected(obj: dict[str, Any], request: web.Request) -> bool:
    wanted = [each.split("=") for each in request.query.get("labelSelector", "").split(",") if each]
    return all(obj["metadata"].get("labels", {}).get(key) == value for key, value in wanted)


FLEET = Fleet("r1", "main", (Guest("ns", "vm-0", "rhel", 0), Guest("ns", "vm-1", "rhel", 1)))
VM = "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/vm-{}"
VMI = "/apis/kubevirt.io/v1/namespaces/ns/virtualmachineinstances/vm-{}"
VOLUME = "/apis/cdi.kubevirt.io/v1beta1/namespaces/ns/datavolumes/vm-{}-root"


def labels(index: int) -> dict[str, str]:
    return {LABEL_RUN: "r1", LABEL_FLEET: "main", LABEL_OS: "rhel", LABEL_INDEX: str(index)}


def vm(index: int, **more: Any) -> dict[str, Any]:
    template = {"metadata": {"name": f"vm-{index}-root", "labels": labels(index)}}
    metadata = {"name": f"vm-{index}", "namespace": "ns", "labels": labels(index)}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": metadata,
        "spec": {"dataVolumeTemplates": [template]},
        **more,
    }


def manifests() -> list[dict[str, Any]]:
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "labels": {LABEL_RUN: "r1"}}}, vm(0), vm(1)]


def volume(index: int, **owner: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"vm-{index}-root", "labels": labels(index), "ownerReferences": [{"kind": "VirtualMachine"}]}, **owner}


def on(objects: Objects, tmp_path: Path, work: Callable[[Cluster, Clock], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with serving(objects, tmp_path, rate=RATE) as cluster:
            return await asyncio.wait_for(work(cluster, cluster.clock), 30)

    return asyncio.run(run())


def make(objects: Objects, tmp_path: Path, deadline_seconds: float = 100.0) -> float:
    seconds: float = on(objects, tmp_path, lambda c, k: provision(c, manifests(), FLEET, k, deadline_seconds=deadline_seconds))
    return seconds


def cdi(objects: Objects, phase: str = "Succeeded", garbage_collected: bool = False) -> None:
    """What the operators do to a new VM: it is "Stopped" before its disk is there, as seen on a real cluster."""

    def created(path: str, obj: dict[str, Any]) -> None:
        if obj["kind"] == "VirtualMachine":
            objects.change(path, printableStatus="Stopped")
            asyncio.get_running_loop().call_later(0.02, disk, path, int(obj["metadata"]["name"][-1]))

    def disk(path: str, index: int) -> None:
        objects.put(VOLUME.format(index), volume(index))
        objects.change(path, printableStatus="Provisioning")
        asyncio.get_running_loop().call_later(0.02, done, path, index)

    def done(path: str, index: int) -> None:
        objects.change(VOLUME.format(index), phase=phase, progress="40.0%")
        if phase == "Succeeded":
            if garbage_collected:
                objects.drop(VOLUME.format(index))
            objects.change(path, printableStatus="Stopped")

    objects.on_create = created


@pytest.mark.parametrize("garbage_collected", [False, True])
def test_provisioned_when_all_are_stopped_with_their_disks(tmp_path: Path, garbage_collected: bool) -> None:
    objects = Objects()
    cdi(objects, garbage_collected=garbage_collected)
    seconds = make(objects, tmp_path)
    assert seconds >= 0.04 * RATE * 0.99
    statuses = {path: obj["status"]["printableStatus"] for path, obj in objects.objects.items() if "virtualmachines" in path}
    assert statuses == {VM.format(0): "Stopped", VM.format(1): "Stopped"}


def test_what_is_not_provisioned_is_told_by_state(tmp_path: Path) -> None:
    objects = Objects()
    cdi(objects, phase="CloneInProgress")
    text = r"2 of 2 VMs were not provisioned within 60 s: 2 Provisioning, DataVolume CloneInProgress 40.0% \(first: ns/vm-0\)"
    with pytest.raises(FleetError, match=text) as caught:
        make(objects, tmp_path, deadline_seconds=60.0)
    assert set(caught.value.states) == {"ns/vm-0", "ns/vm-1"}


def test_stopped_without_a_disk_is_not_provisioned(tmp_path: Path) -> None:
    objects = Objects()
    objects.on_create = lambda path, obj: objects.change(path, printableStatus="Stopped")
    with pytest.raises(FleetError, match="2 Stopped, no DataVolume yet"):
        make(objects, tmp_path, deadline_seconds=40.0)


def test_a_cluster_without_cdi_provisions_vms_that_need_none(tmp_path: Path) -> None:
    objects = Objects(without=("DataVolume",))
    objects.on_create = lambda path, obj: objects.change(path, printableStatus="Stopped")
    bare = [{**each, "spec": {}} for each in manifests()]
    on(objects, tmp_path, lambda c, k: provision(c, bare, FLEET, k, deadline_seconds=100))


def test_a_refused_manifest_is_an_error_at_once(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST" and request.path.endswith("virtualmachines"):
            return web.json_response({"message": "admission webhook denied the request: bad", "reason": "Invalid"}, status=422)
        return await objects(request)

    objects = Objects()

    async def run() -> None:
        async with serving(handler, tmp_path, rate=RATE) as cluster:
            await provision(cluster, manifests(), FLEET, cluster.clock, deadline_seconds=1e6)

    with pytest.raises(ApiError, match="admission webhook denied"):
        asyncio.run(run())


def test_stop_all_waits_until_the_vmis_are_gone(tmp_path: Path) -> None:
    objects = Objects()
    objects.put(VM.format(0), vm(0, status={"printableStatus": "Running"}))
    objects.put(VM.format(1), vm(1, status={"printableStatus": "Stopped"}))
    objects.put(VMI.format(0), {"metadata": {"name": "vm-0", "labels": labels(0)}})
    stops: list[str] = []

    def stop(path: str) -> web.Response:
        stops.append(path)
        objects.change(path, printableStatus="Stopped")  # a moment before the VMI is gone
        asyncio.get_running_loop().call_later(0.05, objects.drop, VMI.format(0))
        return web.Response(status=202)

    objects.on_stop = stop
    on(objects, tmp_path, lambda c, k: stop_all(c, FLEET, k, deadline_seconds=1000))
    assert stops == [VM.format(0)]
    assert VMI.format(0) not in objects.objects


def test_what_does_not_stop_is_told(tmp_path: Path) -> None:
    objects = Objects()
    objects.put(VM.format(0), vm(0, status={"printableStatus": "Stopping"}))
    objects.on_stop = lambda path: web.json_response({"message": "VM is not running"}, status=409)
    with pytest.raises(FleetError, match="2 of 2 VMs were not stopped within 30 s: 1 Stopping, 1 no VM"):
        on(objects, tmp_path, lambda c, k: stop_all(c, FLEET, k, deadline_seconds=30))


def test_a_kept_fleet_is_found_by_its_labels_and_in_order(tmp_path: Path) -> None:
    objects = Objects()
    for index in (1, 0):
        objects.put(VM.format(index), vm(index))
    stranger = vm(7)
    stranger["metadata"]["labels"] = {**labels(7), LABEL_RUN: "other"}
    objects.put(VM.format(7), stranger)
    assert on(objects, tmp_path, lambda c, k: find_fleet(c, "r1")) == FLEET
    with pytest.raises(ClusterError, match="has no fleet 'main' of run 'r9'"):
        on(objects, tmp_path, lambda c, k: find_fleet(c, "r9"))
    del objects.objects[VM.format(1)]["metadata"]["labels"][LABEL_INDEX]
    with pytest.raises(ClusterError, match="VM ns/vm-1 of run r1 has no usable label 'vmscale.io/index'"):
        on(objects, tmp_path, lambda c, k: find_fleet(c, "r1"))


def full(objects: Objects) -> None:
    objects.put("/api/v1/namespaces/ns", {"metadata": {"name": "ns", "labels": {LABEL_RUN: "r1"}}, "spec": {"finalizers": ["kubernetes"]}})
    objects.put("/api/v1/namespaces/foreign", {"metadata": {"name": "foreign"}})
    for index in (0, 1):
        objects.put(VM.format(index), vm(index))
        objects.put(VOLUME.format(index), volume(index))


def test_removal_deletes_what_is_nobodys_and_waits_for_the_rest(tmp_path: Path) -> None:
    objects = Objects()
    full(objects)

    def deleted(path: str) -> None:
        objects.drop(path)
        if "virtualmachines" in path:  # garbage collection takes its time
            asyncio.get_running_loop().call_later(0.05, objects.drop, VOLUME.format(path[-1]))

    objects.on_delete = deleted
    removal = on(objects, tmp_path, lambda c, k: remove(c, "vmscale.io/run-id=r1", k, deadline_seconds=1000))
    assert (removal.deleted, removal.left) == (3, ())
    assert set(objects.deleted) == {VM.format(0), VM.format(1), "/api/v1/namespaces/ns"}
    assert objects.deleted[-1] == "/api/v1/namespaces/ns"
    assert set(objects.objects) == {"/api/v1/namespaces/foreign"}


def test_what_cannot_be_removed_is_named_with_its_reason(tmp_path: Path) -> None:
    objects = Objects()
    full(objects)

    def deleted(path: str) -> None:
        if path == VM.format(0):
            objects.drop(path)
            objects.drop(VOLUME.format(0))
        else:
            obj = objects.objects[path]
            obj["metadata"].update(deletionTimestamp="2026-11-21T08:00:00Z", finalizers=["kubevirt.io/stuck"] if "machines" in path else [])
            objects.put(path, obj)

    objects.on_delete = deleted
    removal = on(objects, tmp_path, lambda c, k: remove(c, "vmscale.io/run-id=r1", k, deadline_seconds=50))
    assert removal.left == (
        f"{VM.format(1)}: deleted at 2026-11-21T08:00:00Z, waits for kubevirt.io/stuck",
        f"{VOLUME.format(1)}: not being deleted",
        "/api/v1/namespaces/ns: deleted at 2026-11-21T08:00:00Z, waits for kubernetes",
    )


def test_a_refused_deletion_is_not_waited_for(tmp_path: Path) -> None:
    objects = Objects()
    full(objects)
    for index in (0, 1):
        objects.drop(VOLUME.format(index))

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            return web.json_response({"message": "user u cannot delete", "reason": "Forbidden"}, status=403)
        return await objects(request)

    async def run() -> Any:
        async with serving(handler, tmp_path, rate=RATE) as cluster:
            return await asyncio.wait_for(remove(cluster, "vmscale.io/run-id=r1", cluster.clock, deadline_seconds=1e9), 20)

    removal = asyncio.run(run())
    assert len(removal.left) == 3 and all(line.endswith(": user u cannot delete") for line in removal.left)


def test_nothing_to_remove_is_removed(tmp_path: Path) -> None:
    removal = on(Objects(), tmp_path, lambda c, k: remove(c, "vmscale.io/run-id=r1", k, deadline_seconds=10))
    assert (removal.deleted, removal.left) == (0, ())
