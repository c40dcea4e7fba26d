"""Disruption budgets: their status, and the eviction subresource that keeps to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from ..api import errors
from ..api.representations import answer_object, read_object
from ..api.resources import Resources
from ..api.store import Change, Object
from ..queue import Workers
from ..truth import Truth
from .common import Cluster, PodsByLabel, controller_of, selects, set_condition
from .pods import is_finished, is_ready

if TYPE_CHECKING:
    from ..api.server import ApiServer

EvictionHook = Callable[[Object, bool], None]  # the pod, and whether it is a dry run; may raise ApiError


def share(amount: int | str, of: int) -> int:
    """An IntOrString: a percentage of something, rounded up, or the number itself."""
    if isinstance(amount, str) and amount.endswith("%"):
        return math.ceil(int(amount[:-1]) * of / 100)
    return int(amount)


class Disruption:
    """The disruption controller: how many pods of each budget may go."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources, self._clock = cluster.resources, cluster.clock
        self._budgets = self._resources.kind("poddisruptionbudgets")
        self._pods = PodsByLabel(self._resources)
        self._evictions: Evictions = cluster.evictions
        self._workers = Workers("disruption", self._clock, 1, self._reconcile)

    def serve(self, server: ApiServer) -> None:
        server.add_subresource("", "v1", "pods", "eviction", {"POST"}, self._evictions.handle,
                               discovery={"kind": "Eviction", "group": "policy", "version": "v1"})

    def start(self) -> None:
        self._resources.watch(self._budgets, lambda change: self._workers.queue.add(change.key))
        self._resources.watch(self._resources.kind("pods"), self._pod_changed)
        for name in ("deployments.apps", "replicasets.apps", "statefulsets.apps"):
            self._resources.watch(self._resources.kind(name), self._scale_changed)
        for entry in self._resources.store.entries(self._budgets):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _pod_changed(self, change: Change) -> None:
        for entry in self._resources.store.entries(self._budgets, change.key[0]):
            if selects(entry.obj["spec"].get("selector"), change.new.labels):
                self._workers.queue.add(entry.key)

    def _scale_changed(self, change: Change) -> None:
        for entry in self._resources.store.entries(self._budgets, change.key[0]):
            self._workers.queue.add(entry.key)

    async def _reconcile(self, key: tuple[str, str]) -> None:
        budget = self._resources.find(self._budgets, *key)
        if budget is None:
            return
        spec, now = budget["spec"], self._clock.timestamp()
        pods = [pod for pod in self._pods.matching(key[0], spec.get("selector")) if not is_finished(pod)]
        if "maxUnavailable" in spec:
            expected = self._scale(pods)
            desired = max(0, expected - share(spec["maxUnavailable"], expected))
        elif isinstance(spec.get("minAvailable"), str):
            expected = self._scale(pods)
            desired = share(spec["minAvailable"], expected)
        else:
            expected, desired = len(pods), int(spec.get("minAvailable", 1))
        names = {pod["metadata"]["name"] for pod in pods}
        deleting = {pod["metadata"]["name"] for pod in pods if "deletionTimestamp" in pod["metadata"]}
        # An evicted pod counts as gone until its deletion is seen.
        disrupted = {name: at for name, at in budget.get("status", {}).get("disruptedPods", {}).items() if name in names and name not in deleting}
        healthy = sum(is_ready(pod) and pod["metadata"]["name"] not in deleting and pod["metadata"]["name"] not in disrupted for pod in pods)
        allowed = max(0, healthy - desired) if expected > 0 else 0

        def update(budget: Object) -> None:
            status = budget.setdefault("status", {})
            status.update(currentHealthy=healthy, desiredHealthy=desired, disruptionsAllowed=allowed, expectedPods=expected,
                          observedGeneration=budget["metadata"].get("generation", 1))
            if disrupted:
                status["disruptedPods"] = disrupted
            else:
                status.pop("disruptedPods", None)
            set_condition(status, "DisruptionAllowed", "True" if allowed else "False", now, "SufficientPods" if allowed else "InsufficientPods",
                          observedGeneration=status["observedGeneration"])
            for each in status["conditions"]:
                each.setdefault("message", "")

        self._resources.modify(self._budgets, *key, update, subresource="status")

    def _scale(self, pods: list[Object]) -> int:
        """How many pods their controllers want; a pod without a controller counts as one."""
        wanted: dict[str, int] = {}
        alone = 0
        for pod in pods:
            owner = controller_of(pod)
            namespace = pod["metadata"]["namespace"]
            if owner is None:
                alone += 1
            elif owner["uid"] not in wanted:
                wanted[owner["uid"]] = self._replicas(namespace, owner)
        return alone + sum(wanted.values())

    def _replicas(self, namespace: str, owner: Object) -> int:
        kind = self._resources.kinds.by_kind(owner["apiVersion"], owner["kind"])
        found = self._resources.find(kind, namespace, owner["name"]) if kind else None
        if found is None:
            return 0
        if owner["kind"] == "ReplicaSet" and (above := controller_of(found)):
            return self._replicas(namespace, above)
        return int(found["spec"].get("replicas", 1))


