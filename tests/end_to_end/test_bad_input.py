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
        (["--slo-profile", "nope"], "no SLO profile is called 'nope'"),
        (["--sim-profile", "nope"], "nope"),
        (["--sim-fault", "guests-never-bot=5"], "guests-never-boot"),
        (["--sim-fault", "boot-slowdown=fast"], "boot-slowdown"),
        (["--kubeconfig", "/nope/config"], "--kubeconfig /nope/config: no such file"),
        (["--vms", "70000"], "65000 loopback addresses"),
        (["--ssh-via", "telnet"], "--ssh-via telnet: must be direct, jump or port-forward"),
        (["--deadline", "soon"], "--deadline soon: is not a time above 0"),
        (["--cluster", "cloud"], "--cluster cloud: must be auto, real or embedded"),
        (["--run-id", "Bad_Name"], "--run-id Bad_Name: must be"),
        (["--sim-speed", "0"], "--sim-speed 0: must be at least"),
    ],
)
def test_bad_option(scale, arguments, told):
    outcome = scale(*arguments)
    assert outcome.code == 4
    assert told in outcome.err
    assert len([line for line in outcome.err.splitlines() if line.strip()]) == 1, outcome.err
    assert outcome.nothing_started


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
