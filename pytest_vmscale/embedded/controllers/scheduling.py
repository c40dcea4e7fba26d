"""What the scheduler knows of nodes and pods, and where a pod may and should go: kube-scheduler's filters and scores.

Amounts are in thousandths of the unit, as integers. The order of the filters and their words are Kubernetes 1.22's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from ..api.store import Key, Object
from .common import controller_of, milli, node_selector_matches, selects, untolerated

HOSTNAME = "kubernetes.io/hostname"
# What the scores count for a container that asks for nothing: 100m CPU and 200 MB.
DEFAULT_REQUESTS = {"cpu": 100, "memory": 200 * 1024 * 1024 * 1000}
MAX_SCORE = 100.0


def container_requests(container: Object) -> dict[str, int]:
    resources = container.get("resources") or {}
    return {name: milli(amount) for name, amount in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items()}


def pod_requests(spec: Object) -> dict[str, int]:
    """The sum of the containers, or the largest init container if that is more, plus the overhead. An init container
    that is restarted always (a sidecar) counts as a container."""
    total: Counter[str] = Counter()
    for container in spec["containers"]:
        total.update(container_requests(container))
    initial: dict[str, int] = {}
    sidecars: Counter[str] = Counter()
    for container in spec.get("initContainers") or ():
        requests = container_requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars.update(requests)
            requests = dict(sidecars)
        else:
            requests = {name: amount + sidecars[name] for name, amount in requests.items()}
        for name, amount in requests.items():
            initial[name] = max(initial.get(name, 0), amount)
    total.update(sidecars)
    for name, amount in initial.items():
        total[name] = max(total[name], amount)
    for name, quantity in (spec.get("overhead") or {}).items():
        total[name] += milli(quantity)
    return dict(total)


@dataclass(eq=False)
class PodInfo:
    """What matters of a pod, without the pod."""

    key: Key
    uid: str
    labels: dict[str, str]
    requests: dict[str, int]
    cpu: int  # as the scores count it
    memory: int
    owner: str  # uid of its controller, or ""
    anti_affinity: list[Object]  # required terms
    ports: frozenset[tuple[str, str, int]]
    node: str = ""

    @classmethod
    def of(cls, pod: Object) -> PodInfo:
        spec, meta = pod["spec"], pod["metadata"]
        requests = pod_requests(spec)
        owner = controller_of(pod)
        count = len(spec["containers"])
        ports = frozenset((port.get("hostIP") or "0.0.0.0", port.get("protocol", "TCP"), port["hostPort"])
                          for container in spec["containers"] for port in container.get("ports") or () if port.get("hostPort"))
        return cls((meta["namespace"], meta["name"]), meta["uid"], meta.get("labels") or {}, requests,
                   requests.get("cpu") or DEFAULT_REQUESTS["cpu"] * count, requests.get("memory") or DEFAULT_REQUESTS["memory"] * count,
                   owner["uid"] if owner else "", required_terms(spec, "podAntiAffinity"), ports, spec.get("nodeName", ""))


def required_terms(spec: Object, which: str) -> list[Object]:
    affinity = (spec.get("affinity") or {}).get(which) or {}
    return affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or []


def term_matches(term: Object, namespace: str, other: PodInfo) -> bool:
    """Whether the other pod is one that the affinity term of a pod in this namespace speaks of."""
    namespaces = term.get("namespaces") or ([] if "namespaceSelector" in term else [namespace])
    # A namespace selector by label needs the namespaces' labels; only the empty one ("all") is known here.
    inside = other.key[0] in namespaces or term.get("namespaceSelector") == {}
    return inside and selects(term.get("labelSelector"), other.labels)


@dataclass(eq=False)
class NodeInfo:
    """A node and what is on it."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[Object] = field(default_factory=list)
    unschedulable: bool = False
    allocatable: dict[str, int] = field(default_factory=dict)
    max_pods: int = 0
    pods: dict[Key, PodInfo] = field(default_factory=dict)
    requested: Counter[str] = field(default_factory=Counter)
    cpu: int = 0
    memory: int = 0
    owners: Counter[str] = field(default_factory=Counter)
    exists: bool = False

    def set(self, node: Object) -> None:
        self.exists = True
        self.labels = node["metadata"].get("labels") or {}
        self.taints = node["spec"].get("taints") or []
        self.unschedulable = bool(node["spec"].get("unschedulable"))
        allocatable = node.get("status", {}).get("allocatable") or {}
        self.allocatable = {name: milli(amount) for name, amount in allocatable.items()}
        self.max_pods = self.allocatable.get("pods", 0) // 1000

    def add(self, pod: PodInfo, sign: int = 1) -> None:
        for name, amount in pod.requests.items():
            self.requested[name] += sign * amount
        self.cpu += sign * pod.cpu
        self.memory += sign * pod.memory
        if pod.owner:
            self.owners[pod.owner] += sign
            if not self.owners[pod.owner]:
                del self.owners[pod.owner]
        if sign > 0:
            self.pods[pod.key] = pod
        else:
            del self.pods[pod.key]


