"""What every scenario's objectives are built from.

The rules, for every objective: what was not measured never passes; a VM that never got there is beyond the deadline,
not left out; a measurement that was cut short is inconclusive; a limit is reference * (1 + tolerance).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pytest_vmscale.model import Measurement, Objective, Outcome, Status
from pytest_vmscale.slo.reference import Reference

if TYPE_CHECKING:  # profiles have objectives of their own
    from pytest_vmscale.slo.profile import Longest

NAMED_AT_MOST = 5


def at_most(
    id: str,
    title: str,
    value: float | None,
    *,
    unit: str,
    limit: float | None,
    source: str,
    scope: str,
    reference: float | None = None,
    how: str = "",
    trouble: str = "",
    beyond: str = "not measured",
    text: str | None = None,
    why: str = "",
) -> Objective:
    """An upper limit. `limit` None: the value is reported, not judged. `trouble`: why it cannot be judged at all.
    `value` None: it lies beyond what could be measured, which breaks any limit; `beyond` says so ("> 360 s"), and `why` says why."""
    if trouble:
        outcome, value, said, why = Outcome.INCONCLUSIVE, None, "not measured", trouble
    else:
        said = beyond if value is None else text or f"{value:.1f} {unit}"
        if limit is None:
            outcome = Outcome.REPORTED
        elif value is None or value > limit:
            outcome = Outcome.FAIL
            if value is not None and not why:
                over = f"{-percent_below(value, limit):.1f} % above" if limit > 0 else "above"
                why = f"{value:.1f} {unit} is {over} the limit of {limit:.1f} {unit}"
        else:
            outcome, why = Outcome.PASS, ""
    return Objective(
        id=id,
        title=title,
        outcome=outcome,
        measured=value,
        measured_text=said,
        limit=limit,
        reference=reference,
        unit=unit,
        margin_percent=None if value is None or not limit else percent_below(value, limit),
        source=source,
        how=how,
        scope=scope,
        why=why,
    )


def at_least(
    id: str,
    title: str,
    value: float | None,
    *,
    unit: str,
    limit: float,
    source: str,
    scope: str,
    reference: float | None = None,
    trouble: str = "",
    text: str | None = None,
    why: str = "",
) -> Objective:
    """A lower limit: as `at_most`, the other way round. A margin below 0 is a breach here too."""
    if trouble:
        outcome, value, said, why = Outcome.INCONCLUSIVE, None, "not measured", trouble
    else:
        said = "not measured" if value is None else text or f"{value:.1f} {unit}"
        outcome = Outcome.PASS if value is not None and value >= limit else Outcome.FAIL
    return Objective(
        id=id,
        title=title,
        outcome=outcome,
        measured=value,
        measured_text=said,
        limit=limit,
        reference=limit if reference is None else reference,
        unit=unit,
        margin_percent=None if value is None or not limit else (value - limit) / limit * 100,
        source=source,
        scope=scope,
        why=why,
    )


def so_many(
    id: str, title: str, part: int, whole: int, minimum_percent: float, source: str, measurement: Measurement, trouble: str, why: str
) -> Objective:
    """At least so many percent of the whole. `why`: what is wrong with the rest."""
    return at_least(
        id,
        title,
        None if trouble else part / whole * 100,
        unit="%",
        limit=minimum_percent,
        source=source,
        scope=measurement.scope,
        trouble=trouble,
        text=f"{part} of {whole}",
        why=why,
    )


def none_failed(id: str, title: str, failures: Sequence[str], unit: str, measurement: Measurement, source: str, trouble: str) -> Objective:
    """`failures`: each that there is, in words."""
    return at_most(
        id,
        title,
        float(len(failures)),
        unit=unit,
        limit=0.0,
        source=source,
        scope=measurement.scope,
        trouble=trouble,
        text=str(len(failures)),
        why=some(failures),
    )


def longest(
    id: str,
    title: str,
    seconds: Iterable[float | None],
    wanted: Longest,
    measurement: Measurement,
    trouble: str,
    beyond: str = "not measured",
) -> Objective:
    """The longest of these times, None of which were not measured. `beyond`: what it means that none was."""
    return at_most(
        id,
        title,
        max((each for each in seconds if each is not None), default=None),
        unit="s",
        limit=wanted.seconds,
        source=wanted.source,
        scope=measurement.scope,
        trouble=trouble,
        beyond=beyond,
    )


def every_vm(
    id: str, title: str, measurement: Measurement, minimum_percent: float, source: str, not_done: str, trouble: str = ""
) -> Objective:
    """At least so many percent of the VMs succeeded. `not_done`: what the others did not do ("never booted")."""
    done, why = measurement.size - len(measurement.failed), lost(measurement, not_done)
    return so_many(id, title, done, measurement.size, minimum_percent, source, measurement, trouble or trouble_of(measurement), why)


def timed(
    id: str,
    title: str,
    seconds: float | None,
    reference: Reference | None,
    tolerance_percent: float,
    *,
    measurement: Measurement,
    source: str,
    not_done: str,
    trouble: str = "",
) -> Objective:
    """A time at most the reference's, plus the tolerance. `seconds` None: a VM that was lost, beyond the deadline."""
    return at_most(
        id,
        title,
        seconds,
        unit="s",
        limit=None if reference is None else reference.seconds * (1 + tolerance_percent / 100),
        reference=None if reference is None else reference.seconds,
        how="" if reference is None else f"{reference.how} + {tolerance_percent:g} %",
        source=source,
        scope=measurement.scope,
        trouble=trouble or trouble_of(measurement),
        beyond=f"> {measurement.deadline_seconds:g} s",
        why="" if seconds is not None else lost(measurement, not_done),
    )


