"""How a comparison with earlier runs is told: as data, in lines and as a chart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement
from pytest_vmscale.report.files import slug
from pytest_vmscale.report.saved import Saved
from pytest_vmscale.report.terminal import count, cut, wrap
from pytest_vmscale.scenarios import named
from pytest_vmscale.slo.baseline import ENOUGH_RUNS, FALSE_ALARM, Change, Comparison, Conditions, Finding, compare, differences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ORDER = (Finding.REGRESSION, Finding.IMPROVEMENT, Finding.UNCLEAR, Finding.SAME, Finding.SHOWN)
_WRITTEN = {"ssh": "SSH", "vm": "VM", "vms": "VMs", "vmi": "VMI", "ip": "IP", "io": "I/O", "iops": "IOPS"}
RUNS_DRAWN = 8  # curves in a chart; the baseline's later runs


@dataclass(frozen=True)
class Compared:
    """All of a run's comparisons. `baselines`: run_id, file and versions of each results file that was compared with."""

    comparisons: tuple[Comparison, ...]
    baselines: tuple[Mapping[str, Any], ...]
    tolerance_percent: float

    def found(self, finding: Finding) -> list[tuple[Comparison, Change]]:
        return [(each, change) for each in self.comparisons for change in each.found(finding)]

    def of(self, measurement: Measurement) -> Compared:
        """That of one measurement."""
        own = tuple(each for each in self.comparisons if (each.scenario, each.scope) == (measurement.scenario, measurement.scope))
        return Compared(own, self.baselines, self.tolerance_percent)

    @property
    def properties(self) -> dict[str, str]:
        """For JUnit XML."""
        told = {"vmscale.baseline": ", ".join(dict.fromkeys(run for each in self.comparisons for run in each.runs))}
        told["vmscale.regression_tolerance_percent"] = f"{self.tolerance_percent:g}"
        for comparison, change in self.found(Finding.REGRESSION):
            told[f"vmscale.regression.{change.metric}.{change.statistic} ({comparison.scope})"] = f"{change.change_percent or 0:.6g}"
        return told

    @property
    def regressions(self) -> list[str]:
        """A sentence each."""
        return [sentence(comparison, change) for comparison, change in self.found(Finding.REGRESSION)]

    @property
    def troubles(self) -> list[str]:
        """Why something could not be compared, a sentence each."""
        return [
            f"{named(each.scenario).title}, {each.scope}: cannot be compared with the baseline: {'; '.join(each.differ)}."
            for each in self.comparisons
            if each.differ
        ]


def against(
    taken: Sequence[tuple[Measurement, Conditions]], baselines: Sequence[Saved], tolerance_percent: float, allow: Sequence[str] = ()
) -> Compared:
    """Each measurement against the baseline's of its scenario and scope. `allow`: names of slo.baseline.ALLOWANCES that may differ,
    or `missing`. What cannot be compared says why."""
    found: list[Comparison] = []
    for measurement, now in taken:
        theirs = candidates(measurement, baselines, allow)
        differ: dict[str, None] = {}
        insisted: dict[str, None] = {}
        for each in theirs:
            for name, said in differences(now, each.conditions).items():
                (insisted if name in allow else differ)[said] = None
        if not theirs and "missing" not in allow:
            scopes = [each.measurement.scope for each in baselines if each.measurement.scenario == measurement.scenario]
            differ[f"it has {', '.join(scopes)}" if scopes else "it has no results of this scenario"] = None
        if not measurement.complete or not measurement.size:
            differ["this measurement was cut short"] = None
        runs = tuple(dict.fromkeys(each.run_id for each in theirs))
        changes = compare(measurement, [each.measurement for each in theirs], tolerance_percent) if theirs and not differ else ()
        found.append(Comparison(measurement.scenario, measurement.scope, runs, changes, tuple(differ), tuple(insisted)))
    about = [
        {
            "run_id": each.run_id,
            "file": str(each.path),
            "timestamp": each.timestamp,
            "openshift_version": each.cluster.get("openshift_version"),
            "kubevirt_version": each.cluster.get("kubevirt_version"),
        }
        for each in baselines
    ]
    return Compared(tuple(found), tuple(about), tolerance_percent)


def candidates(measurement: Measurement, baselines: Sequence[Saved], allow: Sequence[str] = ("vms",)) -> list[Saved]:
    """Of the same scope; or, where the number of VMs or the parameters may differ, of the only scope that there is."""
    own = [each for each in baselines if each.measurement.scenario == measurement.scenario]
    same = [each for each in own if each.measurement.scope == measurement.scope]
    if not same and {"vms", "parameters"} & set(allow) and len({each.measurement.scope for each in own}) == 1:
        return own
    return same


def one_line(compared: Compared) -> str:
    """What the verdict says where there is no regression."""
    runs = _runs(compared)
    better, unclear = len(compared.found(Finding.IMPROVEMENT)), len(compared.found(Finding.UNCLEAR))
    told = f"No regression against {runs[0] if len(runs) == 1 else count(len(runs), 'run')}"
    extras = [f"{count(better, 'figure')} better"] * bool(better) + [f"{count(unclear, 'figure')} too noisy to tell"] * bool(unclear)
    return told + (f" ({', '.join(extras)})" if extras else "") + "."


