"""The roles in ci/rbac allow what the scenarios say that they need, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_vmscale import options
from pytest_vmscale.cluster.journal import read_journal
from pytest_vmscale.cluster.review import missing
from pytest_vmscale.plan import plan
from pytest_vmscale.rights import FACTS, IMAGES, Right, rights, sentences
from pytest_vmscale.run import Run
from pytest_vmscale.scenarios import ALL, Scenario
from pytest_vmscale.slo.profile import load_profile

from .scripted import Scripted, answer, refusal, serving

RBAC = Path(__file__).parents[2] / "ci" / "rbac"
SHARED = ("base", "fleets")
# Every way of running a suite that takes other rights; by its file of roles.
WAYS = {
    "deployment": [("--deploy-until=ssh", "--ssh-via=port-forward", "--vmscale-config=import.yaml")],
    "bootstorm": [("--vms=1,2", "--ssh-via=port-forward", "--vmscale-config=import.yaml")],
    "latency": [("--background-pods=1", "--ssh-via=port-forward", "--vmscale-config=import.yaml")],
    "migration": [
        ("--migration-trigger=machineconfig", "--ssh-via=port-forward", "--vmscale-config=import.yaml"),
        ("--migration-trigger=drain",),
        ("--migration-trigger=vmim",),
    ],
    "upgrade": [("--upgrade-to=4.10.9", "--ssh-via=port-forward", "--vmscale-config=import.yaml")],
}
IMPORT = "guests: {rhel: {golden: {http: 'https://images.example.com/rhel9.qcow2'}}}\nstorage: {class: null}\n"


def granted(*names: str) -> set[Right]:
    """What the roles of these files allow."""
    found = set()
    for name in names:
        (path,) = RBAC.rglob(f"{name}.yaml")
        for role in yaml.safe_load_all(path.read_text()):
            for rule in role.get("rules", ()):
                assert not {"*"} & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}, f"{name}: {rule} allows more than can be said"
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        found.update(rights(group, resource, " ".join(rule["verbs"]), role["metadata"].get("namespace", "")))
    return found


def needed(pytester: pytest.Pytester, suite: str, *arguments: str) -> set[Right]:
    config = pytester.parseconfig(*arguments)
    run = Run(options.settings(config), load_profile("reference"))
    run.select([each.marker for each in ALL if account_for(each) == suite])
    assert run.selected
    return run.rights()


def account_for(scenario: Scenario) -> str:
    """Of a scenario that belongs to two suites, the account of the one that may do more, which comes last."""
    return scenario.marker.split(" and ")[-1]


@pytest.mark.parametrize("suite", WAYS)
def test_a_suites_roles_are_what_it_needs(pytester, suite):
    Path("import.yaml").write_text(IMPORT)
    wanted = set[Right]().union(*(needed(pytester, suite, *way) for way in WAYS[suite]))
    allowed = granted(*SHARED, suite)
    assert sentences(wanted - allowed) == []
    assert sentences(allowed - wanted - {*FACTS, *IMAGES}) == []


def test_what_is_disruptive_of_a_deployment_has_a_role_of_its_own(pytester):
    Path("import.yaml").write_text(IMPORT)
    without = needed(pytester, "deployment", "--vmscale-config=import.yaml")
    wanted = needed(pytester, "deployment", "--vmscale-config=import.yaml", "--clone-strategy=copy", "--allow-disruptive")
    assert wanted - without - {*FACTS} == granted("clone-strategy")


def test_every_suite_has_roles():
    assert {account_for(each) for each in ALL} == {*WAYS}


def test_every_account_has_the_roles_that_all_suites_share():
    """They are bound to accounts by name: one that is left out would show on a cluster only."""
    for name in SHARED:
        (path,) = RBAC.glob(f"{name}.yaml")
        for binding in yaml.safe_load_all(path.read_text()):
            if binding["kind"] in ("ClusterRoleBinding", "RoleBinding"):
                assert {each["name"] for each in binding["subjects"]} == {f"vmscale-{suite}" for suite in WAYS}, path


@pytest.mark.parametrize("suite", WAYS)
def test_no_role_reads_secrets(suite):
    verbs = {each.verb for each in granted(*SHARED, suite) if each.resource == "secrets"}
    assert verbs == {"create"}


def test_a_plan_tells_them(pytester):
    run = Run(options.settings(pytester.parseconfig("--vms=5", "--ssh-via=port-forward")), load_profile("reference"))
    run.select(["bootstorm"])
    told = list(plan(run))
    needs = told[told.index("Would need to be allowed to") + 1 : told.index("Would measure") - 1]
    assert "  create, get, update leases.coordination.k8s.io in the namespace default" in needs
    assert "  get virtualmachineinstances/portforward.subresources.kubevirt.io" in needs
    assert not any("virtualmachines/stop" in each for each in needs)  # one storm stops nothing


def test_rights_are_told_by_resource():
    told = sentences(
        [*rights("kubevirt.io", "virtualmachines", "list create"), *rights("", "nodes", "list"), *rights("", "events", "list", "default")]
    )
    assert told == ["list events in the namespace default", "list nodes", "create, list virtualmachines.kubevirt.io"]


NEEDED = (
    *rights("", "namespaces", "list"),
    *rights("subresources.kubevirt.io", "virtualmachines/start", "update"),
    *rights("", "events", "list", "default"),
)


def reviewed(tmp_path: Path, handler: Any) -> list[Right]:
    async def ask() -> list[Right]:
        async with serving(handler, tmp_path) as cluster:
            return await missing(cluster, NEEDED)

    return asyncio.run(ask())


def test_what_is_not_allowed_is_missing(tmp_path):
    asked: list[dict[str, str]] = []

    async def review(request: Any) -> Any:
        asked.append((await request.json())["spec"]["resourceAttributes"])
        return await answer({"status": {"allowed": asked[-1]["resource"] == "namespaces"}}, 201)(request)

    assert sentences(reviewed(tmp_path, review)) == [
        "list events in the namespace default",
        "update virtualmachines/start.subresources.kubevirt.io",
    ]
    assert {"verb": "update", "group": "subresources.kubevirt.io", "resource": "virtualmachines", "subresource": "start"} in asked
    assert {"verb": "list", "resource": "events", "namespace": "default"} in asked


def test_an_administrator_is_asked_once(tmp_path):
    script = Scripted(answer({"status": {"allowed": True}}, 201))
    assert reviewed(tmp_path, script) == [] and len(script.requests) == 1


@pytest.mark.parametrize("status", [403, 404])
def test_a_server_that_does_not_say_leaves_it_to_the_requests(tmp_path, status):
    assert reviewed(tmp_path, Scripted(refusal(status))) == []


def test_the_journal_of_a_run_that_edits_nothing_needs_no_right(tmp_path):
    script = Scripted(refusal(404), refusal(403))

    async def read() -> Any:
        async with serving(script, tmp_path) as cluster:
            return await read_journal(cluster, "r1")

    assert asyncio.run(read()) == [] and len(script.requests) == 1
