"""Reversible edits: what was there before is put back exactly, whatever happened between, and never over somebody else's value."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import ClusterError, load_access
from pytest_vmscale.cluster.edits import EditRefused, Edits, remove_created, restore
from pytest_vmscale.cluster.journal import ABSENT, Ref, Until, journal_namespace, pointer, read_journal, unfinished_runs
from pytest_vmscale.cluster.requests import ApiError, Cluster

from .conftest import Api, config_map

T = TypeVar("T")
RUN = "edits-test"


@pytest.fixture
def run_id(api: Api) -> str:
    return f"{RUN}-{uuid.uuid4().hex[:8]}"


def on(api: Api, work: Callable[[Cluster], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Cluster(load_access(api.kubeconfig), Clock()) as cluster:
            return await asyncio.wait_for(work(cluster), 20)

    return asyncio.run(run())


def made(api: Api, name: str, **data: str) -> Ref:
    obj = config_map(name, data, keep="yes")
    assert api.post(api.core("configmaps"), obj).code == 201
    return Ref("v1", "ConfigMap", name, api.namespace)


def told(api: Api, ref: Ref) -> dict[str, Any]:
    """The object without what every write moves."""
    obj = api.get(f"{api.core('configmaps')}/{ref.name}").json
    for key in ("resourceVersion", "managedFields", "generation"):
        obj["metadata"].pop(key, None)
    return obj


FIELDS = {
    "/data/colour": "green",  # was there
    "/data/size": "large",  # was not
    "/data/gone": ABSENT,
    pointer("metadata", "labels", "vmscale.io/zone"): "zone-0",
    pointer("metadata", "annotations", "a/b-c"): "1",  # no annotations before
}


def test_an_edited_object_is_afterwards_byte_for_byte_what_it_was(api, run_id):
    ref = made(api, "site", colour="red", gone="no", other="kept")
    before = json.dumps(told(api, ref), sort_keys=True)

    async def work(cluster: Cluster) -> tuple[dict[str, Any], tuple[str, ...]]:
        edits = Edits(cluster, run_id)
        changed = await edits.change(ref, FIELDS)
        return changed, await edits.undo_all(deadline_seconds=10)

    changed, left = on(api, work)
    assert changed["data"] == {"colour": "green", "size": "large", "other": "kept"}
    assert changed["metadata"]["labels"] == {"keep": "yes", "vmscale.io/zone": "zone-0"}
    assert changed["metadata"]["annotations"] == {"a/b-c": "1"}
    assert left == ()
    assert json.dumps(told(api, ref), sort_keys=True) == before


def test_one_field_of_many_objects_is_put_back_and_nothing_else(api, run_id):
    refs = [made(api, name, colour="red") for name in ("one", "two")]

    async def work(cluster: Cluster) -> tuple[str, ...]:
        edits = Edits(cluster, run_id)
        await edits.change_all(refs, {"/data/colour": "green"})
        await edits.change_all(refs, {"/data/size": "large"})
        left = await edits.undo_field(refs, "/data/size")
        assert [told(api, ref)["data"] for ref in refs] == [{"colour": "green"}] * 2
        assert len(await read_journal(cluster, run_id)) == 2, "what is put back need not be put back again"
        return (*left, *await edits.undo_all(deadline_seconds=10))

    assert on(api, work) == ()
    assert [told(api, ref)["data"] for ref in refs] == [{"colour": "red"}] * 2


def test_what_is_undone_is_written_down_before_it_is_done(api, run_id):
    ref = made(api, "site", colour="red")

    async def work(cluster: Cluster) -> list[Any]:
        edits = Edits(cluster, run_id)
        await edits.change(ref, {"/data/colour": "green", "/data/size": "large"})
        path = f"/api/v1/namespaces/{journal_namespace(run_id)}/configmaps"
        return await cluster.list_all(path, selector=f"vmscale.io/run-id={run_id}")

    entry = json.loads(on(api, work)[0]["data"]["entry.json"])
    assert entry["kind"] == "ConfigMap" and entry["name"] == "site" and entry["namespace"] == api.namespace
    assert entry["fields"] == [
        {"path": "/data/colour", "before": "red", "after": "green"},
        {"path": "/data/size", "after": "large"},
    ]
    on(api, lambda cluster: restore(cluster, run_id))


def test_another_process_puts_back_what_a_killed_one_left(api, run_id):
    ref = made(api, "site", colour="red")
    before = told(api, ref)
    on(api, lambda cluster: Edits(cluster, run_id).change(ref, FIELDS))  # and no more is heard of that process
    assert run_id in on(api, unfinished_runs)
    assert on(api, lambda cluster: restore(cluster, run_id)) == ()
    assert told(api, ref) == before
    assert on(api, lambda cluster: restore(cluster, run_id)) == ()  # again is no harm
    assert told(api, ref) == before


def test_an_edit_that_was_written_down_but_not_done_leaves_nothing(api, run_id):
    ref = made(api, "site", colour="red")
    before = api.get(f"{api.core('configmaps')}/site").json

    async def killed(cluster: Cluster) -> None:
        async def never(*arguments: Any, **more: Any) -> None:
            raise RuntimeError("killed")

        cluster.patch = never  # type: ignore[method-assign]
        await Edits(cluster, run_id).change(ref, {"/data/colour": "green"})

    with pytest.raises(RuntimeError):
        on(api, killed)
    assert len(on(api, lambda cluster: read_journal(cluster, run_id))) == 1
    assert on(api, lambda cluster: restore(cluster, run_id)) == ()
    assert api.get(f"{api.core('configmaps')}/site").json == before


def test_two_edits_of_one_field_are_undone_in_the_opposite_order(api, run_id):
    ref = made(api, "site", colour="red")

    async def work(cluster: Cluster) -> None:
        edits = Edits(cluster, run_id)
        for colour in ("green", "blue", "red"):
            await edits.change(ref, {"/data/colour": colour})
        await edits.change(ref, {"/data/colour": "green"})

    on(api, work)
    assert on(api, lambda cluster: restore(cluster, run_id)) == ()
    assert told(api, ref)["data"] == {"colour": "red"}


def test_what_somebody_else_changed_meanwhile_is_left_and_named(api, run_id):
    ref = made(api, "site", colour="red", size="small")
    on(api, lambda cluster: Edits(cluster, run_id).change(ref, {"/data/colour": "green", "/data/size": "large"}))
    assert api.patch(f"{api.core('configmaps')}/site", {"data": {"colour": "black"}}).code == 200
    left = on(api, lambda cluster: restore(cluster, run_id))
    assert told(api, ref)["data"] == {"colour": "black", "size": "small"}, "theirs stays, ours goes back"
    assert len(left) == 1 and "/data/colour" in left[0] and '"black"' in left[0] and '"red"' in left[0]
    assert on(api, lambda cluster: restore(cluster, run_id)) == left, "it is told until somebody decides"
    assert on(api, lambda cluster: restore(cluster, run_id, forget=True)) == left
    assert on(api, lambda cluster: restore(cluster, run_id)) == ()


def test_a_change_between_reading_and_writing_is_not_overwritten(api, run_id):
    """The patch carries the version that was read: others' writes to other fields only cost another try."""
    ref = made(api, "site", colour="red")
    path = f"{api.core('configmaps')}/site"

    async def work(cluster: Cluster) -> dict[str, Any]:
        ask, raced = cluster.patch, [0]

        async def patch(*arguments: Any, **more: Any) -> Any:
            if raced[0] < 2:
                raced[0] += 1
                api.patch(path, {"data": {"colour": "black", "others": str(raced[0])}})
            return await ask(*arguments, **more)

        cluster.patch = patch  # type: ignore[method-assign]
        return await Edits(cluster, run_id).change(ref, {"/data/colour": "green"})

    assert on(api, work)["data"] == {"colour": "green", "others": "2"}
    assert on(api, lambda cluster: restore(cluster, run_id)) == ()
    assert told(api, ref)["data"] == {"colour": "black", "others": "2"}, "the value that it had last before ours"


