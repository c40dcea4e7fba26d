#!/usr/bin/env python3
"""How true are the migration suite's measurements, and what does it come to? One run on the embedded cluster against its ground truth.

    benchmarks/migration.py [--vms 1000] [--folder A_RUNS_RESULTS] [further options of pytest ...]

By phase, how long after it happened each was seen: p50, p99 and max, in cluster seconds; the zone's times and the averages by OS against the
reference's; CPU seconds and peak memory of the plugin and of the embedded cluster; wall time. Exit 1 if a phase was seen more than 2 s late,
or before it happened, or if a figure is more than 5 % off its reference (with 1,000 VMs).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from running import percentile, run_suites, show_costs

SUITE = ("suites/test_migration.py", "-m", "migration and not latency", "--allow-disruptive")
ALLOWED_SECONDS = 2.0
TOLERANCE_PERCENT = 5.0
# What the plugin saw, and what the cluster wrote down when it happened.
PHASES = {
    "Requested": "eviction-requested",
    "Pending": "migration-created",
    "Started": "migration-started",
    "Ended": "migrated",
    "Succeeded": "migration-ended",
    "VMI Running": "vmi-running",
}
REFERENCE_VMS = 1000
REFERENCE = {"zone_seconds": 9180.0, "drain_seconds": 7080.0, "node_wait_seconds": 2100.0, "rhel": 14.0, "windows": 12.0, "fedora": 23.0}


def lateness(results: dict[str, Any], truth: Path) -> dict[str, list[float]]:
    """By phase, of each VM's first of it: seen at, minus when it really happened."""
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    epoch, began = lines[0]["t0_epoch"], results["details"]["started_cluster_epoch"]
    really: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        if line.get("name") and epoch + line["t"] >= began:
            really.setdefault((line["kind"], f"{line.get('namespace')}/{line['name']}"), []).append(epoch + line["t"])
    found: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for record in results["records"]:
        for moment in record["timeline"]:
            if moment["phase"] in PHASES:
                happened = really[PHASES[moment["phase"]], f"{record['namespace']}/{record['vm_name']}"][0]
                found[moment["phase"]].append(began + record["requested_at"] + moment["seconds"] - happened)
    return {phase: values for phase, values in found.items() if values}


def figures(results: dict[str, Any]) -> dict[str, float]:
    """The zone's times, and the averages by OS."""
    found = {name: results["details"][name] for name in REFERENCE if results["details"].get(name) is not None}
    for os in ("rhel", "windows", "fedora"):
        metric = "restart_start_seconds" if os == "fedora" else "migration_duration_seconds"
        values = [each[metric] for each in results["records"] if each["os"] == os and each[metric] is not None]
        if values:
            found[os] = statistics.fmean(values)
    return found


def show(results: dict[str, Any], truth: Path) -> bool:
    """Whether something is off."""
    bad = False
    for phase, values in lateness(results, truth).items():
        worst = max(values)
        bad |= worst > ALLOWED_SECONDS or min(values) < 0
        print(f"  {phase:12} {len(values):5} seen; late p50 {percentile(values, 50):.3f}  p99 {percentile(values, 99):.3f}  max {worst:.3f}, min {min(values):.3f} s")
    for name, value in figures(results).items():
        off = (value / REFERENCE[name] - 1) * 100
        compared = results["aggregate"]["total_vms"] == REFERENCE_VMS
        bad |= compared and abs(off) > TOLERANCE_PERCENT
        print(f"  {name:18} {value:9.1f} s" + (f", reference {REFERENCE[name]:.0f} s ({off:+.1f} %)" if compared else ""))
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vms", default="1000")
    parser.add_argument("--folder", type=Path, help="only look at what this run left")
    options, extra = parser.parse_known_args()
    if options.folder:
        return int(show(json.loads((options.folder / "migration_results.json").read_text()), options.folder / "truth.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        costs = run_suites(Path(folder), "run", [*SUITE, "--vms", options.vms, *extra])
        print(f"{options.vms} VMs: {time.monotonic() - begun:.0f} s of wall time in all")
        bad = show(json.loads(Path(folder, "run", "migration_results.json").read_text()), Path(folder, "run", "truth.jsonl"))
        show_costs(costs)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
