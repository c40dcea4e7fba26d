"""virt-controller's migration controller: from a VirtualMachineInstanceMigration to its target pod, and through its phases."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ..api.errors import ApiError
from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Children, Cluster, condition, decoded, key_of
from .kubevirt_client import OBSERVED, Client, has_condition, is_deleting, is_final, phase_of, remove_condition, set_phase
from .kubevirt_config import migration_config
from .kubevirt_migration_pod import JOB_NAME, JOB_UID, target_pod
from .kubevirt_pod import claim_name, overhead_kib
from .kubevirt_vmi import containers_ready, pod_of

VMI_NAME, TARGET_NODE, EVACUATION = "kubevirt.io/vmi-name", "kubevirt.io/migrationTargetNodeName", "kubevirt.io/evacuationMigration"
FINALIZER = "kubevirt.io/migrationJobFinalize"
OVER_QUOTA = "migrationRejectedByResourceQuota"
FINAL = ("Succeeded", "Failed")
WITH_TARGET = ("Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running")
HANDED_OFF = ("PreparingTarget", "TargetReady", "Running")
# Who goes first when a slot is free, and how often each looks for one where migrations have priorities.
PRIORITIES = {"system-critical": 3, "user-triggered": 2, "system-maintenance": 1}


@dataclass(slots=True)
class Unfinished:
    """What must be known of every migration that has not ended, without reading it again."""

    vmi: Key
    phase: str
    priority: int
    source: str = ""  # the node that it leaves, once its target pod is made


def state_of(vmi: Object, uid: str) -> Object:
    """The VMI's migrationState if it is of the migration with this uid."""
    state: Object = vmi.get("status", {}).get("migrationState") or {}
    return state if state.get("migrationUid") == uid else {}


def is_down(pod: Object) -> bool:
    return is_deleting(pod) or pod.get("status", {}).get("phase") in FINAL


