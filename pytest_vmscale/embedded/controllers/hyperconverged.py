"""The HyperConverged operator: what its object says becomes the KubeVirt object, whoever else wrote there."""

from __future__ import annotations

import copy
from typing import Any

import orjson

from ..api.errors import ApiError
from ..api.patches import json_patch
from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, condition, decoded, key_of
from .events import Recorder

HYPERCONVERGED, KUBEVIRTS = "hyperconvergeds.hco.kubevirt.io", "kubevirts.kubevirt.io"
JSON_PATCH = "kubevirt.kubevirt.io/jsonpatch"  # annotation: a JSON patch of the KubeVirt object, as text
COMPONENT = "hyperconverged-cluster-operator"
COMPLETED = ("ReconcileCompleted", "Reconcile completed successfully")
TYPES = ("ReconcileComplete", "Available", "Progressing", "Degraded", "Upgradeable")


class InvalidPatch(ValueError):
    """An annotation that is no patch of the KubeVirt object's spec."""


def set_condition(status: Object, type_: str, value: str, reason: str, message: str, generation: int, now: str) -> None:
    """A metav1.Condition: lastTransitionTime moves with its status alone."""
    conditions: list[Object] = status.setdefault("conditions", [])
    old = condition(conditions, type_)
    if old is None:
        conditions.append(old := {"type": type_, "status": ""})
    if old["status"] != value:
        old.update(status=value, lastTransitionTime=now)
    old.update(reason=reason, message=message, observedGeneration=generation)


class HyperConverged:
    """Of OpenShift Virtualization's operators only virt-operator is told anything; the rest of the object is kept as it is."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources, self._clock = cluster.resources, cluster.clock
        self._kind, self._kubevirts = cluster.resources.kind(HYPERCONVERGED), cluster.resources.kind(KUBEVIRTS)
        self._seconds: float = cluster.timing.virt_operator.sync_seconds
        self._events = Recorder(cluster)
        self._base: Object = {}  # what the KubeVirt object's spec is but for what HyperConverged says
        self._workers = Workers("hyperconverged", cluster.clock, 1, self._reconcile)

    def start(self) -> None:
        for kubevirt in self._resources.list(self._kubevirts):
            self._base = kubevirt["spec"]
        for entry in self._resources.store.entries(self._kind):
            self.sync(entry.key)
        self._resources.watch(self._kind, self._changed)
        self._resources.watch(self._kubevirts, lambda change: self._all())
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _all(self) -> None:
        for entry in self._resources.store.entries(self._kind):
            self._workers.queue.add(entry.key)

    def _changed(self, change: Change) -> None:
        new, old = decoded(change.new), change.old.obj if change.old else None
        if old is None or new["metadata"].get("generation") != old["metadata"].get("generation") or (
                new["metadata"].get("annotations") != old["metadata"].get("annotations")):
            self._workers.queue.add(change.key)

    async def _reconcile(self, key: Key) -> None:
        await self._clock.sleep(self._seconds)
        self.sync(key)

    def sync(self, key: Key) -> None:
        obj = self._resources.find(self._kind, *key)
        kubevirt = next(iter(self._resources.list(self._kubevirts, key[0])), None)
        if obj is None or kubevirt is None:
            return
        try:
            spec = self._spec(obj)
        except InvalidPatch as error:
            self._report(obj, kubevirt, str(error))
            return
        if spec != kubevirt["spec"]:
            self._resources.modify(self._kubevirts, *key_of(kubevirt), lambda each: each.update(spec=spec))
            self._events.event(obj, "Normal", "Updated", f"Updated KubeVirt {kubevirt['metadata']['name']}", COMPONENT)
        self._report(obj, kubevirt, "")

    def _spec(self, obj: Object) -> Object:
        """The KubeVirt object's spec that this one asks for."""
        spec = copy.deepcopy(self._base)
        said: Any = obj["spec"].get("liveMigrationConfig")
        if said is not None:
            spec["configuration"]["migrations"] = said
        if obj["spec"].get("evictionStrategy"):
            spec["configuration"]["evictionStrategy"] = obj["spec"]["evictionStrategy"]
        text = (obj["metadata"].get("annotations") or {}).get(JSON_PATCH)
        if text is None:
            return spec
        try:
            operations = orjson.loads(text)
            if any(not str(each["path"]).startswith("/spec/") for each in operations):
                raise InvalidPatch("can only modify spec fields")
            return dict(json_patch({"spec": spec}, operations)["spec"])
        except (ValueError, TypeError, KeyError, ApiError) as error:
            raise InvalidPatch(f"invalid jsonPatch in the {JSON_PATCH} annotation: {error}") from None

    def _report(self, obj: Object, kubevirt: Object, error: str) -> None:
        now, generation = self._clock.timestamp(), obj["metadata"]["generation"]
        found = kubevirt.get("status", {}).get("conditions") or []
        state = {type_: condition(found, type_) or {"status": "Unknown", "message": ""} for type_ in ("Available", "Progressing", "Degraded")}
        said = {type_: ("False" if type_ in ("Progressing", "Degraded") else "True", *COMPLETED) for type_ in TYPES}
        if state["Available"]["status"] == "False":
            said["Available"] = ("False", "KubeVirtNotAvailable", f"KubeVirt is not available: {state['Available']['message']}")
        if state["Progressing"]["status"] == "True":
            message = f"KubeVirt is progressing: {state['Progressing']['message']}"
            said["Progressing"], said["Upgradeable"] = ("True", "KubeVirtProgressing", message), ("False", "KubeVirtProgressing", message)
        if state["Degraded"]["status"] == "True":
            said["Degraded"] = ("True", "KubeVirtDegraded", f"KubeVirt is degraded: {state['Degraded']['message']}")
        if error:
            said["ReconcileComplete"] = ("False", "ReconcileFailed", f"Error while reconciling: {error}")
        tainted = JSON_PATCH in (obj["metadata"].get("annotations") or {})

        def report(each: Object) -> None:
            status = each.setdefault("status", {})
            status["observedGeneration"] = generation
            for type_, (value, reason, message) in said.items():
                set_condition(status, type_, value, reason, message, generation, now)
            if tainted:
                set_condition(status, "TaintedConfiguration", "True", "UnsupportedFeatureAnnotation",
                              "Unsupported feature was activated via an HCO annotation", generation, now)
            else:  # it is not said to be false: it is not mentioned
                status["conditions"] = [other for other in status["conditions"] if other["type"] != "TaintedConfiguration"]

        self._resources.modify(self._kind, *key_of(obj), report, subresource="status")
