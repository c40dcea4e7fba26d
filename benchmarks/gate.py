#!/usr/bin/env python3
"""Does the gate tell two releases apart? Runs suites on the embedded cluster, with one timing profile and with another, against baselines.

    benchmarks/gate.py [--runs 10] [--baselines 5] [--worse regressed] [--at-once 1] [--folder DIR] -m bootstorm --vms 100 [options of pytest ...]

First the baselines, on the profile `reference`; then so many runs on it again, each of which must pass (exit code 0), and so many on
the worse profile, each of which must fail (exit code 1) for a regression. Every run has a seed of its own. Prints a line a run with
what it names, and how often each figure was named. What is in DIR already is not run again, so that a benchmark that was stopped goes
on. Exit 1 if a run came to anything else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from running import ROOT, pytest_command

BETTER = "reference"


@dataclass(frozen=True)
class Came:
    """What one run came to. `named`: the figures that regressed, by scenario; `others`: why else it did not pass."""

    code: int
    named: tuple[str, ...]
    others: tuple[str, ...]


def run(folder: Path, name: str, profile: str, seed: int, baselines: list[Path], more: list[str]) -> Came:
    """One run of the suites, unless it has been."""
    results = folder / name
    if not (results / "verdict.json").exists():
        against = [argument for each in baselines for argument in ("--baseline", str(each))]
        command = pytest_command(folder, name, ["--sim-profile", profile, "--sim-seed", str(seed), *more, *against])
        began = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        (folder / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if not (results / "verdict.json").exists():
            raise SystemExit(f"{name}: exit code {done.returncode} and no verdict; see {folder / name}.log")
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return came_to(json.loads((results / "verdict.json").read_text(encoding="utf-8")))


def came_to(verdict: dict[str, Any]) -> Came:
    compared = verdict["comparison"] or {"scenarios": []}
    named = [
        f"{each['scenario']} {change['metric']} {change['statistic']} {change['change_percent'] or 0:+.1f} %"
        for each in compared["scenarios"]
        for change in each["changes"]
        if change["finding"] == "regression"
    ]
    others = [f"{each['id']} {each['verdict']}" for each in verdict["objectives"] if each["verdict"] in ("fail", "inconclusive")]
    return Came(verdict["exit_code"], tuple(named), tuple(others))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--baselines", type=int, default=5)
    parser.add_argument("--worse", default="regressed", metavar="PROFILE")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="so many runs beside each other; more load, more noise")
    parser.add_argument("--folder", type=Path, help="where the runs' results go and stay (default: a temporary one)")
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        pool = ThreadPoolExecutor(options.at_once)
        try:
            return gate(pool, folder, options.runs, options.baselines, options.worse, more)
        finally:
            pool.shutdown(cancel_futures=True)  # after a run without a verdict no other is begun


def gate(pool: ThreadPoolExecutor, folder: Path, runs: int, count: int, worse: str, more: list[str]) -> int:
    baselines = [folder / f"baseline-{seed}" for seed in range(count)]
    begun = [pool.submit(run, folder, each.name, BETTER, seed, [], more) for seed, each in enumerate(baselines)]
    for each, future in zip(baselines, begun, strict=True):
        came = future.result()
        print(f"{each.name}: exit code {came.code}{told(came)}", flush=True)
    seeds = range(count, count + runs)
    # The two releases in turn: what else the machine does meets both.
    against = {
        (profile, seed): pool.submit(run, folder, f"{profile}-{seed}", profile, seed, baselines, more)
        for seed in seeds
        for profile in (BETTER, worse)
    }
    wrong = 0
    for profile, wanted in ((BETTER, 0), (worse, 1)):
        figures: Counter[str] = Counter()
        right = 0
        for seed in seeds:
            came = against[profile, seed].result()
            as_wanted = came.code == wanted and bool(came.named) == bool(wanted)
            right += as_wanted
            figures.update(each.rsplit(" ", 2)[0] for each in came.named)
            print(f"{profile}-{seed}: exit code {came.code}{'' if as_wanted else f', NOT {wanted}'}{told(came)}", flush=True)
        print(f"{profile}: {right} of {runs} as they must be (exit code {wanted})")
        for figure, times in figures.most_common():
            print(f"    {figure}: named in {times}")
        wrong += runs - right
    return 1 if wrong else 0


def told(came: Came) -> str:
    return "".join(f"; {each}" for each in (*came.named, *came.others))


if __name__ == "__main__":
    sys.exit(main())
