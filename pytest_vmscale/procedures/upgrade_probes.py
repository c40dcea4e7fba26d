"""What users of the cluster notice while it is upgraded: the API asked to read and to write each second, and every guest's SSH."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..clock import Clock
from ..cluster.access import Access
from ..cluster.requests import JSON, MERGE_PATCH, ApiError, Cluster, network_reason
from ..cluster.runtime import cancel_all
from ..guest.probe import Readiness, answer
from ..guest.route import Route, Target

API_EVERY_SECONDS = 1.0
API_TIMEOUT_SECONDS = 10.0
# Of each probe. A server that ends takes with it the kept connections that it had: each fails one probe that is sent over it, so a pool of
# thousands would look like a server that is away for long.
API_CONNECTIONS = 8
# However fast cluster time runs, a request is answered on the wall's.
API_TIMEOUT_FLOOR_WALL_SECONDS = 3.0
# A guest that does not answer within it is down. The floor: that a machine is busy for a moment must not look like a guest that is.
PROBE_SECONDS, CONNECT_FLOOR_WALL_SECONDS = 10.0, 3.0
PROBES_A_WALL_SECOND = 300.0  # of guests, from this machine: what leaves its cores to the cluster, where that is embedded
NEAR_SECONDS = 60.0  # after something happened to a guest, it is asked more often for so long
PERCENTILES = (50, 90, 99)
OUTAGES_KEPT, POINTS_KEPT = 50, 400


@dataclass(frozen=True)
class Asked:
    """One probe of the API. `at`: seconds from the start, when it was sent. why: what was wrong with it, or empty."""

    at: float
    latency_wall_seconds: float
    why: str = ""


@dataclass(frozen=True)
class Outage:
    """A time without a good answer: seconds from the start, from the first probe that failed to the sending of the next that did not."""

    start_seconds: float
    end_seconds: float
    reason: str

    @property
    def seconds(self) -> float:
        return self.end_seconds - self.start_seconds


def outages(asked: Sequence[Asked], end: float) -> list[Outage]:
    """Of probes in the order in which they were sent. One that has not ended lasts until the end."""
    found, first = [], None
    for each in asked:
        if each.why:
            first = first or each
        elif first is not None:
            found.append(Outage(first.at, each.at, first.why))
            first = None
    return [*found, *([Outage(first.at, end, first.why)] if first else [])]


@dataclass
class ApiProbe:
    """One kind of request, sent each second whether the one before was answered or not, over connections of its own. Each probe is tried once.

    Times are cluster time, but for how long an answer took: the embedded cluster's server is as fast as this machine lets it be."""

    name: str
    method: str
    path: str
    clock: Clock
    access: Access
    body: Any = None
    t0: float = 0.0
    asked: list[Asked] = field(default_factory=list)  # as they were answered

    async def run(self, t0: float) -> None:
        """Until cancelled. t0: the start, cluster time."""
        running: set[asyncio.Task[None]] = set()
        self.t0, due = t0, self.clock.now()
        async with Cluster(self.access, self.clock, connections=API_CONNECTIONS) as cluster:
            try:
                while True:
                    task = asyncio.create_task(self._one(cluster))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    due = max(due + API_EVERY_SECONDS, self.clock.now())
                    await self.clock.sleep(due - self.clock.now())
            finally:
                await cancel_all(running)

    async def _one(self, cluster: Cluster) -> None:
        sent, why = time.monotonic(), ""
        try:
            async with asyncio.timeout(max(self.clock.wall(API_TIMEOUT_SECONDS), API_TIMEOUT_FLOOR_WALL_SECONDS)):
                await cluster.send(self.method, self.path, body=self.body, tries=1, content_type=MERGE_PATCH if self.body else JSON)
        except ApiError as error:
            why = error.attempts[-1].reason if error.attempts else str(error)
        except TimeoutError:
            why = "no answer in time"
        self.asked.append(Asked(self.clock.at(sent) - self.t0, time.monotonic() - sent, why))

    def found(self, now: float) -> dict[str, Any]:
        """As the details of a measurement have it, until now (cluster time)."""
        asked = sorted(self.asked, key=lambda each: each.at)
        good = [each for each in asked if not each.why]
        values = sorted(each.latency_wall_seconds for each in good)
        down = outages(asked, now - self.t0)
        longest = sorted(down, key=lambda each: -each.seconds)[:OUTAGES_KEPT]
        return {
            "probes": len(asked),
            "failed": len(asked) - len(good),
            "longest_outage_seconds": max((each.seconds for each in down), default=0.0) if good else None,
            "outage_seconds": sum(each.seconds for each in down) if good else None,
            "outages": sorted([each.start_seconds, each.end_seconds, each.reason] for each in longest),
            **{f"p{percent}_seconds": values[math.ceil(percent / 100 * len(values)) - 1] if values else None for percent in PERCENTILES},
            "max_seconds": values[-1] if values else None,
            "curve": worst_of_each([(each.at, each.latency_wall_seconds) for each in good]),
        }


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


