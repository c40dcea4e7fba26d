"""A VirtualMachine's status: what it says when the VM is many things at once."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vmscale.embedded.controllers.kubevirt_status import PRINTABLE, Seen, printable_status, run_strategy, write_status

ORDER = ["Terminating", "Stopping", "Migrating", "Paused", "Running", "ErrorPvcNotFound", "DataVolumeError", "ErrorUnschedulable", "Provisioning",
         "WaitingForVolumeBinding", "ErrImagePull", "ImagePullBackOff", "Starting", "CrashLoopBackOff", "Stopped", "WaitingForReceiver"]
NOW = "2026-01-01T00:00:00Z"


def make_vm(**meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": "vm", "namespace": "ns", "generation": 2, "finalizers": ["x"], **meta}, "spec": {"runStrategy": "Always", "template": {
        "spec": {"domain": {}, "volumes": [{"name": "root", "dataVolume": {"name": "root"}}]}}}}


def make_vmi(phase: str, *conditions: dict[str, Any], deleting: bool = False, **status: Any) -> dict[str, Any]:
    meta = {"name": "vm", "uid": "u", **({"deletionTimestamp": NOW} if deleting else {})}
    return {"metadata": meta, "status": {"phase": phase, "conditions": list(conditions), **status}}


def condition(type_: str, status: str, reason: str = "") -> dict[str, Any]:
    return {"type": type_, "status": status, "reason": reason}


def seen(vm: dict[str, Any] | None = None, vmi: dict[str, Any] | None = None, phase: str | None = None, **more: Any) -> Seen:
    data_volumes = {"root": {"spec": {}, "status": {"phase": phase}}} if phase else {}
    return Seen(vm or make_vm(), vmi, data_volumes, timestamp=NOW, **more)


UNBOUND = {"root": {"spec": {}, "status": {"phase": "Pending"}}}


def test_the_order_is_kubevirts() -> None:
    assert [name for name, _ in PRINTABLE] == ORDER


@pytest.mark.parametrize("expected, what", [
    ("Terminating", seen(make_vm(deletionTimestamp=NOW), make_vmi("Running", deleting=True))),
    ("Stopping", seen(vmi=make_vmi("Running", deleting=True))),
    ("Migrating", seen(vmi=make_vmi("Running", migrationState={"migrationUid": "m"}))),
    ("Running", seen(vmi=make_vmi("Running", migrationState={"migrationUid": "m", "completed": True}))),
    ("Paused", seen(vmi=make_vmi("Running", condition("Paused", "True")))),
    ("Running", seen(vmi=make_vmi("Running"), phase="CloneScheduled")),
    ("ErrorPvcNotFound", seen(vmi=make_vmi("Pending", condition("Synchronized", "False", "FailedPvcNotFound")))),
    ("DataVolumeError", seen(phase="Failed")),
    ("ErrorUnschedulable", seen(vmi=make_vmi("Scheduling", condition("PodScheduled", "False", "Unschedulable")), phase="CloneScheduled")),
    ("Provisioning", seen(phase="CSICloneInProgress", claims=UNBOUND)),
    ("WaitingForVolumeBinding", seen(phase="WaitForFirstConsumer", claims=UNBOUND)),
    ("ErrImagePull", seen(vmi=make_vmi("Scheduling", condition("Synchronized", "False", "ErrImagePull")))),
    ("ImagePullBackOff", seen(vmi=make_vmi("Scheduling", condition("Synchronized", "False", "ImagePullBackOff")))),
    *(("Starting", seen(vmi=make_vmi(phase), phase="Succeeded")) for phase in ("", "Pending", "Scheduling", "Scheduled")),
    ("CrashLoopBackOff", seen(backoff_until=10.0, now=5.0)),
    ("Stopped", seen(backoff_until=10.0, now=11.0)),
    ("Stopped", seen(vmi=make_vmi("Failed"))),
    ("Unknown", seen(vmi=make_vmi("Unknown"))),
])
def test_the_first_that_matches_counts(expected: str, what: Seen) -> None:
    assert printable_status(what) == expected


def test_ready_says_why_not() -> None:
    vm = make_vm()
    vm["status"] = {"volumeSnapshotStatuses": []}
    reasons = []
    for vmi in (None, {"metadata": {"name": "vm", "uid": "u"}, "status": {}}, make_vmi("Scheduling", condition("Ready", "False", "GuestNotRunning")),
                make_vmi("Running", condition("Ready", "True"), condition("AgentConnected", "True"))):
        write_status(seen(vm, vmi), vm)
        reasons.append(next(each.get("reason") for each in vm["status"]["conditions"] if each["type"] == "Ready"))
    assert reasons == ["VMINotExists", "VMIConditionMissing", "GuestNotRunning", ""]
    assert vm["status"]["ready"] and vm["status"]["created"]
    assert [each["type"] for each in vm["status"]["conditions"]] == ["Ready", "AgentConnected"]
    write_status(seen(vm, None), vm)
    assert "ready" not in vm["status"] and "created" not in vm["status"]
    assert [each["type"] for each in vm["status"]["conditions"]] == ["Ready"]


def test_a_look_that_sees_nothing_new_changes_nothing() -> None:
    vm = make_vm()
    write_status(seen(vm), vm)
    before = repr(vm)
    later = seen(vm)
    later.timestamp = "2026-01-01T00:10:00Z"
    write_status(later, vm)
    assert repr(vm) == before


def test_requests_for_a_change_go_when_they_are_done() -> None:
    vm = make_vm()
    vm["status"] = {"stateChangeRequests": [{"action": "Stop", "uid": "u"}, {"action": "Start"}]}
    write_status(seen(vm, make_vmi("Running")), vm)
    assert [each["action"] for each in vm["status"]["stateChangeRequests"]] == ["Stop", "Start"]
    write_status(seen(vm, None), vm)
    assert [each["action"] for each in vm["status"]["stateChangeRequests"]] == ["Start"]
    another = make_vmi("Scheduling")
    another["metadata"]["uid"] = "v"
    write_status(seen(vm, another), vm)
    assert "stateChangeRequests" not in vm["status"]


@pytest.mark.parametrize("spec, expected", [({"running": True}, "Always"), ({"running": False}, "Halted"), ({"runStrategy": "Manual"}, "Manual")])
def test_run_strategy(spec: dict[str, Any], expected: str) -> None:
    assert run_strategy({"spec": spec}) == expected