def test_a_refused_edit_leaves_nothing_to_undo(api, run_id):
    ref = made(api, "site", colour="red")

    async def work(cluster: Cluster) -> int:
        with pytest.raises(ApiError):
            await Edits(cluster, run_id).change(ref, {pointer("metadata", "labels", "bad"): "not a label value!"})
        return len(await read_journal(cluster, run_id))

    assert on(api, work) == 0


def test_an_object_that_was_removed_meanwhile_has_nothing_to_put_back(api, run_id):
    ref = made(api, "site", colour="red")
    on(api, lambda cluster: Edits(cluster, run_id).change(ref, {"/data/colour": "green"}))
    api.delete(f"{api.core('configmaps')}/site")
    assert on(api, lambda cluster: restore(cluster, run_id)) == ()
    assert on(api, lambda cluster: read_journal(cluster, run_id)) == []


def test_many_objects_are_edited_in_parallel(api, run_id):
    refs = [made(api, f"site-{number}", colour="red") for number in range(30)]

    async def work(cluster: Cluster) -> tuple[str, ...]:
        edits = Edits(cluster, run_id)
        await edits.change_all(refs, {"/data/colour": "green"})
        assert {each["data"]["colour"] for each in await cluster.list_all(api.core("configmaps"), selector="keep=yes")} == {"green"}
        return await edits.undo(refs[0]) + await edits.undo_all(deadline_seconds=10)

    assert on(api, work) == ()
    assert {told(api, ref)["data"]["colour"] for ref in refs} == {"red"}


