"""How a deployment is told: lines for the terminal, charts, and what Allure shows."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.report.charts import BLUE, GREEN, GREY, ORANGE, RED, SKY, legend, new_figure
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.report.tables import reached, worst_table
from pytest_vmscale.report.terminal import count, failed_lines, heading_lines, heads, sample_line, wrap
from pytest_vmscale.scenarios import Chart, Plan, Table
from pytest_vmscale.slo.deployment import best_text, deadline_seconds, deploy_records, fallback, points, ranking, strategies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pytest_vmscale.run import Run

_METRICS = (
    ("DataVolume created", "time_to_data_volume_seconds"),
    ("disk cloned", "clone_duration_seconds"),
    ("disk cloned, by a poll every 2 s", "polled_clone_duration_seconds"),
    ("VMI running", "time_to_vmi_running_seconds"),
    ("up", "time_to_ssh_seconds"),
)
_BULKS_SHOWN = 20
_EVERY, _DURATION, _BULK = "deployment.every_vm_deployed", "deployment.duration", "deployment.bulk_duration"
_STRATEGY = "deployment.clone_strategy"


def lines(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    return _one(measurements[0], subtitle) if len(measurements) == 1 else _several(measurements, subtitle)


def charts(measurements: Sequence[Measurement], objectives: Sequence[Objective], subtitle: str) -> list[Chart]:
    found = []
    percentiles = tuple(each.id for each in objectives if each.id.startswith("deployment.clone_time_p"))
    for each in measurements:
        stem = "deployment" if len(measurements) == 1 else f"deployment-{each.parameters.get('point', each.size)}"
        found += [
            Chart(
                f"{stem}_completion",
                "Disks cloned over time",
                each.scope,
                (_EVERY, _DURATION, _BULK),
                functools.partial(completion, each, objectives, subtitle),
            ),
            Chart(
                f"{stem}_clone-times",
                "Clone time of each VM",
                each.scope,
                tuple(dict.fromkeys((_EVERY, _STRATEGY, *percentiles))),
                functools.partial(clone_times, each, subtitle),
            ),
        ]
    for vms in sorted({each.size for each in measurements}):
        taken = [each for each in measurements if each.size == vms]
        draw = functools.partial(bulk_sizes, taken, subtitle)
        found.append(Chart(f"deployment-{vms}_bulk-sizes", "Duration by bulk size", f"{vms} VMs", ("deployment.best_bulk",), draw))
    return found


def steps(measurement: Measurement) -> list[str]:
    size, records = measurement.size, deploy_records(measurement)
    told = [f"Create {size} VMs{_in_bulks(measurement)}, each with a disk cloned from the golden image"]
    for bulk in measurement.details.get("bulks", ())[:_BULKS_SHOWN]:
        wall = "not done" if bulk["wall_seconds"] is None else f"{bulk['wall_seconds']:.1f} s"
        told.append(f"Bulk {bulk['bulk']}: {bulk['cloned']} of {bulk['vms']} cloned, {wall}")
    cloned = [value for record in records if (value := record.value("clone_duration_seconds")) is not None]
    told.append(reached("disks are cloned", cloned, size))
    told.append(f"Look at how they were cloned: {_strategies(measurement)}")
    left = measurement.details.get("left_behind")
    told.append(
        "Remove them" + ("" if left is None else ": all of their storage is gone" if not left else f": {count(len(left), 'object')} left")
    )
    return told


def tables(measurement: Measurement) -> list[Table]:
    return [
        Table("The worst ten VMs", (_EVERY, _DURATION), "html", functools.partial(worst_table, measurement, "disk cloned")),
        Table(f"All {measurement.size} records", (_EVERY,), "csv", functools.partial(csv_text, measurement.records)),
    ]


def plan(run: Run) -> Plan:
    from pytest_vmscale.fleets import plan_fleet
    from pytest_vmscale.plan import fleet_lines
    from pytest_vmscale.rights import EDITS, fleet_rights, rights, route_rights

    settings = run.settings
    create = [line for vms in settings.vms for line in fleet_lines(settings, plan_fleet(settings, "deploy-1", vms))]
    change = []
    needs = [
        *fleet_rights(settings, settings.mix(settings.largest)),
        *(route_rights(settings) if settings.deploy_until == "ssh" else ()),
        *rights("", "persistentvolumes", "list"),
        *rights("snapshot.storage.k8s.io", "volumesnapshots volumesnapshotcontents", "list"),
    ]
    if settings.clone_strategy != "profile":
        needs += [*EDITS, *rights("cdi.kubevirt.io", "storageprofiles", "get patch"), *rights("cdi.kubevirt.io", "cdis", "list")]
        if settings.site.storage.storage_class is None:
            needs += rights("storage.k8s.io", "storageclasses", "list")
        storage_class = settings.site.storage.storage_class or "of the default storage class"
        change.append(f"StorageProfile {storage_class}: spec.cloneStrategy becomes {settings.clone_strategy}, and is put back afterwards")
    told = [
        f"deployment of {point.named}: first create request to the last VM {settings.deploy_until}; each VM's clone time; given up after "
        f"{deadline_seconds(settings, run.profile, point.vms):.0f} s; then that everything of it is removed"
        for point in points(settings)
    ]
    return Plan(tuple(dict.fromkeys(create)), tuple(change), tuple(told), tuple(needs))


# The terminal.


def _one(measurement: Measurement, subtitle: str) -> list[str]:
    heading = f"Deployment: {measurement.size - len(measurement.failed)} of {measurement.size} VMs{_in_bulks(measurement)}"
    if measurement.duration_seconds is not None:
        heading += f", the last after {measurement.duration_seconds:.1f} s"
    lines = heading_lines(measurement, heading, subtitle)
    if not measurement.size:
        return [*lines, "No VM was measured."]
    lines += wrap(f"Cloned by {_strategies(measurement)}; asked for: {measurement.parameters.get('clone_strategy', 'profile')}.", "")
    lines.append(f"{'Seconds from the create request until':<36}{heads()}")
    for name, metric in _METRICS:
        sample = measurement.sample(metric)
        if sample.measured:
            lines.append(sample_line(f"  {name}", sample, measurement.deadline_seconds))
    size = measurement.parameters.get("bulk_size")
    if size is not None and size < measurement.size:
        lines += ["", *_bulk_lines(measurement.details), ""]
    lines += [*_quality_lines(measurement), *_left_lines(measurement), *_lost_lines(measurement)]
    return lines


def _several(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
    """A row a deployment, and the fastest bulk size of each number of VMs."""
    lines = [f"Deployment: {len(measurements)} points" + (f" ({subtitle})" if subtitle else "")]
    lines.append(
        f"{'VMs':>5}  {'in bulks of':<12}{'run':>4}{'cloned':>7}{'duration':>10}{'pauses':>8}  {'clone time:':<11}" + _short_heads()
    )
    for each in measurements:
        size = each.parameters.get("bulk_size")
        duration = "-" if each.duration_seconds is None else f"{each.duration_seconds:.1f}"
        cells = f"{each.size:>5}  {'all at once' if size is None else size:<12}{each.parameters.get('run', 1):>4}{each.size - len(each.failed):>7}"
        sample = each.sample("clone_duration_seconds")
        values = [sample.percentile(percent) for percent in (50, 90, 99, 100)] if sample.size else []
        shown = "".join(f"{f'>{each.deadline_seconds:g}' if value is None else f'{value:.1f}':>9}" for value in values)
        lines.append(f"{cells}{duration:>10}{each.details.get('pauses_seconds') or 0.0:>8.1f}  {'':<11}{shown}")
    for vms in sorted({each.size for each in measurements}):
        ranked = ranking([each for each in measurements if each.size == vms])
        if len(ranked) > 1:
            lines += ["", *wrap(f"Fastest way to {vms} VMs: {best_text(ranked)}.", "", "    ")]
    for each in measurements:
        if not each.complete:
            lines += wrap(f"{each.scope}: cut short: {each.incomplete_reason or 'no reason given'}", "  ")
        if each.failed:
            lines += ["", f"Of {each.scope}:", *_lost_lines(each)]
        lines += [f"{each.scope}: {line}" for line in _left_lines(each)]
    used = {_strategies(each) for each in measurements}
    lines += wrap(f"Cloned by {'; or '.join(sorted(used))}.", "")
    return lines


def _short_heads() -> str:
    return "".join(f"{head:>9}" for head in ("p50", "p90", "p99", "max"))


def _bulk_lines(details: Mapping[str, Any]) -> list[str]:
    bulks = details.get("bulks") or []
    lines = [f"{'Bulk':>6}{'VMs':>7}{'cloned':>8}{'wall':>10}{'pause after':>13}"]
    for bulk in bulks[:_BULKS_SHOWN]:
        wall, pause = (f"{bulk[key]:.1f}" if bulk[key] is not None else "-" for key in ("wall_seconds", "pause_after_seconds"))
        lines.append(f"{bulk['bulk']:>6}{bulk['vms']:>7}{bulk['cloned']:>8}{wall:>10}{pause:>13}")
    if len(bulks) > _BULKS_SHOWN:
        lines.append(f"   and {len(bulks) - _BULKS_SHOWN} more")
    lines.append(
        f"{'in all':>6}{sum(b['vms'] for b in bulks):>7}{sum(b['cloned'] for b in bulks):>8}"
        + f"{details['bulk_seconds']:>10.1f}{details['pauses_seconds']:>13.1f}"
    )
    return lines


def _quality_lines(measurement: Measurement) -> list[str]:
    """How far the figures can be trusted."""
    said = []
    retried = sum(bool(record.request_retries) for record in measurement.records)
    if retried:
        said.append(f"{count(retried, 'create request')} had to be retried.")
    if measurement.gaps:
        said.append(f"The watch was blind for {measurement.blind_seconds:.1f} s in all ({count(len(measurement.gaps), 'gap')}).")
    late = sum(any(moment.upper_bound for moment in record.timeline) for record in measurement.records)
    if late:
        said.append(f"Of {count(late, 'VM')} a phase was only learnt from a relist: it was reached then, or before.")
    if skew := measurement.details.get("object_skew_seconds"):
        said.append(f"The objects' own timestamps differ from arrivals by {skew['min']:+.1f} to {skew['max']:+.1f} s.")
    return wrap(" ".join(said), "") if said else []


def _left_lines(measurement: Measurement) -> list[str]:
    left = measurement.details.get("left_behind")
    if not left:
        return []
    shown = [line for each in left[:10] for line in wrap(each, "  ", "      ")]
    return [f"{count(len(left), 'storage object')} left behind after everything was deleted:", *shown] + (
        [f"  and {len(left) - 10} more"] if len(left) > 10 else []
    )


def _lost_lines(measurement: Measurement) -> list[str]:
    """Those that stuck or failed by their phases, then each; those that were never asked for are only counted."""
    records = [record for record in deploy_records(measurement) if not record.succeeded]
    if not records:
        return []
    tried = [record for record in records if record.request_seconds is not None]
    phases = Counter(record.last_phase or "no DataVolume" for record in tried)
    told = [f"{number} in phase {phase}" for phase, number in phases.most_common()]
    if len(records) > len(tried):
        told.append(f"{len(records) - len(tried)} never asked for, because the bulks before were not done")
    return ["", *wrap(f"Lost: {', '.join(told)}.", "", "    "), *failed_lines(tried, "were asked for and lost")]


def _in_bulks(measurement: Measurement) -> str:
    size = measurement.parameters.get("bulk_size")
    return " all at once" if size is None else f" in bulks of {size}"


def _strategies(measurement: Measurement) -> str:
    used = strategies(measurement)
    told = ", ".join(f"{name} ({number})" for name, number in used.most_common()) or "nothing: no clone was completed"
    why = fallback(measurement)
    return f"{told}, because: {why}" if why else told


# Charts.


def completion(measurement: Measurement, objectives: Sequence[Objective] = (), subtitle: str = "") -> Figure | None:
    """How many VMs were asked for and cloned at each moment, with the bulks' boundaries. None without a VM."""
    records = deploy_records(measurement)
    asked = sorted(record.requested_at for record in records if record.timeline or record.succeeded)
    if not asked:
        return None
    figure, axes = new_figure(f"Disks cloned over time: {measurement.scope}", subtitle)
    cloned = sorted(record.requested_at + seconds for record in records if (seconds := record.value("clone_duration_seconds")) is not None)
    for label, times, colour, style in (("asked for", asked, GREY, ":"), ("cloned", cloned, BLUE, "-")):
        if times:
            axes.step([0.0, *times], range(len(times) + 1), where="post", color=colour, linestyle=style, linewidth=2, label=label)
    bulks = measurement.details.get("bulks") or []
    for number, bulk in enumerate(bulks[1:]):
        axes.axvline(bulk["requested_at_seconds"], color=ORANGE, linewidth=0.8, alpha=0.8, label="next bulk" if number == 0 else None)
    limit = next((each.limit for each in objectives if each.id == _DURATION and each.scope == measurement.scope), None)
    if limit is not None:
        axes.axvline(limit, color=RED, linewidth=1.5, label=f"limit {limit:.1f} s")
    if measurement.failed:
        axes.axhline(
            measurement.size,
            color=RED,
            linestyle=":",
            linewidth=1.2,
            label=f"to be: {measurement.size} ({len(measurement.failed)} never cloned)",
        )
    axes.set_xlabel("cluster seconds since the first create request")
    axes.set_ylabel("VMs")
    axes.set_xlim(left=0)
    axes.set_ylim(0, measurement.size * 1.05)
    legend(axes, "upper left")
    return figure


