"""Comparison with earlier runs: no false alarm, no regression missed, nothing compared that is not alike."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.model import Measurement, Record, Status
from pytest_vmscale.options import ALLOWED
from pytest_vmscale.records import LIVE_MIGRATION, DeployRecord, LatencyRecord, MigrationLoadRecord, MigrationRecord, UpgradeRecord
from pytest_vmscale.report.comparison import Compared, against, data, lines
from pytest_vmscale.report.files import About, ResultFiles, schema
from pytest_vmscale.report.saved import Saved, SavedError, load, load_baseline
from pytest_vmscale.report.terminal import WIDTH
from pytest_vmscale.scenarios import ALL
from pytest_vmscale.slo.baseline import ALLOWANCES, Change, Conditions, Finding, _resampled, compare, conditions, differences
from tests.unit.factories import make_measurement

RUNS = 10  # as many as must all come out right


def storm(seed: int, vms: int = 1000, tail: float = 1.0, failed: int = 0) -> Measurement:
    """A storm as the queues make it: VMs come up evenly over its time. Whole runs differ by 1 %; `tail`: what the slowest tenth takes longer."""
    chance = random.Random(seed)
    run = chance.gauss(1.0, 0.01)
    times = sorted(run * (25 + 1.04 * vms * chance.random()) for _ in range(vms))
    times = [each * tail if place >= 0.9 * vms else each for place, each in enumerate(times)]
    chance.shuffle(times)
    return make_measurement([*times[failed:], *[None] * failed])


def found(now: Measurement, *before: Measurement, tolerance: float = 5) -> list[Change]:
    return list(compare(now, before, tolerance))


def those(changes: list[Change], finding: Finding) -> set[str]:
    return {f"{each.metric} {each.statistic}" for each in changes if each.finding is finding}


@pytest.mark.parametrize("size", [20, 100, 1000])
@pytest.mark.parametrize("baselines", [1, 5])
def test_a_run_that_changed_nothing_passes_every_time(size, baselines):
    before = [storm(seed, size) for seed in range(baselines)]
    alarms = [those(found(storm(100 + seed, size), *before), Finding.REGRESSION) for seed in range(RUNS)]
    assert alarms == [set()] * RUNS


def test_a_hundred_false_alarms_are_not_to_be_had():
    before = storm(0, 300)
    alarms = sum(bool(those(found(storm(seed, 300), before), Finding.REGRESSION)) for seed in range(1, 101))
    assert alarms <= 3  # one in a hundred is what is promised; the runs' own spread comes on top


def test_a_slower_tail_is_found_every_time_and_named():
    before = storm(0)
    for seed in range(RUNS):
        worse = those(found(storm(100 + seed, tail=1.12), before), Finding.REGRESSION)
        assert {"time_to_ssh_seconds p99", "time_to_ssh_seconds p95", "duration_seconds value"} <= worse
        assert "time_to_ssh_seconds p50" not in worse


def queue(seed: int, vms: int = 100, tail: float = 1.0) -> Measurement:
    """A storm whose VMs wait for each other: each comes up so much after the one before it, and only whole runs differ."""
    chance = random.Random(seed)
    run, up, times = chance.gauss(1.0, 0.004), 22.0, []
    for place in range(vms):
        up += chance.uniform(0.55, 0.65)
        times.append(run * (up + chance.gauss(0, 0.5)) * (tail if place >= 0.85 * vms else 1.0))
    return make_measurement(times)


def test_a_few_runs_show_that_a_queue_is_steadier_than_chance_among_its_vms():
    before = [queue(seed) for seed in range(6)]
    for seed in range(RUNS):
        assert those(found(queue(100 + seed), *before), Finding.REGRESSION) == set()
        slower = queue(100 + seed, tail=1.12)
        assert {"time_to_ssh_seconds p90", "time_to_ssh_seconds p95"} <= those(found(slower, *before), Finding.REGRESSION)
        assert "time_to_ssh_seconds p90" not in those(found(slower, before[0]), Finding.REGRESSION)  # one run does not tell


def test_the_last_of_vms_that_boot_by_chance_makes_no_regression_of_the_duration():
    def alone(seed: int) -> Measurement:
        chance = random.Random(seed)
        return make_measurement([30 * chance.lognormvariate(0, 0.4) for _ in range(100)])

    alarms = [those(found(alone(100 + seed), alone(seed)), Finding.REGRESSION) for seed in range(3 * RUNS)]
    assert sum(map(bool, alarms)) <= 1  # of the longest of 100 little is known by one run


def test_an_improvement_is_no_regression_and_is_shown():
    changes = found(storm(1), storm(0, tail=1.2))
    assert not those(changes, Finding.REGRESSION)
    assert "time_to_ssh_seconds p99" in those(changes, Finding.IMPROVEMENT)


def test_a_small_fleet_does_not_pretend_to_know():
    changes = {f"{each.metric} {each.statistic}": each for each in found(storm(1, 20), storm(0, 20))}
    assert changes["time_to_ssh_seconds p99"].finding is Finding.SHOWN and "too few VMs" in changes["time_to_ssh_seconds p99"].why
    assert changes["time_to_ssh_seconds p50"].finding is Finding.UNCLEAR


def test_runs_that_differ_among_themselves_raise_the_noise():
    steady = [make_measurement([100.0 + index / 10 for index in range(1000)]) for _ in range(6)]
    restless = [make_measurement([factor * (100.0 + index / 10) for index in range(1000)]) for factor in (0.85, 0.9, 1.0, 1.0, 1.1, 1.15)]
    now = make_measurement([1.1 * (100.0 + index / 10) for index in range(1000)])
    assert "duration_seconds value" in those(found(now, *steady), Finding.REGRESSION)
    assert not those(found(now, *restless), Finding.REGRESSION)


def test_what_the_clock_cannot_tell_is_no_regression():
    """At 20x a stamp that is 50 ms late is a second of cluster time."""
    before, now = make_measurement([2.0] * 500, time_rate=20.0), make_measurement([2.6] * 500, time_rate=20.0)
    assert not those(found(now, before), Finding.REGRESSION)
    assert those(found(replace(now, time_rate=1.0), replace(before, time_rate=1.0)), Finding.REGRESSION)


def test_stamps_that_came_late_are_no_regression():
    """A machine that was too busy to look says so by the objects' own timestamps."""
    before, late = make_measurement([60.0 + each / 10 for each in range(300)]), make_measurement([68.0 + each / 10 for each in range(300)])
    assert "time_to_ssh_seconds p90" in those(found(late, before), Finding.REGRESSION)
    busy = replace(late, details={**late.details, "object_skew_seconds": {"min": 0.0, "mean": 5.0, "max": 10.0, "p5": 0.5, "p95": 9.5, "count": 900}})
    assert not those(found(busy, before), Finding.REGRESSION)


