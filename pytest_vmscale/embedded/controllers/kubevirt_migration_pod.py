"""The target pod of a migration: another virt-launcher of the same VMI, on another node. Pure."""

from __future__ import annotations

from ..api.store import Object
from .kubevirt_pod import launcher_pod

JOB_UID, JOB_NAME, CREATED_BY = "kubevirt.io/migrationJobUID", "kubevirt.io/migrationJobName", "kubevirt.io/created-by"
CPU_VENDOR = "cpu-vendor.node.kubevirt.io/"
HOSTNAME = "kubernetes.io/hostname"


def target_pod(vmi: Object, claims: dict[str, Object], migration: Object, source_labels: dict[str, str]) -> Object:
    """`source_labels`: those of the node that the guest runs on; the target's CPU must be of the same vendor."""
    pod = launcher_pod(vmi, claims)
    meta, spec = pod["metadata"], pod["spec"]
    meta["labels"][JOB_UID] = migration["metadata"]["uid"]
    meta["annotations"][JOB_NAME] = migration["metadata"]["name"]
    term = {"labelSelector": {"matchLabels": {CREATED_BY: vmi["metadata"]["uid"]}}, "topologyKey": HOSTNAME}
    terms = spec["affinity"].setdefault("podAntiAffinity", {}).setdefault("requiredDuringSchedulingIgnoredDuringExecution", [])
    terms.append(term)
    vendor = {label: "true" for label in source_labels if label.startswith(CPU_VENDOR)}
    spec["nodeSelector"] = {**(migration["spec"].get("addedNodeSelector") or {}), **vendor, **spec["nodeSelector"]}
    context = vmi["status"].get("selinuxContext", "")
    if context.count(":") >= 3:  # "none" where SELinux is off; else user:role:type:level, and the level has a colon itself
        spec["securityContext"]["seLinuxOptions"] = {"level": context.split(":", 3)[3]}
    return pod
