"""The streams of a command that runs in a container, over a WebSocket: channel.k8s.io, versions 4 and 5.

Each message starts with the number of its channel. The last one on the error channel is a Status: how the command ended.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import WSMsgType, web

from .api.errors import ApiError
from .api.store import Object

log = logging.getLogger(__name__)

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR = 0, 1, 2, 3
CLOSE = 255  # version 5: the client has no more for the channel that the next byte names
SUCCESS: Object = {"metadata": {}, "status": "Success"}


class Session:
    """What a command has of its caller: an input that comes bit by bit, and two outputs."""

    def __init__(self, write: Callable[[int, bytes], None], *, tty: bool = False) -> None:
        """`write` sends bytes on a channel."""
        self._write, self.tty = write, tty
        self._input: asyncio.Queue[str | None] = asyncio.Queue()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._ended = False

    def out(self, text: str) -> None:
        self._write(STDOUT, (text.replace("\n", "\r\n") if self.tty else text).encode())

    def error(self, text: str) -> None:
        """On a terminal there is one output."""
        if self.tty:
            self.out(text)
        else:
            self._write(STDERR, text.encode())

    def feed(self, data: bytes) -> None:
        self._input.put_nowait(self._decode(data))

    def end_input(self) -> None:
        if not self._ended:
            self._ended = True
            self._input.put_nowait(None)

    async def read(self) -> str:
        """What came; nothing at the end of the input."""
        text = await self._input.get()
        if text is None:
            self._input.put_nowait(None)
            return ""
        return text or await self.read()

    async def read_all(self) -> str:
        parts = []
        while text := await self.read():
            parts.append(text)
        return "".join(parts)


Run = Callable[[Session], Awaitable[int]]


def exit_status(code: int) -> Object:
    """The Status of a command that ended with this exit code, as a kubelet writes it."""
    if code == 0:
        return SUCCESS
    return {"metadata": {}, "status": "Failure", "message": f"command terminated with non-zero exit code: exit status {code}", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}


async def ended(request: web.Request, run: Run, session: Session) -> bytes:
    """Run it; the Status that it ended with."""
    try:
        return orjson.dumps(exit_status(await run(session)))
    except Exception as error:  # the caller is told, as of any other request that fails so
        log.exception("exec %s", request.path_qs)
        return orjson.dumps(ApiError(500, f"Internal error occurred: error executing command in container: {error!r}", "InternalError").status)


def wants_websocket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


async def serve_websocket(request: web.Request, run: Run, *, stdin: bool, tty: bool) -> web.StreamResponse:
    """Run the command with the caller's streams. A caller that goes takes its command with it."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=0)
    try:
        await socket.prepare(request)
    except web.HTTPBadRequest:
        raise ApiError(400, "Upgrade request required") from None
    output: asyncio.Queue[bytes] = asyncio.Queue()
    session = Session(lambda channel, data: output.put_nowait(bytes([channel]) + data), tty=tty)
    output.put_nowait(bytes([STDOUT]))  # the lowest channel says that the streams are there
    if not stdin:
        session.end_input()

    async def command() -> None:
        output.put_nowait(bytes([ERROR]) + await ended(request, run, session))

    async def send() -> None:
        while not running.done() or not output.empty():
            getting = asyncio.ensure_future(output.get())
            await asyncio.wait([getting, running], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                continue
            await socket.send_bytes(getting.result())

    async def receive() -> None:
        async for message in socket:
            data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT) or not data:
                continue
            if data[0] == STDIN and stdin:
                session.feed(data[1:])
            elif data[:2] == bytes([CLOSE, STDIN]):
                session.end_input()
        session.end_input()

    running = asyncio.create_task(command(), name="exec")
    tasks = [running, asyncio.create_task(send(), name="exec output"), asyncio.create_task(receive(), name="exec input")]
    try:
        await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await socket.close()
    return socket