class Snapshot:
    """All nodes, all pods on them, and the few indices that keep affinity cheap."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self.pods: dict[Key, PodInfo] = {}
        self._by_label: dict[tuple[str, str], dict[Key, PodInfo]] = {}
        self.anti_affine: dict[Key, PodInfo] = {}

    def node(self, name: str) -> NodeInfo:
        return self.nodes.setdefault(name, NodeInfo(name))

    def existing(self) -> list[NodeInfo]:
        return [node for node in self.nodes.values() if node.exists]

    def add_pod(self, pod: PodInfo) -> None:
        self.remove_pod(pod.key)
        self.pods[pod.key] = pod
        self.node(pod.node).add(pod)
        for label in pod.labels.items():
            self._by_label.setdefault(label, {})[pod.key] = pod
        if pod.anti_affinity:
            self.anti_affine[pod.key] = pod

    def remove_pod(self, key: Key) -> PodInfo | None:
        pod = self.pods.pop(key, None)
        if pod is None:
            return None
        self.node(pod.node).add(pod, -1)
        for label in pod.labels.items():
            del self._by_label[label][key]
            if not self._by_label[label]:
                del self._by_label[label]
        self.anti_affine.pop(key, None)
        return pod

    def matching(self, term: Object, namespace: str) -> Iterator[PodInfo]:
        """The pods on nodes that the affinity term speaks of."""
        wanted = (term.get("labelSelector") or {}).get("matchLabels") or {}
        groups = [self._by_label.get(label, {}) for label in wanted.items()]
        candidates = min(groups, key=len) if groups else self.pods
        return (pod for pod in candidates.values() if term_matches(term, namespace, pod))


Filter = Callable[[NodeInfo], list[str]]  # the reasons why not; empty if the node passes


def filters(pod: Object, info: PodInfo, snapshot: Snapshot) -> list[Filter]:
    """The filters that this pod needs, in the scheduler's order."""
    spec = pod["spec"]
    tolerations = spec.get("tolerations") or []
    unschedulable_taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    tolerates_cordon = untolerated([unschedulable_taint], tolerations, ("NoSchedule",)) is None
    selector = (spec.get("nodeSelector") or {}).items()
    wanted = [(name, amount) for name, amount in info.requests.items() if amount]
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")

    def node_unschedulable(node: NodeInfo) -> list[str]:
        return ["node(s) were unschedulable"] if node.unschedulable and not tolerates_cordon else []

    def taints(node: NodeInfo) -> list[str]:
        taint = untolerated(node.taints, tolerations, ("NoSchedule", "NoExecute")) if node.taints else None
        return [f"node(s) had taint {{{taint['key']}: {taint.get('value', '')}}}, that the pod didn't tolerate"] if taint else []

    def node_affinity(node: NodeInfo) -> list[str]:
        fits = all(node.labels.get(key) == value for key, value in selector) and (
            required is None or node_selector_matches(required, node.labels, node.name))
        return [] if fits else ["node(s) didn't match Pod's node affinity/selector"]

    def ports(node: NodeInfo) -> list[str]:
        taken = any(port[1:] == other[1:] and (port[0] == other[0] or "0.0.0.0" in (port[0], other[0]))
                    for each in node.pods.values() for other in each.ports for port in info.ports)
        return ["node(s) didn't have free ports for the requested pod ports"] if taken else []

    def resources(node: NodeInfo) -> list[str]:
        reasons = ["Too many pods"] if len(node.pods) >= node.max_pods else []
        for name, amount in wanted:
            if amount > node.allocatable.get(name, 0) - node.requested[name]:
                reasons.append(f"Insufficient {name}")
        return reasons

    found: list[Filter] = [node_unschedulable, taints]
    if selector or required is not None:
        found.append(node_affinity)
    if info.ports:
        found.append(ports)
    return [*found, resources, *_affinity_filters(spec, info, snapshot)]


