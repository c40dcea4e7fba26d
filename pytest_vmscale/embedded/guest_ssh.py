"""The guests' sshd: real SSH on each guest's own loopback address, and the bastion in front of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
import yaml

from . import yamls
from .api.store import Object
from .clock import SimClock
from .disk import Disk
from .guest_files import Sftp
from .shell import Shell

if TYPE_CHECKING:
    from .guests import Guest

log = logging.getLogger(__name__)

SSH_PORT, RDP_PORT = 22, 3389
BACKLOG = 32
BANNER = "OpenSSH_8.0"


@dataclass
class Login:
    """Who may log in. Without cloud-init the image's own accounts count, and this cluster knows nobody's key: all may."""

    keys: set[bytes] = field(default_factory=set)  # public keys in their wire form
    password: str | None = None  # over SSH
    anybody: bool = False
    user: str = ""  # cloud-init's first user, if it names one in place of the image's
    passwords: dict[str, str] = field(default_factory=dict)  # on the console; "" is the first user

    @classmethod
    def of(cls, vmi: Object, secrets: dict[str, Object]) -> Login:
        """From the cloud-init volumes and access credentials of a VMI, and the Secrets that they name."""
        login = cls()
        data = _user_data(vmi["spec"], secrets)
        if data is None:
            return cls(anybody=True)
        users = [each for each in data.get("users") or () if isinstance(each, dict)]
        for source in (data, *users):
            for key in source.get("ssh_authorized_keys") or source.get("ssh-authorized-keys") or ():
                login._add(str(key))
        if data.get("password") is not None and data.get("ssh_pwauth", True):
            login.password = str(data["password"])
        named = data.get("user")
        login.user = str(named.get("name", "") if isinstance(named, dict) else named or "")
        login._set_passwords(data, users)
        return login

    def _set_passwords(self, data: dict[str, Any], users: list[dict[str, Any]]) -> None:
        if data.get("password") is not None:
            self.passwords[""] = str(data["password"])
        changed = data.get("chpasswd") if isinstance(data.get("chpasswd"), dict) else {}
        listed = (changed or {}).get("list") or ()
        lines = listed.splitlines() if isinstance(listed, str) else [str(each) for each in listed]
        self.passwords.update((name.strip(), password) for name, colon, password in (line.partition(":") for line in lines) if colon)
        self.passwords.update((str(each["name"]), str(each["plain_text_passwd"])) for each in users
                              if each.get("name") and each.get("plain_text_passwd") and not each.get("lock_passwd", True))
        self.passwords.update((str(each["name"]), str(each["password"])) for each in (changed or {}).get("users") or ()
                              if isinstance(each, dict) and each.get("type") == "text" and each.get("name") and each.get("password"))

    def lets_in(self, user: str, password: str, first_user: str) -> bool:
        """On the console, by a password. `first_user` is the one that cloud-init's own password is for."""
        if self.anybody:
            return True
        known = self.passwords.get(user, self.passwords.get("") if user == first_user else None)
        return known is not None and password == known

    def _add(self, line: str) -> None:
        try:
            self.keys.add(asyncssh.import_public_key(line).public_data)
        except asyncssh.KeyImportError as error:
            log.warning("cloud-init: not a public key: %r (%s)", line, error)

    def knows(self, key: asyncssh.SSHKey) -> bool:
        return self.anybody or key.public_data in self.keys


def _user_data(spec: Object, secrets: dict[str, Object]) -> dict[str, Any] | None:
    """The merged #cloud-config of a VMI, or None if it has no cloud-init at all."""
    found: dict[str, Any] | None = None
    for volume in spec.get("volumes") or ():
        source = volume.get("cloudInitNoCloud") or volume.get("cloudInitConfigDrive")
        if source is None:
            continue
        found = found or {}
        text = source.get("userData") or ""
        if source.get("userDataBase64"):
            text = base64.b64decode(source["userDataBase64"]).decode(errors="replace")
        reference = source.get("secretRef") or source.get("userDataSecretRef")
        if reference:
            text = _secret_text(secrets.get(reference["name"]), "userdata", "userData")
        with contextlib.suppress(yaml.YAMLError):  # a guest with broken user data boots, and lets nobody in
            document = yamls.load(text)
            if isinstance(document, dict):
                found.update(document)
    for credential in spec.get("accessCredentials") or ():
        name = ((credential.get("sshPublicKey") or {}).get("source") or {}).get("secret", {}).get("secretName")
        secret = secrets.get(name) if name else None
        if secret:
            found = found or {}
            lines = [_secret_text(secret, key) for key in secret.get("data") or {}]
            found["ssh_authorized_keys"] = [*(found.get("ssh_authorized_keys") or ()), *(each.strip() for each in lines)]
    return found


