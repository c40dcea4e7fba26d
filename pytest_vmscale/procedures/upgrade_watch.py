"""What a cluster says of its upgrade: its ClusterVersion and its ClusterOperators, followed from before the request on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..clock import Clock, parse_timestamp
from ..cluster.conditions import Condition, find, is_true
from ..cluster.requests import Cluster
from ..cluster.watch import Event, Projection, Watch
from .upgrade_checks import OPERATORS_PATH, VERSIONS, Hop, State

WORKING = re.compile(r"Working towards (\S+): (\d+) of (\d+) done \((\d+)% complete\)")
# The reasons for which a payload is refused, as the operators before 4.10 say them: by Failing.
REFUSALS = ("ImageVerificationFailed", "UpgradePreconditionCheckFailed", "UpdatePayloadRetrievalFailed")


# What is read of the objects.


class Entry(msgspec.Struct):
    """One of ClusterVersion's history."""

    state: str = ""
    version: str = ""
    image: str = ""
    startedTime: str | None = None
    completionTime: str | None = None

    @property
    def seconds(self) -> float | None:
        """From its start to its completion, by the cluster's own clock, whose stamps here are whole seconds."""
        if self.state != "Completed" or not self.startedTime or not self.completionTime:
            return None
        return parse_timestamp(self.completionTime) - parse_timestamp(self.startedTime)


class VersionStatus(msgspec.Struct):
    history: list[Entry] = []
    conditions: list[Condition] = []


class ClusterVersion(Projection):
    status: VersionStatus = msgspec.field(default_factory=VersionStatus)


class OperandVersion(msgspec.Struct):
    name: str = ""
    version: str = ""


class OperatorStatus(msgspec.Struct):
    versions: list[OperandVersion] = []
    conditions: list[Condition] = []


class ClusterOperator(Projection):
    status: OperatorStatus = msgspec.field(default_factory=OperatorStatus)

    @property
    def version(self) -> str:
        return next((each.version for each in self.status.versions if each.name == "operator"), "")

    def is_(self, type_: str) -> bool:
        return is_true(self.status.conditions, type_)

    def said(self, type_: str) -> str:
        found = find(self.status.conditions, type_)
        return found.text if found else ""

    @property
    def trouble(self) -> str:
        """What keeps it from being healthy, or empty."""
        if not self.is_("Available"):
            return f"Available=False: {self.said('Available')}"
        return f"Degraded=True: {self.said('Degraded')}" if self.is_("Degraded") else ""

    @property
    def unrest(self) -> str:
        """What it says while it is not at rest, or empty."""
        return self.trouble or (f"Progressing=True: {self.said('Progressing')}" if self.is_("Progressing") else "")


# ClusterVersion.


def parse_progress(message: str) -> tuple[int, int] | None:
    """How many manifests are done, and of how many; None if this message of Progressing does not tell."""
    match = WORKING.match(message)
    return (int(match[2]), int(match[3])) if match else None


@dataclass
class VersionTimes:
    """One upgrade, as the ClusterVersion tells it. Times are cluster seconds from the request."""

    entry: Entry | None = None  # this upgrade's, of the history
    started_seconds: float | None = None  # it was seen to be in the history
    completed_seconds: float | None = None  # it was seen to be Completed
    upper_bound: bool = False  # one of these two was only learnt after the watch was broken
    message: str = ""
    share: float = 0.0
    curve: list[list[float]] = field(default_factory=list)  # [at, done, total]
    failing: list[list[Any]] = field(default_factory=list)  # [start, end, what]; the end is None as long as it lasts
    refused: str = ""  # why the payload is not accepted
    refused_seconds: float | None = None  # since when
    superseded: str = ""  # what was asked for meanwhile, by somebody else

    @property
    def duration_seconds(self) -> float | None:
        """ClusterVersion's own time, which is what the reference gives; within a second."""
        return self.entry.seconds if self.entry else None

    def saw(self, status: VersionStatus, before: Entry, hop: Hop, at: float, upper_bound: bool) -> None:
        """before: the newest entry of the history when the upgrade was asked for."""
        conditions = {each.type: each for each in status.conditions}
        self._saw_failing(conditions.get("Failing"), at)
        if progressing := conditions.get("Progressing"):
            self._saw_progress(progressing.message, at)
        self._saw_refusal(conditions, at)
        newest = status.history[0] if status.history else Entry()
        if (newest.image, newest.startedTime) == (before.image, before.startedTime):
            return
        if newest.version != hop.version and (hop.image is None or newest.image != hop.image):
            self.superseded = newest.version or newest.image
            return
        self.entry, self.superseded = newest, ""
        if self.started_seconds is None:
            self.started_seconds, self.upper_bound = at, self.upper_bound or upper_bound
        if newest.state == "Completed" and self.completed_seconds is None:
            self.completed_seconds, self.upper_bound = at, self.upper_bound or upper_bound
            self.share = 1.0

    def _saw_progress(self, message: str, at: float) -> None:
        self.message = " ".join(message.split())
        if found := parse_progress(self.message):
            done, total = found
            self.share = done / total if total else 0.0
            if not self.curve or self.curve[-1][1] != done:
                self.curve.append([round(at, 1), done, total])

    def _saw_failing(self, failing: Condition | None, at: float) -> None:
        what = failing.text if failing is not None and failing.status == "True" else ""
        last = self.failing[-1] if self.failing and self.failing[-1][1] is None else None
        if last is not None and last[2] != what:
            last[1] = at
        if what and (last is None or last[2] != what):
            self.failing.append([at, None, what])

    def _saw_refusal(self, conditions: Mapping[str, Condition], at: float) -> None:
        """From 4.10 on a payload is not accepted; before it, the ClusterVersion fails with one of a few reasons. Between its tries the
        operator says neither: a refusal stands until the payload is accepted, or applied."""
        accepted, failing = conditions.get("ReleaseAccepted"), conditions.get("Failing")
        against = accepted if accepted is not None and accepted.status == "False" else None
        if against is None and failing is not None and failing.status == "True" and failing.reason in REFUSALS:
            against = failing
        if against is not None:
            self.refused = against.text
            self.refused_seconds = at if self.refused_seconds is None else self.refused_seconds
        elif (accepted is not None and accepted.status == "True") or parse_progress(self.message):
            self.refused, self.refused_seconds = "", None


