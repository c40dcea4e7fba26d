"""Allure: what each test shows, and what the report says of the run as a whole.

Everything here does nothing when allure-pytest is not active, and costs no import then. Never an attachment a VM: one
table of all, and the worst ten.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_vmscale.model import Measurement, Objective, Outcome, Record
from pytest_vmscale.report.files import csv_text
from pytest_vmscale.report.phases import booted
from pytest_vmscale.report.terminal import measurement_lines, sweep_lines
from pytest_vmscale.slo.judge import boot_times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPIC = "Scale acceptance"
FEATURES = {"bootstorm": "Boot storm"}
WORST = 10

# SLO breaches are AssertionErrors ("failed"); all else is trouble ("broken"), told apart by its exception's name.
CATEGORIES = [
    {"name": "SLO breach", "matchedStatuses": ["failed"]},
    {
        "name": "Cluster not fit for the suite",
        "matchedStatuses": ["broken"],
        "messageRegex": r"(?s).*(ClusterUnfit|the cluster is not fit).*",
    },
    {
        "name": "Measurement could not be taken",
        "matchedStatuses": ["broken"],
        "messageRegex": r"(?s)(?!.*(ClusterUnfit|the cluster is not fit)).*",
    },
]

# Which variable names a CI system, and which ones name its build: (name, type, build's name, build's number, build's page).
_EXECUTORS = (
    ("GITHUB_ACTIONS", "GitHub Actions", "github", "GITHUB_WORKFLOW", "GITHUB_RUN_NUMBER", None),
    ("GITLAB_CI", "GitLab CI", "gitlab", "CI_JOB_NAME", "CI_PIPELINE_IID", "CI_JOB_URL"),
    ("JENKINS_URL", "Jenkins", "jenkins", "JOB_NAME", "BUILD_NUMBER", "BUILD_URL"),
    ("PROW_JOB_ID", "Prow", "prow", "JOB_NAME", "BUILD_ID", None),
)


class Reported(Protocol):
    """What the reports ask of a run."""

    objectives: list[Objective]

    def subtitle(self) -> str: ...


def active() -> bool:
    """Is allure-pytest writing results in this process?"""
    import sys

    commons = sys.modules.get("allure_commons")
    return commons is not None and any(hasattr(plugin, "attach_data") for plugin in commons.plugin_manager.get_plugins())


def attach(objective: Objective, measurements: Sequence[Measurement], run: Reported) -> None:
    """Everything that the running test shows of one objective. Call it before the assertion: a breach needs it most."""
    if not active():
        return
    import allure

    dynamic: Any = allure.dynamic  # which has no types
    suite, _, name = objective.id.partition(".")
    subtitle = run.subtitle()
    dynamic.epic(EPIC)
    dynamic.feature(FEATURES.get(suite, suite))
    dynamic.story(re.sub(r" p[\d.]+$", " percentiles", objective.title))
    dynamic.severity(
        {"every_vm_boots": allure.severity_level.BLOCKER, "duration": allure.severity_level.CRITICAL}.get(
            name, allure.severity_level.NORMAL
        )
    )
    dynamic.tag(objective.id)
    dynamic.description(_description(objective, subtitle))
    for url in re.findall(r"https?://[^\s)]+", objective.source):
        dynamic.link(url, name="Source of the limit")
    # Beside the test, but no part of its identity: a run under other conditions belongs to the same history.
    for label, value in _parameters(measurements).items():
        dynamic.parameter(label, value, excluded=True)
    for text in steps(objective, measurements):
        with allure.step(text):
            pass
    for label, figure in _charts(name, measurements, run.objectives, subtitle):
        if figure is not None:
            from pytest_vmscale.report.charts import svg

            allure.attach(svg(figure), name=label, attachment_type=allure.attachment_type.SVG)
    if name in ("every_vm_boots", "duration"):
        for measurement in measurements:
            allure.attach(worst_table(measurement), name="The worst ten VMs", attachment_type=allure.attachment_type.HTML)
    if name == "every_vm_boots":
        for measurement in measurements:
            allure.attach(csv_text(measurement.records), name=f"All {measurement.size} records", attachment_type=allure.attachment_type.CSV)
    lines = (
        sweep_lines(measurements, subtitle)
        if len(measurements) > 1
        else [line for each in measurements for line in measurement_lines(each, subtitle)]
    )
    allure.attach("\n".join(lines), name="Summary", attachment_type=allure.attachment_type.TEXT)


def steps(objective: Objective, measurements: Iterable[Measurement]) -> list[str]:
    """The procedure as it went, a sentence a step. They are told afterwards, so that telling costs the measurement nothing."""
    told = []
    for measurement in measurements:
        size, records = measurement.size, measurement.records
        sent = f"Start {size} VMs at once"
        if rate := measurement.details.get("request_rate_achieved"):
            sent += f" ({rate:.0f} requests/s)"
        told.append(sent)
        for what, metric in (("are created", "time_to_vm_created_seconds"), ("are running", "time_to_vmi_running_seconds")):
            told.append(_reached(f"VMIs {what}", [value for record in records if (value := getattr(record, metric)) is not None], size))
        told.append(_reached("VMs answer SSH", boot_times(measurement).measured, size))
        if not measurement.complete:
            told.append(f"Cut short: {measurement.incomplete_reason or 'no reason given'}")
    limit = "no limit" if objective.limit is None else f"limit {objective.limit:g} {objective.unit}"
    told.append(f"Judge {objective.title.lower()}: {objective.measured_text}, {limit}: {objective.outcome.value}")
    return told


def worst_table(measurement: Measurement) -> str:
    """The VMs that never came up, then the slowest, as a static HTML table with their phases."""
    slowest = sorted(booted(measurement.records), key=lambda record: -(record.time_to_ssh_seconds or 0.0))
    rows = [_row(record) for record in [*measurement.failed, *slowest][:WORST]]
    heads = ("VM", "system", "node", "status", "phases, seconds from its request", "SSH answers", "error")
    style = (
        "body{font:13px sans-serif}table{border-collapse:collapse}tr.lost{background:#fbe3d6}"
        "td,th{border:1px solid #ccc;padding:4px 8px;text-align:left;vertical-align:top}"
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Worst VMs</title><style>{style}</style></head><body><table>"
        f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table></body></html>"
    )


def write_environment(folder: Path, facts: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
    """environment.properties (`facts`), categories.json and, under a CI system that is known, executor.json.

    Once a session, on the controller: xdist's workers would overwrite each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}={_property(value)}" for name, value in facts.items() if value is not None]
    (folder / "environment.properties").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "categories.json").write_text(json.dumps(CATEGORIES, indent=2) + "\n", encoding="utf-8")
    if found := executor(environ):
        (folder / "executor.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def executor(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Who ran this, in Allure's words; None outside the CI systems that we know."""
    for marker, name, kind, job, number, page in _EXECUTORS:
        if environ.get(marker):
            build = environ.get(number, "")
            told: dict[str, Any] = {"name": name, "type": kind, "buildName": f"{environ.get(job, name)} #{build}".strip(" #")}
            if build.isdigit():
                told["buildOrder"] = int(build)
            url = environ.get(page, "") if page else ""
            if kind == "github" and (repository := environ.get("GITHUB_REPOSITORY")):
                url = (
                    f"{environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}/actions/runs/{environ.get('GITHUB_RUN_ID', '')}"
                )
            if url:
                told["buildUrl"] = url
            return told
    if environ.get("TEKTON_PIPELINE_RUN"):
        return {"name": "Tekton", "type": "tekton", "buildName": environ["TEKTON_PIPELINE_RUN"]}
    return None


def _charts(
    name: str, measurements: Sequence[Measurement], objectives: Sequence[Objective], subtitle: str
) -> list[tuple[str, Figure | None]]:
    from pytest_vmscale.report import charts

    if name == "linearity":
        return [("Duration over the number of VMs", charts.sweep(measurements, objectives, subtitle))]
    if name in ("every_vm_boots", "duration"):
        over_time: list[tuple[str, Figure | None]] = [
            ("VMs up over time", charts.ready_over_time(each, objectives, subtitle)) for each in measurements
        ]
        phases = (
            [("Where a boot's time goes", charts.phase_breakdown(each, subtitle)) for each in measurements] if name == "duration" else []
        )
        return [*over_time, *phases]
    return [("Boot times", charts.boot_time_distribution(each, subtitle)) for each in measurements]


def _description(objective: Objective, subtitle: str) -> str:
    """Markdown."""
    figures = [
        ("Measured", objective.measured_text),
        ("Limit", "none" if objective.limit is None else f"{objective.limit:g} {objective.unit}"),
        ("Reference", "none" if objective.reference is None else f"{objective.reference:g} {objective.unit} ({objective.how})"),
        ("Margin", "-" if objective.margin_percent is None else f"{objective.margin_percent:+.1f} %"),
        ("Verdict", objective.outcome.value),
        ("Source", objective.source),
        ("Cluster", subtitle),
    ]
    told = f"**{objective.title}**, {objective.scope}\n\n| | |\n|-|-|\n"
    told += "".join(f"| {name} | {value.replace('|', '/')} |\n" for name, value in figures if value)
    if objective.why:
        told += f"\n{objective.why}\n"
    if objective.outcome is Outcome.REPORTED:
        told += "\nReported, not judged: the profile gives no limit.\n"
    return told


def _parameters(measurements: Iterable[Measurement]) -> dict[str, Any]:
    """What was asked for; over several measurements only what they share."""
    asked = [dict(each.parameters) for each in measurements]
    return {
        name.replace("_", " "): int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in (asked[0].items() if asked else ())
        if isinstance(value, str | int | float) and all(name in each and each[name] == value for each in asked)
    }


def _reached(what: str, moments: Sequence[float], size: int) -> str:
    return f"{len(moments)} of {size} {what}" + (f", the slowest {max(moments):.1f} s after its request" if moments else "")


def _row(record: Record) -> str:
    timeline = sorted(record.timeline, key=lambda moment: moment.seconds)
    phases = [f"{html.escape(moment.phase)} {'&le; ' if moment.upper_bound else ''}{moment.seconds:.1f}" for moment in timeline]
    if not record.succeeded and record.last_phase:
        phases.append(f"no further than {html.escape(record.last_phase)}")
    ssh = "never" if record.time_to_ssh_seconds is None or not record.succeeded else f"{record.time_to_ssh_seconds:.1f} s"
    cells = [f"{record.namespace}/{record.vm_name}", record.os, record.node or "none", str(record.status)]
    told = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    lost = "" if record.succeeded else " class='lost'"
    return f"<tr{lost}>{told}<td>{'<br>'.join(phases)}</td><td>{ssh}</td><td>{html.escape(record.error or '')}</td></tr>"


def _property(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, Mapping | list | tuple) else str(value)
    return text.replace("\\", "\\\\").replace("\r", " ").replace("\n", " ")
