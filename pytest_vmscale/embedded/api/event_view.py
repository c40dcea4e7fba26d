"""Events as events.k8s.io/v1 shows them: the same objects as the core group's, under other names."""

from __future__ import annotations

import orjson

from .errors import ApiError, Cause
from .metadata import qualified_problem
from .selectors import field_terms
from .store import Object

API_VERSION = "events.k8s.io/v1"
CORE_NAMES = {"regarding": "involvedObject", "note": "message", "reportingController": "reportingComponent", "deprecatedSource": "source",
              "deprecatedFirstTimestamp": "firstTimestamp", "deprecatedLastTimestamp": "lastTimestamp", "deprecatedCount": "count"}
NAMES = {core: name for name, core in CORE_NAMES.items()}
LEFT_OUT_EMPTY = ("note", "action", "reportingController", "reportingInstance", "type")


def from_core(obj: Object) -> Object:
    """An event of the core group in this group's words. Parts are shared."""
    found = {NAMES.get(key, key): value for key, value in obj.items()}
    return {**{key: value for key, value in found.items() if value != "" or key not in LEFT_OUT_EMPTY}, "apiVersion": API_VERSION}


def to_core(obj: Object) -> None:
    """The other way round, in place."""
    for name, core in CORE_NAMES.items():
        if name in obj:
            obj[core] = obj.pop(name)


def field_selector(text: str) -> str:
    """A field selector in the core group's words. ApiError 400 for the core group's names, which are none here."""
    for path, _, _ in field_terms(text):
        if path.startswith("involvedObject.") or path in NAMES:
            raise ApiError(400, f"field label not supported: {path}")
    return text.replace("regarding.", "involvedObject.").replace("reportingController", "reportingComponent")


def core_causes(event: Object, old: Object | None) -> list[Cause]:
    """What is wrong with any event: it lies in the namespace of what it is about; what has none has its events in `default`."""
    namespace, about = event["metadata"].get("namespace", ""), (event.get("involvedObject") or {}).get("namespace") or ""
    elsewhere = namespace != "default" if not about else about != namespace and not event.get("eventTime")
    if old is None and elsewhere:
        return [Cause("involvedObject.namespace", f'Invalid value: "{about}": does not match event.namespace')]
    return []


def causes(event: Object) -> list[Cause]:
    """What is wrong with a new event of this group, in the core group's words: here it must say who did what, and when."""
    found = [Cause("eventTime", "Required value", "FieldValueRequired")] if not event.get("eventTime") else []
    controller = event.get("reportingComponent") or ""
    if not controller:
        found.append(Cause("reportingController", "Required value", "FieldValueRequired"))
    elif why := qualified_problem(controller):
        found.append(Cause("reportingController", f'Invalid value: "{controller}": {why}'))
    found += [Cause(name, "Required value", "FieldValueRequired") for name in ("reportingInstance", "action", "reason") if not event.get(name)]
    if event.get("type") not in ("Normal", "Warning"):
        found.append(Cause("type", f'Invalid value: "": has invalid value: {event.get("type") or ""}'))
    return found + [Cause(name, 'Invalid value: "": needs to be unset') for name in ("firstTimestamp", "lastTimestamp", "count", "source") if event.get(name)]


def update_causes(old: Object, new: Object) -> list[Cause]:
    """Of an event of this group only the series can change."""
    names = ("involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type", "eventTime", "action", "related",
             "reportingComponent", "reportingInstance")
    return [Cause(NAMES[name] if name == "reportingComponent" else name, f"Invalid value: {orjson.dumps(new.get(name)).decode()}: field is immutable")
            for name in names if (new.get(name) or None) != (old.get(name) or None)]
