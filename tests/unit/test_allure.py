"""Allure results as allure-pytest writes them, and JUnit properties."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.model import Objective
from pytest_vmscale.report import allure as report
from pytest_vmscale.report import tables
from pytest_vmscale.report.junit import properties
from pytest_vmscale.slo.profile import load_profile
from tests.unit.factories import judge_storm, judge_sweep, make_measurement, make_record, make_storm

PROFILE = load_profile("reference")
SUITE = """
import pytest
from pytest_vmscale.model import Outcome
from pytest_vmscale.report.allure import active, attach
from pytest_vmscale.slo.profile import load_profile
from tests.unit.factories import judge_storm, judge_sweep, make_storm

PROFILE = load_profile("reference")
STORMS = [make_storm(100, 90.0), make_storm(200, 190.0), make_storm(300, 420.0, lost=12)]


class MeasurementFailed(Exception):
    pass


class Run:
    objectives = [each for storm in STORMS for each in judge_storm(storm, PROFILE)]
    evidence = {("boot-storm", "300 VMs"): "Warning FailedScheduling"}

    def subtitle(self, measurement):
        return "embedded cluster, simulated at 60x"


@pytest.mark.parametrize("vms", [100, 200, 300], ids=lambda vms: f"{vms}-vms")
@pytest.mark.parametrize("name", ["every_vm_boots", "duration", "boot_time_p99"])
def test_storm(vms, name):
    storm = next(each for each in STORMS if each.size == vms)
    objective = next(each for each in judge_storm(storm, PROFILE) if each.id == f"bootstorm.{name}")
    attach(objective, [storm], Run())
    if objective.outcome is Outcome.FAIL:
        raise AssertionError(f"{objective.title}: {objective.measured_text}")


def test_sweep():
    (objective,) = judge_sweep(STORMS, PROFILE)
    attach(objective, STORMS, Run())
    if objective.outcome is Outcome.FAIL:
        raise AssertionError(objective.why)


def test_trouble():
    raise MeasurementFailed("the API server went away")


def test_active(request):
    assert active() is bool(request.config.getoption("allure_report_dir", None))
