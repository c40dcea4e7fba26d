"""One real login to a guest: a banner proves that something answers, a command that it is the guest we made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..cluster.requests import network_reason
from ..cluster.runtime import cancel_all
from .route import Connection, Route, SocketConnection, Target

if TYPE_CHECKING:
    from paramiko import SSHClient

T = TypeVar("T")
LOGIN_WALL_SECONDS = 30.0
_LOG_CHANNEL = "pytest_vmscale.paramiko"


@dataclass(frozen=True)
class Credentials:
    """A user and a private key, a password, or both."""

    user: str
    key_file: Path | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Output:
    """What a command did. `wall_seconds`: connect, login and command together."""

    status: int
    text: str
    wall_seconds: float


class LoginError(Exception):
    """The login failed; one line says how."""


async def run_command(
    route: Route, target: Target, credentials: Credentials, command: str = "true", timeout_wall_seconds: float = LOGIN_WALL_SECONDS
) -> Output:
    """Log in through the route, run the command, log out. LoginError if the guest did not let us."""
    began = time.monotonic()
    status, text = await with_login(
        route, target, credentials, lambda client: execute(client, command, timeout_wall_seconds), timeout_wall_seconds
    )
    return Output(status, text, time.monotonic() - began)


async def with_login(
    route: Route,
    target: Target,
    credentials: Credentials,
    work: Callable[[SSHClient], T],
    timeout_wall_seconds: float = LOGIN_WALL_SECONDS,
    executor: Executor | None = None,
) -> T:
    """Log in through the route, do the work in a thread (of the executor, if one is given), log out. LoginError if anything of it fails."""
    try:
        async with asyncio.timeout(timeout_wall_seconds):
            async with _as_socket(await route.connect(target)) as connection:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(executor, _logged_in, connection, target, credentials, work, timeout_wall_seconds)
    except TimeoutError as error:
        raise LoginError(f"{target.namespace}/{target.name}: no login within {timeout_wall_seconds:.0f} s through {route.name}") from error
    except OSError as error:
        raise LoginError(f"{target.namespace}/{target.name}: {network_reason(error)} through {route.name}") from error


@contextlib.asynccontextmanager
async def _as_socket(far: Connection) -> AsyncIterator[socket.socket]:
    """What paramiko wants of a connection: a socket, which is the thread's to close. At the end of the context it reads the end, by
    which the thread of a cancelled login ends too."""
    if isinstance(far, SocketConnection):
        try:
            yield far.socket.dup()
        finally:
            with contextlib.suppress(OSError):
                far.socket.shutdown(socket.SHUT_RDWR)
            await far.close()
        return
    # Streams on this loop: a socket pair joins them.
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    near = SocketConnection(ours)
    pumps = [asyncio.create_task(_pump(near, far)), asyncio.create_task(_pump(far, near))]
    try:
        yield theirs
    finally:
        await cancel_all(pumps)
        await near.close()
        await far.close()


async def _pump(source: Connection, sink: Connection) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read():
            await sink.write(data)
    await sink.close()


def execute(client: SSHClient, command: str, timeout_wall_seconds: float = LOGIN_WALL_SECONDS) -> tuple[int, str]:
    """Exit status of a command, and what it wrote to standard output, then to standard error."""
    status, output, errors = execute_bytes(client, command, timeout_wall_seconds)
    return status, (output + errors).decode("utf-8", "replace")


def execute_bytes(client: SSHClient, command: str, timeout_wall_seconds: float = LOGIN_WALL_SECONDS) -> tuple[int, bytes, bytes]:
    """Exit status, standard output and standard error of a command. EOFError if the connection broke before it had ended."""
    _, output, errors = client.exec_command(command, timeout=timeout_wall_seconds)
    found = output.read(), errors.read()
    status = output.channel.recv_exit_status()
    if status < 0:
        raise EOFError("it ended in the middle of a command")
    return status, *found


def _logged_in(connection: socket.socket, target: Target, credentials: Credentials, work: Callable[[SSHClient], T], timeout: float) -> T:
    import paramiko

    # Its threads log their exceptions with stack traces; what matters of them is raised here as well.
    logging.getLogger(_LOG_CHANNEL).setLevel(logging.CRITICAL + 1)
    client = paramiko.SSHClient()
    client.set_log_channel(_LOG_CHANNEL)
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # the guest made its host key while it booted
    doing = f"login as {credentials.user!r} failed"
    try:
        client.connect(
            target.address or target.name,
            target.port,
            credentials.user,
            credentials.password,
            key_filename=str(credentials.key_file) if credentials.key_file else None,
            sock=connection,
            allow_agent=False,
            look_for_keys=False,
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
        )
        doing = "the connection broke"
        return work(client)
    except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoginError(f"{target.namespace}/{target.name}: {doing}: {reason}") from error
    finally:
        client.close()
        connection.close()
