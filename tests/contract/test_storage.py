"""DataVolumes, snapshots, volumes and quotas, as CDI, ceph-csi and Kubernetes do them. Runs on embedded clusters of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .test_kubevirt import Cluster, cloned, fresh, started

RBD, LATE, LVM = "ocs-external-storagecluster-ceph-rbd", "ocs-external-storagecluster-ceph-rbd-wffc", "standard-lvm"
SNAPSHOT_CLASS = "ocs-external-storagecluster-rbdplugin-snapclass"
CDI, SNAPSHOTS = "/apis/cdi.kubevirt.io/v1beta1", "/apis/snapshot.storage.k8s.io/v1"
SPEED = 200
ORACLE = Path(__file__).parents[3] / "shared" / "oracle"


class Storage(Cluster):
    """A cluster, in the words of these tests."""

    def path(self, plural: str, name: str = "") -> str:
        tail = f"/{plural}{'/' + name if name else ''}"
        match plural:
            case "storageprofiles" | "cdis":
                return f"{CDI}{tail}"
            case "persistentvolumes":
                return f"/api/v1{tail}"
            case "datasources" | "volumeclonesources" | "volumeimportsources":
                return f"{CDI}/namespaces/{self.namespace}{tail}"
            case "volumesnapshots":
                return f"{SNAPSHOTS}/namespaces/{self.namespace}{tail}"
            case "volumesnapshotcontents":
                return f"{SNAPSHOTS}{tail}"
            case "resourcequotas" | "configmaps":
                return f"/api/v1/namespaces/{self.namespace}{tail}"
        return super().path(plural, name)

    def list(self, plural: str) -> list[Any]:
        found: list[Any] = self.ask("GET", self.path(plural))[1]["items"]
        return found

    def speed(self, speed: float) -> None:
        assert self.ask("PUT", "/vmscale/clock", {"speed": speed})[0] == 200

    def snapshot(self, name: str, claim: str) -> None:
        self.create("volumesnapshots", {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": name}, "spec": {
            "volumeSnapshotClassName": SNAPSHOT_CLASS, "source": {"persistentVolumeClaimName": claim}}})

    def data_volume(self, name: str, phase: str = "Succeeded") -> Any:
        """Wait for this phase; the DataVolume."""
        return self.until(lambda: (found := self.get("datavolumes", name)) and (found.get("status") or {}).get("phase") == phase and found)

    def claim(self, name: str) -> Any:
        return self.get("persistentvolumeclaims", name)

    def annotations(self, name: str) -> dict[str, str]:
        """Of a claim, CDI's without their prefix."""
        found = (self.claim(name) or {"metadata": {}})["metadata"].get("annotations") or {}
        return {key.removeprefix("cdi.kubevirt.io/"): value for key, value in found.items()}

    def events(self, name: str) -> list[tuple[str, str]]:
        """Reasons and messages, in the order of their time."""
        found = [each for each in self.list("events") if each["involvedObject"]["name"] == name]
        return [(each["reason"], each["message"]) for each in sorted(found, key=lambda each: str(each["metadata"]["name"]))]

    def merge(self, plural: str, name: str, change: Any) -> None:
        code, answer = self.ask("PATCH", self.path(plural, name), change, content="application/merge-patch+json")
        assert code == 200, answer

    def phases(self, since: str) -> dict[str, list[str]]:
        """All phases that each DataVolume went through."""
        url = f"{self.server}{self.path('datavolumes')}?watch=true&timeoutSeconds=1&resourceVersion={since}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, context=self.context, timeout=60) as reply:
            lines = reply.read().splitlines()
        seen: dict[str, list[str]] = {}
        for line in lines:
            obj = json.loads(line)["object"]
            phase = (obj.get("status") or {}).get("phase")
            phases = seen.setdefault(obj["metadata"]["name"], [])
            if phase and phase not in phases[-1:]:
                phases.append(phase)
        return seen


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with started(tmp_path_factory.mktemp("storage"), "--speed", f"{SPEED}") as path:
        yield path


@pytest.fixture
def cluster(kubeconfig: Path) -> Storage:
    fresh_one = fresh(kubeconfig)
    found = Storage(kubeconfig)
    found.namespace = fresh_one.namespace
    return found


