"""Commands in containers over SPDY/3.1, as kubectl before 1.31 and Go programs run them: frames and order recorded from client-go's executor."""

from __future__ import annotations

import json
import ssl
import struct
import zlib
from collections.abc import Iterator
from http.client import HTTPResponse
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_vmscale.embedded.spdy import DICTIONARY

from .test_kubevirt import Cluster, fresh, started
from .test_pod_exec import Ended, url
from .test_pod_logs import phase, pod

VERSIONS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
SYN_STREAM, SYN_REPLY, PING, GOAWAY, FIN = 1, 2, 6, 7, 1


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With a pod "p" that runs."""
    with started(tmp_path_factory.mktemp("spdy")) as path:
        cluster = fresh(path)
        cluster.create("pods", pod("p", "sleep infinity"))
        cluster.until(lambda: phase(cluster, "p") == "Running")
        yield cluster


class Client:
    """One upgraded connection."""

    def __init__(self, cluster: Cluster, path: str, versions: tuple[str, ...] = VERSIONS) -> None:
        parts = urlsplit(cluster.server)
        self.socket: ssl.SSLSocket = cluster.context.wrap_socket(create_connection((parts.hostname, parts.port), timeout=20), server_hostname=parts.hostname)
        offered = "".join(f"X-Stream-Protocol-Version: {version}\r\n" for version in versions)
        self.socket.sendall(f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {cluster.token}\r\nContent-Length: 0\r\n"
                            f"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{offered}\r\n".encode())
        self.reply = HTTPResponse(self.socket)
        self.reply.begin()
        self._pack, self._unpack = zlib.compressobj(zdict=DICTIONARY), zlib.decompressobj(zdict=DICTIONARY)
        self._streams: dict[int, str] = {}

    def open(self, name: str) -> int:
        number = 2 * len(self._streams) + 1
        self._streams[number] = name
        block = struct.pack(">I", 1) + b"".join(struct.pack(">I", len(text)) + text for text in (b"streamtype", name.encode()))
        body = struct.pack(">IIH", number, 0, 0) + self._pack.compress(block) + self._pack.flush(zlib.Z_SYNC_FLUSH)
        self.socket.sendall(struct.pack(">II", 1 << 31 | 3 << 16 | SYN_STREAM, len(body)) + body)
        return number

    def data(self, number: int, data: bytes, flags: int = 0) -> None:
        self.socket.sendall(struct.pack(">II", number, flags << 24 | len(data)) + data)

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """First word, flags and body, until the connection ends."""
        with self.socket.makefile("rb") as file:
            while len(head := file.read(8)) == 8:
                first, second = struct.unpack(">II", head)
                yield first, second >> 24, file.read(second & 0xFFFFFF)

    def rest(self) -> Ended:
        """All that the command writes, and how it ends; every stream is answered and ended."""
        written = dict.fromkeys(self._streams.values(), b"")
        answered, finished, last = set(), set(), 0
        for first, flags, body in self.frames():
            if first >> 31:
                last = first & 0xFFFF
                if last == SYN_REPLY:
                    answered.add(struct.unpack_from(">I", body)[0])
                    assert self._unpack.decompress(body[4:]) == struct.pack(">I", 0)
                continue
            written[self._streams[first]] += body
            if flags & FIN:
                finished.add(first)
        ends = {number for number, name in self._streams.items() if name != "resize"}  # nothing comes back on that one
        assert (answered, finished, last) == (set(self._streams), ends, GOAWAY)
        return Ended(written.get("stdout", b"").decode(), written.get("stderr", b"").decode(), json.loads(written["error"]))


def test_the_dictionary_is_that_of_spdy_3() -> None:
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2  # which every compressed block names


@pytest.mark.parametrize("versions, chosen", [(VERSIONS, "v5.channel.k8s.io"), (VERSIONS[1:], "v4.channel.k8s.io")])
def test_a_command_and_its_streams(cluster: Cluster, versions: tuple[str, ...], chosen: str) -> None:
    client = Client(cluster, url(cluster, "p", "sh", "-c", "echo out; echo err >&2; exit 7"), versions)
    told = client.reply
    assert (told.status, told.headers["Upgrade"], told.headers["Connection"], told.headers["X-Stream-Protocol-Version"]) == (101, "SPDY/3.1", "Upgrade", chosen)
    for name in ("error", "stdout", "stderr"):
        client.open(name)
    done = client.rest()
    assert (done.out, done.error, done.code) == ("out\n", "err\n", 7)


def test_an_input(cluster: Cluster) -> None:
    client = Client(cluster, url(cluster, "p", "cat", stdin="true"))
    client.open("error")
    stdin = client.open("stdin")
    client.data(stdin, b"before the others are there, ")
    for name in ("stdout", "stderr"):
        client.open(name)
    client.data(stdin, b"after, ")
    client.data(stdin, b"and the end", FIN)
    assert client.rest().out == "before the others are there, after, and the end"


def test_a_terminal(cluster: Cluster) -> None:
    client = Client(cluster, url(cluster, "p", "sh", stdin="true", tty="true"))
    client.open("error")
    stdin = client.open("stdin")
    client.open("stdout")
    client.data(client.open("resize"), b'{"Width":80,"Height":24}\n')
    client.data(stdin, b"hostname\r")
    client.data(stdin, b"exit 3\r")
    done = client.rest()
    assert (done.out, done.code) == ("sh-4.4# hostname\r\np\r\nsh-4.4# exit 3\r\n", 3)


def test_a_ping_is_answered(cluster: Cluster) -> None:
    client = Client(cluster, url(cluster, "p", "cat", stdin="true"))
    client.socket.sendall(struct.pack(">III", 1 << 31 | 3 << 16 | PING, 4, 9))
    assert next(client.frames()) == (1 << 31 | 3 << 16 | PING, 0, struct.pack(">I", 9))


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n" * 4, struct.pack(">II", 1 << 31 | 3 << 16 | SYN_STREAM, 14) + bytes(10) + b"junk"])
def test_what_is_no_spdy_ends_the_connection(cluster: Cluster, noise: bytes) -> None:
    client = Client(cluster, url(cluster, "p", "cat", stdin="true"))
    client.socket.sendall(noise)
    client.socket.shutdown(1)
    assert read_to_end(client.socket) == b""
    assert cluster.get("pods", "p")["status"]["phase"] == "Running"


def read_to_end(socket: Any) -> bytes:
    try:
        return bytes(socket.recv(4096))
    except OSError:  # cut off
        return b""


def test_refusals_come_before_the_upgrade(cluster: Cluster) -> None:
    assert Client(cluster, url(cluster, "none", "true")).reply.status == 404
    assert Client(cluster, url(cluster, "p", "true"), ("v1.other",)).reply.status == 403
