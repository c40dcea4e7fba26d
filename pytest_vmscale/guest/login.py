"""One real login to a guest: a banner proves that something answers, a command that it is the guest we made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..cluster.requests import network_reason
from .route import Connection, Route, SocketConnection, Target

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
    # paramiko wants a blocking socket, the routes are streams on this loop: a socket pair joins them, the same way for all routes.
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    near = SocketConnection(ours)
    try:
        async with asyncio.timeout(timeout_wall_seconds):
            far = await route.connect(target)
            pumps = [asyncio.create_task(_pump(near, far)), asyncio.create_task(_pump(far, near))]
            try:
                status, text = await asyncio.to_thread(_command, theirs, target, credentials, command, timeout_wall_seconds)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                await far.close()
    except TimeoutError as error:
        raise LoginError(f"{target.namespace}/{target.name}: no login within {timeout_wall_seconds:.0f} s through {route.name}") from error
    except OSError as error:
        raise LoginError(f"{target.namespace}/{target.name}: {network_reason(error)} through {route.name}") from error
    finally:
        # The thread of a cancelled login ends by this: its socket reads the end.
        ours.close()
        theirs.close()
    return Output(status, text, time.monotonic() - began)


async def _pump(source: Connection, sink: Connection) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read():
            await sink.write(data)
    await sink.close()


def _command(connection: socket.socket, target: Target, credentials: Credentials, command: str, timeout: float) -> tuple[int, str]:
    import paramiko

    # Its threads log their exceptions with stack traces; what matters of them is raised here as well.
    logging.getLogger(_LOG_CHANNEL).setLevel(logging.CRITICAL + 1)
    client = paramiko.SSHClient()
    client.set_log_channel(_LOG_CHANNEL)
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # the guest made its host key while it booted
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
        _, output, errors = client.exec_command(command, timeout=timeout)
        text = output.read() + errors.read()
        return output.channel.recv_exit_status(), text.decode("utf-8", "replace")
    except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoginError(f"{target.namespace}/{target.name}: login as {credentials.user!r} failed: {reason}") from error
    finally:
        client.close()
