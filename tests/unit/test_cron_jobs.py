"""Schedules, and the Jobs that CronJobs make of them, on the Kubernetes side without a server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from pytest_vmscale.embedded.api.cron import Schedule
from pytest_vmscale.embedded.controllers.cronjobs import SCHEDULED, CronJobs
from pytest_vmscale.embedded.controllers.garbage import GarbageCollector
from pytest_vmscale.embedded.controllers.jobs import Jobs
from pytest_vmscale.embedded.controllers.kubelet import Kubelet
from pytest_vmscale.embedded.controllers.nodes import NodeLifecycle, Nodes
from pytest_vmscale.embedded.controllers.scheduler import Scheduler

from .kubernetes_side import StandIn, running

RUN = (Nodes, NodeLifecycle, Scheduler, Kubelet, GarbageCollector, Jobs, CronJobs)


@pytest.mark.parametrize("text, after, expected", [
    ("* * * * *", "2026-01-01T00:00:30", "2026-01-01T00:01:00"), ("*/15 * * * *", "2026-01-01T00:45:00", "2026-01-01T01:00:00"),
    ("5,10-12 3 * * *", "2026-01-01T03:05:00", "2026-01-01T03:10:00"), ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
    ("0 12 * * MON-FRI", "2026-01-02T12:00:00", "2026-01-05T12:00:00"), ("0 0 13 * fri", "2026-03-01T00:00:00", "2026-03-06T00:00:00"),
    ("30/10 * ? jan *", "2026-01-31T23:50:00", "2027-01-01T00:30:00"), ("@monthly", "2026-01-01T00:00:00", "2026-02-01T00:00:00"),
    ("@every 1h30m", "2026-01-01T00:00:00", "2026-01-01T01:30:00"), ("0 0 31 2 *", "2026-01-01T00:00:00", None)])
def test_when_a_schedule_comes_next(text: str, after: str, expected: str | None) -> None:
    found = Schedule(text).after(datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert found == (datetime.fromisoformat(expected).replace(tzinfo=UTC) if expected else None)


@pytest.mark.parametrize("text, complaint", [
    ("bad", "expected exactly 5 fields, found 1: [bad]"), ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
    ("60 * * * *", "end of range (60) above maximum (59): 60"), ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
    ("*/0 * * * *", "step of range should be a positive number: */0"), ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
    ("1-2-3 * * * *", "too many hyphens: 1-2-3"), ("1/2/3 * * * *", "too many slashes: 1/2/3"), ("* * * * 7", "end of range (7) above maximum (6): 7"),
    ("a * * * *", 'failed to parse int from a: strconv.Atoi: parsing "a": invalid syntax'), ("@nope", "unrecognized descriptor: @nope")])
def test_what_is_no_schedule(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as error:
        Schedule(text)
    assert str(error.value) == complaint


def cron_job(command: str = "true", schedule: str = "* * * * *", **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "registry/busybox:1", "command": ["sh", "-c", command]}
    template = {"metadata": {}, "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}}
    return {"metadata": {"name": "cj"}, "spec": {"schedule": schedule, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {
        "backoffLimit": 0, "template": template}}, **spec}}


def jobs(cluster: StandIn) -> list[Any]:
    return cluster.list("jobs.batch", "ns")


def status(cluster: StandIn) -> Any:
    return cluster.get("cronjobs.batch", "cj").get("status") or {}


def play(obj: dict[str, Any], then: Any) -> None:
    async def scenario() -> None:
        async with running(StandIn(), *RUN) as cluster:
            cluster.create("cronjobs.batch", obj)
            await then(cluster)

    asyncio.run(scenario())


def test_a_job_each_minute_and_so_many_kept() -> None:
    async def then(cluster: StandIn) -> None:
        await cluster.until(lambda: len(cluster.events("SawCompletedJob")) >= 1 and len(jobs(cluster)) >= 2)
        first, second = (int(job["metadata"]["name"].removeprefix("cj-")) for job in jobs(cluster)[:2])
        assert second == first + 1
        job = jobs(cluster)[0]
        due = datetime.fromisoformat(job["metadata"]["annotations"][SCHEDULED])
        assert (due.timestamp(), due.second) == (first * 60, 0) and job["metadata"]["labels"] == {"a": "b"}
        assert job["metadata"]["ownerReferences"][0]["kind"] == "CronJob" and job["spec"]["completions"] == 1
        await cluster.until(lambda: len(cluster.events("SuccessfulDelete")) >= 1 and len([each for each in jobs(cluster) if each["status"].get("completionTime")]) == 2)
        assert status(cluster)["lastScheduleTime"] >= status(cluster)["lastSuccessfulTime"][:16]

    play(cron_job(successfulJobsHistoryLimit=2), then)


def test_one_at_a_time() -> None:
    async def then(cluster: StandIn) -> None:
        await cluster.until(lambda: cluster.events("JobAlreadyActive"))
        assert len(jobs(cluster)) == 1 and [each["name"] for each in status(cluster)["active"]] == [jobs(cluster)[0]["metadata"]["name"]]

    play(cron_job("sleep 100000", concurrencyPolicy="Forbid"), then)


def test_the_new_one_in_place_of_the_old() -> None:
    async def then(cluster: StandIn) -> None:
        first = (await cluster.until(lambda: jobs(cluster)))[0]["metadata"]["name"]
        await cluster.until(lambda: jobs(cluster) and first not in [job["metadata"]["name"] for job in jobs(cluster)])
        await cluster.until(lambda: len(status(cluster).get("active", ())) == 1 and status(cluster)["active"][0]["name"] != first)

    play(cron_job("sleep 100000", concurrencyPolicy="Replace"), then)


def test_none_while_it_is_suspended() -> None:
    async def then(cluster: StandIn) -> None:
        await cluster.clock.sleep(200)
        assert not jobs(cluster)
        before = cluster.clock.epoch + cluster.clock.now()
        cluster.change("cronjobs.batch", "cj", lambda obj: obj["spec"].update(suspend=False))
        await cluster.until(lambda: jobs(cluster))
        # Of those that were missed the last alone. The next minute's may be there as well by now.
        assert min(int(job["metadata"]["name"].removeprefix("cj-")) for job in jobs(cluster)) >= before // 60

    play(cron_job("sleep 100000", suspend=True), then)


def test_a_run_that_is_too_late_is_left_out() -> None:
    async def then(cluster: StandIn) -> None:
        now = cluster.clock.epoch + cluster.clock.now()
        await cluster.clock.sleep(90 - now % 60)  # half a minute past
        cluster.change("cronjobs.batch", "cj", lambda obj: obj["spec"].update(suspend=False))
        await cluster.clock.sleep(10)
        assert not jobs(cluster)
        await cluster.until(lambda: jobs(cluster))

    play(cron_job(suspend=True, startingDeadlineSeconds=12), then)
