"""How migration under load is told: lines for the terminal, charts, and what Allure shows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.records import MigrationLoadRecord
from pytest_vmscale.report.charts import BLUE, GREEN, ORANGE, RED, SKY, cumulative, legend, legend_beside, new_figure, plain_numbers
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.report.terminal import count, each_alone, failed_lines, gap_lines, heading_lines, wrap
from pytest_vmscale.scenarios import Chart, Plan, Table
from pytest_vmscale.slo.migration_load import records_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pytest_vmscale.run import Run

_READ, _WRITE, _DURATION = "migration_load.added_read", "migration_load.added_write", "migration_load.added_duration"
_REPORTED, _IOPS, _GAP = "migration_load.every_vm_reported", "migration_load.achieved_iops", "migration_load.longest_gap"
_FAILURES = "migration_load.failures"


def lines(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    return each_alone(measurements, subtitle, _one)


def charts(measurements: Sequence[Measurement], objectives: Sequence[Objective], subtitle: str) -> list[Chart]:
    found = []
    for each in measurements:
        for name, title, where, draw in (
            ("latency", "Latency over time, and migrations", (_REPORTED, _READ, _WRITE, _IOPS, _FAILURES, _DURATION), latency_over_time),
            ("durations", "Migration times under both loads", (_DURATION,), durations),
            ("gaps", "Longest gap of each VM", (_GAP,), gaps),
        ):
            found.append(Chart(f"migration-latency_{name}", title, each.scope, where, functools.partial(draw, each, subtitle)))
    return found


def steps(measurement: Measurement) -> list[str]:
    details = measurement.details
    told = [f"{count(measurement.size, 'VM')} do I/O, while nothing moves, and while as many as allowed are migrated at a time"]
    for name, figures in (details.get("phases") or {}).items():
        if figures["mean_seconds"] is not None:
            told.append(f"{name.replace('-', ' ')}: mean {figures['mean_seconds'] * 1e6:.0f} us, {figures['iops_achieved']:.0f} IOPS in all")
    for load, found in (details.get("migrations") or {}).items():
        told.append(f"Under the {load}: {count(found['count'], 'migration')}" + ("" if found["mean_seconds"] is None else f", {found['mean_seconds']:.1f} s on average"))
    return told


def tables(measurement: Measurement) -> list[Table]:
    return [Table(f"All {measurement.size} records", (_REPORTED, _GAP), "csv", functools.partial(csv_text, measurement.records))]


def plan(run: Run) -> Plan:
    from pytest_vmscale.fleets import plan_fleet
    from pytest_vmscale.plan import fleet_lines
    from pytest_vmscale.rights import LIVE_MIGRATION, START, fleet_rights, rights, route_rights
    from pytest_vmscale.slo.migration_load import MIX, deadlines_seconds

    settings = run.settings
    fio = settings.site.fio
    change = (
        f"HyperConverged: parallelMigrationsPerCluster {settings.parallel_migrations}, parallelOutboundMigrationsPerNode {settings.outbound_migrations}; virt-api's replicas",
        "and put it back at the end",
    )
    longest = max(deadlines_seconds(settings, run.profile, run.tolerance_percent))
    told = (
        f"fio in each of {settings.largest} VMs at {fio.baseline_iops} and at {fio.workload_iops} IOPS, without migrations and while "
        f"{settings.parallel_migrations} VMs are migrated at a time; given up after {longest:.0f} s",
    )
    needs = (
        *fleet_rights(settings, settings.mix(settings.largest, MIX)),
        *START,
        *route_rights(settings),
        *LIVE_MIGRATION,
        *rights("kubevirt.io", "virtualmachineinstancemigrations", "create"),
        *rights("config.openshift.io", "clusterversions", "list"),
    )
    return Plan(fleet_lines(settings, plan_fleet(settings, "migration-load", settings.largest, MIX)), change, told, needs)


# The terminal.


def _one(measurement: Measurement, subtitle: str) -> list[str]:
    details = measurement.details
    found = heading_lines(measurement, f"I/O of {count(measurement.size, 'VM')} under migration", subtitle)
    phases = details.get("phases") or {}
    found.append(f"{'Mean latency, us':<24}{'without':>10}{'with':>10}{'added':>9}   {'IOPS without':>14}{'with':>12}{'overloaded':>12}")
    for load in MigrationLoadRecord.LOADS:
        for direction in MigrationLoadRecord.DIRECTIONS:
            still, moving = phases.get(f"still-{load}-{direction}"), phases.get(f"moving-{load}-{direction}")
            if not still or not moving:
                continue
            percent = ((details.get("added") or {}).get(f"{load}-{direction}") or {}).get("percent")
            added = "-" if percent is None else f"{percent:+.1f} %"
            found.append(
                f"{f'  {load} {direction}s':<24}{_micro(still['mean_seconds']):>10}{_micro(moving['mean_seconds']):>10}{added:>9}   "
                f"{still['iops_achieved']:>14.0f}{moving['iops_achieved']:>12.0f}{still['overloaded'] + moving['overloaded']:>12}"
            )
    told = []
    for load, each in (details.get("migrations") or {}).items():
        told.append(f"{each['count']} under the {load}" + ("" if each["mean_seconds"] is None else f", {each['mean_seconds']:.1f} s on average"))
    if told:
        longer = details.get("duration_added") or {}
        added = "" if longer.get("percent") is None else f" ({longer['percent']:+.1f} % over the {count(longer['vms'], 'VM')} that were migrated under both)"
        limits = details.get("limits") or {}
        found += wrap(f"Live migrations: {'; '.join(told)}{added}; at most {details.get('most_in_flight')} at once, of {limits.get('per_cluster')} allowed.", "")
    longest = max(records_of(measurement), key=lambda each: each.longest_gap_seconds or 0.0, default=None)
    if longest is not None and longest.longest_gap_seconds is not None:
        found += wrap(f"The longest gap in a VM's I/O meanwhile was {longest.longest_gap_seconds * 1000:.0f} ms, in {longest.vm_name}.", "")
    found += gap_lines(measurement)
    if measurement.failed:
        found += ["", *failed_lines(measurement.failed, "did not report")]
    return found


def _micro(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.0f}"


# Charts.


def latency_over_time(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """Each run's mean over the fleet and its slowest VM, with the time of migrations shaded; below it, the migrations under way."""
    details = measurement.details
    phases: dict[str, Any] = {name: each for name, each in (details.get("phases") or {}).items() if each["mean_seconds"] is not None}
    if not phases:
        return None
    figure, (above, below) = new_figure(f"Latency while VMs are migrated, {measurement.scope}", subtitle, rows=2)
    seen = set()
    for name, each in phases.items():
        direction = name.rpartition("-")[2]
        at = [each["start_seconds"] / 60, each["end_seconds"] / 60]
        for key, colour, label in (("mean_seconds", {"read": BLUE, "write": ORANGE}[direction], f"{direction}s, mean of all VMs"),
                                   ("slowest_mean_seconds", {"read": SKY, "write": RED}[direction], f"{direction}s, slowest VM")):  # fmt: skip
            above.plot(at, [each[key] * 1e6] * 2, color=colour, linewidth=3 if key == "mean_seconds" else 1.5, label="" if label in seen else label)
            seen.add(label)
    for index, (load, (start, end)) in enumerate((details.get("moving") or {}).items()):
        for axes in (above, below):
            axes.axvspan(start / 60, end / 60, color=GREEN, alpha=0.12, label="" if index or axes is below else "VMs are migrated")
        below.text(start / 60, 0.3, f" {load}", fontsize=8, va="bottom")
    above.set_ylabel("microseconds")
    above.set_yscale("log")  # at one I/O a second a VM's own switchover is most of its mean
    plain_numbers(above.yaxis, "12345")
    above.tick_params(axis="y", which="both", labelsize=8)
    curve = details.get("in_flight") or []
    below.step([each[0] / 60 for each in curve], [each[1] for each in curve], where="post", color=BLUE, linewidth=1, label="under way")
    limit = (details.get("limits") or {}).get("per_cluster")
    if limit:
        below.axhline(limit, color=RED, linestyle="--", linewidth=1.2, label=f"allowed on the cluster: {limit}")
    below.set_ylabel("migrations")
    below.set_ylim(bottom=0)
    below.set_xlabel("Minutes from the barrier (cluster time)")
    below.set_xlim(left=0)
    legend_beside(above)
    legend_beside(below)
    return figure


