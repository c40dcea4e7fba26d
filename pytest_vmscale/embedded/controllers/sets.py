"""DaemonSets: a pod on each node that will have it. StatefulSets: pods with names and claims of their own, in order."""

from __future__ import annotations

import copy
from typing import Any

from ..api.store import Change, Object
from .common import Cluster, decoded, key_of, node_selector_matches, untolerated
from .disruption import share
from .pods import is_finished, is_ready
from .workloads import Workload, available_in, is_active, template_hash

REVISION_LABEL = "controller-revision-hash"
# What every daemon tolerates, so that neither a sick nor a cordoned node loses it.
TOLERATIONS = [{"key": f"node.kubernetes.io/{name}", "operator": "Exists", "effect": effect} for name, effect in (
    ("not-ready", "NoExecute"), ("unreachable", "NoExecute"), ("disk-pressure", "NoSchedule"), ("memory-pressure", "NoSchedule"),
    ("pid-pressure", "NoSchedule"), ("unschedulable", "NoSchedule"))]


def label(pod: Object, name: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(name, ""))


class DaemonSets(Workload):
    KIND = "daemonsets.apps"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._nodes = self._resources.kind("nodes")
        self._seen: dict[str, tuple[Any, Any]] = {}  # labels and taints by node, to tell changes that matter from heartbeats

    def start(self) -> None:
        super().start()
        self._resources.watch(self._nodes, self._node_changed)

    def _node_changed(self, change: Change) -> None:
        node = decoded(change.new)
        seen = (node["metadata"].get("labels"), node["spec"].get("taints"))
        if change.type == "DELETED":
            self._seen.pop(change.key[1], None)
        elif self._seen.get(change.key[1]) == seen:
            return
        else:
            self._seen[change.key[1]] = seen
        for entry in self._resources.store.entries(self._kind):
            self._workers.queue.add(entry.key)

    def _template(self, obj: Object) -> Object:
        template: Object = copy.deepcopy(obj["spec"]["template"])
        template["spec"]["tolerations"] = [*(template["spec"].get("tolerations") or []), *TOLERATIONS]
        return template

    def _runs_on(self, spec: Object, node: Object) -> bool:
        labels = node["metadata"].get("labels") or {}
        required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
        return (all(labels.get(key) == value for key, value in (spec.get("nodeSelector") or {}).items())
                and (required is None or node_selector_matches(required, labels, node["metadata"]["name"]))
                and untolerated(node["spec"].get("taints") or (), spec["tolerations"], ("NoSchedule", "NoExecute")) is None)

    async def reconcile(self, obj: Object) -> None:
        template, revision = self._template(obj), template_hash(obj["spec"]["template"])
        wanted = {node["metadata"]["name"] for node in self._resources.list(self._nodes) if self._runs_on(template["spec"], node)}
        pods: dict[str, list[Object]] = {}
        for pod in self._children.of(obj):
            if "deletionTimestamp" not in pod["metadata"]:
                pods.setdefault(self._node_of(pod), []).append(pod)
        if "deletionTimestamp" not in obj["metadata"]:
            for name in sorted(wanted - set(pods)):
                await self._create_for(obj, template, revision, name)
            for name, found in pods.items():
                for pod in found:
                    if name not in wanted or is_finished(pod):
                        await self._delete_pod(obj, key_of(pod))
            await self._roll(obj, revision, [found[0] for name, found in pods.items() if name in wanted], len(wanted))
        self._report(obj, revision, wanted)

    @staticmethod
    def _node_of(pod: Object) -> str:
        if pod["spec"].get("nodeName"):
            return str(pod["spec"]["nodeName"])
        terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return str(terms[0]["matchFields"][0]["values"][0])

    async def _create_for(self, obj: Object, template: Object, revision: str, node: str) -> None:
        """The scheduler binds it, as any pod; its affinity leaves just one node."""
        template = copy.deepcopy(template)
        fields = [{"key": "metadata.name", "operator": "In", "values": [node]}]
        template["spec"].setdefault("affinity", {})["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": fields}]}}
        await self._create_pod(obj, template, {REVISION_LABEL: revision, "pod-template-generation": str(obj["metadata"]["generation"])})

    async def _roll(self, obj: Object, revision: str, pods: list[Object], wanted: int) -> None:
        strategy = obj["spec"].get("updateStrategy") or {}
        if strategy.get("type", "RollingUpdate") != "RollingUpdate":
            return
        most = max(1, share((strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1), wanted))
        unavailable = wanted - sum(is_ready(pod) for pod in pods)
        for pod in pods:
            if label(pod, REVISION_LABEL) != revision and (not is_ready(pod) or unavailable < most):
                unavailable += is_ready(pod)
                await self._delete_pod(obj, key_of(pod))

    def _report(self, obj: Object, revision: str, wanted: set[str]) -> None:
        pods = [pod for pod in self._children.of(obj) if is_active(pod)]
        placed = [pod for pod in pods if self._node_of(pod) in wanted]
        ready = [pod for pod in placed if is_ready(pod)]
        available = sum(available_in(pod, obj["spec"].get("minReadySeconds", 0), self._clock) == 0 for pod in ready)
        updated = sum(label(pod, REVISION_LABEL) == revision for pod in placed)
        optional = {"numberAvailable": available, "numberUnavailable": len(wanted) - available, "updatedNumberScheduled": updated}
        self._set_status(obj, {"currentNumberScheduled": len(placed), "desiredNumberScheduled": len(wanted), "numberMisscheduled": len(pods) - len(placed),
                               "numberReady": len(ready), "observedGeneration": obj["metadata"]["generation"],
                               **{name: number for name, number in optional.items() if number}})