def sentence(comparison: Comparison, change: Change) -> str:
    where = f"{named(comparison.scenario).title}, {comparison.scope}: {label(change)}"
    if change.change_percent is None:
        return f"{where}: {change.why or f'{text(change.measured, change.metric)}, {text(change.baseline, change.metric)} before'}."
    return (
        f"{where}: {text(change.measured, change.metric)}, {direction(change)} than the baseline's"
        f" {text(change.baseline, change.metric)} (noise {change.noise_percent or 0:.1f} %)."
    )


def direction(change: Change) -> str:
    """ "12.1 % slower", "8 % less": of what is a time, in the words of times."""
    percent = change.change_percent or 0.0
    more, less = ("longer", "shorter") if change.metric.endswith("_seconds") else ("more", "less")
    return f"{abs(percent):.1f} % {more if percent > 0 else less}"


def label(change: Change) -> str:
    name = change.metric
    for ending in ("_seconds", "_percent"):
        name = name.removesuffix(ending)
    said = "VMs that failed" if name == "failed" else words(name)
    return said if change.statistic == "value" else f"{said} {change.statistic}"


def words(name: str) -> str:
    """A field's name, as people write it."""
    return " ".join(_WRITTEN.get(each, each) for each in name.split("_"))


def text(value: float | None, metric: str) -> str:
    if value is None:
        return "beyond the deadline" if metric.endswith("_seconds") else "no value"
    if metric.endswith("_seconds") and 0 < abs(value) < 0.1:
        factor, unit = _scale(value)
        return f"{value * factor:.3g} {unit}"
    unit = " s" if metric.endswith("_seconds") else " %" if metric.endswith("_percent") else ""
    return f"{value:.1f}{unit}" if abs(value) < 10_000 else f"{value:.4g}{unit}"


def _scale(seconds: float) -> tuple[float, str]:
    """The unit that such a time is told in, and how many of it a second has."""
    return (1.0, "s") if abs(seconds) >= 0.1 else (1e3, "ms") if abs(seconds) >= 1e-3 else (1e6, "us")


def data(compared: Compared) -> dict[str, Any]:
    """As verdict.json has it."""
    return {
        "tolerance_percent": compared.tolerance_percent,
        "false_alarm_percent": FALSE_ALARM * 100,
        "baselines": [dict(each) for each in compared.baselines],
        "regressions": len(compared.found(Finding.REGRESSION)),
        "improvements": len(compared.found(Finding.IMPROVEMENT)),
        "scenarios": [
            {
                "scenario": each.scenario,
                "scope": each.scope,
                "runs": list(each.runs),
                "differ": list(each.differ),
                "insisted": list(each.insisted),
                "changes": [_change_data(change) for change in each.changes],
            }
            for each in compared.comparisons
        ],
    }


def _change_data(change: Change) -> dict[str, Any]:
    interval = change.interval_percent
    return {**asdict(change), "finding": str(change.finding), "interval_percent": list(interval) if interval else None}


def _runs(compared: Compared) -> list[str]:
    return list(dict.fromkeys(str(each["run_id"]) for each in compared.baselines))


def heading(compared: Compared) -> str:
    """What was compared with what."""
    runs = _runs(compared)
    return f"Compared with {count(len(runs), 'earlier run')} ({', '.join(runs)}), tolerance {compared.tolerance_percent:g} %"


def lines(compared: Compared, everything: bool = False) -> list[str]:
    """For the terminal, in at most 100 columns: each regression and improvement, and how many were neither (`everything`: these too)."""
    told = wrap(heading(compared), "")
    if len(_runs(compared)) < ENOUGH_RUNS:
        told += wrap(f"What runs differ by is assumed, and told by {ENOUGH_RUNS} earlier runs or more.", "")
    for each in compared.comparisons:
        told += ["", *scenario_lines(each, everything)]
    return told


def scenario_lines(comparison: Comparison, everything: bool = False) -> list[str]:
    """`everything`: also what did not change."""
    title = f"{named(comparison.scenario).title}, {comparison.scope}"
    if comparison.differ:
        return wrap(f"{title}: not compared: {'; '.join(comparison.differ)}", "", "    ")
    told = [f"{cut(title, 40):<40} {'baseline':>11} {'now':>11} {'change':>9} {'noise':>8}  finding"]
    shown = [each for finding in _ORDER for each in comparison.found(finding) if everything or _always(each)]
    told += [_row(each) for each in shown]
    kept = len(comparison.found(Finding.SAME)), len(comparison.found(Finding.UNCLEAR))
    if not everything:
        told += wrap(f"{kept[0]} figures are the same, {kept[1]} too noisy to tell a regression of the tolerance's size.", "  ")
    for line in comparison.insisted:
        told += wrap(f"Compared all the same, as --baseline-allow says: {line}", "  ", "    ")
    return told


