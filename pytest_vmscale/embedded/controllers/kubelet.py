"""All kubelets: from a pod bound to a node to running containers, and back. A pod that runs costs nothing."""

from __future__ import annotations

import heapq
import ipaddress
from collections import deque
from dataclasses import dataclass, field

from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Cluster, PodsByNode, controller_of, decoded, set_condition
from .events import Recorder
from .pods import container_status, is_finished, is_launcher, set_readiness, sort_conditions
from .processes import ending

POD_NETWORK = ipaddress.ip_network("10.128.0.0/14")  # OpenShift's default cluster network


@dataclass(slots=True, eq=False)
class Pod:
    """What the kubelet remembers of a pod of its node."""

    key: Key
    uid: str
    node: str
    launcher: bool
    stage: str = "waiting"  # waiting, starting, running, stopping, ended
    ip: str = ""
    stop_at: float = 0.0


@dataclass(slots=True, eq=False)
class Machine:
    """One node's limits: pods that start at a time, images, addresses."""

    name: str
    subnet: int  # number of the first address
    ip: str  # the host's own
    free: list[int] = field(default_factory=list)  # offsets in the subnet that were given back
    next: int = 2
    starting: int = 0
    waiting: deque[Pod] = field(default_factory=deque)
    images: dict[str, float] = field(default_factory=dict)  # when each image is, or will be, there


