"""The built-in kinds' schemas: read off the models of the `kubernetes` package at run time, a kind at a time, when first asked for.

schemas/kubernetes.yaml adds what the models lack: defaults, enums, list keys, quantities.
"""

from __future__ import annotations

import datetime
import functools
import re
import types
import typing
from typing import Any

from .. import yamls
from .kinds import Kind
from .schema import MISSING, QUANTITY, SCHEMAS_FOLDER, Node

VERSION_PREFIX = re.compile(r"^V\d+((alpha|beta)\d+)?(?=[A-Z])")
# Kinds whose model has another name than V1<Kind>: several groups have one of that name.
MODEL_NAMES = {"Event": "CoreV1Event", "Event.events.k8s.io": "EventsV1Event", "TokenRequest": "AuthenticationV1TokenRequest"}


@functools.cache
def _additions() -> dict[str, Any]:
    return dict(yamls.load((SCHEMAS_FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")))


def model_schema(kind: Kind) -> Node:
    """A stored built-in kind's schema; LookupError if the kubernetes package has no model of it."""
    name = f"{kind.kind}.{kind.group}"
    return named_schema(name if name in MODEL_NAMES else kind.kind)


def named_schema(name: str) -> Node:
    """By kind or type name: Pod, Eviction, DeleteOptions."""
    from kubernetes.client import models  # only here: it takes long to import

    model = getattr(models, MODEL_NAMES.get(name, f"V1{name}"), None)
    if model is None:
        raise LookupError(f"the kubernetes package has no model of {name}")
    return _object(model)


_built: dict[type, Node] = {}


def _object(model: Any) -> Node:
    if model in _built:
        return _built[model]
    name = VERSION_PREFIX.sub("", model.__name__)
    # Known before its fields are: types may refer to themselves.
    node = _built[model] = Node("object", name=name, description=re.split(r"\n\s*Attributes:", model.__doc__ or "")[0].strip())
    add = _additions()
    node.atomic = name in add["atomic_types"]
    not_required = add["not_required"].get(name, ())
    required = []
    for python_name, info in model.model_fields.items():
        field = info.serialization_alias or info.alias or python_name
        node.fields[field] = _added(name, field, _value(info.annotation), info.description or "")
        if info.is_required() and field not in not_required:
            required.append(field)
    node.required = tuple(required)
    return node


def _value(annotation: Any) -> Node:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _value(arguments[0])
    if origin in (typing.Union, types.UnionType):
        parts = [part for part in arguments if part is not type(None)]
        if len(parts) == 1:
            return _value(parts[0])
        plain = {_value(part).type for part in parts}
        if plain == {"string"}:
            return Node("string", format="byte")
        if plain == {"integer", "string"}:
            return Node("intOrString")
        return Node("number") if plain <= {"integer", "number"} else Node("any")
    if origin is list:
        return Node("array", items=_value(arguments[0]))
    if origin is dict:
        return Node("any") if arguments[1] is Any else Node("object", values=_value(arguments[1]))
    if hasattr(annotation, "model_fields"):
        return _object(annotation)
    scalars = {str: "string", bytes: "string", bool: "boolean", int: "integer", float: "number"}
    if annotation is datetime.datetime:
        return Node("string", format="date-time")
    return Node(scalars[annotation]) if annotation in scalars else Node("any")


def _added(type_name: str, field: str, node: Node, description: str) -> Node:
    add = _additions()
    changes: dict[str, Any] = {"description": description} if description else {}
    if field in add["quantities"].get(type_name, ()):
        quantity = Node("intOrString", format="quantity", pattern=QUANTITY)
        if node.values:
            changes["values"] = quantity
        else:
            node = quantity
    keys = add["lists"].get(type_name, {}).get(field)
    if keys:
        changes |= {"list_type": "map", "keys": tuple(keys.split())}
    if field in add["sets"].get(type_name, ()):
        changes["list_type"] = "set"
    if field in add["atomic_fields"].get(type_name, ()):
        changes["atomic"] = True
    if field in add["nullable"].get(type_name, ()):
        changes["nullable"] = True
    enum, default = add["enums"].get(type_name, {}).get(field), add["defaults"].get(type_name, {}).get(field, MISSING)
    if enum:
        changes["enum"] = enum
    if default is not MISSING:
        changes["default"] = default
    # A shared type keeps its identity (a cycle ends there) unless this field of it has something of its own.
    return node if node.name and not set(changes) - {"description"} else node.changed(**changes)
