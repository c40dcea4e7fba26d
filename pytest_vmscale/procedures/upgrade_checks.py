"""What is asked of ClusterVersion, and whether the cluster may be upgraded: read before anything is touched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..clock import Clock
from ..cluster.access import ClusterError
from ..cluster.conditions import condition_of, conditions_in, find
from ..cluster.edits import Edits
from ..cluster.journal import Ref
from ..cluster.requests import Cluster, Object
from .nodes import POOLS

VERSIONS = "/apis/config.openshift.io/v1/clusterversions"
VERSION_PATH = f"{VERSIONS}/version"
VERSION_REF = Ref("config.openshift.io/v1", "ClusterVersion", "version")
OPERATORS_PATH = "/apis/config.openshift.io/v1/clusteroperators"
GATES_PATH = "/api/v1/namespaces/openshift-config-managed/configmaps/admin-gates"
ACKS_PATH = "/api/v1/namespaces/openshift-config/configmaps/admin-acks"
GATE = re.compile(r"^ack-4[.](\d+)-[^-]")
OFFER_SECONDS = 120.0  # after a change of channel: until the update service has been asked
LOOK_SECONDS = 1.0

AdmUpgrade = Callable[[Sequence[str]], str | None]  # the words after `oc adm upgrade`; None: there is no oc


class UpgradeRefused(ClusterError):
    """The cluster must not be upgraded as it is, or not to this. Nothing has been changed."""


@dataclass(frozen=True)
class Hop:
    """One upgrade: to a version, or to an image. channel: what it is set to before, or None; explicit_channel: though it is none of
    those that the release names. explicit: though it is not offered, or not recommended. force: without a check of signatures and
    preconditions."""

    version: str
    channel: str | None = None
    image: str | None = None
    explicit_channel: bool = False
    explicit: bool = False
    force: bool = False


def minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def kind(before: str, after: str) -> str:
    """`patch` within a minor version, else `minor`: what the reference calls a minor and a major upgrade."""
    return "patch" if minor(before) == minor(after) else "minor"


@dataclass(frozen=True)
class State:
    """What is read before an upgrade."""

    version: Object
    operators: Sequence[Object]
    pools: Sequence[Object]
    gates: Mapping[str, str]
    acks: Mapping[str, str]

    @property
    def current(self) -> str:
        history = self.version.get("status", {}).get("history") or [{}]
        return str(next((each["version"] for each in history if each.get("state") == "Completed"), history[-1].get("version", "")))

    @property
    def channel(self) -> str:
        return str(self.version["spec"].get("channel", ""))

    def offered(self, hop: Hop) -> Object | None:
        """The release that is asked for, if the update service recommends it."""
        return next((each for each in self.version["status"].get("availableUpdates") or () if _matches(each, hop)), None)

    def conditional(self, hop: Hop) -> Object | None:
        """The same with conditions, of which one is known to be against it."""
        for each in self.version["status"].get("conditionalUpdates") or ():
            if _matches(each["release"], hop):
                return dict(each)
        return None


def _matches(release: Object, hop: Hop) -> bool:
    if hop.image:
        return str(release["image"]).rpartition("@")[2] == hop.image.rpartition("@")[2]
    return bool(release["version"] == hop.version)


async def read(cluster: Cluster) -> State:
    """ClusterError if this is no OpenShift."""
    version = await cluster.get_or_none(VERSION_PATH)
    if version is None:
        raise ClusterError(f"{cluster.access.server} has no ClusterVersion: it is no OpenShift cluster, which is what can be upgraded")
    gates, acks = await cluster.get_or_none(GATES_PATH), await cluster.get_or_none(ACKS_PATH)
    return State(
        version,
        await cluster.list_all(OPERATORS_PATH),
        await cluster.list_all(POOLS),
        (gates or {}).get("data") or {},
        (acks or {}).get("data") or {},
    )


def _is(obj: Object, type_: str, status: str = "True") -> bool:
    return condition_of(obj, type_, status) is not None


def _why(obj: Object, type_: str) -> str:
    found = condition_of(obj, type_)
    return (found.text if found else "") or "it does not say why"


def problems(state: State, hop: Hop) -> list[str]:
    """Why the cluster must not be upgraded like this, all of it; but whether the target is offered, which `not_offered` tells."""
    found = []
    version = state.version
    if progressing := condition_of(version, "Progressing", "True"):
        found.append(f"an upgrade is under way: {progressing.message}")
    if state.current == hop.version:
        found.append(f"the cluster is at {hop.version} already")
    if _is(version, "Invalid"):
        found.append(f"the ClusterVersion is invalid: {_why(version, 'Invalid')}")
    if _is(version, "ReleaseAccepted", "False") and not hop.force:
        found.append(f"the release that was asked for before is not accepted: {_why(version, 'ReleaseAccepted')}")
    if _is(version, "Failing"):
        found.append(f"the ClusterVersion is failing: {_why(version, 'Failing')}")
    if any(each.get("unmanaged") for each in version["spec"].get("overrides") or ()) and not hop.force:
        found.append("ClusterVersion has overrides that make components unmanaged, which block every upgrade")
    if kind(state.current, hop.version) == "minor" and not hop.force:
        found += _against_a_minor(state)
    for operator in state.operators:
        name = operator["metadata"]["name"]
        if not _is(operator, "Available"):
            found.append(f"the cluster operator {name} is not available: {_why(operator, 'Available')}")
        elif _is(operator, "Degraded"):
            found.append(f"the cluster operator {name} is degraded: {_why(operator, 'Degraded')}")
    for pool in state.pools:
        name, status = pool["metadata"]["name"], pool.get("status", {})
        if pool["spec"].get("paused"):
            found.append(f"the machine config pool {name} is paused")
        if _is(pool, "Degraded"):
            found.append(f"the machine config pool {name} is degraded: {_why(pool, 'NodeDegraded')}")
        elif _is(pool, "Updating"):
            found.append(
                f"the machine config pool {name} is being updated ({status.get('updatedMachineCount', 0)} of {status.get('machineCount', 0)} nodes)"
            )
    return found


def _against_a_minor(state: State) -> list[str]:
    found = []
    if _is(state.version, "Upgradeable", "False"):
        found.append(f"Upgradeable=False: {_why(state.version, 'Upgradeable')}")
    number = minor(state.current).rpartition(".")[2]
    for name, text in sorted(state.gates.items()):
        match = GATE.match(name)
        if match and match[1] == number and state.acks.get(name) != "true":
            said = f"the administrator has not acknowledged {name}: {' '.join(text.split())}"
            if not any("AdminAckRequired" in each for each in found):
                found.append(said)
    etcd = next((each for each in state.operators if each["metadata"]["name"] == "etcd"), {})
    if condition_of(etcd, "RecentBackup") and not _is(etcd, "RecentBackup"):
        found.append(f"etcd has no recent backup: {_why(etcd, 'RecentBackup')}")
    return found


def not_offered(state: State, hop: Hop) -> str:
    """Why the target cannot be asked for, or empty."""
    if state.offered(hop) or (hop.explicit and hop.image):
        return ""
    asked = hop.image or hop.version
    conditional = state.conditional(hop)
    if conditional is not None:
        if hop.explicit:
            return ""
        against = find(conditions_in(conditional), "Recommended")
        why = against.text if against else "it does not say why"
        return f"{asked} is not recommended here ({why}); --upgrade-allow-explicit accepts that"
    if _is(state.version, "RetrievedUpdates", "False"):
        return f"{asked} is not offered: the updates could not be retrieved: {_why(state.version, 'RetrievedUpdates')}"
    known = [each["version"] for each in state.version["status"].get("availableUpdates") or ()]
    return (
        f"{asked} is not offered on channel {state.channel or '(none)'}"
        + (f", which offers {', '.join(known)}" if known else ", which offers nothing")
        + "; give --upgrade-channel, or --upgrade-image with --upgrade-allow-explicit"
    )


def refuse(state: State, hop: Hop) -> None:
    """UpgradeRefused with all that speaks against it, before anything is touched. Another channel's offers are not known yet."""
    found = [*problems(state, hop), *filter(None, [channel_refused(state, hop)])]
    if not found and hop.channel in (None, state.channel):
        found = list(filter(None, [not_offered(state, hop)]))
    if found:
        raise UpgradeRefused(f"{state.current or 'the cluster'} -> {hop.version}: {'; '.join(found)}")


