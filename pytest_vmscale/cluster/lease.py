"""One run at a time per cluster: a Lease, held and renewed. All times here are the wall's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

from .access import ClusterError
from .requests import ApiError, Cluster, Object, network_reason, resource_path
from .runtime import cancel_all

LEASE_NAMESPACE = "default"
LEASE_NAME = "vmscale-run"
DURATION_SECONDS = 15.0
RENEW_EVERY_SECONDS = 5.0
LOOK_EVERY_SECONDS = 1.0


def holder_identity(run_id: str) -> str:
    """Names the run, and tells two of the same name apart: a pipeline may give all of its runs one."""
    return f"{run_id} ({socket.gethostname()}, process {os.getpid()})"


class Lease:
    """Take it before touching the cluster, release it at the end. `on_lost(reason)` is called if another run has taken it, `tell(line)` when
    nobody could see it renewed for its duration, and when it is renewed again."""

    def __init__(
        self,
        cluster: Cluster,
        holder: str,
        on_lost: Callable[[str], None],
        *,
        tell: Callable[[str], None] = lambda line: None,
        namespace: str = LEASE_NAMESPACE,
        name: str = LEASE_NAME,
        duration_seconds: float = DURATION_SECONDS,
        renew_every_seconds: float = RENEW_EVERY_SECONDS,
    ) -> None:
        self._cluster, self._holder, self._on_lost, self._tell = cluster, holder, on_lost, tell
        self._namespace, self._name = namespace, name
        self._duration, self._renew_every = duration_seconds, renew_every_seconds
        self._collection = resource_path("coordination.k8s.io/v1", "leases", namespace)
        self._path = f"{self._collection}/{name}"
        self._held: Object | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def take(self) -> None:
        """ClusterError naming the holder if another live run has it. Whether that one lives is judged by watching it
        renew, for its own duration, and not by comparing clocks: ours may differ from theirs."""
        while True:
            found = await self._cluster.get_or_none(self._path)
            try:
                if found is None:
                    self._held = await self._cluster.create(
                        self._collection, self._filled({"metadata": {"name": self._name}}, transitions=0)
                    )
                else:
                    other = found["spec"].get("holderIdentity")
                    if other and other != self._holder:
                        await self._wait_until_stale(found, other)
                    transitions = int(found["spec"].get("leaseTransitions") or 0) + (other != self._holder)
                    self._held = await self._cluster.update(self._path, self._filled(found, transitions))
                break
            except ApiError as error:
                if error.status not in (404, 409):  # somebody was faster: look again
                    raise
        self._renewal = asyncio.create_task(self._keep())

    async def release(self) -> None:
        """Leave it to the next run. Errors are the next run's problem, which will see that we no longer renew."""
        if self._renewal:
            await cancel_all([self._renewal])
            self._renewal = None
        if self._held:
            spec = {**self._held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            with contextlib.suppress(ApiError):
                await self._cluster.update(self._path, {**self._held, "spec": spec})
            self._held = None

    async def __aenter__(self) -> Lease:
        await self.take()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.release()

    async def _wait_until_stale(self, found: Object, holder: str) -> None:
        version = found["metadata"]["resourceVersion"]
        until = time.monotonic() + float(found["spec"].get("leaseDurationSeconds") or DURATION_SECONDS)
        while time.monotonic() < until:
            await asyncio.sleep(min(LOOK_EVERY_SECONDS, self._renew_every))
            now = await self._cluster.get_or_none(self._path)
            if now is None or not now["spec"].get("holderIdentity"):
                return
            if now["metadata"]["resourceVersion"] != version:
                raise ClusterError(
                    f"{self._cluster.access.server} is in use: the run {now['spec']['holderIdentity']!r} holds the lease"
                    f" {self._namespace}/{self._name} and renews it (one run at a time: {holder!r} must end first)"
                )

    async def _keep(self) -> None:
        """Renew until cancelled, or until another run has it. An outage alone loses nothing, however long: who took it meanwhile is seen after
        it, and the upgrade suite measures outages."""
        renewed, told = time.monotonic(), False
        while self._held:
            await asyncio.sleep(self._renew_every)
            try:
                async with asyncio.timeout(max(self._renew_every, renewed + self._duration - time.monotonic())):
                    self._held = await self._cluster.update(self._path, self._filled(self._held, self._held["spec"]["leaseTransitions"]))
            except (ClusterError, TimeoutError) as error:
                await self._look_who_has_it()
                silent_seconds = time.monotonic() - renewed
                if self._held and silent_seconds >= self._duration and not told:
                    told = True
                    why = network_reason(error)
                    self._tell(f"the lease {self._namespace}/{self._name} could not be renewed for {silent_seconds:.0f} s: {why}")
                continue
            if told:
                self._tell(f"the lease {self._namespace}/{self._name} is renewed again, after {time.monotonic() - renewed:.0f} s")
            renewed, told = time.monotonic(), False

    async def _look_who_has_it(self) -> None:
        with contextlib.suppress(ClusterError, TimeoutError):
            async with asyncio.timeout(self._renew_every):
                found = await self._cluster.get_or_none(self._path)
                holder = found["spec"].get("holderIdentity") if found else "nobody (it was deleted)"
                if holder == self._holder:  # our own update got through, only its answer did not
                    self._held = found
                    return
                self._held = None
                self._on_lost(f"the lease {self._namespace}/{self._name} is now held by {holder!r}: another run is on this cluster")

    def _filled(self, lease: Object, transitions: int) -> Object:
        return {
            **lease,
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "spec": {
                **lease.get("spec", {}),
                "holderIdentity": self._holder,
                "leaseDurationSeconds": max(1, round(self._duration)),
                "acquireTime": lease.get("spec", {}).get("acquireTime") if self._held else _now(),
                "renewTime": _now(),
                "leaseTransitions": transitions,
            },
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
