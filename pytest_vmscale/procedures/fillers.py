"""Idle pods beside the VMs: made, and followed while nodes are drained under them. Their controllers make new ones elsewhere."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from ..clock import Clock
from ..cluster.conditions import Condition, is_true
from ..cluster.requests import Cluster, Object
from ..cluster.watch import Blind, Event, OwnedMeta, Projection, Watch
from ..manifests.core import fleet_labels, namespace
from ..manifests.placement import away_from
from ..manifests.pods import idle_pods
from ..model import LABEL_FLEET, LABEL_RUN

# One Deployment of thousands is no workload that anybody has; and its ReplicaSet would be one queue for all of them.
PODS_PER_DEPLOYMENT = 100
CURVE_SECONDS = 5.0  # the curve has a point in so many seconds of cluster time at most


@dataclass(frozen=True)
class Fillers:
    """So many idle pods in a namespace of the run's. `fleet`: the fleet that they are beside."""

    run_id: str
    fleet: str
    namespace: str
    count: int

    @property
    def name(self) -> str:
        """As a fleet's."""
        return f"{self.fleet}-pods"

    @property
    def selector(self) -> str:
        return f"{LABEL_RUN}={self.run_id},{LABEL_FLEET}={self.name}"

    def manifests(self, closed_label: str | None = None) -> list[Object]:
        """Their namespace and Deployments; the pods go to nodes without the label."""
        labels = fleet_labels(self.run_id, self.name)
        sizes = [min(PODS_PER_DEPLOYMENT, self.count - begun) for begun in range(0, self.count, PODS_PER_DEPLOYMENT)]
        affinity = away_from(closed_label) if closed_label else None
        return [
            namespace(self.namespace, labels),
            *(idle_pods(self.namespace, size, labels, f"idle-{index:03d}", affinity) for index, size in enumerate(sizes)),
        ]


class PodStatus(msgspec.Struct):
    conditions: list[Condition] = []


class Pod(Projection):
    """Of a Pod: metadata with its owners, status.conditions."""

    metadata: OwnedMeta = msgspec.field(default_factory=OwnedMeta)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def ready(self) -> bool:
        return not self.metadata.deletionTimestamp and is_true(self.status.conditions, "Ready")

    @property
    def owner(self) -> str:
        return next((str(each.get("uid", "")) for each in self.metadata.ownerReferences if each.get("controller")), "")


@dataclass
class _Owner:
    """One ReplicaSet: its evictions in their order, each of which its next pod makes up for."""

    evicted: deque[float] = field(default_factory=deque)
    replacing: dict[str, float] = field(default_factory=dict)  # a new pod's uid -> when the one was evicted that it makes up for


class FillerWatch:
    """Follows the pods. Evicted: its deletion was seen; ready again: the next pod of its ReplicaSet is Ready, which lasted so long."""

    def __init__(self, cluster: Cluster, clock: Clock, fillers: Fillers) -> None:
        self._clock = clock
        self.wanted = fillers.count
        self.watch = Watch(cluster, f"/api/v1/namespaces/{fillers.namespace}/pods", Pod, self._on_pod, selector=fillers.selector)
        self._t0: float | None = None
        self._owners: dict[str, _Owner] = {}
        self._known: set[str] = set()
        self._gone: set[str] = set()
        self._ready: set[str] = set()
        self.evicted = 0
        self.away_seconds: list[float] = []  # of each that was evicted and is back
        self.last_evicted: float | None = None  # cluster time
        self.last_ready: float | None = None
        self.curve: list[tuple[float, int]] = []  # [cluster time, Ready]

    async def __aenter__(self) -> FillerWatch:
        await self.watch.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.watch.stop()

    @property
    def gaps(self) -> list[Blind]:
        return self.watch.gaps

    def begin(self, t0: float) -> None:
        self._t0 = t0
        self.curve = [(t0, len(self._ready))]

    @property
    def ready(self) -> int:
        return len(self._ready)

    @property
    def all_back(self) -> bool:
        return len(self._ready) >= self.wanted

    def _on_pod(self, event: Event[Pod]) -> None:
        pod = event.object
        uid, at = pod.metadata.uid, self._clock.at(event.arrived)
        owner = self._owners.setdefault(pod.owner, _Owner())
        if uid not in self._known:
            self._known.add(uid)
            if self._t0 is not None and owner.evicted:
                owner.replacing[uid] = owner.evicted.popleft()
        deleted = event.type == "DELETED" or pod.metadata.deletionTimestamp is not None
        if deleted and uid not in self._gone:
            self._gone.add(uid)
            if self._t0 is not None:
                self.evicted += 1
                self.last_evicted = at
                # One that goes before it was ready leaves to its successor what it was to make up for.
                owner.evicted.append(owner.replacing.pop(uid, at))
        was_ready = uid in self._ready
        if pod.ready and not deleted:
            self._ready.add(uid)
            since = owner.replacing.pop(uid, None)
            if since is not None:
                self.away_seconds.append(at - since)
                self.last_ready = at
        else:
            self._ready.discard(uid)
        if was_ready != (uid in self._ready):
            self._draw(at)

    def _draw(self, at: float) -> None:
        if self._t0 is None:
            return
        if len(self.curve) > 1 and at - self.curve[-2][0] < CURVE_SECONDS:
            self.curve[-1] = (at, len(self._ready))
        else:
            self.curve.append((at, len(self._ready)))