def moved(factor: float, seed: int) -> Measurement:
    """300 VMs that were live migrated at 60x; how long it takes depends on what each has in its memory."""
    streams = random.Random(seed)
    records = [
        MigrationRecord(namespace="n", vm_name=f"vm-{n}", os="rhel", status=Status.SUCCESS, requested_at=0.0, moves_by=LIVE_MIGRATION,
                        time_to_moved_seconds=60.0, migration_duration_seconds=factor * streams.uniform(4.0, 22.0))
        for n in range(300)
    ]  # fmt: skip
    skew = {"min": 0.05, "mean": 1.0, "max": 2.7, "p5": 0.3, "p95": 1.9, "count": 3300}
    return Measurement("migration", "1.0.0", "r", 0.0, {"vms": 300}, tuple(records), 9000.0, 700.0, details={"object_skew_seconds": skew}, time_rate=60.0)


def test_what_is_known_of_the_stamps_is_not_assumed():
    """At 60x the assumption alone, 3 s, would hide migrations that take 20 % longer."""
    before = [moved(1.0, seed) for seed in range(5)]
    assert not those(found(moved(1.0, 6), *before), Finding.REGRESSION)
    assert "migration_duration_seconds p90" in those(found(moved(1.2, 6), *before), Finding.REGRESSION)


