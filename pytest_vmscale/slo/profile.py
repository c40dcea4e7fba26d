"""Objectives as data: a profile is a YAML file of reference points and limits, each with the source it comes from.

A profile may build on another (`extends: reference`). What it changes it must give a source of its own, so that
a report never credits a document with a number that it does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pytest_vmscale import yamlfile
from pytest_vmscale.slo.own import OwnObjective, Severity

Size = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(gt=0, le=100)]
Source = Annotated[str, Field(min_length=1)]
ObjectiveId = Annotated[str, Field(pattern=r"^[a-z0-9_-]+\.[a-z0-9_.-]+$")]
Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Keys = yamlfile.Where  # keys and indices, as pydantic's `loc`


class ProfileError(Exception):
    """A profile that cannot be used: one line that names the file, the line and the key."""


class _Block(BaseModel):
    # Strict: `100: "102"` or `minimum_points: 3.0` is a slip of the pen, not a number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _never_falls(points: dict[int, float]) -> dict[int, float]:
    sizes = sorted(points)
    for low, high in pairwise(sizes):
        if points[high] < points[low]:
            raise ValueError(
                f"{high} VMs in {points[high]:g} s are faster than {low} VMs in {points[low]:g} s: a line through that is no reference"
            )
    return points


Curve = Annotated[dict[Size, Seconds], AfterValidator(_never_falls)]  # by size


class Share(_Block):
    """Of all VMs."""

    minimum_percent: Percent
    source: Source


class Duration(_Block):
    """`duration`: first request sent to the last VM up. `maximum`: the longest boot of any one VM, from its own request."""

    statistic: Literal["duration", "maximum"]
    points: Curve
    source: Source


class Percentiles(_Block):
    """`report`: which are always reported. `points`: percentile -> VMs -> seconds; only those are judged."""

    report: list[Percent]
    points: dict[Percent, Curve]
    source: Source

    @property
    def all(self) -> list[float]:
        """Those reported and those judged, in order."""
        return sorted({*self.report, *self.points})


class Linearity(_Block):
    """A line needs three points before anything can deviate from it."""

    largest_deviation_percent: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    minimum_points: Annotated[int, Field(ge=3)]
    source: Source


class BootStorm(_Block):
    every_vm_boots: Share
    duration: Duration
    percentiles: Percentiles
    linearity: Linearity


class Points(_Block):
    """`points`: size -> seconds. Without a point it is reported, not judged."""

    points: Curve
    source: Source


class Sourced(_Block):
    source: Source


class BestBulk(_Block):
    """`seen`: the size that the document found to be the fastest. Reported beside ours, never judged."""

    seen: Size | None = None
    source: Source


class Deadline(Sourced):
    """When one measurement is given up, unless --deadline says it."""

    seconds: Seconds
    seconds_per_vm: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    def of(self, vms: int) -> float:
        return self.seconds + self.seconds_per_vm * vms


class Deployment(_Block):
    deadline: Deadline
    every_vm_deployed: Share
    clone_strategy: Share
    nothing_left: Sourced
    duration: Points  # by VMs
    bulk_duration: Points  # by VMs in a bulk: the slowest one
    percentiles: Percentiles
    best_bulk: BestBulk


def _no_deployment_limits() -> Deployment:
    """Of a profile that says nothing of deployments."""
    source = "this project: the profile says nothing of deployments"
    share, none = Share(minimum_percent=100.0, source=source), Points(points={}, source=source)
    return Deployment(
        deadline=Deadline(seconds=600.0, seconds_per_vm=10.0, source=source),
        every_vm_deployed=share,
        clone_strategy=share,
        nothing_left=Sourced(source=source),
        duration=none,
        bulk_duration=none,
        percentiles=Percentiles(report=[50.0, 90.0, 99.0], points={}, source=source),
        best_bulk=BestBulk(source=source),
    )


class Added(_Block):
    """What a load adds to a mean latency, in percent of the baseline; less than nothing is a gain. It holds for fleets of at least
    `from_vms`, at the reference's own load; other points are reported."""

    percent: Annotated[float, Field(allow_inf_nan=False)] | None = None  # None: reported, not judged
    from_vms: Size = 1
    source: Source


class Spread(_Block):
    """How far figures may lie apart that should be the same, in percent."""

    largest_percent: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # None: reported, not judged
    source: Source


class Latency(_Block):
    every_vm_reported: Share
    achieved_iops: Share  # of the VMs, those that achieved at least 99 % of their rate
    added_read: Added
    added_write: Added
    baseline_variance: Spread  # coefficient of variation of the baseline's mean over the node counts
    node_spread: Spread  # the slowest node's baseline above the median node's


