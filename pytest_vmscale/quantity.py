"""Quantities, as Kubernetes writes them: `100m`, `4G`, `256Mi`, `2e3`."""

from __future__ import annotations

import re

_FACTORS = {
    "": 1.0,
    "m": 1e-3,
    **{suffix: 1000.0**power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": 1024.0**power for power, suffix in enumerate("KMGTPE", 1)},
}


def amount(quantity: str) -> float:
    """As a number: of bytes, CPUs, pods. ValueError if it is no quantity."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)([a-zA-Z]*)", quantity)
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{quantity!r} is no quantity")
    return float(match[1]) * _FACTORS[match[2]]
