"""A zone of the cluster is emptied of its VMs and pods, as an update of the cluster does it."""

from __future__ import annotations

import pytest

from pytest_vmscale.plugin import RUN
from pytest_vmscale.slo.migration import vmim_mix

pytestmark = [pytest.mark.migration, pytest.mark.disruptive]  # of both classes; the second one is the latency suite's too


def pytest_generate_tests(metafunc):
    """A test that takes `system` runs once for each OS of the fleet."""
    if "system" in metafunc.fixturenames and RUN in metafunc.config.stash:
        settings = metafunc.config.stash[RUN].settings
        metafunc.parametrize("system", sorted(settings.mix(settings.largest, vmim_mix(settings))))


class TestMigration:
    """One drain of one zone; one test for each objective."""

    def test_every_vm_leaves_as_it_should(self, migration, slo):
        slo.check(migration, "migration.every_vm_moved")

    def test_no_migration_fails(self, migration, slo):
        slo.check(migration, "migration.failures")

    def test_limits_hold(self, migration, slo):
        slo.check(migration, "migration.limits")

    def test_zone_duration(self, migration, slo):
        slo.check(migration, "migration.zone_duration")

    def test_time_of_drains(self, migration, slo):
        if migration.parameters["trigger"] == "vmim":
            pytest.skip("no node is drained")
        slo.check(migration, "migration.drain_time")

    def test_wait_for_nodes(self, migration, slo):
        if migration.parameters["trigger"] != "machineconfig":
            pytest.skip("no node reboots")
        slo.check(migration, "migration.node_wait")

    def test_last_vm_off(self, migration, slo):
        slo.check(migration, "migration.vms_off")

    def test_pods_are_back(self, migration, slo):
        if not migration.parameters["pods"]:
            pytest.skip("no pods were asked for")
        slo.check(migration, "migration.pods_back")

    def test_average_time(self, migration, system, slo):
        slo.check(migration, f"migration.average_{system}")

    @pytest.mark.own_objective("migration")
    def test_own_objective(self, migration, slo, own_objective):
        slo.check(migration, own_objective)

    @pytest.mark.comparison
    def test_no_regression(self, migration, slo):
        slo.check_no_regression(migration)


@pytest.mark.latency
class TestMigrationUnderLoad:
    """What VMs that do I/O notice of migrations, and migrations of the I/O. Runs where both suites are asked for."""

    def test_every_vm_reports(self, migration_under_load, slo):
        slo.check(migration_under_load, "migration_load.every_vm_reported")

    def test_rates_are_achieved(self, migration_under_load, slo):
        slo.check(migration_under_load, "migration_load.achieved_iops")

    def test_no_migration_fails(self, migration_under_load, slo):
        slo.check(migration_under_load, "migration_load.failures")

    def test_added_read_latency(self, migration_under_load, slo):
        slo.check(migration_under_load, "migration_load.added_read")

    def test_added_write_latency(self, migration_under_load, slo):
        slo.check(migration_under_load, "migration_load.added_write")

    def test_added_migration_time(self, migration_under_load, slo):
        slo.check(migration_under_load, "migration_load.added_duration")

    def test_longest_gap(self, migration_under_load, slo):
        slo.check(migration_under_load, "migration_load.longest_gap")

    @pytest.mark.own_objective("migration-latency")
    def test_own_objective(self, migration_under_load, slo, own_objective):
        slo.check(migration_under_load, own_objective)

    @pytest.mark.comparison
    def test_no_regression(self, migration_under_load, slo):
        slo.check_no_regression(migration_under_load)