def _no_latency_limits() -> Latency:
    """Of a profile that says nothing of latencies."""
    source = "this project: the profile says nothing of I/O latency"
    share, none = Share(minimum_percent=100.0, source=source), Added(source=source)
    spread = Spread(source=source)
    return Latency(
        every_vm_reported=share, achieved_iops=share, added_read=none, added_write=none, baseline_variance=spread, node_spread=spread
    )


class Average(_Block):
    """The mean over the VMs of one OS. moves_by: what it is of. It holds for at least `from_vms` of them: the mean of a few says little of one
    over hundreds. None: reported, not judged."""

    seconds: Seconds | None = None
    from_vms: Size = 1
    moves_by: Literal["live-migration", "restart"] = "live-migration"
    source: Source


class Migration(_Block):
    """By VMs in the zone, where there are points. They are of a machine config that reboots it; other triggers are reported."""

    every_vm_moved: Share
    failures: Sourced
    limits: Sourced
    zone_duration: Points
    node_wait: Points  # rounds of nodes, times the mean from a node's drain to its being done
    drain_time: Points  # the rest
    vms_off: Points
    pods_back: Share
    average_rhel: Average
    average_windows: Average
    average_fedora: Average


def _no_migration_limits() -> Migration:
    """Of a profile that says nothing of migrations."""
    source = "this project: the profile says nothing of migrations"
    share, said, none, average = Share(minimum_percent=100.0, source=source), Sourced(source=source), Points(points={}, source=source), Average(source=source)
    return Migration(
        every_vm_moved=share,
        failures=said,
        limits=said,
        zone_duration=none,
        drain_time=none,
        node_wait=none,
        vms_off=none,
        pods_back=share,
        average_rhel=average,
        average_windows=average,
        average_fedora=average,
    )


class Longest(_Block):
    """None: reported, not judged."""

    seconds: Seconds | None = None
    source: Source


class MigrationLoad(_Block):
    every_vm_reported: Share
    achieved_iops: Share
    failures: Sourced
    added_read: Added
    added_write: Added
    added_duration: Added
    longest_gap: Longest


def _no_migration_load_limits() -> MigrationLoad:
    """Of a profile that says nothing of migration under load."""
    source = "this project: the profile says nothing of migration under load"
    share, none = Share(minimum_percent=100.0, source=source), Added(source=source)
    return MigrationLoad(
        every_vm_reported=share,
        achieved_iops=share,
        failures=Sourced(source=source),
        added_read=none,
        added_write=none,
        added_duration=none,
        longest_gap=Longest(source=source),
    )


class UpgradeDuration(_Block):
    """Of ClusterVersion, by kind of hop: within a minor version, or to the next. None: reported, not judged."""

    patch_seconds: Seconds | None = None
    minor_seconds: Seconds | None = None
    source: Source


class Upgrade(_Block):
    version_reached: Sourced
    duration: UpgradeDuration
    no_vm_lost: Share
    operators_healthy: Sourced
    api_outage: Longest
    vm_downtime: Longest


def _no_upgrade_limits() -> Upgrade:
    """Of a profile that says nothing of upgrades."""
    source = "this project: the profile says nothing of upgrades"
    said, none = Sourced(source=source), Longest(source=source)
    return Upgrade(
        version_reached=said,
        duration=UpgradeDuration(source=source),
        no_vm_lost=Share(minimum_percent=100.0, source=source),
        operators_healthy=said,
        api_outage=none,
        vm_downtime=none,
    )


class Profile(_Block):
    name: str
    title: str
    document: Source
    tolerance_percent: Tolerance
    tolerance_source: Source
    bootstorm: BootStorm
    deployment: Deployment = Field(default_factory=_no_deployment_limits)
    latency: Latency = Field(default_factory=_no_latency_limits)
    migration: Migration = Field(default_factory=_no_migration_limits)
    migration_load: MigrationLoad = Field(default_factory=_no_migration_load_limits)
    upgrade: Upgrade = Field(default_factory=_no_upgrade_limits)
    objectives: dict[ObjectiveId, OwnObjective] = {}
    severity: dict[ObjectiveId, Severity] = {}  # of the scenarios' objectives; what is not named gates
    where: Annotated[dict[str, str], Field(exclude=True)] = {}  # FILE:LINE of each key of `objectives` and `severity`: written by load_profile, not by people


def built_in_profiles() -> list[str]:
    return sorted(
        each.name.removesuffix(".yaml") for each in files(__package__).joinpath("profiles").iterdir() if each.name.endswith(".yaml")
    )


