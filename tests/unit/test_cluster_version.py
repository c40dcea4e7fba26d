"""The cluster version operator and the cluster's operators, without a server."""

from __future__ import annotations

import asyncio
import re

import pytest

from pytest_vmscale.embedded.api.server import VERSION
from pytest_vmscale.embedded.controllers.bootstrap import Bootstrap
from pytest_vmscale.embedded.controllers.clusterversion import ClusterVersions
from pytest_vmscale.embedded.controllers.clusterversion_payload import UpdateError
from pytest_vmscale.embedded.controllers.nodes import Nodes
from pytest_vmscale.embedded.faults import Fault
from pytest_vmscale.embedded.releases import catalogue

from .kubernetes_side import StandIn, running

KIND, OPERATORS = "clusterversions.config.openshift.io", "clusteroperators.config.openshift.io"
WORKING = re.compile(r"Working towards (\S+): (\d+) of (\d+) done \((\d+)% complete\)")
SPEED = 1000.0
TINY = {"update_check_seconds": 20, "version_operator_restart_seconds": 1, "installer_seconds": 0.1, "api_server_shutdown_delay_seconds": 0.1,
        "api_server_termination_seconds": 0.1, "api_server_start_seconds": 0.1, "payload_retrieve_seconds": 1,
        "static_pod_seconds": dict.fromkeys(("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"), 1.0),
        "manifest_seconds": 0.001, "manifest_again_seconds": 0.001, "operator_start_seconds": 0.1, "operator_poll_seconds": 1,
        "deployment_seconds": {hop: {"others": 1.0} for hop in ("patch", "minor")},
        "daemon_pod_seconds": {hop: {"network": 0.1, "dns": 0.1, "machine-config": 0.1} for hop in ("patch", "minor")},
        "os_changes": {"patch": False, "minor": False}}


def cluster(faults=None, speed=SPEED, workers=3, **timing):
    found = StandIn(workers, faults, speed)
    found.timing = found.timing.replaced("upgrade", **timing)
    return found


def spec(found, **values):
    found.change(KIND, "version", lambda obj: obj["spec"].update(values))


def status(found):
    return found.get(KIND, "version")["status"]


def conditions(found, plural=KIND, name="version"):
    return {each["type"]: each for each in found.get(plural, name)["status"].get("conditions", ())}


def offered(found):
    return [each["version"] for each in status(found)["availableUpdates"] or ()]


def completed(found, version):
    first = status(found)["history"][0]
    return first["state"] == "Completed" and first["version"] == version


async def reached(found, version):
    await found.until(lambda: completed(found, version), 6000)


def play(scenario):
    asyncio.run(scenario())


def test_the_payloads_are_as_long_as_the_references():
    assert [catalogue().releases[version].manifests for version in ("4.9.23", "4.10.9")] == [738, 771]
    assert len(catalogue().operators) == 32
    assert [name for name, each in catalogue().operators.items() if each.how == "static"] == [
        "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]


def test_the_api_server_is_of_the_first_release():
    assert catalogue().releases["4.9.15"].server_version() == VERSION


@pytest.mark.parametrize(("version", "channel", "plain", "conditional"), [
    ("4.9.15", "stable-4.9", ["4.9.23", "4.9.17"], []), ("4.9.15", "candidate-4.9", ["4.9.25", "4.9.23", "4.9.17"], []),
    ("4.9.15", "candidate-4.10", ["4.9.23"], []), ("4.9.23", "fast-4.10", ["4.10.9"], []), ("4.9.23", "candidate-4.10", ["4.10.9"], []),
    ("4.10.9", "candidate-4.10", [], ["4.10.10"])])
def test_what_a_channel_offers(version, channel, plain, conditional):
    found = catalogue().updates(version, channel)
    assert [[each.version for each in part] for part in found] == [plain, conditional]


def test_a_patch_as_the_reference_saw_it():
    async def scenario():
        found = cluster(workers=100)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: "4.9.23" in offered(found))
            start = found.clock.now()
            spec(found, desiredUpdate={"version": "4.9.23"})
            curve = []
            while not completed(found, "4.9.23"):
                message = conditions(found)["Progressing"]["message"]
                if not curve or curve[-1][1] != message:
                    curve.append((found.clock.now() - start, message))
                await asyncio.sleep(0.005)
            assert found.clock.now() - start == pytest.approx(35 * 60, rel=0.10)  # a busy machine stretches a second that lasts a millisecond
            counts = [(seconds, *map(int, match.groups()[1:])) for seconds, text in curve if (match := WORKING.match(text))]
            assert any(done == 569 and percent == 77 for _, done, _, percent in counts)
            assert all(total == 738 and percent == done * 100 // total for _, done, total, percent in counts)
            texts = " ".join(text for _, text in curve)
            assert "Working towards 4.9.23: downloading update" in texts
            assert re.search(r"of 738 done \(\d+% complete\), waiting on kube-apiserver", texts)
            new, old = status(found)["history"]
            assert (new["state"], new["version"], new["verified"]) == ("Completed", "4.9.23", True)
            assert old["version"] == "4.9.15"
            seconds = found.clock.parse(new["completionTime"]) - found.clock.parse(new["startedTime"])
            assert seconds == pytest.approx(35 * 60, rel=0.10)
            now = conditions(found)
            assert {type_: each["status"] for type_, each in now.items()} == {
                "Available": "True", "Failing": "False", "Progressing": "False", "RetrievedUpdates": "True"}
            assert now["Available"]["message"] == "Done applying 4.9.23"
            assert now["Progressing"]["message"] == "Cluster version is 4.9.23"
            for operator in found.list(OPERATORS):
                versions = {each["name"]: each["version"] for each in operator["status"]["versions"]}
                assert versions["operator"] == "4.9.23"
            assert conditions(found, OPERATORS, "kube-apiserver")["Available"]["message"] == (
                "StaticPodsAvailable: 3 nodes are active; 3 nodes are at revision 9")

    play(scenario)


def test_updates_follow_the_channel_and_what_is_not_in_it_is_said():
    async def scenario():
        found = cluster()
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found) == ["4.9.23", "4.9.17"])
            spec(found, channel="candidate-4.10")
            await found.until(lambda: offered(found) == ["4.9.23"])
            spec(found, channel="stable-4.11")
            await found.until(lambda: conditions(found)["RetrievedUpdates"]["status"] == "False")
            assert conditions(found)["RetrievedUpdates"]["reason"] == "VersionNotFound"
            assert 'version 4.9.15 not found in the "stable-4.11" channel' in conditions(found)["RetrievedUpdates"]["message"]
            assert status(found)["availableUpdates"] is None
            spec(found, channel="")
            await found.until(lambda: conditions(found)["RetrievedUpdates"]["reason"] == "NoChannel")

    play(scenario)


