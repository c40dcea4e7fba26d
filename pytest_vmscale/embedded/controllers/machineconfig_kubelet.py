"""KubeletConfigs, what machine configs come of them, and the kubelets that run with them.

Each KubeletConfig becomes a complete kubelet.conf: the template's, with this one object's fields over it. Two of them on one pool
do not add up: both write the same file, and the MachineConfig of the later name wins with all of its defaults.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .. import yamls
from ..api import errors
from ..api.calls import following
from ..api.store import Change, Object
from ..queue import Workers
from .common import Cluster, decoded, owner_reference, selects
from .machineconfig_names import CONFIGS, GENERATED_BY, GROUP, KUBELET_CONFIGS, POOLS, ROLE, generated_by
from .machineconfig_render import VERSION, file, text_of
from .node_logs import journal

if TYPE_CHECKING:
    from ..api.server import ApiServer

KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
SUFFIX = f"{GROUP}/mc-name-suffix"  # of the MachineConfig's name, on the KubeletConfig
MOST_SUFFIX = 9  # ten KubeletConfigs for a pool
MOST_CONDITIONS = 3
NOT_ALLOWED = ("cgroupDriver", "clusterDNS", "clusterDomain", "featureGates", "staticPodPath")
OWN = ("kind", "apiVersion")


class Refused(ValueError):
    """A KubeletConfig that is not applied; the message goes into its status."""


class KubeletConfigs:
    """The kubelet config controller."""

    def __init__(self, cluster: Cluster, templates: dict[str, Object]) -> None:
        """`templates` are the kubelet.conf of each role."""
        self._cluster, self._resources, self._clock, self._templates = cluster, cluster.resources, cluster.clock, templates
        self._kind, self._pools, self._configs = (cluster.resources.kind(name) for name in (KUBELET_CONFIGS, POOLS, CONFIGS))
        timing = cluster.timing.machine_config
        self._accepted: bool = timing.kubelet_config_accepted
        self._workers = Workers("kubelet-configs", cluster.clock, int(timing.controller_workers), self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._kind, self._changed)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _changed(self, change: Change) -> None:
        new = decoded(change.new)
        if change.type != "DELETED" and (change.old is None or "deletionTimestamp" in new["metadata"] or (
                change.old.obj["metadata"]["generation"] != new["metadata"]["generation"])):
            self._workers.queue.add(change.key[1])

    async def _reconcile(self, name: str) -> None:
        config = self._resources.find(self._kind, "", name)
        if config is None:
            return
        if "deletionTimestamp" in config["metadata"]:
            self._remove(config)
        else:
            self.apply(config)

    def apply(self, config: Object) -> None:
        """Make or change the MachineConfig of each pool that it selects."""
        name = config["metadata"]["name"]
        try:
            self._check(config["spec"])
            pools = [pool for pool in self._resources.list(self._pools)
                     if self._selected(config, pool["metadata"].get("labels") or {})]
            if not pools:
                raise Refused(f"KubeletConfig {name} does not match any MachineConfigPools")
            for pool in pools:
                self._apply(config, pool)
        except Refused as error:
            self._report(name, f"Error: {error}")
        else:
            self._report(name, "")

    @staticmethod
    def _selected(config: Object, labels: dict[str, str]) -> bool:
        selector = config["spec"].get("machineConfigPoolSelector") or {}
        return bool(selector.get("matchLabels") or selector.get("matchExpressions")) and selects(selector, labels)

    @staticmethod
    def _check(spec: Object) -> None:
        level, kubelet = spec.get("logLevel"), spec.get("kubeletConfig") or {}
        if level is not None and not 1 <= level <= 10:
            raise Refused(f"KubeletConfig's LogLevel is not valid [1,10]: {level}")
        for key in NOT_ALLOWED:
            if kubelet.get(key):
                raise Refused(f"KubeletConfiguration: {key} is not allowed to be set, but contains: {_go(kubelet[key])}")
        if kubelet.get("systemReserved") and spec.get("autoSizingReserved"):
            raise Refused("KubeletConfiguration: autoSizingReserved and systemdReserved cannot be set together")

    def _apply(self, config: Object, pool: Object) -> None:
        role = pool["metadata"]["name"]
        name, suffix = self._name(config, role)
        template = copy.deepcopy(self._templates["master" if role == "master" else "worker"])
        overrides = {key: value for key, value in (config["spec"].get("kubeletConfig") or {}).items() if key not in OWN}
        files = [file(KUBELET_CONF, json.dumps(_merged(template, overrides), indent=2) + "\n")]
        level = config["spec"].get("logLevel")
        if level is not None:
            files.insert(0, file("/etc/systemd/system/kubelet.service.d/20-logging.conf", f'[Service]\nEnvironment="KUBELET_LOG_LEVEL={level}"\n'))
        content: Object = {"config": {"ignition": {"version": VERSION}, "storage": {"files": files}}}
        notes = {GENERATED_BY: generated_by(self._cluster)}
        if self._resources.find(self._configs, "", name) is None:
            self._resources.create(self._configs, {
                "metadata": {"name": name, "labels": {ROLE: role}, "annotations": notes, "ownerReferences": [owner_reference(self._kind, config)]},
                "spec": content})
        else:
            self._resources.modify(self._configs, "", name, lambda each: each.update(spec=content))

        def claim(each: Object) -> None:
            each["metadata"].setdefault("annotations", {}).setdefault(SUFFIX, suffix)
            finalizers = each["metadata"].setdefault("finalizers", [])
            if name not in finalizers:
                finalizers.append(name)

        self._resources.modify(self._kind, "", config["metadata"]["name"], claim)

    def _name(self, config: Object, pool: str) -> tuple[str, str]:
        """Of its MachineConfig for this pool, and that name's suffix: a number for all but the first."""
        base = f"99-{pool}-generated-kubelet"
        suffix = (config["metadata"].get("annotations") or {}).get(SUFFIX)
        if suffix is None:
            labels = self._resources.get(self._pools, "", pool)["metadata"].get("labels") or {}
            others = [each for each in self._resources.list(self._kind)
                      if each["metadata"]["name"] != config["metadata"]["name"] and self._selected(each, labels)]
            taken = [int((each["metadata"].get("annotations") or {}).get(SUFFIX) or 0) for each in others]
            suffix = str(max(taken) + 1) if taken else ""
            if suffix and int(suffix) > MOST_SUFFIX:
                raise Refused("max number of supported kubelet config (10) has been reached. Please delete old kubelet configs before retrying")
        return (f"{base}-{suffix}" if suffix else base), suffix

    def _remove(self, config: Object) -> None:
        """Its finalizers are the names of its MachineConfigs."""
        for name in config["metadata"].get("finalizers") or ():
            if self._resources.find(self._configs, "", name) is not None:
                self._resources.delete(self._configs, "", name)
        self._resources.modify(self._kind, "", config["metadata"]["name"], lambda each: each["metadata"].pop("finalizers", None))

    def _report(self, name: str, error: str) -> None:
        now = self._clock.timestamp()

        def report(config: Object) -> None:
            status = config.setdefault("status", {})
            ended = {"Success": ("True", "Success"), "Failure": ("False", error)}["Failure" if error else "Success"]
            kept = [each for each in status.get("conditions") or () if not self._accepted or each["type"] == "Accepted"]
            types = ["Failure" if error else "Success"]
            if self._accepted:  # newer releases keep a history of Accepted, and beside its last one the older word for it
                types.insert(0, "Accepted")
            for type_ in types:
                value = "True" if self._accepted and type_ == "Failure" else ended[0]
                new = {"type": type_, "status": value, "message": ended[1], "lastTransitionTime": now}
                if kept and (kept[-1]["type"], kept[-1]["message"]) == (type_, ended[1]):
                    kept[-1] = new
                else:
                    kept.append(new)
            status["conditions"] = kept[-MOST_CONDITIONS - int(self._accepted):]

        self._resources.modify(self._kind, "", name, report, subresource="status")


