"""What a run must be allowed to do on a cluster: each right is a verb on a resource, as RBAC has it.

The rules that grant them are in ci/rbac/, and a test keeps both alike. What serves the report only (versions) is in the roles too, but
nobody must have it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import Settings


@dataclass(frozen=True, order=True)
class Right:
    """`resource` with its subresource (virtualmachines/start), `group` empty for the core API, `namespace` empty for all of them."""

    group: str
    resource: str
    verb: str
    namespace: str = ""

    @property
    def named(self) -> str:
        """As kubectl names resources: virtualmachines.kubevirt.io"""
        return f"{self.resource}.{self.group}" if self.group else self.resource


def rights(group: str, resources: str, verbs: str, namespace: str = "") -> tuple[Right, ...]:
    """Each verb on each resource; both are separated by spaces."""
    return tuple(Right(group, resource, verb, namespace) for resource in resources.split() for verb in verbs.split())


def sentences(needed: Iterable[Right]) -> list[str]:
    """One for each resource: "create, delete virtualmachines.kubevirt.io"."""
    verbs: dict[tuple[str, str], list[str]] = {}
    for each in sorted(set(needed)):
        verbs.setdefault((each.named, each.namespace), []).append(each.verb)
    return [f"{', '.join(what)} {named}" + (f" in the namespace {space}" if space else "") for (named, space), what in verbs.items()]


# What every run looks at and takes.
RUN = (
    *rights("", "namespaces", "get list"),
    *rights("", "nodes", "list"),
    *rights("coordination.k8s.io", "leases", "create get update", "default"),
)
# For the report alone: who may not read them still may measure.
FACTS = (
    *rights("config.openshift.io", "clusterversions", "get"),
    *rights("kubevirt.io", "kubevirts", "list"),
    *rights("cdi.kubevirt.io", "cdis", "list"),
    *rights("", "events", "list"),  # what became of a VM that failed
    *rights("", "pods/log", "get"),
)
# A fleet is made, followed, and removed to the last object; `get` tells why one does not go.
FLEET = (
    *rights("", "namespaces", "create delete get list watch"),
    *rights("kubevirt.io", "virtualmachines", "create delete get list watch"),
    *rights("kubevirt.io", "virtualmachineinstances virtualmachineinstancemigrations", "delete get list watch"),
    *rights("", "pods persistentvolumeclaims", "delete get list watch"),
    *rights("cdi.kubevirt.io", "datavolumes", "delete get list watch"),
    *rights("apps", "deployments", "delete get list watch"),  # idle pods go with theirs
)
CLOUD_INIT = rights("", "secrets", "create")
START = rights("subresources.kubevirt.io", "virtualmachines/start", "update")
STOP = rights("subresources.kubevirt.io", "virtualmachines/stop", "update")
PORT_FORWARD = rights("subresources.kubevirt.io", "virtualmachineinstances/portforward", "get")
IMPORT = rights("cdi.kubevirt.io", "datavolumes", "create")
# Whether an image can be cloned is looked up where that is allowed. That of a claim or DataVolume is a fleet's right already.
IMAGES = (*rights("snapshot.storage.k8s.io", "volumesnapshots", "get"), *rights("cdi.kubevirt.io", "datasources", "get"))
# What is to be undone is written down before it is done.
EDITS = rights("", "configmaps", "create delete list update")
IDLE_PODS = rights("apps", "deployments", "create get")


# Zones of workers, each with a pool of its own, and what is rolled out to one.
POOLS = "machineconfigpools"
NODES_AND_POOLS = (*rights("", "nodes", "list watch"), *rights("machineconfiguration.openshift.io", POOLS, "list watch"))
ZONES = (
    *NODES_AND_POOLS,
    *EDITS,
    *rights("", "nodes", "get patch"),
    *rights("machineconfiguration.openshift.io", POOLS, "create delete get"),
    *rights("machineconfiguration.openshift.io", "machineconfigs", "create delete get"),
    *rights("", "events", "list watch", "default"),  # what the nodes' daemons say
)
# How many VMs may migrate at once is HyperConverged's to say, and how many virt-api there are.
LIVE_MIGRATION = (
    *EDITS,
    *rights("hco.kubevirt.io", "hyperconvergeds", "get list patch"),
    *rights("kubevirt.io", "kubevirts", "list"),
    *rights("apps", "deployments", "get"),
)


def fleet_rights(settings: Settings, names: Iterable[str]) -> tuple[Right, ...]:
    """Of a fleet that has guests of these names: to make and to remove it."""
    guests = [settings.guest(name) for name in names]
    return (
        *FLEET,
        *(CLOUD_INIT if any(guest.cloud_init for guest in guests) else ()),
        *(IMPORT if any(guest.image and guest.image.imported for guest in guests) else ()),
    )


def route_rights(settings: Settings) -> tuple[Right, ...]:
    """To reach guests that are up."""
    return PORT_FORWARD if settings.ssh_via == "port-forward" else ()
