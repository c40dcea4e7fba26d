"""The deployment: VMs with cloned disks, made in bulks; how fast, by which clone strategy, and whether all of it goes again."""

from __future__ import annotations

import pytest

from pytest_vmscale.plugin import RUN
from pytest_vmscale.slo.deployment import points

pytestmark = pytest.mark.deployment


def pytest_generate_tests(metafunc):
    """A test that takes `point` runs once for each number of VMs, bulk size and repetition."""
    if "point" in metafunc.fixturenames and RUN in metafunc.config.stash:
        found = points(metafunc.config.stash[RUN].settings)
        metafunc.parametrize("point", found, ids=[each.slug for each in found], scope="module")


class TestDeployment:
    """One deployment for each point; one test for each objective."""

    def test_every_vm_is_deployed(self, deployment, slo):
        slo.check(deployment, "deployment.every_vm_deployed")

    def test_clone_strategy(self, deployment, slo):
        slo.check(deployment, "deployment.clone_strategy")

    def test_nothing_is_left_behind(self, deployment, slo):
        slo.check(deployment, "deployment.nothing_left")

    def test_duration(self, deployment, slo):
        slo.check(deployment, "deployment.duration")

    def test_slowest_bulk(self, deployment, slo):
        slo.check(deployment, "deployment.bulk_duration")

    @pytest.mark.parametrize("percent", [50, 90, 99])
    def test_clone_time_percentile(self, deployment, slo, percent):
        slo.check(deployment, f"deployment.clone_time_p{percent}")

    @pytest.mark.own_objective("datasource-clone")
    def test_own_objective(self, deployment, slo, own_objective):
        slo.check(deployment, own_objective)

    @pytest.mark.comparison
    def test_no_regression(self, deployment, slo):
        slo.check_no_regression(deployment)


@pytest.mark.sweep
class TestDeploymentSweep:
    """Over all points: which bulk size is the fastest?"""

    def test_fastest_bulk_size(self, deployments, slo):
        slo.check_together(deployments, "deployment.best_bulk")