def storage_profile(name: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "cdi.kubevirt.io/v1beta1",
        "kind": "StorageProfile",
        "metadata": {"name": name, **({"labels": labels} if labels else {})},
        "spec": {},
    }


PROFILES = "/apis/cdi.kubevirt.io/v1beta1/storageprofiles"


def test_created_objects_go_in_their_order_and_when_they_may(embedded, run_id):
    names = [f"{run_id}-{letter}" for letter in "abc"]
    gate = made(embedded, "gate", open="no")

    async def work(cluster: Cluster) -> list[list[str]]:
        edits = Edits(cluster, run_id)
        await edits.create(storage_profile(names[0]), order=2)
        await edits.create(storage_profile(names[1]), order=1, until=[Until(gate, "yes", "/data/open")])
        await edits.create(storage_profile(names[2]), order=1)
        seen = []
        task = asyncio.create_task(edits.undo_all(deadline_seconds=15))
        for opened in (False, True):
            if opened:
                embedded.patch(f"{embedded.core('configmaps')}/gate", {"data": {"open": "yes"}})
                await task
            else:
                await asyncio.sleep(0.3)
            seen.append([name for name in names if await cluster.get_or_none(f"{PROFILES}/{name}")])
        assert task.result() == ()
        return seen

    waiting, done = on(embedded, work)
    assert names[0] in waiting and names[1] in waiting
    assert done == []


def test_what_does_not_go_by_the_deadline_is_named_with_what_comes_after_it(embedded, run_id):
    names = [f"{run_id}-{letter}" for letter in "ab"]

    async def work(cluster: Cluster) -> tuple[str, ...]:
        edits = Edits(cluster, run_id)
        stuck = storage_profile(names[0])
        stuck["metadata"]["finalizers"] = ["example.com/never"]
        await edits.create(stuck)
        await edits.create(storage_profile(names[1]), order=1)
        return await remove_created(cluster, run_id, deadline_seconds=0.5)

    left = on(embedded, work)
    assert "example.com/never" in left[0] and names[1] in left[1] and len(left) == 2
    assert embedded.get(f"{PROFILES}/{names[1]}").code == 200
    embedded.patch(f"{PROFILES}/{names[0]}", {"metadata": {"finalizers": None}})
    assert on(embedded, lambda cluster: remove_created(cluster, run_id, deadline_seconds=5)) == ()
    assert embedded.get(f"{PROFILES}/{names[1]}").code == 404


