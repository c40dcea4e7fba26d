"""Volumes that are plugged into running guests, and out again: requests on VMs, virt-controller's attachment pods, virt-handler's mounts.

The attachment pod brings the volumes to the guest's node, as the launcher does with those that were there at the start. It has all
that are plugged in; for another set there is another pod, and the old one goes when the new one is ready.
"""

from __future__ import annotations

import copy
import string
from typing import Any

from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Children, Cluster, decoded, owner_reference
from .kubevirt_client import Client, is_deleting, phase_of
from .kubevirt_config import configuration
from .kubevirt_handler import VirtHandlers
from .kubevirt_pod import LAUNCHER_IMAGE, claim_name, is_hotpluggable
from .kubevirt_vmi import claim_info, containers_ready, pod_of
from .pods import is_finished

LABEL, OF_VMI, OF_VMI_UID = "hotplug-disk", "kubevirt.io/owner-vmi-name", "kubevirt.io/owner-vmi-uid"
ATTACHED, MOUNTED, READY, UNMOUNTED, DETACHING = "AttachedToNode", "MountedToPod", "Ready", "UnMountedFromPod", "Detaching"
# What the raw bytes of a VM or VMI have that is any of this file's business: the others cost nothing.
MARKS = (b'"volumeRequests"', b'"hotpluggable":true', b'"hotplugVolume"')


def apply_request(spec: Object, request: Object) -> None:
    """What a volume request makes of a VMI's spec, in place. Nothing if that is so already."""
    add, remove = request.get("addVolumeOptions"), request.get("removeVolumeOptions")
    volumes, devices = spec.setdefault("volumes", []), spec["domain"].setdefault("devices", {})
    disks = devices.setdefault("disks", [])
    if add and not any(each["name"] == add["name"] for each in volumes):
        volumes.append({"name": add["name"], **copy.deepcopy(add["volumeSource"])})
        disks.append({**copy.deepcopy(add["disk"]), "name": add["name"]})
    if remove:
        spec["volumes"] = [each for each in volumes if each["name"] != remove["name"]]
        devices["disks"] = [each for each in disks if each["name"] != remove["name"]]


