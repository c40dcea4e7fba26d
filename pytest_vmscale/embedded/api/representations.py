"""What goes in and out over HTTP: which form of an answer a client accepts, and how a body is read."""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson
import yaml
from aiohttp import web

from .. import yamls
from . import errors, protobuf
from .store import Object

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
BODY_TYPES = (JSON, YAML, PROTOBUF)
LIMIT_BYTES = 3 * 2**20  # as the real server's --max-resource-write-bytes
SUMMARY_LETTERS = 30


class Form(enum.Enum):
    """The forms in which an answer can be had."""

    OBJECT = "object"
    TABLE = "Table"
    PARTIAL = "PartialObjectMetadata"


@lru_cache(maxsize=256)
def accepted(header: str) -> tuple[Form, str]:
    """The form and media type (JSON or YAML) of the first alternative of an Accept header that we can serve;
    ApiError 406 if there is none."""
    if not header:
        return Form.OBJECT, JSON
    for alternative in header.split(","):
        media, *parameters = (part.strip() for part in alternative.split(";"))
        options = dict(part.split("=", 1) for part in parameters if "=" in part)
        if media not in (JSON, YAML, "text/yaml", "*/*", "application/*"):
            continue
        kind = options.get("as", "")
        if kind and options.get("g", "meta.k8s.io") != "meta.k8s.io":
            continue
        form = {"": Form.OBJECT, "Table": Form.TABLE, "PartialObjectMetadata": Form.PARTIAL, "PartialObjectMetadataList": Form.PARTIAL}.get(kind)
        if form:
            return form, YAML if media.endswith("yaml") else JSON
    raise errors.ApiError(406, f"only the following media types are accepted: {', '.join(BODY_TYPES)}")


