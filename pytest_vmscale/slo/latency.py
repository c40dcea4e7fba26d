"""The latency suite's objectives: every VM reported; achieved IOPS; what the load adds to reads and writes; no node stands out; and,
over all node counts, a baseline that does not vary."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from pytest_vmscale.model import Measurement, Objective, Outcome
from pytest_vmscale.records import LatencyRecord
from pytest_vmscale.settings import Settings, SettingsError
from pytest_vmscale.slo.io_load import AROUND_SECONDS, achieved, added, check_guests
from pytest_vmscale.slo.objectives import at_most, every_vm, trouble_of
from pytest_vmscale.slo.profile import Added, Profile, Share

NOT_DONE = "reported nothing"
NAMED = 15  # VMs of a node that are named one by one


@dataclass(frozen=True)
class NodeLatency:
    """A node's VMs in one phase: their mean latency, against the median of all nodes' means."""

    node: str
    mean_seconds: float
    above_percent: float
    vms: tuple[str, ...]


def deadlines_seconds(settings: Settings, profile: Profile, tolerance_percent: float) -> list[float]:
    largest = max(settings.nodes)
    vms = largest * settings.vms_per_node
    if settings.cluster == "embedded" and largest > settings.simulation.workers:
        raise SettingsError(f"--nodes {largest}: the embedded cluster has {settings.simulation.workers} workers (--sim-workers)")
    if settings.reuse_fleet:
        raise SettingsError("--reuse-fleet: the latency suite places its VMs on nodes, and makes them itself")
    check_guests(settings, list(settings.mix(vms)), "the latency suite")
    return [AROUND_SECONDS + settings.site.fio.point_seconds] * len(settings.nodes)


# One point.


def records_of(measurement: Measurement) -> list[LatencyRecord]:
    return [cast(LatencyRecord, record) for record in measurement.records]


def judge(measurement: Measurement, profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    wanted = profile.latency
    trouble = trouble_of(measurement)
    reported = wanted.every_vm_reported
    return (
        every_vm("latency.every_vm_reported", "Every VM reported", measurement, reported.minimum_percent, reported.source, NOT_DONE),
        _achieved(measurement, wanted.achieved_iops, trouble),
        _added(measurement, "read", wanted.added_read, tolerance_percent, trouble),
        _added(measurement, "write", wanted.added_write, tolerance_percent, trouble),
        _node_spread(measurement, wanted.node_spread.largest_percent, wanted.node_spread.source, trouble),
    )


def _achieved(measurement: Measurement, wanted: Share, trouble: str) -> Objective:
    records = records_of(measurement)
    short = [record for record in records if record.overloaded]
    worst = [
        f"{len([r for r in short if phase in r.overloaded])} in {phase}"
        for phase in LatencyRecord.PHASES
        if any(phase in r.overloaded for r in short)
    ]
    return achieved(
        "latency.achieved_iops", measurement, records, wanted, trouble, f" ({', '.join(worst)}): {told_by_node(short, records)}"
    )


def _added(measurement: Measurement, direction: str, wanted: Added, tolerance_percent: float, trouble: str) -> Objective:
    found = (measurement.details.get("added") or {}).get(direction) or {}
    id, title, percent = f"latency.added_{direction}", f"Added {direction} latency", found.get("percent")
    objective = added(id, title, percent, wanted, measurement, tolerance_percent, trouble, "no VM kept up")
    if objective.outcome is not Outcome.FAIL:
        return objective
    if percent is None:
        return replace(objective, why=f"no VM achieved its rate in both {direction} runs: there is no latency but that of queues")
    return replace(
        objective,
        why=f"{direction}s under load take {percent:+.1f} % against the baseline ({found['low_percent']:+.1f} to {found['high_percent']:+.1f} %,"
        f" 95 %), and at most {objective.limit:+.1f} % is allowed",
    )


def _node_spread(measurement: Measurement, limit: float | None, source: str, trouble: str) -> Objective:
    """Of the baselines, reads and writes: the one in which a node stands out most."""
    per_phase = {f"baseline-{direction}": by_node(measurement, f"baseline-{direction}") for direction in LatencyRecord.DIRECTIONS}
    slowest = [(nodes[0].above_percent, phase, nodes[0]) for phase, nodes in per_phase.items() if len(nodes) > 1]
    worst = max(slowest, key=lambda each: each[0], default=None)
    several = len({record.node for record in measurement.records if record.node}) > 1
    why = ""
    if worst and limit is not None and worst[0] > limit:
        out = [node for node in per_phase[worst[1]] if node.above_percent > limit]
        why = "; ".join(
            f"{node.node} takes {node.mean_seconds * 1e6:.0f} us in {worst[1]}, {node.above_percent:.0f} % above the median node: {_names(node.vms)}"
            for node in out
        )
    return at_most(
        "latency.node_spread",
        "Slowest node above the median",
        worst[0] if worst else 0.0,
        unit="%",
        limit=limit if several else None,
        source=source,
        scope=measurement.scope,
        trouble=trouble or ("" if worst or not several else "no node has a baseline"),
        text=f"{worst[0]:.1f} %" if worst else "one node",
        why=why,
    )


def by_node(measurement: Measurement, phase: str) -> list[NodeLatency]:
    """The nodes' mean latencies, the slowest first. VMs that did not achieve their rate are left out."""
    grouped: dict[str, dict[str, float]] = {}
    for record in records_of(measurement):
        if record.node and (mean := record.mean_seconds(phase)) is not None:
            grouped.setdefault(record.node, {})[record.vm_name] = mean
    if not grouped:
        return []
    found = {node: statistics.fmean(vms.values()) for node, vms in grouped.items()}
    median = statistics.median(found.values())
    return sorted(
        (NodeLatency(node, mean, (mean / median - 1) * 100, tuple(grouped[node])) for node, mean in found.items()),
        key=lambda each: (-each.mean_seconds, each.node),
    )


