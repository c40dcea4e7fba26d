"""Probes and logins against servers on loopback, over every route that needs no cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import ClusterError, JumpHost
from pytest_vmscale.guest.login import Credentials, LoginError, run_command
from pytest_vmscale.guest.probe import Probing, Readiness, allow_open_files, probe_until_up
from pytest_vmscale.guest.route import Connection, DirectRoute, JumpHostRoute, Route, SocketConnection, Target

INTERVAL_SECONDS = 2.0
RATE = 100.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def greeting(*chunks: bytes, port: int = 0) -> asyncio.Server:
    """A server that sends these and hangs up."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0.005)
        writer.close()

    return await asyncio.start_server(greet, "127.0.0.1", port)


def probed(port: int, readiness: Readiness, meanwhile: Callable[[Probing], Awaitable[Any]], route: Route | None = None) -> Probing:
    """A guest's probing while something happens to it; cancelled if it is not up when that ends."""

    async def run() -> Probing:
        probing = Probing(Target("ns", "vm", "127.0.0.1", port), readiness)
        task = asyncio.create_task(probe_until_up(probing, route or DirectRoute(), Clock(RATE), INTERVAL_SECONDS))
        await meanwhile(probing)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.5 if probing.answered is None else 0.0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return probing

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def test_refused_until_the_server_listens() -> None:
    port = free_port()

    async def boots(probing: Probing) -> None:
        await until(lambda: probing.probes >= 3)
        assert probing.answered is None and probing.last_error == "Connection refused"
        server = await greeting(b"SSH-2.0-OpenSSH_8.0\r\n", port=port)
        await until(lambda: probing.answered is not None)
        server.close()

    probing = probed(port, Readiness.ssh(port), boots)
    assert probing.answered is not None and probing.last_failed is not None
    clock = Clock(RATE)
    # It failed one interval before it answered: the error bound. Lateness can make it more, never less.
    assert clock.at(probing.answered) - clock.at(probing.last_failed) >= INTERVAL_SECONDS * 0.99
    assert probing.lag_seconds >= 0


def test_a_guest_that_is_up_at_once_has_no_failed_probe() -> None:
    async def run(probing: Probing) -> None:
        await until(lambda: probing.answered is not None)

    async def with_server() -> Probing:
        server = await greeting(b"SSH-2.0-x\r\n")
        port = server.sockets[0].getsockname()[1]
        probing = Probing(Target("ns", "vm", "127.0.0.1", port), Readiness.ssh(port))
        await probe_until_up(probing, DirectRoute(), Clock(RATE), INTERVAL_SECONDS)
        server.close()
        return probing

    probing = asyncio.run(with_server())
    assert (probing.probes, probing.last_failed, probing.last_error) == (1, None, "")


@pytest.mark.parametrize(
    ("chunks", "up"),
    [
        ((b"SSH-2.0-OpenSSH\r\n",), True),
        ((b"SS", b"H-2.0-OpenSSH\r\n"), True),
        ((b"Welcome\r\nto this\r\n", b"SSH-2.0-x\r\n"), True),  # RFC 4253 allows lines before it
        ((b"HTTP/1.0 400 Bad Request\r\n",), False),
        ((b"not SSH-2.0 at all\r\n",), False),
        ((b"x" * 20_000,), False),
        ((), False),
    ],
    ids=["banner", "in two pieces", "after a greeting", "http", "inside a line", "flood", "hangs up"],
)
def test_only_a_banner_counts(chunks: tuple[bytes, ...], up: bool) -> None:
    async def run() -> Probing:
        server = await greeting(*chunks)
        port = server.sockets[0].getsockname()[1]
        probing = Probing(Target("ns", "vm", "127.0.0.1", port), Readiness.ssh(port))
        task = asyncio.create_task(probe_until_up(probing, DirectRoute(), Clock(RATE), INTERVAL_SECONDS))
        await until(lambda: probing.answered is not None or probing.probes >= 3)
        task.cancel()
        server.close()
        return probing

    probing = asyncio.run(run())
    assert (probing.answered is not None) is up
    if not up:
        assert "banner" in probing.last_error


def test_for_tcp_readiness_a_connect_is_enough() -> None:
    async def run() -> Probing:
        server = await greeting()
        port = server.sockets[0].getsockname()[1]
        probing = Probing(Target("ns", "vm", "127.0.0.1", port), Readiness.tcp(port))
        await probe_until_up(probing, DirectRoute(), Clock(RATE), INTERVAL_SECONDS)
        server.close()
        return probing

    assert asyncio.run(run()).probes == 1


