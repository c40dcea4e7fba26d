"""A kind is data: kinds/*.yaml says what is served, and nothing else needs to change to serve one more."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .. import yamls

KINDS_FOLDER = Path(__file__).with_name("kinds")


@dataclass(frozen=True)
class Column:
    """A printer column: a JSONPath into the object (custom resources and simple built-in kinds)."""

    name: str
    type: str
    json_path: str
    description: str = ""
    format: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Kind:
    """What the API server must know of a kind. Two kinds are the same if group, version and kind are."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = field(default=(), compare=False)
    categories: tuple[str, ...] = field(default=(), compare=False)
    status: bool = field(default=False, compare=False)  # has a status subresource
    scale: bool = field(default=False, compare=False)
    custom: bool = field(default=False, compare=False)  # served as a CustomResourceDefinition serves it
    aggregated: bool = field(default=False, compare=False)  # and there is none: another API server has it, as openshift-apiserver
    shows: str = field(default="", compare=False)  # of another kind: this one is the same objects under other names
    generation: bool = field(default=True, compare=False)  # built-in kinds without a spec have none
    also_served: tuple[str, ...] = field(default=(), compare=False)  # other versions of the same resource
    selectable_fields: tuple[str, ...] = field(default=(), compare=False)  # beside metadata.name and .namespace
    columns: tuple[Column, ...] = field(default=(), compare=False)
    subresources: tuple[dict[str, Any], ...] = field(default=(), compare=False)  # further ones, as discovery lists them

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> bytes:
        """What every stored object of the kind starts with."""
        return b'{"apiVersion":"%b","kind":"%b",' % (self.api_version.encode(), self.kind.encode())

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Kinds:
    """All kinds served, found by resource (group, plural), or by apiVersion and kind."""

    def __init__(self, kinds: list[Kind]) -> None:
        self.all = tuple(kinds)
        self._by_resource = {(k.group, version, k.plural): k for k in kinds for version in (k.version, *k.also_served)}
        self._by_kind = {(k.group, k.kind): k for k in kinds}

    def by_resource(self, group: str, version: str, plural: str) -> Kind | None:
        return self._by_resource.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Kind | None:
        """By apiVersion (`v1`, `apps/v1`; only the group counts) and kind."""
        return self._by_kind.get((api_version.rpartition("/")[0], kind))

    def __getitem__(self, name: str) -> Kind:
        """By `plural` or `plural.group`: kinds["pods"], kinds["virtualmachines.kubevirt.io"].
        A bare plural finds the core kind, or the only one of that plural."""
        plural, _, group = name.partition(".")
        found = [k for k in self.all if k.plural == plural and (not group or k.group == group)]
        exact = [k for k in found if k.group == group]
        if exact:
            return exact[0]
        if len(found) == 1:
            return found[0]
        raise KeyError(name)


def load_kinds(folder: Path = KINDS_FOLDER) -> Kinds:
    """Read every kinds/*.yaml: a mapping `group`, `version` and a list `kinds`."""
    kinds = []
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.load_all(path.read_text(encoding="utf-8"), yamls.LOADER):
            group, version = document.get("group", ""), document["version"]
            for entry in document["kinds"]:
                columns = tuple(Column(**column) for column in entry.pop("columns", ()))
                name = entry["kind"]
                lists: dict[str, Any] = {key: tuple(entry.pop(key)) for key in ("short_names", "categories", "also_served", "selectable_fields", "subresources") if key in entry}
                entry.setdefault("singular", name.lower())
                entry.setdefault("plural", name.lower() + "s")
                entry.setdefault("namespaced", True)
                entry.setdefault("custom", document.get("custom", False))
                entry.setdefault("aggregated", document.get("aggregated", False))
                kinds.append(Kind(group=group, version=version, columns=columns, **lists, **entry))
    return Kinds(kinds)