def _secret_text(secret: Object | None, *keys: str) -> str:
    data = (secret or {}).get("data") or {}
    encoded = next((data[key] for key in keys if key in data), "")
    return base64.b64decode(encoded).decode(errors="replace")


class Sshd:
    """One host key and one set of options for all guests; a listening socket for each guest that is up."""

    def __init__(self, clock: SimClock, port: int) -> None:
        """`port`: where guests listen, in place of 22. OSError if no 127.x/16 is free."""
        self._clock, self.port = clock, port
        self._listeners: dict[str, list[tuple[socket.socket, Callable[[socket.socket], Awaitable[None]]]]] = {}
        self._guests: dict[str, Guest] = {}
        self._connections: dict[str, set[asyncssh.SSHServerConnection]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._options: asyncssh.SSHServerConnectionOptions | None = None
        self._bastion: asyncssh.SSHAcceptor | None = None
        self._lock, self.second_octet = _claim_network(port)
        self.bastion_host, self.bastion_user = f"127.{self.second_octet}.0.1", "core"

    async def start(self, client_key: Path, write: Callable[[str, bytes], Path]) -> None:
        """Open the bastion. `client_key`: where `write` puts the key that it lets in."""
        host_key, key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
        write(client_key.name, key.export_private_key())
        self._options = asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: _GuestServer(self), server_host_keys=[host_key], process_factory=self._process, encoding="utf-8",
            sftp_factory=self._sftp, sftp_version=3,
            server_version=BANNER, login_timeout=120, keepalive_interval=0, agent_forwarding=False, gss_host=None, allow_scp=False)
        self._bastion = await asyncssh.listen(
            sock=self._lock, server_factory=lambda: _BastionServer(self, key.public_data), server_host_keys=[host_key],
            server_version=BANNER, login_timeout=120, agent_forwarding=False, gss_host=None)

    async def stop(self) -> None:
        for address in list(self._listeners):
            self._close(address)
        if self._bastion:
            self._bastion.close()
        else:
            self._lock.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def guest_at(self, address: str) -> Guest | None:
        return self._guests.get(address)

    def owns(self, address: str) -> bool:
        return address.startswith(f"127.{self.second_octet}.")

    # Listening: plain sockets, whose connections asyncssh serves with the options that all guests share.

    def open(self, guest: Guest) -> None:
        """The guest's ports answer from now on."""
        ports: list[tuple[int, Callable[[socket.socket], Awaitable[None]]]] = [(self.port, self._serve_ssh)]
        if guest.system == "windows":
            ports.append((RDP_PORT, self._serve_silence))
        self._guests[guest.address] = guest
        for port, serve in ports:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((guest.address, port))
            listener.listen(BACKLOG)
            self._listeners.setdefault(guest.address, []).append((listener, serve))
        self.set_paused(guest)

    def set_paused(self, guest: Guest) -> None:
        """A paused guest accepts nobody: connections wait in its backlog."""
        loop = asyncio.get_running_loop()
        for listener, serve in self._listeners.get(guest.address, ()):
            if guest.paused:
                loop.remove_reader(listener)
            else:
                loop.add_reader(listener, self._accept, listener, serve)

    def close(self, guest: Guest) -> None:
        """Its ports refuse from now on, and its connections are cut."""
        self._close(guest.address)

    def _close(self, address: str) -> None:
        for listener, _ in self._listeners.pop(address, ()):
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._guests.pop(address, None)
        for connection in self._connections.pop(address, set()):
            connection.abort()

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
        for _ in range(BACKLOG):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors, most likely: the client sees its connection wait
                log.error("a guest cannot accept a connection: %s", error)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.ensure_future(serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_ssh(self, connection: socket.socket) -> None:
        address = connection.getsockname()[0]
        with contextlib.suppress(asyncssh.Error, OSError):
            server = await asyncssh.run_server(connection, options=self._options)
            self._connections.setdefault(address, set()).add(server)
            if address not in self._guests:
                server.abort()
            await server.wait_closed()
            self._connections.get(address, set()).discard(server)

    @staticmethod
    async def _serve_silence(connection: socket.socket) -> None:
        """A port that is open, and whose protocol nobody here speaks: read what comes, then hang up."""
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 4096), timeout=30)
        connection.close()

    def _sftp(self, channel: asyncssh.SSHServerChannel[bytes]) -> Sftp:
        guest = self._guests.get(channel.get_extra_info("sockname")[0])
        return Sftp(channel, guest.machine.disk if guest else Disk(0, 0))

    async def _process(self, process: asyncssh.SSHServerProcess[str]) -> None:
        guest = self._guests.get(process.get_extra_info("sockname")[0])
        if guest is None:
            process.exit(255)
            return
        shell = Shell(guest, self._clock, process.get_extra_info("username"))
        if process.command is not None:
            # A command's input is read only if it is a script for a shell: nothing else here reads any.
            text = await process.stdin.read() if process.command.split()[-1:] in (["sh"], ["bash"], ["-s"]) else ""
            out, error, code = await shell.run(process.command, text)
            process.stdout.write(out)
            process.stderr.write(error)
            process.exit(code)
            return
        code = 0
        with guest.session(process.get_extra_info("username"), self._clock.now()), contextlib.suppress(asyncssh.Error):
            async for line in process.stdin:
                if line.strip() in ("exit", "logout"):
                    break
                out, error, code = await shell.run(line)
                process.stdout.write(out)
                process.stderr.write(error)
        process.exit(code)


