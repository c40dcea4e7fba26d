"""Deployments: one ReplicaSet for each pod template, and the roll from one to the next."""

from __future__ import annotations

import copy
import math

from ..api.store import Object
from .common import condition, key_of, owner_reference, set_condition
from .workloads import Workload, template_hash

HASH, REVISION = "pod-template-hash", "deployment.kubernetes.io/revision"
DESIRED, MOST = "deployment.kubernetes.io/desired-replicas", "deployment.kubernetes.io/max-replicas"


def bounds(strategy: Object, replicas: int) -> tuple[int, int]:
    """How many pods more, and how many fewer, a rolling update may have: percentages round up and down; never both none."""
    rolling = strategy.get("rollingUpdate") or {}

    def amount(value: int | str, up: bool) -> int:
        if not isinstance(value, str):
            return int(value)
        part = int(value.rstrip("%")) * replicas / 100
        return math.ceil(part) if up else math.floor(part)

    surge, unavailable = amount(rolling.get("maxSurge", "25%"), True), amount(rolling.get("maxUnavailable", "25%"), False)
    return surge, unavailable if surge or unavailable else 1


def plain_template(replica_set: Object) -> Object:
    """Its pod template, as the Deployment's was: without the hash."""
    template: Object = copy.deepcopy(replica_set["spec"]["template"])
    template["metadata"]["labels"].pop(HASH, None)
    return template


def revision(obj: Object) -> int:
    return int((obj["metadata"].get("annotations") or {}).get(REVISION, 0))


def count(replica_sets: list[Object], name: str) -> int:
    return sum(each.get("status", {}).get(name, 0) for each in replica_sets)


def wanted(replica_set: Object) -> int:
    return int(replica_set["spec"].get("replicas", 1))


