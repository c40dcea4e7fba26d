"""Admission plugins of the API server: what they add to new pods, claims and routes that clients send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..api.store import Object
from .common import Cluster
from .pods import complete
from .volumes import default_class

if TYPE_CHECKING:
    from ..api.server import ApiServer


class Admission:
    """Has nothing to run: it takes part in requests."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def start(self) -> None:
        """Nothing runs."""

    async def stop(self) -> None:
        """Nothing runs."""

    def serve(self, server: ApiServer) -> None:
        server.add_admission(self._cluster.resources.kind("pods"), self._pod)
        server.add_admission(self._cluster.resources.kind("persistentvolumeclaims"), self._claim)
        server.add_admission(self._cluster.resources.kind("routes.route.openshift.io"), self._route)

    def _pod(self, obj: Object, old: Object | None) -> None:
        if old is None and obj.get("spec", {}).get("containers"):  # what has none is refused for that
            complete(self._cluster, obj)

    def _claim(self, obj: Object, old: Object | None) -> None:
        name = default_class(self._cluster.resources) if old is None and "storageClassName" not in obj.get("spec", {}) else None
        if name is not None:
            obj["spec"]["storageClassName"] = name

    def _route(self, obj: Object, old: Object | None) -> None:
        """A name below the cluster's domain for applications, where none is asked for."""
        resources = self._cluster.resources
        ingress = resources.find(resources.kind("ingresses.config.openshift.io"), "", "cluster")
        if ingress is not None and not obj["spec"].get("host"):
            domain = ingress["spec"].get("appsDomain") or ingress["spec"]["domain"]
            obj["spec"]["host"] = f"{obj['metadata']['name']}-{obj['metadata']['namespace']}.{domain}"
