"""virt-handler: on each node it starts and stops the guests, and reports what they are."""

from __future__ import annotations

import asyncio
import itertools
import string
from collections.abc import Coroutine, Iterator
from typing import Any

from ..api.store import Change, Key, Object
from ..guests import Guest, Guests, Volume
from .common import Children, Cluster, decoded, milli
from .kubevirt_client import FINAL_PHASES, Client, condition_of, is_deleting, phase_of, set_phase, set_vmi_condition
from .kubevirt_config import eviction_strategy
from .kubevirt_pod import DEFAULT_GRACE_SECONDS, claim_name, is_hotpluggable
from .kubevirt_vmi import pod_of

MOST_FACTS = 5  # the guest agent's reports that tell anything new


class VirtHandlers:
    """The virt-handlers of all nodes. A VMI that is Scheduled is started; one being deleted is shut down."""

    def __init__(self, cluster: Cluster, guests: Guests, launchers: Children) -> None:
        self._cluster, self._resources, self._clock = cluster, cluster.resources, cluster.clock
        self._guests, self._launchers, self._timing = guests, launchers, cluster.timing
        self._vmis, self._pods = cluster.resources.kind("virtualmachineinstances.kubevirt.io"), cluster.resources.kind("pods")
        self._claims, self._data_volumes = cluster.resources.kind("persistentvolumeclaims"), cluster.resources.kind("datavolumes.cdi.kubevirt.io")
        self._clients: dict[str, Client] = {}
        self._starting: dict[str, asyncio.Semaphore] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}  # by VMI uid and what is being done

    def start(self) -> None:
        self._resources.watch(self._vmis, self._vmi_changed)
        self._resources.watch(self._pods, self._pod_changed)
        self._cluster.hosts.on_power(self._power)
        for moment in self._cluster.faults.moments("not-migratable"):
            self._clock.call_at(moment, self._check_migratable)

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.stop()

    def client(self, node: str) -> Client:
        if node not in self._clients:
            self._clients[node] = Client(self._cluster, "virt-handler", self._timing.virt_handler, node)
        return self._clients[node]

    # What happens.

    def _vmi_changed(self, change: Change) -> None:
        vmi = decoded(change.new)
        uid = vmi["metadata"]["uid"]
        if change.type == "DELETED":
            self._guests.stop(uid)
            return
        phase = phase_of(vmi)
        if is_deleting(vmi):
            if phase in ("Scheduled", "Running"):
                self._begin(uid, "stop", self._shut_down(change.key, uid))
        elif phase == "Scheduled":
            self._begin(uid, "start", self._start_domain(change.key, uid))

    def _pod_changed(self, change: Change) -> None:
        """The launcher pod that a guest runs in takes it with it when it is deleted (an eviction, a drain); one that it migrated away from does not."""
        if change.type == "DELETED" or change.new.labels.get("kubevirt.io") != "virt-launcher":
            return
        pod = decoded(change.new)
        if not is_deleting(pod):
            return
        key = (change.key[0], pod["metadata"]["annotations"]["kubevirt.io/domain"])
        vmi = self._resources.find(self._vmis, *key)
        if vmi is None or phase_of(vmi) != "Running":
            return
        current = pod_of(vmi, self._launchers.of(vmi))
        if current is not None and current["metadata"]["uid"] == pod["metadata"]["uid"]:
            self._begin(vmi["metadata"]["uid"], "stop", self._shut_down(key, vmi["metadata"]["uid"]))

    def _power(self, node: str, up: bool) -> None:
        if not up:
            for guest in self._guests.on_node(node):
                self._guests.stop(guest.uid)

    def _begin(self, uid: str, what: str, work: Coroutine[Any, Any, None]) -> None:
        if (uid, what) in self._tasks:
            work.close()
            return
        task = asyncio.create_task(work, name=f"virt-handler {what} {uid}")
        self._tasks[uid, what] = task
        task.add_done_callback(lambda _: self._tasks.pop((uid, what), None))

    def _live(self, key: Key, uid: str) -> Object | None:
        vmi = self._resources.find(self._vmis, *key)
        return vmi if vmi and vmi["metadata"]["uid"] == uid else None

    # Starting.

    async def _start_domain(self, key: Key, uid: str) -> None:
        vmi = self._live(key, uid)
        if vmi is None:
            return
        node = vmi["status"]["nodeName"]
        client, timing = self.client(node), self._timing.virt_handler
        if any("containerDisk" in volume for volume in vmi["spec"].get("volumes") or ()):
            await self._clock.sleep(timing.container_disk_seconds * self._cluster.faults.boot_slowdown)  # looked for again and again, by no worker
        limit = self._starting.setdefault(node, asyncio.Semaphore(timing.domain_starts_per_node))
        async with limit:
            await self._clock.sleep(timing.domain_start_seconds * self._cluster.faults.boot_slowdown)
            vmi = self._live(key, uid)
            if vmi is None or is_deleting(vmi) or phase_of(vmi) != "Scheduled" or not self._cluster.hosts.is_up(node):
                return
            guest = self._guests.boot(vmi, self._image_of(vmi), self._userdata_secrets(vmi), self._volume_of(vmi))
            started = await client.modify(self._vmis, *key, lambda vmi: self._write_running(vmi, guest))
        if started:
            self._cluster.truth.write("vmi-running", *key, node=node, address=guest.address)
            client.event(vmi, "Created", "VirtualMachineInstance defined.")
            client.event(vmi, "Started", "VirtualMachineInstance started.")
        await self._follow_agent(key, guest, client)

    def _write_running(self, vmi: Object, guest: Guest) -> None:
        if phase_of(vmi) != "Scheduled":
            return
        status, now = vmi["status"], self._clock.timestamp()
        set_phase(vmi, "Running", now)
        self._write_migratable(vmi)
        set_vmi_condition(status, "StorageLiveMigratable", "True", now)
        status["selinuxContext"] = guest.selinux_context
        machine = (vmi["spec"]["domain"].get("machine") or {}).get("type") or "q35"
        status["machine"] = {"type": "pc-q35-rhel8.4.0" if machine == "q35" else machine}
        for interface in status.get("interfaces") or ():
            number = status["interfaces"].index(interface)
            interface.update(mac=guest.mac(number), queueCount=1, infoSource="domain")
            if interface["podInterfaceName"] == "eth0":  # the pod network's address is known to KubeVirt, any other only to the guest
                interface.update(ipAddress=guest.address, ipAddresses=[guest.address])
        self._name_devices(vmi)

    @staticmethod
    def _name_devices(vmi: Object) -> None:
        """In the order of its disks, on each bus from a on. What is plugged in later has its name then."""
        letters: dict[str, Iterator[str]] = {}
        targets = {}
        later = {each["name"] for each in vmi["spec"].get("volumes") or () if is_hotpluggable(each)}
        for disk in vmi["spec"]["domain"].get("devices", {}).get("disks") or ():
            if disk["name"] in later:
                continue
            bus = (disk.get("disk") or disk.get("cdrom") or disk.get("lun") or {}).get("bus", "virtio")
            prefix = "vd" if bus == "virtio" else "sd"
            targets[disk["name"]] = prefix + next(letters.setdefault(prefix, itertools.cycle(string.ascii_lowercase)))
        for volume in vmi["status"].get("volumeStatus") or ():
            volume["target"] = targets.get(volume["name"], "")

    def _write_migratable(self, vmi: Object) -> None:
        status, now = vmi["status"], self._clock.timestamp()
        why = self._not_migratable(vmi)
        if why:
            set_vmi_condition(status, "LiveMigratable", "False", now, "DisksNotLiveMigratable", why)
        else:
            set_vmi_condition(status, "LiveMigratable", "True", now)
            status["migrationMethod"] = "LiveMigration"

    def _not_migratable(self, vmi: Object) -> str:
        shared = [self._not_shared(vmi, volume) for volume in vmi["spec"].get("volumes") or ()]
        blocking = next((name for name in shared if name), None)
        if blocking:
            return (f"cannot migrate VMI: PVC {blocking} is not shared, live migration requires that all PVCs must be shared "
                    "(using ReadWriteMany access mode)")
        if self._cluster.faults.not_migratable(vmi["metadata"]["namespace"], vmi["metadata"]["name"]):
            return "cannot migrate VMI with non-shared HostDisk"  # as if one had been plugged in
        return ""

    def _check_migratable(self) -> None:
        """Look at all running VMIs again: whether they can be migrated may have changed."""
        for entry in self._resources.store.entries(self._vmis):
            vmi = entry.obj
            found = condition_of(vmi, "LiveMigratable")
            if phase_of(vmi) == "Running" and found is not None and (found["status"] == "True") == bool(self._not_migratable(vmi)):
                uid, node = vmi["metadata"]["uid"], vmi["status"]["nodeName"]
                self._begin(uid, "check", self._tell_migratable(entry.key, node))

    async def _tell_migratable(self, key: Key, node: str) -> None:
        client = self.client(node)
        await client.modify(self._vmis, *key, self._write_migratable)
        vmi = self._resources.find(self._vmis, *key)
        found = condition_of(vmi, "LiveMigratable") if vmi else None
        if vmi is not None and found is not None and found["status"] == "False" and eviction_strategy(self._cluster, vmi) == "LiveMigrate":
            client.event(vmi, "Migrated", f"EvictionStrategy is set but vmi is not migratable; {found['message']}", "Warning")

    def _not_shared(self, vmi: Object, volume: Object) -> str | None:
        name = claim_name(volume)
        claim = self._resources.find(self._claims, vmi["metadata"]["namespace"], name) if name else None
        return name if claim and "ReadWriteMany" not in (claim["spec"].get("accessModes") or ()) else None

    def _image_of(self, vmi: Object) -> str:
        """What the guest's disk was made from: words that tell its operating system."""
        words = []
        for volume in vmi["spec"].get("volumes") or ():
            if "containerDisk" in volume:
                words.append(str(volume["containerDisk"]["image"]))
            name = claim_name(volume)
            data_volume = self._resources.find(self._data_volumes, vmi["metadata"]["namespace"], name) if name else None
            source = (data_volume or {}).get("spec", {}).get("source") or (data_volume or {}).get("spec", {}).get("sourceRef") or {}
            words.append(str(source))
        return " ".join(words)

    def _volume_of(self, vmi: Object) -> Volume | None:
        """The claim of its first disk; None for a container disk."""
        volumes = vmi["spec"].get("volumes") or ()
        name = claim_name(volumes[0]) if volumes else None
        claim = self._resources.find(self._claims, vmi["metadata"]["namespace"], name) if name else None
        if claim is None:
            return None
        size = (claim.get("status", {}).get("capacity") or claim["spec"]["resources"]["requests"])["storage"]
        return Volume(claim["metadata"]["uid"], milli(size) // 1000)

    def _userdata_secrets(self, vmi: Object) -> dict[str, Object]:
        """The Secrets that its cloud-init volumes and access credentials name."""
        found = {}
        for name in _secret_names(vmi["spec"]):
            secret = self._resources.find(self._resources.kind("secrets"), vmi["metadata"]["namespace"], name)
            if secret:
                found[name] = secret
        return found

    # The guest agent.

    async def _follow_agent(self, key: Key, guest: Guest, client: Client) -> None:
        """Report what the guest's agent tells, as it comes; nothing if it never comes up."""
        if not await guest.agent_up():
            return
        at = self._clock.now()
        await client.modify(self._vmis, *key, lambda vmi: self._write_agent(vmi, guest, 0))
        for report, seconds in enumerate(self._timing.guests.agent_report_seconds, 1):
            await self._clock.sleep_until(at + seconds)
            if not guest.answers:
                return
            # Those after them lose an address and find it again, in turn: a guest whose addresses flap.
            facts = report if report <= MOST_FACTS else MOST_FACTS - (report - MOST_FACTS) % 2
            await client.modify(self._vmis, *key, lambda vmi, facts=facts: self._write_agent(vmi, guest, facts))  # type: ignore[misc]

    def _write_agent(self, vmi: Object, guest: Guest, facts: int) -> None:
        """0: it is connected, and which addresses it has; then its system, its interfaces' names, its kernel, its IPv6 addresses."""
        if vmi["metadata"]["uid"] != guest.uid or phase_of(vmi) != "Running":
            return
        status, now = vmi["status"], self._clock.timestamp()
        set_vmi_condition(status, "AgentConnected", "True", now)
        for number, interface in enumerate(status.get("interfaces") or ()):
            interface.update(ipAddress=guest.address, infoSource="domain, guest-agent", ipAddresses=[guest.address])
            if facts >= 2:
                interface["interfaceName"] = guest.interface_name(number)
            if facts >= 4:
                interface["ipAddresses"] = [guest.address, *guest.ipv6(number)[:facts - 3]]
        if facts >= 1:
            later = () if facts >= 3 else ("kernelRelease", "kernelVersion", "machine")
            status["guestOSInfo"] = {key: value for key, value in guest.os_info.items() if key not in later}

    # Stopping.

    async def _shut_down(self, key: Key, uid: str) -> None:
        vmi = self._live(key, uid)
        if vmi is None:
            return
        client = self.client(vmi["status"]["nodeName"])
        grace = float(vmi["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS))
        if grace > 0:
            client.event(vmi, "ShuttingDown", "Signaled Graceful Shutdown")
        self._guests.close(uid)
        await self._clock.sleep(min(grace, self._timing.virt_handler.shutdown_seconds))
        self._guests.stop(uid)
        self._cluster.truth.write("guest-gone", *key)

        def finished(vmi: Object) -> None:
            if vmi["metadata"]["uid"] == uid and phase_of(vmi) not in FINAL_PHASES:
                set_phase(vmi, "Succeeded", self._clock.timestamp())

        await client.modify(self._vmis, *key, finished)
        client.event(vmi, "Stopped" if grace > 0 else "Deleted",
                     "The VirtualMachineInstance was shut down." if grace > 0 else "Signaled Deletion")
        pod = pod_of(vmi, self._launchers.of(vmi))
        if pod:
            self._cluster.hosts.pod_exited(pod["metadata"]["namespace"], pod["metadata"]["name"], 0)


def _secret_names(spec: Object) -> list[str]:
    names = []
    for volume in spec.get("volumes") or ():
        cloud_init = volume.get("cloudInitNoCloud") or volume.get("cloudInitConfigDrive") or {}
        for key in ("secretRef", "userDataSecretRef"):
            if cloud_init.get(key):
                names.append(cloud_init[key]["name"])
    for credential in spec.get("accessCredentials") or ():
        source = (credential.get("sshPublicKey") or {}).get("source") or {}
        if source.get("secret"):
            names.append(source["secret"]["secretName"])
    return names
