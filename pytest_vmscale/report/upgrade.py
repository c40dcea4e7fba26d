"""How an upgrade is told: lines for the terminal, charts, and what Allure shows."""

from __future__ import annotations

import csv
import functools
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.records import UpgradeRecord
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.report.tables import WORST, page
from pytest_vmscale.report.terminal import count, cut, each_alone, failed_lines, gap_lines, heading_lines, wrap
from pytest_vmscale.report.upgrade_charts import api_latency, in_order, io_latency, operator_gantt, progress_curve, run_level
from pytest_vmscale.scenarios import Chart, Plan, Table
from pytest_vmscale.slo.upgrade import not_reached, upgrade_records

if TYPE_CHECKING:
    from pytest_vmscale.run import Run

_REACHED, _DURATION, _VMS = "upgrade.version_reached", "upgrade.duration", "upgrade.no_vm_lost"
_OPERATORS, _OUTAGE, _DOWNTIME = "upgrade.operators_healthy", "upgrade.api_outage", "upgrade.vm_downtime"
_SHOWN = 10


def lines(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    return each_alone(measurements, subtitle, _one)


def charts(measurements: Sequence[Measurement], objectives: Sequence[Objective], subtitle: str) -> list[Chart]:
    found = []
    for each in measurements:
        stem = "upgrade" if len(measurements) == 1 else f"upgrade-{each.details.get('to')}"
        for name, title, where, draw in (
            ("operators", "Operators, by run level", (_OPERATORS, _REACHED), operator_gantt),
            ("progress", "Progress of the upgrade", (_DURATION, _REACHED), progress_curve),
            ("api", "The API meanwhile", (_OUTAGE,), api_latency),
            ("vms", "The VMs' I/O meanwhile", (_DOWNTIME, _VMS), io_latency),
        ):
            found.append(Chart(f"{stem}_{name}", title, each.scope, where, functools.partial(draw, each, subtitle)))
    return found


def steps(measurement: Measurement) -> list[str]:
    details, load = measurement.details, measurement.parameters.get("load_vms")
    told = [
        f"{measurement.size} VMs run"
        + (f", {load} of them with {measurement.parameters.get('load_iops_per_vm')} IOPS each" if load else "")
    ]
    if details.get("channel"):
        told.append(f"Set the channel to {details['channel']}")
    told.append(f"Ask for {details.get('to')} by {details.get('asked_by') or 'nothing: it was not asked for'}")
    if details.get("started_seconds") is not None:
        told.append(f"ClusterVersion works towards it after {details['started_seconds']:.1f} s")
    for each in in_order(details):
        if each["updated_seconds"] is not None:
            told.append(f"{each['name']} is at {each['version']} after {each['updated_seconds']:.0f} s")
    if details.get("completed_seconds") is not None:
        told.append(f"ClusterVersion is Completed after {details['completed_seconds']:.1f} s")
    else:
        told.append(f"ClusterVersion is not Completed: {not_reached(measurement)}")
    told += _pool_lines(details)
    return told


def tables(measurement: Measurement) -> list[Table]:
    return [
        Table("Operators", (_OPERATORS, _REACHED), "html", functools.partial(operators_table, measurement)),
        Table("API outages", (_OUTAGE,), "csv", functools.partial(_outages_csv, measurement)),
        Table("The worst ten VMs", (_VMS, _DOWNTIME), "html", functools.partial(worst_vms, measurement)),
        Table(f"All {measurement.size} records", (_VMS,), "csv", functools.partial(csv_text, measurement.records)),
    ]


def plan(run: Run) -> Plan:
    from pytest_vmscale.fleets import plan_fleet
    from pytest_vmscale.plan import fleet_lines
    from pytest_vmscale.rights import EDITS, NODES_AND_POOLS, START, fleet_rights, rights, route_rights
    from pytest_vmscale.slo.upgrade import deadlines_seconds

    settings = run.settings
    mix = "rhel=50%,windows=17%,fedora=33%"
    create = fleet_lines(settings, plan_fleet(settings, "upgrade", settings.largest, mix))
    change = []
    for hop in settings.upgrades:
        by = f" to the image {hop.image}" if hop.image else ""
        channel = f" on channel {hop.channel}" if hop.channel else ""
        change.append(f"ClusterVersion version: upgraded to {hop.version}{by}{channel}; no upgrade can be undone")
    longest = max(deadlines_seconds(settings, run.profile, run.tolerance_percent))
    loaded = round(settings.largest * settings.upgrade_load_percent / 100)
    told = [
        *([f"fio all the while in {count(loaded, 'VM')}: 4 KiB, 100 IOPS each"] if loaded else []),
        *(
            f"upgrade to {hop.version}: ClusterVersion's start to its completion; the API and the VMs meanwhile; given up after {longest:.0f} s at most"
            for hop in settings.upgrades
        ),
    ]
    needs = (
        *fleet_rights(settings, settings.mix(settings.largest, mix)),
        *START,
        *route_rights(settings),
        *NODES_AND_POOLS,
        *rights("config.openshift.io", "clusterversions", "get list patch watch"),
        *rights("config.openshift.io", "clusteroperators", "list watch"),
        *EDITS,  # the channel
        *rights("", "configmaps", "create get patch"),  # acknowledgements are read; what the write probe writes to is the fleet's
    )
    return Plan(tuple(create), tuple(change), tuple(told), needs)


# The terminal.


def _one(measurement: Measurement, subtitle: str) -> list[str]:
    details = measurement.details
    heading = f"Upgrade ({details.get('kind', '')}) from {details.get('from')} to {details.get('to')}: "
    seconds = measurement.duration_seconds
    heading += f"{details.get('state')}, not complete" if seconds is None else f"complete in {seconds / 60:.1f} min ({seconds:.0f} s)"
    found = heading_lines(measurement, heading, subtitle)
    said = f"Asked for by {details.get('asked_by')}" + (f", on channel {details['channel']}" if details.get("channel") else "") + "."
    if details.get("completed_seconds") is not None:
        late = ", at the latest" if details.get("seen_late") else ""
        said += f" Completed {details['completed_seconds']:.1f} s after the request, as this run saw it{late}."
    found += wrap(said, "")
    if seconds is None:
        found += wrap(f"Not reached: {not_reached(measurement)}.", "", "    ")
    found += _operator_lines(details)
    found += [line for each in _pool_lines(details) for line in wrap(f"{each}.", "", "    ")]
    found += _api_lines(details)
    found += _vm_lines(measurement)
    found += gap_lines(measurement)
    if measurement.failed:
        found += ["", *failed_lines(measurement.failed, "were lost" if len(measurement.failed) > 1 else "was lost")]
    return found


def _operator_lines(details: Mapping[str, Any]) -> list[str]:
    operators = details.get("operators") or []
    updated = [each for each in operators if each["updated_seconds"] is not None]
    said = f"{len(updated)} of {count(len(operators), 'cluster operator')} changed their version."
    for what, key in (("unavailable", "unavailable"), ("degraded", "degraded")):
        troubled = [f"{each['name']} for {_open_seconds(each[key], details):.0f} s" for each in operators if each[key]]
        if troubled:
            said += f" {what.capitalize()} meanwhile: {', '.join(troubled[:_SHOWN])}."
    found = wrap(said, "")
    failing: dict[str, list[list[Any]]] = {}
    for window in details.get("failing") or ():
        failing.setdefault(window[2], []).append(window)
    for what, windows in list(failing.items())[:_SHOWN]:
        seconds = _open_seconds([(start, end) for start, end, _ in windows], details)
        found += wrap(f"ClusterVersion was Failing {_times(len(windows))}, for {seconds:.0f} s: {cut(what, 160)}", "", "    ")
    return found


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _open_seconds(windows: Sequence[Sequence[float | None]], details: Mapping[str, Any]) -> float:
    now = float(details.get("measured_seconds") or 0.0)
    return sum((now if end is None else end) - (start or 0.0) for start, end in windows)


def _pool_lines(details: Mapping[str, Any]) -> list[str]:
    told = []
    for pool in details.get("pools") or ():
        if pool["updating_seconds"] is None:
            told.append(f"Pool {pool['name']}: its {count(pool['machines'], 'node')} had nothing to do")
        elif pool["is_updated"] and pool["updated_seconds"] is not None:
            took = pool["updated_seconds"] - pool["updating_seconds"]
            told.append(
                f"Pool {pool['name']}: all {pool['machines']} nodes updated in {took / 60:.1f} min, after {pool['updated_seconds'] / 60:.1f} min"
            )
        else:
            trouble = f" ({pool['trouble']})" if pool["trouble"] else ""
            told.append(f"Pool {pool['name']}: {pool['updated']} of {pool['machines']} nodes updated when the measurement ended{trouble}")
    return told


def _api_lines(details: Mapping[str, Any]) -> list[str]:
    found = []
    for name, each in (details.get("api") or {}).items():
        longest = each["longest_outage_seconds"]
        figures = ", ".join(f"{key} {_milliseconds(each[f'{key}_seconds'])}" for key in ("p50", "p90", "p99", "max"))
        outage = "never answered" if longest is None else f"longest outage {longest:.1f} s"
        found += wrap(f"API {name}: {each['failed']} of {each['probes']} requests failed, {outage}; {figures}.", "", "    ")
    return found


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _vm_lines(measurement: Measurement) -> list[str]:
    details, records = measurement.details, upgrade_records(measurement)
    down = [each for each in records if each.ssh_downtime_seconds]
    said = f"VMs: {measurement.size - len(measurement.failed)} of {measurement.size} kept"
    said += f", {details.get('vms', {}).get('migrated', 0)} migrated, {details.get('vms', {}).get('restarted', 0)} restarted"
    said += f"; {len(down)} did not answer for a while"
    if down:
        said += f", the longest for {max(each.ssh_downtime_seconds or 0.0 for each in down):.1f} s"
    said += f" (each was asked every {details.get('ssh_interval_seconds', 0.0):.0f} s)."
    found = wrap(said, "")
    windows = details.get("io") or []
    before = [each for each in windows if each.get("baseline")]
    meanwhile = [each for each in windows if not each.get("baseline")]
    if before and meanwhile:
        stalls = [each.io_longest_stall_seconds for each in records if each.io_longest_stall_seconds is not None]
        base, worst = before[0]["mean_seconds"], max(meanwhile, key=lambda each: float(each["mean_seconds"]))
        found += wrap(
            f"I/O of {before[0]['vms']} VMs: mean latency {base * 1e6:.0f} us before, {worst['mean_seconds'] * 1e6:.0f} us in the worst of "
            f"{count(len(meanwhile), 'window')} ({(worst['mean_seconds'] / base - 1) * 100:+.1f} %)"
            + (f"; the slowest I/O took {_milliseconds(max(stalls))}." if stalls else "."),
            "",
        )
    errors = [each for each in records if each.io_error]
    if errors:
        found += wrap(f"fio broke in {count(len(errors), 'VM')}: {errors[0].vm_name}: {errors[0].io_error}", "")
    return found


# Tables.


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{html.escape(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def worst_vms(measurement: Measurement) -> str:
    """Those that were lost, then those that did not answer for the longest."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    def row(record: UpgradeRecord) -> tuple[object, ...]:
        node = record.node if record.node == record.node_before else f"{record.node_before}, then {record.node}"
        down = f"{seconds(record.ssh_downtime_seconds)} (at most {seconds(record.ssh_downtime_most_seconds)})"
        stall = seconds(record.io_longest_stall_seconds)
        why = "; ".join(filter(None, (record.error, record.io_error)))
        return f"{record.namespace}/{record.vm_name}", record.os, node, record.status, record.migrations, record.restarts, down, stall, why

    worst = sorted(upgrade_records(measurement), key=lambda each: (each.succeeded, -(each.ssh_downtime_seconds or 0.0)))[:WORST]
    heads = ("VM", "system", "node", "status", "migrations", "restarts", "longest without SSH (s)", "longest I/O stall (s)", "error")
    return page("Worst VMs", _table(heads, [row(each) for each in worst]))


def operators_table(measurement: Measurement) -> str:
    details = measurement.details
    rows = []
    for each in in_order(details):
        updated = "-" if each["updated_seconds"] is None else f"{each['updated_seconds']:.0f}"
        windows = (f"{_open_seconds(each[key], details):.0f}" for key in ("progressing", "unavailable", "degraded"))
        rows.append((run_level(each["name"]), each["name"], each["before"], each["version"], updated, *windows, each["said"]))
    heads = ("run level", "operator", "from", "to", "updated after (s)", "progressing (s)", "unavailable (s)", "degraded (s)", "last said")
    return page("Operators", _table(heads, rows))


def _outages_csv(measurement: Measurement) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("request", "start_seconds", "end_seconds", "seconds", "reason"))
    for name, each in (measurement.details.get("api") or {}).items():
        for start, end, reason in each["outages"]:
            writer.writerow((name, f"{start:.1f}", f"{end:.1f}", f"{end - start:.1f}", reason))
    return text.getvalue()
