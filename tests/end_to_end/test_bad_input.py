"""Bad input: one clear line, exit code 4, and nothing started."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--vms", "0"], "--vms 0: '0' is not a whole number above 0"),
        (["--vms", "ten"], "--vms ten: 'ten' is not a whole number above 0"),
        (["--vms", "100,100"], "--vms 100,100: 100 is given twice"),
        (["--vm-mix", "sles=100"], "unknown OS 'sles'; known are fedora, rhel, windows"),
        (["--slo", "nope"], "--slo nope: is no SLO profile; there are reference"),
        (["--slo", "nope.yaml"], "--slo nope.yaml: no such file"),
        (["--vmscale-config", "nope.yaml"], "--vmscale-config nope.yaml: no such file"),
        (["--sim-profile", "nope"], "--sim-profile nope: is no timing profile; there are "),
        (["--sim-profile", "nope.yaml"], "--sim-profile nope.yaml: no such file"),
        (["--sim-fault", "nope.yaml"], "--sim-fault nope.yaml: no such file"),
        (["--sim-fault", "guests-never-bot=5"], "guests-never-boot"),
        (["--sim-fault", "boot-slowdown=fast"], "boot-slowdown"),
        (["--kubeconfig", "/nope/config"], "--kubeconfig /nope/config: no such file"),
        (["--vms", "70000"], "65000 loopback addresses"),
        (["--ssh-via", "telnet"], "--ssh-via telnet: must be direct, jump or port-forward"),
        (["--deadline", "soon"], "--deadline soon: is not a time above 0"),
        (["--cluster", "cloud"], "--cluster cloud: must be auto, real or embedded"),
        (["--run-id", "Bad_Name"], "--run-id Bad_Name: must be"),
        (["--sim-speed", "0"], "--sim-speed 0: must be at least"),
        (["--qps", "inf"], "--qps inf: is not a number"),
        (["--slo-tolerance", "inf"], "--slo-tolerance inf: is not a number"),
        (["--burst", "5"], "--burst: is for --qps"),
        (["--context", "lab"], "--context: is for a kubeconfig"),
        (["--keep"], "--keep: the embedded cluster of a run ends with it"),
        (["--reuse-fleet", "r0"], "--reuse-fleet: the embedded cluster of a run ends with it"),
        (["--results-dir", "/dev/null"], "--results-dir /dev/null: /dev/null is no folder that can be written to"),
        (["--results-dir", "/proc/x"], "--results-dir /proc/x: /proc is no folder that can be written to"),
        (["--alluredir", "/proc/x"], "--alluredir /proc/x: /proc is no folder that can be written to"),
        (["--junitxml", "/proc/x/y.xml"], "--junitxml /proc/x/y.xml: /proc is no folder that can be written to"),
    ],
)
def test_bad_option(scale, arguments, told):
    # pytest itself begins again with an equals sign after --kubeconfig, and a process that does so is no test any more.
    outcome = scale(*arguments, in_process="--kubeconfig" not in arguments)
    assert outcome.code == 4
    assert told in outcome.err
    assert len([line for line in outcome.err.splitlines() if line.strip()]) == 1, outcome.err
    assert outcome.nothing_started


KUBECONFIG = """
apiVersion: v1
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: me}}]
clusters: [{name: lab, cluster: {server: "https://127.0.0.1:1"EXTENSIONS}}]
users: [{name: me, user: {token: abc}}]
"""
BY_HAND = ", extensions: [{name: vmscale.io/embedded, extension: {speed: 30, guestSshPort: 2222, jumpHost: null}}]"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--context", "prod"], "has no context 'prod' (it has: lab)"),
        (["--sim-fault", "boot-slowdown=1.3"], "--sim-fault: is for the embedded cluster that a run starts itself"),
        (["--sim-workers", "5"], "--sim-workers: is for the embedded cluster"),
        (["--reuse-fleet", "r0"], "its SSH key vmscale-results/r0/ssh_key is not there"),
        (["--reuse-fleet", "r0", "--vm-mix", "rhel=100"], "--vm-mix: the fleet that --reuse-fleet names has its own mix"),
        (["--ssh-via", "jump"], "names no ssh.jump_host"),
    ],
)
def test_bad_option_for_a_named_cluster(scale, arguments, told):
    Path("lab").write_text(KUBECONFIG.replace("EXTENSIONS", ""))
    outcome = scale("--kubeconfig=lab", *arguments, in_process=True)
    assert outcome.code == 4
    assert told in outcome.err
    assert len([line for line in outcome.err.splitlines() if line.strip()]) == 1, outcome.err
    assert outcome.nothing_started


def test_a_cluster_started_by_hand_is_told_by_its_kubeconfig(scale):
    Path("hand").write_text(KUBECONFIG.replace("EXTENSIONS", BY_HAND))
    outcome = scale("--kubeconfig=hand", "--ssh-via", "jump", "--plan")
    assert outcome.code == 0, outcome.err
    assert "embedded cluster by hand, simulated at 30x" in outcome.out


def test_what_a_site_sets_once_is_no_word_against_the_command_line(scale):
    Path("lab").write_text(KUBECONFIG.replace("EXTENSIONS", ""))
    ini = ["-o", "vmscale_kubeconfig=lab", "-o", "vmscale_context=lab", "-o", "vmscale_sim_workers=7"]
    assert "embedded cluster, 7 workers" in scale(*ini, "--cluster", "embedded", "--plan").out
    assert "real cluster by lab, context lab" in scale(*ini, "--plan").out
    assert "real cluster by lab" in scale("-o", "vmscale_cluster=embedded", "--kubeconfig=lab", "--plan").out


def test_a_run_id_that_has_results_is_refused(scale):
    Path("vmscale-results/r1").mkdir(parents=True)
    outcome = scale("--run-id", "r1")
    assert outcome.code == 4
    assert "--run-id r1: vmscale-results/r1 has the results of a run of this name" in outcome.err


def test_a_size_that_the_profile_says_nothing_of_needs_a_deadline(scale):
    Path("one.yaml").write_text("extends: reference\nbootstorm:\n  duration:\n    source: mine\n    points: {100: 102}\n")
    outcome = scale("--slo=one.yaml", "--vms", "1000")
    assert outcome.code == 4
    assert "--vms 1000: the SLO profile one says nothing of so many: give --deadline" in outcome.err
    assert outcome.nothing_started


def test_a_key_that_is_not_there_is_named(scale):
    Path("site.yaml").write_text("ssh:\n  key: nowhere/id_ed25519\n")
    outcome = scale("--vmscale-config=site.yaml")
    assert outcome.code == 4
    assert "site.yaml: ssh.key nowhere/id_ed25519: no such file" in outcome.err
    assert outcome.nothing_started


def test_help_needs_no_cluster(scale, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nope/config")
    assert scale("--help").code == 0


def test_misspelt_key_of_a_site_file_is_named_with_its_line(scale):
    Path("site.yaml").write_text("storage:\n  class: fast\nssh:\n  usr: core\n")
    outcome = scale("--vmscale-config", "site.yaml")
    assert outcome.code == 4
    assert "site.yaml:4: unknown key 'ssh.usr'; did you mean 'user'?" in outcome.err
    assert outcome.nothing_started


def test_more_vms_than_open_files_says_what_to_raise(scale):
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 64_000:
        pytest.skip("this machine allows more open files than there are loopback addresses")
    outcome = scale("--vms", str(hard))
    assert outcome.code == 4
    assert "ulimit -Hn" in outcome.err and str(hard) in outcome.err


def test_plan_contacts_nothing(scale):
    outcome = scale("--plan", "--vms", "100,500,2000", "--vm-mix", "rhel=50,fedora=30,windows=20")
    assert outcome.code == 0
    for told in (
        "1000 VirtualMachines rhel",
        "600 VirtualMachines fedora",
        "400 VirtualMachines windows",
        "20 namespaces",
        "at most 112.2 s (reference 102.0 s, reference point",
        "interpolated",
        "extrapolated",
    ):
        assert told in outcome.out, told
    assert outcome.nothing_started


@pytest.mark.parametrize(
    "more", [["-n", "2"], ["-n", "2", "--dist", "each"], ["-p", "no:terminal", "-o", "addopts=--import-mode=importlib"]]
)
def test_plan_does_nothing_whatever_else_is_asked(scale, more):
    outcome = scale("--plan", "--vms", "10", *more)
    assert outcome.code == 0
    assert "10 VirtualMachines rhel" in outcome.out
    assert outcome.nothing_started


def test_what_shows_once_tests_are_collected_is_said_by_xdists_controller(scale):
    Path("kubeconfig").write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: u, user: {token: t}}]}"
    )
    outcome = scale("--kubeconfig=kubeconfig", "-m", "migration", "-n", "2", suite="suites/test_migration.py")
    assert outcome.code == 4
    assert any(line.startswith("ERROR: ") and "give --allow-disruptive" in line for line in outcome.out.splitlines()), outcome.out
    assert "INTERNALERROR" not in outcome.out + outcome.err
    assert outcome.nothing_started


def test_options_of_suites_that_do_not_run_are_told_and_hinder_nothing(scale):
    """Pipelines give one set of options to several runs."""
    outcome = scale("--collect-only", "-q", "--vms", "5", "--nodes", "4", "--upgrade-force", "--upgrade-to", "4.10.9", suite="suites")
    assert outcome.code == 0 and "without effect" not in outcome.out
    outcome = scale("--collect-only", "--vms", "5", "--nodes", "4", "--upgrade-force")
    assert outcome.code == 0
    for option, suite in (("--nodes", "latency"), ("--upgrade-force", "upgrade")):
        assert f"vmscale: {option} is without effect: no test of the {suite} suite is selected" in outcome.out.splitlines()
    outcome = scale("--collect-only", "--vms", "5", suite="suites/test_latency.py")
    assert "vmscale: --vms is without effect: the latency suite has as many VMs as --nodes and --vms-per-node say" in outcome.out.splitlines()
