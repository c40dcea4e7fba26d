"""The guests' fio: what it takes, what it writes, and where its latencies come from."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from pytest_vmscale.embedded import timing as profiles
from pytest_vmscale.embedded.clock import SimClock
from pytest_vmscale.embedded.disk import Disk
from pytest_vmscale.embedded.faults import Fault, Faults
from pytest_vmscale.embedded.fio_results import bins
from pytest_vmscale.embedded.guest_ssh import Login
from pytest_vmscale.embedded.guests import Guest
from pytest_vmscale.embedded.iomodel import Demand, Pool
from pytest_vmscale.embedded.machine import Machine
from pytest_vmscale.embedded.shell import Shell
from pytest_vmscale.guest.fio import Dataset, Job, parse, render_job, render_layout
from pytest_vmscale.guest.histogram import LAST_BIN, bin_index, bin_value

SPEED = 50_000.0
WORKERS = [f"worker-{number:03d}" for number in range(100)]
TINY = Dataset(3, 2, 65536)


def make_pool(clock: SimClock, *plan: Fault, **changed: Any) -> Pool:
    timing: Any = profiles.load().replaced("pool", **changed)
    return Pool(clock, timing.pool, Faults(clock, list(plan)), lambda: WORKERS)


def in_a_guest(*scripts: str, files: dict[str, str] | None = None, machine: Machine | None = None) -> tuple[Disk, list[tuple[str, str, int]]]:
    async def inside() -> tuple[Disk, list[tuple[str, str, int]]]:
        clock = SimClock(SPEED)
        inside = machine or Machine()
        inside.pool = inside.pool or make_pool(clock)
        guest = Guest("11111111-2222-4333-8444-555555555555", "ns", "vm1", "worker-000", "rhel", "127.9.1.1", Login(anybody=True), 0.0, machine=inside)
        for name, text in (files or {}).items():
            inside.disk.write(f"/tmp/{name}", text.encode())
        found = [await Shell(guest, clock).run(f"cd /tmp; {script}") for script in scripts]
        return inside.disk, found

    return asyncio.run(inside())


LAYOUT = "mkdir data && fio --output-format=json+ --output=l.json layout.fio"


def fio_run(job: Job, **files: str) -> dict[str, Any]:
    disk, found = in_a_guest(LAYOUT, "fio --output-format=json+ --output=out.json job.fio", files={"layout.fio": render_layout(TINY), "job.fio": render_job(job)})
    assert [each[2] for each in found] == [0, 0], found
    document: dict[str, Any] = json.loads(disk.read("/tmp/out.json"))
    return document


def test_it_writes_what_the_real_one_does() -> None:
    """The keys, and the types of their values, of fio 3.33's json+; `job options` it leaves out only where there is a global section."""
    document = fio_run(Job("baseline-read", "read", iops=10, runtime_seconds=30))
    job = document["jobs"][0]
    assert set(document) == {"fio version", "timestamp", "timestamp_ms", "time", "jobs", "disk_util"}
    assert set(job) == {
        "jobname", "groupid", "error", "eta", "elapsed", "job options", "read", "write", "trim", "sync", "job_runtime", "usr_cpu", "sys_cpu", "ctx", "majf",
        "minf", "iodepth_level", "iodepth_submit", "iodepth_complete", "latency_ns", "latency_us", "latency_ms", "latency_depth", "latency_target",
        "latency_percentile", "latency_window"}
    assert set(job["read"]) == {
        "io_bytes", "io_kbytes", "bw_bytes", "bw", "iops", "runtime", "total_ios", "short_ios", "drop_ios", "slat_ns", "clat_ns", "lat_ns", "bw_min",
        "bw_max", "bw_agg", "bw_mean", "bw_dev", "bw_samples", "iops_min", "iops_max", "iops_mean", "iops_stddev", "iops_samples"}
    read = job["read"]
    assert set(read["clat_ns"]) == {"min", "max", "mean", "stddev", "N", "percentile", "bins"}
    assert (read["total_ios"], read["iops"], read["runtime"], read["io_bytes"]) == (300, 10.0, 30000, 300 * 4096)
    assert sum(read["clat_ns"]["bins"].values()) == read["clat_ns"]["N"] == 300
    assert read["clat_ns"]["min"] <= read["clat_ns"]["percentile"]["50.000000"] <= read["clat_ns"]["max"]
    assert sum(job["latency_us"].values()) == pytest.approx(100)
    assert job["write"]["total_ios"] == 0 and "bins" not in job["write"]["clat_ns"]