"""


def run_suite(folder: Path, *options: str, suite: str = SUITE) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(textwrap.dedent(suite))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:vmscale",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(folder),
        "test_it.py",
    ]
    root = Path(__file__).parents[2]
    return subprocess.run([*command, "-o", f"pythonpath={root}", *options], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("allure")
    done = run_suite(folder, "--alluredir", str(folder / "results"))
    assert "4 failed, 8 passed" in done.stdout, done.stdout + done.stderr
    return folder / "results"


def result(results: Path, name: str) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in results.glob("*-result.json")]
    return next(each for each in found if each["name"].startswith(name))


def attachment(results: Path, test: dict[str, Any], name: str) -> str:
    return (results / next(each["source"] for each in test["attachments"] if each["name"] == name)).read_text()


def test_without_allure_nothing_is_drawn(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "-k", "active or 100-vms")
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_a_breach_is_failed_and_trouble_is_broken(results: Path) -> None:
    assert result(results, "Storm duration, 300 VMs: ")["status"] == "failed"
    assert result(results, "Storm duration, 100 VMs: ")["status"] == "passed"
    trouble = result(results, "test_trouble")
    assert trouble["status"] == "broken"
    assert "MeasurementFailed" in trouble["statusDetails"]["message"]


def test_what_a_test_shows(results: Path) -> None:
    test = result(results, "Storm duration, 300 VMs: ")
    assert test["name"] == "Storm duration, 300 VMs: > 3600 s (limit 347.6 s)"
    labels = {each["name"]: each["value"] for each in test["labels"]}
    assert (labels["epic"], labels["feature"], labels["story"]) == ("Scale acceptance", "Boot storm", "Storm duration")
    assert (labels["severity"], labels["tag"]) == ("critical", "bootstorm.duration")
    steps = [step["name"] for step in test["steps"]]
    assert steps[0] == "Start 300 VMs at once (812 requests/s)"
    assert steps[-2].startswith("288 of 300 VMs answer SSH, the slowest 420.0 s")
    assert steps[-1] == "Judge storm duration: > 3600 s, limit 347.6 s: fail"
    asked = {each["name"]: each for each in test["parameters"]}
    assert (asked["vms"]["value"], asked["vms"].get("excluded")) == ("300", None)  # what tells the points apart stays
    assert asked["deadline, s"]["value"] == "3600" and asked["deadline, s"]["excluded"]
    assert "| Measured | > 3600 s |" in test["description"]
    assert "simulated at 60x" in test["description"]
    assert [each["name"] for each in test["attachments"]] == [
        "VMs up over time",
        "Where a boot's time goes",
        "Failed VMs: events and logs",
        "The worst ten VMs",
        "Summary",
    ]
    assert {each["type"] for each in test["attachments"]} == {"image/svg+xml", "text/html", "text/plain"}


def test_all_records_are_attached_once_a_storm(results: Path) -> None:
    test = result(results, "Every VM boots, 300 VMs: ")
    assert len(attachment(results, test, "All 300 records").splitlines()) == 301
    tables = list(results.glob("*-attachment.csv"))
    assert len(tables) == 3


def test_percentiles_share_a_story(results: Path) -> None:
    labels = {each["name"]: each["value"] for each in result(results, "Boot time p99, 100 VMs: ")["labels"]}
    assert labels["story"] == "Boot time percentiles"
    assert result(results, "Boot time p99, 300 VMs: ")["name"] == "Boot time p99, 300 VMs: > 3600 s (reported)"


def test_a_sweep_shows_its_chart(results: Path) -> None:
    test = result(results, "Near-linear growth")
    assert test["status"] == "failed"
    assert "Duration over the number of VMs" in {each["name"] for each in test["attachments"]}
    assert attachment(results, test, "Summary").count("\n") > 4


class Cells(HTMLParser):
    """The text of a table's cells, row by row; an unclosed or stray tag is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.feed(text)
        assert not self.tags

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        if tag not in ("meta", "br"):
            self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_worst_ten_are_the_lost_then_the_slowest() -> None:
    rows = Cells(tables.worst_table(make_storm(40, 60.0, lost=3), "SSH answers")).rows[1:]
    assert len(rows) == 10
    assert [row[5] for row in rows[:3]] == ["never"] * 3
    assert rows[0][4].endswith("no further than Scheduling")
    times = [float(row[5].split()[0]) for row in rows[3:]]
    assert times == sorted(times, reverse=True) and times[0] == 60.0


def test_what_a_cluster_says_is_no_markup() -> None:
    record = make_record(0, None, error="<script>alert(1)</script>", vm_name="a<b")
    table = tables.worst_table(make_measurement([], records=(record,), parameters={}), "SSH answers")
    assert "<script" not in table
    assert Cells(table).rows[1][-1] == "<script>alert(1)</script>"


# The run as a whole


def test_session_files(tmp_path: Path) -> None:
    report.write_environment(
        tmp_path / "a", {"kind": "embedded", "node_shape": {"cpu": 40}, "time_rate": 20.0, "none": None, "path": "C:\\x\ny"}, {}
    )
    lines = (tmp_path / "a" / "environment.properties").read_text().splitlines()
    assert lines == ["Cluster=embedded", "Each\\ worker=cpu 40", "Time\\ rate=20", "Path=C:\\\\x y"]
    assert not (tmp_path / "a" / "executor.json").exists()
    report.write_environment(tmp_path / "a", {}, {"JENKINS_URL": "x", "JOB_NAME": "gate", "BUILD_NUMBER": "7", "BUILD_URL": "https://ci/7"})
    told = json.loads((tmp_path / "a" / "executor.json").read_text())
    assert told == {"name": "Jenkins", "type": "jenkins", "buildName": "gate #7", "buildOrder": 7, "buildUrl": "https://ci/7"}


