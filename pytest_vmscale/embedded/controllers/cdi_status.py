"""What a DataVolume's status and events say, computed from its claim's annotations. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..api.store import Key, Object
from .cdi_claims import CLONE, GROUP, UPLOAD
from .common import condition

CLONE_PHASES = {"": "CloneScheduled", "Pending": "CloneScheduled", "Succeeded": "Succeeded", "CSIClone": "CSICloneInProgress",
                "HostClone": "CloneInProgress", "PrepClaim": "PrepClaimInProgress", "Rebind": "RebindInProgress",
                "SnapshotClone": "CloneFromSnapshotSourceInProgress", "Snapshot": "SnapshotForSmartCloneInProgress"}
IMPORT_PHASES = {"Pending": "ImportScheduled", "Running": "ImportInProgress", "Succeeded": "Succeeded"}
UPLOAD_PHASES = {"Pending": "UploadScheduled", "Running": "UploadReady", "Succeeded": "Succeeded"}

CLONE_PHASE = f"{GROUP}/clonePhase"
POD_PHASE, POD_RESTARTS, FATAL = f"{GROUP}/storage.pod.phase", f"{GROUP}/storage.pod.restarts", f"{GROUP}/storage.import.fatalError"
PROGRESS, RUNNING = f"{GROUP}/storage.populator.progress", f"{GROUP}/storage.condition.running"

# Reason and message for each phase that is reported as an event. {from}: the clone's source, {to}: the DataVolume.
EVENTS = {
    "CloneScheduled": "Cloning from {origin} into {to} scheduled", "CloneInProgress": "Cloning from {origin} into {to} in progress",
    "SnapshotForSmartCloneInProgress": "Creating snapshot for smart-clone is in progress (for pvc {origin})",
    "CloneFromSnapshotSourceInProgress": "Creating PVC from snapshot source is in progress (for {kind} {origin})",
    "CSICloneInProgress": "CSI Volume clone in progress (for pvc {origin})",
    "PrepClaimInProgress": "Prepping PersistentVolumeClaim for DataVolume {to}", "RebindInProgress": "Rebinding PersistentVolumeClaim for DataVolume {to}",
    "ImportScheduled": "Import into {name} scheduled", "ImportInProgress": "Import into {name} in progress",
    "UploadScheduled": "Upload into {name} scheduled", "UploadReady": "Upload into {name} ready",
}
SUCCEEDED = {CLONE: ("CloneSucceeded", "Successfully cloned from {origin} into {to}"), UPLOAD: ("UploadSucceeded", "Successfully uploaded into {name}")}
IMPORTED = ("ImportSucceeded", "Successfully imported into PVC {name}")


@dataclass(frozen=True)
class Seen:
    """What the controller sees of one DataVolume. `parked`: its claim waits for a consumer. `refusal`: why there is no claim, as reason and message."""

    claim: Object | None
    population: str  # the kind of source object
    parked: bool = False
    refusal: tuple[str, str] | None = None


def phase_of(data_volume: Object) -> str:
    return str((data_volume.get("status") or {}).get("phase", ""))


def next_phase(seen: Seen, old: str) -> str:
    claim = seen.claim
    if claim is None:
        return "Pending" if seen.refusal and seen.refusal[0] == "ErrExceededQuota" else old
    annotations, claim_phase = claim["metadata"].get("annotations") or {}, (claim.get("status") or {}).get("phase")
    if claim_phase == "Lost":
        return "Failed"
    if seen.parked:
        return "PendingPopulation"
    if seen.population == CLONE:
        return CLONE_PHASES.get(annotations.get(CLONE_PHASE, ""), old)
    pod_phase = annotations.get(POD_PHASE, "")
    if pod_phase == "Failed":
        return "Failed" if annotations.get(FATAL) == "true" else old
    phases = UPLOAD_PHASES if seen.population == UPLOAD else IMPORT_PHASES
    return phases.get(pod_phase, old or "Pending")


def update(data_volume: Object, seen: Seen, now: str) -> None:
    """Bring the status of `data_volume`, a copy, up to what is seen."""
    status = data_volume.setdefault("status", {})
    phase = next_phase(seen, phase_of(data_volume))
    if phase:
        status["phase"] = phase
    if seen.claim is not None:
        annotations = seen.claim["metadata"].get("annotations") or {}
        status["claimName"] = seen.claim["metadata"]["name"]
        status["progress"] = annotations.get(PROGRESS, "N/A")
        restarts = int(annotations.get(POD_RESTARTS, "0"))
        if restarts:
            status["restartCount"] = restarts
    _conditions(status, seen, now)


def _conditions(status: Object, seen: Seen, now: str) -> None:
    bound, reason, message = _bound(seen)
    refused, why = seen.refusal if seen.claim is None and seen.refusal else ("", "")
    annotations = (seen.claim or {"metadata": {}})["metadata"].get("annotations") or {}
    running = annotations.get(RUNNING) == "true"
    ready = status.get("phase") == "Succeeded"
    _set(status, "Bound", bound, reason, message, now)
    _set(status, "Ready", ready, "TransferRunning" if running and not ready else refused, why, now)
    _set(status, "Running", running, annotations.get(f"{RUNNING}.reason", ""), annotations.get(f"{RUNNING}.message", ""), now)


def _bound(seen: Seen) -> tuple[bool, str, str]:
    if seen.claim is None:
        return (False, *(seen.refusal or ("NotFound", "No PVC found")))
    name, bound = seen.claim["metadata"]["name"], (seen.claim.get("status") or {}).get("phase") == "Bound"
    return bound, "Bound" if bound else "Pending", f"PVC {name} {'Bound' if bound else 'Pending'}"


def _set(status: Object, type_: str, value: bool, reason: str, message: str, now: str) -> None:
    """As CDI writes a condition: the heartbeat moves with any change, the transition with the status."""
    conditions: list[Object] = status.setdefault("conditions", [])
    word = "True" if value else "False"
    found = condition(conditions, type_)
    if found is None:
        found = {"type": type_}
        conditions.append(found)
    if found.get("status") == word and (found.get("reason", ""), found.get("message", "")) == (reason, message):
        return
    if found.get("status") != word:
        found["lastTransitionTime"] = now
    found.update(status=word, lastHeartbeatTime=now)
    for key, text in (("reason", reason), ("message", message)):
        if text:
            found[key] = text
        else:
            found.pop(key, None)


def events(before: Object, after: Object, seen: Seen, origin: tuple[str, Key] | None) -> Iterator[tuple[str, str, str]]:
    """Type, reason and message of what is to be told of a change of status."""
    meta = after["metadata"]
    kind, key = origin or ("", ("", ""))
    words = {"kind": kind, "origin": "/".join(key), "to": f"{meta['namespace']}/{meta['name']}", "name": meta["name"]}
    phase = phase_of(after)
    if phase != phase_of(before):
        if phase == "Succeeded":
            reason, text = SUCCEEDED.get(seen.population, IMPORTED)
            yield "Normal", reason, text.format(**words)
        elif phase == "Failed":
            yield "Warning", "ImportFailed", f"Failed to import into PVC {meta['name']}"
        elif phase in EVENTS:
            yield "Normal", phase, EVENTS[phase].format(**words)
        elif seen.claim is None and seen.refusal:
            yield "Warning", *seen.refusal
    old, new = ({each["type"]: each for each in (obj.get("status") or {}).get("conditions") or ()} for obj in (before, after))
    if new["Bound"] != old.get("Bound") and [new["Bound"].get(key) for key in ("status", "reason", "message")] != [
            (old.get("Bound") or {}).get(key) for key in ("status", "reason", "message")]:
        yield "Normal", new["Bound"]["reason"], new["Bound"]["message"]
    running = new["Running"]
    if running["status"] == "False" and new["Ready"]["status"] == "False" and phase not in ("Pending", "PendingPopulation") and running.get("message") and (
            running["message"] != (old.get("Running") or {}).get("message")):
        yield "Warning", running.get("reason", ""), running["message"]
