"""kubevirt.io/v1: the reference's three VMs (its manifests with their errors mended), from a site's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ..model import Guest
from .core import Manifest, guest_labels

if TYPE_CHECKING:
    from ..settings import GuestImage, Site

# What Windows needs of the hypervisor to run well; see the reference's Windows 10 template. `synic` is what it
# misprints as `sync`.
WINDOWS_FEATURES: Manifest = {
    "acpi": {},
    "apic": {},
    "hyperv": {
        "frequencies": {},
        "ipi": {},
        "reenlightenment": {},
        "relaxed": {},
        "reset": {},
        "runtime": {},
        "spinlocks": {"spinlocks": 8191},
        "synic": {},
        "synictimer": {"direct": {}},
        "vapic": {},
        "vpindex": {},
    },
}
WINDOWS_CLOCK: Manifest = {
    "utc": {},
    "timer": {"hpet": {"present": False}, "hyperv": {}, "pit": {"tickPolicy": "delay"}, "rtc": {"tickPolicy": "catchup"}},
}


def virtual_machine(
    guest: Guest, image: GuestImage, site: Site, run_id: str, fleet: str, ssh_user: str, public_key: str | None
) -> Manifest:
    """A stopped VM. `public_key` (OpenSSH format) goes into the guest through cloud-init, where the image has it."""
    labels = guest_labels(run_id, fleet, guest)
    disk_name = "containerdisk" if image.container_disk else "rootdisk"
    disks = [{"name": disk_name, "disk": {"bus": "virtio"}}]
    volumes: list[Manifest] = []
    if image.container_disk:
        volumes.append({"name": disk_name, "containerDisk": {"image": image.container_disk}})
    else:
        volumes.append({"name": disk_name, "dataVolume": {"name": f"{guest.name}-root"}})
    if image.cloud_init and public_key:
        disks.append({"name": "cloudinitdisk", "disk": {"bus": "virtio"}})
        volumes.append({"name": "cloudinitdisk", "cloudInitNoCloud": {"userData": cloud_config(ssh_user, public_key)}})
    spec: Manifest = {
        "runStrategy": "Halted",
        "template": {
            "metadata": {"labels": {**labels, "kubevirt.io/vm": guest.name}},
            "spec": {
                "evictionStrategy": image.eviction_strategy,
                "terminationGracePeriodSeconds": image.termination_grace_period_seconds,
                "domain": _domain(image, site, disks),
                "networks": [_network(image)],
                "volumes": volumes,
            },
        },
    }
    if image.source_pvc:
        spec["dataVolumeTemplates"] = [_root_disk(guest, image, site, labels)]
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": guest.name, "namespace": guest.namespace, "labels": labels},
        "spec": spec,
    }


def cloud_config(user: str, public_key: str) -> str:
    """cloud-init's user data: one user who logs in with one key."""
    document = {
        "users": [
            {"name": user, "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash", "lock_passwd": True, "ssh_authorized_keys": [public_key]}
        ]
    }
    return "#cloud-config\n" + yaml.safe_dump(document, sort_keys=False, width=10_000)


def _domain(image: GuestImage, site: Site, disks: list[Manifest]) -> Manifest:
    cpu: Manifest = {"cores": 1, "sockets": 1, "threads": 1}
    if site.cpu_model:
        cpu["model"] = site.cpu_model
    binding: Manifest = {"masquerade": {}} if image.network == "pod" else {"bridge": {}}
    devices: dict[str, Any] = {"disks": disks, "interfaces": [{"name": "nic-0", "model": "virtio", **binding}]}
    resources: Manifest = {"requests": {"cpu": image.cpu, "memory": image.memory}}
    domain: Manifest = {"cpu": cpu, "machine": {"type": site.machine_type}, "resources": resources, "devices": devices}
    if image.family == "windows":
        devices["blockMultiQueue"] = False
        domain.update(features=WINDOWS_FEATURES, clock=WINDOWS_CLOCK)
    else:
        devices.update(networkInterfaceMultiqueue=True, rng={})
    return domain


def _network(image: GuestImage) -> Manifest:
    return {"name": "nic-0", "pod": {}} if image.network == "pod" else {"name": "nic-0", "multus": {"networkName": image.network}}


def _root_disk(guest: Guest, image: GuestImage, site: Site, labels: dict[str, str]) -> Manifest:
    namespace, name = str(image.source_pvc).split("/")
    claim: Manifest = {
        "accessModes": [site.storage.access_mode],
        "volumeMode": site.storage.volume_mode,
        "resources": {"requests": {"storage": image.disk_size}},
    }
    if site.storage.storage_class:
        claim["storageClassName"] = site.storage.storage_class
    return {
        "metadata": {"name": f"{guest.name}-root", "labels": labels},
        "spec": {"source": {"pvc": {"namespace": namespace, "name": name}}, "storage": claim},
    }
