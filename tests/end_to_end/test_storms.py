"""Whole runs of the boot storm suite on the embedded cluster, as a user starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_vmscale.report.files import problems

from .conftest import PYTEST, ROOT, account_of, apply_roles

SMALL = ("--sim-workers", "10")


def check_files(folder: Path) -> None:
    """Every result file is as its schema says."""
    paths = list(folder.glob("*.json"))
    assert paths
    assert [problem for path in paths for problem in problems(path)] == []


OWN_SUITE = """
import pytest

pytestmark = pytest.mark.bootstorm


def test_in_time(boot_storm, slo):
    slo.check(boot_storm, "bootstorm.duration")


def test_misspelt(boot_storm, slo):
    slo.check(boot_storm, "bootstorm.durration")
"""


def test_a_suite_of_ones_own_beside_the_others_has_nothing_measured_twice(scale):
    Path("test_own.py").write_text(OWN_SUITE)
    outcome = scale(str(Path("test_own.py").resolve()), "--vms", "3", *SMALL)
    assert outcome.code == 11, outcome.out + outcome.err
    assert outcome.out.count("vmscale: provisioning 3 VMs") == 1
    assert "nothing was judged as bootstorm.durration; did you mean bootstorm.duration?" in outcome.out
    assert re.search(r"= 1 failed, 8 passed", outcome.out)
    assert outcome.named("*_results.json") == ["boot-storm_results.json"]


def test_workers_of_xdist_measure_nothing_twice_for_a_suite_of_ones_own(scale):
    Path("test_own.py").write_text(OWN_SUITE)
    outcome = scale(str(Path("test_own.py").resolve()), "--vms", "3", "-n", "2", *SMALL)
    assert outcome.code == 11, outcome.out + outcome.err
    assert (outcome.out + outcome.err).count("vmscale: provisioning 3 VMs") == 1
    assert outcome.named("*_results.json") == ["boot-storm_results.json"]


def test_a_storm_is_measured_judged_and_cleaned_up(scale):
    outcome = scale("--vms", "20", "--vm-mix", "rhel=50,fedora=30,windows=20", "--alluredir=allure", "--junitxml=junit.xml", *SMALL)
    assert outcome.code == 0, outcome.out + outcome.err
    assert "embedded cluster, 10 workers, timing profile reference, simulated at 20x" in outcome.out
    assert "Verdict: PASS" in outcome.out and "simulated at 20x" in outcome.out
    check_files(outcome.results)
    results = outcome.json("boot-storm_results.json")
    assert results["aggregate"]["successful_vms"] == 20 and results["cleanup"]["status"] == "Success"
    assert results["details"]["login"]["ok"] is True
    for record in results["records"]:
        order = [record[f"time_to_{name}_seconds"] for name in ("vm_created", "vmi_running", "guest_ip", "ssh")]
        assert order == sorted(order) and order[0] > 0
        assert record["node"].startswith("worker-")
    assert sorted(results["workload"]["os_mix"].items()) == [("fedora", 6), ("rhel", 10), ("windows", 4)]
    assert 'name="vmscale.margin_percent"' in Path("junit.xml").read_text()
    assert "Cluster=embedded" in Path("allure/environment.properties").read_text()
    names = [json.loads(path.read_text())["name"] for path in Path("allure").glob("*-result.json")]
    assert len(names) == 7


def test_guests_that_never_boot_are_named_and_break_the_percentiles_that_fall_on_them(scale):
    outcome = scale("--vms", "20", "--sim-fault", "guests-never-boot=5", "--deadline", "120", *SMALL)
    assert outcome.code == 1
    named = set(re.findall(r"rhel-\d{5}: TimedOut, reached Running", outcome.out))
    assert len(named) == 5
    assert "15 of 20" in outcome.out and "> 120 s" in outcome.out
    aggregate = outcome.json("boot-storm_results.json")["aggregate"]
    assert aggregate["time_to_ssh_seconds"]["p99"] is None and aggregate["time_to_ssh_seconds"]["p50"] is not None
    assert aggregate["failed_vms"] == 5
    evidence = (outcome.results / "failed-vms_boot-storm_20-vms.txt").read_text()
    assert set(re.findall(r"== \S+/(rhel-\d{5})", evidence)) == {each.partition(":")[0] for each in named}
    assert evidence.count(" Started VirtualMachineInstance/rhel-") == 5 and evidence.count('"msg":"Domain started."') == 5


def test_an_objective_that_no_selected_test_checks_breaks_the_run_all_the_same(scale):
    outcome = scale("--vms", "10", "-k", "percentile", "--sim-fault", "guests-never-boot=2", "--deadline", "60", *SMALL)
    assert "5 passed" in outcome.out
    assert outcome.code == outcome.json("verdict.json")["exit_code"] == 1


def test_a_test_that_fails_for_a_reason_of_its_own_is_no_pass(scale):
    Path("picky.py").write_text(
        "import pytest\n\n\n@pytest.hookimpl(trylast=True)\ndef pytest_runtest_call(item):\n"
        "    if 'every_vm' in item.name:\n        assert 1 == 2\n"
    )
    outcome = scale("--vms", "5", "-p", "picky", *SMALL)
    verdict = outcome.json("verdict.json")
    assert outcome.code == verdict["exit_code"] == 1
    assert verdict["why"] == ["test_every_vm_boots[5-vms] failed (call): assert 1 == 2"]


def test_slow_boots_break_the_duration_and_name_the_margin(scale):
    outcome = scale("--vms", "100", "--sim-fault", "boot-slowdown=1.3", "--sim-speed", "40")
    assert outcome.code == 1
    (duration,) = [each for each in outcome.json("verdict.json")["objectives"] if each["id"] == "bootstorm.duration"]
    assert duration["verdict"] == "fail" and duration["margin_percent"] < 0
    assert re.search(r"Storm duration \(100 VMs\): .* above the limit", outcome.out)


def test_errors_and_expired_watches_change_nothing_but_the_record(scale):
    outcome = scale("--vms", "40", "--sim-fault", "api-errors=0.1", "--sim-fault", "watch-expiry=15", *SMALL)
    assert outcome.code == 0, outcome.out
    results = outcome.json("boot-storm_results.json")
    assert results["aggregate"]["successful_vms"] == 40
    assert any("410" in gap["reason"] for gap in results["gaps"])
    check_files(outcome.results)


def test_a_sweep_provisions_once_and_is_judged_as_one(scale):
    outcome = scale("--vms", "10,20,30", *SMALL)
    assert outcome.code == 0, outcome.out
    assert outcome.out.count("provisioning 30 VMs") == 1
    objectives = outcome.json("verdict.json")["objectives"]
    assert [each["scope"] for each in objectives if each["id"] == "bootstorm.linearity"] == ["10-30 VMs"]
    assert {path.name for path in outcome.results.glob("boot-storm-*_results.json")} == {
        f"boot-storm-{n}_results.json" for n in (10, 20, 30)
    }


def test_workers_of_xdist_give_one_verdict(scale):
    outcome = scale("--vms", "10", "-n", "3", "--alluredir=allure", "--clean-alluredir", *SMALL)
    assert outcome.code == 0, outcome.out
    assert outcome.out.count("Verdict:") == 1
    assert "7 passed" in outcome.out
    assert len(list(outcome.results.glob("verdict.json"))) == 1
    assert len(list(Path("allure").glob("*-result.json"))) == 7


def test_windows_may_be_ready_by_another_port_and_a_jump_host_leads_there(scale):
    Path("site.yaml").write_text(
        "guests:\n  windows:\n    source_pvc: default/win10-dv\n    family: windows\n    cloud_init: false\n    network: default/linux-bridge\n    ready: {tcp: 3389}\n"
    )
    outcome = scale("--vms", "8", "--vm-mix", "windows=4,fedora=4", "--vmscale-config=site.yaml", "--ssh-via", "jump", *SMALL)
    assert outcome.code == 0, outcome.out
    by_os = outcome.json("boot-storm_results.json")["workload"]["by_os"]
    assert (by_os["windows"]["ready"], by_os["fedora"]["ready"]) == (3389, "ssh")


def test_a_test_that_does_not_end_fails_and_leaves_the_fleets_state(scale):
    Path("impatient.py").write_text(
        "import pytest\n\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items:\n        item.add_marker(pytest.mark.timeout(8))\n"
    )
    outcome = scale("--vms", "10", "--sim-fault", "guests-never-boot=2", "--deadline", "4h", "-p", "impatient", "-k", "every_vm", *SMALL)
    assert outcome.code == 11, outcome.out
    assert "no end after 8 s of wall time" in outcome.out
    state = outcome.json("fleet-state.json")
    assert len(state["vms"]) == 10 and {each["phase"] for each in state["vmis"]} == {"Running"}
    assert outcome.json("boot-storm_results.json")["complete"] is False


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PYTEST, "-p", "no:cacheprovider", str(ROOT / "suites/test_bootstorm.py"), *SMALL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell that starts these tests in the background has it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path: Path, process: subprocess.Popen[str], text: str = "") -> None:
    """Until the file has the text, or the process has ended without it."""
    give_up = time.monotonic() + 60
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None and time.monotonic() < give_up, process.communicate()[0]
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "vmscale-results" / "r1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_storm_removes_its_fleet_and_keeps_what_it_measured(here, number):
    process = start("--vms", "60", "--run-id", "r1")
    wait_for(here / "truth.jsonl", process, "guest-ssh-ready")
    process.send_signal(number)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 2, output
    verdict = json.loads((here / "verdict.json").read_text())
    assert (verdict["verdict"], verdict["exit_code"]) == ("inconclusive", 2)
    results = json.loads((here / "boot-storm_results.json").read_text())
    assert results["complete"] is False and results["cleanup"] == {"requested": True, "status": "Success", "left": []}
    assert len(results["records"]) == 60
    check_files(here)


def test_a_cluster_that_ends_in_mid_storm_is_no_broken_objective(here):
    process = start("--vms", "30", "--run-id", "r1")
    wait_for(here / "truth.jsonl", process, "guest-ssh-ready")
    (embedded,) = children(process.pid)
    os.kill(embedded, signal.SIGKILL)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 11, output
    assert "the embedded cluster ended with code -9" in output
    results = json.loads((here / "boot-storm_results.json").read_text())
    assert results["complete"] is False and "ended with code -9" in results["incomplete_reason"]
    assert {each["verdict"] for each in results["slo"]} == {"inconclusive"}


def test_an_interruption_before_anything_is_measured_has_a_verdict_too(here):
    process = start("--vms", "200", "--run-id", "r1")
    wait_for(here / "truth.jsonl", process, "t0_epoch")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 2, output
    verdict = json.loads((here / "verdict.json").read_text())
    assert (verdict["verdict"], verdict["exit_code"], verdict["why"]) == ("inconclusive", 2, ["The run was interrupted."])


def test_a_second_interruption_ends_the_removal_and_says_so(here):
    process = start("--vms", "60", "--run-id", "r1", "--sim-provision-speed", "20")  # a removal that lasts long enough to be interrupted
    wait_for(here / "truth.jsonl", process, "guest-ssh-ready")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any("removing the fleet" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert any("the removal of the fleet was interrupted" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)  # once more, while the rest is torn down
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    verdict = json.loads((here / "verdict.json").read_text())
    assert any("the removal of the fleet was interrupted: vmscale cleanup --run-id r1" in each for each in verdict["why"])
    assert json.loads((here / "boot-storm_results.json").read_text())["cleanup"]["status"] == "Failed"
    check_files(here)


def test_who_interrupts_the_removal_once_has_it_seen_through_and_no_other_suite_begun(here):
    process = start(str(ROOT / "suites/test_latency.py"), "--nodes", "1", "--vms", "10", "--run-id", "r1", "--sim-provision-speed", "20")
    assert process.stdout is not None
    assert any("removing the fleet" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 2, output
    assert "interrupted: the cluster is left as it was all the same" in output and "latency" not in output
    results = json.loads((here / "boot-storm_results.json").read_text())
    assert results["complete"] and results["cleanup"] == {"requested": True, "status": "Success", "left": []}


def test_the_embedded_cluster_does_not_outlive_a_killed_run(here):
    process = start("--vms", "20", "--run-id", "r1")
    wait_for(here / "truth.jsonl", process, "guest-ssh-ready")
    (embedded,) = children(process.pid)
    process.kill()
    process.communicate()
    give_up = time.monotonic() + 30
    while Path(f"/proc/{embedded}").exists():
        assert time.monotonic() < give_up, "the embedded cluster goes on without its run"
        time.sleep(0.1)


def cordon_all(kubeconfig: Path) -> None:
    from kubernetes import client, config

    with config.new_client_from_config(str(kubeconfig)) as api:
        core = client.CoreV1Api(api)
        for node in core.list_node().items:
            core.patch_node(node.metadata.name, {"spec": {"unschedulable": True}})


def test_a_fleet_that_is_kept_on_a_cluster_started_by_hand_is_used_again(scale, tmp_path):
    state = tmp_path / "state"
    vmscale = [sys.executable, "-m", "pytest_vmscale.cli", "embedded"]
    up = subprocess.run(
        [*vmscale, "up", "--detach", "--workers", "10", "--speed", "40", "--state-dir", str(state)], capture_output=True, text=True, check=True
    )
    kubeconfig = up.stdout.splitlines()[-1]
    try:
        assert Path(kubeconfig).stat().st_mode & 0o777 == 0o600
        apply_roles(Path(kubeconfig))
        least = account_of(Path(kubeconfig), "vmscale-bootstorm", tmp_path / "least")
        first = scale("--vms", "6", "--keep", "--run-id", "first", "--kubeconfig", str(least))
        assert first.code == 0, first.out
        cluster = json.loads(Path("vmscale-results/first/verdict.json").read_text())["cluster"]
        assert (cluster["kind"], cluster["time_rate"]) == ("embedded", 40)
        again = scale("--vms", "4", "--run-id", "first", "--results-dir", "elsewhere", "--kubeconfig", kubeconfig)
        assert again.code == 10 and "a run first left 1 namespace on this cluster" in again.out  # and did not remove them
        Path("no-image.yaml").write_text("guests: {rhel: {source_pvc: default/nope}}")
        beside = scale("--vms", "4", "--run-id", "beside", "--kubeconfig", kubeconfig, "--vmscale-config", "no-image.yaml")
        assert beside.code == 10 and "vmscale: run first left 1 namespace on this cluster, and what runs there is measured" in beside.out
        second = scale("--vms", "4", "--reuse-fleet", "first", "--run-id", "second", "--kubeconfig", kubeconfig)
        assert second.code == 0 and "run first left" not in second.out, second.out
        records = json.loads(Path("vmscale-results/second/boot-storm_results.json").read_text())["records"]
        assert {record["namespace"] for record in records} == {"vmscale-first-0"}
        cleanup = [sys.executable, "-m", "pytest_vmscale.cli", "cleanup", "--run-id", "first", "--kubeconfig", str(least)]
        removed = subprocess.run(cleanup, capture_output=True, text=True, check=False)
        assert removed.returncode == 0, removed.stderr
        refused = Path(kubeconfig).read_text().replace("token: ", "token: not-")
        (tmp_path / "refused").write_text(refused)
        unknown = scale("--vms", "4", "--kubeconfig", str(tmp_path / "refused"), "--run-id", "unknown", "--alluredir=unfit")
        assert unknown.code == 10 and "does not accept the credentials of context 'embedded'" in unknown.out
        assert unknown.out.count("ERROR at setup") == 1
        (told,) = (json.loads(path.read_text())["statusDetails"]["message"] for path in Path("unfit").glob("*-result.json"))
        assert "ClusterUnfit" in told  # by which Allure's categories know it
        third = scale("--vms", "4", "--reuse-fleet", "first", "--run-id", "third", "--kubeconfig", kubeconfig)
        assert third.code == 10 and "has no fleet" in third.out
        cordon_all(Path(kubeconfig))
        nowhere = scale("--vms", "4", "--kubeconfig", kubeconfig, "--run-id", "nowhere")
        assert nowhere.code == 10 and "the cluster is not fit: no node takes VMs: " in nowhere.out
    finally:
        subprocess.run([*vmscale, "down", "--state-dir", str(state)], check=True)
    assert not (state / "embedded.pid").exists()
