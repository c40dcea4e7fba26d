"""The cluster's operators: their ClusterOperator objects, and how each brings its operands to a new version."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..api.store import Change, Object
from ..queue import Workers
from ..releases import Operator, Release, catalogue, minor
from .common import Cluster, condition, is_true, set_condition

if TYPE_CHECKING:
    from ..api.server import ApiServer

MASTERS = "node-role.kubernetes.io/master"
AS_EXPECTED = "AsExpected"
POOLS = "machineconfigpools.machineconfiguration.openshift.io"
CONFIGS = "machineconfigs.machineconfiguration.openshift.io"
CONTROLLER_CONFIGS, CONTROLLER_CONFIG = "controllerconfigs.machineconfiguration.openshift.io", "machine-config-controller"
DESIRED_CONFIG = "machineconfiguration.openshift.io/desiredConfig"
REQUIRED = "operator.machineconfiguration.openshift.io/required-for-upgrade"
# By which clients tell the release's own operators from others.
OF_RELEASE = {f"include.release.openshift.io/{kind}": "true" for kind in ("ibm-cloud-managed", "self-managed-high-availability", "single-node-developer")}
Report = Callable[[int], None]  # how many of its units have the new version


class ClusterOperators:
    """All of them in one. `roll` is what applying an operator's new Deployment sets off."""

    def __init__(self, cluster: Cluster, release: Release) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing: Any = cluster.timing.upgrade
        self._kind = cluster.resources.kind("clusteroperators.config.openshift.io")
        self._nodes, self._pods = cluster.resources.kind("nodes"), cluster.resources.kind("pods")
        self._operators = catalogue().operators
        self._first = release
        self._targets = dict.fromkeys(self._operators, release.version)
        self._revisions = dict.fromkeys(self._operators, 8)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._server: ApiServer | None = None
        self._pool_watch = PoolWatch(cluster, self)
        self._machine_os = MachineOs(cluster)

    def start(self) -> None:
        for name, operator in self._operators.items():
            self._resources.create(self._kind, {"metadata": {"name": name, "annotations": dict(OF_RELEASE)}, "spec": {}})
            self._rest(operator, self._first)
        self._pool_watch.start()
        self._machine_os.start()

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._pool_watch.stop()
        await self._machine_os.stop()

    def serve(self, server: ApiServer) -> None:
        """Rolling out kube-apiserver, and masters that reboot, end and start this server's replicas."""
        self._server = server
        self._cluster.hosts.on_power(self._power)

    def _power(self, node: str, up: bool) -> None:
        server, masters = self._server, self.masters()
        if server is None or node not in masters or masters.index(node) >= len(server.replicas.up):
            return
        index = masters.index(node)
        if up:
            version = server.replicas.versions[index]
            start = self._cluster.timing.kubernetes.kubelet_start_seconds + self._timing.api_server_start_seconds
            self._clock.call_later(start, lambda: server.replicas.join(index, version))
        else:
            server.replicas.leave(index)
            server.close_replica(index, at_once=True)

    # Conditions.

    def set_condition(self, name: str, type_: str, value: str, reason: str = "", message: str = "") -> None:
        self._set(name, lambda status: set_condition(status, type_, value, self._clock.timestamp(), reason, message))

    def _set(self, name: str, change: Callable[[Object], Any]) -> None:
        def edit(obj: Object) -> None:
            change(obj.setdefault("status", {}))

        self._resources.modify(self._kind, "", name, edit, subresource="status")

    def _rest(self, operator: Operator, release: Release) -> None:
        self._set(operator.name, lambda status: self._at_rest(status, operator, release))

    def _at_rest(self, status: Object, operator: Operator, release: Release) -> None:
        now = self._clock.timestamp()
        message = self._text(operator.available, operator, release, self.units(operator))
        set_condition(status, "Degraded", "False", now, AS_EXPECTED)
        set_condition(status, "Progressing", "False", now, AS_EXPECTED)
        set_condition(status, "Available", "True", now, AS_EXPECTED, message)
        if operator.name != "machine-config" or condition(status["conditions"], "Upgradeable") is None:
            set_condition(status, "Upgradeable", "True", now, AS_EXPECTED)
        status["versions"] = operator.versions(release)
        if operator.related:
            status["relatedObjects"] = [dict(each) for each in operator.related]

    def _text(self, text: str, operator: Operator, release: Release, done: int) -> str:
        total, revision = self.units(operator), self._revisions[operator.name]
        return text.format(version=release.version, done=done, total=total, left=total - done, new=revision, old=revision - 1)

    def units(self, operator: Operator) -> int:
        """What its progress is counted in: nodes of its daemon set, else the pods that it has on the masters."""
        return len(self._resources.store.entries(self._nodes)) if operator.how == "daemon" else len(self.masters())

    def masters(self) -> list[str]:
        return [entry.key[1] for entry in self._resources.store.entries(self._nodes) if MASTERS in entry.labels]

    # Rolling out.

    def roll(self, name: str, release: Release) -> None:
        """Start bringing this operator's operands to this release; nothing if that is under way or done."""
        if self._targets[name] == release.version:
            return
        before = self._targets[name]
        self._targets[name] = release.version
        if name in self._tasks:
            self._tasks[name].cancel()
        self._tasks[name] = asyncio.create_task(self._roll(self._operators[name], before, release), name=f"operator {name}")

    async def _roll(self, operator: Operator, before: str, release: Release) -> None:
        hop = "patch" if minor(before) == minor(release.version) else "minor"
        await self._clock.sleep(self._timing.operator_start_seconds)
        self._report(operator, release, 0)
        number = list(self._operators).index(operator.name) + 1
        if self._cluster.faults.value("stuck-operator") == number:
            await asyncio.Event().wait()
        if self._cluster.faults.value("degraded-operator") == number:
            self.set_condition(operator.name, "Degraded", "True", f"{operator.name.title().replace('-', '')}_SyncError",
                               f"{operator.name.title().replace('-', '')}Degraded: an operand of {release.version} does not become ready")
            await asyncio.Event().wait()

        def report(done: int) -> None:
            self._report(operator, release, done)

        if operator.how == "static":
            await self._static_pods(operator, hop, release, report)
        elif operator.how == "daemon":
            await self._daemons(operator, hop, report)
        else:
            await self._deployments(operator, hop, report)
        if operator.name == "machine-config" and self._timing.os_changes[hop]:
            await self._pool_watch.roll_machine_os(release)
        self._rest(operator, release)
        self._cluster.truth.write("operator-updated", None, operator.name, version=release.version)

    def _report(self, operator: Operator, release: Release, done: int) -> None:
        message = self._text(operator.message, operator, release, done)
        self.set_condition(operator.name, "Progressing", "True", operator.reason, message)

    async def _static_pods(self, operator: Operator, hop: str, release: Release, report: Report) -> None:
        """One master after the other; each further revision (new certificates, new settings) is one more round."""
        for revision in range(self._timing.static_pod_revisions[hop][operator.name]):
            self._revisions[operator.name] += 1
            report(0)
            for done, master in enumerate(self.masters()):
                await self._clock.sleep(self._timing.installer_seconds)
                while not self._cluster.hosts.is_up(master):
                    await self._clock.sleep(self._timing.installer_seconds)
                if operator.name == "kube-apiserver":
                    await self._restart_api_server(done, release, first=revision == 0)
                await self._clock.sleep(self._timing.static_pod_seconds[operator.name])
                report(done + 1)

    async def _restart_api_server(self, index: int, release: Release, first: bool) -> None:
        """The load balancer lets go of the server while it still answers, then its connections end, and those that do not are cut."""
        server, truth = self._server, self._cluster.truth
        served = server is not None and index < len(server.replicas.up)
        if server is not None and served:
            server.replicas.leave(index)
        await self._clock.sleep(self._timing.api_server_shutdown_delay_seconds)
        if server is not None and served:
            server.close_replica(index)
            truth.write("api-server-ended", None, f"kube-apiserver-{index}")
            outage = self._cluster.faults.value("api-outage") if first and index == 0 else None
            if outage:
                truth.write("api-outage-started")
                await server.refuse()
                await self._clock.sleep(outage)
                await server.resume()
                truth.write("api-outage-ended")
        await self._clock.sleep(self._timing.api_server_termination_seconds)
        if server is not None and served:
            server.close_replica(index, at_once=True)
        await self._clock.sleep(self._timing.api_server_start_seconds)
        if server is not None and served:
            server.replicas.join(index, release.server_version())

    async def _daemons(self, operator: Operator, hop: str, report: Report) -> None:
        """Some nodes at a time, as maxUnavailable says; one without power is waited for."""
        nodes = [entry.key[1] for entry in self._resources.store.entries(self._nodes)]
        at_once = asyncio.Semaphore(max(1, math.ceil(len(nodes) * self._timing.daemon_max_unavailable)))
        updated = 0

        async def replace(node: str) -> None:
            nonlocal updated
            async with at_once:
                while not self._cluster.hosts.is_up(node):
                    await self._clock.sleep(self._timing.daemon_pod_seconds[hop][operator.name])
                await self._clock.sleep(self._timing.daemon_pod_seconds[hop][operator.name])
            updated += 1
            if updated % 10 == 0 or updated == len(nodes):
                report(updated)

        if operator.name == "network":
            self._lose_vms()
        await _all(replace(node) for node in nodes)

    async def _deployments(self, operator: Operator, hop: str, report: Report) -> None:
        """Pod by pod, each when the one before is ready."""
        total = self.units(operator)
        seconds = self._timing.deployment_seconds[hop]
        for done in range(total):
            await self._clock.sleep(seconds.get(operator.name, seconds["others"]) / max(1, total))
            report(done + 1)

    def _lose_vms(self) -> None:
        """Fault vm-lost: QEMU of so many VMs ends while the network's daemons are replaced."""
        count = int(self._cluster.faults.value("vm-lost") or 0)
        if not count:
            return
        running = [entry.obj for entry in self._resources.store.entries(self._pods) if entry.labels.get("kubevirt.io") == "virt-launcher"]
        launchers = [pod for pod in running if pod.get("status", {}).get("phase") == "Running"]
        for pod in self._cluster.random.sample(launchers, min(count, len(launchers))):
            meta = pod["metadata"]
            self._cluster.truth.write("vm-lost", meta["namespace"], (meta.get("annotations") or {}).get("kubevirt.io/domain", meta["name"]))
            self._cluster.hosts.pod_exited(meta["namespace"], meta["name"], 1)


