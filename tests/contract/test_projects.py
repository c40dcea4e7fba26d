"""OpenShift's projects and users, as `oc login`, `oc whoami`, `oc projects` and `oc new-project` ask for them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Api

PROJECTS, REQUESTS = "/apis/project.openshift.io/v1/projects", "/apis/project.openshift.io/v1/projectrequests"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
RBAC = "rbac.authorization.k8s.io"


@pytest.fixture
def name(embedded: Api) -> Iterator[str]:
    """Of a project to be made; removed afterwards."""
    found = f"project-{uuid.uuid4().hex[:8]}"
    yield found
    embedded.delete(f"/api/v1/namespaces/{found}")


def account(api: Api) -> tuple[str, str]:
    """A ServiceAccount's user name and token."""
    api.post(api.core("serviceaccounts"), {"metadata": {"name": "sa"}})
    reply = api.post(api.core("serviceaccounts/sa/token"), {"spec": {}})
    return f"system:serviceaccount:{api.namespace}:sa", reply.json["status"]["token"]


def allow(api: Api, user: str, kind: str, role: str, rules: list[Any]) -> None:
    """Give a user rules: in the whole cluster (ClusterRole), or in the test's namespace (Role)."""
    path = f"/apis/{RBAC}/v1/" + ("" if kind == "ClusterRole" else f"namespaces/{api.namespace}/")
    plural = f"{kind.lower()}s"
    assert api.post(path + plural, {"metadata": {"name": role}, "rules": rules}).code == 201
    bound = {"metadata": {"name": role}, "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role}, "subjects": [{"kind": "User", "name": user, "apiGroup": RBAC}]}
    assert api.post(path + plural.replace("roles", "rolebindings"), bound).code == 201


def test_who_am_i(embedded: Api) -> None:
    me = embedded.get("/apis/user.openshift.io/v1/users/~").json
    assert (me["kind"], me["apiVersion"], me["metadata"]["name"]) == ("User", "user.openshift.io/v1", "kube:admin")
    assert "system:cluster-admins" in me["groups"]
    assert embedded.get("/apis/user.openshift.io/v1/users/nobody").code == 404


def test_a_project_is_its_namespace(embedded: Api) -> None:
    namespace, project = embedded.get(f"/api/v1/namespaces/{embedded.namespace}").json, embedded.get(f"{PROJECTS}/{embedded.namespace}").json
    assert (project["kind"], project["apiVersion"]) == ("Project", "project.openshift.io/v1")
    assert {**project, "kind": "Namespace", "apiVersion": "v1"} == namespace
    assert embedded.get(f"{PROJECTS}/nowhere").json["message"] == 'projects.project.openshift.io "nowhere" not found'
    listed = embedded.get(PROJECTS).json
    assert listed["kind"] == "ProjectList" and embedded.namespace in [each["metadata"]["name"] for each in listed["items"]]


def test_a_project_is_asked_for(embedded: Api, name: str) -> None:
    asked = {"kind": "ProjectRequest", "apiVersion": "project.openshift.io/v1", "metadata": {"name": name}, "displayName": "Of mine", "description": "d"}
    reply = embedded.post(REQUESTS, asked)
    assert (reply.code, reply.json["kind"]) == (201, "Project")
    notes = embedded.get(f"/api/v1/namespaces/{name}").json["metadata"]["annotations"]
    assert notes == {"openshift.io/description": "d", "openshift.io/display-name": "Of mine", "openshift.io/requester": "kube:admin"}
    (binding,) = embedded.get(f"/apis/{RBAC}/v1/namespaces/{name}/rolebindings").json["items"]
    assert (binding["roleRef"]["name"], binding["subjects"][0]["name"]) == ("admin", "kube:admin")
    table = embedded.get(PROJECTS, accept=TABLE).json
    assert [each["name"] for each in table["columnDefinitions"]] == ["Name", "Display Name", "Status"]
    assert [name, "Of mine", "Active"] in [row["cells"] for row in table["rows"]]
    again = embedded.post(REQUESTS, asked)
    assert (again.code, again.json["message"]) == (409, f'project.project.openshift.io "{name}" already exists')
    assert embedded.delete(f"{PROJECTS}/{name}").json["status"] == "Success"
    assert embedded.get(f"/api/v1/namespaces/{name}").json["status"]["phase"] == "Terminating"


@pytest.mark.parametrize(("bad", "code", "words"), [
    ("openshift-mine", 403, 'cannot request a project starting with "openshift-"'), ("kube-mine", 403, 'cannot request a project starting with "kube-"'),
    ("Not_A_Name", 422, "a lowercase RFC 1123 label must consist of")])
def test_a_project_that_cannot_be(embedded: Api, bad: str, code: int, words: str) -> None:
    reply = embedded.post(REQUESTS, {"metadata": {"name": bad}})
    assert reply.code == code and words in reply.json["message"]


def test_everybody_sees_their_own_projects_alone(embedded: Api) -> None:
    user, token = account(embedded)
    assert embedded.get(PROJECTS, token=token).code == 403  # on an OpenShift the role basic-user lets everybody ask
    role = f"lists-{embedded.namespace}"
    allow(embedded, user, "ClusterRole", role, [{"apiGroups": ["project.openshift.io"], "resources": ["projects"], "verbs": ["list", "watch"]}])
    assert embedded.get(PROJECTS, token=token).json["items"] == []
    allow(embedded, user, "Role", "sees", [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]}])
    assert [each["metadata"]["name"] for each in embedded.get(PROJECTS, token=token).json["items"]] == [embedded.namespace]
    events = embedded.watch(f"{PROJECTS}?watch=1&timeoutSeconds=1", token=token)
    assert [(each["type"], each["object"]["kind"], each["object"]["metadata"]["name"]) for each in events] == [("ADDED", "Project", embedded.namespace)]
    for plural in ("clusterroles", "clusterrolebindings"):
        embedded.delete(f"/apis/{RBAC}/v1/{plural}/{role}")