def volume(name: str, source: dict[str, Any], storage: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    asked = {} if "pvc" in spec else {"storage": {"resources": {"requests": {"storage": "40Gi"}}} if storage is None else storage}
    return {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": name}, "spec": {"source": source, **asked, **spec}}


GOLDEN = {"pvc": {"namespace": "default", "name": "rhel-dv"}}
HTTP = {"http": {"url": "http://images.example.com/fedora.qcow2"}}


def version(cluster: Storage) -> str:
    return str(cluster.ask("GET", cluster.path("datavolumes"))[1]["metadata"]["resourceVersion"])


def own_golden(cluster: Storage, name: str = "golden", **spec: Any) -> None:
    cluster.create("datavolumes", volume(name, {"blank": {}}, **spec))
    cluster.data_volume(name)


# What a DataVolume asks for.

def test_the_profile_fills_in_what_storage_does_not_say(cluster: Storage) -> None:
    size = {"resources": {"requests": {"storage": "1Gi"}}}
    for name, storage in (("best", size), ("files", {**size, "volumeMode": "Filesystem"}), ("once", {**size, "accessModes": ["ReadWriteOnce"]}),
                          ("local", {**size, "storageClassName": LVM})):
        cluster.create("datavolumes", volume(name, {"blank": {}}, storage))
    modes = {name: cluster.until(lambda name=name: cluster.claim(name))["spec"] for name in ("best", "files", "once", "local")}
    assert {name: (spec["accessModes"], spec["volumeMode"]) for name, spec in modes.items()} == {
        "best": (["ReadWriteMany"], "Block"), "files": (["ReadWriteOnce"], "Filesystem"), "once": (["ReadWriteOnce"], "Block"),
        "local": (["ReadWriteOnce"], "Block")}
    assert modes["best"]["resources"]["requests"]["storage"] == "1Gi"
    assert int(modes["files"]["resources"]["requests"]["storage"]) == -(-2**30 * 1055 // 1000)  # room for the file system itself


def test_what_cannot_be_made_into_a_claim_is_said(cluster: Storage) -> None:
    cluster.create("datavolumes", volume("shared", {"blank": {}}, {"storageClassName": LVM, "volumeMode": "Nonsense", "resources": {"requests": {"storage": "1Gi"}}}))
    cluster.create("datavolumes", volume("small", GOLDEN, pvc={"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}))
    for name, reason, message in (("shared", "ErrClaimNotValid", "no matching accessMode specified in StorageProfile standard-lvm"),
                                  ("small", "CloneValidationFailed", f"target resources requests storage size is smaller than the source {2**30} < {40 * 2**30}")):
        found = cluster.until(lambda name=name: (cluster.get("datavolumes", name) or {}).get("status"))
        bound = next(each for each in found["conditions"] if each["type"] == "Bound")
        assert bound["reason"] == reason and message in bound["message"]
        assert cluster.claim(name) is None


# The ways of a clone.

def test_each_strategy_goes_through_its_phases(cluster: Storage) -> None:
    own_golden(cluster)
    since = version(cluster)
    source = {"pvc": {"namespace": cluster.namespace, "name": "golden"}}
    expected = {"csi-clone": ["CloneScheduled", "CSICloneInProgress", "PrepClaimInProgress", "RebindInProgress", "Succeeded"],
                "snapshot": ["CloneScheduled", "SnapshotForSmartCloneInProgress", "CloneFromSnapshotSourceInProgress", "PrepClaimInProgress",
                             "RebindInProgress", "Succeeded"],
                "copy": ["CloneScheduled", "CloneInProgress", "RebindInProgress", "Succeeded"]}
    try:
        for strategy in expected:
            cluster.merge("storageprofiles", RBD, {"spec": {"cloneStrategy": strategy}})
            cluster.until(lambda strategy=strategy: cluster.get("storageprofiles", RBD)["status"]["cloneStrategy"] == strategy)
            cluster.create("datavolumes", volume(strategy, source))
            done = cluster.data_volume(strategy)
            assert done["metadata"]["annotations"]["cdi.kubevirt.io/cloneType"] == strategy
            assert cluster.annotations(strategy)["cloneType"] == strategy and "cloneFallbackReason" not in cluster.annotations(strategy)
            assert done["status"]["progress"] == "100.0%" and done["status"]["claimName"] == strategy
            assert [(each["type"], each["status"]) for each in done["status"]["conditions"]] == [("Bound", "True"), ("Ready", "True"), ("Running", "False")]
    finally:
        cluster.merge("storageprofiles", RBD, {"spec": {"cloneStrategy": None}})
    seen = cluster.phases(since)
    assert {name: seen[name] for name in expected} == expected
    told = dict(cluster.events("csi-clone"))
    place = f"{cluster.namespace}/golden"
    assert told["CSICloneInProgress"] == f"CSI Volume clone in progress (for pvc {place})"
    assert told["CloneSucceeded"] == f"Successfully cloned from {place} into {cluster.namespace}/csi-clone"
    # Nothing stays of what was made on the way.
    cluster.until(lambda: not [each for each in cluster.list("persistentvolumeclaims") if each["metadata"]["name"].startswith("tmp-")])
    assert not cluster.list("volumesnapshots") and not cluster.list("volumeclonesources")


def test_a_temporary_claim_is_there_while_it_is_cloned_and_its_volume_changes_hands(cluster: Storage) -> None:
    own_golden(cluster)
    try:
        cluster.speed(10)
        cluster.create("datavolumes", volume("clone", {"pvc": {"namespace": cluster.namespace, "name": "golden"}}))
        temporary = cluster.until(lambda: next((each for each in cluster.list("persistentvolumeclaims") if each["metadata"]["name"].startswith("tmp-pvc-")), None))
        target = cluster.claim("clone")
    finally:
        cluster.speed(SPEED)
    assert temporary["metadata"]["name"] == f"tmp-pvc-{target['metadata']['uid']}" and target["status"]["phase"] == "Pending"
    assert temporary["spec"]["dataSourceRef"] == {"kind": "PersistentVolumeClaim", "name": "golden"}
    assert target["spec"]["dataSourceRef"]["kind"] == "VolumeCloneSource"
    cluster.data_volume("clone")
    bound = cluster.get("persistentvolumes", cluster.claim("clone")["spec"]["volumeName"])
    assert bound["metadata"]["name"] == f"pvc-{temporary['metadata']['uid']}" and bound["spec"]["claimRef"]["uid"] == target["metadata"]["uid"]
    assert bound["status"]["phase"] == "Bound"


@pytest.mark.parametrize(("wanted", "storage", "reason", "message"), [
    ("snapshot", {"storageClassName": LVM}, "NoVolumeSnapshotClass", "No compatible volumesnapshotclass found"),
    ("csi-clone", {"storageClassName": LVM}, "IncompatibleProvisioners", "Provisioners are incompatible"),
    ("csi-clone", {"storageClassName": RBD, "volumeMode": "Filesystem", "resources": {"requests": {"storage": "41Gi"}}}, "IncompatibleVolumeModes",
     "The volume modes of source and target are incompatible")])
def test_a_clone_that_cannot_be_made_as_it_was_wanted_is_a_copy_and_says_why(cluster: Storage, wanted: str, storage: Any, reason: str, message: str) -> None:
    profile = storage["storageClassName"]
    try:
        cluster.merge("storageprofiles", profile, {"spec": {"cloneStrategy": wanted}})
        cluster.until(lambda: cluster.get("storageprofiles", profile)["status"]["cloneStrategy"] == wanted)  # it is not said here
        cluster.create("datavolumes", volume("c", GOLDEN, {"resources": {"requests": {"storage": "40Gi"}}, **storage}))
        cluster.until(lambda: cluster.annotations("c").get("cloneType"))
        assert (cluster.annotations("c")["cloneType"], cluster.annotations("c")["cloneFallbackReason"]) == ("copy", message)
        assert (reason, message) in cluster.events("c")
    finally:
        cluster.merge("storageprofiles", profile, {"spec": {"cloneStrategy": None}})


def test_the_override_of_the_whole_cluster_comes_first(cluster: Storage) -> None:
    name = "cdi-kubevirt-hyperconverged"
    try:
        cluster.merge("cdis", name, {"spec": {"cloneStrategyOverride": "snapshot"}})
        cluster.create("datavolumes", volume("c", GOLDEN))
        cluster.until(lambda: cluster.annotations("c").get("cloneType") == "snapshot")
    finally:
        cluster.merge("cdis", name, {"spec": {"cloneStrategyOverride": None}})


def test_a_source_in_use_is_waited_for(cluster: Storage) -> None:
    own_golden(cluster)
    container = {"name": "c", "image": "registry/pause:3.5", "command": ["sleep", "infinity"]}
    cluster.create("pods", {"metadata": {"name": "user"}, "spec": {
        "containers": [container], "terminationGracePeriodSeconds": 0, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "golden"}}]}})
    cluster.create("datavolumes", volume("clone", {"pvc": {"namespace": cluster.namespace, "name": "golden"}}))
    cluster.until(lambda: ("CloneSourceInUse", f"pod {cluster.namespace}/user using PersistentVolumeClaim golden") in cluster.events("clone"))
    assert cluster.get("datavolumes", "clone")["status"]["phase"] == "CSICloneInProgress"
    assert cluster.ask("DELETE", cluster.path("pods", "user"))[0] == 200
    cluster.data_volume("clone")


def test_a_data_source_names_a_snapshot_which_gives_the_size(cluster: Storage) -> None:
    own_golden(cluster)
    cluster.create("datasources", {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataSource", "metadata": {"name": "ds"}, "spec": {"source": {"snapshot": {"namespace": cluster.namespace, "name": "snap"}}}})
    cluster.create("datavolumes", {**volume("clone", {}, {}), "spec": {"sourceRef": {"kind": "DataSource", "name": "ds"}, "storage": {}}})
    cluster.snapshot("snap", "golden")
    cluster.data_volume("clone")
    assert cluster.claim("clone")["spec"]["resources"]["requests"]["storage"] == "40Gi"
    assert cluster.annotations("clone")["cloneType"] == "snapshot"


# Imports and uploads.

@pytest.mark.parametrize("source", [HTTP, {"registry": {"url": "docker://quay.io/containerdisks/fedora:latest"}}, {"s3": {"url": "s3://b/i"}}, {"gcs": {"url": "gs://b/i"}}],
                         ids=lambda source: next(iter(source)))
def test_an_import_says_how_far_it_is(cluster: Storage, source: dict[str, Any]) -> None:
    since = version(cluster)
    cluster.create("datavolumes", volume("imported", source))
    moving = cluster.until(lambda: (found := (cluster.get("datavolumes", "imported").get("status") or {})) and found.get("progress", "N/A") != "N/A" and found)
    assert moving["progress"].endswith("%")
    done = cluster.data_volume("imported")
    assert done["status"]["progress"] == "100.0%"
    phases = cluster.phases(since)["imported"]
    assert phases == ["Pending", "ImportScheduled", "ImportInProgress", "Succeeded"]
    assert ("ImportSucceeded", "Successfully imported into PVC imported") in cluster.events("imported")
    assert {each["type"]: (each["status"], each.get("message", "")) for each in done["status"]["conditions"]} == {
        "Bound": ("True", "PVC imported Bound"), "Ready": ("True", ""), "Running": ("False", "Import Complete")}


def test_an_upload_waits_for_its_data(cluster: Storage) -> None:
    cluster.create("datavolumes", volume("up", {"upload": {}}))
    found = cluster.data_volume("up", "UploadReady")
    assert next(each["status"] for each in found["status"]["conditions"] if each["type"] == "Ready") == "False"


def test_binding_at_once_may_be_asked_for_where_the_class_would_wait(cluster: Storage) -> None:
    storage = {"storageClassName": LATE, "resources": {"requests": {"storage": "1Gi"}}}
    cluster.create("datavolumes", volume("waits", {"blank": {}}, storage))
    at_once = volume("at-once", {"blank": {}}, storage)
    at_once["metadata"]["annotations"] = {"cdi.kubevirt.io/storage.bind.immediate.requested": "true"}
    cluster.create("datavolumes", at_once)
    cluster.data_volume("at-once")
    assert cluster.data_volume("waits", "PendingPopulation")


# Snapshots and plain claims.

def test_a_snapshot_and_claims_from_it_and_from_another_claim(cluster: Storage) -> None:
    own_golden(cluster)
    cluster.snapshot("snap", "golden")
    ready = cluster.until(lambda: (found := cluster.get("volumesnapshots", "snap")) and (found.get("status") or {}).get("readyToUse") and found)
    content = cluster.get("volumesnapshotcontents", ready["status"]["boundVolumeSnapshotContentName"])
    assert ready["status"]["restoreSize"] == "40Gi" and content["status"]["restoreSize"] == 40 * 2**30
    assert content["spec"]["volumeSnapshotRef"]["name"] == "snap" and content["spec"]["deletionPolicy"] == "Delete"
    for name, size, source in (("restored", "40Gi", {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "snap"}),
                               ("copied", "40Gi", {"kind": "PersistentVolumeClaim", "name": "golden"}),
                               ("too-small", "1Gi", {"kind": "PersistentVolumeClaim", "name": "golden"})):
        cluster.create("persistentvolumeclaims", {"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteMany"], "volumeMode": "Block", "resources": {"requests": {"storage": size}}, "dataSource": source}})
    for name in ("restored", "copied"):
        cluster.until(lambda name=name: cluster.claim(name)["status"]["phase"] == "Bound")
    cluster.until(lambda: any(reason == "ProvisioningFailed" and "new PVC request must be greater" in message for reason, message in cluster.events("too-small")))
    assert cluster.ask("DELETE", cluster.path("volumesnapshots", "snap"))[0] == 200
    cluster.until(lambda: cluster.get("volumesnapshotcontents", content["metadata"]["name"]) is None)


def test_a_volume_goes_with_its_data_volume(cluster: Storage) -> None:
    own_golden(cluster)
    name = cluster.claim("golden")["spec"]["volumeName"]
    assert cluster.ask("DELETE", cluster.path("datavolumes", "golden"))[0] == 200
    cluster.until(lambda: cluster.claim("golden") is None and cluster.get("persistentvolumes", name) is None)


def test_a_clone_that_is_deleted_half_way_leaves_nothing(cluster: Storage) -> None:
    own_golden(cluster)
    try:
        cluster.speed(10)
        cluster.create("datavolumes", volume("clone", {"pvc": {"namespace": cluster.namespace, "name": "golden"}}))
        cluster.until(lambda: [each for each in cluster.list("persistentvolumeclaims") if each["metadata"]["name"].startswith("tmp-pvc-")])
        assert cluster.ask("DELETE", cluster.path("datavolumes", "clone"))[0] == 200
    finally:
        cluster.speed(SPEED)
    cluster.until(lambda: [each["metadata"]["name"] for each in cluster.list("persistentvolumeclaims")] == ["golden"])
    cluster.until(lambda: all(each["spec"]["claimRef"]["name"] == "golden" for each in cluster.list("persistentvolumes")
                              if each["spec"]["claimRef"]["namespace"] == cluster.namespace))


# Quotas.

def test_a_quota_is_enforced_and_says_what_is_used(cluster: Storage) -> None:
    cluster.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"requests.storage": "50Gi", "persistentvolumeclaims": "10"}}})
    claim = {"metadata": {"name": "first"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "40Gi"}}}}
    cluster.create("persistentvolumeclaims", claim)
    cluster.until(lambda: (cluster.get("resourcequotas", "q").get("status") or {}).get("used") == {"requests.storage": "40Gi", "persistentvolumeclaims": "1"})
    code, answer = cluster.ask("POST", cluster.path("persistentvolumeclaims"), {**claim, "metadata": {"name": "second"}})
    assert (code, answer["reason"]) == (403, "Forbidden")
    assert answer["message"] == ('persistentvolumeclaims "second" is forbidden: exceeded quota: q, requested: requests.storage=40Gi, '
                                 "used: requests.storage=40Gi, limited: requests.storage=50Gi")


