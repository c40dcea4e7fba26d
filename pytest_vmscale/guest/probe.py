"""Is a guest up? Asked every few seconds of thousands of guests, from one event loop.

A probe is a TCP connect and, for SSH, the server's banner. Intervals and timeouts are cluster seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from dataclasses import dataclass

from ..clock import Clock
from ..cluster.requests import network_reason
from .route import Connection, Route, Target

SSH_PORT = 22
SSH_BANNER = b"SSH-2.0"
# The next probe is due after the interval: a connect that takes longer would make it late.
CONNECT_TIMEOUT_SHARE = 0.9
# Once connected, waiting loses nothing: the banner is stamped when it comes, and a busy guest may be slow to send it.
BANNER_TIMEOUT_SECONDS = 10.0
# However fast cluster time runs, a connection is made on the wall's, and a server that is behind is not helped by being asked again.
CONNECT_FLOOR_WALL_SECONDS = 0.25
FILES_FOR_EACH_GUEST = 3  # its request's connection, its probe's, and one that is being closed
OTHER_FILES = 256  # watches, log files and libraries
BANNER_FLOOR_WALL_SECONDS = 5.0


@dataclass(frozen=True)
class Readiness:
    """What it means that a guest is up: its SSH server's banner, or that a TCP port accepts a connection."""

    port: int = SSH_PORT
    banner: bool = True

    @classmethod
    def ssh(cls, port: int = SSH_PORT) -> Readiness:
        return cls(port, banner=True)

    @classmethod
    def tcp(cls, port: int) -> Readiness:
        return cls(port, banner=False)


@dataclass
class Probing:
    """How the probing of one guest goes. Stamps are of time.monotonic()."""

    target: Target
    readiness: Readiness
    probes: int = 0
    lag_seconds: float = 0.0  # the most that a probe was later than due, cluster seconds
    last_failed: float | None = None  # when the last probe that failed was sent: the guest was not up then
    last_error: str = ""
    answered: float | None = None  # when the guest's answer arrived


async def probe_until_up(
    probing: Probing,
    route: Route,
    clock: Clock,
    interval_seconds: float,
    *,
    slots: contextlib.AbstractAsyncContextManager[object] | None = None,
    connect_floor_wall_seconds: float = CONNECT_FLOOR_WALL_SECONDS,
) -> None:
    """Probe at once, and then every interval, until the guest answers. Cancel it to give up: `probing` keeps what was seen.

    slots: a semaphore that many probings share, where so many at once would be too many. ClusterError if the route itself is refused
    to us."""
    due = clock.now()
    while True:
        probing.lag_seconds = max(probing.lag_seconds, clock.now() - due)
        probing.probes += 1
        async with slots or contextlib.nullcontext():
            sent = time.monotonic()
            try:
                probing.answered = await answer(route, probing.target, probing.readiness, clock, interval_seconds, connect_floor_wall_seconds)
                return
            except OSError as error:  # refused, unreachable, timed out
                probing.last_failed = sent
                probing.last_error = network_reason(error)
        # Missed turns are not caught up with: that would be a burst at a guest which is slow already.
        due = max(due + interval_seconds, clock.now())
        await clock.sleep(due - clock.now())


async def answer(
    route: Route,
    target: Target,
    readiness: Readiness,
    clock: Clock,
    interval_seconds: float,
    connect_floor_wall_seconds: float = CONNECT_FLOOR_WALL_SECONDS,
) -> float:
    """The stamp (of time.monotonic()) of the answer to one probe. OSError if there was none in time."""
    async with asyncio.timeout(max(clock.wall(interval_seconds * CONNECT_TIMEOUT_SHARE), connect_floor_wall_seconds)):
        connection = await route.connect(target)
    try:
        if not readiness.banner:
            return time.monotonic()
        async with asyncio.timeout(max(clock.wall(BANNER_TIMEOUT_SECONDS), BANNER_FLOOR_WALL_SECONDS)):
            return await _banner(connection)
    finally:
        with contextlib.suppress(OSError):
            await connection.close()


async def _banner(connection: Connection) -> float:
    """SSH servers may send other lines before the banner (RFC 4253, 4.2)."""
    seen = b""
    while data := await connection.read():
        arrived = time.monotonic()
        seen += data
        if any(line.startswith(SSH_BANNER) for line in seen.split(b"\n")):
            return arrived
        if len(seen) > 8192:
            break
    raise ConnectionError(f"no SSH banner but {seen[:40]!r}" if seen else "connection closed before the SSH banner")


def allow_open_files_for(guests: int) -> int:
    """As many open files as it takes to start and probe so many guests at once; returns the limit in force."""
    return allow_open_files(FILES_FOR_EACH_GUEST * guests + OTHER_FILES)


def allow_open_files(wanted: int) -> int:
    """Raise this process' soft limit of open files to what is wanted, or as far as it goes; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
