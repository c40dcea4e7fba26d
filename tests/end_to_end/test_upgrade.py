"""Upgrades of an embedded cluster whose operators are quick: whole runs as a user starts them, and both ways to ask for one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import load_access
from pytest_vmscale.cluster.edits import Edits
from pytest_vmscale.cluster.embedded import EmbeddedProcess, read_clock, start_embedded
from pytest_vmscale.cluster.openshift import adm_upgrade
from pytest_vmscale.cluster.requests import Cluster
from pytest_vmscale.procedures.nodes import POOLS
from pytest_vmscale.procedures.upgrade_checks import GATES_PATH, OPERATORS_PATH, VERSION_PATH, Asker, Hop, UpgradeRefused, read
from pytest_vmscale.report.files import problems

T = TypeVar("T")
SUITE = "suites/test_upgrade.py"
QUICK = """
extends: reference
upgrade:
  update_check_seconds: {value: 30, source: a quick test}
  verify_seconds: {value: 1, source: a quick test}
  payload_retrieve_seconds: {value: 3, source: a quick test}
  version_operator_restart_seconds: {value: 3, source: a quick test}
  manifest_seconds: {value: 0.02, source: a quick test}
  manifest_again_seconds: {value: 0.01, source: a quick test}
  operator_start_seconds: {value: 2, source: a quick test}
  operator_poll_seconds: {value: 2, source: a quick test}
  installer_seconds: {value: 1, source: a quick test}
  static_pod_seconds: {value: {etcd: 1, kube-apiserver: 1, kube-controller-manager: 1, kube-scheduler: 1}, source: a quick test}
  api_server_shutdown_delay_seconds: {value: 3, source: a quick test}
  api_server_termination_seconds: {value: 1, source: a quick test}
  api_server_start_seconds: {value: 2, source: a quick test}
  static_pod_revisions:
    value: {patch: {etcd: 1, kube-apiserver: 1, kube-controller-manager: 1, kube-scheduler: 1},
            minor: {etcd: 1, kube-apiserver: 1, kube-controller-manager: 1, kube-scheduler: 1}}
    source: a quick test
  deployment_seconds: {value: {patch: {others: 3}, minor: {others: 3}}, source: a quick test}
  daemon_pod_seconds: {value: {patch: {network: 2, dns: 1, machine-config: 1}, minor: {network: 2, dns: 1, machine-config: 1}}, source: a quick test}
  os_changes: {value: {patch: false, minor: false}, source: a quick test}