def clone_times(measurement: Measurement, subtitle: str = "") -> Figure | None:
    """Each VM's clone time against its place in the order of requests: a lock shows as a ramp, flattening as a step. None without one."""
    records = deploy_records(measurement)
    found = [(record.ordinal, seconds) for record in records if (seconds := record.value("clone_duration_seconds")) is not None]
    if not found:
        return None
    figure, axes = new_figure(f"Clone time of each VM: {measurement.scope}", subtitle)
    axes.plot(*zip(*found, strict=True), ".", color=BLUE, markersize=4, label="request until cloned")
    top = max(seconds for _, seconds in found)
    lost = [record.ordinal for record in records if not record.succeeded]
    if lost:
        axes.plot(lost, [top * 1.06] * len(lost), "x", color=RED, markersize=5, label=f"{len(lost)} never cloned")
    size = measurement.parameters.get("bulk_size")
    if size and size < measurement.size:
        for number, boundary in enumerate(range(size, measurement.size, size)):
            axes.axvline(boundary + 0.5, color=ORANGE, linewidth=0.8, alpha=0.8, label="next bulk" if number == 0 else None)
    median = measurement.sample("clone_duration_seconds").percentile(50)
    if median is not None:
        axes.axhline(median, color=SKY, linewidth=1.5, linestyle="--", label=f"median {median:.1f} s")
    axes.set_xlabel("VM, in the order of the requests")
    axes.set_ylabel("seconds from its create request until cloned")
    axes.set_xlim(0, measurement.size + 1)
    axes.set_ylim(0, top * 1.12)
    legend(axes)
    return figure