def test_executors() -> None:
    github = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKFLOW": "gate",
        "GITHUB_RUN_NUMBER": "3",
        "GITHUB_RUN_ID": "99",
        "GITHUB_REPOSITORY": "me/it",
    }
    told = report.executor(github)
    assert told is not None and told["buildUrl"] == "https://github.com/me/it/actions/runs/99"
    assert report.executor({}) is None
    prow = report.executor({"PROW_JOB_ID": "u", "JOB_NAME": "periodic", "BUILD_ID": "17"})
    assert prow is not None and prow["buildName"] == "periodic #17"


@pytest.mark.parametrize(
    ("status", "message", "name"),
    [
        ("failed", "AssertionError: Storm duration", "SLO breach"),
        ("broken", "pytest_vmscale.run.ClusterUnfit: 3 nodes\nmore", "Cluster not fit for the suite"),
        ("broken", "pytest_vmscale.run.MeasurementFailed: gone\nmore", "Measurement could not be taken"),
        ("broken", "KeyError: 'x'", "Measurement could not be taken"),
    ],
)
def test_every_failure_is_in_one_category(status: str, message: str, name: str) -> None:
    fitting = [
        each["name"]
        for each in report.CATEGORIES
        if status in each["matchedStatuses"] and re.fullmatch(str(each.get("messageRegex", "(?s).*")), message)
    ]
    assert fitting == [name]


# JUnit


def by_id(objectives: tuple[Objective, ...], id: str) -> Objective:
    return next(each for each in objectives if each.id == id)


def test_properties_of_an_objective() -> None:
    told = properties(by_id(judge_storm(make_storm(1000, 1060.0), PROFILE), "bootstorm.duration"))
    assert told["vmscale.objective"] == "bootstorm.duration"
    assert (told["vmscale.verdict"], told["vmscale.measured"], told["vmscale.limit"]) == ("pass", "1061", "1171.5")
    assert told["vmscale.reference"] == "1065"
    assert float(told["vmscale.margin_percent"]) == pytest.approx(9.43, abs=0.01)
    assert told["vmscale.source"].startswith("Red Hat reference architecture")


def test_a_figure_that_there_is_none_of_is_left_out() -> None:
    lost = properties(by_id(judge_storm(make_storm(100, 90.0, lost=1), PROFILE), "bootstorm.duration"))
    assert "vmscale.measured" not in lost and "vmscale.margin_percent" not in lost
    assert lost["vmscale.measured_text"] == "> 3600 s"
    assert all(isinstance(value, str) and value for value in lost.values())
    (sweep,) = judge_sweep([make_storm(10, 20.0), make_storm(20, 30.0)], PROFILE)
    assert "vmscale.limit" not in properties(sweep)


INSPECTED = """
from pathlib import Path

import pytest
from pytest_vmscale.report.allure import attach_inspection


@pytest.fixture(scope="module")
def fleet():
    yield
    archive = Path("gathered.tar.gz")
    archive.write_bytes(b"packed")
    attach_inspection("main", archive, "error: one pod's log could not be read")


def test_fleet(fleet):
    pass
"""


def test_what_was_inspected_is_attached_to_the_tear_down(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "--alluredir", str(tmp_path / "results"), suite=INSPECTED)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    containers = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*-container.json")]
    attached = [each for container in containers for after in container.get("afters", ()) for each in after.get("attachments", ())]
    assert [(each["name"], each["type"]) for each in attached] == [
        ("oc adm inspect: main", "application/gzip"),
        ("oc adm inspect failed: main", "text/plain"),
    ]
    contents = [(tmp_path / "results" / each["source"]).read_bytes() for each in attached]
    assert contents == [b"packed", b"error: one pod's log could not be read"]
