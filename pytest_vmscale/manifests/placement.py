"""Which nodes a fleet's VMs may run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .core import Manifest

HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True)
class Placement:
    """Anywhere, unless it was made by one of the constructors below."""

    nodes: tuple[str, ...] = ()
    per_node: int = 0
    even: bool = False
    closed_label: str = ""

    @classmethod
    def spread(cls) -> Placement:
        """On all nodes, as evenly as it goes: no node gets a second VM while another has none."""
        return cls(even=True)

    @classmethod
    def on_nodes(cls, nodes: Sequence[str], per_node: int) -> Placement:
        """`per_node` VMs on each of these nodes (their hostname labels): the fleet's first VMs on the first node, and so on."""
        if per_node < 1 or not nodes:
            raise ValueError(f"{per_node} VMs on each of {len(nodes)} nodes is no placement")
        return cls(nodes=tuple(nodes), per_node=per_node)

    @classmethod
    def where_open(cls, closed_label: str) -> Placement:
        """On the nodes that do not have this label. Other than a selector, this need not hold them there: once no node has the label they
        may go anywhere."""
        return cls(closed_label=closed_label)

    def of(self, index: int, labels: Mapping[str, str]) -> Manifest:
        """What the spec of the fleet's VM of this index says of nodes. `labels` tell the fleet's VMs. ValueError if it has no place."""
        found: Manifest = {}
        if self.nodes:
            if not 0 <= index < len(self.nodes) * self.per_node:
                raise ValueError(f"VM {index} has no place: {self.per_node} on each of {len(self.nodes)} nodes")
            found["nodeSelector"] = {HOSTNAME: self.nodes[index // self.per_node]}
        if self.closed_label:
            found["affinity"] = away_from(self.closed_label)
        if self.even:
            constraint = {"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "ScheduleAnyway"}
            found["topologySpreadConstraints"] = [{**constraint, "labelSelector": {"matchLabels": dict(labels)}}]
        return found


def away_from(label: str) -> Manifest:
    """An affinity: not to nodes that have this label."""
    terms = [{"matchExpressions": [{"key": label, "operator": "DoesNotExist"}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


ANYWHERE = Placement()
