"""The boot storm, against a miniature of KubeVirt whose guests come up, fail, vanish or never answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.guest.login import Credentials
from pytest_vmscale.guest.probe import Readiness
from pytest_vmscale.model import Fleet, Measurement, Status
from pytest_vmscale.procedures.boot_storm import Progress, boot_storm
from pytest_vmscale.records import BootRecord

from .miniature import Miniature, MiniatureRoute, make_fleet, miniature_cluster

INTERVAL_SECONDS = 2.0


def storm(
    miniature: Miniature,
    tmp_path: Path,
    fleet: Fleet,
    *,
    deadline_seconds: float = 3000.0,
    meanwhile: Callable[[Miniature], Any] | None = None,
    **more: Any,
) -> Measurement:
    async def run() -> Measurement:
        async with miniature_cluster(miniature, tmp_path) as (cluster, clock):
            beside = asyncio.create_task(meanwhile(miniature)) if meanwhile else None
            try:
                async with asyncio.timeout(30):
                    return await boot_storm(
                        cluster,
                        fleet,
                        clock,
                        run_id="r1",
                        route=MiniatureRoute(miniature),
                        readiness={"rhel": Readiness.ssh(), "windows": Readiness.tcp(3389)},
                        ssh_interval_seconds=INTERVAL_SECONDS,
                        deadline_seconds=deadline_seconds,
                        parameters={"vms": len(fleet.guests)},
                        **more,
                    )
            finally:
                if beside:
                    beside.cancel()

    return asyncio.run(run())


def one(measurement: Measurement, name: str = "vm") -> BootRecord:
    (record,) = [record for record in measurement.records if record.vm_name == name]
    return record


def test_a_storm_of_guests_that_boot(tmp_path: Path) -> None:
    miniature = Miniature()
    fleet = make_fleet("a", "b", "c")
    settled: list[BootRecord] = []
    progress: list[Progress] = []
    measurement = storm(miniature, tmp_path, fleet, on_record=settled.append, on_progress=progress.append)
    assert sorted(miniature.starts) == ["a", "b", "c"]
    assert [record.vm_name for record in measurement.records] == ["a", "b", "c"]
    assert sorted(record.vm_name for record in settled) == ["a", "b", "c"]
    assert measurement.complete and measurement.gaps == () and not measurement.failed
    for record in measurement.records:
        times = [
            0.0,
            record.time_to_vm_created_seconds,
            record.time_to_vmi_running_seconds,
            record.time_to_vmi_ready_seconds,
            record.time_to_ssh_seconds,
        ]
        assert all(time is not None for time in times) and times == sorted(times)  # type: ignore[type-var]
        assert record.time_to_guest_ip_seconds == record.time_to_vmi_running_seconds
        assert [moment.phase for moment in record.timeline] == ["created", "Scheduling", "Scheduled", "Running", "ip", "Ready", "ssh"]
        assert not any(moment.upper_bound for moment in record.timeline)
        assert (record.node, record.last_phase, record.error) == ("worker-1", "Running", None)
        # It was probed from Running on, and the last probe that failed bounds the error.
        assert record.probes >= 2 and record.time_to_ssh_seconds is not None and record.time_to_vmi_running_seconds is not None
        assert record.error_bound_seconds is not None
        assert 0 < record.error_bound_seconds <= record.time_to_ssh_seconds - record.time_to_vmi_running_seconds
    ends = [record.requested_at + (record.time_to_ssh_seconds or 0) for record in measurement.records]
    assert measurement.duration_seconds == pytest.approx(max(ends))
    assert min(record.requested_at for record in measurement.records) == 0.0
    assert measurement.details["requests_sent"] == measurement.details["requests_accepted"] == 3
    assert measurement.details["request_retries"] == {}
    assert progress[-1].up == progress[-1].total == 3


def test_a_guest_without_ssh_counts_by_its_port_and_is_not_logged_in_to(tmp_path: Path) -> None:
    measurement = storm(Miniature(), tmp_path, make_fleet("vm", os="windows"), prove_login=lambda guest: Credentials("Administrator"))
    assert one(measurement).succeeded
    assert one(measurement).timeline[-1].phase == "tcp-3389"
    assert measurement.details["login"]["ok"] is None


@pytest.mark.parametrize(
    ("fate", "status", "error"),
    [
        (
            Miniature.runs,
            Status.TIMED_OUT,
            r"not up within 100 s; last phase Running; \d+ probes of 10.0.0.1 port 22, the last: Connection refused",
        ),
        (Miniature.gets_no_address, Status.TIMED_OUT, "last phase Running; it never got an address"),
        (Miniature.stays_unschedulable, Status.TIMED_OUT, "last phase Scheduling: 0/3 nodes are available"),
        (Miniature.never_comes, Status.TIMED_OUT, "it had no VMI within 100 s"),
        (Miniature.vanishes, Status.FAILED, "its VMI was deleted in phase Running"),
        (Miniature.vanishes_unseen, Status.FAILED, "its VMI was deleted in phase Running"),
        (Miniature.fails, Status.FAILED, "its VMI ended in phase Failed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_guest_that_does_not_come_up_stays_in_the_sample(tmp_path: Path, fate: Any, status: Status, error: str) -> None:
    measurement = storm(Miniature(vm=fate), tmp_path, make_fleet("other", "vm"), deadline_seconds=100.0)
    record = one(measurement)
    assert record.status is status
    assert record.error is not None
    assert re.search(error, record.error)
    assert record.time_to_ssh_seconds is None and record.error_bound_seconds is None
    assert one(measurement, "other").succeeded
    assert measurement.complete
    sample = measurement.sample("time_to_ssh_seconds")
    assert (sample.size, sample.censored) == (2, 1)
    assert measurement.duration_seconds == pytest.approx(one(measurement, "other").time_to_ssh_seconds, abs=1.0)


def test_nothing_up_has_no_duration(tmp_path: Path) -> None:
    measurement = storm(Miniature(vm=Miniature.never_comes), tmp_path, make_fleet("vm"), deadline_seconds=20.0)
    assert measurement.duration_seconds is None


def test_a_refused_start_is_a_failure_with_the_servers_words(tmp_path: Path) -> None:
    miniature = Miniature()
    miniature.refusals["vm"] = [web.json_response({"message": "VM is already running", "reason": "Conflict"}, status=409)]
    measurement = storm(miniature, tmp_path, make_fleet("vm", "other"))
    assert (one(measurement).status, one(measurement).error) == (Status.FAILED, "the start request failed: VM is already running")
    assert measurement.details["requests_refused"] == 1
    assert one(measurement, "other").succeeded


def test_retries_of_a_start_are_recorded_and_counted_into_its_time(tmp_path: Path) -> None:
    miniature = Miniature()
    miniature.refusals["vm"] = [web.json_response({"reason": "TooManyRequests"}, status=429, headers={"Retry-After": "30"})]
    record = one(measurement := storm(miniature, tmp_path, make_fleet("vm")))
    assert record.request_retries == ("429 TooManyRequests",)
    assert measurement.details["request_retries"] == {"429 TooManyRequests": 1} and measurement.details["requests_sent"] == 2
    assert record.time_to_ssh_seconds is not None and record.time_to_ssh_seconds > 30  # t0 is the first try's


def test_a_start_whose_answer_was_lost_is_a_start(tmp_path: Path) -> None:
    miniature = Miniature()
    running = web.json_response({"message": "VM is already running", "reason": "Conflict"}, status=409)
    miniature.refusals["vm"] = [None, running]
    record = one(storm(miniature, tmp_path, make_fleet("vm")))
    assert record.succeeded and len(record.request_retries) == 1


def test_an_expired_watch_leaves_a_gap_and_upper_bounds(tmp_path: Path) -> None:
    async def blind(miniature: Miniature, name: str) -> None:
        miniature.put(name)
        await asyncio.sleep(0.05)
        watchers, miniature.watchers = miniature.watchers, []
        for phase in ("Scheduling", "Scheduled"):
            miniature.put(name, phase)
        miniature.put(name, "Running", interfaces=[{"ipAddress": "10.0.0.1"}])
        miniature.watchers = watchers
        miniature.expire_watches()
        miniature.up.add(name)

    measurement = storm(Miniature(vm=blind), tmp_path, make_fleet("vm"))
    record = one(measurement)
    assert record.succeeded
    bounds = {moment.phase: moment.upper_bound for moment in record.timeline}
    assert bounds == {"created": False, "Scheduling": True, "Scheduled": True, "Running": True, "ip": True, "ssh": False}
    # It answered the first probe, and may have been up ever since it was last seen not to run: not just since the relist.
    created = record.time_to_vm_created_seconds
    assert record.probes == 1 and record.time_to_ssh_seconds is not None and created is not None
    assert record.error_bound_seconds == pytest.approx(record.time_to_ssh_seconds - created)
    (gap,) = measurement.gaps
    assert gap.kind == "virtualmachineinstances" and "410" in gap.reason and gap.end_seconds >= gap.start_seconds >= 0
    assert measurement.details["watch_relists"] == 1 and measurement.details["upper_bounds"] == 4


def test_a_fleet_that_is_not_stopped_is_not_stormed(tmp_path: Path) -> None:
    miniature = Miniature()
    miniature.put("vm", "Running")
    with pytest.raises(ClusterError, match="1 of the fleet's VMs are not stopped"):
        storm(miniature, tmp_path, make_fleet("vm", "other"))
    assert miniature.starts == []


def test_other_vms_are_nothing_to_it(tmp_path: Path) -> None:
    miniature = Miniature()
    miniature.put("neighbour", "Running")
    measurement = storm(miniature, tmp_path, make_fleet("vm"))
    assert [record.vm_name for record in measurement.records] == ["vm"] and one(measurement).succeeded


def test_an_interruption_leaves_what_was_measured(tmp_path: Path) -> None:
    partial: list[Measurement] = []

    async def run() -> None:
        miniature = Miniature(slow=Miniature.runs)
        async with miniature_cluster(miniature, tmp_path) as (cluster, clock):
            work = asyncio.create_task(
                boot_storm(
                    cluster,
                    make_fleet("fast", "slow"),
                    clock,
                    run_id="r1",
                    route=MiniatureRoute(miniature),
                    readiness={"rhel": Readiness.ssh()},
                    ssh_interval_seconds=INTERVAL_SECONDS,
                    deadline_seconds=1e6,
                    parameters={},
                    on_record=lambda record: work.cancel(),
                    on_partial=partial.append,
                )
            )
            with pytest.raises(asyncio.CancelledError):
                await work
            before = dict(miniature.asked)
            await asyncio.sleep(0.1)
            assert miniature.asked == before, "probes went on after the end"

    asyncio.run(run())
    (measurement,) = partial
    assert (measurement.complete, measurement.incomplete_reason) == (False, "interrupted")
    assert one(measurement, "fast").succeeded
    assert (
        one(measurement, "slow").status is Status.TIMED_OUT and one(measurement, "slow").error == "the storm was cut short before it was up"
    )


def test_a_callback_that_fails_ends_the_storm_with_its_error(tmp_path: Path) -> None:
    def full(record: BootRecord) -> None:
        raise OSError(28, "No space left on device")

    partial: list[Measurement] = []
    with pytest.raises(OSError, match="No space left"):
        storm(Miniature(), tmp_path, make_fleet("a", "b"), on_record=full, on_partial=partial.append)
    assert len(partial) == 1 and not partial[0].complete


def test_bad_input() -> None:
    with pytest.raises(ClusterError, match="a boot storm of no VMs measures nothing"):
        asyncio.run(
            boot_storm(
                None,
                Fleet("r", "f", ()),
                None,
                run_id="r",
                route=None,
                readiness={},
                ssh_interval_seconds=1,
                deadline_seconds=1,
                parameters={},
            )
        )  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="nothing says when a guest of rhel is up"):
        asyncio.run(
            boot_storm(
                None, make_fleet("a"), None, run_id="r", route=None, readiness={}, ssh_interval_seconds=1, deadline_seconds=1, parameters={}
            )
        )  # type: ignore[arg-type]


def test_guests_that_nobody_could_watch_are_not_counted_as_lost(tmp_path: Path) -> None:
    class Away(Miniature):
        """After the starts its lists and watches fail until the end."""

        async def __call__(self, request: web.Request) -> web.StreamResponse:
            if self.starts and not request.path.endswith("/start"):
                return web.Response(status=503)
            return await super().__call__(request)

    async def break_watches(miniature: Miniature) -> None:
        while not miniature.starts:
            await asyncio.sleep(0.001)
        miniature.send(None)
        miniature.watchers.clear()

    async def waits(miniature: Miniature, name: str) -> None:
        await asyncio.sleep(0.1)
        await Miniature.boots(miniature, name)

    partial: list[Measurement] = []
    with pytest.raises(ClusterError, match=r"what became of 2 VMs could not be seen: .*\(the server ended the stream\)"):
        storm(
            Away(a=waits, b=waits),
            tmp_path,
            make_fleet("a", "b"),
            deadline_seconds=100.0,
            meanwhile=break_watches,
            on_partial=partial.append,
        )
    assert not partial[0].complete
