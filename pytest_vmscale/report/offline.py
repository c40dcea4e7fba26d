"""Reports of runs that are over, made from their folders: the terminal's summary again, one for a chat, one page to keep."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Objective, Outcome
from pytest_vmscale.report import comparison
from pytest_vmscale.report.comparison import Compared
from pytest_vmscale.report.saved import Saved, SavedError, load, load_verdict, objectives
from pytest_vmscale.report.saved import subtitle as subtitle_of
from pytest_vmscale.report.tables import FACTS, page
from pytest_vmscale.report.terminal import cut, margin, number, summary_lines
from pytest_vmscale.scenarios import grouped, named, of_objective
from pytest_vmscale.slo.judge import EXIT_INTERRUPTED, Ruling, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 12  # objectives in a chat message
LISTED = 8  # regressions, and reasons, in a chat message
_MARKS = {Outcome.PASS: "✅", Outcome.FAIL: "❌", Outcome.INCONCLUSIVE: "❔", Outcome.REPORTED: ""}


@dataclass(frozen=True)
class Over:
    """A run that is over, as its folder has it."""

    folder: Path
    run_id: str
    verdict: Verdict
    profile: str | None
    cluster: Mapping[str, Any]
    saved: tuple[Saved, ...]
    compared: Compared | None

    @property
    def measurements(self) -> list[Measurement]:
        return [each.measurement for each in self.saved]

    def subtitle(self, measurement: Measurement) -> str:
        return subtitle_of(self.cluster, measurement)


def read(folder: Path) -> Over:
    """A run's folder. SavedError."""
    if not folder.is_dir():
        raise SavedError(f"{folder}: is no run's folder")
    data = load_verdict(folder)
    saved = load([folder]) if any(folder.glob("*_results.json")) else []
    verdict = Verdict(Ruling(data["verdict"]), tuple(data["why"]), objectives(data["objectives"]), data["exit_code"] == EXIT_INTERRUPTED)
    compared = comparison.read(data["comparison"]) if data["comparison"] else None
    return Over(folder, data["run_id"], verdict, data["profile"], data["cluster"], tuple(saved), compared)


def lines(run: Over) -> list[str]:
    """What the terminal said at its end."""
    told = (lambda each: run.subtitle(each)) if run.cluster["kind"] == "embedded" else (lambda each: "")
    return summary_lines(run.verdict, run.measurements, run.folder, told, run.compared)


def markdown(run: Over) -> str:
    """For a chat or a pull request: the ruling, the objectives that broke first, and what is worse than before."""
    told = [f"**{run.verdict.ruling.upper()}** · scale acceptance, run `{run.run_id}`", "", _where(run), ""]
    judged = [each for each in run.verdict.objectives if each.outcome is not Outcome.REPORTED]
    broken, met = [each for each in judged if each.outcome is not Outcome.PASS], [each for each in judged if each.outcome is Outcome.PASS]
    shown = [*broken, *met] if len(judged) <= ROWS else broken[:ROWS]
    if shown:
        told += ["| | objective | measured | limit | margin |", "|-|-|-:|-:|-:|"]
        told += [
            f"| {_MARKS[each.outcome]} | {_cell(each.full_title)} | {_cell(each.measured_text)} | {number(each.limit, each.unit)} | {margin(each.margin_percent)} |"
            for each in shown
        ]
        told.append("")
    if len(judged) > ROWS:
        told += [f"and {len(broken) - ROWS} more that are not met", ""] if len(broken) > ROWS else []
        told += [*_by_scenario(judged), ""]
    if run.compared:
        worse = run.compared.regressions
        told += [f"- {each}" for each in worse[:LISTED]] or [f"- {comparison.one_line(run.compared)}"]
        if len(worse) > LISTED:
            told.append(f"- and {len(worse) - LISTED} more regressions")
    if run.verdict.ruling is not Ruling.PASS:
        whys = [each for each in run.verdict.why if not run.compared or each not in run.compared.regressions]
        told += [f"- {cut(each, 240)}" for each in whys[:LISTED]]
        if len(whys) > LISTED:
            told.append(f"- and {len(whys) - LISTED} more")
    return "\n".join(told).rstrip() + "\n"