class Evictions:
    """POST pods/NAME/eviction, and what a drain calls. Hooks are asked first, as validating webhooks are; a hook that refuses
    raises ApiError."""

    def __init__(self, resources: Resources, timestamp: Callable[[], str], truth: Truth) -> None:
        self._resources, self._timestamp, self._truth = resources, timestamp, truth
        self._pods, self._budgets = resources.kind("pods"), resources.kind("poddisruptionbudgets")
        self.hooks: list[EvictionHook] = []

    async def handle(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        body = await read_object(request, "Eviction")
        options = body.get("deleteOptions") or {}
        dry_run = bool(request.query.get("dryRun") or options.get("dryRun"))
        return answer_object(self.evict(namespace, name, options, dry_run=dry_run), 201)

    def evict(self, namespace: str, name: str, options: Object | None = None, *, dry_run: bool = False) -> Object:
        """Delete the pod if its disruption budget allows. Returns the Status of success; 404, 429 or 500 otherwise."""
        pod = self._resources.get(self._pods, namespace, name)
        for hook in self.hooks:
            hook(pod, dry_run)
        options = options or {}
        if not is_finished(pod) and pod["status"].get("phase") != "Pending" and "deletionTimestamp" not in pod["metadata"]:
            self._take(pod, dry_run)
        preconditions = options.get("preconditions") or {}
        self._resources.delete(self._pods, namespace, name, policy=options.get("propagationPolicy"), grace_seconds=options.get("gracePeriodSeconds"),
                               uid=preconditions.get("uid"), resource_version=preconditions.get("resourceVersion"), dry_run=dry_run)
        if not dry_run and "deletionTimestamp" not in pod["metadata"]:
            self._truth.write("pod-evicted", namespace, name)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def _take(self, pod: Object, dry_run: bool) -> None:
        """One disruption of the budget that covers this pod."""
        meta = pod["metadata"]
        budgets = [budget for budget in self._resources.list(self._budgets, meta["namespace"])
                   if selects(budget["spec"].get("selector"), meta.get("labels") or {})]
        if len(budgets) > 1:
            raise errors.ApiError(500, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.", "")
        if not budgets:
            return
        budget = budgets[0]
        status = budget.get("status", {})
        if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
            raise _refused(f"The disruption budget {budget['metadata']['name']} is still being processed by the server.")
        if not is_ready(pod) and status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) > 0:
            return  # a pod that is not ready disrupts nothing
        if status.get("disruptionsAllowed", 0) <= 0:
            raise _refused(f"The disruption budget {budget['metadata']['name']} needs {status.get('desiredHealthy', 0)} healthy pods "
                                   f"and has {status.get('currentHealthy', 0)} currently")
        if dry_run:
            return

        def take(budget: Object) -> None:
            budget["status"]["disruptionsAllowed"] -= 1
            budget["status"].setdefault("disruptedPods", {})[meta["name"]] = self._timestamp()

        self._resources.modify(self._budgets, meta["namespace"], budget["metadata"]["name"], take, subresource="status")


def _refused(message: str) -> errors.ApiError:
    """429, and on purpose without Retry-After: clients would repeat it by themselves, and drain must not."""
    return errors.ApiError(429, "Cannot evict pod as it would violate the pod's disruption budget.",
                           details={"causes": [errors.Cause("", message, "DisruptionBudget").to_dict()]})
