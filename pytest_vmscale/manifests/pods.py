"""Pods that are there to be there."""

from __future__ import annotations

from .core import Manifest

PAUSE_IMAGE = "registry.k8s.io/pause:3.9"


def idle_pods(namespace: str, count: int, labels: dict[str, str], name: str, affinity: Manifest | None = None) -> Manifest:
    """A Deployment of pods that do nothing, and take next to nothing."""
    selector = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": count,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": {**labels, **selector}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    **({"affinity": affinity} if affinity else {}),
                    "containers": [
                        {
                            "name": "pause",
                            "image": PAUSE_IMAGE,
                            "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "runAsNonRoot": True,
                                "runAsUser": 65535,
                                "capabilities": {"drop": ["ALL"]},
                                "seccompProfile": {"type": "RuntimeDefault"},
                            },
                        }
                    ],
                },
            },
        },
    }
