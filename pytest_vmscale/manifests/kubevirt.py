"""kubevirt.io/v1: the reference's three VMs (its manifests with their errors mended), from a site's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ..model import Guest
from .cdi import BIND_IMMEDIATE, claim, clone_source
from .core import Manifest, fleet_labels, guest_labels, secret
from .placement import ANYWHERE, Placement

if TYPE_CHECKING:
    from ..site import GoldenImage, GuestImage, Site

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
    guest: Guest, image: GuestImage, site: Site, run_id: str, fleet: str, placement: Placement = ANYWHERE, run_strategy: str = "Halted"
) -> Manifest:
    """A VM, stopped unless `run_strategy` says otherwise. Its user and key come from the Secret of its OS (cloud_init_secret), where the image has cloud-init."""
    labels = guest_labels(run_id, fleet, guest)
    named = {**labels, "kubevirt.io/vm": guest.name}
    disk_name = "containerdisk" if image.container_disk else "rootdisk"
    disks = [{"name": disk_name, "disk": {"bus": "virtio"}}]
    volumes: list[Manifest] = []
    if image.container_disk:
        volumes.append({"name": disk_name, "containerDisk": {"image": image.container_disk}})
    else:
        volumes.append({"name": disk_name, "dataVolume": {"name": f"{guest.name}-root"}})
    if image.cloud_init:
        disks.append({"name": "cloudinitdisk", "disk": {"bus": "virtio"}})
        # KubeVirt's UserDataSecretRef; on the wire it is called secretRef.
        volumes.append({"name": "cloudinitdisk", "cloudInitNoCloud": {"secretRef": {"name": secret_name(guest.os)}}})
    metadata: Manifest = {"labels": named}
    if image.annotations:
        metadata["annotations"] = dict(image.annotations)
    spec: Manifest = {
        "runStrategy": run_strategy,
        "template": {
            "metadata": metadata,
            "spec": {
                "evictionStrategy": image.eviction_strategy,
                "terminationGracePeriodSeconds": image.termination_grace_period_seconds,
                **placement.of(guest.index, fleet_labels(run_id, fleet)),
                "domain": _domain(image, site, disks),
                "networks": [_network(image)],
                "volumes": volumes,
            },
        },
    }
    if golden := image.image:
        spec["dataVolumeTemplates"] = [_root_disk(guest, image, golden, site, labels)]
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": guest.name, "namespace": guest.namespace, "labels": named},
        "spec": spec,
    }


def live_migration(guest: Guest, run_id: str, fleet: str, name: str | None = None) -> Manifest:
    """Asks for one of this VM; without a name the server makes one up."""
    called = {"name": name} if name else {"generateName": f"{guest.name}-"}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {**called, "namespace": guest.namespace, "labels": guest_labels(run_id, fleet, guest)},
        "spec": {"vmiName": guest.name},
    }


def secret_name(os: str) -> str:
    return f"cloud-init-{os}"


def cloud_init_secret(namespace: str, os: str, run_id: str, fleet: str, ssh_user: str, public_key: str) -> Manifest:
    """What cloud-init is told in every guest of this OS in the namespace: `public_key` (OpenSSH format) lets the run in."""
    return secret(namespace, secret_name(os), {"userdata": cloud_config(ssh_user, public_key)}, fleet_labels(run_id, fleet))


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
    if model := image.cpu_model or site.cpu_model:
        cpu["model"] = model
    binding: Manifest = {"masquerade": {}} if image.network == "pod" else {"bridge": {}}
    devices: dict[str, Any] = {"disks": disks, "interfaces": [{"name": "nic-0", "model": "virtio", **binding}]}
    resources: Manifest = {"requests": {"cpu": image.cpu, "memory": image.memory}}
    if image.cpu_limit:
        resources["limits"] = {"cpu": image.cpu_limit}
    domain: Manifest = {"cpu": cpu, "machine": {"type": site.machine_type}, "resources": resources, "devices": devices}
    if image.family == "windows":
        devices["blockMultiQueue"] = False
        domain.update(features=WINDOWS_FEATURES, clock=WINDOWS_CLOCK)
    else:
        devices.update({"networkInterfaceMultiqueue": True} if image.multiqueue else {})
        devices.update({"rng": {}} if image.rng else {})
    return domain


def _network(image: GuestImage) -> Manifest:
    return {"name": "nic-0", "pod": {}} if image.network == "pod" else {"name": "nic-0", "multus": {"networkName": image.network}}


def _root_disk(guest: Guest, image: GuestImage, golden: GoldenImage, site: Site, labels: dict[str, str]) -> Manifest:
    # The VM is stopped: without the annotation a class that waits for the first consumer would have nothing to clone for.
    return {
        "metadata": {"name": f"{guest.name}-root", "labels": labels, "annotations": {BIND_IMMEDIATE: "true"}},
        "spec": {**clone_source(guest.os, image, golden, site.storage), **claim(image.disk_size, site.storage)},
    }
