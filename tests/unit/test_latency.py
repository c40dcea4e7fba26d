"""The latency suite's parts without a cluster: what is made of guests' results, its objectives, how it is told."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.guest.fio import FioResult, Job, Latencies
from pytest_vmscale.guest.histogram import Histogram
from pytest_vmscale.guest.workload import Barrier, GuestRun, JobRun, Offset, one_after_the_other
from pytest_vmscale.model import Fleet, Guest, Measurement, Objective, Outcome
from pytest_vmscale.procedures import latency as procedure
from pytest_vmscale.records import LatencyRecord
from pytest_vmscale.report import latency as report
from pytest_vmscale.report.charts import svg
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.settings import Settings, SettingsError, Simulation
from pytest_vmscale.site import Fio, Site
from pytest_vmscale.slo import latency as slo
from pytest_vmscale.slo.profile import Profile, load_profile

PROFILE = load_profile("reference")
RUNS = procedure.jobs({"baseline": 1, "workload": 1000}, {"baseline": 310, "workload": 60})
# Microseconds: what the reference's figures make of 320 and 400.
REFERENCE = {"baseline-read": 320.0, "baseline-write": 400.0, "workload-read": 224.0, "workload-write": 752.0}
PARAMETERS = {"vms_per_node": 15, "baseline_iops": 1, "workload_iops": 1000, "block_bytes": 4096, "depth": 1}


@functools.cache
def histogram(mean_us: float) -> Histogram:
    """Of 200 I/Os."""
    return Histogram.of(int(random.Random(number).gauss(mean_us, mean_us / 20) * 1000) for number in range(200))


def latencies(job: Job, mean_us: float, iops: float) -> Latencies:
    counts = histogram(mean_us).counts
    return Latencies(
        round(iops * job.runtime_seconds), iops, job.runtime_seconds, mean_us * 1000, 1.0, min(counts), max(counts), histogram(mean_us)
    )


class ScriptedWorkload:
    """Guests of which a test says what each run of them took: `slow` by VM name and phase, a factor; `iops` likewise; `lost` by name."""

    def __init__(self, slow: Callable[[str, str], float], iops: Callable[[str, str], float], lost: dict[str, str], stop: list[str]) -> None:
        self.slow, self.iops, self.lost, self.stopped = slow, iops, lost, stop
        self.interrupt: BaseException | None = None

    async def start(self, timed: Any, keys: list[str]) -> Barrier:
        runs = {key: GuestRun(key, Offset(0.001, 0.002), error=self.lost.get(key.split("/")[1])) for key in keys}
        return Barrier(0.0, tuple(timed), runs)

    async def wait(self, barrier: Barrier, tick: Any) -> None:
        tick(0.5)
        if self.interrupt:
            raise self.interrupt

    async def fetch(self, barrier: Barrier, deadline_seconds: float) -> dict[str, GuestRun]:
        for key, run in barrier.runs.items():
            name = key.split("/")[1]
            if run.error:
                continue
            for each in barrier.timed:
                phase = each.job.name
                mean = REFERENCE[phase] * self.slow(name, phase)
                result = FioResult(phase, "fio-3.27", {each.job.access: latencies(each.job, mean, each.job.iops * self.iops(name, phase))})
                run.jobs[phase] = JobRun(result, None, 0.01)
        return dict(barrier.runs)

    async def stop(self) -> None:
        self.stopped.append("stopped")


def measured(
    nodes: int = 64,
    per_node: int = 15,
    slow: Callable[[str, str], float] = lambda name, phase: 1.0,
    iops: Callable[[str, str], float] = lambda name, phase: 1.0,
    lost: dict[str, str] | None = None,
    **parameters: Any,
) -> Measurement:
    """A point as the procedure makes it."""
    guests = tuple(Guest("ns", f"rhel-{index:05d}", "rhel", index) for index in range(nodes * per_node))
    node_of = {guest.key: f"worker-{guest.index // per_node:03d}" for guest in guests}
    workload: Any = ScriptedWorkload(slow, iops, lost or {}, [])
    return asyncio.run(
        procedure.latency(
            workload,
            Fleet("r1", "latency", guests),
            Clock(),
            run_id="r1",
            nodes=node_of,
            runs=RUNS,
            named=f"{nodes} nodes",
            parameters={**PARAMETERS, "vms": len(guests), "nodes": nodes, **parameters},
        )
    )


def judged(measurement: Measurement, profile: Profile = PROFILE) -> dict[str, Objective]:
    return {each.id.removeprefix("latency."): each for each in slo.judge(measurement, profile, 10)}


def at(name: str) -> int:
    return int(name.rpartition("-")[2])


def test_the_references_figures_pass() -> None:
    found = judged(measured())
    assert {name: each.outcome for name, each in found.items()} == dict.fromkeys(found, Outcome.PASS)
    assert found["added_read"].measured == pytest.approx(-30) and found["added_read"].limit == pytest.approx(-27)
    assert found["added_read"].margin_percent == pytest.approx(100 / 9)
    assert found["added_write"].measured == pytest.approx(88) and found["added_write"].limit == pytest.approx(96.8)


def test_reads_that_gain_too_little_and_writes_that_lose_too_much_fail_and_say_by_how_much() -> None:
    found = judged(measured(slow=lambda name, phase: 1.1 if phase.startswith("workload") else 1.0))
    assert (found["added_read"].outcome, found["added_write"].outcome) == (Outcome.FAIL, Outcome.FAIL)
    assert "-23.0 %" in found["added_read"].why and "-27.0 %" in found["added_read"].why
    margin = found["added_read"].margin_percent
    assert margin is not None and margin < 0


def test_a_gain_that_was_printed_for_960_vms_is_no_limit_for_fewer() -> None:
    assert judged(measured(nodes=16))["added_read"].outcome is Outcome.REPORTED
    assert judged(measured(nodes=16))["added_write"].outcome is Outcome.PASS


def test_another_load_than_the_references_is_reported() -> None:
    found = judged(measured(workload_iops=500))
    assert found["added_read"].outcome is found["added_write"].outcome is Outcome.REPORTED


def test_an_overloaded_vm_counts_in_no_latency() -> None:
    def slow(name: str, phase: str) -> float:
        return 100.0 if at(name) == 3 and phase == "workload-write" else 1.0

    one = measured(nodes=2, slow=slow, iops=lambda name, phase: 0.98 if at(name) == 3 and phase == "workload-write" else 1.0)
    phases, whole = one.details["phases"], measured(nodes=2).details["phases"]
    assert phases["workload-write"]["mean_seconds"] == pytest.approx(whole["workload-write"]["mean_seconds"])
    assert (phases["workload-write"]["overloaded"], phases["workload-write"]["reported"], phases["workload-write"]["samples"]) == (
        1,
        30,
        29 * 200,
    )
    assert one.details["added"]["write"]["vms"] == 29 and one.details["added"]["read"]["vms"] == 30
    objective = judged(one)["achieved_iops"]
    assert objective.outcome is Outcome.FAIL and "1 in workload-write" in objective.why and "1 of worker-000: rhel-00003" in objective.why


def test_when_no_vm_keeps_up_there_is_no_latency_to_judge() -> None:
    found = judged(measured(nodes=1, iops=lambda name, phase: 0.5 if phase == "workload-write" else 1.0))
    assert found["added_write"].outcome is Outcome.FAIL and found["added_write"].measured_text == "no VM kept up"
    assert "all 15 of worker-000" in found["achieved_iops"].why


def test_a_slow_node_is_named_with_its_vms() -> None:
    objective = judged(measured(nodes=4, slow=lambda name, phase: 3.0 if at(name) // 15 == 2 else 1.0))["node_spread"]
    assert objective.outcome is Outcome.FAIL and objective.measured == pytest.approx(200)
    assert "worker-002 takes 960 us" in objective.why or "worker-002 takes 1200 us" in objective.why
    assert all(f"rhel-{number:05d}" in objective.why for number in range(30, 45)) and "rhel-00045" not in objective.why


def test_one_node_cannot_stand_out() -> None:
    assert judged(measured(nodes=1))["node_spread"].outcome is Outcome.REPORTED


def test_a_vm_that_reported_nothing_is_a_record_that_failed() -> None:
    measurement = measured(nodes=1, lost={"rhel-00004": "no results within 600 s: connection refused"})
    failed = measurement.failed
    assert [record.vm_name for record in failed] == ["rhel-00004"] and failed[0].error == "no results within 600 s: connection refused"
    objective = judged(measurement)["every_vm_reported"]
    assert objective.outcome is Outcome.FAIL and objective.measured_text == "14 of 15"
    assert judged(measurement)["added_write"].outcome is Outcome.PASS


def test_the_confidence_interval_holds_the_value_and_comes_out_the_same_again() -> None:
    def slow(name: str, phase: str) -> float:
        return 1 + random.Random(f"{name} {phase}").gauss(0, 0.02)

    first, again = (measured(nodes=2, slow=slow).details["added"]["write"] for _ in range(2))
    assert first == again
    assert first["low_percent"] < first["percent"] < first["high_percent"]
    wider = measured(nodes=2, slow=lambda name, phase: 1 + 5 * (slow(name, phase) - 1)).details["added"]["write"]
    assert wider["high_percent"] - wider["low_percent"] > 3 * (first["high_percent"] - first["low_percent"])


def test_an_interrupted_point_says_so_and_stops_what_runs() -> None:
    stopped: list[str] = []
    workload: Any = ScriptedWorkload(lambda name, phase: 1.0, lambda name, phase: 1.0, {}, stopped)
    workload.interrupt = asyncio.CancelledError()
    partial: list[Measurement] = []
    fleet = Fleet("r1", "latency", (Guest("ns", "rhel-00000", "rhel", 0),))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(
            procedure.latency(
                workload, fleet, Clock(), run_id="r", nodes={}, runs=RUNS, named="1 node", parameters={}, on_partial=partial.append
            )
        )
    assert stopped == ["stopped"]
    assert not partial[0].complete and partial[0].incomplete_reason == "interrupted"
    assert judged(partial[0])["every_vm_reported"].outcome is Outcome.INCONCLUSIVE


# All points.


def swept(*factors: float) -> list[Measurement]:
    def point(nodes: int, factor: float) -> Measurement:
        return measured(nodes=nodes, slow=lambda name, phase: factor if phase.startswith("baseline") else 1.0)

    return [point(2**number, factor) for number, factor in enumerate(factors)]


def together(measurements: list[Measurement]) -> dict[str, Objective]:
    return {each.id.removeprefix("latency."): each for each in slo.judge_together(measurements, PROFILE, 10)}


def test_a_baseline_that_stays_passes_and_one_that_does_not_names_the_point() -> None:
    steady = together(swept(1.0, 1.0002, 0.9999))
    assert steady["baseline_variance_read"].outcome is steady["baseline_variance_write"].outcome is Outcome.PASS
    objective = together(swept(1.0, 1.0, 1.01))["baseline_variance_read"]
    assert objective.outcome is Outcome.FAIL and objective.scope == "1-4 nodes"
    assert objective.measured == pytest.approx(0.4698, abs=0.001)  # the definition, by hand: deviation sqrt(2)/300 over a mean of 1 + 1/300
    assert "4 nodes" in objective.why


def test_one_node_count_has_no_variance() -> None:
    assert together(swept(1.0)) == {}


def test_a_point_that_was_cut_short_makes_the_variance_inconclusive() -> None:
    first, second = swept(1.0, 1.0)
    found = together([first, replace(second, complete=False, incomplete_reason="interrupted")])
    assert found["baseline_variance_read"].outcome is Outcome.INCONCLUSIVE and "interrupted" in found["baseline_variance_read"].why


# What is asked for.


def settings_of(**changes: Any) -> Any:
    """The few settings that are looked at."""

    class Some:
        nodes, vms_per_node, cluster, reuse_fleet, site = (1, 4), 15, "embedded", None, Site()
        simulation = Simulation(workers=10)
        guest = Settings.guest
        mix = Settings.mix
        vm_mix = None

    some = Some()
    for key, value in changes.items():
        setattr(some, key, value)
    return some


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"nodes": (1, 11)}, "--nodes 11: the embedded cluster has 10 workers"),
        ({"reuse_fleet": "r"}, "--reuse-fleet"),
        ({"vm_mix": "windows=100"}, "windows has no SSH or no fio"),
        ({"site": Site(fio=Fio(file_size="20Mi"))}, r"2Mi|46.9 GiB, more than the 40Gi disk of guests.rhel"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_started(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        slo.deadlines_seconds(settings_of(**changes), PROFILE, 10)


def test_what_can_be_run_has_a_deadline_for_each_point() -> None:
    assert slo.deadlines_seconds(settings_of(), PROFILE, 10) == [slo.AROUND_SECONDS + 780] * 2


@pytest.mark.parametrize(
    "wrong",
    [{"workload_iops": 0}, {"baseline_seconds": 299}, {"file_size": "2 MiB"}, {"block_size": 1000}, {"engine": "a b"}, {"speed": 1}],
)
def test_a_fio_block_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Fio(**wrong)


# How it is told.


def test_lines_fit_and_say_what_must_be_known() -> None:
    slow = measured(
        nodes=4, iops=lambda name, phase: 0.5 if at(name) < 15 and phase == "workload-write" else 1.0, lost={"rhel-00020": "refused"}
    )
    one, several = report.lines([slow], "embedded"), report.lines([*swept(1.0, 1.0), slow], "embedded")
    for told in (one, several):
        text = "\n".join(told)
        assert max(map(len, told)) <= 100, max(told, key=len)
        assert "15 VMs overloaded in workload-write" in text and "all 15 of worker-000" in text.replace("\n    ", " ")
        assert "ns/rhel-00020: Failed" in text
    assert any("-30.0 %" in line for line in several) and any("coefficient of variation" in line for line in several)


def test_background_is_labelled() -> None:
    text = "\n".join(report.lines([measured(nodes=1, background={"vms": 2040, "pods": 21400})], ""))
    assert "Beside them ran 2040 VMs and 21400 pods" in text


def test_all_charts_can_be_drawn() -> None:
    points = swept(1.0, 1.0, 1.0)
    points[1] = measured(nodes=2, iops=lambda name, phase: 0.5 if at(name) == 3 else 1.0, lost={"rhel-00007": "refused"})
    objectives = [each for point in points for each in slo.judge(point, PROFILE, 10)] + list(slo.judge_together(points, PROFILE, 10))
    drawn = {chart.file: chart.draw() for chart in report.charts(points, objectives, "embedded")}
    assert len(drawn) == 7
    for file, figure in drawn.items():
        assert figure is not None and svg(figure).startswith("<?xml"), file


def test_charts_of_nothing_are_none() -> None:
    nothing = measured(nodes=1, lost={f"rhel-{number:05d}": "refused" for number in range(15)})
    drawn = {chart.file: chart.draw() for chart in report.charts([nothing], [], "")}
    assert drawn["latency_histogram"] is None and drawn["latency_nodes"] is None
    assert report.lines([nothing], "")


def test_the_csv_has_a_row_a_vm() -> None:
    text = csv_text(measured(nodes=1).records).splitlines()
    assert len(text) == 16 and "workload_write_p999_seconds" in text[0]
    assert report.steps(measured(nodes=1)) and report.tables(measured(nodes=1))
    assert all(record.value("workload_write_mean_seconds") == pytest.approx(752e-6) for record in measured(nodes=1).records)
    assert isinstance(measured(nodes=1).records[0], LatencyRecord)


def test_runs_follow_each_other() -> None:
    timed = one_after_the_other(RUNS)
    assert [each.job.name for each in timed] == list(LatencyRecord.PHASES)
    assert all(later.at_seconds > earlier.end_seconds for earlier, later in itertools.pairwise(timed))
