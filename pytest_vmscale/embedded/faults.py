"""What goes wrong on the embedded cluster, and when. Each fault is a cause; what comes of it is left to the cluster.

A fault is named on the command line (`--fault boot-slowdown=1.3`: from the start, for good), or in a plan file:
a YAML list of {fault, value, at, for}, with `at` (since the cluster's start) and `for` in seconds of cluster time.
"""

from __future__ import annotations

import difflib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import yamls
from .clock import SimClock


class FaultError(ValueError):
    """A fault that there is not, or a value that it cannot have. The message names the option or line."""


@dataclass
class ApiFailure:
    """How a request fails: with this code, or (`reset`) with its connection cut."""

    code: int
    retry_after_seconds: float | None = None
    reset: bool = False


@dataclass(frozen=True)
class Known:
    """A fault that there is: what its value means, and which values it can have."""

    help: str
    least: float
    most: float
    whole: bool = False


KNOWN = {
    "boot-slowdown": Known("factor by which everything between a start request and SSH is slower", 1, 1000),
    "guests-never-boot": Known("how many of the guests that start never answer, though they run", 0, 1_000_000, whole=True),
    "stuck-scheduling": Known("how many of the launcher pods stay unschedulable", 0, 1_000_000, whole=True),
    "api-errors": Known("share of API requests that fail, in bursts of 429, 500 or connection resets", 0, 1),
    "watch-expiry": Known("after how many seconds a watch ends with 410 Gone", 0.001, 1e9),
    "node-stays-down": Known("how many of the nodes that reboot never come back", 0, 1_000_000, whole=True),
    "slow-reboot": Known("factor by which a node's reboot takes longer", 1, 1000),
    "degraded-pool": Known("how many nodes cannot apply a new machine config, because files on them were changed by hand", 0, 1_000_000, whole=True),
    "stuck-clones": Known("how many of the clones never finish: copies stay at 40 %, others in their phase", 0, 1_000_000, whole=True),
    "import-not-found": Known("how many of the imports get a 404", 0, 1_000_000, whole=True),
    "import-bad-checksum": Known("how many of the imports get other data than their checksum says", 0, 1_000_000, whole=True),
    "import-no-space": Known("how many of the imports do not fit into their volume", 0, 1_000_000, whole=True),
    "unpurgeable-clones": Known("how many of the cloned volumes stay when they are deleted", 0, 1_000_000, whole=True),
    "slow-node": Known("how many of the workers, the first by name, have a slow way to the storage", 0, 1_000_000, whole=True),
    "slow-vm": Known("how many of the guests, the first that do I/O, have a slow way to the storage", 0, 1_000_000, whole=True),
    "saturated-pool": Known("share of the storage's threads that other clients keep busy", 0, 0.99),
    "no-fio": Known("how many of the guests' images have no fio", 0, 1_000_000, whole=True),
    "disk-full": Known("how many of the guests have a full disk", 0, 1_000_000, whole=True),
    "ssh-lost": Known("how many of the guests lose SSH in the middle of each run of fio, for a while", 0, 1_000_000, whole=True),
    "migration-fails": Known("how many VMs' live migrations fail, each time", 0, 1_000_000, whole=True),
    "migration-hangs": Known("how many VMs' live migrations make no progress, each time", 0, 1_000_000, whole=True),
    "not-migratable": Known("how many of the running VMs cannot be live migrated any more", 0, 1_000_000, whole=True),
    "stuck-operator": Known("which ClusterOperator, counted in the order in which they roll, never finishes an upgrade", 1, 99, whole=True),
    "degraded-operator": Known("which ClusterOperator, counted in the order in which they roll, becomes degraded in an upgrade", 1, 99, whole=True),
    "bad-signature": Known("1: no payload's signature can be verified", 0, 1, whole=True),
    "api-outage": Known("for how many seconds nobody answers for the API when an upgrade replaces the first kube-apiserver", 0, 1e6),
    "vm-lost": Known("how many running VMs end when an upgrade rolls out the network", 0, 1_000_000, whole=True),
}

BURST_REQUESTS = 5  # a burst of API errors fails so many requests on average
RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True)
class Fault:
    """One fault of the plan, from `at` for `seconds` (None: for good)."""

    name: str
    value: float
    at: float = 0.0
    seconds: float | None = None

    def active(self, now: float) -> bool:
        return now >= self.at and (self.seconds is None or now < self.at + self.seconds)


