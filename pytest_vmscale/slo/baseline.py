"""Is this run worse than earlier ones? Every metric is compared by its distribution, and whole runs by their figures.

A regression is a change for the worse that is both larger than the tolerance and outside the noise. The noise of a percentile
is the larger of two: what chance makes of so many VMs (bootstrap), and what runs differ by among themselves. All figures of
a measurement share one chance of a false alarm (Bonferroni): of a hundred figures, one in a hundred is off by chance.

Chance among VMs is overrated where they wait for each other: in a queue the next VM takes the place of one that was slow, and the
percentiles of runs hardly differ. With enough runs of the baseline only what they differ by counts, if it is less.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, stdev
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Record
from pytest_vmscale.slo.lateness import lateness_seconds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

FALSE_ALARM = 0.002  # the chance that a measurement that changed nothing is called a regression, over all of its figures
RESAMPLES = 2000
SEED = 20220215  # the same files give the same intervals
TAIL_LEAST = 5  # VMs beyond a percentile: with fewer it is a matter of one VM
# What whole runs differ by (standard deviation), in percent, until enough of them say themselves: four boot storms of 100 VMs on the
# embedded cluster, with four seeds, differed by 0.7 to 1.8 % at nearly all percentiles. It counts as much as so many runs.
ASSUMED_SPREAD_PERCENT = 1.5
ASSUMED_COUNTS_AS_RUNS = 4
ENOUGH_RUNS = 4  # of the baseline, to tell by themselves what runs differ by
RUNS_CONFIDENCE = 0.95
ALLOWANCES = {
    "version": "scenario version",
    "kind": "cluster (embedded or real)",
    "vms": "number of VMs",
    "mix": "OS mix",
    "rate": "time rate",
    "storage": "storage",
    "shape": "cluster shape",
    "parameters": "parameters",
}
_NOT_COMPARED = ("vms", "deadline_seconds")  # of the parameters: one has a place of its own, the other ends what is measured


@dataclass(frozen=True)
class Conditions:
    """What must be alike for two measurements to be compared: a value for each of ALLOWANCES that is known."""

    known: Mapping[str, Any]


def conditions(measurement: Measurement, cluster: Mapping[str, Any], workload: Mapping[str, Any]) -> Conditions:
    """`cluster` and `workload` as in the result files."""
    storage = {key: workload.get(key) for key in ("storage_class", "access_mode", "volume_mode", "disk_size")}
    asked = {name: value for name, value in measurement.parameters.items() if name not in _NOT_COMPARED}
    known = {
        "version": measurement.version,
        "kind": cluster.get("kind"),
        "vms": measurement.size,
        "mix": dict(sorted((workload.get("os_mix") or {}).items())),
        "rate": measurement.time_rate,
        "storage": storage,
        "shape": shape(cluster),
        "parameters": asked,
    }
    return Conditions(known)


def shape(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Of a cluster as in the result files."""
    return {"workers": cluster.get("worker_count"), **(cluster.get("node_shape") or {})}


def differences(now: Conditions, before: Conditions) -> dict[str, str]:
    """What is not alike, in words, by its name in ALLOWANCES. What only one side knows is no difference."""
    found = {}
    for name, said in ALLOWANCES.items():
        if name not in now.known or name not in before.known:
            continue
        mine, its = now.known[name], before.known[name]
        if isinstance(mine, Mapping) and isinstance(its, Mapping):
            # A system that one side's mix lacks is a difference; a fact that one side does not tell is none.
            keys = [key for key in {**its, **mine} if name == "mix" or (key in mine and key in its)]
            parts = [f"{key} {_word(its.get(key))} there, {_word(mine.get(key))} here" for key in keys if its.get(key) != mine.get(key)]
            if parts:
                found[name] = f"{said}: {'; '.join(parts)}"
        elif mine != its:
            found[name] = f"{said}: {_word(its)} there, {_word(mine)} here"
    return found


