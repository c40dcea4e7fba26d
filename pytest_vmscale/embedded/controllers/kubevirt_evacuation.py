"""How VMs leave a node that is drained: virt-api's eviction webhook marks them, and virt-controller's evacuation controller migrates them."""

from __future__ import annotations

from ..api.errors import ApiError
from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, decoded, key_of
from .kubevirt_client import Client, has_condition, is_deleting, is_final
from .kubevirt_config import eviction_strategy, migration_config
from .kubevirt_migration import EVACUATION, FINALIZER, VMI_NAME, Migrations
from .pods import is_finished, is_launcher

WEBHOOK = "virt-launcher-eviction-interceptor.kubevirt.io"


def _refused(message: str) -> ApiError:
    """429, as an admission webhook's refusal arrives at the client. Without Retry-After: it is for the client to come again."""
    return ApiError(429, f'admission webhook "{WEBHOOK}" denied the request: {message}', "")


class EvictionWebhook:
    """Asked before each eviction. A VMI that is to migrate is marked, and its pod stays: 429 even then."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources = cluster, cluster.resources
        self._vmis = cluster.resources.kind("virtualmachineinstances.kubevirt.io")

    def __call__(self, pod: Object, dry_run: bool) -> None:
        domain = (pod["metadata"].get("annotations") or {}).get("kubevirt.io/domain")
        if not is_launcher(pod) or is_finished(pod) or not domain:
            return
        namespace = pod["metadata"]["namespace"]
        vmi = self._resources.find(self._vmis, namespace, domain)
        if vmi is None:
            raise _refused(f'kubevirt failed getting the vmi: virtualmachineinstances.kubevirt.io "{domain}" not found')
        strategy, migratable = eviction_strategy(self._cluster, vmi), has_condition(vmi, "LiveMigratable")
        if strategy == "LiveMigrate" and not migratable:
            raise _refused(f"VMI {domain} is configured with an eviction strategy but is not live-migratable")
        if strategy not in ("LiveMigrate", "External") and not (strategy == "LiveMigrateIfPossible" and migratable):
            return
        triggered = f'Eviction triggered evacuation of VMI "{namespace}/{domain}"'
        if vmi["status"].get("evacuationNodeName"):
            raise _refused(f"Evacuation in progress: {triggered}")
        node = pod["spec"].get("nodeName", "")
        if vmi["status"].get("nodeName") != node:
            raise _refused("Eviction request for target Pod")
        if not dry_run:
            self._resources.modify(self._vmis, namespace, domain, lambda vmi: vmi["status"].update(evacuationNodeName=node))
            self._cluster.truth.write("eviction-requested", namespace, domain, node=node)
        raise _refused(triggered)


class Evacuations:
    """Makes a migration of each VMI that is marked, or whose node has the drain taint, as far as its release lets it."""

    def __init__(self, cluster: Cluster, client: Client, migrations: Migrations) -> None:
        self._cluster, self._resources, self._clock, self._client, self._all = cluster, cluster.resources, cluster.clock, client, migrations
        self._timing = cluster.timing.migration
        kind = cluster.resources.kind
        self._vmis, self._nodes = kind("virtualmachineinstances.kubevirt.io"), kind("nodes")
        self._migrations = kind("virtualmachineinstancemigrations.kubevirt.io")
        self._on_node: dict[str, set[Key]] = {}
        self._node_of: dict[Key, str] = {}
        self._marked: dict[Key, str] = {}  # the node that each VMI is to leave
        self._tainted: set[str] = set()
        self._workers = Workers("virt-controller-evacuation", cluster.clock, self._timing.controller_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._vmis, self._vmi_changed)
        self._resources.watch(self._migrations, self._migration_changed)
        self._resources.watch(self._nodes, self._node_changed)
        for entry in self._resources.store.entries(self._vmis):
            self._vmi_changed(Change("ADDED", self._vmis, entry, None))
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _vmi_changed(self, change: Change) -> None:
        status: Object = {} if change.type == "DELETED" else decoded(change.new).get("status") or {}
        node, marked = str(status.get("nodeName") or ""), str(status.get("evacuationNodeName") or "")
        before = self._node_of.get(change.key, "")
        if node != before:
            self._on_node.get(before, set()).discard(change.key)
            if node:
                self._on_node.setdefault(node, set()).add(change.key)
                self._node_of[change.key] = node
            else:
                self._node_of.pop(change.key, None)
        if marked:
            self._marked[change.key] = marked
        else:
            self._marked.pop(change.key, None)
        if node and (marked or node in self._tainted):
            self._workers.queue.add(node)

    def _migration_changed(self, change: Change) -> None:
        migration = decoded(change.new)
        key = (change.key[0], str(migration["spec"].get("vmiName", "")))
        node = self._node_of.get(key, "")
        if node and (key in self._marked or node in self._tainted):
            self._workers.queue.add(node)

    def _node_changed(self, change: Change) -> None:
        taints = decoded(change.new)["spec"].get("taints") or ()
        key = migration_config(self._cluster).drain_taint if taints else ""
        tainted = change.type != "DELETED" and any(each["key"] == key and each["effect"] == "NoSchedule" for each in taints)
        if tainted:
            self._tainted.add(change.key[1])
            self._workers.queue.add(change.key[1])
        else:
            self._tainted.discard(change.key[1])

    async def _reconcile(self, node: str) -> None:
        candidates, stuck = self._candidates(node)
        if not candidates and not stuck:
            return
        config, limit = migration_config(self._cluster), self._timing.evacuation_limit
        free = len(candidates)
        if limit != "none":
            free = config.per_cluster - self._all.unfinished
            if limit == "node":
                free = min(free, config.per_node - self._all.unfinished_from(node))
            if free <= 0:
                self._workers.queue.add_after(node, self._timing.evacuation_retry_seconds)
                return
        for vmi in stuck[: max(0, free - len(candidates))]:
            self._client.event(vmi, "FailedCreate", "VirtualMachineInstance is not migrateable")
            self._workers.queue.add_after(node, self._timing.evacuation_warning_seconds)
        for vmi in candidates[:free]:
            if self._all.unfinished_of(key_of(vmi)):
                continue
            migration: Object = {
                "metadata": {"generateName": "kubevirt-evacuation-", "namespace": vmi["metadata"]["namespace"], "annotations": {EVACUATION: node},
                             "labels": {VMI_NAME: vmi["metadata"]["name"]}, "finalizers": [FINALIZER]},
                "spec": {"vmiName": vmi["metadata"]["name"], **({"priority": "system-critical"} if self._timing.priorities else {})}}
            created = await self._client.create(self._migrations, migration)
            self._cluster.truth.write("migration-created", *key_of(vmi), migration=created["metadata"]["name"])
            self._client.event(vmi, "SuccessfulCreate", f"Created Migration {created['metadata']['name']}")
        if len(candidates) > free:
            self._workers.queue.add_after(node, self._timing.evacuation_retry_seconds)

    def _candidates(self, node: str) -> tuple[list[Object], list[Object]]:
        """The VMIs that are to leave this node and are not leaving yet: those that can migrate, and those that cannot."""
        able: list[Object] = []
        unable: list[Object] = []
        for key in sorted(self._on_node.get(node, ())):
            if node not in self._tainted and self._marked.get(key) != node:
                continue
            vmi = self._resources.find(self._vmis, *key)
            if vmi is None or is_final(vmi) or is_deleting(vmi) or self._all.unfinished_of(key):
                continue
            strategy, migratable = eviction_strategy(self._cluster, vmi), has_condition(vmi, "LiveMigratable")
            if strategy != "LiveMigrate" and not (strategy == "LiveMigrateIfPossible" and migratable):
                continue
            if not migratable:
                unable.append(vmi)
            elif len(vmi["status"].get("activePods") or {}) <= 1:
                able.append(vmi)
        return able, unable
