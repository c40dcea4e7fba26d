"""The controllers. Each is a class `X(cluster)` with `start()` and `async stop()`."""

from __future__ import annotations

from typing import Any

from .bootstrap import Bootstrap
from .events import EventExpiry
from .kubelet import Kubelet
from .nodes import NodeLifecycle, Nodes
from .scheduler import Scheduler

# The Kubernetes side, in the order in which it is to be started.
KUBERNETES_CONTROLLERS: tuple[type[Any], ...] = (Nodes, Bootstrap, NodeLifecycle, Scheduler, Kubelet, EventExpiry)