@pytest.mark.parametrize(
    ("kind", "share"), [(LatencyRecord, 1.0), (MigrationLoadRecord, 1.0), (UpgradeRecord, 0.5)], ids=["latency", "migration", "upgrade: fio in half of the VMs"]
)
def test_what_guests_measure_is_not_late_because_the_machine_is_busy(kind, share):
    def measured(mean: float) -> Measurement:
        (metric, *_), size = kind.BY_GUESTS, 300
        records = []
        for n in range(size):
            does_io: dict[str, Any] = {metric: mean * (1 + n / 10000)} if n < share * size else {}
            if kind is UpgradeRecord and does_io:
                does_io["io_windows"] = 4
            records.append(kind(namespace="n", vm_name=f"vm-{n}", os="rhel", status=Status.SUCCESS, requested_at=0.0, **does_io))
        return Measurement("m", "1.0.0", "r", 0.0, {"vms": size}, tuple(records), 9000.0, 700.0, time_rate=100.0)

    assert f"{kind.BY_GUESTS[0]} p90" in those(found(measured(0.0006), measured(0.0004)), Finding.REGRESSION)
    took_longer = those(found(replace(measured(0.0004), duration_seconds=1000.0), measured(0.0004)), Finding.REGRESSION)
    assert took_longer == ({"duration_seconds value"} if kind is UpgradeRecord else set()), "runs of fio take as long as they were told to"


def test_requests_that_were_sent_slower_are_no_regression():
    """A storm whose requests took 12 s to send is not the storm whose requests took one."""
    before, later = make_measurement([60.0 + each / 10 for each in range(300)]), make_measurement([70.0 + each / 10 for each in range(300)])
    before = replace(before, details={**before.details, "request_rate_achieved": 300.0})
    same, slow = (replace(later, details={**later.details, "request_rate_achieved": rate}) for rate in (300.0, 25.0))
    assert "time_to_ssh_seconds p90" in those(found(same, before), Finding.REGRESSION)
    assert not those(found(slow, before), Finding.REGRESSION)


@pytest.mark.parametrize(("rate", "regressed"), [(30.0, False), (1.0, True)], ids=["embedded", "real"])
def test_a_bulk_that_the_embedded_cluster_answered_later_is_no_regression(rate, regressed):
    """It shares the measuring machine: a tenth of a second of the wall's is three of its own. Of a real API server it is slowness."""

    def bulk(answered: float) -> Measurement:
        records = []
        for n in range(300):
            times = {"time_to_data_volume_seconds": 25.0 + answered + n / 20, "clone_duration_seconds": 500.0 + n, "request_seconds": answered}
            records.append(DeployRecord(namespace="n", vm_name=f"vm-{n}", os="rhel", status=Status.SUCCESS, requested_at=0.0, bulk=1, ordinal=n, **times))
        skew = {"object_skew_seconds": {"min": 0.0, "max": 1.0, "p5": 0.05, "p95": 0.95, "mean": 0.5, "count": 300}}
        return Measurement("m", "1.0.0", "r", 0.0, {"vms": 300}, tuple(records), 9000.0, 900.0, time_rate=rate, details=skew)

    named = those(found(bulk(4.0), bulk(1.0), bulk(1.1)), Finding.REGRESSION)
    assert named == ({f"time_to_data_volume_seconds {each}" for each in ("p50", "p90", "p95")} if regressed else set())


def test_more_failures_are_a_regression_and_so_is_a_percentile_that_falls_on_them():
    worse = those(found(storm(1, failed=60), storm(0)), Finding.REGRESSION)
    assert {"failed_percent value", "time_to_ssh_seconds p99"} <= worse
    assert not those(found(storm(1, failed=2), storm(0)), Finding.REGRESSION)


def test_a_metric_that_failed_in_both_is_shown_as_such():
    changes = {f"{each.metric} {each.statistic}": each for each in found(storm(1, failed=60), storm(0, failed=60))}
    assert changes["time_to_ssh_seconds p99"].finding is Finding.SHOWN
    assert changes["time_to_ssh_seconds p99"].why == "has no value here or before"