def media_type(request: web.Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def read_body(request: web.Request) -> bytes:
    body = await request.read()
    if len(body) > LIMIT_BYTES:
        raise errors.ApiError(413, f"Request entity too large: limit is {LIMIT_BYTES}")
    return body


async def read_object(request: web.Request, expected: str) -> Object:
    """The request's body as an object, whichever of BODY_TYPES it is in; `expected` names its kind in errors."""
    return parse_object(await read_body(request), media_type(request) or JSON, expected)


def parse_object(body: bytes, media: str, expected: str) -> Object:
    """ApiError 400 for what is no object, 415 for another media type."""
    if media == PROTOBUF:
        return protobuf.decode(body)
    if media not in (JSON, YAML, "text/yaml"):
        raise errors.ApiError(415, f"the body of the request was in an unknown format - accepted media types include: {', '.join(BODY_TYPES)}")
    try:
        obj = parse_json(body) if media == JSON else parse_yaml(body)
    except ValueError as error:
        what = "json" if media == JSON else "yaml"
        raise errors.ApiError(400, f"the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; {what} parse error: {error} ({summary(body)})") from error
    if not isinstance(obj, dict):
        raise errors.ApiError(400, f"the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; json parse error: "
                                   f"json: cannot unmarshal {go_type(obj)} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }} ({summary(body)})")
    for key in ("apiVersion", "kind"):
        if not isinstance(obj.get(key) or "", str):
            raise errors.ApiError(400, f"the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; json parse error: "
                                       f"json: cannot unmarshal {go_type(obj[key])} into Go struct field .{key} of type string ({summary(body)})")
    if not isinstance(obj.get("metadata") or {}, dict):
        raise errors.ApiError(400, f"{obj.get('kind') or expected} in version \"{str(obj.get('apiVersion', '')).rpartition('/')[2]}\" cannot be handled as a {expected}: json: cannot unmarshal "
                                   f"{go_type(obj['metadata'])} into Go struct field .metadata of type v1.ObjectMeta")
    return obj


def parse_json(body: bytes) -> Any:
    """ValueError worded as Go's decoder words it."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    text = body.decode("utf-8", "replace")
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(_go_json_error(text, error)) from error
    except RecursionError as error:
        raise ValueError("exceeded max depth") from error
    raise ValueError("invalid value")  # what only the stricter decoder refuses: NaN, Infinity, lone surrogates


class _Doubled(dict[str, Any]):
    """An object that was given some of its fields twice."""

    doubled: tuple[str, ...] = ()


def duplicate_fields(body: bytes) -> list[str]:
    """The paths of what a JSON body says more than once; the last one counts. Nothing for a body that is no JSON."""
    any_doubled = False

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal any_doubled
        obj = dict(found)
        if len(obj) == len(found):
            return obj
        any_doubled = True
        names = [name for name, _ in found]
        twice = _Doubled(obj)
        twice.doubled = tuple(name for name in obj if names.count(name) > 1)
        return twice

    try:
        tree = json.loads(body, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return []
    return list(_doubled(tree, "")) if any_doubled else []


def _doubled(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Doubled):
        yield from (f"{path}{name}" for name in value.doubled)
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _doubled(each, f"{path}{name}.")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _doubled(each, f"{path[:-1]}[{index}].")


def _go_json_error(text: str, error: json.JSONDecodeError) -> str:
    position = error.pos
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    if position >= len(text) or error.msg.startswith("Unterminated"):
        return "unexpected end of JSON input"
    where = {
        "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
        "Expecting value": "looking for beginning of value",
        "Expecting ':' delimiter": "after object key",
        "Extra data": "after top-level value",
        "Illegal trailing comma before end of object": "looking for beginning of object key string",
        "Illegal trailing comma before end of array": "looking for beginning of value",
    }.get(error.msg)
    if error.msg == "Expecting ',' delimiter":
        where = "after array element" if text.rfind("[", 0, position) > text.rfind("{", 0, position) else "after object key:value pair"
    return f"invalid character '{text[position]}' {where or 'in string literal'}"


class _Loader(yamls.LOADER):  # type: ignore[misc]
    """YAML as Go's package reads it for JSON: y and n are booleans too, 1e3 is a number, 1:30 and dates are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}


TAG = "tag:yaml.org,2002:"
for _tag, _pattern, _starts in (
    ("bool", r"y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF", "yYtToOnNfF"),
    ("int", r"[-+]?(0[bB][01_]+|0[oO]?[0-7_]*|0[xX][0-9a-fA-F_]+|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(TAG + _tag, re.compile(f"^(?:{_pattern})$"), list(_starts))


def _integer(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    sign, digits = (-1 if text[0] == "-" else 1), text.lstrip("+-")
    return sign * (int(digits, 8) if digits.isdigit() and digits[0] == "0" else int(digits, 0))


def _boolean(loader: Any, node: Any) -> bool:
    return loader.construct_scalar(node).lower() in ("y", "yes", "true", "on")


def _number(loader: Any, node: Any) -> float | int:
    number = float(loader.construct_scalar(node))
    return int(number) if number.is_integer() else number


def _bytes(loader: Any, node: Any) -> str:
    return bytes(loader.construct_yaml_binary(node)).decode()


for _tag, _construct in (("int", _integer), ("bool", _boolean), ("float", _number), ("binary", _bytes)):
    _Loader.add_constructor(TAG + _tag, _construct)


def parse_yaml(body: bytes) -> Any:
    """The first document, as JSON would have it. ValueError if it cannot be."""
    try:
        loader = _Loader(body)
        try:
            value = loader.get_data() if loader.check_data() else None
        finally:
            loader.dispose()
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
    except (yaml.YAMLError, UnicodeDecodeError, orjson.JSONEncodeError, RecursionError) as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def summary(body: bytes) -> str:
    """The start of a body, as errors quote it."""
    text = body.decode("utf-8", "replace")
    return text if len(text) <= SUMMARY_LETTERS else text[:SUMMARY_LETTERS] + " ..."


def go_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float) and not math.isfinite(value):
        return "number"
    return {dict: "object", list: "array", str: "string", int: "number", float: "number"}.get(type(value), "null")


def answer(body: bytes, code: int = 200, *, media: str = JSON, warnings: list[str] | None = None, headers: dict[str, str] | None = None) -> web.Response:
    """A finished answer; `body` is JSON and becomes YAML if that was asked for."""
    if media == YAML:
        body = yaml.dump(orjson.loads(body), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=True).encode()
    response = web.Response(body=body, status=code, content_type=media, headers=headers)
    for text in warnings or ():
        response.headers.add("Warning", '299 - "' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return response


def answer_object(obj: Object, code: int = 200, **more: Any) -> web.Response:
    return answer(orjson.dumps(obj), code, **more)
