"""virt-controller's VM controller: from a VirtualMachine and its run strategy to a VMI, its volumes and its status."""

from __future__ import annotations

import copy
import random
import uuid
from typing import Any

from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, condition, controller_of, decoded, owner_reference
from .kubevirt_client import FINALIZER, OBSERVED, Client, is_deleting, is_final, phase_of
from .kubevirt_defaults import set_defaults
from .kubevirt_pod import claim_name
from .kubevirt_status import DATA_VOLUME_PARKED, Seen, requests, run_strategy, write_status

FIRMWARE_NAMESPACE = uuid.UUID("6a1a24a1-4061-4607-8bf4-a3963d0c5895")  # KubeVirt's own, so that its VMs get the same firmware uuid


class VirtualMachines:
    """Keeps each VM's VMI as its run strategy wants it."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self._cluster, self._resources, self._clock, self._client = cluster, cluster.resources, cluster.clock, client
        self._timing = cluster.timing.virt_controller
        kind = cluster.resources.kind
        self._vms, self._vmis = kind("virtualmachines.kubevirt.io"), kind("virtualmachineinstances.kubevirt.io")
        self._data_volumes, self._claims = kind("datavolumes.cdi.kubevirt.io"), kind("persistentvolumeclaims")
        self._revisions, self._snapshot_classes = kind("controllerrevisions.apps"), kind("volumesnapshotclasses.snapshot.storage.k8s.io")
        self._classes = kind("storageclasses.storage.k8s.io")
        self._jitter = random.Random(f"{cluster.random.random()} vm")
        self._users_of_claim: dict[Key, set[Key]] = {}  # which VMs name a claim or DataVolume among their volumes
        self._workers = Workers("virt-controller-vm", cluster.clock, self._timing.vm_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._vms, self._vm_changed)
        self._resources.watch(self._vmis, self._vmi_changed)
        self._resources.watch(self._data_volumes, self._volume_changed)
        self._resources.watch(self._claims, self._volume_changed)
        for entry in self._resources.store.entries(self._vms):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _vm_changed(self, change: Change) -> None:
        if change.type == "ADDED":
            template = decoded(change.new)["spec"].get("template") or {}
            for volume in template.get("spec", {}).get("volumes") or ():
                claim = claim_name(volume)
                if claim:
                    self._users_of_claim.setdefault((change.key[0], claim), set()).add(change.key)
        self._workers.queue.add(change.key)

    def _vmi_changed(self, change: Change) -> None:
        owner = controller_of(decoded(change.new))
        if owner and owner["kind"] == "VirtualMachine":
            self._workers.queue.add((change.key[0], owner["name"]))

    def _volume_changed(self, change: Change) -> None:
        for key in self._users_of_claim.get(change.key, ()):
            self._workers.queue.add(key)

    async def _reconcile(self, key: Key) -> None:
        vm = self._resources.find(self._vms, *key)
        if vm is None:
            return
        annotations = vm["metadata"].get("annotations") or {}
        if any(annotations.get(name) != value for name, value in OBSERVED.items()):
            await self._client.modify(self._vms, *key, lambda vm: vm["metadata"].setdefault("annotations", {}).update(OBSERVED))
            await self._update_status(key)
            return
        if is_deleting(vm):
            await self._delete(vm, key)
            return
        prepared = [await self._client.modify(self._vms, *key, change) for change in (_add_finalizer, _set_firmware)]
        if not any(prepared):  # what was just written brings it back
            await self._sync(vm, key)
        await self._update_status(key)

    async def _delete(self, vm: Object, key: Key) -> None:
        vmi = self._vmi_of(vm)
        if vmi is not None:
            if not is_deleting(vmi):
                await self._stop_vmi(vm, vmi)
            await self._update_status(key)
            return

        def release(vm: Object) -> None:
            vm["metadata"]["finalizers"] = [each for each in vm["metadata"].get("finalizers") or () if each != FINALIZER]

        await self._client.modify(self._vms, *key, release)

    # What the run strategy wants.

    async def _sync(self, vm: Object, key: Key) -> None:
        volumes_ready = await self._data_volumes_ready(vm)
        strategy, vmi, asked = run_strategy(vm), self._vmi_of(vm), [each["action"] for each in requests(vm)]
        if vmi is not None:
            if self._must_stop(strategy, vmi, vm) and not is_deleting(vmi):
                await self._note_failure(vm, vmi)
                await self._stop_vmi(vm, vmi)
            return
        wanted = strategy == "Always" or "Start" in asked or (strategy in ("RerunOnFailure", "Once") and self._never_ran(vm)) or (
            strategy == "RerunOnFailure" and bool((vm.get("status") or {}).get("startFailure")))
        if not wanted or not volumes_ready or self._backed_off(vm, key):
            return
        await self._start_vmi(vm)

    def _must_stop(self, strategy: str, vmi: Object, vm: Object) -> bool:
        asked = [each for each in requests(vm) if each["action"] == "Stop" and each.get("uid") == vmi["metadata"]["uid"]]
        start_asked = any(each["action"] == "Start" for each in requests(vm))
        match strategy:
            case "Halted":
                return True
            case "Always":
                return bool(asked) or is_final(vmi)
            case "RerunOnFailure":
                return bool(asked) or phase_of(vmi) == "Failed" or (phase_of(vmi) == "Succeeded" and start_asked)
            case "Manual":
                return bool(asked) or (is_final(vmi) and start_asked)
        return bool(asked)

    @staticmethod
    def _never_ran(vm: Object) -> bool:
        return "runStrategy" not in (vm.get("status") or {})

    def _vmi_of(self, vm: Object) -> Object | None:
        vmi = self._resources.find(self._vmis, vm["metadata"]["namespace"], vm["metadata"]["name"])
        if vmi is None:
            return None
        owner = controller_of(vmi)
        return vmi if owner and owner["uid"] == vm["metadata"]["uid"] else None

    async def _start_vmi(self, vm: Object) -> None:
        meta = vm["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        for _ in range(self._timing.vm_reads_before_start):
            await self._client.request()
        revision = await self._revise(vm)
        spec = copy.deepcopy(vm["spec"]["template"]["spec"])
        template_meta = vm["spec"]["template"].get("metadata") or {}
        vmi = {
            "metadata": {
                "name": name, "namespace": namespace, "finalizers": [FINALIZER],
                "annotations": {**(template_meta.get("annotations") or {}), "kubevirt.io/vm-generation": str(meta["generation"])},
                "labels": dict(template_meta.get("labels") or {}),
                "ownerReferences": [owner_reference(self._vms, vm)],
            },
            "spec": spec,
            "status": {"guestOSInfo": {}, "runtimeUser": 0, "virtualMachineRevisionName": revision},
        }
        if self._resources.find(self._vmis, namespace, name):
            return  # somebody else's VMI of this name: it must go before this VM can start
        set_defaults(self._cluster, vmi)
        await self._client.create(self._vmis, vmi)
        self._cluster.truth.write("vmi-created", namespace, name)
        self._client.event(vm, "SuccessfulCreate", f"Started the virtual machine by creating the new virtual machine instance {name}")

    async def _revise(self, vm: Object) -> str:
        """Record what the VM is started from; earlier starts' records go."""
        meta = vm["metadata"]
        prefix = f"revision-start-vm-{meta['uid']}-"
        name = f"{prefix}{meta['generation']}"
        old = (vm.get("status") or {}).get("observedGeneration")
        if old is not None and f"{prefix}{old}" != name:
            await self._client.delete(self._revisions, meta["namespace"], f"{prefix}{old}")
        if self._resources.find(self._revisions, meta["namespace"], name) is None:
            await self._client.create(self._revisions, {
                "metadata": {"name": name, "namespace": meta["namespace"], "ownerReferences": [owner_reference(self._vms, vm)]},
                "data": {"spec": vm["spec"]}, "revision": meta["generation"]})
        return name

    async def _stop_vmi(self, vm: Object, vmi: Object) -> None:
        meta = vmi["metadata"]
        await self._client.delete(self._vmis, meta["namespace"], meta["name"], uid=meta["uid"])
        self._client.event(vm, "SuccessfulDelete", f"Stopped the virtual machine by deleting the virtual machine instance {meta['uid']}")

    # A VM that crashes is started again, ever later.

    async def _note_failure(self, vm: Object, vmi: Object) -> None:
        if phase_of(vmi) != "Failed" or run_strategy(vm) not in ("Always", "RerunOnFailure"):
            return
        uid, now = vmi["metadata"]["uid"], self._clock.now()

        def note(vm: Object) -> None:
            status = vm.setdefault("status", {})
            failure = status.get("startFailure") or {}
            if failure.get("lastFailedVMIUID") == uid:
                return
            count = failure.get("consecutiveFailCount", 0) + 1
            first, most = self._timing.restart_backoff_first_seconds, self._timing.restart_backoff_most_seconds
            delay = 0.0 if count == 1 else min(most, first * 2 ** min(count - 2, 20)) * self._jitter.uniform(1, 1.1)
            status["startFailure"] = {"consecutiveFailCount": count, "lastFailedVMIUID": uid,
                                      "retryAfterTimestamp": self._clock.timestamp(now + delay)}

        await self._client.modify(self._vms, vm["metadata"]["namespace"], vm["metadata"]["name"], note, subresource="status")

    def _backoff_until(self, vm: Object) -> float | None:
        failure = (vm.get("status") or {}).get("startFailure")
        return self._clock.parse(failure["retryAfterTimestamp"]) if failure else None

    def _backed_off(self, vm: Object, key: Key) -> bool:
        until = self._backoff_until(vm)
        if until is None or until <= self._clock.now():
            return False
        self._workers.queue.add_after(key, until - self._clock.now())
        return True

    # Volumes.

    async def _data_volumes_ready(self, vm: Object) -> bool:
        """Create the DataVolumes of the templates that are missing. False until all that the VM uses are done, or wait for their consumer."""
        meta = vm["metadata"]
        for template in vm["spec"].get("dataVolumeTemplates") or ():
            name = template["metadata"]["name"]
            if self._resources.find(self._data_volumes, meta["namespace"], name):
                continue
            await self._client.create(self._data_volumes, {
                "metadata": {**copy.deepcopy(template["metadata"]), "namespace": meta["namespace"],
                             "labels": {**(template["metadata"].get("labels") or {}), "kubevirt.io/created-by": meta["uid"]},
                             "annotations": {**(template["metadata"].get("annotations") or {}), "cdi.kubevirt.io/allowClaimAdoption": "true"},
                             "ownerReferences": [owner_reference(self._vms, vm)]},
                "spec": copy.deepcopy(template["spec"])})
            self._client.event(vm, "SuccessfulDataVolumeCreate", f"Created DataVolume {name}")
        done = ("Succeeded", *DATA_VOLUME_PARKED)
        return all(each.get("status", {}).get("phase") in done for each in self._used_data_volumes(vm).values())

    def _used_data_volumes(self, vm: Object) -> dict[str, Object]:
        found: dict[str, Object] = {}
        for volume in vm["spec"]["template"]["spec"].get("volumes") or ():
            name = claim_name(volume)
            data_volume = self._resources.find(self._data_volumes, vm["metadata"]["namespace"], name) if name else None
            if name and data_volume:
                found[name] = data_volume
        return found

    # Status.

    async def _update_status(self, key: Key) -> None:
        vm = self._resources.find(self._vms, *key)
        if vm is None:
            return
        await self._client.modify(self._vms, *key, self._write_status, subresource="status")

    def _write_status(self, vm: Object) -> None:
        vmi = self._vmi_of(vm)
        names = [name for name in map(claim_name, vm["spec"]["template"]["spec"].get("volumes") or ()) if name]
        claims = {name: self._resources.find(self._claims, vm["metadata"]["namespace"], name) for name in names}
        ready = condition((vmi or {}).get("status", {}).get("conditions") or (), "Ready")
        if ready is not None and ready["status"] == "True":
            vm.setdefault("status", {}).pop("startFailure", None)
        seen = Seen(vm, vmi, self._used_data_volumes(vm), {name: claim for name, claim in claims.items() if claim},
                    self._snapshottable(), self._backoff_until(vm), self._clock.now(), self._clock.timestamp())
        write_status(seen, vm)

    def _snapshottable(self) -> frozenset[str]:
        drivers: set[Any] = {each.get("driver") for each in self._resources.list(self._snapshot_classes)}
        return frozenset(each["metadata"]["name"] for each in self._resources.list(self._classes) if each.get("provisioner") in drivers)


def _add_finalizer(vm: Object) -> None:
    finalizers = vm["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers and not is_deleting(vm):
        finalizers.append(FINALIZER)


def _set_firmware(vm: Object) -> None:
    firmware = vm["spec"]["template"]["spec"].setdefault("domain", {}).setdefault("firmware", {})
    firmware.setdefault("uuid", str(uuid.uuid5(FIRMWARE_NAMESPACE, vm["metadata"]["name"])))
