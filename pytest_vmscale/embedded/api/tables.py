"""`Table` answers: what `kubectl get` prints. Custom resources by their printer columns, built-in kinds by rows.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import orjson

from . import rows
from .kinds import Column, Kind
from .store import Entry, Object

NAME_DESCRIPTION = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request "
    "the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration "
    "definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names")
PATH_DESCRIPTION = "Custom resource definition column (in JSONPath format): "
AGE_ONLY = (Column("Age", "date", ".metadata.creationTimestamp"),)  # of a custom resource without printer columns


def table(kind: Kind, entries: Iterable[Entry | Object], now: float, *, include_object: str = "Metadata", headers: bool = True) -> Object:
    """The Table of these objects. `now` is the cluster's Unix time, from which ages are counted.

    include_object is None, Metadata or Object, as the request's includeObject. headers=False leaves the column
    definitions out (every event of a watch but the first). The caller fills metadata (resourceVersion, continue).
    """
    definitions, cells = _printer(kind)
    found = []
    for entry in entries:
        obj = entry.obj if isinstance(entry, Entry) else entry
        row: Object = {"cells": cells(obj, now)}
        conditions = rows.row_conditions(kind, obj)
        if conditions:
            row["conditions"] = conditions
        row["object"] = _included(obj, include_object)
        found.append(row)
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": definitions if headers else None,
            "rows": found}


def partial_metadata(obj: Object) -> Object:
    """The object as PartialObjectMetadata: its metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _included(obj: Object, include_object: str) -> Object | None:
    if include_object == "Object":
        return obj
    return None if include_object == "None" else partial_metadata(obj)


@cache
def _printer(kind: Kind) -> tuple[list[Object], Callable[[Object, float], list[Any]]]:
    """The column definitions of a kind, and what makes an object's cells."""
    built_in = rows.BUILT_IN.get(str(kind))
    if built_in is not None:
        return [_definition(Column(c.name, c.type, "", NAME_DESCRIPTION if c.name == "Name" else c.description, "name"
                                   if c.name == "Name" else "",
                                   c.priority)) for c in built_in.columns], built_in.cells
    columns = kind.columns or AGE_ONLY
    makers = [_column(column) for column in columns]
    definitions = [_definition(Column("Name", "string", "", NAME_DESCRIPTION, "name")), *map(_definition, columns)]
    return definitions, lambda obj, now: [obj["metadata"]["name"], *(make(obj, now) for make in makers)]


def _definition(column: Column) -> Object:
    description = column.description or (PATH_DESCRIPTION + column.json_path if column.json_path else "")
    return {"name": column.name, "type": column.type, "format": column.format, "description": description, "priority": column.priority}


def _column(column: Column) -> Callable[[Object, float], Any]:
    """What makes a printer column's cell: the first value at its path, or null."""
    path = json_path(column.json_path)
    text, date = column.type == "string", column.type == "date"

    def cell(obj: Object, now: float) -> Any:
        values = path(obj)
        if not values or values[0] is None:
            return None
        value = values[0]
        if date:
            return rows.age(value, now)
        if text:
            return value if isinstance(value, str) else orjson.dumps(value).decode()
        if column.type == "boolean":
            return value if isinstance(value, bool) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return int(value) if column.type == "integer" else value

    return cell


STEP = re.compile(r"""\.(?P<field>(?:\\.|[^.\[\\])+)
                    | \[\?\(@(?P<filter>(?:\.(?:\\.|[^.=!\s\[\\])+)+)\s*(?P<operator>==|!=)\s*(?P<quote>['"])(?P<value>.*?)(?P=quote)\)\]
                    | \[(?P<index>-?\d+)\] | \[(?P<every>\*)\] | \[(?P<bracket>'[^']*')\]""", re.VERBOSE)


def json_path(path: str) -> Callable[[Any], list[Any]]:
    """A JSONPath as printer columns use them: fields, [index], [*], ['field'], [?(@.field=="text")]. Missing keys find nothing.
    ValueError names a path that is none of these."""
    steps: list[Callable[[list[Any]], list[Any]]] = []
    position = 0
    while position < len(path):
        match = STEP.match(path, position)
        if not match:
            raise ValueError(f"JSONPath {path!r}: cannot read it from {path[position:]!r}")
        position = match.end()
        steps.append(_step(match))

    def find(obj: Any) -> list[Any]:
        values = [obj]
        for step in steps:
            values = step(values)
        return values

    return find


def _step(match: re.Match[str]) -> Callable[[list[Any]], list[Any]]:
    if match["field"] or match["bracket"]:
        name = re.sub(r"\\(.)", r"\1", match["field"]) if match["field"] else match["bracket"][1:-1]
        return lambda values: [value[name] for value in values if isinstance(value, dict) and name in value]
    if match["index"]:
        index = int(match["index"])
        return lambda values: [value[index] for value in values if isinstance(value, list) and -len(value) <= index < len(value)]
    if match["every"]:
        return lambda values: [item for value in values for item in (value if isinstance(value, list) else value.values()
                                                                     if isinstance(value, dict) else ())]
    inner, wanted, equal = json_path(match["filter"]), match["value"], match["operator"] == "=="
    return lambda values: [item for value in values if isinstance(value, list) for item in value if bool((got := inner(item))
                                                                                                         and got[0] == wanted) == equal]

