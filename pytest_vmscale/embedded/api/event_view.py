"""Events as events.k8s.io/v1 shows them: the same objects as the core group's, under other names."""

from __future__ import annotations

from .errors import Cause
from .metadata import qualified_problem
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
    """A field selector in the core group's words."""
    return text.replace("regarding.", "involvedObject.").replace("reportingController", "reportingComponent")


def causes(event: Object) -> list[Cause]:
    """What is wrong with a new event of this group, in the core group's words: here it must say who did what, and when."""
    found = [Cause(name, "Required value", "FieldValueRequired") for name in ("eventTime",) if not event.get(name)]
    controller = event.get("reportingComponent") or ""
    if not controller:
        found.append(Cause("reportingController", "Required value", "FieldValueRequired"))
    elif why := qualified_problem(controller):
        found.append(Cause("reportingController", f'Invalid value: "{controller}": {why}'))
    found += [Cause(name, "Required value", "FieldValueRequired") for name in ("reportingInstance", "action", "reason") if not event.get(name)]
    if event.get("type") not in ("Normal", "Warning"):
        found.append(Cause("type", f'Invalid value: "": has invalid value: {event.get("type") or ""}'))
    return found
