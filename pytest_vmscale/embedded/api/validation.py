"""What the API server does to an object that a client sends: drop unknown fields, fill in defaults, say what is wrong.

Controllers' own writes skip this; only HTTP writes go through it.
"""

from __future__ import annotations

import base64
import binascii
import copy
import datetime
import re
from typing import Any

import orjson

from . import rules
from .errors import Cause, Undecodable
from .kinds import Kind, Kinds
from .quantities import canonical_quantity
from .schema import MISSING, Node, any_node, object_meta, schema_of
from .store import Object

TYPES: dict[str, tuple[type, ...]] = {"object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "integer": (int,),
                                      "number": (int, float), "intOrString": (int, str)}
NUMBERS = ("integer", "number", "intOrString")
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
BASE64 = re.compile("[A-Za-z0-9+/]*")
MICRO_TIMES = {"acquireTime", "renewTime", "eventTime", "lastObservedTime"}  # of leases and events; all other times are whole seconds


class Schemas:
    """By the kinds' schemas. All three methods work on the object in place, and cost well under a millisecond.

    `kinds` are read now (0.6 s: the models of the kubernetes package), so that no request has to wait for it.
    """

    def __init__(self, kinds: Kinds | None = None) -> None:
        for kind in kinds.all if kinds else ():
            schema_of(kind)

    def prune(self, kind: Kind, obj: Object) -> list[str]:
        """Drop what the schema does not know; returns the paths of it. A built-in kind is also read as Go would read it:
        nulls and empty maps go, and a value of the wrong type is ApiError 400 (of a custom kind it is a cause of validate)."""
        unknown: list[str] = []
        root = schema_of(kind)
        if kind.custom:
            if isinstance(obj.get("metadata"), dict):
                _decode(kind, object_meta(), obj["metadata"], "metadata", unknown, "ObjectMeta", keep_empty=True)
            for name in [name for name in obj if name != "metadata"]:
                if name not in root.fields:
                    unknown.append(name)
                    del obj[name]
                else:
                    _prune(root.fields[name], obj[name], name, unknown)
            return sorted(unknown)
        _decode(kind, root, obj, "", unknown, kind.kind)
        return unknown

    def default(self, kind: Kind, obj: Object) -> None:
        """Fill in what is missing and has a default."""
        if not kind.custom:
            rules.default_before(kind, obj)
        _default(schema_of(kind), obj)
        if not kind.custom:
            rules.default_after(kind, obj)

    def validate(self, kind: Kind, obj: Object, old: Object | None = None) -> list[Cause]:
        """What is wrong with the object (as an update of `old`, if that is given), worded as the real server words it.
        metadata is not looked at."""
        root = schema_of(kind)
        causes: list[Cause] = []
        for name, node in root.fields.items():
            # The real server checks little of a built-in kind's status, and neither does this.
            if name in obj and name != "metadata" and (kind.custom or name != "status"):
                _validate(node, obj[name], name, causes, kind.custom)
        causes += [Cause(name, "Required value", "FieldValueRequired") for name in root.required if _missing(obj, name, kind.custom)]
        if not kind.custom:
            causes = rules.also(kind, obj, causes) if causes else rules.causes(kind, obj, old)
        return causes


def _missing(value: Object, name: str, custom: bool) -> bool:
    """A custom kind's field must be there; a built-in kind's must not be empty either, as Go cannot tell the difference."""
    return name not in value if custom else value.get(name) in (None, "", [], {})


def _fits(type_: str, value: Any) -> bool:
    return isinstance(value, TYPES[type_]) and not (isinstance(value, bool) and type_ in NUMBERS)


# Pruning.

def _prune(node: Node, value: Any, path: str, unknown: list[str]) -> None:
    if isinstance(value, dict):
        if node.type != "object":
            return
        if node.values is not None:
            for key, item in value.items():
                _prune(node.values, item, f"{path}.{key}", unknown)
            return
        fields = node.fields
        strangers = []
        for key, item in value.items():
            child = fields.get(key)
            if child is None:
                strangers.append(key)
            elif item.__class__ is dict or item.__class__ is list:
                _prune(child, item, f"{path}.{key}", unknown)
        if strangers and not node.open:
            for key in strangers:
                unknown.append(f"{path}.{key}")
                del value[key]
    elif isinstance(value, list) and node.items is not None:
        for index, item in enumerate(value):
            _prune(node.items, item, f"{path}[{index}]", unknown)


