"""By how much times of two runs may differ because the machine that measured them was busy, and nothing else changed."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_vmscale.model import Measurement, Sample
from pytest_vmscale.records import DeployRecord

# A stamp may be late by this much wall time, when the machine that measures is busy: assumed, where nothing was measured that tells. At
# 20x it is a second of the cluster's.
STAMP_WALL_SECONDS = 0.05
OBJECT_STAMP_SECONDS = 1.0  # resolution of the timestamps in Kubernetes' objects


def lateness_seconds(runs: Sequence[Measurement], of_one: bool) -> float:
    """What figures of these runs may differ by because the measuring machine was busy: it stamped late, or took longer to send the
    same requests. of_one: of a figure that is one stamp, which may be the latest of all."""
    sending = [seconds for seconds in map(_sending_seconds, runs) if seconds is not None]
    slower = max(sending) - min(sending) if len(sending) == len(runs) else 0.0
    return max(_stamp_lateness_seconds(each, of_one) for each in runs) + slower


def _sending_seconds(measurement: Measurement) -> float | None:
    """How long its requests took: a storm's to be sent, a bulk's, which are sent at once, to be answered (but for the slowest 5 %). The
    latter on the embedded cluster alone, which has to share the measuring machine: a real API server that answers later is a slower one."""
    if rate := measurement.details.get("request_rate_achieved"):
        return float(measurement.size / rate)
    if measurement.time_rate == 1.0:
        return None
    records = (each for each in measurement.records if isinstance(each, DeployRecord))
    answers = Sample(each.request_seconds for each in records if each.request_seconds is not None)
    return answers.percentile(95) if answers.size else None


def _stamp_lateness_seconds(measurement: Measurement, of_one: bool) -> float:
    """What stamps of this run may be late by. Where the objects' own timestamps were laid beside them, they tell: a steady
    difference is that of two clocks, and a second of it is those timestamps' resolution; what is more is a machine too busy to look."""
    skew = measurement.details.get("object_skew_seconds")
    if not skew:
        return STAMP_WALL_SECONDS * measurement.time_rate
    if of_one or "p95" not in skew:
        return max(0.0, float(skew["max"] - skew["min"]) - OBJECT_STAMP_SECONDS)
    # The middle 90 % of all, and of what the resolution makes of them.
    return max(0.0, float(skew["p95"] - skew["p5"]) - 0.9 * OBJECT_STAMP_SECONDS)
