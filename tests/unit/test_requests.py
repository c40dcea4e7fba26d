"""Requests: what is retried, what is not, what is recorded, and what the user is told."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import ClusterError, load_access
from pytest_vmscale.cluster.requests import ApiError, Attempt, Cluster, RateLimit, in_parallel, network_reason, resource_path, retry_after

from .scripted import Handler, Scripted, answer, kubeconfig, listed, refusal, reset, serving, thing

PATH = "/api/v1/namespaces/a/things"
KEY = ConnectionKey("api.example.com", 6443, True, True, None, None, None)


def ask(tmp_path: Path, script: Scripted, question: Callable[[Cluster], Awaitable[Any]], **how: Any) -> Any:
    async def run() -> Any:
        async with serving(script, tmp_path, **how) as cluster:
            return await asyncio.wait_for(question(cluster), 20)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (refusal(429, "TooManyRequests", Retry_After="1"), "429 TooManyRequests"),
        (refusal(503, "ServiceUnavailable"), "503 ServiceUnavailable"),
        (reset(), ""),
    ],
    ids=["429", "503", "reset"],
)
def test_transient_failures_are_tried_again_and_every_try_is_recorded(tmp_path: Path, failure: Handler, reason: str) -> None:
    script = Scripted(failure, failure, answer({"ok": True}))
    got = ask(tmp_path, script, lambda c: c.send("PUT", PATH, body={}))
    assert got.object == {"ok": True}
    assert len(got.attempts) == len(script.requests) == 3
    first, second, last = got.attempts
    assert first.reason and first.reason.startswith(reason) and last.reason == "" and last.status == 200
    assert first.sent <= first.ended <= second.sent <= second.ended <= last.sent <= last.ended


def test_retry_after_is_waited_for_in_cluster_time(tmp_path: Path) -> None:
    script = Scripted(refusal(429, "TooManyRequests", Retry_After="30"), answer({}))
    got = ask(tmp_path, script, lambda c: c.send("GET", PATH), rate=300.0)
    waited_wall = got.attempts[1].sent - got.attempts[0].ended
    assert waited_wall * 300 >= 30


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422, 429], ids=str)
def test_refusals_are_not_tried_again(tmp_path: Path, status: int) -> None:
    """A 429 without Retry-After is an eviction's, which asking again does not change."""
    script = Scripted(refusal(status, "Reason", "the server's words"))
    with pytest.raises(ApiError, match="the server's words") as caught:
        ask(tmp_path, script, lambda c: c.send("POST", PATH, body={}))
    assert (caught.value.status, caught.value.reason, len(script.requests)) == (status, "Reason", 1)


def test_gives_up_after_the_last_try_with_all_of_them(tmp_path: Path) -> None:
    script = Scripted(refusal(500, "InternalError", "etcd"))
    log: list[Attempt] = []
    with pytest.raises(ApiError, match="etcd") as caught:
        ask(tmp_path, script, lambda c: c.send("GET", PATH, tries=4, attempts=log))
    assert len(script.requests) == len(caught.value.attempts) == len(log) == 4


def test_t0_is_stamped_before_the_request_arrives(tmp_path: Path) -> None:
    arrived: list[float] = []
    stamps: list[float] = []

    async def handler(request: web.Request) -> web.Response:
        arrived.append(time.monotonic())
        return web.json_response({}) if len(arrived) > 1 else web.json_response({}, status=503)

    ask(tmp_path, Scripted(handler), lambda c: c.send("PUT", PATH, on_sent=stamps.append))
    assert len(stamps) == 1 and stamps[0] < arrived[0] < arrived[1]


def test_an_own_object_found_after_a_lost_answer_is_no_error(tmp_path: Path) -> None:
    script = Scripted(reset(), refusal(409, "AlreadyExists"), answer(thing("one", 1)))
    got = ask(tmp_path, script, lambda c: c.create(PATH, {"metadata": {"name": "one"}}))
    assert got["metadata"]["name"] == "one"
    assert [r.method for r in script.requests] == ["POST", "POST", "GET"]


def test_an_own_object_that_may_not_be_read_is_none_either(tmp_path: Path) -> None:
    script = Scripted(reset(), refusal(409, "AlreadyExists"), refusal(403, "Forbidden"))
    assert ask(tmp_path, script, lambda c: c.create(PATH, {"metadata": {"name": "one"}})) == {"metadata": {"name": "one"}}


def test_somebody_elses_object_is_an_error(tmp_path: Path) -> None:
    script = Scripted(refusal(429, Retry_After="0"), refusal(409, "AlreadyExists", "exists"))
    with pytest.raises(ApiError, match="exists"):
        ask(tmp_path, script, lambda c: c.create(PATH, {"metadata": {"name": "one"}}))


def test_warm_connections_are_used_by_what_comes_next(tmp_path: Path) -> None:
    peers: dict[str, set[object]] = {"GET": set(), "PUT": set()}

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers[request.method].add(request.transport.get_extra_info("peername"))
        await asyncio.sleep(0.1)
        return web.json_response({})

    async def question(cluster: Cluster) -> None:
        await cluster.warm_up(30)
        await asyncio.gather(*(cluster.send("PUT", PATH) for _ in range(30)))

    ask(tmp_path, Scripted(handler), question)
    assert len(peers["GET"]) == 30 and peers["PUT"] == peers["GET"]


def test_deleting_what_is_gone_is_done(tmp_path: Path) -> None:
    assert ask(tmp_path, Scripted(refusal(404, "NotFound")), lambda c: c.delete(PATH + "/one")) is None


