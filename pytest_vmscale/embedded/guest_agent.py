"""What the guest agent tells virt-handler when somebody asks: the guest's system, who is logged in, its file systems.

The bodies are those of subresources.kubevirt.io's guestosinfo, userlist and filesystemlist.
"""

from __future__ import annotations

from .api.store import Object
from .guests import Guest

VERSION = "4.2.0"  # of qemu-guest-agent in the reference's images
FILE_SYSTEMS = {"rhel": "xfs", "fedora": "btrfs", "windows": "NTFS", "cirros": "ext3", "linux": "ext4"}


def info(guest: Guest, epoch: float) -> Object:
    """`epoch`: the Unix time at which cluster time began."""
    return {"apiVersion": "subresources.kubevirt.io/v1", "kind": "VirtualMachineInstanceGuestAgentInfo", "metadata": {},
            "guestAgentVersion": VERSION, "hostname": guest.name, "os": guest.os_info, "timezone": "UTC, 0",
            "userList": _users(guest, epoch), "fsInfo": {"disks": _file_systems(guest)}}


def users(guest: Guest, epoch: float) -> Object:
    return {"metadata": {}, "items": _users(guest, epoch)}


def file_systems(guest: Guest, epoch: float) -> Object:
    return {"metadata": {}, "items": _file_systems(guest)}


def _users(guest: Guest, epoch: float) -> list[Object]:
    """Each user once, since the first of their logins that last."""
    since: dict[str, float] = {}
    for session in guest.sessions:
        since[session.user] = min(session.since, since.get(session.user, session.since))
    return [{"userName": user, "loginTime": epoch + at} for user, at in since.items()]


def _file_systems(guest: Guest) -> list[Object]:
    """The root file system, on its first partition of the first disk, as `df` sees it."""
    disk, windows = guest.machine.disk, guest.system == "windows"
    return [{"diskName": "\\\\?\\Volume{c2ffb5a8}\\" if windows else "vda1", "mountPoint": "C:\\" if windows else "/",
             "fileSystemType": FILE_SYSTEMS[guest.system], "totalBytes": disk.size_bytes, "usedBytes": disk.size_bytes - guest.machine.free_bytes,
             "disk": [{"busType": "virtio"}]}]