def test_a_data_volume_over_quota_is_pending_until_there_is_room(cluster: Storage) -> None:
    cluster.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {f"{RBD}.storageclass.storage.k8s.io/requests.storage": "90Gi"}}})
    cluster.create("datavolumes", volume("first", GOLDEN))
    cluster.data_volume("first")
    cluster.create("datavolumes", volume("second", GOLDEN, {"resources": {"requests": {"storage": "60Gi"}}}))
    cluster.data_volume("second", "Pending")
    assert any(reason == "ErrExceededQuota" and "exceeded quota: q" in message for reason, message in cluster.events("second"))
    assert cluster.ask("DELETE", cluster.path("datavolumes", "first"))[0] == 200
    cluster.data_volume("second")


# What goes wrong.

@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """The two clones that stick are there already: no test depends on another one's having come before it."""
    faults = ("stuck-clones=2", "import-not-found=1", "unpurgeable-clones=1")
    with started(tmp_path_factory.mktemp("broken"), "--speed", f"{SPEED}", *(word for fault in faults for word in ("--fault", fault))) as path:
        fresh_one = fresh(path)
        found = Storage(path)
        found.namespace = fresh_one.namespace
        found.create("datavolumes", volume("stuck", GOLDEN))
        found.data_volume("stuck", "CSICloneInProgress")
        found.create("datavolumes", volume("stuck-copy", GOLDEN, {"storageClassName": LVM, "resources": {"requests": {"storage": "40Gi"}}}))
        found.data_volume("stuck-copy", "CloneInProgress")
        yield found


