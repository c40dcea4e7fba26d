"""Live migration and eviction as KubeVirt does them, on an embedded cluster of its own.

Where a real virt-controller's recorded watch streams lie beside the checkout, a migration is held against them.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from .test_kubevirt import DEADLINE_WALL_SECONDS, ORACLE, Cluster, answers, cloned, fresh, ready, ssh, stages, started, vm

VMIM = "virtualmachineinstancemigrations"
VMIS, VMS = "virtualmachineinstances", "virtualmachines"
PHASES = ["Pending", "Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running", "Succeeded"]


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with started(tmp_path_factory.mktemp("migration")) as path:
        yield path


@pytest.fixture
def cluster(kubeconfig: Path) -> Cluster:
    return fresh(kubeconfig)


def migratable(name: str, **template: Any) -> dict[str, Any]:
    obj = vm(name, "Always", **template)
    obj["spec"]["template"]["spec"].setdefault("evictionStrategy", "LiveMigrate")
    return obj


def migration(vmi: str, name: str = "") -> dict[str, Any]:
    meta = {"name": name} if name else {"generateName": "mig-"}
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration", "metadata": meta, "spec": {"vmiName": vmi}}


def runs(cluster: Cluster, *objs: dict[str, Any]) -> None:
    """Create these VMs and wait until they run and can be migrated, or say that they cannot."""
    for obj in objs:
        cluster.create(VMS, obj)
    for obj in objs:
        cluster.running(obj["metadata"]["name"])


def ended(cluster: Cluster, name: str) -> Any:
    """Wait until the migration has ended and its state is copied; the migration."""
    return cluster.until(lambda: (obj := cluster.get(VMIM, name)) and obj.get("status", {}).get("phase") in ("Succeeded", "Failed")
                         and not obj["metadata"].get("finalizers") and obj)


def phases(obj: Any) -> list[str]:
    return [each["phase"] for each in obj["status"]["phaseTransitionTimestamps"]]


def pods(cluster: Cluster) -> list[Any]:
    return list(cluster.ask("GET", cluster.path("pods"))[1]["items"])


def pod_of(cluster: Cluster, name: str) -> Any:
    """The launcher pod of this VMI that has not ended."""
    return next(pod for pod in pods(cluster) if pod["metadata"]["annotations"].get("kubevirt.io/domain") == name
                and pod["status"]["phase"] not in ("Succeeded", "Failed"))


def evict(cluster: Cluster, pod: str, **options: Any) -> tuple[int, str]:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": cluster.namespace}, **options}
    code, answer = cluster.ask("POST", f"{cluster.path('pods', pod)}/eviction", body)
    return code, answer.get("message", "")


def events(cluster: Cluster, about: str) -> set[str]:
    return {each["reason"] for each in cluster.ask("GET", cluster.path("events"))[1]["items"] if each["involvedObject"]["name"] == about}


# One migration.

def test_a_guest_goes_on_elsewhere(cluster: Cluster) -> None:
    runs(cluster, migratable("m"))
    before, address = cluster.get(VMIS, "m"), cluster.address("m")
    cluster.until(lambda: answers(cluster, address))
    ssh(cluster, address, "true")
    source = pod_of(cluster, "m")
    cluster.create(VMIM, migration("m", "mig"))
    cluster.until(lambda: cluster.status("m") == "Migrating")
    done = ended(cluster, "mig")
    after, target = cluster.get(VMIS, "m"), pod_of(cluster, "m")
    assert phases(done) == PHASES
    state = after["status"]["migrationState"]
    assert done["status"]["migrationState"] == state
    assert state["completed"] and not state.get("failed") and state["startTimestamp"] <= state["endTimestamp"]
    assert (state["sourceNode"], state["targetNode"]) == (before["status"]["nodeName"], after["status"]["nodeName"])
    assert state["sourceNode"] != state["targetNode"] == target["spec"]["nodeName"]
    assert (state["sourcePod"], state["targetPod"]) == (source["metadata"]["name"], target["metadata"]["name"])
    assert after["metadata"]["uid"] == before["metadata"]["uid"] and after["status"]["phase"] == "Running"
    assert after["metadata"]["labels"]["kubevirt.io/nodeName"] == after["status"]["nodeName"]
    assert phases(after) == phases(before)
    assert answers(cluster, address) and cluster.address("m") == address
    cluster.until(lambda: cluster.get("pods", source["metadata"]["name"])["status"]["phase"] == "Succeeded")
    cluster.until(lambda: cluster.get(VMIS, "m")["status"]["activePods"] == {target["metadata"]["uid"]: target["spec"]["nodeName"]})
    cluster.until(lambda: cluster.status("m") == "Running" and ready(cluster.get(VMIS, "m"))[0] == "True")
    cluster.until(lambda: {"Migrating", "Migrated", "PreparingTarget"} <= events(cluster, "m"))
    cluster.until(lambda: {"SuccessfulCreate", "SuccessfulHandOver", "SuccessfulMigration"} <= events(cluster, "mig"))


def test_the_target_pod_is_another_launcher_of_the_same_vmi(cluster: Cluster) -> None:
    runs(cluster, migratable("m"))
    uid = cluster.get(VMIS, "m")["metadata"]["uid"]
    job = cluster.create(VMIM, migration("m"))["metadata"]
    pod = cluster.until(lambda: next((pod for pod in pods(cluster) if "kubevirt.io/migrationJobUID" in pod["metadata"]["labels"]), None))
    assert pod["metadata"]["labels"]["kubevirt.io/migrationJobUID"] == job["uid"]
    assert pod["metadata"]["annotations"]["kubevirt.io/migrationJobName"] == job["name"]
    assert pod["metadata"]["name"].startswith("virt-launcher-m-") and pod["metadata"]["ownerReferences"][0]["uid"] == uid
    assert pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == [
        {"labelSelector": {"matchLabels": {"kubevirt.io/created-by": uid}}, "topologyKey": "kubernetes.io/hostname"}]
    assert pod["spec"]["nodeSelector"]["cpu-vendor.node.kubevirt.io/Intel"] == "true"
    assert pod["spec"]["securityContext"]["seLinuxOptions"]["level"].startswith("s0:c")
    ended(cluster, job["name"])


def test_a_vm_can_go_there_and_back_and_only_the_last_five_migrations_stay(cluster: Cluster) -> None:
    runs(cluster, migratable("m", nodeSelector={"node-role.kubernetes.io/worker": ""}))
    first = pod_of(cluster, "m")["metadata"]["name"]
    for number in range(6):
        assert ended(cluster, cluster.create(VMIM, migration("m", f"mig-{number}"))["metadata"]["name"])["status"]["phase"] == "Succeeded"
        cluster.until(lambda: len(cluster.get(VMIS, "m")["status"]["activePods"]) == 1)
    cluster.until(lambda: cluster.get(VMIM, "mig-0") is None)
    cluster.until(lambda: cluster.get("pods", first) is None)  # it goes with its migration; the guest has come back to its node meanwhile
    assert all(cluster.get(VMIM, f"mig-{number}") for number in range(1, 6))
    assert "ShuttingDown" not in events(cluster, "m")
    assert cluster.get(VMIS, "m")["status"]["nodeName"] == pod_of(cluster, "m")["spec"]["nodeName"]


def test_virtctl_migrate_makes_a_migration(cluster: Cluster) -> None:
    runs(cluster, migratable("m"))
    assert cluster.action("m", "migrate") == (202, "")
    made = cluster.ask("GET", cluster.path(VMIM))[1]["items"]
    assert [each["spec"] for each in made] == [{"vmiName": "m"}] and made[0]["metadata"]["name"].startswith("kubevirt-migrate-vm-")
    code, message = cluster.action("m", "migrate")
    assert code == 500 and message == (
        'Internal error occurred: admission webhook "migration-create-validator.kubevirt.io" denied the request: in-flight migration detected. '
        f"Active migration job ({made[0]['metadata']['uid']}) is currently already in progress for VMI m.")
    ended(cluster, made[0]["metadata"]["name"])


# What the webhooks refuse.

def test_migrations_that_cannot_be_are_refused(cluster: Cluster) -> None:
    obj = cloned("alone")
    obj["spec"]["runStrategy"] = "Always"
    obj["spec"]["dataVolumeTemplates"][0]["spec"]["pvc"]["accessModes"] = ["ReadWriteOnce"]
    runs(cluster, obj)
    condition = next(each for each in cluster.get(VMIS, "alone")["status"]["conditions"] if each["type"] == "LiveMigratable")
    why = "cannot migrate VMI: PVC alone-root is not shared, live migration requires that all PVCs must be shared (using ReadWriteMany access mode)"
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "DisksNotLiveMigratable", why)
    denied = 'admission webhook "migration-create-validator.kubevirt.io" denied the request: '
    for sent, code, message in (
            (migration("alone"), 400, f"Cannot migrate VMI, Reason: DisksNotLiveMigratable, Message: {why}"),
            (migration("none"), 400, f'the VMI "{cluster.namespace}/none" does not exist'),
            ({**migration(""), "spec": {}}, 422, "vmiName is missing"),
            ({**migration("alone"), "spec": {"vmiName": "alone", "priority": "system-critical"}}, 422,
             "Migration priority queue, only virt-controller is allowed to set priority field")):
        got, answer = cluster.ask("POST", cluster.path(VMIM), sent)
        assert (got, answer["message"]) == (code, denied + message)


def test_a_migration_cannot_be_changed(cluster: Cluster) -> None:
    runs(cluster, migratable("m"))
    cluster.create(VMIM, migration("m", "mig"))
    denied = 'admission webhook "migration-update-validator.kubevirt.io" denied the request: '
    for patch, message in (({"spec": {"vmiName": "other"}}, "update of Migration object's spec is restricted"),
                           ({"metadata": {"labels": {"kubevirt.io/vmi-name": "other"}}}, "selector label can't be modified on an in-flight migration")):
        code, answer = cluster.ask("PATCH", cluster.path(VMIM, "mig"), patch, "application/merge-patch+json")
        assert (code, answer["message"]) == (422, denied + message)
    ended(cluster, "mig")


# Limits.

def set_limits(cluster: Cluster, **migrations: Any) -> None:
    """By way of HyperConverged, which makes the KubeVirt object's spec: what is written there by hand does not last."""
    path = "/apis/hco.kubevirt.io/v1beta1/namespaces/openshift-cnv/hyperconvergeds/kubevirt-hyperconverged"
    code, answer = cluster.ask("PATCH", path, {"spec": {"liveMigrationConfig": migrations}}, "application/merge-patch+json")
    assert code == 200, answer
    kubevirt = "/apis/kubevirt.io/v1/namespaces/openshift-cnv/kubevirts/kubevirt-kubevirt-hyperconverged"
    cluster.until(lambda: migrations.items() <= cluster.ask("GET", kubevirt)[1]["spec"]["configuration"]["migrations"].items())


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many of these spans overlapped at most."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