class Hotplug:
    """`launchers` knows the pods that an object controls: a VMI's launchers, and a launcher's attachment pods."""

    def __init__(self, cluster: Cluster, client: Client, handlers: VirtHandlers, launchers: Children) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._client, self._handlers, self._children = client, handlers, launchers
        self._timing: Any = cluster.timing
        kind = cluster.resources.kind
        self._vms, self._vmis = kind("virtualmachines.kubevirt.io"), kind("virtualmachineinstances.kubevirt.io")
        self._pods, self._claims = kind("pods"), kind("persistentvolumeclaims")
        self._workers = Workers("virt-controller-hotplug", cluster.clock, self._timing.virt_controller.vmi_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._vms, self._changed)
        self._resources.watch(self._vmis, self._changed)
        self._resources.watch(self._pods, self._pod_changed)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _changed(self, change: Change) -> None:
        if change.type != "DELETED" and any(mark in change.new.raw for mark in MARKS):
            self._workers.queue.add(change.key)

    def _pod_changed(self, change: Change) -> None:
        if change.new.labels.get("kubevirt.io") == LABEL:
            self._workers.queue.add((change.key[0], decoded(change.new)["metadata"]["annotations"][OF_VMI]))

    async def _reconcile(self, key: Key) -> None:
        await self._take_requests(key)
        vmi = self._resources.find(self._vmis, *key)
        if vmi is None or is_deleting(vmi) or phase_of(vmi) != "Running":
            return
        launchers = self._children.of(vmi)
        for pod in (each for ended in launchers if is_finished(ended) for each in self._children.of(ended)):
            await self._client.delete(self._pods, key[0], pod["metadata"]["name"])  # of a launcher that the guest migrated away from
        launcher = pod_of(vmi, launchers)
        if launcher is None or is_deleting(launcher):
            return
        wanted = [each for each in vmi["spec"].get("volumes") or () if is_hotpluggable(each)]
        there = [each for each in wanted if self._bound(key[0], each)]
        pods = self._children.of(launcher)
        current = next((each for each in pods if not is_deleting(each) and _volumes_of(each) == {volume["name"] for volume in there}), None)
        if there and current is None:
            current = await self._client.create(self._pods, self._attachment_pod(vmi, launcher, there))
            pods.append(current)
            for volume in there:
                if (_status_of(vmi, volume["name"]) or {}).get("phase") not in (ATTACHED, MOUNTED, READY):
                    self._client.event(vmi, "SuccessfulCreate", _created(current, volume["name"]))
        await self._client.modify(self._vmis, *key, lambda vmi: self._write_attached(vmi, wanted, current))
        if current is not None and not containers_ready(current):
            return  # what is plugged out too waits for the pod that has the rest
        handler = self._handlers.client(vmi["status"]["nodeName"])
        for volume in there:
            await self._plug_in(key, volume["name"], handler)
        for status in vmi["status"].get("volumeStatus") or ():
            if "hotplugVolume" in status and status["name"] not in {each["name"] for each in wanted} and status.get("phase") in (READY, MOUNTED, ATTACHED):
                await self._plug_out(key, status["name"], handler)
        for pod in pods:
            if pod is not current and not is_deleting(pod):
                await self._client.delete(self._pods, key[0], pod["metadata"]["name"])
        left = {name for pod in self._children.of(launcher) for name in _volumes_of(pod)}
        await self._client.modify(self._vmis, *key, lambda vmi: _forget(vmi, wanted, left))

    # What is asked for on the VM.

    async def _take_requests(self, key: Key) -> None:
        """Into the VM's template, so that it lasts, and into the instance that runs; then they are done."""
        vm = self._resources.find(self._vms, *key)
        asked = (vm or {}).get("status", {}).get("volumeRequests") or []
        if not asked:
            return

        def change(spec: Object) -> None:
            for request in asked:
                apply_request(spec, request)

        await self._client.modify(self._vms, *key, lambda vm: change(vm["spec"]["template"]["spec"]))
        vmi = self._resources.find(self._vmis, *key)
        if vmi is not None and not is_deleting(vmi) and phase_of(vmi) == "Running":
            await self._client.modify(self._vmis, *key, lambda vmi: change(vmi["spec"]))

        def done(vm: Object) -> None:
            left = [each for each in vm["status"].get("volumeRequests") or () if each not in asked]
            vm["status"].pop("volumeRequests", None)
            if left:
                vm["status"]["volumeRequests"] = left

        await self._client.modify(self._vms, *key, done, subresource="status")

    # The attachment pod.

    def _claim(self, namespace: str, volume: Object) -> Object | None:
        name = claim_name(volume)
        return self._resources.find(self._claims, namespace, name) if name else None

    def _bound(self, namespace: str, volume: Object) -> bool:
        claim = self._claim(namespace, volume)
        return claim is not None and claim.get("status", {}).get("phase") == "Bound"

    def _attachment_pod(self, vmi: Object, launcher: Object, volumes: list[Object]) -> Object:
        meta, node = vmi["metadata"], launcher["spec"]["nodeName"]
        devices, mounts = [], [{"name": "hotplug-disks", "mountPath": "/path", "mountPropagation": "HostToContainer"}]
        for volume in volumes:
            claim = self._claim(meta["namespace"], volume)
            assert claim is not None
            if claim["spec"].get("volumeMode") == "Block":
                devices.append({"name": volume["name"], "devicePath": f"/path/{volume['name']}/{claim['metadata']['uid']}"})
            else:
                mounts.append({"name": volume["name"], "mountPath": f"/{volume['name']}"})
        container: Object = {
            "name": LABEL, "image": LAUNCHER_IMAGE, "command": ["/bin/sh", "-c", "/usr/bin/container-disk --copy-path /path/hp"],
            "resources": {"limits": {"cpu": "100m", "memory": "80M"}, "requests": {"cpu": "10m", "memory": "2M"}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "runAsUser": 107,
                                "seLinuxOptions": {"type": configuration(self._cluster).get("selinuxLauncherType", "container_t"), "level": "s0"}},
            "volumeMounts": mounts, **({"volumeDevices": devices} if devices else {})}
        here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
        return {
            "metadata": {"generateName": "hp-volume-", "namespace": meta["namespace"], "labels": {"kubevirt.io": LABEL},
                         "annotations": {OF_VMI: meta["name"], OF_VMI_UID: meta["uid"]}, "ownerReferences": [owner_reference(self._pods, launcher)]},
            "spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [here]}}},
                     "containers": [container], "tolerations": launcher["spec"].get("tolerations") or [], "terminationGracePeriodSeconds": 0,
                     "volumes": [{"name": "hotplug-disks", "emptyDir": {}},
                                 *({"name": each["name"], "persistentVolumeClaim": {"claimName": claim_name(each)}} for each in volumes)]}}

    def _write_attached(self, vmi: Object, wanted: list[Object], pod: Object | None) -> None:
        """virt-controller's part of the status of what is to be plugged in."""
        statuses = vmi["status"].setdefault("volumeStatus", [])
        for volume in wanted:
            name = volume["name"]
            status = next((each for each in statuses if each["name"] == name), None)
            if status is None:
                status = {"name": name, "target": ""}
                statuses.append(status)
            claim = self._claim(vmi["metadata"]["namespace"], volume)
            if claim is not None:
                status["persistentVolumeClaimInfo"] = claim_info(claim)
            attach = status.setdefault("hotplugVolume", {})
            if status.get("phase") in (MOUNTED, READY) and pod is None:
                continue
            if pod is None:
                phase, reason, message = self._waiting(vmi["metadata"]["namespace"], volume)
                status.update(phase=phase, reason=reason, message=message)
                continue
            attach["attachPodName"] = pod["metadata"]["name"]
            if containers_ready(pod):
                attach["attachPodUID"] = pod["metadata"]["uid"]
            if status.get("phase") not in (ATTACHED, MOUNTED, READY):
                status.update(phase=ATTACHED, reason="SuccessfulCreate", message=_created(pod, name))
        statuses.sort(key=lambda each: str(each["name"]))

    def _waiting(self, namespace: str, volume: Object) -> tuple[str, str, str]:
        claim = self._claim(namespace, volume)
        if claim is None:
            return "Pending", "FailedPvcNotFound", f"PVC {claim_name(volume)} not found"
        phase = claim.get("status", {}).get("phase", "Pending")
        return ("Bound", "PVCNotReady", "PVC is in phase Bound") if phase == "Bound" else ("Pending", "PVCNotReady", "PVC is in phase ClaimPending")

    # What virt-handler does on the node.

    async def _plug_in(self, key: Key, name: str, handler: Client) -> None:
        for phase, reason, message, seconds in (
                (MOUNTED, "VolumeMountedToPod", f"Volume {name} has been mounted in virt-launcher pod", self._timing.virt_handler.hotplug_mount_seconds),
                (READY, "VolumeReady", f"Successfully attach hotplugged volume {name} to VM", self._timing.virt_handler.hotplug_attach_seconds)):
            vmi = self._resources.find(self._vmis, *key)
            status = _status_of(vmi, name) if vmi else None
            if vmi is None or status is None or status.get("phase") not in (ATTACHED, MOUNTED) or (phase == MOUNTED and status["phase"] == MOUNTED):
                continue
            await self._clock.sleep(seconds)

            def change(vmi: Object, phase: str = phase, reason: str = reason, message: str = message) -> None:
                found = _status_of(vmi, name)
                if found is not None:
                    found.update(phase=phase, reason=reason, message=message)
                    if phase == READY:
                        found["target"] = _free_target(vmi, name)

            await handler.modify(self._vmis, *key, change)
            handler.event(vmi, reason, message)

    async def _plug_out(self, key: Key, name: str, handler: Client) -> None:
        await self._clock.sleep(self._timing.virt_handler.hotplug_attach_seconds)
        message = f"Volume {name} has been unmounted from virt-launcher pod"

        def change(vmi: Object) -> None:
            found = _status_of(vmi, name)
            if found is not None:
                found.update(phase=UNMOUNTED, reason="VolumeUnMountedFromPod", message=message, target="")

        await handler.modify(self._vmis, *key, change)
        vmi = self._resources.find(self._vmis, *key)
        if vmi is not None:
            handler.event(vmi, "VolumeUnMountedFromPod", message)


