"""What a VirtualMachine's status says, computed from the VM, its VMI and its volumes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..api.store import Object
from .common import condition
from .kubevirt_client import condition_of, has_condition, is_deleting, is_final, phase_of
from .kubevirt_pod import claim_name

DATA_VOLUME_PARKED = ("WaitForFirstConsumer", "PendingPopulation")
STARTING_PHASES = ("", "Pending", "Scheduling", "Scheduled")
NOT_MIRRORED = ("Ready", "Failure")


@dataclass
class Seen:
    """All that the VM controller sees of one VM."""

    vm: Object
    vmi: Object | None
    data_volumes: dict[str, Object] = field(default_factory=dict)  # by name, those that its volumes name
    claims: dict[str, Object] = field(default_factory=dict)  # PVCs, by name
    snapshot_classes: frozenset[str] = frozenset()  # storage classes that can be snapshotted
    backoff_until: float | None = None  # cluster time, while a crashed VM may not start again
    now: float = 0.0
    timestamp: str = ""

    @property
    def volumes(self) -> list[Object]:
        return self.vm["spec"]["template"]["spec"].get("volumes") or []


def run_strategy(vm: Object) -> str:
    spec = vm["spec"]
    if "running" in spec and spec["running"] is not None:
        return "Always" if spec["running"] else "Halted"
    return str(spec.get("runStrategy") or "Halted")


def requests(vm: Object) -> list[Object]:
    return vm.get("status", {}).get("stateChangeRequests") or []


def _stopping(seen: Seen) -> bool:
    return seen.vmi is not None and not is_final(seen.vmi) and (is_deleting(seen.vmi) or any(
        each["action"] == "Stop" and each.get("uid") == seen.vmi["metadata"]["uid"] for each in requests(seen.vm)))


def _migrating(seen: Seen) -> bool:
    state = (seen.vmi or {}).get("status", {}).get("migrationState") or {}
    return bool(state.get("migrationUid")) and not state.get("completed") and not state.get("endTimestamp")


def _claim_missing(seen: Seen) -> bool:
    return seen.vmi is not None and has_condition(seen.vmi, "Synchronized", "False", "FailedPvcNotFound")


def _data_volume_failed(seen: Seen) -> bool:
    return any(each.get("status", {}).get("phase") == "Failed" or has_condition(each, "Running", "False", "Error")
               for each in seen.data_volumes.values())


def _provisioning(seen: Seen) -> bool:
    return any(each.get("status", {}).get("phase") not in ("Succeeded", "Failed", *DATA_VOLUME_PARKED) for each in seen.data_volumes.values())


def _waiting_for_binding(seen: Seen) -> bool:
    names = [name for name in map(claim_name, seen.volumes) if name]
    return any(name in seen.claims and seen.claims[name].get("status", {}).get("phase") != "Bound" for name in names)


def _pull_failed(reason: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.vmi is not None and has_condition(seen.vmi, "Synchronized", "False", reason)


def _crash_loop(seen: Seen) -> bool:
    return seen.vmi is None and seen.backoff_until is not None and seen.backoff_until > seen.now


# The first that matches is the VM's printable status: a VM is many things at once, and this is their order.
PRINTABLE: tuple[tuple[str, Callable[[Seen], bool]], ...] = (
    ("Terminating", lambda seen: is_deleting(seen.vm)),
    ("Stopping", _stopping),
    ("Migrating", _migrating),
    ("Paused", lambda seen: seen.vmi is not None and has_condition(seen.vmi, "Paused")),
    ("Running", lambda seen: seen.vmi is not None and phase_of(seen.vmi) == "Running"),
    ("ErrorPvcNotFound", _claim_missing),
    ("DataVolumeError", _data_volume_failed),
    ("ErrorUnschedulable", lambda seen: seen.vmi is not None and has_condition(seen.vmi, "PodScheduled", "False", "Unschedulable")),
    ("Provisioning", _provisioning),
    ("WaitingForVolumeBinding", _waiting_for_binding),
    ("ErrImagePull", _pull_failed("ErrImagePull")),
    ("ImagePullBackOff", _pull_failed("ImagePullBackOff")),
    ("Starting", lambda seen: seen.vmi is not None and phase_of(seen.vmi) in STARTING_PHASES),
    ("CrashLoopBackOff", _crash_loop),
    ("Stopped", lambda seen: seen.vmi is None or is_final(seen.vmi)),
    ("WaitingForReceiver", lambda seen: seen.vmi is not None and phase_of(seen.vmi) == "WaitingForSync"),
)


def printable_status(seen: Seen) -> str:
    return next((name for name, matches in PRINTABLE if matches(seen)), "Unknown")


def write_status(seen: Seen, vm: Object) -> None:
    """Bring the status of `vm`, a copy, up to what is seen."""
    status: Object = vm.setdefault("status", {})
    status["printableStatus"] = printable_status(seen)
    first_look = "volumeSnapshotStatuses" not in status
    snapshots = [_snapshot_status(seen, volume) for volume in seen.volumes]
    if snapshots:
        status["volumeSnapshotStatuses"] = snapshots
    if first_look and snapshots and not vm["metadata"].get("finalizers"):
        return  # the finalizer comes next, and the conditions with it
    vmi = seen.vmi
    _set_or_drop(status, "created", vmi is not None)
    _set_or_drop(status, "ready", vmi is not None and has_condition(vmi, "Ready"))
    if vmi is not None:
        status["runStrategy"] = run_strategy(vm)
        status["desiredGeneration"] = vm["metadata"]["generation"]
        status["observedGeneration"] = int((vmi["metadata"].get("annotations") or {}).get("kubevirt.io/vm-generation", 0))
    _write_conditions(seen, status)
    left = [each for each in status.get("stateChangeRequests") or () if not _done(each, vmi, status)]
    if left:
        status["stateChangeRequests"] = left
    else:
        status.pop("stateChangeRequests", None)


def _done(request: Object, vmi: Object | None, status: Object) -> bool:
    if request["action"] == "Stop":
        return vmi is None or vmi["metadata"]["uid"] != request.get("uid")
    pending_stop = any(each["action"] == "Stop" for each in status.get("stateChangeRequests") or ())
    return vmi is not None and not is_deleting(vmi) and not is_final(vmi) and not pending_stop


def _set_or_drop(status: Object, key: str, value: bool) -> None:
    if value:
        status[key] = True
    else:
        status.pop(key, None)


def _write_conditions(seen: Seen, status: Object) -> None:
    old = status.get("conditions") or []
    mirrored: list[Object] = [each for each in (seen.vmi or {}).get("status", {}).get("conditions") or [] if each["type"] not in NOT_MIRRORED]
    status["conditions"] = [_ready(seen, condition(old, "Ready")), *mirrored]


def _ready(seen: Seen, old: Object | None) -> Object:
    vmi_ready = condition_of(seen.vmi, "Ready") if seen.vmi else None
    if vmi_ready is not None:
        return vmi_ready
    reason, message = (("VMINotExists", "VMI does not exist") if seen.vmi is None
                       else ("VMIConditionMissing", "VMI is missing the Ready condition"))
    if old is not None and old["status"] == "False" and old.get("reason") == reason:
        return old
    moved = old is None or old["status"] != "False"
    return {"type": "Ready", "status": "False", "reason": reason, "message": message, "lastProbeTime": seen.timestamp,
            "lastTransitionTime": seen.timestamp if moved or old is None else old["lastTransitionTime"]}


def _snapshot_status(seen: Seen, volume: Object) -> Object:
    name, claim = volume["name"], claim_name(volume)

    def no(reason: str) -> Object:
        return {"enabled": False, "name": name, "reason": reason}

    if claim is None:
        return no(f"Snapshot is not supported for this volumeSource type [{name}]")
    storage_class: Any = (seen.claims.get(claim) or {}).get("spec", {}).get("storageClassName")
    if storage_class is None and claim in seen.data_volumes:
        spec = seen.data_volumes[claim]["spec"]
        storage_class = (spec.get("pvc") or spec.get("storage") or {}).get("storageClassName")
    if storage_class is None:
        return no("PVC not found")
    if storage_class in seen.snapshot_classes:
        return {"enabled": True, "name": name}
    return no(f"No VolumeSnapshotClass: Volume snapshots are not configured for this StorageClass [{storage_class}] [{name}]")
