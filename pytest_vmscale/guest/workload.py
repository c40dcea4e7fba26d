"""fio in many guests at once: its files laid out, started on one barrier, left alone, its results fetched.

fio runs detached, by a script that starts each job at its time: no connection is needed while anything is measured, and one that is
lost costs nothing but another try. A few connections at a time do for any number of guests. What is done over each is in detached.py.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

from ..clock import Clock
from . import detached
from .detached import Check, WorkloadError
from .fio import LAYOUT, Dataset, FioResult, Job, render_job, render_layout
from .login import LOGIN_WALL_SECONDS, Credentials, LoginError, with_login
from .route import Route, Target

if TYPE_CHECKING:
    from paramiko import SSHClient

T = TypeVar("T")

CONNECTIONS = 16
CLOCK_SAMPLES = 3
LOOP_TURNS = 5  # of the event loop, until a line that has arrived has been read
# The barrier lies so far ahead: a second, and this multiple of what the pace so far says that it takes to reach all guests. If it passes
# before all have been reached, nothing has been measured yet: all begin again, with a later one.
LEAD_WALL_SECONDS = 1.0
LEAD_FACTOR = 1.25
BARRIER_TRIES = 3
# Guests that have not ended, or cannot be reached, are asked again; the pauses grow. Cluster time.
RETRY_SECONDS, RETRY_MOST_SECONDS, RETRY_FLOOR_WALL_SECONDS = 1.0, 15.0, 0.2
# A connection that cannot be made, or breaks, says little of a guest the first time: so often it is tried, however soon the deadline is.
TRIES = 3
# Beyond its time a job needs this much to open its files, write its result and end.
SETTLE_SECONDS = 1.0
GAP_SECONDS = 10.0  # between one job's planned end and the next one's start
LATE_SECONDS = 5.0  # a job without a ramp may start so much after the others


@dataclass(frozen=True)
class Host:
    """A guest that fio is to run in."""

    key: str  # namespace/name
    target: Target
    credentials: Credentials


@dataclass(frozen=True)
class Offset:
    """How far a guest's clock is ahead of the run's, in seconds; the truth is at most `bound_seconds` away."""

    seconds: float
    bound_seconds: float


@dataclass(frozen=True)
class Trouble:
    """Why something failed in one guest, in one line. passing: the way to it may be open again later."""

    why: str
    passing: bool = False


@dataclass(frozen=True)
class Timed:
    """A job, and when it starts: seconds after the barrier."""

    job: Job
    at_seconds: float = 0.0

    @property
    def end_seconds(self) -> float:
        return self.at_seconds + self.job.total_seconds


@dataclass(frozen=True)
class JobRun:
    """What became of one job in one guest: a result, or the reason why there is none. late_seconds: after its planned start, within
    the bound of the guest's offset."""

    result: FioResult | None
    error: str | None = None
    late_seconds: float | None = None


@dataclass
class GuestRun:
    """All of one guest's jobs, by name; those that are not there were not fetched, and `error` says why."""

    key: str
    offset: Offset | None = None
    jobs: dict[str, JobRun] = field(default_factory=dict)
    error: str | None = None
    tries: int = 0  # of fetching
    lost: list[str] = field(default_factory=list)  # why earlier tries failed


@dataclass(frozen=True)
class Barrier:
    """When the jobs start. epoch: the cluster's Unix time. tries: how many barriers passed before all guests were reached, and this one."""

    epoch: float
    timed: tuple[Timed, ...]
    runs: Mapping[str, GuestRun]
    tries: int = 1

    @property
    def end_epoch(self) -> float:
        return self.epoch + max(each.end_seconds for each in self.timed)

    def start_of(self, key: str) -> float:
        """The same by the guest's own clock."""
        offset = self.runs[key].offset
        return self.epoch + (offset.seconds if offset else 0.0)


def one_after_the_other(jobs: Iterable[Job], gap_seconds: float = GAP_SECONDS) -> list[Timed]:
    """The jobs in turn, each beginning when the one before it has surely ended in every guest."""
    timed: list[Timed] = []
    for job in jobs:
        timed.append(Timed(job, timed[-1].end_seconds + gap_seconds if timed else 0.0))
    return timed


Progress = Callable[[str, int, int], None]


