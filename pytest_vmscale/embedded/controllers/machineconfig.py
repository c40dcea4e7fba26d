"""The machine-config-operator: its parts put together, and what it has made of a cluster that was just installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import yamls
from ..api.store import Object
from .common import Cluster
from .machineconfig_daemon import Daemons
from .machineconfig_drain import Drainer, Drains
from .machineconfig_kubelet import KUBELET_CONF, KubeletConfigs, Kubelets
from .machineconfig_names import CONFIGS, CURRENT, DESIRED, DESIRED_DRAIN, GENERATED_BY, LAST_DRAIN, POOLS, ROLE, generated_by
from .machineconfig_pools import Pools, Renderer
from .machineconfig_render import file

if TYPE_CHECKING:
    from ..api.server import ApiServer

TEMPLATES_FILE = Path(__file__).parents[1] / "bootstrap" / "machineconfig" / "templates.yaml"


class MachineConfigOperator:
    """Templates, kubelet configs, the renderer, the pools, drains, and a daemon on each node."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources = cluster, cluster.resources
        self._configs, self._pools, self._nodes = (cluster.resources.kind(name) for name in (CONFIGS, POOLS, "nodes"))
        self.templates: dict[str, Any] = yamls.load(TEMPLATES_FILE.read_text(encoding="utf-8"))
        self._renderer, self._pool_controller = Renderer(cluster), Pools(cluster)
        self._kubelets = Kubelets(cluster)
        kubelet_confs = {role: names[f"01-{role}-kubelet"]["files"][KUBELET_CONF] for role, names in self.templates.items()}
        self._kubelet_configs = KubeletConfigs(cluster, {role: yamls.load(text) for role, text in kubelet_confs.items()})
        drainer = Drainer(cluster)
        self._daemons = Daemons(cluster, self._kubelets, drainer)
        self._parts = (self._kubelets, self._kubelet_configs, self._renderer, self._pool_controller, Drains(cluster, drainer), self._daemons)

    def serve(self, server: ApiServer) -> None:
        self._kubelets.serve(server)

    def start(self) -> None:
        self._install()
        for part in self._parts:
            part.start()

    async def stop(self) -> None:
        for part in reversed(self._parts):
            await part.stop()

    def _install(self) -> None:
        """A cluster at rest: templates rendered, pools and nodes at what was rendered."""
        for role, configs in self.templates.items():
            for name, template in configs.items():
                self._resources.create(self._configs, machine_config(self._cluster, name, role, template))
        for config in self._resources.list(self._resources.kind("kubeletconfigs.machineconfiguration.openshift.io")):
            self._kubelet_configs.apply(config)
        for pool in self._resources.list(self._pools):
            name = pool["metadata"]["name"]
            self._renderer.render(name)
            for node in self._pool_controller.members.of(name):
                rendered = self._resources.get(self._pools, "", name)["spec"]["configuration"]["name"]
                self._resources.modify(self._nodes, "", node["metadata"]["name"], lambda node, rendered=rendered: node["metadata"].setdefault(  # type: ignore[misc]
                    "annotations", {}).update(self._notes(rendered)))
                self._kubelets.boot(node["metadata"]["name"], rendered)
            self._pool_controller.report(name)

    def _notes(self, rendered: str) -> dict[str, str]:
        """What a node that was once updated to this config says."""
        notes = {CURRENT: rendered, DESIRED: rendered}
        if self._cluster.timing.machine_config.drained_by == "controller":
            notes.update({DESIRED_DRAIN: f"uncordon-{rendered}", LAST_DRAIN: f"uncordon-{rendered}"})
        return notes


def machine_config(cluster: Cluster, name: str, role: str, template: Object) -> Object:
    """A MachineConfig of the template controller: `files` by path, `units` by name, `users`, each as Ignition takes it."""
    config: Object = {"ignition": {"version": "3.2.0"}}
    if template.get("files"):
        config["storage"] = {"files": [file(path, text) for path, text in template["files"].items()]}
    if template.get("units"):
        config["systemd"] = {"units": [{"contents": text, "enabled": True, "name": unit} for unit, text in template["units"].items()]}
    if template.get("users"):
        config["passwd"] = {"users": template["users"]}
    annotations = {} if template.get("users") else {GENERATED_BY: generated_by(cluster)}
    return {"metadata": {"name": name, "labels": {ROLE: role}, **({"annotations": annotations} if annotations else {})},
            "spec": {"config": config}}
