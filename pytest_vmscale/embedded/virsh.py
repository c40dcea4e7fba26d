"""`virsh` in a virt-launcher's compute container: what libvirt tells of the one domain that may run there."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree

from .api.store import Object
from .controllers.common import condition
from .controllers.kubevirt_pod import claim_name, guest_memory_bytes, vcpus
from .shell import Shell
from .shell_commands import Command, Streams

FIRMWARE_NAMES = uuid.UUID("6a1a24a1-4061-4607-8bf4-a3963d0c5895")  # KubeVirt's own: a guest's firmware has a UUID by the VM's name
VERSION = "7.0.0"  # of libvirt in OpenShift Virtualization 4.9
DOMAIN_ID = "1"  # a launcher starts one domain


@dataclass(frozen=True)
class Domain:
    """The guest of a VMI, as libvirt sees it."""

    vmi: Object

    @property
    def name(self) -> str:
        return f"{self.vmi['metadata']['namespace']}_{self.vmi['metadata']['name']}"

    @property
    def uuid(self) -> str:
        given = (self.vmi["spec"]["domain"].get("firmware") or {}).get("uuid")
        return given or str(uuid.uuid5(FIRMWARE_NAMES, self.vmi["metadata"]["name"]))

    @property
    def state(self) -> str:
        paused = condition(self.vmi["status"].get("conditions") or (), "Paused")
        return "paused" if paused is not None and paused["status"] == "True" else "running"

    @property
    def memory_kib(self) -> int:
        return guest_memory_bytes(self.vmi["spec"]) // 1024

    def disks(self) -> list[tuple[str, str, bool]]:
        """Target, source and whether that is a block device, of each disk."""
        volumes = {each["name"]: each for each in self.vmi["spec"].get("volumes") or ()}
        blocks = {each["name"] for each in self.vmi["status"].get("volumeStatus") or ()
                  if (each.get("persistentVolumeClaimInfo") or {}).get("volumeMode") == "Block"}
        found, letters = [], {"vd": 0, "sd": 0}
        for disk in self.vmi["spec"]["domain"].get("devices", {}).get("disks") or ():
            name, bus = disk["name"], (disk.get("disk") or disk.get("cdrom") or disk.get("lun") or {}).get("bus", "sata")
            prefix = "vd" if bus == "virtio" else "sd"
            target = f"{prefix}{chr(ord('a') + letters[prefix])}"
            letters[prefix] += 1
            volume = volumes.get(name, {})
            if claim_name(volume):
                source = f"/dev/{name}" if name in blocks else f"/var/run/kubevirt-private/vmi-disks/{name}/disk.img"
            elif "containerDisk" in volume:
                source = f"/var/run/kubevirt-ephemeral-disks/disk-data/{name}/disk.qcow2"
            else:
                meta = self.vmi["metadata"]
                source = f"/var/run/kubevirt-ephemeral-disks/cloud-init-data/{meta['namespace']}/{meta['name']}/noCloud.iso"
            found.append((target, source, name in blocks))
        return found

    def interfaces(self) -> list[tuple[str, str]]:
        """Device on the host, and MAC address."""
        return [(f"tap{number}", each.get("mac", "")) for number, each in enumerate(self.vmi["status"].get("interfaces") or ())]

    def xml(self) -> str:
        root = ElementTree.Element("domain", {"type": "kvm", "id": DOMAIN_ID})
        child = ElementTree.SubElement
        child(root, "name").text = self.name
        child(root, "uuid").text = self.uuid
        for tag in ("memory", "currentMemory"):
            child(root, tag, {"unit": "KiB"}).text = str(self.memory_kib)
        cpus, asked = vcpus(self.vmi["spec"]), self.vmi["spec"]["domain"].get("cpu") or {}
        child(root, "vcpu", {"placement": "static"}).text = str(cpus)
        system = child(root, "os")
        machine = (self.vmi["spec"]["domain"].get("machine") or {}).get("type") or "pc-q35-rhel8.4.0"
        child(system, "type", {"arch": "x86_64", "machine": machine}).text = "hvm"
        child(child(root, "features"), "acpi")
        cpu = child(root, "cpu", {"mode": asked.get("model", "host-model")})
        child(cpu, "topology", {name: str(asked.get(name, 1)) for name in ("sockets", "cores", "threads")})
        devices = child(root, "devices")
        child(devices, "emulator").text = "/usr/libexec/qemu-kvm"
        for target, source, block in self.disks():
            disk = child(devices, "disk", {"type": "block" if block else "file", "device": "disk"})
            child(disk, "driver", {"name": "qemu", "type": "qcow2" if source.endswith("qcow2") else "raw", "cache": "none"})
            child(disk, "source", {"dev" if block else "file": source})
            child(disk, "target", {"dev": target, "bus": "virtio" if target.startswith("vd") else "sata"})
        for device, mac in self.interfaces():
            interface = child(devices, "interface", {"type": "ethernet"})
            child(interface, "mac", {"address": mac})
            child(interface, "target", {"dev": device, "managed": "no"})
            child(interface, "model", {"type": "virtio-non-transitional"})
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode") + "\n\n"


def virsh_of(domain: Callable[[], Domain | None]) -> Command:
    """The command. `domain` is what runs in its launcher at the moment."""

    async def virsh(shell: Shell, args: list[str], streams: Streams) -> int:
        words = list(args)
        while words and words[0].startswith("-"):
            if words.pop(0) in ("-c", "--connect") and words:
                words.pop(0)
        action, rest = (words[0], [each for each in words[1:] if not each.startswith("--")]) if words else ("", [])
        current = domain()
        if action == "list":
            streams.out.append(_list(current, words[1:]))
            return 0
        if action == "version":
            streams.out.append(f"Compiled against library: libvirt {VERSION}\nUsing library: libvirt {VERSION}\nUsing API: QEMU {VERSION}\n\n")
            return 0
        tell = TOLD.get(action)
        if tell is None:
            streams.error.append(f"error: unknown command: '{action}'\n")
            return 1
        if not rest:
            streams.error.append(f"error: command '{action}' requires <domain> option\n")
            return 1
        if current is None or rest[0] not in (current.name, DOMAIN_ID, current.uuid):
            streams.error.append(f"error: failed to get domain '{rest[0]}'\n\n")
            return 1
        streams.out.append(tell(current))
        return 0

    return virsh


def _list(domain: Domain | None, flags: list[str]) -> str:
    if "--name" in flags:
        return f"{domain.name}\n\n" if domain else "\n"
    if "--uuid" in flags:
        return f"{domain.uuid}\n\n" if domain else "\n"
    return _table(("Id", "Name", "State"), [(DOMAIN_ID, domain.name, domain.state)] if domain else [])


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """As virsh prints them: columns three spaces apart, a blank line at the end."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    lines = [" " + "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in (titles, *rows)]
    return "\n".join([lines[0], "-" * (sum(widths) + 3 * len(widths) - 1), *lines[1:]]) + "\n\n"