async def _all(works: Any) -> None:
    """Run them side by side; if this is cancelled, so are they."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


class PoolWatch:
    """machine-config-operator's eye on the pools: an OS for all of them, and what it says of them in its ClusterOperator."""

    def __init__(self, cluster: Cluster, operators: ClusterOperators) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._operators = operators
        self._timing: Any = cluster.timing.upgrade
        kind = cluster.resources.kind
        self._pools, self._configs = kind(POOLS), kind(CONFIGS)
        self._workers = Workers("machine-config-operator", cluster.clock, 1, self._reconcile)
        self._failing_since: float | None = None
        self._target: Release | None = None

    def start(self) -> None:
        self._resources.watch(self._pools, lambda change: self._workers.queue.add("pools"))
        self._workers.queue.add("pools")
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    async def roll_machine_os(self, release: Release) -> None:
        """Give the pools the release's machine-os, and wait for those that an update needs."""
        kind = self._resources.kind(CONTROLLER_CONFIGS)

        def change(config: Object) -> None:
            config["spec"]["osImageURL"] = release.machine_os

        if self._resources.modify(kind, "", CONTROLLER_CONFIG, change) is None:
            raise LookupError("there is no ControllerConfig machine-config-controller")
        self._target = release
        while self._behind(release):
            self._workers.queue.add("pools")
            await self._clock.sleep(self._timing.pool_poll_seconds)
        self._target = None
        self._workers.queue.add("pools")

    async def _reconcile(self, key: str) -> None:
        pools = self._resources.list(self._pools)
        degraded = [pool for pool in pools if is_true(pool, "Degraded")]
        if degraded:
            what = ("False", "DegradedPool", "One or more machine config pools are degraded, please see `oc get mcp` for further details and resolve before upgrading")
        elif any(is_true(pool, "Updating") for pool in pools):
            what = ("False", "PoolUpdating", "One or more machine config pools are updating, please see `oc get mcp` for further details")
        else:
            what = ("True", AS_EXPECTED, "")
        self._operators.set_condition("machine-config", "Upgradeable", *what)
        error = self._error(degraded)
        if error is None:
            if self._failing_since is not None:
                self._failing_since = None
                self._operators.set_condition("machine-config", "Degraded", "False", AS_EXPECTED)
            return
        if self._failing_since is None:
            self._failing_since = self._clock.now()
            self._workers.queue.add_after("pools", self._timing.pool_patience_seconds + 1)
        elif self._clock.now() - self._failing_since >= self._timing.pool_patience_seconds:
            start = f"Unable to apply {self._target.version}" if self._target else "Failed to resync because"
            self._operators.set_condition("machine-config", "Degraded", "True", "RequiredPoolsFailed",
                                          f"{start}: timed out waiting for the condition during syncRequiredMachineConfigPools: {error}")

    def _error(self, degraded: list[Object]) -> str | None:
        for pool in degraded:
            return f"error pool {pool['metadata']['name']} is not ready, retrying. Status: (pool degraded: true {_counts(pool)})"
        return self._behind(self._target) if self._target else None

    def _behind(self, release: Release) -> str | None:
        """What is wrong with the first pool that an update waits for; None if all have the release's machine-os."""
        for pool in self._resources.list(self._pools):
            name = pool["metadata"]["name"]
            if REQUIRED not in (pool["metadata"].get("labels") or {}) and name != "master":
                continue
            if is_true(pool, "Degraded"):
                return f"error pool {name} is not ready, retrying. Status: (pool degraded: true {_counts(pool)})"
            rendered = (pool["spec"].get("configuration") or {}).get("name", "")
            config = self._resources.find(self._configs, "", rendered)
            image = ((config or {}).get("spec") or {}).get("osImageURL", "")
            if image != release.machine_os:
                return f"pool {name} has not progressed to latest configuration: osImageURL mismatch for {name} in {rendered} expected: {release.machine_os} got: {image}, retrying"
            status = pool.get("status", {})
            done = (status.get("configuration") or {}).get("name") == rendered and is_true(pool, "Updated")
            if not done or pool["metadata"]["generation"] > status.get("observedGeneration", 0):
                return f"error required pool {name} is not ready, retrying. Status: ({_counts(pool)})"
        return None


