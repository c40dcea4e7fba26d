"""The releases of OpenShift that there are: the update graph, what is in a payload, how its operators roll (releases.yaml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from . import yamls

FILE = Path(__file__).with_name("releases.yaml")


def minor(version: str) -> str:
    """`4.9` of 4.9.15."""
    return ".".join(version.split(".")[:2])


def in_order(version: str) -> tuple[int, ...]:
    """What versions are sorted by."""
    return tuple(int(part) for part in version.split("."))


@dataclass(frozen=True)
class Release:
    """One payload. `channels` is what it says itself; the update service has it `also_in` others."""

    version: str
    image: str
    machine_os: str
    channels: tuple[str, ...]
    kubernetes: dict[str, Any]
    node: dict[str, str]
    previous: tuple[str, ...]
    also_in: tuple[str, ...] = ()
    conditional: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def manifests(self) -> int:
        return sum(component.manifests[minor(self.version)] for component in catalogue().payload)

    def described(self) -> dict[str, Any]:
        """As ClusterVersion's status describes a release."""
        return {"version": self.version, "image": self.image, "channels": list(self.channels)}

    def server_version(self) -> dict[str, str]:
        """What /version says of an API server of this release. The last four keys are newer than it, and newer clients expect them."""
        git_version, number = self.kubernetes["git_version"], str(self.kubernetes["minor"])
        return {"major": "1", "minor": number, "gitVersion": git_version, "gitCommit": git_version.partition("+")[2], "gitTreeState": "clean",
                "buildDate": self.kubernetes["build_date"], "goVersion": self.kubernetes["go_version"], "compiler": "gc", "platform": "linux/amd64",
                "emulationMajor": "1", "emulationMinor": number, "minCompatibilityMajor": "1", "minCompatibilityMinor": str(int(number) - 1)}

    def node_info(self) -> dict[str, str]:
        """What a node that runs this release's machine-os says of itself."""
        version = self.kubernetes["git_version"]
        return {**self.node, "kubeletVersion": version, "kubeProxyVersion": version}


@dataclass(frozen=True)
class Component:
    """Manifests that are applied one after the other; of one `level`, components go side by side."""

    level: int
    name: str
    manifests: dict[str, int]  # by minor version
    operators: tuple[str, ...]  # ClusterOperators that are waited for
    before_operators: int | None

    def first_operator(self, version: str) -> int:
        """How many of the manifests come before the first ClusterOperator."""
        if self.before_operators is not None:
            return self.before_operators
        return self.manifests[minor(version)] - len(self.operators)


@dataclass(frozen=True)
class Operator:
    """How an operator brings its operands to a new version: `static` pods, a `daemon` set, or a `deployment`."""

    name: str
    level: int
    how: str
    also: dict[str, str]
    reason: str
    message: str
    available: str
    related: tuple[dict[str, str], ...]  # what an inspection of it gathers too

    def versions(self, release: Release) -> list[dict[str, str]]:
        kubernetes = release.kubernetes["git_version"].partition("+")[0].removeprefix("v")
        more = [{"name": name, "version": text.format(version=release.version, kubernetes=kubernetes)} for name, text in self.also.items()]
        return sorted([{"name": "operator", "version": release.version}, *more], key=lambda each: each["name"])


@dataclass(frozen=True)
class Catalogue:
    """All there is, and what can be asked of it."""

    releases: dict[str, Release]
    payload: tuple[Component, ...]
    operators: dict[str, Operator]  # in the order in which they roll

    def by_image(self, image: str) -> Release | None:
        """Its digest counts, from whatever registry it comes."""
        digest = image.rpartition("@")[2]
        return next((each for each in self.releases.values() if each.image.rpartition("@")[2] == digest), None)

    def by_machine_os(self, image: str) -> Release | None:
        return next((each for each in self.releases.values() if each.machine_os == image), None)

    def in_channel(self, channel: str) -> dict[str, Release]:
        return {version: each for version, each in self.releases.items() if channel in (*each.channels, *each.also_in)}

    def updates(self, version: str, channel: str) -> tuple[list[Release], list[Release]]:
        """The releases that a channel offers after this version, without and with conditions, the newest first.
        KeyError if the channel does not have the version itself."""
        offered = self.in_channel(channel)
        if version not in offered:
            raise KeyError(version)
        found = sorted((each for each in offered.values() if version in each.previous), key=lambda each: in_order(each.version), reverse=True)
        return [each for each in found if version not in each.conditional], [each for each in found if version in each.conditional]


@cache
def catalogue() -> Catalogue:
    document = yamls.load(FILE.read_text(encoding="utf-8"))
    releases = [Release(entry["version"], entry["image"], entry["machine_os"], tuple(entry["channels"]), entry["kubernetes"], entry["node"],
                        tuple(entry["from"]), tuple(entry.get("also_in", ())), entry.get("conditional", {})) for entry in document["releases"]]
    payload = [Component(entry["level"], entry["component"], entry["manifests"], tuple(entry.get("operators", ())), entry.get("before_operators"))
               for entry in document["payload"]]
    operators = {}
    for component in payload:
        for name in component.operators:
            entry = document["operators"][name]
            operators[name] = Operator(name, component.level, entry.get("how", "deployment"), entry.get("also", {}), entry.get("reason", ""),
                                       entry["message"], entry.get("available", ""), tuple(entry.get("related", ())))
    return Catalogue({each.version: each for each in releases}, tuple(payload), operators)
