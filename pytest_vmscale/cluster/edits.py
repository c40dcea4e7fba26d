"""Reversible edits: fields of objects that were there before, and cluster-scoped objects that a run makes.

What is to be undone is written down on the cluster (journal.py) before it is done: a process that is killed takes nothing
with it, and `vmscale cleanup` puts everything back from any machine. A field that somebody else changed meanwhile is
theirs: it is left as it is, and reported.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..model import LABEL_RUN
from .access import ClusterError
from .journal import (
    LABEL_EDITS,
    NAMESPACES,
    Entry,
    Field,
    Ref,
    Until,
    config_map,
    drop_empty,
    entry_path,
    journal_namespace,
    read,
    read_journal,
    set_field,
    value_text,
)
from .requests import ApiError, Cluster, Object, in_parallel, resource_path

JSON_PATCH = "application/json-patch+json"
# An object that others write to all the time (a node) may need more than one try of read, compare and write.
TRIES = 12
AGAIN_SECONDS = 0.2
LOOK_EVERY_SECONDS = 1.0


class EditRefused(ClusterError):
    """An edit of a cluster-scoped object that the user did not allow. Nothing was written."""


class Edits:
    """What one run changes. Everything is undone by undo_all(), or by `vmscale cleanup` with the same code.

    A lock on the cluster (Lease) is the caller's: two runs at a time would put back each other's values."""

    def __init__(self, cluster: Cluster, run_id: str, *, allow_cluster_scoped: bool = True) -> None:
        self._cluster, self._run_id = cluster, run_id
        self._allowed = allow_cluster_scoped
        self._numbers = itertools.count()
        self._opened = False
        self._opening = asyncio.Lock()

    @property
    def used(self) -> bool:
        """Whether anything was written down that may have to be undone."""
        return self._opened

    async def change(self, ref: Ref, fields: Mapping[str, Any], *, order: int = 0, until: Sequence[Until] = ()) -> Object:
        """Set fields (JSON pointers; ABSENT removes one) and return the object as it then is. What is so already is left alone,
        and not put back. EditRefused, or ClusterError if it cannot be written down or done.

        They are put back before anything is removed; with an `order` above 0, in its turn among what was created instead, once
        all of `until` is so."""
        path = await self._checked(ref)
        entry: Entry | None = None
        for _ in range(TRIES):
            found = await self._cluster.get(path)
            wanted, operations = _planned(found, fields)
            if entry is None and wanted:
                entry = await self._write_down(ref, wanted, order, tuple(until))
            if entry is None or not wanted:  # the latter: a try of ours that got no answer did it
                return found
            if wanted != entry.fields:
                entry = await self._rewrite(entry, wanted)
            try:
                done = await _patched(self._cluster, path, found, operations)
            except ApiError as error:
                if error.status is not None and error.status < 500:  # refused: nothing was changed
                    await self._forget(entry)
                raise
            if done is None:
                await self._cluster.clock.sleep(AGAIN_SECONDS)
                continue
            # Servers normalise some values (1000m is 1): what is there now is what to look for when it is put back.
            stored = tuple(Field(each.path, each.before, read(done, each.path), each.made) for each in wanted)
            if stored != wanted:
                await self._rewrite(entry, stored)
            return done
        if entry is not None:
            await self._forget(entry)
        raise ClusterError(f"{ref} could not be edited: it was changed by others in each of {TRIES} tries")

    async def expect(self, ref: Ref, fields: Mapping[str, Any]) -> None:
        """Write down that another program is about to set these fields, which does not put them back itself."""
        wanted, _ = _planned(await self._cluster.get(await self._checked(ref)), fields)
        if wanted:
            await self._write_down(ref, wanted)

    async def keep(self, ref: Ref) -> None:
        """What was changed of this object stays for good."""
        if self._opened:
            for entry in await read_journal(self._cluster, self._run_id):
                if entry.ref == ref:
                    await self._forget(entry)

    async def change_all(self, refs: Sequence[Ref], fields: Mapping[str, Any], *, order: int = 0, until: Sequence[Until] = ()) -> None:
        """The same edit of many objects, in parallel."""

        async def change(ref: Ref) -> None:
            await self.change(ref, fields, order=order, until=until)

        await in_parallel(change, refs)

    async def create(self, manifest: Object, *, order: int = 0, until: Sequence[Until] = ()) -> Object:
        """Create an object that is to be removed at the end: lower `order` first, each once all of `until` is so and what has
        a lower order is gone. It gets the run's label, without which nothing is ever removed. ApiError if it is there already."""
        ref = Ref.of(manifest)
        path = await self._checked(ref, collection=True)
        labels = {**(manifest["metadata"].get("labels") or {}), LABEL_RUN: self._run_id}
        entry = await self._write_down(ref, (), order, tuple(until))
        try:
            return await self._cluster.create(path, {**manifest, "metadata": {**manifest["metadata"], "labels": labels}})
        except ApiError as error:
            if error.status is not None and error.status < 500:  # it was refused: there is nothing of ours
                await self._forget(entry)
            raise

    async def undo(self, ref: Ref) -> tuple[str, ...]:
        """Put back all that was changed of one object. Returns what was left behind, a line each."""
        journal = await read_journal(self._cluster, self._run_id)
        return await _put_back(self._cluster, self._run_id, [entry for entry in journal if entry.ref == ref])

    async def undo_field(self, refs: Sequence[Ref], path: str) -> tuple[str, ...]:
        """Put back one field (JSON pointer) of each of these objects, and nothing else of them. Returns what was left behind."""
        wanted = set(refs)
        journal = await read_journal(self._cluster, self._run_id)
        entries = [entry for entry in journal if entry.ref in wanted and [field.path for field in entry.fields] == [path]]
        return await _put_back(self._cluster, self._run_id, entries)

    async def undo_all(self, *, deadline_seconds: float) -> tuple[str, ...]:
        """Put back every field, remove what was created, and the journal with it. Returns what was left behind, a line each."""
        left = (
            *await restore(self._cluster, self._run_id),
            *await remove_created(self._cluster, self._run_id, deadline_seconds=deadline_seconds),
        )
        await close_journal(self._cluster, self._run_id)
        self._opened = False
        return left

    async def _checked(self, ref: Ref, collection: bool = False) -> str:
        if ref.namespace is None and not self._allowed:
            raise EditRefused(f"{ref} is cluster-scoped: to edit it on a real cluster give --allow-disruptive")
        return await self._cluster.path(ref.api_version, ref.kind, ref.namespace, None if collection else ref.name)

    async def _write_down(self, ref: Ref, fields: tuple[Field, ...], order: int = 0, until: tuple[Until, ...] = ()) -> Entry:
        await self._open()
        sequence = next(self._numbers)
        entry = Entry(f"edit-{sequence:05d}", sequence, ref, fields, order, until)
        path = resource_path("v1", "configmaps", journal_namespace(self._run_id))
        await self._cluster.create(path, config_map(entry, self._run_id))
        return entry

    async def _rewrite(self, entry: Entry, fields: tuple[Field, ...]) -> Entry:
        changed = Entry(entry.name, entry.sequence, entry.ref, fields, entry.order, entry.until)
        await self._cluster.update(entry_path(self._run_id, entry), config_map(changed, self._run_id))
        return changed

    async def _forget(self, entry: Entry) -> None:
        await self._cluster.delete(entry_path(self._run_id, entry))

    async def _open(self) -> None:
        async with self._opening:
            if self._opened:
                return
            name = journal_namespace(self._run_id)
            labels = {LABEL_RUN: self._run_id, LABEL_EDITS: "true"}
            try:
                await self._cluster.create(
                    NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
                )
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
                raise ClusterError(
                    f"an earlier run {self._run_id} left edits on this cluster: put them back with vmscale cleanup --run-id {self._run_id}"
                ) from None
            self._opened = True


