"""Volumes plugged into running guests and out again, as `virtctl addvolume` and `removevolume` ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .test_kubevirt import Cluster, fresh, started, vm

VM, VMI = "virtualmachines", "virtualmachineinstances"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With a running VM, "v", and the blank volumes "one" and "two"."""
    with started(tmp_path_factory.mktemp("hotplug")) as path:
        found = fresh(path)
        found.create(VM, vm("v", "Always"))
        for name in ("one", "two"):
            found.create("datavolumes", {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": name}, "spec": {
                "source": {"blank": {}}, "storage": {"accessModes": ["ReadWriteMany"], "volumeMode": "Block", "resources": {"requests": {"storage": "1Gi"}}}}})
        found.running("v")
        for name in ("one", "two"):
            found.until(lambda name=name: found.get("datavolumes", name)["status"].get("phase") == "Succeeded")
        yield found


def options(volume: str, name: str = "", **more: Any) -> dict[str, Any]:
    """As virtctl sends them."""
    return {"name": name or volume, "disk": {"disk": {"bus": "scsi"}, "serial": volume}, "volumeSource": {"dataVolume": {"name": volume, "hotpluggable": True}}, **more}


def status(cluster: Cluster, volume: str) -> dict[str, Any]:
    return next((each for each in cluster.get(VMI, "v")["status"]["volumeStatus"] if each["name"] == volume), {})


def ready(cluster: Cluster, *volumes: str) -> bool:
    """All of them, by one and the same attachment pod, which is the only one."""
    pods = {status(cluster, each).get("hotplugVolume", {}).get("attachPodUID") for each in volumes}
    return all(status(cluster, each).get("phase") == "Ready" for each in volumes) and pods == {each["metadata"]["uid"] for each in attachments(cluster)}


def attachments(cluster: Cluster) -> list[Any]:
    return list(cluster.ask("GET", f"{cluster.path('pods')}?labelSelector=kubevirt.io%3Dhotplug-disk")[1]["items"])


def volumes_of(obj: Any) -> list[str]:
    return [each["name"] for each in obj["volumes"] if "dataVolume" in each]


def test_volumes_come_and_go(cluster: Cluster) -> None:
    # One into the instance alone, one onto the VM, where it lasts.
    assert cluster.action("v", "addvolume", VMI, body=options("one")) == (202, "")
    cluster.until(lambda: ready(cluster, "one"))
    (first,) = attachments(cluster)
    vmi = cluster.get(VMI, "v")
    launcher = next(iter(cluster.ask("GET", f"{cluster.path('pods')}?labelSelector=kubevirt.io%3Dvirt-launcher")[1]["items"]))
    assert first["spec"]["nodeName"] == vmi["status"]["nodeName"] and first["metadata"]["ownerReferences"][0]["uid"] == launcher["metadata"]["uid"]
    one = status(cluster, "one")
    assert (one["target"], one["reason"]) == ("sda", "VolumeReady") and one["persistentVolumeClaimInfo"]["claimName"] == "one"
    assert {"name": "one", "disk": {"bus": "scsi"}, "serial": "one"} in vmi["spec"]["domain"]["devices"]["disks"]
    assert volumes_of(cluster.get(VM, "v")["spec"]["template"]["spec"]) == []
    assert cluster.action("v", "addvolume", VM, body=options("two")) == (202, "")
    cluster.until(lambda: ready(cluster, "one", "two"))
    assert attachments(cluster)[0]["metadata"]["uid"] != first["metadata"]["uid"] and status(cluster, "two")["target"] == "sdb"
    found = cluster.until(lambda: "volumeRequests" not in (body := cluster.get(VM, "v"))["status"] and body)
    assert volumes_of(found["spec"]["template"]["spec"]) == ["two"] and volumes_of(cluster.get(VMI, "v")["spec"]) == ["one", "two"]

    # They go along when the guest migrates: another pod has them there, and the old one goes.
    node = cluster.get(VMI, "v")["status"]["nodeName"]
    assert cluster.action("v", "migrate")[0] == 202
    cluster.until(lambda: cluster.get(VMI, "v")["status"]["nodeName"] != node)
    cluster.until(lambda: ready(cluster, "one", "two"))
    (pod,) = attachments(cluster)
    assert pod["spec"]["nodeName"] == cluster.get(VMI, "v")["status"]["nodeName"] and status(cluster, "two")["target"] == "sdb"

    # One is there again after the next start, with a pod of its own: the launcher does not bring it.
    before = cluster.get(VMI, "v")["metadata"]["uid"]
    assert cluster.action("v", "restart")[0] == 202
    cluster.until(lambda: (body := cluster.get(VMI, "v")) and body["metadata"]["uid"] != before and body["status"].get("phase") == "Running")
    cluster.until(lambda: ready(cluster, "two"))
    launchers = cluster.ask("GET", f"{cluster.path('pods')}?labelSelector=kubevirt.io%3Dvirt-launcher")[1]["items"]
    (launcher,) = (each for each in launchers if each["status"]["phase"] == "Running" and "deletionTimestamp" not in each["metadata"])
    assert "two" not in [each["name"] for each in launcher["spec"]["volumes"]] and status(cluster, "one") == {}

    # And out.
    assert cluster.action("v", "removevolume", VM, body={"name": "two"}) == (202, "")
    cluster.until(lambda: status(cluster, "two") == {} and attachments(cluster) == [])
    assert volumes_of(cluster.get(VM, "v")["spec"]["template"]["spec"]) == volumes_of(cluster.get(VMI, "v")["spec"]) == []
    told = [(each["reason"], each["message"]) for each in cluster.ask("GET", cluster.path("events"))[1]["items"] if each["involvedObject"]["kind"] == "VirtualMachineInstance"]
    for reason, message in (("VolumeMountedToPod", "Volume two has been mounted in virt-launcher pod"), ("VolumeReady", "Successfully attach hotplugged volume two to VM"),
                            ("VolumeUnMountedFromPod", "Volume two has been unmounted from virt-launcher pod")):
        assert (reason, message) in told


