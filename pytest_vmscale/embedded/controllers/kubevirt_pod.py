"""The virt-launcher pod that virt-controller makes for a VMI. Pure."""

from __future__ import annotations

import json
from typing import Any

from ..api.store import Object
from .common import milli

LAUNCHER_IMAGE = (
    "registry.redhat.io/container-native-virtualization/virt-launcher@sha256:9d0a4f5b8f1d2e3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4")
UNPAUSED = "kubevirt.io/virtual-machine-unpaused"
MIB = 1024 * 1024
# virt-launcher, its monitor, libvirt, qemu and video memory; then per vCPU, and page tables by guest memory.
OVERHEAD_BYTES, OVERHEAD_PER_VCPU_BYTES, GUEST_BYTES_PER_PAGE_TABLE_BYTE = 280 * MIB, 8 * MIB, 512
MILLICPU_PER_VCPU = 100  # cpuAllocationRatio 10
DEFAULT_GRACE_SECONDS = 30
LAUNCHER_EXTRA_GRACE_SECONDS = 15  # the launcher outlives the guest's own grace period


def vcpus(spec: Object) -> int:
    cpu = spec["domain"].get("cpu") or {}
    return int(cpu.get("cores", 1)) * int(cpu.get("sockets", 1)) * int(cpu.get("threads", 1))


def guest_memory_bytes(spec: Object) -> int:
    domain = spec["domain"]
    resources = domain.get("resources") or {}
    asked = ((domain.get("memory") or {}).get("guest") or (resources.get("requests") or {}).get("memory")
             or (resources.get("limits") or {}).get("memory") or "0")
    return milli(asked) // 1000


