"""`vmscale cleanup`: remove from a cluster what a run left there, from any machine."""

from __future__ import annotations

from .clock import Clock
from .cluster.access import load_access
from .cluster.requests import Cluster
from .cluster.runtime import Runtime
from .model import LABEL_RUN
from .procedures.fleet import Removal, remove

DEADLINE_SECONDS = 4 * 3600.0


def remove_run(run_id: str, kubeconfig: str | None, context: str | None) -> Removal:
    """Delete every object with the run's label and wait until it is gone. ClusterError if the cluster cannot be asked."""
    access = load_access(kubeconfig, context)
    clock = Clock(access.embedded.speed if access.embedded else 1.0)

    async def work() -> Removal:
        async with Cluster(access, clock) as cluster:
            return await remove(cluster, f"{LABEL_RUN}={run_id}", clock, deadline_seconds=DEADLINE_SECONDS)

    with Runtime() as runtime:
        return runtime.run(work())