# Reading as Go reads.

def _decode(kind: Kind, node: Node, value: Object, path: str, unknown: list[str], struct: str, *, keep_empty: bool = False) -> None:
    for key in list(value):
        child, item = node.fields.get(key), value[key]
        here = f"{path}.{key}" if path else key
        if child is None:
            if not node.open:
                unknown.append(here)
                del value[key]
        elif item is None:
            del value[key]
        else:
            value[key] = _read(kind, child, item, here, unknown, struct)
            if item in ({}, []) and not keep_empty and (child.type == "array" or child.values) and key not in node.required:
                del value[key]


def _read(kind: Kind, node: Node, value: Any, path: str, unknown: list[str], struct: str) -> Any:
    type_ = node.type
    if type_ == "any":
        return value
    if not _fits(type_, value) and not (node.format == "quantity" and isinstance(value, float)):
        place = re.sub(r"\[\d+\]", "", path)
        raise Undecodable(kind.kind, kind.version,
                          f"json: cannot unmarshal {_json_type(value)} into Go struct field {struct}.{place} of type {_go_type(node)}")
    if type_ == "object":
        if node.values is not None:
            for key, item in value.items():
                value[key] = _zero(node.values) if item is None else _read(kind, node.values, item, f"{path}.{key}", unknown, struct)
        else:
            _decode(kind, node, value, path, unknown, node.name or struct)
    elif type_ == "array" and node.items is not None:
        for index, item in enumerate(value):
            value[index] = _zero(node.items) if item is None else _read(kind, node.items, item, f"{path}[{index}]", unknown, struct)
    elif node.format == "quantity":
        try:
            return canonical_quantity(str(value))
        except ValueError as error:
            raise Undecodable(kind.kind, kind.version, str(error)) from error
    elif node.format == "byte":
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error:
            at = len(BASE64.match(value)[0])  # type: ignore[index]  # it matches everything
            raise Undecodable(kind.kind, kind.version, f"illegal base64 data at input byte {at}") from None
    elif node.format == "date-time":
        try:
            return _canonical_time(value, micro=path.rpartition(".")[2] in MICRO_TIMES)
        except ValueError:
            why = f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"'
            raise Undecodable(kind.kind, kind.version, why) from None
    return value


def _zero(node: Node) -> Any:
    """What Go makes of a null in a list or a map: the type's zero value."""
    if node.format == "quantity":
        return "0"
    return {"object": {}, "array": [], "boolean": False, "integer": 0, "number": 0, "string": "", "intOrString": 0}.get(node.type)


def _canonical_time(text: str, *, micro: bool) -> str:
    """The same moment as the server writes it: in UTC, in whole seconds or (micro) microseconds. ValueError if it is none."""
    if not DATE_TIME.fullmatch(text):
        raise ValueError(text)
    moment = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _json_type(value: Any) -> str:
    return {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}.get(type(value), "null")


def _go_type(node: Node) -> str:
    if node.type == "array" and node.items:
        return f"[]{_go_type(node.items)}"
    if node.type == "object":
        return f"map[string]{_go_type(node.values)}" if node.values else f"v1.{node.name}" if node.name else "struct"
    return {"boolean": "bool", "integer": "int32", "number": "float64", "intOrString": "intstr.IntOrString"}.get(node.type, "string")


# Defaults.

def _default(node: Node, value: Any) -> None:
    if node.has_defaults is None:
        node.has_defaults = any_node(node, lambda each: each.default is not MISSING)
    if not node.has_defaults:
        return
    if isinstance(value, dict):
        if node.values is not None:
            for item in value.values():
                _default(node.values, item)
            return
        for key, child in node.fields.items():
            if child.default is not MISSING and (key not in value or (value[key] is None and not child.nullable)):
                value[key] = copy.deepcopy(child.default)
            if key in value and child.has_defaults is not False:
                _default(child, value[key])
    elif isinstance(value, list) and node.items is not None:
        for item in value:
            _default(node.items, item)


