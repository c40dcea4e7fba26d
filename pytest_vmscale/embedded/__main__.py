"""python -m pytest_vmscale.embedded: the embedded cluster as a process. Its last line on stdout is the path of its kubeconfig."""

from __future__ import annotations

import argparse
import asyncio
import asyncio.sslproto
import logging
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

from . import faults, timing
from .cluster import Cluster, Options
from .state import State

TRUTH_FLUSH_WALL_SECONDS = 0.5
TLS_READ_BYTES = 32 * 1024
BAD_INPUT = 4  # as pytest's own usage errors


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m pytest_vmscale.embedded", description="A KubeVirt cluster on this machine, in faster-than-wall time.")
    found.add_argument("--state-dir", type=Path, help="where its kubeconfig, certificates and keys go (default: a new temporary directory)")
    found.add_argument("--speed", type=float, default=20.0, help="cluster time runs so many times as fast as the wall (default: 20)")
    found.add_argument("--workers", type=int, default=100, help="worker nodes (default: 100)")
    found.add_argument("--profile", default=timing.ROOT, metavar="NAME|FILE", help=f"timing profile: {', '.join(timing.profiles())}, or a .yaml file")
    found.add_argument("--fault", action="append", default=[], metavar="NAME=VALUE|FILE",
                       help=f"what goes wrong: {', '.join(sorted(faults.KNOWN))}; or a plan file (may be repeated)")
    found.add_argument("--seed", type=int, default=0, help="the same seed, the same cluster (default: 0)")
    found.add_argument("--truth", type=Path, metavar="FILE", help="write down when each thing really happened, as JSON lines")
    found.add_argument("--parent-pipe", action="store_true", help="end when standard input does: with the process that holds its other end")
    found.add_argument("--check", action="store_true", help="say whether these options can be used, and start nothing")
    found.add_argument("--port", type=int, default=0, help="of the API server (default: any free one)")
    found.add_argument("--guest-ssh-port", type=int, default=2222, help="where guests' sshd listens, in place of 22 (default: 2222)")
    return found


def options_of(arguments: argparse.Namespace) -> Options:
    """ValueError, of which one line says all, for what cannot be."""
    if arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: must be at least 1")
    if not 0 < arguments.speed <= 100_000:
        raise ValueError(f"--speed {arguments.speed:g}: must be above 0 and at most 100000")
    plan: list[faults.Fault] = []
    for text in arguments.fault:
        if "=" in text or not text.endswith((".yaml", ".yml")):
            plan.append(faults.parse_option(text))
            continue
        try:
            plan += faults.load_plan(Path(text))
        except faults.FaultError as error:
            raise ValueError(f"--fault {error}") from None
    try:
        profile = timing.load(arguments.profile)
    except timing.TimingError as error:
        raise ValueError(f"--profile {error}") from None
    return Options(profile, arguments.speed, arguments.workers, arguments.seed, plan, arguments.truth, arguments.port,
                   arguments.guest_ssh_port)


async def serve(options: Options, state: State, parent_pipe: bool) -> None:
    """Until a signal, or the end of standard input."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    if parent_pipe:
        loop.add_reader(sys.stdin.fileno(), lambda: done.set() if not os.read(sys.stdin.fileno(), 4096) else None)
    cluster = Cluster(options, state)
    try:
        print(await cluster.start(), flush=True)
        while not done.is_set():
            try:
                await asyncio.wait_for(done.wait(), TRUTH_FLUSH_WALL_SECONDS)
            except TimeoutError:
                cluster.truth.flush()
    finally:
        await cluster.stop()


def main() -> int:
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("asyncssh").setLevel(logging.ERROR)  # each connection's failure is its client's business
    # asyncio keeps 256 KiB to read into for each TLS connection; a thousand clients that start a VM each make that 256 MiB.
    asyncio.sslproto.SSLProtocol.max_size = TLS_READ_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        options = options_of(arguments)
    except ValueError as error:
        print(f"embedded cluster: {error}", file=sys.stderr)
        return BAD_INPUT
    if arguments.check:
        return 0
    try:
        state = State(arguments.state_dir or Path(tempfile.mkdtemp(prefix="vmscale-embedded-")))
        asyncio.run(serve(options, state, arguments.parent_pipe))
    except (ValueError, OSError) as error:
        print(f"embedded cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
