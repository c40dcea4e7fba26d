"""The storage under the guests' I/O: how long a read or a write takes, from what the whole pool is doing at that time.

A guest's I/O is random, at a rate or as fast as it goes, so many at a time. What an I/O costs comes from these causes:

- reads: the way there and back and the drive's time; and, while the Ceph hosts have little to do, the waking of a core that sleeps. A host's
  idle governor stays awake only when the last few requests came close together, so a busy pool reads faster than an idle one;
- writes: the way and the drive's time; then each copy waits for a thread of its OSD. A copy has its own queue on each OSD (primary, first
  replica, ...), served by the threads of one shard, and keeps its thread busy beyond its acknowledgement. So much less, a copy fewer;
- both: live migrations share the network and the nodes' processors with the I/O.

Nothing is simulated I/O by I/O. What was running at each moment is kept, and a run's distribution is worked out when its result is read.
Seconds are of cluster time. numpy is imported when the first result is.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from .clock import SimClock
from .faults import Faults

Key = tuple[str, str]  # namespace and name of a VMI
Direction = Literal["read", "write"]

GRID_SECONDS = 5.0  # how finely the history of the load is looked at
MOST_GRID_POINTS = 64  # of one run, however long
MOST_STATES = 6  # into which a run's moments are put together
SPREAD_NODES = 8  # at so many points of its spread the service time is taken, to add the queues' waits to it
HALVINGS = 40  # until what the pool gives all of its loads is found: to twelve digits
HISTORY_LOADS = 50_000
FARTHEST_DEVIATIONS = 8.5  # beyond them the normal distribution's tail is below what a float tells from 0 or 1


@dataclass(frozen=True)
class Demand:
    """What one guest's thread asks of the pool. iops: at most so many a second; math.inf for as fast as it goes."""

    direction: Direction
    iops: float
    depth: int = 1
    block_bytes: int = 4096
    slowness: float = 1.0  # factor on its latency: a slow node, a slow VM


@dataclass(eq=False)
class Load:
    """A demand that runs, from `started` until `ended`."""

    key: Key
    demand: Demand
    started: float
    ended: float = math.inf


@dataclass(frozen=True)
class Spread:
    """How the latencies of one demand are spread at one moment: a service time (lognormal), and waits in `queues` queues, each of which
    an I/O meets with `chance` and then stays in for an exponential time."""

    service_seconds: float
    service_deviation: float  # share of it
    queues: int
    chance: float
    wait_seconds: float

    @property
    def mean(self) -> float:
        return self.service_seconds + self.queues * self.chance * self.wait_seconds

    @property
    def variance(self) -> float:
        return (self.service_seconds * self.service_deviation) ** 2 + self.queues * self.chance * (2 - self.chance) * self.wait_seconds**2


@dataclass(frozen=True)
class State:
    """The pool at one moment: what each demand gets."""

    iops: dict[Demand, float]  # of one thread with this demand
    spreads: dict[Demand, Spread]


@dataclass(frozen=True)
class Served:
    """What a load got over a time: its I/Os a second, and the mixture of spreads with their shares. pauses: how long each I/O took that a
    migration's switchover held up."""

    iops: float
    mixture: tuple[tuple[float, Spread], ...]
    pauses: tuple[float, ...]
    factor: float  # what makes this guest and run a little different from others

    @property
    def mean(self) -> float:
        return self.factor * sum(share * spread.mean for share, spread in self.mixture)

    @property
    def deviation(self) -> float:
        plain = sum(share * spread.mean for share, spread in self.mixture)
        square = sum(share * (spread.variance + spread.mean**2) for share, spread in self.mixture)
        return self.factor * math.sqrt(max(0.0, square - plain**2))

    def below(self, seconds: Any) -> Any:
        """The share of I/Os that take at most so long, for an array of seconds. Pauses are not in it."""
        return sum(share * _cumulative(spread, seconds / self.factor) for share, spread in self.mixture)


