"""Result files, written as the run goes: a run that is killed leaves what it had measured.

    boot-storm_records.jsonl    one record a line, as it comes; replaced at the end by
    boot-storm_results.json     everything (report/schema/results.schema.json)
    boot-storm_results.csv      one row a record
    summary_boot-storm.json     everything but the records
    verdict.json                one for the run

A scenario that runs more than once (a sweep) has its point in the name: `boot-storm-100_results.json`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from pytest_vmscale.model import Measurement, Objective, Record, Sample
from pytest_vmscale.slo.judge import Verdict

SCHEMA_VERSION = "1.0.0"
PERCENTILES = (50, 75, 90, 95, 99)
NOT_IN_CSV = ("timeline", "histogram")


@dataclass(frozen=True)
class About:
    """What the files say of the run besides its measurements. `cluster` and `tool` as in the schema."""

    run_id: str
    tool: Mapping[str, Any]
    cluster: Mapping[str, Any]


@dataclass(frozen=True)
class Paths:
    """Where a scenario's finished files are."""

    results: Path
    csv: Path
    summary: Path


class ResultFiles:
    """The files of one run, in one folder."""

    def __init__(self, folder: Path, about: About) -> None:
        self.folder = folder
        self.about = about
        folder.mkdir(parents=True, exist_ok=True)

    def scenario(self, name: str, point: int | str | None = None, workload: Mapping[str, Any] | None = None) -> ScenarioFiles:
        """Begin a scenario's files. `workload` as in the schema. FileExistsError if this folder has this scenario (and point) already."""
        return ScenarioFiles(self, name if point is None else f"{name}-{point}", workload or {})

    def write_verdict(
        self, verdict: Verdict, comparison: Mapping[str, Any] | None = None, profile: str | None = None, charts: Iterable[Path] = ()
    ) -> Path:
        path = self.folder / "verdict.json"
        write_json(
            path,
            {
                "schema_version": SCHEMA_VERSION,
                "run_id": self.about.run_id,
                "verdict": str(verdict.ruling),
                "exit_code": verdict.exit_code,
                "profile": profile,
                "cluster": dict(self.about.cluster),
                "objectives": [objective_data(each) for each in verdict.objectives],
                "comparison": None if comparison is None else dict(comparison),
                "why": list(verdict.why),
                "charts": [each.relative_to(self.folder).as_posix() for each in charts],
            },
        )
        return path