def test_clones_stick_in_their_phase_and_copies_at_forty_percent(broken: Storage) -> None:
    broken.until(lambda: broken.get("datavolumes", "stuck-copy")["status"].get("progress") == "40.00%")
    broken.create("datavolumes", volume("well", GOLDEN))
    broken.data_volume("well")
    assert broken.get("datavolumes", "stuck")["status"]["phase"] == "CSICloneInProgress"
    assert broken.get("datavolumes", "stuck-copy")["status"]["phase"] == "CloneInProgress"


def test_an_image_that_is_not_there_is_tried_for_again_and_again(broken: Storage) -> None:
    machine = cloned("imports")
    machine["spec"]["dataVolumeTemplates"][0]["spec"]["source"] = HTTP
    broken.create("virtualmachines", machine)
    found = broken.until(lambda: (each := broken.get("datavolumes", "imports-root")) and (each.get("status") or {}).get("restartCount", 0) >= 2 and each)
    assert found["status"]["phase"] == "ImportInProgress"
    broken.until(lambda: broken.status("imports") == "DataVolumeError")
    assert ("Error", "Unable to connect to http data source: expected status code 200, got 404. Status: 404 Not Found") in broken.events("imports-root")


def test_a_clone_that_cannot_be_purged_stays_and_says_so(broken: Storage) -> None:
    broken.create("virtualmachines", cloned("purge"))
    broken.data_volume("purge-root")
    name = broken.claim("purge-root")["spec"]["volumeName"]
    assert broken.ask("DELETE", broken.path("virtualmachines", "purge"))[0] == 200
    broken.until(lambda: broken.get("persistentvolumes", name)["status"]["phase"] == "Released")
    events = broken.until(lambda: [each for each in broken.ask("GET", "/api/v1/namespaces/default/events")[1]["items"] if each["reason"] == "VolumeFailedDelete"])
    assert events[0]["involvedObject"]["name"] == name and "is still being used" in events[0]["message"]


