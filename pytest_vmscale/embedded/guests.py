"""The guests: machines that boot, get an address, answer SSH and stop. Cluster time throughout."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .api.store import Object
from .clock import SimClock
from .console import Console
from .disk import Disk
from .faults import Faults
from .guest_ssh import Login, Sshd
from .iomodel import Pool
from .machine import Machine
from .truth import Truth

# What tells a guest's operating system, in the order of asking; `linux` if nothing does.
SYSTEM_WORDS = (("windows", ("windows", "win10", "win11", "win2k")), ("fedora", ("fedora",)), ("rhel", ("rhel", "redhat", "centos")),
                ("cirros", ("cirros",)))

# As the guest agent tells it. The reference's images: RHEL 8.5, Windows 10, Fedora 35.
SYSTEMS: dict[str, dict[str, str]] = {
    "rhel": {"id": "rhel", "name": "Red Hat Enterprise Linux", "prettyName": "Red Hat Enterprise Linux 8.5 (Ootpa)", "version": "8.5",
             "versionId": "8.5", "kernelRelease": "4.18.0-348.el8.x86_64", "kernelVersion": "#1 SMP Mon Oct 4 12:17:22 EDT 2021", "machine": "x86_64"},
    "fedora": {"id": "fedora", "name": "Fedora Linux", "prettyName": "Fedora Linux 35 (Cloud Edition)", "version": "35 (Cloud Edition)",
               "versionId": "35", "kernelRelease": "5.14.10-300.fc35.x86_64", "kernelVersion": "#1 SMP Thu Oct 7 20:48:44 UTC 2021", "machine": "x86_64"},
    "windows": {"id": "mswindows", "name": "Microsoft Windows", "prettyName": "Windows 10 Enterprise", "version": "Microsoft Windows 10",
                "versionId": "10", "kernelRelease": "19044", "kernelVersion": "10.0", "machine": "x86_64"},
    "cirros": {"id": "cirros", "name": "Cirros", "prettyName": "Cirros 0.5.2", "version": "0.5.2", "versionId": "0.5.2",
               "kernelRelease": "5.3.0-26-generic", "kernelVersion": "#28~18.04.1-Ubuntu SMP Wed Dec 18 16:40:14 UTC 2019", "machine": "x86_64"},
    "linux": {"id": "linux", "name": "Linux", "prettyName": "Linux", "version": "1", "versionId": "1",
              "kernelRelease": "5.14.0", "kernelVersion": "#1 SMP", "machine": "x86_64"},
}


def system_of(vmi: Object, image: str) -> str:
    """The operating system of a guest, from its OS label or annotation, its image, or its Hyper-V features."""
    meta = vmi["metadata"]
    named = [str(value) for labels in (meta.get("labels") or {}, meta.get("annotations") or {})
             for key, value in labels.items() if key.endswith("/os")]
    for text in (" ".join(named).lower(), image.lower()):
        for system, words in SYSTEM_WORDS:
            if any(word in text for word in words):
                return system
    return "windows" if (vmi["spec"]["domain"].get("features") or {}).get("hyperv") else "linux"


GIB = 1 << 30


class SharedStorage:
    """What booting guests share: `capacity` of them go at full speed; beyond that each gets an equal share."""

    def __init__(self, clock: SimClock, capacity: float) -> None:
        self._clock, self._capacity = clock, capacity
        self._served = 0.0  # seconds at full speed that each user since the start would have got
        self._at = clock.now()
        self._users: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._generation = 0

    def use(self, seconds: float, done: Callable[[], None]) -> None:
        """Call `done` when this much work, in seconds at full speed, has been served."""
        self._advance()
        heapq.heappush(self._users, (self._served + seconds, next(self._sequence), done))
        self._arm()

    @property
    def users(self) -> int:
        return len(self._users)

    def _rate(self) -> float:
        return min(1.0, self._capacity / len(self._users)) if self._users else 1.0

    def _advance(self) -> None:
        now = self._clock.now()
        self._served += (now - self._at) * self._rate()
        self._at = now

    def _arm(self) -> None:
        self._generation += 1
        if self._users:
            generation = self._generation
            self._clock.call_later((self._users[0][0] - self._served) / self._rate(), lambda: self._fire(generation))

    def _fire(self, generation: int) -> None:
        if generation != self._generation:
            return  # somebody joined since; a later timer knows better
        self._advance()
        self._served = max(self._served, self._users[0][0])  # floating point must not leave it a hair short
        finished = []
        while self._users and self._users[0][0] <= self._served:
            finished.append(heapq.heappop(self._users)[2])
        self._arm()
        for done in finished:
            done()


@dataclass(frozen=True)
class Volume:
    """A persistent disk: its claim, and how large it is."""

    uid: str
    size_bytes: int


@dataclass(eq=False)
class Session:
    """A login with a terminal: on the console, or over SSH."""

    user: str
    since: float  # cluster time


@dataclass(eq=False)
class Guest:
    """One running guest."""

    uid: str  # of its VMI
    namespace: str
    name: str
    node: str
    system: str
    address: str
    login: Login
    started_at: float
    running: bool = True
    answers: bool = False  # sshd is up
    paused: bool = False  # its processors stand still: nothing in it answers
    machine: Machine = field(default_factory=Machine)
    sessions: list[Session] = field(default_factory=list)
    _agent: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def agent_up(self) -> bool:
        """Return when the guest agent is up: True, or False if the guest stopped before."""
        return await asyncio.shield(self._agent)

    @contextlib.contextmanager
    def session(self, user: str, since: float) -> Iterator[None]:
        """Somebody is logged in, for as long as the context lasts."""
        session = Session(user, since)
        self.sessions.append(session)
        try:
            yield
        finally:
            if session in self.sessions:  # a reboot has ended them all
                self.sessions.remove(session)

    def agent(self, up: bool) -> None:
        if not self._agent.done():
            self._agent.set_result(up)

    @property
    def os_info(self) -> dict[str, str]:
        return SYSTEMS[self.system]

    @property
    def selinux_context(self) -> str:
        low, high = sorted(random.Random(self.uid).sample(range(1024), 2))
        return f"system_u:object_r:container_file_t:s0:c{low},c{high}"

    def mac(self, number: int) -> str:
        tail = uuid.UUID(self.uid).bytes
        return ":".join(["02", *(f"{byte:02x}" for byte in tail[:4]), f"{(tail[4] + number) % 256:02x}"])

    def interface_name(self, number: int) -> str:
        return f"Ethernet {number}" if self.system == "windows" else f"eth{number}"

    def ipv6(self, number: int) -> list[str]:
        """The link-local address, and the one that the network advertises."""
        octets = [int(each, 16) for each in self.mac(number).split(":")]
        octets[0] ^= 2
        interface = f"{octets[0]:x}{octets[1]:02x}:{octets[2]:x}ff:fe{octets[3]:02x}:{octets[4]:x}{octets[5]:02x}"
        return [f"fe80::{interface}", f"fd02:0:0:{number + 1}:{interface}"]


class Addresses:
    """The guests' addresses, out of one /16 of the loopback network: 127.x.1.1 to 127.x.254.254."""

    def __init__(self, second_octet: int) -> None:
        self._prefix = f"127.{second_octet}"
        self._free = iter(f"{self._prefix}.{third}.{fourth}" for third in range(1, 255) for fourth in range(1, 255))
        self._returned: list[str] = []

    def take(self) -> str:
        """A new address while there are any: one that was given back is the last resort, so that a client's stale
        connection does not meet another guest. RuntimeError if all are in use."""
        address = next(self._free, None)
        if address is None:
            if not self._returned:
                raise RuntimeError("all 64516 guest addresses are in use")
            address = self._returned.pop(0)
        return address

    def give_back(self, address: str) -> None:
        self._returned.append(address)


