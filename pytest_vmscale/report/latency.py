"""How I/O latency is told: lines for the terminal, charts, and what Allure shows."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.records import LatencyRecord
from pytest_vmscale.report.charts import BLUE, GREEN, GREY, ORANGE, RED, legend, legend_beside, new_figure, plain_numbers
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.report.terminal import WIDTH, count, cut, failed_lines, heading_lines, wrap
from pytest_vmscale.scenarios import Chart, Plan, Table
from pytest_vmscale.slo.latency import records_of, told_by_node, variance_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pytest_vmscale.run import Run

PHASES, DIRECTIONS = LatencyRecord.PHASES, LatencyRecord.DIRECTIONS
_EVERY, _ACHIEVED, _SPREAD = "latency.every_vm_reported", "latency.achieved_iops", "latency.node_spread"
_ADDED = tuple(f"latency.added_{direction}" for direction in DIRECTIONS)
_VARIANCE = tuple(f"latency.baseline_variance_{direction}" for direction in DIRECTIONS)
_PERCENTILES = (("p50", "p50_seconds"), ("p90", "p90_seconds"), ("p99", "p99_seconds"), ("p99.9", "p999_seconds"))
_COLOURS = {"read": BLUE, "write": ORANGE}


def lines(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    return _one(measurements[0], subtitle) if len(measurements) == 1 else _several(measurements, subtitle)


def charts(measurements: Sequence[Measurement], objectives: Sequence[Objective], subtitle: str) -> list[Chart]:
    found = []
    for each in measurements:
        stem = "latency" if len(measurements) == 1 else f"latency-{each.parameters.get('nodes', each.size)}"
        found += [
            Chart(f"{stem}_histogram", "Latencies of all I/Os", each.scope, _ADDED, functools.partial(histograms, each, subtitle)),
            Chart(
                f"{stem}_heat", "p99 by VM and node", each.scope, (_EVERY, _ACHIEVED, _SPREAD), functools.partial(heat_map, each, subtitle)
            ),
        ]
    scope = next((each.scope for each in objectives if each.id in _VARIANCE), measurements[-1].scope if measurements else "")
    found.append(
        Chart(
            "latency_nodes", "Latency over the nodes", scope, _VARIANCE, functools.partial(over_nodes, measurements, objectives, subtitle)
        )
    )
    return found


def steps(measurement: Measurement) -> list[str]:
    phases, records = measurement.details.get("phases", {}), records_of(measurement)
    told = [f"Lay out the dataset in {measurement.size} VMs on {measurement.parameters.get('nodes', '?')} nodes"]
    for phase in PHASES:
        if figures := phases.get(phase):
            late = f"; {figures['overloaded']} did not keep up" if figures["overloaded"] else ""
            told.append(
                f"{phase.replace('-', ', random ')}s: {figures['reported']} of {figures['vms']} VMs, {figures['iops_achieved']:.0f} of"
                f" {figures['iops_wanted']} IOPS, mean {_us(figures['mean_seconds'])}{late}"
            )
    told.append(f"Fetch the results: {sum(record.succeeded for record in records)} of {len(records)}")
    return told


def tables(measurement: Measurement) -> list[Table]:
    return [Table(f"All {measurement.size} records", (_EVERY, _ACHIEVED), "csv", functools.partial(csv_text, measurement.records))]


def plan(run: Run) -> Plan:
    from pytest_vmscale.fleets import plan_fleet
    from pytest_vmscale.plan import fleet_lines
    from pytest_vmscale.rights import IDLE_PODS, START, fleet_rights, route_rights

    settings = run.settings
    fio, largest = settings.site.fio, max(settings.nodes)
    create = [
        *fleet_lines(settings, plan_fleet(settings, "latency", largest * settings.vms_per_node)),
        f"{settings.vms_per_node} of them on each of the first {largest} workers, in each a dataset of {fio.directories * fio.files_per_directory}"
        f" files of {fio.file_size} ({fio.dataset_bytes / 2**30:.1f} GiB)",
    ]
    if settings.background_vms:
        create += fleet_lines(settings, plan_fleet(settings, "background", settings.background_vms))
    if settings.background_pods:
        create.append(f"{settings.background_pods} pods that do nothing, in Deployments of 100")
    told = [
        f"I/O latency on {count(nodes, 'node')}, {count(nodes * settings.vms_per_node, 'VM')}: {fio.block_size} byte random reads, then writes, at {fio.baseline_iops}"
        f" and then {fio.workload_iops} IOPS for each VM, {fio.point_seconds} s in all"
        for nodes in settings.nodes
    ]
    change = ["fio is installed in guests that have none"] if settings.install_fio else []
    needs = (
        *fleet_rights(settings, settings.mix(largest * settings.vms_per_node)),
        *START,
        *route_rights(settings),
        *(IDLE_PODS if settings.background_pods else ()),
    )
    return Plan(tuple(create), tuple(change), tuple(told), needs)


# The terminal.


def _one(measurement: Measurement, subtitle: str) -> list[str]:
    done = measurement.size - len(measurement.failed)
    lines = heading_lines(measurement, f"I/O latency: {done} of {measurement.size} VMs on {measurement.scope}", subtitle)
    phases = measurement.details.get("phases", {})
    if phases:
        lines.append(
            f"{'Microseconds':<18}{'mean':>9}"
            + "".join(f"{name:>9}" for name, _ in _PERCENTILES)
            + f"{'IOPS':>12}{'of':>9}{'overloaded':>12}"
        )
    for phase in PHASES:
        if figures := phases.get(phase):
            values = "".join(f"{_number(figures.get(key)):>9}" for key in ("mean_seconds", *(key for _, key in _PERCENTILES)))
            lines.append(
                f"  {phase:<16}{values}{figures['iops_achieved']:>12.0f}{figures['iops_wanted']:>9}{figures['overloaded'] or '-':>12}"
            )
    for direction in DIRECTIONS:
        if (found := measurement.details.get("added", {}).get(direction)) and found["percent"] is not None:
            lines.append(f"Under load {direction}s take {_added_text(found)}, over {count(found['vms'], 'VM')}.")
    return [*lines, *_notes(measurement)]


def _several(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    """A row a node count; what went wrong in any of them; how far the baselines lie apart."""
    points = sorted(measurements, key=lambda each: each.size)
    lines = [f"I/O latency: {count(len(points), 'node count')}" + (f" ({subtitle})" if subtitle else "")]
    lines += [
        f"{'':>12}{'reads, us':>18}{'writes, us':>43}",
        f"{'nodes':>6}{'VMs':>6}" + f"{'baseline':>9}{'workload':>9}{'added (95 % interval)':>25}" * 2,
    ]
    for each in points:
        cells = ""
        for direction in DIRECTIONS:
            phases = each.details.get("phases", {})
            base, load = (_number(phases.get(f"{name}-{direction}", {}).get("mean_seconds"), 1) for name in LatencyRecord.LOADS)
            cells += f"{base:>9}{load:>9}{_short_added(each.details.get('added', {}).get(direction)):>25}"
        lines.append(f"{each.parameters.get('nodes', '?'):>6}{each.size:>6}{cells}")
    for direction in DIRECTIONS:
        values = [
            mean
            for each in points
            if (mean := each.details.get("phases", {}).get(f"baseline-{direction}", {}).get("mean_seconds")) is not None
        ]
        if len(values) > 1:
            variation, spread = variance_percent(values)
            lines.append(f"Baseline {direction}s over the node counts: coefficient of variation {variation:.3f} %, range {spread:.3f} %.")
    for each in points:
        notes = _notes(each)
        if notes or not each.complete:
            cut_short = wrap(f"Cut short: {each.incomplete_reason or 'no reason given'}", "  ") if not each.complete else []
            lines += [f"{each.scope}:", *cut_short, *(f"  {line}" if len(line) <= WIDTH - 2 else line for line in notes)]
    return lines


def _notes(measurement: Measurement) -> list[str]:
    """What must be known beside the figures: overloaded VMs, nodes that stand out, how good the clocks were, who is missing."""
    records = records_of(measurement)
    lines: list[str] = []
    for phase in PHASES:
        short = [record for record in records if phase in record.overloaded]
        if short:
            rates = [rate for record in short if (rate := record.of(phase, "iops")) is not None]
            told = f"overloaded in {phase} (not in its figures; {min(rates):.0f} to {max(rates):.0f} IOPS each): {told_by_node(short, records)}."
            lines += wrap(f"{count(len(short), 'VM')} {told}", "", "    ")
    details = measurement.details
    said = []
    background = measurement.parameters.get("background") or {}
    if any(background.values()):
        said.append(f"Beside them ran {background.get('vms', 0)} VMs and {background.get('pods', 0)} pods that did nothing.")
    if (bound := details.get("clock_bound_seconds_max")) is not None:
        said.append(
            f"Guests' clocks were at most {_seconds(details['clock_offset_seconds_max'])} from ours (known to {_seconds(bound)});"
            f" the latest began {_seconds(max(0.0, details.get('late_seconds_max') or 0.0))} after the barrier."
        )
    if details.get("barrier_tries", 1) > 1:
        said.append(f"It took {details['barrier_tries']} barriers until all guests were reached before one.")
    if details.get("fetched_after_loss"):
        said.append(f"{count(details['fetched_after_loss'], 'VM')} could not be reached for a while; the results were fetched later.")
    lines += wrap(" ".join(said), "") if said else []
    if measurement.failed:
        lines += failed_lines(measurement.failed, "reported nothing, or not all")
    return lines


def _added_text(found: Mapping[str, Any]) -> str:
    change = f"{abs(found['percent']):.1f} % {'less' if found['percent'] < 0 else 'more'} time than in the baseline"
    return f"{change} ({found['low_percent']:+.1f} to {found['high_percent']:+.1f} %, 95 %)"


def _short_added(found: Mapping[str, Any] | None) -> str:
    if not found or found["percent"] is None:
        return "-"
    return f"{found['percent']:+.1f} % ({found['low_percent']:+.1f}..{found['high_percent']:+.1f})"


def _number(seconds: float | None, digits: int = 0) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.{digits}f}"


def _us(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds * 1e6:.0f} us"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


# Charts.


def over_nodes(measurements: Sequence[Measurement], objectives: Sequence[Objective] = (), subtitle: str = "") -> Figure | None:
    """Mean latencies of both loads over the node counts, and below what the load adds, against the reference. None below two counts."""
    points = sorted((each for each in measurements if each.details.get("phases")), key=lambda each: each.size)
    if len({each.size for each in points}) < 2:
        return None
    figure, (above, below) = new_figure("I/O latency over the number of nodes", subtitle, rows=2)
    places = [each.parameters.get("nodes", each.size) for each in points]
    for direction in DIRECTIONS:
        for load, style in (("baseline", ":"), ("workload", "-")):
            values = [each.details["phases"].get(f"{load}-{direction}", {}).get("mean_seconds") for each in points]
            drawn = [(place, value * 1e6) for place, value in zip(places, values, strict=True) if value is not None]
            if drawn:
                above.plot(
                    *zip(*drawn, strict=True),
                    color=_COLOURS[direction],
                    linestyle=style,
                    marker="o",
                    linewidth=2,
                    label=f"{direction}s, {load}",
                )
        found = [(place, each.details["added"][direction]) for place, each in zip(places, points, strict=True)]
        known = [(place, each) for place, each in found if each["percent"] is not None]
        if known:
            middle = [each["percent"] for _, each in known]
            bars = (
                [each["percent"] - each["low_percent"] for _, each in known],
                [each["high_percent"] - each["percent"] for _, each in known],
            )
            below.errorbar(
                [place for place, _ in known],
                middle,
                yerr=bars,
                color=_COLOURS[direction],
                marker="o",
                capsize=3,
                label=f"added to {direction}s",
            )
        judged = [each for each in objectives if each.id == f"latency.added_{direction}" and each.reference is not None]
        if judged and judged[-1].reference is not None:
            last = judged[-1]
            below.axhline(
                last.reference, color=GREEN, linestyle="-.", linewidth=1.2, label=f"reference {last.reference:+g} % ({direction}s)"
            )
            below.axhline(last.limit, color=RED, linewidth=1, label=f"limit {last.limit:+.1f} % ({direction}s)")
    above.set_ylabel("mean, us")
    above.set_ylim(bottom=0)
    below.set_ylabel("added, %")
    below.axhline(0, color=GREY, linewidth=0.8)
    below.set_xscale("log", base=2)
    below.set_xticks(places, [str(place) for place in places])
    below.minorticks_off()
    below.set_xlabel(f"nodes, {points[0].parameters.get('vms_per_node', '?')} VMs on each")
    for axes in (above, below):
        legend_beside(axes)
    return figure


def histograms(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """How all I/Os of the fleet are spread: its VMs' histograms added up, as cumulative shares. None without any."""
    phases = {phase: figures for phase, figures in measurement.details.get("phases", {}).items() if figures.get("histogram")}
    if not phases:
        return None
    figure, (above, below) = new_figure(f"Latencies of all I/Os: {measurement.scope}, {count(measurement.size, 'VM')}", subtitle, rows=2)
    for phase, figures in phases.items():
        direction = phase.partition("-")[2]
        style = ":" if phase.startswith("baseline") else "-"
        counted = sorted((int(value), number) for value, number in figures["histogram"].items())
        total = sum(number for _, number in counted)
        xs = [value / 1000 for value, _ in counted]
        shares, seen = [], 0
        for _, number in counted:
            seen += number
            shares.append(seen / total * 100)
        label = f"{phase} ({total} I/Os)"
        above.step(xs, shares, where="mid", color=_COLOURS[direction], linestyle=style, linewidth=1.8, label=label)
        # The tail alone: what share of I/Os took longer.
        longer = [(x, 100 - share) for x, share in zip(xs, shares, strict=True) if share < 100]
        if longer:
            below.step(*zip(*longer, strict=True), where="mid", color=_COLOURS[direction], linestyle=style, linewidth=1.8)
    above.set_ylabel("% of I/Os at most so long")
    above.set_ylim(0, 102)
    below.set_ylabel("% that took longer")
    below.set_yscale("log")
    below.set_xscale("log")
    plain_numbers(below.xaxis, "125")
    below.tick_params(axis="x", which="both", labelsize=8)
    below.set_xlabel("completion latency, us")
    legend(above, "lower right")
    return figure


