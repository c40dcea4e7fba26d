"""The guests' shell against a real one, and what only a guest has: its own time, its disk, its processes."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from pytest_vmscale.embedded.clock import SimClock
from pytest_vmscale.embedded.disk import Bulk, Disk
from pytest_vmscale.embedded.guest_ssh import Login
from pytest_vmscale.embedded.guests import Guest
from pytest_vmscale.embedded.machine import Machine
from pytest_vmscale.embedded.shell import Shell

SCRIPTS = [
    "echo one; echo two && echo three || echo four",
    "false || echo 'a  b' \"c  d\" e\\ f; echo $?",
    'x=5; y="$x and ${x}"; echo "$y" \'$x\' $y; echo "a$((x * 2 + 1))b"',
    "x=' a  b '; echo $x; echo \"$x\"; echo [$x]",
    "echo $(echo in; echo side) \"$(echo a; echo b)\"",
    "echo $(( (7 - 2) * 3 / 2 % 4 )) $((-7 / 2)) $((-7 % 3)) $((3 < 4 && 4 <= 4)) $((1 == 2 || !1))",
    "if [ 3 -gt 2 ]; then echo yes; else echo no; fi; if false; then echo a; elif [ -z '' ]; then echo b; fi",
    "i=0; while [ $i -lt 3 ]; do echo $i; i=$((i + 1)); done; until true; do echo never; done",
    "printf '%s\\n' 1 >f; printf '2 two more\\n3 three\\n' >>f; while read -r n rest; do echo \"$n:$rest\"; done <f; cat f",
    "echo out; nosuch 2>/dev/null; echo $?; { echo a; echo b; } | cat; (cd /; pwd)",
    "echo hidden >/dev/null; echo both >f 2>&1; cat f; nosuch >g 2>/dev/null; test -s g || echo empty",
    "false; x=$?; echo $x $?; y=$(false); echo $?; z=1; echo $?; nosuch 2>/dev/null; code=$?; echo $code",
    "# a comment\necho a # and another\n\n\necho 'b\nc'; ! true; echo $?",
    "sh -c 'echo $0 $1' name first; printf '%03d|%s|%%\\n' 7 x; exit 3; echo never",
    "mkdir -p a/b && cd a/b && echo x >y && ls && cd ../.. && test -d a/b && rm -rf a && ls -1; [ -e a ] || echo gone",
    "cat <f || echo no such file",
    "x=1; (x=2; echo $x); echo $x; y=$(x=3; echo $x); echo $y $x",
    "printf %09d 42; echo; printf 'a b' | while read -r p q; do echo $q; done; echo after",
]


def guest(machine: Machine) -> Guest:
    return Guest("11111111-2222-4333-8444-555555555555", "ns", "vm1", "worker-000", "rhel", "127.9.1.1", Login(anybody=True), 0.0, machine=machine)


def run(*lines: str, speed: float = 1000.0, on: Machine | None = None) -> list[tuple[str, str, int]]:
    async def inside() -> list[tuple[str, str, int]]:
        clock, it = SimClock(speed), guest(on or Machine())
        return [await Shell(it, clock).run(line) for line in lines]

    return asyncio.run(inside())


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_do_what_a_real_shell_does(script: str, tmp_path: Path) -> None:
    real = subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    out, error, code = run(script)[0]
    assert (out, code) == (real.stdout, real.returncode), error
    assert bool(error) == bool(real.stderr), (error, real.stderr)


@pytest.mark.parametrize("script", ["echo 'a", 'echo "a', "if true; echo", "echo $((1 +))", "(echo a", "while true", "echo ${a-b}", "; echo", "echo a | | b"])
def test_what_is_no_script_is_refused(script: str) -> None:
    out, error, code = run(script)[0]
    assert (out, code) == ("", 2) and error.startswith("sh: ")


def test_a_script_has_its_own_time_however_late_it_is_run() -> None:
    out, _, _ = run("a=$(date +%s%N); sleep 2.5; b=$(date +%s%N); echo $(( (b - a) / 1000000 ))", speed=100_000.0)[0]
    assert 2499 <= int(out) <= 2501


def test_what_runs_in_the_background_outlives_its_connection_and_can_be_killed() -> None:
    async def inside() -> None:
        machine, clock = guest(Machine()), SimClock(1000.0)
        script = "sleep 10; echo done >finished"
        out, _, _ = await Shell(machine, clock).run(f"echo '{script}' >r; setsid sh r </dev/null >/dev/null 2>&1 & echo $!")
        pid = int(out)
        assert pid in machine.machine.processes
        await clock.sleep(20)
        assert (await Shell(machine, clock).run(f"cat finished; kill -0 {pid}"))[0::2] == ("done\n", 1)
        out, _, _ = await Shell(machine, clock).run("rm finished; setsid sh r >/dev/null 2>&1 & echo $!")
        await asyncio.sleep(0)  # it has come as far as making itself a process group
        assert (await Shell(machine, clock).run(f"kill -0 {out.strip()} && kill -TERM -{out.strip()}"))[2] == 0
        await clock.sleep(20)
        assert (await Shell(machine, clock).run("test -e finished"))[2] == 1

    asyncio.run(inside())


def test_a_disk_is_as_full_as_what_is_on_it() -> None:
    machine = Machine(Disk(size_bytes=100 << 20, system_bytes=60 << 20))
    machine.disk.fill("/tmp", Bulk(3, 10 << 20))
    out, _, _ = run("df -Pk .", on=machine)[0]
    assert out.splitlines()[1].split() == ["/dev/vda1", str(100 << 10), str(90 << 10), str(10 << 10), "90%", "/"]
    with pytest.raises(OSError, match="No space left"):
        machine.disk.fill("/var/tmp", Bulk(2, 10 << 20))
    machine.disk.write("/tmp/x", bytes(10 << 20))
    assert run("echo more >/tmp/y; cat /tmp/y", on=machine)[0][0] == ""


def test_what_is_not_there_says_so() -> None:
    assert run("cd /nope")[0][1:] == ("sh: cd: /nope: No such file or directory\n", 1)
    assert run("fio --version", "dnf install -y fio", "fio --version")[0][2] == 0
    without = Machine(has_fio=False)
    found = run("command -v fio", "fio --version", "sudo -n dnf -y install fio", "fio --version", on=without)
    assert [each[2] for each in found] == [1, 127, 0, 0]
    assert found[1][1] == "sh: fio: command not found\n"