def _affinity_filters(spec: Object, info: PodInfo, snapshot: Snapshot) -> list[Filter]:
    namespace = info.key[0]
    found: list[Filter] = []

    def domains(pods: Iterator[PodInfo], topology: str) -> set[str]:
        return {value for pod in pods if (value := snapshot.node(pod.node).labels.get(topology)) is not None}

    for term in required_terms(spec, "podAffinity"):
        wanted, key = domains(snapshot.matching(term, namespace), term["topologyKey"]), term["topologyKey"]
        if not wanted and term_matches(term, namespace, info):
            wanted = domains_of_all(snapshot, key)  # the first of a group that wants to be together may go anywhere
        found.append(_in_domain(key, wanted, True, "node(s) didn't match pod affinity rules"))
    for term in info.anti_affinity:
        found.append(_in_domain(term["topologyKey"], domains(snapshot.matching(term, namespace), term["topologyKey"]), False,
                                "node(s) didn't match pod anti-affinity rules"))
    against: dict[str, set[str]] = {}
    for other in snapshot.anti_affine.values():
        for term in other.anti_affinity:
            if term_matches(term, other.key[0], info):
                value = snapshot.node(other.node).labels.get(term["topologyKey"])
                if value is not None:
                    against.setdefault(term["topologyKey"], set()).add(value)
    for key, values in against.items():
        found.append(_in_domain(key, values, False, "node(s) didn't satisfy existing pods anti-affinity rules"))
    for constraint in spec.get("topologySpreadConstraints") or ():
        if constraint.get("whenUnsatisfiable") == "DoNotSchedule":
            found.append(_spread(constraint, info, snapshot))
    return found


def domains_of_all(snapshot: Snapshot, key: str) -> set[str]:
    return {node.labels[key] for node in snapshot.existing() if key in node.labels}


def _in_domain(key: str, values: set[str], inside: bool, reason: str) -> Filter:
    return lambda node: [] if (node.labels.get(key) in values) is inside else [reason]


def _spread(constraint: Object, info: PodInfo, snapshot: Snapshot) -> Filter:
    key = constraint["topologyKey"]
    counts = dict.fromkeys(domains_of_all(snapshot, key), 0)
    for pod in snapshot.matching({"labelSelector": constraint.get("labelSelector")}, info.key[0]):
        value = snapshot.node(pod.node).labels.get(key)
        if value in counts:
            counts[value] += 1
    least = min(counts.values(), default=0)
    itself = 1 if selects(constraint.get("labelSelector"), info.labels) else 0

    def spread(node: NodeInfo) -> list[str]:
        value = node.labels.get(key)
        if value is None:
            return ["node(s) didn't match pod topology spread constraints (missing required label)"]
        return [] if counts[value] + itself - least <= constraint["maxSkew"] else ["node(s) didn't match pod topology spread constraints"]

    return spread


def score(info: PodInfo, node: NodeInfo, most_of_owner: int, preferred: list[Object]) -> float:
    """Least allocated, balanced allocation, spread of one owner's pods (weight 2), preferred node affinity terms."""
    cpu, memory = node.allocatable.get("cpu", 0), node.allocatable.get("memory", 0)
    if not cpu or not memory:
        return 0.0
    cpu_share, memory_share = min(1.0, (node.cpu + info.cpu) / cpu), min(1.0, (node.memory + info.memory) / memory)
    total = (1 - cpu_share + 1 - memory_share) / 2 * MAX_SCORE + (1 - abs(cpu_share - memory_share) / 2) * MAX_SCORE
    if most_of_owner:
        total += 2 * MAX_SCORE * (1 - node.owners[info.owner] / most_of_owner)
    if preferred:
        weights = sum(term["weight"] for term in preferred)
        matched = sum(term["weight"] for term in preferred
                      if node_selector_matches({"nodeSelectorTerms": [term["preference"]]}, node.labels, node.name))
        total += MAX_SCORE * matched / weights
    return total


def choose(pod: Object, info: PodInfo, snapshot: Snapshot, random: Random) -> tuple[str | None, dict[str, int], int]:
    """The best node, or None; why nodes were refused, counted; and how many nodes there are."""
    tests = filters(pod, info, snapshot)
    refused: Counter[str] = Counter()
    feasible: list[NodeInfo] = []
    nodes = snapshot.existing()
    for node in nodes:
        for test in tests:
            reasons = test(node)
            if reasons:
                refused.update(reasons)
                break
        else:
            feasible.append(node)
    if not feasible:
        return None, dict(refused), len(nodes)
    most = max(node.owners[info.owner] for node in feasible) if info.owner else 0
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    scores = [score(info, node, most, preferred) for node in feasible]
    best = max(scores)
    return random.choice([node.name for node, each in zip(feasible, scores, strict=True) if each >= best - 1e-9]), dict(refused), len(nodes)


def no_node_message(refused: dict[str, int], nodes: int) -> str:
    """`0/103 nodes are available: 3 node(s) had taint {...}, that the pod didn't tolerate, 100 Insufficient cpu.`"""
    if not nodes:
        return "no nodes available to schedule pods"
    return f"0/{nodes} nodes are available: {', '.join(sorted(f'{count} {reason}' for reason, count in refused.items()))}."