def heat_map(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """p99 of each VM under load, a column a node, a row a VM of it; overloaded VMs are crossed out, missing ones left white. None if no
    VM's node is known."""
    records = [record for record in records_of(measurement) if record.node]
    if not records:
        return None
    nodes = sorted({str(record.node) for record in records})
    rows = max(sum(record.node == node for record in records) for node in nodes)
    figure, axes = new_figure(f"p99 by VM and node, under load: {measurement.scope}", subtitle, rows=2)
    for panel, direction in zip(axes, DIRECTIONS, strict=True):
        phase = f"workload-{direction}"
        grid = [[float("nan")] * len(nodes) for _ in range(rows)]
        missing = sum(record.of(phase, "p99_seconds") is None for record in records)
        crossed: list[tuple[int, int]] = []
        for column, node in enumerate(nodes):
            for row, record in enumerate(record for record in records if record.node == node):
                p99 = record.of(phase, "p99_seconds")
                grid[row][column] = float("nan") if p99 is None else p99 * 1e6
                if phase in record.overloaded:
                    crossed.append((column, row))
        known = [value for line in grid for value in line if value == value]
        if known:
            middle = statistics.median(known)
            image = panel.imshow(
                grid,
                aspect="auto",
                cmap="cividis",
                vmin=min(min(known), middle * 0.8),
                vmax=max(max(known), middle * 1.2),
                interpolation="none",
            )
            figure.colorbar(image, ax=panel, label=f"{direction}s, us")
        if crossed:
            panel.plot([x for x, _ in crossed], [y for _, y in crossed], "x", color=RED, markersize=4, label=f"{len(crossed)} overloaded")
            legend(panel, "upper right")
        if missing:
            panel.set_title(f"white: {count(missing, 'VM')} without a result", fontsize=8, loc="left", color=RED)
        panel.set_ylabel("VM of the node")
        panel.grid(visible=False)
    step = max(1, len(nodes) // 16)
    axes[-1].set_xticks(
        range(0, len(nodes), step), [cut(nodes[index], 14) for index in range(0, len(nodes), step)], rotation=45, ha="right", fontsize=7
    )
    axes[-1].set_xlabel("node")
    return figure
