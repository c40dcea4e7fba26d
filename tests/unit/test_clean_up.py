"""What suites do at their end, when that is interrupted or refused: it is told, and takes nothing else with it."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from fixtures import workloads
from fixtures.cluster import Stage
from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.procedures import fleet
from pytest_vmscale.procedures.fillers import Fillers
from pytest_vmscale.run import Run


class StageWithoutCluster(Stage):
    """Where the work itself says what becomes of it."""

    def __init__(self, keep: bool = False) -> None:
        run = Run.__new__(Run)
        run.settings, run.cleanup, run.interruptions = SimpleNamespace(keep=keep), None, 0
        run.provision_deadline_seconds = lambda: 60.0  # type: ignore[method-assign]
        self.run, self.cluster, self.clock, self.said = run, None, None, []

    def say(self, line: str) -> None:
        self.said.append(line)

    def do(self, work, tick=None):
        return work

    def unmeasured(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (KeyboardInterrupt(), "the removal of the idle pods was interrupted"),
        (ClusterError("no route"), "the idle pods could not be removed: no route"),
    ],
)
def test_idle_pods_that_are_not_removed_are_told_and_end_nothing_else(monkeypatch, error, why):
    def remove(*arguments, **options):
        raise error

    monkeypatch.setattr(fleet, "remove", remove)
    monkeypatch.setattr(workloads, "create_all", lambda *arguments: None)
    monkeypatch.setattr(workloads, "wait_for_pods", lambda *arguments: None)
    stage = StageWithoutCluster()
    with workloads.idle(stage, Fillers("r1", "background", "space", 5)):
        pass
    assert stage.run.cleanup == {"requested": True, "status": "Failed", "left": [], "why": why}
    assert stage.said[-1] == f"vmscale: {why}"


def test_what_is_left_behind_is_named():
    stage = StageWithoutCluster()
    stage.undo(lambda: ("a: deleted, waits for x",), "was interrupted", "failed")
    assert stage.run.cleanup == {"requested": True, "status": "Failed", "left": ["a: deleted, waits for x"]}
    assert stage.said == ["vmscale: left behind: a: deleted, waits for x"]


def test_what_is_kept_is_not_removed(monkeypatch):
    monkeypatch.setattr(fleet, "remove", lambda *arguments, **options: pytest.fail("it was removed"))
    stage = StageWithoutCluster(keep=True)
    workloads.remove(stage, "a=b")
    assert stage.run.cleanup == {"requested": False, "status": None, "left": []}


def test_other_errors_are_raised():
    with pytest.raises(ZeroDivisionError):
        StageWithoutCluster().undo(lambda: 1 / 0, "was interrupted", "failed")
