"""Runs that are over: compared and told again from their folders alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pytest_vmscale import cli
from pytest_vmscale.model import Measurement, Objective, Outcome
from pytest_vmscale.report import comparison, offline
from pytest_vmscale.report.files import About, ResultFiles, problems
from pytest_vmscale.report.saved import load
from pytest_vmscale.report.terminal import summary_lines
from pytest_vmscale.slo.baseline import conditions
from pytest_vmscale.slo.judge import verdict
from pytest_vmscale.slo.profile import load_profile
from tests.unit.factories import judge_storm, make_measurement, make_storm

CLUSTER = {
    "kind": "embedded",
    "openshift_version": "4.9.15",
    "worker_count": 100,
    "node_shape": {"cpu": 40, "memory": "384Gi"},
    "time_rate": 20.0,
}
WORKLOAD = {"os_mix": {"rhel": 200}, "storage_class": "ceph"}
PROFILE = load_profile("reference")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """A run's folder with this measurement, judged, and compared with `before`."""

    def write(measurement: Measurement, run_id: str, before: Path | None = None, point: int | None = None) -> Path:
        measurement = replace(measurement, run_id=run_id, time_rate=20.0)
        files = ResultFiles(tmp_path / run_id, About(run_id, {"name": "pytest-vmscale", "version": "0.1.0"}, CLUSTER))
        objectives = judge_storm(measurement, PROFILE)
        files.scenario(measurement.scenario, point, WORKLOAD).finish(measurement, objectives)
        compared = None
        if before:
            taken = [(measurement, conditions(measurement, CLUSTER, WORKLOAD))]
            compared = comparison.against(taken, load([before]), 5.0)
        ruling = verdict(objectives, failures=compared.regressions if compared else ())
        path = files.write_verdict(ruling, comparison.data(compared) if compared else None, "reference")
        assert problems(path) == []
        return tmp_path / run_id

    return write


