"""The servers behind the one address of the API, as a load balancer spreads connections over them.

They are one process here. What a client sees of their number is what happens to its connections when a server ends.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from .watches import Watches

PRUNED_AT = 4096  # connections remembered before the closed ones are forgotten


class Replicas:
    """Which server each connection ended up on, and what each server's /version says."""

    def __init__(self, version: dict[str, str], watches: Watches, count: int = 3) -> None:
        self.versions = [version] * count
        self.up = [True] * count
        self._watches = watches
        self._of: dict[Any, int] = {}  # by connection, from its first request on
        self._last = 0

    def of(self, connection: Any) -> int:
        """The connection's server: the next one that is up, if this is its first request."""
        found = self._of.get(connection)
        if found is None:
            if len(self._of) >= PRUNED_AT:
                self._of = {each: index for each, index in self._of.items() if each.transport is not None}
            ready = [index for index, up in enumerate(self.up) if up] or list(range(len(self.up)))
            self._last += 1
            found = self._of[connection] = ready[self._last % len(ready)]
        return found

    def leave(self, index: int) -> None:
        """The load balancer sends this server no new connections."""
        self.up[index] = False

    def close(self, index: int, runner: web.AppRunner | None, *, at_once: bool = False) -> None:
        """The server ends: its watches end, its connections are closed once they have answered what they were asked, or at once."""
        mine = [each for each in _connections(runner) if self._of.get(each) == index]
        transports = {each.transport for each in mine}
        self._watches.finish([watcher for watcher in self._watches.all() if watcher.transport in transports])
        for each in mine:
            if at_once:
                each.force_close()
            else:
                each.close()

    def abort_all(self, runner: web.AppRunner | None) -> None:
        """Every connection breaks."""
        for each in _connections(runner):
            if each.transport is not None:
                each.transport.abort()

    def join(self, index: int, version: dict[str, str]) -> None:
        """The server is there again, at this version."""
        self.versions[index], self.up[index] = version, True


def _connections(runner: web.AppRunner | None) -> list[RequestHandler]:
    return list(runner.server.connections) if runner is not None and runner.server is not None else []