class SlowRoute:
    """Takes longer than the interval, every time."""

    needs_address, name = True, "slow"

    async def connect(self, target: Target) -> Connection:
        await asyncio.sleep(3600)
        raise AssertionError

    async def close(self) -> None:
        pass


class ForbiddenRoute(SlowRoute):
    async def connect(self, target: Target) -> Connection:
        raise ClusterError("no right to port-forward")


def test_a_connect_that_hangs_is_a_failed_probe() -> None:
    async def run(probing: Probing) -> None:
        await until(lambda: probing.probes >= 2)

    probing = probed(1, Readiness.ssh(1), run, SlowRoute())
    assert probing.last_error == "no answer in time" and probing.last_failed is not None


def test_a_route_that_is_refused_to_us_is_an_error_and_no_slow_guest() -> None:
    probing = Probing(Target("ns", "vm", "", 22), Readiness.ssh())
    with pytest.raises(ClusterError, match="no right"):
        asyncio.run(probe_until_up(probing, ForbiddenRoute(), Clock(RATE), INTERVAL_SECONDS))


def test_thousands_in_flight_cost_nothing_but_turns() -> None:
    """2,000 guests that refuse: every one is probed again and again, none is starved."""

    async def run() -> list[Probing]:
        clock, port = Clock(20.0), free_port()
        fleet = [Probing(Target("ns", f"vm-{n}", f"127.9.{n // 250}.{n % 250 + 1}", port), Readiness.ssh(port)) for n in range(2000)]
        tasks = [asyncio.create_task(probe_until_up(each, DirectRoute(), clock, 20.0)) for each in fleet]
        await until(lambda: min(each.probes for each in fleet) >= 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return fleet

    # On a machine that is busy with something else some of them are not answered in their time.
    assert {each.last_error for each in asyncio.run(run())} <= {"Connection refused", "no answer in time"}


@contextlib.asynccontextmanager
async def ssh_server(tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    """An SSH server that lets the user `core` in with the key, or with the password `secret`, and forwards anywhere."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = tmp_path / "key"
    path.write_bytes(key.export_private_key())
    path.chmod(0o600)
    authorized = asyncssh.import_authorized_keys(key.export_public_key().decode())

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == ("core", "secret")

        def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
            return True

    def command(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write(f"ran {process.command}\n")
        process.exit(0 if process.command == "true" else 3)

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        authorized_client_keys=authorized,
        process_factory=command,
    )
    try:
        yield server.get_port(), path
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("via", ["direct", "jump"])
def test_a_login_runs_a_command(tmp_path: Path, via: str) -> None:
    async def run() -> None:
        async with ssh_server(tmp_path) as (port, key):
            route: Route = DirectRoute() if via == "direct" else JumpHostRoute(JumpHost("127.0.0.1", port, "core", key))
            target = Target("ns", "vm", "127.0.0.1", port)
            assert (await run_command(route, target, Credentials("core", key))).status == 0
            done = await run_command(route, target, Credentials("core", password="secret"), "false")
            assert (done.status, done.text) == (3, "ran false\n")
            await route.close()

    threads = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() <= threads + 1  # paramiko's thread of a connection that was closed may still be ending


def test_a_connection_that_is_closed_while_it_is_read_does_not_harm_the_next_one() -> None:
    async def run() -> bytes:
        first, peer = socket.socketpair()
        first.setblocking(False)
        closed, number = SocketConnection(first), first.fileno()
        reading = asyncio.create_task(closed.read())
        await asyncio.sleep(0)
        await closed.close()
        second, other = socket.socketpair()
        assert second.fileno() == number
        second.setblocking(False)
        asyncio.get_running_loop().call_later(0.05, other.sendall, b"for the second")
        try:
            async with asyncio.timeout(5):
                return await SocketConnection(second).read()
        finally:
            reading.cancel()
            for each in (peer, second, other):
                each.close()

    assert asyncio.run(run()) == b"for the second"


def test_a_guest_that_is_slow_to_send_its_banner_is_asked_once_however_fast_time_runs() -> None:
    """Asked again and again, a cluster that is behind falls further behind."""

    async def run() -> Probing:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.5)
            writer.write(b"SSH-2.0-x\r\n")

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        probing = Probing(Target("ns", "vm", "127.0.0.1", port), Readiness.ssh(port))
        await probe_until_up(probing, DirectRoute(), Clock(600.0), INTERVAL_SECONDS)
        server.close()
        return probing

    assert asyncio.run(run()).probes == 1


def test_a_jump_host_probes(tmp_path: Path) -> None:
    async def run() -> None:
        async with ssh_server(tmp_path) as (port, key):
            route = JumpHostRoute(JumpHost("127.0.0.1", port, "core", key))
            up, down = free_port(), free_port()
            server = await greeting(b"SSH-2.0-x\r\n", port=up)
            probings = [Probing(Target("ns", "vm", "127.0.0.1", each), Readiness.ssh(each)) for each in (up, down)]
            tasks = [asyncio.create_task(probe_until_up(each, route, Clock(RATE), INTERVAL_SECONDS)) for each in probings]
            await until(lambda: probings[0].answered is not None and probings[1].probes >= 2)
            assert probings[1].answered is None and "jump host" in probings[1].last_error
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.close()
            await route.close()

    asyncio.run(run())


def test_a_jump_host_that_refuses_us_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        async with ssh_server(tmp_path) as (port, _):
            other = tmp_path / "other"
            other.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
            await JumpHostRoute(JumpHost("127.0.0.1", port, "core", other)).connect(Target("ns", "vm", "127.0.0.1", 1))

    with pytest.raises(ClusterError, match=r"jump host 127.0.0.1 refuses the user 'core'"):
        asyncio.run(run())


@pytest.mark.parametrize("known", [True, False])
def test_a_jump_hosts_key_is_checked_where_known_hosts_are_given(tmp_path: Path, known: bool) -> None:
    async def run() -> None:
        async with ssh_server(tmp_path) as (port, key):
            async with asyncssh.connect("127.0.0.1", port, username="core", client_keys=[str(key)], known_hosts=None) as connection:
                theirs = connection.get_server_host_key()
            shown = theirs if known else asyncssh.generate_private_key("ssh-ed25519")
            hosts = tmp_path / "known_hosts"
            hosts.write_text(f"[127.0.0.1]:{port} {shown.export_public_key().decode()}")
            route = JumpHostRoute(JumpHost("127.0.0.1", port, "core", key, hosts))
            await route.open()
            await route.close()

    if known:
        asyncio.run(run())
    else:
        with pytest.raises(ClusterError, match=r"jump host 127.0.0.1: its host key is not the one in .*known_hosts"):
            asyncio.run(run())


def test_failed_logins_say_why_and_say_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    async def login(port: int, credentials: Credentials) -> None:
        await run_command(DirectRoute(), Target("ns", "vm", "127.0.0.1", port), credentials, timeout_wall_seconds=5)

    async def run() -> None:
        async with ssh_server(tmp_path) as (port, _):
            with pytest.raises(LoginError, match="ns/vm: login as 'core' failed: Authentication failed"):
                await login(port, Credentials("core", password="wrong"))
        with pytest.raises(LoginError, match="ns/vm: Connection refused through direct"):
            await login(free_port(), Credentials("core", password="secret"))
        server = await greeting(b"HTTP/1.0 400\r\n")
        with pytest.raises(LoginError, match="ns/vm: login as 'core' failed: Error reading SSH protocol banner"):
            await login(server.sockets[0].getsockname()[1], Credentials("core", password="secret"))
        server.close()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(run())
    assert not [each for each in caplog.records if "paramiko" in each.name] and "Traceback" not in capfd.readouterr().err


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Credentials("core", password="secret"))


def test_open_files_are_raised_as_far_as_they_go() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = before
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert allow_open_files(600) == 600
        assert allow_open_files(10) == 600
        assert allow_open_files(hard + 1) == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_jump_host_that_is_not_there_is_no_guest_that_is_not_up(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        closed = JumpHost("127.0.0.1", taken.getsockname()[1], "core")
        with pytest.raises(ClusterError, match="jump host 127.0.0.1 cannot be reached: Connection refused"):
            asyncio.run(JumpHostRoute(closed).open())
    broken = tmp_path / "key"
    broken.write_text("no key")
    with pytest.raises(ClusterError, match="jump host 127.0.0.1 cannot be reached"):
        asyncio.run(JumpHostRoute(JumpHost("127.0.0.1", 1, "core", broken)).open())
