"""A node with VMs is drained by its machine config, on a whole embedded cluster in virtual time: what comes of which cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.embedded import timing
from pytest_vmscale.embedded.cluster import Cluster, Options
from pytest_vmscale.embedded.faults import Fault
from pytest_vmscale.embedded.state import State

from .virtual import run

VMIS, MIGRATIONS, VMS, POOLS = (f"{plural}.{group}" for plural, group in (
    ("virtualmachineinstances", "kubevirt.io"), ("virtualmachineinstancemigrations", "kubevirt.io"), ("virtualmachines", "kubevirt.io"),
    ("machineconfigpools", "machineconfiguration.openshift.io")))
LABEL = "node-role.kubernetes.io/zone-0"
SETTLED_SECONDS = 120.0
DRAINED_SECONDS = 8000.0
SPEED = 100.0


class Zone:
    """One worker with all VMs, in a pool of its own, and five others."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.resources, self.clock = cluster, cluster.resources, cluster.clock
        self.kind = cluster.resources.kind
        self.nodes = [f"worker-{number:03d}" for number in range(6)]
        self.most_from_node = 0  # unfinished migrations at a time

    def change(self, plural: str, name: str, change: Any, namespace: str = "") -> None:
        self.resources.modify(self.kind(plural), namespace, name, change)

    async def until(self, check: Any, seconds: float) -> float:
        start = self.clock.now()
        while not check():
            assert self.clock.now() - start < seconds, f"not so within {seconds} s"
            await self.clock.sleep(1.0)
        return self.clock.now() - start

    def list(self, plural: str) -> list[Any]:
        return self.resources.list(self.kind(plural))

    def pool_is_updated(self) -> bool:
        status = self.resources.get(self.kind(POOLS), "", "zone-0").get("status") or {}
        return status.get("machineCount") == 1 and any(
            each["type"] == "Updated" and each["status"] == "True" for each in status.get("conditions") or ())

    async def set_up(self, migrating: int, restarting: int) -> None:
        self.change("nodes", self.nodes[0], lambda node: node["metadata"]["labels"].update({LABEL: ""}))
        role = {"key": "machineconfiguration.openshift.io/role", "operator": "In", "values": ["worker", "zone-0"]}
        self.resources.create(self.kind(POOLS), {"metadata": {"name": "zone-0"}, "spec": {
            "machineConfigSelector": {"matchExpressions": [role]}, "nodeSelector": {"matchLabels": {LABEL: ""}}, "maxUnavailable": 1, "paused": False}})
        self.change("hyperconvergeds.hco.kubevirt.io", "kubevirt-hyperconverged", lambda hco: hco["spec"]["liveMigrationConfig"].update(
            parallelMigrationsPerCluster=8, parallelOutboundMigrationsPerNode=2), "openshift-cnv")
        for name in self.nodes[1:]:
            self.change("nodes", name, lambda node: node["spec"].update(unschedulable=True))
        self.resources.create(self.kind("namespaces"), {"metadata": {"name": "vms"}})
        for number in range(migrating + restarting):
            spec = {"domain": {"devices": {}, "resources": {"requests": {"memory": "1Gi"}}},
                    "volumes": [{"name": "root", "containerDisk": {"image": "quay.io/containerdisks/fedora:35"}}]}
            if number < migrating:
                spec["evictionStrategy"] = "LiveMigrate"
            self.resources.create(self.kind(VMS), {"metadata": {"name": f"vm-{number:02d}", "namespace": "vms"},
                                                   "spec": {"runStrategy": "Always", "template": {"metadata": {}, "spec": spec}}})
        await self.until(lambda: self.pool_is_updated() and sum(
            vmi.get("status", {}).get("phase") == "Running" for vmi in self.list(VMIS)) == migrating + restarting, 1000)
        for name in self.nodes[1:]:
            self.change("nodes", name, lambda node: node["spec"].pop("unschedulable"))
        await self.clock.sleep(SETTLED_SECONDS)
        self.resources.watch(self.kind(MIGRATIONS), lambda change: self._count())

    def _count(self) -> None:
        there = {vmi["metadata"]["name"] for vmi in self.list(VMIS) if vmi.get("status", {}).get("nodeName") == self.nodes[0]}
        unfinished = [each for each in self.list(MIGRATIONS) if each.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
        self.most_from_node = max(self.most_from_node, sum(each["spec"]["vmiName"] in there for each in unfinished))

    def trigger(self) -> None:
        files = [{"path": "/etc/vmscale/trigger", "mode": 420, "overwrite": True, "contents": {"source": "data:,foo"}}]
        self.resources.create(self.kind("machineconfigs.machineconfiguration.openshift.io"), {
            "metadata": {"name": "99-trigger", "labels": {"machineconfiguration.openshift.io/role": "zone-0"}},
            "spec": {"config": {"ignition": {"version": "3.2.0"}, "storage": {"files": files}}}})


def on_a_zone(folder: Path, scenario: Any, faults: tuple[Fault, ...] = (), migrating: int = 8, restarting: int = 2, **migration: Any) -> Any:
    async def inside() -> Any:
        profile = timing.load().replaced("migration", **migration)
        cluster = Cluster(Options(profile, speed=SPEED, workers=6, plan=list(faults), truth=folder / "truth.jsonl"), State(folder / "state"))
        await cluster.start()
        try:
            zone = Zone(cluster)
            await zone.set_up(migrating, restarting)
            return await scenario(zone)
        finally:
            await cluster.stop()

    return run(inside())


async def drained(zone: Zone) -> tuple[float, int]:
    zone.trigger()
    await zone.until(lambda: not zone.pool_is_updated(), 100)
    return await zone.until(zone.pool_is_updated, DRAINED_SECONDS), zone.most_from_node


def test_what_migrates_keeps_running_and_what_does_not_restarts(tmp_path: Path) -> None:
    async def scenario(zone: Zone) -> None:
        before = {vmi["metadata"]["name"]: vmi["metadata"]["uid"] for vmi in zone.list(VMIS)}
        await drained(zone)
        same = {vmi["metadata"]["name"] for vmi in zone.list(VMIS) if vmi["metadata"]["uid"] == before[vmi["metadata"]["name"]]}
        assert same == {f"vm-{number:02d}" for number in range(8)}
        assert all(vmi["status"]["phase"] == "Running" and vmi["status"]["nodeName"] != zone.nodes[0] for vmi in zone.list(VMIS))
        assert [each["status"]["phase"] for each in zone.list(MIGRATIONS)] == ["Succeeded"] * 8

    on_a_zone(tmp_path, scenario)
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    names = {kind: sorted(each["name"] for each in truth if each["kind"] == kind) for kind in ("eviction-requested", "migrated")}
    assert names == {"eviction-requested": [f"vm-{number:02d}" for number in range(10)], "migrated": [f"vm-{number:02d}" for number in range(8)]}


def test_before_the_old_bug_was_fixed_evacuations_took_more_slots_than_their_node_may_use(tmp_path: Path) -> None:
    _, with_bug = on_a_zone(tmp_path, drained, evacuation_limit="cluster")
    assert with_bug == 8
    (tmp_path / "fixed").mkdir()
    _, fixed = on_a_zone(tmp_path / "fixed", drained, evacuation_limit="node")
    assert fixed == 2


def test_the_more_vms_there_are_the_longer_the_migration_controller_takes(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    usual, _ = on_a_zone(tmp_path, drained, pass_seconds_per_vmi=0.0049)
    more, _ = on_a_zone(tmp_path / "more", drained, pass_seconds_per_vmi=1.0)  # as if each VM were two hundred
    assert more > usual + 300


def test_a_vm_that_cannot_migrate_blocks_the_drain_of_its_node_alone(tmp_path: Path) -> None:
    async def scenario(zone: Zone) -> None:
        zone.trigger()
        await zone.clock.sleep(3000)
        left = [vmi for vmi in zone.list(VMIS) if vmi["status"]["nodeName"] == zone.nodes[0]]
        assert len(left) == 1 and not zone.pool_is_updated()
        migratable = next(each for each in left[0]["status"]["conditions"] if each["type"] == "LiveMigratable")
        assert migratable["status"] == "False"
        node = zone.resources.get(zone.kind("nodes"), "", zone.nodes[0])
        assert node["spec"]["unschedulable"] and zone.cluster.hosts.is_up(zone.nodes[0])

    on_a_zone(tmp_path, scenario, faults=(Fault("not-migratable", 1, at=100),))


@pytest.mark.parametrize("fault", ["migration-fails", "migration-hangs"])
def test_migrations_that_come_to_nothing_are_tried_again_and_their_vm_stays(tmp_path: Path, fault: str) -> None:
    async def scenario(zone: Zone) -> None:
        zone.trigger()
        await zone.until(lambda: sum(each.get("status", {}).get("phase") == "Failed" for each in zone.list(MIGRATIONS)) >= 2, 3000)
        failed = {each["spec"]["vmiName"] for each in zone.list(MIGRATIONS) if each.get("status", {}).get("phase") == "Failed"}
        assert len(failed) == 1
        vmi = zone.resources.get(zone.kind(VMIS), "vms", failed.pop())
        assert vmi["status"]["phase"] == "Running" and vmi["status"]["nodeName"] == zone.nodes[0]
        assert vmi["status"]["evacuationNodeName"] == zone.nodes[0] and not zone.pool_is_updated()

    on_a_zone(tmp_path, scenario, faults=(Fault(fault, 1),))
