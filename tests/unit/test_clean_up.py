"""What suites do at their end, when that is interrupted or refused, and when their cluster is no longer theirs: it is told, and takes nothing
else with it."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from fixtures import workloads
from fixtures.cluster import Stage
from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.cluster.runtime import Runtime
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


def test_a_lease_that_is_lost_is_told_while_the_work_goes_on_and_makes_the_verdict_doubtful():
    said: list[str] = []
    with Runtime() as runtime:
        run = Run.__new__(Run)
        run.troubles = []
        stage = Stage(run, runtime, None, None, None, None)
        stage.say = said.append

        async def work() -> str:
            stage.lost("the lease is now held by 'run-2'")
            while not said:
                await asyncio.sleep(0.01)
            return "measured"

        assert stage.do(asyncio.wait_for(work(), 20)) == "measured"
    assert said == ["vmscale: the lease is now held by 'run-2'"]
    assert run.troubles == ["the lease is now held by 'run-2'"]
