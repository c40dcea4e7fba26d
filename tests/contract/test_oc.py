"""What oc reads of an OpenShift beside what kubectl does: machines, operators, routes, who may do what."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from .test_kubevirt import Cluster, fresh, started

WORKERS = 3  # of `started`


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("oc")) as path:
        yield fresh(path)


def items(cluster: Cluster, path: str) -> list[Any]:
    code, answer = cluster.ask("GET", path)
    assert code == 200, answer
    return list(answer["items"])


def test_every_node_has_its_machine(cluster: Cluster) -> None:
    machines = {each["metadata"]["name"]: each for each in items(cluster, "/apis/machine.openshift.io/v1beta1/namespaces/openshift-machine-api/machines")}
    nodes = items(cluster, "/api/v1/nodes")
    assert len(machines) == len(nodes) == 3 + WORKERS
    for node in nodes:
        namespace, _, name = node["metadata"]["annotations"]["machine.openshift.io/machine"].partition("/")
        assert namespace == "openshift-machine-api"
        assert machines[name]["status"]["nodeRef"] == {"kind": "Node", "name": node["metadata"]["name"], "uid": node["metadata"]["uid"]}
        assert machines[name]["status"]["phase"] == "Running" and machines[name]["status"]["addresses"] == node["status"]["addresses"]
    (machine_set,) = items(cluster, "/apis/machine.openshift.io/v1beta1/machinesets")
    chosen = ",".join(f"{key}={value}" for key, value in machine_set["spec"]["selector"]["matchLabels"].items())
    of_set = items(cluster, f"/apis/machine.openshift.io/v1beta1/machines?labelSelector={quote(chosen)}")
    assert len(of_set) == machine_set["spec"]["replicas"] == machine_set["status"]["readyReplicas"] == WORKERS


def test_virtualization_was_installed_by_the_lifecycle_manager(cluster: Cluster) -> None:
    path = "/apis/operators.coreos.com/v1alpha1/namespaces/openshift-cnv"
    (version,), (subscription,) = items(cluster, f"{path}/clusterserviceversions"), items(cluster, f"{path}/subscriptions")
    assert (version["spec"]["version"], version["status"]["phase"]) == ("4.9.2", "Succeeded")
    assert subscription["status"]["installedCSV"] == version["metadata"]["name"]


def test_what_an_inspection_of_an_operator_gathers_is_there(cluster: Cluster) -> None:
    """oc adm inspect clusteroperator/NAME follows relatedObjects."""
    found = 0
    for operator in items(cluster, "/apis/config.openshift.io/v1/clusteroperators"):
        # By this oc adm upgrade status tells the release's own operators from others.
        assert operator["metadata"]["annotations"]["include.release.openshift.io/self-managed-high-availability"] == "true"
        for related in operator["status"].get("relatedObjects", ()):
            found += 1
            group = {"": "/api/v1", "machine.openshift.io": "/apis/machine.openshift.io/v1beta1"}.get(related["group"], f"/apis/{related['group']}/v1")
            space = f"/namespaces/{related['namespace']}" if related.get("namespace") else ""
            assert cluster.ask("GET", f"{group}{space}/{related['resource']}/{related['name']}".rstrip("/"))[0] == 200, related
    assert found > 5
    code, deployment = cluster.ask("GET", "/apis/apps/v1/namespaces/openshift-machine-config-operator/deployments/machine-config-operator")
    assert code == 200 and deployment["spec"]["template"]["spec"]["containers"][0]["image"]  # which oc adm upgrade status asks for
    cluster.until(lambda: cluster.ask("GET", "/apis/apps/v1/namespaces/openshift-machine-config-operator/deployments/machine-config-operator")[1]["status"].get("readyReplicas") == 1)


def test_a_route_gets_a_name_below_the_clusters_domain(cluster: Cluster) -> None:
    path = f"/apis/route.openshift.io/v1/namespaces/{cluster.namespace}/routes"
    route = {"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": {"name": "r"}, "spec": {"to": {"kind": "Service", "name": "s"}, "port": {"targetPort": 80}}}
    code, made = cluster.ask("POST", path, route)
    assert code == 201 and made["spec"]["host"] == f"r-{cluster.namespace}.apps.reference.example"
    assert (made["spec"]["to"]["weight"], made["spec"]["wildcardPolicy"]) == (100, "None")
    own = {**route, "metadata": {"name": "own"}, "spec": {**route["spec"], "host": "own.example"}}
    assert cluster.ask("POST", path, own)[1]["spec"]["host"] == "own.example"


def test_what_the_installer_wrote_down_of_the_cluster(cluster: Cluster) -> None:
    def of(plural: str) -> Any:
        return cluster.ask("GET", f"/apis/config.openshift.io/v1/{plural}/cluster")[1]

    assert of("ingresses")["spec"]["domain"] == f"apps.{of('dnses')['spec']['baseDomain']}"
    assert of("networks")["status"]["networkType"] == of("networks")["spec"]["networkType"] == "OpenShiftSDN" and of("proxies")["spec"]
    console = cluster.ask("GET", "/api/v1/namespaces/openshift-config-managed/configmaps/console-public")[1]["data"]["consoleURL"]
    assert console.endswith(of("ingresses")["spec"]["domain"])


def test_security_context_constraints_are_listed(cluster: Cluster) -> None:
    found = {each["metadata"]["name"]: each for each in items(cluster, "/apis/security.openshift.io/v1/securitycontextconstraints")}
    assert found["privileged"]["allowPrivilegedContainer"] and not found["restricted"]["allowPrivilegedContainer"]
    assert found["kubevirt-handler"]["users"] == ["system:serviceaccount:openshift-cnv:kubevirt-handler"] and found["kubevirt-controller"]["allowHostDirVolumePlugin"]


def test_users_and_groups_by_hand(cluster: Cluster) -> None:
    """As oc create user and oc adm groups new send them."""
    for plural, body in (("users", {"kind": "User", "identities": None, "groups": None}), ("users", {"kind": "User"}), ("groups", {"kind": "Group", "users": None})):
        found = cluster.ask("POST", f"/apis/user.openshift.io/v1/{plural}", {**body, "apiVersion": "user.openshift.io/v1", "metadata": {"generateName": "bob-"}})
        assert found[0] == 201, found


@pytest.mark.parametrize("path", ["image.openshift.io/v1/imagestreams", "apps.openshift.io/v1/deploymentconfigs", "build.openshift.io/v1/buildconfigs",
                                  "build.openshift.io/v1/builds", "template.openshift.io/v1/templates", "route.openshift.io/v1/routes", "user.openshift.io/v1/users"])
def test_what_oc_status_lists_is_served_and_no_custom_resource(cluster: Cluster, path: str) -> None:
    assert isinstance(items(cluster, f"/apis/{path}"), list)
    group, _, plural = path.split("/")
    assert cluster.ask("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}")[0] == 404


def test_who_can(cluster: Cluster) -> None:
    """oc policy who-can."""
    path = f"/apis/authorization.openshift.io/v1/namespaces/{cluster.namespace}/localresourceaccessreviews"
    asked = {"kind": "LocalResourceAccessReview", "apiVersion": "authorization.openshift.io/v1", "verb": "update", "resourceAPIGroup": "subresources.kubevirt.io",
             "resource": "virtualmachines/start"}
    code, before = cluster.ask("POST", path, asked)
    assert (code, before["kind"], before["namespace"]) == (201, "ResourceAccessReviewResponse", cluster.namespace)
    assert "system:masters" in before["groups"] and "jane" not in before["users"]
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cluster.namespace}/rolebindings"
    subjects = [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}, {"kind": "ServiceAccount", "name": "sa", "namespace": cluster.namespace}]
    cluster.ask("POST", rbac, {"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}, "subjects": subjects})
    after = cluster.ask("POST", path, asked)[1]
    assert set(after["users"]) - set(before["users"]) == {"jane", f"system:serviceaccount:{cluster.namespace}:sa"} and after["groups"] == before["groups"]
    assert "jane" not in cluster.ask("POST", "/apis/authorization.openshift.io/v1/resourceaccessreviews", {**asked, "kind": "ResourceAccessReview"})[1]["users"]
    assert cluster.ask("POST", path, {**asked, "verb": ""})[0] == 422

    def can(who: dict[str, Any], **more: str) -> bool:
        body = {**asked, "kind": "LocalSubjectAccessReview", **who, **more}
        return bool(cluster.ask("POST", path.replace("resourceaccess", "subjectaccess"), body)[1]["allowed"])

    assert can({"user": "jane"}) and can({}) and not can({"user": "joe"}) and can({"user": "joe", "groups": ["system:masters"]})
    assert not can({"user": "jane"}, verb="delete") and not can({"user": "jane"}, resource="nodes")


def test_somebody_without_a_project_logs_in(cluster: Cluster) -> None:
    """What oc login --token asks after it: who they are, their projects, and whether they may ask for one."""
    accounts = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/default"
    cluster.until(lambda: cluster.ask("GET", accounts)[0] == 200)
    someone = copy.copy(cluster)
    someone.token = cluster.ask("POST", f"{accounts}/token", {"spec": {}})[1]["status"]["token"]
    name = f"system:serviceaccount:{cluster.namespace}:default"
    assert someone.ask("GET", "/apis/user.openshift.io/v1/users/~")[1]["metadata"]["name"] == name
    assert items(someone, "/apis/project.openshift.io/v1/projects") == []
    path = "/apis/authorization.openshift.io/v1/subjectaccessreviews"
    asked = {"kind": "SubjectAccessReview", "apiVersion": "authorization.openshift.io/v1", "verb": "create", "resourceAPIGroup": "project.openshift.io", "resource": "projectrequests"}
    assert someone.ask("POST", path, asked)[1]["allowed"] is False
    assert someone.ask("POST", path, {**asked, "user": "jane"})[0] == 403
    assert someone.ask("GET", "/apis/project.openshift.io/v1/projectrequests")[0] == 403


def test_a_debug_pods_priority_and_the_roles_that_people_bind_are_there(cluster: Cluster) -> None:
    for path in ("scheduling.k8s.io/v1/priorityclasses/openshift-user-critical", *(f"rbac.authorization.k8s.io/v1/clusterroles/{each}" for each in (
            "cluster-admin", "cluster-reader", "admin", "edit", "view", "basic-user", "self-provisioner"))):
        assert cluster.ask("GET", f"/apis/{path}")[0] == 200, path


def processed(cluster: Cluster, objects: list[Any], parameters: list[Any], **more: Any) -> tuple[int, Any]:
    body = {"apiVersion": "template.openshift.io/v1", "kind": "Template", "metadata": {"name": "t"}, "objects": objects, "parameters": parameters, **more}
    return cluster.ask("POST", f"/apis/template.openshift.io/v1/namespaces/{cluster.namespace}/processedtemplates", body)


def test_a_template_that_is_kept_is_another_resource_than_one_to_be_processed(cluster: Cluster) -> None:
    """Both are of the kind Template, and clients take the last resource of a kind for its own."""
    listed = cluster.ask("GET", "/apis/template.openshift.io/v1")[1]["resources"]
    assert [(each["name"], each["kind"]) for each in listed] == [("processedtemplates", "Template"), ("templates", "Template")]


def test_a_template_is_processed(cluster: Cluster) -> None:
    """oc process."""
    obj = {"apiVersion": "v1", "kind": "${KIND}", "metadata": {"name": "a-${NAME}-${NAME}", "namespace": "elsewhere", "labels": {"mine": "1"}},
           "spec": {"cpu": "${{CPU}}", "some": ["${{CPU}}x", "${UNKNOWN}", 1], "password": "${PASSWORD}"}}
    parameters = [{"name": "NAME", "value": "b"}, {"name": "KIND", "value": "ConfigMap"}, {"name": "CPU", "value": "3"},
                  {"name": "PASSWORD", "generate": "expression", "from": "x[a-f]{20}[\\d]{3}"}]
    code, template = processed(cluster, [obj], parameters, labels={"app": "${NAME}"}, message="made ${NAME}")
    assert code == 201 and template["message"] == "made b"
    (made,) = template["objects"]
    password = made["spec"].pop("password")
    assert re.fullmatch("x[a-f]{20}[0-9]{3}", password) and template["parameters"][3]["value"] == password
    assert made == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a-b-b", "labels": {"mine": "1", "app": "b"}},
                    "spec": {"cpu": 3, "some": ["${{CPU}}x", "${UNKNOWN}", 1]}}
    assert processed(cluster, [obj], [{"name": "NAME", "required": True}])[1]["message"].endswith("parameter NAME is required and must be specified")
    assert processed(cluster, [obj], [{"name": "NAME", "generate": "dice"}])[0] == processed(cluster, [], [{"name": "N", "generate": "expression", "from": "[z-a]{2}"}])[0] == 422
