"""CronJobs: a Job each time that the schedule comes, and the older ones cleared away."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from ..api.cron import Schedule
from ..api.store import Key, Object
from .common import Cluster, is_true, key_of, owner_reference
from .workloads import Workload

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
MANY_MISSED = 100


class CronJobs(Workload):
    KIND, CHILDREN = "cronjobs.batch", "jobs.batch"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._woken: dict[Key, datetime] = {}  # when each is to be looked at next

    @property
    def component(self) -> str:
        return "cronjob-controller"

    async def reconcile(self, obj: Object) -> None:
        if "deletionTimestamp" in obj["metadata"]:
            return
        jobs = self._children.of(obj)
        self._see_completed(obj, jobs)
        await self._clear_history(obj, jobs)
        if obj["spec"].get("suspend"):
            return
        zone: tzinfo = ZoneInfo(obj["spec"]["timeZone"]) if obj["spec"].get("timeZone") else UTC
        schedule, now = Schedule(obj["spec"]["schedule"]), self._clock.now()
        due, missed = self._due(obj, schedule, zone, now)
        if missed > MANY_MISSED:
            message = f"too many missed start times: {missed}. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            self._events.event(obj, "Warning", "TooManyMissedTimes", message, self.component)
        if due is not None:
            await self._start(obj, due, [job for job in jobs if not _ended(job) and "deletionTimestamp" not in job["metadata"]])
        following = schedule.after(self._moment(now, zone))
        if following is not None and self._woken.get(key_of(obj)) != following:
            self._woken[key_of(obj)] = following
            self._workers.queue.add_after(key_of(obj), max(0.0, following.timestamp() - self._clock.epoch - now))

    def _moment(self, at: float, zone: tzinfo) -> datetime:
        return datetime.fromtimestamp(self._clock.epoch + at, zone)

    def _due(self, obj: Object, schedule: Schedule, zone: tzinfo, now: float) -> tuple[float | None, int]:
        """The last time that has come since the last run and is not too late, and how many have."""
        last = (obj.get("status") or {}).get("lastScheduleTime") or obj["metadata"]["creationTimestamp"]
        deadline = obj["spec"].get("startingDeadlineSeconds")
        since = self._clock.parse(last)
        if deadline is not None:
            since = max(since, now - deadline)
        due, count, moment = None, 0, schedule.after(self._moment(since, zone))
        while moment is not None and (at := moment.timestamp() - self._clock.epoch) <= now:
            due, count = at, count + 1
            moment = schedule.after(moment)
        return due, count

    async def _start(self, obj: Object, due: float, active: list[Object]) -> None:
        policy, meta = obj["spec"].get("concurrencyPolicy", "Allow"), obj["metadata"]
        name = f"{meta['name']}-{round(self._clock.epoch + due) // 60}"
        if self._resources.find(self._child_kind, meta["namespace"], name):
            return
        if policy == "Forbid" and active:
            self._events.event(obj, "Normal", "JobAlreadyActive",
                               "Not starting job because prior execution is running and concurrency policy is Forbid", self.component)
            return
        for job in active if policy == "Replace" else ():
            await self._delete(obj, job)
        template = copy.deepcopy(obj["spec"]["jobTemplate"])
        given, spec = template.get("metadata") or {}, template["spec"]
        if "completions" not in spec and "parallelism" not in spec:
            spec["completions"] = 1
        for field, value in (("parallelism", 1), ("backoffLimit", 6), ("suspend", False)):
            spec.setdefault(field, value)
        await self._tokens.take()
        job = self._resources.create(self._child_kind, {
            "metadata": {"name": name, "namespace": meta["namespace"], **({"labels": given["labels"]} if given.get("labels") else {}),
                         "annotations": {**(given.get("annotations") or {}), SCHEDULED: self._clock.timestamp(due)},
                         "ownerReferences": [owner_reference(self._kind, obj)]},
            "spec": spec})
        self._events.event(obj, "Normal", "SuccessfulCreate", f"Created job {name}", self.component)

        def change(obj: Object) -> None:
            status = obj.setdefault("status", {})
            status.setdefault("active", []).append(_reference(job))
            status["lastScheduleTime"] = self._clock.timestamp(due)

        self._resources.modify(self._kind, *key_of(obj), change, subresource="status")

    async def _delete(self, obj: Object, job: Object) -> None:
        await self._tokens.take()
        if self._resources.find(self._child_kind, *key_of(job)):
            self._resources.delete(self._child_kind, *key_of(job), policy="Background")
            self._events.event(obj, "Normal", "SuccessfulDelete", f"Deleted job {job['metadata']['name']}", self.component)

    # What has ended.

    def _see_completed(self, obj: Object, jobs: list[Object]) -> None:
        """Jobs that ended leave status.active, and so do those that are gone."""
        listed = {each["uid"]: each["name"] for each in (obj.get("status") or {}).get("active") or ()}
        running = {job["metadata"]["uid"] for job in jobs if not _ended(job)}
        if listed.keys() <= running:
            return
        succeeded = [job["status"]["completionTime"] for job in jobs if is_true(job, "Complete")]
        for job in jobs:
            if job["metadata"]["uid"] in listed and _ended(job):
                words = "Complete" if is_true(job, "Complete") else "Failed"
                self._events.event(obj, "Normal", "SawCompletedJob", f"Saw completed job: {job['metadata']['name']}, status: {words}", self.component)

        def change(obj: Object) -> None:
            status = obj["status"]
            status["active"] = [each for each in status["active"] if each["uid"] in running]
            if not status["active"]:
                del status["active"]
            if succeeded:
                status["lastSuccessfulTime"] = max(succeeded)

        self._resources.modify(self._kind, *key_of(obj), change, subresource="status")

    async def _clear_history(self, obj: Object, jobs: list[Object]) -> None:
        for ended, field, usual in (("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)):
            found = sorted((job for job in jobs if is_true(job, ended) and "deletionTimestamp" not in job["metadata"]),
                           key=lambda job: (job["status"].get("startTime", ""), job["metadata"]["name"]))
            for job in found[:max(0, len(found) - int(obj["spec"].get(field, usual)))]:
                await self._delete(obj, job)


def _ended(job: Object) -> bool:
    return is_true(job, "Complete") or is_true(job, "Failed")


def _reference(job: Object) -> Object:
    meta = job["metadata"]
    return {"apiVersion": "batch/v1", "kind": "Job", **{field: meta[field] for field in ("name", "namespace", "uid", "resourceVersion")}}