@dataclass
class _Traffic:
    """Live migrations: since when how many are in flight, and each guest's pauses (when, how long)."""

    running: set[Key] = field(default_factory=set)
    counts: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])
    pauses: dict[Key, list[tuple[float, float]]] = field(default_factory=dict)


class Pool:
    """One replicated pool that all guests' disks are in."""

    def __init__(self, clock: SimClock, timing: Any, faults: Faults, workers: Callable[[], list[str]], seed: float = 0) -> None:
        """`timing` is the profile's `pool` section; `workers` names the nodes that guests run on, in order."""
        self._clock, self._timing, self._faults, self._workers, self._seed = clock, timing, faults, workers, seed
        self._loads: list[Load] = []
        self._traffic = _Traffic()
        self._states: dict[float, State] = {}  # by the moment; complete once it has passed
        self._version = 0
        self._current: tuple[tuple[float, ...], State] | None = None
        self.node_slowdown: dict[str, float] = {}  # factor on the latency of the guests of a node

    @property
    def guest_bytes_per_second(self) -> float:
        """How fast one guest transfers alone."""
        return float(self._timing.guest_bytes_per_second)

    @property
    def layouts_at_full_speed(self) -> float:
        """How many guests write that fast at once; more share it."""
        return float(self._timing.layouts_at_full_speed)

    # The load.

    def add(self, key: Key, demand: Demand, at: float) -> Load:
        load = Load(key, demand, at)
        self._loads.append(load)
        self._version += 1
        return load

    def remove(self, load: Load, at: float) -> None:
        load.ended = max(at, load.started)
        self._version += 1
        if len(self._loads) > HISTORY_LOADS:
            since = min((each.started for each in self._loads if each.ended == math.inf), default=at)
            self._loads = [each for each in self._loads if each.ended > since]

    def slowness(self, key: Key, node: str) -> float:
        """Factor on what I/O takes for this guest, by the faults that are active now."""
        factor = self.node_slowdown.get(node, 1.0)
        slow_nodes = self._faults.value("slow-node")
        if slow_nodes and node in self._workers()[: int(slow_nodes)]:
            factor *= self._timing.slow_factor
        if self._faults.slow_vm(*key):
            factor *= self._timing.slow_factor
        return factor

    def iops_of(self, key: Key) -> float:
        """I/Os a second that this guest gets now."""
        return self._now(key)

    @property
    def total_iops(self) -> float:
        """Of all guests, now."""
        return self._now(None)

    def _now(self, key: Key | None) -> float:
        at = self._clock.now()
        loads = [load for load in self._loads if load.started <= at < load.ended]
        if not loads:
            return 0.0
        share = self._faults.value("saturated-pool") or 0.0
        signature = (self._version, len(loads), share)
        if self._current is None or self._current[0] != signature:
            self._current = (signature, self._solve(Counter(load.demand for load in loads), self._traffic.counts[-1][1], share))
        iops = self._current[1].iops
        return sum(iops[load.demand] for load in loads if key is None or load.key == key)

    # Live migration.

    def migration_started(self, key: Key) -> None:
        """From now on the guest has a second launcher, on another node."""
        self._traffic.running.add(key)
        self._count_migrations()

    def paused(self, key: Key, seconds: float) -> None:
        """The guest has just stood still for so long, and goes on elsewhere."""
        self._traffic.pauses.setdefault(key, []).append((self._clock.now(), seconds))
        self._version += 1

    def migration_ended(self, key: Key) -> None:
        """It has one launcher again."""
        if key in self._traffic.running:
            self._traffic.running.remove(key)
            self._count_migrations()

    def _count_migrations(self) -> None:
        self._traffic.counts.append((self._clock.now(), len(self._traffic.running)))
        self._version += 1

    def _migrations_at(self, at: float) -> int:
        return next(count for since, count in reversed(self._traffic.counts) if since <= at or since == 0.0)

    # What came of it.

    def served(self, load: Load, start: float, end: float) -> Served:
        """What this load got from `start` to `end`, which must have passed."""
        moments = self._moments(start, end)
        states = [self._state(moment, load) for moment in moments]
        demand = load.demand
        rates = [state.iops[demand] for state in states]
        total = sum(rates)
        parts = sorted(((rate / total, state.spreads[demand]) for rate, state in zip(rates, states)), key=lambda part: part[1].mean)
        dice = random.Random(f"{self._seed} {load.key} {load.started} {demand.direction}")
        own = random.Random(f"{self._seed} {load.key}").gauss(0, self._timing.guest_spread)
        count = max(1.0, total / len(rates) * (end - start))
        run = dice.gauss(0, parts[0][1].service_deviation / count)
        pauses = [seconds for at, seconds in self._traffic.pauses.get(load.key, ()) if start <= at < end]
        return Served(total / len(rates), _together(parts), tuple(pauses), 1 + own + run)

    def _moments(self, start: float, end: float) -> list[float]:
        """Where between these the pool is looked at: the same moments for all guests, so that each is worked out once."""
        step = GRID_SECONDS
        while (end - start) / step > MOST_GRID_POINTS:
            step *= 2
        first = math.ceil(start / step)
        return [number * step for number in range(first, math.ceil(end / step))] or [(start + end) / 2]

    def _state(self, at: float, load: Load) -> State:
        state = self._states.get(at)
        if state is None or load.demand not in state.iops:
            demands = Counter(each.demand for each in self._loads if each.started <= at < each.ended)
            demands.setdefault(load.demand, 1)
            state = self._states[at] = self._solve(demands, self._migrations_at(at), self._faults.value_at("saturated-pool", at) or 0.0)
        return state

    def _solve(self, demands: Counter[Demand], migrations: int, taken_share: float) -> State:
        """What each demand gets: with little load what it asks for; with more, what latency and depth leave of it.

        A thread that waits longer asks less often, so there is one load at which all agree: found by halving."""
        def at_throttle(throttle: float) -> tuple[State, float]:
            """The state if the pool carried this share of what is wanted, and the share that then would be asked of it."""
            wanted = {direction: sum(count * _asked(demand) for demand, count in demands.items() if demand.direction == direction)
                      for direction in ("read", "write")}
            latencies = {demand: self._spread(demand, wanted["read"] * throttle, wanted["write"] * throttle, migrations, taken_share)
                         for demand in demands}
            got = {demand: min(demand.iops, demand.depth / spread.mean) for demand, spread in latencies.items()}
            asked = sum(count * got[demand] for demand, count in demands.items())
            return State(got, latencies), asked / (wanted["read"] + wanted["write"])

        state, asked = at_throttle(1.0)
        if asked >= 1.0 - 1e-9:
            return state
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            state, asked = at_throttle(middle)
            low, high = (middle, high) if asked > middle else (low, middle)
        return state

    def _spread(self, demand: Demand, reads: float, writes: float, migrations: int, taken_share: float) -> Spread:
        """How long an I/O of this demand takes while the pool serves so many reads and writes a second."""
        timing = self._timing
        write = demand.direction == "write"
        stretch = 1 + (timing.migration_write_stretch if write else timing.migration_read_stretch) * migrations / max(1, len(self._workers()))
        factor = demand.slowness * stretch
        transfer = max(0, demand.block_bytes - 4096) / timing.guest_bytes_per_second
        # A shard's threads are one queue with several servers; primary queues hold reads too, replicas' queues copies alone.
        servers = timing.threads_per_shard
        shards = timing.osds * timing.shards_per_osd
        work = writes * timing.copy_busy_seconds + reads * timing.read_busy_seconds
        busy_seconds = timing.copy_busy_seconds if not work else (
            writes * timing.copy_busy_seconds**2 + reads * timing.read_busy_seconds**2) / work
        use = min(taken_share + work / shards / servers, 0.9999)
        chance = _erlang_c(use, servers)
        wait = busy_seconds / (servers * (1 - use))
        if write:
            return Spread((timing.write_seconds + transfer) * factor, timing.write_deviation, timing.replicas, chance, wait * factor)
        awake = (1 - math.exp(-(reads + writes * timing.replicas) / timing.hosts * timing.idle_threshold_seconds)) ** timing.idle_governor_gaps
        service = timing.read_seconds + timing.wake_seconds * (1 - awake) + transfer
        return Spread(service * factor, timing.read_deviation, 1, chance, wait * factor)


