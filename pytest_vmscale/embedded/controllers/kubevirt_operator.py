"""virt-operator: KubeVirt's own Deployments, as the KubeVirt object customizes them, and how many virt-api there are."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import orjson
import yaml

from ..api.errors import ApiError
from ..api.patches import json_patch, merge_patch, strategic_patch
from ..api.store import Change, Object
from ..queue import Workers
from .common import Cluster, condition, key_of
from .hyperconverged import KUBEVIRTS

COMPONENTS = {"deployments.apps": ("virt-api", "virt-controller"), "daemonsets.apps": ("virt-handler",)}
VIRT_API = "virt-api"
CUSTOMIZER = "kubevirt.io/customizer-identifier"
PATCHES = {"json": json_patch, "merge": merge_patch, "strategic": strategic_patch}
OWN_ANNOTATIONS = "deployment.kubernetes.io/"  # the deployment controller's
READY = ("AllComponentsReady", "All components are ready.")


class BadPatch(ValueError):
    """A patch of the KubeVirt object that cannot be applied."""


class VirtOperator:
    """Puts each of its workloads back to what it should be, and says whether all of them are ready."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources, self._clock = cluster.resources, cluster.clock
        self._timing: Any = cluster.timing.virt_operator
        kind = cluster.resources.kind
        self._kind, self._nodes, self._budgets = kind(KUBEVIRTS), kind("nodes"), kind("poddisruptionbudgets")
        self._workloads = [(kind(plural), name) for plural, names in COMPONENTS.items() for name in names]
        self._base: dict[str, Object] = {}  # each workload as its release installs it
        self._workers = Workers("virt-operator", cluster.clock, 1, self._reconcile)

    def start(self) -> None:
        for entry in self._resources.store.entries(self._kind):
            for kind, name in self._workloads:
                found = self._resources.find(kind, entry.key[0], name)
                if found is not None:
                    self._base[name] = found
            self.sync(entry.obj)
        self._resources.watch(self._kind, lambda change: self._enqueue())
        for kind in {kind for kind, _ in self._workloads}:
            self._resources.watch(kind, self._workload_changed)
        if self._timing.nodes_per_virt_api:
            self._resources.watch(self._nodes, self._node_changed)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _enqueue(self) -> None:
        for entry in self._resources.store.entries(self._kind):
            self._workers.queue.add(entry.key)

    def _workload_changed(self, change: Change) -> None:
        if change.key[1] in self._base and change.key[0] == self._base[change.key[1]]["metadata"]["namespace"]:
            self._enqueue()

    def _node_changed(self, change: Change) -> None:
        if change.type != "MODIFIED":
            self._enqueue()

    async def _reconcile(self, key: tuple[str, str]) -> None:
        await self._clock.sleep(self._timing.sync_seconds)
        kubevirt = self._resources.find(self._kind, *key)
        if kubevirt is not None:
            self.sync(kubevirt)

    def sync(self, kubevirt: Object) -> None:
        patches = (kubevirt["spec"].get("customizeComponents") or {}).get("patches") or []
        identity = hashlib.sha1(orjson.dumps(kubevirt["spec"].get("customizeComponents") or {}), usedforsecurity=False).hexdigest()
        try:
            wanted = {name: self._customized(kind.kind, name, patches, identity) for kind, name in self._workloads if name in self._base}
        except BadPatch as error:
            self._report(kubevirt, {"Synchronized": "False", "Available": "False", "Progressing": "False", "Degraded": "True"}, "DeploymentFailed",
                         f"An error occurred during deployment: {error}")
            return
        for kind, name in self._workloads:
            if name in wanted:
                self._resources.modify(kind, kubevirt["metadata"]["namespace"], name, lambda each, name=name: _put(each, wanted[name]))  # type: ignore[misc]
        if VIRT_API in wanted:
            self._set_budget(wanted[VIRT_API])
        version = kubevirt.get("status", {}).get("targetKubeVirtVersion", "")
        if all(self._is_ready(kind, kubevirt["metadata"]["namespace"], name) for kind, name in self._workloads if name in wanted):
            self._report(kubevirt, {"Available": "True", "Progressing": "False", "Degraded": "False"}, *READY)
        else:
            self._report(kubevirt, {"Available": "False", "Progressing": "True", "Degraded": "False"}, "DeploymentInProgress",
                         f"Deploying version {version} with registry {self._timing.registry}")

    def _customized(self, kind: str, name: str, patches: list[Object], identity: str) -> Object:
        """The workload as it is installed, with these patches, and as many virt-api as there are to be."""
        obj = copy.deepcopy(self._base[name])
        if name == VIRT_API:
            per = self._timing.nodes_per_virt_api
            least = int(self._timing.virt_api_replicas)
            obj["spec"]["replicas"] = max(least, self._resources.store.count(self._nodes) // int(per)) if per else least
        for patch in patches:
            if patch.get("resourceName") not in (name, "*") or str(patch.get("resourceType")).lower() not in (kind.lower(), "*"):
                continue
            apply = PATCHES.get(patch.get("type", ""))
            if apply is None:
                raise BadPatch(f"patch type is not supported: {patch.get('type')}")
            try:
                obj = apply(obj, yaml.safe_load(patch["patch"]))
            except (ValueError, KeyError, TypeError, yaml.YAMLError, ApiError) as error:
                raise BadPatch(f"unable to patch {kind} {name}: {error}") from None
        obj["metadata"].setdefault("annotations", {})[CUSTOMIZER] = identity
        return obj

    def _is_ready(self, kind: Any, namespace: str, name: str) -> bool:
        found = self._resources.find(kind, namespace, name) or {}
        status, spec = found.get("status") or {}, found.get("spec") or {}
        if kind.kind == "DaemonSet":
            return int(status.get("numberReady", 0)) >= int(status.get("desiredNumberScheduled", 0)) > 0
        return int(status.get("readyReplicas", 0)) >= int(spec.get("replicas", 1)) > 0

    def _set_budget(self, virt_api: Object) -> None:
        """All of virt-api but one must stay."""
        least = max(1, int(virt_api["spec"]["replicas"]) - 1)
        self._resources.modify(self._budgets, virt_api["metadata"]["namespace"], f"{VIRT_API}-pdb", lambda each: each["spec"].update(minAvailable=least))

    def _report(self, kubevirt: Object, values: dict[str, str], reason: str, message: str) -> None:
        now = self._clock.timestamp()

        def report(each: Object) -> None:
            status = each.setdefault("status", {})
            conditions: list[Object] = status.setdefault("conditions", [])
            if "Synchronized" not in values:
                conditions[:] = [other for other in conditions if other["type"] != "Synchronized"]
            for type_, value in values.items():
                old = condition(conditions, type_)
                if old is None:
                    conditions.append(old := {"type": type_})
                if any(old.get(key) != new for key, new in (("status", value), ("reason", reason), ("message", message))):
                    old.update(status=value, reason=reason, message=message, lastProbeTime=now, lastTransitionTime=now)

        self._resources.modify(self._kind, *key_of(kubevirt), report, subresource="status")


def _put(obj: Object, wanted: Object) -> None:
    """Its spec, labels and annotations; what the deployment controller wrote stays."""
    kept = {key: value for key, value in (obj["metadata"].get("annotations") or {}).items() if key.startswith(OWN_ANNOTATIONS)}
    obj["metadata"]["annotations"] = {**wanted["metadata"].get("annotations", {}), **kept}
    if wanted["metadata"].get("labels"):
        obj["metadata"]["labels"] = wanted["metadata"]["labels"]
    obj["spec"] = wanted["spec"]
