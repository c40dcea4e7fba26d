"""Namespaces: what a new one is given, and how an old one is emptied."""

from __future__ import annotations

from ..api.store import Change, Object
from ..queue import Workers
from .common import Cluster, decoded, set_condition

SERVICE_ACCOUNTS = ("default", "builder", "deployer")  # as OpenShift makes them
FINALIZER = "kubernetes"


class Namespaces:
    """Service accounts and CA bundles for new namespaces; deletion of all content, then of the namespace itself."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing = cluster.timing.kubernetes
        self._kind = self._resources.kind("namespaces")
        self._workers = Workers("namespaces", self._clock, self._timing.namespace_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._kind, self._changed)
        for name in ("serviceaccounts", "configmaps"):
            self._resources.watch(self._resources.kind(name), self._content_changed)
        for entry in self._resources.store.entries(self._kind):
            self._workers.queue.add(entry.key[1])
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _changed(self, change: Change) -> None:
        if change.type == "ADDED" or "deletionTimestamp" in decoded(change.new)["metadata"]:
            self._workers.queue.add(change.key[1])

    def _content_changed(self, change: Change) -> None:
        """What every namespace has is made anew when somebody deletes it."""
        if change.type == "DELETED" and change.key[1] in (*SERVICE_ACCOUNTS, "kube-root-ca.crt"):
            self._workers.queue.add(change.key[0])

    async def _reconcile(self, name: str) -> None:
        namespace = self._resources.find(self._kind, "", name)
        if namespace is None:
            return
        if "deletionTimestamp" not in namespace["metadata"]:
            self._furnish(name)
        elif FINALIZER in namespace["spec"].get("finalizers", ()):
            self._empty(name)

    def _furnish(self, name: str) -> None:
        accounts, maps = self._resources.kind("serviceaccounts"), self._resources.kind("configmaps")
        for account in SERVICE_ACCOUNTS:
            if self._resources.find(accounts, name, account) is None:
                self._resources.create(accounts, {"metadata": {"name": account, "namespace": name}})
        if self._resources.find(maps, name, "kube-root-ca.crt") is None:
            text = ("Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal "
                    "service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.")
            self._resources.create(maps, {"metadata": {"name": "kube-root-ca.crt", "namespace": name, "annotations": {"kubernetes.io/description": text}},
                                          "data": {"ca.crt": self._cluster.ca_certificate}})

    def _empty(self, name: str) -> None:
        """Ask for the deletion of everything once; what is held by finalizers or grace periods is looked at again later."""
        left: dict[str, int] = {}
        finalizers: dict[str, int] = {}
        for kind in self._resources.kinds.all:
            if not kind.namespaced:
                continue
            for entry in self._resources.store.entries(kind, name):
                obj = self._resources.find(kind, *entry.key)
                if obj is not None and "deletionTimestamp" not in obj["metadata"]:
                    self._resources.delete(kind, *entry.key, policy="Background")
            for entry in self._resources.store.entries(kind, name):
                left[str(kind)] = left.get(str(kind), 0) + 1
                for finalizer in entry.obj["metadata"].get("finalizers") or ():
                    finalizers[finalizer] = finalizers.get(finalizer, 0) + 1
        self._resources.modify(self._kind, "", name, lambda namespace: self._set_conditions(namespace["status"], left, finalizers), subresource="status")
        if left:
            self._workers.queue.add_after(name, self._timing.namespace_retry_seconds)
            return
        namespace = self._resources.get(self._kind, "", name)
        namespace["spec"]["finalizers"] = [each for each in namespace["spec"]["finalizers"] if each != FINALIZER]
        self._resources.finalize(self._kind, namespace)

    def _set_conditions(self, status: Object, left: dict[str, int], finalizers: dict[str, int]) -> None:
        now = self._clock.timestamp()
        for type_, reason, message in (
                ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
                ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
                ("NamespaceDeletionContentFailure", "ContentDeleted", "All content successfully deleted, may be waiting on finalization")):
            set_condition(status, type_, "False", now, reason, message)
        if left:
            text = ", ".join(f"{plural if '.' in plural else plural + '.'} has {count} resource instances" for plural, count in sorted(left.items()))
            set_condition(status, "NamespaceContentRemaining", "True", now, "SomeResourcesRemain", f"Some resources are remaining: {text}")
        else:
            set_condition(status, "NamespaceContentRemaining", "False", now, "ContentRemoved", "All content successfully removed")
        if finalizers:
            text = ", ".join(f"{finalizer} in {count} resource instances" for finalizer, count in sorted(finalizers.items()))
            set_condition(status, "NamespaceFinalizersRemaining", "True", now, "SomeFinalizersRemain",
                          f"Some content in the namespace has finalizers remaining: {text}")
        else:
            set_condition(status, "NamespaceFinalizersRemaining", "False", now, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
