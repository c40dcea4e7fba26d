"""Whole runs of the deployment suite, as a user starts them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.report.files import problems

from .conftest import PYTEST, ROOT

SUITE = "suites/test_deployment.py"
SMALL = ("--sim-workers", "5")
PROFILE = "/apis/cdi.kubevirt.io/v1beta1/storageprofiles/ocs-external-storagecluster-ceph-rbd"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/vmscale-run"
PATIENCE_WALL_SECONDS = 60.0


def objectives(outcome: Any) -> dict[str, Any]:
    return {each["id"]: each for each in outcome.json("verdict.json")["objectives"]}


def test_a_sweep_of_bulk_sizes_names_the_fastest_and_leaves_nothing(scale):
    outcome = scale("--vms", "16", "--bulk-size", "8,all", *SMALL, suite=SUITE)
    assert outcome.code == 0, outcome.out + outcome.err
    assert "simulated at 30x" in outcome.out and "Fastest way to 16 VMs" in outcome.out
    files = list(outcome.results.glob("*.json"))
    assert {path.name for path in files} >= {"datasource-clone-16-bulks-of-8_results.json", "datasource-clone-16-at-once_results.json"}
    assert [problem for path in files for problem in problems(path)] == []
    bulks = outcome.json("datasource-clone-16-bulks-of-8_results.json")
    assert [each["vms"] for each in bulks["details"]["bulks"]] == [8, 8]
    assert bulks["details"]["left_behind"] == [] and bulks["cleanup"]["status"] == "Success"
    records = bulks["records"]
    assert [each["ordinal"] for each in records] == list(range(1, 17)) and {each["clone_strategy"] for each in records} == {"csi-clone"}
    for record in records:
        assert 0 < record["time_to_data_volume_seconds"] <= record["clone_duration_seconds"] <= record["polled_clone_duration_seconds"]
        assert record["polled_clone_duration_seconds"] % 2 == 0
    truth = [json.loads(line) for line in (outcome.results / "truth.jsonl").read_text().splitlines()]
    really = {each["namespace"] + "/" + each["name"]: each for each in truth if each["kind"] == "data-volume-succeeded"}
    for record in records:
        event = really[f"{record['namespace']}/{record['vm_name']}-root"]
        measured = bulks["details"]["started_cluster_epoch"] + record["requested_at"] + record["clone_duration_seconds"]
        assert event["how"] == record["clone_strategy"]
        assert measured >= truth[0]["t0_epoch"] + event["t"], "nothing is seen before it happened"
    done = max(each["requested_at"] + each["clone_duration_seconds"] for each in records if each["bulk"] == 1)
    assert done <= min(each["requested_at"] for each in records if each["bulk"] == 2), "a bulk is asked for when the one before is done"
    assert {path.name for path in (outcome.results / "charts").iterdir()} >= {
        "deployment-16_bulk-sizes.svg",
        "deployment-16-at-once_clone-times.svg",
    }


def test_a_silent_fall_back_to_copy_fails_the_run_that_asked_for_another_strategy(scale):
    Path("lvm.yaml").write_text(
        "guests:\n  mine:\n    golden: {http: 'http://images.example.com/rhel9.qcow2'}\n    disk_size: 5Gi\n    network: pod\n    eviction_strategy: None\n"
        "storage:\n  class: standard-lvm\n"
    )
    outcome = scale(
        "--vms", "4", "--vm-mix", "mine=4", "--vmscale-config", "lvm.yaml", "--clone-strategy", "snapshot", "--alluredir=allure", *SMALL, suite=SUITE
    )  # fmt: skip
    assert outcome.code == 1
    assert "golden image default/mine-golden-" in outcome.out and "imported" in outcome.out
    (why,) = outcome.json("verdict.json")["why"]
    assert "asked for snapshot: 4 of 4 clones were made by copy (No compatible volumesnapshotclass found)" in why
    assert objectives(outcome)["deployment.every_vm_deployed"]["verdict"] == "pass"
    statuses = [json.loads(path.read_text())["status"] for path in Path("allure").glob("*-result.json")]
    assert sorted(statuses) == ["failed"] + ["passed"] * 7


def test_stuck_clones_are_named_with_their_phase_and_those_that_cannot_be_purged_too(scale):
    outcome = scale(
        "--vms", "12", "--bulk-size", "6", "--deadline", "5m", "--sim-fault", "stuck-clones=2", "--sim-fault", "unpurgeable-clones=1",
        "--sim-speed", "300", *SMALL, suite=SUITE,
    )  # fmt: skip
    assert outcome.code == 1
    assert "Lost: 2 in phase CSICloneInProgress, 6 never asked for" in outcome.out
    results = outcome.json("datasource-clone_results.json")
    lost = [each for each in results["records"] if each["status"] != "Success"]
    assert len(lost) == 8 and {each["status"] for each in lost} == {"TimedOut"}
    assert sum("never asked for" in each["error"] for each in lost) == 6
    assert results["aggregate"]["clone_duration_seconds"]["measured"] == 4, "what was measured is kept"
    (left,) = results["details"]["left_behind"]
    assert left.startswith("PersistentVolume pvc-") and "rhel-0000" in left
    found = objectives(outcome)
    assert found["deployment.nothing_left"]["verdict"] == "fail" and found["deployment.duration"]["measured_text"] == "> 300 s"


def vmscale(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest_vmscale.cli", *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The kubeconfig of an embedded cluster that outlives the runs on it. Some of its clones stick."""
    folder = str(tmp_path_factory.mktemp("embedded"))
    up = vmscale("embedded", "up", "--detach", "--state-dir", folder, "--workers", "5", "--speed", "60", "--fault", "stuck-clones=1000")
    assert up.returncode == 0, up.stderr
    yield up.stdout.strip().splitlines()[-1]
    assert vmscale("embedded", "down", "--state-dir", folder).returncode == 0


