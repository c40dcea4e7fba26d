"""The options of writes: what their query parameters and bodies may say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from . import errors
from .calls import Call
from .errors import Cause
from .lists import MOST
from .representations import JSON, go_type, media_type, parse_object, read_body
from .store import Object

DELETE_OPTIONS: dict[str, tuple[type, str]] = {
    "propagationPolicy": (str, "v1.DeletionPropagation"), "dryRun": (list, "[]string"), "gracePeriodSeconds": (int, "int64"), "orphanDependents": (bool, "bool"),
    "preconditions": (dict, "v1.Preconditions")}
POLICIES = ("Background", "Foreground", "Orphan")


@dataclass(frozen=True)
class WriteOptions:
    dry_run: bool
    field_validation: str
    manager: str
    force: bool


def write_options(call: Call, kind: str, *, apply: bool = False) -> WriteOptions:
    """The query parameters of a write; 422 for values that they cannot have."""
    query, causes = call.query, []
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Ignore", "Strict", "Warn"):
        causes.append(Cause("fieldValidation", f'Unsupported value: "{validation}": supported values: "", "Ignore", "Strict", "Warn"', "FieldValueNotSupported"))
    manager = query.get("fieldManager", "")
    if apply and not manager:
        causes.append(Cause("fieldManager", "Required value: is required for apply patch", "FieldValueRequired"))
    if len(manager) > 128:
        causes.append(Cause("fieldManager", "Too long: may not be more than 128 bytes", "FieldValueTooLong"))
    force = "force" in query and query["force"].lower() not in ("false", "0")
    if "force" in query and kind == "PatchOptions" and not apply:
        causes.append(Cause("force", "Forbidden: may not be specified for non-apply patch", "FieldValueForbidden"))
    if causes:
        raise errors.invalid(kind, "meta.k8s.io", "", causes)
    agent = call.request.headers.get("User-Agent", "").partition("/")[0]
    return WriteOptions(_dry_run(query.get("dryRun"), kind), validation, manager or agent[:128] or "unknown", force)


async def delete_options(call: Call) -> dict[str, Any]:
    """Those of the body or, without one, of the query, as Resources.delete takes them; 400 or 422 for what cannot be."""
    body = await read_body(call.request)
    found: Object = parse_object(body, media_type(call.request) or JSON, "DeleteOptions") if body.strip() else {}
    if found.get("kind", "DeleteOptions") not in ("DeleteOptions", ""):
        raise errors.ApiError(400, f"{found['kind']} in version \"{str(found.get('apiVersion', '')).rpartition('/')[2]}\" cannot be handled as a DeleteOptions: unexpected kind")
    for key, (type_, go_name) in DELETE_OPTIONS.items():
        if found.get(key) is not None and (not isinstance(found[key], type_) or (type_ is int and isinstance(found[key], bool))):
            raise errors.ApiError(400, f"json: cannot unmarshal {go_type(found[key])} into Go struct field DeleteOptions.{key} of type {go_name}")
    query = call.query
    if not body.strip():
        found = {key: query[key] for key in ("propagationPolicy", "gracePeriodSeconds", "orphanDependents", "dryRun") if query.get(key)}
    dry_run = _dry_run(found.get("dryRun"), "DeleteOptions") or _dry_run(query.get("dryRun"), "DeleteOptions")
    policy = found.get("propagationPolicy") or None
    if policy is not None and policy not in POLICIES:
        raise errors.invalid("DeleteOptions", "meta.k8s.io", "", [Cause("propagationPolicy", f'Unsupported value: "{policy}": supported values: "Background", "Foreground", "Orphan", "nil"', "FieldValueNotSupported")])
    if found.get("orphanDependents") is not None:
        if policy:
            raise errors.invalid("DeleteOptions", "meta.k8s.io", "", [Cause("propagationPolicy", f'Invalid value: "{policy}": orphanDependents and deletionPropagation cannot be both set')])
        policy = "Orphan" if str(found["orphanDependents"]).lower() in ("true", "1") else "Background"
    try:
        grace = None if found.get("gracePeriodSeconds") in (None, "") else int(found["gracePeriodSeconds"])
    except (TypeError, ValueError):
        raise errors.ApiError(400, f'strconv.ParseInt: parsing "{found["gracePeriodSeconds"]}": invalid syntax') from None
    if grace is not None and abs(grace) > MOST >> 1:
        raise errors.ApiError(400, f'strconv.ParseInt: parsing "{grace}": value out of range')
    conditions = found.get("preconditions") or {}
    return {"policy": policy, "grace_seconds": grace, "uid": conditions.get("uid"), "resource_version": conditions.get("resourceVersion"), "dry_run": dry_run}


def _dry_run(value: Any, kind: str) -> bool:
    values = value if isinstance(value, list) else [value] if value else []
    wrong = [each for each in values if each != "All"]
    if wrong:
        raise errors.invalid(kind, "meta.k8s.io", "", [Cause("dryRun", f'Unsupported value: {orjson.dumps(values).decode()}: supported values: "All"', "FieldValueNotSupported")])
    return bool(values)
