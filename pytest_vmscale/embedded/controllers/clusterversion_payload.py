"""cluster-version-operator's sync worker: a payload's manifests in their run levels, operator by operator, and what is said meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ..api.resources import Resources
from ..api.store import Object
from ..releases import Component, Release, catalogue, minor
from .clusteroperators import ClusterOperators
from .common import Cluster, condition, set_condition

NO_EFFECT, FAIL, FAIL_AFTER_INTERVAL = "None", "Fail", "FailAfterInterval"
UNAVAILABLE = "ClusterOperatorNotAvailable"

SUMMARIES = {
    "UpdatePayloadRetrievalFailed": "could not download the update",
    "ImageVerificationFailed": "the image may not be safe to use",
    "UpgradePreconditionCheckFailed": "it may not be safe to apply this update",
    "ClusterOperatorDegraded": "the cluster operator {name} is degraded",
    UNAVAILABLE: "the cluster operator {name} has not yet successfully rolled out",
    "ClusterOperatorsNotAvailable": "some cluster operators have not yet rolled out",
}


@dataclass
class UpdateError:
    """What stands in the way of an update. `effect` says whether that is a failure: never, at once, or after a while."""

    reason: str
    message: str
    name: str = ""
    effect: str = ""

    @property
    def summary(self) -> str:
        return SUMMARIES.get(self.reason, f"an unknown error has occurred: {self.reason}").format(name=self.name)

    @classmethod
    def of(cls, errors: list[UpdateError]) -> UpdateError | None:
        """All errors of one pass as one, the way the operator sums them up: several operators that merely update are an error of no known effect."""
        if len(errors) < 2:
            return errors[0] if errors else None
        specific = [each for each in errors if each.reason != UNAVAILABLE]
        if not specific:
            effects = {each.effect for each in errors}
            effect = FAIL if FAIL in effects else FAIL_AFTER_INTERVAL if FAIL_AFTER_INTERVAL in effects else NO_EFFECT
            name = ", ".join(sorted(each.name for each in errors))
            return cls("ClusterOperatorsNotAvailable", f"Some cluster operators are still updating: {name}", name, effect)
        if len(specific) == 1:
            return specific[0]
        lines = "\n* ".join(sorted({each.message for each in specific}))
        return cls("MultipleErrors", f"Multiple errors are preventing progress:\n* {lines}")


@dataclass
class Progress:
    """How far a payload is applied."""

    actual: Release
    verified: bool
    total: int = 0
    done: int = 0
    completed: bool = False
    downloading: bool = False
    failure: UpdateError | None = None
    waiting_since: dict[str, float] = field(default_factory=dict)  # by operator: cluster seconds

    def set_conditions(self, status: Object, now: str, now_seconds: float, patience_seconds: float, invalid: bool) -> None:
        """Failing and Progressing, in place."""
        version = self.actual.version or self.actual.image
        waiting, is_progress = self._waiting(now_seconds, patience_seconds)
        if self.failure is not None and not is_progress:
            text = waiting or self.failure.summary
            set_condition(status, "Failing", "True", now, self.failure.reason, self.failure.message)
            if self.completed:
                set_condition(status, "Progressing", "False", now, self.failure.reason, f"Error while reconciling {version}: {text}")
            else:
                set_condition(status, "Progressing", "True", now, self.failure.reason, f"Unable to apply {version}: {text}")
            return
        set_condition(status, "Failing", "False", now)
        reason = "InvalidClusterVersion" if invalid else ""
        if self.completed:
            message = f"Stopped at {version}: the cluster version is invalid" if invalid else f"Cluster version is {version}"
            set_condition(status, "Progressing", "False", now, reason, message)
            return
        if invalid:
            message = f"Reconciling {version}: the cluster version is invalid"
        elif self.done:
            message = f"Working towards {version}: {self.done} of {self.total} done ({self.done * 100 // self.total}% complete)"
        elif self.downloading:
            reason, message = "DownloadingUpdate", f"Working towards {version}: downloading update"
        else:
            message = f"Working towards {version}"
        if is_progress and not invalid and self.failure is not None:
            reason, message = self.failure.reason, f"{message}{', ' if self.done else ': '}{waiting}"
        set_condition(status, "Progressing", "True", now, reason, message)

    def _waiting(self, now: float, patience_seconds: float) -> tuple[str, bool]:
        """What is waited for, and whether that still counts as progress."""
        error = self.failure
        if error is None or self.completed:
            return "", False
        if error.effect == NO_EFFECT:
            return f"waiting on {error.name}", True
        if error.effect == FAIL_AFTER_INTERVAL:
            late = [name for name in error.name.split(", ") if now - self.waiting_since.get(name, now) > patience_seconds]
            if late:
                return f"wait has exceeded 40 minutes for these operators: {', '.join(late)}", False
            return f"waiting up to 40 minutes on {error.name}", True
        return "", False


def health(resources: Resources, name: str, release: Release) -> UpdateError | None:
    """What keeps a ClusterOperator from being as the payload wants it; None if nothing does."""
    actual = resources.find(resources.kind("clusteroperators.config.openshift.io"), "", name)
    if actual is None:
        return UpdateError(UNAVAILABLE, f"Cluster operator {name} has not yet reported success", name, NO_EFFECT)
    status = actual.get("status", {})
    conditions = {type_: condition(status.get("conditions") or (), type_) or {} for type_ in ("Available", "Degraded")}
    if conditions["Available"].get("status") != "True":
        return UpdateError(UNAVAILABLE, f"Cluster operator {name} is not available", name, FAIL)
    if conditions["Degraded"].get("status") != "False":
        return UpdateError("ClusterOperatorDegraded", f"Cluster operator {name} is degraded", name, FAIL_AFTER_INTERVAL)
    versions = {each["name"]: each["version"] for each in status.get("versions") or ()}
    if any(versions.get(each["name"]) != each["version"] for each in catalogue().operators[name].versions(release)):
        return UpdateError("ClusterOperatorUpdating", f"Cluster operator {name} is updating versions", name, NO_EFFECT)
    return None


async def apply(cluster: Cluster, operators: ClusterOperators, progress: Progress, became: Callable[[Release], Awaitable[None]],
                report: Callable[..., None]) -> None:
    """Passes over the payload until one comes through. A pass ends after a while: what it waits for is then what the status tells.

    `became` is called once the operator's own Deployment is applied; `report` after each step, with edge=True where something turns.
    """
    worker = _Pass(cluster, operators, progress, report)
    for component in catalogue().payload:
        if component.level:
            break
        await worker.component(component, float("inf"))
    await became(progress.actual)
    worker.start_again()
    failures = 0
    timing: Any = cluster.timing.upgrade
    while True:
        error = UpdateError.of(await worker.run(cluster.clock.now() + 2 * timing.update_check_seconds))
        if error is None:
            break
        edge = progress.failure is None
        progress.failure = error
        report(edge=edge)
        failures += 1
        pause = timing.update_check_seconds / 16 * 2 ** failures if failures < 4 else timing.update_check_seconds
        await cluster.clock.sleep(pause * (1 + 0.2 * cluster.random.random()))
        worker.start_again()
    progress.completed, progress.failure, progress.done = True, None, progress.total


class _Pass:
    """One payload's application, pass by pass. What the status says never goes back below what it said before."""

    def __init__(self, cluster: Cluster, operators: ClusterOperators, progress: Progress, report: Callable[..., None]) -> None:
        self._cluster, self._clock, self._operators = cluster, cluster.clock, operators
        self._timing: Any = cluster.timing.upgrade
        self._progress, self._report = progress, report
        self._version = minor(progress.actual.version)
        self._applied: set[tuple[int, str, int]] = set()
        self._done = 0

    def start_again(self) -> None:
        self._done = 0

    async def run(self, until: float) -> list[UpdateError]:
        """A pass in run levels. Returns what was still waited for at this cluster time, or nothing if all is applied."""
        for _, level in groupby(catalogue().payload, key=lambda each: each.level):
            slots = asyncio.Semaphore(int(self._timing.manifest_workers))

            async def one(component: Component, slots: asyncio.Semaphore = slots) -> UpdateError | None:
                async with slots:
                    return await self.component(component, until)

            tasks = [asyncio.ensure_future(one(component)) for component in level]
            try:
                errors = [each for each in await asyncio.gather(*tasks) if each is not None]
            finally:
                for task in tasks:
                    task.cancel()
            if errors:
                return errors
        return []

    async def component(self, component: Component, until: float) -> UpdateError | None:
        first = component.first_operator(self._progress.actual.version)
        due = self._clock.now()  # short sleeps one after the other would each be rounded up
        for index in range(component.manifests[self._version]):
            if component.operators and index == first - 1:
                for name in component.operators:  # its Deployments are the last before
                    self._operators.roll(name, self._progress.actual)
            place = index - first
            if 0 <= place < len(component.operators):
                error = await self._wait_for(component.operators[place], until)
                if error is not None:
                    return error
                due = max(due, self._clock.now())
            key = (component.level, component.name, index)
            due += self._timing.manifest_again_seconds if key in self._applied else self._timing.manifest_seconds
            await self._clock.sleep_until(due)
            self._applied.add(key)
            self._step()
        return None

    def _step(self) -> None:
        self._done += 1
        progress = self._progress
        if progress.failure is not None and self._done < progress.done:
            return  # an earlier failure stays what is said until there is more
        if progress.failure is not None and self._done > progress.done:
            progress.failure = None
            progress.done = self._done
            self._report(edge=True)
            return
        progress.done = self._done
        self._report()

    async def _wait_for(self, name: str, until: float) -> UpdateError | None:
        self._progress.waiting_since.setdefault(name, self._clock.now())
        while (error := health(self._cluster.resources, name, self._progress.actual)) is not None:
            if self._clock.now() + self._timing.operator_poll_seconds >= until:
                await self._clock.sleep_until(until)
                return error
            await self._clock.sleep(self._timing.operator_poll_seconds)
        return None
