"""Conditions: what Kubernetes' objects say of themselves in their status, each by its type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class Condition(msgspec.Struct):
    """One of them, as projections have it."""

    type: str
    status: str  # True, False or Unknown
    reason: str = ""
    message: str = ""
    lastTransitionTime: str | None = None

    @property
    def text(self) -> str:
        """Its reason and its message, on one line."""
        return ": ".join(each for each in (self.reason, " ".join(self.message.split())) if each)


def find(conditions: Iterable[Condition], type_: str, status: str | None = None) -> Condition | None:
    """By its type; None if it is not there, or has another status than this."""
    return next((each for each in conditions if each.type == type_ and status in (None, each.status)), None)


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    return find(conditions, type_, "True") is not None


def conditions_in(block: Mapping[str, Any]) -> list[Condition]:
    """Of what has them as `conditions`, such as the status of an object that was read whole."""
    return [
        Condition(
            each.get("type") or "",
            each.get("status") or "",
            each.get("reason") or "",
            each.get("message") or "",
            each.get("lastTransitionTime"),
        )
        for each in block.get("conditions") or ()
    ]


def condition_of(obj: Mapping[str, Any], type_: str, status: str | None = None) -> Condition | None:
    """Of an object that was read whole: as `find`."""
    return find(conditions_in(obj.get("status") or {}), type_, status)
