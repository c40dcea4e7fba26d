"""The controllers. Each is a class `X(cluster)` with `start()` and `async stop()`; some have `serve(server)`, to take part in requests."""

from __future__ import annotations

from typing import Any

from .admission import Admission
from .bootstrap import Bootstrap
from .cronjobs import CronJobs
from .deployments import Deployments
from .disruption import Disruption
from .endpoints import Endpoints
from .events import EventExpiry
from .garbage import GarbageCollector
from .jobs import Jobs
from .kubelet import Kubelet
from .limits import LimitRanges
from .namespaces import Namespaces
from .nodes import NodeLifecycle, Nodes
from .pod_logs import PodLogs
from .quota import Quotas
from .scheduler import Scheduler
from .sets import DaemonSets, StatefulSets
from .snapshots import Snapshots
from .volumes import Volumes
from .workloads import ReplicaSets

# The Kubernetes side, in the order in which it is to be started.
KUBERNETES_CONTROLLERS: tuple[type[Any], ...] = (
    Nodes, Bootstrap, NodeLifecycle, Namespaces, Scheduler, Kubelet, Volumes, Snapshots, ReplicaSets, Deployments, DaemonSets, StatefulSets, Jobs,
    CronJobs, Endpoints, PodLogs, Admission, LimitRanges, Quotas, Disruption, GarbageCollector, EventExpiry)
