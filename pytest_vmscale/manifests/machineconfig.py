"""machineconfiguration.openshift.io/v1."""

from __future__ import annotations

import base64

from .core import Manifest

API = "machineconfiguration.openshift.io/v1"
ROLE = "machineconfiguration.openshift.io/role"
# Spec 3.2 is what OpenShift has read since 4.7, and still does.
IGNITION_VERSION = "3.2.0"
MODE = 0o644


def role_label(name: str) -> str:
    """The node label that makes a node a member of the pool of this name."""
    return f"node-role.kubernetes.io/{name}"


def pool(name: str, max_unavailable: int | str) -> Manifest:
    """A pool of workers: it takes the workers' MachineConfigs and its own."""
    return {
        "apiVersion": API,
        "kind": "MachineConfigPool",
        "metadata": {"name": name},
        "spec": {
            "machineConfigSelector": {"matchExpressions": [{"key": ROLE, "operator": "In", "values": ["worker", name]}]},
            "nodeSelector": {"matchLabels": {role_label(name): ""}},
            "paused": False,
            "maxUnavailable": max_unavailable,
        },
    }


def trigger(name: str, role: str) -> Manifest:
    """A MachineConfig whose only effect is that its pool's nodes are drained and rebooted.

    Its file's path and content are as unique as its name: the operator names what it merges by content, and a file that is
    there already under another MachineConfig's name reboots nothing."""
    content = base64.b64encode(f"{name}\n".encode()).decode()
    file = {
        "path": f"/etc/vmscale/{name}",
        "mode": MODE,
        "overwrite": True,
        "contents": {"source": f"data:text/plain;charset=utf-8;base64,{content}"},
    }
    return {
        "apiVersion": API,
        "kind": "MachineConfig",
        "metadata": {"name": name, "labels": {ROLE: role}},
        "spec": {"config": {"ignition": {"version": IGNITION_VERSION}, "storage": {"files": [file]}}},
    }
