"""The background loop: results, errors, and what becomes of a coroutine when its caller is interrupted."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_vmscale.cluster.runtime import Runtime


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


async def fail() -> None:
    raise ValueError("no")


def test_results_and_errors_come_back(runtime: Runtime) -> None:
    assert runtime.run(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ValueError, match="no"):
        runtime.run(fail())
    with pytest.raises(TimeoutError):  # the coroutine's own, not the wait's
        runtime.run(asyncio.wait_for(asyncio.sleep(9), 0.001))


def test_background_work(runtime: Runtime) -> None:
    task = runtime.start(asyncio.sleep(0, 5))
    assert task.result(10) == 5 and task.done()
    endless = runtime.start(asyncio.sleep(3600))
    with pytest.raises(TimeoutError):
        endless.result(0.01)
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        endless.result(10)


class Alarm(Exception):
    pass


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, Alarm])
def test_an_interruption_waits_for_the_clean_up_and_goes_on_up(runtime: Runtime, interruption: type[BaseException]) -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("begun")
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            steps.append("cleaned up")

    def handler(*_: object) -> None:
        raise interruption

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(interruption):
            runtime.run(work())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert steps == ["begun", "cleaned up"]


@pytest.mark.parametrize("begun", [True, False])
def test_an_interruption_as_it_begins_leaves_nothing_running(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    schedule, ended = runtime.loop.call_soon_threadsafe, threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    def interrupted(*call: Any) -> None:
        monkeypatch.undo()
        if begun:
            schedule(*call)
            runtime.start(asyncio.sleep(0)).result(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime.loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.run(work())
    assert ended.is_set() == begun
    assert runtime.run(count_of_tasks()) == 1


async def count_of_tasks() -> int:
    return len(asyncio.all_tasks())


def test_a_clean_up_that_does_not_end_is_not_waited_for_for_ever() -> None:
    released = threading.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    runtime = Runtime(cleanup_seconds=0.05)
    task = runtime.start(stubborn())
    runtime.run(asyncio.sleep(0.02))  # it has begun
    task.cancel_and_wait(0.05)
    assert not task.done()
    released.set()
    task.result(10)
    runtime.close()


def test_closing_cancels_what_still_runs_and_may_be_done_twice() -> None:
    ended = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    runtime = Runtime()
    begun = runtime.start(work())
    runtime.run(asyncio.sleep(0))
    runtime.close()
    runtime.close()
    assert ended.is_set() and begun.done()


def test_on_its_own_thread_it_says_so(runtime: Runtime) -> None:
    async def nested() -> None:
        runtime.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await the coroutine instead"):
        runtime.run(nested())