def test_an_object_of_the_same_name_that_another_made_is_not_removed(embedded, run_id):
    name = f"{run_id}-a"

    async def work(cluster: Cluster) -> None:
        edits = Edits(cluster, run_id)
        await edits.create(storage_profile(name))
        embedded.delete(f"{PROFILES}/{name}")
        embedded.post(PROFILES, storage_profile(name))
        assert await edits.undo_all(deadline_seconds=5) == ()

    on(embedded, work)
    assert embedded.delete(f"{PROFILES}/{name}").code == 200


def test_cluster_scoped_objects_are_refused_where_the_user_did_not_allow_it(embedded, run_id):
    async def work(cluster: Cluster) -> None:
        edits = Edits(cluster, run_id, allow_cluster_scoped=False)
        with pytest.raises(EditRefused, match="--allow-disruptive"):
            await edits.create(storage_profile("any"))
        with pytest.raises(EditRefused, match="--allow-disruptive"):
            await edits.change(Ref("v1", "Node", "any"), {"/spec/unschedulable": True})

    on(embedded, work)
    assert embedded.get(f"/api/v1/namespaces/{journal_namespace(run_id)}").code == 404


def test_a_run_of_a_name_that_left_edits_must_be_cleaned_up_first(api, run_id):
    ref = made(api, "site", colour="red")
    on(api, lambda cluster: Edits(cluster, run_id).change(ref, {"/data/colour": "green"}))
    with pytest.raises(ClusterError, match=f"vmscale cleanup --run-id {run_id}"):
        on(api, lambda cluster: Edits(cluster, run_id).change(ref, {"/data/colour": "blue"}))
    on(api, lambda cluster: restore(cluster, run_id))


def test_a_list_is_edited_whole(api, run_id):
    ref = made(api, "site", colour="red")
    with pytest.raises(ClusterError, match="is no mapping"):
        on(api, lambda cluster: Edits(cluster, run_id).change(ref, {"/data/colour/deep": "green"}))


def test_a_field_with_an_order_is_put_back_in_its_turn_among_what_was_created(embedded, run_id):
    gate, label = made(embedded, "gate", open="no"), pointer("metadata", "labels", "zone")
    other = made(embedded, "labelled")
    before = told(embedded, other)

    async def work(cluster):
        edits = Edits(cluster, run_id)
        await edits.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trigger", "namespace": embedded.namespace}}, order=1)
        await edits.change(other, {label: "a"}, order=2, until=[Until(gate, "yes", "/data/open")])
        await edits.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pool", "namespace": embedded.namespace}}, order=3)
        assert await restore(cluster, run_id) == ()  # what comes first
        assert embedded.get(f"{embedded.core('configmaps')}/labelled").json["metadata"]["labels"]["zone"] == "a"
        left = await remove_created(cluster, run_id, deadline_seconds=0.2)
        assert left == (f"{other} was not put back: waited in vain until {gate} has /data/open yes",
                        f"ConfigMap {embedded.namespace}/pool was not removed: its turn is after what was left behind")
        assert embedded.get(f"{embedded.core('configmaps')}/trigger").code == 404
        await cluster.patch(f"{embedded.core('configmaps')}/gate", {"data": {"open": "yes"}})
        assert await remove_created(cluster, run_id, deadline_seconds=5) == ()
        assert await read_journal(cluster, run_id) == []

    on(embedded, work)
    assert told(embedded, other) == before
    assert embedded.get(f"{embedded.core('configmaps')}/pool").code == 404