@pytest.mark.parametrize("per_cluster, per_node, expected", [(2, 5, 2), (5, 1, 1)])
def test_the_limits_of_the_cluster_and_of_the_node_hold(tmp_path: Path, per_cluster: int, per_node: int, expected: int) -> None:
    with started(tmp_path, "--speed", "100") as path:
        cluster = fresh(path)
        node = cluster.ask("GET", "/api/v1/nodes?labelSelector=node-role.kubernetes.io/worker")[1]["items"][0]["metadata"]["name"]
        prefer = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}}]}}
        runs(cluster, *(migratable(f"m{n}", affinity=prefer) for n in range(4)))
        assert {cluster.get(VMIS, f"m{n}")["status"]["nodeName"] for n in range(4)} == {node}
        set_limits(cluster, parallelMigrationsPerCluster=per_cluster, parallelOutboundMigrationsPerNode=per_node)
        for n in range(4):
            cluster.create(VMIM, migration(f"m{n}", f"mig{n}"))
        for n in range(4):
            assert ended(cluster, f"mig{n}")["status"]["phase"] == "Succeeded"
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    starts = {each["migration"]: each["t"] for each in truth if each["kind"] == "migration-target-created"}
    ends = {each["migration"]: each["t"] for each in truth if each["kind"] == "migration-ended"}
    assert most_at_once([(starts[name], ends[name]) for name in starts]) == expected