def _counts(pool: Object) -> str:
    status = pool.get("status", {})
    return (f"total: {status.get('machineCount', 0)}, ready {status.get('readyMachineCount', 0)}, updated: {status.get('updatedMachineCount', 0)}, "
            f"unavailable: {status.get('unavailableMachineCount', 0)}")


class MachineOs:
    """What a node says of itself after it has booted into another machine-os."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        self._nodes, self._configs = cluster.resources.kind("nodes"), cluster.resources.kind(CONFIGS)
        self._boots: dict[str, str] = {}
        self._workers = Workers("machine-os", cluster.clock, 1, self._reconcile)

    def start(self) -> None:
        for node in self._resources.list(self._nodes):
            self._boots[node["metadata"]["name"]] = node["status"]["nodeInfo"]["bootID"]
        self._resources.watch(self._nodes, self._changed)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _changed(self, change: Change) -> None:
        if self._boots.get(change.key[1], "").encode() not in change.new.raw:
            self._workers.queue.add(change.key[1])

    async def _reconcile(self, name: str) -> None:
        node = self._resources.find(self._nodes, "", name)
        if node is None or "nodeInfo" not in node.get("status", {}):
            return
        self._boots[name] = node["status"]["nodeInfo"].get("bootID", "")
        rendered = self._resources.find(self._configs, "", (node["metadata"].get("annotations") or {}).get(DESIRED_CONFIG, ""))
        release = catalogue().by_machine_os(((rendered or {}).get("spec") or {}).get("osImageURL", ""))
        if release is not None:
            info = release.node_info()
            self._resources.modify(self._nodes, "", name, lambda each: each["status"]["nodeInfo"].update(info), subresource="status")
