"""What the controllers are made of: client-go's work queue and token bucket, in cluster time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable

from .clock import SimClock

log = logging.getLogger(__name__)


class TokenBucket:
    """client-go's client-side rate limiter: `qps` tokens a second, at most `burst` saved up.

    Callers are served in the order in which they came. `qps` None means unlimited.
    """

    def __init__(self, clock: SimClock, qps: float | None, burst: int) -> None:
        self._clock, self.qps, self.burst = clock, qps, burst
        self._tokens, self._at = float(burst), clock.now()
        self.taken = 0

    async def take(self, tokens: float = 1.0) -> None:
        """`tokens` other than 1: a request that costs more, on a cluster that is made slower."""
        self.taken += 1
        if self.qps is None:
            return
        now = self._clock.now()
        self._tokens = min(float(self.burst), self._tokens + (now - self._at) * self.qps)
        self._at = now
        self._tokens -= tokens  # a debt is a place in the queue
        if self._tokens < 0:
            await self._clock.sleep_until(now - self._tokens / self.qps)


class WorkQueue:
    """client-go's work queue: a key is in it once, and is never worked on twice at a time."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._queue: deque[Hashable] = deque()
        self._dirty: set[Hashable] = set()
        self._processing: set[Hashable] = set()
        self._waiting: dict[Hashable, float] = {}  # until when
        self._wakeup: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, key: Hashable) -> None:
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._push(key)

    def add_after(self, key: Hashable, seconds: float) -> None:
        """A key waits once, for the earliest time that was asked for."""
        when = self._clock.now() + seconds
        if self._waiting.get(key, when + 1) > when:
            self._waiting[key] = when
            self._clock.call_at(when, lambda: self._waited(key, when))

    def _waited(self, key: Hashable, when: float) -> None:
        if self._waiting.get(key) == when:  # not put forward since
            del self._waiting[key]
            self.add(key)

    async def get(self) -> Hashable:
        while not self._queue:
            future = asyncio.get_running_loop().create_future()
            self._wakeup.append(future)
            await future
        key = self._queue.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: Hashable) -> None:
        self._processing.discard(key)
        if key in self._dirty:
            self._push(key)

    def _push(self, key: Hashable) -> None:
        self._queue.append(key)
        while self._wakeup:
            future = self._wakeup.popleft()
            if not future.done():
                future.set_result(None)
                break


class Workers:
    """N workers on one queue, each calling `reconcile(key)`; a key whose reconcile raises is tried again."""

    RETRY_FIRST_SECONDS, RETRY_MOST_SECONDS = 0.5, 60.0  # shape of client-go's exponential failure rate limiter

    def __init__(self, name: str, clock: SimClock, count: int, reconcile: Callable[..., Awaitable[None]]) -> None:
        self.name, self.count, self._reconcile = name, count, reconcile
        self.queue = WorkQueue(clock)
        self._failures: dict[Hashable, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._work(), name=f"{self.name}-{n}") for n in range(self.count)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self._reconcile(key)
                self._failures.pop(key, None)
            except Exception as error:
                tries = self._failures[key] = self._failures.get(key, 0) + 1
                # A conflict is how optimistic concurrency works, and what a quota forbids is told by an event; anything else is a bug worth reading.
                if getattr(error, "code", None) not in (403, 409):
                    log.exception("%s: %s (try %d)", self.name, key, tries)
                self.queue.add_after(key, min(self.RETRY_MOST_SECONDS, self.RETRY_FIRST_SECONDS * 2 ** min(tries - 1, 10)))
            finally:
                self.queue.done(key)
