"""Profiles, reference curves and verdicts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vmscale.model import Measurement, Objective, Outcome, Status
from pytest_vmscale.slo.judge import Ruling, verdict
from pytest_vmscale.slo.profile import Profile, ProfileError, built_in_profiles, load_profile
from pytest_vmscale.slo.reference import AT_POINT, EXTRAPOLATED, HELD, INTERPOLATED, reference_at
from tests.unit.factories import judge_storm, judge_sweep, make_measurement, make_record, make_storm

POINTS = {100: 102.0, 1000: 1065.0}


@pytest.fixture
def profile() -> Profile:
    return load_profile("reference")


def by_id(objectives: tuple[Objective, ...], id: str) -> Objective:
    return next(each for each in objectives if each.id == id)


# Reference curves


@pytest.mark.parametrize(
    ("size", "seconds", "how"),
    [
        (100, 102, AT_POINT),
        (1000, 1065, AT_POINT),
        (550, (102 + 1065) / 2, INTERPOLATED),
        (1, 102, HELD),
        (99, 102, HELD),
        (2000, 102 + 1.07 * 1900, EXTRAPOLATED),
    ],
)
def test_what_the_reference_says(size: int, seconds: float, how: str) -> None:
    reference = reference_at(POINTS, size)
    assert reference is not None
    assert reference.seconds == pytest.approx(seconds)
    assert reference.how == how


def test_points_that_say_nothing() -> None:
    assert reference_at({}, 100) is None
    assert reference_at({100: 10.0}, 101) is None


curves = st.dictionaries(st.integers(1, 5000), st.floats(1, 1e5), min_size=1, max_size=8).map(
    lambda points: dict(zip(sorted(points), sorted(points.values()), strict=True))
)


@given(curves, st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_rising_curve_is_exact_at_its_points_and_rises_between(points: dict[int, float], one: int, other: int) -> None:
    for size, seconds in points.items():
        at = reference_at(points, size)
        assert at is not None and at.seconds == seconds and at.how == AT_POINT
    low, high = reference_at(points, min(one, other)), reference_at(points, max(one, other))
    if low is not None and high is not None:
        assert low.seconds <= high.seconds * (1 + 1e-9)


# Boot storm


def test_a_good_storm_passes(profile: Profile) -> None:
    objectives = judge_storm(make_storm(1000, 1060.0), profile)
    duration = by_id(objectives, "bootstorm.duration")
    assert duration.outcome is Outcome.PASS
    assert duration.limit == pytest.approx(1171.5)
    assert duration.reference == 1065
    assert duration.margin_percent == pytest.approx((1171.5 - duration.measured) / 1171.5 * 100)
    assert duration.how == "reference point + 10 %"
    assert duration.scope == "1000 VMs"
    assert by_id(objectives, "bootstorm.every_vm_boots").measured_text == "1000 of 1000"
    assert [each.outcome for each in objectives if "_p" in each.id] == [Outcome.REPORTED] * 5
    ruling = verdict(objectives)
    assert (ruling.ruling, ruling.exit_code) == (Ruling.PASS, 0)
    assert ruling.why == ("All 2 judged objectives are met.",)


@pytest.mark.parametrize(("seconds", "outcome"), [(112.2, Outcome.PASS), (112.3, Outcome.FAIL)])
def test_the_limit_itself_is_met(profile: Profile, seconds: float, outcome: Outcome) -> None:
    measurement = make_measurement([50.0] * 100, duration_seconds=seconds)
    assert by_id(judge_storm(measurement, profile), "bootstorm.duration").outcome is outcome


def test_tolerance_can_be_overridden(profile: Profile) -> None:
    measurement = make_measurement([50.0] * 100, duration_seconds=103.0)
    strict = by_id(judge_storm(measurement, profile, 0), "bootstorm.duration")
    assert (strict.outcome, strict.limit) == (Outcome.FAIL, 102)
    assert strict.margin_percent is not None and strict.margin_percent < 0
    assert by_id(judge_storm(measurement, profile, 50), "bootstorm.duration").limit == pytest.approx(153)


@pytest.mark.parametrize(
    ("seconds", "rate", "asked", "outcome"),
    [
        (400.0, 11.0, None, Outcome.FAIL),  # 27 s of sending are not what it is late by
        (360.0, 11.0, None, Outcome.INCONCLUSIVE),
        (360.0, 190.0, None, Outcome.FAIL),
        (360.0, 11.0, 11.0, Outcome.FAIL),  # --qps
        (340.0, 11.0, None, Outcome.PASS),
    ],
)
def test_a_storm_that_was_sent_too_slowly_is_not_the_clusters_fault(profile: Profile, seconds, rate, asked, outcome) -> None:
    """The limit of 300 VMs is 347.6 s."""
    storm = make_storm(300, seconds)
    storm = replace(storm, details={**storm.details, "request_rate_achieved": rate}, parameters={**storm.parameters, "request_rate_wanted": asked})
    duration = next(each for each in judge_storm(storm, profile) if each.id == "bootstorm.duration")
    assert duration.outcome is outcome
    assert ("took 27.2 s to send the requests (11/s)" in duration.why) is (outcome is Outcome.INCONCLUSIVE)


def test_one_lost_vm_breaks_the_storm(profile: Profile) -> None:
    objectives = judge_storm(make_storm(100, 90.0, lost=1), profile)
    boots, duration = by_id(objectives, "bootstorm.every_vm_boots"), by_id(objectives, "bootstorm.duration")
    assert boots.outcome is Outcome.FAIL
    assert boots.measured == pytest.approx(99)
    assert boots.margin_percent == pytest.approx(-1)
    assert boots.why == "1 of 100 VMs never booted (1 not done after 3600 s)"
    assert (duration.outcome, duration.measured, duration.measured_text) == (Outcome.FAIL, None, "> 3600 s")
    assert by_id(objectives, "bootstorm.boot_time_p99").measured is not None
    ruling = verdict(objectives)
    assert (ruling.ruling, ruling.exit_code) == (Ruling.FAIL, 1)
    assert "1 of 100 VMs never booted" in ruling.why[0]


def test_a_failed_vm_with_a_boot_time_is_still_lost(profile: Profile) -> None:
    good = make_measurement([10.0] * 99)
    measurement = make_measurement(
        [], records=(*good.records, make_record(99, 1.0, status=Status.FAILED)), parameters={}, duration_seconds=10.0
    )
    objectives = judge_storm(measurement, profile)
    assert by_id(objectives, "bootstorm.duration").outcome is Outcome.FAIL
    assert by_id(objectives, "bootstorm.boot_time_p99").measured == 10.0


def test_a_percentile_is_judged_where_the_profile_gives_points(tmp_path: Path) -> None:
    profile = child(tmp_path, "bootstorm: {percentiles: {points: {90: {100: 50}, 99.5: {100: 60}}, source: our lab}}")
    objectives = judge_storm(make_storm(100, 90.0, lost=1), profile)
    assert by_id(objectives, "bootstorm.boot_time_p90").outcome is Outcome.FAIL
    beyond = by_id(objectives, "bootstorm.boot_time_p99.5")
    assert (beyond.outcome, beyond.measured_text) == (Outcome.FAIL, "> 3600 s")
    assert by_id(objectives, "bootstorm.boot_time_p50").outcome is Outcome.REPORTED


def test_maximum_is_each_vms_own(tmp_path: Path) -> None:
    profile = child(tmp_path, "bootstorm: {duration: {statistic: maximum, source: our reading}}")
    measurement = make_measurement([10.0, 20.0], duration_seconds=500.0)
    assert by_id(judge_storm(measurement, profile), "bootstorm.duration").measured == 20.0


@pytest.mark.parametrize(
    ("measurement", "why"),
    [
        (make_measurement([]), "no samples"),
        (make_measurement([1.0], complete=False, incomplete_reason="Ctrl-C"), "cut short: Ctrl-C"),
        (make_measurement([1.0], parameters={"vms": 2}), "2 VMs were asked for and 1 recorded"),
        (make_measurement([], records=(make_record(0, None, status=Status.SUCCESS),), parameters={}), "without time_to_ssh_seconds"),
        (make_measurement([1.0], duration_seconds=None), "no duration"),
        (make_measurement([-1.0, 2.0]), "-1.0 s is no duration"),
        (make_measurement([math.nan], duration_seconds=1.0), "nan s is no duration"),
    ],
)
def test_what_was_not_measured_never_passes(profile: Profile, measurement: Measurement, why: str) -> None:
    objectives = judge_storm(measurement, profile)
    assert {each.outcome for each in objectives} == {Outcome.INCONCLUSIVE}
    assert all(why in each.why and each.measured is None and each.margin_percent is None for each in objectives)
    ruling = verdict(objectives)
    assert (ruling.ruling, ruling.exit_code) == (Ruling.INCONCLUSIVE, 11)
    assert why in ruling.why[0]


@given(st.lists(st.one_of(st.none(), st.floats(0.1, 1e4)), min_size=1, max_size=40))
def test_a_lost_vm_never_passes(times: list[float | None]) -> None:
    objectives = judge_storm(make_measurement(times), load_profile("reference"), 1e6)
    expected = Ruling.FAIL if None in times else Ruling.PASS
    assert verdict(objectives).ruling is expected


# Sweeps


def sweep(*points: tuple[int, float]) -> list[Measurement]:
    return [make_measurement([1.0] * size, duration_seconds=seconds) for size, seconds in points]


def test_a_line_is_linear(profile: Profile) -> None:
    (objective,) = judge_sweep(sweep((100, 102.0), (10, 12.0), (50, 52.0)), profile)
    assert objective.outcome is Outcome.PASS
    assert objective.measured == pytest.approx(0, abs=1e-9)
    assert objective.margin_percent == pytest.approx(100)
    assert objective.scope == "10-100 VMs"
    assert "2.0 s + 1.000 s a VM" in objective.why


def test_a_square_is_not_linear(profile: Profile) -> None:
    (objective,) = judge_sweep(sweep(*((size, size**2 / 10) for size in (10, 20, 40, 80))), profile)
    assert objective.outcome is Outcome.FAIL
    assert objective.margin_percent is not None and objective.margin_percent < 0
    assert "10 VMs" in objective.why


def test_two_sizes_are_reported(profile: Profile) -> None:
    (objective,) = judge_sweep(sweep((10, 5.0), (20, 500.0), (10, 6.0)), profile)
    assert (objective.outcome, objective.limit, objective.margin_percent) == (Outcome.REPORTED, None, None)
    assert judge_sweep(sweep((10, 5.0), (10, 6.0)), profile) == ()
    assert judge_sweep([], profile) == ()


def test_a_sweep_with_a_lost_vm_has_no_line(profile: Profile) -> None:
    (objective,) = judge_sweep([*sweep((10, 11.0), (20, 21.0)), make_measurement([1.0] * 29 + [None])], profile)
    assert (objective.outcome, objective.measured) == (Outcome.FAIL, None)
    assert "the point of 30 VMs" in objective.why


def test_a_sweep_cut_short_is_inconclusive(profile: Profile) -> None:
    cut = make_measurement([1.0] * 30, complete=False, incomplete_reason="Ctrl-C")
    (objective,) = judge_sweep([*sweep((10, 11.0), (20, 21.0)), cut], profile)
    assert objective.outcome is Outcome.INCONCLUSIVE


# Verdicts


def objective(outcome: Outcome) -> Objective:
    return Objective("x.y", "X", outcome, None, "1 s", None, None, "s", None, "source", why="because")


@pytest.mark.parametrize(
    ("outcomes", "troubles", "unfit", "ruling"),
    [
        (["pass"], [], [], Ruling.PASS),
        (["pass", "reported"], [], [], Ruling.PASS),
        (["pass", "inconclusive"], [], [], Ruling.INCONCLUSIVE),
        (["pass", "inconclusive", "fail"], [], [], Ruling.FAIL),
        (["pass"], ["no API"], [], Ruling.INCONCLUSIVE),
        (["fail"], ["no API"], [], Ruling.FAIL),
        (["reported"], [], [], Ruling.INCONCLUSIVE),
        ([], [], [], Ruling.INCONCLUSIVE),
        (["fail"], ["no API"], ["3 nodes"], Ruling.FAIL),
        (["pass"], ["no API"], ["3 nodes"], Ruling.UNFIT),
    ],
)
def test_verdicts(outcomes: list[str], troubles: list[str], unfit: list[str], ruling: Ruling) -> None:
    given_verdict = verdict([objective(Outcome(each)) for each in outcomes], troubles, unfit)
    assert given_verdict.ruling is ruling
    assert given_verdict.exit_code == {"pass": 0, "fail": 1, "unfit": 10, "inconclusive": 11}[ruling]
    assert given_verdict.why and all(given_verdict.why)


def test_trouble_is_told_also_of_an_unfit_cluster() -> None:
    assert verdict([], ["Clean-up left 1 object behind."], ["no KubeVirt"]).why == ("no KubeVirt", "Clean-up left 1 object behind.")


# Profiles


def write(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def child(tmp_path: Path, text: str) -> Profile:
    return load_profile(write(tmp_path, f"extends: reference\n{text}\n"))


def test_the_reference_holds_what_was_published(profile: Profile) -> None:
    assert profile.name == "reference"
    assert profile.bootstorm.duration.points == {100: 102, 1000: 1065}
    assert profile.bootstorm.percentiles.points == {}
    assert profile.bootstorm.percentiles.all == [50, 75, 90, 95, 99]
    assert built_in_profiles() == ["reference", "reference-relaxed"]


def test_a_table_of_points_is_replaced_whole(tmp_path: Path) -> None:
    mine = child(tmp_path, "title: Ours\nbootstorm:\n  duration:\n    points: {200: 99.5}\n    source: our lab, June")
    assert mine.bootstorm.duration.points == {200: 99.5}
    assert mine.bootstorm.duration.source == "our lab, June"
    assert (mine.title, mine.name) == ("Ours", "mine")
    assert mine.bootstorm.linearity == load_profile("reference").bootstorm.linearity


def test_extends_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, "extends: reference\ntolerance_percent: 20\ntolerance_source: us", "base.yaml")
    assert load_profile(write(tmp_path, "extends: ../base.yaml\ntitle: Deep", "deep/mine.yaml")).tolerance_percent == 20


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "bootstorm:\n  duration:\n    points: {100: -1}\n    source: us",
            4,
            "bootstorm.duration.points.100: must be greater than 0, not -1",
        ),
        (
            "bootstorm:\n  duration:\n    points:\n      100: '9'\n    source: us",
            5,
            "bootstorm.duration.points.100: must be a number, not '9'",
        ),
        (
            "bootstorm:\n  duration:\n    points: {x: 9}\n    source: us",
            4,
            "bootstorm.duration.points.x: must be a whole number, not 'x'",
        ),
        ("bootstorm:\n  duration:\n    points: {100: 9, 200: 8}\n    source: us", 4, "200 VMs in 8 s are faster than 100 VMs in 9 s"),
        ("bootstorm:\n  durations: {}", 3, "unknown key 'bootstorm.durations'; did you mean 'duration'?"),
        ("tolerance_percent: .nan\ntolerance_source: us", 2, "tolerance_percent: must be a number, not nan"),
        (
            "bootstorm:\n  linearity: {minimum_points: 2, source: us}",
            3,
            "bootstorm.linearity.minimum_points: must be greater than or equal to 3, not 2",
        ),
        ("bootstorm:\n  duration:\n    points: {100: 9}", 3, "must name its own `source`"),
        ("tolerance_percent: 20", 2, "needs a `tolerance_source`"),
        ("title: a\ntitle: b", 3, "'title' is given twice (first on line 2)"),
        ("title: [a", 3, "is not YAML"),
    ],
)
def test_errors_name_the_file_the_line_and_the_key(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = write(tmp_path, f"extends: reference\n{text}\n")
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", ":1: must be a mapping"),
        ("", "mine.yaml: is empty"),
        ("# nothing yet", "mine.yaml: is empty"),
        ("bootstorm: fast\nextends: reference", ":1: bootstorm: must be a mapping, not 'fast'"),
        ("title: x", ":1: document: is missing (and 3 more); with `extends: reference` a profile says only what it changes"),
        ("extends: 7", ":1: extends: must be a profile's name or a file, not 7"),
        ("extends: refrence", ":1: extends refrence: is no SLO profile; there are reference"),
        ("extends: ./gone.yaml", "gone.yaml: no such file"),
        ("extends: mine.yaml", "extends itself"),
    ],
)
def test_other_profiles_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(write(tmp_path, text))
    assert said in str(caught.value)


def test_names_that_are_none() -> None:
    with pytest.raises(ProfileError, match="^fast: is no SLO profile"):
        load_profile("fast")
    with pytest.raises(ProfileError, match=r"^fast\.yaml: no such file"):
        load_profile("fast.yaml")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    data: dict[str, Any] = load_profile("reference").model_dump(exclude={"name", "document"})
    import yaml

    with pytest.raises(ProfileError, match="document: is missing"):
        load_profile(write(tmp_path, yaml.safe_dump(data)))
