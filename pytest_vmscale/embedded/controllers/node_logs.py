"""A node's journal, as `oc adm node-logs` reads it through its kubelet: what the kubelet there told as events is in its log too."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from ..api.errors import ApiError
from ..api.store import Object
from .common import Cluster

NO_ENTRIES = "-- No entries --\n"
UNITS = ("kubelet", "kubelet.service")  # all that anything is known of
PROCESS = "hyperkube[2017]"
RELATIVE = re.compile(r"-?(\d+)(s|m|h|d)")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def journal(cluster: Cluster, node: str, query: Any) -> str:
    """The lines that a query asks for: unit, since, until, tail (or tailLines), grep (or pattern). 400 for what cannot be read."""
    units = query.getall("unit", [])
    if units and not set(units) & set(UNITS):
        return NO_ENTRIES
    since, until = (_moment(cluster, query[key]) if query.get(key) else None for key in ("since", "until"))
    pattern, most = query.get("grep") or query.get("pattern"), query.get("tail") or query.get("tailLines")
    try:
        wanted = re.compile(pattern or "")
    except re.error as error:
        raise ApiError(400, f"cannot parse the pattern {pattern!r}: {error}") from None
    if most and not most.isdigit():
        raise ApiError(400, f'strconv.ParseInt: parsing "{most}": invalid syntax')
    lines = [line for at, line in sorted(_lines(cluster, node)) if (since is None or at >= since) and (until is None or at <= until) and wanted.search(line)]
    return "\n".join(lines[len(lines) - min(int(most), len(lines)):] if most else lines) + "\n" if lines else NO_ENTRIES


def _lines(cluster: Cluster, node: str) -> list[tuple[float, str]]:
    """Each with its Unix time."""
    found = []
    for entry in cluster.resources.store.entries(cluster.resources.kind("events")):
        event = entry.obj
        source = event.get("source") or {}
        if source.get("component") == "kubelet" and source.get("host") == node and event.get("firstTimestamp"):
            at = datetime.fromisoformat(event["firstTimestamp"])
            found.append((at.timestamp(), f"{at:%b %d %H:%M:%S.%f} {node} {PROCESS}: I{at:%m%d %H:%M:%S.%f}    2017 event.go:291] {_told(event)}"))
    return found


def _told(event: Object) -> str:
    about = event["involvedObject"]
    name = f"{about['namespace']}/{about['name']}" if about.get("namespace") else about["name"]
    return (f'"Event occurred" object="{name}" kind="{about["kind"]}" apiVersion="{about.get("apiVersion", "")}" '
            f'type="{event["type"]}" reason="{event["reason"]}" message="{event["message"]}"')


def _moment(cluster: Cluster, text: str) -> float:
    """Unix seconds of `-1h`, `30m` (both that long ago), or a time."""
    ago = RELATIVE.fullmatch(text)
    if ago:
        return cluster.clock.epoch + cluster.clock.now() - int(ago[1]) * UNIT_SECONDS[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ApiError(400, f"cannot parse the time {text!r}") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
