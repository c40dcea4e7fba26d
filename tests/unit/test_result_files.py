"""Result files: what is in them, that they keep to their schemas, and what a killed run leaves."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from pytest_vmscale import options
from pytest_vmscale.embedded.clock import SimClock
from pytest_vmscale.embedded.truth import Truth
from pytest_vmscale.model import Measurement
from pytest_vmscale.report.files import About, ResultFiles, ScenarioFiles, schema, write_json
from pytest_vmscale.run import Run
from pytest_vmscale.slo.judge import verdict
from pytest_vmscale.slo.profile import load_profile
from tests.unit.factories import judge_storm, judge_sweep, make_measurement, make_record, make_storm

ABOUT = About(
    run_id="r-20261121-080000",
    tool={"name": "pytest-vmscale", "version": "0.1.0", "git_commit": None},
    cluster={
        "kind": "embedded",
        "distribution": "openshift",
        "openshift_version": "4.9.15",
        "kubernetes_version": "v1.22.3",
        "kubevirt_version": "v0.44.3",
        "cdi_version": "v1.38.0",
        "node_count": 103,
        "worker_count": 100,
        "node_shape": {"cpu": 40, "memory": "384Gi"},
        "time_rate": 60.0,
    },
)


def check(data: dict[str, Any], name: str) -> None:
    registry: Registry[Any] = Registry().with_resources(
        (schema(each)["$id"], Resource.from_contents(schema(each))) for each in ("results", "summary", "verdict")
    )
    validator = jsonschema.Draft202012Validator(schema(name), registry=registry)
    validator.validate(data)


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


@pytest.fixture
def files(tmp_path: Path) -> ResultFiles:
    return ResultFiles(tmp_path / "run", ABOUT)


def finish(files: ResultFiles, measurement: Measurement) -> ScenarioFiles:
    scenario = files.scenario("boot-storm", workload={"vm_template": "rhel-8.5", "os_mix": {"rhel": 3}})
    for record in measurement.records:
        scenario.append(record)
    scenario.finish(measurement, judge_storm(measurement, load_profile("reference")), {"requested": True, "status": "Success"})
    return scenario


@pytest.mark.parametrize("name", ["results", "summary", "verdict"])
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize(
    "measurement",
    [
        make_storm(100, 90.0),
        make_storm(100, 90.0, lost=7),
        make_measurement([None, None]),
        make_measurement([]),
        make_measurement([5.0], complete=False, incomplete_reason="Ctrl-C"),
    ],
)
def test_every_file_keeps_to_its_schema(files: ResultFiles, measurement: Measurement) -> None:
    scenario = finish(files, measurement)
    check(read(scenario.paths.results), "results")
    check(read(scenario.paths.summary), "summary")
    ruling = verdict(judge_storm(measurement, load_profile("reference")))
    check(read(files.write_verdict(ruling, profile="reference")), "verdict")
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "boot-storm_results.csv",
        "boot-storm_results.json",
        "summary_boot-storm.json",
        "verdict.json",
    ]


def test_the_schema_refuses_what_is_wrong(files: ResultFiles) -> None:
    good = read(finish(files, make_storm(3, 30.0)).paths.results)
    for change in ({"extra": 1}, {"records": None}, {"records": [{}]}, {"timestamp": "yesterday"}, {"slo": [{"id": "x"}]}):
        with pytest.raises(jsonschema.ValidationError):
            check({**good, **change}, "results")
    with pytest.raises(jsonschema.ValidationError):
        check(good, "summary")
    ruling = read(files.write_verdict(verdict([])))
    with pytest.raises(jsonschema.ValidationError):
        check({**ruling, "exit_code": 0}, "verdict")


def test_what_the_results_say(files: ResultFiles) -> None:
    measurement = make_measurement([10.0, None, 30.0])
    paths = finish(files, measurement).paths
    results = read(paths.results)
    assert results["timestamp"] == "2026-11-21T08:00:00Z"
    assert results["scenario"] == {"name": "boot-storm", "version": "1.0.0"}
    assert results["cleanup"] == {"requested": True, "status": "Success"}
    aggregate = results["aggregate"]
    assert (aggregate["total_vms"], aggregate["successful_vms"], aggregate["failed_vms"]) == (3, 2, 1)
    ssh = aggregate["time_to_ssh_seconds"]
    assert ssh == {"measured": 2, "min": 10.0, "mean": None, "p50": 30.0, "p75": None, "p90": None, "p95": None, "p99": None, "max": None}
    lost = results["records"][1]
    assert (lost["status"], lost["time_to_ssh_seconds"], lost["last_phase"]) == ("TimedOut", None, "Scheduling")
    assert results["records"][0]["timeline"][0] == {"phase": "created", "seconds": 1.0, "upper_bound": False, "object_seconds": 0.6}
    assert results["slo"][0]["verdict"] == "fail"
    assert {key: value for key, value in results.items() if key != "records"} == read(paths.summary)


def test_the_table_has_a_row_a_record(files: ResultFiles) -> None:
    record = make_record(0, None, error='said "no",\nand no more', request_retries=("429", "reset"))
    measurement = make_measurement([], records=(record, make_record(1, 12.5)), parameters={})
    with finish(files, measurement).paths.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["vm_name"] for row in rows] == ["storm-0000", "storm-0001"]
    assert rows[0]["error"] == 'said "no",\nand no more'
    assert rows[0]["time_to_ssh_seconds"] == ""
    assert rows[0]["request_retries"] == "429 | reset"
    assert rows[1]["time_to_ssh_seconds"] == "12.5"
    assert rows[0]["status"] == "TimedOut"


def test_a_sweep_has_files_for_each_point(files: ResultFiles) -> None:
    measurements = [make_storm(size, size * 1.0 + 30) for size in (10, 20, 30)]
    for measurement in measurements:
        files.scenario("boot-storm", measurement.size).finish(measurement)
    assert (files.folder / "boot-storm-20_results.json").exists()
    assert (files.folder / "summary_boot-storm-30.json").exists()
    check(read(files.write_verdict(verdict(judge_sweep(measurements, load_profile("reference"))))), "verdict")
    with pytest.raises(FileExistsError, match=r"boot-storm-20_results\.json"):
        files.scenario("boot-storm", 20)


def test_two_at_once_do_not_mix(files: ResultFiles) -> None:
    files.scenario("boot-storm")
    with pytest.raises(FileExistsError):
        files.scenario("boot-storm")


def test_finish_again_says_how_the_clean_up_went(files: ResultFiles) -> None:
    scenario = files.scenario("boot-storm", workload={"vm_template": "rhel-8.5", "os_mix": {"rhel": 3}})
    measurement = make_storm(3, 30.0)
    scenario.finish(measurement)
    assert read(scenario.paths.results)["cleanup"] == {"requested": False, "status": None}
    scenario.finish(measurement, cleanup={"requested": True, "status": "Success"})
    assert read(scenario.paths.results)["cleanup"]["status"] == "Success"


def test_a_killed_run_leaves_its_records(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from pytest_vmscale.report.files import ResultFiles
from tests.unit.factories import make_record
from tests.unit.test_result_files import ABOUT
scenario = ResultFiles(Path({str(tmp_path)!r}), ABOUT).scenario("boot-storm")
for index in range(3):
    scenario.append(make_record(index))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    lines = (tmp_path / "boot-storm_records.jsonl").read_text().splitlines()
    assert [json.loads(line)["vm_name"] for line in lines] == ["storm-0000", "storm-0001", "storm-0002"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"seconds": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"seconds": math.nan})
    with pytest.raises(TypeError, match="no place in a result file"):
        write_json(path, {"seconds": object()})
    assert read(path) == {"seconds": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """As good as one: no file may grow beyond a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_no_measurement_and_the_verdict_tells(pytester: pytest.Pytester) -> None:
    run = Run(options.settings(pytester.parseconfig("--vms=10", "--run-id=r1")), load_profile("reference"))
    run.select(["bootstorm"])
    storm = make_storm(10, 60.0)
    files = run.scenario_files(storm.scenario, None, {})
    with full_disk():
        for record in storm.records:
            files.append(record)
        assert run.measured(storm, files)
        outcome = run.finish(interrupted=False)
    assert outcome is not None and outcome["exit_code"] == 11
    assert "  The results in vmscale-results/r1 are not whole: File too large." in outcome["lines"]
    assert not any(line.startswith("Traceback") for line in outcome["lines"])


def test_the_cluster_goes_on_where_its_truth_finds_no_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = Truth(SimClock(1.0), tmp_path / "truth.jsonl")
    with full_disk():
        for number in range(3):
            truth.write("vm", "a", f"vm-{number}")
            truth.flush()
    truth.close()
    assert capsys.readouterr().err == f"vmscale: {tmp_path / 'truth.jsonl'} ends here: File too large\n"


def test_the_verdict_is_written_before_the_charts_are_drawn(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(run: Run) -> list[Path]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_charts", killed)
    run = Run(options.settings(pytester.parseconfig("--vms=10", "--run-id=r1")), load_profile("reference"))
    run.select(["bootstorm"])
    storm = make_storm(10, 60.0)
    run.measured(storm, run.scenario_files(storm.scenario, None, {}))
    with pytest.raises(KeyboardInterrupt):
        run.finish(interrupted=False)
    verdict = json.loads(Path("vmscale-results/r1/verdict.json").read_text())
    assert (verdict["exit_code"], verdict["charts"]) == (0, [])