"""
LOAD = "fio: {directories: 2, files_per_directory: 2, file_size: 64Ki}\n"


@pytest.fixture
def upgrade(scale: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        Path("quick.yaml").write_text(QUICK)
        Path("vmscale.yaml").write_text(LOAD)
        small = ("--sim-workers", "3", "--sim-profile", "quick.yaml", "--vmscale-config", "vmscale.yaml", "--allow-disruptive")
        return scale(*small, *arguments, suite=SUITE)

    return run


def truth(outcome: Any, kind: str) -> list[dict[str, Any]]:
    return [each for line in (outcome.results / "truth.jsonl").read_text().splitlines() if (each := json.loads(line))["kind"] == kind]


def test_a_chain_of_upgrades_under_load(upgrade: Callable[..., Any]) -> None:
    outcome = upgrade("--upgrade-to", "4.9.23,4.10.9", "--vms", "4", "--vm-mix", "rhel=100", "--sim-speed", "200")
    assert outcome.code == 0, outcome.out + outcome.err
    assert [problem for path in outcome.results.glob("*.json") for problem in problems(path)] == []
    started, completed = (
        {each["version"]: each["t"] for each in truth(outcome, kind)} for kind in ("upgrade-started", "upgrade-completed")
    )
    for version in ("4.9.23", "4.10.9"):
        results = outcome.json(f"upgrade-{version}_results.json")
        # ClusterVersion's stamps are whole seconds, each cut off.
        assert abs(results["aggregate"]["duration_seconds"] - (completed[version] - started[version])) < 2.0
        details = results["details"]
        assert (details["state"], details["asked_by"], details["unhealthy"]) == ("Completed", "ClusterVersion", [])
        assert {each["version"] for each in details["operators"]} == {version} and len(details["operators"]) == 32
        assert details["curve"][-1][2] == {"4.9.23": 738, "4.10.9": 771}[version]
        records = results["records"]
        assert [record["status"] for record in records] == ["Success"] * 4
        assert [record["io_baseline_mean_seconds"] is not None for record in records] == [True, True, False, False]
        assert all(record["probes"] > 3 for record in records)
    assert details["channel"] == "candidate-4.10"
    assert "Upgrade (minor) from 4.9.23 to 4.10.9: complete" in outcome.out
    assert {path.stem for path in (outcome.results / "charts").iterdir()} >= {"upgrade-4.9.23_operators", "upgrade-4.10.9_api"}


def test_a_bad_day_is_told_by_name(upgrade: Callable[..., Any]) -> None:
    """Nobody answers for the API for 40 s, a VM is lost, and an operator never ends: each is measured in spite of the others."""
    faults = ("--sim-fault", "api-outage=40", "--sim-fault", "vm-lost=1", "--sim-fault", "stuck-operator=32")
    outcome = upgrade(
        "--upgrade-to", "4.9.23", "--vms", "3", "--upgrade-load-share", "0", "--deadline", "330", "--sim-speed", "50", *faults
    )
    assert outcome.code == 1, outcome.out + outcome.err
    details, verdict = outcome.json("upgrade_results.json")["details"], " ".join(" ".join(outcome.json("verdict.json")["why"]).split())
    for name in ("read", "write"):  # a second between two requests on either side, and what 50 ms of a busy machine are at 50x
        assert 39.0 <= details["api"][name]["longest_outage_seconds"] <= 44.5
    assert "machine-config (Progressing=True" in verdict and "not complete after 330 s" in verdict
    lost = truth(outcome, "vm-lost")[0]
    assert f"{lost['namespace']}/{lost['name']} (its VMI failed and was started again)" in verdict
    assert sum(each["updated_seconds"] is not None for each in details["operators"]) == 31
    gone = [gap for gap in outcome.json("upgrade_results.json")["gaps"] if gap["end_seconds"] - gap["start_seconds"] > 30.0]
    assert {gap["kind"] for gap in gone} >= {"clusterversions", "clusteroperators", "virtualmachineinstances", "nodes"}


def test_a_target_that_is_not_offered_ends_the_run_before_anything_is_made(upgrade: Callable[..., Any]) -> None:
    outcome = upgrade("--upgrade-to", "4.9.22", "--vms", "3")
    assert outcome.code == 10, outcome.out + outcome.err
    assert "4.9.22 is not offered on channel stable-4.9" in " ".join(outcome.out.split())
    assert not list(outcome.results.glob("upgrade*")) and "provisioning" not in outcome.out


# Both ways to ask, and what a refusal leaves: one cluster for all.

OC = """#!{python}
# Stands in for oc: writes down what it is asked, and makes the edit of ClusterVersion that oc makes of it.
import base64, json, ssl, sys, urllib.request
import yaml

words = [each for each in sys.argv[1:] if not each.startswith("--kubeconfig=")]
open({log!r}, "a").write(json.dumps(words) + "\\n")
given = next(each.partition("=")[2] for each in sys.argv if each.startswith("--kubeconfig="))
config = yaml.safe_load(open(given))
cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
ca = cluster.get("certificate-authority-data")
context = ssl.create_default_context(cadata=base64.b64decode(ca).decode()) if ca else ssl.create_default_context(cafile=cluster["certificate-authority"])
url = cluster["server"] + {path!r}

def ask(method, body=None):
    headers = {{"Authorization": "Bearer " + user["token"], "Content-Type": "application/merge-patch+json"}}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers, method=method)
    return json.load(urllib.request.urlopen(request, context=context))

assert words[:2] == ["adm", "upgrade"], words
options = dict(each.partition("=")[::2] for each in words[2:] if each.startswith("--"))
if words[2] == "channel":
    ask("PATCH", {{"spec": {{"channel": words[3]}}}})
