"""What the KubeVirt object says of live migration, with the release's defaults for what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..api.store import Entry, Object
from .common import Cluster, milli


@dataclass(frozen=True)
class MigrationConfig:
    """KubeVirt spec.configuration.migrations. Timeouts are seconds; `bandwidth` is bytes a second, 0 without a limit."""

    per_cluster: int
    per_node: int
    completion_seconds_per_gib: int
    progress_seconds: int
    bandwidth: float
    drain_taint: str
    given: Object

    def effective(self) -> Object:
        """As migrationState.migrationConfiguration shows it."""
        return {
            "allowAutoConverge": bool(self.given.get("allowAutoConverge", False)), "allowPostCopy": bool(self.given.get("allowPostCopy", False)),
            "allowWorkloadDisruption": bool(self.given.get("allowWorkloadDisruption", self.given.get("allowPostCopy", False))),
            "bandwidthPerMigration": str(self.given.get("bandwidthPerMigration", "0")), "completionTimeoutPerGiB": self.completion_seconds_per_gib,
            "nodeDrainTaintKey": self.drain_taint, "parallelMigrationsPerCluster": self.per_cluster,
            "parallelOutboundMigrationsPerNode": self.per_node, "progressTimeout": self.progress_seconds,
            "unsafeMigrationOverride": bool(self.given.get("unsafeMigrationOverride", False))}


def configuration(cluster: Cluster) -> Object:
    """spec.configuration of the KubeVirt object, for reading only."""
    entries = cluster.resources.store.entries(cluster.resources.kind("kubevirts.kubevirt.io"))
    return _decoded_configuration(entries[0]) if entries else {}


@lru_cache(maxsize=8)
def _decoded_configuration(entry: Entry) -> Object:
    found: Object = entry.obj["spec"].get("configuration") or {}
    return found


def migration_config(cluster: Cluster) -> MigrationConfig:
    timing: Any = cluster.timing.migration
    given: Object = configuration(cluster).get("migrations") or {}

    def whole(name: str, default: float) -> int:
        return int(given.get(name, default))

    return MigrationConfig(
        whole("parallelMigrationsPerCluster", timing.default_parallel_per_cluster), whole("parallelOutboundMigrationsPerNode", timing.default_parallel_per_node),
        whole("completionTimeoutPerGiB", timing.default_completion_seconds_per_gib), whole("progressTimeout", timing.default_progress_seconds),
        milli(given.get("bandwidthPerMigration", "0")) / 1000, str(given.get("nodeDrainTaintKey", "kubevirt.io/drain")), given)


def eviction_strategy(cluster: Cluster, vmi: Object) -> str | None:
    """The VMI's own, or else the cluster's; None where neither says anything."""
    strategy = vmi["spec"].get("evictionStrategy") or configuration(cluster).get("evictionStrategy")
    return str(strategy) if strategy else None
