"""Options and vmscale.yaml: what is accepted, and in which words the rest is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vmscale.options import joined
from pytest_vmscale.settings import SettingsError, choose_cluster, load_site, parse_mix, parse_seconds, parse_vms
from pytest_vmscale.site import REFERENCE_GUESTS
from pytest_vmscale.slo.profile import ProfileError, load_profile


@pytest.mark.parametrize(("text", "counts"), [("1000", (1000,)), ("100,500,1000", (100, 500, 1000)), ("1000, 100", (100, 1000))])
def test_vms_is_a_count_or_a_sweep(text, counts):
    assert parse_vms(text) == counts


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0", "'0' is not a whole number above 0"),
        ("ten", "'ten' is not"),
        ("100,100", "100 is given twice"),
        ("", "'' is not"),
        ("-5", "'-5' is not"),
        ("1e3", "'1e3' is not"),
    ],
)
def test_bad_vms_are_refused_by_name(text, told):
    with pytest.raises(SettingsError, match="^--vms") as error:
        parse_vms(text)
    assert told in str(error.value)


def test_mix_in_percent_and_in_counts():
    assert parse_mix("rhel=50,fedora=30,windows=20", 1000, REFERENCE_GUESTS) == {"rhel": 500, "fedora": 300, "windows": 200}
    assert parse_mix("rhel=15,fedora=5", 20, REFERENCE_GUESTS) == {"rhel": 15, "fedora": 5}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sles=100", "unknown OS 'sles'; known are fedora, rhel, windows"),
        ("rhel=60,fedora=60", "adds up to 120"),
        ("rhel", "'rhel' is not OS=NUMBER"),
        ("rhel=50,rhel=50", "given twice"),
    ],
)
def test_bad_mix_is_refused(text, told):
    with pytest.raises(SettingsError) as error:
        parse_mix(text, 10, REFERENCE_GUESTS)
    assert told in str(error.value)


@given(st.integers(1, 5000), st.integers(0, 100), st.integers(0, 100))
def test_percentages_always_add_up_to_the_fleet(total, first, second):
    second = min(second, 100 - first)
    mix = parse_mix(f"rhel={first},fedora={second},windows={100 - first - second}", total, REFERENCE_GUESTS)
    assert sum(mix.values()) == total
    for name, share in (("rhel", first), ("fedora", second)):
        assert abs(mix.get(name, 0) - share * total / 100) <= 1 or total == 100


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("15m", 900.0), ("2h", 7200.0), ("1.5m", 90.0)])
def test_times(text, seconds):
    assert parse_seconds("--deadline", text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "5d", ""])
def test_bad_times_name_the_option(text):
    with pytest.raises(SettingsError, match="^--deadline"):
        parse_seconds("--deadline", text)


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("storage:\n  clas: x\n", 2, "unknown key 'storage.clas'; did you mean 'class'?"),
        ("shh:\n  user: x\n", 1, "unknown key 'shh'; did you mean 'ssh'?"),
        ("\nguests:\n  sles:\n    source_pvc: a/b\n    ready: {tpc: 4}\n", 5, "did you mean 'tcp'?"),
        ("guests:\n  sles: {}\n", 2, "give exactly one of golden, source_pvc and container_disk"),
        ("ssh:\n  user: a\n  user: b\n", 3, "'ssh.user' is given twice (first on line 2)"),
        ("ssh: [\n", 2, "expected"),
        ("ssh:\n  port: 70000\n", 2, "ssh.port: must be less than or equal to 65535, not 70000"),
        ("ssh: fast\n", 1, "ssh: must be a mapping, not 'fast'"),
        ("zones: zone-0\n", 1, "zones: must be a list, not 'zone-0'"),
        ("storage:\n  class: 5\n", 2, "storage.class: must be text, not 5"),
        ("guests:\n  rhel: {source_pvc: rhel-dv}\n", 2, "guests.rhel.source_pvc: must be NAMESPACE/NAME, not 'rhel-dv'"),
        ("guests:\n  rhel: {source_pvc: a/b, network: bridge}\n", 2, "NetworkAttachmentDefinition, or pod, not 'bridge'"),
        ("guests:\n  rhel: {source_pvc: a/b, memory: 4 GB}\n", 2, "must be a quantity, such as 40Gi, 4G or 500m, not '4 GB'"),
        ("guests:\n  rhel: {source_pvc: a/b, ready: rdp}\n", 2, "guests.rhel.ready: must be ssh or {tcp: PORT}, not 'rdp'"),
        ("guests:\n  rhel: {golden: {http: rhel.qcow2}}\n", 2, "must be an address that begins with https:// or http://"),
        ("- a\n", 1, "must be a mapping"),
        ("ssh:\n  ? [a, b]\n  : c\n", 2, "a key must be a word or a number"),
    ],
)
def test_what_is_wrong_with_a_site_file_is_named_with_its_line(tmp_path: Path, text, line, told):
    path = tmp_path / "vmscale.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_site(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: &a [*a]\n", 'ssh: "\x01"\n', "ssh: 2026-99-99\n"])
@pytest.mark.parametrize("load", [load_site, load_profile])
def test_a_file_that_is_no_yaml_is_one_line(tmp_path: Path, text, load):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises((SettingsError, ProfileError)) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_the_example_site_file_is_the_defaults():
    site = load_site(Path(__file__).parents[2] / "vmscale.example.yaml")
    assert site.known_guests() == REFERENCE_GUESTS
    assert site.model_copy(update={"guests": {}}) == load_site(None)


def test_numbers_of_cpus_and_bytes_need_no_quotes(tmp_path: Path):
    path = tmp_path / "vmscale.yaml"
    path.write_text("guests:\n  rhel: {source_pvc: a/b, cpu: 2, memory: 4294967296, cpu_limit: 2.5}\n")
    rhel = load_site(path).guests["rhel"]
    assert (rhel.cpu, rhel.memory, rhel.cpu_limit) == ("2", "4294967296", "2.5")


def test_a_port_instead_of_ssh_counts_as_ready(tmp_path: Path):
    path = tmp_path / "vmscale.yaml"
    path.write_text("guests:\n  win11:\n    source_pvc: golden/win11\n    family: windows\n    ready: {tcp: 3389}\n")
    ready = load_site(path).known_guests()["win11"].ready
    assert (ready.ssh, ready.tcp) == (False, 3389)


def test_the_users_own_kubeconfig_is_never_taken_by_accident(tmp_path: Path):
    assert choose_cluster("auto", None, {"HOME": str(tmp_path)}) == ("embedded", None, False)
    config = tmp_path / "config"
    config.touch()
    assert choose_cluster("auto", str(config), {})[0] == "real"
    assert choose_cluster("auto", None, {"KUBECONFIG": str(config)})[0] == "real"


@pytest.mark.parametrize(
    ("asked", "kubeconfig", "environment", "told"),
    [
        ("auto", "/nope/config", {}, "--kubeconfig /nope/config: no such file"),
        ("auto", None, {"KUBECONFIG": "/nope/config"}, "KUBECONFIG /nope/config: no such file"),
        ("real", None, {}, "no cluster is named"),
        ("embedded", "/nope/config", {}, "name two clusters"),
    ],
)
def test_a_cluster_that_cannot_be_meant_is_refused(asked, kubeconfig, environment, told):
    with pytest.raises(SettingsError) as error:
        choose_cluster(asked, kubeconfig, environment)
    assert told in str(error.value)


def test_a_path_after_an_option_of_ours_is_joined_to_it(tmp_path: Path):
    assert joined(["-m", "bootstorm", "--kubeconfig", str(tmp_path), "suites"]) == ["-m", "bootstorm", f"--kubeconfig={tmp_path}", "suites"]
    assert joined(["--kubeconfig", "/nope", "--vms", "10"]) is None
    assert joined([f"--kubeconfig={tmp_path}", str(tmp_path)]) is None
