"""core/v1."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ..model import LABEL_FLEET, LABEL_INDEX, LABEL_OS, LABEL_RUN, Guest

Manifest = dict[str, Any]


def fleet_labels(run_id: str, fleet: str) -> dict[str, str]:
    return {LABEL_RUN: run_id, LABEL_FLEET: fleet}


def guest_labels(run_id: str, fleet: str, guest: Guest) -> dict[str, str]:
    return {**fleet_labels(run_id, fleet), LABEL_OS: guest.os, LABEL_INDEX: str(guest.index)}


def namespace(name: str, labels: dict[str, str]) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def secret(namespace: str, name: str, data: Mapping[str, str], labels: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }
