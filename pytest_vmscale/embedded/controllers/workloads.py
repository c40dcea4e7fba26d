"""What the workload controllers share, and ReplicaSets: as many pods as were asked for."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ..api.errors import ApiError
from ..api.resources import SUFFIX_LETTERS, Resources
from ..api.store import Change, Key, Object
from ..clock import SimClock
from ..queue import TokenBucket, Workers
from .common import Children, Cluster, condition, controller_of, decoded, key_of, owner_reference, selects, set_condition
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
    return ready_long_enough_in((found or {}).get("lastTransitionTime"), min_ready_seconds, clock)


def ready_long_enough_in(ready_since: str | None, min_ready_seconds: float, clock: SimClock) -> float:
    """Seconds until a pod that is ready since this timestamp counts as available."""
    if not min_ready_seconds:
        return 0.0
    since = clock.parse(ready_since) if ready_since else clock.now()
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
        try:
            created = self._resources.create(self._child_kind, complete(self._cluster, pod))
        except ApiError as refusal:
            self._events.event(owner, "Warning", "FailedCreate", f"Error creating: {refusal.message}", self.component)
            raise
        self._events.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {created['metadata']['name']}", self.component)
        return created

    async def _delete_pod(self, owner: Object, key: Key) -> None:
        await self._tokens.take()
        if self._resources.find(self._child_kind, *key):
            self._resources.delete(self._child_kind, *key)
            self._events.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {key[1]}", self.component)

    def _set_status(self, obj: Object, status: dict[str, Any]) -> None:
        """Replace the counts of the status, keeping its conditions unless the new one has some."""
        def change(obj: Object) -> None:
            kept = {"conditions": obj["status"]["conditions"]} if obj.get("status", {}).get("conditions") else {}
            obj["status"] = {**kept, **status}

        self._resources.modify(self._kind, *key_of(obj), change, subresource="status")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What a ReplicaSet wants to know of a pod, read once for each of the pod's revisions."""

    active: bool
    ready: bool
    ready_since: str | None  # RFC 3339
    bound: bool
    running: bool
    labels: dict[str, str]
    created: str


class OwnedPods:
    """The pods of each owner, and those of none, as facts. Kept up to date by a watch: a set of two hundred pods
    looks at all of them whenever one changes, and decoding them each time would be quadratic."""

    def __init__(self, resources: Resources, changed: Callable[[str, Object], None]) -> None:
        """`changed` is called with the namespace and the owner's reference when a pod comes, goes, or its facts change."""
        kind = resources.kind("pods")
        self._tell = changed
        self._of: dict[str, dict[Key, PodFacts]] = {}
        self._owner: dict[Key, str] = {}
        resources.watch(kind, self._changed)
        for entry in resources.store.entries(kind):
            self._add(entry.key, decoded(entry))

    def of(self, owner: Object) -> dict[Key, PodFacts]:
        return self._of.get(owner["metadata"]["uid"], {})

    def orphans(self, namespace: str) -> list[tuple[Key, PodFacts]]:
        return [(key, facts) for key, facts in self._of.get("", {}).items() if key[0] == namespace]

    def _changed(self, change: Change) -> None:
        pod = decoded(change.new)
        if change.type == "DELETED":
            self._of[self._owner.pop(change.key)].pop(change.key)
            news = True
        else:
            news = self._add(change.key, pod)
        owner = controller_of(pod)
        if news and owner is not None:
            self._tell(change.key[0], owner)

    def _add(self, key: Key, pod: Object) -> bool:
        """Returns whether that is news."""
        owner = controller_of(pod)
        uid = owner["uid"] if owner else ""
        before = self._owner.get(key)
        old = self._of[before].get(key) if before is not None else None
        if before is not None and before != uid:
            del self._of[before][key]
        ready = is_ready(pod)
        found = condition(pod["status"]["conditions"], "Ready") if ready else None
        self._owner[key] = uid
        facts = self._of.setdefault(uid, {})[key] = PodFacts(
            is_active(pod), ready, (found or {}).get("lastTransitionTime"), bool(pod["spec"].get("nodeName")), pod.get("status", {}).get("phase") == "Running",
            pod["metadata"].get("labels") or {}, pod["metadata"]["creationTimestamp"])
        return before != uid or facts != old


class ReplicaSets(Workload):
    """Creates and deletes pods until the count is right, and adopts those that match and have no owner."""

    KIND = "replicasets.apps"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._pods = OwnedPods(self._resources, self._pod_changed)

    def _pod_changed(self, namespace: str, owner: Object) -> None:
        if owner["kind"] == self._kind.kind:
            self._workers.queue.add((namespace, owner["name"]))

    def _child_changed(self, change: Change) -> None:
        """Most of what is written to a pod changes nothing for its set: `_pod_changed` is told what does."""

    async def reconcile(self, obj: Object) -> None:
        if "deletionTimestamp" not in obj["metadata"]:
            self._adopt(obj)
            pods = self._active(obj)
            wanted = int(obj["spec"].get("replicas", 1))
            for _ in range(wanted - len(pods)):
                try:
                    await self._create_pod(obj, obj["spec"]["template"])
                except ApiError as refusal:
                    self._report(obj, refusal.message)
                    raise
            if len(pods) > wanted:
                for key, _ in sorted(pods, key=self._worth)[: len(pods) - wanted]:
                    await self._delete_pod(obj, key)
        self._report(obj)

    def _active(self, obj: Object) -> list[tuple[Key, PodFacts]]:
        return [(key, facts) for key, facts in self._pods.of(obj).items() if facts.active]

    def _adopt(self, obj: Object) -> None:
        reference = owner_reference(self._kind, obj)
        for key, facts in self._pods.orphans(obj["metadata"]["namespace"]):
            if facts.active and selects(obj["spec"]["selector"], facts.labels):
                self._resources.modify(self._child_kind, *key, lambda pod: pod["metadata"].setdefault("ownerReferences", []).append(reference))

    def _worth(self, pod: tuple[Key, PodFacts]) -> tuple[bool, bool, bool, float, Key]:
        """What goes first: unassigned, then pending, then unready pods, then the youngest."""
        key, facts = pod
        return facts.bound, facts.running, facts.ready, self._clock.now() - self._clock.parse(facts.created), key

    def _report(self, obj: Object, refusal: str = "") -> None:
        """`refusal`: why a pod could not be created."""
        pods = [facts for _, facts in self._active(obj)]
        minimum = obj["spec"].get("minReadySeconds", 0)
        seconds = [ready_long_enough_in(facts.ready_since, minimum, self._clock) for facts in pods if facts.ready]
        wait = [each for each in seconds if each]
        if wait:
            self._workers.queue.add_after(key_of(obj), min(wait) + 1)
        labels = (obj["spec"]["template"].get("metadata") or {}).get("labels") or {}
        counts = {"fullyLabeledReplicas": sum(facts.labels.items() >= labels.items() for facts in pods),
                  "readyReplicas": len(seconds), "availableReplicas": sum(each == 0 for each in seconds)}
        now = self._clock.timestamp()

        def change(obj: Object) -> None:
            conditions = [each for each in obj.get("status", {}).get("conditions") or () if each["type"] != "ReplicaFailure" or refusal]
            obj["status"] = {"replicas": len(pods), **{name: count for name, count in counts.items() if count}, "observedGeneration": obj["metadata"]["generation"]}
            if conditions:
                obj["status"]["conditions"] = conditions
            if refusal:
                set_condition(obj["status"], "ReplicaFailure", "True", now, "FailedCreate", refusal)

        self._resources.modify(self._kind, *key_of(obj), change, subresource="status")
