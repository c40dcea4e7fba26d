"""Charts as static SVG: reports run no scripts. Colours are told apart by the colour-blind (Okabe and Ito's set)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.report.phases import PHASES, booted, breakdowns
from pytest_vmscale.slo.judge import boot_times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _RED, _SKY, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#666666"
_PHASE_COLOURS = (_GREY, _SKY, _ORANGE, _BLUE)
_MARKED = (50, 75, 90, 95, 99)
_SIZE = (9.0, 5.0)  # inches; with SVG only the shape matters


def write_charts(folder: Path, measurements: Sequence[Measurement], objectives: Sequence[Objective] = (), subtitle: str = "") -> list[Path]:
    """Every chart there is data for, as `<scenario>[-<VMs>]_<chart>.svg`. `subtitle` says on which cluster, and how fast."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for measurement in measurements:
        stem = measurement.scenario if len(measurements) == 1 else f"{measurement.scenario}-{measurement.size}"
        for name, figure in (
            ("ready", ready_over_time(measurement, objectives, subtitle)),
            ("boot-times", boot_time_distribution(measurement, subtitle)),
            ("phases", phase_breakdown(measurement, subtitle)),
        ):
            if figure is not None:
                written.append(_write(figure, folder / f"{stem}_{name}.svg"))
    figure = sweep(measurements, objectives, subtitle)
    if figure is not None:
        written.append(_write(figure, folder / f"{measurements[0].scenario}_sweep.svg"))
    return written


def ready_over_time(measurement: Measurement, objectives: Sequence[Objective] = (), subtitle: str = "") -> Figure | None:
    """How many VMs were requested, running and up at each moment, against the reference's duration and the limit. None without a VM."""
    if not measurement.records:
        return None
    figure, axes = _figure(f"VMs up over time: {_name(measurement)}", subtitle)
    records = measurement.records
    start = min(record.requested_at for record in records)
    curves = (
        ("requested", [record.requested_at - start for record in records], _GREY, ":"),
        ("running", _since(measurement, start, "time_to_vmi_running_seconds"), _ORANGE, "--"),
        ("up (SSH answers)", [record.requested_at - start + (record.time_to_ssh_seconds or 0.0) for record in booted(records)], _BLUE, "-"),
    )
    for label, moments, colour, style in curves:
        times = sorted(moments)
        if times:
            axes.step([0.0, *times], range(len(times) + 1), where="post", color=colour, linestyle=style, linewidth=2, label=label)
    total = measurement.size
    duration = next((each for each in objectives if each.id == "bootstorm.duration" and each.scope == f"{total} VMs"), None)
    if duration is not None and duration.reference is not None:
        axes.axvline(
            duration.reference,
            color=_GREEN,
            linewidth=1.5,
            linestyle="-.",
            label=f"reference {duration.reference:g} s ({duration.how.split(' + ')[0]})",
        )
    if duration is not None and duration.limit is not None:
        axes.axvline(duration.limit, color=_RED, linewidth=1.5, label=f"limit {duration.limit:.1f} s")
    if measurement.failed:
        axes.axhline(total, color=_RED, linestyle=":", linewidth=1.2, label=f"asked for: {total} ({len(measurement.failed)} never came up)")
    axes.set_xlabel("cluster seconds since the first start request")
    axes.set_ylabel("VMs")
    axes.set_xlim(left=0)
    axes.set_ylim(0, total * 1.05)
    _legend(axes)
    return figure