class StatefulSets(Workload):
    KIND = "statefulsets.apps"

    async def reconcile(self, obj: Object) -> None:
        spec, revision = obj["spec"], template_hash(obj["spec"]["template"])
        wanted = int(spec.get("replicas", 1))
        pods = {int(pod["metadata"]["name"].rpartition("-")[2]): pod for pod in self._children.of(obj)}
        if "deletionTimestamp" not in obj["metadata"]:
            await self._order(obj, revision, wanted, pods)
        self._report(obj, revision)

    async def _order(self, obj: Object, revision: str, wanted: int, pods: dict[int, Object]) -> None:
        """One step at a time, unless the pods may come and go in parallel."""
        parallel = obj["spec"].get("podManagementPolicy") == "Parallel"
        for ordinal in range(wanted):
            pod = pods.get(ordinal)
            if pod is None:
                await self._create(obj, revision, ordinal)
            elif is_finished(pod) and "deletionTimestamp" not in pod["metadata"]:
                await self._delete_pod(obj, key_of(pod))
            if not parallel and (pod is None or not is_ready(pod) or "deletionTimestamp" in pod["metadata"]):
                return
        for ordinal in sorted((each for each in pods if each >= wanted), reverse=True):
            if "deletionTimestamp" not in pods[ordinal]["metadata"]:
                await self._delete_pod(obj, key_of(pods[ordinal]))
            if not parallel:
                return
        if (obj["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate") != "RollingUpdate":
            return
        partition = int(((obj["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition", 0))
        for ordinal in sorted((each for each in pods if partition <= each < wanted), reverse=True):
            if not is_ready(pods[ordinal]) or "deletionTimestamp" in pods[ordinal]["metadata"]:
                return  # the one before is not back yet
            if label(pods[ordinal], REVISION_LABEL) != revision:
                await self._delete_pod(obj, key_of(pods[ordinal]))
                return

    async def _create(self, obj: Object, revision: str, ordinal: int) -> None:
        name, namespace = f"{obj['metadata']['name']}-{ordinal}", obj["metadata"]["namespace"]
        template = copy.deepcopy(obj["spec"]["template"])
        claims = self._resources.kind("persistentvolumeclaims")
        for claim in obj["spec"].get("volumeClaimTemplates") or ():
            claim_name = f"{claim['metadata']['name']}-{name}"
            volumes = [each for each in template["spec"].get("volumes") or () if each["name"] != claim["metadata"]["name"]]
            template["spec"]["volumes"] = [*volumes, {"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim_name}}]
            if self._resources.find(claims, namespace, claim_name) is None:
                labels = obj["spec"]["selector"].get("matchLabels") or {}
                self._resources.create(claims, {"metadata": {"name": claim_name, "namespace": namespace, "labels": dict(labels)},
                                                "spec": {"volumeMode": "Filesystem", **copy.deepcopy(claim["spec"])}})
        template["spec"].setdefault("hostname", name)
        await self._create_pod(obj, template, {REVISION_LABEL: revision,
                                               "statefulset.kubernetes.io/pod-name": name}, name)

    def _report(self, obj: Object, revision: str) -> None:
        pods = [pod for pod in self._children.of(obj) if is_active(pod)]
        updated = sum(label(pod, REVISION_LABEL) == revision for pod in pods)
        current = (obj.get("status") or {}).get("currentRevision") or f"{obj['metadata']['name']}-{revision}"
        if updated == len(pods) == int(obj["spec"].get("replicas", 1)):
            current = f"{obj['metadata']['name']}-{revision}"
        ready = sum(is_ready(pod) for pod in pods)
        self._set_status(obj, {"replicas": len(pods), "readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": updated,
                               "currentReplicas": updated if current.endswith(revision) else len(pods) - updated, "currentRevision": current,
                               "updateRevision": f"{obj['metadata']['name']}-{revision}", "collisionCount": 0,
                               "observedGeneration": obj["metadata"]["generation"]})