class VersionWatch:
    """Follows the ClusterVersion. `begin()` starts the upgrade's times; what happened before it is not in them."""

    def __init__(self, cluster: Cluster, clock: Clock, hop: Hop, state: State, on_change: Callable[[], None]) -> None:
        self._clock, self._hop, self._on_change = clock, hop, on_change
        history = state.version["status"].get("history") or [{}]
        self._before = Entry(image=history[0].get("image", ""), startedTime=history[0].get("startedTime"))
        self._t0: float | None = None
        self.times = VersionTimes()
        self.watch = Watch(cluster, VERSIONS, ClusterVersion, self._saw)

    def begin(self, t0: float) -> None:
        """t0: cluster time, of just before the request."""
        self._t0 = t0

    def _saw(self, event: Event[ClusterVersion]) -> None:
        if self._t0 is None or event.object.metadata.name != "version" or event.type == "DELETED":
            return
        self.times.saw(event.object.status, self._before, self._hop, self._clock.at(event.arrived) - self._t0, event.upper_bound)
        self._on_change()


# The operators.


@dataclass
class OperatorTimes:
    """One operator. Windows are lists of [start, end], cluster seconds from the request; an end is None as long as it lasts."""

    before: str
    version: str
    updated_seconds: float | None = None
    progressing: list[list[float | None]] = field(default_factory=list)
    unavailable: list[list[float | None]] = field(default_factory=list)
    degraded: list[list[float | None]] = field(default_factory=list)
    said: str = ""  # the last of what it said while it was not at rest

    def saw(self, operator: ClusterOperator, at: float) -> None:
        if operator.version != self.version:
            self.version, self.updated_seconds = operator.version, at
        for windows, now in (
            (self.progressing, operator.is_("Progressing")),
            (self.unavailable, not operator.is_("Available")),
            (self.degraded, operator.is_("Degraded")),
        ):
            is_open = bool(windows) and windows[-1][1] is None
            if now and not is_open:
                windows.append([at, None])
            elif is_open and not now:
                windows[-1][1] = at
        self.said = operator.unrest or self.said


class OperatorWatch:
    """Follows all ClusterOperators."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._clock = clock
        self._t0: float | None = None
        self.times: dict[str, OperatorTimes] = {}
        self.watch = Watch(cluster, OPERATORS_PATH, ClusterOperator, self._saw)

    def begin(self, t0: float) -> None:
        self._t0 = t0
        for name, operator in self.watch.objects.items():
            self.times[name] = OperatorTimes(operator.version, operator.version)
            self.times[name].saw(operator, 0.0)

    def _saw(self, event: Event[ClusterOperator]) -> None:
        if self._t0 is None or event.type == "DELETED":
            return
        operator, at = event.object, self._clock.at(event.arrived) - self._t0
        times = self.times.setdefault(operator.metadata.name, OperatorTimes("", operator.version))  # a release may bring new ones
        times.saw(operator, at)

    def unhealthy(self, before: str, after: str) -> list[dict[str, str]]:
        """Those that are not as a cluster that was upgraded from `before` to `after` has them: names and reasons. Those
        that say what keeps them come first: the others wait for them."""
        found = []
        for name in sorted(self.times, key=lambda each: (not self._unrest(each), each)):
            times, operator = self.times[name], self.watch.objects.get(name)
            why = operator.trouble if operator else "its ClusterOperator is gone"
            # Operators of other products have versions of their own.
            if operator and not why and times.before == before and times.version != after:
                why = f"it is at {times.version or 'no version'}" + (f", {operator.unrest}" if operator.unrest else "")
            if why:
                found.append({"name": name, "why": why})
        return found

    def _unrest(self, name: str) -> str:
        operator = self.watch.objects.get(name)
        return operator.unrest if operator else ""

    def found(self) -> list[dict[str, Any]]:
        """As the details of a measurement have them."""
        return [
            {
                "name": name,
                "before": each.before,
                "version": each.version,
                "updated_seconds": each.updated_seconds,
                "said": each.said,
                "progressing": each.progressing,
                "unavailable": each.unavailable,
                "degraded": each.degraded,
            }
            for name, each in sorted(self.times.items())
        ]
