"""The streams of a command over SPDY/3.1, which kubectl before 1.31, oc of that age and Go's SPDY executors speak in place of WebSockets.

A connection is upgraded by a request; then the client opens a stream for each of the command's streams, named by its header `streamtype`.
"""

from __future__ import annotations

import asyncio
import enum
import struct
import zlib
from typing import Any

from aiohttp import web

from .remote_command import ERROR, PROTOCOLS, STDERR, STDIN, STDOUT, Run, Session, ended

PROTOCOL = "SPDY/3.1"
VERSION_HEADER = "X-Stream-Protocol-Version"
OPEN_WALL_SECONDS = 30.0  # a client that has not opened its streams by then is cut off
STREAMS = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR}
CONTROL, VERSION = 1 << 31, 3
FIN = 1
HEADER = struct.Struct(">II")
# What headers are compressed with on both sides: words of HTTP, each after its length, and then a text. SPDY/3 says which.
_WORDS = ("options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization cache-control "
          "connection content-base content-encoding content-language content-length content-location content-md5 content-range content-type date etag "
          "expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
          "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning "
          "www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin")
_TEXT = ("100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content"
         "301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
         "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,"
         "image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
         "charset=utf-8charset=iso-8859-1,utf-,*,enq=0.")
DICTIONARY = b"".join(len(word).to_bytes(4, "big") + word.replace("_", " ").encode() for word in _WORDS.split()) + _TEXT.encode()


class Type(enum.IntEnum):
    """Of control frames."""

    SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7


def wants_spdy(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").upper() == PROTOCOL


async def serve_spdy(request: web.Request, run: Run, *, stdin: bool, tty: bool) -> web.StreamResponse:
    """Run the command with the caller's streams. A caller that goes takes its command with it."""
    offered = [each.strip() for header in request.headers.getall(VERSION_HEADER, []) for each in header.split(",")]
    version = next((each for each in PROTOCOLS if each in offered), None)
    if version is None:
        return web.Response(status=403, text=f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts {list(PROTOCOLS)}\n")
    transport: Any = request.transport
    wanted = {"error", *(name for name in ("stdin", "stdout", "stderr") if request.query.get(name, "false").lower() not in ("false", "0"))} - ({"stderr"} if tty else set())
    connection = Connection(transport, wanted, tty=tty)
    transport.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n{VERSION_HEADER}: {version}\r\n\r\n".encode())
    transport.set_protocol(connection)  # nothing of the client's is lost: it sends no frame before it has this answer
    if not stdin:
        connection.session.end_input()
    working = asyncio.create_task(_work(request, connection, run), name="exec")
    try:
        await asyncio.wait([working, connection.gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        transport.close()
    return web.Response()  # which nobody gets: the connection is no longer HTTP's


async def _work(request: web.Request, connection: Connection, run: Run) -> None:
    try:
        await asyncio.wait_for(asyncio.shield(connection.opened), OPEN_WALL_SECONDS)
    except TimeoutError:
        return
    connection.send(ERROR, await ended(request, run, connection.session))
    connection.finish()


class Connection(asyncio.Protocol):
    """One upgraded connection: frames in, frames out."""

    def __init__(self, transport: asyncio.Transport, wanted: set[str], *, tty: bool) -> None:
        """`wanted`: the streams that the client is to open before the command starts."""
        self._transport, self._wanted = transport, wanted
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.session = Session(self.send, tty=tty)
        self._channels: dict[int, int] = {}  # by the stream's number
        self._streams: dict[int, int] = {}  # by the channel
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            first, second = HEADER.unpack_from(self._buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            if len(self._buffer) < HEADER.size + length:
                return
            body = bytes(self._buffer[HEADER.size:HEADER.size + length])
            del self._buffer[:HEADER.size + length]
            try:
                self._frame(first, flags, body)
            except (struct.error, zlib.error, UnicodeDecodeError):  # no SPDY
                self._transport.abort()
                return

    def _frame(self, first: int, flags: int, body: bytes) -> None:
        if not first & CONTROL:
            if self._channels.get(first) == STDIN:
                self.session.feed(body)
                if flags & FIN:
                    self.session.end_input()
            return
        match first & 0xFFFF:
            case Type.SYN_STREAM:
                self._open(struct.unpack_from(">I", body)[0] & ~CONTROL, _headers(self._inflate.decompress(body[10:])), flags)
            case Type.RST_STREAM:
                if self._channels.get(struct.unpack_from(">I", body)[0]) == STDIN:
                    self.session.end_input()
            case Type.PING:  # is answered by itself
                self._control(Type.PING, body)

    def _open(self, stream: int, headers: dict[str, str], flags: int) -> None:
        name = headers.get("streamtype", "")
        if name in STREAMS:
            self._channels[stream], self._streams[STREAMS[name]] = STREAMS[name], stream
        self._control(Type.SYN_REPLY, struct.pack(">I", stream) + self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH))
        if name == "stdin" and flags & FIN:
            self.session.end_input()
        self._wanted.discard(name)
        if not self._wanted and not self.opened.done():
            self.opened.set_result(None)

    def _control(self, type_: int, body: bytes) -> None:
        self._transport.write(HEADER.pack(CONTROL | VERSION << 16 | type_, len(body)) + body)

    def send(self, channel: int, data: bytes) -> None:
        stream = self._streams.get(channel)
        if stream is not None and data and not self._transport.is_closing():
            self._transport.write(HEADER.pack(stream, len(data)) + data)

    def finish(self) -> None:
        """End every stream, and the connection."""
        for stream in self._streams.values():
            self._transport.write(HEADER.pack(stream, FIN << 24))
        self._control(Type.GOAWAY, struct.pack(">II", max(self._channels, default=0), 0))


def _headers(block: bytes) -> dict[str, str]:
    """A header block: how many, and then each name and value after its length."""
    found, position = {}, 4
    for _ in range(struct.unpack_from(">I", block)[0]):
        pair = []
        for _ in range(2):
            length = struct.unpack_from(">I", block, position)[0]
            pair.append(block[position + 4:position + 4 + length].decode())
            position += 4 + length
        found[pair[0].lower()] = pair[1]
    return found