def _asked(demand: Demand) -> float:
    """I/Os a second that one thread asks for at most: a thread without a rate, as if an I/O took next to no time."""
    return demand.iops if math.isfinite(demand.iops) else demand.depth * 100_000.0


def _erlang_c(use: float, servers: int) -> float:
    """The chance that one who comes has to wait for one of so many servers, each used to this share."""
    offered = use * servers
    term, terms = 1.0, 1.0
    for number in range(1, servers):
        term *= offered / number
        terms += term
    waiting = term * offered / servers / (1 - use)
    return waiting / (terms + waiting)


def _together(parts: list[tuple[float, Spread]]) -> tuple[tuple[float, Spread], ...]:
    """The mixture of a run's moments, sorted by their means: equal ones added up, and, if they are many, near ones averaged."""
    merged: list[tuple[float, Spread]] = []
    for share, spread in parts:
        if merged and merged[-1][1] == spread:
            merged[-1] = (merged[-1][0] + share, spread)
        else:
            merged.append((share, spread))
    if len(merged) <= MOST_STATES:
        return tuple(merged)
    groups: list[list[tuple[float, Spread]]] = [[] for _ in range(MOST_STATES)]
    seen = 0.0
    for share, spread in merged:
        groups[min(int((seen + share / 2) * MOST_STATES), MOST_STATES - 1)].append((share, spread))
        seen += share
    return tuple(_average(group) for group in groups if group)


