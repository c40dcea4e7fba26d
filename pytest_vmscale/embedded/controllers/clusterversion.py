"""cluster-version-operator: ClusterVersion, from what its spec asks for to what its status says.

What runs is an operator of some release, and its status is as that release writes it: the one of 4.10 knows conditional updates
and the condition ReleaseAccepted, the one of 4.9 does not, and starts to work towards a payload before it has looked at it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from base64 import b64encode
from typing import Any

from ..api.store import Change, Object
from ..queue import Workers
from ..releases import Catalogue, Release, catalogue, in_order, minor
from .clusteroperators import ClusterOperators
from .clusterversion_payload import Progress, UpdateError, apply, health
from .common import Cluster, condition, set_condition
from .events import Recorder

NAME = "version"
NAMESPACE = "openshift-cluster-version"  # where its events are
FIRST = "4.9.15"
GATES, ACKS = ("openshift-config-managed", "admin-gates"), ("openshift-config", "admin-acks")
GATE = re.compile(r"^ack-[4-5][.]([0-9]{1,})-[^-]")
SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
MOST_HISTORY = 50  # of 4.9; later ones keep 100
INVALID, RETRIEVED, ACCEPTED = "Invalid", "RetrievedUpdates", "ReleaseAccepted"


def knows_acceptance(release: Release) -> bool:
    """Whether this release's operator accepts a payload before it works towards it (ReleaseAccepted, conditionalUpdates)."""
    return in_order(release.version) >= (4, 10)