class Finding(enum.StrEnum):
    """What one comparison came to."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    SAME = "same"  # no change, or one within the tolerance; a regression beyond the tolerance would have been found
    UNCLEAR = "unclear"  # no regression is shown, but the noise is such that one beyond the tolerance may hide in it
    SHOWN = "shown"  # shown, not judged


@dataclass(frozen=True)
class Change:
    """One figure against the baseline's. Percent of the baseline: above 0 is more, which is worse where `lower_is_better`.

    `baseline` and `measured` None: beyond the deadline (`why` says so), or not measured. `noise_percent`: what a change must
    exceed to be told from noise; the interval is the change and as much to either side.
    rank_p: how often chance alone gives two samples as different (Mann-Whitney, two-sided); of the metric as a whole.
    """

    metric: str
    statistic: str  # "p90", or "value" of a figure that a run has one of
    baseline: float | None
    measured: float | None
    change_percent: float | None
    noise_percent: float | None
    lower_is_better: bool
    finding: Finding
    rank_p: float | None = None
    why: str = ""

    @property
    def interval_percent(self) -> tuple[float, float] | None:
        if self.change_percent is None or self.noise_percent is None:
            return None
        return self.change_percent - self.noise_percent, self.change_percent + self.noise_percent


@dataclass(frozen=True)
class Comparison:
    """One measurement against the earlier ones of its scenario and scope. `differ`: why it was not compared at all; `insisted`:
    what is not alike, but was allowed."""

    scenario: str
    scope: str
    runs: tuple[str, ...]  # the baseline's
    changes: tuple[Change, ...] = ()
    differ: tuple[str, ...] = ()
    insisted: tuple[str, ...] = ()

    def found(self, finding: Finding) -> tuple[Change, ...]:
        return tuple(each for each in self.changes if each.finding is finding)


def compare(now: Measurement, before: Sequence[Measurement], tolerance_percent: float) -> tuple[Change, ...]:
    """The changes of a measurement against its baseline, which is one run or several under the same conditions."""
    raw = _changes(now, before)
    judged = sum(each.noise_percent is not None or each.sure is not None for each in raw)
    # Two-sided: as many changes for the better are looked for.
    chance = FALSE_ALARM / max(1, judged) / 2
    return tuple(_judge(each, tolerance_percent, chance) for each in raw)


@dataclass(frozen=True)
class _Raw:
    """A change before it is judged. `noise_percent` is one standard deviation here. `least`: what a busy machine may make of the figure
    beside all noise, in the metric's unit. `sure`: the probability of chance, where it is known without a noise."""

    change: Change
    noise_percent: float | None = None
    least: float = 0.0
    sure: float | None = None
    worse: bool = False
    corroborated: bool = False  # by the rank test too


def _changes(now: Measurement, before: Sequence[Measurement]) -> list[_Raw]:
    kind = type(now.records[0]) if now.records else Record
    found = [_lost(now, before)]
    runs, by_chance = (now, *before), _last_vm_percent(now, before, kind.OUTCOME)
    late, most_late = lateness_seconds(runs, of_one=False), lateness_seconds(runs, of_one=True)
    if kind.DURATION_MEASURED:
        found.append(
            _figure("duration_seconds", now.duration_seconds, [each.duration_seconds for each in before], most_late, by_chance, True)
        )
    for name in kind.FIGURES:
        theirs = [_number(each.details.get(name)) for each in before]
        found.append(_figure(name, _number(now.details.get(name)), theirs, most_late, by_chance, name not in kind.HIGHER_IS_BETTER))
    for metric in sorted(now.metrics, key=lambda each: each != kind.OUTCOME):  # what counts most is told first
        found += _metric_changes(metric, now, before, 0.0 if metric in kind.BY_GUESTS else late, metric not in kind.HIGHER_IS_BETTER)
    return [each for each in found if each.change.baseline is not None or each.change.measured is not None or each.change.why]


def _lost(now: Measurement, before: Sequence[Measurement]) -> _Raw:
    """More VMs that did not succeed than there: Fisher's exact test of the shares."""
    from scipy.stats import fisher_exact

    size = sum(each.size for each in before)
    mine, its = len(now.failed), sum(len(each.failed) for each in before)
    share, share_before = mine / max(1, now.size) * 100, its / max(1, size) * 100
    p = float(fisher_exact([[mine, now.size - mine], [its, size - its]]).pvalue)
    why = f"{mine} of {now.size} VMs did not succeed, {its} of {size} before" if mine or its else ""
    change = Change("failed_percent", "value", share_before, share, None, None, True, Finding.SHOWN, why=why)
    return _Raw(change, sure=p, worse=share > share_before)


