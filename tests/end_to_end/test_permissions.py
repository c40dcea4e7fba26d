"""The roles in ci/rbac: each suite passes with its own account's, no role has more than a suite needs, and a run that lacks a right says which."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import account_of, apply_roles

SUITES = {
    "deployment": ("--vms", "4", "--bulk-size", "2", "--clone-strategy", "snapshot"),
    "bootstorm": ("--vms", "2,3"),
    "latency": ("-m", "latency", "--nodes", "1", "--vms-per-node", "2", "--background-pods", "5", "--vmscale-config=quick.yaml"),
    "migration": ("-m", "migration", "--vms", "2", "--migration-pods", "2", "--zones", "2"),
    "upgrade": ("--vms", "2", "--upgrade-to", "4.9.23", "--upgrade-load-share", "0"),
}
QUICK = "fio: {directories: 1, files_per_directory: 1, baseline_iops: 100, baseline_seconds: 5, ramp_seconds: 2, workload_seconds: 5}\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An embedded cluster with all of the roles; its administrator's kubeconfig."""
    state = tmp_path_factory.mktemp("permissions") / "state"
    vmscale = [sys.executable, "-m", "pytest_vmscale.cli", "embedded"]
    up = [*vmscale, "up", "--detach", "--workers", "4", "--speed", "300", "--state-dir", str(state)]
    kubeconfig = Path(subprocess.run(up, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    try:
        apply_roles(kubeconfig)
        yield kubeconfig
    finally:
        subprocess.run([*vmscale, "down", "--state-dir", str(state)], check=True)


@pytest.mark.parametrize("suite", SUITES)
def test_its_own_account_may_do_all_that_a_suite_does(scale, cluster, tmp_path, suite):
    account = account_of(cluster, f"vmscale-{suite}", tmp_path / "kubeconfig")
    Path("quick.yaml").write_text(QUICK)
    outcome = scale(*SUITES[suite], "--allow-disruptive", f"--kubeconfig={account}", suite=f"suites/test_{suite}.py")
    assert outcome.code in (0, 1), outcome.out + outcome.err  # so few VMs, so fast, say nothing of the objectives
    assert "forbid" not in outcome.out + outcome.err
    assert all(each["cleanup"]["status"] == "Success" for each in map(outcome.json, outcome.named("*_results.json")))


@pytest.mark.parametrize(
    ("suite", "role", "verb", "resource"),
    [
        ("bootstorm", "vmscale-bootstorm", "update", "virtualmachines/start"),
        ("deployment", "vmscale-clone-strategy", "patch", "storageprofiles"),
        ("upgrade", "vmscale-upgrade", "patch", "clusterversions"),
    ],
)
def test_a_right_that_is_missing_is_named_before_anything_is_made(scale, cluster, tmp_path, suite, role, verb, resource):
    from kubernetes import client, config

    Path("quick.yaml").write_text(QUICK)
    with config.new_client_from_config(str(cluster)) as api:
        roles = client.RbacAuthorizationV1Api(api)
        whole = roles.read_cluster_role(role)
        less = api.sanitize_for_serialization(whole)
        less["rules"] = [part for rule in less["rules"] for part in without(rule, verb, resource)]
        roles.replace_cluster_role(role, less)
        try:
            account = account_of(cluster, f"vmscale-{suite}", tmp_path / "kubeconfig")
            options = (*SUITES[suite], "--allow-disruptive", "--run-id", "lacks", f"--kubeconfig={account}")
            outcome = scale(*options, suite=f"suites/test_{suite}.py")
            made = [each.metadata.name for each in client.CoreV1Api(api).list_namespace().items if "lacks" in each.metadata.name]
        finally:
            now = roles.read_cluster_role(role)
            now.rules = whole.rules
            roles.replace_cluster_role(role, now)
    assert outcome.code == 10, outcome.out
    (why,) = outcome.json("verdict.json")["why"]
    assert re.fullmatch(rf"context 'embedded' of \S+ may not {verb} {resource}(\.[a-z.]+)? \(--plan tells all that the run needs\)", why)
    assert made == []


def without(rule: dict[str, Any], verb: str, resource: str) -> list[dict[str, Any]]:
    """The rule in parts, of which none allows this verb on this resource."""
    others = {**rule, "resources": [each for each in rule["resources"] if each != resource]}
    rest = {**rule, "resources": [resource], "verbs": [each for each in rule["verbs"] if each != verb]}
    return [each for each in (others, rest) if each["resources"] and each["verbs"] and {*each["resources"]} <= {*rule["resources"]}]
