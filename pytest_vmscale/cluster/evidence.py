"""What a cluster says of VMs that failed: their events, and how their virt-launchers' logs end. For people; nothing here is timed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .access import ClusterError
from .requests import Cluster, Object

VMS_AT_MOST = 10
EVENTS_AT_MOST = 30  # of each VM, the last ones
LOG_LINES = 40


async def evidence(cluster: Cluster, vms: Sequence[tuple[str, str]]) -> str:
    """Of VMs by namespace and name, at most VMS_AT_MOST. Never raises: what cannot be read is said in its place."""
    told: list[str] = []
    for namespace, name in vms[:VMS_AT_MOST]:
        told += [f"== {namespace}/{name}", *await _of(cluster, namespace, name), ""]
    if len(vms) > VMS_AT_MOST:
        told.append(f"and {len(vms) - VMS_AT_MOST} more VMs")
    return "\n".join(told).rstrip() + "\n"


async def _of(cluster: Cluster, namespace: str, name: str) -> list[str]:
    core = f"/api/v1/namespaces/{namespace}"
    try:
        pods = await cluster.list_all(f"{core}/pods", selector="kubevirt.io=virt-launcher")
        mine = [each["metadata"]["name"] for each in pods if (each["metadata"].get("annotations") or {}).get("kubevirt.io/domain") == name]
        events: list[Object] = []
        for involved in (name, *mine):
            events += await cluster.list_all(f"{core}/events", fields=f"involvedObject.name={involved}")
        told = ["-- events", *(_event_lines(events) or ["none"])]
    except ClusterError as error:
        return [f"-- events: cannot be read: {error}"]
    for pod in mine:
        told += [f"-- log of {pod}, the last {LOG_LINES} lines"]
        try:
            answer = await cluster.send("GET", f"{core}/pods/{pod}/log", {"container": "compute", "tailLines": str(LOG_LINES)})
            told += answer.body.decode(errors="replace").splitlines() or ["empty"]
        except ClusterError as error:
            told.append(f"cannot be read: {error}")
    return told


def _event_lines(events: Iterable[Object]) -> list[str]:
    timed = sorted(((_when(each), each) for each in events), key=lambda each: each[0])
    return [_event_line(when, each) for when, each in timed][-EVENTS_AT_MOST:]


def _when(event: Object) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""


def _event_line(when: str, event: Object) -> str:
    of, count = event.get("involvedObject") or {}, event.get("count") or 1
    times = f" ({count} times)" if count > 1 else ""
    return (
        f"{when} {event.get('type')} {event.get('reason')} {of.get('kind')}/{of.get('name')}: {(event.get('message') or '').strip()}{times}"
    )