def boot_time_distribution(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """A histogram above the cumulative share of all VMs, with the percentiles marked. VMs that never came up keep it below 100 %.
    None if no VM came up."""
    if not booted(measurement.records):
        return None
    figure, (above, below) = _figure(f"Boot times: {_name(measurement)}", subtitle, rows=2)
    sample = boot_times(measurement)
    above.hist(sample.measured, bins=min(40, max(5, len(sample.measured) // 10)), color=_SKY, edgecolor="white", linewidth=0.5)
    above.set_ylabel("VMs")
    shares = [(rank + 1) / sample.size * 100 for rank in range(len(sample.measured))]
    below.step([sample.measured[0], *sample.measured], [0.0, *shares], where="post", color=_BLUE, linewidth=2)
    marked = [(percent, seconds) for percent in _MARKED if (seconds := sample.percentile(percent)) is not None]
    below.plot([seconds for _, seconds in marked], [percent for percent, _ in marked], "o", color=_RED, markersize=5)
    # In a corner that a rising curve leaves free: labels at the points run into each other where it is steep.
    listed = "\n".join([*(f"p{percent}  {seconds:.1f} s" for percent, seconds in marked), f"longest  {sample.measured[-1]:.1f} s"])
    below.text(0.99, 0.05, listed, transform=below.transAxes, ha="right", va="bottom", fontsize=8, color=_GREY)
    if sample.censored:
        reached = 100 * len(sample.measured) / sample.size
        below.axhspan(
            reached,
            100,
            color=_RED,
            alpha=0.15,
            linewidth=0,
            label=f"{sample.censored} VMs not up after {measurement.deadline_seconds:g} s",
        )
        _legend(below, "lower center")
    below.set_ylim(0, 104)
    below.set_yticks([0, 25, 50, 75, 100])
    below.set_ylabel("% of all VMs")
    below.set_xlabel("seconds from a VM's start request until SSH answers")
    return figure


def phase_breakdown(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """Where the time went, of the VM on which each percentile falls, and of each operating system's median VM.
    None if no such VM came up."""
    rows = breakdowns(measurement)
    if not rows:
        return None
    figure, axes = _figure(f"Where a boot's time goes: {_name(measurement)}", subtitle)
    lefts = [0.0] * len(rows)
    places = range(len(rows))
    for phase, colour, index in zip(PHASES, _PHASE_COLOURS, range(len(PHASES)), strict=True):
        widths = [row.seconds[index] or 0.0 for row in rows]
        axes.barh(places, widths, left=lefts, color=colour, edgecolor="white", linewidth=0.8, label=f"until {phase}")
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for place, total in zip(places, lefts, strict=True):
        axes.annotate(f"{total:.1f} s", (total, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(list(places), [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max(lefts) * 1.12)
    axes.set_xlabel("seconds from a VM's start request (a bar is one real VM: the one on which the percentile falls)")
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=8, frameon=False, ncols=len(PHASES), loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return figure


def sweep(measurements: Sequence[Measurement], objectives: Sequence[Objective] = (), subtitle: str = "") -> Figure | None:
    """Duration and boot times over the fleet's size, against the reference. `objectives`: all points'. None below two sizes."""
    points = sorted((each for each in measurements if each.size), key=lambda each: each.size)
    if len({each.size for each in points}) < 2:
        return None
    figure, axes = _figure(f"{points[0].scenario}: duration over the number of VMs", subtitle)
    # A point that lost VMs has no duration: the line is broken there, not drawn across.
    whole = [
        (each.size, each.duration_seconds if not each.failed and each.complete and each.duration_seconds else math.nan) for each in points
    ]
    for percent, colour in ((50, _SKY), (90, _ORANGE)):
        line = [(each.size, seconds) for each in points if (seconds := boot_times(each).percentile(percent)) is not None]
        if line:
            axes.plot(*zip(*line, strict=True), color=colour, marker=".", linewidth=1.2, label=f"boot time p{percent}")
    if any(not math.isnan(seconds) for _, seconds in whole):
        axes.plot(*zip(*whole, strict=True), color=_BLUE, marker="o", linewidth=2, label="duration (all VMs up)")
    durations = {each.scope: each for each in objectives if each.id == "bootstorm.duration"}
    judged = [(each.size, durations[scope]) for each in points if (scope := f"{each.size} VMs") in durations]
    for label, colour, style, values in (
        ("reference", _GREEN, "-.", [(size, each.reference) for size, each in judged if each.reference is not None]),
        ("limit", _RED, "-", [(size, each.limit) for size, each in judged if each.limit is not None]),
    ):
        if values:
            axes.plot(*zip(*values, strict=True), color=colour, linestyle=style, linewidth=1.5, label=label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    top = axes.get_ylim()[1]
    for each in points:
        if each.failed or not each.complete:
            said = f"{len(each.failed)} lost" if each.complete else "cut short"
            axes.plot([each.size], [top], "^", color=_RED, markersize=9, clip_on=False)
            axes.annotate(said, (each.size, top), (0, -14), textcoords="offset points", ha="center", fontsize=8, color=_RED)
    axes.set_ylim(0, top)
    axes.set_xlabel("VMs started at once")
    axes.set_ylabel("cluster seconds")
    _legend(axes)
    return figure


def _since(measurement: Measurement, start: float, metric: str) -> list[float]:
    return [record.requested_at - start + seconds for record in measurement.records if (seconds := getattr(record, metric)) is not None]


def _name(measurement: Measurement) -> str:
    return f"{measurement.scenario} of {measurement.size} VMs"


def _figure(title: str, subtitle: str, rows: int = 1) -> tuple[Figure, Any]:
    # No pyplot: it keeps figures and a backend for the whole process, which is the user's.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)
    figure.suptitle(title + (f"\n{subtitle}" if subtitle else ""), fontsize=12)
    for each in [axes] if rows == 1 else axes:
        each.grid(color="#dddddd", linewidth=0.8)
        each.set_axisbelow(True)
        each.yaxis.set_major_locator(MaxNLocator(integer=True))
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes, place: Any = "best") -> None:
    axes.legend(fontsize=8, framealpha=0.9, loc=place)


def svg(figure: Figure) -> str:
    """The same data give the same text: no date, and ids from a fixed salt."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "pytest-vmscale"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _write(figure: Figure, path: Path) -> Path:
    path.write_text(svg(figure), encoding="utf-8")
    return path