@pytest.mark.parametrize(("update", "why"), [
    ({"version": "4.10.9"}, "when image is empty the update must be a previous version or an available update"),
    ({"version": "4.9"}, "must be a semantic version (1.2.3[-...])"), ({"force": True}, "must specify version or image")])
def test_an_update_that_cannot_be_is_reported_and_not_begun(update, why):
    async def scenario():
        found = cluster()
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found))
            spec(found, desiredUpdate=update)
            await found.until(lambda: "Invalid" in conditions(found))
            assert conditions(found)["Invalid"]["reason"] == "InvalidClusterVersion"
            assert why in conditions(found)["Invalid"]["message"]
            assert conditions(found)["Progressing"]["message"] == "Stopped at 4.9.15: the cluster version is invalid"
            assert len(status(found)["history"]) == 1
            spec(found, desiredUpdate=None)
            await found.until(lambda: "Invalid" not in conditions(found))
            assert conditions(found)["Progressing"]["message"] == "Cluster version is 4.9.15"

    play(scenario)


def test_a_payload_that_is_not_signed_is_refused_unless_it_is_forced():
    async def scenario():
        found = cluster([Fault("bad-signature", 1)], **TINY)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found))
            spec(found, desiredUpdate={"version": "4.9.23"})
            await found.until(lambda: conditions(found)["Failing"]["status"] == "True")
            now = conditions(found)
            assert now["Failing"]["reason"] == "ImageVerificationFailed"
            assert now["Failing"]["message"].startswith("The update cannot be verified: unable to verify sha256:e38a959a")
            assert now["Progressing"]["message"] == "Unable to apply 4.9.23: the image may not be safe to use"
            spec(found, desiredUpdate={"version": "4.9.23", "force": True})
            await reached(found, "4.9.23")
            assert status(found)["history"][0]["verified"] is False

    play(scenario)


def test_an_update_that_is_asked_for_no_longer_leaves_the_release_that_runs():
    async def scenario():
        found = cluster([Fault("bad-signature", 1)], **TINY)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found))
            spec(found, desiredUpdate={"version": "4.9.23"})
            await found.until(lambda: conditions(found)["Failing"]["status"] == "True")
            spec(found, desiredUpdate=None)
            await found.until(lambda: conditions(found)["Failing"]["status"] == "False")
            assert completed(found, "4.9.15")
            assert conditions(found)["Progressing"]["message"] == "Cluster version is 4.9.15"

    play(scenario)


def test_a_new_minor_version_waits_for_the_administrators_word():
    async def scenario():
        found = cluster(**TINY)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            spec(found, channel="candidate-4.10", desiredUpdate={"image": catalogue().releases["4.9.23"].image})
            await reached(found, "4.9.23")
            gate = "ack-4.9-kube-1.23-api-removals-in-4.10"
            found.change("configmaps", "admin-gates", lambda obj: obj.update(data={gate: "Some APIs go."}), "openshift-config-managed")
            await found.until(lambda: "Upgradeable" in conditions(found))
            assert (conditions(found)["Upgradeable"]["reason"], conditions(found)["Upgradeable"]["message"]) == ("AdminAckRequired", "Some APIs go.")
            spec(found, desiredUpdate={"image": catalogue().releases["4.10.9"].image})
            await found.until(lambda: conditions(found)["Failing"]["status"] == "True")
            assert conditions(found)["Failing"]["message"] == (
                'Precondition "ClusterVersionUpgradeable" failed because of "AdminAckRequired": Some APIs go.')
            found.change("configmaps", "admin-acks", lambda obj: obj["data"].update({gate: "true"}), "openshift-config")
            await reached(found, "4.10.9")
            now = conditions(found)
            assert (now["ReleaseAccepted"]["status"], now["ReleaseAccepted"]["reason"]) == ("True", "PayloadLoaded")
            await found.until(lambda: status(found).get("conditionalUpdates"))
            assert status(found)["conditionalUpdates"][0]["conditions"][0]["type"] == "Recommended"
            assert status(found)["conditionalUpdates"][0]["release"]["version"] == "4.10.10"

    play(scenario)