# Failing, hanging, giving up.

def test_a_migration_that_fails_leaves_the_guest_where_it_is(tmp_path: Path) -> None:
    with started(tmp_path, "--fault", "migration-fails=1") as path:
        cluster = fresh(path)
        runs(cluster, migratable("m"), migratable("n"))
        node = cluster.get(VMIS, "m")["status"]["nodeName"]
        cluster.create(VMIM, migration("m", "mig"))
        failed = ended(cluster, "mig")
        assert phases(failed) == [*PHASES[:-1], "Failed"]
        state = cluster.get(VMIS, "m")["status"]["migrationState"]
        assert state["failed"] and state["completed"] and state["failureReason"].startswith("error encountered during MigrateToURI3 libvirt api call")
        assert failed["status"]["migrationState"] == state
        assert cluster.get(VMIS, "m")["status"]["nodeName"] == node and cluster.status("m") == "Running"
        cluster.until(lambda: cluster.get("pods", state["targetPod"])["status"]["phase"] == "Failed")
        cluster.until(lambda: "FailedMigration" in events(cluster, "mig"))
        cluster.create(VMIM, migration("n", "other"))
        assert ended(cluster, "other")["status"]["phase"] == "Succeeded"


def test_a_migration_without_progress_is_aborted_and_one_that_is_deleted_too(tmp_path: Path) -> None:
    with started(tmp_path, "--fault", "migration-hangs=2") as path:
        cluster = fresh(path)
        set_limits(cluster, progressTimeout=40)
        runs(cluster, migratable("m"), migratable("n"))
        cluster.create(VMIM, migration("m", "mig"))
        cluster.create(VMIM, migration("n", "given-up"))
        cluster.until(lambda: cluster.get(VMIM, "given-up").get("status", {}).get("phase") == "Running")
        assert cluster.ask("DELETE", cluster.path(VMIM, "given-up"))[0] == 200
        cluster.until(lambda: cluster.get(VMIM, "given-up") is None)
        state = cluster.get(VMIS, "n")["status"]["migrationState"]
        assert (state["abortRequested"], state["abortStatus"], state["failureReason"]) == (True, "Succeeded", "Live migration has been aborted")
        assert ended(cluster, "mig")["status"]["migrationState"]["failureReason"] == "Live migration stuck for 40 sec and has been aborted"
        assert cluster.status("m") == cluster.status("n") == "Running"