def overhead_kib(spec: Object) -> int:
    memory = OVERHEAD_BYTES + OVERHEAD_PER_VCPU_BYTES * vcpus(spec) + guest_memory_bytes(spec) // GUEST_BYTES_PER_PAGE_TABLE_BYTE
    return -(-memory // 1024)


def launcher_pod(vmi: Object, claims: dict[str, Object]) -> Object:
    """`claims`: the PersistentVolumeClaims behind the VMI's volumes, by claim name."""
    meta, spec = vmi["metadata"], vmi["spec"]
    name, namespace, uid = meta["name"], meta["namespace"], meta["uid"]
    overhead = overhead_kib(spec)
    devices, mounts, volumes, init_containers = _volumes(spec, claims)
    annotations = {
        **{key: value for key, value in (meta.get("annotations") or {}).items() if not key.endswith("-observed-api-version")},
        "descheduler.alpha.kubernetes.io/request-evict-only": "",
        "kubectl.kubernetes.io/default-container": "compute",
        "kubevirt.io/domain": name,
        "kubevirt.io/memory-overhead-bytes": str(overhead * 1024),
        "kubevirt.io/migrationTransportUnix": "true",
        "post.hook.backup.velero.io/command": json.dumps(["/usr/bin/virt-freezer", "--unfreeze", "--name", name, "--namespace", namespace]),
        "post.hook.backup.velero.io/container": "compute",
        "pre.hook.backup.velero.io/command": json.dumps(["/usr/bin/virt-freezer", "--freeze", "--name", name, "--namespace", namespace]),
        "pre.hook.backup.velero.io/container": "compute",
        "pre.hook.backup.velero.io/timeout": "60s",
        **_network_annotations(spec),
    }
    grace = int(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS))
    compute: Object = {
        "name": "compute", "image": LAUNCHER_IMAGE, "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/bin/virt-launcher-monitor"],
        "args": ["--qemu-timeout", "355s", "--name", name, "--uid", uid, "--namespace", namespace,
                 "--kubevirt-share-dir", "/var/run/kubevirt", "--ephemeral-disk-dir", "/var/run/kubevirt-ephemeral-disks",
                 "--container-disk-dir", "/var/run/kubevirt/container-disks",
                 "--grace-period-seconds", str(grace + LAUNCHER_EXTRA_GRACE_SECONDS), "--hook-sidecars", "0",
                 "--ovmf-path", "/usr/share/edk2/ovmf", "--hypervisor", "kvm"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
        "resources": _resources(spec, overhead),
        "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE", "SYS_NICE"]}, "runAsNonRoot": False, "runAsUser": 0},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"mountPath": "/var/run/kubevirt-private", "name": "private"}, {"mountPath": "/var/run/kubevirt", "name": "public"},
                         {"mountPath": "/var/run/kubevirt-ephemeral-disks", "name": "ephemeral-disks"},
                         {"mountPath": "/var/run/libvirt", "name": "libvirt-runtime"},
                         {"mountPath": "/var/run/kubevirt/sockets", "name": "sockets"}, *mounts,
                         {"mountPath": "/var/run/kubevirt/hotplug-disks", "mountPropagation": "HostToContainer", "name": "hotplug-disks"}],
    }
    if devices:
        compute["volumeDevices"] = devices
    empty = ("private", "public", "sockets", "virt-bin-share-dir", "libvirt-runtime", "ephemeral-disks")
    pod_spec: Object = {
        "affinity": _affinity(spec), "automountServiceAccountToken": False, "containers": [compute],
        "dnsPolicy": spec.get("dnsPolicy", "ClusterFirst"), "enableServiceLinks": False, "hostname": spec.get("hostname", name),
        **({"initContainers": init_containers} if init_containers else {}),
        "nodeSelector": {**(spec.get("nodeSelector") or {}), "kubevirt.io/schedulable": "true"},
        "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "readinessGates": [{"conditionType": UNPAUSED}],
        "restartPolicy": "Never", "schedulerName": spec.get("schedulerName", "default-scheduler"),
        "securityContext": {"fsGroup": 107, "runAsUser": 0}, "serviceAccount": "default", "serviceAccountName": "default",
        "terminationGracePeriodSeconds": grace + 2 * LAUNCHER_EXTRA_GRACE_SECONDS,
        "tolerations": [*(spec.get("tolerations") or ()),
                        *({"effect": "NoExecute", "key": f"node.kubernetes.io/{state}", "operator": "Exists", "tolerationSeconds": 300}
                          for state in ("not-ready", "unreachable"))],
        **({"topologySpreadConstraints": spec["topologySpreadConstraints"]} if spec.get("topologySpreadConstraints") else {}),
        **({"priorityClassName": spec["priorityClassName"]} if spec.get("priorityClassName") else {}),
        "volumes": [*({"emptyDir": {}, "name": each} for each in empty), *volumes, {"emptyDir": {}, "name": "hotplug-disks"}],
    }
    return {
        "metadata": {
            "generateName": f"virt-launcher-{name}-", "namespace": namespace, "annotations": annotations,
            "labels": {**(meta.get("labels") or {}), "kubevirt.io": "virt-launcher", "kubevirt.io/created-by": uid,
                       "vm.kubevirt.io/name": name, "vmi.kubevirt.io/id": name},
            "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "blockOwnerDeletion": True, "controller": True,
                                 "kind": "VirtualMachineInstance", "name": name, "uid": uid}],
        },
        "spec": pod_spec,
        "status": {"phase": "Pending", "qosClass": qos_class(pod_spec)},
    }


def qos_class(spec: Object) -> str:
    """As the API server computes it from the containers' requests and limits for cpu and memory."""
    containers = [*spec["containers"], *spec.get("initContainers", ())]
    sides = [(each.get("resources") or {}) for each in containers]
    named = [(side.get(key) or {}).get(what) for side in sides for key in ("requests", "limits") for what in ("cpu", "memory")]
    if not any(named):
        return "BestEffort"
    same = all((side.get("limits") or {}).get(what) is not None
               and (side.get("requests") or {}).get(what, side["limits"][what]) == side["limits"][what]
               for side in sides for what in ("cpu", "memory"))
    return "Guaranteed" if same else "Burstable"