def ask(kubeconfig: str, method: str, path: str) -> Any:
    from pytest_vmscale.clock import Clock
    from pytest_vmscale.cluster.access import load_access
    from pytest_vmscale.cluster.requests import Cluster
    from pytest_vmscale.cluster.runtime import Runtime

    async def send() -> Any:
        async with Cluster(load_access(kubeconfig), Clock()) as cluster:
            return (await cluster.send(method, path)).object

    with Runtime() as runtime:
        return runtime.run(send())


def get(kubeconfig: str, path: str) -> Any:
    return ask(kubeconfig, "GET", path)


def profile(kubeconfig: str) -> str:
    """What a run may change of it, byte for byte."""
    found = get(kubeconfig, PROFILE)
    return json.dumps([found.get("spec"), found["metadata"].get("labels"), found["metadata"].get("annotations")])


def start_that_hangs(kubeconfig: str, run_id: str) -> subprocess.Popen[bytes]:
    """A deployment whose clones stick, running; it has changed the StorageProfile."""
    command = [
        *PYTEST, "-p", "no:cacheprovider", str(ROOT / SUITE),
        f"--kubeconfig={kubeconfig}", "--vms", "4", "--clone-strategy", "snapshot", "--allow-disruptive", "--run-id", run_id,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE_WALL_SECONDS
    records = f"/apis/cdi.kubevirt.io/v1beta1/namespaces/vmscale-{run_id}-deploy-1-0/datavolumes"
    while not get(kubeconfig, records)["items"]:
        assert process.poll() is None and time.monotonic() < end, "no clone was asked for"
        time.sleep(0.3)
    return process


def test_after_ctrl_c_the_storage_profile_is_what_it_was(by_hand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = profile(by_hand)
    process = start_that_hangs(by_hand, "ctrl-c")
    assert get(by_hand, PROFILE)["spec"] == {"cloneStrategy": "snapshot"}
    meanwhile = vmscale("cleanup", "--run-id", "ctrl-c", "--kubeconfig", by_hand)
    assert meanwhile.returncode == 10 and "is in use: the run 'ctrl-c " in meanwhile.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_WALL_SECONDS) == 2
    assert profile(by_hand) == before
    assert get(by_hand, "/api/v1/namespaces?labelSelector=vmscale.io/run-id")["items"] == []
    results = json.loads(next(tmp_path.glob("vmscale-results/ctrl-c/datasource-clone_results.json")).read_text())
    assert results["complete"] is False and len(results["records"]) == 4


def test_after_kill_9_the_next_run_refuses_and_cleanup_puts_everything_back(by_hand, tmp_path, monkeypatch, scale):
    monkeypatch.chdir(tmp_path)
    before = profile(by_hand)
    process = start_that_hangs(by_hand, "killed")
    process.kill()
    process.wait()
    assert profile(by_hand) != before
    ask(by_hand, "DELETE", LEASE)  # that it is not renewed any more takes a quarter of a minute to see
    refused = scale(f"--kubeconfig={by_hand}", "--vms", "2", "--run-id", "next", suite=SUITE)
    assert refused.code == 10 and "vmscale cleanup --run-id killed" in refused.out
    done = vmscale("cleanup", "--run-id", "killed", "--kubeconfig", by_hand)
    assert done.returncode == 0, done.stderr
    assert "undid 1 change" in done.stdout
    assert profile(by_hand) == before
    assert get(by_hand, "/api/v1/namespaces?labelSelector=vmscale.io/run-id")["items"] == []
    again = vmscale("cleanup", "--run-id", "killed", "--kubeconfig", by_hand)
    assert again.returncode == 0 and "removed 0 objects" in again.stdout


def test_a_plan_says_what_would_be_changed_and_contacts_nothing(scale):
    outcome = scale("--plan", "--vms", "800", "--bulk-size", "50,100", "--clone-strategy", "copy", suite=SUITE)
    assert outcome.code == 0 and outcome.nothing_started
    assert "StorageProfile ocs-external-storagecluster-ceph-rbd: spec.cloneStrategy becomes copy, and is put back afterwards" in outcome.out
    assert "deployment of 800 VMs by 50" in outcome.out and "deployment of 800 VMs by 100" in outcome.out
