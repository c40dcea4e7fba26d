"""Migration under load: which runs there are, what is compared, judged and told."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from pytest_vmscale.model import Measurement, Outcome, Status
from pytest_vmscale.plugin import of_two_suites, scenarios
from pytest_vmscale.procedures.migration_load import LEAD_SECONDS, QUIET_SECONDS, added, duration_added, moving_spans, schedule
from pytest_vmscale.records import MigrationLoadRecord
from pytest_vmscale.report import migration_load as report
from pytest_vmscale.report.charts import svg
from pytest_vmscale.slo.migration_load import judge
from pytest_vmscale.slo.profile import load_profile

PROFILE = load_profile("reference")
RATES, SECONDS = {"baseline": 1, "workload": 1000}, {"baseline": 310, "workload": 60}


def record(index: int, **more: Any) -> MigrationLoadRecord:
    means = {f"{state}_{load}_{direction}_mean_seconds": (1.0 if state == "still" else 1.08) * 3e-4
             for state in ("still", "moving") for load in ("baseline", "workload") for direction in ("read", "write")}  # fmt: skip
    iops = {name.replace("mean_seconds", "iops"): 1000.0 if "workload" in name else 1.0 for name in means}
    found = MigrationLoadRecord(namespace="ns", vm_name=f"rhel-{index:05d}", os="rhel", status=Status.SUCCESS, requested_at=0.0, longest_gap_seconds=0.3,
                                migration_baseline_seconds=14.0, migration_workload_seconds=14.5, migrations=2, **means, **iops)  # fmt: skip
    return replace(found, **more)


def measured(records: list[MigrationLoadRecord], **parameters: Any) -> Measurement:
    timed = schedule(RATES, SECONDS, ramp_seconds=10)
    phases = {each.job.name: {"start_seconds": each.at_seconds + 10, "end_seconds": each.end_seconds, "reported": len(records), "overloaded": 0, "iops_wanted": 1,
                              "iops_achieved": 1, "mean_seconds": 3e-4, "slowest_mean_seconds": 4e-4} for each in timed}  # fmt: skip
    details = {
        "phases": phases, "added": {f"{load}-{direction}": added(records, load, direction) for load in ("baseline", "workload") for direction in ("read", "write")},
        "migrations": {"baseline": {"count": 900, "mean_seconds": 14.0}, "workload": {"count": 180, "mean_seconds": 14.5}}, "duration_added": duration_added(records),
        "moving": {load: list(span) for load, span in moving_spans(timed).items()}, "limits": {"per_cluster": 20, "per_node": 4}, "most_in_flight": 20,
        "in_flight": [[1000.0, 1, 0], [1010.0, 20, 3], [1700.0, 0, 0]], "failed_migrations": 0, "refused": 0,
    }  # fmt: skip
    asked = {"vms": len(records), "baseline_iops": 1, "workload_iops": 1000, "block_bytes": 4096, "depth": 1, **parameters}
    return Measurement("migration-latency", "1.0.0", "r1", 0.0, asked, tuple(records), 4000.0, 2000.0, details=details, time_rate=40.0)


def by_id(measurement: Measurement) -> dict[str, Any]:
    return {each.id.removeprefix("migration_load."): each for each in judge(measurement, PROFILE, 10.0)}


def test_every_load_is_taken_without_migrations_and_with_them_and_none_is_under_way_between_two():
    timed = schedule(RATES, SECONDS, ramp_seconds=10, block_bytes=4096)
    assert [each.job.name for each in timed] == list(MigrationLoadRecord.PHASES)
    assert [(each.job.iops, each.job.runtime_seconds, each.job.access) for each in timed[:4]] == [(1, 310, "read"), (1, 310, "write"), (1000, 60, "read"), (1000, 60, "write")]
    gaps = [after.at_seconds - before.end_seconds for before, after in pairwise(timed)]
    assert gaps == [10, QUIET_SECONDS, 10, QUIET_SECONDS, 10, QUIET_SECONDS, 10]
    spans = moving_spans(timed)
    assert spans["baseline"] == (timed[4].at_seconds, timed[5].end_seconds) and spans["workload"] == (timed[6].at_seconds, timed[7].end_seconds)
    assert spans["workload"][0] - spans["baseline"][1] == QUIET_SECONDS > LEAD_SECONDS


def test_what_is_added_is_of_the_vms_that_kept_up_in_both():
    slow = record(1, moving_workload_read_mean_seconds=9e-3, overloaded=("moving-workload-read",))
    assert added([record(0), slow], "workload", "read") == {"vms": 1, "percent": pytest.approx(8.0)}
    assert added([slow], "workload", "read") == {"vms": 0, "percent": None}


def test_what_load_adds_to_migrations_is_of_the_vms_that_were_migrated_under_both():
    """Three times as slow a VM, of which only one of the two times is known, says nothing of the load."""
    records = [record(0), record(1, migration_baseline_seconds=42.0, migration_workload_seconds=None)]
    assert duration_added(records) == {"vms": 1, "percent": pytest.approx((14.5 / 14 - 1) * 100)}
    assert duration_added(records[1:]) == {"vms": 0, "percent": None}
    assert records[0].applies("migration_workload_seconds") and not records[1].applies("migration_workload_seconds")


def test_the_reference_is_for_a_thousand_vms_at_its_own_load():
    thousand = [record(index) for index in range(1000)]
    found = by_id(measured(thousand))
    assert {each.outcome for name, each in found.items() if name != "longest_gap"} == {Outcome.PASS}
    assert found["added_read"].limit == pytest.approx(9.9) and found["added_write"].limit == pytest.approx(14.3) and found["added_duration"].limit == pytest.approx(5.5)
    worse = [replace(each, moving_workload_write_mean_seconds=3.6e-4) for each in thousand]
    assert by_id(measured(worse))["added_write"].outcome is Outcome.FAIL
    assert by_id(measured(worse[:999]))["added_write"].outcome is Outcome.REPORTED
    assert by_id(measured(worse, workload_iops=500))["added_write"].outcome is Outcome.REPORTED


def test_a_vm_that_reports_nothing_or_does_not_keep_up_or_cannot_be_migrated_fails_the_run():
    found = by_id(measured([record(0), record(1, status=Status.FAILED, error="no results")]))
    assert found["every_vm_reported"].outcome is Outcome.FAIL
    found = by_id(measured([record(0, overloaded=("moving-workload-read",)), record(1, failures=("aborted",))]))
    assert found["achieved_iops"].outcome is Outcome.FAIL and "ns/rhel-00000 in moving-workload-read" in found["achieved_iops"].why
    assert found["failures"].outcome is Outcome.FAIL and found["failures"].why == "ns/rhel-00001: aborted"
    assert {each.outcome for each in by_id(measured([], vms=None)).values()} == {Outcome.INCONCLUSIVE}


def test_it_is_told_in_a_hundred_columns_and_drawn():
    measurement = measured([record(0), record(1, longest_gap_seconds=0.45)])
    lines = report.lines([measurement], "embedded, simulated at 40x")
    assert max(map(len, lines)) <= 100 and lines[0] == "I/O of 2 VMs under migration (embedded, simulated at 40x)"
    assert any(line.startswith("  workload reads") and "+8.0 %" in line for line in lines)
    assert "The longest gap in a VM's I/O meanwhile was 450 ms, in rhel-00001." in lines
    figures = [chart.draw() for chart in report.charts([measurement], (), "")]
    assert len(figures) == 3 and all("</svg>" in svg(figure) for figure in figures if figure is not None) and None not in figures
    assert [chart.draw() for chart in report.charts([replace(measurement, records=(), details={})], (), "")] == [None, None, None]
    shown_at = {objective for chart in report.charts([measurement], (), "") for objective in chart.objectives}
    assert shown_at == {each.id for each in judge(measurement, PROFILE, 10.0)}, "each objective has a chart"
    assert report.steps(measurement)[-1] == "Under the workload: 180 migrations, 14.5 s on average"


class Item:
    def __init__(self, *markers: str) -> None:
        self.markers = markers

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.markers else None


def test_what_belongs_to_two_suites_runs_where_both_are_asked_for():
    both, one, other = Item("migration", "latency"), Item("migration"), Item("latency")
    assert scenarios([both, one, Item()]) == ["migration", "latency and migration"]  # type: ignore[list-item]
    for expression, left_out in (("latency", [both]), ("migration", [both]), ("not upgrade", []), ("migration and latency", []), ("latency or migration", []), ("", [])):
        assert of_two_suites([both, one, other], expression) == left_out  # type: ignore[list-item]
