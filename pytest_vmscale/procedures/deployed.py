"""One VM on its way through a deployment: what was seen of it, and what that makes of a record."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from ..clock import Clock, parse_timestamp
from ..cluster.conditions import Condition, find
from ..cluster.requests import Attempt, Object
from ..cluster.watch import AnnotatedMeta, Projection
from ..guest.probe import Probing
from ..model import Guest, Moment, Status
from ..records import DeployRecord
from .clones import CLONE_TYPE, strategy_of_phases
from .vmi import Vmi

# The reference looked at each VM this often.
POLL_SECONDS = 2.0
CLONED = "Succeeded"  # the DataVolume's phase


class _Status(msgspec.Struct):
    phase: str = ""
    progress: str = ""
    conditions: list[Condition] = []


class ClonedVolume(Projection):
    """Of a DataVolume: metadata with annotations, status.{phase, progress, conditions}."""

    metadata: AnnotatedMeta = msgspec.field(default_factory=AnnotatedMeta)
    status: _Status = msgspec.field(default_factory=_Status)


@dataclass
class DeployedVm:
    """Stamps are of time.monotonic(). `seen`: when each phase arrived, and whether only a relist told it."""

    guest: Guest
    manifest: Object
    bulk: int
    ordinal: int
    sent: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    seen: dict[str, tuple[float, bool]] = field(default_factory=dict)
    phase: str = ""
    progress: str = ""
    trouble: str = ""
    object_epoch: float | None = None  # what the DataVolume itself says of when it was ready
    strategy: str | None = None
    node: str | None = None
    address: str = ""
    vmi_phase: str = ""
    probing: Probing | None = None
    task: asyncio.Task[None] | None = None
    status: Status | None = None
    error: str | None = None

    @property
    def volume(self) -> str:
        """The key of its DataVolume."""
        return f"{self.guest.namespace}/{self.manifest['spec']['dataVolumeTemplates'][0]['metadata']['name']}"

    @property
    def cloned(self) -> bool:
        return CLONED in self.seen

    @property
    def where(self) -> str:
        """How far it got, in words."""
        if self.sent is None:
            return "it was never asked for: the bulks before it were not done"
        if self.cloned:
            probed = f", {self.probing.probes} probes, the last: {self.probing.last_error or 'under way'}" if self.probing else ""
            return f"its disk is cloned, its VMI is {self.vmi_phase or 'not there'}{probed}"
        if not self.phase:
            return "its VM was created, and no DataVolume came"
        progress = f" at {self.progress}" if self.progress not in ("", "N/A") else ""
        return f"its DataVolume is {self.phase}{progress}" + (f": {self.trouble}" if self.trouble else "")

    def saw(self, what: str, arrived: float, upper_bound: bool) -> None:
        self.seen.setdefault(what, (arrived, upper_bound))

    def saw_volume(self, volume: ClonedVolume, arrived: float, upper_bound: bool) -> None:
        status = volume.status
        self.saw("created", arrived, upper_bound)
        if status.phase:
            self.phase, self.progress = status.phase, status.progress
            self.saw(status.phase, arrived, upper_bound)
        self.strategy = volume.metadata.annotations.get(CLONE_TYPE) or strategy_of_phases(self.seen) or self.strategy
        self.trouble = next(
            (each.message for each in status.conditions if each.type in ("Running", "Bound") and each.status == "False"), ""
        )
        if status.phase == CLONED and self.object_epoch is None:
            self.object_epoch = _ready_since(status.conditions)

    def saw_vmi(self, vmi: Vmi, arrived: float, upper_bound: bool) -> None:
        self.vmi_phase, self.node, self.address = vmi.status.phase, vmi.status.nodeName or self.node, vmi.address
        if vmi.status.phase == "Running":
            self.saw("Running", arrived, upper_bound)

    def record(self, clock: Clock, began: float | None, now: float) -> DeployRecord:
        """`began`: the stamp of the deployment's first request; `now`: of this moment."""

        def since(start: float | None, stamp: float | None) -> float | None:
            return None if start is None or stamp is None else clock.at(stamp) - clock.at(start)

        def after(what: str) -> float | None:
            return since(self.sent, self.seen[what][0]) if what in self.seen else None

        cloned = after(CLONED)
        own = None if self.object_epoch is None or self.sent is None else self.object_epoch - clock.at(self.sent)
        return DeployRecord(
            namespace=self.guest.namespace,
            vm_name=self.guest.name,
            os=self.guest.os,
            status=self.status or Status.TIMED_OUT,
            requested_at=since(began, now if self.sent is None else self.sent) or 0.0,
            node=self.node,
            error=self.error or (None if self.status else self.where),
            last_phase=self.vmi_phase if self.cloned and self.vmi_phase else self.phase or None,
            request_retries=tuple(attempt.reason for attempt in self.attempts[:-1]),
            timeline=tuple(
                Moment(what, since(self.sent, stamp) or 0.0, bound, own if what == CLONED else None)
                for what, (stamp, bound) in self.seen.items()
            ),
            bulk=self.bulk,
            ordinal=self.ordinal,
            time_to_data_volume_seconds=after("created"),
            clone_duration_seconds=cloned,
            polled_clone_duration_seconds=None if cloned is None else math.ceil(cloned / POLL_SECONDS) * POLL_SECONDS,
            time_to_vmi_running_seconds=after("Running"),
            time_to_ssh_seconds=after("up"),
            clone_strategy=self.strategy,
            request_seconds=since(self.sent, self.attempts[-1].ended if self.attempts else None),
        )


def _ready_since(conditions: Sequence[Condition]) -> float | None:
    ready = find(conditions, "Ready", "True")
    try:
        return parse_timestamp(ready.lastTransitionTime) if ready and ready.lastTransitionTime else None
    except ValueError:
        return None
