"""One run at a time: taken, renewed, released, refused, taken over, lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.cluster.lease import Lease, holder_identity
from pytest_vmscale.cluster.requests import Cluster

from .scripted import serving

SHORT = {"duration_seconds": 0.4, "renew_every_seconds": 0.05}


class Leases:
    """One lease, with versions and conflicts as an API server has them."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken = False
        self.silent = False

    async def __call__(self, request: web.Request) -> web.Response:
        while self.silent:
            await asyncio.sleep(0.05)
        if self.broken:
            return web.json_response({"message": "down"}, status=503)
        if request.method == "GET":
            return web.json_response(self.lease) if self.lease else web.json_response({"reason": "NotFound"}, status=404)
        sent = await request.json()
        if request.method == "POST" and self.lease:
            return web.json_response({"reason": "AlreadyExists"}, status=409)
        if request.method == "PUT":
            if self.lease is None:
                return web.json_response({"reason": "NotFound"}, status=404)
            if sent["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return web.json_response({"reason": "Conflict"}, status=409)
        return web.json_response(self.store(sent))

    def store(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self.version)}}
        return self.lease

    @property
    def holder(self) -> str | None:
        return self.lease["spec"]["holderIdentity"] if self.lease else None


def with_cluster(leases: Leases, tmp_path: Path, work: Callable[[Cluster], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving(leases, tmp_path) as cluster:
            await asyncio.wait_for(work(cluster), 20)

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_taken_renewed_and_released(tmp_path: Path) -> None:
    leases, lost = Leases(), []  # type: ignore[var-annotated]

    async def work(cluster: Cluster) -> None:
        async with Lease(cluster, "run-1", lost.append, **SHORT):
            assert leases.holder == "run-1"
            await until(lambda: leases.version >= 4)
        assert leases.holder == ""
        async with Lease(cluster, "run-2", lost.append, **SHORT):  # at once
            assert leases.holder == "run-2" and leases.lease is not None and leases.lease["spec"]["leaseTransitions"] == 1

    with_cluster(leases, tmp_path, work)
    assert lost == []


def test_a_live_run_keeps_others_off_and_is_named(tmp_path: Path) -> None:
    leases = Leases()

    async def work(cluster: Cluster) -> None:
        async with Lease(cluster, "run-1", print, **SHORT):
            with pytest.raises(ClusterError, match=r"is in use: the run 'run-1' holds the lease default/vmscale-run"):
                await Lease(cluster, "run-2", print, **SHORT).take()
            assert leases.holder == "run-1"

    with_cluster(leases, tmp_path, work)


def test_a_dead_runs_lease_is_taken_over_whatever_the_clocks_say(tmp_path: Path) -> None:
    leases = Leases()
    # Its renewTime lies in the future of our clock: what counts is that it does not change.
    leases.store(
        {
            "metadata": {"name": "vmscale-run"},
            "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2099-01-01T00:00:00.000000Z"},
        }
    )

    async def work(cluster: Cluster) -> None:
        async with Lease(cluster, "run-2", print, **SHORT):
            assert leases.holder == "run-2"

    with_cluster(leases, tmp_path, work)


def test_of_two_that_start_together_one_wins(tmp_path: Path) -> None:
    leases = Leases()

    async def work(cluster: Cluster) -> None:
        both = [Lease(cluster, name, print, **SHORT) for name in ("run-1", "run-2")]
        results = await asyncio.gather(*(lease.take() for lease in both), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["ClusterError", "NoneType"]
        for lease in both:
            await lease.release()

    with_cluster(leases, tmp_path, work)


def test_a_lease_that_another_takes_is_lost_and_not_taken_back(tmp_path: Path) -> None:
    leases, lost = Leases(), []  # type: ignore[var-annotated]

    async def work(cluster: Cluster) -> None:
        lease = Lease(cluster, "run-1", lost.append, **SHORT)
        await lease.take()
        assert leases.lease is not None
        leases.store({**leases.lease, "spec": {**leases.lease["spec"], "holderIdentity": "thief"}})
        await until(lambda: lost)
        await lease.release()
        assert leases.holder == "thief"

    with_cluster(leases, tmp_path, work)
    assert lost == ["the lease default/vmscale-run is now held by 'thief': another run is on this cluster"]


def test_a_server_that_does_not_answer_is_told_in_words(tmp_path: Path) -> None:
    leases, told = Leases(), []  # type: ignore[var-annotated]

    async def work(cluster: Cluster) -> None:
        lease = Lease(cluster, "run-1", pytest.fail, tell=told.append, **SHORT)
        await lease.take()
        leases.silent = True
        await until(lambda: told)
        leases.silent = False
        await lease.release()

    with_cluster(leases, tmp_path, work)
    assert told[0].endswith(" s: no answer in time")


def test_an_outage_shorter_than_the_lease_is_survived_and_a_longer_one_is_told_and_survived(tmp_path: Path) -> None:
    leases, told = Leases(), []  # type: ignore[var-annotated]

    async def work(cluster: Cluster) -> None:
        lease = Lease(cluster, "run-1", pytest.fail, tell=told.append, duration_seconds=1.0, renew_every_seconds=0.05)
        await lease.take()
        leases.broken = True
        await asyncio.sleep(0.2)
        leases.broken = False
        version = leases.version
        await until(lambda: leases.version > version)
        assert told == []
        leases.broken = True
        await until(lambda: told)
        await asyncio.sleep(0.2)
        assert len(told) == 1
        leases.broken = False
        await until(lambda: len(told) == 2)
        version = leases.version
        await until(lambda: leases.version > version)
        assert leases.holder == "run-1"
        await lease.release()

    with_cluster(leases, tmp_path, work)
    assert "could not be renewed for" in told[0] and "is renewed again, after" in told[1]


def test_a_lease_that_another_took_during_an_outage_is_lost(tmp_path: Path) -> None:
    leases, lost, told = Leases(), [], []  # type: ignore[var-annotated, var-annotated]

    async def work(cluster: Cluster) -> None:
        lease = Lease(cluster, "run-1", lost.append, tell=told.append, **SHORT)
        await lease.take()
        leases.broken = True
        await until(lambda: told)
        assert leases.lease is not None and not lost
        leases.store({**leases.lease, "spec": {**leases.lease["spec"], "holderIdentity": "run-2"}})
        leases.broken = False
        await until(lambda: lost)
        await lease.release()
        assert leases.holder == "run-2"

    with_cluster(leases, tmp_path, work)
    assert lost == ["the lease default/vmscale-run is now held by 'run-2': another run is on this cluster"]


def test_two_runs_of_one_name_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = holder_identity("nightly")
    monkeypatch.setattr("os.getpid", lambda: 1)
    other = holder_identity("nightly")

    async def work(cluster: Cluster) -> None:
        async with Lease(cluster, one, pytest.fail, **SHORT):
            with pytest.raises(ClusterError, match="'nightly .*' holds the lease"):
                await Lease(cluster, other, pytest.fail, **SHORT).take()

    with_cluster(Leases(), tmp_path, work)