def _metric_changes(metric: str, now: Measurement, before: Sequence[Measurement], late_seconds: float, lower_is_better: bool) -> list[_Raw]:
    """`late_seconds`: what its stamps may be late by, if it is a time."""
    import numpy as np

    mine, theirs = _values(now, metric, lower_is_better), [_values(each, metric, lower_is_better) for each in before]
    pooled = np.sort(np.concatenate(theirs))
    if not mine.size or not min(each.size for each in theirs) or not (np.isfinite(mine).any() or np.isfinite(pooled).any()):
        return []
    p = _rank_p(mine, pooled)
    floor = late_seconds if metric.endswith("_seconds") else 0.0
    found = []
    for percent in (50, 90, 95, 99) if lower_is_better else (50, 10, 5, 1):
        statistic = f"p{percent}"
        enough = min(percent, 100 - percent) / 100 * min(mine.size, pooled.size) >= TAIL_LEAST
        a, b = _rank(pooled.size, percent), _rank(mine.size, percent)
        first, second = float(pooled[a - 1]), float(mine[b - 1])
        change = Change(
            metric, statistic, _finite(first), _finite(second), _percent(first, second), None, lower_is_better, Finding.SHOWN, p
        )
        if not enough:
            found.append(_Raw(replace(change, why=f"too few VMs for a {statistic}")))
            continue
        drawn_before, drawn = _resampled(pooled, a, 0), _resampled(mine, b, 1)
        if change.change_percent is None:
            found.append(_beyond(change, drawn_before, drawn))
            continue
        by_chance = _spread_percent(drawn_before, drawn)
        if by_chance is None:
            found.append(_Raw(replace(change, why="the noise cannot be told: so many VMs have no value there")))
            continue
        runs = [float(each[_rank(each.size, percent) - 1]) for each in theirs]
        found.append(_Raw(change, noise_percent=_noise_percent(by_chance, runs), least=floor, corroborated=statistic == "p50"))
    return found


def _beyond(change: Change, before: Values, now: Values) -> _Raw:
    """A percentile that falls on VMs without a value, on one side or on both."""
    import numpy as np

    lost_before, lost_now = 1 - float(np.isfinite(before).mean()), 1 - float(np.isfinite(now).mean())
    if change.measured is None and change.baseline is not None:
        why = "falls on VMs that have no value, which it did not before"
        return _Raw(replace(change, why=why), sure=1 - lost_now + lost_before, worse=True)
    if change.baseline is None and change.measured is not None:
        why = "fell on VMs that had no value before"
        return _Raw(replace(change, why=why), sure=1 - lost_before + lost_now)
    return _Raw(replace(change, why="has no value here or before" if change.measured is None else "the baseline is not above 0"))


def _figure(
    name: str, mine: float | None, before: Sequence[float | None], late_seconds: float, by_chance_percent: float, lower_is_better: bool
) -> _Raw:
    """A figure that a run has one of: its noise is what runs differ by, and, of a time, what chance makes of the last VM that it waits
    for. `late_seconds`: what its stamps may be late by."""
    runs = [value for value in before if value is not None]
    mean = sum(runs) / len(runs) if runs else None
    change = Change(name, "value", mean, mine, None, None, lower_is_better, Finding.SHOWN)
    if mean is None or mine is None:
        missing = "here" if mine is None else "before"
        return _Raw(replace(change, why="" if mean is mine else f"there is none {missing}"))
    if mean <= 0:
        return _Raw(replace(change, why="the baseline is not above 0"))
    timed = name.endswith("_seconds")
    noise = _noise_percent(by_chance_percent if timed else 0.0, runs)
    return _Raw(replace(change, change_percent=_percent(mean, mine)), noise_percent=noise, least=late_seconds if timed else 0.0)


def _last_vm_percent(now: Measurement, before: Sequence[Measurement], metric: str) -> float:
    """What chance makes of the slowest of so many VMs, as a standard deviation. 0 where no metric says how a VM ended."""
    import numpy as np

    if not metric or not now.size or not all(each.size for each in before):
        return 0.0
    mine, theirs = _values(now, metric, True), np.sort(np.concatenate([_values(each, metric, True) for each in before]))
    return _spread_percent(_resampled(theirs, theirs.size, 0), _resampled(mine, mine.size, 1)) or 0.0


