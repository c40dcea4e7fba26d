"""What the workload controllers share, and ReplicaSets: as many pods as were asked for."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import orjson

from ..api.resources import SUFFIX_LETTERS
from ..api.store import Change, Key, Object
from ..clock import SimClock
from ..queue import TokenBucket, Workers
from .common import Children, Cluster, PodsByLabel, condition, controller_of, decoded, key_of, owner_reference
from .events import Recorder
from .pods import complete, from_template, is_finished, is_ready


def template_hash(template: Object) -> str:
    """A short name of a pod template's content, in the letters of generated names."""
    digest = hashlib.sha256(orjson.dumps(template, option=orjson.OPT_SORT_KEYS)).digest()
    return "".join(SUFFIX_LETTERS[byte % len(SUFFIX_LETTERS)] for byte in digest[:10])


def is_active(pod: Object) -> bool:
    return not is_finished(pod) and "deletionTimestamp" not in pod["metadata"]


def available_in(pod: Object, min_ready_seconds: float, clock: SimClock) -> float | None:
    """Seconds until the pod has been ready long enough: 0 if it has, None if it is not ready."""
    if not is_ready(pod):
        return None
    found = condition(pod["status"]["conditions"], "Ready")
    if not min_ready_seconds or found is None:
        return 0.0
    since = clock.parse(found["lastTransitionTime"]) if found.get("lastTransitionTime") else clock.now()
    return max(0.0, since + min_ready_seconds - clock.now())


class Workload:
    """A controller of one kind that owns pods (or what owns pods): its queue is fed by both."""

    KIND = ""  # as Resources.kind takes it
    CHILDREN = "pods"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing = cluster.timing.kubernetes
        self._kind, self._child_kind = self._resources.kind(self.KIND), self._resources.kind(self.CHILDREN)
        self._children = Children(self._resources, self._child_kind)
        self._events = Recorder(cluster)
        self._tokens = TokenBucket(self._clock, self._timing.controller_client_qps, self._timing.controller_client_burst)
        self._workers = Workers(self._kind.plural, self._clock, self._timing.workload_workers, self._work)

    @property
    def component(self) -> str:
        return f"{self._kind.singular}-controller"

    def start(self) -> None:
        self._resources.watch(self._kind, lambda change: self._workers.queue.add(change.key))
        self._resources.watch(self._child_kind, self._child_changed)
        for entry in self._resources.store.entries(self._kind):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _child_changed(self, change: Change) -> None:
        owner = controller_of(decoded(change.new))
        if owner is not None and owner["kind"] == self._kind.kind:
            self._workers.queue.add((change.key[0], owner["name"]))

    async def _work(self, key: Key) -> None:
        obj = self._resources.find(self._kind, *key)
        if obj is not None:
            await self.reconcile(obj)

    async def reconcile(self, obj: Object) -> None:
        """Move the cluster towards what the object says. Raises what Resources raises; the key is then tried again."""
        raise NotImplementedError

    # Words for reconciling.

    async def _create_pod(self, owner: Object, template: Object, labels: dict[str, str] | None = None, name: str = "") -> Object:
        pod = from_template(copy.deepcopy(template), f"{owner['metadata']['name']}-", owner["metadata"]["namespace"], owner_reference(self._kind, owner))
        if labels:
            pod["metadata"].setdefault("labels", {}).update(labels)
        if name:
            pod["metadata"]["name"] = name
        await self._tokens.take()
        created = self._resources.create(self._child_kind, complete(self._cluster, pod))
        self._events.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {created['metadata']['name']}", self.component)
        return created

    async def _delete_pod(self, owner: Object, pod: Object) -> None:
        await self._tokens.take()
        if self._resources.find(self._child_kind, *key_of(pod)):
            self._resources.delete(self._child_kind, *key_of(pod))
            self._events.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}", self.component)

    def _set_status(self, obj: Object, status: dict[str, Any]) -> None:
        """Replace the counts of the status, keeping its conditions unless the new one has some."""
        def change(obj: Object) -> None:
            kept = {"conditions": obj["status"]["conditions"]} if obj.get("status", {}).get("conditions") else {}
            obj["status"] = {**kept, **status}

        self._resources.modify(self._kind, *key_of(obj), change, subresource="status")


class ReplicaSets(Workload):
    """Creates and deletes pods until the count is right, and adopts those that match and have no owner."""

    KIND = "replicasets.apps"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._by_label = PodsByLabel(self._resources)

    async def reconcile(self, obj: Object) -> None:
        if "deletionTimestamp" not in obj["metadata"]:
            self._adopt(obj)
            pods = [pod for pod in self._children.of(obj) if is_active(pod)]
            wanted = int(obj["spec"].get("replicas", 1))
            for _ in range(wanted - len(pods)):
                await self._create_pod(obj, obj["spec"]["template"])
            if len(pods) > wanted:
                for pod in sorted(pods, key=self._worth)[: len(pods) - wanted]:
                    await self._delete_pod(obj, pod)
        self._report(obj)

    def _adopt(self, obj: Object) -> None:
        reference = owner_reference(self._kind, obj)
        for pod in self._by_label.matching(obj["metadata"]["namespace"], obj["spec"]["selector"]):
            if controller_of(pod) is None and is_active(pod):
                self._resources.modify(self._child_kind, *key_of(pod), lambda pod: pod["metadata"].setdefault("ownerReferences", []).append(reference))

    def _worth(self, pod: Object) -> tuple[bool, bool, bool, float]:
        """What goes first: unassigned, then pending, then unready pods, then the youngest."""
        age = self._clock.now() - self._clock.parse(pod["metadata"]["creationTimestamp"])
        return bool(pod["spec"].get("nodeName")), pod["status"].get("phase") == "Running", is_ready(pod), age

    def _report(self, obj: Object) -> None:
        pods = [pod for pod in self._children.of(obj) if is_active(pod)]
        seconds = [available_in(pod, obj["spec"].get("minReadySeconds", 0), self._clock) for pod in pods]
        wait = [each for each in seconds if each]
        if wait:
            self._workers.queue.add_after(key_of(obj), min(wait) + 1)
        labels = (obj["spec"]["template"].get("metadata") or {}).get("labels") or {}
        counts = {"fullyLabeledReplicas": sum((pod["metadata"].get("labels") or {}).items() >= labels.items() for pod in pods),
                  "readyReplicas": sum(each is not None for each in seconds), "availableReplicas": sum(each == 0 for each in seconds)}
        self._set_status(obj, {"replicas": len(pods), **{name: count for name, count in counts.items() if count},
                               "observedGeneration": obj["metadata"]["generation"]})
