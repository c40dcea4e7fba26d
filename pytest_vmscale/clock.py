"""Cluster time against wall time. On a real cluster they are the same; on the embedded one cluster time
runs `rate` times faster. Only this file knows the rate."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """Cluster time, in float seconds. Safe to read from any thread."""

    def __init__(self, rate: float = 1.0, epoch: float | None = None, monotonic: float | None = None) -> None:
        """`epoch` is the cluster's Unix time at this `monotonic` stamp (default: the wall's, now)."""
        if rate <= 0:
            raise ValueError(f"a clock's rate must be above 0, not {rate!r}")
        self.rate = rate
        self._base_monotonic = time.monotonic() if monotonic is None else monotonic
        self._base = time.time() if epoch is None else epoch

    def now(self) -> float:
        """The cluster's Unix time. Monotonic: it never goes back, whatever the wall's clock does."""
        return self.at(time.monotonic())

    def at(self, monotonic: float) -> float:
        """The cluster's Unix time at this stamp of time.monotonic()."""
        return self._base + (monotonic - self._base_monotonic) * self.rate

    def wall(self, cluster_seconds: float) -> float:
        """How long that takes on the wall."""
        return cluster_seconds / self.rate

    def set(self, rate: float, epoch: float, monotonic: float) -> None:
        """Go on at another rate, from this cluster time at this stamp of time.monotonic()."""
        self.rate, self._base, self._base_monotonic = rate, epoch, monotonic

    async def sleep(self, cluster_seconds: float) -> None:
        await asyncio.sleep(self.wall(max(0.0, cluster_seconds)))

    def timestamp(self) -> str:
        """RFC 3339 with microseconds, as Kubernetes' MicroTime."""
        return datetime.fromtimestamp(self.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> float:
    """RFC 3339, as Kubernetes writes it, to Unix time. ValueError if it is none."""
    return datetime.fromisoformat(text).timestamp()
