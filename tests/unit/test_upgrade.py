"""The upgrade's parts without a cluster: what is refused, what is read of the objects, how it is judged and told."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.requests import Cluster
from pytest_vmscale.cluster.watch import Event, Meta
from pytest_vmscale.guest.probe import Readiness
from pytest_vmscale.guest.route import Target
from pytest_vmscale.model import Fleet, Guest, Status
from pytest_vmscale.procedures.upgrade_checks import Asker, Hop, State, UpgradeRefused, channel_refused, kind, not_offered, problems, refuse
from pytest_vmscale.procedures.upgrade_probes import Asked, GuestProbe, GuestProbes, outages
from pytest_vmscale.procedures.upgrade_vms import VmWatch, records
from pytest_vmscale.procedures.upgrade_watch import (
    ClusterOperator,
    Condition,
    Entry,
    OperatorStatus,
    OperatorTimes,
    VersionStatus,
    VersionTimes,
    parse_progress,
)
from pytest_vmscale.procedures.vmi import Interface, Vmi, VmiStatus
from pytest_vmscale.records import UpgradeRecord

PATCH, MINOR = Hop("4.9.23"), Hop("4.10.9")
IMAGE, OTHER = "quay.io/openshift-release-dev/ocp-release@sha256:" + "a" * 64, "mirror.example/ocp@sha256:" + "a" * 64
AT_REST = {"Available": "True", "Progressing": "False", "Degraded": "False"}


def told(reason: str = "", message: str = "", **statuses: str) -> list[dict[str, Any]]:
    return [{"type": name, "status": status, "reason": reason, "message": message} for name, status in statuses.items()]


def state(
    version: Sequence[dict[str, Any]] = (), etcd: Sequence[dict[str, Any]] | None = None, pool: dict[str, Any] | None = None, **more: Any
) -> State:
    """A cluster at 4.9.15 that is fit for an upgrade, but for what is said."""
    base = {each["type"]: each for each in told(Available="True", Progressing="False", Failing="False", RetrievedUpdates="True")}
    status = {
        "history": [{"state": "Completed", "version": "4.9.15", "image": "x", "startedTime": "2026-01-01T00:00:00Z"}],
        "desired": {"version": "4.9.15", "channels": ["stable-4.9", "fast-4.9", "candidate-4.9", "candidate-4.10"]},
        "availableUpdates": [{"version": "4.9.23", "image": IMAGE}],
        "conditions": list({**base, **{each["type"]: each for each in version}}.values()),
    }
    status.update(more.pop("status", {}))
    pools = [
        {"metadata": {"name": "worker"}, "spec": {}, "status": {"conditions": told(Updated="True", Updating="False", Degraded="False")}}
    ]
    if pool:
        pools = [{**pools[0], **pool}]
    operators = [
        {"metadata": {"name": "etcd"}, "status": {"conditions": told(**AT_REST) if etcd is None else list(etcd)}},
        {"metadata": {"name": "dns"}, "status": {"conditions": told(**AT_REST)}},
    ]
    return State(
        {"spec": {"channel": "stable-4.9", **more.pop("spec", {})}, "status": status},
        operators,
        pools,
        more.pop("gates", {}),
        more.pop("acks", {}),
    )


UNPAUSED = {"conditions": told(Updated="True", Updating="False", Degraded="False")}


@pytest.mark.parametrize(
    "found, hop, said",
    [
        (state(told("", "Working towards 4.9.21: 3 of 738 done (0% complete)", Progressing="True")), PATCH, "Working towards 4.9.21"),
        (state(told("ImageVerificationFailed", "cannot be verified", Failing="True")), PATCH, "failing: ImageVerificationFailed"),
        (state(told("InvalidClusterVersion", "no such thing", Invalid="True")), PATCH, "invalid: InvalidClusterVersion"),
        (state(told("PoolUpdating", "pools are updating", Upgradeable="False")), MINOR, "Upgradeable=False: PoolUpdating: pools are updating"),
        (state(spec={"overrides": [{"unmanaged": True}]}), PATCH, "overrides"),
        (state(etcd=told("Sync", "no quorum", Available="True", Degraded="True")), PATCH, "operator etcd is degraded: Sync: no quorum"),
        (state(etcd=told("Sync", "gone", Available="False", Degraded="False")), PATCH, "operator etcd is not available: Sync: gone"),
        (state(pool={"spec": {"paused": True}, "status": UNPAUSED}), PATCH, "pool worker is paused"),
        (state(pool={"spec": {}, "status": {"conditions": told("1 nodes", "bad file", Degraded="True", NodeDegraded="True")}}), PATCH, "pool worker is degraded: 1 nodes: bad file"),
        (state(pool={"spec": {}, "status": {"conditions": told(Updating="True"), "updatedMachineCount": 2, "machineCount": 9}}), PATCH, "being updated (2 of 9 nodes)"),
        (state(gates={"ack-4.9-kube-1.23-apis": "APIs are\nremoved"}), MINOR, "not acknowledged ack-4.9-kube-1.23-apis: APIs are removed"),
        (state(etcd=told("UpgradeBackupFailed", "no space", **AT_REST, RecentBackup="False")), MINOR, "etcd has no recent backup: UpgradeBackupFailed: no space"),
        (state(), Hop("4.9.15"), "at 4.9.15 already"),
        (state(), Hop("4.9.24"), "4.9.24 is not offered on channel stable-4.9, which offers 4.9.23"),
        (state(told("VersionNotFound", "not in the channel", RetrievedUpdates="False"), status={"availableUpdates": None}), PATCH, "could not be retrieved: VersionNotFound"),
        (state(), Hop("4.9.23", channel="fast-4.11"), "fast-4.11 is none of those that 4.9.15 names"),
    ],
)  # fmt: skip
def test_what_speaks_against_an_upgrade_is_said_before_anything_is_touched(found: State, hop: Hop, said: str) -> None:
    with pytest.raises(UpgradeRefused) as refused:
        refuse(found, hop)
    assert said in str(refused.value)


def test_a_cluster_that_is_fit_is_not_refused() -> None:
    refuse(state(), PATCH)
    refuse(state(gates={"ack-4.9-apis": "x", "ack-4.8-apis": "y"}, acks={"ack-4.9-apis": "true"}), Hop("4.10.9", channel="candidate-4.10"))


def test_what_is_against_a_minor_version_is_not_against_a_patch() -> None:
    against = state(told("PoolUpdating", "pools are updating", Upgradeable="False"), gates={"ack-4.9-apis": "removed"})
    assert problems(against, PATCH) == []
    assert len(problems(against, MINOR)) == 2 and problems(against, replace(MINOR, force=True)) == []


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = state(
        told("X", "y", Progressing="True"), etcd=told("A", "b", Available="False"), pool={"spec": {"paused": True}, "status": UNPAUSED}
    )
    assert len(problems(found, PATCH)) == 3


def test_a_target_with_known_risks_needs_to_be_accepted() -> None:
    risky = {"release": {"version": "4.9.30", "image": OTHER}, "conditions": told("Bug", "may lose nodes", Recommended="False")}
    found = state(status={"conditionalUpdates": [risky]})
    assert "not recommended here (Bug: may lose nodes)" in not_offered(found, Hop("4.9.30"))
    assert not_offered(found, Hop("4.9.30", explicit=True)) == ""


def test_an_image_is_the_one_that_is_offered_by_its_digest_wherever_it_is_mirrored() -> None:
    assert not_offered(state(), Hop("4.9.23", image=OTHER)) == ""
    unknown = OTHER.replace("a" * 64, "b" * 64)
    assert "--upgrade-allow-explicit" in not_offered(state(), Hop("4.9.23", image=unknown))
    assert not_offered(state(), Hop("4.9.23", image=unknown, explicit=True)) == ""


def test_a_channel_that_the_release_does_not_name_can_be_set_explicitly() -> None:
    assert channel_refused(state(), Hop("4.9.23", channel="candidate-4.10")) == ""
    assert channel_refused(state(), Hop("4.9.23", channel="x", explicit_channel=True)) == ""


def test_a_hop_is_of_the_kind_that_the_reference_calls_minor_or_major() -> None:
    assert kind("4.9.15", "4.9.23") == "patch" and kind("4.9.23", "4.10.9") == "minor"


class Recorder:
    """In the place of a cluster, its edits, and oc."""

    def __init__(self, oc: bool) -> None:
        self.oc, self.words, self.patches, self.kept = oc, [], [], False

    def adm_upgrade(self, words: Sequence[str]) -> str | None:
        self.words.append(list(words))
        return "Requested update" if self.oc else None

    async def patch(self, path: str, patch: Any) -> None:
        self.patches.append((path.rpartition("/")[2], patch))

    async def keep(self, ref: Any) -> None:
        self.kept = True


@pytest.mark.parametrize(
    "hop, words, update",
    [
        (PATCH, ["--to=4.9.23"], {"version": "4.9.23", "image": IMAGE, "force": False}),
        (Hop("4.9.23", image=OTHER), [f"--to-image={OTHER}"], {"version": "4.9.23", "image": IMAGE, "force": False}),
        (Hop("4.9.40", image=IMAGE[:-1] + "b", explicit=True, force=True), [f"--to-image={IMAGE[:-1]}b", "--allow-explicit-upgrade", "--force"],
         {"version": "", "image": IMAGE[:-1] + "b", "force": True}),
    ],
)  # fmt: skip
def test_oc_is_asked_in_its_own_words_and_the_api_by_the_edit_that_they_make(hop: Hop, words: list[str], update: dict[str, Any]) -> None:
    for oc in (True, False):
        recorder = Recorder(oc)
        how = asyncio.run(Asker(cast(Cluster, recorder), cast(Any, recorder), recorder.adm_upgrade).begin(state(), hop))
        assert recorder.words == [words] and recorder.kept
        assert recorder.patches == ([] if oc else [("version", {"spec": {"desiredUpdate": update}})])
        assert how == ("oc adm upgrade" if oc else "ClusterVersion")


# What is read of the objects.


@pytest.mark.parametrize(
    "message, done",
    [
        ("Working towards 4.9.23: 569 of 738 done (77% complete)", (569, 738)),
        ("Working towards 4.10.9: 95 of 771 done (12% complete), waiting on kube-apiserver", (95, 771)),
        ("Working towards 4.10.9: 744 of 771 done (96% complete), waiting up to 40 minutes on machine-config", (744, 771)),
        ("Working towards quay.io/openshift-release-dev/ocp-release@sha256:abc: 1 of 738 done (0% complete)", (1, 738)),
        ("Working towards 4.9.23: downloading update", None),
        ("Working towards 4.9.23", None),
        ("Unable to apply 4.9.23: the cluster operator etcd is degraded", None),
        ("Unable to apply 4.10.9: wait has exceeded 40 minutes for these operators: network", None),
        ("Cluster version is 4.9.23", None),
        ("Stopped at 4.9.15: the cluster version is invalid", None),
    ],
)
def test_progress_is_read_of_the_messages_that_real_clusters_write(message: str, done: tuple[int, int] | None) -> None:
    assert parse_progress(message) == done


def entry(version: str, state_: str = "Partial", started: str = "2026-01-01T00:00:00Z", completed: str | None = None) -> Entry:
    return Entry(state_, version, f"image of {version}", started, completed)


def conditions(**statuses: str) -> list[Condition]:
    return [Condition(name, *text.split("|")) for name, text in statuses.items()]


BEFORE = entry("4.9.15", "Completed")


def test_the_duration_is_that_of_the_histories_entry() -> None:
    times = VersionTimes()
    times.saw(VersionStatus([BEFORE], conditions(Progressing="False||Cluster version is 4.9.15")), BEFORE, PATCH, 0.1, False)
    assert times.entry is None and times.duration_seconds is None
    started = entry("4.9.23", started="2026-01-02T10:00:00Z")
    working = conditions(Progressing="True||Working towards 4.9.23: 569 of 738 done (77% complete)")
    times.saw(VersionStatus([started, BEFORE], working), BEFORE, PATCH, 3.2, False)
    assert (times.started_seconds, times.completed_seconds, times.curve) == (3.2, None, [[3.2, 569, 738]])
    assert times.duration_seconds is None
    done = entry("4.9.23", "Completed", "2026-01-02T10:00:00Z", "2026-01-02T10:35:01Z")
    times.saw(VersionStatus([done, BEFORE], conditions()), BEFORE, PATCH, 2104.9, True)
    assert times.duration_seconds == 2101.0 and times.completed_seconds == 2104.9 and times.upper_bound


def test_a_history_that_is_full_does_not_hide_the_upgrade() -> None:
    """The operator keeps a fixed number of entries: their number says nothing."""
    full = [entry("4.9.15", "Completed", f"2025-01-01T00:00:{59 - index:02d}Z") for index in range(50)]
    times = VersionTimes()
    times.saw(VersionStatus([entry("4.9.23"), *full[:-1]]), full[0], PATCH, 1.0, False)
    assert times.started_seconds == 1.0


def test_another_upgrade_that_somebody_asks_for_is_not_taken_for_ours() -> None:
    times = VersionTimes()
    times.saw(VersionStatus([entry("4.9.21"), BEFORE]), BEFORE, PATCH, 5.0, False)
    assert times.superseded == "4.9.21" and times.entry is None


@pytest.mark.parametrize(
    "refused, between, accepted",
    [
        ("Failing=True|ImageVerificationFailed|no signature", "Failing=False||", "Progressing=True||Working towards 4.9.23: 1 of 738 done (0% complete)"),
        ("ReleaseAccepted=False|RetrievePayload|no signature", "ReleaseAccepted=Unknown|RetrievePayload|", "ReleaseAccepted=True|PayloadLoaded|"),
    ],
)  # fmt: skip
def test_a_payload_that_is_refused_is_so_until_it_is_accepted(refused: str, between: str, accepted: str) -> None:
    """Each release has its own way to say it, and says nothing while it tries again."""
    times = VersionTimes()
    for at, text, stands in (
        (1.0, between, False),
        (5.0, refused, True),
        (9.0, between, True),
        (12.0, refused, True),
        (15.0, accepted, False),
    ):
        times.saw(VersionStatus([BEFORE], conditions(**dict([text.split("=", 1)]))), BEFORE, PATCH, at, False)
        assert ("no signature" in times.refused) is stands
        assert times.refused_seconds == (5.0 if stands else None)


def test_that_operators_are_late_is_no_refusal() -> None:
    times = VersionTimes()
    times.saw(VersionStatus([BEFORE], conditions(Failing="True|MultipleErrors|some")), BEFORE, PATCH, 5.0, False)
    assert times.refused == ""


def test_each_reason_for_failing_has_a_window_of_its_own() -> None:
    times = VersionTimes()
    for at, said in ((1.0, "True|A|a"), (2.0, "True|A|a"), (3.0, "True|B|b"), (4.0, "False||"), (5.0, "True|A|a")):
        times.saw(VersionStatus([BEFORE], conditions(Failing=said)), BEFORE, PATCH, at, False)
    assert times.failing == [[1.0, 3.0, "A: a"], [3.0, 4.0, "B: b"], [5.0, None, "A: a"]]


def test_an_operators_windows() -> None:
    def at(**statuses: str) -> ClusterOperator:
        return ClusterOperator(status=OperatorStatus([], conditions(**{**AT_REST, **statuses})))

    times = OperatorTimes("", "")
    times.saw(at(), 1.0)
    times.saw(at(Progressing="True|NodeInstaller|2 of 3"), 2.0)
    times.saw(at(Progressing="True|NodeInstaller|3 of 3", Available="False|Down|all of it"), 3.0)
    times.saw(at(), 4.0)
    times.saw(at(Degraded="True|Sync|lost"), 5.0)
    assert (times.progressing, times.unavailable, times.degraded) == ([[2.0, 4.0]], [[3.0, 4.0]], [[5.0, None]])
    assert times.said == "Degraded=True: Sync: lost"


# Probes.


def asked(text: str) -> list[Asked]:
    """One a second: `.` was answered, `x` was not."""
    return [Asked(float(index), 0.01, "refused" if each == "x" else "") for index, each in enumerate(text)]


@pytest.mark.parametrize(
    "text, found",
    [("....", []), ("..xxx.", [(2.0, 5.0)]), ("x.x.", [(0.0, 1.0), (2.0, 3.0)]), (".xx", [(1.0, 10.0)]), ("xx", [(0.0, 10.0)]), ("", [])],
)
def test_an_outage_lasts_from_the_first_probe_that_fails_to_the_next_that_does_not(text: str, found: list[tuple[float, float]]) -> None:
    assert [(each.start_seconds, each.end_seconds) for each in outages(asked(text), 10.0)] == found


def test_a_guests_downtime_has_a_bound() -> None:
    probe = GuestProbe("a/vm", Target("a", "vm", "10.0.0.1", 22), Readiness.ssh())
    assert probe.downtime(5.0).longest_seconds == 0.0
    probe.answered(10.0, 10.1)
    probe.unanswered(40.0, "refused")
    probe.unanswered(42.0, "refused")
    probe.answered(70.0, 70.2)
    down = probe.downtime(100.0)
    assert (down.longest_seconds, down.longest_most_seconds) == (pytest.approx(30.2), pytest.approx(60.2))
    probe.unanswered(80.0, "no answer in time")
    assert probe.downtime(200.0).longest_seconds == 120.0 and probe.downtime(200.0).total_seconds == pytest.approx(150.2)


# VMs.


def vmi(uid: str = "u1", phase: str = "Running", node: str = "worker-0", address: str = "10.0.0.1") -> Vmi:
    status = VmiStatus(phase=phase, nodeName=node, interfaces=[Interface(address)])
    return Vmi(metadata=Meta(name="vm-0", namespace="a", uid=uid), status=status)


class Followed:
    """One VM whose instance's events come one a second; its guest answers unless it is said to be silent."""

    def __init__(self, first: Vmi | None) -> None:
        self.clock = Clock(1.0, epoch=0.0, monotonic=0.0)
        guest = Guest("a", "vm-0", "rhel", 0)
        self.probe = GuestProbe(guest.key, Target("a", "vm-0", "10.0.0.1", 22), Readiness.ssh())
        self.probes = GuestProbes({guest.key: self.probe}, cast(Any, None), self.clock, 2.0)
        self.watch = VmWatch(cast(Cluster, None), self.clock, Fleet("r1", "upgrade", (guest,)), self.probes, lambda: None)
        if first:
            self.watch.watch.objects[guest.key] = first
        self.watch.begin(0.0)
        self.at = 0.0

    def sees(self, *events: Vmi | None) -> UpgradeRecord:
        """None: the instance is deleted. Its record at the end."""
        for each in events:
            self.at += 1.0
            known = self.watch.watch.objects.get("a/vm-0") or vmi()
            self.watch._saw(Event("DELETED" if each is None else "MODIFIED", each or known, self.at))
            if each:
                self.watch.watch.objects["a/vm-0"] = each
        (found,) = records(self.watch, self.probes, {}, lambda guest: self.may_restart, 0.0, self.at, self.at + 300.0)
        return found

    may_restart = False