# What clients see.

@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_the_columns_that_kubectl_shows(cluster: Storage) -> None:
    cluster.create("virtualmachines", cloned("shown"))
    cluster.data_volume("shown-root")
    cluster.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "10"}}})

    def lines(kind: str) -> list[list[str]]:
        command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "-n", cluster.namespace, "get", kind]
        return [line.split() for line in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()]

    assert lines("dv")[0] == ["NAME", "PHASE", "PROGRESS", "RESTARTS", "AGE"] and lines("dv")[1][:3] == ["shown-root", "Succeeded", "100.0%"]
    assert lines("pvc")[1][0:2] == ["shown-root", "Bound"] and lines("pvc")[1][3:6] == ["40Gi", "RWX", RBD]
    assert lines("vm")[1][0] == "shown" and lines("vm")[1][2] == "Stopped"
    assert lines("quota")[1][0] == "q"


@pytest.mark.skipif(not ORACLE.exists(), reason="needs the real CRDs")
def test_what_the_controllers_write_is_valid_for_the_real_definitions(cluster: Storage, tmp_path: Path) -> None:
    cluster.create("datavolumes", volume("clone", GOLDEN))
    cluster.create("datavolumes", volume("imported", HTTP))
    cluster.data_volume("clone")
    cluster.data_volume("imported", "ImportInProgress")
    objects = [*cluster.list("datavolumes"), *cluster.list("storageprofiles"), *cluster.list("volumeimportsources")]
    for plural, kind in (("datavolumes", "DataVolume"), ("storageprofiles", "StorageProfile"), ("volumeimportsources", "VolumeImportSource")):
        for obj in cluster.list(plural):
            obj.setdefault("apiVersion", "cdi.kubevirt.io/v1beta1")
            obj.setdefault("kind", kind)
            path = tmp_path / f"{plural}-{obj['metadata']['name']}.json"
            path.write_text(json.dumps(obj))
            result = subprocess.run([sys.executable, str(ORACLE / "validate.py"), str(path)], capture_output=True, text=True, timeout=60, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
    assert len(objects) > 5
