"""What is on the cluster before anybody touches it: bootstrap/*.yaml, and a CustomResourceDefinition for each custom kind."""

from __future__ import annotations

from typing import Any

import yaml

from .. import yamls
from ..api.kinds import Kind
from ..api.store import Object
from ..api.validation import Schemas
from .common import Cluster
from .nodes import NODES_FILE


class Bootstrap:
    """Creates the objects at its start."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources, self._clock, self._schemas = cluster.resources, cluster.clock, Schemas()

    def start(self) -> None:
        for path in sorted(NODES_FILE.parent.glob("*.yaml")):
            if path != NODES_FILE:
                for obj in yaml.load_all(path.read_text(encoding="utf-8"), yamls.LOADER):
                    self._create(obj)
        for kind in self._resources.kinds.all:
            if kind.custom and not kind.aggregated:
                self._resources.create(self._resources.kind("customresourcedefinitions"), self._definition(kind))

    async def stop(self) -> None:
        """Nothing runs."""

    def _create(self, obj: Object) -> None:
        kind = self._resources.kinds.by_kind(obj["apiVersion"], obj["kind"])
        if kind is None:
            raise LookupError(f"bootstrap: {obj['apiVersion']} {obj['kind']} is not served")
        if kind.custom:  # as it would be had a client sent it: the first change must not show what the server fills in
            self._schemas.prune(kind, obj)
            self._schemas.default(kind, obj)
        self._stamp(obj)
        self._resources.create(kind, obj)

    def _stamp(self, obj: Object) -> None:
        now = self._clock.timestamp()
        status = obj.get("status", {})
        for each in status.get("conditions", ()):
            each.setdefault("lastTransitionTime", now)
        for each in status.get("history", ()):
            each.update(startedTime=now, completionTime=now)

    def _definition(self, kind: Kind) -> Object:
        """Names, scope and versions. The schemas are in OpenAPI, where clients look."""
        now = self._clock.timestamp()
        names: dict[str, Any] = {"kind": kind.kind, "listKind": kind.list_kind, "plural": kind.plural, "singular": kind.singular}
        if kind.short_names:
            names["shortNames"] = list(kind.short_names)
        if kind.categories:
            names["categories"] = list(kind.categories)
        subresources: dict[str, Any] = {"status": {}} if kind.status else {}
        versions = []
        for version in (kind.version, *kind.also_served):
            entry: dict[str, Any] = {"name": version, "served": True, "storage": version == kind.version,
                                     "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
            if subresources:
                entry["subresources"] = subresources
            if kind.columns:
                entry["additionalPrinterColumns"] = [
                    {"name": column.name, "type": column.type, "jsonPath": column.json_path,
                     **({"priority": column.priority} if column.priority else {})} for column in kind.columns]
            versions.append(entry)
        conditions = [{"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found", "lastTransitionTime": now},
                      {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": "the initial names have been accepted",
                       "lastTransitionTime": now}]
        return {"metadata": {"name": f"{kind.plural}.{kind.group}"},
                "spec": {"group": kind.group, "names": names, "scope": "Namespaced" if kind.namespaced else "Cluster",
                         "conversion": {"strategy": "None"}, "versions": versions},
                "status": {"acceptedNames": names, "conditions": conditions, "storedVersions": [kind.version]}}
