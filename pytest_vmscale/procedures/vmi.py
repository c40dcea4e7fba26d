"""What the procedures read of a VirtualMachineInstance, its migrations and its pods."""

from __future__ import annotations

import msgspec

from ..cluster.conditions import Condition, find
from ..cluster.watch import AnnotatedMeta, Projection

KUBEVIRTS = "/apis/kubevirt.io/v1/kubevirts"
VMIS = "/apis/kubevirt.io/v1/virtualmachineinstances"
MIGRATIONS = "/apis/kubevirt.io/v1/virtualmachineinstancemigrations"
DOMAIN = "kubevirt.io/domain"  # annotation of a launcher pod: its VMI's name
CREATED_BY = "kubevirt.io/created-by"  # label of one: its VMI's uid
PENDING = "Pending"  # of a VMI or a migration; a new one has no phase yet


class Interface(msgspec.Struct):
    ipAddress: str = ""


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
        found = find(self.status.conditions, "PodScheduled", "False")
        return found.message if found else ""

    @property
    def ready_since(self) -> str | None:
        """The Ready condition's own timestamp; empty if it is ready and has none, None if it is not ready."""
        found = find(self.status.conditions, "Ready", "True")
        return (found.lastTransitionTime or "") if found else None


def reachable(address: str) -> bool:
    """Not link-local, and not the guest's own ::1, which agents of some releases report."""
    return bool(address) and not address.startswith(("169.254.", "fe80:")) and address != "::1"


# Of VMs that move.


class MigrationState(msgspec.Struct):
    migrationUid: str = ""
    sourceNode: str = ""
    targetNode: str = ""
    startTimestamp: str | None = None
    endTimestamp: str | None = None
    completed: bool = False
    failed: bool = False
    failureReason: str = ""
    abortStatus: str = ""


class MovingStatus(msgspec.Struct):
    phase: str = ""
    nodeName: str | None = None
    evacuationNodeName: str | None = None
    interfaces: list[Interface] = []
    conditions: list[Condition] = []
    phaseTransitionTimestamps: list[PhaseTransition] = []
    migrationState: MigrationState | None = None


class MovingVmi(Projection):
    """Of a VirtualMachineInstance: what tells where it runs, and that it is to leave."""

    status: MovingStatus = msgspec.field(default_factory=MovingStatus)

    @property
    def address(self) -> str:
        """Where it can be reached, or empty as long as it cannot."""
        return next((each.ipAddress for each in self.status.interfaces if reachable(each.ipAddress)), "")

    @property
    def not_migratable(self) -> str:
        """Why it cannot be live migrated, or empty; what it does not say of itself yet is such a reason too."""
        found = find(self.status.conditions, "LiveMigratable")
        if found is None:
            return "it does not say yet whether it can"
        return "" if found.status == "True" else found.message or "it does not say why"


class MigrationSpec(msgspec.Struct):
    vmiName: str = ""


class MigrationStatus(msgspec.Struct):
    phase: str = ""
    phaseTransitionTimestamps: list[PhaseTransition] = []
    migrationState: MigrationState | None = None


class Migration(Projection):
    """Of a VirtualMachineInstanceMigration: spec.vmiName, status.{phase, phaseTransitionTimestamps, migrationState}."""

    spec: MigrationSpec = msgspec.field(default_factory=MigrationSpec)
    status: MigrationStatus = msgspec.field(default_factory=MigrationStatus)

    @property
    def phase(self) -> str:
        """A new one has none: it waits all the same."""
        return self.status.phase or PENDING


class Launcher(Projection):
    """Of a virt-launcher pod: whose it is, and whether it is being deleted."""

    metadata: AnnotatedMeta = msgspec.field(default_factory=AnnotatedMeta)

    @property
    def vm(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.annotations.get(DOMAIN, '')}"