def test_who_may_not_ask_for_a_project_is_told_so(embedded: Api, name: str) -> None:
    _, token = account(embedded)
    assert embedded.post(REQUESTS, {"metadata": {"name": name}}, token=token).code == 403
    assert embedded.get(REQUESTS, token=token).code == 403
    assert embedded.get(REQUESTS).json["status"] == "Success"


def test_an_administrator_makes_a_project_that_is_nobodys(embedded: Api, name: str) -> None:
    made = embedded.post(PROJECTS, {"kind": "Project", "apiVersion": "project.openshift.io/v1", "metadata": {"name": name, "annotations": {"a": "b"}}})
    assert (made.code, made.json["kind"], made.json["metadata"]["annotations"]) == (201, "Project", {"a": "b"})
    assert embedded.get(f"/apis/{RBAC}/v1/namespaces/{name}/rolebindings").json["items"] == []
    assert embedded.post(PROJECTS, {"metadata": {"name": name}}).json["message"] == f'projects.project.openshift.io "{name}" already exists'


def test_what_may_be_changed_of_a_project(embedded: Api) -> None:
    path = f"{PROJECTS}/{embedded.namespace}"
    note = "openshift.io/display-name"
    changed = embedded.patch(path, {"metadata": {"annotations": {note: "Shown"}}})
    assert (changed.code, changed.json["kind"], changed.json["metadata"]["annotations"]) == (200, "Project", {note: "Shown"})
    assert embedded.get(f"/api/v1/namespaces/{embedded.namespace}").json["metadata"]["annotations"] == {note: "Shown"}
    for where in ("labels", "annotations"):
        refused = embedded.patch(path, {"metadata": {where: {"x": "y"}}})
        assert (refused.code, refused.json["message"]) == (422, f'Project.project.openshift.io "{embedded.namespace}" is invalid: metadata.{where}[x]: Invalid value: "y": '
                                                                "field is immutable, try updating the namespace")
    old = embedded.get(path).json
    old["metadata"].pop("annotations")
    assert "annotations" not in embedded.put(path, old).json["metadata"]
    assert embedded.put(path, old).code == 409
