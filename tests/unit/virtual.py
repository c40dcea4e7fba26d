"""Time that passes only while nothing else is to be done: simulations of hours run in a moment, and come out the same each time."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine
from typing import Any, TypeVar

from pytest_vmscale.embedded import clock
from pytest_vmscale.embedded.clock import SimClock

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose waits are over at once, and count all the same."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def skip(timeout: float | None = None) -> Any:
            self._now += timeout or 0.0
            return select(0 if timeout is not None else None)

        self._selector.select = skip  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now


class VirtualClock(SimClock):
    """Cluster time is the loop's. Needs `run`."""

    def __init__(self) -> None:
        super().__init__(1.0)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run; every SimClock that is made meanwhile goes by the loop's time."""
    loop, real = VirtualLoop(), clock.time
    clock.time = types.SimpleNamespace(time=real.time, monotonic=loop.time)  # type: ignore[assignment]
    try:
        return loop.run_until_complete(coroutine)
    finally:
        clock.time = real
        loop.close()
