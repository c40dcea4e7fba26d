"""Latency histograms on fio's own bins, so that those of many guests add up to the fleet's without loss.

fio counts each I/O in one of 1,856 bins: up to 128 ns one for each nanosecond, above that 64 for each power of two.
json+ names a bin by the value in its middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BITS_PER_GROUP = 6
BINS_PER_GROUP = 1 << BITS_PER_GROUP
GROUPS = 29
LAST_BIN = GROUPS * BINS_PER_GROUP - 1


def bin_index(nanoseconds: int) -> int:
    """The bin that an I/O of this latency is counted in. ValueError if it is negative."""
    if nanoseconds < 0:
        raise ValueError(f"a latency of {nanoseconds} ns")
    shift = max(0, nanoseconds.bit_length() - 1 - BITS_PER_GROUP)
    if shift == 0:
        return nanoseconds
    return min(((shift + 1) << BITS_PER_GROUP) + ((nanoseconds >> shift) & (BINS_PER_GROUP - 1)), LAST_BIN)


def bin_value(index: int) -> int:
    """The nanoseconds that json+ names this bin by."""
    if index < 2 * BINS_PER_GROUP:
        return index
    shift = (index >> BITS_PER_GROUP) - 1
    return (1 << (shift + BITS_PER_GROUP)) + (index % BINS_PER_GROUP << shift) + (1 << shift >> 1)


def bin_width(nanoseconds: int) -> int:
    """Nanoseconds from one edge to the other of the bin that this latency is counted in."""
    return 1 << max(0, (bin_index(nanoseconds) >> BITS_PER_GROUP) - 1)


@dataclass(frozen=True)
class Histogram:
    """How many I/Os took how long: counts by the nanoseconds that name each bin."""

    counts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, nanoseconds: Iterable[int]) -> Histogram:
        """As fio would have counted these latencies."""
        counts: dict[int, int] = {}
        for each in nanoseconds:
            value = bin_value(bin_index(each))
            counts[value] = counts.get(value, 0) + 1
        return cls(counts)

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """The histogram of all their I/Os together: exact, since all have the same bins."""
        counts: dict[int, int] = {}
        for histogram in histograms:
            for value, count in histogram.counts.items():
                counts[value] = counts.get(value, 0) + count
        return cls(counts)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def percentile(self, percent: float) -> int:
        """Nearest rank: nanoseconds of the bin in which the I/O of that rank was counted. ValueError if nothing was counted."""
        return self.percentiles([percent])[0]

    def percentiles(self, percents: Iterable[float]) -> list[int]:
        """The same for several, in the order asked for."""
        total, wanted = self.total, list(percents)
        if not total:
            raise ValueError("no samples: a percentile of nothing is not a number")
        if bad := [each for each in wanted if not 0 < each <= 100]:
            raise ValueError(f"a percentile must be above 0 and at most 100, not {bad[0]}")
        edges: list[tuple[int, int]] = []
        seen = 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            edges.append((seen, value))
        found = []
        for percent in wanted:
            rank = math.ceil(percent / 100 * total - 1e-9)
            found.append(next(value for reached, value in edges if reached >= rank))
        return found