class ClusterVersions:
    """The one ClusterVersion there is, `version`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing: Any = cluster.timing.upgrade
        self._catalogue: Catalogue = catalogue()
        self._kind = cluster.resources.kind("clusterversions.config.openshift.io")
        self._operator_kind = cluster.resources.kind("clusteroperators.config.openshift.io")
        self._config_maps = cluster.resources.kind("configmaps")
        self._running = self._catalogue.releases[FIRST]  # whose operator it is
        self._loaded, self._forced = self._running, False  # the payload that is applied or kept applied
        self._progress = Progress(self._running, verified=False, completed=True, done=self._running.manifests)
        self._acceptance: tuple[str, str, str] | None = None  # ReleaseAccepted's status, reason and message
        self._work: asyncio.Task[None] | None = None
        self._working_towards: tuple[str, bool] | None = None  # image and force
        self._checked = ("", "", float("-inf"))  # channel, running version, when: of the last look for updates
        self._available: tuple[list[Object], list[Object], tuple[str, str, str]] = ([], [], ("Unknown", "", ""))
        self._upgradeable: list[tuple[str, str, str]] = []  # type, reason and message of what speaks against a new minor version
        self._upgradeable_at = float("-inf")
        self._written_at = float("-inf")
        self._events = Recorder(cluster)
        self.operators = ClusterOperators(cluster, self._running)
        self._workers = Workers("cluster-version-operator", cluster.clock, 1, self._reconcile)
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.operators.start()
        self._resources.watch(self._kind, lambda change: self._workers.queue.add(NAME))
        self._resources.watch(self._config_maps, self._config_map_changed)
        self._workers.queue.add(NAME)
        self._workers.start()
        self._ticking = asyncio.create_task(self._tick(), name="cluster-version-operator-resync")

    async def stop(self) -> None:
        for task in (self._work, self._ticking):
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._workers.stop()
        await self.operators.stop()

    def serve(self, server: Any) -> None:
        self.operators.serve(server)

    def _config_map_changed(self, change: Change) -> None:
        if change.key in (GATES, ACKS):
            self._upgradeable_at = float("-inf")
            self._workers.queue.add(NAME)

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(self._timing.update_check_seconds)
            self._workers.queue.add(NAME)

    # What the spec asks for.

    async def _reconcile(self, key: str) -> None:
        cluster_version = self._resources.find(self._kind, "", NAME)
        if cluster_version is None:
            return
        await self._look_for_updates(cluster_version["spec"])
        self._look_whether_upgradeable(cluster_version)
        errors = self._errors(cluster_version)
        update = None if errors else cluster_version["spec"].get("desiredUpdate")
        release, image, force = self._running, self._running.image, False
        if update:
            image, force = update.get("image") or self._image_of(cluster_version, update["version"]), bool(update.get("force"))
            found = self._catalogue.by_image(image)
            release = found or Release(update.get("version", ""), image, "", (), {}, {}, ())
        if (image, force) != self._working_towards and (image != self._loaded.image or self._working_towards is not None):
            await self._turn_to(release, image, force, (update or {}).get("version", ""), cluster_version)
        elif self._work is None and self._progress.completed:
            self._keep_applied()
        self._write(errors)

    def _image_of(self, cluster_version: Object, version: str) -> str:
        known = [*self._available[0], *cluster_version["status"].get("history", ())]
        return str(next(each["image"] for each in known if each.get("version") == version))

    def _errors(self, cluster_version: Object) -> list[str]:
        spec, found = cluster_version["spec"], []
        try:
            valid = uuid.UUID(spec.get("clusterID") or str(uuid.uuid4()))
            if valid.variant != uuid.RFC_4122:
                found.append(f'spec.clusterID: Invalid value: "{spec["clusterID"]}": must be an RFC4122-variant UUID')
            elif valid.version != 4:
                found.append(f'spec.clusterID: Invalid value: "{spec["clusterID"]}": must be a version-4 UUID')
        except ValueError:
            found.append(f'spec.clusterID: Invalid value: "{spec["clusterID"]}": must be an RFC4122-variant UUID')
        update = spec.get("desiredUpdate")
        if update is None:
            return found
        version, image = update.get("version", ""), update.get("image", "")
        where = f'spec.desiredUpdate.version: Invalid value: "{version}": '
        if not version and not image:
            found.append("spec.desiredUpdate.version: Required value: must specify version or image")
        elif version and not SEMANTIC.fullmatch(version):
            found.append(where + "must be a semantic version (1.2.3[-...])")
        elif version and not image:
            known = [each["version"] for each in self._available[0]] + [each.get("version") for each in cluster_version["status"].get("history", ())]
            if version not in known:
                found.append(where + "when image is empty the update must be a previous version or an available update")
        return found

    async def _turn_to(self, release: Release, image: str, force: bool, version: str, cluster_version: Object) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            self._work = None
        if image == self._loaded.image:
            self._working_towards = None
            self._acceptance = self._acceptance and ("True", "PayloadLoaded", f'Payload loaded version="{self._loaded.version}" image="{image}"')
            self._progress.failure = None
            if self._progress.actual.image != image:  # a payload that was asked for and not loaded is asked for no longer
                self._progress = Progress(self._loaded, verified=False, completed=True, done=self._loaded.manifests)
            return
        self._working_towards = (image, force)
        self._work = asyncio.create_task(self._update(release, image, force, version, cluster_version), name="cluster-version-update")
        self._work.add_done_callback(self._work_done)

    def _work_done(self, task: asyncio.Task[None]) -> None:
        if task is self._work:
            self._work = None
            self._workers.queue.add(NAME)

    # The update service.

    async def _look_for_updates(self, spec: Object) -> None:
        channel, version, now = spec.get("channel", ""), self._running.version, self._clock.now()
        if self._checked[:2] == (channel, version) and now - self._checked[2] < self._timing.update_check_seconds:
            return
        if not channel:
            found: Any = ([], [], ("False", "NoChannel", "The update channel has not been configured."))
        else:
            await self._clock.sleep(self._timing.graph_request_seconds)
            try:
                plain, conditional = self._catalogue.updates(version, channel)
                known = self._conditional(conditional) if knows_acceptance(self._running) else []
                found = ([each.described() for each in plain], known, ("True", "", ""))
            except KeyError:
                message = f'Unable to retrieve available updates: currently reconciling cluster version {version} not found in the "{channel}" channel'
                found = ([], [], ("False", "VersionNotFound", message))
        self._available, self._checked = found, (channel, version, self._clock.now())

    def _conditional(self, releases: list[Release]) -> list[Object]:
        found, now = [], self._clock.timestamp()
        for release in releases:
            risks = release.conditional[self._running.version]
            message = "\n\n".join(f"{risk['message']} {risk['url']}" for risk in risks)
            reason = risks[0]["name"] if len(risks) == 1 else "MultipleReasons"
            old = next((each for each in self._available[1] if each["release"]["version"] == release.version), None)
            since = old["conditions"][0]["lastTransitionTime"] if old else now
            found.append({"release": release.described(), "risks": risks, "conditions": [
                {"type": "Recommended", "status": "False", "reason": reason, "message": message, "lastTransitionTime": since}]})
        return found

    # Whether a new minor version may come.

    def _look_whether_upgradeable(self, cluster_version: Object) -> None:
        if self._clock.now() - self._upgradeable_at < self._timing.update_check_seconds:
            return
        self._upgradeable_at = self._clock.now()
        checks = (self._overrides(cluster_version), self._admin_acks(cluster_version), self._operators_upgradeable())
        self._upgradeable = [each for each in checks if each is not None]

    @staticmethod
    def _overrides(cluster_version: Object) -> tuple[str, str, str] | None:
        if not any(each.get("unmanaged") for each in cluster_version["spec"].get("overrides") or ()):
            return None
        return ("UpgradeableClusterVersionOverrides", "ClusterVersionOverridesSet",
                "Disabling ownership via cluster version overrides prevents upgrades. Please remove overrides before continuing.")

    def _admin_acks(self, cluster_version: Object) -> tuple[str, str, str] | None:
        type_ = "UpgradeableAdminAckRequired"
        maps = []
        for where, reason in ((GATES, "UnableToAccessAdminGatesConfigMap"), (ACKS, "UnableToAccessAdminAcksConfigMap")):
            found = self._resources.find(self._config_maps, *where)
            if found is None:
                return type_, reason, f"{where[1]} configmap not found."
            maps.append(found.get("data") or {})
        gates, acks = maps
        current = self._current(cluster_version)
        reasons: dict[str, list[str]] = {}
        for name, text in gates.items():
            match = GATE.match(name)
            if match is None:
                reasons.setdefault("AdminAckConfigMapGateNameError", []).append(
                    f'admin-gates configmap gate name {name} has invalid format; must comply with "{GATE.pattern}".')
            elif match[1] != minor(current).rpartition(".")[2]:
                continue
            elif not text:
                reasons.setdefault("AdminAckConfigMapGateValueError", []).append(f"admin-gates configmap gate {name} must contain a non-empty value.")
            elif acks.get(name) != "true":
                reasons.setdefault("AdminAckRequired", []).append(text)
        if not reasons:
            return None
        messages = sorted(" ".join(sorted(texts)) for texts in reasons.values())
        return type_, next(iter(reasons)) if len(reasons) == 1 else "MultipleReasons", " ".join(messages)

    def _operators_upgradeable(self) -> tuple[str, str, str] | None:
        against = []
        for operator in self._resources.list(self._operator_kind):
            found = condition(operator.get("status", {}).get("conditions") or (), "Upgradeable")
            if found is not None and found["status"] == "False":
                against.append((operator["metadata"]["name"], found.get("reason", ""), found.get("message", "")))
        if not against:
            return None
        type_ = "UpgradeableClusterOperators"
        if len(against) == 1:
            name, reason, message = against[0]
            return type_, reason, f"Cluster operator {name} should not be upgraded between minor versions: {message}"
        lines = [f"Cluster operator {name} should not be upgraded between minor versions: {reason}: {message}" for name, reason, message in against]
        return type_, "ClusterOperatorsNotUpgradeable", "Multiple cluster operators should not be upgraded between minor versions:\n* " + "\n* ".join(lines)

    def _upgradeable_conditions(self) -> dict[str, tuple[str, str]]:
        """The conditions whose type begins with Upgradeable, all of them False, by type: reason and message."""
        found = self._upgradeable
        if len(found) == 1:
            return {"Upgradeable": found[0][1:]}
        conditions = {type_: (reason, message) for type_, reason, message in found}
        if found:
            reasons, lines = ",".join(each[1] for each in found), "\n* ".join(each[2] for each in found)
            conditions["Upgradeable"] = ("MultipleReasons",
                                         f"Cluster should not be upgraded between minor versions for multiple reasons: {reasons}\n* {lines}")
        return conditions

    @staticmethod
    def _current(cluster_version: Object) -> str:
        """The version that was last reached."""
        history = cluster_version["status"].get("history") or [{}]
        return str(next((each["version"] for each in history if each["state"] == "Completed"), history[-1].get("version", "")))

    # From one payload to the next.

    async def _update(self, release: Release, image: str, force: bool, version: str, cluster_version: Object) -> None:
        while not await self._load(release, image, force, version, cluster_version):
            await self._clock.sleep(self._timing.update_check_seconds)
            cluster_version = self._resources.get(self._kind, "", NAME)
        self._loaded, self._forced = release, force
        self._working_towards = (image, force)
        self._progress = Progress(release, verified=self._progress.verified, total=release.manifests)
        self._report(edge=True)
        await apply(self._cluster, self.operators, self._progress, self._became, self._report)
        self._report(edge=True)

    async def _became(self, release: Release) -> None:
        """Its own Deployment has been applied: the operator that goes on is the new release's."""
        self._running = release
        await self._clock.sleep(self._timing.version_operator_restart_seconds)
        if knows_acceptance(release):
            self._acceptance = ("True", "PayloadLoaded", f'Payload loaded version="{release.version}" image="{release.image}"')
        self._report(edge=True)

    async def _load(self, release: Release, image: str, force: bool, version: str, cluster_version: Object) -> bool:
        """Fetch the payload and see whether it may be applied. False, with the reason in the status, if it may not."""
        where = f'version="{version or release.version}" image="{image}"'
        if knows_acceptance(self._running):
            self._acceptance = ("Unknown", "RetrievePayload", f"Retrieving and verifying payload {where}")
        else:
            self._progress = Progress(release, verified=False)
            self._progress.downloading = True
        self._event("Normal", "RetrievePayload", f"retrieving payload {where}")
        self._report(edge=True)
        await self._clock.sleep(self._timing.verify_seconds)
        known = self._catalogue.by_image(image)
        signed = known is not None and not self._cluster.faults.value("bad-signature")
        if not signed and not force:
            digest = image.rpartition("@")[2]
            return self._refuse("RetrievePayload", f"Retrieving payload failed {where} failure=", UpdateError(
                "ImageVerificationFailed", f"The update cannot be verified: unable to verify {digest} against keyrings: verifier-public-key-redhat"))
        await self._clock.sleep(self._timing.payload_retrieve_seconds)
        if known is None:
            return self._refuse("RetrievePayload", f"Retrieving payload failed {where} failure=", UpdateError(
                "UpdatePayloadRetrievalFailed", "Unable to download and prepare the update: deadline exceeded, reason: \"DeadlineExceeded\", message: "
                "\"Job was active longer than specified deadline\""))
        if version and version != known.version:
            return self._refuse("VerifyPayloadVersion", f"Verifying payload failed {where} failure=", UpdateError(
                "", f"release image version {known.version} does not match the expected upstream version {version}"))
        failed = None if force else self._precondition(cluster_version, known.version)
        if failed is not None:
            text = f'Precondition "ClusterVersionUpgradeable" failed because of "{failed[0]}": {failed[1]}'
            return self._refuse("PreconditionChecks", f"Preconditions failed for payload loaded {where}: ",
                                UpdateError("UpgradePreconditionCheckFailed", text, "PreconditionCheck"))
        if self._acceptance is not None:
            self._acceptance = ("True", "PayloadLoaded", f"Payload loaded {where}")
        self._progress.verified = signed
        self._event("Normal", "PayloadLoaded", f"payload loaded {where}")
        return True

    def _refuse(self, step: str, start: str, error: UpdateError) -> bool:
        self._event("Warning", {"RetrievePayload": "RetrievePayloadFailed", "PreconditionChecks": "PreconditionBlock"}.get(step, "VerifyPayloadVersionFailed"),
                    start + error.message)
        if knows_acceptance(self._running):
            self._acceptance = ("False", step, start + error.message)
        else:
            self._progress.failure, self._progress.downloading = error, False
        self._report(edge=True)
        return False

    def _precondition(self, cluster_version: Object, version: str) -> tuple[str, str] | None:
        """Why this version must not be applied: reason and message."""
        self._upgradeable_at = float("-inf")
        self._look_whether_upgradeable(cluster_version)
        against = self._upgradeable_conditions().get("Upgradeable")
        if against is None or minor(self._current(cluster_version)) != minor(version):
            return against
        overrides = self._overrides(cluster_version)
        return overrides[1:] if overrides else None

    def _event(self, type_: str, reason: str, message: str) -> None:
        about = self._resources.get(self._kind, "", NAME)
        about["metadata"]["namespace"] = NAMESPACE
        self._events.event(about, type_, reason, message, NAMESPACE)

    def _keep_applied(self) -> None:
        """What a pass over an applied payload finds: operators that are not well any more."""
        errors = [each for name in self._catalogue.operators if (each := health(self._resources, name, self._loaded)) is not None]
        self._progress.failure = UpdateError.of(errors)

    # What the status says.

    def _report(self, edge: bool = False) -> None:
        """Write the status: at once on an edge, else as often as the operator's throttle lets it."""
        now, interval = self._clock.now(), self._timing.status_interval_seconds
        if edge or now - self._written_at >= interval:
            self._write_now()
        elif self._written_at <= now:
            due = self._written_at + interval
            self._written_at = due
            self._clock.call_at(due, self._write_now)

    def _write_now(self) -> None:
        cluster_version = self._resources.find(self._kind, "", NAME)
        if cluster_version is not None:
            self._write(self._errors(cluster_version))

    def _write(self, errors: list[str]) -> None:
        self._written_at = self._clock.now()
        self._resources.modify(self._kind, "", NAME, lambda each: self._change(each, errors), subresource="status")

    def _change(self, cluster_version: Object, errors: list[str]) -> None:
        status, now, progress = cluster_version.setdefault("status", {}), self._clock.timestamp(), self._progress
        spec, actual = cluster_version["spec"], progress.actual
        status["observedGeneration"] = cluster_version["metadata"]["generation"]
        status["versionHash"] = b64encode(hashlib.sha256(self._loaded.image.encode()).digest()[:8]).decode()
        status["desired"] = actual.described() if actual.version else {"version": "", "image": actual.image}
        status["availableUpdates"] = self._available[0] or None
        if self._available[1]:
            status["conditionalUpdates"] = self._available[1]
        else:
            status.pop("conditionalUpdates", None)
        self._change_history(status, now)
        value, reason, message = self._available[2]
        if self._checked[0] == spec.get("channel", ""):
            set_condition(status, RETRIEVED, value, now, reason, message)
        conditions = self._upgradeable_conditions()
        status["conditions"] = [each for each in status["conditions"] if not each["type"].startswith("Upgradeable") or each["type"] in conditions]
        for type_, (reason, message) in sorted(conditions.items()):
            set_condition(status, type_, "False", now, reason, message)
        if errors:
            text = errors[0] if len(errors) == 1 else "\n" + "".join(f"* {each}\n" for each in errors)
            set_condition(status, INVALID, "True", now, "InvalidClusterVersion", f"The cluster version is invalid:{'' if len(errors) > 1 else ' '}{text}")
        else:
            status["conditions"] = [each for each in status["conditions"] if each["type"] != INVALID]
        if self._acceptance is not None:
            set_condition(status, ACCEPTED, self._acceptance[0], now, *self._acceptance[1:])
        if progress.completed:
            set_condition(status, "Available", "True", now, message=f"Done applying {actual.version}")
        progress.set_conditions(status, now, self._clock.now(), self._timing.degraded_patience_seconds, invalid=bool(errors))

    def _change_history(self, status: Object, now: str) -> None:
        progress, actual = self._progress, self._progress.actual
        history = status.setdefault("history", [])
        if not history or history[0]["image"] != actual.image:
            if history and not history[0].get("completionTime"):
                history[0]["completionTime"] = now
            self._cluster.truth.write("upgrade-started", None, NAME, version=actual.version)
            history.insert(0, {"state": "Partial", "startedTime": now, "completionTime": None, "version": actual.version, "image": actual.image, "verified": False})
        if progress.completed and history[0]["state"] != "Completed":
            self._cluster.truth.write("upgrade-completed", None, NAME, version=actual.version)
            history[0].update(state="Completed", completionTime=history[0].get("completionTime") or now)
        if progress.verified:
            history[0]["verified"] = True
        del history[MOST_HISTORY:]
