"""What `kubectl get` prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.embedded.api.kinds import load_kinds
from pytest_vmscale.embedded.api.rows import human_duration
from pytest_vmscale.embedded.api.tables import json_path, table

KINDS = load_kinds()
NOW = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
CREATED = "2026-01-01T23:59:00Z"
REAL = Path(__file__).parents[3] / "shared"


def row(resource: str, **parts: Any) -> list[Any]:
    obj = {"metadata": {"name": "x", "creationTimestamp": CREATED, **parts.pop("metadata", {})}, **parts}
    return table(KINDS[resource], [obj], NOW)["rows"][0]["cells"]


@pytest.mark.parametrize(("seconds", "text"), [
    (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (599, "9m59s"), (600, "10m"), (3 * 3600 - 1,
                                                                                                                        "179m"),
    (3 * 3600, "3h"), (3 * 3600 + 300, "3h5m"), (8 * 3600, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (76 * 3600, "3d4h"), (30 * 86400,
                                                                                                                               "30d"),
    (3 * 365 * 86400 + 20 * 86400, "3y20d"), (9 * 365 * 86400, "9y")])
def test_ages_read_as_kubectl_writes_them(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_a_virtual_machine_prints_its_columns_and_null_where_nothing_is_known() -> None:
    assert row("virtualmachines") == ["x", "60s", None, None]
    ready = {"printableStatus": "Running", "conditions": [{"type": "Paused", "status": "False"}, {"type": "Ready", "status": "True"}]}
    assert row("virtualmachines", status=ready) == ["x", "60s", "Running", "True"]


def test_wide_columns_have_priority_one() -> None:
    definitions = table(KINDS["virtualmachineinstances"], [], NOW)["columnDefinitions"]
    assert [d["name"] for d in definitions if d["priority"]] == ["Live-Migratable", "Paused"]


def test_a_custom_resource_without_printer_columns_prints_its_age() -> None:
    assert [d["name"] for d in table(KINDS["storageprofiles"], [], NOW)["columnDefinitions"]] == ["Name", "Age"]


def test_each_kind_has_cells_for_its_columns_even_when_the_object_is_bare() -> None:
    for kind in KINDS.all:
        answer = table(kind, [{"metadata": {"name": "x"}}], NOW)
        assert len(answer["rows"][0]["cells"]) == len(answer["columnDefinitions"]), kind


def test_included_objects() -> None:
    kind, obj = KINDS["pods"], {"metadata": {"name": "x"}, "spec": {"nodeName": "n"}}
    assert table(kind, [obj], NOW)["rows"][0]["object"] == {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                                                            "metadata": {"name": "x"}}
    assert table(kind, [obj], NOW, include_object="Object")["rows"][0]["object"] == obj
    assert table(kind, [obj], NOW, include_object="None")["rows"][0]["object"] is None
    assert table(kind, [obj], NOW, headers=False)["columnDefinitions"] is None


POD = {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1"}


@pytest.mark.parametrize(("status", "ready", "reason", "restarts"), [
    ({"phase": "Pending"}, "0/2", "Pending", "0"),
    ({"phase": "Pending", "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, "0/2",
     "ContainerCreating", "0"),
    ({"phase": "Running", "containerStatuses": [{"name": "a", "ready": True, "state": {"running": {}}},
                                                {"name": "b", "ready": True, "state": {"running": {}}}]}, "2/2", "Running", "0"),
    ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
      "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                            {"name": "b", "ready": True, "state": {"running": {}}}]}, "1/2", "Running", "0"),
    ({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                                                 "lastState": {"terminated": {"finishedAt": "2026-01-01T23:59:30Z"}}}]}, "0/2",
     "CrashLoopBackOff", "3 (30s ago)"),
    ({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 2}}}]}, "0/2", "ExitCode:2", "0"),
    ({"phase": "Failed", "reason": "Evicted"}, "0/2", "Evicted", "0"),
    ({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}, "0/2", "Init:0/1", "0"),
    ({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}, "0/2",
     "Init:Error", "0"),
    ({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated", "status": "False"}]}, "0/2",
     "SchedulingGated", "0"),
])
def test_pods(status: dict[str, Any], ready: str, reason: str, restarts: str) -> None:
    spec = {**POD, "initContainers": [{"name": "i"}]} if "initContainerStatuses" in status else POD
    assert row("pods", spec=spec, status=status) == ["x", ready, reason, restarts, "60s", "<none>", "n1", "<none>", "<none>"]


def test_a_pod_being_deleted_is_terminating_unless_it_has_ended() -> None:
    deleting = {"deletionTimestamp": CREATED}
    assert row("pods", metadata=deleting, spec=POD, status={"phase": "Running"})[2] == "Terminating"
    assert row("pods", metadata=deleting, spec=POD, status={"phase": "Succeeded"})[2] == "Succeeded"


def test_readiness_gates_are_counted() -> None:
    gate = "kubevirt.io/virtual-machine-unpaused"
    spec = {**POD, "readinessGates": [{"conditionType": gate}]}
    assert row("pods", spec=spec, status={"conditions": [{"type": gate, "status": "True"}]})[-1] == "1/1"
    assert row("pods", spec=spec)[-1] == "0/1"


def test_nodes() -> None:
    labels = {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/infra": ""}
    status = {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
              "nodeInfo": {"kubeletVersion": "v1.22.3", "osImage": "RHCOS", "kernelVersion": "4.18",
                           "containerRuntimeVersion": "cri-o://1.22"}}
    assert row("nodes", metadata={"labels": labels}, spec={"unschedulable": True}, status=status) == [
        "x", "Ready,SchedulingDisabled", "infra,worker", "60s", "v1.22.3", "10.0.0.1", "<none>", "RHCOS", "4.18", "cri-o://1.22"]


def test_volumes_and_claims() -> None:
    spec = {"volumeName": "pv-1", "storageClassName": "ceph", "volumeMode": "Block"}
    status = {"phase": "Bound", "capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}
    assert row("persistentvolumeclaims", spec=spec, status=status) == ["x", "Bound", "pv-1", "20Gi", "RWO,RWX", "ceph", "<unset>", "60s",
                                                                       "Block"]
    assert row("persistentvolumeclaims", status={"phase": "Pending"})[1:5] == ["Pending", "", "", ""]
    assert row("persistentvolumes", spec={"capacity": {"storage": "1Gi"}, "claimRef": {"namespace": "n", "name": "c"}},
               status={"phase": "Bound"})[5] == "n/c"


def test_services_jobs_and_budgets() -> None:
    service = {"type": "NodePort", "clusterIP": "172.30.0.9", "ports": [{"port": 22, "nodePort": 30022, "protocol": "TCP"}],
               "selector": {"b": "2", "a": "1"}}
    assert row("services", spec=service) == ["x", "NodePort", "172.30.0.9", "<none>", "22:30022/TCP", "60s", "a=1,b=2"]
    job = {"startTime": "2026-01-01T23:59:10Z", "completionTime": "2026-01-01T23:59:25Z", "succeeded": 1,
           "conditions": [{"type": "Complete", "status": "True"}]}
    assert row("jobs", spec={"completions": 1}, status=job)[1:5] == ["Complete", "1/1", "15s", "60s"]
    assert row("poddisruptionbudgets", spec={"minAvailable": "50%"}, status={"disruptionsAllowed": 2}) == ["x", "50%", "N/A", 2, "60s"]


def test_json_paths() -> None:
    obj = {"a": [{"t": "x", "v": 1}, {"t": "y", "v": 2}], "m": {"d.e/f": "g"}}
    assert json_path('.a[?(@.t=="y")].v')(obj) == [2]
    assert json_path(".a[?(@.t!='y')].v")(obj) == [1]
    assert json_path(".a[1].v")(obj) == json_path(".a[-1].v")(obj) == [2]
    assert json_path(".a[*].v")(obj) == [1, 2]
    assert json_path(r".m.d\.e/f")(obj) == json_path(".m['d.e/f']")(obj) == ["g"]
    assert json_path(".a[7].v")(obj) == json_path(".no.such")(obj) == []
    with pytest.raises(ValueError, match="cannot read"):
        json_path(".a[")


def test_columns_are_those_of_the_real_custom_resource_definitions() -> None:
    if not REAL.is_dir():
        pytest.skip("no real CRDs beside the checkout")
    compared = 0
    for path in (REAL / "crds").glob("*.json"):
        spec = json.loads(path.read_text())["spec"]
        kind = KINDS.by_kind(spec["group"] + "/", spec["names"]["kind"])
        if kind is None:
            continue
        version = next(v for v in spec["versions"] if v["name"] == kind.version)
        names = spec["names"]
        assert (kind.plural, kind.singular, list(kind.short_names), list(kind.categories)) == (
            names["plural"], names["singular"], names.get("shortNames", []), names.get("categories", []))
        assert kind.namespaced == (spec["scope"] == "Namespaced")
        assert kind.status == ("status" in (version.get("subresources") or {}))
        assert [(c.name, c.type, c.json_path, c.priority) for c in kind.columns] == [
            (c["name"], c["type"], c["jsonPath"], c.get("priority", 0)) for c in version.get("additionalPrinterColumns") or ()]
        compared += 1
    assert compared >= 15


def test_the_table_of_one_is_as_recorded() -> None:
    if not REAL.is_dir():
        pytest.skip("no recorded answers beside the checkout")
    lines = map(json.loads, (REAL / "oracle" / "answers-1.36.jsonl").read_text().splitlines())
    recorded = next(line["answer"] for line in lines if line["question"] == "table of one")
    assert table(KINDS["virtualmachines"], [], NOW)["columnDefinitions"] == recorded["columnDefinitions"]