async def restore(cluster: Cluster, run_id: str, *, forget: bool = False) -> tuple[str, ...]:
    """Put back the fields that a run changed, the last change first, but for those whose turn comes later (remove_created).
    Returns what was left behind, a line each.

    forget: what somebody else changed since is theirs for good: it is reported, but the old value is dropped."""
    return await _put_back(cluster, run_id, [entry for entry in await read_journal(cluster, run_id) if not entry.late], forget)


async def _put_back(cluster: Cluster, run_id: str, entries: Iterable[Entry], forget: bool = False) -> tuple[str, ...]:
    by_object: dict[Ref, list[Entry]] = {}
    for entry in entries:
        if entry.is_edit:
            by_object.setdefault(entry.ref, []).append(entry)
    left: set[str] = set()

    async def put_back(ref: Ref) -> None:
        for entry in sorted(by_object[ref], key=lambda each: -each.sequence):
            try:
                theirs = await _put_back_one(cluster, entry)
            except ClusterError as error:
                left.add(f"{ref} was not put back: {error}")
                return
            left.update(theirs)
            if forget or not theirs:
                await cluster.delete(entry_path(run_id, entry))

    await in_parallel(put_back, list(by_object))
    return tuple(sorted(left))


async def _put_back_one(cluster: Cluster, entry: Entry) -> list[str]:
    """The fields that are no longer as the run set them, a line each: those are left as they are."""
    path = await cluster.path(entry.ref.api_version, entry.ref.kind, entry.ref.namespace, entry.ref.name)
    for _ in range(TRIES):
        found = await cluster.get_or_none(path)
        if found is None:
            return []  # with the object went what was changed of it
        document, operations, theirs = copy.deepcopy(found), [], []
        for field in reversed(entry.fields):
            now = read(found, field.path)
            if now == field.after:
                operations += set_field(document, field.path, field.before)[0]
                operations += drop_empty(document, field.made)
            elif now != field.before:
                theirs.append(
                    f"{entry.ref}: {field.path} is {value_text(now)} now, not {value_text(field.after)} as the run left it: "
                    f"it was changed by somebody else and stays so (before the run: {value_text(field.before)})"
                )
        if not operations or await _patched(cluster, path, found, operations) is not None:
            return theirs
        await cluster.clock.sleep(AGAIN_SECONDS)
    raise ClusterError(f"it was changed by others in each of {TRIES} tries")