def _info(domain: Domain) -> str:
    facts = {"Id": DOMAIN_ID, "Name": domain.name, "UUID": domain.uuid, "OS Type": "hvm", "State": domain.state, "CPU(s)": str(vcpus(domain.vmi["spec"])),
             "Max memory": f"{domain.memory_kib} KiB", "Used memory": f"{domain.memory_kib} KiB", "Persistent": "yes", "Autostart": "disable"}
    return "".join(f"{name + ':':<16}{value}\n" for name, value in facts.items()) + "\n"


TOLD: dict[str, Callable[[Domain], str]] = {
    "domstate": lambda domain: f"{domain.state}\n\n",
    "domuuid": lambda domain: f"{domain.uuid}\n\n",
    "domid": lambda domain: f"{DOMAIN_ID}\n\n",
    "dominfo": _info,
    "dumpxml": Domain.xml,
    "dommemstat": lambda domain: f"actual {domain.memory_kib}\nrss {domain.memory_kib}\n\n",
    "domblklist": lambda domain: _table(("Target", "Source"), [(target, source) for target, source, _ in domain.disks()]),
    "domiflist": lambda domain: _table(("Interface", "Type", "Source", "Model", "MAC"), [
        (device, "ethernet", "-", "virtio-non-transitional", mac) for device, mac in domain.interfaces()])}
