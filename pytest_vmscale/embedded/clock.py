"""Cluster time of the embedded cluster: wall time, multiplied.

Every duration in the embedded cluster is float seconds of cluster time since its start. Only this file
knows the speed; everything else sleeps and stamps in cluster time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime

log = logging.getLogger(__name__)

# Object timestamps lie this far behind the wall at the start: cluster time runs ahead, and a client that
# computes an age from its own clock must not meet a creationTimestamp from the future.
EPOCH_BEHIND_WALL_SECONDS = 24 * 3600.0

# How late the task at hand is, in cluster seconds: a busy event loop comes to it so long after the time that it slept until.
_late: ContextVar[float] = ContextVar("late", default=0.0)


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

    @staticmethod
    def _check(speed: float) -> None:
        if not 0 < speed <= 100_000:
            raise ValueError(f"speed must be above 0 and at most 100000, not {speed!r}")

    def now(self) -> float:
        """Seconds of cluster time since the start."""
        return self._base + (time.monotonic() - self._base_monotonic) * self.speed

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

    def set_speed(self, speed: float) -> None:
        """Go on from the same cluster time at another speed."""
        self._check(speed)
        self._base = self.now()
        self._base_monotonic = time.monotonic()
        self.speed = speed
        self._arm()

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Run the callback at this cluster time, or at once if that has passed."""
        heapq.heappush(self._timers, (when, next(self._sequence), callback))
        if self._timers[0][0] == when:
            self._arm()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.call_at(self.now() + seconds, callback)

    async def sleep_until(self, when: float) -> None:
        """Return at this cluster time; at once, but after other tasks had their turn, if it has passed."""
        if when <= self.now():
            await asyncio.sleep(0)
        else:
            future = asyncio.get_running_loop().create_future()
            self.call_at(when, lambda: None if future.done() else future.set_result(None))
            await future
        self.done_at(when)

    def due(self) -> float:
        """The time by which the task at hand would be here on a machine that is never late: now, or somewhat before."""
        return self.now() - _late.get()

    def done_at(self, when: float) -> None:
        """The task at hand has done something that took until then, and did not wait for it."""
        _late.set(max(0.0, self.now() - when))

    @staticmethod
    def in_time() -> None:
        """The task at hand has waited for somebody else: it is not late any more."""
        _late.set(0.0)

    async def sleep(self, seconds: float) -> None:
        await self.sleep_until(self.now() + seconds)

    def _arm(self) -> None:
        if self._handle:
            self._handle.cancel()
            self._handle = None
        if self._timers:
            wall = max(0.0, (self._timers[0][0] - self.now()) / self.speed)
            self._handle = asyncio.get_running_loop().call_later(wall, self._fire)

    def _fire(self) -> None:
        self._handle = None
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2]
            try:
                callback()
            except Exception:  # one timer's failure must not stop the cluster's time
                log.exception("a timer's callback failed")
        self._arm()
