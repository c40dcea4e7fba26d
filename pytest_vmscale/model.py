"""The nouns: a fleet of guests, what was measured of each, and what was judged of it. Frozen, without I/O."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

LABEL_RUN = "vmscale.io/run-id"
LABEL_FLEET = "vmscale.io/fleet"
LABEL_OS = "vmscale.io/os"
LABEL_INDEX = "vmscale.io/index"


@dataclass(frozen=True, order=True)
class Guest:
    """One VM of a fleet. `key` names it on the cluster: same-named VMs of two namespaces are two."""

    namespace: str
    name: str
    os: str
    index: int

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Fleet:
    """The VMs that one run provisioned, in the order of their indices."""

    run_id: str
    name: str
    guests: tuple[Guest, ...]

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(guest.namespace for guest in self.guests))

    @property
    def selector(self) -> str:
        return f"{LABEL_RUN}={self.run_id},{LABEL_FLEET}={self.name}"

    @property
    def os_mix(self) -> dict[str, int]:
        mix: dict[str, int] = {}
        for guest in self.guests:
            mix[guest.os] = mix.get(guest.os, 0) + 1
        return mix

    def first(self, count: int) -> Fleet:
        return Fleet(self.run_id, self.name, self.guests[:count])


@dataclass(frozen=True)
class Moment:
    """When a guest reached a phase, in cluster seconds from its own t0 (the stamp before its start request).

    `upper_bound` is true for a state that was only learnt from a relist: it was reached then, or before.
    `object_seconds` is the second opinion: what the object's own timestamp says, at one-second resolution.
    """

    phase: str
    seconds: float
    upper_bound: bool = False
    object_seconds: float | None = None


class Status(enum.StrEnum):
    """How one record ended."""

    SUCCESS = "Success"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was measured of one VM, whatever the scenario; each scenario's own record adds to it.

    Seconds are cluster time from `requested_at`, which is in cluster seconds from the scenario's start to the stamp before
    this VM's request. None means not measured.
    """

    # The fields that statistics are made of, and the one of them that says how it ended: a VM that did not succeed is
    # beyond the deadline there, whatever else was measured of it.
    METRICS: ClassVar[tuple[str, ...]] = ()
    OUTCOME: ClassVar[str] = ""
    # More is better: of the metrics, or of FIGURES, which are those of the measurement's details that runs are compared by.
    HIGHER_IS_BETTER: ClassVar[tuple[str, ...]] = ()
    FIGURES: ClassVar[tuple[str, ...]] = ()
    # Numbers among the measurement's parameters that say how large it was: references may be given by them.
    SIZES: ClassVar[tuple[str, ...]] = ("vms",)
    # How long it took is what was measured. False: it is what was asked for, and the run's own work.
    DURATION_MEASURED: ClassVar[bool] = True
    # Metrics that the guests measure themselves. All other times are stamps of the measuring machine's clock, late when it is busy.
    BY_GUESTS: ClassVar[tuple[str, ...]] = ()

    namespace: str
    vm_name: str
    os: str
    status: Status
    requested_at: float
    node: str | None = None
    error: str | None = None
    last_phase: str | None = None
    request_retries: tuple[str, ...] = ()  # why each earlier try of the request failed
    timeline: tuple[Moment, ...] = ()

    @property
    def succeeded(self) -> bool:
        return self.status is Status.SUCCESS

    def applies(self, metric: str) -> bool:
        """Whether a VM of its kind has this metric at all: one that does not is in no sample of it, neither measured nor missing."""
        return True

    def value(self, metric: str) -> float | None:
        """A metric's value; None if it was not measured, or is the outcome of a VM that did not succeed."""
        found: float | None = getattr(self, metric)
        return None if metric == self.OUTCOME and not self.succeeded else found


@dataclass(frozen=True)
class Gap:
    """A time in which a watch was blind: from its break to the relist that mended it. Seconds from the start."""

    kind: str
    start_seconds: float
    end_seconds: float
    reason: str


