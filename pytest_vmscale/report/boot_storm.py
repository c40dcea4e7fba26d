"""How a boot storm is told: lines for the terminal, charts, and what Allure shows."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_vmscale.model import Measurement, Objective, Sample
from pytest_vmscale.report.charts import BLUE, GREEN, GREY, ORANGE, RED, SKY, cumulative, legend, new_figure
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.report.phases import PHASES, Breakdown, boot_records, booted, breakdowns
from pytest_vmscale.report.tables import reached, worst_table
from pytest_vmscale.report.terminal import WIDTH, count, cut, failed_lines, heading_lines, heads, sample_line, wrap
from pytest_vmscale.scenarios import Chart, Plan, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pytest_vmscale.run import Run

_METRICS = (
    ("VMI created", "time_to_vm_created_seconds"),
    ("VMI running", "time_to_vmi_running_seconds"),
    ("VMI ready", "time_to_vmi_ready_seconds"),
    ("guest address", "time_to_guest_ip_seconds"),
    ("SSH answers", "time_to_ssh_seconds"),
)
_PHASE_COLOURS = (GREY, SKY, ORANGE, BLUE)
_MARKED = (50, 75, 90, 95, 99)


def lines(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    return _point_lines(measurements[0], subtitle) if len(measurements) == 1 else _sweep_lines(measurements, subtitle)


def charts(measurements: Sequence[Measurement], objectives: Sequence[Objective], subtitle: str) -> list[Chart]:
    found = []
    for each in measurements:
        stem = each.scenario if len(measurements) == 1 else f"{each.scenario}-{each.size}"
        percentiles = tuple(f"bootstorm.boot_time_p{percent}" for percent in _MARKED)
        every, duration = "bootstorm.every_vm_boots", "bootstorm.duration"
        found += [
            Chart(
                f"{stem}_ready",
                "VMs up over time",
                each.scope,
                (every, duration),
                functools.partial(ready_over_time, each, objectives, subtitle),
            ),
            Chart(f"{stem}_boot-times", "Boot times", each.scope, percentiles, functools.partial(boot_time_distribution, each, subtitle)),
            Chart(
                f"{stem}_phases", "Where a boot's time goes", each.scope, (duration,), functools.partial(phase_breakdown, each, subtitle)
            ),
        ]
    sizes = sorted(each.size for each in measurements)
    over = functools.partial(sweep, measurements, objectives, subtitle)
    found.append(
        Chart("boot-storm_sweep", "Duration over the number of VMs", f"{sizes[0]}-{sizes[-1]} VMs", ("bootstorm.linearity",), over)
    )
    return found


def steps(measurement: Measurement) -> list[str]:
    size, records = measurement.size, boot_records(measurement)
    sent = f"Start {size} VMs at once"
    if rate := measurement.details.get("request_rate_achieved"):
        sent += f" ({rate:.0f} requests/s)"
    told = [sent]
    for what, metric in (("are created", "time_to_vm_created_seconds"), ("are running", "time_to_vmi_running_seconds")):
        told.append(reached(f"VMIs {what}", [value for record in records if (value := record.value(metric)) is not None], size))
    told.append(reached("VMs answer SSH", measurement.sample("time_to_ssh_seconds").measured, size))
    return told


def tables(measurement: Measurement) -> list[Table]:
    every = "bootstorm.every_vm_boots"
    return [
        Table("The worst ten VMs", (every, "bootstorm.duration"), "html", functools.partial(worst_table, measurement, "SSH answers")),
        Table(f"All {measurement.size} records", (every,), "csv", functools.partial(csv_text, measurement.records)),
    ]


def plan(run: Run) -> Plan:
    from pytest_vmscale.plan import main_fleet_lines
    from pytest_vmscale.rights import START, STOP, fleet_rights, route_rights
    from pytest_vmscale.slo.boot_storm import deadline_seconds, reference_for

    told = []
    for size in run.settings.vms:
        reference = reference_for(run.profile, size)
        end = f"given up after {deadline_seconds(run.settings, run.profile, run.tolerance_percent, size):.0f} s"
        limit = "no reference"
        if reference is not None:
            seconds = reference.seconds * (1 + run.tolerance_percent / 100)
            limit = f"at most {seconds:.1f} s (reference {reference.seconds:.1f} s, {reference.how}; +{run.tolerance_percent:g} %)"
        told.append(f"boot storm of {size} VMs, first start request to the last SSH: {limit}, {end}")
    stopped = STOP if len(run.settings.vms) > 1 or run.settings.reuse_fleet else ()
    needs = (*fleet_rights(run.settings, run.settings.mix(run.settings.largest)), *START, *stopped, *route_rights(run.settings))
    return Plan(main_fleet_lines(run.settings), (), tuple(told), needs)


def _point_lines(measurement: Measurement, subtitle: str) -> list[str]:
    """What one scenario measured, judged by nobody."""
    failed = measurement.failed
    heading = f"Boot storm: {measurement.size - len(failed)} of {measurement.size} VMs up"
    if measurement.duration_seconds is not None:
        heading += f", the last after {measurement.duration_seconds:.1f} s"
    lines = heading_lines(measurement, heading, subtitle)
    if not measurement.size:
        return [*lines, "No VM was measured."]
    lines += [*_percentile_lines(measurement), *_quality_lines(measurement)]
    if rows := breakdowns(measurement):
        lines += ["", *_breakdown_lines(rows)]
    if failed:
        lines += ["", *failed_lines(failed, "never came up")]
    return lines


def _sweep_lines(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    """A row a point. What else was measured at each point is in its result file."""
    lines = [f"Boot storm: {len(measurements)} points" + (f" ({subtitle})" if subtitle else "")]
    lines.append(f"{'VMs':>8}{'up':>8}{'duration':>10}  {'to SSH:':<8}" + heads())
    for measurement in measurements:
        duration = "-" if measurement.duration_seconds is None else f"{measurement.duration_seconds:.1f}"
        left = f"{measurement.size:>8}{measurement.size - len(measurement.failed):>8}{duration:>10}  "
        lines.append(
            sample_line(left, measurement.sample("time_to_ssh_seconds"), measurement.deadline_seconds)
            if measurement.size
            else f"{left}no samples"
        )
    for measurement in measurements:
        if not measurement.complete:
            lines += wrap(f"{measurement.size} VMs: cut short: {measurement.incomplete_reason or 'no reason given'}", "  ")
        if measurement.failed:
            lines += ["", f"Of {measurement.size} VMs:", *failed_lines(measurement.failed, "never came up")]
    return lines


def _percentile_lines(measurement: Measurement) -> list[str]:
    lines = [f"{'Seconds from the request until':<36}{heads()}"]
    for name, metric in _METRICS:
        sample = measurement.sample(metric)
        if sample.measured:
            # Of a VM that booted, a phase without a time was not seen: that is no deadline missed.
            unseen = any(record.succeeded and getattr(record, metric) is None for record in measurement.records)
            lines.append(sample_line(f"  {name}", sample, None if unseen else measurement.deadline_seconds))
    systems = sorted({record.os for record in measurement.records})
    for os in systems if len(systems) > 1 else []:
        records = [record for record in measurement.records if record.os == os]
        sample = Sample(record.value("time_to_ssh_seconds") for record in records)
        lines.append(sample_line(f"  SSH answers, {sample.size} {os}", sample, measurement.deadline_seconds))
    return lines


def _quality_lines(measurement: Measurement) -> list[str]:
    """How far the figures can be trusted."""
    said = []
    bounds = [record.error_bound_seconds for record in boot_records(measurement) if record.error_bound_seconds is not None]
    if bounds:
        said.append(
            f"A VM may have been up {max(bounds):.1f} s earlier than measured, at most (median {sorted(bounds)[len(bounds) // 2]:.1f} s)."
        )
    lags = [record.probe_lag_seconds for record in boot_records(measurement) if record.probe_lag_seconds is not None]
    if lags:
        said.append(f"Probes were late by at most {max(lags):.2f} s.")
    retried = sum(bool(record.request_retries) for record in measurement.records)
    if retried:
        said.append(f"{count(retried, 'start request')} had to be retried.")
    if rate := measurement.details.get("request_rate_achieved"):
        said.append(f"Start requests were sent at {rate:.0f}/s.")
    if measurement.gaps:
        said.append(f"Watches were blind for {measurement.blind_seconds:.1f} s in all ({count(len(measurement.gaps), 'gap')}).")
    late = sum(any(moment.upper_bound for moment in record.timeline) for record in measurement.records)
    if late:
        said.append(f"Of {count(late, 'VM')} a phase was only learnt from a relist: it was reached then, or before.")
    return wrap(" ".join(said), "") if said else []


def _breakdown_lines(rows: Sequence[Breakdown]) -> list[str]:
    lines = [f"{'Seconds spent until':<20}" + "".join(f"{phase:>12}" for phase in PHASES) + f"{'in all':>10}  VM"]
    for row in rows:
        parts = "".join(f"{'-' if seconds is None else f'{seconds:.1f}':>12}" for seconds in row.seconds)
        lines.append(cut(f"  {cut(row.label, 18):<18}{parts}{row.total_seconds:>10.1f}  {row.record.vm_name}", WIDTH))
    return lines


def ready_over_time(measurement: Measurement, objectives: Sequence[Objective] = (), subtitle: str = "") -> Figure | None:
    """How many VMs were requested, running and up at each moment, against the reference's duration and the limit. None without a VM."""
    if not measurement.records:
        return None
    figure, axes = new_figure(f"VMs up over time: {_name(measurement)}", subtitle)
    records = boot_records(measurement)
    start = min(record.requested_at for record in records)
    curves = (
        ("requested", [record.requested_at - start for record in records], GREY, ":"),
        ("running", _since(measurement, start, "time_to_vmi_running_seconds"), ORANGE, "--"),
        ("up (SSH answers)", [record.requested_at - start + (record.time_to_ssh_seconds or 0.0) for record in booted(records)], BLUE, "-"),
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
            color=GREEN,
            linewidth=1.5,
            linestyle="-.",
            label=f"reference {duration.reference:g} s ({duration.how.split(' + ')[0]})",
        )
    if duration is not None and duration.limit is not None:
        axes.axvline(duration.limit, color=RED, linewidth=1.5, label=f"limit {duration.limit:.1f} s")
    if measurement.failed:
        axes.axhline(total, color=RED, linestyle=":", linewidth=1.2, label=f"asked for: {total} ({len(measurement.failed)} never came up)")
    axes.set_xlabel("cluster seconds since the first start request")
    axes.set_ylabel("VMs")
    axes.set_xlim(left=0)
    axes.set_ylim(0, total * 1.05)
    legend(axes)
    return figure


