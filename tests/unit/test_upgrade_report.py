"""How an upgrade is judged and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_vmscale.embedded.releases import catalogue
from pytest_vmscale.model import Measurement, Outcome, Status
from pytest_vmscale.records import UpgradeRecord
from pytest_vmscale.report import upgrade as report
from pytest_vmscale.report.charts import svg
from pytest_vmscale.report.upgrade_charts import run_level
from pytest_vmscale.slo import upgrade as slo
from pytest_vmscale.slo.profile import load_profile

PROFILE = load_profile("reference")


def operator(name: str, updated: float | None = 100.0, said: str = "", **windows: Any) -> dict[str, Any]:
    return {"name": name, "before": "4.9.15", "version": "4.9.23" if updated else "4.9.15", "updated_seconds": updated, "said": said,
            "progressing": [[50.0, updated]], "unavailable": [], "degraded": [], **windows}  # fmt: skip


def api(longest: float | None = 0.0, failed: int = 0) -> dict[str, Any]:
    down = [[600.0, 600.0 + longest, "Connection refused"]] if longest else []
    figures = {"p50_seconds": 0.004, "p90_seconds": 0.01, "p99_seconds": 0.05, "max_seconds": 0.4}
    return {"probes": 2100, "failed": failed, "longest_outage_seconds": longest, "outage_seconds": longest, "outages": down, **figures,
            "curve": [[0.0, 0.004], [1000.0, 0.4], [2100.0, 0.005]]}  # fmt: skip


def measured(seconds: float | None = 2100.0, records: Sequence[UpgradeRecord] | None = None, **details: Any) -> Measurement:
    records = [record(index) for index in range(3)] if records is None else records
    base: dict[str, Any] = {
        "from": "4.9.15", "to": "4.9.23", "kind": "patch", "asked_by": "ClusterVersion", "channel": None, "state": "Completed",
        "started_seconds": 5.0, "completed_seconds": 2105.4 if seconds else None, "seen_late": False,
        "message": "Cluster version is 4.9.23", "refused": "", "superseded": "", "failing": [[900.0, 950.0, "MultipleErrors: two"]],
        "curve": [[10.0, 5, 738], [1500.0, 569, 738]], "operators": [operator("etcd"), operator("network")], "unhealthy": [],
        "pools": [{"name": "worker", "machines": 100, "updated": 100, "is_updated": True, "paused": False, "updating_seconds": None,
                   "updated_seconds": None, "trouble": ""}],
        "nodes": [], "api": {"read": api(), "write": api()}, "ssh_interval_seconds": 2.0,
        "vms": {"restarted": 0, "migrated": 0, "migrations": 0}, "ended_seconds": 2105.4, "measured_seconds": 2106.0,
        "io": [{"baseline": start < 0, "start_seconds": start, "end_seconds": start + 600, "vms": 2, "mean_seconds": mean, "slowest_mean_seconds": 2 * mean,
                "longest_stall_seconds": 0.2, "iops": 200.0} for start, mean in ((-600.0, 360e-6), (5.0, 396e-6))],
    }  # fmt: skip
    return Measurement(
        scenario="upgrade", version="1.0.0", run_id="r1", started_epoch=0.0, parameters={"vms": len(records), "load_vms": 2}, records=tuple(records),
        deadline_seconds=4620.0, duration_seconds=seconds, details={**base, **details}, named="4.9.15 to 4.9.23",
    )  # fmt: skip


def record(index: int, error: str | None = None, **more: Any) -> UpgradeRecord:
    fields: dict[str, Any] = {
        "ssh_downtime_seconds": 0.0,
        "ssh_downtime_most_seconds": 0.0,
        "ssh_downtime_total_seconds": 0.0,
        "probes": 700,
    }
    return UpgradeRecord(namespace="a", vm_name=f"vm-{index}", os="rhel", status=Status.FAILED if error else Status.SUCCESS, requested_at=0.0,
                         error=error, last_phase="Running", **{**fields, **more})  # fmt: skip


def judged(measurement: Measurement) -> dict[str, Any]:
    return {each.id.partition(".")[2]: each for each in slo.judge(measurement, PROFILE, 10.0)}


def test_the_reference_is_met_by_itself_and_a_patch_has_a_patchs_limit() -> None:
    found = judged(measured(2100.0))
    assert {each.outcome for each in found.values()} == {Outcome.PASS, Outcome.REPORTED}
    assert found["duration"].limit == pytest.approx(2310.0) and found["api_outage"].outcome is Outcome.REPORTED
    assert judged(measured(8160.0, kind="minor"))["duration"].limit == pytest.approx(8976.0)
    assert judged(measured(2400.0))["duration"].outcome is Outcome.FAIL


STUCK = {
    "state": "Partial",
    "message": "Working towards 4.9.23: 569 of 738 done (77% complete), waiting on network",
    "operators": [operator("etcd"), operator("network", None, "Progressing=True: Deploying: DaemonSet is not available (3 of 103)")],
    "unhealthy": [{"name": "network", "why": "it is at 4.9.15"}],
    "ended_seconds": 4620.0,
}


def test_a_stuck_operator_is_named_with_what_it_says() -> None:
    found = judged(measured(None, **STUCK))
    assert found["version_reached"].outcome is found["duration"].outcome is found["operators_healthy"].outcome is Outcome.FAIL
    assert found["duration"].measured_text == "> 4620 s"
    for said in ("after 4620 s", "569 of 738", "network (Progressing=True: Deploying: DaemonSet is not available (3 of 103))"):
        assert said in found["version_reached"].why
    assert "etcd" not in found["version_reached"].why


def test_why_a_version_is_not_reached() -> None:
    assert "ImageVerificationFailed: no" in slo.not_reached(measured(None, refused="ImageVerificationFailed: no"))
    assert "somebody asked for 4.9.21" in slo.not_reached(measured(None, superseded="4.9.21"))
    assert "C: d" in slo.not_reached(measured(None, failing=[[1.0, 2.0, "A: b"], [3.0, None, "C: d"]]))
    assert "A: b" not in slo.not_reached(measured(None, failing=[[1.0, 2.0, "A: b"], [3.0, None, "C: d"]]))


def test_a_vm_that_is_lost_is_named() -> None:
    found = judged(measured(records=[record(0), record(1, "its VMI is gone")]))["no_vm_lost"]
    assert found.outcome is Outcome.FAIL and "a/vm-1 (its VMI is gone)" in found.why and found.measured_text == "1 of 2"


def test_what_was_not_measured_never_passes() -> None:
    for empty in (measured(records=[]), replace(measured(), complete=False, incomplete_reason="interrupted")):
        assert all(each.outcome is not Outcome.PASS for each in judged(empty).values())
    silent = judged(measured(api={"read": api(None), "write": api(0.0)}))["api_outage"]
    assert silent.measured is None or silent.outcome is Outcome.REPORTED


def test_limits_of_outage_and_downtime_are_those_of_the_profile() -> None:
    limits = {
        "api_outage": PROFILE.upgrade.api_outage.model_copy(update={"seconds": 60.0}),
        "vm_downtime": PROFILE.upgrade.vm_downtime.model_copy(update={"seconds": 30.0}),
    }
    profile = PROFILE.model_copy(update={"upgrade": PROFILE.upgrade.model_copy(update=limits)})
    slow = measured(records=[record(0, ssh_downtime_seconds=45.0)], api={"read": api(90.0), "write": api(89.0)})
    found = {each.id: each for each in slo.judge(slow, profile, 10.0)}
    assert found["upgrade.api_outage"].outcome is found["upgrade.vm_downtime"].outcome is Outcome.FAIL
    assert found["upgrade.api_outage"].measured == 90.0


TROUBLED = measured(
    None,
    [record(0, "its VMI failed and was started again", ssh_downtime_seconds=31.0, restarts=1, io_error="fio ended with the guest, which was restarted"), record(1)],
    **STUCK,
    failing=[[900.0, 1000.0, "MultipleErrors: " + "a long story " * 30], [1000.0, None, "MultipleErrors: " + "a long story " * 30]],
    api={"read": api(90.0, 90), "write": api(None, 2100)},
    pools=[{"name": "worker", "machines": 100, "updated": 7, "is_updated": False, "paused": False, "updating_seconds": 100.0,
            "updated_seconds": None, "trouble": "pool worker is being updated"}],
)  # fmt: skip


@pytest.mark.parametrize("measurement", [measured(), TROUBLED, measured(records=[], operators=[], curve=[], io=[], api={}, pools=[])])
def test_it_is_told_in_a_terminal_of_a_hundred_columns(measurement: Measurement) -> None:
    lines = report.lines([measurement, measurement], "embedded cluster, simulated at 60x")
    assert max(map(len, lines)) <= 100 and lines[0].startswith("Upgrade (patch) from 4.9.15 to 4.9.23")


def test_what_is_told() -> None:
    good, bad = "\n".join(report.lines([measured()], "")), "\n".join(report.lines([TROUBLED], ""))
    for said in (
        "complete in 35.0 min (2100 s)",
        "Completed 2105.4 s after the request",
        "2 of 2 cluster operators",
        "(+10.0 %)",
        "its 100 nodes had nothing to do",
    ):
        assert said in good
    for said in (
        "Partial, not complete",
        "waiting on network",
        "longest outage 90.0 s",
        "never answered",
        "7 of 100 nodes updated",
        "fio broke in 1 VM",
        "vm-0",
    ):
        assert said in bad


def test_charts_of_all_and_of_nothing() -> None:
    for measurement in (measured(), TROUBLED):
        charts = report.charts([measurement], slo.judge(measurement, PROFILE, 10.0), "embedded cluster, simulated at 60x")
        drawn = {chart.file: chart.draw() for chart in charts}
        assert set(drawn) == {"upgrade_operators", "upgrade_progress", "upgrade_api", "upgrade_vms"}
        texts = {name: svg(figure) for name, figure in drawn.items() if figure is not None}
        assert len(texts) == 4 and "etcd  12" in texts["upgrade_operators"] and "all 738" in texts["upgrade_progress"]
    nothing = measured(operators=[], curve=[], io=[], api={})
    assert [chart.draw() for chart in report.charts([nothing], (), "")] == [None] * 4


def test_the_charts_of_a_chain_have_names_of_their_own() -> None:
    other = replace(measured(to="4.10.9"), named="4.9.23 to 4.10.9")
    files = [chart.file for chart in report.charts([measured(), other], (), "")]
    assert len(set(files)) == 8 and "upgrade-4.10.9_api" in files


def test_steps_and_tables() -> None:
    assert any("etcd is at 4.9.23 after 100 s" in step for step in report.steps(measured()))
    assert any("is not Completed" in step and "network" in step for step in report.steps(TROUBLED))
    tables = {table.title: table.text() for table in report.tables(TROUBLED)}
    assert "<td>network</td>" in tables["Operators"] and "read,600.0,690.0,90.0,Connection refused" in tables["API outages"]


def test_run_levels_are_those_of_the_payload() -> None:
    for component in catalogue().payload:
        for name in component.operators:
            assert run_level(name) == component.level, name
