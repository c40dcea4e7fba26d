"""How a migration is told: lines for the terminal, charts, and what Allure shows."""

from __future__ import annotations

import functools
import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Objective, Sample
from pytest_vmscale.records import LIVE_MIGRATION
from pytest_vmscale.report.charts import BLUE, GREEN, GREY, ORANGE, RED, SKY, cumulative, legend, legend_beside, new_figure
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.report.tables import page, worst_table
from pytest_vmscale.report.terminal import count, each_alone, failed_lines, gap_lines, heading_lines, heads, sample_line, wrap
from pytest_vmscale.scenarios import Chart, Plan, Table
from pytest_vmscale.slo.migration import averages, migration_records, why_not_done

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pytest_vmscale.run import Run

_MOVED, _FAILURES, _LIMITS, _ZONE = "migration.every_vm_moved", "migration.failures", "migration.limits", "migration.zone_duration"
_OFF, _DRAINS, _WAIT, _PODS = "migration.vms_off", "migration.drain_time", "migration.node_wait", "migration.pods_back"
_BY_TRIGGER = {
    "machineconfig": "a machine config that reboots its nodes",
    "drain": "draining its nodes through the API",
    "vmim": "a migration asked for each VM",
}
_COLOURS = (BLUE, ORANGE, GREEN, SKY, RED, GREY)
_NAMED = 5
_NODE_PHASES = (
    # from, to, colour, what it is called
    ("cordoned_seconds", "drained_seconds", ORANGE, "cordoned, being drained"),
    ("drained_seconds", "rebooted_seconds", GREY, "drained, going down, rebooting"),
    ("rebooted_seconds", "ready_seconds", SKY, "up, not Ready yet"),
    ("ready_seconds", "done_seconds", GREEN, "Ready, until uncordoned and updated"),
)