class _Page(HTMLParser):
    """What a page has: its text, and everything that it would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.fetched, self.tags = "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        for name in ("src", "href", "xlink:href"):
            if name in found and not found[name].startswith("#"):
                self.fetched.append(found[name])

    def handle_data(self, data):
        self.text += data


def test_the_terminals_words_are_the_same_afterwards(run):
    folder = run(make_storm(200, 150.0, lost=3), "r1")
    over = offline.read(folder)
    measurement = over.measurements[0]
    said = summary_lines(
        verdict(judge_storm(measurement, PROFILE)), [measurement], folder, lambda each: "embedded cluster, simulated at 20x"
    )
    assert offline.lines(over) == said


def test_markdown_fits_into_a_message_and_says_what_broke_first(run):
    before = run(make_storm(200, 150.0), "before")
    text = offline.markdown(offline.read(run(make_storm(200, 400.0, lost=3), "after", before)))
    assert text.startswith("**FAIL** · scale acceptance, run `after`") and "simulated at 20x" in text
    rows = [line for line in text.splitlines() if line.startswith(("| ❌", "| ✅"))]
    assert rows[0].startswith("| ❌ | Every VM boots, 200 VMs | 197 of 200 | 100 % |")
    assert "time to SSH p90: " in text and "% longer than the baseline's" in text
    assert len(text) < 4000


def test_markdown_of_a_run_that_passed(run):
    before = run(make_storm(200, 150.0), "before")
    text = offline.markdown(offline.read(run(make_storm(200, 151.0, seed=2), "after", before)))
    assert text.startswith("**PASS**") and "- No regression against before" in text and "❌" not in text


def test_markdown_of_many_objectives_has_a_line_for_each_scenario(run):
    over = offline.read(run(make_storm(200, 150.0), "r1"))
    made = [
        Objective(f"{prefix}.number_{n}", f"Number {n}", Outcome.PASS, 5.0 + n, f"{5 + n} s", 50.0, 9.0, "s", (45 - n) * 2.0, "we", scope="200 VMs")
        for prefix in ("bootstorm", "migration")
        for n in range(8)
    ]
    made[3] = replace(made[3], outcome=Outcome.FAIL, measured_text="90.0 s", margin_percent=-80.0)
    made[4] = replace(made[4], measured_text="200 of 200", margin_percent=0.0)
    text = offline.markdown(replace(over, verdict=verdict(made)))
    assert [line for line in text.splitlines() if line.startswith(("| ❌", "| ✅"))] == [
        "| ❌ | Number 3, 200 VMs | 90.0 s | 50 s | -80.0 % |",
        "| ❌ | Boot storm | 7 of 8 | Number 7, 200 VMs: 12 s, +76.0 % |",
        "| ✅ | Migration | 8 of 8 | Number 7, 200 VMs: 12 s, +76.0 % |",
    ]


def test_a_page_needs_nothing_but_itself(run):
    before = run(make_storm(200, 150.0), "before")
    folder = run(make_storm(200, 400.0, lost=3), "after", before)
    text = offline.report_page(offline.read(folder))
    page = _Page(text)
    assert page.fetched == [] and not {"script", "link", "img", "iframe"} & set(page.tags)
    assert page.tags.count("svg") >= 3
    assert "url(http" not in text and "@import" not in text
    for told in (
        "FAIL",
        "Storm duration, 200 VMs",
        "3 of 200 VMs never booted",
        "time to SSH p90",
        "OpenShift",
        "4.9.15",
        "Start 200 VMs at once",
    ):
        assert told in page.text, told


def test_a_page_of_several_scenarios_is_grouped_by_them_and_names_each_source_once(run):
    folder = run(make_storm(200, 150.0), "r1")
    over = offline.read(folder)
    storm = over.verdict.objectives
    deployed = replace(storm[0], id="deployment.every_vm_deployed", title="Every VM deployed", outcome=Outcome.FAIL, why="one was lost")
    text = _Page(offline.report_page(replace(over, verdict=replace(over.verdict, objectives=(*storm, deployed))))).text
    assert "Boot storm: 2 of 2 met" in text and "Deployment: 0 of 1 met" in text
    assert text.count(storm[0].source) == 1 + sum(line.count(storm[0].source) for line in over.verdict.why)
    assert "Boot storm: 2 of 2 met" not in _Page(offline.report_page(over)).text


def test_points_are_told_in_the_order_in_which_they_were_measured(run):
    for size in (1000, 200):
        folder = run(replace(make_storm(size, 150.0), started_epoch=1e9 + size), "r1", point=size)
    assert [each.size for each in offline.read(folder).measurements] == [200, 1000]


def test_what_a_guest_says_is_text_and_no_markup(run):
    measurement = make_storm(200, 150.0, lost=1)
    evil = replace(measurement.records[-1], error="<script>alert(1)</script>")
    text = offline.report_page(offline.read(run(replace(measurement, records=(*measurement.records[:-1], evil)), "r1")))
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_compare_says_what_is_worse_and_ends_with_1(run, capsys, tmp_path):
    first, second, last = (
        str(run(make_storm(200, *each), name)) for each, name in (((150.0,), "a"), ((151.0, 0, 2), "b"), ((400.0,), "c"))
    )
    assert cli.main(["compare", first, second, last, "-o", str(tmp_path / "out.html")]) == 1
    out = capsys.readouterr().out
    assert re.search(r"time to SSH p90 +\d+\.\d s +\d+\.\d s +\+\d+\.\d % +\d+\.\d %  regression", out)
    page = _Page((tmp_path / "out.html").read_text())
    assert page.tags.count("svg") == 1 and page.fetched == [] and "regressions" in page.text
    assert "Compared with 2 earlier runs (a, b), tolerance 5 %." in page.text
    assert cli.main(["compare", first, second]) == 0


def test_compare_refuses_what_is_not_alike(run, capsys):
    first, last = run(make_storm(200, 150.0), "a"), run(make_measurement([30.0] * 200, version="2.0.0"), "b")
    assert cli.main(["compare", str(first), str(last)]) == 11
    assert "not compared: scenario version: 1.0.0 there, 2.0.0 here" in capsys.readouterr().out
    assert cli.main(["compare", str(first), str(last), "--baseline-allow", "version"]) == 0
    assert "Compared all the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["report", "nowhere"], "nowhere: is no run's folder"),
        (["report", "."], ".: has no verdict.json"),
        (["compare", "a"], "compare: name at least two runs"),
        (["compare", "a", "b"], "a: No such file or directory"),
        (["compare", "a", "b", "--regression-tolerance", "-1"], "--regression-tolerance -1: must be at least 0"),
    ],
)
def test_bad_input_is_one_line(capsys, monkeypatch, tmp_path, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 4
    said = capsys.readouterr()
    assert (said.out == "" and said.err == f"vmscale: {told}\n") or said.err.startswith(f"vmscale: {told}: ")
    assert len(said.err.splitlines()) == 1


def test_report_writes_and_prints(run, capsys, tmp_path):
    folder = run(make_storm(200, 150.0), "r1")
    assert cli.main(["report", str(folder)]) == 0
    assert "Verdict: PASS (exit code 0)" in capsys.readouterr().out
    assert cli.main(["report", str(folder), "--markdown", "-o", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out.startswith("**PASS**")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert cli.main(["report", str(folder), "-o", str(tmp_path)]) == 4
