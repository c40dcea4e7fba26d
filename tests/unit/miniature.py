"""A KubeVirt of a hundred lines, for procedures: VMIs go through their phases, in ways that a test chooses by VM name."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.requests import Cluster
from pytest_vmscale.guest.route import Connection, Target
from pytest_vmscale.model import Fleet, Guest

from .scripted import event, expired_event, serving

RATE = 100.0
STEP_WALL_SECONDS = 0.01


def make_fleet(*names: str, os: str = "rhel") -> Fleet:
    return Fleet("r1", "main", tuple(Guest("ns", name, os, index) for index, name in enumerate(names)))


class Miniature:
    """`fates` has a VM's way by its name: a callable that is awaited when it is started. Others just boot."""

    def __init__(self, **fates: Callable[[Miniature, str], Any]) -> None:
        self.fates = fates
        self.vmis: dict[str, dict[str, Any]] = {}
        self.version = 100
        self.watchers: list[asyncio.Queue[bytes | None]] = []
        self.starts: list[str] = []
        self.refusals: dict[str, list[web.Response | None]] = {}  # by VM, answers before the good one; None resets
        self.up: set[str] = set()
        self.asked: dict[str, int] = {}
        self.tasks: list[asyncio.Task[Any]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({})
        if request.path.endswith("/start"):
            return await self._start(request, request.path.split("/")[-2])
        assert request.path == "/apis/kubevirt.io/v1/virtualmachineinstances", request.path
        return await (self._watch if request.query.get("watch") else self._list)(request)

    async def _start(self, request: web.Request, name: str) -> web.Response:
        self.starts.append(name)
        if self.refusals.get(name):
            refusal = self.refusals[name].pop(0)
            if refusal is not None:
                return refusal
            self._go(name)  # done, but the answer is lost
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        self._go(name)
        return web.Response(status=202)

    def _go(self, name: str) -> None:
        self.tasks.append(asyncio.create_task(self.fates.get(name, Miniature.boots)(self, name)))

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": list(self.vmis.values())})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        # What happened since the list is sent first, as a server with a history does.
        for vmi in self.vmis.values():
            if int(vmi["metadata"]["resourceVersion"]) > int(request.query["resourceVersion"]):
                await response.write(event("ADDED", vmi))
        self.watchers.append(queue)
        with contextlib.suppress(ConnectionError):
            while (line := await queue.get()) is not None:
                await response.write(line)
        return response

    def send(self, line: bytes | None) -> None:
        for queue in self.watchers:
            queue.put_nowait(line)

    def expire_watches(self) -> None:
        self.send(expired_event())
        self.send(None)
        self.watchers.clear()

    def put(self, name: str, phase: str | None = None, **status: Any) -> None:
        """Create or change a VMI and tell the watchers."""
        self.version += 1
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        new = name not in self.vmis
        vmi = self.vmis.setdefault(
            name, {"metadata": {"name": name, "namespace": "ns", "uid": f"u{self.version}", "creationTimestamp": now}, "status": {}}
        )
        vmi["metadata"]["resourceVersion"] = str(self.version)
        vmi["status"].update(status)
        if phase:
            vmi["status"]["phase"] = phase
            vmi["status"].setdefault("phaseTransitionTimestamps", []).append({"phase": phase, "phaseTransitionTimestamp": now})
        self.send(event("ADDED" if new else "MODIFIED", json.loads(json.dumps(vmi))))

    def drop(self, name: str) -> None:
        self.version += 1
        vmi = self.vmis.pop(name)
        vmi["metadata"]["resourceVersion"] = str(self.version)
        self.send(event("DELETED", vmi))

    # Ways up, and other ways.

    async def runs(self, name: str, address: str = "10.0.0.1") -> None:
        self.put(name)
        for phase in ("Scheduling", "Scheduled"):
            await asyncio.sleep(STEP_WALL_SECONDS)
            self.put(name, phase)
        await asyncio.sleep(STEP_WALL_SECONDS)
        self.put(name, "Running", nodeName="worker-1", interfaces=[{"ipAddress": "fe80::1"}, {"ipAddress": address}])

    async def boots(self, name: str) -> None:
        await self.runs(name)
        self.put(name, conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": None}])
        await asyncio.sleep(5 * STEP_WALL_SECONDS)
        self.up.add(name)

    async def gets_no_address(self, name: str) -> None:
        await self.runs(name, address="")

    async def vanishes(self, name: str) -> None:
        await self.runs(name)
        self.drop(name)

    async def vanishes_unseen(self, name: str) -> None:
        """While no stream is there to say so."""
        await self.runs(name)
        await asyncio.sleep(5 * STEP_WALL_SECONDS)
        del self.vmis[name]
        self.version += 1
        self.expire_watches()

    async def fails(self, name: str) -> None:
        await self.runs(name)
        self.put(name, "Failed")

    async def never_comes(self, name: str) -> None:
        pass

    async def stays_unschedulable(self, name: str) -> None:
        self.put(name)
        message = "0/3 nodes are available"
        self.put(name, "Scheduling", conditions=[{"type": "PodScheduled", "status": "False", "message": message}])


class MiniatureRoute:
    """Guests answer with a banner once they are up."""

    needs_address, name = True, "miniature"

    def __init__(self, miniature: Miniature) -> None:
        self._miniature = miniature

    async def connect(self, target: Target) -> Connection:
        asked = self._miniature.asked
        asked[target.name] = asked.get(target.name, 0) + 1
        if target.name not in self._miniature.up:
            raise ConnectionRefusedError(111, "refused")
        return Banner()

    async def close(self) -> None:
        pass


class Banner:
    async def read(self) -> bytes:
        return b"SSH-2.0-miniature\r\n"

    async def write(self, data: bytes) -> None:
        raise AssertionError("a probe only listens")

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def miniature_cluster(miniature: Miniature, tmp_path: Path) -> AsyncIterator[tuple[Cluster, Clock]]:
    async with serving(miniature, tmp_path, rate=RATE) as cluster:
        try:
            yield cluster, cluster.clock
        finally:
            for task in miniature.tasks:
                task.cancel()
            miniature.send(None)