def durations(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """How long a migration of each VM took on average, under each of the loads."""
    records = records_of(measurement)
    by_load = {
        "baseline": sorted(each.migration_baseline_seconds for each in records if each.migration_baseline_seconds is not None),
        "workload": sorted(each.migration_workload_seconds for each in records if each.migration_workload_seconds is not None),
    }
    if not any(by_load.values()):
        return None
    figure, axes = new_figure(f"Migration times under both loads, {measurement.scope}", subtitle)
    for (load, values), colour in zip(by_load.items(), (BLUE, ORANGE), strict=True):
        told = f"{load}: {count(len(values), 'VM')}" + (f", {sum(values) / len(values):.1f} s on average" if values else "")
        cumulative(axes, values, color=colour, linewidth=2, label=told)
    _label(axes, "seconds from the start of a VM's migration to its end (cluster time)")
    legend(axes, "upper left")
    return figure


def _label(axes: Axes, x: str) -> None:
    axes.set_xlabel(x)
    axes.set_xlim(left=0)
    axes.set_ylabel("% of VMs at most so long")
    axes.set_ylim(0, 102)


def gaps(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """The longest that any I/O of each VM took while VMs were migrated."""
    values = sorted(each.longest_gap_seconds * 1000 for each in records_of(measurement) if each.longest_gap_seconds is not None)
    if not values:
        return None
    figure, axes = new_figure(f"Longest gap in each VM's I/O, {measurement.scope}", subtitle)
    cumulative(axes, values, color=BLUE, linewidth=2, label=f"{len(values)} VMs, the longest {values[-1]:.0f} ms")
    _label(axes, "milliseconds")
    legend(axes, "lower right")
    return figure