def not_whole(measurement: Measurement) -> str:
    """What of this measurement is not there, or "" if nothing is missing."""
    if not measurement.complete:
        return f"the measurement was cut short: {measurement.incomplete_reason or 'no reason given'}"
    if not measurement.size:
        return "there are no samples"
    asked = measurement.parameters.get("vms")
    return f"{asked} VMs were asked for and {measurement.size} recorded" if asked not in (None, measurement.size) else ""


def trouble_of(measurement: Measurement) -> str:
    """Why this measurement cannot be judged, or "" if it can."""
    if missing_part := not_whole(measurement):
        return missing_part
    done = [record for record in measurement.records if record.succeeded]
    times = [record.value(record.OUTCOME) for record in done if record.OUTCOME]
    if missing := times.count(None):
        return f"{missing} VMs succeeded without {done[0].OUTCOME}"
    if wrong := [time for time in (*times, measurement.duration_seconds) if time is not None and not (math.isfinite(time) and time > 0)]:
        return f"{wrong[0]} s is no duration: the clock cannot be trusted"
    if not measurement.failed and measurement.duration_seconds is None:
        return "every VM succeeded, and yet there is no duration"
    return ""


def lost(measurement: Measurement, not_done: str) -> str:
    """ "5 of 20 VMs never booted (5 not up after 306 s)", or "" if none is lost."""
    failed = measurement.failed
    if not failed:
        return ""
    timed_out = sum(record.status is Status.TIMED_OUT for record in failed)
    parts = [f"{timed_out} not done after {measurement.deadline_seconds:g} s"] if timed_out else []
    parts += [f"{len(failed) - timed_out} failed"] if len(failed) > timed_out else []
    return f"{len(failed)} of {measurement.size} VMs {not_done} ({', '.join(parts)})"


def lost_by_name(measurement: Measurement, not_done: str) -> str:
    """ "2 of 20 VMs were lost: space/a (its VMI is gone), space/b (...)", or "" if none is."""
    failed = measurement.failed
    named = some([f"{each.namespace}/{each.vm_name} ({each.error})" for each in failed])
    return f"{len(failed)} of {measurement.size} VMs {not_done}: {named}" if failed else ""


def percent_below(measured: float, limit: float) -> float:
    return (limit - measured) / limit * 100


def some(texts: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f", and {len(texts) - NAMED_AT_MOST} more" if len(texts) > NAMED_AT_MOST else ""
    return ", ".join(texts[:NAMED_AT_MOST]) + more
