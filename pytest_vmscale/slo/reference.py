"""What a reference curve says of a fleet size that it may not have a point for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AT_POINT = "reference point"
INTERPOLATED = "interpolated"
EXTRAPOLATED = "extrapolated"
HELD = "held below the smallest point"


@dataclass(frozen=True)
class Reference:
    """A reference's seconds for one size, and how they were come by (one of the words above)."""

    seconds: float
    how: str


def reference_at(points: Mapping[int, float], size: int) -> Reference | None:
    """Seconds at `size` VMs: a printed point as it is, a straight line between two, the last two's line beyond the
    largest, and the smallest one's value below it (a line down to 0 VMs would demand what nobody measured).

    None if the points say nothing of it: there are none, or one alone, below `size`, gives no line.
    """
    if size in points:
        return Reference(points[size], AT_POINT)
    sizes = sorted(points)
    if not sizes:
        return None
    if size < sizes[0]:
        return Reference(points[sizes[0]], HELD)
    if len(sizes) == 1:
        return None
    above = next((each for each in sizes if each > size), sizes[-1])
    low, high = sizes[sizes.index(above) - 1], above
    share = (size - low) / (high - low)
    seconds = points[low] + share * (points[high] - points[low])
    return Reference(seconds, INTERPOLATED if size < sizes[-1] else EXTRAPOLATED)
