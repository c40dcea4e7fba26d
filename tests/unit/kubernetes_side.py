"""A stand-in for the embedded cluster's Kubernetes side: real store, real clock (fast), real profile, no server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pytest_vmscale.embedded import timing
from pytest_vmscale.embedded.api.kinds import load_kinds
from pytest_vmscale.embedded.api.resources import Resources
from pytest_vmscale.embedded.api.store import Store
from pytest_vmscale.embedded.ceph import Ceph
from pytest_vmscale.embedded.clock import SimClock
from pytest_vmscale.embedded.controllers.disruption import Evictions
from pytest_vmscale.embedded.faults import Fault, Faults
from pytest_vmscale.embedded.hosts import Hosts
from pytest_vmscale.embedded.truth import Truth

SPEED = 200.0


class StandIn:
    """What a controller is given, and a few words for tests."""

    def __init__(self, workers: int = 3, faults: list[Fault] | None = None, speed: float = SPEED, **values: Any) -> None:
        self.clock = SimClock(speed)
        self.resources = Resources(Store(), load_kinds(), self.clock)
        self.timing: Any = timing.load().replaced("kubernetes", **values)
        self.truth = Truth(self.clock, None)
        self.faults = Faults(self.clock, faults)
        self.random = random.Random(1)
        self.hosts = Hosts()
        self.ceph = Ceph(self)
        self.evictions = Evictions(self.resources, self.clock.timestamp, self.truth)
        self.workers = workers
        self.ca_certificate = "-----BEGIN CERTIFICATE-----"

    def get(self, plural: str, name: str, namespace: str = "ns") -> Any:
        kind = self.resources.kind(plural)
        return self.resources.find(kind, namespace if kind.namespaced else "", name)

    def list(self, plural: str, namespace: str = "") -> list[Any]:
        return self.resources.list(self.resources.kind(plural), namespace)

    def create(self, plural: str, obj: dict[str, Any], namespace: str = "ns") -> Any:
        kind = self.resources.kind(plural)
        if kind.namespaced:
            obj["metadata"].setdefault("namespace", namespace)
        return self.resources.create(kind, obj)

    def delete(self, plural: str, name: str, namespace: str = "ns", **more: Any) -> Any:
        kind = self.resources.kind(plural)
        return self.resources.delete(kind, namespace if kind.namespaced else "", name, **more)

    def change(self, plural: str, name: str, change: Callable[[Any], Any], namespace: str = "ns", subresource: str = "") -> Any:
        kind = self.resources.kind(plural)
        return self.resources.modify(kind, namespace if kind.namespaced else "", name, change, subresource=subresource)

    def pod(self, name: str, **spec: Any) -> Any:
        return self.create("pods", pod(name, **spec))

    def events(self, reason: str) -> list[Any]:
        return [event for event in self.list("events") if event["reason"] == reason]

    async def until(self, check: Callable[[], Any], seconds: float = 600.0) -> Any:
        """Wait until it gives something true, and return that. Fails after so many seconds of cluster time."""
        end = self.clock.now() + seconds
        while not (found := check()):
            assert self.clock.now() < end, f"not so within {seconds} s"
            await asyncio.sleep(0.001)
        return found


def pod(name: str, **spec: Any) -> dict[str, Any]:
    labels = spec.pop("labels", {})
    containers = spec.pop("containers", [{"name": "c", "image": "registry/pause:3.5", "resources": spec.pop("resources", {})}])
    return {"metadata": {"name": name, "namespace": "ns", "labels": labels}, "spec": {"containers": containers, **spec}}


@asynccontextmanager
async def running(cluster: StandIn, *controllers: Any) -> AsyncIterator[StandIn]:
    """Start these controllers, in order, and stop them at the end."""
    started = [each(cluster) for each in controllers]
    for each in started:
        each.start()
    try:
        yield cluster
    finally:
        for each in reversed(started):
            await each.stop()