def test_a_vm_that_migrates_is_asked_at_its_new_address() -> None:
    followed = Followed(vmi())
    found = followed.sees(vmi(node="worker-0"), vmi(node="worker-1", address="10.0.0.2"))
    assert (found.status, found.migrations, found.restarts, found.node_before, found.node) == (Status.SUCCESS, 1, 0, "worker-0", "worker-1")
    assert followed.probe.target.address == "10.0.0.2" and followed.probe.wake.is_set()


@pytest.mark.parametrize(
    "may_restart, events, error",
    [
        (True, [vmi(phase="Succeeded"), None, vmi("u2", "Scheduling"), vmi("u2")], None),
        (False, [vmi(phase="Succeeded"), None, vmi("u2", "Scheduling"), vmi("u2")], "it was restarted, though it is to be migrated"),
        (True, [vmi(phase="Failed"), None, vmi("u2")], "its VMI failed and was started again"),
        (True, [vmi(phase="Failed")], "its VMI failed; its VMI is Failed and not Running"),
        (True, [None], "its VMI is gone"),
        (True, [vmi(phase="Succeeded"), None, vmi("u2", "Scheduling")], "its VMI is Scheduling and not Running"),
    ],
)
def test_which_vms_are_lost(may_restart: bool, events: list[Vmi | None], error: str | None) -> None:
    followed = Followed(vmi())
    followed.may_restart = may_restart
    found = followed.sees(*events)
    assert found.error == error and found.succeeded is (error is None)


def test_a_vm_that_is_silent_in_the_end_is_lost_and_one_that_went_down_later_is_not() -> None:
    for since, error in ((0.5, "it does not answer since 0 s: refused"), (100.0, None)):
        followed = Followed(vmi())
        followed.probe.unanswered(since, "refused")
        assert followed.sees(vmi()).error == error


def test_a_vm_that_does_not_run_when_it_begins_is_lost() -> None:
    for first in (None, vmi(phase="Scheduling")):
        assert "did not run when the upgrade was asked for" in (Followed(first).sees().error or "")


def test_states_are_not_changed_by_looking_at_them() -> None:
    found = state()
    before = copy.deepcopy(found.version)
    problems(found, MINOR)
    assert found.version == before
