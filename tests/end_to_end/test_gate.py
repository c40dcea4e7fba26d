"""The release gate: objectives and baselines of one's own, one verdict whatever else goes wrong, and one clear line for what is no input."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_vmscale.report.files import About, ResultFiles
from tests.unit.factories import make_storm

from .conftest import PYTEST, ROOT

SMALL = ("--sim-workers", "5", "--sim-speed", "60")
OWN = """extends: reference
objectives:
  bootstorm.p90:
    metric: time_to_ssh_seconds
    statistic: p90
    limit: 1 s
    source: our contract
"""


def saved(name: str, vms: int = 20, workers: int = 100, version: str = "1.0.0") -> Path:
    """A run's folder, as one left it. `version`: of the scenario."""
    folder = Path(name)
    cluster = {"kind": "embedded", "worker_count": workers, "node_shape": {"cpu": 40, "memory": "384Gi"}}
    files = ResultFiles(folder, About(name, {"name": "pytest-vmscale", "version": "0.1.0"}, cluster))
    storm = replace(make_storm(vms, 90.0), run_id=name, time_rate=20.0, version=version)
    files.scenario("boot-storm", None, {"os_mix": {"rhel": vms}}).finish(storm)
    return folder


def misspelt():
    Path("slo.yaml").write_text(OWN.replace("time_to_ssh", "time_to_shh"))
    return ["--slo=slo.yaml"], "slo.yaml:4: objectives.bootstorm.p90.metric: the scenario measures no 'time_to_shh_seconds'; did you mean"


def other_unit():
    Path("slo.yaml").write_text(OWN.replace("1 s", "900 IOPS"))
    return ["--slo=slo.yaml"], "slo.yaml:6: objectives.bootstorm.p90.limit: '900 IOPS': time_to_ssh_seconds is in us or ms or s or min or h"


def one_id_twice():
    Path("slo.yaml").write_text(OWN + OWN.partition("objectives:\n")[2])
    return ["--slo=slo.yaml"], "slo.yaml:8: 'objectives.bootstorm.p90' is given twice (first on line 3)"


def other_shape():
    return ["--baseline", str(saved("before", workers=7))], "cluster shape: workers 7 there, 100 here; --baseline-allow shape"


def other_size():
    return ["--baseline", str(saved("before", vms=30))], "boot-storm of 30 VMs there, 20 here; --baseline-allow vms"


def other_mix():
    arguments = ["--vm-mix", "rhel=50,fedora=50", "--baseline", str(saved("before"))]
    return arguments, "OS mix: rhel 20 there, 10 here; fedora nothing there, 10 here; --baseline-allow mix"


def other_version():
    arguments = ["--baseline", str(saved("before", version="0.9.0"))]
    return arguments, "scenario version: 0.9.0 there, 1.0.0 here; --baseline-allow version to compare all the same"


def truncated():
    (path,) = saved("before").glob("*_results.json")
    path.write_text(path.read_text()[:2000])
    return ["--baseline", "before"], "--baseline before/boot-storm_results.json: is not whole JSON: "


@pytest.mark.parametrize("wrong", [misspelt, other_unit, one_id_twice, other_shape, other_size, other_mix, other_version, truncated])
def test_what_is_no_input_is_one_line_before_anything_is_started(scale, wrong):
    arguments, told = wrong()
    outcome = scale("--vms", "20", *arguments, in_process=True)
    assert outcome.code == 4, outcome.out + outcome.err
    assert told in outcome.err
    assert len([line for line in outcome.err.splitlines() if line.strip()]) == 1, outcome.err
    assert outcome.nothing_started


@pytest.fixture
def gate(tmp_path):
    """`gate("first", "-m", "bootstorm")`: a run of that id, in one folder with the others; its exit code, output and verdict."""

    def run(run_id: str, *arguments: str) -> tuple[int, str, dict]:
        command = [*PYTEST, "-o", f"cache_dir={tmp_path / 'cache'}", "--run-id", run_id, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
        return done.returncode, done.stdout + done.stderr, json.loads((tmp_path / "vmscale-results" / run_id / "verdict.json").read_text())

    return run


def test_one_verdict_whatever_else_goes_wrong(gate, tmp_path):
    """A suite that the cluster does not fit stops no other; what broke is judged alike on xdist's workers and with --last-failed."""
    (tmp_path / "slo.yaml").write_text(OWN)
    upgrade, storm = (str(ROOT / "suites" / f"test_{name}.py") for name in ("upgrade", "bootstorm"))
    slo, junit = f"--slo={tmp_path / 'slo.yaml'}", tmp_path / "junit.xml"
    code, out, first = gate(
        "first", upgrade, storm, "-n", "2", "--upgrade-to", "4.12.1", slo, "--vms", "5", "--junitxml", str(junit), *SMALL
    )
    assert code == first["exit_code"] == 1, out  # what broke outweighs what could not be measured
    assert first["why"][0].startswith("Time to ssh p90 (5 VMs): ") and any("4.12.1 is not offered" in each for each in first["why"])
    told = {each.get("name"): each for each in ET.parse(junit).iter("testcase") if "bootstorm" in each.get("classname")}
    assert len(told) == 8  # a case for each objective
    properties = {each.get("name"): each.get("value") for each in told["test_own_objective[5-vms-bootstorm.p90]"].iter("property")}
    assert properties["vmscale.limit"] == "1" and float(properties["vmscale.measured"]) > 10
    assert (properties["vmscale.verdict"], properties["vmscale.source"]) == ("fail", "our contract")

    baseline = ("--baseline", str(tmp_path / "vmscale-results" / "first"))
    code, out, again = gate("again", storm, slo, "--vms", "5", "--last-failed", *baseline, *SMALL)
    assert "1 failed" in out and "passed" not in out
    assert code == again["exit_code"] == 1
    judged = [{each["id"]: each["verdict"] for each in verdict["objectives"]} for verdict in (first, again)]
    assert judged[0] == judged[1]
    assert again["why"][0].startswith("Time to ssh p90 (5 VMs): ") and again["comparison"]["regressions"] == 0


def test_a_sweep_that_failed_alone_is_measured_with_its_points(scale):
    sweep = "suites/test_bootstorm.py::TestBootStormSweep::test_sweep_is_near_linear"
    Path("cache/v/cache").mkdir(parents=True)
    Path("cache/v/cache/lastfailed").write_text(json.dumps({sweep: True}))
    collected = scale(
        "--vms", "5,10,20", "--last-failed", "--collect-only", "-q", "-p", "cacheprovider", "-o", f"cache_dir={Path('cache').resolve()}"
    )
    assert collected.code == 0, collected.out + collected.err
    named = [line for line in collected.out.splitlines() if "::" in line]
    assert [sum(f"[{vms}-vms" in line for line in named) for vms in (5, 10, 20)] == [7, 7, 7] and named[-1] == sweep


def test_each_suite_puts_back_what_it_changed_before_the_next_begins():
    """A migration's zones cannot be what they were once an upgrade has been through them."""
    from fixtures.edits import edits

    assert edits._fixture_function_marker.scope == "module"
