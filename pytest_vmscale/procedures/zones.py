"""Zones: parts of the cluster whose nodes are updated apart from the others', a MachineConfigPool each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from ..cluster.access import ClusterError
from ..cluster.edits import Edits
from ..cluster.journal import Ref, Until, pointer
from ..cluster.requests import ApiError, Cluster, Object
from ..manifests import machineconfig as manifests
from .nodes import NODES, POOLS, Node, NodeWatch, Pool

WORKER, CONTROL_PLANE = "node-role.kubernetes.io/worker", ("node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane")
BUILT_IN = ("master", "worker", "arbiter")
# The order in which all of it is undone, once the fleet is gone: what was rolled out is taken back by the zone's own pool, many nodes
# at a time; then the nodes leave, which reboots none of them; then the pools go, that no node has a config of theirs any longer.
TRIGGER_ORDER, LABEL_ORDER, POOL_ORDER = 1, 2, 3
RENDER_SECONDS = 600.0  # longest that the operator takes to render a new pool, or to count its nodes


@dataclass(frozen=True)
class Zone:
    """One part of the cluster. `name` is its pool's. `made`: by this run, or there before it."""

    name: str
    nodes: tuple[str, ...]
    label: str  # the node label that tells its nodes
    made: bool


@dataclass(frozen=True)
class Zones:
    """All zones, in order; every worker is in exactly one of them."""

    zones: tuple[Zone, ...]
    left_out: tuple[str, ...] = ()  # workers of other pools

    def others(self, zone: Zone) -> tuple[str, ...]:
        """The nodes that can take what leaves this zone."""
        return tuple(node for each in self.zones if each != zone for node in each.nodes)


def deal(workers: Sequence[str], count: int) -> list[list[str]]:
    """The workers in turn: sizes differ by one at most. ClusterError if a zone would have none."""
    if len(workers) < count:
        raise ClusterError(f"{count} zones cannot be made of {len(workers)} workers")
    return [list(workers[index::count]) for index in range(count)]


async def unfit_pools(cluster: Cluster) -> list[str]:
    """What keeps pools from being rolled out to, a line each: one degraded, paused or under way."""
    try:
        found = await cluster.list_all(POOLS)
    except ApiError as error:
        if error.status == 404:
            return ["this cluster has no MachineConfigPools: zones need OpenShift (--migration-trigger drain needs none)"]
        raise
    return [trouble for each in found if (trouble := msgspec.convert(each, Pool).trouble)]


def _roles(node: Object) -> dict[str, str]:
    return node["metadata"].get("labels") or {}


async def workers_of(cluster: Cluster, pools: Sequence[Object]) -> tuple[list[str], list[str]]:
    """The workers that belong to the pool `worker` alone, in the order of their names, and those that another pool has."""
    custom = [
        each["spec"]["nodeSelector"].get("matchLabels") or {} for each in pools
        if each["metadata"]["name"] not in BUILT_IN and each["spec"].get("nodeSelector")
    ]  # fmt: skip
    free: list[str] = []
    taken: list[str] = []
    for node in await cluster.list_all(NODES, selector=WORKER):
        labels = _roles(node)
        if any(role in labels for role in CONTROL_PLANE):
            continue
        elsewhere = any(wanted and wanted.items() <= labels.items() for wanted in custom)
        (taken if elsewhere else free).append(str(node["metadata"]["name"]))
    return sorted(free), sorted(taken)


async def existing_zones(cluster: Cluster, names: Sequence[str]) -> Zones:
    """The site's own pools. ClusterError if one is not there, has no node, or shares one with another."""
    pools = {each["metadata"]["name"]: each for each in await cluster.list_all(POOLS)}
    missing = [name for name in names if name not in pools]
    if missing:
        raise ClusterError(f"vmscale.yaml: zones: there is no MachineConfigPool {', '.join(missing)}; there are {', '.join(sorted(pools))}")
    nodes = await cluster.list_all(NODES)
    found, owner = [], dict[str, str]()
    for name in names:
        selector = pools[name]["spec"].get("nodeSelector") or {}
        wanted = selector.get("matchLabels") or {}
        if len(wanted) != 1 or selector.get("matchExpressions"):
            raise ClusterError(f"vmscale.yaml: zones: MachineConfigPool {name} does not select its nodes by one label")
        members = tuple(sorted(str(node["metadata"]["name"]) for node in nodes if wanted.items() <= _roles(node).items()))
        if not members:
            raise ClusterError(f"vmscale.yaml: zones: MachineConfigPool {name} has no nodes")
        for node in members:
            if node in owner:
                raise ClusterError(f"vmscale.yaml: zones: node {node} is in {owner[node]} and in {name}")
            owner[node] = name
        found.append(Zone(name, members, next(iter(wanted)), made=False))
    return Zones(tuple(found))


