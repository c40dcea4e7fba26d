"""What every procedure's measurement tells of what went wrong while it was taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ..cluster.watch import Blind
from ..model import Gap


def why_cut_short(error: BaseException) -> str:
    return "interrupted" if isinstance(error, asyncio.CancelledError) else str(error) or type(error).__name__


def gaps(blind: Iterable[Blind], since_start: Callable[[float], float]) -> tuple[Gap, ...]:
    """Of watches. `since_start`: of a stamp (monotonic), the seconds of cluster time since the measurement began."""
    return tuple(Gap(each.kind, since_start(each.start), since_start(each.end), each.reason) for each in blind)
