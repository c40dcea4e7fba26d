#!/usr/bin/env python3
"""How true are the boot storm's measurements? Runs storms on the embedded cluster and lays them against its ground truth.

    benchmarks/accuracy.py [--runs 3] [--vms 100,1000] [further options of pytest ...]

For each run: the storm's duration by measurement, by ground truth and by the reference; p50/p99/max error of time-to-Running
and time-to-SSH; CPU seconds and peak memory of the plugin and of the embedded cluster; requests sent. Exit 1 if the p99 error of
time-to-SSH is beyond one probe interval plus 100 ms of wall time, or a duration is more than 5 % off its reference.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REFERENCE_SECONDS = {100: 102.0, 1000: 1065.0}
DURATION_TOLERANCE_PERCENT = 5.0
WALL_ALLOWANCE_SECONDS = 0.1


@dataclass
class Cost:
    """What a process has used so far, by /proc."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0


def follow(pid: int, costs: dict[str, Cost], done: threading.Event) -> None:
    """Sample the plugin's process and its child, the embedded cluster; high-water marks only grow."""
    while not done.wait(0.2):
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


def run_storm(vms: str, extra: list[str], folder: Path) -> dict[str, Cost]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "bootstorm",
        "--vms",
        vms,
        "--results-dir",
        str(folder),
        "--run-id",
        "run",
        *extra,
    ]
    costs: dict[str, Cost] = {}
    done = threading.Event()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watcher = threading.Thread(target=follow, args=(process.pid, costs, done))
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    if not list((folder / "run").glob("boot-storm*_results.json")):
        sys.exit(f"the run measured nothing:\n{output}")
    return costs


def truths(path: Path) -> tuple[dict[str, list[tuple[float, str]]], list[dict[str, Any]]]:
    """By VM, what happened when (cluster seconds since the cluster's start); and the clock's changes."""
    happened: dict[str, list[tuple[float, str]]] = {}
    clocks = []
    for line in path.read_text().splitlines():
        event = json.loads(line)
        if event["kind"] in ("start", "clock"):
            clocks.append(event)
        elif "name" in event:
            happened.setdefault(f"{event['namespace']}/{event['name']}", []).append((event["t"], event["kind"]))
    return happened, clocks


def first_after(events: list[tuple[float, str]], kind: str, since: float) -> float | None:
    return next((t for t, each in events if each == kind and t >= since), None)


def percentile(values: list[float], percent: float) -> float:
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1] if values else float("nan")


def judge(results: dict[str, Any], happened: dict[str, list[tuple[float, str]]], t0_epoch: float) -> dict[str, Any]:
    """Errors in cluster seconds: measured minus true. The plugin's own t0 is laid on the cluster's clock."""
    started = results["details"]["started_cluster_epoch"] - t0_epoch
    running, ssh, last = [], [], 0.0
    for record in results["records"]:
        t0 = started + record["requested_at"]
        events = happened[f"{record['namespace']}/{record['vm_name']}"]
        true_running = first_after(events, "vmi-running", t0)
        true_ssh = first_after(events, "guest-ssh-ready", t0)
        if record["time_to_vmi_running_seconds"] is not None and true_running is not None:
            running.append(record["time_to_vmi_running_seconds"] - (true_running - t0))
        if record["time_to_ssh_seconds"] is not None and true_ssh is not None:
            ssh.append(record["time_to_ssh_seconds"] - (true_ssh - t0))
            last = max(last, true_ssh - started)
    return {"running": running, "ssh": ssh, "true_duration": last}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--vms", default="100,1000")
    options, extra = parser.parse_known_args()
    failed = False
    for number in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            costs = run_storm(options.vms, extra, Path(folder))
            wall = time.monotonic() - begun
            happened, clocks = truths(Path(folder) / "run" / "truth.jsonl")
            print(f"run {number + 1}: {wall:.0f} s of wall time in all")
            for path in sorted(Path(folder, "run").glob("boot-storm*_results.json"), key=lambda p: len(p.name)):
                results = json.loads(path.read_text())
                found = judge(results, happened, clocks[0]["t0_epoch"])
                failed |= show(results, found)
            for name, cost in costs.items():
                print(f"  {name:9} {cost.cpu_seconds:6.1f} s of CPU, peak memory {cost.peak_bytes / 2**20:.0f} MiB")
    return 1 if failed else 0


def show(results: dict[str, Any], found: dict[str, Any]) -> bool:
    size, rate = results["aggregate"]["total_vms"], results["cluster"]["time_rate"]
    measured, reference = results["aggregate"]["duration_seconds"], REFERENCE_SECONDS.get(size)
    bad = False
    against = ""
    if reference:
        off = (measured - reference) / reference * 100
        bad = abs(off) > DURATION_TOLERANCE_PERCENT
        against = f", reference {reference:.0f} s ({off:+.1f} %)"
    print(
        f"  {size} VMs: measured {measured:.2f} s, true {found['true_duration']:.2f} s{against}; {results['details'].get('requests_sent')} requests"
    )
    for name in ("running", "ssh"):
        errors = [abs(error) for error in found[name]]
        early = sum(error < 0 for error in found[name])
        print(
            f"    error of time-to-{name:7}: p50 {percentile(errors, 50):.3f}  p99 {percentile(errors, 99):.3f}  max {max(errors, default=float('nan')):.3f} s of cluster time; {early} too early"
        )
    allowed = results["parameters"]["ssh_interval_seconds"] + WALL_ALLOWANCE_SECONDS * rate
    late = percentile([abs(error) for error in found["ssh"]], 99)
    return bad or not late <= allowed


if __name__ == "__main__":
    sys.exit(main())
