"""Samples with censored values, against brute force."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vmscale.model import Fleet, Guest, Sample
from tests.unit.factories import make_measurement

values = st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=1, max_size=60)
percents = st.integers(1, 100)


@given(values, percents)
def test_percentile_is_the_smallest_value_that_enough_do_not_exceed(sample: list[float | None], percent: int) -> None:
    ordered = sorted(math.inf if value is None else value for value in sample)
    enough = next(value for value in ordered if Fraction(sum(other <= value for other in ordered), len(ordered)) >= Fraction(percent, 100))
    assert Sample(sample).percentile(percent) == (None if math.isinf(enough) else enough)


@given(values, percents, percents)
def test_percentiles_rise(sample: list[float | None], one: int, other: int) -> None:
    low, high = (
        math.inf if value is None else value
        for value in (Sample(sample).percentile(min(one, other)), Sample(sample).percentile(max(one, other)))
    )
    assert low <= high


@pytest.mark.parametrize("size", [1, 3, 7, 10, 100, 999, 1000])
@pytest.mark.parametrize("percent", [0.1, 29, 50, 57, 58, 75, 90, 95, 99, 99.9, 100])
def test_rank_does_not_stumble_over_floats(size: int, percent: float) -> None:
    rank = math.ceil(Fraction(str(percent)) / 100 * size)
    assert Sample(float(value) for value in range(1, size + 1)).percentile(percent) == rank


def test_one_censored_of_a_hundred() -> None:
    sample = Sample([*map(float, range(1, 100)), None])
    assert sample.percentile(99) == 99
    assert sample.percentile(99.5) is None
    assert sample.maximum is None
    assert sample.mean is None
    assert sample.minimum == 1
    assert (sample.size, sample.censored) == (100, 1)


def test_order_does_not_matter() -> None:
    assert Sample([3, None, 1, 2]).percentile(75) == Sample([1, 2, 3, None]).percentile(75) == 3


def test_nothing_is_not_a_fast_result() -> None:
    empty = Sample([])
    with pytest.raises(ValueError, match="no samples"):
        empty.percentile(50)
    with pytest.raises(ValueError, match="no samples"):
        _ = empty.maximum
    assert empty.mean is None
    assert empty.minimum is None


@pytest.mark.parametrize("percent", [0, -1, 100.1, math.nan])
def test_a_percentile_is_within_bounds(percent: float) -> None:
    with pytest.raises(ValueError, match="percentile must be above 0"):
        Sample([1.0]).percentile(percent)


def test_a_measurement_keeps_its_failures_in_the_sample() -> None:
    measurement = make_measurement([10.0, None, 20.0])
    assert measurement.sample("time_to_ssh_seconds").censored == 1
    assert [record.vm_name for record in measurement.failed] == ["storm-0001"]
    with pytest.raises(AttributeError):
        measurement.sample("time_to_shh_seconds")


def test_a_fleet_counts_its_mix_and_keeps_order() -> None:
    guests = tuple(Guest(f"ns-{index % 2}", f"vm-{index}", "rhel" if index < 2 else "windows", index) for index in range(3))
    fleet = Fleet("run", "storm", guests)
    assert fleet.os_mix == {"rhel": 2, "windows": 1}
    assert fleet.namespaces == ("ns-0", "ns-1")
    assert fleet.first(2).guests == guests[:2]
    assert fleet.selector == "vmscale.io/run-id=run,vmscale.io/fleet=storm"