def test_a_migration_that_waits_can_be_given_up(cluster: Cluster) -> None:
    runs(cluster, migratable("m"))
    set_limits(cluster, parallelMigrationsPerCluster=0)
    cluster.create(VMIM, migration("m", "mig"))
    cluster.until(lambda: (cluster.get(VMIM, "mig").get("status") or {}).get("phase") == "Pending")
    assert cluster.ask("DELETE", cluster.path(VMIM, "mig"))[0] == 200
    cluster.until(lambda: cluster.get(VMIM, "mig") is None)
    set_limits(cluster, parallelMigrationsPerCluster=5)
    assert "migrationState" not in cluster.get(VMIS, "m")["status"]


def test_stopping_the_vm_ends_its_migration(cluster: Cluster) -> None:
    under_way = ("Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running")
    runs(cluster, migratable("m"))
    for name in ("mig-1", "mig-2", "mig-3", "mig-4"):
        cluster.create(VMIM, migration("m", name))
        phase = cluster.until(lambda name=name: (found := (cluster.get(VMIM, name).get("status") or {}).get("phase")) in (*under_way, "Succeeded") and found)
        if phase in under_way:  # a machine that is busy may look when it is over already
            break
    assert cluster.action("m", "stop")[0] == 202
    cluster.until(lambda: cluster.status("m") == "Stopped" and not pods(cluster) and cluster.get(VMIM, name) is None)


# Eviction.

