"""The embedded cluster, put together: store, API server, controllers and guests, in one process on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson
from aiohttp import web

from .api.errors import ApiError
from .api.kinds import load_kinds
from .api.resources import Resources
from .api.server import ApiServer
from .api.store import Store
from .ceph import Ceph
from .clock import SimClock
from .controllers import KUBERNETES_CONTROLLERS
from .controllers.cdi import DataVolumes
from .controllers.clusterversion import ClusterVersions
from .controllers.disruption import Evictions
from .controllers.hyperconverged import HyperConverged
from .controllers.kubevirt_admission import admit_clones, admit_migration, admit_vm
from .controllers.kubevirt_client import Client
from .controllers.kubevirt_defaults import set_defaults
from .controllers.kubevirt_evacuation import Evacuations, EvictionWebhook
from .controllers.kubevirt_handler import VirtHandlers
from .controllers.kubevirt_hotplug import Hotplug
from .controllers.kubevirt_migration import Migrations
from .controllers.kubevirt_migration_handler import MigrationHandlers
from .controllers.kubevirt_operator import VirtOperator
from .controllers.kubevirt_vm import VirtualMachines
from .controllers.kubevirt_vmi import VirtualMachineInstances
from .controllers.machineconfig import MachineConfigOperator
from .faults import Fault, Faults
from .guest_ssh import Sshd
from .guests import Guests
from .hosts import Hosts
from .iomodel import Pool
from .pod_exec import PodExec
from .state import State
from .subresources import VirtApi
from .timing import Timing
from .truth import Truth

HOST = "127.0.0.1"
CLOCK_PATH = "/vmscale/clock"
CLOCK_AGAIN_WALL_SECONDS = 10.0  # to those who follow it, though it has not changed
# The cluster makes little garbage in cycles, and a collection over all its objects would stop everything for a moment.
GC_THRESHOLDS = (50_000, 20, 100)


class Controller(Protocol):
    def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass
class Options:
    """What an embedded cluster is asked to be."""

    timing: Timing
    speed: float = 20.0
    workers: int = 100
    seed: int = 0
    plan: list[Fault] = field(default_factory=list)
    truth: Path | None = None
    port: int = 0
    guest_ssh_port: int = 2222


class Cluster:
    """All its parts are attributes; controllers are given the cluster itself."""

    def __init__(self, options: Options, state: State) -> None:
        """Needs a running event loop. OSError if there is no network for the guests."""
        self._options, self._state = options, state
        self.clock = SimClock(options.speed)
        self.resources = Resources(Store(), load_kinds(), self.clock, options.seed)
        self.timing: Any = options.timing
        self.truth = Truth(self.clock, options.truth)
        self.faults = Faults(self.clock, options.plan, options.seed)
        self.random = random.Random(options.seed)
        self.hosts = Hosts()
        self.ceph = Ceph(self)
        self.evictions = Evictions(self.resources, self.clock.timestamp, self.truth)
        self.workers = options.workers
        self._clock_readers: set[asyncio.Event] = set()
        self._stopping = False
        self.clock.on_change(self._clock_changed)
        self._tls = state.tls([HOST])
        self.ca_certificate = state.ca_certificate
        self.sshd = Sshd(self.clock, options.guest_ssh_port)
        seed = self.random.random()
        self.pool = Pool(self.clock, self.timing.pool, self.faults, self._worker_names, seed)
        self.guests = Guests(self.clock, self.timing.guests, self.faults, self.truth, seed, self.sshd, self.pool)
        self.server = ApiServer(self.resources, self.clock, admin_token=state.token, faults=self.faults)
        self.virt_api = VirtApi(self, self.guests)
        self.pod_exec = PodExec(self, self.guests)
        self.virt_controller = Client(self, "virtualmachine-controller", self.timing.virt_controller)
        vmis = VirtualMachineInstances(self, self.virt_controller)
        handlers = VirtHandlers(self, self.guests, vmis.launchers)
        migrations = Migrations(self, self.virt_controller, vmis.launchers)
        self._controllers: list[Controller] = [
            *(controller(self) for controller in KUBERNETES_CONTROLLERS), MachineConfigOperator(self), ClusterVersions(self),
            HyperConverged(self), VirtOperator(self), DataVolumes(self),
            VirtualMachines(self, self.virt_controller), vmis, handlers, migrations,
            MigrationHandlers(self, self.guests, handlers), Hotplug(self, self.virt_controller, handlers, vmis.launchers),
            Evacuations(self, self.virt_controller, migrations)]
        self.evictions.hooks.append(EvictionWebhook(self))

    def _worker_names(self) -> list[str]:
        return sorted(name for name in self.hosts.machines if name.startswith("worker"))

    async def start(self) -> Path:
        """Serve. Returns the kubeconfig."""
        for controller in self._controllers:
            controller.start()
            setup = getattr(controller, "serve", None)
            if setup:
                setup(self.server)
        self.virt_api.serve(self.server)
        self.pod_exec.serve(self.server)
        vms = self.resources.kind("virtualmachines.kubevirt.io")
        self.server.add_admission(vms, admit_vm)
        self.server.add_admission(vms, admit_clones(self.resources, self.server.authorizer))
        vmis = self.resources.kind("virtualmachineinstances.kubevirt.io")
        self.server.add_admission(vmis, lambda vmi, old: set_defaults(self, vmi) if old is None else None)
        self.server.add_admission(self.resources.kind("virtualmachineinstancemigrations.kubevirt.io"), admit_migration(self.resources))
        self.server.add_route("GET", CLOCK_PATH, self._get_clock)
        self.server.add_route("PUT", CLOCK_PATH, self._put_clock)
        await self.sshd.start(self._state.jump_key, self._state.write)
        port = await self.server.serve(HOST, self._options.port, self._tls)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sshd = self.sshd
        return self._state.write_kubeconfig(f"https://{HOST}:{port}", {
            "speed": self.clock.speed, "guestSshPort": sshd.port,
            "jumpHost": {"host": sshd.bastion_host, "port": sshd.port, "user": sshd.bastion_user, "keyFile": str(self._state.jump_key.absolute())}})

    async def stop(self) -> None:
        self._stopping = True
        for changed in self._clock_readers:
            changed.set()
        await self.server.close()
        for controller in reversed(self._controllers):
            await controller.stop()
        await self.virt_controller.stop()
        await self.virt_api.stop_clients()
        await self.pod_exec.stop()
        await self.sshd.stop()
        self.truth.close()

    # Cluster time, for clients of the embedded cluster alone.

    def _clock_changed(self) -> None:
        self.truth.clock_changed()
        for changed in self._clock_readers:
            changed.set()

    def _clock_now(self) -> dict[str, float]:
        monotonic = time.monotonic()
        return {"speed": self.clock.speed, "epoch": self.clock.epoch + self.clock.outside(), "monotonic": monotonic}

    async def _get_clock(self, request: web.Request) -> web.StreamResponse:
        """What time it is, and how fast it runs. With ?follow, that again whenever it has changed, a line each."""
        if "follow" not in request.query:
            return web.json_response(self._clock_now())
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        changed = asyncio.Event()
        self._clock_readers.add(changed)
        try:
            while not self._stopping:
                changed.clear()
                await response.write(orjson.dumps(self._clock_now()) + b"\n")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), CLOCK_AGAIN_WALL_SECONDS)
        except ConnectionResetError:
            pass  # the client has gone
        finally:
            self._clock_readers.discard(changed)
        return response

    async def _put_clock(self, request: web.Request) -> web.StreamResponse:
        try:
            speed = (await request.json())["speed"]
            if isinstance(speed, bool):
                raise TypeError("speed must be a number")
            self.clock.set_speed(float(speed))
        except (ValueError, TypeError, KeyError) as error:
            raise ApiError(400, f'{CLOCK_PATH} takes {{"speed": NUMBER}}: {error!r}') from None
        return web.json_response(self._clock_now())
