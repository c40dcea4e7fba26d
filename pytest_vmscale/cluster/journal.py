"""What a run has changed on a cluster, written down there: one ConfigMap of the run's own namespace for each object."""

from __future__ import annotations

import copy
import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..model import LABEL_RUN
from .access import ClusterError
from .conditions import condition_of
from .requests import Cluster, Object, resource_path

LABEL_EDITS = "vmscale.io/edits"  # of the namespace in which a run notes what it is to undo
NAMESPACES = "/api/v1/namespaces"
ENTRY = "entry.json"  # the ConfigMap's key


class Absent(enum.Enum):
    """As a field's value: it is not there, or not to be there."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True)
class Ref:
    """One object on the cluster. `namespace` is None for a cluster-scoped one."""

    api_version: str
    kind: str
    name: str
    namespace: str | None = None

    @classmethod
    def of(cls, obj: Object) -> Ref:
        return cls(obj["apiVersion"], obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace"))

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Until:
    """What must be so before an object is removed: a field (JSON pointer) of another one, or a condition's status.
    An object that is not there keeps nothing waiting."""

    ref: Ref
    value: Any
    field: str = ""
    condition: str = ""

    def met(self, obj: Object) -> bool:
        if self.condition:
            return condition_of(obj, self.condition, self.value) is not None
        return bool(read(obj, self.field) == self.value)

    def __str__(self) -> str:
        return f"{self.ref} has {self.condition or self.field} {self.value}"


@dataclass(frozen=True)
class Field:
    """One field of an edit, by JSON pointer; ABSENT where it is not there. `made`: parents that the edit had to make."""

    path: str
    before: Any
    after: Any
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """What one ConfigMap of the journal says: fields to put back, or, without fields, an object to remove."""

    name: str  # the ConfigMap's
    sequence: int
    ref: Ref
    fields: tuple[Field, ...] = ()
    order: int = 0
    until: tuple[Until, ...] = ()

    @property
    def is_edit(self) -> bool:
        return bool(self.fields)

    @property
    def late(self) -> bool:
        """An edit that is put back in its turn among what was created, not before."""
        return self.is_edit and self.order > 0


def journal_namespace(run_id: str) -> str:
    return f"vmscale-{run_id}"


async def unfinished_runs(cluster: Cluster) -> list[str]:
    """The ids of runs whose edits were not all put back."""
    found = await cluster.list_all(NAMESPACES, selector=LABEL_EDITS)
    return sorted(each["metadata"]["labels"].get(LABEL_RUN, "?") for each in found if "deletionTimestamp" not in each["metadata"])


async def read_journal(cluster: Cluster, run_id: str) -> list[Entry]:
    """A run's entries in the order in which they were made. ClusterError if one cannot be read."""
    if await cluster.get_or_none(f"{NAMESPACES}/{journal_namespace(run_id)}") is None:
        return []  # a run that edits nothing needs no right to read ConfigMaps, and neither has who cleans up after it
    path = resource_path("v1", "configmaps", journal_namespace(run_id))
    found = await cluster.list_all(path, selector=f"{LABEL_RUN}={run_id}")
    return sorted((_entry(each) for each in found), key=lambda entry: entry.sequence)


def entry_path(run_id: str, entry: Entry) -> str:
    return resource_path("v1", "configmaps", journal_namespace(run_id), entry.name)


def config_map(entry: Entry, run_id: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": entry.name, "namespace": journal_namespace(run_id), "labels": {LABEL_RUN: run_id}},
        "data": {ENTRY: json.dumps(_data(entry), indent=2) + "\n"},
    }


def _data(entry: Entry) -> Object:
    """For people too: a field that has no `before` was absent."""

    def ref(each: Ref) -> Object:
        told = {"apiVersion": each.api_version, "kind": each.kind, "namespace": each.namespace, "name": each.name}
        return {key: value for key, value in told.items() if value is not None}

    def values(field: Field) -> Object:
        told = {"path": field.path, "before": field.before, "after": field.after, "made": list(field.made) or ABSENT}
        return {key: value for key, value in told.items() if value is not ABSENT}

    data: Object = {"sequence": entry.sequence, **ref(entry.ref)}
    waits = [{**ref(each.ref), "field": each.field, "condition": each.condition, "value": each.value} for each in entry.until]
    turn = {"order": entry.order, "until": waits}
    if entry.is_edit:
        return {**data, "fields": [values(field) for field in entry.fields], **(turn if entry.late else {})}
    return {**data, "created": True, **turn}


def _entry(found: Object) -> Entry:
    name = found["metadata"]["name"]

    def ref(data: Object) -> Ref:
        return Ref(data["apiVersion"], data["kind"], data["name"], data.get("namespace"))

    try:
        data = json.loads(found["data"][ENTRY])
        return Entry(
            name,
            int(data["sequence"]),
            ref(data),
            tuple(
                Field(each["path"], each.get("before", ABSENT), each.get("after", ABSENT), tuple(each.get("made", ())))
                for each in data.get("fields", ())
            ),
            int(data.get("order", 0)),
            tuple(Until(ref(each), each["value"], each["field"], each["condition"]) for each in data.get("until", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"ConfigMap {found['metadata'].get('namespace')}/{name} is no edit that can be undone: {error!r}") from error


# Fields by JSON pointer (RFC 6901). Members of lists are not fields of their own: a list is changed whole.


def _parts(path: str) -> list[str]:
    if not path.startswith("/") or path == "/":
        raise ValueError(f"{path!r} is no JSON pointer to a field")
    return [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def pointer(*parts: str) -> str:
    """pointer("metadata", "labels", "a/b"): /metadata/labels/a~1b"""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def read(obj: Object, path: str) -> Any:
    at: Any = obj
    for part in _parts(path):
        if not isinstance(at, dict) or part not in at:
            return ABSENT
        at = at[part]
    return at


def set_field(document: Object, path: str, value: Any) -> tuple[list[Object], tuple[str, ...]]:
    """Change the document; the JSON patch operations that do the same, and the parents that had to be made."""
    *parents, last = _parts(path)
    at, operations, made = document, list[Object](), list[str]()
    for depth, part in enumerate(parents):
        if at.get(part) is None:
            if value is ABSENT:
                return [], ()
            made.append(pointer(*parents[: depth + 1]))
            operations.append({"op": "add", "path": made[-1], "value": {}})
            at[part] = {}
        at = at[part]
        if not isinstance(at, dict):
            raise ClusterError(f"{path}: {part} is no mapping, and only fields of mappings can be edited")
    if value is not ABSENT:
        operations.append({"op": "replace" if last in at else "add", "path": path, "value": value})
        at[last] = copy.deepcopy(value)
    elif last in at:
        operations.append({"op": "remove", "path": path})
        del at[last]
    return operations, tuple(made)


def drop_empty(document: Object, made: Sequence[str]) -> list[Object]:
    """Parents that an edit made go again, unless somebody has put something else there."""
    operations = []
    for path in reversed(made):
        if read(document, path) == {}:
            operations += set_field(document, path, ABSENT)[0]
    return operations


def value_text(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value)
