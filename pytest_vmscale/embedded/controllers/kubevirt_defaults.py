"""What virt-api's mutating webhook fills into a new VMI: the pod network, a disk for each volume, the machine type."""

from __future__ import annotations

from ..api.store import Object
from .common import Cluster
from .kubevirt_config import configuration

DEFAULT_BUS = "sata"
WAYS = ("disk", "cdrom", "lun")  # in which a volume is shown to the guest


def set_defaults(cluster: Cluster, vmi: Object) -> None:
    """In place. What is there stays as it is."""
    wanted, spec = configuration(cluster), vmi["spec"]
    domain = spec.setdefault("domain", {})
    devices = domain.setdefault("devices", {})
    if wanted.get("machineType"):
        domain.setdefault("machine", {}).setdefault("type", wanted["machineType"])
    if devices.get("autoattachPodInterface") is not False and not spec.get("networks") and not devices.get("interfaces"):
        kind = (wanted.get("network") or {}).get("defaultNetworkInterface", "bridge")
        devices["interfaces"], spec["networks"] = [{"name": "default", kind: {}}], [{"name": "default", "pod": {}}]
    shown = {each.get("name") for key in ("disks", "filesystems") for each in devices.get(key) or ()}
    unseen = [{"name": each["name"]} for each in spec.get("volumes") or () if each.get("name") not in shown]
    if unseen:
        devices["disks"] = [*(devices.get("disks") or ()), *unseen]
    for disk in devices.get("disks") or ():
        way = next((each for each in WAYS if each in disk), "disk")
        target = disk.get(way) or {}
        disk[way] = {**target, "bus": target.get("bus") or DEFAULT_BUS}
