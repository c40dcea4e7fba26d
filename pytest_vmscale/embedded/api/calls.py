"""A request, taken apart: who asks for what, by the URL's shape alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import web

from .auth import Action, User
from .kinds import Kind

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(slots=True)
class Call:
    """`rest` is what follows a subresource in the path; `kind` is None where no object is kept (subresource APIs)."""

    request: web.Request
    query: dict[str, str]
    group: str
    version: str
    plural: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: tuple[str, ...] = ()
    kind: Kind | None = None
    user: User = field(default_factory=lambda: User(""))

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def verb(self) -> str:
        method = self.request.method
        if method in ("GET", "HEAD"):
            if self.name:
                return "get"
            return "watch" if self.query.get("watch", "false").lower() not in ("false", "0") else "list"
        if method == "DELETE":
            return "delete" if self.name else "deletecollection"
        return VERBS.get(method, method.lower())

    @property
    def action(self) -> Action:
        return Action(self.verb, self.group, self.plural, self.subresource, self.namespace, self.name)


def parse(request: web.Request) -> Call | None:
    """The call of a path below /api/v1 or /apis/GROUP/VERSION that names a resource, else None."""
    parts = [unquote(part) for part in request.rel_url.raw_path.split("/")[1:]]
    if parts[-1] == "":
        parts.pop()
    if len(parts) >= 3 and parts[0] == "api":
        call = Call(request, dict(request.query), "", parts[1])
        parts = parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        call = Call(request, dict(request.query), parts[1], parts[2])
        parts = parts[3:]
    else:
        return None
    if "" in parts:
        return None
    if parts[0] == "watch" and len(parts) > 1:  # the older way to ask for a watch
        call.query["watch"] = "true"
        parts = parts[1:]
        if len(parts) in (2, 4):
            call.query["fieldSelector"] = f"metadata.name={parts.pop()}"
    if parts[0] == "namespaces" and len(parts) > 2 and (call.group or parts[2] not in ("status", "finalize")):
        call.namespace = parts[1]
        parts = parts[2:]
    call.plural = parts[0]
    call.name = parts[1] if len(parts) > 1 else ""
    call.subresource = parts[2] if len(parts) > 2 else ""
    call.rest = tuple(parts[3:])
    if (call.group, call.plural) in (("", "namespaces"), ("project.openshift.io", "projects")):
        call.namespace = call.name  # as the real server's authorizer sees it
    return call


def following(request: web.Request) -> tuple[str, ...]:
    """What follows the subresource in a path: ("22", "tcp") of .../portforward/22/tcp."""
    call = parse(request)
    return call.rest if call else ()