def test_lists_come_in_pages(tmp_path: Path) -> None:
    script = Scripted(listed(5, thing("one", 1), more="t&="), listed(5, thing("two", 2)))
    got = ask(tmp_path, script, lambda c: c.list_all(PATH, selector="a=b", page=1))
    assert [obj["metadata"]["name"] for obj in got] == ["one", "two"]
    assert script.requests[1].query == {"labelSelector": "a=b", "limit": "1", "continue": "t&="}


def test_the_token_is_sent_and_read_again_when_it_is_refused(tmp_path: Path) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        if len(seen) == 1:
            kubeconfig(tmp_path, f"http://{request.host}", user={"token": "fresh"})
            return web.json_response({"message": "Unauthorized"}, status=401)
        return web.json_response({})

    ask(tmp_path, Scripted(handler), lambda c: c.get(PATH))
    assert seen == ["Bearer secret", "Bearer fresh"]


def test_refused_credentials_say_so_once(tmp_path: Path) -> None:
    script = Scripted(refusal(401, "Unauthorized", "Unauthorized"))
    with pytest.raises(ClusterError, match=r"http://127.*does not accept the credentials of context 'here'.*401 Unauthorized"):
        ask(tmp_path, script, lambda c: c.get(PATH))
    assert len(script.requests) == 1


def test_a_missing_permission_is_named(tmp_path: Path) -> None:
    words = 'virtualmachines is forbidden: User "u" cannot list resource "virtualmachines"'
    with pytest.raises(ClusterError, match=f"http://127.*forbids it: {words}"):
        ask(tmp_path, Scripted(refusal(403, "Forbidden", words)), lambda c: c.get(PATH))


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with Cluster(load_access(kubeconfig(tmp_path, "http://127.0.0.1:1")), Clock(1000)) as cluster:
            await cluster.send("GET", "/version", tries=2)

    with pytest.raises(ClusterError, match=r"^http://127.0.0.1:1 cannot be reached: Connection refused$") as caught:
        asyncio.run(run())
    assert "\n" not in str(caught.value)


def test_an_html_answer_of_a_proxy_is_an_error_in_one_line(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="<html>\n<b>Bad gateway</b>", status=400)

    with pytest.raises(ApiError, match="400 <html> <b>Bad gateway"):
        ask(tmp_path, Scripted(handler), lambda c: c.get(PATH))


def test_paths_come_from_what_the_server_serves(tmp_path: Path) -> None:
    served = answer(
        {
            "resources": [
                {"name": "virtualmachines", "kind": "VirtualMachine", "namespaced": True},
                {"name": "virtualmachines/status", "kind": "VirtualMachine", "namespaced": True},
                {"name": "kubevirtthings", "kind": "Thing", "namespaced": False},
            ]
        }
    )

    async def paths(cluster: Cluster) -> list[str]:
        return [
            await cluster.path("kubevirt.io/v1", "VirtualMachine", "a", "b"),
            await cluster.path("kubevirt.io/v1", "VirtualMachine"),
            await cluster.path("kubevirt.io/v1", "Thing", "a"),
        ]

    script = Scripted(served)
    assert ask(tmp_path, script, paths) == [
        "/apis/kubevirt.io/v1/namespaces/a/virtualmachines/b",
        "/apis/kubevirt.io/v1/virtualmachines",
        "/apis/kubevirt.io/v1/kubevirtthings",
    ]
    assert [r.path for r in script.requests] == ["/apis/kubevirt.io/v1"]
    with pytest.raises(ClusterError, match=r"does not serve Sheep of kubevirt.io/v1"):
        ask(tmp_path, Scripted(served), lambda c: c.path("kubevirt.io/v1", "Sheep"))


def test_resource_paths() -> None:
    assert resource_path("v1", "pods", "a", "b") == "/api/v1/namespaces/a/pods/b"
    assert resource_path("apps/v1", "deployments") == "/apis/apps/v1/deployments"


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("0", 0.0), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after({"Retry-After": header} if header else {}) == seconds


class StillClock(Clock):
    """Stands still except when slept on: what is due when can be told exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.slept = 1000.0, []  # type: ignore[var-annotated]

    def now(self) -> float:
        return self.time

    async def sleep(self, cluster_seconds: float) -> None:
        self.slept.append(cluster_seconds)


def test_a_rate_limit_lets_its_burst_through_and_then_its_rate() -> None:
    async def run() -> tuple[list[float], list[float]]:
        clock = StillClock()
        limit = RateLimit(clock, per_second=4, burst=2)
        for _ in range(5):
            await limit.take()
        at_once, clock.slept = clock.slept, []
        clock.time += 100
        for _ in range(3):
            await limit.take()
        return at_once, clock.slept

    assert asyncio.run(run()) == ([0.25, 0.5, 0.75], [0.25])


def test_a_rate_limit_survives_a_clock_that_is_set_back() -> None:
    async def run() -> list[float]:
        clock = StillClock()
        limit = RateLimit(clock, per_second=1, burst=1)
        clock.time -= 86400
        await limit.take()
        return clock.slept

    assert asyncio.run(run()) == []


def test_in_parallel_raises_the_first_error_and_ends_the_rest() -> None:
    ended: list[int] = []

    async def work(item: int) -> None:
        if item == 1:
            raise ClusterError("one")
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(item)

    with pytest.raises(ClusterError, match="^one$"):
        asyncio.run(in_parallel(work, [0, 1, 2], at_once=2))
    assert 0 in ended


def _refused_certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)")), "Connection refused"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name or service not known")), "Name or service not known"),
        (aiohttp.ClientConnectorCertificateError(KEY, _refused_certificate()), "its certificate is not accepted: self-signed certificate"),
    ],
)
def test_what_the_network_says_is_told_in_its_own_words_and_not_in_aiohttps(error, told):
    assert network_reason(error) == told
