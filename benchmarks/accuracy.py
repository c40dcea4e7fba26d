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
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from running import percentile, run_suites, show_costs

REFERENCE_SECONDS = {100: 102.0, 1000: 1065.0}
DURATION_TOLERANCE_PERCENT = 5.0
WALL_ALLOWANCE_SECONDS = 0.1


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
            costs = run_suites(Path(folder), "run", ["-m", "bootstorm", "--vms", options.vms, *extra])
            wall = time.monotonic() - begun
            happened, clocks = truths(Path(folder) / "run" / "truth.jsonl")
            print(f"run {number + 1}: {wall:.0f} s of wall time in all")
            for path in sorted(Path(folder, "run").glob("boot-storm*_results.json"), key=lambda p: len(p.name)):
                results = json.loads(path.read_text())
                found = judge(results, happened, clocks[0]["t0_epoch"])
                failed |= show(results, found)
            show_costs(costs)
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