class Guests:
    """All guests of the cluster."""

    def __init__(self, clock: SimClock, timing: Any, faults: Faults, truth: Truth, seed: float, sshd: Sshd, pool: Pool | None = None) -> None:
        """`timing` is the profile's `guests` section."""
        self._clock, self._timing, self._faults, self._truth, self._seed = clock, timing, faults, truth, seed
        self._sshd, self._pool = sshd, pool
        self._disks: dict[str, Disk] = {}  # by the claim's uid, those that somebody has written to
        self._writing = SharedStorage(clock, pool.layouts_at_full_speed) if pool else None
        self._addresses = Addresses(sshd.second_octet)
        self._storage = SharedStorage(clock, timing.boots_at_full_speed)
        self._by_uid: dict[str, Guest] = {}
        self._by_key: dict[tuple[str, str], Guest] = {}
        self._consoles: dict[str, Console] = {}  # of the guests that somebody looked at

    def find(self, namespace: str, name: str) -> Guest | None:
        return self._by_key.get((namespace, name))

    def console(self, guest: Guest) -> Console:
        """The guest's serial console."""
        return self._consoles.setdefault(guest.uid, Console(guest, self._clock))

    def on_node(self, node: str) -> list[Guest]:
        return [guest for guest in self._by_uid.values() if guest.node == node]

    def __len__(self) -> int:
        return len(self._by_uid)

    def boot(self, vmi: Object, image: str, secrets: dict[str, Object], volume: Volume | None = None) -> Guest:
        """Switch a guest on: it has its address at once, and answers when it has booted. `volume`: its first disk; none is a container disk."""
        meta = vmi["metadata"]
        guest = Guest(meta["uid"], meta["namespace"], meta["name"], vmi["status"]["nodeName"], system_of(vmi, image), self._addresses.take(),
                      Login.of(vmi, secrets), self._clock.now())
        guest.machine = self._machine(guest, volume)
        self._by_uid[guest.uid] = self._by_key[guest.namespace, guest.name] = guest
        if not self._faults.never_boots(guest.namespace, guest.name):
            self._begin_boot(guest)
        return guest

    def _machine(self, guest: Guest, volume: Volume | None) -> Machine:
        """A disk on a claim is what the guest before left on it."""
        timing, name = self._timing, (guest.namespace, guest.name)
        disk = self._disks.get(volume.uid) if volume else None
        if disk is None:
            size = volume.size_bytes if volume else int(timing.container_disk_gib * GIB)
            disk = Disk(size, min(size, int(timing.system_gib * GIB)))
        lacks = guest.system in timing.lacks_fio
        machine = Machine(disk, self._pool, not lacks and not self._faults.no_fio(*name), not lacks, timing.install_seconds, self._faults.disk_full(*name),
                          random.Random(f"clock {self._seed} {name}").gauss(0, timing.clock_offset_seconds), self._write_out)

        def io_begins(seconds: float) -> None:
            if volume:
                self._disks[volume.uid] = disk
            if self._faults.ssh_lost(*name):
                self._clock.call_later(seconds / 2, lambda: self._lose_ssh(guest))

        machine.io_begins = io_begins
        return machine

    async def _write_out(self, size_bytes: int) -> None:
        """Write so much to the pool, beside all others who do."""
        assert self._pool and self._writing
        written = asyncio.get_running_loop().create_future()
        self._writing.use(size_bytes / self._pool.guest_bytes_per_second, lambda: None if written.done() else written.set_result(None))
        await written

    def _lose_ssh(self, guest: Guest) -> None:
        """Its sshd refuses for a while; what runs in the guest goes on."""
        if guest.answers:
            self._sshd.close(guest)
            self._clock.call_later(self._timing.ssh_lost_seconds, lambda: self._find_ssh(guest))

    def _find_ssh(self, guest: Guest) -> None:
        if guest.answers and self._sshd.guest_at(guest.address) is None:
            self._sshd.open(guest)

    def _begin_boot(self, guest: Guest) -> None:
        seconds = self.boot_seconds(guest)
        shared = seconds * self._timing.boot_storage_share
        self._storage.use(shared, lambda: self._read(guest, seconds - shared))

    def boot_seconds(self, guest: Guest) -> float:
        """How long this guest takes to boot, alone on its storage. The same for each start of a VM: it is its image and machine."""
        timing = self._timing
        share = random.Random(f"{self._seed} {guest.namespace}/{guest.name}").gauss(0, timing.boot_spread)
        share = max(-timing.boot_spread_most, min(timing.boot_spread_most, share))
        seconds: float = timing.boot_seconds[guest.system] * (1 + share) * self._faults.boot_slowdown
        return seconds

    def _read(self, guest: Guest, rest_seconds: float) -> None:
        """It has read what it needs from its disk; the rest of the boot is its own."""
        now = self._clock.now()
        if guest.uid in self._consoles:
            self._consoles[guest.uid].disk_read()
        if guest.system not in self._timing.has_no_agent:
            agent_at = now + max(0.0, rest_seconds - self._timing.agent_before_ssh_seconds)
            self._clock.call_at(agent_at, lambda: guest.agent(guest.running))
        self._clock.call_at(now + rest_seconds, lambda: self._answer(guest))

    def _answer(self, guest: Guest) -> None:
        if guest.running and not guest.answers:
            guest.answers = True
            self._sshd.open(guest)
            if guest.uid in self._consoles:
                self._consoles[guest.uid].booted()
            self._truth.write("guest-ssh-ready", guest.namespace, guest.name, address=guest.address)

    @property
    def ssh_port(self) -> int:
        return self._sshd.port

    def move(self, uid: str, node: str) -> None:
        """The guest runs on another node from now on: nothing else about it changes."""
        guest = self._by_uid.get(uid)
        if guest:
            guest.node = node

    def reboot(self, uid: str) -> None:
        """Ask the guest to reboot: it goes through its boot again, on the same machine."""
        guest = self._by_uid.get(uid)
        if guest:
            self.close(uid)
            guest.machine.switch_off()
            guest.started_at = self._clock.now()
            self._begin_boot(guest)

    def set_paused(self, uid: str, paused: bool) -> None:
        """Stop or go on: who connects or types meanwhile is answered afterwards. Its boot goes on as if it were not paused."""
        guest = self._by_uid.get(uid)
        if guest and guest.paused != paused:
            guest.paused = paused
            self._sshd.set_paused(guest)
            if uid in self._consoles:
                self._consoles[uid].resume()

    def close(self, uid: str) -> None:
        """The guest shuts down: sshd goes first."""
        guest = self._by_uid.get(uid)
        if guest:
            if guest.answers and uid in self._consoles:
                self._consoles[uid].shutting_down()
            guest.answers = False
            guest.sessions.clear()
            self._sshd.close(guest)

    def stop(self, uid: str) -> None:
        """The guest is gone, at once. Nothing happens if it is already."""
        guest = self._by_uid.pop(uid, None)
        if guest is None:
            return
        self._by_key.pop((guest.namespace, guest.name), None)
        guest.running = guest.answers = False
        guest.agent(False)
        guest.machine.switch_off()
        console = self._consoles.pop(uid, None)
        if console:
            console.hang_up()
        self._sshd.close(guest)
        self._addresses.give_back(guest.address)