def _merged(old: Object, new: Object) -> Object:
    """Maps field by field, all else replaced; what is empty does not replace anything, zero and false included, as in Go's merge."""
    result = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        elif value not in (None, "", 0, False, [], {}):
            result[key] = value
    return result


def _go(value: Any) -> str:
    """A value as Go prints it."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_go(each)}' for key, each in sorted(value.items()))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(_go, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


class Kubelets:
    """What each node's kubelet was started with: read from kubelet.conf at the boot, shown at .../proxy/configz."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._nodes, self._configs = cluster.resources.kind("nodes"), cluster.resources.kind(CONFIGS)
        self._conf: dict[str, Object] = {}
        self._booting: dict[str, Object] = {}
        self._parsed: dict[str, Object] = {}  # by the rendered config: whole pools have the same

    def serve(self, server: ApiServer) -> None:
        server.add_subresource("", "v1", "nodes", "proxy", {"GET"}, self._proxy)

    def start(self) -> None:
        self._cluster.hosts.on_power(self._power)
        for name in list(self._booting):
            self._started(name)

    async def stop(self) -> None:
        """Nothing runs."""

    def boot(self, node: str, rendered: str) -> None:
        """This config's files are on the node's disk: its kubelet will start with them."""
        if rendered not in self._parsed:
            text = text_of(self._resources.get(self._configs, "", rendered)["spec"]["config"], KUBELET_CONF)
            self._parsed[rendered] = yamls.load(text or "{}")
        self._booting[node] = self._parsed[rendered]

    def _power(self, name: str, up: bool) -> None:
        if up:
            self._clock.call_later(self._cluster.timing.kubernetes.kubelet_start_seconds, lambda: self._started(name))

    def _started(self, name: str) -> None:
        if name not in self._booting or not self._cluster.hosts.is_up(name):
            return
        conf = self._conf[name] = self._booting.pop(name)
        pods = str(conf.get("maxPods", 110))  # the kubelet's own default

        def count(node: Object) -> None:
            for where in ("capacity", "allocatable"):
                node["status"][where]["pods"] = pods

        self._resources.modify(self._nodes, "", name, count, subresource="status")

    async def _proxy(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        path = "/".join(following(request))
        if self._resources.find(self._nodes, "", name) is None:
            raise errors.not_found("nodes", "", name)
        if name not in self._conf or not self._cluster.hosts.is_up(name):
            raise errors.ApiError(503, f"error trying to reach service: dial tcp {name}:10250: connect: connection refused", "ServiceUnavailable")
        if path == "configz":
            return web.json_response({"kubeletconfig": {key: value for key, value in self._conf[name].items() if key not in OWN}})
        if path == "healthz":
            return web.Response(text="ok")
        if path == "logs/journal":
            return web.Response(text=journal(self._cluster, name, request.query))
        raise errors.ApiError(404, "the server could not find the requested resource", "NotFound")

