"""truth.jsonl: when each thing really happened, in exact cluster time. The plugin never reads it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .clock import SimClock


class Truth:
    """One JSON line per thing that happened. The first line carries `t0_epoch`, the Unix time at t = 0 of
    the cluster's own clock; lines of kind `clock` carry the speed from there on and the wall's time."""

    def __init__(self, clock: SimClock, path: Path | None) -> None:
        self._clock, self._path = clock, path
        self._file: TextIO | None = path.open("w", encoding="utf-8") if path else None
        self.write("start", t0_epoch=clock.epoch, speed=clock.speed, wall_epoch=time.time(), wall_monotonic=time.monotonic())

    def write(self, kind: str, namespace: str | None = None, name: str | None = None, at: float | None = None, **more: Any) -> None:
        if self._file is None:
            return
        line: dict[str, Any] = {"t": round(self._clock.now() if at is None else at, 4), "kind": kind}
        if name is not None:
            line.update(namespace=namespace, name=name)
        with self._as_far_as_it_goes():
            self._file.write(json.dumps({**line, **more}) + "\n")

    def clock_changed(self) -> None:
        self.write("clock", speed=self._clock.speed, wall_epoch=time.time(), wall_monotonic=time.monotonic())

    def flush(self) -> None:
        if self._file:
            with self._as_far_as_it_goes():
                self._file.flush()

    def close(self) -> None:
        if self._file:
            with self._as_far_as_it_goes():
                self._file.close()
                self._file = None

    @contextlib.contextmanager
    def _as_far_as_it_goes(self) -> Iterator[None]:
        """On a disk that is full nothing more is written: no cluster ends for that."""
        try:
            yield
        except OSError as error:
            print(f"vmscale: {self._path} ends here: {error.strerror or error}", file=sys.stderr, flush=True)
            file, self._file = self._file, None
            if file:
                with contextlib.suppress(OSError):
                    file.close()
