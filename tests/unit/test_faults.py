"""What goes wrong, and what is said of a fault that there is not."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from pytest_vmscale.embedded import faults
from pytest_vmscale.embedded.clock import SimClock
from pytest_vmscale.embedded.faults import Fault, FaultError, Faults


class FakeClock(SimClock):
    """A clock that stands where it is put."""

    at = 0.0

    def now(self) -> float:
        return self.at


def make(*plan: Fault, seed: int = 0) -> tuple[Faults, FakeClock]:
    clock = FakeClock(1.0)
    return Faults(clock, list(plan), seed), clock


@pytest.mark.parametrize("text, complaint", [
    ("boot-slowdwn=1.3", "--fault boot-slowdwn=1.3: there is no fault 'boot-slowdwn'; did you mean boot-slowdown\\? there are .*watch-expiry"),
    ("boot-slowdown", "must be NAME=VALUE"),
    ("boot-slowdown=slow", "'slow' is not a number"),
    ("boot-slowdown=0.5", "between 1 and 1000, not 0.5"),
    ("guests-never-boot=1.5", "a whole number between"),
    ("api-errors=2", "between 0 and 1"),
    ("api-errors=nan", "between 0 and 1"),
])
def test_a_bad_option_gets_one_line(text: str, complaint: str) -> None:
    with pytest.raises(FaultError, match=complaint) as error:
        faults.parse_option(text)
    assert "\n" not in str(error.value)


def test_every_known_fault_can_be_given() -> None:
    for name, known in faults.KNOWN.items():
        assert faults.parse_option(f"{name}={known.most:g}").name == name


def test_a_plan_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("- {fault: boot-slowdown, value: 2, at: 10, for: 5}\n- {fault: watch-expiry, value: 60}\n")
    assert faults.load_plan(path) == [Fault("boot-slowdown", 2.0, 10.0, 5), Fault("watch-expiry", 60.0)]


@pytest.mark.parametrize("text, complaint", [
    ("- {fault: watch-expiry, value: 60}\n- {fault: nope, value: 1}\n", "plan.yaml:2: there is no fault 'nope'"),
    ("- {fault: watch-expiry}\n", "plan.yaml:1: an entry of a fault plan is"),
    ("- {fault: watch-expiry, value: 60, until: 3}\n", "plan.yaml:1: an entry of a fault plan is"),
    ("- {fault: watch-expiry, value: 60, at: -1}\n", "plan.yaml:1: at must be a number of at least 0, not -1"),
    ("fault: watch-expiry\n", "a fault plan is a list"),
    ("- {\n", r"plan\.yaml:2: is not YAML: [^\n]+$"),
])
def test_a_bad_plan_is_named_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(FaultError, match=complaint):
        faults.load_plan(path)


def test_a_fault_has_its_time() -> None:
    found, clock = make(Fault("boot-slowdown", 2.0, 10.0, 5.0))
    seen = []
    for clock.at in (0.0, 10.0, 14.9, 15.0):
        seen.append(found.boot_slowdown)
    assert seen == [1.0, 2.0, 2.0, 1.0]


def test_the_first_so_many_guests_are_struck_and_stay_so() -> None:
    found, _ = make(Fault("guests-never-boot", 2))
    assert [found.never_boots("ns", name) for name in ("a", "b", "c", "a", "c")] == [True, True, False, True, False]
    assert not found.stuck_scheduling("ns", "a")


def test_api_errors_come_in_bursts_at_their_share() -> None:
    found, _ = make(Fault("api-errors", 0.1))
    failures = [found.api_failure() for _ in range(20_000)]
    assert 0.08 < sum(each is not None for each in failures) / len(failures) < 0.12
    runs = sum(1 for one, two in itertools.pairwise(failures) if one is None and two is not None)
    assert sum(each is not None for each in failures) / runs > 2
    assert {each.code for each in failures if each} == {429, 500, 0}
    assert all(each.retry_after_seconds for each in failures if each and each.code == 429)


def test_all_requests_can_fail() -> None:
    found, _ = make(Fault("api-errors", 1.0))
    assert all(found.api_failure() for _ in range(100))


def test_the_same_seed_fails_the_same_requests() -> None:
    async def codes(seed: int) -> list[int | None]:
        found, _ = make(Fault("api-errors", 0.3), seed=seed)
        return [each.code if each else None for each in (found.api_failure() for _ in range(200))]

    assert asyncio.run(codes(1)) == asyncio.run(codes(1)) != asyncio.run(codes(2))
