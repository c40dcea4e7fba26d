"""Cluster time of the embedded cluster: wall time, multiplied.

Every duration in the embedded cluster is float seconds of cluster time since its start. Only this file
knows the speed; everything else sleeps and stamps in cluster time.

What the machine takes to simulate something takes no cluster time. When a timer is due, it is that timer's time until all
that it set off has been done, and only then the next timer's; so a machine that is too slow for a moment comes late with
everything alike, and the result is the same. Without that each step of each chain would be late by as much as the event loop
was busy, and a thousand clients held to so many requests a second would get fewer. A machine that stays behind for longer has
its cluster's time stand still meanwhile: who compares it with the wall's is told (`on_change`).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

log = logging.getLogger(__name__)

# Object timestamps lie this far behind the wall at the start: cluster time runs ahead, and a client that
# computes an age from its own clock must not meet a creationTimestamp from the future.
EPOCH_BEHIND_WALL_SECONDS = 24 * 3600.0
GRAIN_WALL_SECONDS = 0.0005  # timers that are due so close together count as one moment
MOST_BEHIND_WALL_SECONDS = 0.025  # then cluster time waits for the machine
MOST_TURNS = 50  # of the event loop, for what a moment has set off: clients that never stop asking must not stop the clock


class SimClock:
    """Cluster time, `speed` times as fast as the monotonic clock. The speed may change while it runs."""

    def __init__(self, speed: float) -> None:
        self._check(speed)
        self.speed = speed
        self.epoch = float(int(time.time() - EPOCH_BEHIND_WALL_SECONDS))
        self._base = 0.0
        self._base_monotonic = time.monotonic()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._handle: asyncio.TimerHandle | None = None
        self._moment: float | None = None  # the time until all that is due has been done
        self._latest = 0.0  # that anybody was told
        self._listeners: list[Callable[[], None]] = []

    @staticmethod
    def _check(speed: float) -> None:
        if not 0 < speed <= 100_000:
            raise ValueError(f"speed must be above 0 and at most 100000, not {speed!r}")

    def now(self) -> float:
        """Seconds of cluster time since the start, for all that happens in the cluster. Never runs back."""
        self._latest = max(self._latest, self.outside() if self._moment is None else self._moment)
        return self._latest

    def outside(self) -> float:
        """Seconds of cluster time since the start, by the wall's clock: for what is compared with clocks outside of the cluster."""
        return self._base + (time.monotonic() - self._base_monotonic) * self.speed

    def shown(self) -> float:
        """The time that somebody from outside reads off a clock in the cluster. What he compares it with must go on from there: a moment
        that takes the machine long has been standing still, and who follows is told."""
        now = self.now()
        if self.outside() - now > GRAIN_WALL_SECONDS * self.speed:
            self._go_on(now, self.speed)
        return now

    def timestamp(self, at: float | None = None) -> str:
        """RFC 3339 with one-second resolution, as Kubernetes writes metav1.Time."""
        moment = datetime.fromtimestamp(self.epoch + (self.now() if at is None else at), UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def micro_timestamp(self, at: float | None = None) -> str:
        """RFC 3339 with microseconds, as Kubernetes writes metav1.MicroTime."""
        moment = datetime.fromtimestamp(self.epoch + (self.now() if at is None else at), UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def parse(self, timestamp: str) -> float:
        """Seconds of cluster time since the start, of an object's RFC 3339 time stamp."""
        return datetime.fromisoformat(timestamp).timestamp() - self.epoch

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call the listener whenever cluster time goes on from somewhere else, or at another speed, than it would have."""
        self._listeners.append(listener)

    def set_speed(self, speed: float) -> None:
        """Go on from the same cluster time at another speed. What the machine was behind by is not taken along: at a lower speed it is longer."""
        self._check(speed)
        self._go_on(self.now(), speed)
        self._arm()

    def _go_on(self, at: float, speed: float) -> None:
        self._base, self._base_monotonic, self.speed = at, time.monotonic(), speed
        for listener in self._listeners:
            listener()

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Run the callback at this cluster time, or at once if that has passed."""
        heapq.heappush(self._timers, (when, next(self._sequence), callback))
        if self._moment is None and self._timers[0][0] == when:
            self._arm()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.call_at(self.now() + seconds, callback)

    async def sleep_until(self, when: float) -> None:
        """Return at this cluster time; at once, but after other tasks had their turn, if it has passed."""
        if when <= self.now():
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self.call_at(when, lambda: None if future.done() else future.set_result(None))
        await future

    async def sleep(self, seconds: float) -> None:
        await self.sleep_until(self.now() + seconds)

    def _arm(self) -> None:
        if self._handle:
            self._handle.cancel()
            self._handle = None
        if self._timers and self._moment is None:
            wall = max(0.0, (self._timers[0][0] - self.outside()) / self.speed)
            self._handle = asyncio.get_running_loop().call_later(wall, self._fire)

    def _fire(self) -> None:
        """One moment: all timers that are due at the time of the first."""
        self._handle = None
        if self._timers and self.outside() - self._timers[0][0] > MOST_BEHIND_WALL_SECONDS * self.speed:
            self._go_on(max(self._timers[0][0], self._latest), self.speed)
        until = min(self.outside(), self._timers[0][0] + GRAIN_WALL_SECONDS * self.speed) if self._timers else 0.0
        if not self._timers or self._timers[0][0] > until:
            self._moment = None
            self._arm()
            return
        while self._timers and self._timers[0][0] <= until:
            self._moment, _, callback = heapq.heappop(self._timers)
            try:
                callback()
            except Exception:  # one timer's failure must not stop the cluster's time
                log.exception("a timer's callback failed")
        asyncio.get_running_loop().call_soon(self._settle, 0)

    def _settle(self, turns: int) -> None:
        """Wait until nothing is left to do that this moment set off; then comes the next."""
        loop = asyncio.get_running_loop()
        if getattr(loop, "_ready", ()) and turns < MOST_TURNS:
            loop.call_soon(self._settle, turns + 1)
        else:
            self._fire()
