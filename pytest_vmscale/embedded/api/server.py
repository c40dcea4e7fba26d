"""The API server: one entry for every request, which finds out what it is about and who may."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import unquote

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from ..clock import SimClock
from . import errors, event_view, strategies, swagger
from .auth import AUTHENTICATED, MASTERS, Action, Authenticator, Authorizer, User
from .calls import Call, parse
from .discovery import AGGREGATED_V2, Discovery
from .kinds import Kind
from .openapi import documents
from .projects import Projects
from .reads import Reads
from .replicas import Replicas
from .representations import JSON, LIMIT_BYTES, accepted, answer, answer_object
from .resources import Resources
from .reviews import MYSELF, Reviews, authenticated, myself
from .scale import Scales
from .store import Object
from .templates import Templates
from .validation import Schemas
from .watches import Watches
from .writes import Admission, Writes, method_not_supported

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SubresourceHandler = Callable[[web.Request, str, str], Awaitable[web.StreamResponse]]

# OpenShift 4.9.15 is this Kubernetes. The four keys at the end are newer than it, and newer clients expect them.
VERSION = {"major": "1", "minor": "22", "gitVersion": "v1.22.3+e790d7f", "gitCommit": "e790d7f", "gitTreeState": "clean",
           "buildDate": "2021-12-10T17:43:38Z", "goVersion": "go1.16.6", "compiler": "gc", "platform": "linux/amd64",
           "emulationMajor": "1", "emulationMinor": "22", "minCompatibilityMajor": "1", "minCompatibilityMinor": "21"}
EXTRA = "impersonate-extra-"
HEADER_BYTES = 2**20  # Go's limit: the selector of a whole fleet fits into one request line
KEEPALIVE_SECONDS = 600.0


class ApiFailure(Protocol):
    """How one request fails on purpose: with this code, or (reset) with a connection that breaks."""

    code: int
    retry_after_seconds: float | None
    reset: bool


class Faults(Protocol):
    @property
    def watch_expiry_seconds(self) -> float | None: ...

    def api_failure(self) -> ApiFailure | None: ...


class NoFaults:
    watch_expiry_seconds: float | None = None

    def api_failure(self) -> ApiFailure | None:
        return None


class ApiServer:
    """Serves `resources`. `tokens` are the bearer tokens that are known from the start, and whose they are.

    version: what /version says, the 13 keys of VERSION.
    """

    def __init__(self, resources: Resources, clock: SimClock, *, tokens: dict[str, User] | None = None, admin_token: str | None = None,
                 faults: Faults | None = None, version: dict[str, str] | None = None) -> None:
        self.resources, self.clock = resources, clock
        self.faults: Faults = faults or NoFaults()
        known = dict(tokens or {})
        if admin_token:
            known[admin_token] = User("kube:admin", ("system:cluster-admins", MASTERS, AUTHENTICATED))
        self.authenticator = Authenticator(resources, known)
        self.authorizer = Authorizer(resources)
        self.watches = Watches(resources.store, clock)
        self.replicas = Replicas(version or VERSION, self.watches)
        self.discovery = Discovery(resources.kinds)
        self._reads = Reads(resources, clock, self.watches, self.faults)
        self._writes = Writes(resources, clock, Schemas(resources.kinds))
        self._scales = Scales(resources, self._writes)
        self._reviews = Reviews(resources, self.authenticator, self.authorizer)
        self._projects = Projects(resources, self.authorizer, self._reads, self._writes)
        self._templates = Templates()
        for (group, version_name), entries in {**self._reviews.discovery(), **self._projects.discovery(), **self._templates.discovery()}.items():
            self.discovery.add(group, version_name, entries)
        self._documents = documents(resources.kinds)
        self._subresources: dict[tuple[str, str, str, str], tuple[set[str], SubresourceHandler]] = {}
        self._routes: dict[tuple[str, str], Handler] = {}
        self.add_subresource("", "v1", "serviceaccounts", "token", {"POST"}, self._reviews.request_token,
                             discovery={"kind": "TokenRequest", "group": "authentication.k8s.io", "version": "v1"})
        self.requests = 0
        self.app = web.Application(client_max_size=LIMIT_BYTES + 1)
        self.app.router.add_route("*", "/{path:.*}", self._handle)
        self.app.on_shutdown.append(self._stop_watches)
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._listens_at: tuple[str, int, ssl.SSLContext | None] = ("", 0, None)

    # What the other parts of the cluster add.

    def add_group(self, group: str, version: str, resources: list[Object]) -> None:
        """Discovery lines of an API that keeps no objects, such as subresources.kubevirt.io."""
        self.discovery.add(group, version, resources)

    def add_subresource(self, group: str, version: str, plural: str, subresource: str, methods: set[str], handler: SubresourceHandler, *,
                        discovery: Object | None = None) -> None:
        """Serve .../PLURAL/NAME/SUBRESOURCE. calls.following(request) is what follows in the path.
        `discovery` is further keys of its line there (kind, group and version of what it takes)."""
        self._subresources[group, version, plural, subresource] = (methods, handler)
        self.discovery.add_subresource(group, version, plural, subresource, methods)
        entry = self.discovery.resource(group, version, f"{plural}/{subresource}")
        if entry is not None and discovery:
            entry.update(discovery)

    def add_resource(self, group: str, version: str, name: str, methods: set[str], handler: SubresourceHandler) -> None:
        """Serve .../NAME, of which there are no objects. Discovery does not list it."""
        self._subresources[group, version, name, ""] = (methods, handler)

    def add_admission(self, kind: Kind, function: Admission) -> None:
        """Call `function(obj, old)` before each write over HTTP; it may edit obj or raise ApiError. `old` is None at creation."""
        self._writes.add_admission(kind, function)

    def add_route(self, method: str, path: str, handler: Handler) -> None:
        """Serve a path that is no Kubernetes API. A token is needed as for everything."""
        self._routes[method, path] = handler

    def forget(self) -> None:
        """Drop all history, as etcd's compaction does: older versions can neither be watched from nor paged through."""
        self.resources.store.forget()
        self._reads.lists.forget()

    async def serve(self, host: str, port: int, ssl_context: ssl.SSLContext | None) -> int:
        """Listen; returns the port, which the system chooses if 0 is given. A request ends when its client goes."""
        self._runner = web.AppRunner(self.app, access_log=None, handler_cancellation=True, keepalive_timeout=KEEPALIVE_SECONDS, shutdown_timeout=1.0,
                                     max_line_size=HEADER_BYTES, max_field_size=HEADER_BYTES)
        await self._runner.setup()
        self._listens_at = (host, port, ssl_context)
        await self._listen()
        found = int(self._runner.addresses[0][1])
        self._listens_at = (host, found, ssl_context)
        return found

    async def _listen(self) -> None:
        host, port, ssl_context = self._listens_at
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, host, port, ssl_context=ssl_context, backlog=1024)
        await self._site.start()

    # Servers that end and come back.

    def close_replica(self, index: int, *, at_once: bool = False) -> None:
        """One of the servers ends, with its connections."""
        self.replicas.close(index, self._runner, at_once=at_once)

    async def refuse(self) -> None:
        """Nobody listens any more and every connection breaks, until `resume`."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
            self.replicas.abort_all(self._runner)

    async def resume(self) -> None:
        """Listen again, at the same port."""
        if self._site is None and self._runner is not None:
            await self._listen()

    async def close(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _stop_watches(self, app: web.Application) -> None:
        await self.watches.stop()

    # Every request.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self.replicas.of(request.protocol)
        try:
            return await self._dispatch(request)
        except errors.ApiError as error:
            return answer_object(error.status, error.code, media=_media(request), headers=error.headers)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except web.HTTPRequestEntityTooLarge:
            return answer_object(errors.ApiError(413, f"Request entity too large: limit is {LIMIT_BYTES}").status, 413)
        except RequestPayloadError as error:
            return answer_object(errors.ApiError(400, f"unable to read the request's body: {error}").status, 400)
        except RecursionError:
            return answer_object(errors.ApiError(400, "json: exceeded max depth").status, 400)
        except Exception as error:
            log.exception("%s %s", request.method, request.path_qs)
            return answer_object(errors.ApiError(500, f"Internal error occurred: {error}").status, 500)

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        failed = self._fail(request) if path.startswith(("/api/", "/apis/")) else None
        if failed is not None:
            return failed
        user = self.authenticator.authenticate(request.headers.get("Authorization"))
        user = self._impersonated(request, user)
        call = parse(request)
        if call is None:
            return await self._other(request, user)
        call.user = user
        call.kind = self.resources.kinds.by_resource(call.group, call.version, call.plural)
        if call.kind is not None and call.kind.shows:
            call.kind = self.resources.kind(call.kind.shows)
            call.query["fieldSelector"] = event_view.field_selector(call.query.get("fieldSelector", ""))
        self.authorizer.check(user, call.action)
        added = call.subresource or call.kind is None
        subresource = self._subresources.get((call.group, call.version, call.plural, call.subresource)) if added else None
        if subresource is not None:
            methods, handler = subresource
            if request.method not in methods:
                raise method_not_supported(call)
            return await handler(request, call.namespace, call.name)
        if call.kind is None:
            served = next((each for each in (self._projects, self._templates, self._reviews) if each.serves(call)), None)
            return await served.answer(call) if served else self._not_served(request.path)
        return await self._object(call)

    async def _object(self, call: Call) -> web.StreamResponse:
        kind, method = call.kind, call.request.method
        assert kind is not None
        if not kind.namespaced and call.namespace and not strategies.is_core(kind, "namespaces"):
            return self._not_served(call.request.path)
        if kind.namespaced and not call.namespace and (call.name or method not in ("GET", "HEAD")):
            # Above namespaces objects can be listed and watched, and nothing else.
            if kind.custom or call.name:
                return self._not_served(call.request.path)
            raise method_not_supported(call)
        if call.subresource:
            if call.subresource == "scale" and kind.scale and not call.rest:
                return await self._scales.answer(call)
            finalize = call.subresource == "finalize" and strategies.is_core(kind, "namespaces")
            if call.rest or not (finalize or (call.subresource == "status" and kind.status)):
                if kind.custom:
                    raise errors.not_found(kind.plural, kind.group, call.name)
                return self._not_served(call.request.path)
            if method not in (("PUT",) if finalize else ("GET", "PUT", "PATCH")):
                raise method_not_supported(call)
        if method == "GET" and call.name == MYSELF and str(kind) == "users.user.openshift.io":
            return answer_object(myself(call.user))
        if method == "GET":
            return await (self._reads.get(call) if call.name else self._reads.list(call))
        if method == "DELETE":
            return await (self._writes.delete(call) if call.name else self._writes.delete_collection(call))
        if method == "PUT":
            return await self._writes.update(call)
        if method == "PATCH" and (call.name or kind.custom):
            return await self._writes.patch(call)
        if method == "POST" and (kind.custom or not call.name):  # a custom resource's name in the path is not looked at
            return await self._writes.create(call)
        raise method_not_supported(call)

    def _not_served(self, path: str) -> web.StreamResponse:
        """404. What is built in says so with a Status, also of its unknown versions and resources; custom groups and all else in plain text."""
        parts = path.strip("/").split("/")
        if parts[0] == "api" or (parts[0] == "apis" and len(parts) > 2 and self.discovery.built_in(parts[1])):
            raise errors.ApiError(404, "the server could not find the requested resource", details={})
        return not_found()

    def _fail(self, request: web.Request) -> web.StreamResponse | None:
        """The failure that a fault plan has for this request."""
        failure = self.faults.api_failure()
        if failure is None:
            return None
        if failure.reset:
            if request.transport:
                request.transport.abort()
            return web.Response(status=500)  # which nobody gets
        headers = {}
        details: dict[str, Any] = {}
        if failure.retry_after_seconds is not None:
            seconds = max(1, round(failure.retry_after_seconds))
            headers["Retry-After"] = str(seconds)
            details["retryAfterSeconds"] = seconds
        messages = {429: "too many requests, please try again later", 500: "Internal error occurred: etcdserver: request timed out",
                    503: "the server is currently unable to handle the request", 504: "Timeout: request did not complete within the allotted timeout"}
        raise errors.ApiError(failure.code, messages.get(failure.code, "the request failed"), details=details or None, headers=headers)

    def _impersonated(self, request: web.Request, user: User) -> User:
        """The user of the Impersonate-User header, for those who may."""
        name = request.headers.get("Impersonate-User")
        if not name:
            if "Impersonate-Group" in request.headers or "Impersonate-Uid" in request.headers:
                raise errors.ApiError(400, "requested groups or a uid without impersonating a user name")
            return user
        groups = tuple(request.headers.getall("Impersonate-Group", []))
        self.authorizer.check(user, Action("impersonate", resource="users", name=name))
        for group in groups:
            self.authorizer.check(user, Action("impersonate", resource="groups", name=group))
        uid = request.headers.get("Impersonate-Uid", "")
        if uid:
            self.authorizer.check(user, Action("impersonate", "authentication.k8s.io", "uids", name=uid))
        extra = {unquote(key[len(EXTRA):]).lower(): request.headers.getall(key) for key in request.headers if key.lower().startswith(EXTRA)}
        for key, values in extra.items():
            for value in values:
                self.authorizer.check(user, Action("impersonate", "authentication.k8s.io", "userextras", key, name=value))
        if not groups and name.startswith("system:serviceaccount:") and name.count(":") == 3:
            groups = ("system:serviceaccounts", f"system:serviceaccounts:{name.split(':')[2]}")
        return User(name, groups if AUTHENTICATED in groups else (*groups, AUTHENTICATED), uid, extra)

    # What is no resource.

    async def _other(self, request: web.Request, user: User) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        handler = self._routes.get((request.method, path))
        if handler is not None:
            if not authenticated(user):
                raise errors.ApiError(401, "Unauthorized")
            return await handler(request)
        self.authorizer.check(user, Action(request.method.lower(), path=path))
        if path.startswith(("/healthz", "/livez", "/readyz")):
            return self._health(request, path)
        if request.method not in ("GET", "HEAD"):
            if path in ("/api", "/version") or path.startswith("/api/"):
                raise errors.ApiError(405, "the server does not allow this method on the requested resource", details={})
            return not_found()
        if path == "/version":
            return answer(orjson.dumps(self.replicas.versions[self.replicas.of(request.protocol)], option=orjson.OPT_INDENT_2))
        if path.startswith("/openapi"):
            return self._openapi(request, path)
        return self._discover(request, path)

    @staticmethod
    def _health(request: web.Request, path: str) -> web.StreamResponse:
        check, *names = path.strip("/").split("/")
        if "verbose" in request.query and not names:
            return web.Response(text=f"[+]ping ok\n[+]log ok\n[+]etcd ok\n{check} check passed\n")
        return web.Response(text="ok") if not names or names == ["ping"] or names == ["etcd"] else not_found()

    def _openapi(self, request: web.Request, path: str) -> web.StreamResponse:
        if path == "/openapi/v2":
            return self._swagger(request)
        document = self._documents.get(path.removeprefix("/"))
        return not_found() if document is None else web.Response(body=document, content_type=JSON)

    def _swagger(self, request: web.Request) -> web.StreamResponse:
        for alternative in request.headers.get("Accept", "*/*").split(","):
            media = alternative.partition(";")[0].strip()
            if media in swagger.ACCEPTED:
                return web.Response(body=self._documents.version_2_protobuf, headers={"Content-Type": swagger.MEDIA, "Vary": "Accept"})
            if media in (JSON, "application/*", "*/*"):
                return web.Response(body=self._documents.version_2, headers={"Content-Type": JSON, "Vary": "Accept"})
        raise errors.ApiError(406, f"only the following media types are accepted: {JSON}, {swagger.MEDIA}")

    def _discover(self, request: web.Request, path: str) -> web.StreamResponse:
        discovery, parts = self.discovery, path.strip("/").split("/")
        if path in ("/api", "/apis"):
            if _wants_aggregated(request.headers.get("Accept", "")):
                group, version = AGGREGATED_V2
                body = orjson.dumps(discovery.aggregated(legacy=path == "/api"))
                return web.Response(body=body, headers={"Content-Type": f"{JSON};g={group};v={version};as=APIGroupDiscoveryList", "Vary": "Accept"})
            return answer_object(discovery.versions() if path == "/api" else discovery.groups())
        found: Object | None = None
        if path == "/":
            return answer_object({"paths": ["/api", "/api/v1", "/apis", *(f"/apis/{group['name']}" for group in discovery.groups()["groups"]), "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]})
        if parts[0] == "api" and len(parts) == 2:
            found = discovery.group_version("", parts[1])
        elif parts[0] == "apis" and len(parts) == 2:
            found = discovery.group(parts[1])
        elif parts[0] == "apis" and len(parts) == 3:
            found = discovery.group_version(parts[1], parts[2])
        return self._not_served(path) if found is None else answer_object(found)


def _media(request: web.Request) -> str:
    """What a refusal is written in: as the client asked, if that can be."""
    try:
        return accepted(request.headers.get("Accept", ""))[1]
    except errors.ApiError:
        return JSON


def _wants_aggregated(accept: str) -> bool:
    group, version = AGGREGATED_V2
    return any({f"g={group}", f"v={version}", "as=APIGroupDiscoveryList"} <= {part.strip() for part in alternative.split(";")} for alternative in accept.split(","))


def not_found() -> web.Response:
    return web.Response(status=404, text="404 page not found\n")


