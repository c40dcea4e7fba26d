"""What the programs in a guest find there: a disk, other programs, a clock, and the way to the storage."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from .disk import Disk
from .iomodel import Pool

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Process:
    """A program in the background. `group` asks for its process group, which setsid changes."""

    task: asyncio.Task[None]
    group: Callable[[], int]


@dataclass(eq=False)
class Machine:
    """One guest's inside. A reboot ends its processes and leaves its disk."""

    disk: Disk = field(default_factory=lambda: Disk(40 << 30, 3 << 30))
    pool: Pool | None = None  # without, no I/O is possible
    has_fio: bool = True
    can_install: bool = True
    install_seconds: float = 0.0
    full: bool = False
    clock_offset_seconds: float = 0.0  # ahead of the cluster's time
    write_out: Callable[[int], Coroutine[Any, Any, None]] | None = None  # returns when so many bytes have been written
    io_begins: Callable[[float], None] = lambda seconds: None  # fio runs from now on, for so long
    processes: dict[int, Process] = field(default_factory=dict)
    _pids: itertools.count[int] = field(default_factory=lambda: itertools.count(1200))

    @property
    def free_bytes(self) -> int:
        return 0 if self.full else self.disk.free_bytes

    def next_pid(self) -> int:
        return next(self._pids)

    def spawn(self, pid: int, group: Callable[[], int], work: Coroutine[Any, Any, None]) -> None:
        """Run it in the background: no connection's end ends it."""
        task = asyncio.create_task(work, name=f"guest process {pid}")
        self.processes[pid] = Process(task, group)
        task.add_done_callback(lambda done: self._ended(pid, done))

    def _ended(self, pid: int, task: asyncio.Task[None]) -> None:
        self.processes.pop(pid, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("a guest's process ended by %r", error, exc_info=error)

    def processes_of(self, group: int) -> list[int]:
        return [pid for pid, process in self.processes.items() if process.group() == group]

    def kill(self, pid: int) -> None:
        self.processes[pid].task.cancel()

    def switch_off(self) -> None:
        for process in tuple(self.processes.values()):
            process.task.cancel()
