"""What JUnit XML says of an objective, as properties of its test case."""

from __future__ import annotations

from pytest_vmscale.model import Objective


def properties(objective: Objective) -> dict[str, str]:
    """For record_property. A figure that there is none of is left out: an empty number is no number."""
    figures = {
        "measured": objective.measured,
        "limit": objective.limit,
        "reference": objective.reference,
        "margin_percent": objective.margin_percent,
    }
    said = {
        "objective": objective.id,
        "verdict": objective.outcome.value,
        "scope": objective.scope,
        "measured_text": objective.measured_text,
        "unit": objective.unit,
        **{name: f"{value:.6g}" for name, value in figures.items() if value is not None},
        "how": objective.how,
        "source": objective.source,
        "why": objective.why,
    }
    return {f"vmscale.{name}": value for name, value in said.items() if value}
