"""What migrations share: the nodes' network. Each stream is as fast as its slowest part lets it be."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from ..clock import SimClock


@dataclass(eq=False)
class Stream:
    """One migration's connection. Amounts are bytes."""

    source: str
    target: str
    most: float  # bytes a second
    left: float = 0.0
    rate: float = 0.0
    at: float = 0.0  # when `left` was right
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)


class Network:
    """Each node's link is shared out equally between the streams that leave it, and likewise between those that arrive."""

    def __init__(self, clock: SimClock, link_bytes_per_second: float) -> None:
        self._clock, self._link = clock, link_bytes_per_second
        self._streams: list[Stream] = []

    def connect(self, source: str, target: str, most: float) -> Stream:
        """A new stream that never goes faster than `most`. Disconnect it at the end."""
        stream = Stream(source, target, most, at=self._clock.now())
        self._streams.append(stream)
        self._share()
        return stream

    def disconnect(self, stream: Stream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
            self._share()

    async def send(self, stream: Stream, amount: float) -> None:
        """Return when so many bytes have gone through."""
        stream.left, stream.at = amount, self._clock.now()
        while True:
            stream.wakeup.clear()
            end = stream.at + stream.left / stream.rate
            if end <= self._clock.now():
                return
            self._clock.call_at(end, stream.wakeup.set)
            await stream.wakeup.wait()
            self._advance(stream)

    def _advance(self, stream: Stream) -> None:
        now = self._clock.now()
        stream.left = max(0.0, stream.left - (now - stream.at) * stream.rate)
        stream.at = now

    def _share(self) -> None:
        leaving = Counter(each.source for each in self._streams)
        arriving = Counter(each.target for each in self._streams)
        for stream in self._streams:
            rate = min(stream.most, self._link / leaving[stream.source], self._link / arriving[stream.target])
            if rate != stream.rate:
                self._advance(stream)
                stream.rate = rate
                stream.wakeup.set()
