"""Jobs: so many pods that succeed, so many at a time, and not too many failures."""

from __future__ import annotations

from ..api.store import Object
from .common import is_true, key_of, set_condition
from .workloads import Workload, is_active


class Jobs(Workload):
    KIND = "jobs.batch"

    async def reconcile(self, obj: Object) -> None:
        if is_true(obj, "Complete") or is_true(obj, "Failed"):
            self._expire(obj)
            return
        if "deletionTimestamp" in obj["metadata"]:
            return
        spec, pods = obj["spec"], self._children.of(obj)
        active = [pod for pod in pods if is_active(pod)]
        succeeded = sum(pod["status"].get("phase") == "Succeeded" for pod in pods)
        failed = sum(pod["status"].get("phase") == "Failed" for pod in pods)
        parallel, completions = int(spec.get("parallelism", 1)), spec.get("completions")
        ended = ""
        if failed > int(spec.get("backoffLimit", 6)):
            ended = "Failed"
        elif succeeded >= completions if completions is not None else succeeded and not active:
            ended = "Complete"
        if ended or spec.get("suspend"):
            for pod in active:
                await self._delete_pod(obj, key_of(pod))
            active = []
        else:
            wanted = parallel if completions is None and not succeeded else min(parallel, max(0, (completions or 0) - succeeded))
            if completions is None and succeeded:
                wanted = len(active)  # a work queue: once one has succeeded no more are started
            for _ in range(wanted - len(active)):
                await self._create_pod(obj, spec["template"], {"job-name": obj["metadata"]["name"], "controller-uid": obj["metadata"]["uid"]})
            for pod in active[wanted:]:
                await self._delete_pod(obj, key_of(pod))
            active = [pod for pod in self._children.of(obj) if is_active(pod)]
        self._report(obj, len(active), succeeded, failed, ended)

    def _report(self, obj: Object, active: int, succeeded: int, failed: int, ended: str) -> None:
        now = self._clock.timestamp()

        def change(obj: Object) -> None:
            status = obj.setdefault("status", {})
            status.setdefault("startTime", now)
            for name, number in (("active", active), ("succeeded", succeeded), ("failed", failed)):
                if number:
                    status[name] = number
                else:
                    status.pop(name, None)
            if ended:
                reason, message = ("BackoffLimitExceeded", "Job has reached the specified backoff limit") if ended == "Failed" else ("", "")
                set_condition(status, ended, "True", now, reason, message, lastProbeTime=now)
            if ended == "Complete":
                status["completionTime"] = now

        job = self._resources.modify(self._kind, *key_of(obj), change, subresource="status")
        if job is not None and ended:
            self._events.event(job, *(("Normal", "Completed", "Job completed") if ended == "Complete" else
                                      ("Warning", "BackoffLimitExceeded", "Job has reached the specified backoff limit")), "job-controller")

    def _expire(self, obj: Object) -> None:
        """ttlSecondsAfterFinished."""
        ttl = obj["spec"].get("ttlSecondsAfterFinished")
        if ttl is None or "deletionTimestamp" in obj["metadata"]:
            return
        ended = next(each["lastTransitionTime"] for each in obj["status"]["conditions"] if each["type"] in ("Complete", "Failed") and each["status"] == "True")
        left = self._clock.parse(ended) + ttl - self._clock.now()
        if left > 0:
            self._workers.queue.add_after(key_of(obj), left)
        elif self._resources.find(self._kind, *key_of(obj)):
            self._resources.delete(self._kind, *key_of(obj), policy="Foreground")