def test_evicting_a_vm_that_is_to_migrate_is_refused_and_migrates_it(cluster: Cluster) -> None:
    runs(cluster, migratable("m"))
    pod = pod_of(cluster, "m")
    said = f'Eviction triggered evacuation of VMI "{cluster.namespace}/m"'
    denied = 'admission webhook "virt-launcher-eviction-interceptor.kubevirt.io" denied the request: '
    assert evict(cluster, pod["metadata"]["name"], deleteOptions={"dryRun": ["All"]}) == (429, denied + said)
    assert "evacuationNodeName" not in cluster.get(VMIS, "m")["status"]
    assert evict(cluster, pod["metadata"]["name"]) == (429, denied + said)
    assert evict(cluster, pod["metadata"]["name"]) == (429, f"{denied}Evacuation in progress: {said}")
    vmi = cluster.until(lambda: (vmi := cluster.get(VMIS, "m")) and any(each["type"] == "EvictionRequested" for each in vmi["status"]["conditions"]) and vmi)
    assert vmi["status"]["evacuationNodeName"] == pod["spec"]["nodeName"]
    made = cluster.until(lambda: cluster.ask("GET", cluster.path(VMIM))[1]["items"])
    assert made[0]["metadata"]["name"].startswith("kubevirt-evacuation-")
    assert made[0]["metadata"]["annotations"]["kubevirt.io/evacuationMigration"] == pod["spec"]["nodeName"]
    assert ended(cluster, made[0]["metadata"]["name"])["status"]["phase"] == "Succeeded"
    after = cluster.get(VMIS, "m")
    assert after["status"]["nodeName"] != pod["spec"]["nodeName"] and "evacuationNodeName" not in after["status"]
    cluster.until(lambda: not any(each["type"] == "EvictionRequested" for each in cluster.get(VMIS, "m")["status"]["conditions"]))
    cluster.until(lambda: cluster.get("pods", pod["metadata"]["name"])["status"]["phase"] == "Succeeded")
    assert evict(cluster, pod["metadata"]["name"])[0] == 201  # what has ended may go
    assert len(cluster.ask("GET", cluster.path(VMIM))[1]["items"]) == 1


def test_evicting_what_cannot_migrate(cluster: Cluster) -> None:
    blocked = cloned("blocked")
    blocked["spec"]["runStrategy"] = "Always"
    blocked["spec"]["dataVolumeTemplates"][0]["spec"]["pvc"]["accessModes"] = ["ReadWriteOnce"]
    blocked["spec"]["template"]["spec"]["evictionStrategy"] = "LiveMigrate"
    runs(cluster, blocked, migratable("free", evictionStrategy="None", terminationGracePeriodSeconds=0))
    code, message = evict(cluster, pod_of(cluster, "blocked")["metadata"]["name"])
    assert code == 429 and message == ('admission webhook "virt-launcher-eviction-interceptor.kubevirt.io" denied the request: '
                                       "VMI blocked is configured with an eviction strategy but is not live-migratable")
    before = cluster.get(VMIS, "free")["metadata"]["uid"]
    assert evict(cluster, pod_of(cluster, "free")["metadata"]["name"]) == (201, "")
    cluster.until(lambda: (vmi := cluster.get(VMIS, "free")) and vmi["metadata"]["uid"] != before)
    cluster.running("free")
    assert cluster.get(VMIS, "blocked")["status"]["phase"] == "Running"