def told_by_node(some: Sequence[LatencyRecord], records: Sequence[LatencyRecord]) -> str:
    """The VMs, and their nodes if those explain them: "all 15 of worker-003: rhel-00045, ..."."""
    parts = []
    for node in dict.fromkeys(record.node for record in some):
        here = [record.vm_name for record in some if record.node == node]
        total = sum(record.node == node for record in records)
        parts.append(f"{'all ' if len(here) == total else ''}{len(here)} of {node or 'an unknown node'}: {_names(here)}")
    return "; ".join(parts[:NAMED]) + (f"; and of {len(parts) - NAMED} more nodes" if len(parts) > NAMED else "")


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


# All points.


def judge_together(measurements: Sequence[Measurement], profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    """How far the baseline varies over the node counts: its coefficient of variation. One count gives no objective."""
    points = sorted(measurements, key=lambda each: each.size)
    if len({each.size for each in points}) < 2:
        return ()
    wanted = profile.latency.baseline_variance
    limit = None if wanted.largest_percent is None else wanted.largest_percent * (1 + tolerance_percent / 100)
    scope = f"{points[0].parameters.get('nodes')}-{points[-1].parameters.get('nodes')} nodes"
    found = []
    for direction in LatencyRecord.DIRECTIONS:
        phase = f"baseline-{direction}"
        values = [(each, each.details.get("phases", {}).get(phase, {}).get("mean_seconds")) for each in points]
        trouble = next((f"{each.scope}: {why}" for each in points if (why := trouble_of(each))), "") or next(
            (f"{each.scope} has no {phase}" for each, value in values if value is None), ""
        )
        variation = None if trouble else variance_percent([value for _, value in values])
        objective = at_most(
            f"latency.baseline_variance_{direction}",
            f"Baseline variance, {direction}s",
            variation[0] if variation else None,
            unit="%",
            limit=limit,
            reference=wanted.largest_percent,
            how=f"coefficient of variation over {len(points)} node counts; + {tolerance_percent:g} %",
            source=wanted.source,
            scope=scope,
            trouble=trouble,
            text=f"{variation[0]:.3f} %" if variation else None,
        )
        if variation and objective.why:
            worst = max(values, key=lambda each: abs(each[1] - statistics.fmean(value for _, value in values)))
            objective = replace(
                objective,
                why=f"the baseline's means vary by {variation[0]:.3f} % (range {variation[1]:.3f} %) where at most {limit:.3f} % is allowed; "
                f"furthest off is {worst[0].scope} with {worst[1] * 1e6:.1f} us{_slow_nodes(worst[0], phase, profile)}",
            )
        found.append(objective)
    return tuple(found)


def variance_percent(values: Sequence[float]) -> tuple[float, float]:
    """Coefficient of variation, and range over mean, both in percent."""
    mean = statistics.fmean(values)
    return statistics.pstdev(values) / mean * 100, (max(values) - min(values)) / mean * 100


def _slow_nodes(measurement: Measurement, phase: str, profile: Profile) -> str:
    limit = profile.latency.node_spread.largest_percent
    out = [node for node in by_node(measurement, phase) if limit is not None and node.above_percent > limit]
    return f" ({', '.join(f'{node.node} is {node.above_percent:.0f} % above its median node' for node in out)})" if out else ""