def _by_scenario(judged: Sequence[Objective]) -> list[str]:
    """How many are met of each scenario's, and which of them came nearest to its limit."""
    told = ["| | scenario | objectives met | nearest to its limit |", "|-|-|-|-|"]
    for scenario in dict.fromkeys(of_objective(each.id) for each in judged):
        its = [each for each in judged if of_objective(each.id) is scenario]
        met = [each for each in its if each.outcome is Outcome.PASS]
        # Where all of them are wanted, or none, there is no nearer and farther.
        nearest = min((each for each in met if each.margin_percent), key=lambda each: each.margin_percent or 0.0, default=None)
        said = f"{_cell(nearest.full_title)}: {_cell(nearest.measured_text)}, {margin(nearest.margin_percent)}" if nearest else ""
        mark = _MARKS[Outcome.PASS if len(met) == len(its) else Outcome.FAIL]
        told.append(f"| {mark} | {scenario.title} | {len(met)} of {len(its)} | {said} |")
    return told


def report_page(run: Over) -> str:
    """All of a run on one page that needs nothing but itself: no script, no style sheet, no picture elsewhere."""
    ruling = run.verdict.ruling
    body = [
        f"<h1>Scale acceptance: <span class='{ruling}'>{ruling.upper()}</span></h1>",
        f"<p>Run {_text(run.run_id)}, {_text(_where(run))}. Exit code {run.verdict.exit_code}.</p>",
        _list(run.verdict.why),
        "<h2>Objectives</h2>",
        _objectives_table(run.verdict.objectives, run.profile),
    ]
    if run.compared:
        body += [
            "<h2>Against earlier runs</h2>",
            f"<p>{_text(comparison.heading(run.compared))}. {_text(comparison.one_line(run.compared)) if not run.compared.regressions else ''}</p>",
            _list(run.compared.regressions),
            comparison.table(run.compared.comparisons),
        ]
    for scenario, taken in grouped(run.measurements):
        subtitle = run.subtitle(taken[0])
        body.append(f"<h2>{_text(scenario.title)}</h2>")
        body.append(f"<pre>{_text(chr(10).join(scenario.report.lines(taken, subtitle)))}</pre>")
        for chart in scenario.report.charts(taken, run.verdict.objectives, subtitle):
            body.append(_figure(f"{chart.title}, {chart.scope}", chart.draw()))
        for path in sorted((run.folder / "charts").glob(f"{scenario.name}_*_comparison.svg")):
            body.append(_picture("Now and before", path.read_text(encoding="utf-8")))
        for measurement in taken:
            body.append(f"<h3>How it went: {_text(measurement.scope)}</h3>")
            body.append(_list(scenario.report.steps(measurement), "ol"))
    body += ["<h2>Conditions</h2>", _facts_table(run)]
    return page(f"Scale acceptance, run {run.run_id}: {ruling}", "\n".join(each for each in body if each))


def comparison_page(compared: Compared, now: Sequence[Saved], before: Sequence[Saved]) -> str:
    """`vmscale compare` on one page."""
    worse = compared.regressions
    body = [
        f"<h1>Comparison of runs: <span class='{'fail' if worse else 'pass'}'>{len(worse) or 'no'} regression{'s' * (len(worse) != 1)}</span></h1>",
        f"<p>{_text(comparison.heading(compared))}.</p>",
        _list([*worse, *compared.troubles]) if worse or compared.troubles else f"<p>{_text(comparison.one_line(compared))}</p>",
    ]
    for each in now:
        same = [it.measurement for it in before if it.measurement.scenario == each.measurement.scenario]
        figure = comparison.chart(each.measurement, [it for it in same if it.scope == each.measurement.scope] or same, each.subtitle)
        body.append(_figure(f"{named(each.measurement.scenario).title}, {each.measurement.scope}: now and before", figure))
    body.append(comparison.table(compared.comparisons))
    return page("Comparison of runs", "\n".join(each for each in body if each))