async def make_zones(
    cluster: Cluster,
    edits: Edits,
    watch: NodeWatch,
    count: int,
    max_unavailable: int | str,
    *,
    deadline_seconds: float,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Zones:
    """Label the workers into zones and make a pool for each, and wait until all of it is at rest. Undone by `edits`.

    ClusterError, before anything is changed, if the cluster has pools or labels of these names; or if it does not come to rest."""
    pools = await cluster.list_all(POOLS)
    names = [f"zone-{index}" for index in range(count)]
    await _check_free(cluster, names, {each["metadata"]["name"] for each in pools})
    workers, taken = await workers_of(cluster, pools)
    shares = deal(workers, count)
    worker = Ref(manifests.API, "MachineConfigPool", "worker")
    emptied = [Until(worker, len(workers), f"/status/{each}MachineCount") for each in ("updated", "ready")]
    for name in names:
        pool = manifests.pool(name, max_unavailable)
        until = [Until(Ref.of(pool), 0, "/status/machineCount"), Until(worker, len(workers), "/status/machineCount"), *emptied]
        await edits.create(pool, order=POOL_ORDER, until=until)
    if not await watch.wait(lambda: all(_target(watch, name) for name in names), RENDER_SECONDS):
        raise ClusterError(f"the machine-config-operator renders no config for {', '.join(name for name in names if not _target(watch, name))}")
    for name, members in zip(names, shares, strict=True):
        ref, target = Ref(manifests.API, "MachineConfigPool", name), _target(watch, name)
        until = [Until(ref, target, "/spec/configuration/name"), Until(ref, target, "/status/configuration/name"), Until(ref, "True", condition="Updated")]
        label = pointer("metadata", "labels", manifests.role_label(name))
        await edits.change_all([Ref("v1", "Node", node) for node in members], {label: ""}, order=LABEL_ORDER, until=until)
    found = Zones(
        tuple(Zone(name, tuple(members), manifests.role_label(name), made=True) for name, members in zip(names, shares, strict=True)),
        tuple(taken),
    )

    def settled() -> bool:
        counts = {name: watch.pools[name].status.machineCount for name in names if name in watch.pools}
        on_progress("zones updated", sum(_settled(watch, zone) for zone in found.zones), count)
        return sum(counts.values()) == len(workers) and all(_settled(watch, zone) for zone in found.zones)

    if not await watch.wait(settled, deadline_seconds):
        late = [zone.name for zone in found.zones if not _settled(watch, zone)]
        raise ClusterError("the zones do not come to rest: " + "; ".join(_why(watch, name) for name in late))
    check(found, watch.nodes)
    return found


async def _check_free(cluster: Cluster, names: Sequence[str], pools: set[str]) -> None:
    for name in names:
        if name in pools:
            raise ClusterError(
                f"MachineConfigPool {name} is there already: name the pools that are the site's zones in vmscale.yaml (zones: [{name}, ...])"
            )
        labelled = await cluster.list_all(NODES, selector=manifests.role_label(name))
        if labelled:
            raise ClusterError(f"node {labelled[0]['metadata']['name']} has the label {manifests.role_label(name)} already, and there is no such pool")


def check(zones: Zones, nodes: dict[str, Node]) -> None:
    """Every worker is in exactly one zone, and sizes differ by one at most, by what the nodes say. ClusterError."""
    sizes = [len(zone.nodes) for zone in zones.zones]
    if max(sizes) - min(sizes) > 1:
        raise ClusterError(f"the zones differ in size by more than one: {', '.join(map(str, sizes))}")
    for name, node in nodes.items():
        labels = node.metadata.labels
        mine = [zone.name for zone in zones.zones if zone.label in labels]
        expected = [zone.name for zone in zones.zones if name in zone.nodes]
        if mine != expected:
            raise ClusterError(f"node {name} is in {' and '.join(mine) or 'no zone'}, and should be in {' and '.join(expected) or 'none'}")
        if expected and WORKER not in labels:
            raise ClusterError(f"node {name} has lost its role worker")


def _target(watch: NodeWatch, name: str) -> str:
    return watch.pools[name].spec.configuration.name if name in watch.pools else ""


def _settled(watch: NodeWatch, zone: Zone) -> bool:
    pool = watch.pools.get(zone.name)
    return pool is not None and pool.updated and pool.status.machineCount == len(zone.nodes)


def _why(watch: NodeWatch, name: str) -> str:
    pool = watch.pools.get(name)
    if pool is None:
        return f"pool {name} is gone"
    return pool.trouble or f"pool {name} has {pool.status.machineCount} nodes"


async def roll_out(edits: Edits, zone: Zone, run_id: str, number: int) -> str:
    """Create the MachineConfig that has this zone's nodes drained and rebooted; its name, which no other of its path or content has."""
    name = f"99-vmscale-{run_id}-{number}"
    await edits.create(manifests.trigger(name, zone.name), order=TRIGGER_ORDER)
    return name