def _judge(raw: _Raw, tolerance_percent: float, chance: float) -> Change:
    change = raw.change
    if raw.sure is not None:
        if raw.sure >= chance:
            return replace(change, finding=Finding.SAME if change.metric == "failed_percent" else Finding.UNCLEAR)
        return replace(change, finding=Finding.REGRESSION if raw.worse else Finding.IMPROVEMENT)
    if raw.noise_percent is None or change.change_percent is None or change.baseline is None:
        return change
    noise = NormalDist().inv_cdf(1 - chance) * raw.noise_percent + raw.least / change.baseline * 100
    worse = change.change_percent if change.lower_is_better else -change.change_percent
    seen = abs(worse) > max(tolerance_percent, noise) and not (raw.corroborated and change.rank_p is not None and change.rank_p >= chance)
    if seen:
        finding = Finding.REGRESSION if worse > 0 else Finding.IMPROVEMENT
    else:
        finding = Finding.SAME if worse + noise <= tolerance_percent or noise <= tolerance_percent else Finding.UNCLEAR
    return replace(change, noise_percent=noise, finding=finding)


def _values(measurement: Measurement, metric: str, lower_is_better: bool) -> Values:
    """Ascending. A VM without a value has the worst there is: it is not left out, unless its kind has no such metric."""
    import numpy as np

    worst = math.inf if lower_is_better else -math.inf
    values = (record.value(metric) for record in measurement.records if record.applies(metric))
    return np.sort(np.array([worst if value is None else value for value in values], dtype=np.float64))


def _rank(size: int, percent: float) -> int:
    """Nearest rank, from 1: as model.Sample has it."""
    return max(1, math.ceil(percent / 100 * size - 1e-9))


def _resampled(ascending: Values, rank: int, stream: int) -> Values:
    """That order statistic of samples drawn from this one with replacement: the r-th smallest of n such draws is the value at
    rank n * Beta(r, n - r + 1), so nothing needs to be drawn but that."""
    import numpy as np

    size = ascending.size
    share = np.random.default_rng([SEED, stream]).beta(rank, size - rank + 1, RESAMPLES)
    return ascending[np.minimum((share * size).astype(np.int64), size - 1)]


def _spread_percent(before: Values, now: Values) -> float | None:
    """The ratio's standard deviation, in percent, from the middle 95 % of its resamples. None if it is not finite."""
    import numpy as np

    if (before <= 0).any():
        return None
    with np.errstate(invalid="ignore"):  # infinite by infinite
        low, high = np.quantile(now / before, [0.025, 0.975], method="inverted_cdf")
        spread = float(high - low) / (2 * 1.96) * 100
    return spread if math.isfinite(spread) else None


def _noise_percent(by_chance_percent: float, runs: Sequence[float]) -> float:
    """The larger of what chance among VMs makes, which enough runs may show to be less, and of what runs differ by."""
    if len(runs) >= ENOUGH_RUNS:
        by_chance_percent = min(by_chance_percent, _most_between_runs_percent(runs))
    return max(by_chance_percent, _between_runs_percent(runs))


def _between_runs_percent(runs: Sequence[float]) -> float:
    """The standard deviation of a new run against the mean of these, in percent of it."""
    count = len(runs)
    variance = ASSUMED_COUNTS_AS_RUNS * ASSUMED_SPREAD_PERCENT**2 + (count - 1) * _spread_of_runs_percent(runs) ** 2
    return math.sqrt(variance / (ASSUMED_COUNTS_AS_RUNS + count - 1) * (1 + 1 / count))


def _most_between_runs_percent(runs: Sequence[float]) -> float:
    """The same, were the runs by luck more alike than they are: an upper confidence bound, and nothing assumed."""
    from scipy.stats import chi2

    if not all(map(math.isfinite, runs)):
        return math.inf
    freedom = len(runs) - 1
    by_luck = freedom / float(chi2.ppf(1 - RUNS_CONFIDENCE, freedom))
    return _spread_of_runs_percent(runs) * math.sqrt(by_luck * (1 + 1 / len(runs)))


def _spread_of_runs_percent(runs: Sequence[float]) -> float:
    """Their standard deviation, in percent of their mean. 0 of one, or where it cannot be told."""
    mean = sum(runs) / len(runs)
    return stdev(runs) / mean * 100 if len(runs) > 1 and math.isfinite(mean) and mean > 0 else 0.0


def _rank_p(first: Values, second: Values) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(first, second).pvalue)


def _percent(before: float, now: float) -> float | None:
    return (now / before - 1) * 100 if math.isfinite(before) and math.isfinite(now) and before > 0 else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _word(value: Any) -> str:
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