def test_its_bins_are_fios() -> None:
    edges, values = bins()
    assert list(values) == [bin_value(index) for index in range(LAST_BIN + 1)]
    assert all(bin_index(int(edge)) == index + 1 for index, edge in enumerate(edges[:-1]))


def test_mean_and_bins_agree() -> None:
    write = parse(json.dumps(fio_run(Job("w", "write", iops=1000, runtime_seconds=60)))).directions["write"]
    counted = write.histogram.counts
    assert sum(value * count for value, count in counted.items()) / write.ios == pytest.approx(write.mean_ns, rel=0.005)
    assert write.ios == 60_000 and write.iops == pytest.approx(1000)


def test_reads_and_writes_at_once() -> None:
    result = parse(json.dumps(fio_run(Job("both", "mixed", iops=100, runtime_seconds=10, depth=2))))
    assert {name: each.ios for name, each in result.directions.items()} == {"read": 1000, "write": 1000}


@pytest.mark.parametrize("script, error", [
    ("fio nope.fio", "fio: unable to open 'nope.fio' job file\n"),
    ("fio bad.fio", "Bad option <foo=1>\nfio: job a dropped\n"),
    ("fio", "No job(s) defined\n"),
    ("fio none.fio", "fio: opendir added 0 files"),
    ("fio size.fio", "size: you need to specify size="),
    ("fio where.fio", "fio: nowhere is not a directory"),
    ("fio --name=x --rw=dance --size=1m", "fio: bad value for readwrite: dance"),
])  # fmt: skip
def test_what_it_does_not_take_it_says(script: str, error: str) -> None:
    files = {"bad.fio": "[a]\nfoo=1\n", "none.fio": "[a]\nopendir=.\n", "size.fio": "[size]\nrw=read\n", "where.fio": "[a]\ndirectory=nowhere\nsize=1m\n"}
    _, (found,) = in_a_guest(script, files=files)
    assert found[2] == 1 and found[1].startswith(error)


def test_a_dataset_that_does_not_fit_is_not_written() -> None:
    machine = Machine(Disk(10 << 20, 9 << 20))
    disk, found = in_a_guest(LAYOUT, "df -Pk .", files={"layout.fio": render_layout(Dataset(3, 2, 1 << 20))}, machine=machine)
    assert found[0][2] == 1 and "No space left on device" in found[0][1]
    assert disk.bulk("/tmp/data") is None
    assert json.loads(disk.read("/tmp/l.json"))["jobs"][0]["error"] == 28


def test_a_full_disk() -> None:
    _, found = in_a_guest(LAYOUT, files={"layout.fio": render_layout(TINY)}, machine=Machine(full=True))
    assert found[0][2] == 1 and "No space left on device" in found[0][1]


# The pool. Times are given, so the clock plays no part.

