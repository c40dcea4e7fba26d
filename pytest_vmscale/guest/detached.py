"""fio in one guest, over one connection to it: what is run there, and what its files say. On a thread; errors are WorkloadError, and
those of the connection.

All that is run over SSH is a constant of this file; what varies travels over SFTP, in files.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from .fio import LAYOUT, FioError, FioResult, parse
from .login import execute, execute_bytes

if TYPE_CHECKING:
    from paramiko import SFTPClient, SSHClient

FOLDER = "vmscale-fio"  # in the home of the user that logs in
CHECK = "mkdir -p vmscale-fio/data && cd vmscale-fio && df -Pk . && fio --version"
INSTALL = "sudo -n dnf -y install fio || { sudo -n apt-get -q -y update && sudo -n apt-get -q -y install fio; }"
CLOCK = "date +%s%N"
RUN = files(__package__).joinpath("run.sh").read_text(encoding="utf-8")  # what starts the jobs in a guest
# In place of what runs there: the connection of an earlier try may have broken after that had begun.
START = f"""cd vmscale-fio || exit
if [ -f pid ]; then kill -- "-$(cat pid)" 2>/dev/null; fi
rm -f status pid
setsid sh -c {shlex.quote(RUN)} </dev/null >run.log 2>&1 &
echo $!"""
FORGET_LAYOUT = "rm -f vmscale-fio/layout.done"
LAID_OUT = 'cd vmscale-fio && cat status && read -r job started ended code <status && [ "$code" = 0 ] && cp jobs.fio layout.done'
# Each job that has ended: a line of its status and how long its result is, and the result; before it what fio said, if it failed.
FETCH = """cd vmscale-fio && while read -r job started ended code; do
  if [ "$code" = 0 ]; then result="$job.json"; else result="$job.out $job.json"; fi
  echo "$job $started $ended $code $(cat $result 2>/dev/null | wc -c)"
  cat $result 2>/dev/null
done <status"""
STOP = 'cd vmscale-fio && kill -- "-$(cat pid)"'
REMOVE = "rm -rf vmscale-fio"

INSTALL_WALL_SECONDS = 600.0


class WorkloadError(Exception):
    """The workload cannot be run in a guest; one line says why."""


@dataclass(frozen=True)
class Check:
    """What a guest has. `version` None: no fio."""

    version: str | None
    free_bytes: int
    laid_out: bool  # the dataset that was asked about is there already


@dataclass(frozen=True)
class Ended:
    """Of a line of the status file. By the guest's clock."""

    job: str
    started_epoch: float
    code: int


@contextlib.contextmanager
def _files(client: SSHClient) -> Iterator[SFTPClient]:
    """The guest's files, over SFTP, which an sshd may be without."""
    from paramiko import SSHException

    try:
        sftp = client.open_sftp()
    except SSHException as error:
        transport = client.get_transport()
        if transport is None or not transport.is_active():
            raise
        raise WorkloadError("its sshd has no SFTP, by which fio's files come and go: install openssh's sftp-server in the image") from error
    with sftp:
        yield sftp


def check(client: SSHClient, layout: str) -> Check:
    status, text = execute(client, CHECK)
    rows = [line.split() for line in text.splitlines()]
    # df's second line: file system, blocks, used, available (KiB), share, where.
    if len(rows) < 2 or len(rows[1]) < 6 or not rows[1][3].isdigit():
        raise WorkloadError(f"df does not say how much room there is: {_last_line(text)}")
    version = rows[2][0] if status == 0 and len(rows) > 2 and rows[2][0].startswith("fio-") else None
    with _files(client) as sftp:
        there = _get(sftp, "layout.done") == layout.encode()
    return Check(version, int(rows[1][3]) * 1024, there)


def install(client: SSHClient) -> None:
    """From the guest's own repositories."""
    status, text = execute(client, INSTALL, INSTALL_WALL_SECONDS)
    if status:
        raise WorkloadError(f"fio could not be installed: {_last_line(text)}")


def forget_layout(client: SSHClient) -> None:
    """What is laid out may be written over from now on."""
    execute(client, FORGET_LAYOUT)


def epoch(client: SSHClient) -> float:
    """Unix time by the guest's clock."""
    status, text = execute(client, CLOCK)
    if status or not text.strip().isdigit():
        raise WorkloadError(f"`{CLOCK}` says {text.strip()!r}")
    return int(text) / 1e9


def start(client: SSHClient, jobs: str, schedule: Callable[[], str]) -> None:
    """schedule is asked for when all else is there."""
    with _files(client) as sftp:
        with sftp.open(f"{FOLDER}/jobs.fio", "w") as file:
            file.write(jobs)
        with sftp.open(f"{FOLDER}/schedule", "w") as file:
            file.write(schedule())
    status, text = execute(client, START)
    if status:
        raise WorkloadError(f"fio could not be started: {_last_line(text)}")


def laid_out(client: SSHClient) -> bool:
    """Whether the dataset has been written; it is noted in the guest, for a run to come."""
    status, text = execute(client, LAID_OUT)
    ended = next((each for each in map(_ended, text.splitlines()) if each), None)
    if ended is None:
        return False
    if ended.code:
        with _files(client) as sftp:
            said = (_get(sftp, f"{LAYOUT}.out") or b"").decode(errors="replace")
        raise WorkloadError(f"the dataset could not be laid out: {_last_line(said)}")
    if status:
        raise WorkloadError(f"it could not be noted that the dataset is laid out: {_last_line(text)}")
    return True


def stop(client: SSHClient) -> None:
    execute(client, STOP)


def remove(client: SSHClient) -> None:
    """All of ours, the dataset too."""
    stop(client)
    status, text = execute(client, REMOVE)
    if status:
        raise WorkloadError(f"{FOLDER} could not be removed: {_last_line(text)}")


def fetch(client: SSHClient) -> dict[str, tuple[Ended, FioResult | str]]:
    """Each job that has ended, with its result or why there is none."""
    _, text, _ = execute_bytes(client, FETCH)
    found: dict[str, tuple[Ended, FioResult | str]] = {}
    while text:
        line, _, text = text.partition(b"\n")
        head, _, length = line.decode(errors="replace").rpartition(" ")
        ended = _ended(head)
        if ended is None or not length.isdigit():
            raise WorkloadError(f"its status is not as run.sh writes it: {_last_line(head)}")
        said, text = text[: int(length)].decode(errors="replace"), text[int(length) :]
        try:
            result = parse(said)
            found[ended.job] = ended, f"{ended.job}: fio ended with exit code {ended.code}" if ended.code else result
        except FioError as error:
            found[ended.job] = ended, f"{ended.job}: {error}"
    return found


def _ended(line: str) -> Ended | None:
    words = line.split()
    if len(words) != 4 or not all(word.isdigit() for word in words[1:]):
        return None
    return Ended(words[0], int(words[1]) / 1e9, int(words[3]))


def _get(sftp: SFTPClient, name: str) -> bytes | None:
    """A file of ours, or None if it is not there."""
    try:
        with sftp.open(f"{FOLDER}/{name}") as file:
            return bytes(file.read())
    except FileNotFoundError:
        return None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