@dataclass(frozen=True)
class Measurement:
    """What a procedure measured. It judges nothing, and reports nothing that it has no data for.

    parameters: what was asked for. details: further figures of the run (request counts, achieved rate, ...).
    named: which point of a sweep this is, where its number of VMs does not tell ("800 VMs, bulks of 100").
    time_rate: cluster seconds in a wall second while it was taken; 1 on a real cluster.
    complete: false if the run was interrupted; then `incomplete_reason` says by what.
    """

    scenario: str  # "boot-storm", as in the result files
    version: str
    run_id: str
    started_epoch: float  # cluster's Unix time
    parameters: Mapping[str, Any]
    records: tuple[Record, ...]
    deadline_seconds: float
    duration_seconds: float | None  # first request sent to the last success; None if nothing succeeded
    gaps: tuple[Gap, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    incomplete_reason: str | None = None
    named: str = ""
    time_rate: float = 1.0

    @property
    def scope(self) -> str:
        """Which measurement of its scenario this is, in words; its objectives have the same."""
        return self.named or f"{self.size} VMs"

    @property
    def metrics(self) -> tuple[str, ...]:
        return type(self.records[0]).METRICS if self.records else ()

    @property
    def size(self) -> int:
        return len(self.records)

    @property
    def blind_seconds(self) -> float:
        """How long watches saw nothing, added up."""
        return sum(gap.end_seconds - gap.start_seconds for gap in self.gaps)

    @property
    def failed(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if not record.succeeded)

    def sample(self, metric: str) -> Sample:
        """The records' values of a metric (a Record's field): those not measured are censored, not dropped."""
        return Sample(record.value(metric) for record in self.records if record.applies(metric))


class Sample:
    """Values of which some are censored: known only to lie beyond the deadline. Percentiles are nearest rank."""

    def __init__(self, values: Iterable[float | None]) -> None:
        everything = list(values)
        self.measured = sorted(value for value in everything if value is not None)
        self.size = len(everything)
        self.censored = self.size - len(self.measured)

    def percentile(self, percent: float) -> float | None:
        """The smallest value that at least `percent` % of the sample do not exceed, or None if it falls on a
        censored one ("> deadline"). ValueError on an empty sample: no data is not a fast result."""
        if not self.size:
            raise ValueError("no samples: a percentile of nothing is not a number")
        if not 0 < percent <= 100:
            raise ValueError(f"a percentile must be above 0 and at most 100, not {percent}")
        rank = math.ceil(percent / 100 * self.size - 1e-9)
        return self.measured[rank - 1] if rank <= len(self.measured) else None

    @property
    def maximum(self) -> float | None:
        return self.percentile(100)

    @property
    def minimum(self) -> float | None:
        return self.measured[0] if self.measured else None

    @property
    def mean(self) -> float | None:
        """None if any value is censored: a mean of the survivors would flatter."""
        return sum(self.measured) / self.size if self.size and not self.censored else None


class Outcome(enum.StrEnum):
    """What one objective came to. INCONCLUSIVE: it could not be measured, which is never a pass."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    REPORTED = "reported"  # measured, but the profile in use gives no limit


@dataclass(frozen=True)
class Objective:
    """One objective, judged. `measured` None with FAIL means beyond the deadline (`measured_text` says so)."""

    id: str  # "bootstorm.duration"
    title: str
    outcome: Outcome
    measured: float | None
    measured_text: str
    limit: float | None
    reference: float | None
    unit: str
    margin_percent: float | None  # (limit - measured) / limit; negative is a breach
    source: str
    how: str = ""  # "reference point", "interpolated", "extrapolated", "held below the smallest point", ...
    scope: str = ""  # "1000 VMs": which point of a sweep
    why: str = ""

    @property
    def full_title(self) -> str:
        return f"{self.title}, {self.scope}" if self.scope else self.title
