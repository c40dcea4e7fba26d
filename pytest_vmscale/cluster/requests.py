"""Requests to an API server: JSON in, JSON out, each try of each request recorded.

Waits are cluster seconds (rates, backoff, Retry-After: the server lives in cluster time); only the network's own
timeouts are wall seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from ..clock import Clock
from .access import Access, ClusterError
from .runtime import cancel_all

if TYPE_CHECKING:
    import aiohttp

Object = dict[str, Any]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

CONNECT_TIMEOUT_WALL_SECONDS = 10.0
# An API server gives up after 60 s, and says so: wait for that.
ANSWER_TIMEOUT_WALL_SECONDS = 75.0
# A storm's requests are all under way at once, each on a connection of its own.
CONNECTIONS = 5000
# A connection that is not used is closed: asyncio keeps 256 KiB for each, and a storm has one for each VM.
IDLE_WALL_SECONDS = 10.0
CREDENTIALS_CHECK_WALL_SECONDS = 30.0

# client-go gives up after 10 tries too. Jittered, doubling from a quarter of a second.
MAX_TRIES = 10
BACKOFF_FIRST_SECONDS = 0.25
BACKOFF_MAX_SECONDS = 10.0
# Of thousands of objects to create or delete where nothing is measured.
WRITES_AT_ONCE = 50
# Answers that say nothing of the request itself. A 429 is one only with Retry-After: without, it is an eviction's refusal.
TRANSIENT = frozenset({500, 502, 503, 504})


class ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class _ListHead(msgspec.Struct):
    metadata: ListMeta = msgspec.field(default_factory=ListMeta)


_LIST_HEAD = msgspec.json.Decoder(_ListHead)


@dataclass(frozen=True)
class Attempt:
    """One try of a request. Stamps of time.monotonic(); `status` is None if no answer came, `reason` empty if it succeeded."""

    sent: float
    ended: float
    status: int | None
    reason: str


@dataclass(frozen=True)
class Answer:
    """The last try's answer, and all tries. `attempts[0].sent` was stamped before the first byte was sent."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    attempts: tuple[Attempt, ...]

    @property
    def object(self) -> Object:
        return _decode(self.body)

    @property
    def maybe_done_before(self) -> bool:
        """An earlier try got no clear answer: what was asked for may have been done by it."""
        return any(attempt.status != 429 for attempt in self.attempts[:-1])


