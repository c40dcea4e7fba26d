"""Endpoints and EndpointSlices: the addresses of the pods behind each service that has a selector."""

from __future__ import annotations

import itertools
from typing import Any

from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, PodsByLabel, owner_reference
from .pods import is_finished, is_ready

HEADLESS = "service.kubernetes.io/headless"
MANAGED_BY, SERVICE_NAME = "endpointslice.kubernetes.io/managed-by", "kubernetes.io/service-name"
SLICE_CONTROLLER = "endpointslice-controller.k8s.io"
ZONE = "topology.kubernetes.io/zone"


class Endpoints:
    """Both the endpoints and the endpoint slice controller."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        self._timing = cluster.timing.kubernetes
        kind = self._resources.kind
        self._services, self._pods, self._nodes = kind("services"), kind("pods"), kind("nodes")
        self._endpoints, self._slices = kind("endpoints"), kind("endpointslices.discovery.k8s.io")
        self._by_label = PodsByLabel(self._resources)
        self._selectors: dict[str, dict[str, dict[str, str]]] = {}  # of the services, by namespace and name
        self._workers = Workers("endpoints", cluster.clock, int(self._timing.endpoint_workers), self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._services, self._service_changed)
        self._resources.watch(self._pods, self._pod_changed)
        for entry in self._resources.store.entries(self._services):
            self._learn(entry.key, entry.obj)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _service_changed(self, change: Change) -> None:
        if change.type == "DELETED":
            self._selectors.get(change.key[0], {}).pop(change.key[1], None)
            self._workers.queue.add(change.key)
        else:
            self._learn(change.key, change.new.obj)

    def _learn(self, key: Key, service: Object) -> None:
        selector = service["spec"].get("selector")
        if selector:
            self._selectors.setdefault(key[0], {})[key[1]] = selector
            self._workers.queue.add(key)
        else:
            self._selectors.get(key[0], {}).pop(key[1], None)  # whoever wrote it that way looks after its endpoints

    def _pod_changed(self, change: Change) -> None:
        for name, selector in self._selectors.get(change.key[0], {}).items():
            if any(entry is not None and selector.items() <= entry.labels.items() for entry in (change.old, change.new)):
                self._workers.queue.add((change.key[0], name))

    async def _reconcile(self, key: Key) -> None:
        service = self._resources.find(self._services, *key)
        if service is None:
            if self._resources.find(self._endpoints, *key):  # the slices are the garbage collector's
                self._resources.delete(self._endpoints, *key)
            return
        if key[1] not in self._selectors.get(key[0], {}) or "deletionTimestamp" in service["metadata"]:
            return
        pods = [pod for pod in self._by_label.matching(key[0], {"matchLabels": service["spec"]["selector"]})
                if pod["status"].get("podIP") and not is_finished(pod)]
        self._write_endpoints(service, [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]])
        self._write_slices(service, pods)

    # Endpoints.

    def _write_endpoints(self, service: Object, pods: list[Object]) -> None:
        always = bool(service["spec"].get("publishNotReadyAddresses"))
        ready = {pod["metadata"]["name"] for pod in pods if always or is_ready(pod)}
        behind: dict[tuple[str, int, str], list[Object]] = {}  # the pods of each port: not all have a port of that name
        for pod in pods:
            for port in _ports(service, pod):
                behind.setdefault(port, []).append(pod)
        subsets = []
        for names, ports in _grouped({port: tuple(pod["metadata"]["name"] for pod in found) for port, found in behind.items()}):
            found = [pod for pod in pods if pod["metadata"]["name"] in names]
            addresses = {"addresses": [_address(pod) for pod in found if pod["metadata"]["name"] in ready],
                         "notReadyAddresses": [_address(pod) for pod in found if pod["metadata"]["name"] not in ready]}
            subsets.append({**{part: each for part, each in addresses.items() if each},
                            "ports": [{**({"name": name} if name else {}), "port": number, "protocol": protocol} for name, number, protocol in ports]})
        labels = {**_labels(service), "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
        meta = service["metadata"]
        wanted = {"metadata": {"name": meta["name"], "namespace": meta["namespace"], "labels": labels}, **({"subsets": subsets} if subsets else {})}
        self._put(self._endpoints, (meta["namespace"], meta["name"]), wanted, ("subsets",))

    # Slices.

    def _write_slices(self, service: Object, pods: list[Object]) -> None:
        """Slices hold so many endpoints each, all with the same ports. A service without any pods has one that is empty."""
        meta, most = service["metadata"], int(self._timing.endpoints_per_slice)
        groups = _grouped({pod["metadata"]["name"]: tuple(_ports(service, pod)) for pod in pods})
        by_name = {pod["metadata"]["name"]: pod for pod in pods}
        contents: list[dict[str, Any]] = []
        for ports, names in groups:
            shown = [{"name": name, "port": number, "protocol": protocol} for name, number, protocol in ports]
            for first in range(0, len(names), most):
                contents.append({"endpoints": [self._endpoint(service, by_name[name]) for name in names[first:first + most]], "ports": shown})
        contents = contents or [{"endpoints": None, "ports": None}]
        labels = {**_labels(service), MANAGED_BY: SLICE_CONTROLLER, SERVICE_NAME: meta["name"]}
        there = sorted(each["metadata"]["name"] for each in self._resources.list(self._slices, meta["namespace"])
                       if (each["metadata"].get("labels") or {}).items() >= {MANAGED_BY: SLICE_CONTROLLER, SERVICE_NAME: meta["name"]}.items())
        for name, content in itertools.zip_longest(there, contents):
            if content is None:
                self._resources.delete(self._slices, meta["namespace"], name)
                continue
            named = {"name": name} if name else {"generateName": f"{meta['name']}-"}
            wanted = {"metadata": {**named, "namespace": meta["namespace"], "labels": labels, "ownerReferences": [owner_reference(self._services, service)]},
                      "addressType": "IPv4", **content}
            self._put(self._slices, (meta["namespace"], name or ""), wanted, ("endpoints", "ports"))

    def _endpoint(self, service: Object, pod: Object) -> Object:
        ready, terminating = is_ready(pod), "deletionTimestamp" in pod["metadata"]
        serving = ready or bool(service["spec"].get("publishNotReadyAddresses"))
        node = self._resources.find(self._nodes, "", pod["spec"]["nodeName"])
        zone = ((node or {}).get("metadata", {}).get("labels") or {}).get(ZONE)
        address = _address(pod)
        return {"addresses": [address["ip"]], "conditions": {"ready": serving and not terminating, "serving": serving, "terminating": terminating},
                "nodeName": address["nodeName"], "targetRef": address["targetRef"], **({"zone": zone} if zone else {})}

    def _put(self, kind: Any, key: Key, wanted: Object, parts: tuple[str, ...]) -> None:
        """Create it, or write what differs: nothing, most of the time."""
        old = self._resources.find(kind, *key) if key[1] else None
        if old is None:
            self._resources.create(kind, wanted)
            return
        same = all(old.get(part) == wanted.get(part) for part in parts) and old["metadata"].get("labels") == wanted["metadata"]["labels"]
        if same:
            return
        for part in parts:
            old.pop(part, None)
        old["metadata"]["labels"] = wanted["metadata"]["labels"]
        self._resources.update(kind, {**old, **{part: wanted[part] for part in parts if part in wanted}})


def _labels(service: Object) -> dict[str, str]:
    own: dict[str, str] = dict(service["metadata"].get("labels") or {})
    return {**own, HEADLESS: ""} if service["spec"].get("clusterIP") == "None" else own


def _ports(service: Object, pod: Object) -> list[tuple[str, int, str]]:
    """Name, number and protocol of each of the service's ports at this pod; a target that is a name is looked up in its containers."""
    found = []
    for port in service["spec"].get("ports") or ():
        protocol, target = port.get("protocol", "TCP"), port.get("targetPort", port["port"])
        if isinstance(target, str):
            numbers = [each["containerPort"] for container in pod["spec"]["containers"] for each in container.get("ports") or ()
                       if each.get("name") == target and each.get("protocol", "TCP") == protocol]
            if not numbers:
                continue
            target = numbers[0]
        found.append((port.get("name", ""), int(target), protocol))
    return found


def _address(pod: Object) -> Object:
    meta = pod["metadata"]
    return {"ip": pod["status"]["podIP"], "nodeName": pod["spec"]["nodeName"],
            "targetRef": {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}}


def _grouped(values: dict[Any, Any]) -> list[tuple[Any, list[Any]]]:
    """The keys of each value."""
    found: dict[Any, list[Any]] = {}
    for key, value in values.items():
        found.setdefault(value, []).append(key)
    return list(found.items())