def test_from_4_10_on_a_refused_payload_is_not_worked_towards():
    async def scenario():
        found = cluster([Fault("bad-signature", 1)], **TINY)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found))
            spec(found, channel="candidate-4.10", desiredUpdate={"image": catalogue().releases["4.10.9"].image, "force": True})
            await reached(found, "4.10.9")
            spec(found, desiredUpdate={"image": catalogue().releases["4.10.10"].image})
            await found.until(lambda: conditions(found)["ReleaseAccepted"]["status"] == "False")
            now = conditions(found)
            assert now["ReleaseAccepted"]["reason"] == "RetrievePayload"
            assert "failure=The update cannot be verified: unable to verify sha256:5f3b8c1d" in now["ReleaseAccepted"]["message"]
            assert now["Failing"]["status"] == "False"
            assert completed(found, "4.10.9")

    play(scenario)


def test_a_stuck_operator_is_named_and_is_no_failure():
    async def scenario():
        found = cluster([Fault("stuck-operator", 2)], **TINY)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found))
            spec(found, desiredUpdate={"version": "4.9.23"})
            await found.until(lambda: conditions(found)["Progressing"]["message"].endswith("waiting on etcd"))
            assert conditions(found)["Progressing"]["reason"] == "ClusterOperatorUpdating"
            assert conditions(found)["Failing"]["status"] == "False"
            etcd = conditions(found, OPERATORS, "etcd")
            assert (etcd["Progressing"]["status"], etcd["Progressing"]["reason"]) == ("True", "NodeInstaller")

    play(scenario)


def test_a_degraded_operator_fails_the_update_after_forty_minutes():
    async def scenario():
        found = cluster([Fault("degraded-operator", 2)], **TINY)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found))
            spec(found, desiredUpdate={"version": "4.9.23"})
            start = found.clock.now()
            await found.until(lambda: conditions(found)["Progressing"]["message"].endswith("waiting up to 40 minutes on etcd"))
            assert conditions(found)["Failing"]["status"] == "False"
            await found.until(lambda: conditions(found)["Failing"]["status"] == "True", 3000)
            assert found.clock.now() - start >= 2400
            assert conditions(found)["Failing"]["reason"] == "ClusterOperatorDegraded"
            assert conditions(found)["Progressing"]["message"] == (
                "Unable to apply 4.9.23: wait has exceeded 40 minutes for these operators: etcd")

    play(scenario)


def test_several_errors_become_one_as_the_operator_sums_them_up():
    updating = [UpdateError("ClusterOperatorUpdating", f"Cluster operator {name} is updating versions", name, "None") for name in ("dns", "network")]
    found = UpdateError.of(updating)
    assert found is not None and found.reason == "MultipleErrors" and found.effect == ""
    missing = [UpdateError("ClusterOperatorNotAvailable", "", name, "None") for name in ("b", "a")]
    assert UpdateError.of(missing).name == "a, b"
    assert UpdateError.of([*missing, updating[0]]) is updating[0]
    assert UpdateError.of([]) is None


def test_pools_that_change_are_against_a_new_minor_version():
    async def scenario():
        found = cluster(**TINY)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found))
            found.change("machineconfigpools.machineconfiguration.openshift.io", "worker", lambda pool: pool.update(status={
                "conditions": [{"type": "Updating", "status": "True", "reason": "", "message": "", "lastTransitionTime": found.clock.timestamp()}]}),
                subresource="status")
            await found.until(lambda: "Upgradeable" in conditions(found))
            assert conditions(found)["Upgradeable"]["reason"] == "PoolUpdating"
            assert conditions(found)["Upgradeable"]["message"].startswith(
                "Cluster operator machine-config should not be upgraded between minor versions: One or more machine config pools are updating")

    play(scenario)


def test_an_operator_that_is_degraded_at_rest_is_told_of():
    async def scenario():
        found = cluster(**TINY)
        async with running(found, Nodes, Bootstrap, ClusterVersions):
            await found.until(lambda: offered(found))

            def degrade(operator):
                next(each for each in operator["status"]["conditions"] if each["type"] == "Degraded").update(status="True")

            found.change(OPERATORS, "ingress", degrade, subresource="status")
            await found.until(lambda: conditions(found)["Failing"]["status"] == "True")
            assert conditions(found)["Progressing"]["message"] == "Error while reconciling 4.9.15: the cluster operator ingress is degraded"
            assert conditions(found)["Progressing"]["status"] == "False"

    play(scenario)
