"""Zones on a whole embedded cluster: made, rolled out to, interrupted, and taken back until nothing tells that they were there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.cleanup import remove_run
from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import ClusterError, load_access
from pytest_vmscale.cluster.edits import Edits
from pytest_vmscale.cluster.embedded import read_clock, set_speed, start_embedded
from pytest_vmscale.cluster.requests import Cluster
from pytest_vmscale.procedures.hyperconverged import set_live_migration, set_virt_api_replicas
from pytest_vmscale.procedures.nodes import NodeWatch
from pytest_vmscale.procedures.zones import Zones, existing_zones, make_zones, roll_out, unfit_pools

WORKERS, SPEED, FAST = 6, 60.0, 600.0
DEADLINE_SECONDS = 4000.0
MACHINE_CONFIG = "/apis/machineconfiguration.openshift.io/v1"
HYPERCONVERGED = "/apis/hco.kubevirt.io/v1beta1/namespaces/openshift-cnv/hyperconvergeds"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    process = start_embedded(tmp_path / "state", speed=FAST, workers=WORKERS, truth=tmp_path / "truth.jsonl")
    yield process
    process.stop()


def on(started: Any, work: Callable[[Cluster, Clock], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        clock = Clock()
        async with Cluster(load_access(started.kubeconfig), clock) as cluster:
            await read_clock(cluster, clock)
            return await work(cluster, clock)

    return asyncio.run(run())


async def as_it_is(cluster: Cluster) -> dict[str, Any]:
    """What `kubectl get mcp,mc,hco,nodes -o yaml` shows, without statuses, versions and the kubelets' own heartbeats."""
    found = {}
    for path in (f"{MACHINE_CONFIG}/machineconfigpools", f"{MACHINE_CONFIG}/machineconfigs", HYPERCONVERGED, "/api/v1/nodes"):
        for each in await cluster.list_all(path):
            for key in ("resourceVersion", "generation", "managedFields"):
                each["metadata"].pop(key, None)
            each["metadata"].get("annotations", {}).pop("kubevirt.io/heartbeat", None)
            each.pop("status", None)
            found[f"{path}/{each['metadata']['name']}"] = each
    return found


async def zones_of(cluster: Cluster, edits: Edits, watch: NodeWatch) -> Zones:
    assert await unfit_pools(cluster) == []
    return await make_zones(cluster, edits, watch, 3, 10, deadline_seconds=DEADLINE_SECONDS)


def truth(path: Path, kind: str, after: float) -> dict[str, float]:
    """When it first happened to each node after this time."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    epoch = lines[0]["t0_epoch"]
    found = [(each["name"], epoch + each["t"]) for each in lines if each["kind"] == kind]
    return dict(reversed([(name, at) for name, at in found if at > after]))


def test_a_zone_is_rolled_out_to_and_everything_is_put_back(started, tmp_path):
    async def work(cluster, clock):
        before = await as_it_is(cluster)
        edits = Edits(cluster, "z1")
        async with NodeWatch(cluster, clock) as watch:
            zones = await zones_of(cluster, edits, watch)
            assert [zone.nodes for zone in zones.zones] == [("worker-000", "worker-003"), ("worker-001", "worker-004"), ("worker-002", "worker-005")]
            await set_live_migration(cluster, edits, {"parallelMigrationsPerCluster": 20, "parallelOutboundMigrationsPerNode": 4})
            assert await set_virt_api_replicas(cluster, edits, 3001) == 5
            zone = zones.zones[1]
            await set_speed(cluster, clock, SPEED)
            watch.begin()
            begun = clock.now()
            await roll_out(edits, zone, "z1", 0)
            assert await watch.wait(lambda: watch.pool_times(zone.name).updated_seconds is not None, DEADLINE_SECONDS)
            records, times = watch.records([*zone.nodes, *zones.others(zone)]), watch.pool_times(zone.name)
            with pytest.raises(ClusterError, match="MachineConfigPool zone-0 is there already"):
                await zones_of(cluster, Edits(cluster, "z2"), watch)
            site = await existing_zones(cluster, ["zone-0", "zone-2"])
            assert [(each.nodes, each.made) for each in site.zones] == [(("worker-000", "worker-003"), False), (("worker-002", "worker-005"), False)]
            with pytest.raises(ClusterError, match="there is no MachineConfigPool zone-9; there are master, worker, zone-0, zone-1, zone-2"):
                await existing_zones(cluster, ["zone-9"])
        await set_speed(cluster, clock, FAST)
        return before, begun, records, times

    before, begun, records, times = on(started, work)
    moved, rest = records[:2], records[2:]
    assert all(each.rebooted and each.trouble == "" for each in moved) and not any(each.rebooted or each.cordoned_seconds for each in rest)
    for each in moved:
        steps = [each.cordoned_seconds, each.drained_seconds, each.down_seconds, each.rebooted_seconds, each.ready_seconds,
                 each.uncordoned_seconds, each.done_seconds]  # fmt: skip
        assert None not in steps and steps == sorted(steps) and steps[-1] <= times.updated_seconds
    assert [count[1:] for count in times.counts][-1] == (2, 2, 0)
    # As `vmscale cleanup` does it, from another process.
    done = remove_run("z1", str(started.kubeconfig), None)
    assert done.left == ()
    assert on(started, lambda cluster, clock: as_it_is(cluster)) == before
    started.stop()  # it writes down what it has not yet
    for kind, step in (("node-cordoned", "cordoned_seconds"), ("node-done", "done_seconds")):
        for each in moved:
            assert begun + getattr(each, step) == pytest.approx(truth(tmp_path / "truth.jsonl", kind, begun)[each.name], abs=5.0), kind


def test_a_run_that_was_killed_in_mid_drain_is_cleaned_up_after(started):
    async def work(cluster, clock):
        pool = f"{MACHINE_CONFIG}/machineconfigpools/worker"
        await cluster.patch(pool, {"spec": {"paused": True}})
        assert await unfit_pools(cluster) == ["pool worker is paused"]
        await cluster.patch(pool, {"spec": {"paused": False}})
        before = await as_it_is(cluster)
        edits = Edits(cluster, "z3")
        async with NodeWatch(cluster, clock) as watch:
            zones = await zones_of(cluster, edits, watch)
            await roll_out(edits, zones.zones[0], "z3", 0)
            cordoned = "worker-000"
            assert await watch.wait(lambda: watch.nodes[cordoned].spec.unschedulable, DEADLINE_SECONDS)
        return before

    before = on(started, work)
    assert remove_run("z3", str(started.kubeconfig), None).left == ()
    assert on(started, lambda cluster, clock: as_it_is(cluster)) == before
    assert remove_run("z3", str(started.kubeconfig), None).undone == 0
