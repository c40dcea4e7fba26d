"""Procedures against a whole embedded cluster: a fleet's life over every route to its guests, held against the ground truth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import load_access
from pytest_vmscale.cluster.embedded import read_clock, set_speed, start_embedded
from pytest_vmscale.cluster.lease import Lease
from pytest_vmscale.cluster.requests import Cluster
from pytest_vmscale.guest.keys import make_key
from pytest_vmscale.guest.login import Credentials
from pytest_vmscale.guest.probe import Readiness
from pytest_vmscale.guest.route import DirectRoute, JumpHostRoute, PortForwardRoute, Route
from pytest_vmscale.model import LABEL_FLEET, LABEL_INDEX, LABEL_OS, LABEL_RUN, Fleet, Guest, Measurement, Status
from pytest_vmscale.procedures.boot_storm import boot_storm
from pytest_vmscale.procedures.fleet import Removal, find_fleet, provision, remove, stop_all

SPEED, PROVISION_SPEED = 20.0, 400.0
INTERVAL_SECONDS = 2.0
RUN_ID = "r1"
# Truth is written a moment before or after the thing itself.
ROUNDING_SECONDS = 0.01
CLOCKS_SECONDS = 0.2  # 10 ms of the wall at 20x: a machine that is busy keeps the cluster's own clock waiting, too


def make_fleet(count: int) -> Fleet:
    return Fleet(RUN_ID, "main", tuple(Guest(f"ns-{index % 2}", f"vm-{index}", "fedora", index) for index in range(count)))


def manifests(fleet: Fleet, public_key: str) -> list[dict[str, Any]]:
    return [
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {LABEL_RUN: RUN_ID}}}
            for name in fleet.namespaces
        ),
        *(virtual_machine(guest, public_key) for guest in fleet.guests),
    ]


def virtual_machine(guest: Guest, public_key: str) -> dict[str, Any]:
    labels = {LABEL_RUN: RUN_ID, LABEL_FLEET: "main", LABEL_OS: guest.os, LABEL_INDEX: str(guest.index)}
    user_data = f"#cloud-config\nssh_authorized_keys:\n- {public_key}\n"
    volumes = [
        {"name": "root", "containerDisk": {"image": "quay.io/containerdisks/fedora:40"}},
        {"name": "init", "cloudInitNoCloud": {"userData": user_data}},
    ]
    devices = {
        "disks": [{"name": name, "disk": {"bus": "virtio"}} for name in ("root", "init")],
        "interfaces": [{"name": "nic", "masquerade": {}}],
    }
    domain = {"devices": devices, "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": guest.name, "namespace": guest.namespace, "labels": labels},
        "spec": {
            "runStrategy": "Halted",
            "template": {
                "metadata": {"labels": labels},
                "spec": {"domain": domain, "networks": [{"name": "nic", "pod": {}}], "volumes": volumes},
            },
        },
    }


def make_route(via: str, cluster: Cluster) -> Route:
    if via == "jump":
        assert cluster.access.embedded is not None and cluster.access.embedded.jump_host is not None
        return JumpHostRoute(cluster.access.embedded.jump_host)
    return PortForwardRoute(cluster) if via == "port-forward" else DirectRoute()


def whole_life(
    tmp_path: Path, count: int, via: str, faults: tuple[str, ...] = (), deadline_seconds: float = 1000.0
) -> tuple[Measurement, Removal, dict[tuple[str, str, str], float]]:
    """Provision, storm, stop, find, remove; and what really happened: cluster Unix times by kind, namespace and name."""
    truth = tmp_path / "truth.jsonl"
    process = start_embedded(tmp_path / "state", speed=SPEED, workers=3, seed=1, truth=truth, faults=faults)
    key = tmp_path / "key"
    public_key = make_key(key, "test")
    fleet = make_fleet(count)

    async def run() -> tuple[Measurement, Removal]:
        clock = Clock()
        async with Cluster(load_access(process.kubeconfig), clock) as cluster:
            await read_clock(cluster, clock)
            async with Lease(cluster, RUN_ID, pytest.fail):
                assert cluster.access.embedded is not None
                await set_speed(cluster, clock, PROVISION_SPEED)
                await provision(cluster, manifests(fleet, public_key), fleet, clock, deadline_seconds=6000)
                await set_speed(cluster, clock, SPEED)
                route = make_route(via, cluster)
                measurement = await boot_storm(
                    cluster,
                    fleet,
                    clock,
                    run_id=RUN_ID,
                    route=route,
                    readiness={"fedora": Readiness.ssh(cluster.access.embedded.guest_ssh_port)},
                    ssh_interval_seconds=INTERVAL_SECONDS,
                    deadline_seconds=deadline_seconds,
                    parameters={"vms": count},
                    prove_login=lambda guest: Credentials("fedora", key),
                )
                await route.close()
                await set_speed(cluster, clock, PROVISION_SPEED)
                await stop_all(cluster, fleet, clock, deadline_seconds=6000)
                assert await find_fleet(cluster, RUN_ID) == fleet
                return measurement, await remove(cluster, f"{LABEL_RUN}={RUN_ID}", clock, deadline_seconds=6000)

    try:
        measurement, removal = asyncio.run(run())
    finally:
        process.stop()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    epoch = lines[0]["t0_epoch"]
    return measurement, removal, {(each["kind"], each.get("namespace", ""), each.get("name", "")): epoch + each["t"] for each in lines}


def assert_true(measurement: Measurement, truth: Mapping[tuple[str, str, str], float]) -> None:
    """Nothing was seen before it happened, and SSH within the error that its record admits."""
    for record in measurement.records:
        t0 = measurement.started_epoch + record.requested_at
        for kind, seconds in (("vmi-created", record.time_to_vm_created_seconds), ("vmi-running", record.time_to_vmi_running_seconds)):
            assert seconds is not None
            assert t0 + seconds - truth[kind, record.namespace, record.vm_name] >= -ROUNDING_SECONDS
        if record.time_to_ssh_seconds is not None and record.error_bound_seconds is not None:
            error = t0 + record.time_to_ssh_seconds - truth["guest-ssh-ready", record.namespace, record.vm_name]
            assert -ROUNDING_SECONDS <= error <= record.error_bound_seconds + CLOCKS_SECONDS


@pytest.mark.parametrize("via", ["direct", "jump", "port-forward"])
def test_a_fleets_life_over_every_route(tmp_path: Path, via: str) -> None:
    measurement, removal, truth = whole_life(tmp_path, 6, via)
    assert [record.status for record in measurement.records] == [Status.SUCCESS] * 6
    assert measurement.details["login"]["ok"] is True, measurement.details["login"]
    assert measurement.gaps == () and measurement.details["request_retries"] == {}
    assert_true(measurement, truth)
    assert removal.left == () and removal.deleted == 8


def test_a_bad_day_is_measured_all_the_same(tmp_path: Path) -> None:
    """API errors, expiring watches and guests that never answer: nothing is lost, and what was not seen in time says so."""
    faults = ("api-errors=0.2", "watch-expiry=10", "guests-never-boot=2")
    measurement, removal, truth = whole_life(tmp_path, 12, "direct", faults, deadline_seconds=150.0)
    statuses = [record.status for record in measurement.records]
    assert (statuses.count(Status.SUCCESS), statuses.count(Status.TIMED_OUT)) == (10, 2)
    assert all("last phase Running" in (record.error or "") for record in measurement.failed)
    assert measurement.gaps and all(gap.end_seconds >= gap.start_seconds for gap in measurement.gaps)
    assert_true(measurement, truth)
    assert removal.left == ()
