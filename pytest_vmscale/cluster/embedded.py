"""Starting the embedded cluster, which is a process of its own, and asking for its clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..clock import Clock
from .access import ClusterError
from .requests import Cluster, Object

START_WALL_SECONDS = 60.0
STOP_WALL_SECONDS = 10.0
CLOCK_PATH = "/vmscale/clock"
FOLLOW_AGAIN_WALL_SECONDS = 1.0
TAIL_LINES = 15


@dataclass
class EmbeddedProcess:
    """A running embedded cluster. It ends with this process, whatever becomes of us: its stdin is our pipe."""

    kubeconfig: Path
    process: subprocess.Popen[str]
    log: Path

    def stop(self) -> None:
        """End it, politely and then not. May be called twice."""
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        for end in (None, self.process.terminate, self.process.kill):
            if end:
                end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_WALL_SECONDS)
                return

    def failure(self) -> str | None:
        """One line if it has ended, with the tail of what it said; None while it runs."""
        code = self.process.poll()
        return None if code is None else _ended(code, self.log)


def start_embedded(
    state_dir: Path,
    *,
    speed: float,
    workers: int,
    profile: str = "reference",
    faults: Sequence[str] = (),
    seed: int | None = None,
    truth: Path | None = None,
    start_wall_seconds: float = START_WALL_SECONDS,
) -> EmbeddedProcess:
    """Start it and wait until it serves. `faults` are NAME=VALUE, or plan files. ClusterError with its last words if it fails."""
    command = embedded_command(state_dir, speed=speed, workers=workers, profile=profile, faults=faults, seed=seed, truth=truth)
    return launch([*command, "--parent-pipe"], state_dir, start_wall_seconds)


def embedded_command(
    state_dir: Path, *, speed: float, workers: int, profile: str, faults: Sequence[str], seed: int | None, truth: Path | None
) -> list[str]:
    """What starts it; its only output is the kubeconfig's path, once it serves."""
    command = [sys.executable, "-m", "pytest_vmscale.embedded"]
    command += ["--state-dir", str(state_dir), "--speed", f"{speed:g}", "--workers", str(workers), "--profile", profile]
    command += [argument for fault in faults for argument in ("--fault", fault)]
    command += ["--seed", str(seed)] if seed is not None else []
    command += ["--truth", str(truth)] if truth else []
    return command


def launch(command: Sequence[str], state_dir: Path, start_wall_seconds: float) -> EmbeddedProcess:
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = state_dir / "embedded.log"
    with log.open("w", encoding="utf-8") as stderr:
        # A session of its own: Ctrl-C is for us, who then clean up on it; it ends when our pipe does.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True)
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_drain, args=(process.stdout, lines), name="vmscale-embedded-stdout", daemon=True).start()
    give_up = time.monotonic() + start_wall_seconds
    started = EmbeddedProcess(Path(), process, log)
    try:
        while True:
            line = lines.get(timeout=max(0.0, give_up - time.monotonic()))
            if line is None:
                process.wait(STOP_WALL_SECONDS)
                raise ClusterError(_ended(process.returncode, log))
            if Path(line).is_file():
                started.kubeconfig = Path(line)
                return started
    except queue.Empty:
        started.stop()
        raise ClusterError(f"the embedded cluster did not start within {start_wall_seconds:.0f} s: {_tail(log)}") from None
    except BaseException:
        started.stop()
        raise


def _drain(stdout: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stdout:
        lines.put(line.strip())
    lines.put(None)


def _ended(code: int, log: Path) -> str:
    return f"the embedded cluster ended with code {code}: {_tail(log)}"


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if lines:
            return f"{' | '.join(lines[-TAIL_LINES:])} (all of it: {log})"
    return "it said nothing"


async def read_clock(cluster: Cluster, clock: Clock) -> None:
    """Set our clock by the embedded cluster's, now and whenever it changes: its time stands still while its machine is behind."""
    _set(clock, await cluster.get(CLOCK_PATH))
    cluster.meanwhile(_follow(cluster, clock))


async def _follow(cluster: Cluster, clock: Clock) -> None:
    from aiohttp import ClientError

    while True:
        with contextlib.suppress(OSError, ClientError, ValueError):
            async with cluster.raw("GET", CLOCK_PATH, {"follow": "true"}) as response:
                if response.status == 200:
                    async for line in response.content:
                        _set(clock, json.loads(line))
        await asyncio.sleep(FOLLOW_AGAIN_WALL_SECONDS)


async def set_speed(cluster: Cluster, clock: Clock, speed: float) -> None:
    """From now on cluster time runs `speed` times as fast as the wall; our clock follows. ApiError if it refuses the speed."""
    _set(clock, (await cluster.send("PUT", CLOCK_PATH, body={"speed": speed})).object)


def _set(clock: Clock, told: Object) -> None:
    """Both processes read the same monotonic clock of the same machine: there is no offset to estimate."""
    clock.set(float(told["speed"]), float(told["epoch"]), float(told["monotonic"]))
