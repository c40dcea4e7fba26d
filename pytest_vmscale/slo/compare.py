"""Is one way faster than another, or is the difference noise? Whole runs are compared: the VMs of one run depend on each other."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

SIGNIFICANT = 0.05
RESAMPLES = 2000
SEED = 20220215  # the same runs give the same interval
# With three runs each no outcome is rarer than one in ten: no test can tell a difference from chance.
NEEDED = 4


@dataclass(frozen=True)
class Difference:
    """How much slower `others` are than `best`, in percent of the best's mean.

    p: how often chance alone would give a difference as large (exact permutation test, two-sided); None where there are too
    few runs to say. low_percent, high_percent: 95 % interval (bootstrap over runs); None with a single run on a side."""

    percent: float
    p: float | None
    low_percent: float | None
    high_percent: float | None

    @property
    def real(self) -> bool | None:
        """None: it cannot be told."""
        return None if self.p is None else self.p < SIGNIFICANT


def difference(best: Sequence[float], others: Sequence[float]) -> Difference:
    """Of the durations of the runs of two ways. ValueError without any."""
    if not best or not others:
        raise ValueError("no runs: nothing can be compared")
    percent = (_mean(others) / _mean(best) - 1) * 100
    enough = comb(len(best) + len(others), len(best)) * SIGNIFICANT > 2
    low, high = _interval(best, others) if min(len(best), len(others)) > 1 else (None, None)
    return Difference(percent, _permutation_p(best, others) if enough else None, low, high)


def _permutation_p(first: Sequence[float], second: Sequence[float]) -> float:
    everything, size = [*first, *second], len(first)
    observed = abs(_mean(first) - _mean(second))
    total, count = sum(everything), len(everything)
    if comb(count, size) <= 200_000:
        sums = [sum(part) for part in itertools.combinations(everything, size)]
    else:
        generator = random.Random(SEED)
        sums = [sum(generator.sample(everything, size)) for _ in range(RESAMPLES)]
    extreme = sum(abs(part / size - (total - part) / (count - size)) >= observed * (1 - 1e-9) for part in sums)
    return extreme / len(sums)


def _interval(best: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    generator = random.Random(SEED)
    drawn = sorted(
        (_mean(generator.choices(others, k=len(others))) / _mean(generator.choices(best, k=len(best))) - 1) * 100 for _ in range(RESAMPLES)
    )
    return drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