@dataclass(frozen=True, kw_only=True)
class _Rate(Record):
    METRICS = ("guest_io_iops",)
    OUTCOME = "guest_io_iops"
    HIGHER_IS_BETTER = ("guest_io_iops", "moved_per_second")
    FIGURES = ("moved_per_second",)

    guest_io_iops: float | None = None


def rates(seed: int, factor: float = 1.0, moved: float = 10.0) -> Measurement:
    chance = random.Random(seed)
    records = tuple(
        _Rate(
            namespace="a",
            vm_name=f"v{index}",
            os="rhel",
            status=Status.SUCCESS,
            requested_at=0.0,
            guest_io_iops=factor * chance.gauss(1000, 50),
        )
        for index in range(500)
    )
    return replace(make_measurement([1.0]), records=records, details={"moved_per_second": moved}, parameters={"vms": 500})


def test_of_rates_less_is_worse_and_their_tail_is_the_low_one():
    assert not those(found(rates(1, 1.2, 12), rates(0)), Finding.REGRESSION)
    worse = those(found(rates(1, 0.85, 8.0), rates(0)), Finding.REGRESSION)
    assert {"guest_io_iops p50", "guest_io_iops p10", "guest_io_iops p1", "moved_per_second value"} <= worse


def test_resampled_percentiles_are_those_of_samples_drawn_one_by_one():
    import numpy as np

    values = np.sort(np.random.default_rng(1).lognormal(size=200))
    drawn = np.sort(np.random.default_rng(2).choice(values, size=(4000, 200)), axis=1)[:, 179]
    short = _resampled(values, 180, 0)
    assert np.mean(short) == pytest.approx(np.mean(drawn), rel=0.02)
    assert np.std(short) == pytest.approx(np.std(drawn), rel=0.08)


# What is alike.

CLUSTER = {"kind": "embedded", "worker_count": 100, "node_shape": {"cpu": 40, "memory": "384Gi"}, "openshift_version": "4.9.15"}
WORKLOAD = {"os_mix": {"rhel": 100}, "storage_class": "ceph", "access_mode": "ReadWriteMany", "volume_mode": "Block", "disk_size": "40Gi"}


def seen(cluster: dict[str, Any] | None = None, workload: dict[str, Any] | None = None, **changes: Any) -> Conditions:
    return conditions(replace(storm(0, 100), **changes), {**CLUSTER, **(cluster or {})}, {**WORKLOAD, **(workload or {})})


@pytest.mark.parametrize(
    ("now", "name", "told"),
    [
        (seen(version="2.0.0"), "version", "scenario version: 1.0.0 there, 2.0.0 here"),
        (seen({"kind": "real"}), "kind", "cluster (embedded or real): embedded there, real here"),
        (seen(time_rate=20.0), "rate", "time rate: 1 there, 20 here"),
        (seen({"worker_count": 50}), "shape", "cluster shape: workers 100 there, 50 here"),
        (seen({"node_shape": {"cpu": 16, "memory": "384Gi"}}), "shape", "cluster shape: cpu 40 there, 16 here"),
        (seen(workload={"storage_class": "nfs"}), "storage", "storage: storage_class ceph there, nfs here"),
        (seen(workload={"os_mix": {"windows": 100}}), "mix", "OS mix: rhel 100 there, nothing here; windows nothing there, 100 here"),
        (seen(parameters={"vms": 100, "ssh_interval_seconds": 5.0}), "parameters", "parameters: ssh_interval_seconds 2 there, 5 here"),
    ],
)
def test_what_differs_is_named(now, name, told):
    assert differences(now, seen()) == {name: told}


def test_another_release_is_what_comparing_is_for():
    assert differences(seen({"openshift_version": "4.10.1"}), seen()) == {}


def test_the_command_line_knows_every_allowance():
    assert (*ALLOWANCES, "missing") == ALLOWED


# Files.


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def write(measurement: Measurement, run_id: str = "before", **cluster: Any) -> Path:
        files = ResultFiles(tmp_path / run_id, About(run_id, {"name": "pytest-vmscale", "version": "0.1.0"}, {**CLUSTER, **cluster}))
        files.scenario(measurement.scenario, measurement.size, WORKLOAD).finish(replace(measurement, run_id=run_id))
        return tmp_path / run_id

    return write


