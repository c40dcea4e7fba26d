"""The roles in ci/rbac: each suite passes with its own account's, no role has more than a suite needs, and a run that lacks a right says which."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT, account_of, apply_roles

SUITES = {
    "deployment": ("--vms", "6", "--bulk-size", "3", "--clone-strategy", "snapshot"),
    "bootstorm": ("--vms", "3,4,6"),
    "latency": ("--nodes", "1", "--vms-per-node", "2", "--background-pods", "5"),
}
CLUSTER_ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An embedded cluster with all of the roles; its administrator's kubeconfig."""
    state = tmp_path_factory.mktemp("permissions") / "state"
    vmscale = [sys.executable, "-m", "pytest_vmscale.cli", "embedded"]
    up = [*vmscale, "up", "--detach", "--workers", "6", "--speed", "100", "--state-dir", str(state)]
    kubeconfig = Path(subprocess.run(up, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    try:
        apply_roles(kubeconfig)
        yield kubeconfig
    finally:
        subprocess.run([*vmscale, "down", "--state-dir", str(state)], check=True)


@pytest.mark.parametrize("suite", SUITES)
def test_its_own_account_may_do_all_that_a_suite_does(scale, cluster, tmp_path, suite):
    account = account_of(cluster, f"vmscale-{suite}", tmp_path / "kubeconfig")
    outcome = scale(*SUITES[suite], "--allow-disruptive", f"--kubeconfig={account}", suite=f"suites/test_{suite}.py")
    assert outcome.code in (0, 1), outcome.out + outcome.err  # so few VMs, so fast, say nothing of the objectives
    assert "forbid" not in outcome.out + outcome.err
    assert all(each["cleanup"]["status"] == "Success" for each in map(outcome.json, outcome.named("*_results.json")))


@pytest.mark.parametrize(
    ("suite", "role", "resource", "verb", "told"),
    [
        ("bootstorm", "vmscale-bootstorm", "virtualmachines/start", "update", "may not update virtualmachines/start.subresources.kubevirt.io ("),
        ("deployment", "vmscale-clone-strategy", "storageprofiles", "patch", "may not patch storageprofiles.cdi.kubevirt.io ("),
        ("latency", "vmscale-fleets", "virtualmachines", "create", "may not create virtualmachines.kubevirt.io ("),
        ("upgrade", "vmscale-upgrade", "clusterversions", "patch", "may not patch clusterversions.config.openshift.io ("),
    ],
)
def test_a_right_that_is_missing_is_named_before_anything_is_made(scale, cluster, tmp_path, suite, role, resource, verb, told):
    from kubernetes import client, config

    with config.new_client_from_config(str(cluster)) as api:
        roles = client.RbacAuthorizationV1Api(api)
        whole = roles.read_cluster_role(role)
        less = api.sanitize_for_serialization(whole)
        (rule,) = (each for each in less["rules"] if resource in each["resources"] and verb in each["verbs"])
        rule["resources"].remove(resource)
        others = [each for each in rule["verbs"] if each != verb]
        less["rules"] = [each for each in (*less["rules"], {**rule, "resources": [resource], "verbs": others}) if each["resources"] and each["verbs"]]
        roles.replace_cluster_role(role, less)
        try:
            account = account_of(cluster, f"vmscale-{suite}", tmp_path / "kubeconfig")
            more = ("--upgrade-to", "4.9.23", "--vms", "3") if suite == "upgrade" else SUITES[suite]
            outcome = scale(*more, "--allow-disruptive", "--run-id", "lacks", f"--kubeconfig={account}", suite=f"suites/test_{suite}.py")
            made = [each.metadata.name for each in client.CoreV1Api(api).list_namespace().items if "lacks" in each.metadata.name]
        finally:
            now = roles.read_cluster_role(role)
            now.rules = whole.rules
            roles.replace_cluster_role(role, now)
    assert outcome.code == 10, outcome.out
    assert outcome.json("verdict.json")["why"][0].startswith("context 'embedded' ")
    assert told in outcome.json("verdict.json")["why"][0]
    assert made == []