def _always(change: Change) -> bool:
    return change.finding in (Finding.REGRESSION, Finding.IMPROVEMENT)


def _row(change: Change) -> str:
    percent = "-" if change.change_percent is None else f"{change.change_percent:+.1f} %"
    noise = "-" if change.noise_percent is None else f"{change.noise_percent:.1f} %"
    values = [text(value, change.metric) if value is not None else "-" for value in (change.baseline, change.measured)]
    return f"  {cut(label(change), 38):<38} {values[0]:>11} {values[1]:>11} {percent:>9} {noise:>8}  {change.finding}"


def read(found: Mapping[str, Any]) -> Compared:
    """What `data` wrote."""
    comparisons = tuple(
        Comparison(
            each["scenario"],
            each["scope"],
            tuple(each["runs"]),
            tuple(_change(change) for change in each["changes"]),
            tuple(each["differ"]),
            tuple(each["insisted"]),
        )
        for each in found["scenarios"]
    )
    return Compared(comparisons, tuple(found["baselines"]), found["tolerance_percent"])


def _change(found: Mapping[str, Any]) -> Change:
    return Change(**{**{key: value for key, value in found.items() if key != "interval_percent"}, "finding": Finding(found["finding"])})


def html_table(comparisons: Iterable[Comparison]) -> str:
    """Every comparison, as a page of its own."""
    from pytest_vmscale.report.tables import page

    return page("Comparison with the baseline", table(comparisons))


def table(comparisons: Iterable[Comparison]) -> str:
    """Every comparison, static."""
    import html

    rows = []
    for each in comparisons:
        title = html.escape(f"{named(each.scenario).title}, {each.scope}")
        if each.differ:
            rows.append(f"<tr class='lost'><td>{title}</td><td colspan='6'>not compared: {html.escape('; '.join(each.differ))}</td></tr>")
        for change in each.changes:
            lost = " class='lost'" if change.finding is Finding.REGRESSION else ""
            interval = change.interval_percent
            cells = (
                label(change),
                text(change.baseline, change.metric),
                text(change.measured, change.metric),
                "-" if change.change_percent is None else f"{change.change_percent:+.1f} %",
                "-" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f} %",
                "-" if change.rank_p is None else f"{change.rank_p:.2g}",
                f"{change.finding}" + (f": {change.why}" if change.why else ""),
            )
            rows.append(f"<tr{lost}><td>{title}</td>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    heads = ("scenario", "figure", "baseline", "now", "change", "interval of the change", "rank test's p", "finding")
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table>"


def write_comparison_charts(
    folder: Path, measurements: Iterable[Measurement], baselines: Sequence[Saved], subtitle: Callable[[Measurement], str]
) -> list[Path]:
    """A chart a measurement that the baseline has one of."""
    from pytest_vmscale.report.charts import write

    written = []
    for each in measurements:
        figure = chart(each, [theirs.measurement for theirs in candidates(each, baselines)], subtitle(each))
        if figure is not None:
            written.append(write(figure, folder / f"{each.scenario}_{slug(each.scope)}_comparison.svg"))
    return written


def chart(now: Measurement, before: Sequence[Measurement], subtitle: str) -> Figure | None:
    """The outcome's (or the first metric's) distribution here and in each earlier run: the share of all VMs over the value. None if there is no value."""
    from pytest_vmscale.report.charts import BLUE, GREY, RED, cumulative, legend, new_figure

    kind = type(now.records[0]) if now.records else None
    if kind is None or not kind.METRICS or not before:
        return None
    metric = kind.OUTCOME or kind.METRICS[0]
    mine = now.sample(metric)
    samples = [(each.sample(metric), GREY, 1.0, f"baseline {each.run_id}") for each in before[-RUNS_DRAWN:]]
    samples.append((mine, BLUE, 2.2, f"now {now.run_id}"))
    if not any(sample.measured for sample, *_ in samples):
        return None
    figure, axes = new_figure(f"{named(now.scenario).title}, {now.scope}: now and before", subtitle)
    timed = metric.endswith("_seconds")
    factor, unit = _scale(max(max(sample.measured, default=0.0) for sample, *_ in samples)) if timed else (1.0, "")
    for sample, colour, width, name in samples:
        if sample.measured:
            cumulative(axes, [value * factor for value in sample.measured], sample.size, color=colour, linewidth=width, label=name)
    for percent in (50, 90, 99):
        value = mine.percentile(percent) if mine.size else None
        if value is not None:
            axes.plot([value * factor], [percent], "o", color=RED, markersize=5)
            axes.annotate(f"p{percent} {value * factor:.1f}", (value * factor, percent), (7, -4), textcoords="offset points", va="top", fontsize=8)
    axes.set_ylim(0, 104)
    axes.set_ylabel("% of all VMs")
    axes.set_xlabel(f"{words(metric.removesuffix('_seconds'))}, {unit}" if timed else words(metric))
    legend(axes, "lower right")
    return figure