def test_a_measurement_is_read_as_it_was_written(saved):
    measurement = replace(storm(3, 40, failed=2), run_id="before", time_rate=20.0)
    (read,) = load([saved(measurement)])
    assert read.measurement.records == measurement.records
    assert read.measurement == replace(
        measurement, parameters={key: value for key, value in measurement.parameters.items() if key != "deadline_seconds"}, named="40 VMs"
    )


def test_every_scenario_can_be_read_again():
    assert [each.name for each in ALL if not each.record.METRICS] == []
    for each in ALL:
        assert set(each.record.HIGHER_IS_BETTER) <= {*each.record.METRICS, *each.record.FIGURES}


def broken(path: Path, change: Callable[[str], str]) -> Path:
    (file,) = path.glob("*_results.json")
    file.write_text(change(file.read_text()))
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[: len(text) // 2], "is not whole JSON"),
        (lambda text: text.replace('"requested_at"', '"requested"', 1), "is no results file: records.0"),
        (lambda text: text.replace('"boot-storm"', '"coffee-break"', 1), "there is no scenario 'coffee-break'"),
        (lambda text: "[]", "is no results file"),
    ],
)
def test_a_bad_file_is_one_line(saved, change, told):
    with pytest.raises(SavedError) as error:
        load([broken(saved(storm(0, 10)), change)])
    assert told in str(error.value) and "\n" not in str(error.value)
    assert "boot-storm-10_results.json: " in str(error.value)


def test_what_is_no_baseline(saved, tmp_path):
    with pytest.raises(SavedError, match="has no results"):
        load([tmp_path])
    with pytest.raises(SavedError, match="No such file"):
        load([tmp_path / "gone.json"])
    whole = saved(storm(0, 10), "whole")
    with pytest.raises(SavedError, match="boot-storm-10_results.json: is given twice"):
        load_baseline([whole, next(whole.glob("*_results.json"))])
    cut = saved(replace(storm(0, 10), complete=False, incomplete_reason="interrupted"))
    with pytest.raises(SavedError, match=r"was cut short \(interrupted\)"):
        load_baseline([cut])
    with pytest.raises(SavedError, match="has no records"):
        load([cut / "summary_boot-storm-10.json"])


def told(now: Measurement, baselines: list[Saved], *allow: str) -> Compared:
    return against([(now, conditions(now, CLUSTER, WORKLOAD))], baselines, 5.0, allow)


def test_what_is_not_alike_is_not_compared_unless_insisted(saved):
    baselines = load([saved(storm(0, 50), worker_count=3)])
    compared = told(storm(1, 50), baselines)
    assert compared.troubles == ["Boot storm, 50 VMs: cannot be compared with the baseline: cluster shape: workers 3 there, 100 here."]
    assert not compared.comparisons[0].changes
    compared = told(storm(1, 50), baselines, "shape")
    assert compared.comparisons[0].changes and not compared.troubles
    assert "Compared all the same, as --baseline-allow says: cluster shape" in "\n".join(lines(compared))


def test_another_number_of_vms_is_named(saved):
    baselines = load([saved(storm(0, 50))])
    assert told(storm(1, 60), baselines).troubles == ["Boot storm, 60 VMs: cannot be compared with the baseline: it has 50 VMs."]
    assert told(storm(1, 60), baselines, "vms").comparisons[0].insisted == ("number of VMs: 50 there, 60 here",)


def test_a_comparison_is_told_in_lines_and_as_data(saved):
    import jsonschema

    compared = told(storm(1, tail=1.3), load([saved(storm(0)), saved(storm(2), "earlier")]))
    text = lines(compared)
    assert max(map(len, text)) <= WIDTH
    assert text[0] == "Compared with 2 earlier runs (before, earlier), tolerance 5 %"
    assert any("time to SSH p99" in line and line.endswith("regression") for line in text)
    assert any(each.startswith("Boot storm, 1000 VMs: time to SSH p99: ") and "% longer" in each for each in compared.regressions)
    verdict = schema("verdict")
    jsonschema.validate(json.loads(json.dumps(data(compared))), {**verdict["$defs"]["comparison"], "$defs": verdict["$defs"]})
