"""Projects: what openshift-apiserver shows of namespaces, to those who may see them, and how people ask for a new one.

A Project is a Namespace under another name; nothing of it is kept here.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from . import errors, metadata, tables
from .auth import Action, Authorizer, User
from .calls import Call
from .errors import Cause
from .kinds import Column, Kind
from .lists import encode_list, item_encoder, parse_options
from .reads import BOOKMARKS, Reads, list_metadata
from .representations import Form, accepted, answer, answer_object, read_object
from .resources import Resources
from .scale import patched
from .selectors import Selection, selection
from .store import Entry, Object
from .write_options import WriteOptions, write_options
from .writes import Writes, method_not_supported

GROUP, VERSION = "project.openshift.io", "v1"
API_VERSION = f"{GROUP}/{VERSION}"
RBAC = "rbac.authorization.k8s.io"
DISPLAY_NAME, DESCRIPTION, REQUESTER = "openshift.io/display-name", "openshift.io/description", "openshift.io/requester"
RESERVED = ("openshift-", "kubernetes-", "kube-")
TABLE = Kind(GROUP, VERSION, "Project", "projects", "project", namespaced=False, columns=(
    Column("Display Name", "string", r".metadata.annotations.openshift\.io/display-name"), Column("Status", "string", ".status.phase")))


class Projects:
    """Serves project.openshift.io on top of `reads` and `writes`, which know namespaces."""

    def __init__(self, resources: Resources, authorizer: Authorizer, reads: Reads, writes: Writes) -> None:
        self._resources, self._authorizer, self._reads, self._writes = resources, authorizer, reads, writes
        self._namespaces, self._bindings = resources.kind("namespaces"), resources.kind(f"rolebindings.{RBAC}")

    @staticmethod
    def discovery() -> dict[tuple[str, str], list[Object]]:
        return {(GROUP, VERSION): [
            {"name": "projectrequests", "singularName": "projectrequest", "namespaced": False, "kind": "ProjectRequest", "verbs": ["create", "list"]},
            {"name": "projects", "singularName": "project", "namespaced": False, "kind": "Project",
             "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]}]}

    @staticmethod
    def serves(call: Call) -> bool:
        return (call.group, call.version) == (GROUP, VERSION) and call.plural in ("projects", "projectrequests") and not call.subresource

    async def answer(self, call: Call) -> web.StreamResponse:
        method = call.request.method
        if call.plural == "projectrequests":
            if method == "POST":
                return await self._request(call)
            if method == "GET" and not call.name:  # whether this user may ask for projects
                self._authorizer.check(call.user, Action("create", GROUP, "projectrequests"))
                return answer_object({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        elif method == "GET":
            return self._get(call) if call.name else await self._list(call)
        elif method == "POST" and not call.name:
            return await self._create(call)
        elif method in ("PUT", "PATCH") and call.name:
            return await self._change(call)
        elif method == "DELETE" and call.name:
            return await self._delete(call)
        raise method_not_supported(call)

    # Reading.

    def _get(self, call: Call) -> web.StreamResponse:
        form, media = accepted(call.request.headers.get("Accept", ""))
        return answer(self._encoded(self._entry(call.name), form), media=media)

    def _entry(self, name: str) -> Entry:
        entry = self._resources.store.entry(self._namespaces, "", name)
        if entry is None:
            raise errors.not_found("projects", GROUP, name)
        return entry

    async def _list(self, call: Call) -> web.StreamResponse:
        form, media = accepted(call.request.headers.get("Accept", ""))
        options = parse_options(call.query)
        chosen = self._visible(selection(self._namespaces, "", options.label_selector, options.field_selector), call.user)
        if options.watch:
            return await self._reads.watch(call, self._namespaces, chosen, options, lambda entry: self._encoded(entry, form), self._bookmark(form))
        page = self._reads.lists.page(self._namespaces, chosen, options)
        if form is Form.OBJECT:
            items = map(item_encoder(self._namespaces, self._namespaces.api_version), page.entries)
            return answer(encode_list(self._namespaces, API_VERSION, page, "ProjectList", items), media=media)
        if form is Form.PARTIAL:
            items = map(orjson.dumps, (tables.partial_metadata(entry.obj) for entry in page.entries))
            return answer(encode_list(self._namespaces, "meta.k8s.io/v1", page, "PartialObjectMetadataList", items), media=media)
        table = tables.table(TABLE, page.entries, self._reads.now(), include_object=call.query.get("includeObject", "Metadata"))
        table["metadata"] = list_metadata(page)
        return answer_object(table, media=media)

    def _visible(self, chosen: Selection, user: User) -> Selection:
        """Of these namespaces, those that the user may get."""
        def may_get(fields: Any) -> bool:
            name = fields["metadata.name"]
            return self._authorizer.allows(user, Action("get", "", "namespaces", namespace=name, name=name))

        return chosen if user.master else replace(chosen, fields=(*chosen.fields, may_get))

    def _encoded(self, entry: Entry, form: Form) -> bytes:
        if form is Form.OBJECT:
            return orjson.dumps(project(entry.obj))
        if form is Form.PARTIAL:
            return orjson.dumps(tables.partial_metadata(entry.obj))
        table = tables.table(TABLE, [entry], self._reads.now())
        return orjson.dumps({**table, "metadata": {"resourceVersion": str(entry.revision)}})

    @staticmethod
    def _bookmark(form: Form) -> Object:
        return BOOKMARKS[form] or {"kind": "Project", "apiVersion": API_VERSION}

    # Writing.

    async def _request(self, call: Call) -> web.StreamResponse:
        """A new namespace, of which who asked for it becomes the admin."""
        options = write_options(call, "CreateOptions")
        asked = await read_object(call.request, "ProjectRequest")
        name = str((asked.get("metadata") or {}).get("name") or "")
        reserved = next((start for start in RESERVED if name.startswith(start)), None)
        if reserved:
            raise errors.ApiError(403, f'{GROUP}.projectrequests "{name}" is forbidden: cannot request a project starting with "{reserved}"',
                                  details=errors.details(GROUP, "projectrequests", name))
        if self._resources.find(self._namespaces, "", name) is not None:
            raise errors.already_exists("project", GROUP, name)  # in the singular, as it words that
        notes = {DESCRIPTION: asked.get("description") or "", DISPLAY_NAME: asked.get("displayName") or "", REQUESTER: call.user.name}
        made = self._made("ProjectRequest", {"name": name, "annotations": notes}, options)
        if not options.dry_run:
            self._resources.create(self._bindings, {
                "metadata": {"name": "admin", "namespace": name},
                "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "admin"},
                "subjects": [{"apiGroup": RBAC, "kind": "User", "name": call.user.name}]})
        return answer_object(project(made), 201)

    async def _create(self, call: Call) -> web.StreamResponse:
        """What an administrator may, without asking: nobody becomes its admin."""
        options = write_options(call, "CreateOptions")
        given = (await read_object(call.request, "Project")).get("metadata") or {}
        name = str(given.get("name") or "")
        if self._resources.find(self._namespaces, "", name) is not None:
            raise errors.already_exists("projects", GROUP, name)
        kept = {key: given[key] for key in ("name", "labels", "annotations") if given.get(key)}
        return answer_object(project(self._made("Project", kept, options)), 201)

    def _made(self, kind: str, meta: Object, options: WriteOptions) -> Object:
        """The namespace of this metadata; 422 if it cannot be."""
        causes = metadata.causes(self._namespaces, meta)
        if causes:
            raise errors.invalid(kind, GROUP, meta["name"], causes)
        return self._resources.create(self._namespaces, {"metadata": meta}, dry_run=options.dry_run)

    async def _change(self, call: Call) -> web.StreamResponse:
        """Only what it is called and described as; the rest is changed on the namespace."""
        options = write_options(call, "PatchOptions" if call.request.method == "PATCH" else "UpdateOptions")
        old = self._entry(call.name).obj
        wanted = await (patched(call, project(copy.deepcopy(old))) if call.request.method == "PATCH" else read_object(call.request, "Project"))
        given = wanted.get("metadata") or {}
        if given.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise errors.conflict("projects", GROUP, call.name)
        causes = []
        for where in ("labels", "annotations"):
            before, after = old["metadata"].get(where) or {}, given.get(where) or {}
            for key in sorted({*before, *after}):
                if before.get(key) != after.get(key) and key not in (DISPLAY_NAME, DESCRIPTION):
                    causes.append(Cause(f"metadata.{where}[{key}]", f'Invalid value: "{after.get(key, "")}": field is immutable, try updating the namespace'))
        if causes:
            raise errors.invalid("Project", GROUP, call.name, causes)
        old["metadata"]["annotations"] = given.get("annotations") or {}
        if not old["metadata"]["annotations"]:
            del old["metadata"]["annotations"]
        return answer_object(project(self._resources.update(self._namespaces, old, dry_run=options.dry_run)))

    async def _delete(self, call: Call) -> web.StreamResponse:
        """That of its namespace, which goes on by itself."""
        self._entry(call.name)
        await self._writes.delete(replace(call, group="", version="v1", plural="namespaces", kind=self._namespaces))
        return answer_object({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})


def project(namespace: Object) -> Object:
    """A namespace as the Project that it is."""
    return {"kind": "Project", "apiVersion": API_VERSION, **{key: value for key, value in namespace.items() if key not in ("kind", "apiVersion")}}
