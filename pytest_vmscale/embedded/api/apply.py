"""Server-side apply, and whose field is whose: metadata.managedFields.

A set of fields is a set of paths. A path is a tuple of elements as fieldsV1 writes them: f:NAME, k:{"KEY":VALUE} (an item of a
list that is a map), v:VALUE (an item of a list that is a set). An atomic value is one field, whatever is in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from . import errors
from .errors import Cause
from .kinds import Kind
from .metadata import ANNOTATIONS_BYTES
from .schema import MISSING, Node, schema_of
from .store import Object

Path = tuple[str, ...]
Fields = frozenset[Path]

APPLY, UPDATE = "Apply", "Update"
FIRST_MANAGER = "before-first-apply"  # owns what was there before anybody kept account
KUBECTL = "kubectl"  # the manager of its server-side apply
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
CONTAINER: Any = object()  # the value of what only holds other fields
# What belongs to nobody.
UNOWNED = {("f:apiVersion",), ("f:kind",), ("f:metadata",), *(("f:metadata", f"f:{name}") for name in (
    "name", "namespace", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "uid", "generation",
    "managedFields", "resourceVersion"))}
STATUS = "f:status"


@dataclass(frozen=True)
class Owner:
    """One entry of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    fields: Fields

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.manager, self.operation, self.api_version, self.subresource

    @property
    def words(self) -> str:
        """How conflicts name it."""
        text = f'"{self.manager}"' + (f' with subresource "{self.subresource}"' if self.subresource else "")
        return text if self.operation == APPLY else f"{text} using {self.api_version}" + (f" at {self.time}" if self.time else "")

    def owning(self, fields: Fields, now: str) -> Owner:
        return Owner(*self.key, now, fields)

    def to_dict(self) -> Object:
        return {"manager": self.manager, "operation": self.operation, "apiVersion": self.api_version, "time": self.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": tree(self.fields), **({"subresource": self.subresource} if self.subresource else {})}


def apply(kind: Kind, live: Object | None, applied: Object, manager: str, force: bool, now: str, subresource: str = "") -> Object:
    """The object as it is after `manager` applied this configuration to `live` (None: it creates it). `now` is an RFC 3339 timestamp.

    What the manager applied last time and does not now goes, unless somebody else owns it too. ApiError 409 (unless
    `force`) if it would change what somebody else owns. An apply that changes nothing returns an object equal to `live`.
    """
    node = schema_of(kind)
    wanted = _part(kind, applied, subresource)
    before: Object = copy.deepcopy(live) if live is not None else {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}}
    owners = _owners(before)
    if live is not None and not owners:
        everything = _owned(kind, frozenset(flatten(node, before)), "")
        owners = [Owner(FIRST_MANAGER, UPDATE, kind.api_version, "", now, everything)]
    mine = next((o for o in owners if o.key == (manager, APPLY, kind.api_version, subresource)), None)
    others = [owner for owner in owners if owner is not mine]

    new: Object = merge(node, before, wanted)
    fields = _owned(kind, field_set(node, wanted), subresource)
    held = frozenset().union(*(owner.fields for owner in others))
    if mine is not None:
        _remove_fields(node, new, mine.fields - fields - held, held | fields)
    changed, removed = _differences(node, before, new)
    changed, removed = _owned(kind, changed, subresource), _owned(kind, removed, subresource)
    conflicts = [(owner, owner.fields & changed) for owner in others if owner.fields & changed]
    if conflicts and not force:
        allowed = _last_applied(kind, node, before) if manager == KUBECTL else frozenset()
        refused = [(owner, fields - allowed) for owner, fields in conflicts if fields - allowed]
        if refused:
            raise _conflict(refused)
    kept = [_without(owner, changed | removed) for owner in others]
    # An empty map of metadata is owned and never stored: it is no change, however often it is applied.
    real = {path for path in changed if path[0] != "f:metadata" or len(path) != 2 or new["metadata"].get(path[1][2:]) != {}}
    touched = live is None or bool(real or removed) or mine is None or mine.fields != fields
    me = Owner(manager, APPLY, kind.api_version, subresource, now, fields) if touched or mine is None else mine
    _write_owners(new, [*(owner for owner in kept if owner.fields), me])
    return new


def _last_applied(kind: Kind, node: Node, live: Object) -> Fields:
    """The fields that kubectl's client-side apply set and that still are as it set them: its server-side apply takes them over."""
    try:
        last = orjson.loads(live["metadata"].get("annotations", {}).get(LAST_APPLIED, ""))
    except orjson.JSONDecodeError:
        return frozenset()
    if not isinstance(last, dict) or last.get("apiVersion") != live.get("apiVersion"):
        return frozenset()
    changed, _ = _differences(node, live, _part(kind, last, ""))
    return frozenset(flatten(node, last)) - changed


