"""The end of a run, in words and plain tables that fit 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pytest_vmscale.model import Measurement, Objective, Outcome, Record, Sample
from pytest_vmscale.report.phases import PHASES, Breakdown, breakdowns
from pytest_vmscale.slo.judge import Ruling, Verdict, boot_times

WIDTH = 100
FAILED_SHOWN = 10
PERCENTILES = (50, 75, 90, 95, 99, 100)

Paint = Callable[[str, str], str]
"""Colours a text: paint(text, "red" | "green" | "yellow" | "bold" | "light")."""

_COLOURS = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.INCONCLUSIVE: "yellow", Outcome.REPORTED: "light"}
_METRICS = (
    ("VMI created", "time_to_vm_created_seconds"),
    ("VMI running", "time_to_vmi_running_seconds"),
    ("VMI ready", "time_to_vmi_ready_seconds"),
    ("guest address", "time_to_guest_ip_seconds"),
    ("SSH answers", "time_to_ssh_seconds"),
)


def plain(text: str, colour: str) -> str:
    return text


def summary_lines(
    verdict: Verdict, measurements: Iterable[Measurement], results_folder: Path | None = None, subtitle: str = "", paint: Paint = plain
) -> list[str]:
    """All of it. `subtitle`: "embedded, simulated at 60x", or "" on a real cluster."""
    measured = list(measurements)
    lines: list[str] = []
    if len(measured) > 1:
        lines += [*sweep_lines(measured, subtitle, paint), ""]
    for measurement in measured if len(measured) == 1 else ():
        lines += [*measurement_lines(measurement, subtitle, paint), ""]
    if verdict.objectives:
        lines += [*objective_lines(verdict.objectives, paint), ""]
    lines += verdict_lines(verdict, paint)
    if results_folder is not None:
        lines.append(f"Results: {results_folder}")
    return lines


def verdict_lines(verdict: Verdict, paint: Paint = plain) -> list[str]:
    colour = {Ruling.PASS: "green", Ruling.FAIL: "red"}.get(verdict.ruling, "yellow")
    word = f"Verdict: {verdict.ruling.upper()}"
    return [f"{paint(word, colour)} (exit code {verdict.exit_code})", *(line for why in verdict.why for line in _wrap(why, "  "))]


def objective_lines(objectives: Sequence[Objective], paint: Paint = plain) -> list[str]:
    """A row an objective that has a limit, those that have none in a line a scope, and the sources of all in notes."""
    sources = list(dict.fromkeys(each.source for each in objectives))
    several = len({each.scope for each in objectives}) > 1
    reported: dict[str, list[Objective]] = {}
    lines = [paint(f"{'Objective':<40} {'measured':>14} {'limit':>10} {'margin':>9}  {'verdict':<12} source", "bold")]
    for each in objectives:
        if each.outcome is Outcome.REPORTED:
            reported.setdefault(each.scope, []).append(each)
            continue
        title = _cut(f"{each.title}, {each.scope}" if several and each.scope else each.title, 40)
        figures = f"{each.measured_text:>14} {_number(each.limit, each.unit):>10} {_margin(each.margin_percent):>9}"
        judged = paint(f"{each.outcome.value:<12}", _COLOURS[each.outcome])
        lines.append(f"{title:<40} {figures}  {judged} [{sources.index(each.source) + 1}]")
    for scope, unjudged in reported.items():
        notes = "".join(f" [{number}]" for number in sorted({sources.index(each.source) + 1 for each in unjudged}))
        figures = ", ".join(f"{each.title} {each.measured_text}" for each in unjudged)
        lines += _wrap(f"Reported without a limit{f', {scope}' if several else ''}: {figures}{notes}", "", "    ")
    limits = {
        f"{each.title}, {each.scope}: limit from {_number(each.reference, each.unit)}, {each.how}": None
        for each in objectives
        if each.outcome is not Outcome.REPORTED and each.unit == "s" and each.reference is not None
    }
    for line in [*limits, *(f"[{number}] {source}" for number, source in enumerate(sources, 1))]:
        lines += _wrap(line, "", "    ")
    return lines


def measurement_lines(measurement: Measurement, subtitle: str = "", paint: Paint = plain) -> list[str]:
    """What one scenario measured, judged by nobody."""
    failed = measurement.failed
    heading = f"{measurement.scenario}: {measurement.size - len(failed)} of {measurement.size} VMs up"
    if measurement.duration_seconds is not None:
        heading += f", the last after {measurement.duration_seconds:.1f} s"
    lines = [paint(heading + (f" ({subtitle})" if subtitle else ""), "bold")]
    if not measurement.complete:
        lines += [paint(line, "yellow") for line in _wrap(f"Cut short: {measurement.incomplete_reason or 'no reason given'}", "")]
    if not measurement.size:
        return [*lines, "No VM was measured."]
    lines += [*_percentile_lines(measurement), *_quality_lines(measurement)]
    if rows := breakdowns(measurement):
        lines += ["", *_breakdown_lines(rows)]
    if failed:
        lines += ["", *_failed_lines(failed, paint)]
    return lines


def sweep_lines(measurements: Sequence[Measurement], subtitle: str = "", paint: Paint = plain) -> list[str]:
    """A row a point. What else was measured at each point is in its result file."""
    lines = [paint(f"{measurements[0].scenario}: {len(measurements)} points" + (f" ({subtitle})" if subtitle else ""), "bold")]
    lines.append(f"{'VMs':>8}{'up':>8}{'duration':>10}  {'to SSH:':<8}" + _heads())
    for measurement in measurements:
        duration = "-" if measurement.duration_seconds is None else f"{measurement.duration_seconds:.1f}"
        left = f"{measurement.size:>8}{measurement.size - len(measurement.failed):>8}{duration:>10}  "
        lines.append(_sample_line(left, boot_times(measurement), measurement.deadline_seconds) if measurement.size else f"{left}no samples")
    for measurement in measurements:
        if not measurement.complete:
            lines += _wrap(f"{measurement.size} VMs: cut short: {measurement.incomplete_reason or 'no reason given'}", "  ")
        if measurement.failed:
            lines += ["", f"Of {measurement.size} VMs:", *_failed_lines(measurement.failed, paint)]
    return lines


def _percentile_lines(measurement: Measurement) -> list[str]:
    lines = [f"{'Seconds from the request until':<36}{_heads()}"]
    for name, metric in _METRICS:
        sample = measurement.sample(metric)
        if sample.measured:
            # Of a VM that booted, a phase without a time was not seen: that is no deadline missed.
            unseen = any(record.succeeded and getattr(record, metric) is None for record in measurement.records)
            values = boot_times(measurement) if name == "SSH answers" else sample
            lines.append(_sample_line(f"  {name}", values, None if unseen else measurement.deadline_seconds))
    systems = sorted({record.os for record in measurement.records})
    for os in systems if len(systems) > 1 else []:
        records = [record for record in measurement.records if record.os == os]
        sample = Sample(record.time_to_ssh_seconds if record.succeeded else None for record in records)
        lines.append(_sample_line(f"  SSH answers, {sample.size} {os}", sample, measurement.deadline_seconds))
    return lines


def _sample_line(name: str, sample: Sample, deadline_seconds: float | None) -> str:
    values = [sample.minimum, *(sample.percentile(percent) for percent in PERCENTILES)]
    censored = "-" if deadline_seconds is None else f">{deadline_seconds:g}"
    return f"{_cut(name, 36):<36}" + "".join(f"{censored if value is None else f'{value:.1f}':>9}" for value in values)


def _heads() -> str:
    return "".join(f"{head:>9}" for head in ["min", *("max" if percent == 100 else f"p{percent}" for percent in PERCENTILES)])


def _quality_lines(measurement: Measurement) -> list[str]:
    """How far the figures can be trusted."""
    said = []
    bounds = [record.error_bound_seconds for record in measurement.records if record.error_bound_seconds is not None]
    if bounds:
        said.append(
            f"A VM may have been up {max(bounds):.1f} s earlier than measured, at most (median {sorted(bounds)[len(bounds) // 2]:.1f} s)."
        )
    lags = [record.probe_lag_seconds for record in measurement.records if record.probe_lag_seconds is not None]
    if lags:
        said.append(f"Probes were late by at most {max(lags):.2f} s.")
    retried = sum(bool(record.request_retries) for record in measurement.records)
    if retried:
        said.append(f"{_count(retried, 'start request')} had to be retried.")
    if rate := measurement.details.get("request_rate_achieved"):
        said.append(f"Start requests were sent at {rate:.0f}/s.")
    if measurement.gaps:
        blind = sum(gap.end_seconds - gap.start_seconds for gap in measurement.gaps)
        said.append(f"Watches were blind for {blind:.1f} s in all ({_count(len(measurement.gaps), 'gap')}).")
    late = sum(any(moment.upper_bound for moment in record.timeline) for record in measurement.records)
    if late:
        said.append(f"Of {_count(late, 'VM')} a phase was only learnt from a relist: it was reached then, or before.")
    return _wrap(" ".join(said), "") if said else []


def _breakdown_lines(rows: Sequence[Breakdown]) -> list[str]:
    lines = [f"{'Seconds spent until':<20}" + "".join(f"{phase:>12}" for phase in PHASES) + f"{'in all':>10}  VM"]
    for row in rows:
        parts = "".join(f"{'-' if seconds is None else f'{seconds:.1f}':>12}" for seconds in row.seconds)
        lines.append(_cut(f"  {_cut(row.label, 18):<18}{parts}{row.total_seconds:>10.1f}  {row.record.vm_name}", WIDTH))
    return lines


def _failed_lines(failed: Sequence[Record], paint: Paint) -> list[str]:
    lines = [paint(f"{_count(len(failed), 'VM')} never came up:", "red")]
    for record in failed[:FAILED_SHOWN]:
        reached = f"reached {record.last_phase}" if record.last_phase else "reached nothing"
        where = f" on {record.node}" if record.node else ""
        told = f"{record.namespace}/{record.vm_name}: {record.status}, {reached}{where}: {record.error or 'no error given'}"
        lines += _wrap(told, "  ", "      ")
    if len(failed) > FAILED_SHOWN:
        lines.append(f"  and {len(failed) - FAILED_SHOWN} more")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.{0 if value == round(value) else 1}f} {unit}"


def _margin(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:+.1f} %"


def _cut(text: str, width: int) -> str:
    one_line = " ".join(text.split()) if "\n" in text else text
    return one_line if len(one_line) <= width else one_line[: width - 3] + "..."


def _wrap(text: str, first: str, rest: str | None = None) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest)
