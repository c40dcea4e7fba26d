"""How benchmarks run the suites on the embedded cluster, and what that costs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE_WALL_SECONDS = 0.2


@dataclass
class Cost:
    """What a process has used so far, by /proc."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0


def pytest_command(folder: Path, name: str, arguments: Sequence[str]) -> list[str]:
    """To run suites. Their results go to folder/name; `arguments` say which, and on what."""
    return [sys.executable, "-m", "pytest", "-q", "--results-dir", str(folder), "--run-id", name, *arguments]


def run_suites(folder: Path, name: str, arguments: Sequence[str]) -> dict[str, Cost]:
    """Run them: what the plugin's process and the embedded cluster cost. SystemExit with what pytest said if nothing was measured."""
    costs: dict[str, Cost] = {}
    done = threading.Event()
    process = subprocess.Popen(
        pytest_command(folder, name, arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watcher = threading.Thread(target=follow, args=(process.pid, costs, done))
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    if not list((folder / name).glob("*_results.json")):
        sys.exit(f"the run measured nothing:\n{output}")
    return costs


def follow(pid: int, costs: dict[str, Cost], done: threading.Event) -> None:
    """Sample the plugin's process and its child, the embedded cluster; high-water marks only grow."""
    while not done.wait(SAMPLE_WALL_SECONDS):
        for name, process in (("plugin", pid), ("embedded", child_of(pid))):
            try:
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                status = Path(f"/proc/{process}/status").read_text()
            except OSError:
                continue
            ticks = os.sysconf("SC_CLK_TCK")
            peaks = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
            if not peaks:  # it has just ended
                continue
            costs[name] = Cost((int(fields[11]) + int(fields[12])) / ticks, peaks[0])


def child_of(pid: int) -> int | None:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and b"pytest_vmscale.embedded" in (path.parent / "cmdline").read_bytes():
                return int(path.parent.name)
        except OSError:
            continue
    return None


def show_costs(costs: dict[str, Cost]) -> None:
    for name, cost in costs.items():
        print(f"  {name:9} {cost.cpu_seconds:6.1f} s of CPU, peak memory {cost.peak_bytes / 2**20:.0f} MiB")


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank; NaN without a value."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1] if values else float("nan")
