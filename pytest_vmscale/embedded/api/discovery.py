"""Discovery: which groups, versions and resources there are, in both forms that clients ask for."""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict

from .kinds import Kind, Kinds
from .store import Object

AGGREGATED_V2 = ("apidiscovery.k8s.io", "v2")
CUSTOM_VERBS = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]
BUILT_IN_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
STATUS_VERBS = ["get", "patch", "update"]
METHOD_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


# The real server's order of the groups that it serves itself.
GROUP_ORDER = ("apps", "authentication.k8s.io", "authorization.k8s.io", "batch", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
               "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "discovery.k8s.io")


class Discovery:
    """What is served. Kinds come from kinds/*.yaml, the rest is added."""

    def __init__(self, kinds: Kinds) -> None:
        self._resources: OrderedDict[tuple[str, str], list[Object]] = OrderedDict()
        self._custom = {kind.group for kind in kinds.all if kind.custom and not kind.aggregated}
        for kind in kinds.all:
            for version in (kind.version, *kind.also_served):
                self.add(kind.group, version, kind_entries(kind))

    def add(self, group: str, version: str, resources: list[Object]) -> None:
        found = self._resources.setdefault((group, version), [])
        names = {entry["name"] for entry in found}
        found += [entry for entry in resources if entry["name"] not in names]
        self._sort(group, version)

    def _sort(self, group: str, version: str) -> None:
        """What is built in is listed by name. kubectl prints the kinds of a category in this order."""
        if group not in self._custom:
            self._resources[group, version].sort(key=lambda entry: str(entry["name"]))

    def add_subresource(self, group: str, version: str, plural: str, subresource: str, methods: set[str]) -> None:
        """A line for it, of the kind of its resource unless a line for it is there already."""
        entries = self._resources.setdefault((group, version), [])
        name = f"{plural}/{subresource}"
        if not any(entry["name"] == name for entry in entries):
            owner = next((entry for entry in entries if entry["name"] == plural), None)
            kind = owner["kind"] if owner else ""
            verbs = sorted(METHOD_VERBS[method] for method in methods if method in METHOD_VERBS)
            entries.append({"name": name, "singularName": "", "namespaced": owner["namespaced"] if owner else True, "kind": kind, "verbs": verbs})
            self._sort(group, version)

    def built_in(self, group: str) -> bool:
        """Whether the group is no custom resource definitions' group."""
        return any(name == group for name, _ in self._resources) and group not in self._custom

    def has(self, group: str, version: str) -> bool:
        return (group, version) in self._resources

    def resource(self, group: str, version: str, name: str) -> Object | None:
        return next((entry for entry in self._resources.get((group, version), []) if entry["name"] == name), None)

    # The unaggregated form.

    def versions(self) -> Object:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}

    def groups(self) -> Object:
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [self._group(name) for name in self._names()]}

    def group(self, name: str) -> Object | None:
        if name not in self._names():
            return None
        return {"kind": "APIGroup", "apiVersion": "v1", **self._group(name)}

    def group_version(self, group: str, version: str) -> Object | None:
        entries = self._resources.get((group, version))
        if entries is None:
            return None
        shown = [{key: value for key, value in entry.items() if key != "responseKind"} for entry in entries]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{group}/{version}" if group else version, "resources": shown}

    def _names(self) -> list[str]:
        """What is built in comes first, so that clients that take the first group that has a name take those."""
        names = list(dict.fromkeys(group for group, _ in self._resources if group))
        return sorted(names, key=lambda name: GROUP_ORDER.index(name) if name in GROUP_ORDER else len(GROUP_ORDER))

    def _group(self, name: str) -> Object:
        versions = [{"groupVersion": f"{name}/{version}", "version": version} for group, version in self._resources if group == name]
        return {"name": name, "versions": versions, "preferredVersion": versions[0]}

    # The aggregated form: one document instead of one per group and version.

    def aggregated(self, *, legacy: bool) -> Object:
        """`legacy` is /api, with the core group alone; else /apis."""
        items = []
        for name in [""] if legacy else self._names():
            versions = [{"version": version, "resources": self._aggregated(name, version), "freshness": "Current"}
                        for group, version in self._resources if group == name]
            items.append({"metadata": {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None}, "versions": versions})
        return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}

    def _aggregated(self, group: str, version: str) -> list[Object]:
        found: OrderedDict[str, Object] = OrderedDict()
        for entry in self._resources[group, version]:
            plural, _, subresource = entry["name"].partition("/")
            kind = {"group": entry.get("group", group), "version": entry.get("version", version), "kind": entry["kind"]}
            if subresource:
                owner = found.get(plural)
                if owner is None:  # a subresource whose resource is served by another group has no place in this form
                    owner = found[plural] = {"resource": plural, "responseKind": {"group": "", "version": "", "kind": ""}, "scope": "Namespaced", "singularResource": "", "verbs": []}
                owner.setdefault("subresources", []).append({"subresource": subresource, "responseKind": kind, "verbs": entry["verbs"]})
                continue
            found[plural] = {"resource": plural, "responseKind": kind, "scope": "Namespaced" if entry["namespaced"] else "Cluster",
                             "singularResource": entry["singularName"], "verbs": entry["verbs"],
                             **({"shortNames": entry["shortNames"]} if entry.get("shortNames") else {}), **({"categories": entry["categories"]} if entry.get("categories") else {})}
        return list(found.values())


def kind_entries(kind: Kind) -> list[Object]:
    """The discovery lines of a kind: itself, and its subresources."""
    verbs = CUSTOM_VERBS if kind.custom else [verb for verb in BUILT_IN_VERBS if verb != "deletecollection" or kind.plural not in ("namespaces", "services")]
    main: Object = {"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs}
    if kind.short_names:
        main["shortNames"] = list(kind.short_names)
    if kind.categories:
        main["categories"] = list(kind.categories)
    main["storageVersionHash"] = base64.b64encode(hashlib.sha256(f"{kind.group}/{kind.version}/{kind.kind}".encode()).digest()[:8]).decode()
    entries = [main]
    if kind.status:
        entries.append({"name": f"{kind.plural}/status", "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind, "verbs": STATUS_VERBS})
    if kind.scale:
        entries.append({"name": f"{kind.plural}/scale", "singularName": "", "namespaced": kind.namespaced, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": STATUS_VERBS})
    for entry in kind.subresources:
        entries.append({"singularName": "", "namespaced": kind.namespaced, **entry, "name": entry["name"] if "/" in entry["name"] else f"{kind.plural}/{entry['name']}"})
    return entries
