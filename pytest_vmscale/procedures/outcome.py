"""What procedures tell: how far they are, and, in every measurement, how far it can be trusted and what went wrong while it was taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ..clock import Clock
from ..cluster.watch import Blind, Watch
from ..model import Gap, Record, Sample

T = TypeVar("T")
PROGRESS_WALL_SECONDS = 0.5
# A watch that is broken for longer than it takes to mend one (cluster time) says nothing of what happens meanwhile.
BLIND_SECONDS = 30.0


async def tell_progress(on_progress: Callable[[T], None], progress: Callable[[], T]) -> None:
    """Until cancelled."""
    while True:
        on_progress(progress())
        await asyncio.sleep(PROGRESS_WALL_SECONDS)


def why_cut_short(error: BaseException) -> str:
    return "interrupted" if isinstance(error, asyncio.CancelledError) else str(error) or type(error).__name__


def why_blind(watch: Watch[Any], clock: Clock) -> str:
    """Why what became of the last could not be seen: the watch has been broken for too long. Empty if it could."""
    blind = watch.blind_since
    return blind[1] if blind is not None and clock.now() - clock.at(blind[0]) >= BLIND_SECONDS else ""


def gaps(blind: Iterable[Blind], since_start: Callable[[float], float]) -> tuple[Gap, ...]:
    """Of watches. `since_start`: of a stamp (monotonic), the seconds of cluster time since the measurement began."""
    return tuple(Gap(each.kind, since_start(each.start), since_start(each.end), each.reason) for each in blind)


def request_retries(records: Iterable[Record]) -> dict[str, int]:
    """How often requests had to be sent again, by why."""
    found: dict[str, int] = {}
    for record in records:
        for reason in record.request_retries:
            found[reason] = found.get(reason, 0) + 1
    return found


def object_skew(records: Iterable[Record]) -> dict[str, float] | None:
    """Arrivals against the objects' own timestamps, in seconds; None if none could be laid beside an arrival."""
    return skew(m.seconds - m.object_seconds for r in records for m in r.timeline if m.object_seconds is not None and not m.upper_bound)


def skew(differences: Iterable[float]) -> dict[str, float] | None:
    """What there is to say of them, in seconds; None if there are none."""
    found = Sample(differences)
    if not found.size:
        return None
    told = {f"p{percent}": found.percentile(percent) or 0.0 for percent in (5, 95)}
    return {"min": found.measured[0], "mean": found.mean or 0.0, "max": found.measured[-1], **told, "count": found.size}


def upper_bounds(records: Iterable[Record]) -> int:
    """How many moments were only learnt from a relist."""
    return sum(moment.upper_bound for record in records for moment in record.timeline)