def _resources(spec: Object, overhead: int) -> Object:
    asked = spec["domain"].get("resources") or {}
    requests, limits = dict(asked.get("requests") or {}), dict(asked.get("limits") or {})
    requests["memory"] = f"{guest_memory_bytes(spec) // 1024 + overhead}Ki"
    if "memory" in limits:
        limits["memory"] = f"{milli(limits['memory']) // 1000 // 1024 + overhead}Ki"
    requests.setdefault("cpu", limits.get("cpu") or f"{MILLICPU_PER_VCPU * vcpus(spec)}m")
    requests["ephemeral-storage"] = "50M"
    devices = ["kvm"] + (["tun", "vhost-net"] if spec.get("networks") or spec["domain"].get("devices", {}).get("interfaces") else [])
    for device in devices:
        requests[f"devices.kubevirt.io/{device}"] = limits[f"devices.kubevirt.io/{device}"] = "1"
    return {"limits": limits, "requests": requests}


def _affinity(spec: Object) -> Object:
    """The VMI's own, and no node whose host model its labeller calls obsolete."""
    affinity: Any = json.loads(json.dumps(spec.get("affinity") or {}))
    required = affinity.setdefault("nodeAffinity", {}).setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in required.setdefault("nodeSelectorTerms", [{}]):
        term.setdefault("matchExpressions", []).append({"key": "node-labeller.kubevirt.io/obsolete-host-model", "operator": "DoesNotExist"})
    return affinity  # type: ignore[no-any-return]


def _network_annotations(spec: Object) -> dict[str, str]:
    if any("pod" in network for network in spec.get("networks") or ()):
        found = {"istio.io/reroute-virtual-interfaces": "k6t-eth0", "traffic.sidecar.istio.io/kubevirtInterfaces": "k6t-eth0"}
    else:
        found = {}
    multus = [network["multus"]["networkName"] for network in spec.get("networks") or () if "multus" in network]
    if multus:
        found["k8s.v1.cni.cncf.io/networks"] = json.dumps([{"interface": f"net{n}", "name": each.rpartition("/")[2]} for n, each in enumerate(multus, 1)])
    return found


def _volumes(spec: Object, claims: dict[str, Object]) -> tuple[list[Object], list[Object], list[Object], list[Object]]:
    """Devices and mounts of the compute container, volumes of the pod, and init containers that fetch disk images."""
    devices: list[Object] = []
    mounts: list[Object] = []
    volumes: list[Object] = []
    init: list[Object] = []
    for number, volume in enumerate(spec.get("volumes") or ()):
        name = volume["name"]
        claim = claim_name(volume)
        if is_hotpluggable(volume):
            continue
        if claim:
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim}})
            if claims.get(claim, {}).get("spec", {}).get("volumeMode") == "Block":
                devices.append({"devicePath": f"/dev/{name}", "name": name})
            else:
                mounts.append({"mountPath": f"/var/run/kubevirt-private/vmi-disks/{name}", "name": name})
        elif "containerDisk" in volume:
            image = volume["containerDisk"]["image"]
            volumes.append({"name": name, "image": {"pullPolicy": "Always", "reference": image}})
            mounts.append({"mountPath": f"/var/run/kubevirt-image-volume/disk_{number}", "name": name, "readOnly": True})
            init.append({"name": f"volume{name}", "image": image, "imagePullPolicy": volume["containerDisk"].get("imagePullPolicy", "IfNotPresent"),
                         "command": ["/container-disk-binary/usr/bin/container-disk"], "args": ["--no-op"],
                         "resources": {"limits": {"cpu": "10m", "memory": "40M"},
                                       "requests": {"cpu": "1m", "ephemeral-storage": "50M", "memory": "1M"}},
                         "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                         "volumeMounts": [{"mountPath": "/container-disk-binary", "name": "virt-bin-share-dir"}]})
    return devices, mounts, volumes, init


def is_hotpluggable(volume: Object) -> bool:
    """Whether it is plugged into the running guest, by another pod than its launcher."""
    return any(bool((volume.get(key) or {}).get("hotpluggable")) for key in ("dataVolume", "persistentVolumeClaim"))


def claim_name(volume: Object) -> str | None:
    """The PersistentVolumeClaim behind a VMI's volume; a DataVolume's has its name."""
    if "dataVolume" in volume:
        return str(volume["dataVolume"]["name"])
    if "persistentVolumeClaim" in volume:
        return str(volume["persistentVolumeClaim"]["claimName"])
    return None