def _average(group: list[tuple[float, Spread]]) -> tuple[float, Spread]:
    share = sum(part for part, _ in group)

    def mean(of: Callable[[Spread], float]) -> float:
        return sum(part * of(spread) for part, spread in group) / share

    first = group[0][1]
    return share, Spread(mean(lambda s: s.service_seconds), first.service_deviation, first.queues, mean(lambda s: s.chance), mean(lambda s: s.wait_seconds))


def _cumulative(spread: Spread, seconds: Any) -> Any:
    """The share of I/Os that take at most so long, for an array of seconds."""
    import numpy

    sigma = math.sqrt(math.log(1 + spread.service_deviation**2))
    center = math.log(spread.service_seconds) - sigma**2 / 2
    deviations = (numpy.log(seconds) - center) / sigma
    plain = (deviations > 0).astype(float)
    near = numpy.abs(deviations) < FARTHEST_DEVIATIONS
    plain[near] = [0.5 * (1 + math.erf(each)) for each in (deviations[near] / math.sqrt(2)).tolist()]
    alone = (1 - spread.chance) ** spread.queues
    found = alone * plain
    if alone == 1 or spread.wait_seconds == 0:
        return plain
    services = numpy.exp(center + sigma * _standard_normal(SPREAD_NODES))
    rest = numpy.maximum(0.0, (seconds[:, None] - services[None, :]) / spread.wait_seconds)
    term = numpy.exp(-rest)
    reached = numpy.zeros_like(rest)
    for queues in range(1, spread.queues + 1):
        reached += term  # so far: the chance of fewer than `queues` waits' worth
        term = term * rest / queues
        weight = math.comb(spread.queues, queues) * spread.chance**queues * (1 - spread.chance) ** (spread.queues - queues)
        found = found + weight * (1 - reached).mean(axis=1)
    return found


def _standard_normal(count: int) -> Any:
    """So many points of the standard normal distribution, each in the middle of an equal share of it."""
    from statistics import NormalDist

    import numpy

    normal = NormalDist()
    return numpy.array([normal.inv_cdf((number + 0.5) / count) for number in range(count)])
