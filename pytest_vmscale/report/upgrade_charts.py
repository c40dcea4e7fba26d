"""An upgrade's charts: its operators by run level, the manifests applied, the API and the VMs' I/O meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement
from pytest_vmscale.report.charts import BLUE, GREEN, GREY, ORANGE, RED, SKY, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Where the payloads of 4.9 and 4.10 have each ClusterOperator: their manifests begin with 0000_LEVEL_. The API does not tell.
RUN_LEVELS = {
    10: ("config-operator",),
    12: ("etcd",),
    20: ("kube-apiserver",),
    25: ("kube-controller-manager", "kube-scheduler"),
    26: ("cloud-controller-manager",),
    30: ("machine-api", "openshift-apiserver"),
    31: ("baremetal",),
    40: ("kube-storage-version-migrator",),
    70: ("dns", "network"),
    80: ("machine-config",),
}
OTHER_LEVEL = 50


def run_level(operator: str) -> int:
    return next((level for level, names in RUN_LEVELS.items() if operator in names), OTHER_LEVEL)


def in_order(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The operators as the payload has them; of one run level in the order in which they were done."""
    return sorted(details.get("operators") or (), key=lambda each: (run_level(each["name"]), each["updated_seconds"] or 1e12, each["name"]))


def _minutes(axes: Any) -> None:
    axes.set_xlabel("Minutes from the request (cluster time)")


def _end_line(axes: Any, details: Mapping[str, Any]) -> None:
    if details.get("completed_seconds") is not None:
        axes.axvline(details["completed_seconds"] / 60, color=GREY, linestyle="--", linewidth=1, label="ClusterVersion Completed")


def operator_gantt(measurement: Measurement, subtitle: str) -> Figure | None:
    details = measurement.details
    operators = in_order(details)
    if not operators:
        return None
    figure, axes = new_figure(f"Cluster operators, {measurement.scope}", subtitle)
    figure.set_size_inches(9.0, 2.0 + 0.2 * len(operators))
    now = float(details.get("measured_seconds") or 0.0)
    for row, each in enumerate(operators):
        for key, colour, height in (("progressing", SKY, 0.7), ("degraded", ORANGE, 0.4), ("unavailable", RED, 0.4)):
            spans = [((start or 0.0) / 60, ((now if end is None else end) - (start or 0.0)) / 60) for start, end in each[key]]
            if spans:
                axes.broken_barh(spans, (row - height / 2, height), facecolors=colour)
        if each["updated_seconds"] is not None:
            axes.plot([each["updated_seconds"] / 60], [row], marker="D", markersize=3.5, color=BLUE, linestyle="none")
    for colour, label in ((SKY, "Progressing"), (ORANGE, "Degraded"), (RED, "not Available")):
        axes.bar([0], [0], color=colour, label=label)
    axes.plot([], [], marker="D", markersize=3.5, color=BLUE, linestyle="none", label="new version reported")
    _end_line(axes, details)
    axes.set_yticks(range(len(operators)), [f"{each['name']}  {run_level(each['name'])}" for each in operators], fontsize=7)
    axes.set_ylabel("ClusterOperator, run level")
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    _minutes(axes)
    legend(axes, "lower left")
    return figure


def progress_curve(measurement: Measurement, subtitle: str) -> Figure | None:
    details = measurement.details
    curve = details.get("curve") or []
    if not curve:
        return None
    figure, axes = new_figure(f"Manifests applied, {measurement.scope}", subtitle)
    axes.step([each[0] / 60 for each in curve], [each[1] for each in curve], where="post", color=BLUE, label="done, as ClusterVersion says")
    axes.axhline(curve[-1][2], color=GREY, linewidth=1, linestyle=":", label=f"all {curve[-1][2]}")
    now = float(details.get("measured_seconds") or 0.0)
    for index, (start, end, _) in enumerate(details.get("failing") or ()):
        axes.axvspan(start / 60, (now if end is None else end) / 60, color=ORANGE, alpha=0.3, label="" if index else "Failing=True")
    _end_line(axes, details)
    axes.set_ylabel("manifests")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _minutes(axes)
    legend(axes, "lower right")
    return figure


def api_latency(measurement: Measurement, subtitle: str) -> Figure | None:
    api = measurement.details.get("api") or {}
    if not any(each["curve"] for each in api.values()):
        return None
    figure, axes = new_figure(f"API requests meanwhile, {measurement.scope}", subtitle)
    for (name, each), colour in zip(api.items(), (BLUE, GREEN), strict=False):
        axes.plot(
            [at / 60 for at, _ in each["curve"]],
            [value * 1000 for _, value in each["curve"]],
            color=colour,
            linewidth=1,
            label=f"{name}, slowest answers",
        )
        for index, (start, end, _) in enumerate(each["outages"]):
            label = f"{name}: no answer" if not index else ""
            axes.axvspan(start / 60, end / 60, color=RED if name == "read" else ORANGE, alpha=0.4, label=label)
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds")
    axes.set_xlim(left=0)
    _minutes(axes)
    legend(axes, "upper right")
    return figure


def io_latency(measurement: Measurement, subtitle: str) -> Figure | None:
    windows = measurement.details.get("io") or []
    if not windows:
        return None
    figure, axes = new_figure(f"I/O latency in the VMs meanwhile, {measurement.scope}", subtitle)
    for key, colour, label in (("mean_seconds", BLUE, "mean of all VMs"), ("slowest_mean_seconds", ORANGE, "slowest VM")):
        for index, each in enumerate(windows):
            axes.plot(
                [each["start_seconds"] / 60, each["end_seconds"] / 60],
                [each[key] * 1e6] * 2,
                color=colour,
                linewidth=2.5,
                label="" if index else label,
            )
    axes.axvline(0, color=GREY, linewidth=1, label="upgrade asked for")
    _end_line(axes, measurement.details)
    axes.set_ylabel("microseconds")
    axes.set_ylim(0, 1.15e6 * max(each["slowest_mean_seconds"] for each in windows))
    _minutes(axes)
    legend(axes, "lower right")
    return figure