class Deployments(Workload):
    KIND = "deployments.apps"
    CHILDREN = "replicasets.apps"

    async def reconcile(self, obj: Object) -> None:
        if "deletionTimestamp" in obj["metadata"]:
            self._report(obj, None, self._children.of(obj))
            return
        owned = self._children.of(obj)
        template = copy.deepcopy(obj["spec"]["template"])
        template.setdefault("metadata", {}).setdefault("labels", {})
        new = next((each for each in owned if plain_template(each) == template), None)
        if not obj["spec"].get("paused"):
            new = await self._new(obj, new, owned, template)
            owned = self._children.of(obj)
        old = [each for each in owned if new is None or each["metadata"]["uid"] != new["metadata"]["uid"]]
        if obj["spec"].get("paused") or self._is_scaling(obj, owned):
            await self._scale_newest(obj, new, old)
        elif new is not None and (obj["spec"].get("strategy") or {}).get("type") == "Recreate":
            await self._recreate(obj, new, old)
        elif new is not None:
            await self._roll(obj, new, old)
        if not obj["spec"].get("paused"):
            await self._clean_up(obj, old)
        owned = self._children.of(obj)
        current = next((each for each in owned if new is not None and each["metadata"]["uid"] == new["metadata"]["uid"]), None)
        self._report(obj, current, owned)

    async def _new(self, obj: Object, new: Object | None, owned: list[Object], template: Object) -> Object:
        """The ReplicaSet of the current template, made if there is none, with the highest revision."""
        latest = max((revision(each) for each in owned if new is None or each["metadata"]["uid"] != new["metadata"]["uid"]), default=0) + 1
        replicas = int(obj["spec"].get("replicas", 1))
        if new is None:
            name = template_hash(template)
            labels = {**template["metadata"]["labels"], HASH: name}
            template["metadata"]["labels"] = labels
            selector = copy.deepcopy(obj["spec"]["selector"])
            selector.setdefault("matchLabels", {})[HASH] = name
            surge, _ = bounds(obj["spec"].get("strategy") or {}, replicas)
            first = replicas if not owned else min(replicas, max(0, replicas + surge - sum(map(wanted, owned))))
            if (obj["spec"].get("strategy") or {}).get("type") == "Recreate" and any(map(wanted, owned)):
                first = 0
            annotations = {key: value for key, value in (obj["metadata"].get("annotations") or {}).items()
                           if not key.startswith("kubectl.kubernetes.io/")}
            await self._tokens.take()
            new = self._resources.create(self._child_kind, {
                "metadata": {"name": f"{obj['metadata']['name']}-{name}", "namespace": obj["metadata"]["namespace"], "labels": labels,
                             "annotations": {**annotations, REVISION: str(latest), DESIRED: str(replicas), MOST: str(replicas + surge)},
                             "ownerReferences": [owner_reference(self._kind, obj)]},
                "spec": {"replicas": first, "selector": selector, "template": template,
                         **({"minReadySeconds": obj["spec"]["minReadySeconds"]} if obj["spec"].get("minReadySeconds") else {})},
                "status": {"replicas": 0}})
            if first:
                self._scaled(obj, new, "up", first)
        elif revision(new) < latest:
            new = self._resources.modify(self._child_kind, *key_of(new), lambda each: self._annotate(each, REVISION, str(latest))) or new
        number = str(revision(new))
        self._resources.modify(self._kind, *key_of(obj), lambda each: self._annotate(each, REVISION, number))
        return new

    @staticmethod
    def _annotate(obj: Object, name: str, value: str) -> None:
        obj["metadata"].setdefault("annotations", {})[name] = value

    def _scaled(self, obj: Object, replica_set: Object, way: str, after: int) -> None:
        name = replica_set["metadata"]["name"]
        self._events.event(obj, "Normal", "ScalingReplicaSet", f"Scaled {way} replica set {name} to {after}", self.component)

    async def _scale(self, obj: Object, replica_set: Object, replicas: int) -> None:
        before, desired = wanted(replica_set), int(obj["spec"].get("replicas", 1))
        surge, _ = bounds(obj["spec"].get("strategy") or {}, desired)

        def change(each: Object) -> None:
            each["spec"]["replicas"] = replicas
            each["metadata"].setdefault("annotations", {}).update({DESIRED: str(desired), MOST: str(desired + surge)})

        await self._tokens.take()
        self._resources.modify(self._child_kind, *key_of(replica_set), change)
        replica_set["spec"]["replicas"] = replicas
        if replicas != before:
            self._scaled(obj, replica_set, "up" if replicas > before else "down", replicas)

    @staticmethod
    def _is_scaling(obj: Object, owned: list[Object]) -> bool:
        """The count alone was changed: the ReplicaSets still say another."""
        desired = str(obj["spec"].get("replicas", 1))
        return any(wanted(each) and (each["metadata"].get("annotations") or {}).get(DESIRED, desired) != desired for each in owned)

    async def _scale_newest(self, obj: Object, new: Object | None, old: list[Object]) -> None:
        """A scale: in proportion between those that have pods, the rest to the largest, and no roll meanwhile."""
        desired = int(obj["spec"].get("replicas", 1))
        active = [each for each in [*([new] if new else []), *old] if wanted(each)] or ([new] if new else old[-1:])
        total = sum(map(wanted, active))
        if len(active) == 1:
            await self._scale(obj, active[0], desired)
            return
        surge, _ = bounds(obj["spec"].get("strategy") or {}, desired)
        room = desired + surge - total if desired else -total
        shares = [round(wanted(each) * room / total) if total else 0 for each in active]
        shares[max(range(len(active)), key=lambda index: wanted(active[index]))] += room - sum(shares)
        for each, share in zip(active, shares, strict=True):
            await self._scale(obj, each, max(0, wanted(each) + share))

    async def _recreate(self, obj: Object, new: Object, old: list[Object]) -> None:
        for each in old:
            if wanted(each):
                await self._scale(obj, each, 0)
        if not count(old, "replicas"):
            await self._scale_if_other(obj, new, int(obj["spec"].get("replicas", 1)))

    async def _scale_if_other(self, obj: Object, replica_set: Object, replicas: int) -> None:
        if wanted(replica_set) != replicas:
            await self._scale(obj, replica_set, replicas)

    async def _roll(self, obj: Object, new: Object, old: list[Object]) -> None:
        desired = int(obj["spec"].get("replicas", 1))
        surge, unavailable = bounds(obj["spec"].get("strategy") or {}, desired)
        total = wanted(new) + sum(map(wanted, old))
        if wanted(new) > desired:
            await self._scale(obj, new, desired)
        elif wanted(new) < desired:
            await self._scale_if_other(obj, new, wanted(new) + max(0, min(desired + surge - total, desired - wanted(new))))
        if not any(map(wanted, old)):
            return
        least = desired - unavailable
        room = wanted(new) + sum(map(wanted, old)) - least - (wanted(new) - new.get("status", {}).get("availableReplicas", 0))
        for each in sorted(old, key=revision):  # what is not available goes first and costs nothing
            idle = wanted(each) - each.get("status", {}).get("availableReplicas", 0)
            if room > 0 and idle > 0:
                down = min(room, idle)
                await self._scale(obj, each, wanted(each) - down)
                room -= down
        spare = count([new, *old], "availableReplicas") - least
        for each in sorted(old, key=revision):
            down = min(spare, room, wanted(each))
            if down > 0:
                await self._scale(obj, each, wanted(each) - down)
                spare, room = spare - down, room - down

    async def _clean_up(self, obj: Object, old: list[Object]) -> None:
        """Keep the latest empty ones, for a rollback."""
        empty = sorted((each for each in old if not wanted(each) and not each.get("status", {}).get("replicas")), key=revision)
        for each in empty[: max(0, len(empty) - int(obj["spec"].get("revisionHistoryLimit", 10)))]:
            await self._tokens.take()
            if self._resources.find(self._child_kind, *key_of(each)):
                self._resources.delete(self._child_kind, *key_of(each), policy="Background")

    def _report(self, obj: Object, new: Object | None, owned: list[Object]) -> None:
        desired = int(obj["spec"].get("replicas", 1))
        total, available = count(owned, "replicas"), count(owned, "availableReplicas")
        updated = count([new] if new else [], "replicas")
        counts = {"replicas": total, "updatedReplicas": updated, "readyReplicas": count(owned, "readyReplicas"),
                  "availableReplicas": available, "unavailableReplicas": max(0, sum(map(wanted, owned)) - available)}
        _, unavailable = bounds(obj["spec"].get("strategy") or {}, desired)
        enough, complete = available >= desired - min(unavailable, desired), updated == total == available == desired
        self._resources.modify(self._kind, *key_of(obj), lambda each: self._change_status(each, new, counts, enough, complete), subresource="status")

    def _change_status(self, obj: Object, new: Object | None, counts: dict[str, int], enough: bool, complete: bool) -> None:
        now, status = self._clock.timestamp(), obj.setdefault("status", {})
        before = {name: status.get(name, 0) for name in counts}
        for name, number in counts.items():
            if number:
                status[name] = number
            else:
                status.pop(name, None)
        status["observedGeneration"] = obj["metadata"]["generation"]
        name = f'ReplicaSet "{new["metadata"]["name"]}"' if new else f'Deployment "{obj["metadata"]["name"]}"'
        progressing = condition(status.get("conditions") or (), "Progressing")
        moved = before != counts
        if obj["spec"].get("paused"):
            changed = set_condition(status, "Progressing", "Unknown", now, "DeploymentPaused", "Deployment is paused")
        elif complete:
            changed = set_condition(status, "Progressing", "True", now, "NewReplicaSetAvailable", f"{name} has successfully progressed.")
        elif progressing is not None and not moved and self._overdue(obj, progressing):
            changed = set_condition(status, "Progressing", "False", now, "ProgressDeadlineExceeded", f"{name} has timed out progressing.")
        elif progressing is None:
            changed = set_condition(status, "Progressing", "True", now, "NewReplicaSetCreated", f"Created new replica set {name.split(' ')[1]}")
        elif moved or progressing["reason"] in ("DeploymentPaused", "NewReplicaSetAvailable"):
            changed = set_condition(status, "Progressing", "True", now, "ReplicaSetUpdated", f"{name} is progressing.") or moved
        else:
            changed = False
        found = condition(status["conditions"], "Progressing") or {}
        if changed:
            found["lastUpdateTime"] = now
        if not complete and not obj["spec"].get("paused") and obj["spec"].get("progressDeadlineSeconds"):
            self._workers.queue.add_after(key_of(obj), obj["spec"]["progressDeadlineSeconds"] + 1)
        self._mirror_failure(status, new, now)
        if set_condition(status, "Available", "True" if enough else "False", now,
                         "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
                         f"Deployment {'has' if enough else 'does not have'} minimum availability."):
            (condition(status["conditions"], "Available") or {})["lastUpdateTime"] = now

    @staticmethod
    def _mirror_failure(status: Object, new: Object | None, now: str) -> None:
        """What keeps the ReplicaSet from its pods is said of the Deployment too."""
        failure = condition((new or {}).get("status", {}).get("conditions") or (), "ReplicaFailure")
        if failure is None:
            status["conditions"] = [each for each in status["conditions"] if each["type"] != "ReplicaFailure"]
        elif set_condition(status, "ReplicaFailure", failure["status"], now, failure["reason"], failure["message"]):
            (condition(status["conditions"], "ReplicaFailure") or {})["lastUpdateTime"] = now

    def _overdue(self, obj: Object, progressing: Object) -> bool:
        if progressing["reason"] == "ProgressDeadlineExceeded":
            return True
        limit = obj["spec"].get("progressDeadlineSeconds")
        since = progressing.get("lastUpdateTime")
        if progressing["reason"] == "NewReplicaSetAvailable" or not limit or not since:
            return False
        return self._clock.now() - self._clock.parse(since) > float(limit)
