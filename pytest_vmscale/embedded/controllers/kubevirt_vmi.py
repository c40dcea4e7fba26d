"""virt-controller's VMI controller: the virt-launcher pod of each VMI, and what its status says until virt-handler takes over."""

from __future__ import annotations

from ..api.errors import ApiError
from ..api.store import Change, Key, Object
from ..queue import Workers
from .common import Children, Cluster, condition, decoded, set_condition
from .kubevirt_client import (
    FINALIZER,
    NODE_LABEL,
    OBSERVED,
    Client,
    has_condition,
    is_deleting,
    is_final,
    phase_of,
    remove_condition,
    set_phase,
    set_vmi_condition,
)
from .kubevirt_pod import LAUNCHER_IMAGE, UNPAUSED, claim_name, launcher_pod, overhead_kib

NONROOT_USER = 107  # qemu
PULL_FAILURES = ("ErrImagePull", "ImagePullBackOff")


class VirtualMachineInstances:
    """Makes and removes launcher pods, and hands a VMI over to its node's virt-handler once its pod runs."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self._cluster, self._resources, self._clock, self._client = cluster, cluster.resources, cluster.clock, client
        self._timing = cluster.timing.virt_controller
        kind = cluster.resources.kind
        self._vmis, self._pods = kind("virtualmachineinstances.kubevirt.io"), kind("pods")
        self._claims, self._data_volumes = kind("persistentvolumeclaims"), kind("datavolumes.cdi.kubevirt.io")
        self.launchers = Children(cluster.resources, self._pods)
        self._waiting_for_claim: dict[Key, set[Key]] = {}
        self._workers = Workers("virt-controller-vmi", cluster.clock, self._timing.vmi_workers, self._reconcile)

    def start(self) -> None:
        self._resources.watch(self._vmis, lambda change: self._workers.queue.add(change.key))
        self._resources.watch(self._pods, self._pod_changed)
        self._resources.watch(self._claims, self._claim_changed)
        for entry in self._resources.store.entries(self._vmis):
            self._workers.queue.add(entry.key)
        self._workers.start()

    async def stop(self) -> None:
        await self._workers.stop()

    def _pod_changed(self, change: Change) -> None:
        if change.new.labels.get("kubevirt.io") != "virt-launcher":
            return
        pod = decoded(change.new)
        domain = (pod["metadata"].get("annotations") or {}).get("kubevirt.io/domain")
        if not domain:
            return
        self._workers.queue.add((change.key[0], domain))

    def _claim_changed(self, change: Change) -> None:
        for key in self._waiting_for_claim.pop(change.key, ()):
            self._workers.queue.add(key)

    async def _reconcile(self, key: Key) -> None:
        vmi = self._resources.find(self._vmis, *key)
        if vmi is None:
            return
        if has_condition(vmi, "Ready") and not is_deleting(vmi):
            for _ in range(self._timing.running_vmi_reads):
                await self._client.request()
        pods = self.launchers.of(vmi)
        if is_deleting(vmi):
            await self._delete(vmi, key, pods)
            return
        if not pods and phase_of(vmi) in ("", "Pending"):
            if not await self._volumes_there(vmi, key):
                return
            try:
                pod = await self._client.create(self._pods, launcher_pod(vmi, self._claims_of(vmi)))
            except ApiError as refusal:
                await self._tell_refusal(vmi, key, refusal)
                raise
            self._cluster.truth.write("pod-created", *key, pod=pod["metadata"]["name"])
            self._client.event(vmi, "SuccessfulCreate", f"Created virtual machine pod {pod['metadata']['name']}")
            pods = [pod]
        await self._update_pods(vmi, pods)
        await self._update_status(vmi, key)

    async def _tell_refusal(self, vmi: Object, key: Key, refusal: ApiError) -> None:
        """The launcher may not be: a quota or a limit range forbids it. It is asked for again, ever later."""
        self._client.event(vmi, "FailedCreate", f"Error creating pod: {refusal.message}", "Warning")

        def change(vmi: Object) -> None:
            now = self._clock.timestamp()
            set_phase(vmi, "Pending", now)
            status = vmi["status"]
            set_vmi_condition(status, "Ready", "False", now, "PodNotExists", "virt-launcher pod has not yet been scheduled", probed=True)
            set_vmi_condition(status, "Synchronized", "False", now, "FailedCreate", f"failed to create virtual machine pod: {refusal.message}")

        await self._client.modify(self._vmis, *key, change)

    async def _delete(self, vmi: Object, key: Key, pods: list[Object]) -> None:
        """The guest stops first (virt-handler sees to it), then its pod goes, and at last the finalizer."""
        for pod in pods:
            if not is_deleting(pod):
                await self._client.delete(self._pods, pod["metadata"]["namespace"], pod["metadata"]["name"])
                self._client.event(vmi, "SuccessfulDelete", f"Deleted virtual machine pod {pod['metadata']['name']}")
        pods = self.launchers.of(vmi)
        uid = vmi["metadata"]["uid"]

        def change(vmi: Object) -> None:
            if vmi["metadata"]["uid"] == uid:
                self._write_status(vmi, pods)

        await self._client.modify(self._vmis, *key, change)
        if pods:
            return

        def release(vmi: Object) -> None:
            vmi["metadata"]["finalizers"] = [each for each in vmi["metadata"].get("finalizers") or () if each != FINALIZER]
            vmi.get("status", {}).pop("launcherContainerImageVersion", None)
            vmi.get("status", {}).pop("activePods", None)

        await self._client.modify(self._vmis, *key, release)

    # Volumes.

    def _claims_of(self, vmi: Object) -> dict[str, Object]:
        names = [name for name in map(claim_name, vmi["spec"].get("volumes") or ()) if name]
        found = {name: self._resources.find(self._claims, vmi["metadata"]["namespace"], name) for name in names}
        return {name: claim for name, claim in found.items() if claim}

    async def _volumes_there(self, vmi: Object, key: Key) -> bool:
        """Whether every claim exists and is bound, or waits for this very pod. If not, say so and wait."""
        claims = self._claims_of(vmi)
        missing = [name for name in map(claim_name, vmi["spec"].get("volumes") or ()) if name and name not in claims]
        unready = [name for name in claims if self._data_volume_unready(key[0], name)]
        for name in (*missing, *unready):
            self._waiting_for_claim.setdefault((key[0], name), set()).add(key)
        if not missing and not unready:
            return True

        def change(vmi: Object) -> None:
            now = self._clock.timestamp()
            set_phase(vmi, "Pending", now)
            if missing:
                set_vmi_condition(vmi["status"], "Synchronized", "False", now, "FailedPvcNotFound",
                                  f"failed to find PVC {missing[0]} in namespace {key[0]}" if len(missing) == 1
                                  else f"failed to find PVCs {', '.join(missing)} in namespace {key[0]}")

        await self._client.modify(self._vmis, *key, change)
        return False

    def _data_volume_unready(self, namespace: str, name: str) -> bool:
        data_volume = self._resources.find(self._data_volumes, namespace, name)
        return data_volume is not None and data_volume.get("status", {}).get("phase") not in ("Succeeded", "WaitForFirstConsumer", "PendingPopulation")

    # Pods.

    async def _update_pods(self, vmi: Object, pods: list[Object]) -> None:
        paused = has_condition(vmi, "Paused")
        node = vmi.get("status", {}).get("nodeName")
        for pod in pods:
            if is_deleting(pod):
                continue
            key = pod["metadata"]["namespace"], pod["metadata"]["name"]
            unpaused = condition(pod.get("status", {}).get("conditions") or (), UNPAUSED)
            if unpaused is None or unpaused["status"] != ("False" if paused else "True"):
                await self._client.modify(self._pods, *key, lambda pod: self._write_unpaused(pod, paused), subresource="status")
            if node and pod["spec"].get("nodeName") == node and (pod["metadata"].get("labels") or {}).get(NODE_LABEL) != node:
                await self._client.modify(self._pods, *key, lambda pod: pod["metadata"].setdefault("labels", {}).update({NODE_LABEL: node}))

    def _write_unpaused(self, pod: Object, paused: bool) -> None:
        status, now = pod.setdefault("status", {}), self._clock.timestamp()
        set_condition(status, UNPAUSED, "False" if paused else "True", now, "Paused" if paused else "NotPaused",
                                "the virtual machine is paused" if paused else "the virtual machine is not paused", lastProbeTime=now)

    # Status.

    async def _update_status(self, vmi: Object, key: Key) -> None:
        uid = vmi["metadata"]["uid"]

        def change(vmi: Object) -> None:
            if vmi["metadata"]["uid"] == uid:
                self._write_status(vmi, self.launchers.of(vmi))

        await self._client.modify(self._vmis, *key, change)

    def _current_pod(self, vmi: Object, pods: list[Object]) -> Object | None:
        """The pod that the guest runs in: on its node, or before that the oldest."""
        if vmi.get("status", {}).get("nodeName"):
            return pod_of(vmi, pods)
        return min(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)

    def _write_status(self, vmi: Object, pods: list[Object]) -> None:
        """Bring a VMI (a copy) up to what its pods are."""
        now, status = self._clock.timestamp(), vmi.setdefault("status", {})
        vmi["metadata"].setdefault("annotations", {}).update(OBSERVED)
        pod, phase = self._current_pod(vmi, pods), phase_of(vmi)
        active = {each["metadata"]["uid"]: each["spec"].get("nodeName", "") for each in pods
                  if each.get("status", {}).get("phase") not in ("Succeeded", "Failed")}
        if active or "activePods" in status:
            status["activePods"] = active
        if is_final(vmi):
            return
        if status.get("evacuationNodeName"):
            set_vmi_condition(status, "EvictionRequested", "True", now, "EvictionRequested", "VMI is marked for eviction", probed=True)
        else:
            remove_condition(status, "EvictionRequested")
        if pod is None:
            if phase not in ("", "Pending"):
                set_vmi_condition(status, "Ready", "False", now, "PodNotExists", "virt-launcher pod has not yet been scheduled", probed=True)
                set_phase(vmi, "Failed", now)
            return
        pod_status = pod.get("status", {})
        if phase in ("", "Pending"):
            set_phase(vmi, "Scheduling", now)
            status["launcherContainerImageVersion"] = LAUNCHER_IMAGE
            status["memory"] = {"memoryOverhead": f"{overhead_kib(vmi['spec'])}Ki"}
            remove_condition(status, "Synchronized")
            set_vmi_condition(status, "Ready", "False", now, "GuestNotRunning", "Guest VM is not reported as running", probed=True)
            return
        if "qosClass" not in status and pod_status.get("qosClass"):
            status["qosClass"] = pod_status["qosClass"]
            vmi["metadata"].setdefault("annotations", {})["kubevirt.io/nonroot"] = "true"
            status["runtimeUser"] = NONROOT_USER
            return  # a write of its own: what the pod does meanwhile is the next one's
        if phase == "Scheduling":
            self._write_scheduling(vmi, pod, now)
        elif pod_status.get("phase") in ("Succeeded", "Failed"):
            set_phase(vmi, "Failed" if pod_status["phase"] == "Failed" else "Succeeded", now)
        self._write_ready(vmi, pod, now)

    def _write_scheduling(self, vmi: Object, pod: Object, now: str) -> None:
        status, pod_status = vmi["status"], pod.get("status", {})
        scheduled = condition(pod_status.get("conditions") or (), "PodScheduled")
        if scheduled is not None and scheduled["status"] == "False":
            set_condition(status, "PodScheduled", "False", now, scheduled.get("reason", ""), scheduled.get("message", ""), lastProbeTime=None)
        else:
            remove_condition(status, "PodScheduled")
        waiting = [(each.get("state") or {}).get("waiting") or {}
                   for each in (*(pod_status.get("containerStatuses") or ()), *(pod_status.get("initContainerStatuses") or ()))]
        pull = next((each for each in waiting if each.get("reason") in PULL_FAILURES), None)
        if pull:
            set_vmi_condition(status, "Synchronized", "False", now, pull["reason"], pull.get("message", ""))
        else:
            remove_condition(status, "Synchronized")
        if pod_status.get("phase") == "Failed" or pod_status.get("phase") == "Succeeded":
            set_phase(vmi, "Failed", now)
            return
        if pod_status.get("phase") != "Running" or not containers_ready(pod) or is_deleting(pod):
            return
        set_phase(vmi, "Scheduled", now)
        node = pod["spec"]["nodeName"]
        status["nodeName"], status["migrationTransport"] = node, "Unix"
        vmi["metadata"].setdefault("labels", {})[NODE_LABEL] = node
        networks = vmi["spec"].get("networks") or []
        if networks:
            status["interfaces"] = [{"name": each["name"], "podInterfaceName": "eth0" if "pod" in each else f"net{n}"}
                                    for n, each in enumerate(networks, 0 if "pod" in networks[0] else 1)]
        status["volumeStatus"] = [self._volume_status(vmi, each) for each in vmi["spec"].get("volumes") or ()]

    def _volume_status(self, vmi: Object, volume: Object) -> Object:
        found: Object = {"name": volume["name"], "target": ""}
        claim = self._claims_of(vmi).get(claim_name(volume) or "")
        if claim is not None:
            found["persistentVolumeClaimInfo"] = claim_info(claim)
        return found

    def _write_ready(self, vmi: Object, pod: Object, now: str) -> None:
        status, pod_ready = vmi["status"], condition(pod.get("status", {}).get("conditions") or (), "Ready")
        if is_deleting(pod):
            set_vmi_condition(status, "Ready", "False", now, "PodTerminating", "virt-launcher pod is terminating", probed=True)
        elif phase_of(vmi) != "Running":
            set_vmi_condition(status, "Ready", "False", now, "GuestNotRunning", "Guest VM is not reported as running", probed=True)
        elif pod_ready is not None and pod_ready["status"] == "True":
            set_vmi_condition(status, "Ready", "True", now)
        elif pod_ready is not None:
            set_vmi_condition(status, "Ready", "False", now, pod_ready.get("reason", "PodConditionMissing"), pod_ready.get("message", ""), probed=True)
        else:
            set_vmi_condition(status, "Ready", "False", now, "PodConditionMissing", "virt-launcher pod is missing the Ready condition", probed=True)


def claim_info(claim: Object) -> Object:
    """What a VMI's status says of the claim behind a volume."""
    spec = claim["spec"]
    return {"claimName": claim["metadata"]["name"], "accessModes": spec.get("accessModes") or [],
            "volumeMode": spec.get("volumeMode", "Filesystem"), "filesystemOverhead": "0.055",
            "requests": (spec.get("resources") or {}).get("requests") or {},
            "capacity": claim.get("status", {}).get("capacity") or {}}


def containers_ready(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return bool(statuses) and all(each.get("ready") for each in statuses)


def pod_of(vmi: Object, pods: list[Object]) -> Object | None:
    """The newest launcher pod on the VMI's node: one that the guest migrated away from may be there still."""
    node = vmi.get("status", {}).get("nodeName")
    on_node = [pod for pod in pods if node and pod["spec"].get("nodeName") == node]
    return max(on_node, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)


