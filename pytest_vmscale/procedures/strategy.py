"""Which strategy CDI clones by, for one storage class."""

from __future__ import annotations

from ..cluster.access import ClusterError
from ..cluster.requests import Cluster

PROFILES = "/apis/cdi.kubevirt.io/v1beta1/storageprofiles"
STORAGE_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
DEFAULT_CLASS = ("storageclass.kubevirt.io/is-default-virt-class", "storageclass.kubernetes.io/is-default-class")
# CDI copies the profile's spec to its status within a second or so.
TAKEN_OVER_SECONDS = 120.0
LOOK_EVERY_SECONDS = 1.0


async def default_storage_class(cluster: Cluster) -> str | None:
    """The class that CDI uses where none is named: the default for virtual machines, else the cluster's."""
    classes = await cluster.list_all(STORAGE_CLASSES)
    for annotation in DEFAULT_CLASS:
        for each in classes:
            if (each["metadata"].get("annotations") or {}).get(annotation) == "true":
                return str(each["metadata"]["name"])
    return None


async def wait_for_strategy(cluster: Cluster, storage_class: str, wanted: str) -> None:
    """Until the StorageProfile's status says so. ClusterError if it does not, or if CDI's global override says otherwise."""
    # A cluster on which CDI runs without its operator has no such kind, and no override.
    for cdi in ((await cluster.get_or_none("/apis/cdi.kubevirt.io/v1beta1/cdis")) or {}).get("items") or ():
        override = (cdi.get("spec") or {}).get("cloneStrategyOverride")
        if override and override != wanted:
            raise ClusterError(
                f"CDI {cdi['metadata']['name']} says spec.cloneStrategyOverride: {override} for all storage classes, so {wanted} would not be used"
            )
    give_up = cluster.clock.now() + TAKEN_OVER_SECONDS
    while True:
        profile = await cluster.get(f"{PROFILES}/{storage_class}")
        if (profile.get("status") or {}).get("cloneStrategy") == wanted:
            return
        if cluster.clock.now() >= give_up:
            raise ClusterError(f"StorageProfile {storage_class} does not take over spec.cloneStrategy {wanted}: is CDI running?")
        await cluster.clock.sleep(LOOK_EVERY_SECONDS)