class ApiError(ClusterError):
    """The server refused, or never answered. `status` is the HTTP code, None without an answer."""

    def __init__(
        self, text: str, status: int | None, body: Object, attempts: tuple[Attempt, ...], retry_after_seconds: float | None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.body = body
        self.attempts = attempts
        self.retry_after_seconds = retry_after_seconds

    @property
    def reason(self) -> str:
        """The Status' reason, such as AlreadyExists, or empty."""
        return str(self.body.get("reason") or "")

    @property
    def message(self) -> str:
        """The server's own words, or ours if it has none."""
        return str(self.body.get("message") or self)

    @property
    def maybe_done_before(self) -> bool:
        return any(attempt.status != 429 for attempt in self.attempts[:-1])

    @property
    def transient(self) -> bool:
        if self.status is None or self.status in TRANSIENT:
            return True
        return self.status == 429 and self.retry_after_seconds is not None


class RateLimit:
    """client-go's token bucket: `burst` at once, then `per_second` (cluster time), first come first served."""

    def __init__(self, clock: Clock, per_second: float, burst: int) -> None:
        if per_second <= 0 or burst < 1:
            raise ValueError(f"a rate limit needs a rate above 0 and a burst of at least 1, not {per_second} and {burst}")
        self._clock, self._per_second, self._burst = clock, per_second, burst
        self._tokens, self._at = float(burst), clock.now()

    async def take(self) -> None:
        now = self._clock.now()
        # A clock that was set by the embedded cluster's after we were made has gone back a day.
        self._tokens = min(float(self._burst), self._tokens + max(0.0, now - self._at) * self._per_second)
        self._at = now
        self._tokens -= 1
        if self._tokens < 0:
            await self._clock.sleep(-self._tokens / self._per_second)


class Cluster:
    """An API server, asked from one event loop. Use it in an async with statement, or open() and close() it."""

    def __init__(self, access: Access, clock: Clock, *, rate_limit: RateLimit | None = None, connections: int = CONNECTIONS) -> None:
        """`connections`: how many requests may be under way at once, watches not counted."""
        self.access = access
        self.clock = clock
        self._rate_limit = rate_limit
        self._slots = asyncio.Semaphore(connections)
        self._session: aiohttp.ClientSession | None = None
        self._authorization: str | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._meanwhile: list[asyncio.Task[None]] = []
        self._reloading = asyncio.Lock()
        self._resources: dict[str, dict[str, tuple[str, bool]]] = {}

    async def open(self) -> Cluster:
        import aiohttp

        self._authorization = await asyncio.to_thread(self.access.authorization)
        self._session = aiohttp.ClientSession(
            # Slots are given out by us, so that t0 is stamped after the wait for one.
            connector=aiohttp.TCPConnector(limit=0, ssl=self.access.tls if self.access.tls else True, keepalive_timeout=IDLE_WALL_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_WALL_SECONDS, sock_read=ANSWER_TIMEOUT_WALL_SECONDS),
            # Compression costs the server, and delays the stamp of an event.
            headers={"Accept-Encoding": "identity", "User-Agent": "pytest-vmscale"},
            proxy=self.access.proxy,
            read_bufsize=1 << 20,
        )
        # aiohttp sends a PUT again by itself if a kept connection breaks, and has no public way to be told not to:
        # a retry that nobody recorded. A test sees to it that this holds.
        self._session._retry_connection = False
        self._renewal = asyncio.create_task(self._renew())
        return self

    async def close(self) -> None:
        tasks = [*self._meanwhile, *([self._renewal] if self._renewal else [])]
        await cancel_all(tasks)
        self._renewal, self._meanwhile = None, []
        if self._session:
            await self._session.close()
            self._session = None

    def meanwhile(self, work: Coroutine[Any, Any, None]) -> None:
        """Done beside everything else, until this is closed."""
        self._meanwhile.append(asyncio.create_task(work))

    async def warm_up(self, connections: int) -> None:
        """Open so many connections and keep them for what comes next: a thousand TLS handshakes are not what is to be measured.
        Nothing with a rate limit: what it lets through needs few."""
        if self._rate_limit:
            return

        async def ask() -> None:
            # Errors show, with their reason, on the requests that count.
            with contextlib.suppress(ApiError):
                await self.send("GET", "/version", tries=1)

        await asyncio.gather(*(ask() for _ in range(connections)))

    async def __aenter__(self) -> Cluster:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # -- requests that return objects; all raise ApiError ---------------------------------------------------------

    async def get(self, path: str, **parameters: str) -> Object:
        return (await self.send("GET", path, parameters)).object

    async def get_or_none(self, path: str, **parameters: str) -> Object | None:
        try:
            return await self.get(path, **parameters)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list_all(self, path: str, *, selector: str = "", fields: str = "", page: int = 500) -> list[Object]:
        """All objects, a page at a time."""
        items: list[Object] = []
        async for body in self.pages(path, selector=selector, fields=fields, page=page):
            items.extend(_decode(body).get("items") or ())
        return items

    async def pages(self, path: str, *, selector: str = "", fields: str = "", page: int = 500) -> AsyncIterator[bytes]:
        """The pages of a list as they came. ApiError 410 if the list's version expires between two pages."""
        token = ""
        while True:
            parameters = {"labelSelector": selector, "fieldSelector": fields, "limit": str(page) if page else "", "continue": token}
            answer = await self.send("GET", path, {key: value for key, value in parameters.items() if value})
            yield answer.body
            token = _LIST_HEAD.decode(answer.body).metadata.continue_token
            if not token:
                return

    async def create(self, path: str, obj: Object) -> Object:
        """An AlreadyExists after a try that got no clear answer is our own object: it is read and returned, as far as that is allowed."""
        try:
            return (await self.send("POST", path, body=obj)).object
        except ApiError as error:
            name = obj["metadata"].get("name")
            if error.reason != "AlreadyExists" or not error.maybe_done_before or not name:
                raise
            try:
                return await self.get(f"{path}/{name}")
            except ApiError as refused:
                if refused.status != 403:
                    raise
                return obj  # a Secret is made by those, too, who may not read any

    async def update(self, path: str, obj: Object) -> Object:
        return (await self.send("PUT", path, body=obj)).object

    async def patch(self, path: str, patch: object, *, content_type: str = MERGE_PATCH, **parameters: str) -> Object:
        return (await self.send("PATCH", path, parameters, patch, content_type=content_type)).object

    async def delete(self, path: str, *, propagation: str = "Background", selector: str = "") -> Object | None:
        """Delete an object, or with a selector a collection. None if it was not there."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        try:
            return (await self.send("DELETE", path, {"labelSelector": selector} if selector else {}, body)).object
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    # -- one request, all its tries -------------------------------------------------------------------------------

    async def send(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None = None,
        body: object = None,
        *,
        content_type: str = JSON,
        tries: int = MAX_TRIES,
        attempts: list[Attempt] | None = None,
        on_sent: Callable[[float], None] | None = None,
    ) -> Answer:
        """Send a request, again after transient failures, up to `tries` times; ApiError (with all attempts) if the last one failed.

        For callers that may be cancelled meanwhile: `attempts` is filled try by try, and `on_sent` is called with the first
        try's stamp, just before it is sent."""
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

        jitter = wait_random_exponential(multiplier=BACKOFF_FIRST_SECONDS, max=BACKOFF_MAX_SECONDS)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            told = error.retry_after_seconds if isinstance(error, ApiError) else None
            return max(told or 0.0, jitter(state))

        log: list[Attempt] = [] if attempts is None else attempts
        payload = None if body is None else msgspec.json.encode(body)
        retrying = AsyncRetrying(
            sleep=self.clock.sleep,
            stop=stop_after_attempt(tries),
            wait=wait,
            retry=retry_if_exception(lambda error: isinstance(error, ApiError) and error.transient),
            reraise=True,
        )
        return await retrying(self._try, method, path, parameters or {}, payload, content_type, log, on_sent)

    async def _try(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        payload: bytes | None,
        content_type: str,
        attempts: list[Attempt],
        on_sent: Callable[[float], None] | None,
    ) -> Answer:
        from aiohttp import ClientError

        if self._rate_limit:
            await self._rate_limit.take()
        async with self._slots:
            used = self._authorization
            sent = time.monotonic()
            if on_sent and not attempts:
                on_sent(sent)
            try:
                async with self.raw(method, path, parameters, payload, content_type) as response:
                    content = await response.read()
                    status, headers = response.status, response.headers
            except (OSError, ClientError) as error:
                reason = network_reason(error)
                attempts.append(Attempt(sent, time.monotonic(), None, reason))
                raise ApiError(self._no_answer(error, reason), None, {}, tuple(attempts), None) from error
        ended = time.monotonic()
        if status < 400:
            attempts.append(Attempt(sent, ended, status, ""))
            return Answer(status, content, headers, tuple(attempts))
        refusal = _status_object(content)
        attempts.append(Attempt(sent, ended, status, f"{status} {refusal.get('reason') or ''}".strip()))
        if status == 401 and [a.status for a in attempts].count(401) == 1 and await self._reload(used):
            return await self._try(method, path, parameters, payload, content_type, attempts, on_sent)
        raise self._refused(method, path, status, refusal, tuple(attempts), retry_after(headers))

    @contextlib.asynccontextmanager
    async def raw(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None = None,
        payload: bytes | None = None,
        content_type: str = JSON,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One try, as aiohttp gives it: its answer whatever its status, its exceptions as they are. For streams."""
        from aiohttp import ClientTimeout
        from yarl import URL

        session = self._opened()
        headers = self.headers()
        if payload is not None:
            headers["Content-Type"] = content_type
        url = self.access.server + path + ("?" + urlencode(parameters) if parameters else "")
        async with session.request(
            method,
            URL(url, encoded=True),
            data=payload,
            headers=headers,
            server_hostname=self.access.server_name,
            allow_redirects=False,
            timeout=timeout or ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_WALL_SECONDS, sock_read=ANSWER_TIMEOUT_WALL_SECONDS),
        ) as response:
            yield response

    async def websocket(self, path: str, protocol: str) -> aiohttp.ClientWebSocketResponse:
        """Opened, or aiohttp's exception (WSServerHandshakeError with the HTTP status if the server refused)."""
        import aiohttp

        return await self._opened().ws_connect(
            self.access.server + path,
            protocols=(protocol,),
            headers=self.headers(),
            server_hostname=self.access.server_name,
            compress=0,
            max_msg_size=0,
            timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
        )

    def headers(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("this Cluster is not open")
        return self._session

    # -- what lives where ------------------------------------------------------------------------------------------

    async def path(self, api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
        """The path of a kind's collection, or of one object. ClusterError if the server does not serve the kind."""
        if api_version not in self._resources:
            base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
            found = await self.get_or_none(base)
            served = (found or {}).get("resources") or ()
            self._resources[api_version] = {r["kind"]: (r["name"], r["namespaced"]) for r in served if "/" not in r["name"]}
        if kind not in self._resources[api_version]:
            raise ClusterError(f"{self.access.server} does not serve {kind} of {api_version}: is its operator installed?")
        plural, namespaced = self._resources[api_version][kind]
        return resource_path(api_version, plural, namespace if namespaced else None, name)

    # -- credentials and errors ------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Keep the token fresh beside the requests: a credential plugin may take seconds."""
        while True:
            await asyncio.sleep(CREDENTIALS_CHECK_WALL_SECONDS)
            # What cannot be renewed shows as a 401, which is answered with the reason.
            with contextlib.suppress(ClusterError):
                self._authorization = await asyncio.to_thread(self.access.authorization)

    async def _reload(self, used: str | None) -> bool:
        """After a 401 with these credentials: whether there are others now."""
        async with self._reloading:
            if self._authorization == used:
                try:
                    self._authorization = await asyncio.to_thread(self.access.reload)
                except Exception:  # the 401 is the error to show, not that of a file which is gone by now
                    return False
            return self._authorization != used

    def _no_answer(self, error: BaseException, reason: str) -> str:
        import aiohttp

        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            return f"{self.access.server}: TLS: {reason} (context {self.access.context!r}; is its certificate-authority the server's?)"
        return f"{self.access.server} cannot be reached: {reason}"

    def _refused(
        self, method: str, path: str, status: int, body: Object, attempts: tuple[Attempt, ...], retry_after_seconds: float | None
    ) -> ApiError:
        message = str(body.get("message") or f"HTTP {status}").removeprefix(f"{status} ")  # "404 page not found"
        if status == 401:
            text = f"{self.access.server} does not accept the credentials of {self.access.source}: 401 {message}"
        elif status == 403:
            text = f"{self.access.server} forbids it: {message}"
        else:
            text = f"{method} {self.access.server}{path}: {status} {message}"
        return ApiError(text, status, body, attempts, retry_after_seconds)


def resource_path(api_version: str, plural: str, namespace: str | None = None, name: str | None = None) -> str:
    """As the API server lays them out: /apis/kubevirt.io/v1/namespaces/a/virtualmachines/b"""
    base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{base}{scope}/{plural}" + (f"/{name}" if name else "")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The header's seconds, or None if there is none (an HTTP date is not what API servers send)."""
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None


async def in_parallel(function: Callable[[Any], Awaitable[None]], work: Sequence[Any], at_once: int = WRITES_AT_ONCE) -> None:
    """Await function(item) of all, so many at a time. The first error ends the rest, and is raised."""
    slots = asyncio.Semaphore(at_once)

    async def one(item: Any) -> None:
        async with slots:
            await function(item)

    try:
        async with asyncio.TaskGroup() as group:
            for item in work:
                group.create_task(one(item))
    except* Exception as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


def network_reason(error: BaseException) -> str:
    """One line for an exception of the network: some carry no text, and asyncio's and aiohttp's leave out why a connect failed."""
    from aiohttp import ClientPayloadError

    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ClientPayloadError):  # in aiohttp's words: 400, not enough data to satisfy transfer length header
        return "the connection broke in the middle of the answer"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {cause.verify_message}"
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)  # the resolver's numbers are below 0
    return " ".join(str(error).split()) or type(error).__name__


def _decode(body: bytes) -> Object:
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ClusterError(f"the server's answer is not JSON: {body[:80]!r}") from error
    return decoded if isinstance(decoded, dict) else {}


def _status_object(body: bytes) -> Object:
    """A refusal's Status. Proxies in front of an API server answer in HTML, and webhooks in plain text."""
    try:
        return _decode(body)
    except ClusterError:
        return {"message": " ".join(body[:200].decode("utf-8", "replace").split())}