def channel_refused(state: State, hop: Hop) -> str:
    """Why the channel must not be set, or empty: as `oc adm upgrade channel` has it."""
    known = state.version["status"].get("desired", {}).get("channels") or ()
    if not hop.channel or hop.channel == state.channel or not known or hop.channel in known or hop.explicit_channel:
        return ""
    return f"the channel {hop.channel} is none of those that {state.current} names ({', '.join(known)}); --upgrade-allow-explicit sets it all the same"


@dataclass(frozen=True)
class Asker:
    """Asks the cluster: by oc where there is one, else by the edits that oc makes."""

    cluster: Cluster
    edits: Edits
    adm_upgrade: AdmUpgrade

    async def check(self, clock: Clock, hop: Hop) -> State:
        """Everything is fit, and the target is offered: on the hop's channel, which is then set. UpgradeRefused with all reasons;
        a channel that does not offer the target is put back. One that does is put back too, unless the upgrade is begun."""
        state = await read(self.cluster)
        refuse(state, hop)
        if hop.channel in (None, state.channel):
            return state
        await self._set_channel(hop)
        why = ""
        give_up = clock.now() + OFFER_SECONDS
        while clock.now() < give_up:
            state = await read(self.cluster)
            why = not_offered(state, hop)
            if not why:
                return state
            await asyncio.sleep(max(0.05, clock.wall(LOOK_SECONDS)))
        left = await self.edits.undo(VERSION_REF)
        raise UpgradeRefused(f"{state.current} -> {hop.version}: {'; '.join([why, *left])}")

    async def _set_channel(self, hop: Hop) -> None:
        assert hop.channel is not None
        await self.edits.expect(VERSION_REF, {"/spec/channel": hop.channel})
        words = ["channel", hop.channel, *(["--allow-explicit-channel"] if hop.explicit_channel else [])]
        if await asyncio.to_thread(self.adm_upgrade, words) is None:
            await self.cluster.patch(VERSION_PATH, {"spec": {"channel": hop.channel}})

    async def begin(self, state: State, hop: Hop) -> str:
        """Ask for the update. Returns what did it. From here on nothing of it can be undone."""
        target = state.offered(hop) or (state.conditional(hop) or {}).get("release")
        words = [f"--to-image={hop.image}" if hop.image else f"--to={hop.version}"]
        if hop.explicit:
            words.append("--allow-explicit-upgrade")
            if not state.offered(hop) and state.conditional(hop):
                words.append("--allow-not-recommended")
        if hop.force:
            words.append("--force")
        by_oc = await asyncio.to_thread(self.adm_upgrade, words) is not None
        if not by_oc:
            await self.cluster.patch(VERSION_PATH, {"spec": {"desiredUpdate": desired_update(target, hop)}})
        await self.edits.keep(VERSION_REF)
        return "oc adm upgrade" if by_oc else "ClusterVersion"


def desired_update(target: Mapping[str, Any] | None, hop: Hop) -> dict[str, Any]:
    """What oc writes: a release that is offered by its version and image, another by its image alone."""
    if target is None:
        return {"version": "", "image": hop.image, "force": hop.force}
    return {"version": target["version"], "image": target["image"], "force": hop.force}
