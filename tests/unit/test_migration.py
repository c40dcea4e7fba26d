"""What is seen of VMs that leave their nodes, of pods beside them, and what is checked before: without a cluster."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fixtures.migration import at_once
from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.watch import Event
from pytest_vmscale.model import Fleet, Guest, Status
from pytest_vmscale.procedures.fillers import Fillers, FillerWatch
from pytest_vmscale.procedures.fillers import Pod as FillerPod
from pytest_vmscale.procedures.migration import _covered, _node_wait
from pytest_vmscale.procedures.migration_checks import Pod, Site, away, blocking, budgets_of, cramped, selects
from pytest_vmscale.procedures.movements import Movements
from pytest_vmscale.procedures.nodes import NodeRecord
from pytest_vmscale.procedures.vmi import Launcher, Migration, MovingVmi
from pytest_vmscale.records import LIVE_MIGRATION, RESTART

EPOCH = 1_700_000_000.0
RHEL, FEDORA = Guest("ns", "rhel-00000", "rhel", 0), Guest("ns", "fedora-00001", "fedora", 1)
FLEET = Fleet("r1", "migration", (RHEL, FEDORA))


def stamp(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(EPOCH + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Seen:
    """A Movements that is fed by hand: at so many seconds after t0."""

    def __init__(self) -> None:
        clock = Clock(1.0, epoch=EPOCH, monotonic=0.0)
        self.movements = Movements(None, FLEET, clock, lambda guest: guest.os == "fedora")  # type: ignore[arg-type]
        for guest in FLEET.guests:
            found = self._vmi(guest, f"{guest.name}-1", node="a", phase="Running")
            self.movements.vmis.objects[guest.key] = msgspec.convert(found, MovingVmi)
        self.movements.begin(0.0)

    def _vmi(self, guest: Guest, uid: str, node: str = "", phase: str = "", migratable: bool = True, **status: Any) -> dict[str, Any]:
        conditions = [{"type": "LiveMigratable", "status": "True"} if migratable else {"type": "LiveMigratable", "status": "False", "message": "its disk is not shared"}]
        return {
            "metadata": {"name": guest.name, "namespace": guest.namespace, "uid": uid},
            "status": {"phase": phase, **({"nodeName": node} if node else {}), "conditions": conditions, **status},
        }

    def vmi(self, at: float, guest: Guest, uid: str, type: str = "MODIFIED", **fields: Any) -> None:
        self.movements._on_vmi(Event(type, msgspec.convert(self._vmi(guest, uid, **fields), MovingVmi), at))

    def migration(self, at: float, name: str, phase: str, guest: Guest = RHEL, type: str = "MODIFIED", initial: bool = False, **status: Any) -> None:
        obj = {"metadata": {"name": name, "namespace": guest.namespace, "uid": name, "creationTimestamp": stamp(at)},
               "spec": {"vmiName": guest.name}, "status": {"phase": phase, **status}}  # fmt: skip
        self.movements._on_migration(Event(type, msgspec.convert(obj, Migration), at, initial=initial))

    def launcher(self, at: float, guest: Guest, vmi: str, deleted: bool) -> None:
        obj = {"metadata": {"name": f"virt-launcher-{guest.name}-x", "namespace": guest.namespace, "uid": f"pod-{vmi}", "labels": {"kubevirt.io/created-by": vmi},
                            "annotations": {"kubevirt.io/domain": guest.name}, **({"deletionTimestamp": stamp(at)} if deleted else {})}}  # fmt: skip
        self.movements._on_launcher(Event("MODIFIED", msgspec.convert(obj, Launcher), at))

    def live_migrate(self, at: float, name: str = "m1", source: str = "a", target: str = "b") -> None:
        """An evacuation as it goes: 10 s in the queue, 5 s until the target is ready, 12 s of copying."""
        state = {"migrationUid": name, "sourceNode": source, "targetNode": target}
        self.vmi(at, RHEL, "rhel-00000-1", node=source, phase="Running", evacuationNodeName=source)
        self.migration(at + 1, name, "", type="ADDED")
        for seconds, phase in ((1.2, "Pending"), (11, "Scheduling"), (13, "Scheduled"), (14, "PreparingTarget"), (16, "TargetReady")):
            self.migration(at + seconds, name, phase)
        self.vmi(at + 17, RHEL, "rhel-00000-1", node=source, phase="Running", evacuationNodeName=source, migrationState={**state, "startTimestamp": stamp(at + 17)})
        self.migration(at + 17.5, name, "Running")
        ended = {**state, "startTimestamp": stamp(at + 17), "endTimestamp": stamp(at + 29), "completed": True}
        self.vmi(at + 29, RHEL, "rhel-00000-1", node=target, phase="Running", migrationState=ended)
        self.migration(at + 30, name, "Succeeded")

    def record(self, guest: Guest):
        return self.movements.record(self.movements.vms[guest.key], must_leave=True)


def test_a_live_migration_is_told_by_its_phases_and_its_time_is_that_of_the_vmis_migration_state():
    seen = Seen()
    seen.live_migrate(100.0)
    record = seen.record(RHEL)
    assert (record.status, record.error, record.moves_by, record.node_before, record.node) == (Status.SUCCESS, None, LIVE_MIGRATION, "a", "b")
    assert record.requested_at == 100.0 and record.time_to_moved_seconds == 29.0
    assert record.migration_queued_seconds == pytest.approx(10.0) and record.migration_prepared_seconds == pytest.approx(5.0)
    assert record.migration_duration_seconds == pytest.approx(12.0) and record.restart_duration_seconds is None
    told = {moment.phase: moment for moment in record.timeline}
    assert list(told) == ["Requested", "Pending", "Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Started", "Running", "Ended", "Moved", "Succeeded"]
    assert told["Pending"].seconds == 1.0 and told["Started"].object_seconds == pytest.approx(17.0) and told["Moved"].seconds == 29.0
    assert (seen.movements.most_active, seen.movements.most_from_node) == (1, 1)
    assert [each[1:] for each in seen.movements.in_flight] == [(0, 1), (1, 0), (0, 0)]


def test_what_was_there_before_the_trigger_is_no_migration_of_it():
    seen = Seen()
    seen.migration(0.0, "old", "Succeeded", initial=True)
    assert seen.record(RHEL).migrations == 0


def test_a_migration_that_fails_is_kept_with_its_reason_beside_the_one_that_succeeds():
    seen = Seen()
    state = {"migrationUid": "m0", "sourceNode": "a", "targetNode": "c"}
    seen.vmi(5.0, RHEL, "rhel-00000-1", node="a", phase="Running", evacuationNodeName="a")
    seen.migration(6.0, "m0", "Scheduling")
    seen.vmi(7.0, RHEL, "rhel-00000-1", node="a", phase="Running", evacuationNodeName="a",
             migrationState={**state, "startTimestamp": stamp(7), "endTimestamp": stamp(9), "completed": True, "failed": True, "failureReason": "unexpectedly closed the monitor"})  # fmt: skip
    seen.migration(9.0, "m0", "Failed")
    seen.live_migrate(40.0)
    record = seen.record(RHEL)
    assert record.succeeded and record.failures == ("unexpectedly closed the monitor",) and record.migrations == 1
    assert record.requested_at == 5.0 and record.time_to_moved_seconds == 64.0 and record.migration_duration_seconds == pytest.approx(12.0)


@pytest.mark.parametrize("pod_first", [True, False])
def test_a_restart_counts_from_the_eviction_of_its_pod_whichever_stream_is_first(pod_first):
    seen = Seen()
    if pod_first:
        seen.launcher(50.0, FEDORA, "fedora-00001-1", deleted=True)
    seen.vmi(60.0, FEDORA, "fedora-00001-1", type="DELETED")
    for at, phase in ((61.0, ""), (62.0, "Scheduling"), (70.0, "Scheduled"), (73.0, "Running")):
        seen.vmi(at, FEDORA, "fedora-00001-2", phase=phase, node="b" if at >= 70 else "")
    if not pod_first:
        seen.launcher(50.0, FEDORA, "fedora-00001-1", deleted=True)
    seen.launcher(74.0, FEDORA, "fedora-00001-1", deleted=True)
    record = seen.record(FEDORA)
    assert (record.status, record.moves_by, record.node, record.restarts) == (Status.SUCCESS, RESTART, "b", 1)
    assert record.restart_duration_seconds == 23.0 and record.restart_start_seconds == 11.0 and record.requested_at == 50.0
    assert record.migration_duration_seconds is None and record.time_to_moved_seconds == 23.0


def test_live_migrations_and_restarts_are_in_no_sample_of_each_other():
    seen = Seen()
    seen.live_migrate(10.0)
    migrated, still_there = seen.record(RHEL), seen.record(FEDORA)
    assert migrated.applies("migration_duration_seconds") and not migrated.applies("restart_duration_seconds")
    assert still_there.applies("restart_start_seconds") and not still_there.applies("migration_queued_seconds")
    assert migrated.applies("time_to_moved_seconds") and still_there.applies("time_to_moved_seconds")


def test_a_vm_that_should_have_migrated_and_was_restarted_failed():
    seen = Seen()
    seen.vmi(30.0, RHEL, "rhel-00000-1", type="DELETED")
    seen.vmi(40.0, RHEL, "rhel-00000-2", phase="Running", node="b")
    record = seen.record(RHEL)
    assert (record.status, record.error, record.restarts) == (Status.FAILED, "it was restarted, though it is to be live migrated", 1)


def test_a_vm_that_is_gone_still_there_or_cannot_leave_says_so():
    seen = Seen()
    assert seen.record(RHEL).error == "it is still on a, and was not asked to leave"
    seen.vmi(5.0, RHEL, "rhel-00000-1", node="a", phase="Running", evacuationNodeName="a", migratable=False)
    record = seen.record(RHEL)
    assert record.status is Status.TIMED_OUT and record.error == "it is still on a: it cannot be live migrated: its disk is not shared"
    assert seen.movements.record(seen.movements.vms[RHEL.key], must_leave=False).succeeded
    seen.vmi(9.0, RHEL, "rhel-00000-1", type="DELETED")
    assert seen.record(RHEL).error == "its VMI is gone" and seen.record(RHEL).node is None


def test_a_vm_that_moves_on_leaves_two_nodes():
    seen = Seen()
    seen.live_migrate(10.0, "m1", "a", "b")
    seen.live_migrate(200.0, "m2", "b", "c")
    vm = seen.movements.vms[RHEL.key]
    assert [(stamp.at - EPOCH, node) for stamp, node in vm.departures] == [(39.0, "a"), (229.0, "b")]
    record = seen.record(RHEL)
    assert (record.migrations, record.node, record.time_to_moved_seconds) == (2, "c", 29.0) and record.migration_duration_seconds == pytest.approx(12.0)


def test_migrations_under_way_are_counted_from_each_node():
    seen = Seen()
    for index in range(3):
        seen.migration(float(index), f"m{index}", "Scheduling")
    seen.migration(4.0, "m0", "Succeeded")
    assert (seen.movements.most_active, seen.movements.most_from_node, seen.movements.in_flight[-1][1]) == (3, 3, 2)


def test_drains_that_overlap_count_once():
    assert _covered([(0.0, 10.0), (5.0, 12.0), (20.0, 25.0), (None, None)]) == 17.0
    assert _covered([(0.0, None)]) is None and _covered([]) == 0.0


@pytest.mark.parametrize(("asked", "nodes", "found"), [(10, 34, 10), (0, 34, 1), ("25%", 10, 2), ("1%", 10, 1), ("100%", 7, 7)])
def test_nodes_at_once_are_counted_as_a_pool_counts_them(asked, nodes, found):
    assert at_once(asked, nodes) == found


def test_waiting_for_nodes_is_the_rounds_times_the_mean_of_a_nodes_way_back():
    nodes = [NodeRecord(name=str(index), drained_seconds=100.0 * index, done_seconds=100.0 * index + seconds) for index, seconds in enumerate((500.0, 520.0, 540.0))]
    assert _node_wait(nodes, 10) == 520.0 and _node_wait(nodes, 2) == 1040.0 and _node_wait(nodes, 1) == 1560.0
    assert _node_wait([*nodes, NodeRecord(name="x", drained_seconds=1.0)], 2) is None and _node_wait([], 2) is None


# Idle pods.


def pod(watch: FillerWatch, at: float, name: str, ready: bool = True, owner: str = "rs", type: str = "MODIFIED", deleted: bool = False) -> None:
    obj = {"metadata": {"name": name, "uid": name, "ownerReferences": [{"uid": owner, "controller": True}], **({"deletionTimestamp": stamp(at)} if deleted else {})},
           "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}}  # fmt: skip
    watch._on_pod(Event(type, msgspec.convert(obj, FillerPod), at))


def fillers(count: int) -> FillerWatch:
    watch = FillerWatch(None, Clock(1.0, epoch=0.0, monotonic=0.0), Fillers("r1", "migration", "space", count))  # type: ignore[arg-type]
    for index in range(count):
        pod(watch, 0.0, f"p{index}", owner=f"rs{index % 2}")
    watch.begin(1.0)
    return watch


def test_a_pod_that_was_evicted_is_back_when_the_next_of_its_replica_set_is_ready():
    watch = fillers(4)
    pod(watch, 10.0, "p0", owner="rs0", deleted=True)
    pod(watch, 10.5, "p0", owner="rs0", type="DELETED")
    pod(watch, 11.0, "p1", owner="rs1", deleted=True)
    pod(watch, 12.0, "new0", ready=False, owner="rs0")
    assert not watch.all_back and watch.ready == 2 and watch.evicted == 2
    pod(watch, 14.0, "new0", owner="rs0")
    pod(watch, 19.0, "new1", owner="rs1")
    assert watch.all_back and sorted(watch.away_seconds) == [4.0, 8.0] and watch.last_evicted == 11.0 and watch.last_ready == 19.0


def test_one_that_goes_before_it_was_ready_leaves_its_wait_to_the_next():
    watch = fillers(2)
    pod(watch, 10.0, "p0", owner="rs0", type="DELETED")
    pod(watch, 11.0, "new0", ready=False, owner="rs0")
    pod(watch, 15.0, "new0", ready=False, owner="rs0", type="DELETED")
    pod(watch, 16.0, "new1", owner="rs0")
    assert watch.away_seconds == [6.0] and watch.evicted == 2


def test_idle_pods_come_in_deployments_of_a_hundred_and_keep_off_closed_nodes():
    namespace, *deployments = Fillers("r1", "migration", "space", 250).manifests("vmscale.io/closed")
    assert namespace["kind"] == "Namespace" and [each["spec"]["replicas"] for each in deployments] == [100, 100, 50]
    assert len({each["metadata"]["name"] for each in deployments}) == len({str(each["spec"]["selector"]) for each in deployments}) == 3
    for each in deployments:
        terms = each["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert terms == [{"matchExpressions": [{"key": "vmscale.io/closed", "operator": "DoesNotExist"}]}]


# Checks.


def node(cpu: str = "40", memory: str = "384Gi", pods: str = "250", ready: str = "True", cordoned: bool = False) -> dict[str, Any]:
    return {"spec": {"unschedulable": True} if cordoned else {},
            "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": pods}, "conditions": [{"type": "Ready", "status": ready}]}}  # fmt: skip


def running(name: str, where: str, memory: str = "4G", owner: str = "ReplicaSet", labels: dict[str, str] | None = None) -> Pod:
    return msgspec.convert(
        {"metadata": {"name": name, "namespace": "ns", "labels": labels or {}, "ownerReferences": [{"kind": owner, "controller": True}]},
         "spec": {"nodeName": where, "containers": [{"resources": {"requests": {"cpu": "1", "memory": memory}}}]}, "status": {"phase": "Running"}},
        Pod,
    )  # fmt: skip


def site(pods: list[Pod], nodes: dict[str, Any], budgets: list[Any] | None = None) -> Site:
    by_node: dict[str, list[Pod]] = {}
    for each in pods:
        by_node.setdefault(each.spec.nodeName, []).append(each)
    return Site(pods, nodes, budgets or [], by_node)


def test_what_leaves_must_fit_onto_the_other_nodes():
    movers = [running(f"vm{index}", "a") for index in range(10)]
    assert cramped(site(movers, {"a": node(), "b": node(), "c": node()}), ["a"], ["b", "c"]) == []
    full = {"a": node(), "b": node(memory="9G"), "c": node(memory="9G", cordoned=True)}
    (line,) = cramped(site(movers, full), ["a"], ["b", "c"])
    assert line.startswith("the nodes outside the zone have no room for 8 of the 10 pods that are to leave it (8.0 CPU and 29.8 GiB too much)")
    (none,) = cramped(site(movers, {"a": node(), "b": node(ready="Unknown")}), ["a"], ["b"])
    assert none.startswith("no node outside the zone takes pods")
    assert cramped(site([running("logs", "a", memory="900G", owner="DaemonSet")], {"a": node(), "b": node()}), ["a"], ["b"]) == []


def test_the_zone_is_whole_before_it_is_drained():
    nodes = {"a": node(), "b": node(cordoned=True), "c": node(ready="False")}
    assert away(site([], nodes), ["a", "b", "c"]) == ["b, c are not Ready or are cordoned: have the whole zone take pods first"]
    assert away(site([], nodes), ["a"]) == []


def budget(name: str, allowed: int, labels: dict[str, str], owner: str = "") -> dict[str, Any]:
    meta = {"name": name, "namespace": "ns", **({"ownerReferences": [{"kind": owner}]} if owner else {})}
    return {"metadata": meta, "spec": {"selector": {"matchLabels": labels}}, "status": {"disruptionsAllowed": allowed}}


def test_a_budget_that_lets_no_pod_go_is_named_with_the_pods_that_it_holds():
    pods = [running("db-0", "a", labels={"app": "db"}), running("web-0", "b", labels={"app": "db"})]
    budgets = [budget("db", 0, {"app": "db"}), budget("loose", 1, {"app": "db"}), budget("vmi", 0, {"app": "db"}, "VirtualMachineInstance")]
    (line,) = blocking(site(pods, {}, budgets), ["a"])
    assert line.startswith("the disruption budget ns/db lets no pod go, and holds db-0:")
    assert blocking(site(pods, {}, budgets), ["c"]) == [] and budgets_of(site(pods, {}, budgets), pods[0]) == ["ns/db", "ns/vmi"]


@pytest.mark.parametrize(
    ("selector", "selected"),
    [(None, False), ({}, True), ({"matchLabels": {"a": "1"}}, True), ({"matchLabels": {"a": "2"}}, False),
     ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, True), ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
     ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False), ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True)],
)  # fmt: skip
def test_label_selectors(selector, selected):
    assert selects(selector, {"a": "1"}) is selected
