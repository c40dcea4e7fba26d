"""Kubernetes' quantities: 500m, 2Gi, 1e3."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
DECIMAL = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal("1e3"), "M": Decimal("1e6"),
           "G": Decimal("1e9"), "T": Decimal("1e12"), "P": Decimal("1e15"), "E": Decimal("1e18")}
QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
QUANTITY_RULE = r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"


def canonical_quantity(text: str) -> str:
    """A quantity as the server writes it: 0.5 is 500m, 1024Mi is 1Gi. ValueError for what is none."""
    match = QUANTITY.fullmatch(text)
    if not match:
        raise ValueError(f"quantities must match the regular expression '{QUANTITY_RULE}'")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in BINARY:
        value = number * BINARY[suffix]
        if value == value.to_integral_value() and abs(value) >= 1024:
            unit = next((u for u in reversed(BINARY) if value % BINARY[u] == 0), None)
            return f"{int(value // BINARY[unit])}{unit}" if unit else str(int(value))
        return canonical_quantity(format(value.normalize(), "f")) if value else "0"
    if suffix not in DECIMAL:  # an exponent stays one
        return text
    value = number * DECIMAL[suffix]
    if not value:
        return "0"
    unit = next((u for u in reversed(DECIMAL) if value % DECIMAL[u] == 0), "n")
    return f"{int((value / DECIMAL[unit]).to_integral_value(rounding='ROUND_UP'))}{unit}"


def quantity(text: Any) -> Decimal:
    """A quantity's value; ValueError for what is none."""
    match = QUANTITY.fullmatch(str(text))
    if not match:
        raise ValueError(f"not a quantity: {text!r}")
    suffix = match[2] or ""
    if suffix in BINARY or suffix in DECIMAL:
        return Decimal(match[1]) * (BINARY.get(suffix) or DECIMAL[suffix])
    return Decimal(match[1] + suffix)
