"""How far a measurement is: one line rewritten on a terminal, elsewhere (a CI log) a line every ten seconds of the wall."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

LINE_EVERY_SECONDS = 10.0  # wall: a log is read on the wall's clock
REDRAW_EVERY_SECONDS = 0.1  # wall: more is not seen
_BAR_WIDTH = 16


class Progress:
    """Takes counts from a procedure and shows them. `update` is cheap: it may be called for each event, from one thread."""

    def __init__(self, stream: TextIO, title: str, *, terminal: bool | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._title = title
        self._terminal = stream.isatty() if terminal is None else terminal
        self._now = now
        self._shown_at = now() if not self._terminal else now() - REDRAW_EVERY_SECONDS
        self._line = ""
        self._drawn = ""

    def update(self, counts: str, share: float, cluster_seconds: float, speed: float = 1.0) -> None:
        """`counts`: how far it is, in words; `share`: the same between 0 and 1. `cluster_seconds` since the scenario's start;
        `speed`: cluster seconds a wall second."""
        self._line = f"{counts}, {cluster_seconds:.0f} s" + (f" simulated at {speed:g}x" if speed != 1 else "")
        self._share = min(1.0, share)
        now = self._now()
        if now - self._shown_at >= (REDRAW_EVERY_SECONDS if self._terminal else LINE_EVERY_SECONDS):
            self._shown_at = now
            self._show()

    def close(self) -> None:
        """Show the last state, and leave the line to whoever writes next."""
        if self._line:
            self._show()
        if self._terminal and self._drawn:
            self._stream.write("\n")
            self._stream.flush()
        self._line = self._drawn = ""

    def _show(self) -> None:
        if not self._terminal:
            self._stream.write(f"{self._title}: {self._line}\n")
        else:
            full = round(self._share * _BAR_WIDTH)
            # One column less than there are, or the terminal wraps and the next draw begins a line too low.
            line = f"{self._title} [{'#' * full}{'.' * (_BAR_WIDTH - full)}] {self._line}"[: shutil.get_terminal_size().columns - 1]
            self._stream.write(f"\r{line}{' ' * (len(self._drawn) - len(line))}")
            self._drawn = line
        self._stream.flush()