def renew_last_applied(obj: Object, applied: Object) -> None:
    """Where kubectl's client-side apply left its annotation, its server-side apply keeps that true, so that the way back is open."""
    annotations: dict[str, str] = obj["metadata"].get("annotations") or {}
    if not annotations.get(LAST_APPLIED):
        return
    (applied.get("metadata", {}).get("annotations") or {}).pop(LAST_APPLIED, None)
    text = orjson.dumps(applied, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    for character in "<>&":  # as Go escapes them
        text = text.replace(character, f"\\u{ord(character):04x}")
    annotations[LAST_APPLIED] = text
    if sum(len(key) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS_BYTES:
        del annotations[LAST_APPLIED]
        if not annotations:
            del obj["metadata"]["annotations"]


def track_update(kind: Kind, old: Object | None, new: Object, manager: str, operation: str, now: str, subresource: str = "") -> None:
    """Set managedFields in `new`, which `manager` wrote in place of `old`: it owns what it changed, and others no longer do.
    managedFields given as [] or [{}] in `new` clear the account, as on a real server, and others that can be read stand for the old ones
    (a move from client-side to server-side apply rewrites them)."""
    if old is not None and new["metadata"].get("managedFields") in ([], [{}]):
        del new["metadata"]["managedFields"]
        return
    node = schema_of(kind)
    owners = _given_owners(new) if old is not None and not subresource else []
    owners = owners or _owners(old or {"metadata": {}})
    changed, removed = _differences(node, old or {}, new)
    changed, removed = _owned(kind, changed, subresource), _owned(kind, removed, subresource)
    if changed or removed:
        key = (manager, operation, kind.api_version, subresource)
        mine = next((o for o in owners if o.key == key), Owner(*key, now, frozenset()))
        fields = (mine.fields | changed) - removed
        owners = [_without(owner, changed | removed) for owner in owners if owner.key != key]
        owners.append(mine.owning(fields, now))
    _write_owners(new, [owner for owner in owners if owner.fields])


# Sets of fields.

def flatten(node: Node, value: Any) -> dict[Path, Any]:
    """Every field of a value with what it holds: an atomic field its value, any other CONTAINER."""
    found: dict[Path, Any] = {}
    _flatten(node, value, (), found)
    found.pop((), None)
    return found


def _flatten(node: Node, value: Any, path: Path, found: dict[Path, Any]) -> None:
    parts = _parts(node, value)
    if parts is None:
        found[path] = value
        return
    found[path] = CONTAINER
    for element, child, item in parts:
        _flatten(child, item, (*path, element), found)


def field_set(node: Node, value: Any) -> Fields:
    """The fields that a configuration sets: leaves, items of lists, and empty containers."""
    everything = flatten(node, value)
    parents = {path[:-1] for path in everything}
    return frozenset(path for path, held in everything.items() if held is not CONTAINER or path not in parents or path[-1][0] == "k")


def _parts(node: Node, value: Any) -> list[tuple[str, Node, Any]] | None:
    """What is in a value: element, schema and value of each part; None for an atomic one."""
    if isinstance(value, dict) and node.type == "object" and not node.atomic:
        anything = Node("any") if node.open else None
        return [(f"f:{key}", child, item) for key, item in value.items()
                if (child := node.values or node.fields.get(key) or anything) is not None]
    if isinstance(value, dict) and node.type == "any":  # what the schema leaves open is still a map, field by field
        return [(f"f:{key}", node, item) for key, item in value.items()]
    if isinstance(value, list) and node.items is not None and node.list_type == "map":
        return [(_key_element(node, item), node.items, item) for item in value]
    if isinstance(value, list) and node.items is not None and node.list_type == "set":
        return [("v:" + _json(item), Node("any", atomic=True), item) for item in value]
    return None


def _key_element(node: Node, item: Any) -> str:
    """An item's name in a list that is a map; a key that is not given has its default."""
    assert node.items is not None
    found = {}
    for key in sorted(node.keys):
        default = node.items.fields[key].default if key in node.items.fields else MISSING
        if isinstance(item, dict) and (key in item or default is not MISSING):
            found[key] = item.get(key, default)
    return "k:" + _json(found)


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _differences(node: Node, old: Object, new: Object) -> tuple[Fields, Fields]:
    """The fields that `new` adds or changes, and those that it lacks."""
    before, after = flatten(node, old), flatten(node, new)
    changed = frozenset(path for path, value in after.items() if path not in before or not _same(before[path], value))
    return changed, frozenset(before.keys() - after.keys())


def _same(one: Any, other: Any) -> bool:
    return one is other if CONTAINER in (one, other) else bool(one == other)


def _owned(kind: Kind, fields: Fields, subresource: str) -> Fields:
    """Those that a request on this (sub)resource can own: status belongs to its subresource, where there is one."""
    if subresource == "status":
        return frozenset(path for path in fields if path[0] == STATUS)
    return frozenset(path for path in fields if path not in UNOWNED and path[:2] not in UNOWNED and not (kind.status and path[0] == STATUS))


def _part(kind: Kind, obj: Object, subresource: str) -> Object:
    """What of an applied object counts."""
    if subresource == "status":
        return {"status": obj["status"]} if "status" in obj else {}
    return {key: value for key, value in obj.items() if not (kind.status and key == "status")}


def tree(fields: Fields) -> Object:
    """As fieldsV1 writes a set: nested, with "." where a field is owned that has others below it."""
    root: Object = {}
    for path in sorted(fields):  # a field comes before what is below it
        place = root
        for element in path:
            place = place.setdefault(element, {})
        place["."] = {}
    _drop_dots(root)
    return root


def _drop_dots(place: Object) -> None:
    for child in place.values():
        if set(child) == {"."}:
            child.clear()
        else:
            _drop_dots(child)


def paths(fields: Object) -> Fields:
    """A fieldsV1 tree's set."""
    def walk(place: Object, path: Path) -> Iterator[Path]:
        for element, child in place.items():
            if element == ".":
                yield path
            elif not child:
                yield (*path, element)
            else:
                yield from walk(child, (*path, element))

    return frozenset(walk(fields, ()))


# Owners.

def _owners(obj: Object) -> list[Owner]:
    found = []
    for entry in obj["metadata"].get("managedFields") or ():
        if entry.get("manager"):
            found.append(Owner(entry["manager"], entry.get("operation", UPDATE), entry.get("apiVersion", ""), entry.get("subresource", ""),
                               entry.get("time") or "", paths(entry.get("fieldsV1") or {})))
    return found


def _given_owners(obj: Object) -> list[Owner]:
    """What a client wrote as managedFields; nothing if that cannot be read."""
    try:
        found = _owners(obj)
        tree(frozenset().union(*(owner.fields for owner in found)))
        return found
    except (AttributeError, TypeError, ValueError):
        return []


def _write_owners(obj: Object, owners: list[Owner]) -> None:
    """Appliers first, then by time, as the real server sorts them."""
    obj["metadata"].pop("managedFields", None)
    if owners:
        obj["metadata"]["managedFields"] = [owner.to_dict() for owner in sorted(owners, key=lambda o: (o.operation, o.time, o.manager,
                                                                                                       o.subresource))]


def _without(owner: Owner, lost: Fields) -> Owner:
    return owner.owning(owner.fields - lost, owner.time) if owner.fields & lost else owner


def _conflict(conflicts: list[tuple[Owner, Fields]]) -> errors.ApiError:
    count = sum(len(fields) for _, fields in conflicts)
    texts, causes = [], []
    for owner, fields in sorted(conflicts, key=lambda pair: pair[0].words):
        names = sorted(path_text(path) for path in fields)
        causes += [Cause(name, f"conflict with {owner.words}", "FieldManagerConflict") for name in names]
        texts.append(f"conflict with {owner.words}: {names[0]}" if len(names) == 1
                     else f"conflicts with {owner.words}:\n" + "\n".join(f"- {name}" for name in names))
    return errors.ApiError(409, f"Apply failed with {count} conflict{'' if count == 1 else 's'}: " + "\n".join(texts),
                           details={"causes": [cause.to_dict() for cause in causes]})


def path_text(path: Path) -> str:
    """How messages write a path: .spec.containers[name="c"].image."""
    found = ""
    for element in path:
        kind, text = element[0], element[2:]
        if kind == "f":
            found += f".{text}"
        elif kind == "k":
            found += "[" + ",".join(f"{key}={_json(value)}" for key, value in orjson.loads(text).items()) + "]"
        else:
            found += f"[={text}]"
    return found


# Merging and removing.

def merge(node: Node, old: Any, new: Any) -> Any:
    """`new` laid over `old`, by the schema: maps and structs field by field, lists by their keys, all else as a whole."""
    if isinstance(old, dict) and isinstance(new, dict) and _parts(node, new) is not None:
        children: Callable[[str], Node] = lambda key: node.values or node.fields.get(key) or Node("any")  # noqa: E731
        return {**old, **{key: merge(children(key), old.get(key), value) for key, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list) and node.items is not None and node.list_type in ("map", "set"):
        found = {element: item for element, _, item in _parts(node, old) or ()}
        for element, child, item in _parts(node, new) or ():
            found[element] = merge(child, found.get(element), item)
        return list(found.values())
    return copy.deepcopy(new)


def _remove_fields(node: Node, obj: Object, fields: Fields, held: Fields) -> None:
    """Take these fields away; one that holds others stays as long as somebody holds one of them."""
    holding = {path[:length] for path in held for length in range(1, len(path))}
    for path in sorted(fields, key=len):  # whole items first: without its keys, an item could not be found
        if path not in holding and not _is_key(path):
            _remove(node, obj, path)


def _is_key(path: Path) -> bool:
    """True of a field that names the item it is in; it goes with the item."""
    return len(path) > 1 and path[-2][0] == "k" and path[-1][2:] in orjson.loads(path[-2][2:])


def _remove(node: Node, value: Any, path: Path) -> None:
    element, rest = path[0], path[1:]
    for name, child, item in _parts(node, value) or ():
        if name != element:
            continue
        if rest:
            _remove(child, item, rest)
        elif isinstance(value, dict):
            del value[element[2:]]
        else:
            value.remove(item)
        return
