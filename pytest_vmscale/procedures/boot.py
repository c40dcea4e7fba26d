"""One guest's way up: what was seen of it and when, and the record that comes of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..clock import Clock, parse_timestamp
from ..cluster.requests import Attempt
from ..guest.probe import Probing
from ..model import Guest, Moment, Status
from ..records import BootRecord
from .vmi import Vmi


@dataclass(frozen=True)
class Seen:
    """A phase as it was seen: a stamp of time.monotonic(), and the object's own timestamp."""

    phase: str
    arrived: float
    upper_bound: bool
    object_time: str | None


class Boot:
    """It is settled once: by the guest's answer, a failure, or the deadline. Stamps are of time.monotonic()."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.attempts: list[Attempt] = []  # of the start request
        self.sent: float | None = None  # t0
        self.accepted = False
        self.refused = ""
        self.vmi_uid: str | None = None
        self.seen: dict[str, Seen] = {}
        self.node: str | None = None
        self.address = ""
        self.phase: str | None = None
        self.why_unscheduled = ""
        self.probing: Probing | None = None
        self.tasks: list[asyncio.Task[None]] = []  # its start request, its probing
        self.status: Status | None = None
        self.error: str | None = None

    @property
    def answered(self) -> float | None:
        """The stamp of the answer of a guest that is up."""
        return self.probing.answered if self.probing and self.status is Status.SUCCESS else None

    def saw(self, phase: str, arrived: float, upper_bound: bool, object_time: str | None) -> None:
        if phase not in self.seen:
            self.seen[phase] = Seen(phase, arrived, upper_bound, object_time)

    def saw_vmi(self, vmi: Vmi, arrived: float, upper_bound: bool) -> None:
        status = vmi.status
        self.saw("created", arrived, upper_bound, vmi.metadata.creationTimestamp)
        for each in status.phaseTransitionTimestamps:
            # Another phase than the current one was passed without our seeing it: by now, or before.
            self.saw(each.phase, arrived, upper_bound or each.phase != status.phase, each.phaseTransitionTimestamp)
        if status.phase:
            self.saw(status.phase, arrived, upper_bound, None)
            self.phase = status.phase
        if vmi.address:
            self.address = vmi.address
            self.saw("ip", arrived, upper_bound, None)
        if vmi.ready_since is not None:
            self.saw("Ready", arrived, upper_bound, vmi.ready_since or None)
        self.node = status.nodeName or self.node
        self.why_unscheduled = vmi.why_unscheduled

    def why_not_up(self, deadline_seconds: float) -> str:
        """For the person who looks into it."""
        if self.sent is None:
            return "its start request was not sent before the deadline"
        if not self.accepted and not self.seen:
            last = f" ({self.attempts[-1].reason})" if self.attempts and self.attempts[-1].reason else ""
            return f"its start request got no answer before the deadline{last}"
        if not self.seen:
            return f"it had no VMI within {deadline_seconds:.0f} s"
        text = f"not up within {deadline_seconds:.0f} s; last phase {self.phase or 'Pending'}"
        if self.why_unscheduled:
            text += f": {self.why_unscheduled}"
        if "Running" not in self.seen:
            return text
        if self.probing is None:
            return f"{text}; it never got an address"
        where = f"{self.address or self.guest.name} port {self.probing.target.port}"
        return f"{text}; {self.probing.probes} probes of {where}, the last: {self.probing.last_error or 'under way'}"

    def record(self, clock: Clock, began: float | None) -> BootRecord:
        """`began`: the stamp of the storm's first request."""

        def since(start: float | None, stamp: float | None) -> float | None:
            return None if start is None or stamp is None else clock.at(stamp) - clock.at(start)

        def seen(phase: str) -> float | None:
            return since(self.sent, self.seen[phase].arrived) if phase in self.seen else None

        probing, answered = self.probing, self.answered
        return BootRecord(
            namespace=self.guest.namespace,
            vm_name=self.guest.name,
            os=self.guest.os,
            status=self.status or Status.TIMED_OUT,
            requested_at=since(began, self.sent) or 0.0,
            node=self.node,
            error=self.error if self.status else "the storm was cut short before it was up",
            last_phase=self.phase,
            time_to_vm_created_seconds=seen("created"),
            time_to_vmi_running_seconds=seen("Running"),
            time_to_vmi_ready_seconds=seen("Ready"),
            time_to_guest_ip_seconds=seen("ip"),
            time_to_ssh_seconds=since(self.sent, answered),
            error_bound_seconds=since(self._last_known_down(), answered),
            request_seconds=since(self.attempts[0].sent, self.attempts[-1].ended) if self.attempts else None,
            request_retries=tuple(attempt.reason for attempt in self.attempts[:-1]),
            probes=probing.probes if probing else 0,
            probe_lag_seconds=probing.lag_seconds if probing else None,
            timeline=tuple(self._moment(each, clock) for each in sorted(self.seen.values(), key=lambda each: each.arrived)),
        )

    def _last_known_down(self) -> float | None:
        """The last stamp at which the guest was surely not up: of a probe that failed, or of its Running. If Running was only
        learnt late, of the last phase before it that was seen in time, or of its request."""
        if self.probing and self.probing.last_failed is not None:
            return self.probing.last_failed
        running = self.seen.get("Running")
        if running and running.upper_bound:
            return max(
                (each.arrived for each in self.seen.values() if not each.upper_bound and each.arrived < running.arrived), default=self.sent
            )
        return running.arrived if running else None

    def _moment(self, seen: Seen, clock: Clock) -> Moment:
        t0 = clock.at(self.sent) if self.sent is not None else 0.0
        own = parse_timestamp(seen.object_time) - t0 if seen.object_time else None
        return Moment(seen.phase, clock.at(seen.arrived) - t0, seen.upper_bound, own)
