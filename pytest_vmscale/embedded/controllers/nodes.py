"""The nodes: their objects, the kubelets' heartbeats, and the node lifecycle controller."""

from __future__ import annotations

import asyncio
import copy
import ipaddress
import uuid
from pathlib import Path
from typing import Any

from .. import yamls
from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, PodsByNode, is_true, set_condition, tolerates
from .events import Recorder

NODES_FILE = Path(__file__).parents[1] / "bootstrap" / "nodes.yaml"

# Heartbeats matter to nobody below this wall time, and at thousands of times the wall's speed they would be all the cluster does.
LEAST_WALL_SECONDS_BETWEEN_HEARTBEATS = 1.0

CONDITIONS = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
)

NO_NETWORK = ("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: "
              "No CNI configuration file in /etc/kubernetes/cni/net.d/. Has your network provider started?")


def fill(template: Any, values: dict[str, str]) -> Any:
    """A copy of the template with each string's {placeholders} filled in."""
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    return template.format(**values) if isinstance(template, str) else copy.deepcopy(template)


class Nodes:
    """Makes the machines and their nodes, and keeps them alive: leases, heartbeats, reboots."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing = cluster.timing.kubernetes
        self._kind, self._leases = self._resources.kind("nodes"), self._resources.kind("leases")
        self._events = Recorder(cluster)
        self._boots: dict[str, int] = {}
        self._starting: set[str] = set()  # have power, and are not ready yet
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._create_all()
        self._cluster.hosts.on_power(self._power)
        self._tasks = [asyncio.create_task(self._renew_leases(), name="node-leases"),
                       asyncio.create_task(self._report_status(), name="node-status")]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _create_all(self) -> None:
        document = yamls.load(NODES_FILE.read_text(encoding="utf-8"))
        for pool in document["pools"].values():
            count = self._cluster.workers if pool["names"]["count"] == "workers" else pool["names"]["count"]
            first = ipaddress.ip_address(pool["first_ip"])
            for index in range(count):
                name = pool["names"]["format"].format(index=index)
                node = fill(pool["object"], {
                    "name": name, "index": str(index), "ip": str(first + index), "now": self._clock.timestamp(), "boot_id": self._uuid(),
                    "machine_id": uuid.UUID(self._uuid()).hex, "system_uuid": self._uuid()})
                self._cluster.hosts.machines.add(name)
                node["status"]["images"] = document["images"]
                self._set_conditions(node)
                self._create_machine(pool["machine"], index, self._resources.create(self._kind, node))
                self._renew(name)
            if "machine_set" in pool:
                self._create_machine_set(pool, count)

    def _create_machine(self, template: Object, index: int, node: Object) -> None:
        """The Machine that a node came of, which both name."""
        kind, meta, now = self._resources.kind("machines.machine.openshift.io"), node["metadata"], self._clock.timestamp()
        machine = fill(template, {"index": f"{index}", "node": meta["name"]})
        machine["status"].update(addresses=node["status"]["addresses"], lastUpdated=now,
                                 nodeRef={"kind": "Node", "name": meta["name"], "uid": meta["uid"]})
        self._resources.create(kind, machine)

    def _create_machine_set(self, pool: Object, count: int) -> None:
        """The set that the pool's machines belong to, by their labels."""
        labels = pool["machine"]["metadata"]["labels"]
        replicas = dict.fromkeys(("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"), count)
        self._resources.create(self._resources.kind("machinesets.machine.openshift.io"), {
            "metadata": {"name": pool["machine_set"], "namespace": pool["machine"]["metadata"]["namespace"]},
            "spec": {"replicas": count, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}},
            "status": {**replicas, "observedGeneration": 1}})

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._cluster.random.getrandbits(128), version=4))

    def _set_conditions(self, node: Object) -> None:
        now = self._clock.timestamp()
        for type_, value, reason, message in CONDITIONS:
            set_condition(node["status"], type_, value, now, reason, message)
        for each in node["status"]["conditions"]:
            each["lastHeartbeatTime"] = now

    # Heartbeats.

    def _interval(self, seconds: float) -> float:
        return max(seconds, LEAST_WALL_SECONDS_BETWEEN_HEARTBEATS * self._clock.speed)

    def _renew(self, name: str) -> None:
        now = self._clock.micro_timestamp()

        def renew(lease: Object) -> None:
            lease["spec"]["renewTime"] = now

        if self._resources.modify(self._leases, "kube-node-lease", name, renew) is None:
            uid = self._resources.get(self._kind, "", name)["metadata"]["uid"]
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
            self._resources.create(self._leases, {
                "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [owner]},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": int(self._timing.node_lease_duration_seconds), "renewTime": now}})

    async def _renew_leases(self) -> None:
        """All leases in one batch: one wake-up an interval, not one a node."""
        while True:
            await self._clock.sleep(self._interval(self._timing.node_lease_renew_interval_seconds))
            for _, name in [entry.key for entry in self._resources.store.entries(self._kind)]:
                if self._cluster.hosts.is_up(name):
                    self._renew(name)

    async def _report_status(self) -> None:
        while True:
            await self._clock.sleep(self._interval(self._timing.node_status_report_interval_seconds))
            for _, name in [entry.key for entry in self._resources.store.entries(self._kind)]:
                if self._cluster.hosts.is_up(name) and name not in self._starting:
                    self._resources.modify(self._kind, "", name, self._set_conditions, subresource="status")

    # Power.

    def _power(self, name: str, up: bool) -> None:
        self._boots[name] = boot = self._boots.get(name, 0) + 1
        if up:
            self._starting.add(name)
            self._clock.call_later(self._timing.kubelet_start_seconds, lambda: self._kubelet_started(name, boot))

    def _kubelet_started(self, name: str, boot: int) -> None:
        if self._boots[name] != boot:  # it has lost power again since
            return
        boot_id = self._uuid()

        def rebooted(node: Object) -> None:
            node["status"]["nodeInfo"]["bootID"] = boot_id
            self._set_conditions(node)
            set_condition(node["status"], "Ready", "False", self._clock.timestamp(), "KubeletNotReady", NO_NETWORK)

        node = self._resources.modify(self._kind, "", name, rebooted, subresource="status")
        if node is not None:
            self._renew(name)
            self._events.event(node, "Normal", "Starting", "Starting kubelet.", "kubelet", name)
            self._events.event(node, "Warning", "Rebooted", f"Node {name} has been rebooted, boot id: {boot_id}", "kubelet", name)
            self._events.event(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady", "kubelet", name)
            self._clock.call_later(self._timing.node_network_seconds, lambda: self._network_ready(name, boot))

    def _network_ready(self, name: str, boot: int) -> None:
        """The network's daemon pods run: a node is ready only then."""
        if self._boots[name] == boot:
            self._starting.discard(name)
            node = self._resources.modify(self._kind, "", name, self._set_conditions, subresource="status")
            if node is not None:
                self._events.event(node, "Normal", "NodeReady", f"Node {name} status is now: NodeReady", "kubelet", name)


TAINT_UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
TAINT_NOT_READY, TAINT_UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
OWN_TAINTS = (TAINT_UNSCHEDULABLE["key"], TAINT_NOT_READY, TAINT_UNREACHABLE)


class NodeLifecycle:
    """kube-controller-manager's: a silent node becomes Unknown and is tainted, and its pods are evicted when they tolerate it no longer."""

    COMPONENT = "node-controller"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing = cluster.timing.kubernetes
        self._kind, self._pods = self._resources.kind("nodes"), self._resources.kind("pods")
        self._events = Recorder(cluster)
        self._by_node = PodsByNode(self._resources)
        self._workers = Workers("node-lifecycle", self._clock, self._timing.node_lifecycle_workers, self._reconcile)
        self._tainted_at: dict[Key, float] = {}  # node's name and taint's key

    def start(self) -> None:
        self._resources.watch(self._kind, self._changed)
        self._resources.watch(self._pods, self._pod_changed)
        self._cluster.hosts.on_power(self._power)
        for entry in self._resources.store.entries(self._kind):
            self._workers.queue.add(entry.key[1])
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _changed(self, change: Change) -> None:
        self._workers.queue.add(change.key[1])

    def _pod_changed(self, change: Change) -> None:
        node = change.new.selectable["spec.nodeName"]
        if node and any(name == node for name, _ in self._tainted_at) and change.type != "DELETED" and (
                change.old is None or not change.old.selectable["spec.nodeName"]):
            self._workers.queue.add(node)

    def _power(self, name: str, up: bool) -> None:
        if not up:
            self._clock.call_later(self._timing.node_monitor_grace_seconds, lambda: self._silent(name))

    def _silent(self, name: str) -> None:
        """No heartbeat for the monitor's grace period."""
        if self._cluster.hosts.is_up(name):
            return

        def unknown(node: Object) -> None:
            now = self._clock.timestamp()
            for type_, *_ in CONDITIONS:
                set_condition(node["status"], type_, "Unknown", now, "NodeStatusUnknown", "Kubelet stopped posting node status.")

        node = self._resources.modify(self._kind, "", name, unknown, subresource="status")
        if node is None:
            return
        self._events.event(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady", self.COMPONENT)
        for key in self._by_node.on(name):
            self._resources.modify(self._pods, *key, self._pod_not_ready, subresource="status")

    def _pod_not_ready(self, pod: Object) -> None:
        if is_true(pod, "Ready"):
            set_condition(pod["status"], "Ready", "False", self._clock.timestamp())

    async def _reconcile(self, name: str) -> None:
        node = self._resources.find(self._kind, "", name)
        if node is None:
            self._tainted_at = {key: at for key, at in self._tainted_at.items() if key[0] != name}
            self._delete_pods_of_gone(name)
            return
        wanted = self._taints(node)
        taints = node["spec"].get("taints") or []
        have = [taint for taint in taints if taint["key"] in OWN_TAINTS]
        if [(t["key"], t["effect"]) for t in have] != [(t["key"], t["effect"]) for t in wanted]:
            def retaint(node: Object) -> None:
                new = [taint for taint in node["spec"].get("taints") or [] if taint["key"] not in OWN_TAINTS] + wanted
                if new:
                    node["spec"]["taints"] = new
                else:
                    node["spec"].pop("taints", None)

            node = self._resources.modify(self._kind, "", name, retaint) or node
        self._evict(name, [taint for taint in node["spec"].get("taints") or [] if taint["effect"] == "NoExecute"])

    def _taints(self, node: Object) -> list[Object]:
        ready = next((each for each in node["status"].get("conditions") or () if each["type"] == "Ready"), None)
        taints: list[Object] = []
        key = None
        if ready is not None and ready["status"] != "True":
            key = TAINT_UNREACHABLE if ready["status"] == "Unknown" else TAINT_NOT_READY
        if key:
            taints = [{"key": key, "effect": "NoSchedule"}, {"key": key, "effect": "NoExecute", "timeAdded": self._clock.timestamp()}]
        if node["spec"].get("unschedulable"):
            taints.append({**TAINT_UNSCHEDULABLE, "timeAdded": self._clock.timestamp()})
        return taints

    def _evict(self, name: str, taints: list[Object]) -> None:
        """The taint manager: delete each pod once it has tolerated these NoExecute taints as long as it says."""
        now = self._clock.now()
        current = {(name, taint["key"]) for taint in taints}
        for key in [key for key in self._tainted_at if key[0] == name and key not in current]:
            del self._tainted_at[key]
        for key in current:
            self._tainted_at.setdefault(key, now)
        if not taints:
            return
        later: list[float] = []
        for key in self._by_node.on(name):
            pod = self._resources.find(self._pods, *key)
            if pod is None or "deletionTimestamp" in pod["metadata"]:
                continue
            until = self._tolerated_until(name, pod, taints)
            if until is None:
                continue
            if until <= now:
                message = f"Marking for deletion Pod {key[0]}/{key[1]}"
                self._events.event(pod, "Normal", "TaintManagerEviction", message, "taint-eviction-controller")
                self._resources.delete(self._pods, *key)
            else:
                later.append(until)
        if later:
            self._workers.queue.add_after(name, min(later) - now)

    def _tolerated_until(self, name: str, pod: Object, taints: list[Object]) -> float | None:
        """Cluster seconds at which the first of the taints is tolerated no longer; None for ever."""
        until: float | None = None
        for taint in taints:
            since = self._tainted_at[(name, taint["key"])]
            matching = [each for each in pod["spec"].get("tolerations") or () if tolerates(each, taint)]
            seconds = [each["tolerationSeconds"] for each in matching if each.get("tolerationSeconds") is not None]
            if matching and not seconds:
                continue
            end = since + (max(0.0, min(seconds)) if matching else 0.0)
            until = end if until is None else min(until, end)
        return until

    def _delete_pods_of_gone(self, name: str) -> None:
        """The pod garbage collector's part: pods bound to a node that is not there are removed by force."""
        for key in self._by_node.on(name):
            if self._resources.find(self._pods, *key):
                self._resources.delete(self._pods, *key, grace_seconds=0)