def _created(pod: Object, volume: str) -> str:
    return f"Created hotplug attachment pod {pod['metadata']['name']}, for volume {volume}"


def _volumes_of(pod: Object) -> set[str]:
    return {each["name"] for each in pod["spec"].get("volumes") or () if "persistentVolumeClaim" in each}


def _status_of(vmi: Object, name: str) -> Object | None:
    return next((each for each in vmi["status"].get("volumeStatus") or () if each["name"] == name), None)


def _free_target(vmi: Object, name: str) -> str:
    """The next device of its bus in the guest."""
    disks = {each["name"]: each for each in vmi["spec"]["domain"].get("devices", {}).get("disks") or ()}
    disk = disks.get(name, {})
    bus = (disk.get("disk") or disk.get("lun") or {}).get("bus", "scsi")
    used = {each.get("target") for each in vmi["status"]["volumeStatus"] if each["name"] != name}
    return next(target for letter in string.ascii_lowercase if (target := f"{'vd' if bus == 'virtio' else 'sd'}{letter}") not in used)


def _forget(vmi: Object, wanted: list[Object], left: set[str]) -> None:
    """Volumes that are plugged out: their pod goes, and with it their status."""
    names = {each["name"] for each in wanted}
    kept = []
    for status in vmi["status"].get("volumeStatus") or ():
        if "hotplugVolume" in status and status["name"] not in names:
            if status["name"] not in left:
                continue
            status.update(phase=DETACHING, reason="SuccessfulDelete",
                          message=f"Deleted hotplug attachment pod {status['hotplugVolume'].get('attachPodName', '')}, for volume {status['name']}")
        kept.append(status)
    vmi["status"]["volumeStatus"] = kept
