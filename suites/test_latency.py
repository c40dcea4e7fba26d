"""I/O latency: fio in every guest of one node to many, a baseline and then a workload, reads and writes apart."""

from __future__ import annotations

import pytest

from pytest_vmscale.plugin import RUN

pytestmark = pytest.mark.latency


def pytest_generate_tests(metafunc):
    """A test that takes `nodes` runs once for each node count."""
    if "nodes" in metafunc.fixturenames and RUN in metafunc.config.stash:
        counts = metafunc.config.stash[RUN].settings.nodes
        metafunc.parametrize("nodes", counts, ids=[f"{count}-nodes" for count in counts], scope="module")


class TestLatency:
    """One measurement for each node count; one test for each objective."""

    def test_every_vm_reports(self, latency, slo):
        slo.check(latency, "latency.every_vm_reported")

    def test_every_vm_achieves_its_rate(self, latency, slo):
        slo.check(latency, "latency.achieved_iops")

    @pytest.mark.parametrize("direction", ["read", "write"])
    def test_added_latency(self, latency, slo, direction):
        slo.check(latency, f"latency.added_{direction}")

    def test_no_node_stands_out(self, latency, slo):
        slo.check(latency, "latency.node_spread")

    @pytest.mark.own_objective("fio")
    def test_own_objective(self, latency, slo, own_objective):
        slo.check(latency, own_objective)

    @pytest.mark.comparison
    def test_no_regression(self, latency, slo):
        slo.check_no_regression(latency)


@pytest.mark.sweep
class TestLatencySweep:
    """Over all node counts: does the baseline stay what it is?"""

    @pytest.mark.parametrize("direction", ["read", "write"])
    def test_baseline_does_not_vary(self, latencies, slo, direction):
        slo.check_together(latencies, f"latency.baseline_variance_{direction}")
