"""The log subresource of pods: what a kubelet reads off its containers' log files.

The containers here run nothing; their logs are worked out when somebody reads them: what `echo` prints, and for KubeVirt's own
containers what these say at the points of their lives that the objects tell of.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..api import errors
from ..api.errors import ApiError, Cause
from ..api.store import Object
from .common import Cluster, condition, controller_of
from .pods import is_launcher
from .processes import printed

if TYPE_CHECKING:
    from ..api.server import ApiServer

Line = tuple[float, str]  # seconds of cluster time, and text
# What KubeVirt's containers say when they start, after so many seconds.
STARTING: dict[str, tuple[Line, ...]] = {
    "virt-handler": ((0.4, "set verbosity to 2"), (0.9, "STARTING informer vmiInformer-sources"), (1.6, "Starting virt-handler vms controller.")),
    "virt-controller": ((0.5, "STARTING controllers with following threads"), (1.2, "Starting vmi controller."), (1.3, "Starting migration controller.")),
    "virt-api": ((0.6, "set verbosity to 2"), (1.1, "Starting to listen on :8443")),
}


@dataclass
class Wanted:
    """PodLogOptions."""

    container: str
    follow: bool
    previous: bool
    timestamps: bool
    tail_lines: int | None
    limit_bytes: int | None
    since: float | None  # cluster time


class PodLogs:
    """Serves .../pods/NAME/log."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing = cluster.timing.kubernetes
        self._pods = self._resources.kind("pods")
        self._vmis = self._resources.kind("virtualmachineinstances.kubevirt.io")

    def start(self) -> None:
        """It has nothing to do before it is asked."""

    async def stop(self) -> None:
        """Requests end with the server."""

    def serve(self, server: ApiServer) -> None:
        server.add_subresource("", "v1", "pods", "log", {"GET"}, self.handle)

    async def handle(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        wanted = self._options(request.query, name)
        pod = self._resources.find(self._pods, namespace, name)
        if pod is None:
            raise errors.not_found("pods", "", name)
        wanted.container = container_of(pod, wanted.container)
        node = pod["spec"].get("nodeName")
        if not node:
            return web.Response(status=204)
        if not self._cluster.hosts.is_up(node):
            address = pod["status"].get("hostIP", node)
            raise ApiError(500, f'Get "https://{address}:10250/containerLogs/{namespace}/{name}/{wanted.container}": dial tcp {address}:10250: '
                                "connect: no route to host", "", details={})
        lines, ended = self._read(pod, wanted)
        shown = self._shown(lines, wanted)
        if not wanted.follow or ended:
            return web.Response(body=shown, content_type="text/plain")
        return await self._follow(request, pod, wanted, shown, len(lines))

    def _options(self, query: Any, name: str) -> Wanted:
        numbers = {key: _number(query[key]) for key in ("tailLines", "sinceSeconds", "limitBytes") if query.get(key)}
        since = _time(query["sinceTime"]) - self._clock.epoch if query.get("sinceTime") else None
        for key, least, words in (("tailLines", 0, "greater than or equal to 0"), ("sinceSeconds", 1, "greater than 0"), ("limitBytes", 1, "greater than 0")):
            if key in numbers and numbers[key] < least:
                raise errors.invalid("PodLogOptions", "", name, [Cause(key, f"Invalid value: {numbers[key]}: must be {words}")])
        if since is not None and "sinceSeconds" in numbers:
            raise errors.invalid("PodLogOptions", "", name, [
                Cause("[]", "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified", "FieldValueForbidden")])
        if "sinceSeconds" in numbers:
            since = self._clock.now() - numbers["sinceSeconds"]

        def switched(key: str) -> bool:
            return query.get(key, "false").lower() not in ("false", "0")

        return Wanted(query.get("container", ""), switched("follow"), switched("previous"), switched("timestamps"),
                      numbers.get("tailLines"), numbers.get("limitBytes"), since)

    async def _follow(self, request: web.Request, pod: Object, wanted: Wanted, shown: bytes, seen: int) -> web.StreamResponse:
        """Until the container has ended or the client goes."""
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        left = None if wanted.limit_bytes is None else wanted.limit_bytes
        key, uid, ended = (pod["metadata"]["namespace"], pod["metadata"]["name"]), pod["metadata"]["uid"], False
        started = status_of(pod, wanted.container).get("containerID")
        while True:
            if left is not None:
                shown, left = shown[:left], left - len(shown)
            if shown:
                await response.write(shown)
            if ended or (left is not None and left <= 0):
                break
            await self._clock.sleep(self._timing.log_check_seconds)
            now = self._resources.find(self._pods, *key)
            if now is None or now["metadata"]["uid"] != uid or status_of(now, wanted.container).get("containerID") != started:
                break
            lines, ended = self._read(now, wanted)
            shown, seen = self._text(lines[seen:], wanted), len(lines)
        await response.write_eof()
        return response

    # Reading.

    def _read(self, pod: Object, wanted: Wanted) -> tuple[list[Line], bool]:
        """The lines of a container's log so far, and whether it is at its end. 400 if it has none."""
        status, name = status_of(pod, wanted.container), pod["metadata"]["name"]
        state, last = status.get("state") or {}, status.get("lastState") or {}
        if wanted.previous:
            if "terminated" not in last:
                raise ApiError(400, f'previous terminated container "{wanted.container}" in pod "{name}" not found')
            state = last
        elif "waiting" in state and "terminated" in last:
            state = last  # between two starts the last one's log is what there is
        if "running" not in state and "terminated" not in state:
            reason = (state.get("waiting") or {}).get("reason", "ContainerCreating")
            raise ApiError(400, f'container "{wanted.container}" in pod "{name}" is waiting to start: {reason}')
        began = self._clock.parse((state.get("running") or state["terminated"])["startedAt"])
        ended = "terminated" in state
        # An object's times are whole seconds, rounded down.
        until = self._clock.parse(state["terminated"]["finishedAt"]) + 0.999 if ended else self._clock.now()
        lines = [(at, text) for at, text in self._lines(pod, wanted.container, began) if at <= until]
        return sorted(lines, key=lambda line: line[0]), ended

    def _lines(self, pod: Object, name: str, began: float) -> list[Line]:
        if is_launcher(pod) and name == "compute":
            return [(at, _kubevirt("virt-launcher", text, self._stamp(at))) for at, text in self._launcher(pod, began)]
        said = self._cluster.hosts.said.get(status_of(pod, name).get("containerID", ""))
        if said is not None:
            return list(said)
        if name in STARTING:
            return [(began + after, _kubevirt(name, text, self._stamp(began + after))) for after, text in STARTING[name]]
        spec = pod["spec"]
        container = next(each for each in [*spec["containers"], *(spec.get("initContainers") or ())] if each["name"] == name)
        return [(began + after, text) for after, text in printed(container)]

    def _launcher(self, pod: Object, began: float) -> list[Line]:
        """What virt-launcher says: of its own start, and of the domain, as the VMI tells."""
        lines = [(began, "Collected all requested hook sidecar sockets"), (began, "Connecting to libvirt daemon: qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock"),
                 (began, "Connected to libvirt daemon"), (began, "Registered libvirt event notify callback"), (began, "Marked as ready")]
        owner = controller_of(pod)
        vmi = self._resources.find(self._vmis, pod["metadata"]["namespace"], owner["name"]) if owner else None
        if vmi is None or owner is None or vmi["metadata"]["uid"] != owner["uid"]:
            return lines
        status = vmi.get("status", {})
        migration = status.get("migrationState") or {}
        ours = pod["metadata"]["uid"] in (status.get("activePods") or {}) or migration.get("sourcePod") == pod["metadata"]["name"]
        target = migration.get("targetPod") == pod["metadata"]["name"]
        for each in status.get("phaseTransitionTimestamps") or ():
            if each["phase"] == "Running" and ours and not target:
                at = self._clock.parse(each["phaseTransitionTimestamp"])
                lines += [(at, "Domain defined."), (at, "Domain started."), (at, "Synced vmi")]
        connected = condition(status.get("conditions") or (), "AgentConnected")
        if ours and connected and connected["status"] == "True" and connected.get("lastTransitionTime"):
            lines.append((self._clock.parse(connected["lastTransitionTime"]), "GuestAgentLifecycle event state 1 with reason 1 received"))
        if migration.get("sourcePod") == pod["metadata"]["name"] and migration.get("endTimestamp"):
            words = "Live migration failed." if migration.get("failed") else "Live migration succeeded."
            lines.append((self._clock.parse(migration["endTimestamp"]), words))
        if "deletionTimestamp" in pod["metadata"]:
            at = self._clock.parse(pod["metadata"]["deletionTimestamp"]) - float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            lines += [(at, "Received signal terminated"), (at, "Signaled graceful shutdown")]
        return lines

    # Writing.

    def _shown(self, lines: list[Line], wanted: Wanted) -> bytes:
        if wanted.since is not None:
            lines = [line for line in lines if line[0] >= wanted.since]
        if wanted.tail_lines is not None:
            lines = lines[len(lines) - min(wanted.tail_lines, len(lines)):]
        text = self._text(lines, wanted)
        return text if wanted.limit_bytes is None else text[:wanted.limit_bytes]

    def _text(self, lines: list[Line], wanted: Wanted) -> bytes:
        stamp: Callable[[float], str] = (lambda at: self._stamp(at) + " ") if wanted.timestamps else (lambda at: "")
        return "".join(f"{stamp(at)}{text}\n" for at, text in lines).encode()

    def _stamp(self, at: float) -> str:
        return f"{datetime.fromtimestamp(self._clock.epoch + at, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"


def status_of(pod: Object | None, container: str) -> Object:
    """A container's status; empty if there is none, or no pod."""
    status: Object = (pod or {}).get("status", {})
    statuses = itertools.chain(status.get("containerStatuses") or (), status.get("initContainerStatuses") or ())
    return next((each for each in statuses if each["name"] == container), {})


def container_of(pod: Object, name: str) -> str:
    """The container that is meant; 400 if there is no such, or none is named of several. Init containers must be named."""
    spec = pod["spec"]
    main, init = ([each["name"] for each in spec.get(part) or ()] for part in ("containers", "initContainers"))
    if name:
        if name not in (*main, *init, *(each["name"] for each in spec.get("ephemeralContainers") or ())):
            raise ApiError(400, f"container {name} is not valid for pod {pod['metadata']['name']}")
        return name
    if len(main) > 1:
        others = f" or one of the init containers: [{' '.join(init)}]" if init else ""
        raise ApiError(400, f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{' '.join(main)}]{others}")
    return str(main[0])


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ApiError(400, f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _time(text: str) -> float:
    """Unix seconds."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ApiError(400, f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "{text}" as "2006"') from None


def _kubevirt(component: str, text: str, stamp: str) -> str:
    """A line of KubeVirt's log."""
    return json.dumps({"component": component, "level": "info", "msg": text, "timestamp": stamp[:-4] + "Z"}, separators=(",", ":"))
