"""Drains as kubectl makes them, and the drain controller: cordons and drains a node whose daemon asked for it, and uncordons it afterwards.

One client serves all drains of the controller, and client-go's default limit holds it: with many pods that limit is what a
drain takes. (Before there was such a controller each node's daemon drained its node, with a client of its own.)
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..api.errors import ApiError
from ..api.store import Change, Key, Object
from ..queue import TokenBucket, Workers
from .common import Cluster, PodsByNode, controller_of, decoded
from .events import Recorder
from .machineconfig_names import CONTROLLER_COMPONENT, DESIRED_DRAIN, LAST_DRAIN, annotation

MIRROR = "kubernetes.io/config.mirror"
SECONDS_PER_MINUTE = 60.0


class Drainer:
    """Cordons nodes and evicts their pods, within the limits of one client."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing: Any = cluster.timing.machine_config
        self._nodes, self._pods = cluster.resources.kind("nodes"), cluster.resources.kind("pods")
        self._by_node = PodsByNode(self._resources)

    def client(self) -> TokenBucket:
        return TokenBucket(self._clock, self._timing.drain_client_qps, int(self._timing.drain_client_burst))

    async def cordon(self, name: str, on: bool, client: TokenBucket) -> None:
        await client.take()

        def cordon(node: Object) -> None:
            if on:
                node["spec"]["unschedulable"] = True
            else:
                node["spec"].pop("unschedulable", None)

        self._resources.modify(self._nodes, "", name, cordon)
        if on:
            self._cluster.truth.write("node-cordoned", "", name)

    async def drain(self, node: str, client: TokenBucket) -> list[str]:
        """One try: evict every pod of the node, each for itself, and wait until they are gone. What went wrong, if anything."""
        await client.take()
        pods = []
        for key in self._by_node.on(node):
            pod = self._resources.find(self._pods, *key)
            if pod is None or MIRROR in (pod["metadata"].get("annotations") or {}):
                continue
            owner = controller_of(pod)
            if owner is not None and owner["kind"] == "DaemonSet":
                await client.take()  # drain looks up whether the DaemonSet is there
                continue
            pods.append((key, pod["metadata"]["uid"]))
        self._cluster.random.shuffle(pods)  # they are evicted all at once: which goes first is nobody's order
        end = self._clock.now() + self._timing.drain_try_seconds
        found = await asyncio.gather(*(self._evict(key, uid, end, client) for key, uid in pods))
        return [error for error in found if error]

    async def _evict(self, key: Key, uid: str, end: float, client: TokenBucket) -> str:
        """What went wrong, or nothing."""
        while True:
            if self._clock.now() >= end:
                return f'error when evicting pods/"{key[1]}" -n "{key[0]}": global timeout reached: {in_go(self._timing.drain_try_seconds)}'
            await client.take()
            try:
                self._cluster.evictions.evict(*key)
                break
            except ApiError as error:
                if error.code == 404:
                    return ""
                if error.code != 429:
                    return f'error when evicting pods/"{key[1]}" -n "{key[0]}": {error.message}'
            await self._clock.sleep(self._timing.evict_retry_seconds)
        while True:
            await client.take()
            pod = self._resources.find(self._pods, *key)
            if pod is None or pod["metadata"]["uid"] != uid:
                return ""
            if self._clock.now() >= end:
                return f'error when waiting for pod "{key[1]}" terminating: global timeout reached: {in_go(self._timing.drain_try_seconds)}'
            await self._clock.sleep(self._timing.delete_poll_seconds)


class Drains:
    """The controller: each try has a time limit, and there are pauses between them."""

    def __init__(self, cluster: Cluster, drainer: Drainer) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing: Any = cluster.timing.machine_config
        self._nodes = cluster.resources.kind("nodes")
        self._events = Recorder(cluster)
        self._drainer, self._client = drainer, drainer.client()
        self._started_at: dict[str, float] = {}  # of drains that go on
        self._workers = Workers("machine-config-drain", cluster.clock, int(self._timing.drain_workers), self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._nodes, self._changed)
        for entry in self._resources.store.entries(self._nodes):
            self._workers.queue.add(entry.key[1])
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            return
        node, old = decoded(change.new), change.old.obj if change.old else None
        if old is None or annotation(old, DESIRED_DRAIN) != annotation(node, DESIRED_DRAIN):
            self._workers.queue.add_after(change.key[1], self._timing.update_delay_seconds)

    async def _reconcile(self, name: str) -> None:
        node = self._resources.find(self._nodes, "", name)
        if node is None:
            self._started_at.pop(name, None)
            return
        wanted = annotation(node, DESIRED_DRAIN)
        if wanted == annotation(node, LAST_DRAIN):
            return
        if wanted.startswith("uncordon-"):
            self._started_at.pop(name, None)
            await self._drainer.cordon(name, False, self._client)
        elif not wanted.startswith("drain-"):
            raise ValueError(f"node {name}: non-recognized drain verb detected {wanted.partition('-')[0]}")
        elif not await self._drain(name, node):
            return
        await self._client.take()
        self._resources.modify(self._nodes, "", name, lambda each: each["metadata"]["annotations"].update({LAST_DRAIN: wanted}))

    async def _drain(self, name: str, node: Object) -> bool:
        """Whether the node is drained now; it is tried again later if not."""
        age = self._clock.now() - self._started_at.get(name, self._clock.now())
        if age >= self._timing.drain_timeout_seconds:
            self._events.event(node, "Warning", "DrainFailed", f"node {name}: drain exceeded timeout: {in_go(self._timing.drain_timeout_seconds)}. "
                               "Will continue to retry.", CONTROLLER_COMPONENT)
        if name not in self._started_at or not node["spec"].get("unschedulable"):
            await self._drainer.cordon(name, True, self._client)
            self._started_at[name] = self._clock.now()
        errors = await self._drainer.drain(name, self._client)
        if errors:
            threshold, pause = self._timing.drain_slow_after_seconds, self._timing.drain_slow_retry_seconds
            if age >= threshold:
                message = (f"Drain failed. Drain has been failing for more than {threshold / SECONDS_PER_MINUTE:g} minutes. "
                           f"Waiting {pause / SECONDS_PER_MINUTE:g} minutes then retrying. Error message from drain: {aggregate(errors)}")
                self._events.event(node, "Warning", "DrainThresholdExceeded", message, CONTROLLER_COMPONENT)
            else:
                pause = self._timing.drain_retry_seconds
            self._workers.queue.add_after(name, pause)
            return False
        self._started_at.pop(name, None)
        self._cluster.truth.write("node-drained", "", name)
        return True


def in_go(seconds: float) -> str:
    """A duration as Go writes it: 1m30s, 1h0m0s."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}h{minutes}m{left}s" if hours else f"{minutes}m{left}s" if minutes else f"{left}s"


def aggregate(errors: list[str]) -> str:
    """As Kubernetes joins several errors, each once."""
    unique = list(dict.fromkeys(errors))
    return unique[0] if len(unique) == 1 else f"[{', '.join(unique)}]"
