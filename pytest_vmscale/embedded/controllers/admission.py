"""Admission plugins of the API server: what they add to new pods and claims that clients send."""

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

    def _pod(self, obj: Object, old: Object | None) -> None:
        if old is None and obj.get("spec", {}).get("containers"):  # what has none is refused for that
            complete(self._cluster, obj)

    def _claim(self, obj: Object, old: Object | None) -> None:
        name = default_class(self._cluster.resources) if old is None and "storageClassName" not in obj.get("spec", {}) else None
        if name is not None:
            obj["spec"]["storageClassName"] = name
