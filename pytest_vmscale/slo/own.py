"""A profile's own objectives: a limit on any figure that a scenario measures, beside the objectives that it judges anyway."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pytest_vmscale.model import Measurement, Objective, Outcome, Record
from pytest_vmscale.slo.objectives import at_least, at_most, trouble_of
from pytest_vmscale.slo.reference import reference_at

Severity = Literal["gate", "report"]
WORKERS = "workers"  # of the cluster: a size that every scenario has
DURATION = "duration_seconds"  # of the whole scenario, beside the records' metrics and FIGURES
# What a metric's name ends in, and the units that it may be written in: each is so many of the metric's own.
UNITS: Mapping[str, Mapping[str, float]] = {
    "_seconds": {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "_percent": {"%": 1.0},
    "_iops": {"IOPS": 1.0},
    "_bytes_per_second": {"B/s": 1.0, "KiB/s": 2.0**10, "MiB/s": 2.0**20, "GiB/s": 2.0**30},
}
_QUANTITY = re.compile(r"(-?\d+(?:\.\d+)?)\s*([A-Za-z%/]+)")


def _as_text(value: object) -> object:
    """A bare number is a figure without a unit: it is told so where the metric is known."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Figure = Annotated[str, BeforeValidator(_as_text)]


class OwnObjective(BaseModel):
    """`limit`: absolute, as "120 s"; or `reference`: by size, as {100: "102 s", 1000: "1065 s"}, straight lines between, to which the
    tolerance is added (for rates, where more is better, it is taken off). `by`: what the sizes count: vms, the cluster's workers, or
    what else the scenario has a size by.
    `severity` report: never fails a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: Annotated[str, Field(min_length=1)] | None = None
    metric: str
    statistic: Annotated[str, Field(pattern=r"^(p\d{1,2}(\.\d+)?|min|mean|max|value)$")]
    os: str | None = None  # of these VMs only
    limit: Figure | None = None
    reference: dict[Annotated[int, Field(gt=0)], Figure] | None = None
    by: str = "vms"
    tolerance_percent: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None  # None: the profile's
    severity: Severity = "gate"
    source: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _one_limit(self) -> OwnObjective:
        if (self.limit is None) == (self.reference is None):
            raise ValueError("give exactly one of limit and reference")
        if self.limit is not None and (self.tolerance_percent is not None or self.by != "vms"):
            raise ValueError("tolerance_percent and by are for a reference; a limit is absolute")
        if self.reference is not None and not self.reference:
            raise ValueError("reference has no point")
        if self.statistic in ("p0", "p00"):
            raise ValueError("a percentile must be above 0")
        return self

    def problem(self, kind: type[Record]) -> tuple[str, str] | None:
        """Why a scenario with these records cannot be held to this, after the key that says so; None if it can."""
        figures = (DURATION, *kind.FIGURES)
        if self.metric not in (*kind.METRICS, *figures):
            import difflib

            near = difflib.get_close_matches(self.metric, [*kind.METRICS, *figures], n=1)
            known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join([*figures, *kind.METRICS])}"
            return "metric", f"the scenario measures no {self.metric!r}; {known}"
        if (self.statistic == "value") != (self.metric in figures):
            wanted = "value: a run has one of it" if self.metric in figures else "p50, p90, mean, max or the like: each VM has one of it"
            return "statistic", f"{self.statistic} is none of {self.metric}; it must be {wanted}"
        if self.os is not None and self.metric in figures:
            return "os", f"{self.metric} is the whole run's"
        if self.by not in (*kind.SIZES, WORKERS):
            return "by", f"{self.by!r} is no size of the scenario; it has {', '.join([*kind.SIZES, WORKERS])}"
        units = _units(self.metric)
        places = (
            {"limit": self.limit} if self.limit is not None else {f"reference.{at}": text for at, text in (self.reference or {}).items()}
        )
        for key, text in places.items():
            match = _QUANTITY.fullmatch(text)
            if not match:
                own = next((unit for unit, factor in units.items() if factor == 1.0), "s")
                return key, f'{text!r} is no number with a unit, such as "120 {own}"'
            if match[2] not in units:
                return key, f"{text!r}: {self.metric} is in {' or '.join(units)}, not in {match[2]}"
        return None


def judge(
    objectives: Mapping[str, OwnObjective], measurement: Measurement, tolerance_percent: float, workers: int | None
) -> tuple[Objective, ...]:
    """Of one measurement. `tolerance_percent`: the profile's."""
    return tuple(_judge(id, each, measurement, tolerance_percent, workers) for id, each in objectives.items())


