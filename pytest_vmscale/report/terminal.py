"""The end of a run, in words and plain tables that fit 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vmscale.model import Measurement, Objective, Outcome, Record, Sample
from pytest_vmscale.scenarios import grouped
from pytest_vmscale.slo.judge import Verdict

if TYPE_CHECKING:
    from pytest_vmscale.report.comparison import Compared

WIDTH = 100
FAILED_SHOWN = 10
PERCENTILES = (50, 75, 90, 95, 99, 100)


def summary_lines(
    verdict: Verdict,
    measurements: Iterable[Measurement],
    results_folder: Path | None = None,
    subtitle: Callable[[Measurement], str] = lambda measurement: "",
    compared: Compared | None = None,
) -> list[str]:
    """All of it, scenario by scenario. `subtitle` of a measurement: "embedded, simulated at 60x", or "" on a real cluster.
    `compared`: with earlier runs."""
    lines: list[str] = []
    for scenario, taken in grouped(measurements):
        lines += [*scenario.report.lines(taken, subtitle(taken[0])), ""]
    if verdict.objectives:
        lines += [*objective_lines(verdict.objectives), ""]
    if compared is not None:
        from pytest_vmscale.report import comparison

        lines += [*comparison.lines(compared), ""]
    lines += verdict_lines(verdict)
    if results_folder is not None:
        lines.append(f"Results: {results_folder}")
    return lines


def verdict_lines(verdict: Verdict) -> list[str]:
    return [
        f"Verdict: {verdict.ruling.upper()} (exit code {verdict.exit_code})",
        *(line for why in verdict.why for line in wrap(why, "  ")),
    ]


def objective_lines(objectives: Sequence[Objective]) -> list[str]:
    """A row an objective that has a limit, those that have none in a line a scope, and the sources of all in notes."""
    sources = list(dict.fromkeys(each.source for each in objectives))
    several = len({each.scope for each in objectives}) > 1
    reported: dict[tuple[str, str], list[Objective]] = {}  # by scenario and scope: two scenarios may have been of as many VMs
    lines = [f"{'Objective':<40} {'measured':>14} {'limit':>12} {'margin':>9}  {'verdict':<12} source"]
    for each in objectives:
        if each.outcome is Outcome.REPORTED and each.limit is None:
            reported.setdefault((each.id.partition(".")[0], each.scope), []).append(each)
            continue
        measured = cut(each.measured_text, 40)  # words take their room from the title
        title = cut(f"{each.title}, {each.scope}" if several and each.scope else each.title, min(40, 54 - len(measured)))
        figures = f"{measured:>{54 - len(title)}} {number(each.limit, each.unit):>12} {margin(each.margin_percent):>9}"
        lines.append(f"{title} {figures}  {each.outcome.value:<12} [{sources.index(each.source) + 1}]")
    for (_, scope), unjudged in reported.items():
        notes = "".join(f" [{number}]" for number in sorted({sources.index(each.source) + 1 for each in unjudged}))
        figures = ", ".join(f"{each.title} {each.measured_text}" for each in unjudged)
        lines += wrap(f"Reported without a limit{f', {scope}' if several else ''}: {figures}{notes}", "", "    ")
    limits = {
        f"{each.title}, {each.scope}: limit from {number(each.reference, each.unit)}, {each.how}": None
        for each in objectives
        if each.outcome is not Outcome.REPORTED and each.unit == "s" and each.reference is not None
    }
    for line in [*limits, *(f"[{number}] {source}" for number, source in enumerate(sources, 1))]:
        lines += wrap(line, "", "    ")
    return lines


def heading_lines(measurement: Measurement, heading: str, subtitle: str) -> list[str]:
    """What was measured, in a line; and that it was cut short, if it was."""
    lines = wrap(heading + (f" ({subtitle})" if subtitle else ""), "", "    ")
    if not measurement.complete:
        lines += wrap(f"Cut short: {measurement.incomplete_reason or 'no reason given'}", "")
    return lines


def each_alone(measurements: Iterable[Measurement], subtitle: str, told: Callable[[Measurement, str], list[str]]) -> list[str]:
    """All of each measurement, with a line between them."""
    lines: list[str] = []
    for each in measurements:
        lines += [*([""] if lines else []), *told(each, subtitle)]
    return lines


def gap_lines(measurement: Measurement) -> list[str]:
    """How often watches were broken, if they were."""
    if not measurement.gaps:
        return []
    return wrap(
        f"The watches were broken {count(len(measurement.gaps), 'time')}, for {measurement.blind_seconds:.1f} s in all; each went on.", ""
    )


def heads() -> str:
    """The columns of `sample_line`."""
    return "".join(f"{head:>9}" for head in ["min", *("max" if percent == 100 else f"p{percent}" for percent in PERCENTILES)])


def sample_line(name: str, sample: Sample, deadline_seconds: float | None) -> str:
    values = [sample.minimum, *(sample.percentile(percent) for percent in PERCENTILES)]
    censored = "-" if deadline_seconds is None else f">{deadline_seconds:g}"
    return f"{cut(name, 36):<36}" + "".join(f"{censored if value is None else f'{value:.1f}':>9}" for value in values)


def failed_lines(failed: Sequence[Record], not_done: str) -> list[str]:
    lines = [f"{count(len(failed), 'VM')} {not_done}:"]
    for record in failed[:FAILED_SHOWN]:
        reached = f"reached {record.last_phase}" if record.last_phase else "reached nothing"
        where = f" on {record.node}" if record.node else ""
        told = f"{record.namespace}/{record.vm_name}: {record.status}, {reached}{where}: {record.error or 'no error given'}"
        lines += wrap(told, "  ", "      ")
    if len(failed) > FAILED_SHOWN:
        lines.append(f"  and {len(failed) - FAILED_SHOWN} more")
    return lines


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.{0 if value == round(value) else 1 if abs(value) >= 0.1 else 3}f} {unit}"


def margin(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:+.1f} %"


def cut(text: str, width: int) -> str:
    one_line = " ".join(text.split()) if "\n" in text else text
    return one_line if len(one_line) <= width else one_line[: width - 3] + "..."


def wrap(text: str, first: str, rest: str | None = None) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest)
