"""The workload's runner in guests: a real sshd and a real fio, and the embedded cluster's, told apart by nothing but their figures."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.embedded import timing as profiles
from pytest_vmscale.embedded.clock import MOST_BEHIND_WALL_SECONDS, SimClock
from pytest_vmscale.embedded.faults import Fault, Faults
from pytest_vmscale.embedded.guest_ssh import Sshd
from pytest_vmscale.embedded.guests import Guest, Guests, Volume
from pytest_vmscale.embedded.iomodel import Pool
from pytest_vmscale.embedded.truth import Truth
from pytest_vmscale.guest.fio import Dataset, Job
from pytest_vmscale.guest.login import Credentials
from pytest_vmscale.guest.route import Connection, DirectRoute, Target
from pytest_vmscale.guest.workload import Barrier, Check, Host, Offset, Timed, Trouble, Workload, one_after_the_other

from .real_guest import real_guest

DATASET = Dataset(directories=3, files_per_directory=2, file_bytes=1 << 20)
SPEED = 300.0
MIB = 1 << 20


@dataclass
class Lane:
    """Where the guests are, and how long jobs run there. `guests` is of the embedded lane alone."""

    hosts: list[Host]
    clock: Clock
    runtime_seconds: int
    guests: list[Guest]
    sshd: Sshd | None = None

    def workload(self, **more: Any) -> Workload:
        return Workload(self.hosts, DirectRoute(), self.clock, connections=4, **more)


@contextlib.asynccontextmanager
async def embedded_lane(
    folder: Path, count: int = 3, *plan: Fault, speed: float = SPEED, size_bytes: int = 40 << 30
) -> AsyncIterator[Lane]:
    sim = SimClock(speed)
    profile: Any = profiles.load()
    faults = Faults(sim, list(plan))
    sshd = Sshd(sim, 2222)

    def write(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
        return folder / name

    await sshd.start(folder / "key", write)
    pool = Pool(sim, profile.pool, faults, lambda: [f"worker-{number}" for number in range(10)])
    guests = Guests(
        sim,
        profile.guests.replaced(boot_seconds=dict.fromkeys(profile.guests.boot_seconds, 0.1)),
        faults,
        Truth(sim, None),
        1.0,
        sshd,
        pool,
    )
    booted = []
    for number in range(count):
        vmi = {"metadata": {"uid": f"11111111-2222-4333-8444-{number:012d}", "namespace": "lab", "name": f"vm{number}", "labels": {"vmscale.io/os": "rhel"}},
               "spec": {"domain": {}}, "status": {"nodeName": f"worker-{number}"}}  # fmt: skip
        booted.append(guests.boot(vmi, "", {}, Volume(f"claim-{number}", size_bytes)))
    while not all(guest.answers for guest in booted):
        await sim.sleep(0.1)
    hosts = [
        Host(f"lab/{guest.name}", Target("lab", guest.name, guest.address, sshd.port), Credentials("cloud-user", folder / "key"))
        for guest in booted
    ]
    clock = Clock(speed)

    def follow() -> None:
        clock.set(sim.speed, sim.epoch + sim.outside(), time.monotonic())

    sim.on_change(follow)
    follow()
    try:
        yield Lane(hosts, clock, 30, booted, sshd)
    finally:
        for guest in booted:
            guests.stop(guest.uid)
        await sshd.stop()


@contextlib.asynccontextmanager
async def real_lane(folder: Path) -> AsyncIterator[Lane]:
    with real_guest(folder) as (host, _):
        yield Lane([host], Clock(), 1, [])


Test = Callable[[Lane], Awaitable[None]]


def on_both(test: Test) -> Callable[..., None]:
    @pytest.mark.parametrize("lane", [real_lane, embedded_lane], ids=["real", "embedded"])
    def inside(lane: Any, tmp_path: Path) -> None:
        async def run() -> None:
            async with lane(tmp_path) as there:
                await test(there)

        asyncio.run(run())

    inside.__name__, inside.__doc__ = test.__name__, test.__doc__
    return inside


def on_embedded(tmp_path: Path, test: Test, *plan: Fault, **more: Any) -> None:
    async def run() -> None:
        async with embedded_lane(tmp_path, 3, *plan, **more) as lane:
            await test(lane)

    asyncio.run(run())


async def laid_out(workload: Workload) -> None:
    assert await workload.lay_out(DATASET, 600.0) == {}


@on_both
async def test_a_run_from_the_first_look_to_the_last_result(lane: Lane) -> None:
    told: list[tuple[str, int, int]] = []
    async with lane.workload(on_progress=lambda *progress: told.append(progress)) as workload:
        for check in (await workload.check(DATASET)).values():
            assert isinstance(check, Check) and check.version and check.version.startswith("fio-3.")
            assert check.free_bytes > DATASET.bytes and not check.laid_out
        await laid_out(workload)
        assert all(isinstance(check, Check) and check.laid_out for check in (await workload.check(DATASET)).values())
        other = replace(DATASET, directories=4)
        assert not any(isinstance(check, Check) and check.laid_out for check in (await workload.check(other)).values())

        jobs = [Job("reads", "read", iops=50, runtime_seconds=lane.runtime_seconds, ramp_seconds=1),
                Job("writes", "write", iops=100, runtime_seconds=lane.runtime_seconds, ramp_seconds=1)]  # fmt: skip
        barrier = await workload.start(one_after_the_other(jobs, gap_seconds=0.5))
        await workload.wait(barrier)
        runs = await workload.fetch(barrier, 60.0)

        assert set(runs) == set(workload.hosts)
        for run in runs.values():
            assert run.error is None and run.offset is not None and abs(run.offset.seconds) <= run.offset.bound_seconds + 1
            for job in jobs:
                done = run.jobs[job.name]
                assert done.error is None and done.result and done.result.job == job.name
                ((direction, measured),) = done.result.directions.items()
                assert direction == job.access
                assert measured.ios == measured.histogram.total
                assert measured.ios == pytest.approx(job.iops * job.runtime_seconds, rel=0.1)
                assert measured.min_ns <= measured.mean_ns <= measured.max_ns
                # The last bin holds the longest I/O.
                assert abs(max(measured.histogram.counts) - measured.max_ns) <= measured.max_ns / 64
        assert ("fetched", len(lane.hosts), len(lane.hosts)) in told
        assert await workload.remove() == {}
        assert not any(isinstance(check, Check) and check.laid_out for check in (await workload.check(DATASET)).values())


@on_both
async def test_a_run_that_is_given_up_leaves_nothing_running(lane: Lane) -> None:
    async with lane.workload() as workload:
        await workload.check(DATASET)
        await laid_out(workload)
        barrier = await workload.start([Timed(Job("endless", "read", iops=10, runtime_seconds=3600))])
        await workload.stop()
        await lane.clock.sleep(1.0)
        runs = await workload.fetch(barrier, 0.0)
        assert all(run.error and "endless had not ended" in run.error for run in runs.values())
        assert await workload.remove() == {}


@on_both
async def test_a_job_that_fails_says_what_fio_said(lane: Lane) -> None:
    async with lane.workload() as workload:
        await workload.check(DATASET)  # makes the folder, and no dataset
        barrier = await workload.start([Timed(Job("nothing-there", "read", iops=10, runtime_seconds=1, ramp_seconds=0))])
        await workload.wait(barrier)
        for run in (await workload.fetch(barrier, 60.0)).values():
            assert run.jobs["nothing-there"].result is None
            assert "opendir added 0 files" in (run.jobs["nothing-there"].error or "")
        await workload.remove()


def test_all_start_on_the_barrier_whatever_their_clocks_say(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        lane.guests[1].machine.clock_offset_seconds = 100.0
        lane.guests[2].machine.clock_offset_seconds = -50.0
        async with lane.workload() as workload:
            await workload.check(DATASET)
            await laid_out(workload)
            barrier = await workload.start([Timed(Job("reads", "read", iops=1, runtime_seconds=30))])
            await workload.wait(barrier)
            runs = await workload.fetch(barrier, 60.0)
        for run, ahead in zip(runs.values(), (0.0, 100.0, -50.0)):
            offset = run.offset
            # A moment's work takes the cluster no time: its own clock may be so far behind the one that tells of it.
            behind = 2 * MOST_BEHIND_WALL_SECONDS * SPEED
            assert isinstance(offset, Offset) and abs(offset.seconds - ahead) <= offset.bound_seconds + behind
            late = run.jobs["reads"].late_seconds
            assert late is not None and abs(late) <= 0.01

    on_embedded(tmp_path, test)


def test_a_barrier_that_was_too_near_is_put_off(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        async with lane.workload() as workload:
            await workload.check(DATASET)
            await laid_out(workload)
            workload._wall_each = -10.0  # as if guests were reached long before they are asked
            barrier = await workload.start([Timed(Job("reads", "read", iops=1, runtime_seconds=30))])
            assert barrier.tries == 2
            await workload.wait(barrier)
            for run in (await workload.fetch(barrier, 60.0)).values():
                late = run.jobs["reads"].late_seconds
                assert run.jobs["reads"].result and late is not None and abs(late) <= 0.01

    on_embedded(tmp_path, test)


def test_a_guest_that_starts_long_after_the_others_does_not_count(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        async with lane.workload() as workload:
            await workload.check(DATASET)
            await laid_out(workload)
            barrier = await workload.start([Timed(Job("reads", "read", iops=1, runtime_seconds=30))])
            early = Barrier(barrier.epoch - 60.0, barrier.timed, barrier.runs)  # as if it had been meant to start a minute before
            await workload.wait(barrier)
            for run in (await workload.fetch(early, 60.0)).values():
                assert run.jobs["reads"].result is None and "started 60.0 s after the others" in (run.jobs["reads"].error or "")

    on_embedded(tmp_path, test)


def test_results_are_fetched_from_a_guest_that_was_away_in_the_middle(tmp_path: Path) -> None:
    """It answers again only when it has been asked for its results in vain."""

    async def test(lane: Lane) -> None:
        assert lane.sshd
        async with lane.workload() as workload:
            await workload.check(DATASET)
            await laid_out(workload)
            barrier = await workload.start([Timed(Job("reads", "read", iops=1, runtime_seconds=60))])
            lane.sshd.close(lane.guests[0])
            await workload.wait(barrier)
            fetching = asyncio.create_task(workload.fetch(barrier, 6000.0))
            while not barrier.runs["lab/vm0"].lost:
                await asyncio.sleep(0.01)
            lane.sshd.open(lane.guests[0])
            runs = await fetching
        assert all(run.error is None and run.jobs["reads"].result for run in runs.values())
        assert [bool(run.lost) for run in runs.values()] == [True, False, False]
        assert "Connection refused" in runs["lab/vm0"].lost[0]

    on_embedded(tmp_path, test)


def test_a_guest_loses_ssh_in_the_middle_of_a_run_and_finds_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[tuple[str, Guest]] = []
    both = asyncio.Event()

    def noted(what: str, change: Callable[[Sshd, Guest], None]) -> Callable[[Sshd, Guest], None]:
        def inside(sshd: Sshd, guest: Guest) -> None:
            change(sshd, guest)
            changes.append((what, guest))
            if what == "found":
                both.set()

        return inside

    async def test(lane: Lane) -> None:
        monkeypatch.setattr(Sshd, "close", noted("lost", Sshd.close))
        monkeypatch.setattr(Sshd, "open", noted("found", Sshd.open))
        async with lane.workload() as workload:
            await workload.check(DATASET)
            await laid_out(workload)
            assert not changes
            await workload.start([Timed(Job("reads", "read", iops=1, runtime_seconds=60))])
            await asyncio.wait_for(both.wait(), 20)
        (guest,) = {guest for _, guest in changes}  # the first whose fio began
        assert guest in lane.guests and [what for what, _ in changes] == ["lost", "found"]

    on_embedded(tmp_path, test, Fault("ssh-lost", 1))


class Faltering(DirectRoute):
    """Every second connection to a guest breaks before the login, the first of each pair."""

    def __init__(self) -> None:
        self.connections: Counter[str] = Counter()

    async def connect(self, target: Target) -> Connection:
        self.connections[target.name] += 1
        connection = await super().connect(target)
        if self.connections[target.name] % 2:
            await connection.close()
            raise ConnectionResetError(104, "Connection reset by peer")
        return connection


def test_a_connection_that_breaks_once_costs_another_try_however_soon_the_deadline_is(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        async with Workload(lane.hosts, Faltering(), lane.clock, connections=4) as workload:
            assert all(isinstance(check, Check) for check in (await workload.check(DATASET)).values())
            assert await workload.lay_out(DATASET, 0.1) == {}
            barrier = await workload.start([Timed(Job("reads", "read", iops=1, runtime_seconds=30))])
            await workload.wait(barrier)
            runs = await workload.fetch(barrier, 0.0)
        for run in runs.values():
            assert run.error is None and run.jobs["reads"].result and run.tries == 2
            assert "Connection reset by peer" in run.lost[0]

    on_embedded(tmp_path, test)


def test_jobs_that_are_handed_out_again_take_the_place_of_the_first(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        async with lane.workload() as workload:
            await workload.check(DATASET)
            await laid_out(workload)
            await workload.start([Timed(Job("first", "read", iops=1, runtime_seconds=3600))])
            barrier = await workload.start([Timed(Job("second", "read", iops=1, runtime_seconds=30))])
            await workload.wait(barrier)
            await workload.fetch(barrier, 60.0)
            assert all(not guest.machine.processes for guest in lane.guests)

    on_embedded(tmp_path, test)


def test_a_guest_that_stays_away_is_missing_and_says_why(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        assert lane.sshd
        async with lane.workload() as workload:
            await workload.check(DATASET)
            await laid_out(workload)
            barrier = await workload.start([Timed(Job("reads", "read", iops=1, runtime_seconds=30))])
            lane.sshd.close(lane.guests[0])
            await workload.wait(barrier)
            runs = await workload.fetch(barrier, 30.0)
            assert "no results within 30 s" in (runs["lab/vm0"].error or "") and "refused" in (runs["lab/vm0"].error or "")
            assert runs["lab/vm1"].error is None
            later = await workload.start([Timed(Job("reads", "read", iops=1, runtime_seconds=30))])
            assert "refused" in (later.runs["lab/vm0"].error or "")

    on_embedded(tmp_path, test)


def test_a_dataset_that_does_not_fit(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        async with lane.workload() as workload:
            check = (await workload.check(DATASET))["lab/vm0"]
            assert isinstance(check, Check) and check.free_bytes == MIB
            failed = await workload.lay_out(DATASET, 60.0)
            assert set(failed) == set(workload.hosts) and "No space left on device" in failed["lab/vm0"].why

    on_embedded(tmp_path, test, size_bytes=(3 << 30) + MIB)


def test_a_guest_without_sftp_is_told_from_one_that_went_away(tmp_path: Path) -> None:
    import asyncssh

    class Open(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    def df(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 9 1 8 12% /\nfio-3.27\n")
        process.exit(0)

    async def run() -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        async with asyncssh.listen("127.0.0.1", 0, server_factory=Open, server_host_keys=[key], process_factory=df) as sshd:
            host = Host("lab/vm0", Target("lab", "vm0", "127.0.0.1", sshd.get_port()), Credentials("root", password=""))
            async with Workload([host], DirectRoute(), Clock(), 1) as workload:
                trouble = (await workload.check(DATASET))["lab/vm0"]
        assert isinstance(trouble, Trouble) and not trouble.passing and "its sshd has no SFTP" in trouble.why

    asyncio.run(run())


def test_fio_is_installed_where_it_is_missing(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        async with lane.workload() as workload:
            checks = await workload.check(DATASET)
            assert [check.version for check in checks.values() if isinstance(check, Check)] == [None, None, "fio-3.27"]
            lane.guests[1].machine.can_install = False
            failed = await workload.install(["lab/vm0", "lab/vm1"])
            assert failed == {"lab/vm1": Trouble("lab/vm1: fio could not be installed: Error: Unable to find a match: fio")}
            check = (await workload.check(DATASET, ["lab/vm0"]))["lab/vm0"]
            assert isinstance(check, Check) and check.version == "fio-3.27"

    on_embedded(tmp_path, test, Fault("no-fio", 2))


def test_jobs_must_have_names_of_their_own(tmp_path: Path) -> None:
    async def test(lane: Lane) -> None:
        async with lane.workload() as workload:
            job = Job("a", "read", 1, 1)
            for jobs in ([], [Timed(job), Timed(job, 10.0)]):
                with pytest.raises(ValueError, match="names of their own"):
                    await workload.start(jobs)

    on_embedded(tmp_path, test)


def test_the_run_script_is_one_that_shells_take() -> None:
    script = Path(__file__).parents[2] / "pytest_vmscale" / "guest" / "run.sh"
    for shell in filter(None, (shutil.which("dash"), shutil.which("bash"))):
        assert subprocess.run([shell, "-n", str(script)], capture_output=True, check=False).returncode == 0
