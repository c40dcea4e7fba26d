"""The machine-config-daemons: each brings its node to the config that the node's annotations ask for, which mostly means a reboot."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from ..api.errors import not_found
from ..api.store import Change, Object
from ..queue import TokenBucket
from .common import Cluster, decoded
from .events import Recorder
from .machineconfig_drain import Drainer
from .machineconfig_names import (
    CONFIGS,
    CURRENT,
    DAEMON_COMPONENT,
    DESIRED,
    DESIRED_DRAIN,
    FAILED_STATES,
    GROUP,
    LAST_DRAIN,
    REASON,
    STATE,
    annotation,
)
from .machineconfig_render import Difference, RenderError, difference

if TYPE_CHECKING:
    from .machineconfig_kubelet import Kubelets

log = logging.getLogger(__name__)

REASON_LENGTH = 2000  # longest reason that the daemon writes on its node


class UpdateError(Exception):
    """An update that failed. The message is the reason that the node will show; it is tried again."""


class Unreconcilable(UpdateError):
    """An update that this machine cannot make without being installed anew."""


class Daemons:
    """One daemon for each node. A daemon works only while its machine has power."""

    def __init__(self, cluster: Cluster, kubelets: Kubelets, drainer: Drainer) -> None:
        self._cluster, self._resources, self._clock, self._kubelets = cluster, cluster.resources, cluster.clock, kubelets
        self._timing: Any = cluster.timing.machine_config
        self._nodes, self._configs = cluster.resources.kind("nodes"), cluster.resources.kind(CONFIGS)
        self._events = Recorder(cluster)
        self._drainer = drainer
        self._clients: dict[str, TokenBucket] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pending: dict[str, str] = {}  # by node: what is on its disk, if that is not its current config yet

    def start(self) -> None:
        self._resources.watch(self._nodes, self._changed)
        for entry in self._resources.store.entries(self._nodes):
            self._look(entry.key[1], entry.obj)

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            task = self._tasks.pop(change.key[1], None)
            if task is not None:
                task.cancel()
        else:
            self._look(change.key[1], decoded(change.new))

    def _look(self, name: str, node: Object) -> None:
        if name in self._cluster.hosts.machines and name not in self._tasks and self._has_work(node):
            self._tasks[name] = asyncio.create_task(self._work(name), name=f"machine-config-daemon-{name}")

    @staticmethod
    def _has_work(node: Object) -> bool:
        return annotation(node, CURRENT) != annotation(node, DESIRED) or annotation(node, STATE) not in ("Done", "")

    async def _work(self, name: str) -> None:
        """Until the node is where it should be; what fails is tried again, later each time."""
        pause = self._timing.daemon_retry_first_seconds
        try:
            while (node := self._resources.find(self._nodes, "", name)) is not None and self._has_work(node):
                await self._powered(name)
                try:
                    await self._update(name)
                    pause = self._timing.daemon_retry_first_seconds
                except UpdateError as error:
                    state = "Unreconcilable" if isinstance(error, Unreconcilable) else "Degraded"
                    self._annotate(name, {STATE: state, REASON: str(error)[:REASON_LENGTH]})
                    await self._clock.sleep(pause)
                    pause = min(2 * pause, self._timing.daemon_retry_most_seconds)
        except Exception:
            log.exception("machine-config-daemon of %s", name)
        finally:
            self._tasks.pop(name, None)

    async def _powered(self, name: str) -> None:
        while not self._cluster.hosts.is_up(name):
            await self._clock.sleep(self._timing.daemon_poll_seconds)

    # What the daemon reads and writes.

    def _node(self, name: str) -> Object:
        node = self._resources.find(self._nodes, "", name)
        if node is None:
            raise asyncio.CancelledError
        return node

    def _annotate(self, name: str, values: dict[str, str]) -> None:
        self._resources.modify(self._nodes, "", name, lambda node: node["metadata"].setdefault("annotations", {}).update(values))

    def _event(self, name: str, reason: str, message: str, type: str = "Normal") -> None:
        self._events.event(self._node(name), type, reason, message, DAEMON_COMPONENT, name)

    def _config(self, name: str) -> Object:
        config = self._resources.find(self._configs, "", name)
        if config is None:
            raise UpdateError(not_found("machineconfig", GROUP, name).message)
        return config

    # One update.

    async def _update(self, name: str) -> None:
        node = self._node(name)
        if annotation(node, DESIRED_DRAIN) not in ("", annotation(node, LAST_DRAIN)):
            await self._clock.sleep(self._timing.daemon_poll_seconds)  # a drain that took too long goes on
            return
        current = self._pending.get(name, annotation(node, CURRENT))
        desired = annotation(node, DESIRED)
        if current == desired:  # it came up with this config, or failed on another one and was called back
            await self._complete(name, desired)
            return
        old, new = self._config(current), self._config(desired)
        if annotation(node, STATE) not in FAILED_STATES:
            self._annotate(name, {STATE: "Working"})
        if self._cluster.faults.config_drifted(name):
            message = f'unexpected on-disk state validating against {current}: content mismatch for file "/etc/containers/storage.conf"'
            self._event(name, "PreflightConfigDriftCheckFailed", message, "Warning")
            raise UpdateError(message)
        try:
            changes = difference(old["spec"], new["spec"])
        except RenderError as error:
            message = f"can't reconcile config {current} with {desired}: {error}"
            self._event(name, "FailedToReconcile", message, "Warning")
            raise Unreconcilable(message) from None
        if changes.drain and self._timing.drained_by == "daemon":
            await self._drain(name)
        elif changes.drain:
            await self._drained(name, desired)
        await self._powered(name)
        await self._write(name, new, old, changes)
        self._pending[name] = desired
        if changes.reboot:
            self._event(name, "Reboot", f"Node will reboot into config {desired}")
            await self._reboot(name, desired)
        elif changes.reload_crio:
            self._event(name, "SkipReboot", "Config changes do not require reboot. Service crio was reloaded.")
        else:
            self._event(name, "SkipReboot", "Config changes do not require reboot.")
        if annotation(self._node(name), DESIRED) == desired:  # else that is next, and the node stays cordoned for it
            await self._complete(name, desired)

    def _client(self, name: str) -> TokenBucket:
        """The daemon's own, where it drains by itself."""
        return self._clients.setdefault(name, self._drainer.client())

    async def _drain(self, name: str) -> None:
        """Cordon and drain this node, as daemons did before there was a controller for it."""
        client, timing = self._client(name), self._timing
        await self._drainer.cordon(name, True, client)
        self._event(name, "Cordon", "Cordoned node to apply update")
        self._event(name, "Drain", "Draining node to update config.")
        give_up, failures = self._clock.now() + timing.drain_timeout_seconds, 0
        while await self._drainer.drain(name, client):
            failures += 1
            await self._clock.sleep(timing.drain_slow_retry_seconds if failures > timing.daemon_drain_tries else timing.drain_retry_seconds)
            if self._clock.now() >= give_up:
                message = f"failed to drain node : {name} after 1 hour"
                self._event(name, "FailedToDrain", message, "Warning")
                raise UpdateError(message)
        self._cluster.truth.write("node-drained", "", name)

    async def _drained(self, name: str, desired: str) -> None:
        """Ask the controller to cordon and drain this node, and wait for it."""
        request = f"drain-{desired}"
        if annotation(self._node(name), LAST_DRAIN) == request:
            return  # asked for before, and done meanwhile
        self._event(name, "Cordon", "Cordoned node to apply update")
        self._event(name, "Drain", "Draining node to update config.")
        self._annotate(name, {DESIRED_DRAIN: request})
        if not await self._applied(name, self._timing.drain_timeout_seconds):
            message = f"failed to drain node: {name} after 1 hour. Please see machine-config-controller logs for more information"
            self._event(name, "FailedToDrain", message, "Warning")
            raise UpdateError(message)

    async def _applied(self, name: str, seconds: float) -> bool:
        """Whether the controller does what was last asked within so many seconds."""
        end = self._clock.now() + seconds
        while self._clock.now() < end:
            await self._clock.sleep(self._timing.daemon_poll_seconds)
            node = self._node(name)
            if annotation(node, DESIRED_DRAIN) == annotation(node, LAST_DRAIN):
                return True
        return False

    async def _write(self, name: str, new: Object, old: Object, changes: Difference) -> None:
        """The files, and a new system's tree where the image is another one."""
        desired, image = new["metadata"]["name"], new["spec"]["osImageURL"]
        await self._clock.sleep(self._timing.write_files_seconds)
        self._event(name, "OSUpdateStarted", "Upgrading OS" if changes.os_update else "")
        if changes.os_update:
            self._event(name, "InClusterUpgrade", f"Updating from oscontainer {image}")
            await self._clock.sleep(self._timing.os_update_seconds)
            self._event(name, "OSUpgradeApplied", f"OS upgrade applied; new MachineConfig ({desired}) has new OS image ({image})")
        else:
            self._event(name, "OSUpgradeSkipped", f"OS upgrade skipped; new MachineConfig ({desired}) has same OS image ({image}) "
                        f"as old MachineConfig ({old['metadata']['name']})")
        self._event(name, "OSUpdateStaged", "Changes to OS staged")
        self._event(name, "PendingConfig", f"Written pending config {desired}")

    async def _reboot(self, name: str, desired: str) -> None:
        """Down and up again, as long as such a machine takes."""
        timing, slow = self._timing, self._cluster.faults.reboot_slowdown
        self._cluster.truth.write("node-rebooting", "", name)
        await self._clock.sleep(timing.shutdown_seconds * slow)
        self._cluster.hosts.power_off(name)
        spread = self._cluster.random.uniform(1 - timing.reboot_spread, 1 + timing.reboot_spread)
        await self._clock.sleep((timing.firmware_seconds + timing.os_boot_seconds) * spread * slow)
        while self._cluster.faults.stays_down(name):
            await self._clock.sleep(timing.daemon_retry_most_seconds)
        self._kubelets.boot(name, desired)
        self._cluster.hosts.power_on(name)
        self._cluster.truth.write("node-booted", "", name)
        # The daemon is a pod as any other: it runs once the kubelet and the network do.
        await self._clock.sleep(self._cluster.timing.kubernetes.kubelet_start_seconds + self._cluster.timing.kubernetes.node_network_seconds
                                + timing.daemon_start_seconds)
        await self._powered(name)

    async def _complete(self, name: str, desired: str) -> None:
        """The node is in its config: have it uncordoned, and say so."""
        request = f"uncordon-{desired}"
        if self._timing.drained_by == "daemon":
            await self._drainer.cordon(name, False, self._client(name))
            self._event(name, "Uncordon", f"Update completed for config {desired} and node has been uncordoned")
        elif annotation(self._node(name), LAST_DRAIN) != request:
            self._annotate(name, {DESIRED_DRAIN: request})
            if not await self._applied(name, self._timing.uncordon_timeout_seconds):
                message = f"failed to uncordon node: {name} after 10 minutes. Please see machine-config-controller logs for more information"
                self._event(name, "FailedToUncordon", message, "Warning")
                raise UpdateError(message)
            self._event(name, "Uncordon", f"Update completed for config {desired} and node has been uncordoned")
        self._event(name, "NodeDone", f"Setting node {name}, currentConfig {desired} to Done")
        self._pending.pop(name, None)
        self._annotate(name, {STATE: "Done", CURRENT: desired, REASON: ""})
        self._cluster.truth.write("node-done", "", name, config=desired)
