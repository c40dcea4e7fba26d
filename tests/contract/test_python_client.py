"""The Python client as its users have it: typed, custom objects, dynamic, watches, leader election, asyncio."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic import exceptions as dynamic_exceptions
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from .conftest import Api, config_map, until, vm

GROUP = {"group": "kubevirt.io", "version": "v1", "plural": "virtualmachines"}
LABELS = {"app": "a"}
POD_TEMPLATE = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


@pytest.fixture
def python(api: Api) -> Iterator[Any]:
    with config.new_client_from_config(str(api.kubeconfig)) as found:
        yield found


@pytest.fixture
def dynamic(python: Any, tmp_path: Path) -> DynamicClient:
    return DynamicClient(python, cache_file=str(tmp_path / "discovery.json"))


TYPED = {
    "config_map": (client.CoreV1Api, {"data": {"a": "b"}}),
    "secret": (client.CoreV1Api, {"stringData": {"a": "b"}}),
    "service_account": (client.CoreV1Api, {}),
    "service": (client.CoreV1Api, {"spec": {"selector": LABELS, "ports": [{"port": 80}]}}),
    "pod": (client.CoreV1Api, {"spec": POD_TEMPLATE["spec"]}),
    "persistent_volume_claim": (client.CoreV1Api, {"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}),
    "deployment": (client.AppsV1Api, {"spec": {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": POD_TEMPLATE}}),
    "stateful_set": (client.AppsV1Api, {"spec": {"replicas": 0, "serviceName": "s", "selector": {"matchLabels": LABELS}, "template": POD_TEMPLATE}}),
    "daemon_set": (client.AppsV1Api, {"spec": {"selector": {"matchLabels": LABELS}, "template": POD_TEMPLATE}}),
    "job": (client.BatchV1Api, {"spec": {"template": {"spec": {**POD_TEMPLATE["spec"], "restartPolicy": "Never"}}}}),
    "cron_job": (client.BatchV1Api, {"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": {"spec": {
        **POD_TEMPLATE["spec"], "restartPolicy": "Never"}}}}}}),
    "lease": (client.CoordinationV1Api, {"spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": datetime.datetime.now(datetime.UTC)}}),
    "pod_disruption_budget": (client.PolicyV1Api, {"spec": {"minAvailable": 1, "selector": {"matchLabels": LABELS}}}),
}


@pytest.mark.parametrize("noun", TYPED)
def test_a_typed_object_from_creation_to_deletion(api: Api, python: Any, noun: str) -> None:
    kind, content = TYPED[noun]
    typed = kind(python)

    def call(verb: str, *arguments: Any, **more: Any) -> Any:
        return getattr(typed, f"{verb}_namespaced_{noun}")(*arguments, **more)

    created = call("create", api.namespace, {"metadata": {"name": "x", "labels": LABELS}, **content})
    assert created.metadata.uid and created.metadata.creation_timestamp.tzinfo
    assert call("read", "x", api.namespace).metadata.uid == created.metadata.uid
    assert [each.metadata.name for each in call("list", api.namespace, label_selector="app=a").items] == ["x"]
    assert call("patch", "x", api.namespace, {"metadata": {"annotations": {"n": "1"}}}).metadata.annotations["n"] == "1"
    def replaced() -> bool:
        current = call("read", "x", api.namespace)
        current.metadata.annotations["n"] = "2"
        try:
            return bool(call("replace", "x", api.namespace, current).metadata.annotations["n"] == "2")
        except ApiException as error:
            assert error.status == 409  # a controller was faster
            return False

    until(replaced)
    current = call("read", "x", api.namespace)
    current.metadata.resource_version = created.metadata.resource_version
    with pytest.raises(ApiException) as stale:
        call("replace", "x", api.namespace, current)
    assert (stale.value.status, stale.value.reason) == (409, "Conflict")
    call("delete", "x", api.namespace, propagation_policy="Background", grace_period_seconds=0)

    def gone() -> bool:
        try:
            call("read", "x", api.namespace)
        except ApiException as error:
            assert error.status == 404
            return True
        return False

    until(gone)  # a real cluster's controllers let a claim go that nobody uses


def test_what_is_sent_as_a_model_comes_back_as_one(api: Api, python: Any) -> None:
    renewed = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.UTC)
    coordination = client.CoordinationV1Api(python)
    coordination.create_namespaced_lease(api.namespace, client.V1Lease(
        metadata=client.V1ObjectMeta(name="l"), spec=client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15, renew_time=renewed)))
    assert coordination.read_namespaced_lease("l", api.namespace).spec.renew_time == renewed  # microseconds and all
    apps = client.AppsV1Api(python)
    container = client.V1Container(name="c", image="i", resources=client.V1ResourceRequirements(requests={"cpu": "100m", "memory": "64Mi"}))
    apps.create_namespaced_deployment(api.namespace, client.V1Deployment(metadata=client.V1ObjectMeta(name="d"), spec=client.V1DeploymentSpec(
        replicas=0, selector=client.V1LabelSelector(match_labels=LABELS),
        template=client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=LABELS), spec=client.V1PodSpec(containers=[container])))))
    scaled = apps.patch_namespaced_deployment_scale("d", api.namespace, {"spec": {"replicas": 3}})
    assert scaled.spec.replicas == 3
    deployment = apps.read_namespaced_deployment("d", api.namespace)
    assert deployment.spec.replicas == 3
    assert deployment.spec.template.spec.containers[0].resources.requests == {"cpu": "100m", "memory": "64Mi"}
    assert deployment.spec.strategy.rolling_update.max_unavailable == "25%"


def test_pages_and_collections(api: Api, python: Any) -> None:
    core = client.CoreV1Api(python)
    for index in range(5):
        core.create_namespaced_secret(api.namespace, {"metadata": {"name": f"s{index}", "labels": {"page": "p"}}})
    names, token = [], None
    while True:
        page = core.list_namespaced_secret(api.namespace, limit=2, _continue=token)
        names += [each.metadata.name for each in page.items]
        token = page.metadata._continue
        if not token:
            break
        assert page.metadata.remaining_item_count == 5 - len(names)
    assert names == [f"s{index}" for index in range(5)]
    core.delete_collection_namespaced_secret(api.namespace, label_selector="page=p")
    assert core.list_namespaced_secret(api.namespace, label_selector="page=p").items == []


def test_errors_are_exceptions_with_the_status(api: Api, python: Any) -> None:
    core = client.CoreV1Api(python)
    with pytest.raises(ApiException) as refused:
        core.create_namespaced_pod(api.namespace, {"metadata": {"name": "Not_A_Name"}, "spec": POD_TEMPLATE["spec"]})
    assert (refused.value.status, refused.value.reason) == (422, "Unprocessable Entity")
    assert '"reason":"Invalid"' in refused.value.body.replace(" ", "")


def test_who_may_do_what(api: Api, python: Any) -> None:
    authorization = client.AuthorizationV1Api(python)
    review = authorization.create_self_subject_access_review({"spec": {"resourceAttributes": {
        "verb": "create", "group": "kubevirt.io", "resource": "virtualmachines", "namespace": api.namespace}}})
    assert review.status.allowed is True
    assert client.VersionApi(python).get_code().major == "1"


def test_custom_objects(quiet: Api, python: Any) -> None:
    custom, where = client.CustomObjectsApi(python), {**GROUP, "namespace": quiet.namespace}
    created = custom.create_namespaced_custom_object(body=vm("v", a="b"), **where)
    assert custom.get_namespaced_custom_object(name="v", **where)["metadata"]["uid"] == created["metadata"]["uid"]
    assert [each["metadata"]["name"] for each in custom.list_namespaced_custom_object(label_selector="a=b", **where)["items"]] == ["v"]
    assert "v" in [each["metadata"]["name"] for each in custom.list_cluster_custom_object(**GROUP)["items"]]
    patched = custom.patch_namespaced_custom_object(name="v", body={"metadata": {"labels": {"c": "d"}}}, **where)
    assert patched["metadata"]["labels"] == {"a": "b", "c": "d"}
    patched["metadata"]["labels"] = {"e": "f"}
    assert custom.replace_namespaced_custom_object(name="v", body=patched, **where)["metadata"]["labels"] == {"e": "f"}
    stored = custom.patch_namespaced_custom_object_status(name="v", body={"status": {"created": True}}, **where)
    assert stored["status"]["created"] is True
    assert custom.delete_namespaced_custom_object(name="v", **where)["status"] == "Success"
    with pytest.raises(ApiException, match="404"):
        custom.get_namespaced_custom_object(name="v", **where)


# The dynamic client.

def test_dynamic_discovery(dynamic: DynamicClient) -> None:
    vms = dynamic.resources.get(api_version="kubevirt.io/v1", kind="VirtualMachine")
    assert (vms.name, vms.namespaced, "vm" in vms.short_names) == ("virtualmachines", True, True)
    assert "status" in vms.subresources
    assert dynamic.resources.get(api_version="v1", kind="Node").namespaced is False
    assert dynamic.resources.get(group="apps", kind="Deployment").group_version == "apps/v1"
    with pytest.raises(dynamic_exceptions.ResourceNotFoundError):
        dynamic.resources.get(api_version="kubevirt.io/v1", kind="NoSuchKind")
    assert len({each.kind for found in dynamic.resources for each in (found if isinstance(found, list) else [found])}) > 20


def test_dynamic_objects(quiet: Api, dynamic: DynamicClient) -> None:
    vms = dynamic.resources.get(api_version="kubevirt.io/v1", kind="VirtualMachine")
    where = {"namespace": quiet.namespace}
    created = vms.create(body=vm("v", a="b"), **where)
    assert vms.get(name="v", **where).metadata.uid == created.metadata.uid
    assert [each.metadata.name for each in vms.get(label_selector="a=b", **where).items] == ["v"]
    merge = {"content_type": "application/merge-patch+json"}
    assert vms.patch(name="v", body={"metadata": {"labels": {"c": "d"}}}, **merge, **where).metadata.labels.to_dict() == {"a": "b", "c": "d"}
    with pytest.raises(dynamic_exceptions.DynamicApiError, match="415"):
        vms.patch(name="v", body={"metadata": {"labels": {"c": "e"}}}, **where)  # strategic, which custom resources have not
    with pytest.raises(dynamic_exceptions.ConflictError):
        vms.create(body=vm("v"), **where)
    vms.delete(name="v", **where)
    with pytest.raises(dynamic_exceptions.NotFoundError):
        vms.get(name="v", **where)


def test_dynamic_server_side_apply(quiet: Api, dynamic: DynamicClient) -> None:
    vms = dynamic.resources.get(api_version="kubevirt.io/v1", kind="VirtualMachine")
    body, where = vm("v"), {"namespace": quiet.namespace}
    applied = vms.server_side_apply(body=body, field_manager="one", **where)
    assert [(each.manager, each.operation) for each in applied.metadata.managedFields] == [("one", "Apply")]
    body["spec"]["runStrategy"] = "Manual"
    with pytest.raises(dynamic_exceptions.ConflictError):
        vms.server_side_apply(body=body, field_manager="two", **where)
    forced = vms.server_side_apply(body=body, field_manager="two", force_conflicts=True, **where)
    assert forced.spec.runStrategy == "Manual"


def test_dynamic_watch(quiet: Api, dynamic: DynamicClient) -> None:
    maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
    start = maps.get(namespace=quiet.namespace).metadata.resourceVersion
    maps.create(body=config_map("a"), namespace=quiet.namespace)
    maps.delete(name="a", namespace=quiet.namespace)
    events = [(event["type"], event["object"].metadata.name) for event in maps.watch(namespace=quiet.namespace, resource_version=start, timeout=1)]
    assert events == [("ADDED", "a"), ("DELETED", "a")]


# Watches.

def taken(stream: Any, watcher: watch.Watch, count: int) -> list[tuple[str, str]]:
    """So many events of a watch, which is then stopped."""
    found = []
    for event in stream:
        found.append((event["type"], event["object"].metadata.name))
        if len(found) == count:
            watcher.stop()
    return found


def test_a_watch_goes_on_from_its_version(api: Api, python: Any) -> None:
    core = client.CoreV1Api(python)
    start = core.list_namespaced_config_map(api.namespace).metadata.resource_version
    for name in ("a", "b", "c"):
        core.create_namespaced_config_map(api.namespace, config_map(name))
    first = watch.Watch()
    names = taken(first.stream(core.list_namespaced_config_map, api.namespace, resource_version=start, _request_timeout=20), first, 1)
    second = watch.Watch()
    stream = second.stream(core.list_namespaced_config_map, api.namespace, resource_version=first.resource_version, _request_timeout=20)
    names += taken(stream, second, 2)
    assert names == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]


def test_a_watch_that_the_server_ends_is_opened_again_where_it_was(embedded: Api, python: Any) -> None:
    """The client does so by itself: nothing is told twice, and nothing is left out."""
    core, watcher = client.CoreV1Api(python), watch.Watch()
    start = core.list_namespaced_config_map(embedded.namespace).metadata.resource_version
    found: list[str] = []
    core.create_namespaced_config_map(embedded.namespace, config_map("c0"))
    for event in watcher.stream(core.list_namespaced_config_map, embedded.namespace, resource_version=start, _request_timeout=20):
        found.append(event["object"].metadata.name)
        if len(found) == 4:
            watcher.stop()
            break

        async def end_all() -> None:
            for watchers in embedded.embedded.watches._watchers.values():
                for each in tuple(watchers):
                    each.finish()

        embedded.run(end_all())
        core.create_namespaced_config_map(embedded.namespace, config_map(f"c{len(found)}"))
    assert found == ["c0", "c1", "c2", "c3"]


def test_after_410_a_client_lists_anew(embedded: Api, python: Any) -> None:
    core = client.CoreV1Api(python)
    old = core.list_namespaced_config_map(embedded.namespace).metadata.resource_version
    core.create_namespaced_config_map(embedded.namespace, config_map("a"))

    async def compact() -> None:
        embedded.embedded.forget()

    embedded.run(compact())
    stale = watch.Watch()
    with pytest.raises(ApiException) as expired:
        list(stale.stream(core.list_namespaced_config_map, embedded.namespace, resource_version=old, timeout_seconds=5))
    assert expired.value.status == 410
    assert str(expired.value.reason).startswith("Expired: too old resource version")
    listed = core.list_namespaced_config_map(embedded.namespace)
    core.create_namespaced_config_map(embedded.namespace, config_map("b"))
    fresh = watch.Watch()
    stream = fresh.stream(core.list_namespaced_config_map, embedded.namespace, resource_version=listed.metadata.resource_version, _request_timeout=20)
    assert taken(stream, fresh, 1) == [("ADDED", "b")]


def test_a_watch_of_custom_objects(quiet: Api, python: Any) -> None:
    custom, where = client.CustomObjectsApi(python), {**GROUP, "namespace": quiet.namespace}
    start = custom.list_namespaced_custom_object(**where)["metadata"]["resourceVersion"]
    custom.create_namespaced_custom_object(body=vm("v"), **where)
    custom.delete_namespaced_custom_object(name="v", **where)
    events = list(watch.Watch().stream(custom.list_namespaced_custom_object, resource_version=start, timeout_seconds=1, **where))
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [("ADDED", "v"), ("DELETED", "v")]


# Leader election.

class Candidate:
    """Runs for the lock in a thread of its own until it has led and lost."""

    def __init__(self, lock: Any, api_instance: Any) -> None:
        lock.api_instance = api_instance  # the locks make one of the process's default configuration
        self.lock, self.leads, self.stopped, self.released = lock, threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # The shortest that the package takes.
        leaderelection.LeaderElection(electionconfig.Config(self.lock, lease_duration=3, renew_deadline=2, retry_period=1,
                                                            onstarted_leading=self._lead, onstopped_leading=self.stopped.set)).run()

    def _lead(self) -> None:
        self.leads.set()
        self.released.wait(60)
        raise RuntimeError("the work is over: stop renewing")


@pytest.mark.parametrize("lock", [LeaseLock, ConfigMapLock])
def test_leader_election_hands_over_when_the_lease_expires(api: Api, python: Any, lock: Any) -> None:
    group = client.CoordinationV1Api(python) if lock is LeaseLock else client.CoreV1Api(python)
    first = Candidate(lock("lock", api.namespace, "first"), group)
    assert first.leads.wait(20)
    second = Candidate(lock("lock", api.namespace, "second"), group)
    try:
        assert not second.leads.wait(2.5)
        first.released.set()
        assert first.stopped.wait(20)
        assert second.leads.wait(20)
        if lock is LeaseLock:
            lease = group.read_namespaced_lease("lock", api.namespace)
            assert lease.spec.holder_identity == "second"
    finally:
        first.released.set()
        second.released.set()
        assert second.stopped.wait(20)


# asyncio.

def test_asyncio_list_and_watch(api: Api) -> None:
    from kubernetes import aio

    async def work() -> list[tuple[str, str]]:
        configuration = aio.client.Configuration()
        await aio.config.load_kube_config(config_file=str(api.kubeconfig), client_configuration=configuration)
        async with aio.client.ApiClient(configuration) as connection:
            core = aio.client.CoreV1Api(connection)
            await core.create_namespaced_config_map(api.namespace, config_map("a", told="yes"))
            listed = await core.list_namespaced_config_map(api.namespace, label_selector="told=yes")
            found = [("LISTED", each.metadata.name) for each in listed.items]
            await core.create_namespaced_config_map(api.namespace, config_map("b"))
            await core.delete_namespaced_config_map("b", api.namespace)
            watcher = aio.watch.Watch()
            async for event in watcher.stream(core.list_namespaced_config_map, api.namespace,
                                              resource_version=listed.metadata.resource_version, timeout_seconds=1):
                found.append((event["type"], event["object"].metadata.name))
            return found

    assert asyncio.run(work()) == [("LISTED", "a"), ("ADDED", "b"), ("DELETED", "b")]
