"""fio's bins: that ours are the same, and that merging them loses nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vmscale.guest.histogram import LAST_BIN, Histogram, bin_index, bin_value, bin_width

latencies = st.lists(st.integers(0, 2**34 - 1), min_size=1, max_size=300)


@pytest.mark.parametrize(
    "nanoseconds, named",  # the last two: minimum and maximum of a run of fio 3.33, and its outermost bins
    [(0, 0), (127, 127), (128, 129), (15293, 15296), (1910190, 1908736)],
)
def test_bins_are_fios(nanoseconds: int, named: int) -> None:
    assert bin_value(bin_index(nanoseconds)) == named


def test_every_bin_is_named_by_a_value_of_its_own() -> None:
    assert [bin_index(bin_value(index)) for index in range(LAST_BIN + 1)] == list(range(LAST_BIN + 1))


def test_what_is_longer_than_the_last_bin_is_counted_in_it() -> None:
    assert bin_index(10**15) == LAST_BIN


def test_a_negative_latency_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 ns"):
        bin_index(-1)


@given(st.lists(latencies, min_size=1, max_size=8), st.floats(0.01, 100))
def test_a_fleets_percentile_from_merged_histograms_is_that_of_the_raw_samples(fleet: list[list[int]], percent: float) -> None:
    merged = Histogram.merged(Histogram.of(guest) for guest in fleet)
    raw = sorted(each for guest in fleet for each in guest)
    exact = raw[math.ceil(percent / 100 * len(raw) - 1e-9) - 1]
    assert merged.total == len(raw)
    assert abs(merged.percentile(percent) - exact) <= bin_width(exact)


@given(latencies, latencies)
def test_merging_is_counting_all_at_once(one: list[int], other: list[int]) -> None:
    assert Histogram.merged([Histogram.of(one), Histogram.of(other)]) == Histogram.of(one + other)


def test_a_percentile_of_nothing_is_no_number() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Histogram().percentile(99)
    with pytest.raises(ValueError, match="above 0"):
        Histogram({1: 1}).percentile(0)