class ScenarioFiles:
    """One scenario's files. `append` may be called from any thread."""

    def __init__(self, run: ResultFiles, stem: str, workload: Mapping[str, Any]) -> None:
        self.stem = stem
        self.workload = workload
        self.folder = run.folder
        self.paths = Paths(run.folder / f"{stem}_results.json", run.folder / f"{stem}_results.csv", run.folder / f"summary_{stem}.json")
        self.partial = run.folder / f"{stem}_records.jsonl"
        self._about = run.about
        self._lock = threading.Lock()
        self._full = False
        if self.paths.results.exists():
            raise FileExistsError(f"{self.paths.results} is there already: a sweep's points need names of their own")
        self._lines = self.partial.open("x", encoding="utf-8")

    def append(self, record: Record) -> None:
        """Write a record now. Each line is handed to the operating system at once, so a killed process loses none.

        On a disk that is full no more are written: the measurement goes on, and `finish` tells."""
        with self._lock:
            if self._full:
                return
            try:
                self._lines.write(_dumps(record_data(record)) + "\n")
                self._lines.flush()
            except OSError:
                self._full = True

    def finish(self, measurement: Measurement, objectives: Iterable[Objective] = (), cleanup: Mapping[str, Any] | None = None) -> Paths:
        """Write the final files, each whole or not at all. May be called again (with the clean-up's outcome, say). OSError if they
        cannot be written; the records so far are then left."""
        summary = self._summary(measurement, objectives, cleanup)
        records = [record_data(record) for record in measurement.records]
        write_json(self.paths.results, {**summary, "records": records})
        _replace(self.paths.csv, csv_text(measurement.records))
        write_json(self.paths.summary, summary)
        self.close()
        self.partial.unlink(missing_ok=True)
        return self.paths

    def close(self) -> None:
        """Leave the records as they are: for a run that ends without a measurement."""
        with self._lock, contextlib.suppress(OSError):  # what a full disk did not take
            self._lines.close()

    def _summary(self, measurement: Measurement, objectives: Iterable[Objective], cleanup: Mapping[str, Any] | None) -> dict[str, Any]:
        achieved = measurement.details.get("request_rate_achieved")
        return {
            "schema_version": SCHEMA_VERSION,
            "tool": dict(self._about.tool),
            "scenario": {"name": measurement.scenario, "version": measurement.version},
            "scope": measurement.scope,
            "run_id": measurement.run_id,
            "timestamp": datetime.fromtimestamp(measurement.started_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "complete": measurement.complete,
            "incomplete_reason": measurement.incomplete_reason,
            "cluster": {**self._about.cluster, "time_rate": measurement.time_rate},
            "workload": dict(self.workload),
            "parameters": {"deadline_seconds": measurement.deadline_seconds, **measurement.parameters, "request_rate_achieved": achieved},
            "aggregate": aggregate(measurement),
            "details": dict(measurement.details),
            "gaps": [asdict(gap) for gap in measurement.gaps],
            "slo": [objective_data(each) for each in objectives],
            "cleanup": dict(cleanup) if cleanup is not None else {"requested": False, "status": None},
        }


def aggregate(measurement: Measurement) -> dict[str, Any]:
    """Counts and statistics over all VMs; a statistic that falls on a VM without a value is null."""
    return {
        "total_vms": measurement.size,
        "successful_vms": measurement.size - len(measurement.failed),
        "failed_vms": len(measurement.failed),
        "duration_seconds": measurement.duration_seconds,
        **{metric: _statistics(measurement.sample(metric)) for metric in measurement.metrics},
    }


def _statistics(sample: Sample) -> dict[str, Any]:
    return {
        "measured": len(sample.measured),
        "min": sample.minimum,
        "mean": sample.mean,
        **{f"p{percent}": sample.percentile(percent) if sample.size else None for percent in PERCENTILES},
        "max": sample.maximum if sample.size else None,
    }


def record_data(record: Record) -> dict[str, Any]:
    """A record as JSON data; its fields' own names are the file's."""
    data = asdict(record)
    data["status"] = str(record.status)
    data["request_retries"] = list(record.request_retries)
    data["timeline"] = [asdict(moment) for moment in record.timeline]
    return data


def objective_data(objective: Objective) -> dict[str, Any]:
    data = asdict(objective)
    data["verdict"] = str(data.pop("outcome"))
    return data


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `results`, `summary` or `verdict`."""
    loaded: dict[str, Any] = json.loads(files(__package__).joinpath("schema", f"{name}.schema.json").read_text(encoding="utf-8"))
    return loaded


def problems(path: Path) -> list[str]:
    """What is wrong with a result file by its schema, which its name tells; nothing if it is valid. OSError or ValueError if it
    cannot be read."""
    name = "verdict" if path.name == "verdict.json" else "summary" if path.name.startswith("summary_") else "results"
    return problems_of(json.loads(path.read_text(encoding="utf-8")), name)


def problems_of(data: Any, name: str) -> list[str]:
    """What is wrong with the data of a file of this kind, as `schema` has them."""
    import jsonschema
    import referencing

    loaded = {name: schema(name) for name in ("results", "summary", "verdict")}
    registry: Any = referencing.Registry().with_resources(
        (f"{name}.schema.json", referencing.Resource.from_contents(contents)) for name, contents in loaded.items()
    )
    found = jsonschema.Draft202012Validator(loaded[name], registry=registry).iter_errors(data)
    return [f"{'.'.join(map(str, error.absolute_path)) or '(file)'}: {error.message}" for error in found]


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Atomically. ValueError on NaN or infinity: they are no JSON, and no result."""
    _replace(path, _dumps(data, indent=2) + "\n")


def _dumps(data: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(data, indent=indent, allow_nan=False, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} has no place in a result file")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def csv_text(records: Sequence[Record]) -> str:
    """One row a record. What has rows of its own (its timeline, histograms) is in the JSON file alone."""
    columns = [field.name for field in fields(records[0] if records else Record) if field.name not in NOT_IN_CSV]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for record in records:
        writer.writerow(_csv_cell(getattr(record, column)) for column in columns)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    return " | ".join(value) if isinstance(value, tuple) else value


def slug(text: str) -> str:
    """For a file's name: "800 VMs, bulks of 100" is 800-vms-bulks-of-100."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