class Kubelet:
    """Runs the pods of every machine that has power."""

    COMPONENT = "kubelet"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._timing = cluster.timing.kubernetes
        self._kind, self._nodes = self._resources.kind("pods"), self._resources.kind("nodes")
        self._vmis = self._resources.kind("virtualmachineinstances.kubevirt.io")
        self._events = Recorder(cluster)
        self._by_node = PodsByNode(self._resources)
        self._pods: dict[Key, Pod] = {}
        self._machines: dict[str, Machine] = {}
        self._stopping_launchers: dict[Key, set[Key]] = {}  # by their VMI
        self._workers = Workers("kubelet", self._clock, 1, self._sync)

    def start(self) -> None:
        self._resources.watch(self._kind, self._changed)
        self._resources.watch(self._vmis, self._vmi_changed)
        self._cluster.hosts.on_power(self._power)
        self._cluster.hosts.on_exit(self._exited)
        for entry in self._resources.store.entries(self._kind):
            if entry.selectable["spec.nodeName"]:
                self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    # What the watches say.

    def _changed(self, change: Change) -> None:
        if not change.new.selectable["spec.nodeName"]:
            return
        pod = self._pods.get(change.key)
        if pod is not None and change.type == "MODIFIED" and pod.stage == "starting" and "deletionTimestamp" not in decoded(change.new)["metadata"]:
            return  # its own first status
        self._workers.queue.add(change.key)

    def _vmi_changed(self, change: Change) -> None:
        if change.key in self._stopping_launchers and (change.type == "DELETED" or self._guest_is_gone(decoded(change.new))):
            for key in self._stopping_launchers.pop(change.key):
                self._exited(*key, 0)

    @staticmethod
    def _guest_is_gone(vmi: Object) -> bool:
        return vmi.get("status", {}).get("phase") in ("Succeeded", "Failed")

    def _machine(self, name: str) -> Machine:
        machine = self._machines.get(name)
        if machine is None:
            addresses = 2 ** (32 - int(self._timing.pod_subnet_prefix))
            subnet = int(POD_NETWORK.network_address) + len(self._machines) * addresses
            machine = Machine(name, subnet, self._host_ip(name))
            node = self._resources.find(self._nodes, "", name)
            machine.images = {each: 0.0 for image in (node or {}).get("status", {}).get("images") or () for each in image["names"]}
            self._machines[name] = machine
        return machine

    async def _sync(self, key: Key) -> None:
        pod = self._resources.find(self._kind, *key)
        known = self._pods.get(key)
        if known is not None and (pod is None or pod["metadata"]["uid"] != known.uid):
            self._forget(known)
            known = None
        if pod is None or not self._cluster.hosts.is_up(pod["spec"].get("nodeName", "")):
            return
        deleting = "deletionTimestamp" in pod["metadata"]
        if is_finished(pod):
            if known is not None:
                self._forget(known)
            if deleting:
                self._resources.delete(self._kind, *key, grace_seconds=0)
        elif known is None and deleting:
            self._resources.delete(self._kind, *key, grace_seconds=0)  # never started here
        elif known is None:
            known = self._pods[key] = Pod(key, pod["metadata"]["uid"], pod["spec"]["nodeName"], is_launcher(pod))
            machine = self._machine(known.node)
            machine.waiting.append(known)
            self._start_next(machine)
        elif deleting:
            self._stop(pod, known)
        elif known.stage == "running" and pod["spec"].get("readinessGates"):
            now = self._clock.timestamp()
            if set_readiness(pod, now):
                self._resources.update(self._kind, pod, subresource="status")

    def _forget(self, known: Pod) -> None:
        """Its containers are no more: give back what it held."""
        del self._pods[known.key]
        machine = self._machine(known.node)
        if known.stage == "waiting":
            machine.waiting.remove(known)
        elif known.stage == "starting":
            self._slot_free(machine)
        if known.ip:
            heapq.heappush(machine.free, int(ipaddress.ip_address(known.ip)) - machine.subnet)
        known.stage = "ended"

    # Starting.

    def _start_next(self, machine: Machine) -> None:
        while machine.waiting and machine.starting < self._timing.pod_starts_per_node:
            known = machine.waiting.popleft()
            known.stage = "starting"
            machine.starting += 1
            seconds = self._spread(self._timing.kubelet_sync_seconds) * self._slowdown(known)
            self._clock.call_later(seconds, lambda known=known: self._create(known))  # type: ignore[misc]

    def _slot_free(self, machine: Machine) -> None:
        machine.starting -= 1
        self._start_next(machine)

    def _spread(self, seconds: float) -> float:
        share: float = self._timing.kubelet_spread
        return seconds * self._cluster.random.uniform(1 - share, 1 + share)

    def _slowdown(self, known: Pod) -> float:
        """The fault's factor on all that is part of a VM's start."""
        return float(self._cluster.faults.boot_slowdown) if known.launcher else 1.0

    def _current(self, known: Pod, stage: str) -> Object | None:
        """The pod, if it is still this one, in this stage, on a machine with power, and not being deleted."""
        if known.stage != stage or not self._cluster.hosts.is_up(known.node):
            return None
        pod = self._resources.find(self._kind, *known.key)
        return pod if pod is not None and pod["metadata"]["uid"] == known.uid else None

    def _address(self, machine: Machine) -> str | None:
        if machine.free:
            return str(ipaddress.ip_address(machine.subnet + heapq.heappop(machine.free)))
        if machine.next >= 2 ** (32 - int(self._timing.pod_subnet_prefix)) - 1:
            return None
        machine.next += 1
        return str(ipaddress.ip_address(machine.subnet + machine.next - 1))

    def _host_ip(self, name: str) -> str:
        node = self._resources.find(self._nodes, "", name)
        addresses = (node or {}).get("status", {}).get("addresses") or ()
        return next((each["address"] for each in addresses if each["type"] == "InternalIP"), "")

    def _create(self, known: Pod) -> None:
        """The kubelet has seen the pod: it says so, and the runtime makes the sandbox, pulls images and starts containers."""
        pod = self._current(known, "starting")
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        machine, spec, now = self._machine(known.node), pod["spec"], self._clock.timestamp()
        status = pod["status"]
        status.setdefault("startTime", now)
        status["hostIP"] = machine.ip
        initial = spec.get("initContainers") or []
        if initial:
            names = " ".join(each["name"] for each in initial)
            set_condition(status, "Initialized", "False", now, "ContainersNotInitialized", f"containers with incomplete status: [{names}]", lastProbeTime=None)
        else:
            set_condition(status, "Initialized", "True", now, lastProbeTime=None)
        set_condition(status, "PodReadyToStartContainers", "False", now, lastProbeTime=None)
        set_condition(status, "PodScheduled", "True", now, lastProbeTime=None)
        waiting = {"waiting": {"reason": "PodInitializing" if initial else "ContainerCreating"}}
        restarts = {each["name"]: each["restartCount"] for each in status.get("containerStatuses") or ()}
        status["containerStatuses"] = [container_status(each, waiting, restarts.get(each["name"], 0)) for each in spec["containers"]]
        if initial:
            status["initContainerStatuses"] = [container_status(each, waiting) for each in initial]
        status["phase"] = "Pending"
        set_readiness(pod, now)
        sort_conditions(status)
        pod = self._resources.update(self._kind, pod, subresource="status")
        if spec.get("hostNetwork"):
            pod["status"]["podIP"] = pod["status"]["hostIP"]
        else:
            address = self._address(machine)
            if address is None:
                message = "Failed to create pod sandbox: no IP addresses available in range set"
                self._events.event(pod, "Warning", "FailedCreatePodSandBox", message, self.COMPONENT, known.node)
                self._clock.call_later(self._timing.sandbox_retry_seconds, lambda: self._create(known))
                return
            known.ip = address
        containers = [*initial, *spec["containers"]]
        seconds = self._spread(self._timing.sandbox_seconds + len(initial) * self._timing.init_container_seconds
                               + len(spec["containers"]) * self._timing.container_start_seconds) + self._pull(pod, machine, containers)
        self._clock.call_later(seconds * self._slowdown(known), lambda: self._started(known))

    def _pull(self, pod: Object, machine: Machine, containers: list[Object]) -> float:
        """Seconds until the images are there. Images are pulled one after the other; each once a node."""
        now = at = self._clock.now()
        for container in containers:
            image = container.get("image", "")
            there = machine.images.get(image)
            if there is None:
                at = machine.images[image] = at + self._spread(self._timing.image_pull_seconds)
                self._event(pod, "Pulling", f'Pulling image "{image}"')
                message = f'Successfully pulled image "{image}" in {at - now:.6f}s'
                self._clock.call_at(at, lambda message=message: self._event(pod, "Pulled", message))  # type: ignore[misc]
                continue
            at = max(at, there)
            if container.get("imagePullPolicy") == "Always":
                at += self._timing.image_check_seconds
            self._event(pod, "Pulled", f'Container image "{image}" already present on machine')
        return at - now

    def _event(self, pod: Object, reason: str, message: str) -> None:
        self._events.event(pod, "Normal", reason, message, self.COMPONENT, pod["spec"]["nodeName"])

    def _started(self, known: Pod) -> None:
        pod = self._current(known, "starting")
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        known.stage = "running"
        now, spec, status = self._clock.timestamp(), pod["spec"], pod["status"]
        address = known.ip or status["hostIP"]
        status.update(phase="Running", podIP=address, podIPs=[{"ip": address}])
        probe_seconds = 0.0
        for each in status["containerStatuses"]:
            container = next(c for c in spec["containers"] if c["name"] == each["name"])
            delay = float((container.get("readinessProbe") or {}).get("initialDelaySeconds") or 0)
            probe_seconds = max(probe_seconds, delay)
            each.update(state={"running": {"startedAt": now}}, ready=not delay, started=True,
                        imageID=self._image_id(container), containerID=self._container_id())
        for each in status.get("initContainerStatuses") or ():
            container = next(c for c in spec["initContainers"] if c["name"] == each["name"])
            sidecar = container.get("restartPolicy") == "Always"
            each.update(state={"running": {"startedAt": now}}, containerID=self._container_id(), imageID=self._image_id(container))
            if not sidecar:
                self._terminate(each, 0, now)
            each.update(ready=True, started=sidecar)
        set_condition(status, "Initialized", "True", now, lastProbeTime=None)
        set_condition(status, "PodReadyToStartContainers", "True", now, lastProbeTime=None)
        set_readiness(pod, now)
        sort_conditions(status)
        pod = self._resources.update(self._kind, pod, subresource="status")
        for container in spec["containers"]:
            self._event(pod, "Created", f"Created container {container['name']}")
            self._event(pod, "Started", f"Started container {container['name']}")
        if probe_seconds:
            self._clock.call_later(probe_seconds, lambda: self._probed(known))
        self._watch_processes(pod, known)
        self._slot_free(self._machine(known.node))

    def _container_id(self) -> str:
        return f"cri-o://{self._cluster.random.getrandbits(256):064x}"

    @staticmethod
    def _image_id(container: Object) -> str:
        return str(container.get("image", ""))

    def _probed(self, known: Pod) -> None:
        """The readiness probes' first success."""
        pod = self._current(known, "running")
        if pod is not None:
            for each in pod["status"]["containerStatuses"]:
                each["ready"] = "running" in each["state"]
            set_readiness(pod, self._clock.timestamp())
            self._resources.update(self._kind, pod, subresource="status")

    # Ending by itself.

    def _watch_processes(self, pod: Object, known: Pod) -> None:
        owner = controller_of(pod)
        for container in pod["spec"]["containers"]:
            if known.launcher:
                return
            end = ending(container, owner is not None and owner["kind"] == "Job", self._timing.job_container_seconds)
            if end is not None:
                seconds, code = end
                self._clock.call_later(seconds, lambda name=container["name"], code=code: self._ended(known, name, code))  # type: ignore[misc]

    def _ended(self, known: Pod, container: str, code: int) -> None:
        """A container's process has ended; it is started again, after a back-off, if the restart policy says so."""
        pod = self._current(known, "running")
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        policy, now = pod["spec"].get("restartPolicy", "Always"), self._clock.timestamp()
        status = next(each for each in pod["status"]["containerStatuses"] if each["name"] == container)
        self._terminate(status, code, now)
        if policy == "Always" or (policy == "OnFailure" and code):
            backoff = min(self._timing.restart_backoff_most_seconds,
                          self._timing.restart_backoff_first_seconds * 2.0 ** min(status["restartCount"], 10))
            status["lastState"] = status["state"]
            message = f"back-off {backoff:.0f}s restarting failed container={container} pod={known.key[1]}_{known.key[0]}({known.uid})"
            status["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
            self._events.event(pod, "Warning", "BackOff", "Back-off restarting failed container", self.COMPONENT, known.node)
            self._clock.call_later(backoff, lambda: self._restart(known, container, code))
        self._finish_if_all_ended(pod, now)

    @staticmethod
    def _terminate(status: Object, code: int, now: str) -> None:
        started = status["state"].get("running", {}).get("startedAt", now)
        status.update(ready=False, started=False, state={"terminated": {
            "exitCode": code, "reason": "Error" if code else "Completed", "startedAt": started, "finishedAt": now,
            **({"containerID": status["containerID"]} if "containerID" in status else {})}})

    def _finish_if_all_ended(self, pod: Object, now: str) -> None:
        states = [each["state"] for each in pod["status"]["containerStatuses"]]
        if all("terminated" in state for state in states):
            for each in pod["status"].get("initContainerStatuses") or ():
                if "running" in each["state"]:
                    self._terminate(each, 0, now)
            failed = any(state["terminated"]["exitCode"] for state in states)
            pod["status"]["phase"] = "Failed" if failed else "Succeeded"
            if not failed:
                set_condition(pod["status"], "Initialized", "True", now, "PodCompleted", lastProbeTime=None)
        set_readiness(pod, now)
        self._resources.update(self._kind, pod, subresource="status")

    def _restart(self, known: Pod, container: str, code: int) -> None:
        pod = self._current(known, "running")
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        now = self._clock.timestamp()
        status = next(each for each in pod["status"]["containerStatuses"] if each["name"] == container)
        status.update(ready=True, started=True, restartCount=status["restartCount"] + 1, containerID=self._container_id(),
                      state={"running": {"startedAt": now}})
        set_readiness(pod, now)
        pod = self._resources.update(self._kind, pod, subresource="status")
        spec = next(each for each in pod["spec"]["containers"] if each["name"] == container)
        seconds, code = ending(spec, False, self._timing.job_container_seconds) or (self._timing.job_container_seconds, code)
        self._clock.call_later(seconds, lambda: self._ended(known, container, code))

    def _exited(self, namespace: str, name: str, code: int) -> None:
        """All containers have ended by themselves."""
        known = self._pods.get((namespace, name))
        if known is None or not self._cluster.hosts.is_up(known.node):
            return
        if known.stage == "stopping":
            self._stopped(known, code)
            return
        pod = self._current(known, "running")
        if pod is not None:
            now = self._clock.timestamp()
            for each in pod["status"]["containerStatuses"]:
                self._terminate(each, code, now)
            self._finish_if_all_ended(pod, now)

    # Stopping.

    def _stop(self, pod: Object, known: Pod) -> None:
        """Deletion was asked for: containers get their grace period, and most need little of it."""
        now, grace = self._clock.now(), float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        first = known.stage != "stopping"
        if first:
            if known.stage == "waiting":
                self._machine(known.node).waiting.remove(known)
            elif known.stage == "starting":
                self._slot_free(self._machine(known.node))
            if known.stage == "running":
                for container in pod["spec"]["containers"]:
                    self._event(pod, "Killing", f"Stopping container {container['name']}")
            known.stage = "stopping"
            known.stop_at = now + grace
        elif now + grace >= known.stop_at:
            return  # only a shorter grace period changes anything
        else:
            known.stop_at = now + grace
        seconds, code = grace, 137
        if not self._waits_for_guest(pod, known) and self._timing.container_stop_seconds <= grace:
            seconds, code = self._spread(self._timing.container_stop_seconds), 0
        self._clock.call_later(seconds, lambda: self._stopped(known, code))

    def _waits_for_guest(self, pod: Object, known: Pod) -> bool:
        """A virt-launcher ends when its guest does. Its VMI says so, or whoever runs the guest (Hosts.pod_exited)."""
        owner = controller_of(pod)
        if not known.launcher or owner is None:
            return False
        vmi = self._resources.find(self._vmis, known.key[0], owner["name"])
        if vmi is None or vmi["metadata"]["uid"] != owner["uid"] or self._guest_is_gone(vmi):
            return False
        if vmi["status"].get("nodeName", known.node) != known.node:
            return False  # the guest runs elsewhere: this is the target of a migration, or what one left behind
        self._stopping_launchers.setdefault((known.key[0], owner["name"]), set()).add(known.key)
        return True

    def _stopped(self, known: Pod, code: int) -> None:
        pod = self._current(known, "stopping")
        if pod is None:
            return
        now = self._clock.timestamp()
        statuses = pod["status"].get("containerStatuses") or []
        if any("running" in each["state"] for each in statuses):
            for each in [*statuses, *(pod["status"].get("initContainerStatuses") or ())]:
                if "running" in each["state"]:
                    self._terminate(each, code, now)
            set_readiness(pod, now)
            self._resources.update(self._kind, pod, subresource="status")
        self._resources.delete(self._kind, *known.key, grace_seconds=0)

    # Power.

    def _power(self, name: str, up: bool) -> None:
        if up:
            self._clock.call_later(self._timing.kubelet_start_seconds, lambda: self._rebooted(name))

    def _rebooted(self, name: str) -> None:
        """Nothing survived: pods that restart do, the others have failed, those being deleted are gone."""
        if not self._cluster.hosts.is_up(name):
            return
        for key in self._by_node.on(name):
            known, pod = self._pods.get(key), self._resources.find(self._kind, *key)
            if known is not None:
                self._forget(known)
            if pod is None or is_finished(pod):
                continue
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("containerStatuses"):
                now, fails = self._clock.timestamp(), pod["spec"].get("restartPolicy") == "Never"
                for each in pod["status"]["containerStatuses"]:
                    if "running" in each["state"]:
                        self._terminate(each, 255, now)
                    if not fails:
                        each["restartCount"] += 1
                if fails:
                    self._finish_if_all_ended(pod, now)
                else:
                    set_readiness(pod, now)
                    self._resources.update(self._kind, pod, subresource="status")
            self._workers.queue.add(key)


