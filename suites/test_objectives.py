"""The objectives that the SLO profile adds to the suites' own: one test for each, after all that is measured."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.own_objective


@pytest.fixture
def own_objective() -> str:
    """Its id. The plugin parametrises the test; without any there is nothing to test."""
    raise LookupError("the profile adds no objective")


def test_own_objective(own_objective, slo):
    slo.check_own(own_objective)