def _where(run: Over) -> str:
    if run.saved:
        first = run.saved[0]
        version = first.cluster.get("openshift_version")
        if first.cluster["kind"] == "embedded" and version:
            rates = sorted({each.measurement.time_rate for each in run.saved})
            told = f"embedded cluster, simulated at {' to '.join(f'{each:g}x' for each in dict.fromkeys((rates[0], rates[-1])))}"
            return f"OpenShift {version}, {first.cluster.get('worker_count', '?')} workers, {told}"
        return first.subtitle
    return f"{run.cluster['kind']} cluster"


def _objectives_table(given: Sequence[Objective], profile: str | None) -> str:
    """Scenario by scenario, where there are several. The sources, which many share, stand below."""
    heads = ("objective", "measured", "limit", "reference", "margin", "verdict", "source")
    if not given:
        return "<p>None was judged.</p>"
    sources = list(dict.fromkeys(each.source for each in given))
    scenarios = list(dict.fromkeys(of_objective(each.id) for each in given))
    rows = []
    for scenario in scenarios:
        its = [each for each in given if of_objective(each.id) is scenario]
        if len(scenarios) > 1:
            judged = [each for each in its if each.outcome is not Outcome.REPORTED]
            met = sum(each.outcome is Outcome.PASS for each in judged)
            rows.append(f"<tr><th colspan='{len(heads)}'>{_text(scenario.title)}: {met} of {len(judged)} met</th></tr>")
        for each in its:
            cells = (
                each.full_title,
                each.measured_text,
                number(each.limit, each.unit),
                number(each.reference, each.unit) + (f" ({each.how})" if each.how and each.reference is not None else ""),
                margin(each.margin_percent),
                each.outcome.value + (f": {each.why}" if each.why and each.outcome is not Outcome.PASS else ""),
                f"[{sources.index(each.source) + 1}]",
            )
            lost = " class='lost'" if each.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE) else ""
            rows.append(f"<tr{lost}>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>")
    caption = f"<caption>By the SLO profile {_text(profile)}</caption>" if profile else ""
    table = f"<table>{caption}<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table>"
    return f"{table}<p>Sources</p>{_list(sources, 'ol')}"


def _facts_table(run: Over) -> str:
    rows = [(name, run.cluster.get(key)) for key, name in FACTS.items()]
    for each in run.saved:
        rows.append((f"{each.measurement.scenario}, {each.measurement.scope}: asked for", dict(each.measurement.parameters)))
        rows.append((f"{each.measurement.scenario}, {each.measurement.scope}: workload", dict(each.workload)))
    told = "".join(f"<tr><th>{_text(name)}</th><td>{_text(_plain(value))}</td></tr>" for name, value in rows if value is not None)
    return f"<table>{told}</table>"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key.replace('_', ' ')} {_plain(each)}" for key, each in value.items() if each is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _figure(title: str, figure: Figure | None) -> str:
    from pytest_vmscale.report.charts import svg

    return "" if figure is None else _picture(title, svg(figure))


def _picture(title: str, svg: str) -> str:
    """The <svg> element alone, without what stands before it in a file."""
    picture = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{_text(title)}" ', 1)
    return f"<figure>{picture}<figcaption>{_text(title)}</figcaption></figure>"


def _list(told: Sequence[str], kind: str = "ul") -> str:
    return f"<{kind}>{''.join(f'<li>{_text(each)}</li>' for each in told)}</{kind}>" if told else ""


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _text(text: str) -> str:
    return html.escape(text, quote=True)