class _GuestServer(asyncssh.SSHServer):
    def __init__(self, sshd: Sshd) -> None:
        self._sshd = sshd
        self._login = Login()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        guest = self._sshd.guest_at(conn.get_extra_info("sockname")[0])
        if guest:
            self._login = guest.login

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self._login.knows(key)

    def password_auth_supported(self) -> bool:
        return self._login.password is not None or self._login.anybody

    def validate_password(self, username: str, password: str) -> bool:
        return self._login.anybody or password == self._login.password


class _BastionServer(asyncssh.SSHServer):
    """Lets its one key in, and through to the guests."""

    def __init__(self, sshd: Sshd, public_key: bytes) -> None:
        self._sshd, self._public_key = sshd, public_key

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.public_data == self._public_key

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        if not self._sshd.owns(dest_host):
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, f"{dest_host} is not a guest of this cluster")
        port = self._sshd.port if dest_port == SSH_PORT else dest_port

        async def forward(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
            try:
                guest_reader, guest_writer = await asyncio.open_connection(dest_host, port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pump(reader.read, guest_writer), _pump(guest_reader.read, writer))

        return forward


async def _pump(read: Callable[[int], Awaitable[bytes]], writer: Any) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, asyncssh.Error):
        writer.close()


def _claim_network(port: int) -> tuple[socket.socket, int]:
    """A 127.x/16 that no other cluster of this machine uses: the bastion's own socket, bound to 127.x.0.1, holds it."""
    octets = list(range(1, 255))
    random.SystemRandom().shuffle(octets)
    trouble: OSError | None = None
    for octet in octets:
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        lock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            lock.bind((f"127.{octet}.0.1", port))
            lock.listen(BACKLOG)
        except OSError as error:
            lock.close()
            trouble = error
            continue
        return lock, octet
    raise OSError(f"no loopback network is free for guests: cannot bind port {port} on any of 127.1.0.1 to 127.254.0.1 ({trouble})")
