"""A guest that is real: Debian's sshd on an unprivileged port, whose logins end up in a temporary home, and the fio that is installed."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_vmscale.guest.keys import make_key
from pytest_vmscale.guest.login import Credentials
from pytest_vmscale.guest.route import Target
from pytest_vmscale.guest.workload import Host

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
PATIENCE_WALL_SECONDS = 10.0
# Set where the programs must be there: a lane that is never run proves nothing.
REQUIRED = "VMSCALE_REAL_GUEST"


def need_programs() -> str:
    """The path of sshd. Skips the test where a program is missing, and fails it where they are required."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    missing = [
        name for name, there in (("sshd", sshd), ("fio", shutil.which("fio")), (str(SFTP_SERVER), SFTP_SERVER.exists())) if not there
    ]
    if missing:
        told = f"a real guest needs {', '.join(missing)} (Debian: apt-get install openssh-server fio)"
        pytest.fail(told) if os.environ.get(REQUIRED) else pytest.skip(told)
    assert sshd
    return sshd


def has_direct_io(folder: Path) -> bool:
    """Whether files there can be opened without the page cache: on a tmpfs of older kernels they cannot."""
    probe = folder / "probe"
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
        return True
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def real_guest(folder: Path) -> Iterator[tuple[Host, Path]]:
    """The guest, and its home. Leaves nothing running."""
    sshd = need_programs()
    home, keys = folder / "home", folder / "keys"
    home.mkdir()
    keys.mkdir(mode=0o700)
    if not has_direct_io(home):
        pytest.skip(f"{home}: no direct I/O on this file system")
    (keys / "authorized_keys").write_text(make_key(keys / "user", "user") + "\n")
    make_key(keys / "host", "host")
    wrapper = folder / "login"
    wrapper.write_text(
        f'#!/bin/sh\ncd {home} || exit 1\nexport HOME={home}\n'
        f'case "$SSH_ORIGINAL_COMMAND" in {SFTP_SERVER}*) exec {SFTP_SERVER} -d {home} ;; esac\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )  # fmt: skip
    wrapper.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {keys / 'host'}\nAuthorizedKeysFile {keys / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
        f"PidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\nSubsystem sftp {SFTP_SERVER}\nForceCommand {wrapper}\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where the unprivileged half of a root's sshd lives
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        _wait_for(port, process, folder / "sshd.log")
        yield Host("lab/real", Target("lab", "real", "127.0.0.1", port), Credentials(getpass.getuser(), keys / "user")), home
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + PATIENCE_WALL_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up:
                pytest.fail(f"sshd does not answer: {log.read_text()}")
            time.sleep(0.05)
