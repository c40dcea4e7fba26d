"""Measurements that nobody measured: for the tests of what judges and reports them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from pytest_vmscale.model import Gap, Measurement, Moment, Objective, Status
from pytest_vmscale.records import BootRecord
from pytest_vmscale.slo import boot_storm
from pytest_vmscale.slo.profile import Profile

OSES = ("rhel", "rhel", "fedora", "windows")


def make_record(index: int = 0, boot_seconds: float | None = 30.0, **changes: Any) -> BootRecord:
    """A VM that answered SSH `boot_seconds` after its request; None: one that stayed in Scheduling."""
    up = boot_seconds is not None
    fields: dict[str, Any] = {
        "namespace": f"vmscale-{index // 500}",
        "vm_name": f"storm-{index:04d}",
        "os": OSES[index % len(OSES)],
        "status": Status.SUCCESS if up else Status.TIMED_OUT,
        "requested_at": 0.001 * index,
        "node": f"worker-{index % 100:03d}" if up else None,
        "error": None if up else "no SSH answer before the deadline",
        "last_phase": "Running" if up else "Scheduling",
        "time_to_vm_created_seconds": boot_seconds * 0.1 if up else 4.0,
        "time_to_vmi_running_seconds": boot_seconds * 0.6 if up else None,
        "time_to_vmi_ready_seconds": boot_seconds * 0.65 if up else None,
        "time_to_guest_ip_seconds": boot_seconds * 0.6 if up else None,
        "time_to_ssh_seconds": boot_seconds,
        "error_bound_seconds": 2.0 if up else None,
        "request_seconds": 0.012,
        "probes": 5 if up else 0,
        "probe_lag_seconds": 0.01 if up else None,
        "timeline": (Moment("created", 4.0),)
        if not up
        else (
            Moment("created", boot_seconds * 0.1, object_seconds=boot_seconds * 0.1 - 0.4),
            Moment("Scheduled", boot_seconds * 0.2, upper_bound=index % 50 == 7),
            Moment("Running", boot_seconds * 0.6),
            Moment("ssh", boot_seconds),
        ),
    }
    return BootRecord(**{**fields, **changes})


def make_measurement(boot_seconds: Sequence[float | None], **changes: Any) -> Measurement:
    """A boot storm of VMs with these boot times (None: never booted)."""
    records = tuple(make_record(index, seconds) for index, seconds in enumerate(boot_seconds))
    up = [record.requested_at + record.time_to_ssh_seconds for record in records if record.time_to_ssh_seconds is not None]
    fields: dict[str, Any] = {
        "scenario": "boot-storm",
        "version": "1.0.0",
        "run_id": "r-20261121-080000",
        "started_epoch": 1795248000.0,
        "parameters": {"vms": len(records), "ssh_interval_seconds": 2.0, "deadline_seconds": 3600.0, "request_rate_wanted": None},
        "records": records,
        "deadline_seconds": 3600.0,
        "duration_seconds": max(up, default=None),
        "gaps": (Gap("virtualmachineinstances", 12.0, 12.8, "410 Gone"),),
        "details": {"requests_sent": len(records), "request_rate_achieved": 812.0, "request_retries": {"429": 3}},
    }
    return Measurement(**{**fields, **changes})


def make_storm(vms: int, longest_seconds: float, lost: int = 0, seed: int = 1) -> Measurement:
    """A storm shaped as a queue drains: boot times spread evenly up to the longest, with some noise; the last `lost` never boot."""
    noise, shortest = random.Random(seed), min(25.0, longest_seconds / 3)
    times: list[float | None] = [
        shortest + (longest_seconds - shortest) * (index + 1) / vms * noise.uniform(0.9, 1.0) for index in range(vms - lost)
    ]
    if times:
        times[-1] = longest_seconds
    return make_measurement([*times, *[None] * lost])


def judge_storm(measurement: Measurement, profile: Profile, tolerance_percent: float | None = None) -> tuple[Objective, ...]:
    return boot_storm.judge(measurement, profile, profile.tolerance_percent if tolerance_percent is None else tolerance_percent)


def judge_sweep(measurements: Sequence[Measurement], profile: Profile) -> tuple[Objective, ...]:
    return boot_storm.judge_together(measurements, profile, profile.tolerance_percent)
