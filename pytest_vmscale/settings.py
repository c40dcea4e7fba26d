"""Settings: command line, ini file, vmscale.yaml and environment become one frozen, validated object.

What belongs to a run is an option; what belongs to a site is in vmscale.yaml. Nothing here contacts a cluster.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from . import yamlfile
from .site import GuestImage, Site, SshVia


class SettingsError(ValueError):
    """Bad input, in one line that names the option or the line of the file."""


@dataclass(frozen=True)
class Simulation:
    """The embedded cluster: how large, how fast, how it behaves."""

    speed: float | None = None  # None: each scenario's own
    provision_speed: float = 600.0
    workers: int = 100
    profile: str = "reference"
    faults: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Upgrade:
    """One hop of --upgrade-to."""

    version: str
    channel: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class Settings:
    """Everything a run was asked for. Seconds are cluster time; wall-clock times say so."""

    cluster: Literal["real", "embedded"]
    kubeconfig: Path | None
    context: str | None
    in_cluster: bool
    vms: tuple[int, ...]
    vm_mix: str | None  # as --vm-mix has it; None: the scenario's own
    vms_per_namespace: int
    bulk_sizes: tuple[int | None, ...]  # None: all at once; empty: the scenario's own
    repeat: int
    clone_strategy: Literal["profile", "copy", "snapshot", "csi-clone"]
    deploy_until: Literal["cloned", "running", "ssh"]
    zones: int  # to make, where the site has none
    zone_max_unavailable: int | str
    migration_trigger: Literal["machineconfig", "drain", "vmim"]
    migration_pods: int | None  # None: so many for each VM
    parallel_migrations: int
    outbound_migrations: int
    upgrades: tuple[Upgrade, ...]  # one after the other
    upgrade_allow_explicit: bool
    upgrade_force: bool
    upgrade_wait_for_pools: bool
    upgrade_load_percent: int  # of the VMs
    nodes: tuple[int, ...]
    vms_per_node: int
    install_fio: bool
    background_vms: int
    background_pods: int
    site: Site
    site_file: Path | None
    ssh_via: SshVia
    ssh_interval_seconds: float
    deadline_seconds: float | None
    provision_deadline_seconds: float
    qps: float | None
    burst: int
    slo: tuple[str, ...]  # profiles' names or files; later ones change earlier ones
    slo_tolerance_percent: float | None
    results_dir: Path
    run_id: str
    keep: bool
    reuse_fleet: str | None
    inspect_on_failure: bool
    allow_disruptive: bool
    simulation: Simulation
    baselines: tuple[Path, ...] = ()
    baseline_allow: tuple[str, ...] = ()
    regression_tolerance_percent: float = 5.0

    @property
    def largest(self) -> int:
        return max(self.vms)

    @property
    def results(self) -> Path:
        return self.results_dir / self.run_id

    @property
    def kept_key(self) -> Path | None:
        """Where the run whose fleet is used again left its SSH key, unless the site has one of its own."""
        return self.results_dir / self.reuse_fleet / "ssh_key" if self.reuse_fleet and not self.site.ssh.key else None

    def is_sweep(self, markers: Sequence[str]) -> bool:
        """Whether there is more than one point to judge together."""
        if "latency" in markers:
            return len(self.nodes) > 1
        return len(self.vms) > 1 or ("deployment" in markers and len(self.bulk_sizes) > 1)

    def mix(self, count: int, default: str = "rhel=100") -> dict[str, int]:
        """VMs by OS of a fleet of so many. SettingsError if --vm-mix does not say it."""
        return parse_mix(self.vm_mix or default, count, self.site.known_guests())

    def guest(self, os_name: str) -> GuestImage:
        return self.site.known_guests()[os_name]

    def ssh_user(self, os_name: str) -> str:
        return self.guest(os_name).ssh_user or self.site.ssh.user


def load_site(path: Path | None) -> Site:
    """Read vmscale.yaml; the reference's values where there is none. SettingsError names the line."""
    if path is None:
        return Site()
    try:
        return yamlfile.load(path, Site)
    except yamlfile.FileError as error:
        raise SettingsError(str(error)) from None


