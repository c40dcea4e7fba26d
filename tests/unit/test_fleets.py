"""Which guests a fleet has, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from fixtures.fleets import HowFar
from pytest_vmscale.fleets import namespace_prefix, plan_fleet


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
