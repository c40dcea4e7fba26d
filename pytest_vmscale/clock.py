"""Cluster time against wall time. On a real cluster they are the same; on the embedded one cluster time
runs `rate` times faster. Only this file knows the rate."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from datetime import UTC, datetime

LOOK_WALL_SECONDS = 1.0  # how long a sleep goes on before it looks whether the clock was set


class Clock:
    """Cluster time, in float seconds. Safe to read from any thread."""

    def __init__(self, rate: float = 1.0, epoch: float | None = None, monotonic: float | None = None) -> None:
        """`epoch` is the cluster's Unix time at this `monotonic` stamp (default: the wall's, now)."""
        if rate <= 0:
            raise ValueError(f"a clock's rate must be above 0, not {rate!r}")
        self.rate = rate
        # From which stamp on, from which time, and how fast: what was stamped before a change is told by what held then.
        self._pieces = [(time.monotonic() if monotonic is None else monotonic, time.time() if epoch is None else epoch, rate)]
        self._was_set = False

    def now(self) -> float:
        """The cluster's Unix time, whatever the wall's clock does. It goes back only where the embedded cluster's time has stood still."""
        return self.at(time.monotonic())

    def at(self, monotonic: float) -> float:
        """The cluster's Unix time at this stamp of time.monotonic()."""
        pieces = self._pieces
        last = len(pieces) - 1
        index = last if monotonic >= pieces[last][0] else max(0, bisect_right(pieces, monotonic, key=lambda piece: piece[0]) - 1)
        start, epoch, rate = pieces[index]
        at = epoch + (monotonic - start) * rate
        return at if index == last else min(at, pieces[index + 1][1])  # time may have stood still at the end of it

    def wall(self, cluster_seconds: float) -> float:
        """How long that takes on the wall."""
        return cluster_seconds / self.rate

    def set(self, rate: float, epoch: float, monotonic: float) -> None:
        """Go on at another rate, from this cluster time at this stamp of time.monotonic()."""
        if not self._was_set:  # what was assumed until now was another clock's
            self._was_set, self._pieces = True, [(monotonic, epoch, rate)]
        elif monotonic > self._pieces[-1][0]:
            # What was told in the middle of a standstill was too late a time.
            for index in range(len(self._pieces) - 1, -1, -1):
                start, before, at_rate = self._pieces[index]
                if before <= epoch:
                    break
                self._pieces[index] = (start, epoch, at_rate)
            self._pieces.append((monotonic, epoch, rate))
        else:
            self._pieces = [*(piece for piece in self._pieces if piece[0] < monotonic), (monotonic, epoch, rate)]
        self.rate = rate

    async def sleep(self, cluster_seconds: float) -> None:
        """Until so much cluster time has passed: longer on the wall where it stands still meanwhile, or goes on at another rate."""
        until = self.now() + cluster_seconds
        await asyncio.sleep(0)
        while (left := until - self.now()) > 0:
            await asyncio.sleep(min(self.wall(left), LOOK_WALL_SECONDS))

    def timestamp(self) -> str:
        """RFC 3339 with microseconds, as Kubernetes' MicroTime."""
        return datetime.fromtimestamp(self.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> float:
    """RFC 3339, as Kubernetes writes it, to Unix time. ValueError if it is none."""
    return datetime.fromisoformat(text).timestamp()
