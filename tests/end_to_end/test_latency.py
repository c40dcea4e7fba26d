"""Whole runs of the latency suite on the embedded cluster, as a user starts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_vmscale.report.files import problems

SUITE = "suites/test_latency.py"
FIO = """
fio: {directories: 3, files_per_directory: 2, file_size: 64Ki, baseline_iops: 5, baseline_seconds: 60, workload_seconds: 30, ramp_seconds: 10}
"""


@pytest.fixture
def latency(scale):
    """A small run: two VMs on each node, and a short fio."""
    Path("vmscale.yaml").write_text(FIO)

    def run(*arguments: str):
        return scale("--sim-workers", "4", "--vms-per-node", "2", "--vmscale-config", "vmscale.yaml", *arguments, suite=SUITE)

    return run


def test_baseline_and_workload_over_two_node_counts(latency):
    outcome = latency("--nodes", "1,3", "--sim-fault", "ssh-lost=1", "--alluredir=allure")
    assert outcome.code == 0, outcome.out + outcome.err
    paths = list(outcome.results.glob("*.json"))
    assert len(paths) == 5 and [problem for path in paths for problem in problems(path)] == []
    results = outcome.json("fio-3_results.json")
    assert [record["node"] for record in results["records"]] == [f"worker-00{number // 2}" for number in range(6)]
    phases = results["details"]["phases"]
    assert phases["workload-write"]["samples"] == sum(phases["workload-write"]["histogram"].values()) == 6 * 30 * 1000
    assert phases["baseline-read"]["mean_seconds"] == pytest.approx(320e-6, rel=0.01)
    assert "coefficient of variation" in outcome.out
    # The guest whose SSH was away in the middle of each run has all its results.
    assert results["aggregate"]["successful_vms"] == 6
    assert {path.stem for path in (outcome.results / "charts").iterdir()} >= {"latency_nodes", "latency-3_heat", "latency-1_histogram"}


def test_a_slow_node_is_named_with_its_vms(latency):
    outcome = latency("--nodes", "3", "--sim-fault", "slow-node=1")
    assert outcome.code == 1
    verdict = " ".join(outcome.json("verdict.json")["why"])
    assert "worker-000" in verdict and "rhel-00000, rhel-00001" in verdict and "rhel-00002" not in verdict


@pytest.mark.parametrize(
    "fault, said", [("no-fio=2", "2 of 2 guests have no fio"), ("disk-full=1", "1 of 2 guests have no room for the dataset")]
)
def test_guests_that_are_not_fit_end_the_run_before_any_load(latency, fault, said):
    outcome = latency("--nodes", "1", "--sim-fault", fault)
    assert outcome.code == 10, outcome.out + outcome.err
    assert said in outcome.out and not list(outcome.results.glob("fio*"))


@pytest.mark.parametrize(
    "arguments, fio, said",
    [
        (("--nodes", "5"), "", "--nodes 5: the embedded cluster has 4 workers"),
        (("--nodes", "1,0"), "", "--nodes 1,0: '0' is not a whole number above 0"),
        (("--nodes", "1"), "fio: {workload_iops: 0}", "workload_iops"),
        (("--nodes", "1"), "fio: {file_size: 20Mi}", "46.9 GiB, more than the 40Gi disk of guests.rhel"),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_is_started(latency, arguments, fio, said):
    if fio:
        Path("vmscale.yaml").write_text(fio)
    outcome = latency(*arguments)
    assert outcome.code == 4 and outcome.nothing_started
    assert said in outcome.err, outcome.err


def test_the_plan_tells_all_of_it_and_contacts_nothing(latency):
    outcome = latency("--nodes", "1,3", "--plan", "--background-vms", "5", "--background-pods", "7", "--install-fio")
    assert outcome.code == 0 and outcome.nothing_started
    for told in (
        "2 of them on each of the first 3 workers",
        "6 VirtualMachines rhel",
        "5 VirtualMachines rhel",
        "7 pods",
        "fio is installed",
        "on 3 nodes, 6 VMs",
    ):
        assert told in outcome.out
