"""The boot storm: many stopped VMs started at once, as after a power cut, each followed until its SSH answers."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.bootstorm


class TestBootStorm:
    """One storm for each point of --vms; one test for each objective."""

    def test_every_vm_boots(self, boot_storm, slo):
        slo.check(boot_storm, "bootstorm.every_vm_boots")

    def test_storm_duration(self, boot_storm, slo):
        slo.check(boot_storm, "bootstorm.duration")

    @pytest.mark.parametrize("percent", [50, 75, 90, 95, 99])
    def test_boot_time_percentile(self, boot_storm, slo, percent):
        slo.check(boot_storm, f"bootstorm.boot_time_p{percent}")

    @pytest.mark.own_objective("boot-storm")
    def test_own_objective(self, boot_storm, slo, own_objective):
        slo.check(boot_storm, own_objective)

    @pytest.mark.comparison
    def test_no_regression(self, boot_storm, slo):
        slo.check_no_regression(boot_storm)


@pytest.mark.sweep
class TestBootStormSweep:
    """Over all points: does the time grow in a straight line?"""

    def test_sweep_is_near_linear(self, boot_storms, slo):
        slo.check_together(boot_storms, "bootstorm.linearity")
