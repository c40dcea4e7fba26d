"""Which addresses a service has, on the Kubernetes side without a server."""

from __future__ import annotations

import asyncio
from typing import Any

from pytest_vmscale.embedded.controllers.endpoints import Endpoints
from pytest_vmscale.embedded.controllers.garbage import GarbageCollector
from pytest_vmscale.embedded.controllers.kubelet import Kubelet
from pytest_vmscale.embedded.controllers.nodes import NodeLifecycle, Nodes
from pytest_vmscale.embedded.controllers.scheduler import Scheduler

from .kubernetes_side import StandIn, running

RUN = (Nodes, NodeLifecycle, Scheduler, Kubelet, GarbageCollector, Endpoints)
WEB = [{"name": "c", "image": "registry/pause:3.5", "ports": [{"name": "web", "containerPort": 8080}]}]


def service(**spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "num", "port": 81, "targetPort": 9000}]
    return {"metadata": {"name": "s", "labels": {"l": "m"}}, "spec": {"selector": {"app": "x"}, "ports": ports, **spec}}


def addresses(cluster: StandIn, part: str = "addresses") -> dict[tuple[str, ...], list[str]]:
    """The pods behind each set of ports."""
    subsets = (cluster.get("endpoints", "s") or {}).get("subsets") or []
    return {tuple(f"{port['name']}:{port['port']}" for port in each["ports"]): [address["targetRef"]["name"] for address in each.get(part, ())] for each in subsets}


def in_slices(cluster: StandIn) -> list[list[tuple[str, bool]]]:
    return [[(each["targetRef"]["name"], each["conditions"]["ready"]) for each in found["endpoints"] or ()]
            for found in cluster.list("endpointslices.discovery.k8s.io", "ns")]


def test_pods_come_become_ready_and_go() -> None:
    async def scenario() -> None:
        async with running(StandIn(), *RUN) as cluster:
            cluster.create("services", service())
            await cluster.until(lambda: in_slices(cluster) == [[]] and cluster.get("endpoints", "s"))
            assert cluster.get("endpoints", "s")["metadata"]["labels"] == {"l": "m", "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
            cluster.pod("a", labels={"app": "x"}, containers=WEB)
            cluster.pod("b", labels={"app": "x"})  # no port of that name
            cluster.pod("c", labels={"app": "y"}, containers=WEB)
            await cluster.until(lambda: addresses(cluster) == {("http:8080",): ["a"], ("num:9000",): ["a", "b"]})
            assert sorted(in_slices(cluster)) == [[("a", True)], [("b", True)]]
            pod = cluster.get("pods", "a")
            address = cluster.get("endpoints", "s")["subsets"][0]["addresses"][0]
            assert (address["ip"], address["nodeName"]) == (pod["status"]["podIP"], pod["spec"]["nodeName"])
            cluster.change("pods", "a", lambda pod: pod["status"]["conditions"].append(
                {**pod["status"]["conditions"].pop(next(i for i, each in enumerate(pod["status"]["conditions"]) if each["type"] == "Ready")), "status": "False"}),
                subresource="status")
            await cluster.until(lambda: addresses(cluster, "notReadyAddresses") == {("http:8080",): ["a"], ("num:9000",): ["a"]})
            assert [("a", False)] in in_slices(cluster)
            cluster.delete("pods", "b")
            await cluster.until(lambda: in_slices(cluster) == [[("a", False)]])
            cluster.delete("services", "s")
            await cluster.until(lambda: not cluster.list("endpoints", "ns") and not in_slices(cluster))

    asyncio.run(scenario())


def test_what_asks_for_it_is_told_of_pods_that_are_not_ready_and_headless_services_are_marked() -> None:
    async def scenario() -> None:
        async with running(StandIn(), *RUN) as cluster:
            cluster.create("services", service(clusterIP="None", publishNotReadyAddresses=True, ports=[{"port": 80}]))
            probe = {"initialDelaySeconds": 10_000}
            cluster.pod("a", labels={"app": "x"}, containers=[{**WEB[0], "readinessProbe": probe}])
            await cluster.until(lambda: in_slices(cluster) == [[("a", True)]])
            found = cluster.get("endpoints", "s")
            assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
            assert found["subsets"][0]["ports"] == [{"port": 80, "protocol": "TCP"}]

    asyncio.run(scenario())


def test_slices_are_filled_and_emptied() -> None:
    async def scenario() -> None:
        async with running(StandIn(endpoints_per_slice=2), *RUN) as cluster:
            cluster.create("services", service(ports=[{"port": 80}]))
            for number in range(5):
                cluster.pod(f"p{number}", labels={"app": "x"})
            await cluster.until(lambda: sorted(len(each) for each in in_slices(cluster)) == [1, 2, 2] and all(ready for each in in_slices(cluster) for _, ready in each))
            for number in range(4):
                cluster.delete("pods", f"p{number}")
            await cluster.until(lambda: in_slices(cluster) == [[("p4", True)]])

    asyncio.run(scenario())


def test_a_service_without_a_selector_is_its_authors_business() -> None:
    async def scenario() -> None:
        async with running(StandIn(), *RUN) as cluster:
            cluster.create("services", service(selector=None))
            cluster.create("endpoints", {"metadata": {"name": "s"}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]})
            await cluster.clock.sleep(20)
            assert cluster.get("endpoints", "s")["subsets"] == [{"addresses": [{"ip": "10.0.0.1"}]}] and not in_slices(cluster)

    asyncio.run(scenario())
