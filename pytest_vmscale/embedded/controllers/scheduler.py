"""kube-scheduler: one scheduling cycle at a time, bindings behind a client rate limit, and a queue that backs off."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING

from aiohttp import web

from ..api import errors
from ..api.representations import answer_object, read_object
from ..api.store import Change, Key, Object
from ..queue import TokenBucket
from .common import Cluster, decoded, key_of, set_condition
from .events import Recorder
from .pods import is_launcher
from .scheduling import PodInfo, Snapshot, choose, no_node_message

if TYPE_CHECKING:
    from ..api.server import ApiServer

NAME = "default-scheduler"


class Scheduler:
    """Binds pods to nodes. What does not fit waits until the cluster changes, then backs off before the next try."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing = cluster.timing.kubernetes
        self._pods, self._nodes = self._resources.kind("pods"), self._resources.kind("nodes")
        self._claims = self._resources.kind("persistentvolumeclaims")
        self._events = Recorder(cluster)
        self.snapshot = Snapshot()
        self._tokens = TokenBucket(self._clock, self._timing.scheduler_client_qps, self._timing.scheduler_client_burst)
        self._active: list[tuple[int, int, Key]] = []  # by priority, then in the order of arrival
        self._queued: set[Key] = set()
        self._unschedulable: dict[Key, int] = {}  # priority
        self._tries: dict[Key, int] = {}
        self._order = itertools.count()
        self._wakeup = asyncio.Event()
        self._bindings: asyncio.Queue[tuple[PodInfo, str]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for entry in self._resources.store.entries(self._nodes):
            self.snapshot.node(entry.key[1]).set(decoded(entry))
        for entry in self._resources.store.entries(self._pods):
            self._pod_is(decoded(entry))
        self._resources.watch(self._nodes, self._node_changed)
        self._resources.watch(self._pods, self._pod_changed)
        for name in ("persistentvolumeclaims", "persistentvolumes"):
            self._resources.watch(self._resources.kind(name), lambda change: self._cluster_changed())
        self._tasks = [asyncio.create_task(self._schedule(), name="scheduler"), asyncio.create_task(self._bind(), name="scheduler-bind"),
                       asyncio.create_task(self._flush(), name="scheduler-flush")]

    def serve(self, server: ApiServer) -> None:
        server.add_subresource("", "v1", "pods", "binding", {"POST"}, self._answer_binding, discovery={"kind": "Binding"})

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What the watches say.

    def _node_changed(self, change: Change) -> None:
        node = self.snapshot.node(change.key[1])
        if change.type == "DELETED":
            node.exists = False
            if not node.pods:
                del self.snapshot.nodes[node.name]
            return
        before = (node.exists, node.labels, node.taints, node.unschedulable, node.allocatable)
        node.set(decoded(change.new))
        if before != (node.exists, node.labels, node.taints, node.unschedulable, node.allocatable):
            self._cluster_changed()

    def _pod_changed(self, change: Change) -> None:
        if change.type == "DELETED":
            self._forget(change.key)
            return
        bound_before = change.old is not None and change.old.selectable["spec.nodeName"]
        if not bound_before or change.new.selectable["status.phase"] in ("Succeeded", "Failed"):
            self._pod_is(decoded(change.new))

    def _pod_is(self, pod: Object) -> None:
        key, spec = key_of(pod), pod["spec"]
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            self._forget(key)
        elif spec.get("nodeName"):
            if key not in self.snapshot.pods or self.snapshot.pods[key].uid != pod["metadata"]["uid"]:
                self.snapshot.add_pod(PodInfo.of(pod))
            self._unqueue(key)
        elif spec.get("schedulerName", NAME) == NAME and not spec.get("schedulingGates") and "deletionTimestamp" not in pod["metadata"]:
            if key not in self._queued and key not in self._unschedulable and key not in self.snapshot.pods:
                self._push(key, spec.get("priority") or 0)
        else:
            self._unqueue(key)

    def _forget(self, key: Key) -> None:
        self._unqueue(key)
        if self.snapshot.remove_pod(key):
            self._cluster_changed()

    def _unqueue(self, key: Key) -> None:
        """An entry that stays in the heap is skipped when its turn comes."""
        self._queued.discard(key)
        self._unschedulable.pop(key, None)
        self._tries.pop(key, None)

    # The queue.

    def _push(self, key: Key, priority: int) -> None:
        self._queued.add(key)
        heapq.heappush(self._active, (-priority, next(self._order), key))
        self._wakeup.set()

    def _cluster_changed(self) -> None:
        """Something that may let a waiting pod fit: all of them try again, each after its own backoff."""
        for key, priority in list(self._unschedulable.items()):
            del self._unschedulable[key]
            self._queued.add(key)
            backoff = min(self._timing.scheduler_backoff_most_seconds,
                          self._timing.scheduler_backoff_first_seconds * 2 ** min(self._tries.get(key, 1) - 1, 10))
            self._clock.call_later(backoff, lambda key=key, priority=priority: self._retry(key, priority))  # type: ignore[misc]

    def _retry(self, key: Key, priority: int) -> None:
        if key in self._queued:
            self._push(key, priority)

    async def _flush(self) -> None:
        """Nothing waits for ever on a change that was missed."""
        while True:
            await self._clock.sleep(self._timing.scheduler_flush_unschedulable_seconds)
            self._cluster_changed()

    async def _schedule(self) -> None:
        """One pod after the other."""
        while True:
            while not self._active:
                self._wakeup.clear()
                await self._wakeup.wait()
            _, _, key = heapq.heappop(self._active)
            if key in self._queued:
                self._queued.discard(key)
                self._cycle(key)
                await self._clock.sleep(self._timing.scheduler_cycle_seconds)

    def _cycle(self, key: Key) -> None:
        pod = self._resources.find(self._pods, *key)
        if pod is None or pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            self._tries.pop(key, None)
            return
        info = PodInfo.of(pod)
        refusal = self._refusal(pod)
        if refusal is None:
            node, refused, total = choose(pod, info, self.snapshot, self._cluster.random)
            if node is not None:
                info.node = node
                self.snapshot.add_pod(info)  # assumed, so that the next cycle counts it
                self._bindings.put_nowait((info, node))
                return
            refusal = no_node_message(refused, total)
        self._failed(pod, refusal)

    def _refusal(self, pod: Object) -> str | None:
        """What holds for every node at once: claims that are missing or unbound, and stuck pods of a fault."""
        total = len(self.snapshot.existing())
        if is_launcher(pod) and self._cluster.faults.stuck_scheduling(*key_of(pod)):
            return no_node_message({"Insufficient devices.kubevirt.io/kvm": total}, total)
        for volume in pod["spec"].get("volumes") or ():
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if name is None and "ephemeral" in volume:
                name = f"{pod['metadata']['name']}-{volume['name']}"
            if name is None:
                continue
            claim = self._resources.find(self._claims, pod["metadata"]["namespace"], name)
            if claim is None:
                return no_node_message({f'persistentvolumeclaim "{name}" not found': total}, total)
            if "deletionTimestamp" in claim["metadata"]:
                return no_node_message({f'persistentvolumeclaim "{name}" is being deleted': total}, total)
            if claim.get("status", {}).get("phase") != "Bound":
                if not self._waits_for_consumer(claim):
                    return no_node_message({"pod has unbound immediate PersistentVolumeClaims": total}, total)
                self._select_node(claim)
                return no_node_message({"waiting for a volume to be created": total}, total)
        return None

    def _waits_for_consumer(self, claim: Object) -> bool:
        name = claim["spec"].get("storageClassName")
        found = self._resources.find(self._resources.kind("storageclasses"), "", name) if name else None
        return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"

    def _select_node(self, claim: Object) -> None:
        """The consumer is there: let the volume be provisioned (any node can reach it)."""
        node = next((node.name for node in self.snapshot.existing() if not node.taints and not node.unschedulable), None)
        if node is not None:
            self._resources.modify(self._claims, *key_of(claim), lambda claim: claim["metadata"].setdefault("annotations", {}).setdefault(
                "volume.kubernetes.io/selected-node", node))

    def _failed(self, pod: Object, message: str) -> None:
        key = key_of(pod)
        self._tries[key] = self._tries.get(key, 0) + 1
        self._unschedulable[key] = pod["spec"].get("priority") or 0
        now = self._clock.timestamp()
        self._events.event(pod, "Warning", "FailedScheduling", message, NAME)
        self._resources.modify(self._pods, *key, lambda pod: set_condition(
            pod.setdefault("status", {}), "PodScheduled", "False", now, "Unschedulable", message, lastProbeTime=None), subresource="status")

    # Binding.

    async def _bind(self) -> None:
        while True:
            info, node = await self._bindings.get()
            await self._tokens.take()
            now, key = self._clock.timestamp(), info.key
            pod = self._resources.find(self._pods, *key)
            if pod is None or pod["metadata"]["uid"] != info.uid or "deletionTimestamp" in pod["metadata"]:
                if pod is None or pod["metadata"]["uid"] == info.uid:
                    self._forget(key)
                continue
            self._assign(pod, node, now)
            self._tries.pop(key, None)
            self._events.event(pod, "Normal", "Scheduled", f"Successfully assigned {key[0]}/{key[1]} to {node}", NAME)
            self._cluster.truth.write("pod-scheduled", *key, node=node)

    def _assign(self, pod: Object, node: str, now: str) -> None:
        """Spec and status in one write."""
        pod["spec"]["nodeName"] = node
        set_condition(pod.setdefault("status", {}), "PodScheduled", "True", now, lastProbeTime=None)
        self._resources.store.put(self._pods, pod)

    async def _answer_binding(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        """POST pods/NAME/binding: how another scheduler assigns its pods."""
        binding = await read_object(request, "Binding")
        target = binding.get("target") or {}
        causes = []
        if target.get("kind") not in (None, "", "Node"):
            causes.append(errors.Cause("target.kind", f'Unsupported value: "{target["kind"]}": supported values: "Node", "<empty>"', "FieldValueNotSupported"))
        if not target.get("name"):
            causes.append(errors.Cause("target.name", "Required value", "FieldValueRequired"))
        if causes:
            raise errors.invalid("Binding", "", name, causes)
        pod = self._resources.get(self._pods, namespace, name)
        if "deletionTimestamp" in pod["metadata"]:
            raise errors.conflict("pods/binding", "", name, f"pod {name} is being deleted, cannot be assigned to a host")
        if pod["spec"].get("nodeName"):
            raise errors.conflict("pods/binding", "", name, f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"')
        if not request.query.get("dryRun"):
            self._assign(pod, target["name"], self._clock.timestamp())
        return answer_object({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)
