"""OpenAPI v2 (Swagger): what kubectl and oc before 1.28, and Helm, read before they create, apply or replace.

Go clients ask for it as protobuf, and take nothing else: the messages and numbers are those of gnostic's OpenAPIv2.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import orjson

Spec = dict[str, Any]
MEDIA = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
ACCEPTED = (MEDIA, MEDIA.replace("v2.v1", "v2@v1"))
DEFINITIONS, COMPONENTS = "#/definitions/", "#/components/schemas/"
METHODS = ("get", "put", "post", "delete", "patch")
# What a schema of version 2 cannot say.
NOT_IN_V2 = ("nullable", "oneOf", "anyOf", "not", "allOf")


def document(paths: Spec, schemas: Spec) -> Spec:
    """The Swagger document of what OpenAPI v3 documents say in `paths` and `components.schemas`."""
    return {"swagger": "2.0", "info": {"title": "Kubernetes", "version": "unversioned"}, "paths": {path: _path(item) for path, item in paths.items()},
            "definitions": {name: _schema(schema) for name, schema in sorted(schemas.items())}}


def _path(item: Spec) -> Spec:
    return {method: _operation(item[method]) for method in METHODS if method in item} | {"parameters": [_parameter(each) for each in item["parameters"]]}


def _parameter(parameter: Spec) -> Spec:
    return {**{key: value for key, value in parameter.items() if key != "schema"}, **parameter["schema"]}


def _operation(operation: Spec) -> Spec:
    found = {key: value for key, value in operation.items() if key not in ("requestBody", "parameters")}
    found["parameters"] = [_parameter(each) for each in operation["parameters"]]
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        found["consumes"] = list(content)
        found["parameters"].append({"name": "body", "in": "body", "required": True, "schema": _schema(next(iter(content.values()))["schema"])})
    return found


def _schema(schema: Spec) -> Spec:
    found = {key: value for key, value in schema.items() if key not in NOT_IN_V2}
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace(COMPONENTS, DEFINITIONS)}
    if "allOf" in schema:  # a reference with more said about it, which stands beside it here
        return found | _schema(schema["allOf"][0])
    if schema.get("format") == "int-or-string":
        found["type"] = "string"
    if schema.get("nullable") or schema.get("x-kubernetes-preserve-unknown-fields"):
        # Clients that check objects against this know neither: they must find nothing to check.
        return {key: value for key, value in found.items() if key not in ("properties", "items", "required", *(("type",) if schema.get("nullable") else ()))}
    if "properties" in schema:
        found["properties"] = {name: _schema(child) for name, child in schema["properties"].items()}
    if "items" in schema:
        found["items"] = _schema(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = _schema(schema["additionalProperties"])
    return found


# Protobuf: every function below gives the bytes of one message.

def encode(swagger: Spec) -> bytes:
    """A whole document."""
    return b"".join((
        _text(1, swagger["swagger"]), _bytes(2, _text(1, swagger["info"]["title"]) + _text(2, swagger["info"]["version"])),
        _bytes(8, _named(2, swagger["paths"], _encode_path)), _bytes(9, _named(1, swagger["definitions"], _encode_schema))))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _text(field: int, text: str | None) -> bytes:
    return _bytes(field, text.encode()) if text else b""


def _texts(field: int, texts: Iterable[str]) -> bytes:
    return b"".join(_bytes(field, text.encode()) for text in texts)


def _whole(field: int, number: int | None) -> bytes:
    return _varint(field << 3) + _varint(number) if number else b""


def _double(field: int, number: float | None) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", number) if number is not None else b""


def _any(field: int, value: Any) -> bytes:
    """An Any, whose text is YAML, which JSON is."""
    return _bytes(field, _bytes(2, orjson.dumps(value)))


def _named(field: int, items: Spec, encode_value: Callable[[Any], bytes]) -> bytes:
    """A map, which is a list of named values here."""
    return b"".join(_bytes(field, _text(1, name) + _bytes(2, encode_value(value))) for name, value in items.items())


def _extensions(field: int, item: Spec) -> bytes:
    return _named(field, {name: value for name, value in item.items() if name.startswith("x-")}, lambda value: _bytes(2, orjson.dumps(value)))


def _encode_path(item: Spec) -> bytes:
    numbers = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}
    return b"".join(_bytes(number, _encode_operation(item[method])) for method, number in numbers.items() if method in item) + _encode_parameters(9, item["parameters"])


def _encode_operation(operation: Spec) -> bytes:
    responses = {code: _bytes(1, _text(1, response["description"])) for code, response in operation["responses"].items()}
    return b"".join((_text(5, operation["operationId"]), _texts(7, operation.get("consumes", ())), _encode_parameters(8, operation["parameters"]),
                     _bytes(9, _named(1, responses, lambda response: response)), _extensions(13, operation)))


def _encode_parameters(field: int, parameters: list[Spec]) -> bytes:
    return b"".join(_bytes(field, _bytes(1, _encode_parameter(each))) for each in parameters)


def _encode_parameter(parameter: Spec) -> bytes:
    name, where, required = parameter["name"], parameter["in"], parameter.get("required", False)
    if where == "body":
        return _bytes(1, _text(2, name) + _text(3, where) + _whole(4, required) + _bytes(5, _encode_schema(parameter["schema"])))
    start = _whole(1, required) + _text(2, where) + _text(4, name)
    if where == "query":
        return _bytes(2, _bytes(3, start + _text(6, parameter["type"]) + _whole(20, parameter["uniqueItems"])))
    return _bytes(2, _bytes(4, start + _text(5, parameter["type"]) + _whole(18, parameter["uniqueItems"])))


def _encode_schema(schema: Spec) -> bytes:
    more = schema.get("additionalProperties")
    return b"".join((
        _text(1, schema.get("$ref")), _text(2, schema.get("format")), _text(4, schema.get("description")),
        _any(5, schema["default"]) if "default" in schema else b"",
        _double(7, schema.get("maximum")), _double(9, schema.get("minimum")), _whole(11, schema.get("maxLength")), _whole(12, schema.get("minLength")),
        _text(13, schema.get("pattern")), _whole(14, schema.get("maxItems")), _whole(15, schema.get("minItems")),
        _texts(19, schema.get("required", ())), *(_any(20, value) for value in schema.get("enum", ())),
        _bytes(21, _bytes(1, _encode_schema(more))) if isinstance(more, dict) else b"",
        _bytes(22, _texts(1, [schema["type"]])) if "type" in schema else b"",
        _bytes(23, _bytes(1, _encode_schema(schema["items"]))) if "items" in schema else b"",
        _bytes(25, _named(1, schema["properties"], _encode_schema)) if "properties" in schema else b"",
        _extensions(31, schema)))
