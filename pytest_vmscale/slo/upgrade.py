"""An upgrade's objectives: the version is reached, in time, with healthy operators; no VM is lost; what the API and the VMs noticed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.records import UpgradeRecord
from pytest_vmscale.settings import Settings, SettingsError
from pytest_vmscale.slo.objectives import at_least, at_most, longest, lost_by_name, not_whole, so_many, some
from pytest_vmscale.slo.profile import Profile

DEADLINE_FACTOR = 2.0  # an upgrade is given up after this multiple of its limit


def upgrade_records(measurement: Measurement) -> tuple[UpgradeRecord, ...]:
    return cast(tuple[UpgradeRecord, ...], measurement.records)


def reference_seconds(profile: Profile, kind: str) -> float | None:
    """What the profile's reference took for a `patch` or a `minor` hop."""
    return profile.upgrade.duration.patch_seconds if kind == "patch" else profile.upgrade.duration.minor_seconds


def deadline_seconds(settings: Settings, profile: Profile, tolerance_percent: float, kind: str) -> float:
    """Cluster seconds after which a hop is given up. SettingsError if nothing says."""
    if settings.deadline_seconds is not None:
        return settings.deadline_seconds
    seconds = reference_seconds(profile, kind)
    if seconds is None:
        raise SettingsError(f"the SLO profile {profile.name} says nothing of the duration of a {kind} upgrade: give --deadline")
    return DEADLINE_FACTOR * seconds * (1 + tolerance_percent / 100)


def deadlines_seconds(settings: Settings, profile: Profile, tolerance_percent: float) -> list[float]:
    """Of each hop. What the cluster is at is not known yet: the first may be of either kind, and has the longer of their times."""
    if not settings.upgrades:
        raise SettingsError("the upgrade suite needs --upgrade-to VERSION on a real cluster (or -m 'not upgrade')")
    if len(settings.vms) > 1:
        raise SettingsError(f"--vms {','.join(map(str, settings.vms))}: an upgrade is done once; give one number of VMs")
    if settings.reuse_fleet:
        raise SettingsError("--reuse-fleet: the upgrade suite makes a fleet of its own")
    both = [deadline_seconds(settings, profile, tolerance_percent, kind) for kind in ("patch", "minor")]
    return [max(both)] * len(settings.upgrades)


def judge(measurement: Measurement, profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    wanted, details, scope = profile.upgrade, measurement.details, measurement.scope
    trouble = not_whole(measurement)
    reached, kind = measurement.duration_seconds is not None, str(details.get("kind", "patch"))
    why = "" if reached else not_reached(measurement)
    reference = reference_seconds(profile, kind)
    records = upgrade_records(measurement)
    done = len(records) - len(measurement.failed)
    unhealthy = list(details.get("unhealthy") or ())
    outages = [(details.get("api", {}).get(name) or {}).get("longest_outage_seconds") for name in ("read", "write")]
    downtimes = [each.ssh_downtime_seconds for each in records]
    return (
        at_least(
            "upgrade.version_reached",
            "Version reached",
            None if trouble else 100.0 if reached else 0.0,
            unit="%",
            limit=100.0,
            source=wanted.version_reached.source,
            scope=scope,
            trouble=trouble,
            text=str(details.get("to") if reached else details.get("state") or "no"),
            why=why,
        ),
        at_most(
            "upgrade.duration",
            "Upgrade duration",
            measurement.duration_seconds,
            unit="s",
            limit=None if reference is None else reference * (1 + tolerance_percent / 100),
            reference=reference,
            how=f"reference of a {kind} upgrade + {tolerance_percent:g} %",
            source=wanted.duration.source,
            scope=scope,
            trouble=trouble,
            beyond=f"> {measurement.deadline_seconds:g} s",
            why=why,
        ),
        so_many(
            "upgrade.no_vm_lost",
            "VMs that were not lost",
            done,
            len(records),
            wanted.no_vm_lost.minimum_percent,
            wanted.no_vm_lost.source,
            measurement,
            trouble,
            lost_by_name(measurement, "were lost"),
        ),
        at_most(
            "upgrade.operators_healthy",
            "Unhealthy operators",
            float(len(unhealthy)),
            unit="operators",
            limit=0.0,
            source=wanted.operators_healthy.source,
            scope=scope,
            trouble=trouble,
            text=f"{len(unhealthy)} of {len(details.get('operators') or ())}",
            why=some([f"{each['name']} ({each['why']})" for each in unhealthy]),
        ),
        longest("upgrade.api_outage", "Longest API outage", outages, wanted.api_outage, measurement, trouble, "it never answered"),
        longest("upgrade.vm_downtime", "Longest VM downtime", downtimes, wanted.vm_downtime, measurement, trouble, "not probed"),
    )


def judge_together(measurements: Sequence[Measurement], profile: Profile, tolerance_percent: float) -> tuple[Objective, ...]:
    """The hops of a chain are different things: nothing is judged of them together."""
    return ()


def not_reached(measurement: Measurement) -> str:
    """Why the version was not reached: the last that the ClusterVersion said, and the operators that were not done."""
    details = measurement.details
    after = f"not complete after {details.get('ended_seconds', measurement.deadline_seconds):.0f} s"
    said = [details["refused"]] if details.get("refused") else [details.get("message") or "ClusterVersion said nothing"]
    if details.get("superseded"):
        said = [f"somebody asked for {details['superseded']} meanwhile"]
    failing = [each[2] for each in details.get("failing") or () if each[1] is None]
    waiting = [f"{each['name']} ({each['said']})" for each in _not_done(measurement)]
    parts = [after, *said, *(each for each in failing if each not in said)]
    return "; ".join(parts) + (f"; not done: {some(waiting)}" if waiting else "")


def _not_done(measurement: Measurement) -> list[dict[str, str]]:
    """The operators that were at work, or in trouble, when it ended."""
    found = []
    for each in measurement.details.get("operators") or ():
        is_open = any(windows and windows[-1][1] is None for windows in (each["progressing"], each["unavailable"], each["degraded"]))
        if is_open and each["said"]:
            found.append(each)
    return found
