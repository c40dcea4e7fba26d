"""MachineConfigPools: what configuration a pool's nodes should have, which of them get it next, and what the pool says of itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

from ..api.errors import ApiError
from ..api.store import Change, Entry, Object
from ..queue import Workers
from .common import Cluster, condition, decoded, is_true, owner_reference, selects
from .events import Recorder
from .machineconfig_names import (
    CONFIGS,
    CONTROLLER_COMPONENT,
    CONTROLLER_CONFIGS,
    CURRENT,
    DESIRED,
    FAILED_STATES,
    GENERATED_BY,
    POOLS,
    REASON,
    RELEASE,
    RENDER_COMPONENT,
    STATE,
    PoolError,
    annotation,
    controller_config,
    is_done,
    is_failing,
    is_ready,
    is_unavailable,
    pools_of,
)
from .machineconfig_render import RenderError, merge, rendered_name

log = logging.getLogger(__name__)

ZONE = "topology.kubernetes.io/zone"
SELECTS_ALL: Object = {}


class Delayed:
    """A work queue whose keys wait a while before they are worked on, to see several changes at once."""

    def __init__(self, name: str, cluster: Cluster, workers: int, seconds: float, reconcile: Callable[[str], Awaitable[None]]) -> None:
        self._workers = Workers(name, cluster.clock, workers, reconcile)
        self._clock, self._seconds = cluster.clock, seconds
        self._waiting: set[str] = set()

    def add(self, key: str) -> None:
        if key not in self._waiting:
            self._waiting.add(key)
            self._clock.call_later(self._seconds, lambda: self._due(key))

    def _due(self, key: str) -> None:
        self._waiting.discard(key)
        self._workers.queue.add(key)

    def start(self) -> None:
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()


def set_pool_condition(status: Object, type_: str, value: bool, now: str, reason: str = "", message: str = "") -> None:
    """As the operator sets it: what changes goes to the end, and an empty reason is written."""
    conditions: list[Object] = status.setdefault("conditions", [])
    old = condition(conditions, type_)
    new = {"type": type_, "status": "True" if value else "False", "reason": reason, "message": message}
    if old is not None and all(old.get(key) == text for key, text in new.items()):
        return
    since = old["lastTransitionTime"] if old is not None and old["status"] == new["status"] else now
    status["conditions"] = [each for each in conditions if each["type"] != type_] + [{"lastTransitionTime": since, **new}]


class Renderer:
    """The render controller: merges the MachineConfigs that a pool selects into one, named by its content."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._pools, self._configs = cluster.resources.kind(POOLS), cluster.resources.kind(CONFIGS)
        self._events = Recorder(cluster)
        timing = cluster.timing.machine_config
        self._queue = Delayed("machine-config-render", cluster, int(timing.controller_workers), timing.update_delay_seconds, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._pools, self._pool_changed)
        self._resources.watch(self._configs, self._config_changed)
        self._resources.watch(self._resources.kind(CONTROLLER_CONFIGS), lambda change: self._all())
        self._queue.start()

    async def stop(self) -> None:
        await self._queue.stop()

    def _all(self) -> None:
        for entry in self._resources.store.entries(self._pools):
            self._queue.add(entry.key[1])

    def _pool_changed(self, change: Change) -> None:
        if change.type == "ADDED" or (change.old is not None and decoded(change.new)["spec"] != change.old.obj["spec"]):
            self._queue.add(change.key[1])

    def _config_changed(self, change: Change) -> None:
        for pool in self._resources.list(self._pools):
            selector = pool["spec"].get("machineConfigSelector")
            if any(selects(selector, entry.labels) for entry in (change.new, change.old) if entry is not None):
                self._queue.add(pool["metadata"]["name"])

    async def _reconcile(self, name: str) -> None:
        self.render(name)

    def render(self, name: str) -> None:
        """Make the pool's spec name the config that its MachineConfigs come to; say RenderDegraded if they come to none."""
        pool = self._resources.find(self._pools, "", name)
        if pool is None:
            return
        selector = pool["spec"].get("machineConfigSelector")
        if selector == SELECTS_ALL:
            self._events.event(pool, "Warning", "SelectingAll", "This machineconfigpool is selecting all machineconfigs. "
                               "A non-empty selector is required.", RENDER_COMPONENT)
            return
        configs = [entry.obj for entry in self._resources.store.entries(self._configs) if selects(selector, entry.labels)]
        try:
            if not configs:
                raise RenderError(f"no MachineConfigs found matching selector {_text(selector)}")
            self._generate(pool, configs)
        except RenderError as error:
            self._report(name, f"Failed to render configuration for pool {name}: {error}")
        else:
            self._report(name, "")

    def _generate(self, pool: Object, configs: list[Object]) -> None:
        controller = controller_config(self._cluster)
        spec = merge(configs, controller["spec"]["osImageURL"])
        name = rendered_name(pool["metadata"]["name"], spec)
        notes = controller["metadata"]["annotations"]
        if self._resources.find(self._configs, "", name) is None:
            self._resources.create(self._configs, {
                "metadata": {"name": name, "annotations": {GENERATED_BY: notes[GENERATED_BY], RELEASE: notes[RELEASE]},
                             "ownerReferences": [owner_reference(self._pools, pool)]}, "spec": spec})
            self._events.event(pool, "Normal", "RenderedConfigGenerated", f"{name} successfully generated (release version: {notes[RELEASE]}, "
                               f"controller version: {notes[GENERATED_BY]})", RENDER_COMPONENT)
        source = [{"apiVersion": self._configs.api_version, "kind": "MachineConfig", "name": each["metadata"]["name"]} for each in configs]
        self._resources.modify(self._pools, "", pool["metadata"]["name"],
                               lambda each: each["spec"].update(configuration={"name": name, "source": source}))

    def _report(self, name: str, message: str) -> None:
        now = self._clock.timestamp()
        self._resources.modify(self._pools, "", name, lambda pool: set_pool_condition(
            pool.setdefault("status", {}), "RenderDegraded", bool(message), now, "", message), subresource="status")