async def remove_created(cluster: Cluster, run_id: str, *, deadline_seconds: float, forget: bool = False) -> tuple[str, ...]:
    """Remove the cluster-scoped objects that a run made, in their order, and wait until each is gone (cluster seconds, for all);
    the fields that have an order are put back in their turn. Returns what was left behind, a line each."""
    entries = [entry for entry in await read_journal(cluster, run_id) if entry.late or not entry.is_edit]
    give_up = cluster.clock.now() + deadline_seconds
    for order, group in itertools.groupby(sorted(entries, key=lambda each: (each.order, -each.sequence)), key=lambda each: each.order):
        members = list(group)
        edits, ours = [entry for entry in members if entry.is_edit], [entry for entry in members if not entry.is_edit]
        waits = dict.fromkeys(until for entry in edits for until in entry.until)
        vain = [until for until in waits if not await _met(cluster, until, give_up)]
        left = [f"{entry.ref} was not put back: waited in vain until {vain[0]}" for entry in edits] if vain else []
        if edits and not vain:
            left += await _put_back(cluster, run_id, edits, forget)
        left += [line for line in [await _remove_one(cluster, run_id, entry, give_up) for entry in ours] if line]
        for entry in ours:
            left += [line] if not left and (line := await _wait_gone(cluster, run_id, entry, give_up)) else []
        if left:
            later = [
                f"{each.ref} was not {'put back' if each.is_edit else 'removed'}: its turn is after what was left behind"
                for each in entries
                if each.order > order
            ]
            return (*left, *later)
    return ()


async def _met(cluster: Cluster, until: Until, give_up: float) -> bool:
    """Wait until it is so, or its object is not there; False if that does not come in time."""
    path = await cluster.path(until.ref.api_version, until.ref.kind, until.ref.namespace, until.ref.name)
    while (found := await cluster.get_or_none(path)) is not None and not until.met(found):
        if cluster.clock.now() >= give_up:
            return False
        await cluster.clock.sleep(LOOK_EVERY_SECONDS)
    return True


async def _remove_one(cluster: Cluster, run_id: str, entry: Entry, give_up: float) -> str | None:
    """Ask for its removal as soon as may be. Why not, or None."""
    path = await cluster.path(entry.ref.api_version, entry.ref.kind, entry.ref.namespace, entry.ref.name)
    try:
        for until in entry.until:
            if not await _met(cluster, until, give_up):
                return f"{entry.ref} was not removed: waited in vain until {until}"
        found = await cluster.get_or_none(path)
        # One of the same name that another made is not ours to remove.
        if found is not None and (found["metadata"].get("labels") or {}).get(LABEL_RUN) == run_id:
            await cluster.delete(path)
    except ApiError as error:
        return f"{entry.ref} was not removed: {error.message}"
    return None


async def _wait_gone(cluster: Cluster, run_id: str, entry: Entry, give_up: float) -> str | None:
    path = await cluster.path(entry.ref.api_version, entry.ref.kind, entry.ref.namespace, entry.ref.name)
    while (found := await cluster.get_or_none(path)) is not None:
        if (found["metadata"].get("labels") or {}).get(LABEL_RUN) != run_id:
            break
        if cluster.clock.now() >= give_up:
            waits = ", ".join(found["metadata"].get("finalizers") or ()) or "nothing that it names"
            return f"{entry.ref} is still there: deleted, and waits for {waits}"
        await cluster.clock.sleep(LOOK_EVERY_SECONDS)
    await cluster.delete(entry_path(run_id, entry))
    return None


def _planned(found: Object, fields: Mapping[str, Any]) -> tuple[tuple[Field, ...], list[Object]]:
    """The fields that are not as they are to be, and the patch that makes them so."""
    document, planned, operations = copy.deepcopy(found), [], list[Object]()
    for path, value in fields.items():
        if (before := read(found, path)) == value:
            continue
        more, made = set_field(document, path, value)
        operations += more
        planned.append(Field(path, before, value, made))
    return tuple(planned), operations


async def close_journal(cluster: Cluster, run_id: str) -> None:
    """Remove the journal's namespace, if nothing is left in it to undo."""
    path = f"{NAMESPACES}/{journal_namespace(run_id)}"
    found = await cluster.get_or_none(path)
    if found is None or LABEL_EDITS not in (found["metadata"].get("labels") or {}) or await read_journal(cluster, run_id):
        return
    await cluster.delete(path)  # it is empty: nobody needs to wait until it is gone


async def _patched(cluster: Cluster, path: str, found: Object, operations: Sequence[Object]) -> Object | None:
    """The object after the patch, or None if it is no longer the one that was read."""
    version = {"op": "test", "path": "/metadata/resourceVersion", "value": found["metadata"]["resourceVersion"]}
    try:
        return await cluster.patch(path, [version, *operations], content_type=JSON_PATCH)
    except ApiError as error:
        # 422 is a failed test's answer, but also what a validation says: the latter stays so when it is asked again.
        now = await cluster.get_or_none(path) if error.status in (409, 422) else found
        if now is not None and now["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]:
            raise
        return None
