"""What a suite asserts with: the objectives of what was measured, and its comparison with earlier runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .model import Measurement, Objective, Outcome
from .run import MeasurementFailed, Run, SloBreach
from .scenarios import of_objective


class Check:
    """What a suite asserts with. An objective that is broken fails the test; one that could not be measured errs."""

    def __init__(self, run: Run, record_property: Callable[[str, object], None]) -> None:
        self._run, self._record_property = run, record_property

    def check(self, measurement: Measurement, objective_id: str) -> Objective:
        """Of one measurement."""
        return self._assert(objective_id, [measurement], measurement.scope)

    def check_together(self, measurements: Sequence[Measurement], objective_id: str) -> Objective:
        """Over all measurements of a scenario."""
        self._run.judged_together(of_objective(objective_id))
        return self._assert(objective_id, measurements, None)

    def check_no_regression(self, measurement: Measurement) -> None:
        """Of one measurement, against the baseline's."""
        __tracebackhide__ = True
        compared = self._run.compared()
        if compared is None:
            raise MeasurementFailed("without --baseline there is nothing to compare with")
        found = compared.of(measurement)
        from .report.allure import attach_comparison

        for name, value in found.properties.items():
            self._record_property(name, value)
        attach_comparison(measurement, found, self._run)
        if found.regressions:
            raise SloBreach("\n".join(found.regressions))
        if found.troubles:
            raise MeasurementFailed(found.troubles[0])
        if not any(each.changes for each in found.comparisons):
            import pytest

            pytest.skip("the baseline has none of this, which --baseline-allow missing allows")

    def _assert(self, objective_id: str, measurements: Sequence[Measurement], scope: str | None) -> Objective:
        __tracebackhide__ = True
        found = [each for each in self._run.objectives if each.id == objective_id and scope in (None, each.scope)]
        if not found:
            import difflib

            near = difflib.get_close_matches(objective_id, {each.id for each in self._run.objectives}, n=1)
            raise MeasurementFailed(f"nothing was judged as {objective_id}" + (f"; did you mean {near[0]}?" if near else ""))
        objective = found[-1]
        from .report.allure import attach
        from .report.junit import properties

        for name, value in properties(objective).items():
            self._record_property(name, value)
        attach(objective, measurements, self._run)
        if objective.outcome is Outcome.INCONCLUSIVE:
            raise MeasurementFailed(f"{objective.title}, {objective.scope}: {objective.why}")
        if objective.outcome is Outcome.FAIL:
            raise SloBreach(breach(objective))
        return objective


def breach(objective: Objective) -> str:
    margin = ""
    if objective.measured is not None and objective.limit and objective.margin_percent is not None:
        margin = f", {-objective.margin_percent:.1f} % {'over' if objective.measured > objective.limit else 'below'}"
    limit = "" if objective.limit is None else f" against a limit of {objective.limit:g} {objective.unit}{margin}"
    return f"{objective.title} ({objective.id}), {objective.scope}: {objective.measured_text}{limit}. {objective.why}".rstrip()
