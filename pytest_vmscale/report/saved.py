"""Runs that were saved: their result files read back as what they were written from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pytest_vmscale.model import Gap, Measurement, Objective
from pytest_vmscale.report.files import problems, problems_of
from pytest_vmscale.scenarios import named
from pytest_vmscale.slo.baseline import Conditions, conditions

_ADDED = ("deadline_seconds", "request_rate_achieved")  # which the file's `parameters` have beside what was asked for


class SavedError(ValueError):
    """What is wrong with a result file, or a folder of them, in one line."""


@dataclass(frozen=True)
class Saved:
    """One results file. `cluster` and `workload` as in the schema; `objectives` as they were judged then."""

    path: Path
    measurement: Measurement
    objectives: tuple[Objective, ...]
    cluster: Mapping[str, Any]
    workload: Mapping[str, Any]
    cleanup: Mapping[str, Any]
    timestamp: str

    @property
    def run_id(self) -> str:
        return self.measurement.run_id

    @property
    def conditions(self) -> Conditions:
        return conditions(self.measurement, self.cluster, self.workload)

    @property
    def subtitle(self) -> str:
        """What every report says beside a duration."""
        return subtitle(self.cluster, self.measurement)


def subtitle(cluster: Mapping[str, Any], measurement: Measurement) -> str:
    """On which cluster this was measured, and how fast its time ran."""
    if cluster["kind"] == "embedded":
        return f"embedded cluster, simulated at {measurement.time_rate:g}x"
    return f"OpenShift {cluster.get('openshift_version') or '(version unknown)'}, {cluster.get('worker_count', '?')} workers"


def load(paths: Iterable[Path]) -> list[Saved]:
    """The results of runs' folders, or single results files. SavedError."""
    return [saved for path in paths for saved in _of(path)]


def load_baseline(paths: Iterable[Path]) -> list[Saved]:
    """As `load`, of whole measurements: one that was cut short says nothing of its tail. SavedError."""
    found = load(paths)
    for each in found:
        if not each.measurement.complete:
            raise SavedError(f"{each.path}: was cut short ({each.measurement.incomplete_reason or 'no reason given'}): it is no baseline")
        if not each.measurement.size:
            raise SavedError(f"{each.path}: has no records: it is no baseline")
    check_each_is_another(found)
    return found


def check_each_is_another(found: Iterable[Saved]) -> None:
    """A run that is counted twice tells nothing of the noise. SavedError."""
    first: dict[tuple[str, str, str], Saved] = {}
    for each in found:
        same = first.setdefault((each.run_id, each.measurement.scenario, each.measurement.scope), each)
        if same is not each:
            raise SavedError(f"{each.path}: is given twice (as {same.path})")


def _of(path: Path) -> list[Saved]:
    if path.is_dir():
        files = sorted(path.glob("*_results.json"))
        if not files:
            raise SavedError(f"{path}: has no results (a run's folder has files such as boot-storm_results.json)")
        return sorted(map(load_file, files), key=lambda each: each.timestamp)  # a sweep's names have another order than its points
    return [load_file(path)]


def load_file(path: Path) -> Saved:
    """One results file. SavedError names what is wrong with it first."""
    from pydantic import TypeAdapter, ValidationError

    if path.name == "verdict.json" or path.name.startswith("summary_"):
        raise SavedError(f"{path}: has no records: name a file such as boot-storm_results.json, or the run's folder")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        # The records are read by their own types below: by the schema a thousand would take seconds.
        rows = data.pop("records", None) if isinstance(data, dict) else None
        wrong = problems_of(data, "summary") or ([] if isinstance(rows, list) else ["has no records"])
    except OSError as error:
        raise SavedError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SavedError(f"{path}: is not whole JSON: {error}") from None
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise SavedError(f"{path}: is no results file: {wrong[0][:200]}{more}")
    try:
        kind = named(data["scenario"]["name"]).record
        records = TypeAdapter(tuple[kind, ...]).validate_python(rows)  # type: ignore[valid-type]
    except KeyError as error:
        raise SavedError(f"{path}: {error.args[0]}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SavedError(f"{path}: is no results file: records.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    parameters = {name: value for name, value in data["parameters"].items() if name not in _ADDED}
    measurement = Measurement(
        scenario=data["scenario"]["name"],
        version=data["scenario"]["version"],
        run_id=data["run_id"],
        started_epoch=datetime.fromisoformat(data["timestamp"]).timestamp(),
        parameters=parameters,
        records=records,
        deadline_seconds=data["parameters"]["deadline_seconds"],
        duration_seconds=data["aggregate"]["duration_seconds"],
        gaps=tuple(Gap(**each) for each in data["gaps"]),
        details=data["details"],
        complete=data["complete"],
        incomplete_reason=data["incomplete_reason"],
        named=data.get("scope") or "",
        time_rate=data["cluster"].get("time_rate") or 1.0,
    )
    judged = tuple(_objective(each) for each in data["slo"])
    return Saved(path, measurement, judged, data["cluster"], data["workload"], data["cleanup"], data["timestamp"])


def load_verdict(folder: Path) -> dict[str, Any]:
    """A run's verdict.json. SavedError."""
    path = folder / "verdict.json"
    try:
        wrong = problems(path)
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SavedError(f"{folder}: has no verdict.json: the run was killed, or this is no run's folder") from None
    except (OSError, ValueError) as error:
        raise SavedError(f"{path}: is not whole JSON: {error}") from None
    if wrong:
        raise SavedError(f"{path}: is no verdict: {wrong[0][:200]}")
    return data


def objectives(data: Sequence[Mapping[str, Any]]) -> tuple[Objective, ...]:
    """As verdict.json and the results' `slo` have them."""
    return tuple(_objective(each) for each in data)


def _objective(data: Mapping[str, Any]) -> Objective:
    from pydantic import TypeAdapter

    return TypeAdapter(Objective).validate_python(
        {**{key: value for key, value in data.items() if key != "verdict"}, "outcome": data["verdict"]}
    )
