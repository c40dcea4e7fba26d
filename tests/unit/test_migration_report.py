"""How a migration is judged and told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_vmscale.model import Measurement, Moment, Outcome, Status
from pytest_vmscale.records import LIVE_MIGRATION, RESTART, MigrationRecord
from pytest_vmscale.report import migration as report
from pytest_vmscale.report.charts import svg
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.slo.migration import judge, why_not_done
from pytest_vmscale.slo.profile import load_profile

PROFILE = load_profile("reference")


def record(index: int, os: str = "rhel", seconds: float | None = 14.0, **more: Any) -> MigrationRecord:
    live = os != "fedora"
    found = MigrationRecord(
        namespace="ns", vm_name=f"{os}-{index:05d}", os=os, status=Status.SUCCESS, requested_at=60.0 + index, node="b", node_before="a",
        moves_by=LIVE_MIGRATION if live else RESTART, time_to_moved_seconds=30.0,
        migration_duration_seconds=seconds if live else None, migration_queued_seconds=5.0 if live else None,
        migration_prepared_seconds=6.0 if live else None, restart_duration_seconds=None if live else 55.0,
        restart_start_seconds=None if live else seconds, timeline=(Moment("Requested", 0.0), Moment("Moved", 30.0)), migrations=int(live), restarts=int(not live),
    )  # fmt: skip
    return replace(found, **more)


def node(name: str, **times: float) -> dict[str, Any]:
    steps = ("cordoned", "drained", "down", "rebooted", "ready", "uncordoned", "done")
    whole = dict(zip(steps, (10.0, 500.0, 520.0, 900.0, 930.0, 950.0, 955.0), strict=True))
    return {"name": name, **{f"{step}_seconds": times.get(step, whole[step]) for step in steps}, "rebooted": True, "trouble": ""}


def measured(records: list[MigrationRecord] | None = None, zone: float | None = 9000.0, **details: Any) -> Measurement:
    records = [record(index, ("rhel", "fedora", "rhel", "fedora", "windows")[index % 5], 12.0) for index in range(1000)] if records is None else records
    told: dict[str, Any] = {
        "trigger": "machineconfig", "zone": "zone-0", "zone_nodes": 2, "vms_off_seconds": 8000.0, "zone_seconds": zone, "drain_seconds": 7000.0,
        "node_wait_seconds": 2000.0, "at_once": 1, "limits": {"per_cluster": 20, "per_node": 4}, "most_in_flight": 20, "most_from_one_node": 9,
        "in_flight": [[60.0, 1, 3], [70.0, 2, 2], [95.0, 0, 0]], "failed_migrations": 0, "moved_again": 0, "nodes": [node("a"), node("b")],
        "pool": {"name": "zone-0", "trouble": ""}, "blocked": [], "measured_seconds": 9100.0, "finished": True,
        "pods": {"wanted": 70, "ready": 70, "evicted": 70, "back": 70, "last_evicted_seconds": 80.0, "last_ready_seconds": 95.0,
                 "away_mean_seconds": 9.0, "away_max_seconds": 15.0, "curve": [[0.0, 70], [60.0, 60], [95.0, 70]]},
        **details,
    }  # fmt: skip
    return Measurement("migration", "1.0.0", "r1", 0.0, {"vms": len(records)}, tuple(records), 30294.0, zone, details=told, named=f"{len(records)} VMs", time_rate=40.0)


def by_id(measurement: Measurement) -> dict[str, Any]:
    return {each.id.removeprefix("migration."): each for each in judge(measurement, PROFILE, 10.0)}


def test_the_reference_is_met_with_its_own_numbers():
    found = by_id(measured())
    assert {each.outcome for name, each in found.items() if name != "vms_off"} == {Outcome.PASS}
    assert found["vms_off"].outcome is Outcome.REPORTED
    assert [(found[name].limit, found[name].reference) for name in ("zone_duration", "drain_time", "node_wait", "average_rhel", "average_windows", "average_fedora")] == [
        (pytest.approx(10098.0), 9180.0), (pytest.approx(7788.0), 7080.0), (pytest.approx(2310.0), 2100.0), (pytest.approx(15.4), 14.0),
        (pytest.approx(13.2), 12.0), (pytest.approx(25.3), 23.0)]  # fmt: skip


def test_a_slow_zone_and_slow_migrations_fail_each_for_itself():
    slow = [record(index, ("rhel", "fedora")[index % 2], 16.0) for index in range(1000)]
    found = by_id(measured(slow, 10500.0))
    assert found["zone_duration"].outcome is Outcome.FAIL and found["average_rhel"].outcome is Outcome.FAIL
    assert found["average_fedora"].outcome is Outcome.PASS and found["drain_time"].outcome is Outcome.PASS


def test_a_mean_of_a_few_vms_is_reported():
    found = by_id(measured([record(index, seconds=90.0) for index in range(99)]))
    assert found["average_rhel"].outcome is Outcome.REPORTED and found["average_rhel"].measured == 90.0
    assert by_id(measured([record(index, seconds=90.0) for index in range(100)]))["average_rhel"].outcome is Outcome.FAIL


def test_a_mean_leaves_none_out():
    lost = [record(index) for index in range(199)] + [record(199, seconds=None, status=Status.TIMED_OUT, time_to_moved_seconds=None, error="it is still on a")]
    found = by_id(measured(lost))
    assert found["average_rhel"].measured is None and found["average_rhel"].outcome is Outcome.FAIL
    assert found["every_vm_moved"].outcome is Outcome.FAIL and found["every_vm_moved"].why.endswith("ns/rhel-00199 (it is still on a)")


def test_restarts_where_the_reference_migrated_are_not_held_to_its_average():
    restarted = [record(index, moves_by=RESTART, restart_start_seconds=40.0, migration_duration_seconds=None) for index in range(200)]
    assert by_id(measured(restarted))["average_rhel"].outcome is Outcome.REPORTED


def test_a_zone_that_is_not_done_names_what_keeps_it():
    stuck = node("a")
    stuck.update(ready_seconds=None, uncordoned_seconds=None, done_seconds=None, trouble="node a is not Ready since 520 s")
    blocked = [{"node": "b", "what": "VM ns/rhel-00001", "why": "held by the disruption budget ns/kubevirt-disruption-budget-x"}]
    measurement = measured(zone=None, nodes=[stuck, node("b")], blocked=blocked, node_wait_seconds=None, finished=False)
    found = by_id(measurement)
    assert found["zone_duration"].outcome is Outcome.FAIL and found["zone_duration"].measured_text == "> 30294 s"
    for text in ("node a is not Ready since 520 s", "VM ns/rhel-00001 on b: held by the disruption budget ns/kubevirt-disruption-budget-x"):
        assert text in found["zone_duration"].why and text in why_not_done(measurement)
    assert found["every_vm_moved"].outcome is Outcome.PASS and found["failures"].outcome is Outcome.PASS


def test_failed_migrations_pods_that_are_not_back_and_limits_that_do_not_hold():
    records = [record(index) for index in range(9)] + [record(9, failures=("unexpectedly closed the monitor",))]
    pods = {**measured().details["pods"], "ready": 68, "back": 68}
    found = by_id(measured(records, pods=pods, most_in_flight=21))
    assert found["failures"].outcome is Outcome.FAIL and found["failures"].why == "ns/rhel-00009: unexpectedly closed the monitor"
    assert found["pods_back"].outcome is Outcome.FAIL and found["pods_back"].why == "2 of 70 pods are not ready at the end"
    assert found["limits"].outcome is Outcome.FAIL


def test_other_triggers_are_not_held_to_a_reboots_times():
    found = by_id(measured(trigger="drain"))
    assert found["zone_duration"].outcome is Outcome.REPORTED and found["drain_time"].outcome is Outcome.REPORTED and "node_wait" not in found
    asked = by_id(measured(trigger="vmim", pods=None))
    assert "drain_time" not in asked and "pods_back" not in asked and asked["average_rhel"].outcome is Outcome.PASS


def test_a_measurement_that_was_cut_short_is_inconclusive():
    cut = replace(measured(), complete=False, incomplete_reason="interrupted")
    assert {each.outcome for each in judge(cut, PROFILE, 10.0)} == {Outcome.INCONCLUSIVE}
    assert {each.outcome for each in judge(replace(measured([]), parameters={}), PROFILE, 10.0)} == {Outcome.INCONCLUSIVE}


def test_the_terminal_tells_live_migrations_and_restarts_apart():
    records = [record(0), record(1, "fedora", 23.0), record(2, "windows", 12.0, failures=("aborted", "aborted")),
               record(3, status=Status.TIMED_OUT, error="it is still on a", time_to_moved_seconds=None, migration_duration_seconds=None)]  # fmt: skip
    lines = report.lines([measured(records, failed_migrations=1)], "embedded, simulated at 40x")
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 100
    assert lines[0] == "Migration of 4 VMs: done in 150.0 min (9000 s) (embedded, simulated at 40x)"
    assert lines[1] == "The 2 nodes of zone-0 are emptied by a machine config that reboots its nodes."
    assert "1 fedora VM, restarted, on average 23.0 s" in text and "2 rhel VMs, live migrated, on average none, 1 have no time" in text
    assert "ns/windows-00002: aborted (2 times)" in text and "ns/rhel-00003: TimedOut" in text
    assert "Pods: 70 evicted, 70 of them ready again elsewhere, after 9.0 s on average" in text.replace("\n", " ")


def test_every_chart_is_drawn_and_none_without_data():
    charts = report.charts([measured()], (), "embedded")
    assert [each.file for each in charts] == ["migration_nodes", "migration_in-flight", "migration_times", "migration_off"]
    for chart in charts:
        figure = chart.draw()
        assert figure is not None and "</svg>" in svg(figure)
    nothing = replace(measured([]), details={"trigger": "vmim"})
    assert [each.draw() for each in report.charts([nothing], (), "")] == [None] * 4


def test_a_nodes_row_ends_in_red_where_it_got_no_further():
    stuck = node("b")
    stuck.update(rebooted_seconds=None, ready_seconds=None, uncordoned_seconds=None, done_seconds=None, trouble="node b is not Ready since 520 s")
    figure = report.node_gantt(measured(nodes=[node("a"), stuck]), "")
    assert figure is not None and "it did not get further" in svg(figure)
    assert "node b is not Ready since 520 s" in report.nodes_table(measured(nodes=[node("a"), stuck]))


def test_steps_and_records_tell_all():
    steps = report.steps(measured([record(0)]))
    assert steps[0] == "1 VM and 70 pods run on the 2 nodes of zone-0" and steps[-1] == "The zone is done after 9000 s"
    header, row = csv_text(measured([record(0)]).records).splitlines()
    assert "migration_duration_seconds" in header and "live-migration" in row and "timeline" not in header
