"""Objectives that a profile adds, profiles on profiles, severity: one clear line for each slip of the pen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_vmscale import cli
from pytest_vmscale.model import Measurement, Objective, Outcome
from pytest_vmscale.scenarios import check_profile
from pytest_vmscale.slo.own import judge, with_severity
from pytest_vmscale.slo.profile import Profile, ProfileError, load_profile
from tests.unit.factories import judge_storm, make_measurement, make_storm
from tests.unit.test_baseline import rates

HEAD = "extends: reference\nobjectives:\n"
GOOD = """  bootstorm.rhel_p90:
    metric: time_to_ssh_seconds
    statistic: p90
    os: rhel
    limit: 2 min
    source: our contract
"""


@pytest.fixture
def profile(tmp_path: Path) -> Callable[[str], Profile]:
    def load(text: str) -> Profile:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        found = load_profile(path)
        check_profile(found)
        return found

    return load


def own(found: Profile, measurement: Measurement, workers: int | None = 100) -> Objective:
    (judged,) = judge(found.objectives, measurement, found.tolerance_percent, workers)
    return judged


def test_a_limit_on_the_vms_of_one_system(profile):
    found = profile(HEAD + GOOD)
    # Of four records two are rhel: 60 s and 150 s, the others are slower still.
    judged = own(found, make_measurement([60.0, 150.0, 500.0, 500.0]))
    assert (judged.id, judged.outcome, judged.unit, judged.limit) == ("bootstorm.rhel_p90", Outcome.FAIL, "min", 2.0)
    assert judged.measured == pytest.approx(2.5) and judged.measured_text == "2.5 min"
    assert own(found, make_measurement([60.0, 110.0, 500.0, 500.0])).outcome is Outcome.PASS


def test_a_reference_by_size_has_the_tolerance_and_a_line_between_its_points(profile):
    text = HEAD + GOOD.replace("    os: rhel\n", "").replace("limit: 2 min", 'reference: {100: "100 s", 300: "200 s"}')
    judged = own(profile(text), make_storm(200, 150.0))
    assert judged.reference == 150 and judged.limit == pytest.approx(165) and judged.outcome is Outcome.PASS
    assert judged.how == "interpolated at 200 vms + 10 %"
    judged = own(
        profile(text.replace("    source", "    tolerance_percent: 0\n    by: workers\n    source")), make_storm(200, 150.0), workers=100
    )
    assert judged.limit == 100 and judged.outcome is Outcome.FAIL and judged.how == "reference point at 100 workers + 0 %"
    assert (
        own(profile(text.replace("    source", "    by: workers\n    source")), make_storm(200, 150.0), None).outcome
        is Outcome.INCONCLUSIVE
    )


def test_a_reference_by_another_size_of_the_scenario_says_so(profile):
    text = HEAD + GOOD.replace("bootstorm.", "migration.").replace("time_to_ssh", "migration_duration").replace("    os: rhel\n", "")
    text = text.replace("limit: 2 min", 'reference: {10: "100 s", 30: "200 s"}\n    by: zone_nodes')
    (wanted,) = profile(text).objectives.values()
    assert wanted.by == "zone_nodes"
    storm = profile(HEAD + GOOD.replace("    os: rhel\n", "").replace("limit: 2 min", 'reference: {10: "100 s", 30: "200 s"}'))
    assert own(storm, make_storm(20, 150.0)).how == "interpolated at 20 vms + 10 %"


def test_of_a_rate_the_limit_is_the_least():
    from pytest_vmscale.slo.own import OwnObjective

    wanted = OwnObjective(metric="guest_io_iops", statistic="p10", limit="900 IOPS", source="x")
    measurement = rates(0)
    assert wanted.problem(type(measurement.records[0])) is None
    (judged,) = judge({"latency.iops": wanted}, measurement, 10.0, 100)
    assert judged.outcome is Outcome.PASS and judged.margin_percent > 0
    (judged,) = judge({"latency.iops": wanted}, rates(0, 0.8), 10.0, 100)
    assert judged.outcome is Outcome.FAIL and judged.margin_percent < 0


def test_what_was_not_measured_is_never_a_pass(profile):
    found = profile(HEAD + GOOD)
    judged = own(found, make_measurement([60.0, None, 60.0, 60.0]))
    assert judged.outcome is Outcome.FAIL and judged.measured_text == "> 3600 s"
    judged = own(profile(HEAD + GOOD.replace("os: rhel", "os: sles")), make_measurement([60.0] * 4))
    assert judged.outcome is Outcome.INCONCLUSIVE and judged.why == "no sles VM was measured that has it"
    blank = make_measurement([60.0] * 4)
    blank = replace(blank, records=tuple(replace(each, time_to_vmi_ready_seconds=None) for each in blank.records))
    judged = own(profile(HEAD + GOOD.replace("time_to_ssh", "time_to_vmi_ready")), blank)
    assert judged.outcome is Outcome.INCONCLUSIVE and judged.why == "time_to_vmi_ready_seconds was not measured"


def test_severity_report_breaks_nothing_and_says_so(profile):
    found = profile("extends: reference\nseverity:\n  bootstorm.duration: report\n")
    objectives = {each.id: each for each in with_severity(judge_storm(make_storm(100, 400.0), found), found.severity, {})}
    duration = objectives["bootstorm.duration"]
    assert duration.outcome is Outcome.REPORTED and duration.limit is not None and duration.measured == pytest.approx(400, abs=1)
    assert duration.why.startswith("fail, but severity is report: ")
    assert objectives["bootstorm.every_vm_boots"].outcome is Outcome.PASS
    found = profile(HEAD + GOOD + "    severity: report\n")
    (judged,) = with_severity([own(found, make_measurement([500.0] * 4))], {}, found.objectives)
    assert judged.outcome is Outcome.REPORTED


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + GOOD.replace("time_to_ssh_seconds", "time_to_shh_seconds"), "mine.yaml:4: objectives.bootstorm.rhel_p90.metric: the scenario measures no 'time_to_shh_seconds'; did you mean 'time_to_ssh_seconds'?"),
        (HEAD + GOOD.replace("2 min", "900 IOPS"), "mine.yaml:7: objectives.bootstorm.rhel_p90.limit: '900 IOPS': time_to_ssh_seconds is in us or ms or s or min or h, not in IOPS"),
        (HEAD + GOOD.replace("2 min", '"120"'), "mine.yaml:7: objectives.bootstorm.rhel_p90.limit: '120' is no number with a unit, such as \"120 s\""),
        (HEAD + GOOD.replace("2 min", "120"), "mine.yaml:7: objectives.bootstorm.rhel_p90.limit: '120' is no number with a unit"),
        (HEAD + GOOD.replace("limit: 2 min", "reference: {9: 120}"), "mine.yaml:7: objectives.bootstorm.rhel_p90.reference.9: '120' is no number with a unit"),
        (HEAD + GOOD.replace("p90", "value", 1).replace("rhel_value", "rhel_p90").replace("statistic: p90", "statistic: value"), "statistic: value is none of time_to_ssh_seconds"),
        (HEAD + GOOD.replace("statistic: p90", "statistic: median"), "mine.yaml:5: objectives.bootstorm.rhel_p90.statistic: "),
        (HEAD + GOOD + GOOD, "mine.yaml:9: 'objectives.bootstorm.rhel_p90' is given twice (first on line 3)"),
        (HEAD + GOOD.replace("bootstorm.rhel_p90", "bootstorm.duration"), "mine.yaml:3: objectives.bootstorm.duration: is the id of an objective that the scenario has already"),
        (HEAD + GOOD.replace("bootstorm.", "bootstrom."), "mine.yaml:3: objectives.bootstrom.rhel_p90: no scenario's objectives begin with 'bootstrom'"),
        (HEAD + GOOD.replace("    limit: 2 min\n", ""), "mine.yaml:3: objectives.bootstorm.rhel_p90: give exactly one of limit and reference"),
        (HEAD + GOOD.replace("    source: our contract\n", ""), "mine.yaml:3: objectives.bootstorm.rhel_p90.source: is missing"),
        (HEAD + GOOD.replace("    os", "    oss"), "mine.yaml:6: unknown key 'objectives.bootstorm.rhel_p90.oss'; did you mean 'os'?"),
        (HEAD + GOOD.replace("limit: 2 min", 'reference: {9: "1 s"}\n    by: zone_nodes'), "mine.yaml:8: objectives.bootstorm.rhel_p90.by: 'zone_nodes' is no size of the scenario; it has vms, workers"),
        ("extends: reference\nseverity: {bootstorm.durration: report}\n", "mine.yaml:2: severity.bootstorm.durration: there is no such objective; did you mean bootstorm.duration?"),
        ("extends: reference\nseverity: {bootstorm.duration: warn}\n", "mine.yaml:2: severity.bootstorm.duration: "),
        ("extends: reference\nwhere: {}\n", "mine.yaml:2: unknown key 'where'"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_one_line(profile, text, told):
    with pytest.raises(ProfileError) as error:
        profile(text)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_later_profiles_change_earlier_ones(tmp_path):
    (tmp_path / "site.yaml").write_text(HEAD + GOOD)
    (tmp_path / "week.yaml").write_text('extends: reference\ntolerance_percent: 25\ntolerance_source: "a week of migrations"\n')
    found = load_profile("reference", tmp_path / "site.yaml", tmp_path / "week.yaml")
    assert found.tolerance_percent == 25 and list(found.objectives) == ["bootstorm.rhel_p90"] and found.name == "reference + site + week"
    check_profile(found)
    (tmp_path / "bad.yaml").write_text("bootstorm: {duration: {points: {100: 90}}}\n")
    with pytest.raises(ProfileError, match=r"bad.yaml:1: bootstorm.duration changes an objective, so it must name its own `source`"):
        load_profile("reference", tmp_path / "bad.yaml")


def test_relaxed_is_the_reference_with_twice_the_room():
    relaxed, reference = load_profile("reference-relaxed"), load_profile("reference")
    assert relaxed.tolerance_percent == 20 and relaxed.bootstorm == reference.bootstorm


def test_a_profile_that_is_shown_can_be_used(capsys, tmp_path):
    (tmp_path / "site.yaml").write_text(HEAD + GOOD)
    assert cli.main(["slo", "show", "reference", str(tmp_path / "site.yaml")]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    assert cli.main(["slo", "check", str(tmp_path / "shown.yaml")]) == 0
    again, before = load_profile(tmp_path / "shown.yaml"), load_profile("reference", tmp_path / "site.yaml")
    assert again.model_dump(exclude={"name"}) == before.model_dump(exclude={"name"})
    assert cli.main(["slo", "show"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("reference-relaxed: ")
    (tmp_path / "site.yaml").write_text(HEAD + GOOD.replace("ssh", "shh"))
    assert cli.main(["slo", "check", str(tmp_path / "site.yaml")]) == 4
    assert capsys.readouterr().err.startswith(f"vmscale: {tmp_path}/site.yaml:4: objectives.bootstorm.rhel_p90.metric: ")
