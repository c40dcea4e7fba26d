"""Which guests a fleet has, and what is said of it."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from hypothesis import given
from hypothesis import strategies as st

from fixtures.cluster import Stage
from fixtures.fleets import HowFar
from fixtures.workloads import idle
from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.fleets import namespace_prefix, plan_fleet
from pytest_vmscale.procedures.fillers import Fillers


def settings(mix: dict[str, int], per_namespace: int = 100) -> SimpleNamespace:
    return SimpleNamespace(mix=lambda count, default: mix, vms_per_namespace=per_namespace, run_id="r1")


def test_guests_are_dealt_evenly_and_fill_their_namespaces():
    guests = plan_fleet(settings({"rhel": 125, "fedora": 75, "windows": 50}), "main", 250).guests
    assert [sum(guest.namespace == name for guest in guests) for name in ("vmscale-r1-0", "vmscale-r1-1", "vmscale-r1-2")] == [100, 100, 50]
    assert len({guest.key for guest in guests}) == 250
    first = [guest.os for guest in guests[:50]]
    assert [first.count(name) for name in ("rhel", "fedora", "windows")] == [25, 15, 10]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 80))
def test_every_fleet_has_exactly_its_mix(rhel, fedora, per_namespace):
    fleet = plan_fleet(settings({"rhel": rhel, "fedora": fedora}, per_namespace), "main", rhel + fedora)
    assert fleet.os_mix == {"rhel": rhel, "fedora": fedora}
    assert len(fleet.namespaces) == -(-(rhel + fedora) // per_namespace)
    assert replace(fleet, guests=()).guests == ()


def test_fleets_beside_the_main_one_have_namespaces_of_their_own():
    assert {namespace_prefix("r1", name) for name in ("main", "latency")} == {"vmscale-r1", "vmscale-r1-latency"}


def test_how_far_provisioning_is_gets_a_line_every_ten_seconds(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    far = HowFar(said.append)
    for second in range(25):
        now[0] = 100.0 + second
        far("provisioned", second, 30)
        far.tick()
    assert said == [f"vmscale: {seconds} of 30 provisioned after {seconds} s of wall time" for seconds in (10, 20)]


def test_what_goes_wrong_with_the_removal_of_idle_pods_is_told_and_takes_nothing_with_it() -> None:
    asked: list[str] = []

    def do(work: Coroutine[Any, Any, Any], tick: object = None) -> None:
        asked.append(work.cr_code.co_name)
        work.close()
        if asked[-1] == "remove":
            raise ClusterError("the server is gone")

    stage, whys = Stage(*[MagicMock()] * 4, None, MagicMock()), list[str]()
    stage.do, stage.say, stage.unmeasured, stage.terminal = do, print, contextlib.nullcontext, contextlib.nullcontext
    stage.run.settings.keep, stage.run.cleaned_up = False, lambda why: whys.append(why)
    with idle(stage, Fillers("r1", "latency-pods", "vmscale-r1-latency-pods", 3)):
        pass
    assert asked == ["create_all", "wait_for_pods", "remove"]
    assert whys == ["the idle pods could not be removed: the server is gone"]