@pytest.mark.parametrize(("plural", "action", "body", "code", "words"), [
    (VM, "addvolume", options("one", name="disk"), 409, 'virtualmachine.kubevirt.io "v": Unable to add volume [disk] because volume with that name already exists'),
    (VMI, "removevolume", {"name": "none"}, 409, 'virtualmachineinstance.kubevirt.io "v": Unable to remove volume [none] because it does not exist'),
    (VM, "removevolume", {"name": "disk"}, 409, "Unable to remove volume [disk] because it is not hotpluggable"),
    (VM, "addvolume", {"name": "x"}, 400, "AddVolumeOptions requires disk to not be nil"),
    (VM, "addvolume", {"name": "x", "disk": {"disk": {}}}, 400, "AddVolumeOptions requires VolumeSource to not be nil"),
    (VMI, "removevolume", {"other": 1}, 400, "RemoveVolumeOptions requires name to be set"),
    (VMI, "addvolume", None, 400, "Request with no body, a new name is expected as the request body")])
def test_volumes_that_cannot(cluster: Cluster, plural: str, action: str, body: Any, code: int, words: str) -> None:
    found = cluster.action("v", action, plural, body=body)
    assert found[0] == code and words in found[1]


def test_an_instance_that_is_not_there_or_does_not_run(cluster: Cluster) -> None:
    assert cluster.action("nope", "addvolume", VM, body=options("one")) == (404, 'virtualmachine.kubevirt.io "nope" not found')
    cluster.create(VM, vm("new", "Always"))
    cluster.until(lambda: cluster.get(VMI, "new"))
    assert cluster.action("new", "addvolume", VMI, body=options("one"))[1].endswith('"new": VMI is not running')
    assert cluster.action("v", "addvolume", VM, body=options("one", dryRun=["All"])) == (202, "")
    assert "volumeRequests" not in cluster.get(VM, "v")["status"]


def test_without_the_feature_gate_nothing_is_plugged_in(cluster: Cluster) -> None:
    path = "/apis/kubevirt.io/v1/namespaces/openshift-cnv/kubevirts/kubevirt-kubevirt-hyperconverged"
    gates = cluster.ask("GET", path)[1]["spec"]["configuration"]["developerConfiguration"]["featureGates"]

    def gate(names: list[str]) -> None:
        assert cluster.ask("PATCH", path, {"spec": {"configuration": {"developerConfiguration": {"featureGates": names}}}}, "application/merge-patch+json")[0] == 200

    gate([each for each in gates if each != "HotplugVolumes"])
    assert cluster.action("v", "addvolume", VM, body=options("one")) == (400, "Enable DeclarativeHotplugVolumes or HotplugVolumes feature gate to use this API.")
    gate(gates)
