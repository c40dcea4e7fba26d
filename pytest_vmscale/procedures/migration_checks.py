"""Whether a zone can be emptied: read before anything is touched, and again just before the drain. Nothing here writes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..cluster.conditions import condition_of
from ..cluster.requests import ApiError, Cluster, Object
from ..cluster.watch import OwnedMeta, Projection
from ..model import Fleet
from ..quantity import amount
from .movements import FINAL
from .nodes import NODES, takes_pods
from .upgrade_checks import VERSIONS
from .vmi import KUBEVIRTS, MIGRATIONS, VMIS

PODS = "/api/v1/pods"
BUDGETS = "/apis/policy/v1/poddisruptionbudgets"
# KubeVirt's own limits, where its configuration names none.
DEFAULT_PER_CLUSTER, DEFAULT_PER_NODE = 5, 2
NAMED = 3
GIB = 2**30


class _Resources(msgspec.Struct):
    requests: dict[str, str] = {}


class _Container(msgspec.Struct):
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _PodSpec(msgspec.Struct):
    nodeName: str = ""
    containers: list[_Container] = []
    overhead: dict[str, str] = {}


class _PodStatus(msgspec.Struct):
    phase: str = ""


class _PodMeta(OwnedMeta):
    annotations: dict[str, str] = {}


class Pod(Projection):
    """Of any Pod: whose it is, where it runs, and what it asks for."""

    metadata: _PodMeta = msgspec.field(default_factory=_PodMeta)
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)

    @property
    def stays(self) -> bool:
        """A drain leaves it: a DaemonSet's, a mirror of the kubelet's own, or one that has ended."""
        daemon = any(each.get("kind") == "DaemonSet" and each.get("controller") for each in self.metadata.ownerReferences)
        return daemon or "kubernetes.io/config.mirror" in self.metadata.annotations or self.status.phase in FINAL

    def asks(self, resource: str) -> float:
        named = [each.resources.requests.get(resource, "0") for each in self.spec.containers]
        return sum(map(amount, [*named, self.spec.overhead.get(resource, "0")]))


class _PodList(msgspec.Struct):
    items: list[Pod] = []


_PODS = msgspec.json.Decoder(_PodList)


@dataclass(frozen=True)
class Limits:
    """How many live migrations there may be at once, as KubeVirt has it now."""

    per_cluster: int
    per_node: int


@dataclass
class Room:
    """What a node has left."""

    cpu: float = 0.0
    memory: float = 0.0
    pods: float = 0.0

    def take(self, cpu: float, memory: float) -> bool:
        if cpu > self.cpu or memory > self.memory or self.pods < 1:
            return False
        self.cpu, self.memory, self.pods = self.cpu - cpu, self.memory - memory, self.pods - 1
        return True


@dataclass(frozen=True)
class Site:
    """What the cluster is like just before the drain."""

    pods: Sequence[Pod]
    nodes: Mapping[str, Object]
    budgets: Sequence[Object]
    by_node: Mapping[str, list[Pod]] = field(default_factory=dict)


async def limits(cluster: Cluster) -> Limits:
    """What KubeVirt goes by: its configuration, else its own defaults."""
    kubevirts = await cluster.list_all(KUBEVIRTS)
    said = ((kubevirts[0]["spec"].get("configuration") or {}).get("migrations") or {}) if kubevirts else {}
    return Limits(int(said.get("parallelMigrationsPerCluster", DEFAULT_PER_CLUSTER)), int(said.get("parallelOutboundMigrationsPerNode", DEFAULT_PER_NODE)))


async def under_way(cluster: Cluster) -> list[str]:
    """What goes on already that would be measured with it: migrations, and an update of the cluster. A line each."""
    found = []
    running = [each for each in await cluster.list_all(MIGRATIONS) if each.get("status", {}).get("phase") not in FINAL]
    if running:
        first = running[0]["metadata"]
        found.append(f"{len(running)} live migrations are under way (the first is {first['namespace']}/{first['name']}): wait until they have ended")
    try:
        versions = await cluster.list_all(VERSIONS)
    except ApiError as error:
        if error.status != 404:
            raise
        versions = []  # no OpenShift
    for version in versions:
        if progressing := condition_of(version, "Progressing", "True"):
            found.append(f"the cluster is being updated ({progressing.message}): wait until it is done")
    return found


async def list_pods(cluster: Cluster, fields: str = "") -> list[Pod]:
    """Of all namespaces, by a field selector."""
    found: list[Pod] = []
    async for body in cluster.pages(PODS, fields=fields):
        found += _PODS.decode(body).items
    return found


async def look(cluster: Cluster) -> Site:
    """All pods that have not ended, nodes and budgets."""
    pods = [each for each in await list_pods(cluster) if each.status.phase not in FINAL]
    nodes = {each["metadata"]["name"]: each for each in await cluster.list_all(NODES)}
    by_node: dict[str, list[Pod]] = {}
    for pod in pods:
        by_node.setdefault(pod.spec.nodeName, []).append(pod)
    return Site(pods, nodes, await cluster.list_all(BUDGETS), by_node)


async def immovable(cluster: Cluster, fleet: Fleet, migrate: Sequence[str], zone: Iterable[str] | None) -> list[str]:
    """Why some of the fleet's VMs cannot leave as they should: a line each kind. `migrate`: keys of those that are to be live migrated.
    zone: the nodes that they must be on; None for any."""
    members, wanted = None if zone is None else set(zone), set(migrate)
    vmis = {f"{each['metadata']['namespace']}/{each['metadata']['name']}": each for each in await cluster.list_all(VMIS, selector=fleet.selector)}
    elsewhere = [f"{guest.key} on {vmis[guest.key].get('status', {}).get('nodeName')}" for guest in fleet.guests
                 if members is not None and guest.key in vmis and vmis[guest.key].get("status", {}).get("nodeName") not in members]  # fmt: skip
    found = []
    if elsewhere:
        found.append(f"{_some(elsewhere)} {_are(elsewhere)} not in the zone that is to be drained: its nodes have no room for the fleet, or do not take VMs")
    fixed = {}
    for key in sorted(wanted & set(vmis)):
        condition = condition_of(vmis[key], "LiveMigratable")
        if condition is None or condition.status != "True":
            fixed[key] = f"{key} ({condition.text if condition else 'it does not say'})"
    if fixed:
        named = _some(list(fixed.values()))
        found.append(f"{named} cannot be live migrated: mend that, or set eviction_strategy: None for its OS in vmscale.yaml to have it restarted")
    found += await _not_shared(cluster, vmis, wanted - set(fixed))
    return found


async def _not_shared(cluster: Cluster, vmis: Mapping[str, Object], keys: Iterable[str]) -> list[str]:
    """Disks that only one node may have at a time, though KubeVirt takes their VMs for migratable."""
    claims: dict[str, Object] = {}
    for space in sorted({key.partition("/")[0] for key in keys}):
        for claim in await cluster.list_all(f"/api/v1/namespaces/{space}/persistentvolumeclaims"):
            claims[f"{space}/{claim['metadata']['name']}"] = claim
    bad = []
    for key in sorted(keys):
        space = key.partition("/")[0]
        for volume in vmis[key]["spec"].get("volumes") or ():
            name = (volume.get("dataVolume") or {}).get("name") or (volume.get("persistentVolumeClaim") or {}).get("claimName")
            modes = (claims.get(f"{space}/{name}") or {}).get("spec", {}).get("accessModes") or []
            if name and modes and "ReadWriteMany" not in modes:
                bad.append(f"{key} (its disk {name} is {', '.join(modes)})")
    return [f"{_some(bad)} cannot be live migrated: give storage.access_mode: ReadWriteMany in vmscale.yaml, on a class that has it"] if bad else []


def cramped(site: Site, zone: Sequence[str], others: Sequence[str]) -> list[str]:
    """Whether all that would leave the zone's nodes fits onto the other zones' nodes, largest first. A line if it does not."""
    movers = [pod for name in zone for pod in site.by_node.get(name, ()) if not pod.stays]
    rooms = [_room(site, name) for name in others if takes_pods(site.nodes.get(name))]
    if not rooms:
        return ["no node outside the zone takes pods: make it schedulable, or ask for fewer zones"]
    left = []
    for pod in sorted(movers, key=lambda each: (-each.asks("memory"), -each.asks("cpu"))):
        # The scheduler's own preference: to where most is free.
        for room in sorted(rooms, key=lambda each: -each.memory)[:8]:
            if room.take(pod.asks("cpu"), pod.asks("memory")):
                break
        else:
            left.append(pod)
    if not left:
        return []
    cpu, memory = (math.fsum(each.asks(what) for each in left) for what in ("cpu", "memory"))
    return [
        f"the nodes outside the zone have no room for {len(left)} of the {len(movers)} pods that are to leave it ({cpu:.1f} CPU and "
        f"{memory / GIB:.1f} GiB too much): ask for fewer --vms or --migration-pods, or for more --zones"
    ]


def _room(site: Site, name: str) -> Room:
    has = site.nodes[name].get("status", {}).get("allocatable") or {}
    pods = site.by_node.get(name, [])
    return Room(
        amount(has.get("cpu", "0")) - math.fsum(each.asks("cpu") for each in pods),
        amount(has.get("memory", "0")) - math.fsum(each.asks("memory") for each in pods),
        amount(has.get("pods", "0")) - len(pods),
    )


def away(site: Site, zone: Sequence[str]) -> list[str]:
    """Nodes of the zone that are not as a rollout should find them."""
    bad = [name for name in zone if not takes_pods(site.nodes.get(name))]
    return [f"{_some(bad)} {_are(bad)} not Ready or {_are(bad)} cordoned: have the whole zone take pods first"] if bad else []


def blocking(site: Site, zone: Iterable[str]) -> list[str]:
    """The disruption budgets that would not let a pod of these nodes go: a line each. KubeVirt's own, one for each VMI, let it be migrated."""
    found = []
    for budget in site.budgets:
        if (budget.get("status") or {}).get("disruptionsAllowed", 0) > 0 or _of_kubevirt(budget):
            continue
        meta = budget["metadata"]
        held = [
            pod.metadata.name
            for name in zone
            for pod in site.by_node.get(name, ())
            if not pod.stays and pod.metadata.namespace == meta["namespace"] and selects(budget["spec"].get("selector"), pod.metadata.labels)
        ]
        if held:
            found.append(
                f"the disruption budget {meta['namespace']}/{meta['name']} lets no pod go, and holds {_some(held)}: give its workload more replicas, or widen it"
            )
    return found


def budgets_of(site: Site, pod: Pod) -> list[str]:
    """The disruption budgets that do not let this pod go now."""
    return [
        f"{budget['metadata']['namespace']}/{budget['metadata']['name']}"
        for budget in site.budgets
        if (budget.get("status") or {}).get("disruptionsAllowed", 0) <= 0
        and budget["metadata"]["namespace"] == pod.metadata.namespace
        and selects(budget["spec"].get("selector"), pod.metadata.labels)
    ]


def _of_kubevirt(budget: Object) -> bool:
    return any(each.get("kind") == "VirtualMachineInstance" for each in budget["metadata"].get("ownerReferences") or ())


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """A LabelSelector of the API: none selects nothing, an empty one everything."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for each in selector.get("matchExpressions") or ():
        has, values = labels.get(each["key"]), each.get("values") or ()
        fits = {"In": has in values, "NotIn": has not in values, "Exists": has is not None, "DoesNotExist": has is None}[each["operator"]]
        if not fits:
            return False
    return True


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
