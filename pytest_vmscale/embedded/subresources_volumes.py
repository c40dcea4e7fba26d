"""virt-api's addvolume and removevolume: onto a VM, where it lasts, or into the instance that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from .api import errors
from .api.errors import ApiError
from .api.representations import read_body
from .api.store import Object
from .controllers.common import Cluster
from .controllers.kubevirt_client import Client, phase_of
from .controllers.kubevirt_config import configuration
from .controllers.kubevirt_hotplug import apply_request
from .controllers.kubevirt_pod import claim_name, is_hotpluggable

VM, VMI = "virtualmachines", "virtualmachineinstances"
GATES = ("HotplugVolumes", "DeclarativeHotplugVolumes")


class VolumeRequests:
    """`replica` gives the client of the virt-api whose turn it is."""

    def __init__(self, cluster: Cluster, replica: Callable[[], Client]) -> None:
        self._cluster, self._resources, self._replica = cluster, cluster.resources, replica
        self._vms, self._vmis = cluster.resources.kind(f"{VM}.kubevirt.io"), cluster.resources.kind(f"{VMI}.kubevirt.io")

    async def add_to_vm(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        return await self._ask_vm(await self._added(request), namespace, name)

    async def remove_from_vm(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        return await self._ask_vm(await self._removed(request), namespace, name)

    async def add_to_vmi(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        return await self._change_vmi(await self._added(request), namespace, name)

    async def remove_from_vmi(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        return await self._change_vmi(await self._removed(request), namespace, name)

    # What is asked for.

    async def _options(self, request: web.Request) -> Object:
        if not set(GATES) & set((configuration(self._cluster).get("developerConfiguration") or {}).get("featureGates") or ()):
            raise ApiError(400, "Enable DeclarativeHotplugVolumes or HotplugVolumes feature gate to use this API.")
        if not (await read_body(request)).strip():
            raise ApiError(400, "Request with no body, a new name is expected as the request body")
        try:
            options: Any = await request.json()
        except ValueError as error:
            raise ApiError(400, f"Can not unmarshal Request body to struct, error: {error}") from None
        if not isinstance(options, dict):
            raise ApiError(400, "Can not unmarshal Request body to struct, error: an object is needed")
        return options

    async def _added(self, request: web.Request) -> Object:
        options = await self._options(request)
        for field, words in (("name", "name to be set"), ("disk", "disk to not be nil"), ("volumeSource", "VolumeSource to not be nil")):
            if not options.get(field):
                raise ApiError(400, f"AddVolumeOptions requires {words}")
        for source in options["volumeSource"].values():
            source["hotpluggable"] = True
        options["disk"]["name"] = options["name"]
        return {"addVolumeOptions": options}

    async def _removed(self, request: web.Request) -> Object:
        options = await self._options(request)
        if not options.get("name"):
            raise ApiError(400, "RemoveVolumeOptions requires name to be set")
        return {"removeVolumeOptions": options}

    # What comes of it.

    async def _ask_vm(self, asked: Object, namespace: str, name: str) -> web.StreamResponse:
        client = self._replica()
        await client.read()
        vm = self._resources.find(self._vms, namespace, name)
        if vm is None:
            raise errors.not_found("virtualmachine", "kubevirt.io", name)
        why = _refusal(vm["spec"]["template"]["spec"], asked) or _pending(vm, asked)
        if why:
            raise errors.conflict("virtualmachine", "kubevirt.io", name, why)

        def change(vm: Object) -> None:
            before = vm.setdefault("status", {}).get("volumeRequests") or []
            removed = (asked.get("removeVolumeOptions") or {}).get("name")
            vm["status"]["volumeRequests"] = [*(each for each in before if (each.get("addVolumeOptions") or {}).get("name", "") != removed), asked]

        if not _dry_run(asked):
            await client.modify(self._vms, namespace, name, change, subresource="status")
        return web.Response(status=202)

    async def _change_vmi(self, asked: Object, namespace: str, name: str) -> web.StreamResponse:
        client = self._replica()
        await client.read()
        vmi = self._resources.find(self._vmis, namespace, name)
        if vmi is None:
            raise errors.not_found("virtualmachineinstance", "kubevirt.io", name)
        why = _refusal(vmi["spec"], asked) if phase_of(vmi) == "Running" else "VMI is not running"
        if why:
            raise errors.conflict("virtualmachineinstance", "kubevirt.io", name, why)
        if not _dry_run(asked):
            await client.modify(self._vmis, namespace, name, lambda vmi: apply_request(vmi["spec"], asked))
        return web.Response(status=202)


def _refusal(spec: Object, asked: Object) -> str | None:
    """Why this volume cannot be plugged in or out."""
    volumes, add = spec.get("volumes") or [], asked.get("addVolumeOptions")
    if add:
        source = claim_name(add["volumeSource"])
        for volume in volumes:
            if volume["name"] == add["name"]:
                return f"Unable to add volume [{add['name']}] because volume with that name already exists"
            if claim_name(volume) == source:
                return f"Unable to add volume source [{source}] because it already exists"
        return None
    name = asked["removeVolumeOptions"]["name"]
    found = next((each for each in volumes if name in (each["name"], claim_name(each))), None)
    if found is None:
        return f"Unable to remove volume [{name}] because it does not exist"
    return None if is_hotpluggable(found) else f"Unable to remove volume [{found['name']}] because it is not hotpluggable"


def _pending(vm: Object, asked: Object) -> str | None:
    """Whether the same has been asked for and is not done yet."""
    for key, words in (("addVolumeOptions", "add volume request for volume [{name}] already exists"),
                       ("removeVolumeOptions", "a remove volume request for volume [{name}] already exists and is still being processed")):
        name = (asked.get(key) or {}).get("name")
        if name and any((each.get(key) or {}).get("name") == name for each in vm.get("status", {}).get("volumeRequests") or ()):
            return words.format(name=name)
    return None


def _dry_run(asked: Object) -> bool:
    return any(each.get("dryRun") for each in asked.values())
