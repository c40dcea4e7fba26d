"""Cluster time on both sides: the embedded cluster's clock, and the plugin's that goes by it."""

from __future__ import annotations

import asyncio
import time

import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.embedded.clock import MOST_BEHIND_WALL_SECONDS, SimClock

from .virtual import VirtualClock, run

SPEED = 1000.0


def busy(seconds: float) -> None:
    """As a handler that keeps the event loop to itself."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_steps_of_a_chain_are_not_late_by_the_sum_of_what_the_machine_was_busy():
    async def scenario():
        clock, seen = SimClock(SPEED), []

        async def chain():
            await clock.sleep(1.0)
            start = clock.now()
            for _ in range(10):
                await clock.sleep(1.0)
                busy(0.005)  # five seconds of cluster time each
                seen.append(clock.now() - start)

        await asyncio.gather(*(chain() for _ in range(4)))
        return seen

    assert sorted(asyncio.run(scenario())) == pytest.approx(sorted([1.0 * step for step in range(1, 11)] * 4), abs=0.001)


def test_all_that_a_timer_sets_off_happens_at_its_time():
    async def scenario():
        clock, seen = SimClock(SPEED), []

        async def follow(queue):
            for _ in range(3):
                due = await queue.get()
                busy(0.003)
                await asyncio.sleep(0)
                seen.append(clock.now() - due)

        queue = asyncio.Queue()
        follower = asyncio.create_task(follow(queue))
        start = clock.now()
        for due in (start + 5.0, start + 6.0, start + 7.0):
            clock.call_at(due, lambda due=due: queue.put_nowait(due))
        await follower
        return seen

    assert asyncio.run(scenario()) == pytest.approx([0.0, 0.0, 0.0], abs=0.001)


def test_timers_run_in_their_order_and_time_never_runs_back():
    async def scenario():
        clock, seen = SimClock(SPEED), []
        done = asyncio.Event()
        start = clock.now()
        for number in (3, 1, 2, 1.0001, 2.5):
            clock.call_at(start + number, lambda number=number: seen.append((number, clock.now())))
        clock.call_at(start + 4, done.set)
        told = []
        while not done.is_set():
            told.append(clock.now())
            await asyncio.sleep(0)
        return seen, told

    seen, told = asyncio.run(scenario())
    assert [number for number, _ in seen] == [1, 1.0001, 2, 2.5, 3]
    assert told == sorted(told)


def test_a_machine_that_is_behind_has_time_stand_still_and_says_so():
    async def scenario():
        clock, changes = SimClock(SPEED), []
        clock.on_change(lambda: changes.append(clock.outside()))
        start = clock.now()
        clock.call_at(start + 1.0, lambda: busy(4 * MOST_BEHIND_WALL_SECONDS))
        await clock.sleep_until(start + 2.0)
        return clock.now() - start, changes[-1] - start, clock.outside() - clock.now()

    woken, went_on, ahead = asyncio.run(scenario())
    assert woken == pytest.approx(2.0) and 2.0 <= went_on < 4 * MOST_BEHIND_WALL_SECONDS * SPEED
    assert ahead < 4 * MOST_BEHIND_WALL_SECONDS * SPEED


def test_who_never_stops_asking_does_not_stop_the_clock():
    async def scenario():
        clock, done = SimClock(SPEED), False

        async def ask():
            while not done:
                await asyncio.sleep(0)

        asking = asyncio.create_task(ask())
        await clock.sleep(5.0)
        await clock.sleep(5.0)
        done = True
        await asking

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_another_speed_goes_on_from_the_same_time():
    async def scenario():
        clock = VirtualClock()
        await clock.sleep(100.0)
        clock.set_speed(50.0)
        assert clock.now() == 100.0
        await clock.sleep(50.0)
        return clock.now(), asyncio.get_running_loop().time()

    assert run(scenario()) == pytest.approx((150.0, 101.0))


def test_another_speed_leaves_behind_what_the_machine_was_behind_by():
    async def scenario():
        clock = SimClock(SPEED)
        start = clock.now()
        clock.call_at(start + 1.0, lambda: (busy(0.02), clock.set_speed(1.0)))
        await clock.sleep_until(start + 1.0)
        return clock.outside() - start

    assert asyncio.run(scenario()) == pytest.approx(1.0, abs=0.5)  # and not the twenty seconds that passed at the old speed


def test_stamps_are_told_by_what_held_when_they_were_made():
    clock = Clock(rate=20.0, epoch=5000.0, monotonic=0.0)  # assumed, until the cluster says what is so
    clock.set(10.0, 1000.0, 50.0)
    clock.set(10.0, 1080.0, 60.0)  # it stood still for two seconds of the wall
    clock.set(100.0, 1180.0, 70.0)
    assert [clock.at(stamp) for stamp in (49.0, 50.0, 57.0, 59.0, 60.0, 65.0, 70.0, 71.0)] == [
        990.0, 1000.0, 1070.0, 1080.0, 1080.0, 1130.0, 1180.0, 1280.0]
    assert clock.rate == 100.0


def test_a_change_that_arrives_late_replaces_what_was_told_of_later():
    clock = Clock()
    clock.set(10.0, 1000.0, 50.0)
    clock.set(10.0, 1200.0, 70.0)
    clock.set(20.0, 1100.0, 60.0)
    assert [clock.at(stamp) for stamp in (55.0, 60.0, 70.0)] == [1050.0, 1100.0, 1300.0]


def test_who_reads_a_clock_in_the_cluster_and_ours_beside_it_finds_them_alike():
    """Also in the middle of a moment that takes the machine long."""

    async def scenario():
        clock, ours, read = SimClock(SPEED), Clock(), []

        def follow():
            ours.set(clock.speed, clock.outside(), time.monotonic())

        clock.on_change(follow)
        follow()

        async def slow():
            for _ in range(10):
                busy(0.01)
                sent = time.monotonic()
                shown = clock.shown()
                read.append((sent, shown, time.monotonic()))
                await asyncio.sleep(0)

        clock.call_later(1.0, lambda: asyncio.ensure_future(slow()))
        clock.call_later(2000.0, lambda: None)  # nothing else for long: time would go on to here
        await clock.sleep(50.0)
        await asyncio.sleep(0.15)
        return [(shown - ours.at(sent), ours.at(back) - shown) for sent, shown, back in read]

    read = asyncio.run(scenario())
    assert len(read) == 10
    for after, before in read:
        assert after >= -0.001 * SPEED and before >= -0.001 * SPEED  # a tenth of what one step of that moment takes


def test_a_time_that_was_told_too_late_counts_no_more_when_an_earlier_one_is_told():
    clock = Clock()
    clock.set(100.0, 1000.0, 0.0)
    clock.set(100.0, 1150.0, 1.5)  # in the middle of a standstill
    clock.set(100.0, 1110.0, 2.0)
    assert [clock.at(stamp) for stamp in (1.0, 1.2, 1.6, 1.9, 2.0, 2.1)] == pytest.approx([1100.0, 1110.0, 1110.0, 1110.0, 1110.0, 1120.0])


def test_a_sleep_lasts_as_long_as_the_clusters_time_stands_still():
    """What is to happen 1000 s later must not happen before, because the cluster's machine was behind meanwhile."""

    async def scenario():
        clock = Clock(SPEED, epoch=0.0)
        clock.set(SPEED, 0.0, time.monotonic())
        sleeping = asyncio.create_task(clock.sleep(100.0))
        await asyncio.sleep(0.05)
        clock.set(SPEED, 0.0, time.monotonic())
        await sleeping
        return clock.now()

    assert asyncio.run(scenario()) >= 100.0


def test_a_sleep_of_no_time_lets_others_have_their_turn():
    async def scenario():
        clock, turns = Clock(), []
        other = asyncio.create_task(asyncio.sleep(0, turns.append("other")))
        await clock.sleep(-1.0)
        await other
        return turns

    assert asyncio.run(scenario()) == ["other"]
