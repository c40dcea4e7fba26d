"""`vmscale cleanup`: undo on a cluster what a run left there, from any machine."""

from __future__ import annotations

from dataclasses import dataclass

from .clock import Clock
from .cluster.access import load_access
from .cluster.edits import close_journal, remove_created, restore
from .cluster.journal import LABEL_EDITS, read_journal
from .cluster.lease import Lease, holder_identity
from .cluster.requests import Cluster
from .cluster.runtime import Runtime
from .model import LABEL_RUN
from .procedures.fleet import remove

DEADLINE_SECONDS = 4 * 3600.0


@dataclass(frozen=True)
class CleanUp:
    """What became of it: objects removed, edits put back, and a line for each thing that is still there."""

    deleted: int
    undone: int
    left: tuple[str, ...]


def remove_run(run_id: str, kubeconfig: str | None, context: str | None, *, forget_edits: bool = False) -> CleanUp:
    """Put back every field that the run changed, then remove every object with its label, and wait until it is gone. May be
    done again. ClusterError if the cluster cannot be asked, or a run is on it.

    forget_edits: what somebody else has changed since stays so, and the value from before the run is dropped."""
    access = load_access(kubeconfig, context)
    clock = Clock(access.embedded.speed if access.embedded else 1.0)

    lost: list[str] = []

    async def work() -> CleanUp:
        # Not under a run that lives: neither this one, which would lose what it stands on, nor another that measures.
        holder = holder_identity(f"clean-up of {run_id}")
        async with Cluster(access, clock) as cluster, Lease(cluster, holder, on_lost=lost.append):
            edits = len(await read_journal(cluster, run_id))
            # Values first: they take seconds, and a fleet that refuses to go may take hours.
            left = list(await restore(cluster, run_id, forget=forget_edits))
            removal = await remove(cluster, f"{LABEL_RUN}={run_id},!{LABEL_EDITS}", clock, deadline_seconds=DEADLINE_SECONDS)
            left += removal.left
            left += await remove_created(cluster, run_id, deadline_seconds=DEADLINE_SECONDS, forget=forget_edits)
            undone = edits - len(await read_journal(cluster, run_id))
            await close_journal(cluster, run_id)
            return CleanUp(removal.deleted, undone, (*left, *lost))

    with Runtime() as runtime:
        return runtime.run(work())