else:
    offered = ask("GET")["status"]["availableUpdates"] or []
    to, image = options.get("--to"), options.get("--to-image", "")
    found = next((each for each in offered if each["version"] == to or each["image"] == image), None)
    if found is None and "--allow-explicit-upgrade" not in options:
        sys.exit("error: the update is not one of the available updates")
    update = {{"version": found["version"], "image": found["image"]}} if found else {{"version": "", "image": image}}
    ask("PATCH", {{"spec": {{"desiredUpdate": {{**update, "force": "--force" in options}}}}}})
print("Requested update")
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedProcess]:
    folder = tmp_path_factory.mktemp("upgrade")
    slow = folder / "slow.yaml"
    # What is asked for is not begun while it is looked at.
    slow.write_text("extends: reference\nupgrade:\n  payload_retrieve_seconds: {value: 1000000, source: a test}\n")
    found = start_embedded(folder / "state", speed=100.0, workers=3, seed=1, profile=str(slow))
    yield found
    found.stop()


def on(process: EmbeddedProcess, work: Callable[[Cluster, Asker, Clock], Awaitable[T]]) -> T:
    async def run() -> T:
        clock = Clock()
        async with Cluster(load_access(process.kubeconfig), clock) as cluster:
            await read_clock(cluster, clock)
            edits = Edits(cluster, "upgrade-test")
            try:
                return await work(cluster, Asker(cluster, edits, lambda words: adm_upgrade(process.kubeconfig, None, words)), clock)
            finally:
                await edits.undo_all(deadline_seconds=600.0)

    return asyncio.run(run())


@pytest.fixture
def oc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Path]:
    """With it or without it on the PATH; returns its log."""

    def place(there: bool) -> Path:
        folder, log = tmp_path / "bin", tmp_path / "oc.log"
        folder.mkdir(exist_ok=True)
        log.write_text("")
        (folder / "oc").unlink(missing_ok=True)
        if there:
            (folder / "oc").write_text(OC.format(python=sys.executable, log=str(log), path=VERSION_PATH))
            (folder / "oc").chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
        return log

    return place


@pytest.mark.parametrize(
    "hop, asked",
    [
        (Hop("4.9.23"), [["adm", "upgrade", "--to=4.9.23"]]),
        (
            Hop("4.9.23", channel="candidate-4.9", force=True),
            [["adm", "upgrade", "channel", "candidate-4.9"], ["adm", "upgrade", "--to=4.9.23", "--force"]],
        ),
        (
            Hop("4.9.40", image="quay.io/a/b@sha256:" + "0" * 64, explicit=True),
            [["adm", "upgrade", "--to-image=quay.io/a/b@sha256:" + "0" * 64, "--allow-explicit-upgrade"]],
        ),
    ],
    ids=["version", "channel-and-force", "explicit-image"],
)
def test_oc_and_the_api_lead_to_the_same_cluster_version(
    process: EmbeddedProcess, oc: Callable[[bool], Path], hop: Hop, asked: list[list[str]]
) -> None:
    async def ask(cluster: Cluster, asker: Asker, clock: Clock) -> tuple[str, Any]:
        state = await asker.check(clock, hop)
        how = await asker.begin(state, hop)
        spec = (await cluster.get(VERSION_PATH))["spec"]
        await cluster.patch(VERSION_PATH, {"spec": {"desiredUpdate": None, "channel": "stable-4.9"}})
        while (await read(cluster)).version["status"]["history"][0]["version"] != "4.9.15":
            await clock.sleep(1.0)
        return how, spec

    log = oc(True)
    by_oc = on(process, ask)
    assert [json.loads(line) for line in log.read_text().splitlines()] == asked
    oc(False)
    by_edit = on(process, ask)
    assert (by_oc[0], by_edit[0]) == ("oc adm upgrade", "ClusterVersion") and by_oc[1] == by_edit[1]
    assert by_edit[1]["desiredUpdate"]["image"]


@contextlib.asynccontextmanager
async def paused_pool(cluster: Cluster) -> AsyncIterator[None]:
    path = f"{POOLS}/worker"
    await cluster.patch(path, {"spec": {"paused": True}})
    yield
    await cluster.patch(path, {"spec": {"paused": False}})


