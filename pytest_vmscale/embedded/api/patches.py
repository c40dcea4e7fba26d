"""The four patches but apply: RFC 6902 (JSON), RFC 7386 (merge) and Kubernetes' strategic merge.

All return a new object; what was passed in is not changed.
"""

from __future__ import annotations

import copy
from typing import Any

import orjson

from . import errors
from .store import Object

Json = Any

# The lists of built-in kinds that a strategic merge joins, by the key that tells their members apart; "" marks
# a list of plain values that is a set. A field is looked up as `parent.field` first, then by its own name.
MERGE_KEYS = {
    "spec.ports": "port", "ports": "containerPort", "subsets.ports": None,
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "env": "name",
    "volumes": "name", "volumeMounts": "mountPath", "volumeDevices": "devicePath", "imagePullSecrets": "name",
    "secrets": "name", "hostAliases": "ip", "topologySpreadConstraints": "topologyKey", "resourceClaims": "name",
    "conditions": "type", "addresses": "type", "podIPs": "ip", "ownerReferences": "uid", "webhooks": "name",
    "finalizers": "", "metadata.finalizers": "", "podCIDRs": "",
}
DIRECTIVE, DELETE_VALUES, ORDER, RETAIN = "$patch", "$deleteFromPrimitiveList/", "$setElementOrder/", "$retainKeys"


# JSON patch.

def json_patch(obj: Object, operations: Json) -> Object:
    """400 if it is no patch, 422 if it cannot be applied (a failed test among that)."""
    if not isinstance(operations, list):
        raise errors.ApiError(400, f"error decoding patch: json: cannot unmarshal {_go_type(operations)} into Go value of type []handlers.jsonPatchOp")
    if len(operations) > 10_000:
        raise errors.ApiError(413, "The allowed maximum operations in a JSON patch is 10000, got " + str(len(operations)))
    document: Json = orjson.loads(orjson.dumps(obj))
    for operation in operations:
        if not isinstance(operation, dict):
            raise errors.ApiError(400, f"error decoding patch: json: cannot unmarshal {_go_type(operation)} into Go value of type handlers.jsonPatchOp")
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise errors.ApiError(422, "the server rejected our request due to an error in our request", details={}) from error
    if not isinstance(document, dict):
        raise errors.ApiError(422, "the server rejected our request due to an error in our request", details={})
    return document


def _operate(document: Json, operation: dict[str, Json]) -> Json:
    verb, path = operation["op"], _pointer(operation["path"])
    if verb == "test":
        if _read(document, path, missing=None) != operation.get("value"):
            raise ValueError("test failed")
        return document
    if verb in ("move", "copy"):
        source = _pointer(operation["from"])
        value = copy.deepcopy(_read(document, source))
        if verb == "move":
            document = _remove(document, source)
        return _add(document, path, value)
    if verb == "add":
        return _add(document, path, copy.deepcopy(operation["value"]))
    if verb == "remove":
        return _remove(document, path)
    if verb == "replace":
        return _replace(document, path, copy.deepcopy(operation["value"]))
    raise ValueError(verb)


def _pointer(text: Json) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise ValueError("a JSON pointer starts with a slash")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(part: str, length: int) -> int:
    index = int(part)
    if not -length <= index < length or (part != "0" and part.startswith("0")):
        raise IndexError(part)
    return index


_RAISE = object()


def _read(document: Json, path: list[str], missing: Json = _RAISE) -> Json:
    """`missing` stands for a last member that is not there; a missing parent is an error."""
    for depth, part in enumerate(path):
        if isinstance(document, list):
            document = document[_index(part, len(document))]
        elif part in document:
            document = document[part]
        elif missing is not _RAISE and depth == len(path) - 1:
            return missing
        else:
            raise KeyError(part)
    return document


def _parent(document: Json, path: list[str]) -> Json:
    parent = _read(document, path[:-1])
    if not isinstance(parent, dict | list):
        raise TypeError("a plain value has no members")
    return parent


def _add(document: Json, path: list[str], value: Json) -> Json:
    if not path:
        return value
    parent, last = _parent(document, path), path[-1]
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if not 0 <= index <= len(parent):
            raise IndexError(last)
        parent.insert(index, value)
    else:
        parent[last] = value
    return document


def _remove(document: Json, path: list[str]) -> Json:
    if not path:
        raise KeyError("the whole document")
    parent, last = _parent(document, path), path[-1]
    if isinstance(parent, list):
        del parent[_index(last, len(parent))]
    else:
        del parent[last]
    return document


def _replace(document: Json, path: list[str], value: Json) -> Json:
    if not path:
        return value
    parent, last = _parent(document, path), path[-1]
    if isinstance(parent, list):
        parent[_index(last, len(parent))] = value
    else:
        parent[last] = value  # the real server adds a member that is not there
    return document


def _go_type(value: Json) -> str:
    if isinstance(value, bool):
        return "bool"
    return {dict: "object", list: "array", str: "string", int: "number", float: "number"}.get(type(value), "null")


# Merge patch.

def merge_patch(obj: Object, patch: Json) -> Object:
    if not isinstance(patch, dict):
        raise errors.ApiError(400, f"error decoding patch: json: cannot unmarshal {_go_type(patch)} into Go value of type map[string]interface {{}}")
    merged: Object = _merge(obj, patch)
    return merged


