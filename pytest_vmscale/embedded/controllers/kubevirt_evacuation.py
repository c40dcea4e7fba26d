"""How VMs leave a node that is drained: virt-api's eviction webhook marks them, and virt-controller's evacuation controller migrates them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..api.errors import ApiError
from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, decoded
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
            if not dry_run and not is_deleting(pod):
                self._cluster.truth.write("eviction-requested", namespace, domain, node=pod["spec"].get("nodeName", ""))
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What tells of a VMI whether it is to be evacuated, so that it need not be read again and again."""

    node: str = ""
    leaving: str = ""  # the node that it was evicted from
    strategy: str | None = None
    migratable: bool = False
    ending: bool = False
    pods: int = 0

    @classmethod
    def of(cls, vmi: Object) -> Seen:
        status = vmi.get("status") or {}
        return cls(status.get("nodeName") or "", status.get("evacuationNodeName") or "", vmi["spec"].get("evictionStrategy"),
                   has_condition(vmi, "LiveMigratable"), is_final(vmi) or is_deleting(vmi), len(status.get("activePods") or {}))


NOWHERE = Seen()


class Evacuations:
    """Makes a migration of each VMI that is marked, or whose node has the drain taint, as far as its release lets it."""

    def __init__(self, cluster: Cluster, client: Client, migrations: Migrations) -> None:
        self._cluster, self._resources, self._clock, self._client, self._all = cluster, cluster.resources, cluster.clock, client, migrations
        self._timing = cluster.timing.migration
        kind = cluster.resources.kind
        self._vmis, self._nodes = kind("virtualmachineinstances.kubevirt.io"), kind("nodes")
        self._migrations = kind("virtualmachineinstancemigrations.kubevirt.io")
        self._on_node: dict[str, set[Key]] = {}
        self._seen: dict[Key, Seen] = {}
        self._leaving: Counter[str] = Counter()  # by node: VMIs that were evicted from it and are there still
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
        before = self._seen.get(change.key, NOWHERE)
        seen = NOWHERE if change.type == "DELETED" else Seen.of(decoded(change.new))
        if seen != before:
            self._forget(change.key, before)
            if seen.node:
                self._remember(change.key, seen)
        self._wake(seen.node)

    def _remember(self, key: Key, seen: Seen) -> None:
        self._seen[key] = seen
        self._on_node.setdefault(seen.node, set()).add(key)
        self._leaving[seen.node] += seen.leaving == seen.node

    def _forget(self, key: Key, seen: Seen) -> None:
        self._seen.pop(key, None)
        self._on_node.get(seen.node, set()).discard(key)
        self._leaving[seen.node] -= seen.leaving == seen.node != ""

    def _migration_changed(self, change: Change) -> None:
        migration = decoded(change.new)
        self._wake(self._seen.get((change.key[0], str(migration["spec"].get("vmiName", ""))), NOWHERE).node)

    def _wake(self, node: str) -> None:
        """Every change of a VMI, or of its migration, has the node looked at that the VMI is on. So a node that migrates is looked at
        more often than one that waits for a free slot, and gets most of them; one that is empty of what is to leave never needs it."""
        if self._leaving[node] or node in self._tainted:
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
        for key in stuck[: max(0, free - len(candidates))]:
            self._client.event(self._resources.get(self._vmis, *key), "FailedCreate", "VirtualMachineInstance is not migrateable")
            self._workers.queue.add_after(node, self._timing.evacuation_warning_seconds)
        for key in candidates[:free]:
            if not self._all.unfinished_of(key):
                await self._evacuate(key, node)
        if len(candidates) > free:
            self._workers.queue.add_after(node, self._timing.evacuation_retry_seconds)

    async def _evacuate(self, key: Key, node: str) -> None:
        migration: Object = {
            "metadata": {"generateName": "kubevirt-evacuation-", "namespace": key[0], "annotations": {EVACUATION: node},
                         "labels": {VMI_NAME: key[1]}, "finalizers": [FINALIZER]},
            "spec": {"vmiName": key[1], **({"priority": "system-critical"} if self._timing.priorities else {})}}
        name = (await self._client.create(self._migrations, migration))["metadata"]["name"]
        self._cluster.truth.write("migration-created", *key, migration=name)
        vmi = self._resources.find(self._vmis, *key)
        if vmi is not None:
            self._client.event(vmi, "SuccessfulCreate", f"Created Migration {name}")

    def _candidates(self, node: str) -> tuple[list[Key], list[Key]]:
        """The VMIs that are to leave this node and are not leaving yet: those that can migrate, and those that cannot."""
        able: list[Key] = []
        unable: list[Key] = []
        for key in sorted(self._on_node.get(node, ())):
            seen = self._seen[key]
            if seen.ending or (seen.leaving != node and node not in self._tainted) or self._all.unfinished_of(key):
                continue
            strategy = eviction_strategy(self._cluster, {"spec": {"evictionStrategy": seen.strategy}})
            if strategy == "LiveMigrate" and not seen.migratable:
                unable.append(key)
            elif strategy in ("LiveMigrate", "LiveMigrateIfPossible") and seen.migratable and seen.pods <= 1:
                able.append(key)
        return able, unable
