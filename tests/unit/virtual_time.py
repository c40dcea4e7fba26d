"""Tests in virtual time: when nothing is left to do the clock jumps to the next timer, so that what is measured is exact and takes no time."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine
from typing import Any

from pytest_vmscale.embedded import clock


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes by its timers alone. Sockets are served, but nothing waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = 0.0
        poll = self._selector.select  # type: ignore[attr-defined]

        def select(timeout: float | None = None) -> Any:
            ready = poll(0)
            if not ready and timeout:
                self._passed += timeout
            return ready

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return getattr(self, "_passed", 0.0)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """As asyncio.run, in virtual time, which is that of every SimClock made meanwhile."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        real = clock.time
        loop = runner.get_loop()
        clock.time = types.SimpleNamespace(time=real.time, monotonic=loop.time)  # type: ignore[assignment]
        try:
            return runner.run(work)
        finally:
            clock.time = real
