"""What KubeVirt's controllers share: the rate-limited client of a component, and the words of their conditions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from ..api.kinds import Kind
from ..api.store import Object
from ..queue import TokenBucket
from .common import Cluster, condition, set_condition
from .events import Recorder

FINALIZER = "kubevirt.io/virtualMachineControllerFinalize"
OBSERVED = {"kubevirt.io/latest-observed-api-version": "v1", "kubevirt.io/storage-observed-api-version": "v1"}
NODE_LABEL = "kubevirt.io/nodeName"
FINAL_PHASES = ("Succeeded", "Failed")


class Client:
    """One component's client of the API. Every request takes a token; a write that would change nothing is none."""

    def __init__(self, cluster: Cluster, component: str, limits: Any, host: str = "") -> None:
        """`limits` is the component's section of the timing profile: client_qps, client_burst, request_seconds."""
        self._resources, self._clock, self._faults = cluster.resources, cluster.clock, cluster.faults
        self._component, self._host, self._request_seconds = component, host, limits.request_seconds
        self.limiter = TokenBucket(cluster.clock, limits.client_qps, limits.client_burst)
        self._recorder = Recorder(cluster)
        self._sending: set[asyncio.Task[None]] = set()

    async def read(self) -> None:
        """A read that the limiter does not count: it takes its time, and no token."""
        await self._clock.sleep(self._request_seconds * self._faults.boot_slowdown)

    async def request(self) -> None:
        """The price of a request that the limiter counts."""
        slowdown = self._faults.boot_slowdown
        await self.limiter.take(slowdown)
        await self._clock.sleep(self._request_seconds * slowdown)

    async def create(self, kind: Kind, obj: Object) -> Object:
        await self.request()
        return self._resources.create(kind, obj)

    async def delete(self, kind: Kind, namespace: str, name: str, **options: Any) -> None:
        """Deleting what is not there is no failure."""
        await self.request()
        if self._resources.find(kind, namespace, name):
            self._resources.delete(kind, namespace, name, **options)

    async def modify(self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Any], *, subresource: str = "") -> bool:
        """Read from the cache and, if `change` makes any difference, write. Returns whether it wrote."""
        obj = self._resources.find(kind, namespace, name)
        if obj is None:
            return False
        before = orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
        change(obj)
        if orjson.dumps(obj, option=orjson.OPT_SORT_KEYS) == before:
            return False
        await self.request()
        return self._resources.modify(kind, namespace, name, change, subresource=subresource) is not None

    def event(self, obj: Object, reason: str, message: str, type: str = "Normal") -> None:
        """Recorded when its turn comes: events take their tokens as any other request does."""
        task = asyncio.create_task(self._send(obj, reason, message, type), name="event")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, obj: Object, reason: str, message: str, type: str) -> None:
        await self.request()
        self._recorder.event(obj, type, reason, message, self._component, self._host)

    async def stop(self) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def condition_of(obj: Object, type_: str) -> Object | None:
    return condition(obj.get("status", {}).get("conditions") or (), type_)


def has_condition(obj: Object, type_: str, status: str = "True", reason: str | None = None) -> bool:
    found = condition_of(obj, type_)
    return found is not None and found["status"] == status and (reason is None or found.get("reason") == reason)


def remove_condition(status: Object, type_: str) -> None:
    left = [each for each in status.get("conditions") or () if each["type"] != type_]
    if "conditions" in status:
        status["conditions"] = left


def set_vmi_condition(status: Object, type_: str, value: str, now: str, reason: str = "", message: str = "", *, probed: bool = False) -> None:
    """As KubeVirt's condition managers write them: lastProbeTime is there, and null unless the condition was probed."""
    if set_condition(status, type_, value, now, reason, message):
        found = condition(status["conditions"], type_)
        assert found is not None
        found["lastProbeTime"] = now if probed else None


def is_final(vmi: Object) -> bool:
    return vmi.get("status", {}).get("phase") in FINAL_PHASES


def phase_of(vmi: Object) -> str:
    return str(vmi.get("status", {}).get("phase", ""))


def set_phase(vmi: Object, phase: str, now: str) -> None:
    """Set a VMI's (or a migration's) phase, with its time stamp."""
    status = vmi.setdefault("status", {})
    if status.get("phase") != phase:
        status["phase"] = phase
        stamps = status.setdefault("phaseTransitionTimestamps", [])
        stamps.append({"phase": phase, "phaseTransitionTimestamp": now})


def is_deleting(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]
