"""Is anything worse than in an earlier run? With --baseline, one test for each scenario, after all that is measured."""

from __future__ import annotations

import pytest

from pytest_vmscale.scenarios import ALL

pytestmark = pytest.mark.comparison


@pytest.mark.parametrize("scenario", [pytest.param(each, id=each.name, marks=getattr(pytest.mark, each.marker)) for each in ALL])
def test_no_regression(scenario, slo):
    slo.check_no_regression(scenario)