def _text(selector: Object | None) -> str:
    """A label selector as Go writes it."""
    words = [f"{key}={value}" for key, value in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for each in (selector or {}).get("matchExpressions") or ():
        values = f" ({','.join(sorted(each.get('values') or ()))})" if each.get("values") else ""
        words.append(f"{each['key']} {each['operator'].lower()}{values}")
    return ",".join(words)


class Members:
    """Which nodes get their config from a pool."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        self._pools, self._nodes = cluster.resources.kind(POOLS), cluster.resources.kind("nodes")

    def of(self, pool: str) -> list[Object]:
        """In the order of their names; a node whose labels contradict each other belongs to none."""
        pools, found = self._resources.list(self._pools), []
        for entry in self._resources.store.entries(self._nodes):
            try:
                belongs = pools_of(_labelled(entry), pools)
            except PoolError as error:
                log.info("can't get pool for node %r: %s", entry.key[1], error)
                continue
            if belongs and belongs[0]["metadata"]["name"] == pool:
                found.append(entry.obj)
        return found

    def pools(self, entry: Entry) -> list[str]:
        try:
            return [each["metadata"]["name"] for each in pools_of(_labelled(entry), self._resources.list(self._pools))]
        except PoolError:
            return []


def _labelled(entry: Entry) -> Object:
    return {"metadata": {"name": entry.key[1], "labels": entry.labels}}


def max_unavailable(pool: Object, nodes: int) -> int:
    """How many of a pool's nodes may be unavailable; a percentage is rounded down, and it is never less than one."""
    amount = pool["spec"].get("maxUnavailable")
    if amount is None:
        return 1
    if isinstance(amount, str):
        if not amount.endswith("%") or not amount[:-1].isdigit():
            raise ValueError(f"invalid value for IntOrString: invalid type: string is not a percentage: {amount!r}")
        amount = math.floor(int(amount[:-1]) * nodes / 100)
    return max(1, int(amount))


def order(node: Object) -> tuple[bool, str, str]:
    """Nodes with a topology zone come first, zone by zone; then the oldest."""
    zone = (node["metadata"].get("labels") or {}).get(ZONE)
    return zone is None, zone or "", node["metadata"]["creationTimestamp"]


class Pools:
    """The node controller: hands out the pool's config to as many nodes as may be unavailable, and keeps the pool's status."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources, self._clock = cluster.resources, cluster.clock
        self._pools, self._nodes = cluster.resources.kind(POOLS), cluster.resources.kind("nodes")
        self._events = Recorder(cluster)
        self.members = Members(cluster)
        timing = cluster.timing.machine_config
        self._queue = Delayed("machine-config-pools", cluster, int(timing.controller_workers), timing.update_delay_seconds, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._pools, lambda change: self._queue.add(change.key[1]))
        self._resources.watch(self._nodes, self._node_changed)
        for entry in self._resources.store.entries(self._pools):
            self._queue.add(entry.key[1])
        self._queue.start()

    async def stop(self) -> None:
        await self._queue.stop()

    def _node_changed(self, change: Change) -> None:
        entries = [change.new] if change.old is None else [change.new, change.old]
        if change.type == "MODIFIED" and change.old is not None and change.old.labels == change.new.labels:
            old, new = change.old.obj, decoded(change.new)
            if is_ready(old) == is_ready(new) and all(annotation(old, key) == annotation(new, key) for key in (CURRENT, DESIRED, STATE, REASON)):
                return
        for name in {name for entry in entries for name in self.members.pools(entry)}:
            self._queue.add(name)

    async def _reconcile(self, name: str) -> None:
        pool = self._resources.find(self._pools, "", name)
        if pool is None or not (pool["spec"].get("configuration") or {}).get("name"):
            return  # the renderer has not seen it yet
        if pool["spec"].get("nodeSelector") == SELECTS_ALL:
            self._events.event(pool, "Warning", "SelectingAll", "This machineconfigpool is selecting all nodes. "
                               "A non-empty selector is required.", CONTROLLER_COMPONENT)
            return
        try:
            if not pool["spec"].get("paused") and "deletionTimestamp" not in pool["metadata"]:
                self._hand_out(pool)
        finally:
            self.report(name)

    def _hand_out(self, pool: Object) -> None:
        target = pool["spec"]["configuration"]["name"]
        nodes = self.members.of(pool["metadata"]["name"])
        capacity = max_unavailable(pool, len(nodes)) - sum(map(is_unavailable, nodes))
        targeted = [node for node in nodes if annotation(node, DESIRED) == target]
        # Those that fail on this config count too: the cause may pass, and then they would be too many at once.
        capacity -= sum(map(is_failing, targeted))
        names = {node["metadata"]["name"] for node in targeted}
        candidates = sorted((node for node in nodes if node["metadata"]["name"] not in names and annotation(node, CURRENT)), key=order)
        chosen = candidates[: max(0, capacity)]
        for node in chosen:
            self._resources.modify(self._nodes, "", node["metadata"]["name"], lambda each: each["metadata"]["annotations"].update({DESIRED: target}))
        if len(chosen) == 1:
            message = f"Targeted node {chosen[0]['metadata']['name']} to config {target}"
            self._events.event(pool, "Normal", "SetDesiredConfig", message, CONTROLLER_COMPONENT)
        elif chosen:
            self._events.event(pool, "Normal", "SetDesiredConfig", f"Set target for {len(chosen)} nodes to config {target}", CONTROLLER_COMPONENT)

    # The status.

    def report(self, name: str) -> None:
        """Write the pool's counts and conditions."""
        pool = self._resources.find(self._pools, "", name)
        if pool is None:
            return
        nodes, before = self.members.of(name), (pool.get("status", {}).get("configuration") or {}).get("name")
        try:
            pool = self._resources.modify(self._pools, "", name, lambda each: self._status(each, nodes), subresource="status")
        except ApiError as error:
            if error.code != 409:
                raise
            self._queue.add(name)
            return
        after = ((pool or {}).get("status", {}).get("configuration") or {}).get("name")
        if pool is not None and after != before and before:
            self._events.event(pool, "Normal", "Completed", f"Pool {name} has completed update to {after}", CONTROLLER_COMPONENT)

    def _status(self, pool: Object, nodes: list[Object]) -> None:
        spec, status, now = pool["spec"], pool.setdefault("status", {}), self._clock.timestamp()
        target = (spec.get("configuration") or {}).get("name", "")
        updated = [node for node in nodes if is_done(node) and annotation(node, CURRENT) == target]
        ready = [node for node in updated if is_ready(node)]
        unavailable = sum(map(is_unavailable, nodes))
        degraded = [node for node in nodes if annotation(node, STATE) in FAILED_STATES]
        status.update(observedGeneration=pool["metadata"]["generation"], machineCount=len(nodes), updatedMachineCount=len(updated),
                      readyMachineCount=len(ready), unavailableMachineCount=unavailable, degradedMachineCount=len(degraded))
        if len(updated) == len(ready) == len(nodes) and not unavailable:
            set_pool_condition(status, "Updated", True, now, "", f"All nodes are updated with {target}")
            set_pool_condition(status, "Updating", False, now)
            status["configuration"] = spec.get("configuration") or {}
        else:
            set_pool_condition(status, "Updated", False, now)
            if spec.get("paused"):
                set_pool_condition(status, "Updating", False, now, "", f"Pool is paused; will not update to {target}")
            else:
                set_pool_condition(status, "Updating", True, now, "", f"All nodes are updating to {target}")
        reasons = ", ".join(f'Node {node["metadata"]["name"]} is reporting: "{_quoted(annotation(node, REASON))}"' for node in degraded
                            if annotation(node, REASON))
        if degraded:
            set_pool_condition(status, "NodeDegraded", True, now, f"{len(degraded)} nodes are reporting degraded status on sync", reasons)
        else:
            set_pool_condition(status, "NodeDegraded", False, now)
        set_pool_condition(status, "Degraded", bool(degraded) or is_true(pool, "RenderDegraded"), now, "", reasons if degraded else "")


def _quoted(text: str) -> str:
    """What Go's %q makes of it, between the quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