def lines(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    return each_alone(measurements, subtitle, _one)


def charts(measurements: Sequence[Measurement], objectives: Sequence[Objective], subtitle: str) -> list[Chart]:
    found = []
    for each in measurements:
        stem = each.scenario
        by_os = tuple(f"migration.average_{os}" for os in _systems(each))
        for name, title, where, draw in (
            ("nodes", "The zone's nodes", (_ZONE, _DRAINS, _WAIT, _OFF), node_gantt),
            ("in-flight", "Migrations under way", (_LIMITS, _FAILURES, _OFF), in_flight),
            ("times", "Times by OS", (_MOVED, *by_os), distributions),
            ("off", "VMs that left, and pods", (_MOVED, _PODS, _OFF), leaving),
        ):
            found.append(Chart(f"{stem}_{name}", title, each.scope, where, functools.partial(draw, each, subtitle)))
    return found


def steps(measurement: Measurement) -> list[str]:
    details = measurement.details
    pods = details.get("pods") or {}
    told = [count(measurement.size, "VM") + (f" and {pods['wanted']} pods" if pods else "") + f" run on the {details.get('zone_nodes')} nodes of {details.get('zone')}"]
    told.append(f"Empty it by {_BY_TRIGGER.get(str(details.get('trigger')), '?')}")
    limits = details.get("limits") or {}
    told.append(f"At most {details.get('most_in_flight')} migrations were under way at once, of {limits.get('per_cluster')} allowed")
    if details.get("vms_off_seconds") is not None:
        told.append(f"The last VM is off its node after {details['vms_off_seconds']:.0f} s")
    told += _pod_lines(details)
    told += [f"{each['name']} is done after {each['done_seconds']:.0f} s" for each in details.get("nodes") or () if each["done_seconds"] is not None]
    told.append(f"The zone is done after {measurement.duration_seconds:.0f} s" if measurement.duration_seconds is not None else f"The zone is {why_not_done(measurement)}")
    return told


def tables(measurement: Measurement) -> list[Table]:
    return [
        Table("Nodes", (_ZONE, _DRAINS, _WAIT), "html", functools.partial(nodes_table, measurement)),
        Table("The worst ten VMs", (_MOVED, _FAILURES, _OFF), "html", functools.partial(worst_table, measurement, "on another node")),
        Table(f"All {measurement.size} records", (_MOVED,), "csv", functools.partial(csv_text, measurement.records)),
    ]


def plan(run: Run) -> Plan:
    from pytest_vmscale.fleets import plan_fleet
    from pytest_vmscale.plan import fleet_lines
    from pytest_vmscale.rights import IDLE_PODS, NODES_AND_POOLS, START, ZONES, fleet_rights, rights, route_rights
    from pytest_vmscale.rights import LIVE_MIGRATION as LIMITS
    from pytest_vmscale.slo.migration import deadlines_seconds, pods_of, vmim_mix

    settings = run.settings
    mix, trigger, pods = vmim_mix(settings), settings.migration_trigger, pods_of(settings)
    create = list(fleet_lines(settings, plan_fleet(settings, "migration", settings.largest, mix)))
    if pods:
        create.append(f"{pods} idle pods in Deployments of 100")
    change = ["each node outside the zone: the label vmscale.io/closed, while the fleet starts"]
    if trigger == "machineconfig":
        if settings.site.zones:
            change.append(f"the site's zones are used: {', '.join(settings.site.zones)}; the nodes of the first are drained and reboot")
        else:
            change.append(f"the workers: divided into {settings.zones} zones, a MachineConfigPool each; the first zone's nodes are drained and reboot, twice")
        create.append("a MachineConfig for the first zone's pool")
    elif trigger == "drain":
        change.append("the nodes of the first zone: cordoned and drained")
    change.append(
        f"HyperConverged: parallelMigrationsPerCluster {settings.parallel_migrations}, parallelOutboundMigrationsPerNode {settings.outbound_migrations}; virt-api's replicas"
    )
    change.append("and put all of it back at the end")
    longest = max(deadlines_seconds(settings, run.profile, run.tolerance_percent))
    told = (
        f"the first zone emptied by {_BY_TRIGGER[trigger]}: each VM's eviction, migration or restart, the nodes, the pods; given up after {longest:.0f} s",
    )
    needs = (
        *fleet_rights(settings, settings.mix(settings.largest, mix)),
        *START,
        *route_rights(settings),
        *(ZONES if trigger == "machineconfig" else NODES_AND_POOLS),
        *LIMITS,
        *rights("", "nodes", "get patch"),
        *rights("policy", "poddisruptionbudgets", "list"),
        *rights("config.openshift.io", "clusterversions", "list"),
        *(IDLE_PODS if pods else ()),
        *(rights("", "pods/eviction", "create") if trigger == "drain" else ()),
        *(rights("kubevirt.io", "virtualmachineinstancemigrations", "create") if trigger == "vmim" else ()),
    )
    return Plan(tuple(create), tuple(change), told, needs)


# The terminal.


def _one(measurement: Measurement, subtitle: str) -> list[str]:
    details, seconds = measurement.details, measurement.duration_seconds
    moved = measurement.size - len(measurement.failed)
    heading = f"Migration of {count(measurement.size, 'VM')}: "
    heading += f"{moved} left, not done" if seconds is None else f"done in {seconds / 60:.1f} min ({seconds:.0f} s)"
    found = heading_lines(measurement, heading, subtitle)
    by = _BY_TRIGGER.get(str(details.get("trigger")), "?")
    found += wrap(f"The {count(int(details.get('zone_nodes') or 0), 'node')} of {details.get('zone')} are emptied by {by}.", "")
    if seconds is None and (why := why_not_done(measurement)):
        found += wrap(f"The zone is {why}.", "", "    ")
    if details.get("vms_off_seconds") is not None:
        said = f"The last VM was off its node after {details['vms_off_seconds'] / 60:.1f} min"
        if details.get("node_wait_seconds") is not None and details.get("drain_seconds") is not None:
            rounds = math.ceil(details["zone_nodes"] / details["at_once"])
            said += f". Drains took {details['drain_seconds'] / 60:.1f} min of the whole, and waiting for nodes {details['node_wait_seconds'] / 60:.1f} min"
            said += f" ({count(rounds, 'round')} of {details['at_once']} nodes at most)"
        found += wrap(said + ".", "")
    found += [line for each in _pod_lines(details) for line in wrap(f"{each}.", "")]
    limits = details.get("limits") or {}
    found += wrap(
        f"At once at most {details.get('most_in_flight')} migrations (allowed {limits.get('per_cluster')}), {details.get('most_from_one_node')} from one node "
        f"(allowed {limits.get('per_node')}); {count(details.get('failed_migrations') or 0, 'migration')} failed, "
        f"{count(details.get('moved_again') or 0, 'VM')} moved more than once.",
        "",
    )
    found += ["", f"{'Seconds of cluster time':<36}" + heads()]
    for os in _systems(measurement):
        found += _sample_lines(measurement, os)
    found += gap_lines(measurement)
    if measurement.failed:
        found += ["", *failed_lines(measurement.failed, "did not leave as they should" if len(measurement.failed) > 1 else "did not leave as it should")]
    failed = Counter(f"{each.namespace}/{each.vm_name}: {failure}" for each in migration_records(measurement) for failure in each.failures)
    if failed:
        found += ["", f"{count(failed.total(), 'migration')} failed:"]
        for told, times in list(failed.items())[:_NAMED]:
            found += wrap(told + (f" ({times} times)" if times > 1 else ""), "  ", "      ")
        found += [f"  and {len(failed) - _NAMED} more VMs or reasons"] if len(failed) > _NAMED else []
    return found


def _sample_lines(measurement: Measurement, os: str) -> list[str]:
    records = [each for each in migration_records(measurement) if each.os == os]
    moves_by, values, missing = averages(measurement, os)
    if moves_by == LIVE_MIGRATION:
        rows = [("queued", "migration_queued_seconds"), ("target made ready", "migration_prepared_seconds"), ("live migration", "migration_duration_seconds")]
    else:
        rows = [("Scheduling to Running", "restart_start_seconds"), ("eviction to Running", "restart_duration_seconds")]
    rows.append(("asked to leave, to on another node", "time_to_moved_seconds"))
    mean = f"{sum(values) / len(values):.1f} s" if values and not missing else f"none, {missing} have no time"
    found = [f"{count(len(records), os + ' VM')}, {'live migrated' if moves_by == LIVE_MIGRATION else 'restarted'}, on average {mean}"]
    for name, metric in rows:
        sample = Sample(each.value(metric) for each in records)
        if sample.measured:
            found.append(sample_line(f"  {name}", sample, None))
    return found


def _pod_lines(details: Mapping[str, Any]) -> list[str]:
    pods = details.get("pods")
    if not pods:
        return []
    said = f"Pods: {pods['evicted']} evicted, {pods['back']} of them ready again elsewhere"
    if pods["away_mean_seconds"] is not None:
        said += f", after {pods['away_mean_seconds']:.1f} s on average and {pods['away_max_seconds']:.1f} s at most"
    return [said + ("" if pods["ready"] >= pods["wanted"] else f"; {pods['wanted'] - pods['ready']} of {pods['wanted']} are not ready at the end")]


def _systems(measurement: Measurement) -> list[str]:
    return sorted({each.os for each in measurement.records})


# Charts.


def _minutes(axes: Any) -> None:
    axes.set_xlabel("Minutes from the trigger (cluster time)")
    axes.set_xlim(left=0)


def _marks(axes: Any, details: Mapping[str, Any], zone_seconds: float | None) -> None:
    if details.get("vms_off_seconds") is not None:
        axes.axvline(details["vms_off_seconds"] / 60, color=BLUE, linestyle=":", linewidth=1.2, label="last VM off")
    if zone_seconds is not None:
        axes.axvline(zone_seconds / 60, color=GREY, linestyle="--", linewidth=1.2, label="zone done")


def node_gantt(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """A row a node: drained, down, up, Ready; and what never ended, until the measurement did."""
    details = measurement.details
    nodes = sorted((each for each in details.get("nodes") or () if each["cordoned_seconds"] is not None), key=lambda each: (each["cordoned_seconds"], each["name"]))
    if not nodes:
        return None
    figure, axes = new_figure(f"Nodes of {details.get('zone')}, {measurement.scope}", subtitle)
    figure.set_size_inches(9.0, max(3.0, 1.8 + 0.2 * len(nodes)))
    now = float(details.get("measured_seconds") or 0.0)
    used = set()
    for row, node in enumerate(nodes):
        for first, last, colour, label in _NODE_PHASES:
            start = node[first]
            if start is None:
                continue
            end = next((node[name] for _, name, *_ in _NODE_PHASES if node[name] is not None and node[name] >= start and name != first), None)
            end = node[last] if node[last] is not None else end
            axes.broken_barh([(start / 60, ((now if end is None else end) - start) / 60)], (row - 0.4, 0.8), facecolors=RED if end is None else colour)
            used.add("it did not get further" if end is None else label)
            if end is None:
                break
    for _, _, colour, label in _NODE_PHASES:
        if label in used:
            axes.bar([0], [0], color=colour, label=label)
    if "it did not get further" in used:
        axes.bar([0], [0], color=RED, label="it did not get further")
    _marks(axes, details, measurement.duration_seconds)
    axes.set_yticks(range(len(nodes)), [each["name"] for each in nodes], fontsize=7)
    axes.set_ylim(len(nodes) - 0.4, -0.6)
    _minutes(axes)
    axes.legend(fontsize=8, framealpha=0.9, loc="upper center", bbox_to_anchor=(0.5, -0.13 if len(nodes) > 12 else -0.25), ncols=3)
    return figure


def in_flight(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """Migrations under way against what is allowed, and those that wait."""
    details = measurement.details
    curve = details.get("in_flight") or []
    if not curve:
        return None
    figure, (above, below) = new_figure(f"Live migrations under way, {measurement.scope}", subtitle, rows=2)
    at = [each[0] / 60 for each in curve]
    above.step(at, [each[1] for each in curve], where="post", color=BLUE, linewidth=1.2, label="under way")
    limit = (details.get("limits") or {}).get("per_cluster")
    if limit:
        above.axhline(limit, color=RED, linestyle="--", linewidth=1.2, label=f"allowed on the cluster: {limit}")
    above.set_ylabel("under way")
    above.set_ylim(bottom=0)
    below.step(at, [each[2] for each in curve], where="post", color=ORANGE, linewidth=1.2, label="wait for a slot")
    below.set_ylabel("waiting")
    below.set_ylim(bottom=0)
    _marks(above, details, None)
    _minutes(below)
    for axes in (above, below):
        legend_beside(axes)
    return figure


def distributions(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """How long each VM took, by OS: live migrations above, restarts below, which are another thing."""
    by_kind: dict[str, list[tuple[str, list[float]]]] = {}
    for os in _systems(measurement):
        moves_by, values, _ = averages(measurement, os)
        if values:
            by_kind.setdefault(moves_by, []).append((os, sorted(values)))
    if not by_kind:
        return None
    figure, panels = new_figure(f"Seconds by OS, {measurement.scope}", subtitle, rows=len(by_kind))
    kinds = sorted(by_kind)
    colours = dict(zip(_systems(measurement), _COLOURS, strict=False))
    for axes, kind in zip([panels] if len(kinds) == 1 else panels, kinds, strict=True):
        for os, values in by_kind[kind]:
            mean = sum(values) / len(values)
            cumulative(axes, values, color=colours.get(os, GREY), linewidth=2, label=f"{os}: {len(values)} VMs, mean {mean:.1f} s")
            axes.axvline(mean, color=colours.get(os, GREY), linestyle=":", linewidth=1)
        axes.set_ylabel("% of VMs")
        axes.set_ylim(0, 102)
        axes.set_title("live migration: from the source's start to the end" if kind == LIVE_MIGRATION else "restart: from the new VMI's Scheduling to Running", fontsize=9, loc="left")
        legend(axes, "lower right")
    last = panels if len(kinds) == 1 else panels[-1]
    last.set_xlabel("seconds (cluster time)")
    last.set_xlim(left=0)
    return figure


def leaving(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """VMs that have left their node, and pods that are Ready, over time."""
    details = measurement.details
    moved = sorted(each.requested_at + each.time_to_moved_seconds for each in migration_records(measurement) if each.time_to_moved_seconds is not None)
    if not moved:
        return None
    pods = details.get("pods")
    figure, panels = new_figure(f"VMs and pods, {measurement.scope}", subtitle, rows=2 if pods else 1)
    above = panels[0] if pods else panels
    above.step([0.0, *(at / 60 for at in moved)], range(len(moved) + 1), where="post", color=BLUE, linewidth=1.8, label="VMs that left their node")
    above.axhline(measurement.size, color=GREY, linewidth=1, linestyle=":", label=f"all {measurement.size}")
    above.set_ylabel("VMs")
    above.set_ylim(bottom=0)
    _marks(above, details, measurement.duration_seconds)
    legend(above, "lower right")
    if pods:
        below = panels[1]
        curve = pods["curve"]
        end = float(details.get("measured_seconds") or curve[-1][0])
        below.step([*(each[0] / 60 for each in curve), end / 60], [*(pods["wanted"] - each[1] for each in curve), pods["wanted"] - curve[-1][1]],
                   where="post", color=ORANGE, linewidth=1.2, label="pods that are not Ready")  # fmt: skip
        below.set_ylabel("pods")
        below.set_ylim(bottom=0)
        legend(below, "upper right")
        _minutes(below)
    else:
        _minutes(above)
    return figure


# Tables.


def nodes_table(measurement: Measurement) -> str:
    """A row a node, with the seconds of each step."""
    columns = ("cordoned", "drained", "down", "rebooted", "ready", "uncordoned", "done")
    rows = []
    for each in measurement.details.get("nodes") or ():
        times = ["" if each[f"{name}_seconds"] is None else f"{each[f'{name}_seconds']:.1f}" for name in columns]
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in (each["name"], *times, each["trouble"]))
        rows.append(f"<tr{' class=lost' if each['trouble'] else ''}>{cells}</tr>")
    head = "".join(f"<th>{each}</th>" for each in ("node", *(f"{name} (s)" for name in columns), "trouble"))
    return page("Nodes", f"<table><tr>{head}</tr>{''.join(rows)}</table>")
