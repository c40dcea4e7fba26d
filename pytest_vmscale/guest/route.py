"""How a guest's port is reached: directly, through a jump host, or through the API server's port-forward."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..cluster.access import ClusterError, JumpHost
from ..cluster.requests import Cluster, network_reason, resource_path

if TYPE_CHECKING:
    import aiohttp

PORT_FORWARD_PROTOCOL = "plain.kubevirt.io"
OPEN_WALL_SECONDS = 30.0


@dataclass(frozen=True)
class Target:
    """A port of a guest. `address` may be empty where the route goes by the VMI's name."""

    namespace: str
    name: str
    address: str
    port: int


class Connection(Protocol):
    """A byte stream to a guest. Errors are OSError."""

    async def read(self) -> bytes:
        """Some bytes; none at the end."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class Route(Protocol):
    needs_address: bool
    name: str

    async def open(self) -> None:
        """Before anything is measured: ClusterError if the way itself is closed. A way that is not there is no guest that is not up."""
        ...

    async def connect(self, target: Target) -> Connection:
        """OSError if the guest does not accept it. The caller sets the timeout."""
        ...

    async def close(self) -> None: ...


class DirectRoute:
    """The guests' addresses are reachable from here."""

    needs_address = True
    name = "direct"

    async def open(self) -> None:
        pass

    async def connect(self, target: Target) -> Connection:
        # A raw socket: half the cost of asyncio's streams, and there are thousands of probes in flight.
        family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (target.address, target.port))
        except BaseException:
            connection.close()
            raise
        return SocketConnection(connection)

    async def close(self) -> None:
        pass


class JumpHostRoute:
    """Over an SSH connection to a host that reaches the guests (as ssh -J). Connects on first use, and again if it is lost."""

    needs_address = True

    def __init__(self, jump: JumpHost) -> None:
        self.name = f"jump host {jump.host}"
        self._jump = jump
        self._connection: Any = None
        self._connecting = asyncio.Lock()

    async def open(self) -> None:
        try:
            async with asyncio.timeout(OPEN_WALL_SECONDS):
                await self._jump_connection()
        except (OSError, ValueError) as error:  # ValueError: a key that asyncssh cannot read
            raise ClusterError(f"{self.name} cannot be reached: {network_reason(error)}") from error

    async def connect(self, target: Target) -> Connection:
        import asyncssh

        connection = await self._jump_connection()
        try:
            reader, writer = await connection.open_connection(target.address, target.port, encoding=None)
        except asyncssh.ChannelOpenError as error:
            raise ConnectionRefusedError(f"{self.name}: {error.reason}") from error
        except asyncssh.Error as error:
            raise ConnectionError(f"{self.name}: {error.reason}") from error
        return _Streams(reader, writer)

    async def _jump_connection(self) -> Any:
        import asyncssh

        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                keys = [str(self._jump.key_file)] if self._jump.key_file else ()
                known_hosts = str(self._jump.known_hosts) if self._jump.known_hosts else None
                try:
                    self._connection = await asyncssh.connect(
                        self._jump.host,
                        self._jump.port,
                        username=self._jump.user,
                        client_keys=keys,
                        known_hosts=known_hosts,
                        config=None,
                    )
                except asyncssh.HostKeyNotVerifiable as error:
                    raise ClusterError(f"{self.name}: its host key is not the one in {known_hosts}: {error.reason}") from error
                except asyncssh.PermissionDenied as error:
                    raise ClusterError(f"{self.name} refuses the user {self._jump.user!r}: {error.reason}") from error
                except asyncssh.Error as error:
                    raise ConnectionError(f"{self.name}: {error.reason}") from error
            return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            await self._connection.wait_closed()
            self._connection = None


class PortForwardRoute:
    """Through the API server, as virtctl port-forward does: works wherever the API does, and loads virt-api."""

    needs_address = False
    name = "port-forward"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def open(self) -> None:
        pass

    async def connect(self, target: Target) -> Connection:
        import aiohttp

        vmi = resource_path("subresources.kubevirt.io/v1", "virtualmachineinstances", target.namespace, target.name)
        try:
            websocket = await self._cluster.websocket(f"{vmi}/portforward/{target.port}/tcp", PORT_FORWARD_PROTOCOL)
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (401, 403):
                raise ClusterError(f"port-forward to {target.namespace}/{target.name}: {error.status} {error.message}") from error
            raise ConnectionRefusedError(f"port-forward: {error.status} {error.message}") from error
        except aiohttp.ClientError as error:
            raise ConnectionError(f"port-forward: {error}") from error
        return _WebSocket(websocket)

    async def close(self) -> None:
        pass


class SocketConnection:
    """A connected, non-blocking socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    async def read(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.socket, 65536)

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def close(self) -> None:
        if self.socket.fileno() >= 0:
            # Somebody may be waiting for it still: the loop must not take the next socket of this number for this one.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.socket)
            loop.remove_writer(self.socket)
            self.socket.close()


class _Streams:
    """A channel of asyncssh."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return bytes(await self._reader.read(65536))

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(Exception):  # how the other side takes it is its own affair
            await self._writer.wait_closed()


class _WebSocket:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        import aiohttp

        message = await self._socket.receive()
        if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
            return message.data if isinstance(message.data, bytes) else str(message.data).encode()
        if message.type is aiohttp.WSMsgType.ERROR:
            raise ConnectionError(f"port-forward: {self._socket.exception()}")
        return b""

    async def write(self, data: bytes) -> None:
        await self._socket.send_bytes(data)

    async def close(self) -> None:
        await self._socket.close()
