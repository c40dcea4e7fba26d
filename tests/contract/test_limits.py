"""Quotas and limit ranges of a namespace: what they refuse, whoever asks for it, and what they fill in. On an embedded cluster of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .test_kubevirt import Cluster, fresh, started, vm

VMS, VMIS, VMIM = "virtualmachines", "virtualmachineinstances", "virtualmachineinstancemigrations"


class Namespace(Cluster):
    def path(self, plural: str, name: str = "") -> str:
        match plural:
            case "resourcequotas" | "limitranges":
                return f"/api/v1/namespaces/{self.namespace}/{plural}{'/' + name if name else ''}"
            case "deployments" | "replicasets":
                return f"/apis/apps/v1/namespaces/{self.namespace}/{plural}{'/' + name if name else ''}"
        return super().path(plural, name)

    def quota(self, hard: dict[str, str], **spec: Any) -> None:
        self.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": hard, **spec}})

    def limits(self, *items: dict[str, Any]) -> Any:
        return self.create("limitranges", {"metadata": {"name": "l"}, "spec": {"limits": list(items)}})

    def used(self) -> dict[str, str]:
        quota = self.get("resourcequotas", "q") or {}
        return dict((quota.get("status") or {}).get("used") or {})

    def refused(self, plural: str, obj: dict[str, Any]) -> str:
        """The message of the refusal."""
        code, answer = self.ask("POST", self.path(plural), obj)
        assert (code, answer["reason"]) == (403, "Forbidden"), answer
        return str(answer["message"])

    def events(self, reason: str) -> list[str]:
        return [each["message"] for each in self.ask("GET", self.path("events"))[1]["items"] if each["reason"] == reason]


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with started(tmp_path_factory.mktemp("limits"), "--speed", "200") as path:
        yield path


@pytest.fixture
def cluster(kubeconfig: Any) -> Namespace:
    found = Namespace(kubeconfig)
    found.namespace = fresh(kubeconfig).namespace
    return found


def pod(name: str, requests: dict[str, str] | None = None, limits: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    resources = {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}], **spec}}


def condition(obj: Any, type_: str) -> tuple[Any, ...]:
    return next(((each["status"], each.get("reason"), each.get("message")) for each in obj["status"].get("conditions") or () if each["type"] == type_), ())


# Quotas.

def test_a_vm_over_quota_waits_and_says_why_until_there_is_room(cluster: Namespace) -> None:
    cluster.quota({"pods": "1"})
    cluster.create(VMS, vm("first", "Always"))
    cluster.running("first")
    cluster.until(lambda: cluster.used() == {"pods": "1"})
    cluster.create(VMS, vm("second", "Always"))
    vmi = cluster.until(lambda: (found := cluster.get(VMIS, "second")) and condition(found, "Synchronized") and found)
    status, reason, message = condition(vmi, "Synchronized")
    assert (status, reason, vmi["status"]["phase"]) == ("False", "FailedCreate", "Pending")
    assert message == ('failed to create virtual machine pod: pods "virt-launcher-second-" is forbidden: exceeded quota: q, '
                       "requested: pods=1, used: pods=1, limited: pods=1")
    assert condition(vmi, "Ready")[1] == "PodNotExists"
    assert cluster.until(lambda: cluster.events("FailedCreate"))[0] == message.replace("failed to create virtual machine pod", "Error creating pod")
    cluster.ask("PATCH", cluster.path(VMS, "first"), {"spec": {"runStrategy": "Halted"}}, content="application/merge-patch+json")
    assert not condition(cluster.running("second"), "Synchronized")


def test_a_migration_over_quota_is_pending_and_marked(cluster: Namespace) -> None:
    cluster.quota({"pods": "1"})
    cluster.create(VMS, vm("m", "Always"))
    cluster.running("m")
    cluster.create(VMIM, {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration", "metadata": {"name": "go"}, "spec": {"vmiName": "m"}})
    rejected = "migrationRejectedByResourceQuota"
    found = cluster.until(lambda: (each := cluster.get(VMIM, "go")) and condition({"status": {}, **each}, rejected) and each)
    assert found["status"]["phase"] == "Pending"
    cluster.ask("PATCH", cluster.path("resourcequotas", "q"), {"spec": {"hard": {"pods": "2"}}}, content="application/merge-patch+json")
    done = cluster.until(lambda: (each := cluster.get(VMIM, "go"))["status"]["phase"] == "Succeeded" and each)
    assert not condition(done, rejected)


def test_a_deployment_over_quota_has_as_many_pods_as_it_may_and_says_why(cluster: Namespace) -> None:
    cluster.quota({"requests.cpu": "1", "pods": "5"})
    template = {"metadata": {"labels": {"app": "d"}}, "spec": pod("", {"cpu": "400m"})["spec"]}
    cluster.create("deployments", {"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}, "template": template}})
    found = cluster.until(lambda: (each := cluster.get("deployments", "d")) and condition({"status": {}, **each}, "ReplicaFailure") and each)
    status, reason, message = condition(found, "ReplicaFailure")
    assert (status, reason) == ("True", "FailedCreate")
    assert message.endswith("is forbidden: exceeded quota: q, requested: requests.cpu=400m, used: requests.cpu=800m, limited: requests.cpu=1")
    assert cluster.until(lambda: cluster.events("FailedCreate"))[0].startswith('Error creating: pods "d-')
    assert cluster.until(lambda: cluster.used() == {"requests.cpu": "800m", "pods": "2"})
    cluster.ask("PATCH", cluster.path("resourcequotas", "q"), {"spec": {"hard": {"requests.cpu": "2"}}}, content="application/merge-patch+json")
    whole = cluster.until(lambda: (each := cluster.get("deployments", "d"))["status"].get("readyReplicas") == 3 and each)
    assert not condition(whole, "ReplicaFailure")


def test_what_a_quota_counts_must_be_said(cluster: Namespace) -> None:
    cluster.quota({"limits.cpu": "2", "requests.memory": "1Gi"})
    assert cluster.refused("pods", pod("p", {"memory": "1Mi"})) == 'pods "p" is forbidden: failed quota: q: must specify limits.cpu for: c'
    assert cluster.refused("pods", pod("p")) == 'pods "p" is forbidden: failed quota: q: must specify limits.cpu for: c; requests.memory for: c'
    cluster.create("pods", pod("p", {"memory": "1Mi"}, {"cpu": "2"}))


def test_a_quota_is_about_its_scope(cluster: Namespace) -> None:
    cluster.quota({"pods": "0"}, scopes=["BestEffort"])
    cluster.create("pods", pod("burstable", {"cpu": "1m"}))
    assert "exceeded quota: q" in cluster.refused("pods", pod("best-effort"))


def test_a_claim_that_grows_is_charged_for_what_is_more(cluster: Namespace) -> None:
    cluster.quota({"requests.storage": "10Gi"})
    cluster.create("persistentvolumeclaims", {"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "8Gi"}}}})
    cluster.until(lambda: cluster.get("persistentvolumeclaims", "c")["status"]["phase"] == "Bound")
    grown = {"spec": {"resources": {"requests": {"storage": "11Gi"}}}}
    code, answer = cluster.ask("PATCH", cluster.path("persistentvolumeclaims", "c"), grown, content="application/merge-patch+json")
    assert code == 403 and "requested: requests.storage=3Gi, used: requests.storage=8Gi, limited: requests.storage=10Gi" in answer["message"]


# Limit ranges.

def test_containers_get_what_they_do_not_say(cluster: Namespace) -> None:
    limits = cluster.limits({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}, "default": {"memory": "64Mi"}})
    item = limits["spec"]["limits"][0]
    assert (item["default"], item["defaultRequest"]) == ({"cpu": "2", "memory": "64Mi"}, {"cpu": "2", "memory": "64Mi"})
    made = cluster.create("pods", pod("p", {"cpu": "100m"}))
    assert made["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "64Mi"}}
    assert made["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: memory request for container c; cpu, memory limit for container c")
    assert made["status"]["qosClass"] == "Burstable"


@pytest.mark.parametrize("item, resources, why", [
    ({"max": {"cpu": "1"}}, ({"cpu": "1"}, {"cpu": "2"}), "maximum cpu usage per Container is 1, but limit is 2"),
    ({"min": {"memory": "4Mi"}}, ({"memory": "2Mi"}, {"memory": "8Mi"}), "minimum memory usage per Container is 4Mi, but request is 2Mi"),
    ({"max": {"cpu": "1"}, "type": "Pod"}, (None, None), "maximum cpu usage per Pod is 1.  No limit is specified"),
    ({"min": {"cpu": "1"}, "type": "Pod"}, (None, None), "minimum cpu usage per Pod is 1.  No request is specified"),
    ({"maxLimitRequestRatio": {"cpu": "2"}}, ({"cpu": "100m"}, {"cpu": "500m"}), "cpu max limit to request ratio per Container is 2, but provided ratio is 5.000000"),
    ({"max": {"cpu": "1", "memory": "1Mi"}}, ({}, {"cpu": "2", "memory": "2Mi"}),
     "[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Container is 1Mi, but limit is 2Mi]"),
])
def test_pods_out_of_bounds(cluster: Namespace, item: dict[str, Any], resources: tuple[Any, Any], why: str) -> None:
    cluster.limits({"type": "Container", **item})
    assert cluster.refused("pods", pod("p", *resources)) == f'pods "p" is forbidden: {why}'


def test_a_default_limit_below_the_request_is_invalid(cluster: Namespace) -> None:
    cluster.limits({"type": "Container", "default": {"cpu": "500m"}})
    code, answer = cluster.ask("POST", cluster.path("pods"), pod("p", {"cpu": "1"}))
    assert (code, answer["details"]["causes"][0]["message"]) == (422, 'Invalid value: "1": must be less than or equal to cpu limit of 500m')


def test_claims_out_of_bounds(cluster: Namespace) -> None:
    cluster.limits({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}})
    claim = {"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}}}
    assert cluster.refused("persistentvolumeclaims", claim) == (
        'persistentvolumeclaims "c" is forbidden: maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi')


def test_a_vm_in_a_namespace_with_defaults(cluster: Namespace) -> None:
    cluster.limits({"type": "Container", "default": {"cpu": "3"}, "defaultRequest": {"cpu": "300m"}})
    cluster.create(VMS, vm("v", "Always"))
    cluster.running("v")
    launcher = cluster.ask("GET", f"{cluster.path('pods')}?labelSelector=kubevirt.io%3Dvirt-launcher")[1]["items"][0]
    assert launcher["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "3"
    assert "cpu limit for container compute" in launcher["metadata"]["annotations"]["kubernetes.io/limit-ranger"]


@pytest.mark.parametrize("item, field, message", [
    ({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}, "spec.limits[0].min[cpu]", 'Invalid value: "2": min value 2 is greater than max value 1'),
    ({"type": "Pod", "default": {"cpu": "1"}}, "spec.limits[0].default", "Forbidden: may not be specified when `type` is 'Pod'"),
    ({"type": "PersistentVolumeClaim", "max": {"cpu": "1"}}, "spec.limits[0].limits",
     "Required value: either minimum or maximum storage value is required, but neither was provided"),
    ({"type": "Other"}, "spec.limits[0].type", 'Invalid value: "Other": must be a standard limit type or fully qualified'),
    ({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}, "spec.limits[0].default[cpu]", 'Invalid value: "2": min value 2 is greater than default value 1'),
])
def test_limit_ranges_that_contradict_themselves(cluster: Namespace, item: dict[str, Any], field: str, message: str) -> None:
    code, answer = cluster.ask("POST", cluster.path("limitranges"), {"metadata": {"name": "l"}, "spec": {"limits": [item]}})
    assert code == 422
    assert (field, message) in [(each["field"], each["message"]) for each in answer["details"]["causes"]]


@pytest.mark.parametrize("spec, field, message", [
    ({"hard": {"foo": "1"}}, "spec.hard[foo]", 'Invalid value: "foo": must be a standard resource for quota'),
    ({"hard": {"pods": "-1"}}, "spec.hard[pods]", 'Invalid value: "-1": must be greater than or equal to 0'),
    ({"hard": {"pods": "1"}, "scopes": ["Foo"]}, "spec.scopes", 'Invalid value: ["Foo"]: unsupported scope'),
    ({"hard": {"services": "1"}, "scopes": ["BestEffort"]}, "spec.scopes", 'Invalid value: ["BestEffort"]: unsupported scope applied to resource'),
])
def test_quotas_of_nothing(cluster: Namespace, spec: dict[str, Any], field: str, message: str) -> None:
    code, answer = cluster.ask("POST", cluster.path("resourcequotas"), {"metadata": {"name": "q"}, "spec": spec})
    assert code == 422
    assert (field, message) in [(each["field"], each["message"]) for each in answer["details"]["causes"]]


def test_the_scope_of_a_quota_stays(cluster: Namespace) -> None:
    cluster.quota({"pods": "1"})
    code, answer = cluster.ask("PATCH", cluster.path("resourcequotas", "q"), {"spec": {"scopes": ["BestEffort"]}}, content="application/merge-patch+json")
    assert (code, answer["details"]["causes"][0]["message"]) == (422, 'Invalid value: ["BestEffort"]: field is immutable')
