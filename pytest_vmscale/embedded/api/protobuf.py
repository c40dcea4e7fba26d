"""Requests in protobuf, which kubectl 1.32 and newer send for built-in kinds. Answers are JSON.

A body is `k8s` and a zero byte, then a runtime.Unknown: apiVersion and kind, and the object's own message.
schemas/protobuf.yaml has the messages' field numbers.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from .. import yamls
from .errors import ApiError
from .schema import SCHEMAS_FOLDER
from .store import Object

MAGIC = b"k8s\0"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
ANY_GROUP = ("DeleteOptions",)  # sent as of any group


@dataclass(frozen=True)
class Field:
    name: str
    type: str
    repeated: bool
    map: bool
    pointer: bool
    inline: bool


Messages = dict[str, dict[int, Field]]


@functools.cache
def _table() -> tuple[dict[tuple[str, str], str], Messages]:
    """Message names by (group, kind), and the messages' fields by number."""
    document = yamls.load((SCHEMAS_FOLDER / "protobuf.yaml").read_text(encoding="utf-8"))
    kinds = {(group, kind): document["names"].get(f"{kind}.{group}", document["names"].get(kind, kind)) for group, names in document["kinds"].items() for kind in names}
    messages: Messages = {}
    for message, fields in document["messages"].items():
        messages[message] = {}
        for name, text in fields.items():
            number, type_ = text.split(" ", 1)
            inner = type_.removeprefix("list of ").removeprefix("map of ").rstrip("*")
            messages[message][int(number)] = Field(name, inner, type_.startswith("list of "), type_.startswith("map of "), type_.endswith("*"),
                                                   name.startswith("_"))
    return kinds, messages


def decode(body: bytes) -> Object:
    """The object in a request's body. ApiError 400 if it is no protobuf of Kubernetes, or has a kind or field that is not known here."""
    if not body.startswith(MAGIC):
        raise ApiError(400, f"provided data does not appear to be a protobuf message, expected prefix {list(MAGIC)}".replace(",", ""))
    try:
        outer = dict(_fields(body[len(MAGIC):]))
        meta = {number: value.decode() for number, value in _fields(outer.get(1, b""))}
        api_version, kind = meta.get(1, ""), meta.get(2, "")
        kinds, _ = _table()
        message = kind if kind in ANY_GROUP else kinds.get((api_version.rpartition("/")[0], kind))
        if message is None:
            raise ApiError(400, f'no kind "{kind}" is registered for version "{api_version}" in what this server reads as protobuf')
        return {"apiVersion": api_version, "kind": kind, **_message(message, outer.get(2, b""), kind)}
    except (IndexError, ValueError, AttributeError, TypeError) as error:
        raise ApiError(400, f"the body of the request is no valid protobuf message: {error}") from error


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and raw values: int of varints and fixed ones, bytes of the rest."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == VARINT:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        if wire == BYTES:
            length, position = _varint(data, position)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > len(data):
            raise ValueError(f"{length} bytes announced at byte {position}, {len(data) - position} left")
        chunk = data[position:position + length]
        yield tag >> 3, chunk if wire == BYTES else int.from_bytes(chunk, "little")
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position
        if shift > 63:
            raise ValueError(f"a number longer than ten bytes at byte {position}")


def _message(name: str, data: bytes, path: str) -> Object:
    fields = _table()[1][name]
    found: Object = {}
    for number, raw in _fields(data):
        field = fields.get(number)
        if field is None:
            raise ApiError(400, f"unknown field {number} of message {name} at {path}: newer than what this server knows")
        here = f"{path}.{field.name}"
        if field.inline:
            found.update(_message(field.type, raw, path))
        elif field.map:
            entry = dict(_fields(raw))
            found.setdefault(field.name, {})[entry.get(1, b"").decode()] = _value(field.type, entry.get(2, b""), here)
        elif field.repeated:
            found.setdefault(field.name, []).append(_value(field.type, raw, here))
        else:
            value = _value(field.type, raw, here)
            if field.pointer or value not in (None, "", 0, False, {}, []) or (value == {} and field.type not in _table()[1]):
                found[field.name] = value
    return found


def _value(type_: str, raw: Any, path: str) -> Any:
    if type_ == "string":
        return raw.decode()
    if type_ == "int":
        return raw - (1 << 64) if raw >> 63 else raw
    if type_ == "bool":
        return bool(raw)
    if type_ == "bytes":
        return base64.b64encode(raw).decode()
    if type_ in ("time", "microtime"):
        return _time(dict(_fields(raw)), micro=type_ == "microtime") if raw else None
    if type_ == "quantity":
        return dict(_fields(raw)).get(1, b"0").decode()
    if type_ == "intOrString":
        parts = dict(_fields(raw))
        return parts.get(3, b"").decode() if parts.get(1, 0) else _value("int", parts.get(2, 0), path)
    if type_ == "raw":
        text = dict(_fields(raw)).get(1, b"")
        return orjson.loads(text) if text else None
    if type_ == "items":
        return [item.decode() for _, item in _fields(raw)]
    return _message(type_, raw, path)


def _time(parts: dict[int, int], *, micro: bool) -> str:
    moment = datetime.fromtimestamp(_value("int", parts.get(1, 0), ""), UTC).replace(microsecond=parts.get(2, 0) // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