# Validation.

def _validate(node: Node, value: Any, path: str, causes: list[Cause], custom: bool) -> None:
    type_ = node.type
    if type_ == "any":
        return
    if value is None and node.nullable:
        return
    if not _fits(type_, value):
        if type_ == "integer" and isinstance(value, float) and value.is_integer():
            return
        causes.append(_wrong_type(path, type_, value))
        return
    if type_ == "object":
        if node.values is not None:
            for key, item in value.items():
                _validate(node.values, item, f"{path}.{key}", causes, custom)
            return
        fields = node.fields
        for key, item in value.items():
            child = fields.get(key)
            if child is not None:
                _validate(child, item, f"{path}.{key}", causes, custom)
        for key in node.required:
            if _missing(value, key, custom):
                causes.append(Cause(f"{path}.{key}", "Required value", "FieldValueRequired"))
    elif type_ == "array":
        if node.items is not None:
            for index, item in enumerate(value):
                _validate(node.items, item, f"{path}[{index}]", causes, custom)
        _validate_list(node, value, path, causes)
    else:
        _validate_scalar(node, value, path, causes)


def _wrong_type(path: str, type_: str, value: Any) -> Cause:
    got = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}.get(type(value), "null")
    wanted = "integer,string" if type_ == "intOrString" else type_
    return Cause(path, f'Invalid value: "{got}": {path} in body must be of type {wanted}: "{got}"', "FieldValueTypeInvalid")


def _validate_list(node: Node, value: list[Any], path: str, causes: list[Cause]) -> None:
    if node.maxItems is not None and len(value) > node.maxItems:
        causes.append(Cause(path, f"Too many: {len(value)}: must have at most {node.maxItems} items", "FieldValueTooMany"))
    if node.minItems is not None and len(value) < node.minItems:
        causes.append(Cause(path, f"Invalid value: {len(value)}: {path} in body should have at least {node.minItems} items"))
    if node.list_type == "atomic" or len(value) < 2:
        return
    seen = set()
    for index, item in enumerate(value):
        identity = {key: item[key] for key in node.keys if key in item} if node.keys and isinstance(item, dict) else item
        text = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS).decode()
        if text in seen:
            causes.append(Cause(f"{path}[{index}]", f"Duplicate value: {text}", "FieldValueDuplicate"))
        seen.add(text)


def _validate_scalar(node: Node, value: Any, path: str, causes: list[Cause]) -> None:
    if node.enum is not None and value not in node.enum:
        supported = ", ".join(f'"{each}"' for each in node.enum)
        causes.append(Cause(path, f"Unsupported value: {orjson.dumps(value).decode()}: supported values: {supported}",
                            "FieldValueNotSupported"))
    if isinstance(value, str):
        _validate_text(node, value, path, causes)
        return
    if node.minimum is not None and value < node.minimum:
        causes.append(Cause(path, f"Invalid value: {value}: {path} in body should be greater than or equal to {node.minimum}"))
    if node.maximum is not None and value > node.maximum:
        causes.append(Cause(path, f"Invalid value: {value}: {path} in body should be less than or equal to {node.maximum}"))


def _validate_text(node: Node, value: str, path: str, causes: list[Cause]) -> None:
    quoted = orjson.dumps(value).decode()
    if node.maxLength is not None and len(value) > node.maxLength:
        causes.append(Cause(path, f"Too long: may not be more than {node.maxLength} bytes", "FieldValueTooLong"))
    if node.minLength is not None and len(value) < node.minLength:
        causes.append(Cause(path, f"Invalid value: {quoted}: {path} in body should be at least {node.minLength} chars long"))
    if node.pattern is not None and not node.pattern.search(value):
        causes.append(Cause(path, f"Invalid value: {quoted}: {path} in body should match '{node.pattern_text}'"))
    if node.format == "date-time" and not DATE_TIME.fullmatch(value):
        causes.append(Cause(path, f"Invalid value: {quoted}: {path} in body must be of type date-time: {quoted}", "FieldValueTypeInvalid"))
