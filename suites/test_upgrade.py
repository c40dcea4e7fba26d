"""A cluster upgrade, or several in turn, under a fleet of running VMs with light I/O."""

from __future__ import annotations

import pytest

from pytest_vmscale.plugin import RUN

pytestmark = [pytest.mark.upgrade, pytest.mark.disruptive]


def pytest_generate_tests(metafunc):
    """A test that takes `hop` runs once for each version of --upgrade-to, in their order."""
    if "hop" in metafunc.fixturenames and RUN in metafunc.config.stash:
        hops = metafunc.config.stash[RUN].settings.upgrades
        metafunc.parametrize("hop", hops, ids=[f"to-{hop.version}" for hop in hops], scope="module")


class TestUpgrade:
    """One upgrade for each version; one test for each objective."""

    def test_version_is_reached(self, upgraded, slo):
        slo.check(upgraded, "upgrade.version_reached")

    def test_upgrade_duration(self, upgraded, slo):
        slo.check(upgraded, "upgrade.duration")

    def test_no_vm_is_lost(self, upgraded, slo):
        slo.check(upgraded, "upgrade.no_vm_lost")

    def test_operators_are_healthy(self, upgraded, slo):
        slo.check(upgraded, "upgrade.operators_healthy")

    def test_api_outage(self, upgraded, slo):
        slo.check(upgraded, "upgrade.api_outage")

    def test_vm_downtime(self, upgraded, slo):
        slo.check(upgraded, "upgrade.vm_downtime")

    @pytest.mark.own_objective("upgrade")
    def test_own_objective(self, upgraded, slo, own_objective):
        slo.check(upgraded, own_objective)

    @pytest.mark.comparison
    def test_no_regression(self, upgraded, slo):
        slo.check_no_regression(upgraded)
