"""Structural schemas: what fields a kind has. Custom kinds' are written in schemas/*.yaml, built-in kinds' come from builtin.py.

The notation of schemas/*.yaml. A document maps `Kind.group` to its fields, and `types` to those of named types:

    spec!: Spec                      a field that must be there, of a named type
    cores: int32                     string, boolean, integer, int32, int64, number, time, bytes, quantity, intOrString,
                                     object (no fields), anything (kept as it comes)
    disks: list of Disk              also: list of T as set, list of T by name (a map's keys: `by port and protocol`)
    labels: map of string
    custom: nullable TlsProfile
    domain: {name: string}           an object of its own
    phase: {$: string, enum: [A, B]} with constraints: enum, default, minimum, maximum, minLength, maxLength, maxItems, minItems, pattern
    ref: {$: object atomic, ...}     an object with marks: atomic (owned as one by server-side apply), open (unknown fields are kept)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import yamls
from .kinds import Kind

SCHEMAS_FOLDER = Path(__file__).with_name("schemas")
QUANTITY = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
MISSING: Any = object()  # "no default", where None could be one
SCALARS: dict[str, dict[str, Any]] = {
    "string": {"type": "string"}, "boolean": {"type": "boolean"}, "integer": {"type": "integer"}, "number": {"type": "number"},
    "int32": {"type": "integer", "format": "int32"}, "int64": {"type": "integer", "format": "int64"},
    "time": {"type": "string", "format": "date-time"}, "bytes": {"type": "string", "format": "byte"},
    "intOrString": {"type": "intOrString"}, "quantity": {"type": "intOrString", "format": "quantity", "pattern": QUANTITY},
    "object": {"type": "object", "fields": {}}, "anything": {"type": "any"}}
CONSTRAINTS = ("enum", "default", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "format")


class Node:
    """One value's schema. The graph may have cycles (built-in types refer to themselves).

    type: object, array, string, integer, number, boolean, intOrString, or any. An object has `fields`, or
    `values` (a map), or is `open` (unknown fields are kept). A list with `keys` is a map of its items by these.
    """

    __slots__ = ("atomic", "default", "description", "enum", "fields", "format", "has_defaults", "items", "keys", "list_type", "maxItems",
                 "maxLength",
                 "maximum", "minItems", "minLength", "minimum", "name", "nullable", "open", "pattern", "pattern_text", "required", "type",
                 "values")

    def __init__(self, type: str, **given: Any) -> None:
        self.type = type
        self.format: str = given.pop("format", "")
        self.fields: dict[str, Node] = given.pop("fields", {})
        self.values: Node | None = given.pop("values", None)
        self.items: Node | None = given.pop("items", None)
        self.required: tuple[str, ...] = given.pop("required", ())
        self.enum: list[Any] | None = given.pop("enum", None)
        self.default: Any = given.pop("default", MISSING)
        self.nullable: bool = given.pop("nullable", False)
        self.open: bool = given.pop("open", False)
        self.atomic: bool = given.pop("atomic", False)
        self.list_type: str = given.pop("list_type", "atomic")
        self.keys: tuple[str, ...] = given.pop("keys", ())
        self.description: str = given.pop("description", "")
        self.name: str = given.pop("name", "")  # of the shared type, if it is one
        self.pattern_text: str = given.pop("pattern", "")
        self.pattern = re.compile(self.pattern_text) if self.pattern_text else None
        self.has_defaults: bool | None = None  # found out when first asked for
        self.minimum: float | None = given.pop("minimum", None)
        self.maximum: float | None = given.pop("maximum", None)
        self.minLength: int | None = given.pop("minLength", None)
        self.maxLength: int | None = given.pop("maxLength", None)
        self.minItems: int | None = given.pop("minItems", None)
        self.maxItems: int | None = given.pop("maxItems", None)
        if given:
            raise ValueError(f"unknown words in a schema: {', '.join(given)}")

    def changed(self, **changes: Any) -> Node:
        """The same schema but for these; the parts are shared."""
        copy = Node.__new__(Node)
        for slot in Node.__slots__:
            setattr(copy, slot, changes.get(slot, getattr(self, slot)))
        copy.has_defaults = None
        return copy


class Notation:
    """Reads one schemas/*.yaml. ValueError names the type or text that is none."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._types: dict[str, Any] = document.pop("types", {})
        self._named: dict[str, Node] = {}
        self.kinds = {name: self.node(fields) for name, fields in document.items()}

    def node(self, what: Any) -> Node:
        if isinstance(what, str):
            return self._text(what)
        words = str(what.get("$", "object")).split()
        if words[0] != "object":
            constraints = {key: value for key, value in what.items() if key != "$"}
            unknown = set(constraints) - set(CONSTRAINTS)
            if unknown:
                raise ValueError(f"{what}: unknown constraints {sorted(unknown)}")
            if "pattern" in constraints:
                constraints["pattern_text"] = constraints["pattern"]
                constraints["pattern"] = re.compile(constraints["pattern"])
            return self._text(what["$"]).changed(**constraints)
        fields = {name.removesuffix("!"): self.node(type_) for name, type_ in what.items() if name != "$"}
        required = tuple(name[:-1] for name in what if name.endswith("!"))
        return Node("object", fields=fields, required=required, atomic="atomic" in words, open="open" in words)

    def _text(self, text: str) -> Node:
        if text.startswith("nullable "):
            return self._text(text.removeprefix("nullable ")).changed(nullable=True)
        if text.startswith("map of "):
            return Node("object", values=self._text(text.removeprefix("map of ")))
        if text.startswith("list of "):
            inner, _, keys = text.removeprefix("list of ").partition(" by ")
            is_set = inner.endswith(" as set")
            return Node("array", items=self._text(inner.removesuffix(" as set")), keys=tuple(keys.split(" and ")) if keys else (),
                        list_type="map" if keys else "set" if is_set else "atomic")
        if text in SCALARS:
            return Node(**SCALARS[text])
        if text not in self._types:
            raise ValueError(f"unknown type in a schema: {text!r}")
        if text not in self._named:
            self._named[text] = self.node(self._types[text])
            self._named[text].name = text
        return self._named[text]


@functools.cache
def custom_schemas() -> dict[str, Node]:
    """The schemas of the custom kinds by `Kind.group`: fields beside apiVersion, kind and metadata."""
    found: dict[str, Node] = {}
    for path in sorted(SCHEMAS_FOLDER.glob("*.yaml")):
        if path.stem not in ("kubernetes", "protobuf"):
            found.update(Notation(yamls.load(path.read_text(encoding="utf-8"))).kinds)
    return found


@functools.cache
def object_meta() -> Node:
    """metadata, of every kind."""
    return custom_schemas()["ObjectMeta.meta.k8s.io"].changed(name="ObjectMeta")


@functools.cache
def schema_of(kind: Kind) -> Node:
    """The whole object's schema; LookupError if the kind has none."""
    if kind.custom:
        name = f"{kind.kind}.{kind.group}"
        if name not in custom_schemas():
            raise LookupError(f"{name} has no schema in {SCHEMAS_FOLDER}")
        root = custom_schemas()[name]
    else:
        from .builtin import model_schema  # only here: the models take long to import

        root = model_schema(kind)
    fields = {"apiVersion": Node("string"), "kind": Node("string"), "metadata": object_meta(), **{name: node for name,
                                                                                                  node in root.fields.items()
                                                                                                  if name not in ("apiVersion", "kind",
                                                                                                                  "metadata")}}
    return root.changed(fields=fields, required=tuple(name for name in root.required if name not in ("apiVersion", "kind", "metadata")))


def any_node(node: Node, test: Callable[[Node], bool]) -> bool:
    """True if the test holds for the node or anything below it."""
    seen: set[int] = set()
    todo = [node]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if test(each):
            return True
        todo += [*each.fields.values(), *(n for n in (each.values, each.items) if n)]
    return False
