"""A tiny API server whose answers a test scripts: what servers do to clients on a bad day."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import load_access
from pytest_vmscale.cluster.requests import Cluster, RateLimit

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Backoffs and Retry-After are cluster time: at this rate no test waits for them.
RATE = 1000.0


class Scripted:
    """Answers each request with the next step of its script: a handler, or the last one over and over."""

    def __init__(self, *steps: Handler) -> None:
        self.steps = list(steps)
        self.requests: list[web.Request] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return await step(request)


@asynccontextmanager
async def serving(
    handler: Handler, tmp_path: Path, *, rate_limit: tuple[float, int] | None = None, rate: float = RATE
) -> AsyncIterator[Cluster]:
    async def route(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", route)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    clock = Clock(rate)
    limit = RateLimit(clock, *rate_limit) if rate_limit else None
    try:
        async with Cluster(load_access(kubeconfig(tmp_path, f"http://127.0.0.1:{port}")), clock, rate_limit=limit) as cluster:
            yield cluster
    finally:
        await runner.cleanup()


def kubeconfig(tmp_path: Path, server: str, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
                "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
            }
        )
    )
    return path


def answer(body: object, status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return handler


def refusal(status: int, reason: str = "", message: str = "no", **headers: str) -> Handler:
    return answer({"kind": "Status", "code": status, "reason": reason, "message": message}, status, **headers)


def reset() -> Handler:
    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return handler


def thing(name: str, version: int, *, uid: str | None = None, namespace: str = "a", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}, **more}


def listed(version: int, *things: dict[str, Any], more: str = "") -> Handler:
    return answer({"kind": "List", "metadata": {"resourceVersion": str(version), "continue": more}, "items": list(things)})


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def expired_event() -> bytes:
    """As servers send it: `status` is a word here, and an object in everything that is watched."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410}
    return event("ERROR", {**status, "message": "The resourceVersion for the provided watch is too old."})


def stream(*chunks: bytes, then: str = "end") -> Handler:
    """Then: end the stream, hang until the client goes, or reset the connection."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        if then == "hang":
            await asyncio.sleep(3600)
        if then == "reset":
            await asyncio.sleep(0.02)
            assert request.transport is not None
            request.transport.abort()
        return response

    return handler
