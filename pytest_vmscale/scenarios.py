"""Which scenarios there are, and where each has its parts: procedures/, slo/ and report/ have a module for each.

`procedures/<module>.py`  VERSION
`slo/<module>.py`         judge, judge_together, deadlines_seconds
`report/<module>.py`      lines, charts, steps, tables, plan
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from .model import Measurement, Objective, Record
from .records import BootRecord, DeployRecord, LatencyRecord, MigrationLoadRecord, MigrationRecord, UpgradeRecord
from .rights import Right

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .run import Run
    from .settings import Settings
    from .slo.profile import Profile


class Judge(Protocol):
    """What slo/<module>.py has."""

    @staticmethod
    def judge(measurement: Measurement, profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
        """The objectives of one measurement; each has the measurement's scope."""

    @staticmethod
    def judge_together(measurements: Sequence[Measurement], profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
        """Those over all measurements of the scenario (a sweep's growth, a difference of two); () if there are none."""

    @staticmethod
    def deadlines_seconds(settings: Settings, profile: Profile, tolerance_percent: float) -> list[float]:
        """Cluster seconds that each measurement may take at most. SettingsError or ProfileError if it cannot be run as asked."""


@dataclass(frozen=True)
class Chart:
    """A chart that can be drawn. `scope` and `objectives`: at which objective's test Allure shows it. None if there is no data."""

    file: str  # its name without the ending: "boot-storm-100_ready"
    title: str
    scope: str
    objectives: tuple[str, ...]
    draw: Callable[[], Figure | None]


@dataclass(frozen=True)
class Table:
    """Something else that Allure shows at an objective's test: `kind` is html or csv."""

    title: str
    objectives: tuple[str, ...]
    kind: str
    text: Callable[[], str]


@dataclass(frozen=True)
class Plan:
    """What a scenario would do, in lines: make, change (what was there before), and measure; and what it must be allowed to."""

    create: tuple[str, ...]
    change: tuple[str, ...]
    measure: tuple[str, ...]
    needs: tuple[Right, ...] = ()


class Report(Protocol):
    """What report/<module>.py has."""

    @staticmethod
    def lines(measurements: Sequence[Measurement], subtitle: str) -> list[str]:
        """What was measured, for the terminal, in at most 100 columns; one measurement, or all points of a sweep."""

    @staticmethod
    def charts(measurements: Sequence[Measurement], objectives: Sequence[Objective], subtitle: str) -> list[Chart]: ...

    @staticmethod
    def steps(measurement: Measurement) -> list[str]:
        """The procedure as it went, a sentence a step."""

    @staticmethod
    def tables(measurement: Measurement) -> list[Table]: ...

    @staticmethod
    def plan(run: Run) -> Plan: ...


def _largest(settings: Settings) -> Sequence[int]:
    return (settings.largest,)


def _each_point(settings: Settings) -> Sequence[int]:
    return settings.vms


def _each_node_count(settings: Settings) -> Sequence[int]:
    return [nodes * settings.vms_per_node for nodes in settings.nodes]


@dataclass(frozen=True)
class Scenario:
    """`prefix` begins its objectives' ids. `speed`: cluster seconds a wall second that the embedded cluster runs at while this
    scenario measures, unless --sim-speed says otherwise: as fast as its error stays below that of the procedure on a real cluster.
    `record`: what is written of each VM; by it results files are read again. `sizes`: VMs of each measurement, as its parameters'
    `vms` has them."""

    name: str  # as in the result files
    marker: str
    prefix: str
    title: str
    module: str
    speed: float
    disruptive: bool = False
    record: type[Record] = Record
    sizes: Callable[[Settings], Sequence[int]] = _largest

    @property
    def version(self) -> str:
        """Of the procedure: raised where what is measured changes."""
        return str(import_module(f"pytest_vmscale.procedures.{self.module}").VERSION)

    @property
    def judge(self) -> Judge:
        return cast(Judge, import_module(f"pytest_vmscale.slo.{self.module}"))

    @property
    def report(self) -> Report:
        return cast(Report, import_module(f"pytest_vmscale.report.{self.module}"))


ALL = (
    Scenario(
        "datasource-clone", "deployment", "deployment", "Deployment", "deployment", speed=30.0, record=DeployRecord, sizes=_each_point
    ),
    Scenario("boot-storm", "bootstorm", "bootstorm", "Boot storm", "boot_storm", speed=20.0, record=BootRecord, sizes=_each_point),
    Scenario("fio", "latency", "latency", "I/O latency", "latency", speed=100.0, record=LatencyRecord, sizes=_each_node_count),
    Scenario("migration", "migration", "migration", "Migration", "migration", speed=60.0, disruptive=True, record=MigrationRecord),
    Scenario(
        "migration-latency",
        "latency and migration",
        "migration_load",
        "Migration under load",
        "migration_load",
        speed=40.0,
        disruptive=True,
        record=MigrationLoadRecord,
    ),
    Scenario("upgrade", "upgrade", "upgrade", "Cluster upgrade", "upgrade", speed=100.0, disruptive=True, record=UpgradeRecord),
)


def check_profile(profile: Profile) -> None:
    """That the objectives which a profile adds, or calls by name, are of what the scenarios measure. ProfileError."""
    from .slo.profile import ProfileError

    for table, ids in (("objectives", profile.objectives), ("severity", profile.severity)):
        for objective_id in ids:
            key = f"{table}.{objective_id}"
            where = profile.where[key]
            prefix = objective_id.partition(".")[0]
            scenario = next((each for each in ALL if each.prefix == prefix), None)
            if scenario is None:
                raise ProfileError(
                    f"{where}: {key}: no scenario's objectives begin with {prefix!r}; there are {', '.join(each.prefix for each in ALL)}"
                )
            built_in = _built_in(scenario, profile)
            if table == "objectives":
                if objective_id in built_in:
                    raise ProfileError(f"{where}: {key}: is the id of an objective that the scenario has already: change it under {prefix}")
                if found := profile.objectives[objective_id].problem(scenario.record):
                    inside, problem = f"{key}.{found[0]}", found[1]
                    raise ProfileError(f"{profile.where.get(inside, where)}: {inside}: {problem}")
            elif objective_id not in {*built_in, *profile.objectives}:
                import difflib

                near = difflib.get_close_matches(objective_id, [*built_in, *profile.objectives], n=1)
                raise ProfileError(f"{where}: {key}: there is no such objective" + (f"; did you mean {near[0]}?" if near else ""))


def _built_in(scenario: Scenario, profile: Profile) -> set[str]:
    """The ids of the objectives that a scenario judges: those of a measurement, and the profile's keys, which those of a sweep have."""
    nothing = Measurement(scenario.name, "0.0.0", "", 0.0, {}, (), 1.0, None)
    of_one = {each.id for each in scenario.judge.judge(nothing, profile, 0.0)}
    block = getattr(profile, scenario.prefix, None)
    keys = type(block).model_fields if block is not None else {}
    return of_one | {f"{scenario.prefix}.{key}" for key in keys if key != "percentiles"}


def named(name: str) -> Scenario:
    """By its name in the result files. KeyError."""
    return next((each for each in ALL if each.name == name), None) or _unknown(name)


def of_objective(objective_id: str) -> Scenario:
    """By an objective's id. KeyError."""
    prefix = objective_id.partition(".")[0]
    return next((each for each in ALL if each.prefix == prefix), None) or _unknown(objective_id)


def grouped(measurements: Iterable[Measurement]) -> list[tuple[Scenario, list[Measurement]]]:
    """The measurements by scenario, in the order of ALL."""
    taken = list(measurements)
    found = [(scenario, [each for each in taken if each.scenario == scenario.name]) for scenario in ALL]
    return [(scenario, group) for scenario, group in found if group]


def _unknown(name: str) -> Scenario:
    raise KeyError(f"there is no scenario {name!r}")
