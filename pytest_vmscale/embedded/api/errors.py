"""An API server's failures: `Status` objects with the codes, reasons and words of the real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed",
           406: "NotAcceptable", 409: "Conflict", 410: "Expired", 413: "RequestEntityTooLarge",
           415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError",
           503: "ServiceUnavailable", 504: "Timeout"}


@dataclass(frozen=True)
class Cause:
    """One reason among those of a 422 (or of a refused eviction, or an apply conflict)."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"

    def to_dict(self) -> dict[str, str]:
        return {"reason": self.reason, "message": self.message, **({"field": self.field} if self.field else {})}


class ApiError(Exception):
    """A failed request. `status` is the Status object that goes over the wire."""

    def __init__(self, code: int, message: str, reason: str | None = None, details: dict[str, Any] | None = None,
                 headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.headers = code, message, headers or {}
        self.reason = REASONS.get(code, "") if reason is None else reason
        self.details = details
        self.metadata: dict[str, Any] = {}

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure", "message": self.message}
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return {**status, "code": self.code}


class Undecodable(ApiError):
    """400: a body, or what a patch made, cannot be read as its kind. `why` is the decoder's own words."""

    def __init__(self, kind: str, version: str, why: str) -> None:
        super().__init__(400, f'{kind} in version "{version}" cannot be handled as a {kind}: {why}')
        self.why = why


def qualified(plural: str, group: str) -> str:
    """`virtualmachines.kubevirt.io`, or `pods`: how messages name a resource or kind."""
    return f"{plural}.{group}" if group else plural


def details(group: str, kind: str, name: str = "", causes: list[Cause] | None = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "group": group, "kind": kind, **more}
    if causes:
        found["causes"] = [cause.to_dict() for cause in causes]
    return {key: value for key, value in found.items() if value}


def not_found(plural: str, group: str, name: str) -> ApiError:
    return ApiError(404, f'{qualified(plural, group)} "{name}" not found', details=details(group, plural, name))


def already_exists(plural: str, group: str, name: str) -> ApiError:
    return ApiError(409, f'{qualified(plural, group)} "{name}" already exists', "AlreadyExists", details(group, plural, name))


def conflict(plural: str, group: str, name: str, why: str = "the object has been modified; please apply your changes to the latest version and try again") -> ApiError:
    return ApiError(409, f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}', details=details(group, plural, name))


def invalid(kind: str, group: str, name: str, causes: list[Cause]) -> ApiError:
    """422 with its causes, worded as field.ErrorList's aggregate is."""
    words = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    text = words[0] if len(words) == 1 else f"[{', '.join(words)}]"
    return ApiError(422, f'{qualified(kind, group)} "{name}" is invalid: {text}', details=details(group, kind, name, causes))