def bulk_sizes(measurements: Sequence[Measurement], subtitle: str = "") -> Figure | None:
    """The duration of each run over the size of its bulks, and their means. None below two sizes."""
    ranked = ranking(measurements)
    if len(ranked) < 2:
        return None
    vms = measurements[0].size
    figure, axes = new_figure(f"Duration by bulk size: {vms} VMs", subtitle)
    rows = sorted(ranked, key=lambda each: each.bulk_size or math.inf)
    places = list(range(len(rows)))
    colours = [GREEN if row is ranked[0] or row.bulk_size == ranked[0].bulk_size else SKY for row in rows]
    axes.bar(places, [row.mean_seconds for row in rows], color=colours, width=0.6, label="mean")
    runs = [(place, seconds) for place, row in zip(places, rows, strict=True) for seconds in row.seconds]
    if len(runs) > len(rows):
        axes.plot(*zip(*runs, strict=True), "o", color=GREY, markersize=4, label="a run")
    for place, row in zip(places, rows, strict=True):
        slower = f"\n+{row.slower.percent:.1f} %" if row.slower else "\nfastest"
        axes.annotate(
            f"{row.mean_seconds:.0f} s{slower}", (place, row.mean_seconds), (0, 4), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xticks(places, ["all at once" if row.bulk_size is None else str(row.bulk_size) for row in rows])
    axes.set_xlabel("VMs in a bulk")
    axes.set_ylabel("cluster seconds from the first request to the last clone")
    axes.set_ylim(0, max(max(row.seconds) for row in rows) * 1.18)
    if len(runs) > len(rows):
        legend(axes)
    return figure