def _judge(id: str, wanted: OwnObjective, measurement: Measurement, tolerance_percent: float, workers: int | None) -> Objective:
    kind = type(measurement.records[0]) if measurement.records else Record
    more_is_better = wanted.metric in kind.HIGHER_IS_BETTER
    unit = (_QUANTITY.fullmatch(wanted.limit or next(iter((wanted.reference or {}).values()))) or ["", "", ""])[2]
    factor = _units(wanted.metric)[unit]
    value, trouble = _value(wanted, measurement, more_is_better)
    reference, limit, how = None, None, ""
    if wanted.limit is not None:
        limit, how = _number(wanted.limit, wanted.metric) / factor, "absolute"
    else:
        size = workers if wanted.by == WORKERS else measurement.parameters.get(wanted.by)
        by = wanted.by.replace("_", " ")
        points = {at: _number(text, wanted.metric) for at, text in (wanted.reference or {}).items()}
        found = None if size is None else reference_at(points, size)
        tolerance = tolerance_percent if wanted.tolerance_percent is None else wanted.tolerance_percent
        if found is None:
            trouble = trouble or f"the profile has no reference for {'an unknown number of' if size is None else size} {by}"
        else:
            reference = found.seconds / factor
            limit = reference * (1 - tolerance / 100 if more_is_better else 1 + tolerance / 100)
            how = f"{found.how} at {size} {by} {'-' if more_is_better else '+'} {tolerance:g} %"
    title = wanted.title or _title(wanted)
    shown = None if value is None else value / factor
    text = None if shown is None else f"{shown:.4g} {unit}" if abs(shown) < 10 else f"{shown:.1f} {unit}"
    if more_is_better:
        found_objective = at_least(
            id, title, shown, unit=unit, limit=limit or 0.0, reference=reference, source=wanted.source, scope=measurement.scope,
            trouble=trouble, text=text,
        )  # fmt: skip
    else:
        found_objective = at_most(
            id, title, shown, unit=unit, limit=limit, reference=reference, source=wanted.source, scope=measurement.scope,
            trouble=trouble, text=text, beyond=f"> {measurement.deadline_seconds:g} s", why="" if value is not None else "falls on VMs without a value",
        )  # fmt: skip
    return replace(found_objective, how=how)


def _title(wanted: OwnObjective) -> str:
    """ "Time to ssh p90 (rhel)"."""
    ending = next((each for each in UNITS if wanted.metric.endswith(each)), "")
    words = wanted.metric.removesuffix(ending if ending in ("_seconds", "_percent") else "").replace("_", " ")
    statistic = "" if wanted.statistic == "value" else f" {wanted.statistic}"
    return f"{words[:1].upper()}{words[1:]}{statistic}{f' ({wanted.os})' if wanted.os else ''}"


def _value(wanted: OwnObjective, measurement: Measurement, more_is_better: bool) -> tuple[float | None, str]:
    """The figure, None if it lies beyond what was measured, and why it cannot be judged at all."""
    if trouble := trouble_of(measurement):
        return None, trouble
    if wanted.statistic == "value":
        value = measurement.duration_seconds if wanted.metric == DURATION else measurement.details.get(wanted.metric)
        if wanted.metric == DURATION and measurement.failed:
            return None, ""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None, f"{wanted.metric} was not measured"
        return float(value), ""
    records = [each for each in measurement.records if wanted.os in (None, each.os) and each.applies(wanted.metric)]
    if not records:
        return None, f"no {f'{wanted.os} ' if wanted.os else ''}VM was measured that has it"
    worst = -math.inf if more_is_better else math.inf
    values = sorted(worst if (value := each.value(wanted.metric)) is None else value for each in records)
    if not any(map(math.isfinite, values)) and all(each.succeeded for each in records):
        return None, f"{wanted.metric} was not measured"
    if wanted.statistic == "mean":
        value = sum(values) / len(values)
    else:
        percent = {"min": 0.0, "max": 100.0}[wanted.statistic] if wanted.statistic in ("min", "max") else float(wanted.statistic[1:])
        value = values[max(1, math.ceil(percent / 100 * len(values) - 1e-9)) - 1]  # nearest rank, as everywhere
    return (value if math.isfinite(value) else None), ""


def with_severity(
    objectives: Iterable[Objective], severity: Mapping[str, Severity], own: Mapping[str, OwnObjective]
) -> tuple[Objective, ...]:
    """What is only reported breaks nothing: it keeps its figures, and says what it would have come to."""
    found = []
    for each in objectives:
        wanted = severity.get(each.id) or (own[each.id].severity if each.id in own else "gate")
        if wanted == "report" and each.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
            why = f"{each.outcome.value}, but severity is report" + (f": {each.why}" if each.why else "")
            each = replace(each, outcome=Outcome.REPORTED, why=why)
        found.append(each)
    return tuple(found)


def _units(metric: str) -> Mapping[str, float]:
    return next((units for ending, units in UNITS.items() if metric.endswith(ending)), {})


def _number(text: str, metric: str) -> float:
    """In the metric's own unit."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no number with a unit")
    return float(match[1]) * _units(metric)[match[2]]