def load_profile(first: str | Path, *others: str | Path) -> Profile:
    """A built-in profile by name, or a file of yours (anything with a slash, or that ends in .yaml or .yml). Each of `others`
    changes what is there, as if it extended it. ProfileError."""
    path = _locate(first, Path())
    data, lines = _merged(path, ())
    found = _validate(data, path, lines)
    for each in others:
        path = _locate(each, Path())
        above, lines = _merged(path, (), on=data)
        data = {**above, "name": f"{data['name']} + {path.stem}"}
        found = _validate(data, path, lines)
    return found


def _locate(name_or_file: str | Path, folder: Path, asked_by: str = "") -> Path:
    """`asked_by`: what an error begins with."""
    text = str(name_or_file)
    if isinstance(name_or_file, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        path = folder / Path(text).expanduser()
        if not path.exists():
            raise ProfileError(f"{asked_by}{path}: no such file")
        return path
    if text not in built_in_profiles():
        raise ProfileError(
            f"{asked_by}{text or repr(text)}: is no SLO profile; there are {', '.join(built_in_profiles())}, or name a file (my-cluster.yaml)"
        )
    return Path(str(files(__package__).joinpath("profiles", f"{text}.yaml")))


def _merged(path: Path, children: tuple[Path, ...], on: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[Keys, int]]:
    """A file's data on top of what it extends (`on`: of this, whatever it extends), and the lines on which its own keys stand."""
    if path.resolve() in children:
        raise ProfileError(f"{path}: extends itself, by way of {' -> '.join(str(each) for each in [*children, path.resolve()])}")
    data, lines = _read(path)
    parent_name = data.pop("extends", None)
    if on is not None:
        _check_sources(data, on, (), path, lines)
        return _overlay(on, data), lines
    if parent_name is None:
        return {**data, "name": path.stem}, lines
    where = f"{path}:{lines[('extends',)]}: extends"
    if not isinstance(parent_name, str):
        raise ProfileError(f"{where}: must be a profile's name or a file, not {parent_name!r}")
    parent_path = _locate(parent_name, path.parent, f"{where} ")
    parent, parent_lines = _merged(parent_path, (*children, path.resolve()))
    _validate(parent, parent_path, parent_lines)
    _check_sources(data, parent, (), path, lines)
    return {**_overlay(parent, data), "name": path.stem}, lines


def _overlay(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """`above` on `below`, key by key. A table of numbers is replaced whole: two clusters' points make no curve."""
    merged = dict(below)
    for key, value in above.items():
        both_named = (
            isinstance(value, dict) and isinstance(below.get(key), dict) and all(isinstance(each, str) for each in [*value, *below[key]])
        )
        merged[key] = _overlay(below[key], value) if both_named and value else value
    return merged


def _check_sources(data: Mapping[Any, Any], parent: Mapping[Any, Any], at: Keys, path: Path, lines: Mapping[Keys, int]) -> None:
    for key, value in data.items():
        here, below = (*at, key), parent.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            if "source" in below and value and "source" not in value:
                raise ProfileError(f"{path}:{lines[here]}: {_dotted(here)} changes an objective, so it must name its own `source`")
            _check_sources(value, below, here, path, lines)
    if not at and "tolerance_percent" in data and "tolerance_source" not in data:
        raise ProfileError(
            f"{path}:{lines[('tolerance_percent',)]}: tolerance_percent changes the tolerance, so it needs a `tolerance_source`"
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[Keys, int]]:
    try:
        data, lines = yamlfile.read(path)
    except yamlfile.FileError as error:
        raise ProfileError(str(error)) from None
    if data is None:
        raise ProfileError(f"{path}: is empty: no profile")
    if not isinstance(data, dict):
        raise ProfileError(f"{path}:1: must be a mapping of keys to values")
    if "where" in data:
        raise ProfileError(f"{path}:{lines[('where',)]}: unknown key 'where'")
    places = {_dotted(key): f"{path}:{line}" for key, line in lines.items() if len(key) > 1 and key[0] in ("objectives", "severity")}
    return {**data, **({"where": places} if places else {})}, lines


def _validate(data: Mapping[str, Any], path: Path, lines: dict[Keys, int]) -> Profile:
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        told = yamlfile.describe(path, lines, error, Profile)
        if error.error_count() > 1:
            told += f" (and {error.error_count() - 1} more)"
        if error.errors()[0]["type"] == "missing" and ("extends",) not in lines:
            told += "; with `extends: reference` a profile says only what it changes"
        raise ProfileError(told) from error


def _dotted(where: Keys) -> str:
    return ".".join(str(part) for part in where)

