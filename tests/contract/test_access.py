"""Who may do what: tokens, RBAC, reviews."""

from __future__ import annotations

import http.client
import ssl
from typing import Any

import pytest

from .conftest import Api, until

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def account(api: Api, name: str) -> str:
    """A ServiceAccount's token."""
    api.post(api.core("serviceaccounts"), {"metadata": {"name": name}})
    reply = api.post(api.core("serviceaccounts") + f"/{name}/token", {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 3600}})
    assert reply.code == 201, reply.text
    return str(reply.json["status"]["token"])


def allow(api: Api, name: str, **rule: Any) -> None:
    path = f"{RBAC}/namespaces/{api.namespace}"
    assert api.post(f"{path}/roles", {"metadata": {"name": name}, "rules": [rule]}).code == 201
    assert api.post(f"{path}/rolebindings", {"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                                             "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": api.namespace}]}).code == 201


def test_a_wrong_token(api: Api) -> None:
    reply = api.get(api.vms, token="wrong")
    assert (reply.code, reply.json["reason"], reply.json["message"]) == (401, "Unauthorized", "Unauthorized")


def test_no_token_is_anonymous(api: Api) -> None:
    reply = api.get(api.vms, token="")
    assert reply.code in (401, 403)
    if reply.code == 403:
        assert reply.json["message"] == (f'virtualmachines.kubevirt.io is forbidden: User "system:anonymous" cannot list resource "virtualmachines" in API group "kubevirt.io" '
                                         f'in the namespace "{api.namespace}"')


def test_public_paths_need_no_token(api: Api) -> None:
    assert api.get("/healthz", token="").code == api.get("/version", token="").code == 200
    reply = api.get("/apis", token="")
    assert (reply.code, reply.json["message"]) == (403, 'forbidden: User "system:anonymous" cannot get path "/apis"')


def test_a_role_allows_what_it_says(api: Api) -> None:
    token = account(api, "worker")
    refused = api.get(f"{api.vms}/a", token=token)
    assert (refused.code, refused.json["reason"]) == (403, "Forbidden")
    assert refused.json["message"] == (f'virtualmachines.kubevirt.io "a" is forbidden: User "system:serviceaccount:{api.namespace}:worker" cannot get resource "virtualmachines" '
                                       f'in API group "kubevirt.io" in the namespace "{api.namespace}"')
    allow(api, "worker", apiGroups=["kubevirt.io"], resources=["virtualmachines"], verbs=["get", "list"])
    until(lambda: api.get(f"{api.vms}/a", token=token).code == 404)
    assert api.get(api.vms, token=token).code == 200
    assert api.get(f"{api.vms}?watch=true&timeoutSeconds=1", token=token).code == 403
    assert api.delete(f"{api.vms}/a", token=token).code == 403
    assert api.patch(f"{api.vms}/a/status", {}, token=token).code == 403
    assert api.get("/apis/kubevirt.io/v1/virtualmachines", token=token).json["message"].endswith("at the cluster scope")
    assert api.get("/apis/kubevirt.io/v1", token=token).code == 200  # discovery is everybody's


def test_a_rule_can_name_objects(api: Api) -> None:
    token = account(api, "named")
    allow(api, "named", apiGroups=[""], resources=["configmaps"], verbs=["get"], resourceNames=["mine"])
    until(lambda: api.get(api.core("configmaps") + "/mine", token=token).code == 404)
    assert api.get(api.core("configmaps") + "/other", token=token).code == 403


def test_a_cluster_role_holds_everywhere(api: Api) -> None:
    token = account(api, "reader")
    role = {"metadata": {"name": f"reader-{api.namespace}"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]}
    api.post(f"{RBAC}/clusterroles", role)
    api.post(f"{RBAC}/clusterrolebindings", {"metadata": role["metadata"], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["metadata"]["name"]},
                                                  "subjects": [{"kind": "Group", "name": f"system:serviceaccounts:{api.namespace}"}]})
    until(lambda: api.get("/api/v1/nodes", token=token).code == 200)
    api.delete(f"{RBAC}/clusterrolebindings/{role['metadata']['name']}")
    until(lambda: api.get("/api/v1/nodes", token=token).code == 403)
    api.delete(f"{RBAC}/clusterroles/{role['metadata']['name']}")


def test_a_token_dies_with_its_account(api: Api) -> None:
    token = account(api, "short")
    assert api.get("/version", token=token).code == 200
    api.delete(api.core("serviceaccounts") + "/short")
    until(lambda: api.get("/version", token=token).code == 401)


def test_a_token_cannot_be_made_up(api: Api) -> None:
    token = account(api, "signed")
    head, claims, signature = token.split(".")
    assert api.get("/version", token=f"{head}.{claims[:-2]}xx.{signature}").code == 401
    assert api.get("/version", token=f"{head}.{claims}.").code == 401
    assert api.post(api.core("serviceaccounts") + "/signed/token", {"spec": {"expirationSeconds": 5}}).code == 422


def review(api: Api, kind: str, spec: dict[str, Any], group: str = "authorization.k8s.io", **more: Any) -> Any:
    reply = api.post(f"/apis/{group}/v1/{kind.lower()}s", {"kind": kind, "apiVersion": f"{group}/v1", "spec": spec}, **more)
    assert reply.code == 201, reply.text
    return reply.json["status"]


def test_reviews(api: Api) -> None:
    token = account(api, "asker")
    allow(api, "asker", apiGroups=[""], resources=["pods", "pods/log"], verbs=["get"])
    attributes = {"verb": "get", "resource": "pods", "namespace": api.namespace}
    assert review(api, "SelfSubjectAccessReview", {"resourceAttributes": attributes})["allowed"] is True
    until(lambda: review(api, "SelfSubjectAccessReview", {"resourceAttributes": attributes}, token=token)["allowed"] is True)
    assert review(api, "SelfSubjectAccessReview", {"resourceAttributes": {**attributes, "subresource": "log"}}, token=token)["allowed"] is True
    assert review(api, "SelfSubjectAccessReview", {"resourceAttributes": {**attributes, "verb": "delete"}}, token=token)["allowed"] is False
    user = f"system:serviceaccount:{api.namespace}:asker"
    assert review(api, "SubjectAccessReview", {"user": user, "resourceAttributes": attributes})["allowed"] is True
    rules = review(api, "SelfSubjectRulesReview", {"namespace": api.namespace}, token=token)["resourceRules"]
    assert {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"]} in rules
    found = review(api, "TokenReview", {"token": token}, "authentication.k8s.io")
    assert (found["authenticated"], found["user"]["username"]) == (True, user)
    assert "error" in review(api, "TokenReview", {"token": "wrong"}, "authentication.k8s.io")


def test_impersonation(api: Api) -> None:
    reply = api.get(api.vms, headers={"Impersonate-User": "jane"})
    assert (reply.code, 'User "jane" cannot list' in reply.json["message"]) == (403, True)
    token = account(api, "nobody")
    reply = api.get(api.vms, token=token, headers={"Impersonate-User": "jane"})
    assert (reply.code, "cannot impersonate" in reply.json["message"]) == (403, True)  # the rest of its words depends on the release
    assert api.get(api.vms, headers={"Impersonate-Group": "system:masters"}).code == 400


class Failing:
    """A fault plan of one failure."""

    watch_expiry_seconds = None

    def __init__(self, code: int, retry_after_seconds: float | None = None, *, reset: bool = False) -> None:
        self.code, self.retry_after_seconds, self.reset = code, retry_after_seconds, reset

    def api_failure(self) -> Failing:
        return self


@pytest.mark.parametrize(("code", "after", "reason"), [(429, 1.0, "TooManyRequests"), (500, None, "InternalError"), (503, 2.0, "ServiceUnavailable")])
def test_failures_of_the_fault_plan(embedded: Api, code: int, after: float | None, reason: str) -> None:
    server = embedded.embedded
    kept, server.faults = server.faults, Failing(code, after)
    try:
        reply = embedded.get(embedded.vms)
        healthy = embedded.get("/healthz")
    finally:
        server.faults = kept
    assert (reply.code, reply.json["reason"], reply.headers["Retry-After"]) == (code, reason, f"{after:.0f}" if after else None)
    assert healthy.code == 200  # only the API fails


def test_a_connection_reset_by_the_fault_plan(embedded: Api, caplog: pytest.LogCaptureFixture) -> None:
    server = embedded.embedded
    kept, server.faults = server.faults, Failing(0, reset=True)
    try:
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected, ssl.SSLError)):
            embedded.get(embedded.vms)
    finally:
        server.faults = kept
    assert embedded.get(embedded.vms).code == 200
    assert not caplog.records


def test_impersonating_a_uid_and_extras(api: Api) -> None:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    headers = {"Impersonate-User": "bob", "Impersonate-Uid": "u1", "Impersonate-Extra-Scopes": "a", "Impersonate-Group": "g"}
    told = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review, headers=headers).json["status"]["userInfo"]
    assert told == {"username": "bob", "uid": "u1", "groups": ["g", "system:authenticated"], "extra": {"scopes": ["a"]}}