def boot_time_distribution(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """A histogram above the cumulative share of all VMs, with the percentiles marked. VMs that never came up keep it below 100 %.
    None if no VM came up."""
    if not booted(boot_records(measurement)):
        return None
    figure, (above, below) = new_figure(f"Boot times: {_name(measurement)}", subtitle, rows=2)
    sample = measurement.sample("time_to_ssh_seconds")
    above.hist(sample.measured, bins=min(40, max(5, len(sample.measured) // 10)), color=SKY, edgecolor="white", linewidth=0.5)
    above.set_ylabel("VMs")
    cumulative(below, sample.measured, sample.size, color=BLUE, linewidth=2)
    marked = [(percent, seconds) for percent in _MARKED if (seconds := sample.percentile(percent)) is not None]
    below.plot([seconds for _, seconds in marked], [percent for percent, _ in marked], "o", color=RED, markersize=5)
    # In a corner that a rising curve leaves free: labels at the points run into each other where it is steep.
    listed = "\n".join([*(f"p{percent}  {seconds:.1f} s" for percent, seconds in marked), f"longest  {sample.measured[-1]:.1f} s"])
    below.text(0.99, 0.05, listed, transform=below.transAxes, ha="right", va="bottom", fontsize=8, color=GREY)
    if sample.censored:
        reached = 100 * len(sample.measured) / sample.size
        below.axhspan(
            reached,
            100,
            color=RED,
            alpha=0.15,
            linewidth=0,
            label=f"{sample.censored} VMs not up after {measurement.deadline_seconds:g} s",
        )
        legend(below, "lower center")
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
    figure, axes = new_figure(f"Where a boot's time goes: {_name(measurement)}", subtitle)
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
    figure, axes = new_figure(f"{points[0].scenario}: duration over the number of VMs", subtitle)
    # A point that lost VMs has no duration: the line is broken there, not drawn across.
    whole = [
        (each.size, each.duration_seconds if not each.failed and each.complete and each.duration_seconds else math.nan) for each in points
    ]
    for percent, colour in ((50, SKY), (90, ORANGE)):
        line = [(each.size, seconds) for each in points if (seconds := each.sample("time_to_ssh_seconds").percentile(percent)) is not None]
        if line:
            axes.plot(*zip(*line, strict=True), color=colour, marker=".", linewidth=1.2, label=f"boot time p{percent}")
    if any(not math.isnan(seconds) for _, seconds in whole):
        axes.plot(*zip(*whole, strict=True), color=BLUE, marker="o", linewidth=2, label="duration (all VMs up)")
    durations = {each.scope: each for each in objectives if each.id == "bootstorm.duration"}
    judged = [(each.size, durations[scope]) for each in points if (scope := f"{each.size} VMs") in durations]
    for label, colour, style, values in (
        ("reference", GREEN, "-.", [(size, each.reference) for size, each in judged if each.reference is not None]),
        ("limit", RED, "-", [(size, each.limit) for size, each in judged if each.limit is not None]),
    ):
        if values:
            axes.plot(*zip(*values, strict=True), color=colour, linestyle=style, linewidth=1.5, label=label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    top = axes.get_ylim()[1]
    for each in points:
        if each.failed or not each.complete:
            said = f"{len(each.failed)} lost" if each.complete else "cut short"
            axes.plot([each.size], [top], "^", color=RED, markersize=9, clip_on=False)
            axes.annotate(said, (each.size, top), (0, -14), textcoords="offset points", ha="center", fontsize=8, color=RED)
    axes.set_ylim(0, top)
    axes.set_xlabel("VMs started at once")
    axes.set_ylabel("cluster seconds")
    legend(axes)
    return figure


def _since(measurement: Measurement, start: float, metric: str) -> list[float]:
    return [record.requested_at - start + seconds for record in measurement.records if (seconds := getattr(record, metric)) is not None]


def _name(measurement: Measurement) -> str:
    return f"boot storm of {measurement.size} VMs"
