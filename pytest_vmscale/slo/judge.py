"""One Verdict over all of a run's objectives."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_vmscale.model import Objective, Outcome


class Ruling(enum.StrEnum):
    """What a whole run came to."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    UNFIT = "unfit"


EXIT_INTERRUPTED = 2  # pytest's own: Ctrl-C ends a run so, whatever it had found
EXIT_CODES = {Ruling.PASS: 0, Ruling.FAIL: 1, Ruling.UNFIT: 10, Ruling.INCONCLUSIVE: 11}


@dataclass(frozen=True)
class Verdict:
    """A run's ruling, its exit code, and why, in sentences (never empty)."""

    ruling: Ruling
    why: tuple[str, ...]
    objectives: tuple[Objective, ...] = ()
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        return EXIT_INTERRUPTED if self.interrupted else EXIT_CODES[self.ruling]


def verdict(
    objectives: Sequence[Objective], troubles: Sequence[str] = (), unfit: Sequence[str] = (), failures: Sequence[str] = ()
) -> Verdict:
    """The verdict of a run. `unfit`: why the cluster does not suit a suite. `troubles`: what kept a measurement
    from being taken. `failures`: tests that failed for a reason of their own. A broken objective outweighs all else: what was
    measured does not get better by what was not."""
    everything = tuple(objectives)
    broken = [*(_sentence(each) for each in everything if each.outcome is Outcome.FAIL), *failures]
    doubts = [*troubles, *_doubts(each for each in everything if each.outcome is Outcome.INCONCLUSIVE)]
    if broken:
        return Verdict(Ruling.FAIL, (*broken, *unfit, *doubts), everything)
    if unfit:
        return Verdict(Ruling.UNFIT, (*unfit, *doubts), everything)
    if doubts:
        return Verdict(Ruling.INCONCLUSIVE, tuple(doubts), everything)
    passed = sum(each.outcome is Outcome.PASS for each in everything)
    if not passed:
        return Verdict(Ruling.INCONCLUSIVE, ("No objective was judged.",), everything)
    return Verdict(Ruling.PASS, (f"All {passed} judged objectives are met.",), everything)


def _doubts(objectives: Iterable[Objective]) -> list[str]:
    """A sentence for each; but one for all objectives of a measurement that fail to be judged for the same reason."""
    groups: dict[tuple[str, str], list[Objective]] = {}
    for each in objectives:
        groups.setdefault((each.scope, each.why), []).append(each)
    return [
        _sentence(group[0]) if len(group) == 1 else f"{len(group)} objectives{f' ({scope})' if scope else ''}: {why}."
        for (scope, why), group in groups.items()
    ]


def _sentence(objective: Objective) -> str:
    scope = f" ({objective.scope})" if objective.scope else ""
    return f"{objective.title}{scope}: {objective.why or objective.measured_text}."
