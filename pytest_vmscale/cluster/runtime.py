"""One event loop in one background thread: fixtures are synchronous, everything that talks to a cluster is not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel them, and wait until each has cleaned up; what they end with is their own affair."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


class Runtime:
    """Runs coroutines from synchronous code. Close it, or use it in a with statement."""

    def __init__(self, cleanup_seconds: float = 60.0) -> None:
        """`cleanup_seconds` (wall): how long a cancelled coroutine may take to clean up."""
        self._cleanup_seconds = cleanup_seconds
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="vmscale-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end and return its result, or raise what it raised.

        If an exception is raised in the calling thread meanwhile (Ctrl-C, a signal handler's), the coroutine is
        cancelled, its clean-up awaited, and that exception raised again. A second one ends the wait."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("Runtime.run called on its own thread: await the coroutine instead")
        task = Task(self.loop, coroutine)
        try:  # from before it begins: an interruption may come as soon as it has
            self.loop.call_soon_threadsafe(task._begin)
            return task.result()
        except BaseException:
            if not task.done():
                task.cancel_and_wait(self._cleanup_seconds)
            raise

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Run it in the background."""
        task = Task(self.loop, coroutine)
        self.loop.call_soon_threadsafe(task._begin)
        return task

    def close(self) -> None:
        """Cancel what still runs, let it clean up, and end the thread. May be called twice."""
        if self.loop.is_closed():
            return
        try:
            self.start(self._cancel_all()).result(self._cleanup_seconds)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(self._cleanup_seconds)
            if not self._thread.is_alive():
                self.loop.close()

    async def _cancel_all(self) -> None:
        await cancel_all(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Task(Generic[T]):
    """A coroutine that runs on the runtime's loop, seen from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._future: Future[T] = Future()
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False

    def _begin(self) -> None:
        if self._task is not None:
            return
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._finish)
        if self._cancelled:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self._future.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result())

    def done(self) -> bool:
        return self._future.done()

    def result(self, timeout_seconds: float | None = None) -> T:
        """Its result, or what it raised (CancelledError if it was cancelled); TimeoutError after wall seconds."""
        return self._future.result(timeout_seconds)

    def cancel(self) -> None:
        """Ask it to end; it may still clean up."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is None:
            self._begin()
        else:
            self._task.cancel()

    def cancel_and_wait(self, timeout_seconds: float) -> None:
        """Cancel, and wait for the clean-up; its errors are the coroutine's own affair."""
        self.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            self._future.result(timeout_seconds)