@contextlib.asynccontextmanager
async def degraded_operator(cluster: Cluster) -> AsyncIterator[None]:
    path = f"{OPERATORS_PATH}/dns"
    before = (await cluster.get(path))["status"]["conditions"]
    broken = {
        "type": "Degraded",
        "status": "True",
        "reason": "DNSDegraded",
        "message": "no pods",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    await cluster.patch(f"{path}/status", {"status": {"conditions": [each for each in before if each["type"] != "Degraded"] + [broken]}})
    yield
    await cluster.patch(f"{path}/status", {"status": {"conditions": before}})


@contextlib.asynccontextmanager
async def gate(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.patch(GATES_PATH, {"data": {"ack-4.9-kube-1.23-api-removals": "Look into the removed APIs."}})
    while "Upgradeable" not in await conditions(cluster):
        await asyncio.sleep(0.02)
    yield
    await cluster.patch(GATES_PATH, {"data": {"ack-4.9-kube-1.23-api-removals": None}})


@contextlib.asynccontextmanager
async def under_way(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.patch(VERSION_PATH, {"spec": {"desiredUpdate": {"version": "4.9.23"}}})
    while (await conditions(cluster))["Progressing"]["status"] != "True":
        await asyncio.sleep(0.02)
    yield
    await cluster.patch(VERSION_PATH, {"spec": {"desiredUpdate": None}})
    while (await conditions(cluster))["Progressing"]["status"] == "True":
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def nothing(cluster: Cluster) -> AsyncIterator[None]:
    yield


async def conditions(cluster: Cluster) -> dict[str, Any]:
    return {each["type"]: each for each in (await cluster.get(VERSION_PATH))["status"]["conditions"]}


@pytest.mark.parametrize(
    "trouble, hop, said",
    [
        (paused_pool, Hop("4.9.23"), "the machine config pool worker is paused"),
        (degraded_operator, Hop("4.9.23"), "the cluster operator dns is degraded: DNSDegraded: no pods"),
        (gate, Hop("4.10.9", channel="candidate-4.10"), "Upgradeable=False: AdminAckRequired: Look into the removed APIs."),
        (under_way, Hop("4.9.23"), "an upgrade is under way"),
        (nothing, Hop("4.9.22"), "4.9.22 is not offered on channel stable-4.9"),
        (nothing, Hop("4.9.23", channel="fast-4.12"), "fast-4.12 is none of those"),
    ],
)  # fmt: skip
def test_a_refusal_leaves_the_cluster_version_untouched(
    process: EmbeddedProcess, trouble: Callable[[Cluster], Any], hop: Hop, said: str
) -> None:
    async def refused(cluster: Cluster, asker: Asker, clock: Clock) -> tuple[str, Any, Any]:
        async with trouble(cluster):
            before = await cluster.get(VERSION_PATH)
            with pytest.raises(UpgradeRefused) as error:
                await asker.check(clock, hop)
            after = await cluster.get(VERSION_PATH)
        return str(error.value), before, after

    why, before, after = on(process, refused)
    assert said in why
    assert after["spec"] == before["spec"] and after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_channel_that_does_not_offer_the_target_is_put_back(process: EmbeddedProcess) -> None:
    async def refused(cluster: Cluster, asker: Asker, clock: Clock) -> tuple[str, Any]:
        with pytest.raises(UpgradeRefused) as error:
            await asker.check(clock, Hop("4.9.99", channel="candidate-4.9"))
        return str(error.value), (await cluster.get(VERSION_PATH))["spec"]

    why, spec = on(process, refused)
    assert "4.9.99 is not offered on channel candidate-4.9" in why and spec["channel"] == "stable-4.9"


def test_a_channel_is_put_back_by_a_run_that_never_asks(process: EmbeddedProcess) -> None:
    async def begun(cluster: Cluster, asker: Asker, clock: Clock) -> tuple[Any, Any]:
        state = await asker.check(clock, Hop("4.9.23", channel="candidate-4.9"))
        return state.channel, await asker.edits.undo_all(deadline_seconds=600.0)

    async def look(cluster: Cluster, asker: Asker, clock: Clock) -> Any:
        return (await cluster.get(VERSION_PATH))["spec"]["channel"]

    assert on(process, begun) == ("candidate-4.9", ()) and on(process, look) == "stable-4.9"