class Migrations:
    """Admits migrations within the cluster's and the nodes' limits, makes target pods and hands over to the virt-handlers."""

    def __init__(self, cluster: Cluster, client: Client, launchers: Children) -> None:
        self._cluster, self._resources, self._clock, self._client, self._launchers = cluster, cluster.resources, cluster.clock, client, launchers
        self._timing = cluster.timing.migration
        self._pool: Any = getattr(cluster, "pool", None)
        kind = cluster.resources.kind
        self._migrations, self._vmis = kind("virtualmachineinstancemigrations.kubevirt.io"), kind("virtualmachineinstances.kubevirt.io")
        self._pods, self._nodes, self._claims = kind("pods"), kind("nodes"), kind("persistentvolumeclaims")
        self._unfinished: dict[Key, Unfinished] = {}
        self._of_vmi: dict[Key, set[Key]] = {}
        self._start_lock = asyncio.Lock()
        self._workers = Workers("virt-controller-migration", cluster.clock, self._timing.controller_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._migrations, self._changed)
        self._resources.watch(self._vmis, self._vmi_changed)
        self._resources.watch(self._pods, self._pod_changed)
        for entry in self._resources.store.entries(self._migrations):
            self._changed(Change("ADDED", self._migrations, entry, None))
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def unfinished_of(self, vmi: Key) -> bool:
        return any(key in self._unfinished for key in self._of_vmi.get(vmi, ()))

    @property
    def unfinished(self) -> int:
        return len(self._unfinished)

    def unfinished_from(self, node: str) -> int:
        """How many that have not ended are of VMIs on this node."""
        found = 0
        for each in self._unfinished.values():
            vmi = self._resources.find(self._vmis, *each.vmi)
            found += vmi is not None and vmi.get("status", {}).get("nodeName") == node
        return found

    # What the watches say.

    def _changed(self, change: Change) -> None:
        migration = decoded(change.new)
        vmi = (change.key[0], str(migration["spec"].get("vmiName", "")))
        phase = phase_of(migration)
        if change.type == "DELETED":
            self._over(change.key)
            self._of_vmi.get(vmi, set()).discard(change.key)
            if not self._of_vmi.get(vmi):
                self._of_vmi.pop(vmi, None)
            return
        self._of_vmi.setdefault(vmi, set()).add(change.key)
        if phase in FINAL:
            self._over(change.key)
        elif change.key in self._unfinished:
            self._unfinished[change.key].phase = phase
        else:
            self._unfinished[change.key] = Unfinished(vmi, phase, PRIORITIES.get(migration["spec"].get("priority", ""), 0))
        self._workers.queue.add(change.key)

    def _over(self, key: Key) -> None:
        known = self._unfinished.pop(key, None)
        if known is not None and known.source and self._pool is not None:
            self._pool.migration_ended(known.vmi)

    def _vmi_changed(self, change: Change) -> None:
        for key in self._of_vmi.get(change.key, ()):
            if change.type == "DELETED" or (key in self._unfinished and self._unfinished[key].phase != "Pending"):
                self._workers.queue.add(key)

    def _pod_changed(self, change: Change) -> None:
        if JOB_UID not in change.new.labels:
            return
        name = (decoded(change.new)["metadata"].get("annotations") or {}).get(JOB_NAME)
        if name:
            self._workers.queue.add((change.key[0], name))

    # One pass.

    async def _reconcile(self, key: Key) -> None:
        if key in self._unfinished:  # each pass lists the launcher pods, and there is one for each VMI
            await self._clock.sleep(self._timing.pass_seconds_per_vmi * self._resources.store.count(self._vmis))
        migration = self._resources.find(self._migrations, *key)
        if migration is None:
            return
        annotations = migration["metadata"].get("annotations") or {}
        if any(annotations.get(name) != value for name, value in OBSERVED.items()):
            await self._client.modify(self._migrations, *key, _observe)
            return
        vmi = self._resources.find(self._vmis, key[0], migration["spec"]["vmiName"])
        if vmi is None:
            await self._without_vmi(migration, key)
            return
        pod = self._target_of(migration, vmi)
        refusal: ApiError | None = None
        try:
            await self._sync(migration, key, vmi, pod)
        except ApiError as error:
            if error.code != 403:
                raise
            refusal = error
            self._client.event(migration, "FailedCreate", f"Error creating pod: {error.message}", "Warning")
        vmi = self._resources.find(self._vmis, *key_of(vmi))
        if vmi is not None:
            await self._update_status(migration, key, vmi, self._target_of(migration, vmi), over_quota=refusal is not None and "exceeded quota" in refusal.message)
        if refusal is not None:
            raise refusal  # the target is asked for again, ever later

    async def _without_vmi(self, migration: Object, key: Key) -> None:
        if phase_of(migration) not in FINAL:
            self._fail_event(migration, "Migration failed because vmi does not exist.")
            await self._client.modify(self._migrations, *key, lambda each: set_phase(each, "Failed", self._clock.timestamp()), subresource="status")
        await self._client.modify(self._migrations, *key, _release)
        if not is_deleting(migration):
            await self._client.delete(self._migrations, *key)

    def _target_of(self, migration: Object, vmi: Object) -> Object | None:
        uid = migration["metadata"]["uid"]
        return next((pod for pod in self._launchers.of(vmi) if (pod["metadata"].get("labels") or {}).get(JOB_UID) == uid), None)

    # What each phase asks for.

    async def _sync(self, migration: Object, key: Key, vmi: Object, pod: Object | None) -> None:
        uid, phase = migration["metadata"]["uid"], phase_of(migration)
        state = state_of(vmi, uid)
        if is_deleting(vmi) or state.get("completed"):
            return
        if (phase in ("Pending", "Scheduling") or (phase == "Scheduled" and not state)) and is_deleting(migration):
            await self._cancel(migration, pod)
            return
        if phase == "Pending" and pod is None:
            if not self._backs_off(migration, key, vmi):
                await self._create_target(migration, key, vmi)
        elif phase in ("Pending", "Scheduling") and pod is not None:
            await self._check_pending(migration, key, vmi, pod)
        elif phase == "Scheduled" and pod is not None and containers_ready(pod) and not state:
            await self._hand_over(migration, vmi, pod)
        elif (phase == "Failed" or (phase in ("PreparingTarget", "TargetReady") and (pod is None or is_down(pod)))) and state and not state.get("failed"):
            await self._mark_failed(migration, vmi)
        elif phase == "Running" and is_deleting(migration) and not state.get("abortRequested"):
            await self._client.modify(self._vmis, *key_of(vmi), lambda vmi: state_of(vmi, uid).update(abortRequested=True))
            self._client.event(migration, "SuccessfulAbortMigration", "Migration is ready to be canceled by virt-handler.")

    async def _cancel(self, migration: Object, pod: Object | None) -> None:
        if pod is not None and not is_deleting(pod):
            await self._client.delete(self._pods, *key_of(pod))
            self._client.event(migration, "SuccessfulDelete", f"migration canceled and pod {'/'.join(key_of(pod))} is deleted")

    def _backs_off(self, migration: Object, key: Key, vmi: Object) -> bool:
        """An evacuation that failed is tried again ever later: the wait starts at the last failure and doubles with each one."""
        if EVACUATION not in (migration["metadata"].get("annotations") or {}):
            return False
        failures: list[Object] = []
        for other in sorted(self._evacuations_of(key_of(vmi)), key=lambda each: each["metadata"]["creationTimestamp"], reverse=True):
            if other["metadata"]["uid"] == migration["metadata"]["uid"] or is_deleting(other):
                continue
            if phase_of(other) != "Failed":
                break
            failures.append(other)
        if not failures:
            return False
        stamps = failures[0]["status"].get("phaseTransitionTimestamps") or ()
        failed_at = next((self._clock.parse(each["phaseTransitionTimestamp"]) for each in stamps if each["phase"] == "Failed"), 0.0)
        until = failed_at + self._timing.backoff_first_seconds * 2 ** (len(failures) - 1)
        if until <= self._clock.now():
            return False
        self._client.event(vmi, "MigrationBackoff", f"backoff migrating vmi {'/'.join(key_of(vmi))}", "Warning")
        self._workers.queue.add_after(key, until - self._clock.now())
        return True

    def _evacuations_of(self, vmi: Key) -> list[Object]:
        found = [self._resources.find(self._migrations, *key) for key in self._of_vmi.get(vmi, ())]
        return [each for each in found if each is not None and EVACUATION in (each["metadata"].get("annotations") or {})]

    async def _create_target(self, migration: Object, key: Key, vmi: Object) -> None:
        """One at a time, so that the limits hold."""
        async with self._start_lock:
            found, current = self._resources.find(self._vmis, *key_of(vmi)), self._resources.find(self._migrations, *key)
            if found is None or current is None or is_deleting(found) or is_deleting(current) or self._target_of(migration, found):
                return
            vmi = found
            config, node = migration_config(self._cluster), vmi["status"].get("nodeName", "")
            active = [each for each in self._unfinished.values() if each.phase in WITH_TARGET or each.source]
            if len(vmi["status"].get("activePods") or {}) > 1:
                self._workers.queue.add_after(key, self._timing.other_pod_retry_seconds)
                return
            if len(active) >= config.per_cluster or sum(each.source == node for each in active) >= config.per_node:
                self._workers.queue.add_after(key, self._retry_seconds(migration))
                return
            if phase_of(vmi) != "Running":
                self._workers.queue.add_after(key, self._timing.pending_retry_seconds)
                return
            if not vmi["status"].get("selinuxContext"):  # without it the target cannot be given the source's labels
                self._workers.queue.add_after(key, self._timing.pending_retry_seconds)
                return
            known = self._unfinished.get(key)
            labels = (self._resources.find(self._nodes, "", node) or {"metadata": {}})["metadata"].get("labels") or {}
            names = [name for name in map(claim_name, vmi["spec"].get("volumes") or ()) if name]
            claims = {name: claim for name in names if (claim := self._resources.find(self._claims, key[0], name))}
            pod = await self._client.create(self._pods, target_pod(vmi, claims, migration, labels))
            if known is not None:
                known.source = node
                if self._pool is not None:
                    self._pool.migration_started(known.vmi)
        self._cluster.truth.write("migration-target-created", *key_of(vmi), migration=key[1], pod=pod["metadata"]["name"])
        self._client.event(migration, "SuccessfulCreate", f"Created migration target pod {pod['metadata']['name']}")

    def _retry_seconds(self, migration: Object) -> float:
        by_priority: dict[str, float] = self._timing.priority_retry_seconds if self._timing.priorities else {}
        return float(by_priority.get(migration["spec"].get("priority", ""), self._timing.pending_retry_seconds))

    async def _check_pending(self, migration: Object, key: Key, vmi: Object, pod: Object) -> None:
        """A target pod that does not come up is given up after a while."""
        if is_deleting(pod) or pod.get("status", {}).get("phase") != "Pending":
            return
        waited = self._clock.now() - self._clock.parse(pod["metadata"]["creationTimestamp"])
        scheduled = condition(pod["status"].get("conditions") or (), "PodScheduled")
        limits = [("pending", self._timing.pending_pod_timeout_seconds)]
        if scheduled is not None and scheduled["status"] == "False" and scheduled.get("reason") == "Unschedulable":
            self._client.event(migration, "migrationTargetPodUnschedulable",
                               f"Migration target pod for VMI [{'/'.join(key_of(vmi))}] is currently unschedulable.", "Warning")
            limits.insert(0, ("unschedulable", self._timing.unschedulable_pod_timeout_seconds))
        for word, seconds in limits:
            if waited >= seconds:
                await self._client.delete(self._pods, *key_of(pod))
                self._client.event(migration, "SuccessfulDelete", f"{word} pod {'/'.join(key_of(pod))} timeout period exceeded")
                return
            self._workers.queue.add_after(key, seconds - waited)

    async def _hand_over(self, migration: Object, vmi: Object, pod: Object) -> None:
        """From here on the virt-handlers of both nodes go by the VMI's migrationState."""
        uid, config = migration["metadata"]["uid"], migration_config(self._cluster)
        source = (migration["status"].get("migrationState") or {}).get("sourcePod", "")

        def change(vmi: Object) -> None:
            vmi["metadata"].setdefault("labels", {})[TARGET_NODE] = pod["spec"]["nodeName"]
            vmi["status"]["migrationState"] = {
                "migrationUid": uid, "sourceNode": vmi["status"]["nodeName"], "sourcePod": source, "targetNode": pod["spec"]["nodeName"],
                "targetPod": pod["metadata"]["name"], "targetMemoryOverhead": f"{overhead_kib(vmi['spec'])}Ki",
                "migrationConfiguration": config.effective()}

        await self._client.modify(self._vmis, *key_of(vmi), change)
        self._client.event(migration, "SuccessfulHandOver", "Migration target pod is ready for preparation by virt-handler.")

    async def _mark_failed(self, migration: Object, vmi: Object) -> None:
        uid, now = migration["metadata"]["uid"], self._clock.timestamp()

        def change(vmi: Object) -> None:
            state = state_of(vmi, uid)
            if state and not state.get("completed"):
                state.update(failed=True, completed=True)
                for name, value in (("startTimestamp", now), ("endTimestamp", now), ("failureReason", "Target pod is down")):
                    state.setdefault(name, value)

        if await self._client.modify(self._vmis, *key_of(vmi), change):
            self._client.event(vmi, "FailedMigration", f"VirtualMachineInstance migration uid {uid} failed. reason: Target pod is down", "Warning")

    # Status.

    async def _update_status(self, migration: Object, key: Key, vmi: Object, pod: Object | None, *, over_quota: bool) -> None:
        phase = phase_of(migration)
        failure = self._failure(migration, vmi, pod)
        now = self._clock.timestamp()

        def change(migration: Object) -> None:
            status: Object = migration.setdefault("status", {})
            if phase_of(migration) != phase:
                return  # somebody was faster
            state = state_of(vmi, migration["metadata"]["uid"])
            if phase in FINAL:
                if state:
                    status["migrationState"] = state
            elif failure:
                if is_deleting(migration):
                    _request_abort(status, now)
                set_phase(migration, "Failed", now)
            elif is_deleting(migration) and not has_condition(migration, "migrationAbortRequested"):
                _request_abort(status, now)
            else:
                following = self._following(migration, vmi, pod)
                if following:
                    set_phase(migration, following, now)
                if over_quota and not has_condition(migration, OVER_QUOTA):
                    status.setdefault("conditions", []).append({"type": OVER_QUOTA, "status": "True", "lastProbeTime": now, "lastTransitionTime": None})
                elif phase == "Scheduling":
                    remove_condition(status, OVER_QUOTA)
            source = pod_of(vmi, self._launchers.of(vmi))
            if phase_of(migration) == "Pending" and source is not None:
                status.setdefault("migrationState", {})["sourcePod"] = source["metadata"]["name"]

        await self._client.modify(self._migrations, *key, change, subresource="status")
        written = self._resources.find(self._migrations, *key)
        reached = phase_of(written) if written else phase
        if failure and reached == "Failed":
            self._fail_event(migration, failure)
        if reached == "Succeeded" and phase != "Succeeded":
            self._client.event(migration, "SuccessfulMigration", "Source node reported migration succeeded")
        if reached in FINAL and phase not in FINAL:
            self._cluster.truth.write("migration-ended", *key_of(vmi), migration=key[1], phase=reached)
        if phase in FINAL:
            await self._client.modify(self._migrations, *key, _release)
            await self._collect_garbage(vmi)
            if self._timing.priorities:
                self._wake_pending()

    def _failure(self, migration: Object, vmi: Object, pod: Object | None) -> str:
        """Why the migration has failed, or nothing."""
        phase, uid = phase_of(migration), migration["metadata"]["uid"]
        state, current = state_of(vmi, uid), vmi.get("status", {}).get("migrationState") or {}
        if phase in FINAL:
            return ""
        if is_final(vmi):
            return "Migration failed vmi shutdown during migration."
        if is_deleting(migration) and not state:
            return "Migration failed due to being canceled"
        if pod is not None and is_down(pod) and not state.get("completed"):
            return "Migration failed because target pod shutdown during migration"
        if phase in WITH_TARGET and pod is None:
            return "Migration target pod was removed during active migration."
        if phase in HANDED_OFF and not state:
            return ("VMI's migration state was taken over by another migration job during active migration." if current
                    else "VMI's migration state was cleared during the active migration.")
        if state.get("failed"):
            return "source node reported migration failed"
        if phase == "" and self._taken(vmi, uid):
            return "VMI is not eligible for migration because another migration job is in progress."
        return ""

    def _taken(self, vmi: Object, uid: str) -> bool:
        other = (vmi.get("status", {}).get("migrationState") or {}).get("migrationUid")
        if not other or other == uid:
            return False
        found = [self._resources.find(self._migrations, *key) for key in self._of_vmi.get(key_of(vmi), ()) if key in self._unfinished]
        return any(each is not None and each["metadata"]["uid"] == other for each in found)

    def _following(self, migration: Object, vmi: Object, pod: Object | None) -> str:
        """The phase after this one, if what it waits for is so."""
        state = state_of(vmi, migration["metadata"]["uid"])
        match phase_of(migration):
            case "":
                return "Pending"
            case "Pending":
                return "Scheduling" if pod is not None else ""
            case "Scheduling":
                return "Scheduled" if pod is not None and containers_ready(pod) else ""
            case "Scheduled":
                return "PreparingTarget" if state.get("targetNode") else ""
            case "PreparingTarget":
                return "TargetReady" if state.get("targetNodeAddress") else ""
            case "TargetReady":
                return "Running" if state.get("startTimestamp") else ""
            case "Running":
                return "Succeeded" if state.get("completed") and not state.get("failed") else ""
        return ""

    def _fail_event(self, migration: Object, message: str) -> None:
        self._client.event(migration, "FailedMigration", message, "Warning")

    def _wake_pending(self) -> None:
        """A slot is free: the most important look first."""
        waiting = sorted(((-each.priority, key) for key, each in self._unfinished.items() if each.phase == "Pending"))
        for _, key in waiting[: migration_config(self._cluster).per_cluster]:
            self._workers.queue.add(key)

    async def _collect_garbage(self, vmi: Object) -> None:
        """Of the migrations of a VMI that have ended, the last few stay; with an older one goes the pod that it left behind."""
        found = [self._resources.find(self._migrations, *key) for key in self._of_vmi.get(key_of(vmi), ()) if key not in self._unfinished]
        ended = sorted((each for each in found if each is not None and not is_deleting(each)), key=lambda each: each["metadata"]["creationTimestamp"])
        for old in ended[: max(0, len(ended) - int(self._timing.kept_per_vmi))]:
            state: dict[str, Any] = old.get("status", {}).get("migrationState") or {}
            pod = state.get("targetPod") if state.get("failed") else state.get("sourcePod") if state.get("completed") else None
            if pod:
                await self._client.delete(self._pods, old["metadata"]["namespace"], pod)
            await self._client.delete(self._migrations, *key_of(old))


def _observe(migration: Object) -> None:
    migration["metadata"].setdefault("annotations", {}).update(OBSERVED)
    migration["metadata"].setdefault("labels", {}).setdefault(VMI_NAME, migration["spec"]["vmiName"])


def _release(migration: Object) -> None:
    left = [each for each in migration["metadata"].get("finalizers") or () if each != FINALIZER]
    if left:
        migration["metadata"]["finalizers"] = left
    else:
        migration["metadata"].pop("finalizers", None)


def _request_abort(status: Object, now: str) -> None:
    conditions = status.setdefault("conditions", [])
    if condition(conditions, "migrationAbortRequested") is None:
        conditions.append({"type": "migrationAbortRequested", "status": "True", "lastProbeTime": now, "lastTransitionTime": None})