@dataclass(frozen=True)
class Downtime:
    """Of one guest. longest_most: what its longest downtime may have been at most, from the last answer before it to the first after."""

    longest_seconds: float
    longest_most_seconds: float
    total_seconds: float


@dataclass
class GuestProbe:
    """One guest's SSH, asked again and again. A downtime lasts from the first probe that failed to the next answer."""

    key: str
    target: Target
    readiness: Readiness
    probes: int = 0
    failed: int = 0
    last_error: str = ""
    good: float = math.nan  # cluster time of the last probe that was answered
    down_since: float | None = None  # cluster time of the first probe that failed
    ended: list[tuple[float, float, float]] = field(default_factory=list)  # downtimes: last answer before, first failure, answer
    near_until: float = -math.inf  # something has happened to it: until then it is asked more often
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def answered(self, sent: float, at: float) -> None:
        if self.down_since is not None:
            self.ended.append((self.good, self.down_since, at))
            self.down_since = None
        self.good = sent

    def unanswered(self, sent: float, why: str) -> None:
        self.failed += 1
        self.last_error = why
        if self.down_since is None:
            self.down_since = sent

    def downtime(self, now: float) -> Downtime:
        """One that goes on lasts until now."""
        all_ = [*self.ended, *([] if self.down_since is None else [(self.good, self.down_since, now)])]
        good, start, end = max(all_, key=lambda each: each[2] - each[1], default=(0.0, 0.0, 0.0))
        most = end - (start if math.isnan(good) else good)
        return Downtime(end - start, most, sum(end - start for _, start, end in all_))


class GuestProbes:
    """All guests in turn, as often as asked, or as this machine can; those that do not answer, or to which something happens, first."""

    def __init__(self, probes: Mapping[str, GuestProbe], route: Route, clock: Clock, interval_seconds: float) -> None:
        self.probes, self._route, self._clock, self._asked_seconds = probes, route, clock, interval_seconds
        self.interval_seconds = self._interval(len(probes))
        self._near = 0  # how many guests are asked more often

    def _interval(self, guests: int) -> float:
        return max(self._asked_seconds, guests * self._clock.rate / PROBES_A_WALL_SECOND)

    def look(self, key: str) -> None:
        """Something has happened to this guest: ask it now, and more often for a while."""
        probe = self.probes[key]
        probe.near_until = self._clock.now() + NEAR_SECONDS
        probe.wake.set()

    def moved(self, key: str, address: str) -> None:
        """It answers there from now on."""
        probe = self.probes[key]
        if address != probe.target.address:
            probe.target = replace(probe.target, address=address)

    async def run(self) -> None:
        """Until cancelled. ClusterError if the route itself is refused to us."""
        between = self.interval_seconds / len(self.probes)
        tasks = [asyncio.create_task(self._follow(each, index * between)) for index, each in enumerate(self.probes.values())]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel_all(tasks)

    async def _follow(self, guest: GuestProbe, first_after: float) -> None:
        await self._clock.sleep(first_after)
        while True:
            sent = self._clock.now()
            guest.wake.clear()
            await self._one(guest, sent)
            if guest.down_since is None and guest.near_until < sent:
                await self._wait(guest, sent + self.interval_seconds)
                continue
            self._near += 1
            try:
                await self._clock.sleep(sent + self._interval(self._near) - self._clock.now())
            finally:
                self._near -= 1

    async def _wait(self, guest: GuestProbe, until: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._clock.wall(max(0.0, until - self._clock.now()))):
                await guest.wake.wait()

    async def _one(self, guest: GuestProbe, sent: float) -> None:
        guest.probes += 1
        try:
            arrived = await answer(self._route, guest.target, guest.readiness, self._clock, PROBE_SECONDS, CONNECT_FLOOR_WALL_SECONDS)
        except OSError as error:
            guest.unanswered(sent, network_reason(error))
        else:
            guest.answered(sent, self._clock.at(arrived))
