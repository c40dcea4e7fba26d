"""What users of the cluster notice while it is upgraded: the API asked to read and to write each second, and every guest's SSH."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..clock import Clock
from ..cluster.requests import ApiError, Cluster, network_reason
from ..guest.probe import Readiness, answer
from ..guest.route import Route, Target

API_EVERY_SECONDS = 1.0
API_TIMEOUT_SECONDS = 10.0
# However fast cluster time runs, a request is answered on the wall's.
API_TIMEOUT_FLOOR_WALL_SECONDS = 1.0
PROBE_SECONDS = 10.0  # a guest that does not answer within it is down
PROBES_A_WALL_SECOND = 400.0  # of guests, from this machine: a third of what its two cores can do
PERCENTILES = (50, 90, 99)
OUTAGES_KEPT, POINTS_KEPT = 50, 400


@dataclass(frozen=True)
class Outage:
    """A time without a good answer: cluster seconds from the start, from the first probe that failed to the first that did not."""

    start_seconds: float
    end_seconds: float
    reason: str

    @property
    def seconds(self) -> float:
        return self.end_seconds - self.start_seconds


@dataclass
class ApiProbe:
    """One kind of request, sent each second whether the one before was answered or not. Each probe is tried once."""

    name: str
    method: str
    path: str
    clock: Clock
    cluster: Cluster
    body: Any = None
    began: float = 0.0
    sent: int = 0
    failed: int = 0
    latencies: list[tuple[float, float]] = field(default_factory=list)  # when sent, and cluster seconds until answered
    outages: list[Outage] = field(default_factory=list)
    _down: tuple[float, str] | None = None
    _last_good: float = -math.inf

    async def run(self) -> None:
        """Until cancelled."""
        running: set[asyncio.Task[None]] = set()
        due = self.began = self.clock.now()
        try:
            while True:
                task = asyncio.create_task(self._one())
                running.add(task)
                task.add_done_callback(running.discard)
                due = max(due + API_EVERY_SECONDS, self.clock.now())
                await self.clock.sleep(due - self.clock.now())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _one(self) -> None:
        at = self.clock.now() - self.began
        self.sent += 1
        try:
            async with asyncio.timeout(max(self.clock.wall(API_TIMEOUT_SECONDS), API_TIMEOUT_FLOOR_WALL_SECONDS)):
                await self.cluster.send(self.method, self.path, body=self.body, tries=1, content_type=PATCH if self.body else JSON)
        except (ApiError, TimeoutError) as error:
            self.failed += 1
            reason = error.reason if isinstance(error, ApiError) else "timed out"
            if at > self._last_good and (self._down is None or at < self._down[0]):
                self._down = (at, reason)
            return
        self.latencies.append((at, self.clock.now() - self.began - at))
        if at > self._last_good:
            self._last_good = at
            if self._down is not None and at > self._down[0]:
                self.outages.append(Outage(self._down[0], at, self._down[1]))
                self._down = None

    def found(self) -> dict[str, Any]:
        """As the details of a measurement have it. An outage that has not ended lasts until now."""
        now = self.clock.now() - self.began
        outages = [*self.outages, *([Outage(self._down[0], now, self._down[1])] if self._down else [])]
        values = sorted(seconds for _, seconds in self.latencies)
        longest = sorted(outages, key=lambda each: -each.seconds)[:OUTAGES_KEPT]
        return {
            "probes": self.sent,
            "failed": self.failed,
            "longest_outage_seconds": max((each.seconds for each in outages), default=0.0) if values else None,
            "outage_seconds": sum(each.seconds for each in outages) if values else None,
            "outages": [[each.start_seconds, each.end_seconds, each.reason] for each in sorted(longest, key=lambda each: each.start_seconds)],
            **{f"p{percent}_seconds": values[math.ceil(percent / 100 * len(values)) - 1] if values else None for percent in PERCENTILES},
            "max_seconds": values[-1] if values else None,
            "curve": worst_of_each(self.latencies),
        }


JSON, PATCH = "application/json", "application/merge-patch+json"


def worst_of_each(points: Sequence[tuple[float, float]], parts: int = POINTS_KEPT) -> list[list[float]]:
    """A curve with few enough points to draw: of each part of the time its slowest answer."""
    if not points:
        return []
    width = (points[-1][0] or 1.0) / parts
    slots: dict[int, tuple[float, float]] = {}
    for at, value in points:
        slot = int(at / width)
        if slot not in slots or value > slots[slot][1]:
            slots[slot] = (at, value)
    return [[round(at, 1), round(value, 4)] for _, (at, value) in sorted(slots.items())]


@dataclass
class GuestProbe:
    """One guest's SSH, asked again and again. Its target changes when it has moved or restarted."""

    key: str
    target: Target | None
    readiness: Readiness
    probes: int = 0
    failed: int = 0
    down_since: float | None = None  # cluster time of the first probe that failed
    down_seconds: float = 0.0  # of all outages that have ended
    longest_seconds: float = 0.0
    last_error: str = ""

    def downtime(self, now: float) -> tuple[float, float]:
        """The longest outage, and all of them together; one that goes on lasts until now."""
        open_seconds = 0.0 if self.down_since is None else now - self.down_since
        return max(self.longest_seconds, open_seconds), self.down_seconds + open_seconds


class GuestProbes:
    """All guests in turn, each once an interval; as often as this machine can, and no more often than asked."""

    def __init__(self, probes: Mapping[str, GuestProbe], route: Route, clock: Clock, interval_seconds: float) -> None:
        self.probes, self._route, self._clock = probes, route, clock
        self.interval_seconds = max(interval_seconds, len(probes) * clock.rate / PROBES_A_WALL_SECOND)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for index, each in enumerate(self.probes.values()):
                group.create_task(self._follow(each, index / len(self.probes) * self.interval_seconds))

    async def _follow(self, guest: GuestProbe, first_after: float) -> None:
        await self._clock.sleep(first_after)
        due = self._clock.now()
        while True:
            await self._one(guest)
            due = max(due + self.interval_seconds, self._clock.now())
            await self._clock.sleep(due - self._clock.now())

    async def _one(self, guest: GuestProbe) -> None:
        if guest.target is None:
            return
        at = self._clock.now()
        guest.probes += 1
        try:
            answered = await answer(self._route, guest.target, guest.readiness, self._clock, PROBE_SECONDS)
        except OSError as error:
            guest.failed += 1
            guest.last_error = network_reason(error)
            if guest.down_since is None:
                guest.down_since = at
            return
        if guest.down_since is not None:
            seconds = self._clock.at(answered) - guest.down_since
            guest.longest_seconds, guest.down_seconds = max(guest.longest_seconds, seconds), guest.down_seconds + seconds
            guest.down_since = None
