"""Allure: what each test shows, and what the report says of the run as a whole.

Everything here does nothing when allure-pytest is not active, and costs no import then. Never an attachment a VM: one
table of all, and the worst ten.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_vmscale.model import Measurement, Objective, Outcome
from pytest_vmscale.report.tables import FACTS
from pytest_vmscale.report.terminal import count
from pytest_vmscale.scenarios import Scenario, named, of_objective

if TYPE_CHECKING:
    from pytest_vmscale.report.comparison import Compared
    from pytest_vmscale.report.saved import Saved

EPIC = "Scale acceptance"

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
    measurements: list[Measurement]
    baselines: list[Saved]
    evidence: dict[tuple[str, str], str]

    def subtitle(self, measurement: Measurement) -> str: ...


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
    scenario = of_objective(objective.id)
    name = objective.id.partition(".")[2]
    subtitle = run.subtitle(measurements[0])
    dynamic.epic(EPIC)
    dynamic.feature(scenario.title)
    dynamic.story(re.sub(r" p[\d.]+$", " percentiles", objective.title))
    dynamic.title(_title(objective))
    severity = allure.severity_level
    dynamic.severity(severity.BLOCKER if name.startswith("every_") else severity.CRITICAL if name == "duration" else severity.NORMAL)
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
    for chart in scenario.report.charts(measurements, run.objectives, subtitle):
        if objective.id in chart.objectives and chart.scope == objective.scope and (figure := chart.draw()) is not None:
            from pytest_vmscale.report.charts import svg

            allure.attach(svg(figure), name=chart.title, attachment_type=allure.attachment_type.SVG)
    for measurement in measurements:
        if objective.outcome is Outcome.FAIL and (told := run.evidence.get((measurement.scenario, measurement.scope))):
            allure.attach(told, name="Failed VMs: events and logs", attachment_type=allure.attachment_type.TEXT)
    kinds = {"html": allure.attachment_type.HTML, "csv": allure.attachment_type.CSV}
    for measurement in measurements:
        for table in scenario.report.tables(measurement):
            if objective.id in table.objectives:
                allure.attach(table.text(), name=table.title, attachment_type=kinds[table.kind])
    allure.attach("\n".join(scenario.report.lines(measurements, subtitle)), name="Summary", attachment_type=allure.attachment_type.TEXT)


def label(scenarios: Sequence[Scenario]) -> None:
    """Where the running test belongs, though it got no further than its set-up."""
    if active():
        import allure

        dynamic: Any = allure.dynamic
        dynamic.epic(EPIC)
        dynamic.feature(*[each.title for each in scenarios])
        dynamic.story("Not measured")


def attach_comparison(measurement: Measurement, compared: Compared, run: Reported) -> None:
    """What the running test shows of a measurement's comparison with the baseline."""
    if not active():
        return
    import allure

    from pytest_vmscale.report import comparison
    from pytest_vmscale.report.charts import svg

    dynamic: Any = allure.dynamic
    dynamic.epic(EPIC)
    dynamic.feature(named(measurement.scenario).title)
    dynamic.story("No regression against the baseline")
    told = "not compared with the baseline"
    if any(each.changes for each in compared.comparisons):
        told = f"{count(len(compared.regressions), 'regression')}" if compared.regressions else comparison.one_line(compared)
    dynamic.title(f"{measurement.scope}: {told}")
    dynamic.severity(allure.severity_level.CRITICAL)
    found = comparison.lines(compared)
    dynamic.description("\n".join(["```", *found, "```"]))
    before = [each.measurement for each in comparison.candidates(measurement, run.baselines)]
    figure = comparison.chart(measurement, before, run.subtitle(measurement))
    if figure is not None:
        allure.attach(svg(figure), name="Now and before", attachment_type=allure.attachment_type.SVG)
    allure.attach(comparison.html_table(compared.comparisons), name="All figures", attachment_type=allure.attachment_type.HTML)


def attach_inspection(scope: str, archive: Path | None, complaint: str) -> None:
    """What `oc adm inspect` gathered of a fleet that failed, in the tear-down of its tests."""
    if not active():
        return
    import allure

    attaching: Any = allure.attach  # of which only a part has types
    if archive is not None:
        attaching.file(str(archive), name=f"oc adm inspect: {scope}", attachment_type="application/gzip", extension="tar.gz")
    if complaint:
        attaching(complaint, name=f"oc adm inspect failed: {scope}", attachment_type=allure.attachment_type.TEXT)


def steps(objective: Objective, measurements: Iterable[Measurement]) -> list[str]:
    """The procedure as it went, a sentence a step. They are told afterwards, so that telling costs the measurement nothing."""
    told = []
    for measurement in measurements:
        told += of_objective(objective.id).report.steps(measurement)
        if not measurement.complete:
            told.append(f"Cut short: {measurement.incomplete_reason or 'no reason given'}")
    limit = "no limit" if objective.limit is None else f"limit {objective.limit:g} {objective.unit}"
    told.append(f"Judge {objective.title.lower()}: {objective.measured_text}, {limit}: {objective.outcome.value}")
    return told


def write_environment(folder: Path, facts: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
    """environment.properties (`facts`), categories.json and, under a CI system that is known, executor.json.

    Once a session, on the controller: xdist's workers would overwrite each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{_property_name(name)}={_property(value)}" for name, value in facts.items() if value is not None]
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


def _title(objective: Objective) -> str:
    """What an overview needs. Allure follows a test from run to run by its function, whatever its title."""
    # "19 of 20" needs no "limit 100 %".
    silent = objective.limit is None or (objective.unit == "%" and "%" not in objective.measured_text)
    against = "" if silent else f" (limit {objective.limit:g} {objective.unit})"
    if objective.outcome is Outcome.REPORTED:
        against = " (reported)"  # a test that passes may show a percentile beyond the deadline: nothing judges it
    return f"{objective.full_title}: {objective.measured_text}{against}"


def _description(objective: Objective, subtitle: str) -> str:
    """Markdown."""
    figures = [
        (
            "Limit",
            "none"
            if objective.limit is None
            else f"{objective.limit:g} {objective.unit}" + (f" ({objective.how})" if objective.how else ""),
        ),
        ("Reference", "none" if objective.reference is None else f"{objective.reference:g} {objective.unit}"),
        ("Margin", "-" if objective.margin_percent is None else f"{objective.margin_percent:+.1f} %"),
        ("Verdict", objective.outcome.value),
        ("Cluster", subtitle),
    ]
    told = f"| Measured | {objective.measured_text} |\n|-|-|\n"
    told += "".join(f"| {name} | {value.replace('|', '/')} |\n" for name, value in figures if value)
    told += f"\nSource of the limit: {objective.source}\n"
    if objective.why:
        told += f"\n{objective.why}\n"
    if objective.outcome is Outcome.REPORTED and objective.limit is None:
        told += "\nReported, not judged: the profile gives no limit.\n"
    return told


def _parameters(measurements: Iterable[Measurement]) -> dict[str, Any]:
    """What was asked for; over several measurements only what they share."""
    asked = [dict(each.parameters) for each in measurements]
    return {
        re.sub("_seconds$", ", s", name).replace("_", " "): int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in (asked[0].items() if asked else ())
        if isinstance(value, str | int | float) and all(name in each and each[name] == value for each in asked)
    }


def _property_name(name: str) -> str:
    words = FACTS.get(name) or name.replace("_", " ").capitalize()
    return re.sub(r"([ :=\\])", r"\\\1", words)


def _property(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:g}"
    text = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, Mapping) else str(value)
    return text.replace("\\", "\\\\").replace("\r", " ").replace("\n", " ")