def test_a_vm_that_cannot_migrate_any_more_says_so(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("- {fault: not-migratable, value: 1, at: 60}\n")
    with started(tmp_path, "--fault", str(plan)) as path:
        cluster = fresh(path)
        runs(cluster, migratable("m"), migratable("n"))

        def migratable_now(name: str) -> str:
            return str(next(each for each in cluster.get(VMIS, name)["status"]["conditions"] if each["type"] == "LiveMigratable")["status"])

        cluster.until(lambda: sorted(map(migratable_now, "mn")) == ["False", "True"])


# Against the real virt-controller's recorded streams.

def recorded(kind: str) -> list[dict[str, Any]]:
    path = ORACLE / "lifecycle" / f"migrate-{kind}.jsonl"
    if not path.exists():
        pytest.skip("the recorded streams are not beside this checkout")
    return [json.loads(line)["object"] for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def streams(kubeconfig: Path) -> dict[str, list[dict[str, Any]]]:
    """A migration from before its VMIM is there until everything is quiet: every object of its VM, VMI and VMIM."""
    cluster = fresh(kubeconfig)
    runs(cluster, migratable("vm1"))
    cluster.until(lambda: ready(cluster.get(VMS, "vm1"))[0] == "True")
    plurals = {"vm": VMS, "vmi": VMIS, "vmim": VMIM}
    seen: dict[str, list[dict[str, Any]]] = {kind: [] for kind in plurals}

    async def follow(session: aiohttp.ClientSession, kind: str, open: asyncio.Event) -> None:
        async with session.get(f"{cluster.server}{cluster.path(plurals[kind])}?watch=true", ssl=cluster.context) as reply:
            open.set()
            async for line in reply.content:
                seen[kind].append(json.loads(line)["object"])

    def done() -> bool:
        return bool(seen["vmim"]) and not seen["vmim"][-1]["metadata"].get("finalizers") and seen["vm"][-1]["status"]["printableStatus"] == "Running"

    async def inside() -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.token}"}) as session:
            opened = {kind: asyncio.Event() for kind in plurals}
            tasks = [asyncio.create_task(follow(session, kind, opened[kind])) for kind in plurals]
            await asyncio.wait_for(asyncio.gather(*(each.wait() for each in opened.values())), DEADLINE_WALL_SECONDS)
            while not (seen["vm"] and seen["vmi"]):
                await asyncio.sleep(0.02)
            await asyncio.to_thread(cluster.create, VMIM, migration("vm1", "mig2"))
            end = time.monotonic() + DEADLINE_WALL_SECONDS
            while not done():
                assert time.monotonic() < end, "the migration did not end"
                await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(inside())
    return seen


def state_fields(obj: dict[str, Any]) -> frozenset[str]:
    return frozenset(obj.get("status", {}).get("migrationState") or ())


def test_a_migration_goes_as_the_recorded_one(streams: dict[str, list[dict[str, Any]]]) -> None:
    alive = {kind: [each for each in recorded(kind) if "deletionTimestamp" not in each["metadata"]] for kind in streams}
    phase: Callable[[dict[str, Any]], Any] = lambda obj: obj.get("status", {}).get("phase")  # noqa: E731
    assert [each for each in stages(streams["vmim"], phase) if each] == stages(alive["vmim"], phase)
    printable: Callable[[dict[str, Any]], Any] = lambda obj: obj["status"]["printableStatus"]  # noqa: E731
    assert stages(streams["vm"], printable) == stages(alive["vm"], printable)
    assert streams["vmim"][-1]["metadata"]["labels"] == alive["vmim"][-1]["metadata"]["labels"]


def test_the_migration_state_fills_in_the_recorded_order(streams: dict[str, list[dict[str, Any]]]) -> None:
    real = stages([each for each in recorded("vmi") if "deletionTimestamp" not in each["metadata"]], state_fields)
    ours = stages(streams["vmi"], state_fields)
    known = real[-1]
    assert stages([{"x": each & known} for each in ours], lambda each: each["x"]) == list(real)
    last, real_last = streams["vmim"][-1]["status"]["migrationState"], recorded("vmim")[-1]["status"]["migrationState"]
    newer = {"maxDowntimeMs", "utilityVolumesTimeout"}
    assert set(real_last) <= set(last)
    assert set(real_last["migrationConfiguration"]) - newer == set(last["migrationConfiguration"])


def test_all_that_is_written_is_valid_by_the_real_definitions(streams: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    validate = ORACLE / "validate.py"
    if not validate.exists():
        pytest.skip("the real definitions are not beside this checkout")
    path = tmp_path / "objects.json"
    path.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": [each for kind in streams.values() for each in kind]}))
    result = subprocess.run([sys.executable, str(validate), str(path)], capture_output=True, text=True, timeout=DEADLINE_WALL_SECONDS, check=False)
    assert result.returncode == 0, result.stdout