class Workload:
    """fio in these guests. Use as `async with`: the end closes the threads, and leaves the guests as they are."""

    def __init__(
        self, hosts: Iterable[Host], route: Route, clock: Clock, connections: int = CONNECTIONS, on_progress: Progress | None = None
    ) -> None:
        self.hosts = {host.key: host for host in hosts}
        self._route, self._clock, self._on_progress = route, clock, on_progress
        self._connections = connections
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="vmscale-ssh")
        self._slots = asyncio.Semaphore(connections)
        self._wall_each = 0.0  # what one guest last took of the run's time, at so many connections

    async def __aenter__(self) -> Workload:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # What is there.

    async def check(self, dataset: Dataset, keys: Iterable[str] | None = None) -> dict[str, Check | Trouble]:
        """Look into each guest."""
        layout = render_layout(dataset)
        return await self._each("checked", keys, lambda key, client: detached.check(client, layout), tries=TRIES)

    async def install(self, keys: Iterable[str]) -> dict[str, Trouble]:
        """Install fio from the guests' own repositories. Returns the guests where that failed."""
        pace = self._wall_each
        failed = _troubles(
            await self._each("with fio installed", keys, lambda key, client: detached.install(client), detached.INSTALL_WALL_SECONDS)
        )
        self._wall_each = pace  # an installation takes its time, however fast guests are reached
        return failed

    async def lay_out(self, dataset: Dataset, deadline_seconds: float, keys: Iterable[str] | None = None) -> dict[str, Trouble]:
        """Write the dataset in each guest, all at once. Returns the guests where that failed. deadline_seconds: cluster time, from when
        all have been asked once."""

        def begin(key: str, client: SSHClient) -> None:
            detached.forget_layout(client)
            detached.start(client, render_layout(dataset), lambda: f"0 {LAYOUT}\n")

        begun = await self._each("begun to lay out", keys, begin, tries=TRIES)
        failed, give_up = _troubles(begun), None
        waiting, pause = [key for key in begun if key not in failed], RETRY_SECONDS
        for tries in itertools.count(1):
            looks = await self._each("laid out", waiting, lambda key, client: detached.laid_out(client), quiet=True)
            # A guest that cannot be reached for the moment may be writing all the same.
            failed.update({key: look for key, look in _troubles(looks).items() if not look.passing})
            waiting = [key for key, look in looks.items() if look is False or (isinstance(look, Trouble) and look.passing)]
            self._tell("laid out", len(begun) - len(waiting), len(begun))
            give_up = self._clock.now() + deadline_seconds if give_up is None else give_up
            if self._clock.now() >= give_up:
                late = Trouble(f"the dataset was not laid out within {deadline_seconds:.0f} s")
                ended = [key for key in waiting if looks[key] is False or tries >= TRIES]
                failed.update({key: late if looks[key] is False else cast(Trouble, looks[key]) for key in ended})
                waiting = [key for key in waiting if key not in failed]
            if not waiting:
                break
            pause = await self._pause(pause)
        return failed

    # Running.

    async def start(self, timed: Sequence[Timed], keys: Iterable[str] | None = None) -> Barrier:
        """Hand out the jobs; they start on a barrier that lies far enough ahead for all guests to be reached.

        A guest that cannot be reached has its reason in its GuestRun, and is not part of the run."""
        names = [each.job.name for each in timed]
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"jobs need names of their own, not {', '.join(names) or 'none at all'}")
        jobs = "\n".join(render_job(each.job) for each in timed)
        chosen = list(self.hosts if keys is None else keys)
        pace, loop = self._wall_each, asyncio.get_running_loop()
        for tries in range(1, BARRIER_TRIES + 1):
            epoch = self._clock.now() + self._clock.rate * (LEAD_WALL_SECONDS + LEAD_FACTOR * pace * len(chosen))
            began = time.monotonic()
            found = await self._each("started", chosen, lambda key, client: self._begin(client, loop, epoch, jobs, timed), tries=TRIES)  # noqa: B023
            # Guests that were handed their jobs late enough to begin late.
            if tries == BARRIER_TRIES or self._clock.now() <= epoch + max(timed[0].job.ramp_seconds, LATE_SECONDS):
                break
            pace = max(pace, (time.monotonic() - began) / len(chosen))
        runs = {key: GuestRun(key, error=each.why) if isinstance(each, Trouble) else GuestRun(key, each) for key, each in found.items()}
        return Barrier(epoch, tuple(timed), runs, tries)

    def _begin(self, client: SSHClient, loop: asyncio.AbstractEventLoop, epoch: float, jobs: str, timed: Sequence[Timed]) -> Offset:
        """Compare the guest's clock, and have it wait for the barrier by it. On a thread; `loop` is the other one's."""
        read = []
        for _ in range(CLOCK_SAMPLES):
            sent = time.monotonic()
            told = detached.epoch(client)
            read.append((sent, told, time.monotonic()))
        found: list[Offset] = []

        def schedule() -> str:
            # The embedded cluster's time may have stood still: what tells our clock of it must have been read before that is asked.
            asyncio.run_coroutine_threadsafe(_turns(LOOP_TURNS), loop).result(LOGIN_WALL_SECONDS)
            found.append(min((self._offset(*each) for each in read), key=lambda offset: offset.bound_seconds))
            return "".join(f"{round((epoch + found[0].seconds + each.at_seconds) * 1e9)} {each.job.name}\n" for each in timed)

        detached.start(client, jobs, schedule)
        return found[0]

    def _offset(self, sent: float, told: float, back: float) -> Offset:
        """Of a clock that told this between these stamps of ours."""
        before, after = self._clock.at(sent), self._clock.at(back)
        return Offset(told - (before + after) / 2, (after - before) / 2)

    async def wait(self, barrier: Barrier, tick: Callable[[float], None] | None = None) -> None:
        """Until the last job has ended. tick gets the share of the time that has passed, each second or so."""
        begin, end = self._clock.now(), barrier.end_epoch + SETTLE_SECONDS
        while (now := self._clock.now()) < end:
            if tick:
                tick((now - begin) / (end - begin))
            await asyncio.sleep(min(1.0, self._clock.wall(end - now)))

    async def fetch(self, barrier: Barrier, deadline_seconds: float) -> Mapping[str, GuestRun]:
        """What came of all guests that were started. One that cannot be reached, or has not ended, is asked again until the deadline
        (cluster seconds from when all have been asked once); what is missing then says why."""
        give_up: float | None = None
        waiting = [key for key, run in barrier.runs.items() if run.error is None]
        total, pause = len(waiting), RETRY_SECONDS
        while waiting:
            found = await self._each("fetched", waiting, lambda key, client: detached.fetch(client), quiet=True)
            missing: dict[str, str] = {}
            for key, look in found.items():
                run = barrier.runs[key]
                run.tries += 1
                if isinstance(look, Trouble):
                    missing[key] = look.why
                    run.lost.append(look.why)
                    continue
                run.jobs.update(_judged(barrier, run, look))
                if unended := [each.job.name for each in barrier.timed if each.job.name not in run.jobs]:
                    missing[key] = f"{', '.join(unended)} had not ended"
            self._tell("fetched", total - len(missing), total)
            give_up = self._clock.now() + deadline_seconds if give_up is None else give_up
            if self._clock.now() >= give_up:
                for key in [key for key in missing if not isinstance(found[key], Trouble) or barrier.runs[key].tries >= TRIES]:
                    barrier.runs[key].error = f"no results within {deadline_seconds:.0f} s: {missing.pop(key)}"
            waiting = list(missing)
            if waiting:
                pause = await self._pause(pause)
        return barrier.runs

    async def stop(self) -> None:
        """End what runs, in the guests that can be reached: for a run that is given up."""
        await self._each("stopped", None, lambda key, client: detached.stop(client), quiet=True)

    async def remove(self) -> dict[str, Trouble]:
        """Take the dataset and all else away again. Returns the guests where that failed."""
        return _troubles(await self._each("cleaned", None, lambda key, client: detached.remove(client)))

    # Many guests, few connections.

    async def _each(
        self,
        what: str,
        keys: Iterable[str] | None,
        work: Callable[[str, SSHClient], T],
        timeout_wall_seconds: float = LOGIN_WALL_SECONDS,
        quiet: bool = False,
        tries: int = 1,
    ) -> dict[str, T | Trouble]:
        """Do the work in each guest, some at a time; a guest where it failed has its trouble in place of what the work returns.

        tries: so often where the connection fails."""
        chosen = list(self.hosts if keys is None else keys)
        found: dict[str, T | Trouble] = {}
        began = time.monotonic()

        async def one(key: str) -> None:
            host, pause = self.hosts[key], RETRY_SECONDS
            for number in range(1, tries + 1):
                async with self._slots:
                    try:
                        found[key] = await with_login(
                            self._route,
                            host.target,
                            host.credentials,
                            lambda client: work(key, client),
                            timeout_wall_seconds,
                            self._threads,
                        )
                        break
                    except LoginError as error:
                        found[key] = Trouble(str(error), passing=True)
                    except WorkloadError as error:
                        found[key] = Trouble(f"{key}: {error}")
                        break
                if number < tries:
                    pause = await self._pause(pause)
            if not quiet:
                self._tell(what, len(found), len(chosen))

        async with asyncio.TaskGroup() as group:
            for key in chosen:
                group.create_task(one(key))
        if chosen and not quiet:
            self._wall_each = (time.monotonic() - began) / len(chosen)
        return {key: found[key] for key in chosen}

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._on_progress:
            self._on_progress(what, done, total)

    async def _pause(self, seconds: float) -> float:
        """Returns how long the next pause is to be."""
        await asyncio.sleep(max(RETRY_FLOOR_WALL_SECONDS, self._clock.wall(seconds)))
        return min(2 * seconds, RETRY_MOST_SECONDS)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _troubles(found: Mapping[str, object]) -> dict[str, Trouble]:
    return {key: each for key, each in found.items() if isinstance(each, Trouble)}


def _judged(barrier: Barrier, run: GuestRun, found: Mapping[str, tuple[detached.Ended, FioResult | str]]) -> dict[str, JobRun]:
    """The jobs that have ended. One that began when others had been counting for a while did not run beside them."""
    judged: dict[str, JobRun] = {}
    bound = run.offset.bound_seconds if run.offset else 0.0
    for each in barrier.timed:
        name = each.job.name
        if name not in found:
            continue
        ended, result = found[name]
        late = ended.started_epoch - barrier.start_of(run.key) - each.at_seconds
        if isinstance(result, str):
            judged[name] = JobRun(None, result, late)
        elif late - bound > max(each.job.ramp_seconds, LATE_SECONDS):
            judged[name] = JobRun(None, f"{name} started {late:.1f} s after the others", late)
        else:
            judged[name] = JobRun(result, None, late)
    return judged
