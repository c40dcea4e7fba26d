"""The storage's model: what it promises of locks and limits, and that bulks of a hundred and a penalty above ten come out of its causes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from pytest_vmscale.embedded import timing
from pytest_vmscale.embedded.ceph import Ceph, CsiError, Network

from .virtual import VirtualClock, run

GOLDEN_GIB = 40.0
# What a bulk costs beside the storage: from the request for a VM to its volume's, and from the volume to the VM's DataVolume; and
# how fast virt-controller makes DataVolumes. As on the whole embedded cluster.
BEFORE_SECONDS, AFTER_SECONDS, VMS_PER_SECOND = 6.5, 9.0, 2.4


class Simulation:
    """A pool with one golden image. Needs a running loop."""

    def __init__(self, **values: Any) -> None:
        self.clock = VirtualClock()
        self.timing: Any = timing.load().replaced("ceph", **values)
        self.ceph = Ceph(self)
        self.golden = self.ceph.adopt("golden", GOLDEN_GIB)
        self.failures: list[CsiError] = []

    async def clone(self, name: str, delay: float = 0.0) -> float:
        """Returns how long it took."""
        await self.clock.sleep(delay)
        start = self.clock.now()
        await self.ceph.provisioner.call(lambda: self.ceph.create(name, GOLDEN_GIB, "golden"), self.failures.append)
        return self.clock.now() - start

    async def deploy(self, vms: int, bulk: int) -> float:
        """Seconds for so many VMs, one bulk after the other."""
        for first in range(0, vms, bulk):
            await self.clock.sleep(BEFORE_SECONDS)
            await asyncio.gather(*(self.clone(f"vm-{number}", (number - first) / VMS_PER_SECOND) for number in range(first, min(first + bulk, vms))))
            await self.clock.sleep(AFTER_SECONDS)
        return self.clock.now()


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_asked_for_locks_serialise_calls_are_few_and_nothing_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    workers, limit = chance.randint(1, 20), chance.randint(5, 60)

    async def scenario() -> None:
        simulation = Simulation(provisioner_workers=workers, soft_limit_clones=limit // 2, hard_limit_clones=limit,
                                provisioner_timeout_seconds=chance.choice([2.0, 5.0, 150.0]))
        ceph, clock = simulation.ceph, simulation.clock
        names = [f"vm-{number}" for number in range(chance.randint(20, 150))]
        inside, most = 0, 0
        work = ceph._work

        async def watched(seconds: float) -> None:
            nonlocal inside, most
            locked = seconds == simulation.timing.ceph.clone_locked_seconds
            inside += locked
            most = max(most, inside)
            await work(seconds)
            inside -= locked

        ceph._work = watched  # type: ignore[method-assign]
        await asyncio.gather(*(simulation.clone(name, chance.uniform(0, 60)) for name in names))
        assert most == 1, "two clones of a parent at a time"
        assert ceph.provisioner.most_calls <= workers and ceph.provisioner.calls == 0
        assert set(ceph.images) == {"golden", *names}
        assert len(simulation.golden.children) <= limit + workers + 1
        await asyncio.gather(*(ceph.remove(name) for name in names))
        await clock.sleep(ceph.background.seconds + 1)
        assert set(ceph.images) == {"golden"} and not simulation.golden.children and ceph.background.seconds == 0

    run(scenario())


def test_bulks_of_a_hundred_are_the_fastest_way_to_eight_hundred_vms() -> None:
    async def seconds(bulk: int) -> float:
        return await Simulation().deploy(800, bulk)

    took = {bulk: run(seconds(bulk)) for bulk in (10, 50, 100, 200, 400, 800)}
    assert min(took, key=took.__getitem__) == 100, took
    assert all(took[bulk] > 1.05 * took[100] for bulk in took if bulk != 100), took
    assert 500 < took[100] < 1200, took


def test_a_penalty_for_each_vm_above_ten_in_parallel() -> None:
    async def mean(vms: int) -> float:
        simulation = Simulation()
        return sum(await asyncio.gather(*(simulation.clone(f"vm-{number}") for number in range(vms)))) / vms

    alone, ten, fifty = run(mean(1)), run(mean(10)), run(mean(50))
    assert ten < 1.5 * alone  # up to ten there is a slot for each
    assert fifty > 2 * ten


def test_without_its_causes_a_bulk_size_does_not_matter() -> None:
    """No locks, no limits, no background: then all at once is the fastest, as one would think."""
    free = {"clone_locked_seconds": 0.0, "trim_seconds": 0.0, "soft_limit_clones": 10**6, "hard_limit_clones": 10**6, "provisioner_workers": 1000}

    async def seconds(bulk: int) -> float:
        return await Simulation(**free).deploy(800, bulk)

    assert run(seconds(800)) < run(seconds(100))


def test_clones_above_the_soft_limit_are_flattened_and_stay_below_the_hard_one() -> None:
    async def scenario() -> None:
        simulation = Simulation(soft_limit_clones=20, hard_limit_clones=30)
        await asyncio.gather(*(simulation.clone(f"vm-{number}") for number in range(100)))
        assert {error.code for error in simulation.failures} == {"ResourceExhausted"}
        assert "rbd image golden has 3" in str(simulation.failures[0])
        await simulation.clock.sleep(simulation.ceph.background.seconds + 1)
        assert len(simulation.golden.children) <= 30
        assert len([image for image in simulation.ceph.images.values() if image.parent is None]) > 60

    run(scenario())


def test_a_call_that_lasts_too_long_is_found_done_by_a_later_one() -> None:
    async def scenario() -> None:
        simulation = Simulation(provisioner_timeout_seconds=1.0, clone_seconds=5.0)
        took = await simulation.clone("vm")
        codes = [error.code for error in simulation.failures]
        assert codes[0] == "DeadlineExceeded" and set(codes[1:]) == {"Aborted"}
        assert "an operation with the given Volume ID vm already exists" in str(simulation.failures[1])
        assert took > 5.2 and list(simulation.ceph.images) == ["golden", "vm"]

    run(scenario())


def test_copies_share_nodes_and_the_pool() -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        network = Network(clock, node_rate=2.0, pool_rate=3.0, transfer_rate=1.0)
        alone = network.start(10.0, "a", "b")
        await clock.sleep(5.0)
        assert network.share_done(alone) == pytest.approx(0.5)
        others = [network.start(1.5, "a", node) for node in ("c", "d", "e")]  # four on a's interface: half a GiB a second each
        await asyncio.gather(*(each.done for each in others))
        assert clock.now() == pytest.approx(8.0)
        await alone.done
        assert clock.now() == pytest.approx(11.5)  # 5 + 1.5 + 3.5 at full speed

    run(scenario())
