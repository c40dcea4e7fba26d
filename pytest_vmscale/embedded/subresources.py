"""virt-api: what subresources.kubevirt.io does to VMs, in KubeVirt's words. Its client is rate limited as the real one's."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from . import guest_agent
from .api import errors
from .api.calls import following
from .api.errors import ApiError
from .api.representations import read_body
from .api.server import ApiServer
from .api.store import Change, Object
from .controllers.common import Cluster, decoded
from .controllers.kubevirt_admission import admit_migration
from .controllers.kubevirt_client import FINAL_PHASES, Client, has_condition, phase_of, set_vmi_condition
from .controllers.kubevirt_status import run_strategy
from .guest_ssh import RDP_PORT, SSH_PORT
from .guests import Guest, Guests
from .subresources_volumes import VolumeRequests

GROUP, VERSIONS = "subresources.kubevirt.io", ("v1", "v1alpha3")
VM, VMI = "virtualmachines", "virtualmachineinstances"
PROTOCOL = "plain.kubevirt.io"
CHUNK_BYTES = 65536
# How the release's KubeVirt was built. The commit is this project's own: nothing looks it up.
BUILD = {"gitCommit": "7c9d63a1e2f84b50c6d3f1a90b8e27d45c61af03", "gitTreeState": "clean", "buildDate": "2022-01-19T11:22:40Z", "goVersion": "go1.16.6",
         "compiler": "gc", "platform": "linux/amd64"}


class Handler(Protocol):
    async def __call__(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse: ...


def refused(what: str, name: str, why: str) -> ApiError:
    """A conflict as virt-api words it: the resource in the singular."""
    return errors.conflict(what, "kubevirt.io", name, why)


class VirtApi:
    """The replicas of virt-api: as many as its Deployment has ready. Requests go to them in turn, as a service spreads connections."""

    def __init__(self, cluster: Cluster, guests: Guests) -> None:
        self._cluster, self._resources, self._clock, self._guests = cluster, cluster.resources, cluster.clock, guests
        self._timing = cluster.timing.virt_api
        self._replicas: list[Client] = []
        self._count, self._requests = 1, itertools.count()
        kind = cluster.resources.kind
        self._deployments = kind("deployments.apps")
        self._vms, self._vmis = kind("virtualmachines.kubevirt.io"), kind("virtualmachineinstances.kubevirt.io")
        self._kubevirts = kind("kubevirts.kubevirt.io")
        self._migrations = kind("virtualmachineinstancemigrations.kubevirt.io")
        self._volumes = VolumeRequests(cluster, self._replica)
        self._admit_migration = admit_migration(cluster.resources)

    def _replica(self) -> Client:
        """Whose turn it is."""
        while len(self._replicas) < self._count:
            self._replicas.append(Client(self._cluster, "virt-api", self._timing))
        return self._replicas[next(self._requests) % self._count]

    def _scaled(self, change: Change) -> None:
        if change.key[1] == "virt-api" and change.type != "DELETED":
            ready = (decoded(change.new).get("status") or {}).get("readyReplicas")
            self._count = ready or self._count  # with none ready, what serves is about to end, or not known yet

    def serve(self, server: ApiServer) -> None:
        """Add the subresources to the API server."""
        self._resources.watch(self._deployments, self._scaled)
        for entry in self._resources.store.entries(self._deployments):
            if entry.key[1] == "virt-api":  # a cluster at rest: all that are wanted are there
                self._count = int(entry.obj["spec"]["replicas"])
        actions: list[tuple[str, str, set[str], Handler]] = [
            (VM, "start", {"PUT"}, self.start), (VM, "stop", {"PUT"}, self.stop), (VM, "restart", {"PUT"}, self.restart),
            (VM, "migrate", {"PUT"}, self.migrate), (VM, "portforward", {"GET"}, self.vm_portforward),
            (VMI, "pause", {"PUT"}, self.pause), (VMI, "unpause", {"PUT"}, self.unpause), (VMI, "softreboot", {"PUT"}, self.soft_reboot),
            (VMI, "portforward", {"GET"}, self.portforward), (VMI, "console", {"GET"}, self.console), (VMI, "guestosinfo", {"GET"}, self._agent(guest_agent.info)),
            (VM, "addvolume", {"PUT"}, self._volumes.add_to_vm), (VM, "removevolume", {"PUT"}, self._volumes.remove_from_vm),
            (VMI, "addvolume", {"PUT"}, self._volumes.add_to_vmi), (VMI, "removevolume", {"PUT"}, self._volumes.remove_from_vmi),
            (VMI, "userlist", {"GET"}, self._agent(guest_agent.users)), (VMI, "filesystemlist", {"GET"}, self._agent(guest_agent.file_systems)),
        ]
        for version in VERSIONS:
            server.add_group(GROUP, version, [
                {"name": f"{plural}/{action}", "singularName": "", "namespaced": True, "kind": "", "verbs": ["get"] if methods == {"GET"} else ["update"]}
                for plural, action, methods, _ in actions])
            for plural, action, methods, handler in actions:
                server.add_subresource(GROUP, version, plural, action, methods, handler)
            server.add_resource(GROUP, version, "version", {"GET"}, self.version)

    async def stop_clients(self) -> None:
        for client in self._replicas:
            await client.stop()

    # Reading.

    async def _vm(self, client: Client, namespace: str, name: str) -> Object:
        await client.read()
        vm = self._resources.find(self._vms, namespace, name)
        if vm is None:
            raise errors.not_found("virtualmachine", "kubevirt.io", name)
        return vm

    async def _vmi(self, client: Client, namespace: str, name: str) -> Object | None:
        await client.read()
        return self._resources.find(self._vmis, namespace, name)

    async def _needed_vmi(self, client: Client, namespace: str, name: str) -> Object:
        vmi = await self._vmi(client, namespace, name)
        if vmi is None:
            raise errors.not_found("virtualmachineinstance", "kubevirt.io", name)
        return vmi

    # Starting and stopping.

    async def start(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        asked_at = self._clock.now()
        client, options = self._replica(), await _options(request)
        vm = await self._vm(client, namespace, name)
        vmi = await self._vmi(client, namespace, name)
        if vmi is not None and phase_of(vmi) not in (*FINAL_PHASES, ""):
            raise refused("virtualmachine", name, "VM is already running")
        strategy, dry_run = run_strategy(vm), bool(options.get("dryRun"))
        if strategy in ("Always", "Once"):
            raise refused("virtualmachine", name, f"{strategy} does not support manual start requests")
        if strategy == "RerunOnFailure" and vmi is not None and phase_of(vmi) == "Failed":
            raise refused("virtualmachine", name, "RerunOnFailure does not support starting VM from failed state")
        if strategy == "Halted":
            await self._write(client, namespace, name, _switch(True), dry_run)
        else:
            restart = vmi is not None and phase_of(vmi) in FINAL_PHASES
            stops = [{"action": "Stop", "uid": vmi["metadata"]["uid"]}] if restart and vmi else []
            await self._write(client, namespace, name, _ask([*stops, {"action": "Start"}]), dry_run, "status")
        if not dry_run:
            self._cluster.truth.write("vm-start-requested", namespace, name, at=asked_at)
        return web.Response(status=202)

    async def stop(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        client, options = self._replica(), await _options(request)
        vm = await self._vm(client, namespace, name)
        vmi = await self._vmi(client, namespace, name)
        strategy, dry_run, grace = run_strategy(vm), bool(options.get("dryRun")), options.get("gracePeriod")
        if vmi is None or phase_of(vmi) in FINAL_PHASES or phase_of(vmi) == "":
            raise refused("virtualmachine", name, "VM is not running")
        if strategy == "Halted":
            current = vmi["spec"].get("terminationGracePeriodSeconds")
            if grace is None or (current is not None and grace >= current):
                raise refused("virtualmachine", name, "Halted only supports manual stop requests with a shorter graceperiod")
        if grace is not None and not dry_run:
            await client.modify(self._vmis, namespace, name, lambda vmi: vmi["spec"].update(terminationGracePeriodSeconds=int(grace)))
        if strategy in ("Always", "Once"):
            await self._write(client, namespace, name, _switch(False), dry_run)
        elif strategy != "Halted":
            await self._write(client, namespace, name, _ask([{"action": "Stop", "uid": vmi["metadata"]["uid"]}]), dry_run, "status")
        return web.Response(status=202)

    async def restart(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        client, options = self._replica(), await _options(request)
        grace = options.get("gracePeriodSeconds")
        if grace is not None and grace != 0:
            raise ApiError(400, "For force restart, only gracePeriod=0 is supported for now" if grace > 0 else "gracePeriod has to be greater or equal to 0")
        vm = await self._vm(client, namespace, name)
        strategy = run_strategy(vm)
        if strategy in ("Halted", "Once"):
            raise refused("virtualmachine", name, f"RunStategy {strategy} does not support manual restart requests")
        vmi = await self._vmi(client, namespace, name)
        if vmi is None:
            raise refused("virtualmachine", name, "VM is not running: Halted")
        if grace == 0 and not options.get("dryRun"):
            await client.modify(self._vmis, namespace, name, lambda vmi: vmi["spec"].update(terminationGracePeriodSeconds=0))
        await self._write(client, namespace, name, _ask([{"action": "Stop", "uid": vmi["metadata"]["uid"]}, {"action": "Start"}]),
                          bool(options.get("dryRun")), "status")
        return web.Response(status=202)

    async def _write(self, client: Client, namespace: str, name: str, change: Callable[[Object], None], dry_run: bool, subresource: str = "") -> None:
        """Patch the VM. A state change request that is already under way is virt-api's failed JSON patch test."""
        vm = self._resources.get(self._vms, namespace, name)
        try:
            change(vm)
        except Underway:
            await client.request()
            raise ApiError(500, "Internal error occurred: unable to complete request: stop/start already underway") from None
        if dry_run:
            await client.request()
            return
        await client.modify(self._vms, namespace, name, change, subresource=subresource)

    async def migrate(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        client, options = self._replica(), await _options(request)
        await self._vm(client, namespace, name)
        vmi = await self._needed_vmi(client, namespace, name)
        if phase_of(vmi) != "Running":
            raise refused("virtualmachine", name, "VM is not running")
        migration = {"metadata": {"generateName": "kubevirt-migrate-vm-", "namespace": namespace}, "spec": {"vmiName": name}}
        try:
            self._admit_migration(migration, None)
        except ApiError as refusal:
            raise ApiError(500, f"Internal error occurred: {refusal.message}") from None
        if not options.get("dryRun"):
            await client.create(self._migrations, migration)
        return web.Response(status=202)

    # The guest as it runs.

    async def pause(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        return await self._set_paused(request, namespace, name, True)

    async def unpause(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        return await self._set_paused(request, namespace, name, False)

    async def _set_paused(self, request: web.Request, namespace: str, name: str, paused: bool) -> web.StreamResponse:
        client, options = self._replica(), await _options(request)
        vmi = await self._needed_vmi(client, namespace, name)
        if phase_of(vmi) != "Running":
            raise refused("virtualmachineinstance", name, "VM is not running")
        if has_condition(vmi, "Paused") == paused:
            raise refused("virtualmachineinstance", name, "VMI is already paused" if paused else "VMI is not paused")
        if not options.get("dryRun"):
            self._guests.set_paused(vmi["metadata"]["uid"], paused)
            await client.modify(self._vmis, namespace, name, lambda vmi: self._write_paused(vmi, paused))
        return web.Response(status=202)

    def _write_paused(self, vmi: Object, paused: bool) -> None:
        status, now = vmi["status"], self._clock.timestamp()
        if paused:
            set_vmi_condition(status, "Paused", "True", now, "PausedByUser", "VMI was paused by user")
        else:
            status["conditions"] = [each for each in status["conditions"] if each["type"] != "Paused"]

    async def soft_reboot(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        client = self._replica()
        vmi = await self._needed_vmi(client, namespace, name)
        if phase_of(vmi) != "Running":
            raise refused("virtualmachineinstance", name, "VMI is not running")
        if has_condition(vmi, "Paused"):
            raise refused("virtualmachineinstance", name, "VMI is paused")
        if not has_condition(vmi, "AgentConnected"):
            raise refused("virtualmachineinstance", name, "VMI neither have the agent connected nor the ACPI feature enabled")
        self._guests.reboot(vmi["metadata"]["uid"])
        return web.Response(status=202)

    def _agent(self, tell: Callable[[Guest, float], Object]) -> Handler:
        """What the guest agent tells; it is virt-handler that asks it. Refusals of what is only read are plain text."""
        async def handle(request: web.Request, namespace: str, name: str) -> web.StreamResponse:
            vmi, guest = await self._vmi(self._replica(), namespace, name), self._guests.find(namespace, name)
            if vmi is None:
                why = errors.not_found("virtualmachineinstance", "kubevirt.io", name)
            elif phase_of(vmi) != "Running" or guest is None:
                why = refused("virtualmachineinstance", name, "VMI is not running")
            elif not has_condition(vmi, "AgentConnected"):
                why = refused("virtualmachineinstance", name, "VMI does not have guest agent connected")
            else:
                return web.json_response(tell(guest, self._clock.epoch))
            return web.Response(status=500, text=why.message)

        return handle

    # What is about no VM.

    async def version(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        """Which KubeVirt this is."""
        found = next((entry.obj for entry in self._resources.store.entries(self._kubevirts)), {})
        version = found.get("status", {}).get("observedKubeVirtVersion", "")
        return web.json_response({"gitVersion": f"v{version}", **BUILD})

    # Streams.

    async def vm_portforward(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        vm = await self._vm(self._replica(), namespace, name)
        if not vm.get("status", {}).get("created"):
            raise refused("virtualmachine", name, "VMI is not started")
        return await self.portforward(request, namespace, name)

    async def portforward(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        """.../portforward/PORT[/tcp]: a WebSocket whose binary messages are the bytes of a TCP connection into the guest."""
        rest = following(request)
        if not rest or not rest[0].isdigit() or not 0 < int(rest[0]) < 65536 or len(rest) > 2:
            raise ApiError(400, "port must be a number between 1 and 65535, then an optional protocol")
        if len(rest) == 2 and rest[1] != "tcp":
            raise ApiError(400, f"only tcp is forwarded to these guests, not {rest[1]}")
        vmi = await self._needed_vmi(self._replica(), namespace, name)
        if has_condition(vmi, "Paused"):
            raise refused("virtualmachineinstance", name, "VMI is paused")
        guest = self._guests.find(namespace, name)
        if guest is None or not vmi["status"].get("interfaces"):
            raise ApiError(400, "no network interfaces are present")
        port = self._guests.ssh_port if int(rest[0]) in (SSH_PORT, self._guests.ssh_port) else int(rest[0])
        if port not in (self._guests.ssh_port, RDP_PORT):
            port = 1  # nothing listens there; the cluster's own ports on this machine are no guest's
        try:
            reader, writer = await asyncio.open_connection(guest.address, port)
        except OSError as error:
            raise ApiError(500, f"Internal error occurred: dialing VM: dial tcp {guest.address}:{rest[0]}: {error.strerror or error}") from None
        try:
            socket = await _upgraded(request)
            await self._pump(socket, reader, writer)
        finally:
            writer.close()
        return socket

    async def console(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        """The guest's serial port as a WebSocket. virt-handler lets one client have it: the next one cuts off the last, without a word."""
        vmi = await self._needed_vmi(self._replica(), namespace, name)
        if vmi["spec"]["domain"].get("devices", {}).get("autoattachSerialConsole") is False:
            raise ApiError(400, "No serial consoles are present.")
        if phase_of(vmi) == "Failed":
            raise refused("virtualmachineinstance", name, "VMI is in failed status")
        guest = self._guests.find(namespace, name)
        if phase_of(vmi) != "Running" or guest is None:
            raise ApiError(400, "VMI is not running")
        socket = await _upgraded(request)
        transport = request.transport
        output: asyncio.Queue[bytes] = asyncio.Queue()
        client = self._guests.console(guest).connect(output.put_nowait, lambda: transport.abort() if transport else None)
        sender = asyncio.create_task(_send_all(socket, output), name="console output")
        try:
            async for message in socket:
                if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                    break
                await client.type(message.data if isinstance(message.data, bytes) else message.data.encode())
        finally:
            client.disconnect()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return socket

    @staticmethod
    async def _pump(socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends."""
        async def out() -> None:
            while data := await reader.read(CHUNK_BYTES):
                await socket.send_bytes(data)

        async def back() -> None:
            async for message in socket:
                if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                    return
                writer.write(message.data if isinstance(message.data, bytes) else message.data.encode())
                await writer.drain()

        tasks: list[asyncio.Task[None]] = [asyncio.create_task(out()), asyncio.create_task(back())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await socket.close()


class Underway(Exception):
    """A start or stop was asked for already, and has not happened yet."""


async def _upgraded(request: web.Request) -> web.WebSocketResponse:
    """The request's WebSocket. ApiError if it asks for none."""
    socket = web.WebSocketResponse(protocols=(PROTOCOL,), max_msg_size=0)
    try:
        await socket.prepare(request)
    except web.HTTPBadRequest:
        raise ApiError(400, "websocket: the client is not using the websocket protocol: 'upgrade' token not found in 'Connection' header") from None
    return socket


async def _send_all(socket: web.WebSocketResponse, output: asyncio.Queue[bytes]) -> None:
    while True:
        await socket.send_bytes(await output.get())


def _switch(on: bool) -> Callable[[Object], None]:
    def change(vm: Object) -> None:
        spec = vm["spec"]
        if spec.get("running") is not None:
            spec["running"] = on
        else:
            spec["runStrategy"] = "Always" if on else "Halted"

    return change


def _ask(requests: list[dict[str, Any]]) -> Callable[[Object], None]:
    def change(vm: Object) -> None:
        status = vm.setdefault("status", {})
        if status.get("stateChangeRequests") and status["stateChangeRequests"] != requests:
            raise Underway
        status["stateChangeRequests"] = requests

    return change


async def _options(request: web.Request) -> dict[str, Any]:
    """The body of a PUT: an options object, or nothing."""
    body = await read_body(request)
    if not body.strip():
        return {}
    try:
        options = await request.json()
    except ValueError as error:
        raise ApiError(400, f"Can not unmarshal Request body to struct, error: {error}") from None
    if not isinstance(options, dict):
        raise ApiError(400, "Can not unmarshal Request body to struct, error: an object is needed")
    return options

