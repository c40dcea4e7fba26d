"""Starting a process that serves, and what is said of one that does not. The clock that both share."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.cluster.embedded import EmbeddedProcess, launch, read_clock, set_speed
from pytest_vmscale.cluster.requests import ApiError
from pytest_vmscale.embedded import cluster as embedded

from .scripted import refusal, serving

SERVES = "import sys; print('starting', flush=True); open(sys.argv[1], 'w').close(); print(sys.argv[1], flush=True); sys.stdin.read()"


def start(tmp_path: Path, program: str, start_wall_seconds: float = 20.0) -> EmbeddedProcess:
    return launch([sys.executable, "-c", program, str(tmp_path / "kubeconfig")], tmp_path / "state", start_wall_seconds)


def test_it_is_up_when_it_names_its_kubeconfig_and_ends_when_told(tmp_path: Path) -> None:
    process = start(tmp_path, SERVES)
    assert process.kubeconfig == tmp_path / "kubeconfig"
    assert process.failure() is None
    process.stop()
    process.stop()
    assert process.process.returncode == 0
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_it_ends_when_we_die(tmp_path: Path) -> None:
    """Its stdin is our pipe: a killed parent closes it."""
    code = (
        "import os, signal, sys; from pathlib import Path; from pytest_vmscale.cluster.embedded import launch;"
        f"p = launch([sys.executable, '-c', {SERVES!r}, sys.argv[1]], Path(sys.argv[2]), 20);"
        "print(p.process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "kubeconfig"), str(tmp_path / "state")], stdout=subprocess.PIPE, text=True, timeout=60
    )
    child = Path(f"/proc/{int(parent.stdout)}/cmdline")
    give_up = time.monotonic() + 20
    while child.exists() and child.read_bytes():
        assert time.monotonic() < give_up, "it outlived its parent"
        time.sleep(0.01)


def test_one_that_dies_at_once_says_why(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"ended with code 3: first line \| no such profile: fsat \(all of it: .*embedded.log\)"):
        start(tmp_path, "import sys; print('first line', file=sys.stderr); print('no such profile: fsat', file=sys.stderr); sys.exit(3)")


def test_one_that_never_serves_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="did not start within 1 s: it said nothing"):
        start(tmp_path, "import sys; sys.stdin.read()", start_wall_seconds=1.0)


def test_one_that_dies_later_is_noticed(tmp_path: Path) -> None:
    process = start(tmp_path, SERVES + "; sys.stderr.write('out of memory'); sys.exit(9)")
    assert process.process.stdin is not None
    process.process.stdin.close()
    process.process.wait(20)
    assert process.failure() == f"the embedded cluster ended with code 9: out of memory (all of it: {process.log})"


def test_one_that_does_not_want_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_vmscale.cluster.embedded.STOP_WALL_SECONDS", 0.2)
    stubborn = SERVES.replace("sys.stdin.read()", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    process = start(tmp_path, stubborn)
    process.stop()
    assert process.process.returncode == -9


def test_our_clock_follows_the_clusters(tmp_path: Path) -> None:
    speed = 20.0

    async def handler(request: web.Request) -> web.Response:
        nonlocal speed
        if request.method == "PUT":
            speed = (await request.json())["speed"]
        return web.json_response({"speed": speed, "epoch": 1000.0, "monotonic": 50.0})

    async def run() -> None:
        clock = Clock()
        async with serving(handler, tmp_path) as cluster:
            await read_clock(cluster, clock)
            assert (clock.rate, clock.at(50.0), clock.at(51.0)) == (20.0, 1000.0, 1020.0)
            await set_speed(cluster, clock, 500.0)
            assert (clock.rate, clock.at(51.0)) == (500.0, 1500.0)

    asyncio.run(run())


def test_a_refused_speed_leaves_the_clock_alone(tmp_path: Path) -> None:
    async def run() -> None:
        clock = Clock(20.0)
        async with serving(refusal(400, "BadRequest", "speed must be above 0"), tmp_path) as cluster:
            with pytest.raises(ApiError, match="speed must be above 0"):
                await set_speed(cluster, clock, -1)
        assert clock.rate == 20.0

    asyncio.run(run())


def test_a_follower_of_the_clock_that_goes_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    class Clocks:
        """Of the embedded cluster, what its clock's readers need."""

        _stopping = False

        def __init__(self) -> None:
            self._clock_readers: set[asyncio.Event] = set()

        def _clock_now(self) -> dict[str, float]:
            return {"speed": 20.0}

    async def follow_and_go() -> None:
        clocks = Clocks()
        app = web.Application()
        app.router.add_get("/vmscale/clock", functools.partial(embedded.Cluster._get_clock, clocks))  # type: ignore[arg-type]
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET /vmscale/clock?follow HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"20.0}\n")
        writer.transport.abort()
        end = time.monotonic() + 20
        while clocks._clock_readers and time.monotonic() < end:
            for changed in clocks._clock_readers:
                changed.set()
            await asyncio.sleep(0.01)
        assert not clocks._clock_readers
        await runner.cleanup()

    asyncio.run(follow_and_go())
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