def parse_vms(text: str) -> tuple[int, ...]:
    """`1000`, or a sweep `100,500,1000`: see parse_sweep."""
    return parse_sweep("--vms", text)


def parse_sweep(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers above 0, each once, in the order to run them (ascending)."""
    counts = []
    for part in text.split(","):
        if not re.fullmatch(r"\d+", part.strip()) or int(part) == 0:
            raise SettingsError(f"{option} {text}: {part.strip()!r} is not a whole number above 0")
        counts.append(int(part))
    for count in counts:
        if counts.count(count) > 1:
            raise SettingsError(f"{option} {text}: {count} is given twice")
    return tuple(sorted(counts))


def parse_bulk_sizes(text: str) -> tuple[int | None, ...]:
    """`100`, or a sweep `10,50,100,all`: whole numbers above 0, or `all` (None) for all at once; each once, in this order. Empty:
    nothing is asked for."""
    sizes: list[int | None] = []
    for part in (each.strip() for each in text.split(",") if text):
        if part != "all" and (not re.fullmatch(r"\d+", part) or int(part) == 0):
            raise SettingsError(f"--bulk-size {text}: {part!r} is neither a whole number above 0 nor all")
        size = None if part == "all" else int(part)
        if size in sizes:
            raise SettingsError(f"--bulk-size {text}: {part} is given twice")
        sizes.append(size)
    return tuple(sizes)


def parse_upgrades(versions: str, channels: str | None, images: str | None) -> tuple[Upgrade, ...]:
    """`4.9.23,4.10.9`, with one channel for all or one for each, and an image for each or none. Empty if no version is given."""
    if not versions:
        if channels or images:
            raise SettingsError("--upgrade-channel, --upgrade-image: give --upgrade-to with them, the version that it is")
        return ()
    found = [each.strip() for each in versions.split(",")]
    for version in found:
        if not re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", version):
            raise SettingsError(f"--upgrade-to {versions}: {version!r} is no version, such as 4.9.23")
    for before, after in pairwise(found):
        low, high = _numbers(before), _numbers(after)
        if high <= low:
            raise SettingsError(f"--upgrade-to {versions}: {after} is not above {before}")
        if high[0] != low[0] or high[1] > low[1] + 1:
            raise SettingsError(f"--upgrade-to {versions}: from {before} to {after} a minor version is left out")
    given = _for_each("--upgrade-channel", channels, found)
    pictures = _for_each("--upgrade-image", images, found, one_for_all=False)
    for image in filter(None, pictures):
        if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", image):
            raise SettingsError(f"--upgrade-image {image}: must be by digest, such as quay.io/openshift-release-dev/ocp-release@sha256:...")
    return tuple(Upgrade(version, channel, image) for version, channel, image in zip(found, given, pictures, strict=True))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split("."))


def _for_each(option: str, text: str | None, versions: Sequence[str], one_for_all: bool = True) -> list[str | None]:
    parts: list[str | None] = [part.strip() or None for part in text.split(",")] if text else [None] * len(versions)
    if len(parts) == 1 and one_for_all:
        return parts * len(versions)
    if len(parts) != len(versions):
        raise SettingsError(f"{option} {text}: {len(parts)} for {len(versions)} versions")
    return parts


def parse_max_unavailable(option: str, text: str) -> int | str:
    """Nodes of a pool that may be away at once: `10`, or `30%`. SettingsError."""
    if re.fullmatch(r"[1-9]\d*", text):
        return int(text)
    if re.fullmatch(r"[1-9]\d?%|100%", text):
        return text
    raise SettingsError(f"{option} {text}: must be a whole number above 0, or a percentage from 1% to 100%")


def parse_mix(text: str, total: int, known: Mapping[str, Any]) -> dict[str, int]:
    """`rhel=50%,fedora=30%,windows=20%`, or without the signs: percent if they add up to 100, else counts that must add up
    to the number of VMs. Percentages are dealt by largest remainder, so they always add up to `total`."""
    shares: dict[str, int] = {}
    parts = [part.strip() for part in text.split(",")]
    percent = parts[0].endswith("%")
    for part in parts:
        name, equals, number = part.partition("=")
        if not equals or not re.fullmatch(r"\d+%?", number):
            raise SettingsError(f"--vm-mix {text}: {part!r} is not OS=NUMBER or OS=NUMBER%")
        if part.endswith("%") != percent:
            raise SettingsError(f"--vm-mix {text}: has percentages and counts; write one or the other")
        if name not in known:
            raise SettingsError(
                f"--vm-mix {text}: unknown OS {name!r}; known are {', '.join(sorted(known))} (more can be defined under `guests` in vmscale.yaml)"
            )
        if name in shares:
            raise SettingsError(f"--vm-mix {text}: {name} is given twice")
        shares[name] = int(number.rstrip("%"))
    whole = sum(shares.values())
    if percent and whole != 100:
        raise SettingsError(f"--vm-mix {text}: adds up to {whole} %, not to 100 %")
    if whole == total and not percent:
        return {name: count for name, count in shares.items() if count}
    if whole != 100:
        raise SettingsError(f"--vm-mix {text}: adds up to {whole}, neither to 100 (percent) nor to --vms {total} (counts)")
    exact = {name: share * total / 100 for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return {name: count for name, count in counts.items() if count}


def parse_seconds(option: str, text: str) -> float:
    """`90`, `90s`, `15m` or `2h` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise SettingsError(f"{option} {text}: is not a time above 0, such as 90s, 15m or 2h")
    return seconds


def parse_number(option: str, text: str, least: float, most: float | None = None, whole: bool = False) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(f"{option} {text}: is not a {'whole ' if whole else ''}number")
    if not (number >= least and (most is None or number <= most)):
        raise SettingsError(f"{option} {text}: must be at least {least:g}" + (f" and at most {most:g}" if most is not None else ""))
    return number


def choose_cluster(
    asked: str, kubeconfig: str | None, environment: Mapping[str, str]
) -> tuple[Literal["real", "embedded"], Path | None, bool]:
    """Which cluster, its kubeconfig, and whether the pod's own service account is to be used.

    `auto` is a real cluster only where one is named (--kubeconfig, KUBECONFIG, or a service account in a pod):
    ~/.kube/config is never used by accident.
    """
    named = kubeconfig or environment.get("KUBECONFIG") or None
    source = "--kubeconfig" if kubeconfig else "KUBECONFIG"
    in_pod = "KUBERNETES_SERVICE_HOST" in environment and Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
    if asked == "embedded":
        if kubeconfig:
            raise SettingsError("--cluster embedded and --kubeconfig name two clusters: drop one of them")
        return "embedded", None, False
    if named:
        # KUBECONFIG may list several files, which the client merges: each that is named must exist.
        for part in named.split(os.pathsep):
            if part and not Path(part).expanduser().is_file():
                raise SettingsError(f"{source} {part}: no such file")
        return "real", Path(named).expanduser() if os.pathsep not in named else Path(named), False
    if in_pod:
        return "real", None, True
    if asked == "real":
        raise SettingsError("--cluster real: no cluster is named; give --kubeconfig or set KUBECONFIG")
    return "embedded", None, False


RUN_ID = r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$"


def check_run_id(option: str, text: str) -> str:
    if not re.fullmatch(RUN_ID, text):
        raise SettingsError(
            f"{option} {text}: must be 1 to 40 lower-case letters, digits and dashes, and neither start nor end with a dash"
        )
    return text
