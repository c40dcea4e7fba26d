"""The storage: a Ceph pool with its RBD images, ceph-csi in front of it, and external-provisioner's calls to that.

What makes clones slow comes from here: few calls at a time, one clone of a parent at a time, and work that is left for
the background (trimming of the clones' temporary snapshots, flattening), of which the pool does little while clients keep it busy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from .clock import SimClock

T = TypeVar("T")


class CsiError(Exception):
    """A call that the CSI driver refused, or that did not end in time. `code` is gRPC's."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {description}")
        self.code = code


@dataclass(eq=False)
class Image:
    """One RBD image: a volume, or (`snapshot`) what a CSI snapshot is kept in. A child shares its parent's data until it is flattened."""

    name: str
    gib: float
    data_gib: float
    parent: Image | None = None
    children: dict[str, Image] = field(default_factory=dict)  # in the order of their making, those that are not flattened
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_clone: bool = False  # also when it has been flattened since
    flattening: bool = False
    in_trash: bool = False


class Background:
    """What the pool does when it has the time: one job after the other, at the rate that its clients leave."""

    def __init__(self, clock: SimClock, least_share: float, busy_clients: int) -> None:
        """`busy_clients` operations at a time leave nothing but `least_share`."""
        self._clock, self._least_share, self._busy_clients = clock, least_share, busy_clients
        self._jobs: deque[tuple[float, Callable[[], None]]] = deque()
        self._first_left = 0.0
        self._waiting = 0.0  # seconds of work behind the first job
        self._clients = 0
        self._at = clock.now()
        self._generation = 0

    @property
    def seconds(self) -> float:
        """The work that is to be done, in seconds of an idle pool."""
        self._advance()
        return self._first_left + self._waiting

    def add(self, seconds: float, done: Callable[[], None] = lambda: None) -> None:
        self._advance()
        self._jobs.append((seconds, done))
        if len(self._jobs) == 1:
            self._first_left = seconds
        else:
            self._waiting += seconds
        self._arm()

    @contextmanager
    def client(self) -> Iterator[None]:
        """While a client's operation runs, the background gets less."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        self._advance()
        self._clients += by
        self._arm()

    def _rate(self) -> float:
        return max(self._least_share, 1.0 - self._clients / self._busy_clients)

    def _advance(self) -> None:
        now = self._clock.now()
        if self._jobs:
            self._first_left = max(0.0, self._first_left - (now - self._at) * self._rate())
        self._at = now

    def _arm(self) -> None:
        self._generation += 1
        if self._jobs:
            generation = self._generation
            self._clock.call_later(self._first_left / self._rate(), lambda: self._fire(generation))

    def _fire(self, generation: int) -> None:
        if generation != self._generation:
            return  # something changed since; a later timer knows better
        self._advance()
        _, done = self._jobs.popleft()
        self._first_left = 0.0
        if self._jobs:
            self._first_left = self._jobs[0][0]
        self._waiting = self._waiting - self._first_left if len(self._jobs) > 1 else 0.0
        self._arm()
        done()


@dataclass(eq=False)
class Transfer:
    """Data on its way between two nodes, through the pool."""

    gib: float
    nodes: tuple[str, ...]
    done: asyncio.Future[None]
    left_gib: float = 0.0
    most: float = 0.0
    rate: float = 0.0


class Network:
    """What copies go through: each node's interface and the pool's bandwidth, shared fairly between those that use them. GiB a second."""

    def __init__(self, clock: SimClock, node_rate: float, pool_rate: float, transfer_rate: float) -> None:
        self._clock, self._node_rate, self._pool_rate, self._transfer_rate = clock, node_rate, pool_rate, transfer_rate
        self._transfers: list[Transfer] = []
        self._at = clock.now()
        self._generation = 0

    def start(self, gib: float, *nodes: str, most: float | None = None) -> Transfer:
        """Begin to move so much, through these nodes' interfaces; await the transfer's `done`. `most`: where its other end is slower."""
        self._advance()
        transfer = Transfer(gib, nodes, asyncio.get_running_loop().create_future(), gib, self._transfer_rate if most is None else most)
        self._transfers.append(transfer)
        self._share()
        return transfer

    def stop(self, transfer: Transfer) -> None:
        """Give it up. Nothing happens if it is through."""
        self._advance()
        if transfer in self._transfers:
            self._transfers.remove(transfer)
            self._share()

    def share_done(self, transfer: Transfer) -> float:
        """Between 0 and 1."""
        self._advance()
        return 1.0 - transfer.left_gib / transfer.gib if transfer.gib else 1.0

    def _advance(self) -> None:
        now = self._clock.now()
        for transfer in self._transfers:
            transfer.left_gib = max(0.0, transfer.left_gib - (now - self._at) * transfer.rate)
        self._at = now

    def _share(self) -> None:
        """Each goes as fast as the most crowded thing on its way lets it."""
        self._generation += 1
        if not self._transfers:
            return
        users: dict[str, int] = {}
        for transfer in self._transfers:
            for node in transfer.nodes:
                users[node] = users.get(node, 0) + 1
        of_pool = self._pool_rate / len(self._transfers)
        for transfer in self._transfers:
            transfer.rate = min(transfer.most, of_pool, *(self._node_rate / users[node] for node in transfer.nodes))
        generation = self._generation
        self._clock.call_later(min(each.left_gib / each.rate for each in self._transfers), lambda: self._fire(generation))

    def _fire(self, generation: int) -> None:
        if generation != self._generation:
            return
        self._advance()
        first = min(self._transfers, key=lambda each: each.left_gib / each.rate)
        first.left_gib = 0.0  # floating point must not leave it a hair short
        through = [each for each in self._transfers if not each.left_gib]
        self._transfers = [each for each in self._transfers if each.left_gib]
        self._share()
        for transfer in through:
            if not transfer.done.done():
                transfer.done.set_result(None)


class Provisioner:
    """external-provisioner: so many calls at a time; one that fails is tried again, after ever longer."""

    def __init__(self, clock: SimClock, timing: Any) -> None:
        """`timing` is the profile's `ceph` section."""
        self._clock, self._timing = clock, timing
        self._slots = asyncio.Semaphore(timing.provisioner_workers)
        self.calls = 0  # under way now
        self.most_calls = 0

    async def call(self, operation: Callable[[], Awaitable[T]], failed: Callable[[CsiError], bool | None] = lambda error: None) -> T:
        """Have the driver do it, however often that takes. `failed` hears of each failure; if it returns True, the error is raised."""
        interval: float = self._timing.retry_first_seconds
        while True:
            async with self._slots:
                self.calls += 1
                self.most_calls = max(self.most_calls, self.calls)
                try:
                    return await self._in_time(operation())
                except CsiError as error:
                    if failed(error):
                        raise
                finally:
                    self.calls -= 1
            await self._clock.sleep(interval)
            interval = min(2 * interval, self._timing.retry_most_seconds)

    async def _in_time(self, operation: Awaitable[T]) -> T:
        """The call's result, or DeadlineExceeded: the driver goes on with it all the same."""
        task = asyncio.ensure_future(operation)
        late = asyncio.get_running_loop().create_future()
        self._clock.call_later(self._timing.provisioner_timeout_seconds, lambda: None if late.done() else late.set_result(None))
        try:
            await asyncio.wait({task, late}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            late.cancel()
            if not task.done():
                task.cancel()  # stops the waiting; the driver's own task is shielded from it
        if not task.done() or task.cancelled():
            raise CsiError("DeadlineExceeded", "context deadline exceeded")
        return task.result()


class Storage(Protocol):
    """What the pool is given."""

    clock: SimClock
    timing: Any


class Ceph:
    """The pool and ceph-csi's controller server. Names are those of the requests: `pvc-<uid>`, `snapshot-<uid>`."""

    def __init__(self, cluster: Storage) -> None:
        self._clock = cluster.clock
        self._timing: Any = cluster.timing.ceph
        timing = self._timing
        self.images: dict[str, Image] = {}
        self.background = Background(self._clock, timing.background_least_share, timing.busy_clients)
        self.network = Network(self._clock, timing.node_gib_per_second, timing.pool_gib_per_second, timing.transfer_gib_per_second)
        self.provisioner = Provisioner(self._clock, timing)
        self.snapshotter, self.deleter = Provisioner(self._clock, timing), Provisioner(self._clock, timing)
        self._running: dict[str, asyncio.Task[Image]] = {}

    def adopt(self, name: str, gib: float) -> Image:
        """An image that is there from the start."""
        image = self.images[name] = Image(name, gib, gib * self._timing.data_share)
        return image

    async def create(self, name: str, gib: float, source: str | None = None) -> Image:
        """CreateVolume or CreateSnapshot: make the image, empty or as a clone of another. The same request again finds what the first one made.

        Raises CsiError: Aborted while an earlier request for this image runs, ResourceExhausted if the source has too many clones,
        NotFound if there is no source.
        """
        if name in self.images:
            await self._clock.sleep(self._timing.request_seconds)
            return self.images[name]
        if name in self._running:
            raise CsiError("Aborted", f"an operation with the given Volume ID {name} already exists")
        task = self._running[name] = asyncio.create_task(self._make(name, gib, source), name=f"ceph-csi {name}")
        task.add_done_callback(lambda done: (self._running.pop(name, None), done.cancelled() or done.exception()))
        return await asyncio.shield(task)

    async def _make(self, name: str, gib: float, source: str | None) -> Image:
        with self.background.client():
            if source is None:
                await self._work(self._timing.create_seconds)
                image = Image(name, gib, 0.0)
            else:
                image = await self._clone(name, gib, source)
        self.images[name] = image
        return image

    async def _clone(self, name: str, gib: float, source: str) -> Image:
        parent = self.images.get(source)
        if parent is None:
            raise CsiError("NotFound", f"image {source} not found")
        await self._flatten_some(parent)
        await self._work(self._timing.clone_seconds)
        async with parent.lock:
            await self._work(self._timing.clone_locked_seconds)
            image = Image(name, gib, parent.data_gib, parent, is_clone=True)
            parent.children[name] = image
        self.background.add(self._timing.trim_seconds)
        return image

    async def _work(self, seconds: float) -> None:
        """An operation of an idle pool takes so long; the more the background has to do, the longer."""
        await self._clock.sleep(seconds * (1.0 + self.background.seconds / self._timing.background_doubles_at_seconds))

    async def _flatten_some(self, parent: Image) -> None:
        """ceph-csi's limits: above the soft one the clones in excess are handed to the manager to flatten, above the hard one there are no more."""
        many, hard = len(parent.children), int(self._timing.hard_limit_clones)
        if many > hard:
            await self._ask_to_flatten(parent, many - int(self._timing.soft_limit_clones))
            raise CsiError("ResourceExhausted", f"rbd image {parent.name} has {many} snapshots")
        await self._ask_to_flatten(parent, many - int(self._timing.soft_limit_clones))

    async def _ask_to_flatten(self, parent: Image, excess: int) -> None:
        if excess <= 0:
            return
        for image in list(parent.children.values())[:excess]:
            if not image.flattening:
                image.flattening = True
                self.background.add(image.data_gib / self._timing.flatten_gib_per_second, partial(self._detach, image))
        await self._clock.sleep(excess * self._timing.flatten_request_seconds)

    def _detach(self, image: Image) -> None:
        """It has its own data now."""
        parent, image.parent = image.parent, None
        if parent is not None:
            parent.children.pop(image.name, None)
            if parent.in_trash:
                self._purge(parent)

    async def remove(self, name: str) -> None:
        """DeleteVolume or DeleteSnapshot: into the trash at once; the pool removes it when it has the time. Nothing happens if it is not there."""
        await self._clock.sleep(self._timing.request_seconds)
        image = self.images.get(name)
        if image is not None and not image.in_trash:
            image.in_trash = True
            self.background.add(self._timing.remove_seconds, lambda: self._purge(image))

    def _purge(self, image: Image) -> None:
        if not image.children:  # else they keep it in the trash, as long as they share its data
            self.images.pop(image.name, None)
            self._detach(image)

    def fill(self, name: str, gib: float) -> None:
        """Data was written into this image."""
        image = self.images.get(name)
        if image is not None:
            image.data_gib = max(image.data_gib, gib)

    async def stop(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