def parse_option(text: str) -> Fault:
    """`NAME=VALUE`, as --fault takes it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise FaultError(f"--fault {text}: must be NAME=VALUE")
    try:
        number = float(value)
    except ValueError:
        raise FaultError(f"--fault {text}: {value!r} is not a number") from None
    return _checked(f"--fault {text}", Fault(name, number))


def load_plan(path: Path) -> list[Fault]:
    """A plan file. FaultError names the file and the line."""
    root = yamls.compose(path, FaultError)
    if not isinstance(root, yaml.SequenceNode):
        raise FaultError(f"{path}: a fault plan is a list of {{fault, value, at, for}}")
    faults = []
    for node in root.value:
        where = f"{path}:{node.start_mark.line + 1}"
        entry: Any = yaml.SafeLoader("").construct_object(node, deep=True)
        if not isinstance(entry, dict) or "fault" not in entry or "value" not in entry or set(entry) - {"fault", "value", "at", "for"}:
            raise FaultError(f"{where}: an entry of a fault plan is {{fault, value, at, for}}, the last two optional")
        for key in ("value", "at", "for"):
            if key in entry and (isinstance(entry[key], bool) or not isinstance(entry[key], int | float) or entry[key] < 0):
                raise FaultError(f"{where}: {key} must be a number of at least 0, not {entry[key]!r}")
        faults.append(_checked(where, Fault(str(entry["fault"]), float(entry["value"]), float(entry.get("at", 0)), entry.get("for"))))
    return faults


def _checked(where: str, fault: Fault) -> Fault:
    known = KNOWN.get(fault.name)
    if known is None:
        near = difflib.get_close_matches(fault.name, KNOWN, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise FaultError(f"{where}: there is no fault {fault.name!r}; {hint}there are {', '.join(sorted(KNOWN))}")
    if not known.least <= fault.value <= known.most or (known.whole and fault.value != int(fault.value)):
        whole = "a whole number " if known.whole else ""
        raise FaultError(f"{where}: {fault.name} must be {whole}between {known.least:g} and {known.most:g}, not {fault.value:g}")
    return fault


class Faults:
    """The plan at work: each part of the cluster asks here what goes wrong now."""

    def __init__(self, clock: SimClock, plan: list[Fault] | None = None, seed: int = 0) -> None:
        self._clock, self.plan = clock, list(plan or ())
        self._random = random.Random(f"faults {seed}")
        self._burst: list[ApiFailure] = []
        self._struck: dict[str, dict[str, bool]] = {}

    def value(self, name: str) -> float | None:
        """The value of this fault now, the last in the plan winning; None if it is not active."""
        return self.value_at(name, self._clock.now())

    def value_at(self, name: str, at: float) -> float | None:
        """The same at another time than now."""
        active = [fault.value for fault in self.plan if fault.name == name and fault.active(at)]
        return active[-1] if active else None

    def moments(self, name: str) -> list[float]:
        """When this fault begins and ends, in cluster time: for parts that would not ask by themselves."""
        planned = [fault for fault in self.plan if fault.name == name]
        return sorted({at for fault in planned for at in (fault.at, *([] if fault.seconds is None else [fault.at + fault.seconds]))})

    @property
    def boot_slowdown(self) -> float:
        """Factor on every duration, and every request's price, between a start request and SSH."""
        return self.value("boot-slowdown") or 1.0

    @property
    def watch_expiry_seconds(self) -> float | None:
        return self.value("watch-expiry")

    def never_boots(self, namespace: str, vmi: str) -> bool:
        return self._strikes("guests-never-boot", f"{namespace}/{vmi}")

    def stuck_scheduling(self, namespace: str, pod: str) -> bool:
        return self._strikes("stuck-scheduling", f"{namespace}/{pod}")

    @property
    def reboot_slowdown(self) -> float:
        """Factor on the time that a node is away when it reboots."""
        return self.value("slow-reboot") or 1.0

    def stays_down(self, node: str) -> bool:
        return self._strikes("node-stays-down", node)

    def config_drifted(self, node: str) -> bool:
        """Whether files on the node are not what its machine config says."""
        return self._strikes("degraded-pool", node)

    def stuck_clone(self, namespace: str, data_volume: str) -> bool:
        return self._strikes("stuck-clones", f"{namespace}/{data_volume}")

    def migration_fails(self, namespace: str, vmi: str) -> bool:
        return self._strikes("migration-fails", f"{namespace}/{vmi}")

    def migration_hangs(self, namespace: str, vmi: str) -> bool:
        return self._strikes("migration-hangs", f"{namespace}/{vmi}")

    def not_migratable(self, namespace: str, vmi: str) -> bool:
        return self._strikes("not-migratable", f"{namespace}/{vmi}")

    def slow_vm(self, namespace: str, vmi: str) -> bool:
        return self._strikes("slow-vm", f"{namespace}/{vmi}")

    def no_fio(self, namespace: str, vmi: str) -> bool:
        return self._strikes("no-fio", f"{namespace}/{vmi}")

    def disk_full(self, namespace: str, vmi: str) -> bool:
        return self._strikes("disk-full", f"{namespace}/{vmi}")

    def ssh_lost(self, namespace: str, vmi: str) -> bool:
        return self._strikes("ssh-lost", f"{namespace}/{vmi}")

    def import_failure(self, namespace: str, data_volume: str) -> str | None:
        """`not-found`, `bad-checksum` or `no-space`; None if this import goes well."""
        kinds = ("not-found", "bad-checksum", "no-space")
        return next((kind for kind in kinds if self._strikes(f"import-{kind}", f"{namespace}/{data_volume}")), None)

    def unpurgeable_clone(self, volume: str) -> bool:
        return self._strikes("unpurgeable-clones", volume)

    def api_failure(self) -> ApiFailure | None:
        """How the API request at hand fails, or None. Failures come in bursts of one sort."""
        share = self.value("api-errors")
        if not share:
            self._burst.clear()
            return None
        if not self._burst and self._random.random() < self._burst_start(share):
            sorts = (ApiFailure(429, RETRY_AFTER_SECONDS), ApiFailure(500), ApiFailure(0, reset=True))
            length = self._random.randint(1, 2 * BURST_REQUESTS - 1)
            self._burst = [self._random.choice(sorts)] * length
        return self._burst.pop() if self._burst else None

    @staticmethod
    def _burst_start(share: float) -> float:
        """With what chance a burst must start at a request outside of one, for this share to fail overall."""
        return min(1.0, share / (BURST_REQUESTS * (1 - share) + share)) if share < 1 else 1.0

    def _strikes(self, name: str, key: str) -> bool:
        """Whether this one is among the first so many that asked; it stays so while the fault is active."""
        count = self.value(name)
        if count is None:
            return False
        struck = self._struck.setdefault(name, {})
        if key not in struck:
            struck[key] = len([each for each in struck.values() if each]) < count
        return struck[key]