def _merge(target: Json, patch: Json) -> Json:
    if isinstance(patch, list):  # replaced whole; but a real server drops the nulls of what is in it, too
        return [item if item is None else _merge(None, item) for item in patch]
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


# Strategic merge patch.

def strategic_patch(obj: Object, patch: Json) -> Object:
    """Lists merge by MERGE_KEYS. 400 for a directive that makes no sense."""
    if not isinstance(patch, dict):
        raise errors.ApiError(400, f"error decoding patch: json: cannot unmarshal {_go_type(patch)} into Go value of type map[string]interface {{}}")
    merged: Object = _strategic(obj, patch, "")
    return merged


def _merge_key(parent: str, name: str) -> str | None:
    full = f"{parent}.{name}"
    return MERGE_KEYS[full] if full in MERGE_KEYS else MERGE_KEYS.get(name)


def _strategic(target: Json, patch: dict[str, Json], parent: str) -> Json:
    directive = patch.get(DIRECTIVE)
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise errors.ApiError(400, f"Unknown patch type: {directive}")
    result = dict(target) if isinstance(target, dict) else {}
    if RETAIN in patch:
        kept = patch[RETAIN] if isinstance(patch[RETAIN], list) else []
        result = {key: value for key, value in result.items() if key in kept}
    for key, value in patch.items():
        if key in (DIRECTIVE, RETAIN) or key.startswith(ORDER):
            continue
        if key.startswith(DELETE_VALUES):
            name = key.removeprefix(DELETE_VALUES)
            if isinstance(value, list) and isinstance(result.get(name), list):
                result[name] = [item for item in result[name] if item not in value]
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _strategic(result.get(key), value, key)
        elif isinstance(value, list) and (merge_key := _merge_key(parent, key)) is not None:
            old, order = result.get(key) or [], patch.get(ORDER + key)
            joined = _join(old, value, merge_key, key)
            if isinstance(order, list):
                _check_order(value, order, merge_key)
                # The real server looks the places up in the old list's own memory: what was deleted there has made room for what is new.
                result[key] = _ordered(joined, order, joined[:len(old)], merge_key)
            else:
                result[key] = _ordered(joined, value, old, merge_key)
        else:
            result[key] = _plain(value)
    for key, order in patch.items():
        name = key.removeprefix(ORDER)
        if key.startswith(ORDER) and name not in patch and isinstance(order, list) and isinstance(result.get(name), list):
            result[name] = _ordered(result[name], order, result[name], _merge_key(parent, name) or "")
    return result


def _plain(value: Json) -> Json:
    """A list that is replaced as a whole; directives in it have no meaning left."""
    if isinstance(value, list):
        return [_plain(item) for item in value if not (isinstance(item, dict) and DIRECTIVE in item)]
    return copy.deepcopy(value)


def _join(target: Json, patch: list[Json], merge_key: str, name: str) -> list[Json]:
    if any(isinstance(item, dict) and item.get(DIRECTIVE) == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if not (isinstance(item, dict) and item.get(DIRECTIVE) == "replace" and len(item) == 1)]
    result = list(target) if isinstance(target, list) else []
    for item in patch:
        if not merge_key or not isinstance(item, dict):
            if item not in result:
                result.append(copy.deepcopy(item))
            continue
        if merge_key not in item:
            raise errors.ApiError(400, f"map: {go_value(item)} does not contain declared merge key: {merge_key}")
        place = next((i for i, old in enumerate(result) if isinstance(old, dict) and old.get(merge_key) == item[merge_key]), None)
        if item.get(DIRECTIVE) == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(_strategic({}, item, name))
        else:
            result[place] = _strategic(result[place], item, name)
    return result


def _identity(item: Json, merge_key: str) -> Json:
    return item.get(merge_key) if merge_key and isinstance(item, dict) else item


def _check_order(patch: list[Json], order: list[Json], merge_key: str) -> None:
    """What a patch sets must stand in it as it does in its $setElementOrder."""
    rest = iter([_identity(item, merge_key) for item in order])
    for item in patch:
        if not (isinstance(item, dict) and item.get(DIRECTIVE) == "delete") and _identity(item, merge_key) not in rest:
            raise errors.ApiError(500, f"The order in patch list:\n{go_value(patch)}\n doesn't match {ORDER.rstrip('/')} list:\n{go_value(order)}\n")


def _ordered(items: list[Json], order: list[Json], before: list[Json], merge_key: str) -> list[Json]:
    """A merged list's items: those that `order` names in its order, and among them the others, each before the first named
    one that it stood in front of in the list as it was `before`. So what is new comes in front of what the patch does not name."""
    wanted = [_identity(item, merge_key) for item in order]
    places = [_identity(item, merge_key) for item in before]
    named = sorted((item for item in items if _identity(item, merge_key) in wanted), key=lambda item: wanted.index(_identity(item, merge_key)))
    others = [item for item in items if _identity(item, merge_key) not in wanted]
    result: list[Json] = []
    while named and others:
        one, other = _identity(named[0], merge_key), _identity(others[0], merge_key)
        in_front = one in places and other in places and places.index(other) < places.index(one)
        result.append((others if in_front else named).pop(0))
    return [*result, *named, *others]


def go_value(value: Any) -> str:
    """As Go prints a decoded JSON value with %+v: map[a:1 b:[x y]]."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{go_value(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(go_value, value))}]"
    return "<nil>" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
