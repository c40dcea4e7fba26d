"""The deployment's parts without a cluster: its points, its objectives, how bulk sizes are compared, how it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.model import Measurement, Outcome, Status
from pytest_vmscale.procedures.clones import Clone, strategy_of_phases
from pytest_vmscale.procedures.deployment import with_clones
from pytest_vmscale.records import DeployRecord
from pytest_vmscale.report import deployment as report
from pytest_vmscale.report.charts import svg
from pytest_vmscale.settings import SettingsError, parse_bulk_sizes
from pytest_vmscale.slo import deployment as slo
from pytest_vmscale.slo.compare import difference
from pytest_vmscale.slo.profile import load_profile

PROFILE = load_profile("reference")


def measured(
    durations: list[float | None],
    *,
    strategy: str = "csi-clone",
    asked: str = "profile",
    fallback: str | None = None,
    left: list[str] | None = None,
    bulk_size: int | None = None,
    run: int = 1,
    runs: int = 1,
    **more: Any,
) -> Measurement:
    """A deployment of one VM for each duration (None: it stuck), all asked for at 0."""
    records = tuple(
        DeployRecord(
            namespace="a",
            vm_name=f"vm-{number}",
            os="rhel",
            status=Status.SUCCESS if seconds is not None else Status.TIMED_OUT,
            requested_at=0.0,
            last_phase="Succeeded" if seconds is not None else "CSICloneInProgress",
            bulk=number // (bulk_size or len(durations)) + 1,
            ordinal=number + 1,
            time_to_data_volume_seconds=1.0,
            clone_duration_seconds=seconds,
            polled_clone_duration_seconds=seconds,
            clone_strategy=strategy,
            clone_fallback=fallback,
            request_seconds=0.1,
        )
        for number, seconds in enumerate(durations)
    )
    done = [seconds for seconds in durations if seconds is not None]
    point = slo.Point(len(records), bulk_size, run, runs)
    return Measurement(
        scenario="datasource-clone",
        version="1.0.0",
        run_id="r1",
        started_epoch=0.0,
        parameters={"vms": len(records), "bulk_size": bulk_size, "run": run, "clone_strategy": asked, "point": point.slug},
        records=records,
        deadline_seconds=600.0,
        duration_seconds=max(done) if done else None,
        details={"bulks": [], "bulk_seconds": 0.0, "pauses_seconds": 0.0, "left_behind": left or []},
        named=point.named,
        **more,
    )


def judged(measurement: Measurement) -> dict[str, Any]:
    return {each.id.removeprefix("deployment."): each for each in slo.judge(measurement, PROFILE, 10)}


def test_what_was_deployed_and_went_again_passes_and_times_without_a_limit_are_reported():
    found = judged(measured([10.0, 20.0, 30.0]))
    assert found["every_vm_deployed"].outcome is found["nothing_left"].outcome is Outcome.PASS
    assert found["duration"].outcome is found["clone_time_p50"].outcome is found["clone_strategy"].outcome is Outcome.REPORTED
    assert found["clone_strategy"].measured_text == "3 csi-clone"
    assert found["duration"].measured == 30.0 and found["clone_time_p50"].measured == 20.0


def test_a_stuck_clone_is_beyond_the_deadline():
    found = judged(measured([10.0, 20.0, None]))
    assert found["every_vm_deployed"].outcome is Outcome.FAIL
    assert found["duration"].measured is None and found["duration"].measured_text == "> 600 s"
    assert found["clone_time_p99"].measured_text == "> 600 s"


def test_another_strategy_than_was_asked_for_is_a_breach_with_the_reason():
    found = judged(measured([10.0, 20.0], strategy="copy", asked="snapshot", fallback="No compatible volumesnapshotclass found"))[
        "clone_strategy"
    ]
    assert found.outcome is Outcome.FAIL and found.measured == 0
    assert found.why == "asked for snapshot: 2 of 2 clones were made by copy (No compatible volumesnapshotclass found)"
    assert judged(measured([10.0], asked="csi-clone"))["clone_strategy"].outcome is Outcome.PASS


def test_how_clones_were_made_must_be_known_to_pass():
    measurement = measured([10.0], asked="copy")
    unknown = replace(measurement, records=tuple(replace(each, clone_strategy=None) for each in measurement.records))
    assert judged(unknown)["clone_strategy"].outcome is Outcome.INCONCLUSIVE


def test_what_is_left_is_a_breach_and_what_was_not_looked_at_is_no_pass():
    left = judged(measured([10.0], left=[f"PersistentVolume pvc-{n}: Released" for n in range(5)]))["nothing_left"]
    assert left.outcome is Outcome.FAIL and left.measured == 5 and "and 2 more" in left.why
    measurement = measured([10.0])
    unseen = replace(measurement, details={**measurement.details, "left_behind": None})
    assert judged(unseen)["nothing_left"].outcome is Outcome.INCONCLUSIVE


def test_a_measurement_that_was_cut_short_is_inconclusive():
    found = judged(measured([10.0, None], complete=False, incomplete_reason="interrupted"))
    assert found["every_vm_deployed"].outcome is found["duration"].outcome is Outcome.INCONCLUSIVE


def test_a_sites_limits_are_judged(tmp_path: Path):
    path = tmp_path / "site.yaml"
    path.write_text(
        "extends: reference\ndeployment:\n  duration: {points: {3: 20.0}, source: our last release}\n"
        "  percentiles: {points: {50: {3: 30.0}}, source: our last release}\n"
    )
    found = {each.id: each for each in slo.judge(measured([10.0, 20.0, 30.0]), load_profile(path), 10)}
    assert found["deployment.duration"].outcome is Outcome.FAIL and found["deployment.duration"].limit == pytest.approx(22.0)
    assert found["deployment.clone_time_p50"].outcome is Outcome.PASS


def test_claims_tell_more_than_phases():
    assert strategy_of_phases(["Pending", "CloneScheduled", "SnapshotForSmartCloneInProgress"]) == "snapshot"
    assert strategy_of_phases(["Pending", "CloneScheduled", "Succeeded"]) is None
    measurement = with_clones(measured([1.0, 2.0], strategy="csi-clone"), {"a/vm-0": Clone("copy", "IncompatibleVolumeModes")})
    assert [(each.clone_strategy, each.clone_fallback) for each in slo.deploy_records(measurement)] == [
        ("copy", "IncompatibleVolumeModes"),
        ("csi-clone", None),
    ]


# Bulk sizes.


def sweep(**seconds: list[float]) -> list[Measurement]:
    """sweep(b50=[100.0, 101.0]): two runs of bulks of 50 (of 2 VMs; the size only names them)."""
    return [
        replace(measured([duration, duration], bulk_size=int(size[1:]), run=run, runs=len(durations)), duration_seconds=duration)
        for size, durations in seconds.items()
        for run, duration in enumerate(durations, 1)
    ]


def test_the_fastest_size_is_named_with_its_margins():
    (best,) = slo.judge_together(sweep(b50=[110.0], b100=[100.0], b200=[150.0]), PROFILE, 10)
    assert best.id == "deployment.best_bulk" and best.measured == 100.0 and best.outcome is Outcome.REPORTED
    assert best.measured_text == (
        "bulks of 100 (100 s); bulks of 50 10.0 % longer; bulks of 200 50.0 % longer; 1 run each cannot tell that from noise: --repeat 4 can"
    )


def test_runs_tell_a_difference_from_noise():
    clear = slo.ranking(sweep(b50=[110.0, 112.0, 111.0, 113.0], b100=[100.0, 101.0, 99.0, 102.0]))
    assert [each.bulk_size for each in clear] == [100, 50]
    slower = clear[1].slower
    assert slower is not None and slower.real and slower.p == pytest.approx(2 / 70)
    assert slower.low_percent is not None and 5 < slower.low_percent < slower.percent < (slower.high_percent or 0)
    noise = slo.ranking(sweep(b50=[100.0, 112.0, 95.0, 113.0], b100=[99.0, 110.0, 96.0, 112.0]))[1].slower
    assert noise is not None and noise.real is False
    assert "no more than noise" in slo.verdict_of(noise)
    assert difference([100.0] * 3, [200.0] * 3).real is None, "three runs each cannot tell"


def test_a_size_that_lost_vms_is_not_the_fastest():
    lost = measured([1.0, None], bulk_size=1)
    (best,) = slo.judge_together([lost, *sweep(b2=[50.0])], PROFILE, 10)
    assert best.measured == 2.0 and best.why == "bulks of 1 lost VMs or was cut short"


def test_every_size_is_taken_once_before_any_is_taken_again():
    settings: Any = type("Settings", (), {"vms": (200,), "repeat": 2, "bulk_sizes": (50, None)})
    assert [(each.bulk_size, each.run) for each in slo.points(settings)] == [(50, 1), (None, 1), (50, 2), (None, 2)]
    assert [each.named for each in slo.points(settings)] == [
        "200 VMs by 50 #1",
        "200 VMs at once #1",
        "200 VMs by 50 #2",
        "200 VMs at once #2",
    ]
    settings.bulk_sizes, settings.vms = (), (20, 200)
    assert [(each.vms, each.bulk_size) for each in slo.points(settings)] == [(20, None), (20, None), (200, 100), (200, 100)]


@pytest.mark.parametrize(
    ("text", "told"),
    [("10,ten", "'ten' is neither a whole number above 0 nor all"), ("10,10", "10 is given twice"), ("0", "'0' is neither"), ("10,", "''")],
)
def test_bulk_sizes_that_are_none(text, told):
    with pytest.raises(SettingsError, match=told):
        parse_bulk_sizes(text)
    assert parse_bulk_sizes("10,all") == (10, None) and parse_bulk_sizes("") == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bulk_sizes": (200,)}, "--bulk-size 200: is more than the 100 VMs of --vms"),
        ({"vm_mix": "rhel=50,fedora=50"}, "fedora has a container disk"),
        ({"keep": True, "repeat": 2}, "--keep: keeps one deployment"),
        ({"reuse_fleet": "r0"}, "--reuse-fleet: a deployment makes its VMs"),
        ({"cluster": "real", "clone_strategy": "copy"}, "--clone-strategy copy: edits .* give --allow-disruptive"),
    ],
)
def test_what_cannot_be_run_as_asked_is_refused(settings_of, changes, told):
    with pytest.raises(SettingsError, match=told):
        slo.deadlines_seconds(settings_of(**changes), PROFILE, 10)
    assert slo.deadlines_seconds(settings_of(cluster="real", clone_strategy="copy", allow_disruptive=True), PROFILE, 10) == [1600.0]


@pytest.fixture
def settings_of(pytestconfig: pytest.Config):
    """Settings as the defaults make them, with changes."""
    from pytest_vmscale import options

    def made(**changes: Any) -> Any:
        return replace(options.settings(pytestconfig), **changes)

    return made


# How it is told.


def test_lost_vms_are_counted_by_phase():
    measurement = measured([10.0, None, None])
    never = replace(measurement.records[2], request_seconds=None, last_phase=None)
    lines = report.lines([replace(measurement, records=(*measurement.records[:2], never))], "")
    told = "Lost: 1 in phase CSICloneInProgress, 1 never asked for, because the bulks before were not done."
    assert told in " ".join(line.strip() for line in lines)
    assert max(map(len, lines)) <= 100


def test_a_sweep_is_a_table_that_fits():
    lines = report.lines(sweep(b50=[1110.0, 1112.0], b100=[1000.0, 1001.0]), "embedded cluster, simulated at 60x")
    assert max(map(len, lines)) <= 100
    assert any("Fastest way to 2 VMs: bulks of 100" in line for line in lines)


def test_charts_are_drawn_of_what_there_is():
    whole, stuck = measured([10.0, 20.0, 30.0], bulk_size=1), measured([None, None])
    objectives = slo.judge(whole, PROFILE, 10)
    drawn = {each.file: each.draw() for each in report.charts([whole], objectives, "")}
    assert drawn["deployment_completion"] and drawn["deployment_clone-times"] and drawn["deployment-3_bulk-sizes"] is None
    assert "Clone time of each VM" in svg(drawn["deployment_clone-times"])
    assert report.clone_times(stuck) is None and report.completion(stuck) is None
    assert report.bulk_sizes(sweep(b50=[110.0], b100=[100.0])) is not None