def fleet(nodes: int, direction: Any, iops: float, pool: Pool | None = None, prepare: Callable[[Pool], None] = lambda pool: None, **changed: Any) -> list[Any]:
    """What each VM of so many nodes with 15 each gets of a pool in five minutes."""
    pool = pool or make_pool(SimClock(1.0), **changed)
    prepare(pool)
    loads = []
    for number in range(15 * nodes):
        node = WORKERS[number // 15]
        loads.append(pool.add(("ns", f"vm{number}"), Demand(direction, iops, slowness=pool.slowness(("ns", f"vm{number}"), node)), 0.0))
    return [pool.served(load, 10.0, 310.0) for load in loads]


def mean(served: list[Any]) -> float:
    return statistics.fmean(each.mean for each in served)


@pytest.mark.parametrize("direction", ["read", "write"])
def test_a_baseline_is_the_same_on_one_node_and_on_sixty_four(direction: str) -> None:
    means = [mean(fleet(nodes, direction, 1.0)) for nodes in (1, 2, 4, 8, 16, 32, 64)]
    assert statistics.pstdev(means) / statistics.fmean(means) < 0.0002
    assert (max(means) - min(means)) / statistics.fmean(means) < 0.0004


def added(direction: str, nodes: int = 64, **changed: Any) -> float:
    return 100 * (mean(fleet(nodes, direction, 1000.0, **changed)) / mean(fleet(nodes, direction, 1.0, **changed)) - 1)


def test_what_load_adds_is_the_references() -> None:
    assert added("read") == pytest.approx(-30, abs=0.5)
    assert added("write") == pytest.approx(88, abs=1)


def test_it_comes_with_the_load() -> None:
    assert 0 > added("read", 8) > added("read", 32) > added("read", 64)
    assert 0 < added("write", 8) < added("write", 32) < added("write", 64)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_replica_fewer_takes_a_third_of_the_writes_overhead_away(replicas: int) -> None:
    assert added("write", replicas=replicas) == pytest.approx(added("write") * replicas / 3, rel=0.02)
    assert added("read", replicas=replicas) == pytest.approx(added("read"), rel=0.02)


@pytest.mark.parametrize("iops", [1.0, 1000.0])
@pytest.mark.parametrize("direction, expected", [("read", 0.09), ("write", 0.13)])
def test_twenty_migrations_add_what_the_reference_says_at_any_load(iops: float, direction: str, expected: float) -> None:
    def migrate(pool: Pool) -> None:
        for number in range(20):
            pool.migration_started(("ns", f"vm{number}"))

    during, before = fleet(66, direction, iops, prepare=migrate), fleet(66, direction, iops)
    assert mean(during) / mean(before) - 1 == pytest.approx(expected, rel=0.01)
    assert all(each.iops == iops for each in during)


def test_the_pause_of_a_switchover_is_one_long_latency() -> None:
    async def inside() -> Any:
        clock = SimClock(1000.0)
        pool = make_pool(clock)
        loads = [pool.add(("ns", name), Demand("read", 100.0), clock.now()) for name in ("moved", "stayed")]
        pool.migration_started(("ns", "moved"))
        await clock.sleep(10)
        pool.paused(("ns", "moved"), 0.25)
        pool.migration_ended(("ns", "moved"))
        pool.migration_ended(("ns", "never-started"))
        await clock.sleep(10)
        return [pool.served(load, load.started, clock.now()) for load in loads]

    moved, stayed = asyncio.run(inside())
    assert (moved.pauses, stayed.pauses) == ((0.25,), ())


def test_a_thread_that_waits_asks_less() -> None:
    full = Fault("saturated-pool", 0.9)
    served = fleet(64, "write", 1000.0, pool=make_pool(SimClock(1.0), full))
    assert served[0].iops < 100
    assert served[0].iops == pytest.approx(1 / served[0].mean, rel=0.01)
    assert fleet(64, "write", 1.0, pool=make_pool(SimClock(1.0), full))[0].iops == 1.0


def test_a_thread_without_a_rate_goes_as_fast_as_it_can() -> None:
    one = fleet(1, "read", float("inf"))[0]
    assert one.iops == pytest.approx(1 / one.mean, rel=0.01) and one.iops > 2000


def test_slow_nodes_are_the_first_by_name_and_a_slow_vm_is_alone() -> None:
    slow = fleet(4, "read", 1.0, pool=make_pool(SimClock(1.0), Fault("slow-node", 2)))
    assert min(each.mean for each in slow[:30]) > 2.5 * max(each.mean for each in slow[30:])
    one = fleet(4, "read", 1.0, pool=make_pool(SimClock(1.0), Fault("slow-vm", 1)))
    assert one[0].mean > 2.5 * max(each.mean for each in one[1:])
    named = fleet(2, "read", 1.0, prepare=lambda pool: pool.node_slowdown.update({"worker-001": 2.0}))
    assert named[15].mean / named[0].mean == pytest.approx(2, rel=0.01)


def test_how_much_load_there_is_now() -> None:
    async def inside() -> None:
        clock = SimClock(1000.0)
        pool = make_pool(clock)
        assert pool.total_iops == 0
        first = pool.add(("ns", "a"), Demand("read", 100.0), clock.now())
        pool.add(("ns", "b"), Demand("write", 7.0), clock.now())
        assert (pool.iops_of(("ns", "a")), pool.iops_of(("ns", "c")), pool.total_iops) == (100.0, 0.0, 107.0)
        pool.remove(first, clock.now())
        assert pool.total_iops == 7.0

    asyncio.run(inside())
