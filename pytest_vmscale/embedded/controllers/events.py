"""Events: a recorder that counts repeats, as client-go's correlator does, and their expiry."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict

from ..api.store import Change, Key, Object
from .common import Cluster, key_of


class Recorder:
    """Records events. A repeat of the same event raises the count of the first one."""

    REMEMBERED = 4096  # client-go's cache of seen events has as many
    _sequence = itertools.count(1)  # all recorders', for several may tell of one object at one moment

    def __init__(self, cluster: Cluster) -> None:
        self._resources, self._clock = cluster.resources, cluster.clock
        self._kind = cluster.resources.kind("events")
        self._seen: OrderedDict[tuple[str, ...], Key] = OrderedDict()

    def event(self, obj: Object, type: str, reason: str, message: str, component: str, host: str = "") -> None:
        """`type` is Normal or Warning. `obj` is what it is about; a cluster-scoped one's events are in `default`."""
        meta = obj["metadata"]
        identity = (meta["uid"], obj["kind"], type, reason, message, component, host)
        now = self._clock.timestamp()
        seen = self._seen.get(identity)
        if seen is not None:
            self._seen.move_to_end(identity)

            def again(event: Object) -> None:
                event["count"], event["lastTimestamp"] = event.get("count", 1) + 1, now

            if self._resources.modify(self._kind, *seen, again):
                return
        namespace = meta.get("namespace") or "default"
        about = {"kind": obj["kind"], "namespace": meta.get("namespace"), "name": meta["name"], "uid": meta["uid"],
                 "apiVersion": obj["apiVersion"], "resourceVersion": meta.get("resourceVersion")}
        # The real name ends in the time of the event in nanoseconds, in hex; the sequence keeps two of one moment apart.
        stamp = int((self._clock.epoch + self._clock.now()) * 1_000_000_000) + next(self._sequence)
        event = {
            "metadata": {"name": f"{meta['name']}.{stamp:x}", "namespace": namespace},
            "involvedObject": {key: value for key, value in about.items() if value},
            "reason": reason, "message": message, "type": type, "count": 1,
            "source": {"component": component, **({"host": host} if host else {})},
            "firstTimestamp": now, "lastTimestamp": now, "eventTime": None,
            "reportingComponent": "", "reportingInstance": "",
        }
        self._seen[identity] = key_of(self._resources.create(self._kind, event))
        if len(self._seen) > self.REMEMBERED:
            self._seen.popitem(last=False)


class EventExpiry:
    """Removes events some time after their last change, as the lease that etcd keeps them under does."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources, self._clock = cluster.resources, cluster.clock
        self._ttl_seconds: float = cluster.timing.kubernetes.event_ttl_seconds
        self._kind = cluster.resources.kind("events")
        self._expiry: OrderedDict[Key, float] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._resources.watch(self._kind, self._changed)
        for entry in self._resources.store.entries(self._kind):
            self._expiry[entry.key] = self._clock.now() + self._ttl_seconds
        self._task = asyncio.create_task(self._run(), name="event-expiry")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            self._expiry.pop(change.key, None)
            return
        self._expiry[change.key] = self._clock.now() + self._ttl_seconds
        self._expiry.move_to_end(change.key)

    async def _run(self) -> None:
        while True:
            first = next(iter(self._expiry.values()), None)
            # An idle cluster has nothing to expire; look again after a share of the TTL.
            await self._clock.sleep_until(self._clock.now() + self._ttl_seconds / 10 if first is None else first)
            now = self._clock.now()
            # They lie in the order in which they expire: what comes after the first that has not, need not be looked at.
            while self._expiry and (key := next(iter(self._expiry))) and self._expiry[key] <= now:
                del self._expiry[key]
                if self._resources.find(self._kind, *key):
                    self._resources.delete(self._kind, *key)
