"""What the procedures read of a VirtualMachineInstance."""

from __future__ import annotations

import msgspec

from ..cluster.watch import Projection

VMIS = "/apis/kubevirt.io/v1/virtualmachineinstances"


class Interface(msgspec.Struct):
    ipAddress: str = ""


class Condition(msgspec.Struct):
    type: str
    status: str
    lastTransitionTime: str | None = None
    message: str = ""


class PhaseTransition(msgspec.Struct):
    phase: str = ""
    phaseTransitionTimestamp: str | None = None


class VmiStatus(msgspec.Struct):
    phase: str = ""
    nodeName: str | None = None
    interfaces: list[Interface] = []
    conditions: list[Condition] = []
    phaseTransitionTimestamps: list[PhaseTransition] = []


class Vmi(Projection):
    """Of a VirtualMachineInstance: metadata, status.{phase, nodeName, interfaces[].ipAddress, conditions, phaseTransitionTimestamps}."""

    status: VmiStatus = msgspec.field(default_factory=VmiStatus)

    @property
    def address(self) -> str:
        """Where it can be reached, or empty as long as it cannot."""
        return next((each.ipAddress for each in self.status.interfaces if reachable(each.ipAddress)), "")

    @property
    def why_unscheduled(self) -> str:
        return next((each.message for each in self.status.conditions if each.type == "PodScheduled" and each.status == "False"), "")

    @property
    def ready_since(self) -> str | None:
        """The Ready condition's own timestamp; empty if it is ready and has none, None if it is not ready."""
        return next(
            (each.lastTransitionTime or "" for each in self.status.conditions if each.type == "Ready" and each.status == "True"), None
        )


def reachable(address: str) -> bool:
    """Not link-local, and not the guest's own ::1, which agents of some releases report."""
    return bool(address) and not address.startswith(("169.254.", "fe80:")) and address != "::1"
