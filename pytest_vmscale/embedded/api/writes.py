"""POST, PUT, PATCH and DELETE: what stands between a request's body and the store."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable

import orjson
from aiohttp import web

from ..clock import SimClock
from . import apply, errors, event_view, metadata, patches, strategies
from .calls import Call
from .errors import Cause
from .kinds import Kind
from .lists import ListOptions, Page, encode_list, item_encoder, parse_options
from .reads import object_namespace
from .representations import accepted, answer, duplicate_fields, go_type, media_type, parse_json, parse_yaml, read_body, read_object
from .resources import Resources
from .selectors import selection
from .store import Object
from .validation import Schemas
from .write_options import WriteOptions, delete_options, write_options

JSON_PATCH, MERGE_PATCH = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC_PATCH, APPLY_PATCH = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")
# The built-in kinds whose DELETE answers with the object; for the others it is a Status.
RETURN_DELETED = {"pods", "persistentvolumes", "persistentvolumeclaims", "services", "serviceaccounts", "storageclasses", "volumeattachments",
                  "csidrivers", "csinodes", "resourcequotas", "podtemplates", "namespaces"}
# Reasons after which a custom resource's remaining rules (CEL) are not checked, and the server says so.
BLOCKING = {"FieldValueRequired", "FieldValueTypeInvalid", "FieldValueNotSupported", "FieldValueTooLong", "FieldValueTooMany"}
UNCHECKED = Cause("<nil>", "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation")
Admission = Callable[[Object, Object | None], None]


class Writes:
    def __init__(self, resources: Resources, clock: SimClock, schemas: Schemas) -> None:
        self._resources, self._clock, self._schemas = resources, clock, schemas
        self._admission: dict[Kind, list[Admission]] = {}

    def add_admission(self, kind: Kind, function: Admission) -> None:
        self._admission.setdefault(kind, []).append(function)

    # The four verbs.

    async def create(self, call: Call) -> web.StreamResponse:
        assert call.kind is not None
        kind = call.kind
        _, media = accepted(call.request.headers.get("Accept", ""))
        options = write_options(call, "CreateOptions")
        obj = await read_object(call.request, kind.kind)
        twice = duplicate_fields(await read_body(call.request)) if options.field_validation != "Ignore" else []
        self._check_type(call, obj)
        meta = self._metadata(kind, obj)
        if meta.get("namespace", call.namespace) != (call.namespace if kind.namespaced else ""):
            raise errors.ApiError(400, "the namespace of the provided object does not match the namespace sent on the request")
        if kind.namespaced:
            meta["namespace"] = call.namespace
        if meta.get("resourceVersion"):
            raise errors.ApiError(400, "resourceVersion should not be set on objects to be created")
        warnings = self._prune(kind, obj, options, twice=twice)
        for key in (*metadata.SERVER_SET, "resourceVersion"):
            meta.pop(key, None)
        if kind.status:
            obj.pop("status", None)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = self._resources.generated_name(meta["generateName"])
        created = self._create(call, obj, options)
        return answer(orjson.dumps(in_call_version(call, created)), 201, media=media, warnings=warnings)

    def _create(self, call: Call, obj: Object, options: WriteOptions) -> Object:
        assert call.kind is not None
        kind = call.kind
        self._schemas.default(kind, obj)
        self._check_namespace(call, obj)
        if call.api_version == event_view.API_VERSION:
            self._raise_if(kind, obj, event_view.causes(obj))
        self._admit(kind, obj, None)
        self._track(kind, None, obj, options, call)
        return self._resources.create(kind, obj, dry_run=options.dry_run)

    async def update(self, call: Call) -> web.StreamResponse:
        assert call.kind is not None
        kind = call.kind
        _, media = accepted(call.request.headers.get("Accept", ""))
        if not call.name:
            raise errors.ApiError(400, "name must be provided") if kind.custom else method_not_supported(call)
        options = write_options(call, "UpdateOptions")
        obj = await read_object(call.request, kind.kind)
        twice = duplicate_fields(await read_body(call.request)) if options.field_validation != "Ignore" else []
        self._check_type(call, obj)
        meta = self._metadata(kind, obj)
        warnings = self._prune(kind, obj, options, twice=twice)
        if meta.setdefault("name", call.name) != call.name:
            raise errors.ApiError(400, f"the name of the object ({meta['name']}) does not match the name on the URL ({call.name})")
        if meta.get("namespace", object_namespace(call)) != object_namespace(call):
            raise errors.ApiError(400, "the namespace of the provided object does not match the namespace sent on the request")
        if kind.namespaced:
            meta["namespace"] = call.namespace
        old = self._resources.get(kind, object_namespace(call), call.name)
        updated = self._update(call, old, obj, options)
        return answer(orjson.dumps(in_call_version(call, updated)), media=media, warnings=warnings)

    def _update(self, call: Call, old: Object, obj: Object, options: WriteOptions, *, applied: bool = False) -> Object:
        """Everything that PUT and the patches have in common, from the new object on."""
        assert call.kind is not None
        kind, meta = call.kind, obj["metadata"]
        version = meta.get("resourceVersion") or "0"
        if not re.fullmatch("[0-9]+", version):
            raise errors.ApiError(500, f'strconv.ParseUint: parsing "{version}": invalid syntax', reason="")  # as the real server does
        if kind.custom and version == "0":
            raise errors.invalid(kind.plural, kind.group, call.name, [Cause("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")])
        if version not in ("0", old["metadata"]["resourceVersion"]):
            raise errors.conflict(kind.plural, kind.group, call.name)
        if meta.get("uid") not in (None, "", old["metadata"]["uid"]) and call.request.method == "PUT":
            raise errors.conflict(kind.plural, kind.group, call.name, f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {old['metadata']['uid']}")
        if call.subresource == "finalize":
            self._raise_if(kind, obj, self._schemas.validate(kind, obj, old))
            return self._resources.finalize(kind, obj, dry_run=options.dry_run)
        causes = metadata.update_causes(old["metadata"], meta)
        if call.api_version == event_view.API_VERSION:
            causes += event_view.update_causes(old, obj)
        merged = self._resources.merged(kind, old, obj, call.subresource)
        self._schemas.default(kind, merged)
        self._raise_if(kind, merged, causes)
        self._admit(kind, merged, old, status=call.subresource == "status")
        if not applied:
            self._track(kind, old, merged, options, call)
        merged["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        return self._resources.update(kind, merged, subresource=call.subresource, dry_run=options.dry_run)

    async def patch(self, call: Call) -> web.StreamResponse:
        assert call.kind is not None
        kind = call.kind
        _, media = accepted(call.request.headers.get("Accept", ""))
        type_ = media_type(call.request)
        types = (JSON_PATCH, MERGE_PATCH, *(() if kind.custom else (STRATEGIC_PATCH,)), APPLY_PATCH)
        if type_ not in types and not kind.custom:
            raise errors.ApiError(415, "415: Unsupported Media Type", details={})
        if type_ not in types:
            raise errors.ApiError(415, f"the body of the request was in an unknown format - accepted media types include: {', '.join(types)}")
        if not call.name:
            raise errors.ApiError(400, "name must be provided")
        options = write_options(call, "PatchOptions", apply=type_ == APPLY_PATCH)
        body = await read_body(call.request)
        if type_ == APPLY_PATCH:
            return self._apply(call, body, options, media)
        try:
            patch = parse_json(body)
        except ValueError as error:
            raise errors.ApiError(400, f"error decoding patch: {error}") from error
        old = self._resources.get(kind, object_namespace(call), call.name)
        current = in_call_version(call, self._resources.get(kind, object_namespace(call), call.name))  # a copy of its own: patching may share parts with it
        obj = {JSON_PATCH: patches.json_patch, MERGE_PATCH: patches.merge_patch, STRATEGIC_PATCH: patches.strategic_patch}[type_](current, patch)
        quoted = patches.go_value(patch) if type_ == STRATEGIC_PATCH else orjson.dumps(obj).decode()
        if type_ == STRATEGIC_PATCH:  # which is laid over a typed object: what it says of its type is not looked at
            obj["apiVersion"], obj["kind"] = call.api_version, kind.kind
        try:
            self._check_patched_type(call, obj)
            meta = self._metadata(kind, obj)
            if not meta.get("name"):
                raise errors.ApiError(400, f"the name of the object ({call.name} based on URL) was undeterminable: name must be provided")
            if meta["name"] != call.name:
                raise errors.ApiError(400, f"the name of the object ({meta['name']}) does not match the name on the URL ({call.name})")
            if meta.get("namespace", "") != object_namespace(call):
                raise errors.ApiError(400, "the namespace of the provided object does not match the namespace sent on the request")
            warnings = self._prune(kind, obj, options, patch=quoted)
        except errors.Undecodable as error:
            raise _bad_patch(quoted, error.why) from error
        updated = self._update(call, old, obj, options)
        return answer(orjson.dumps(in_call_version(call, updated)), media=media, warnings=warnings)

    def _apply(self, call: Call, body: bytes, options: WriteOptions, media: str) -> web.StreamResponse:
        assert call.kind is not None
        kind = call.kind
        try:
            applied = parse_yaml(body)
        except ValueError as error:
            raise errors.ApiError(400, f"error decoding YAML: {error}") from error
        if not isinstance(applied, dict):
            raise errors.ApiError(400, "error decoding YAML: the patch is no object")
        self._check_type(call, applied)
        given = copy.deepcopy(applied) if options.manager == apply.KUBECTL else None
        empty: Object = {key: {} for key in ("labels", "annotations") if isinstance(applied.get("metadata"), dict) and applied["metadata"].get(key) == {}}
        meta = self._metadata(kind, applied)
        if meta.get("managedFields"):
            raise errors.ApiError(400, "metadata.managedFields must be nil")
        warnings = self._prune(kind, applied, options)
        meta.update(empty)  # no object keeps an empty map, but who applies one owns it, and whoever else applies it meets a conflict
        live = self._resources.find(kind, object_namespace(call), call.name)
        if live is None and call.subresource:
            raise errors.not_found(kind.plural, kind.group, call.name)
        if live is None:
            meta.setdefault("name", call.name)
            if kind.namespaced:
                meta.setdefault("namespace", call.namespace)
        elif meta.get("uid") not in (None, "", live["metadata"]["uid"]):
            raise errors.conflict(kind.plural, kind.group, call.name, f"uid mismatch: the provided object specified uid {meta['uid']}, and no existing object was found")
        obj = apply.apply(kind, live, applied, options.manager, options.force, self._clock.timestamp(), call.subresource)
        if given is not None:
            apply.renew_last_applied(obj, given)
        meta = self._metadata(kind, obj)
        if meta.get("name") != call.name:
            raise errors.ApiError(400, f"the name of the object ({meta.get('name', '')}) does not match the name on the URL ({call.name})")
        if live is None:
            for key in ("uid", "resourceVersion", "creationTimestamp", "generation"):
                meta.pop(key, None)
            if kind.status:
                obj.pop("status", None)
            created = self._create_applied(call, obj, options)
            return answer(orjson.dumps(in_call_version(call, created)), 201, media=media, warnings=warnings)
        updated = self._update(call, live, obj, options, applied=True)
        return answer(orjson.dumps(in_call_version(call, updated)), media=media, warnings=warnings)

    def _create_applied(self, call: Call, obj: Object, options: WriteOptions) -> Object:
        assert call.kind is not None
        fields = obj["metadata"].get("managedFields")
        self._schemas.default(call.kind, obj)
        self._check_namespace(call, obj)
        self._admit(call.kind, obj, None)
        if fields:
            obj["metadata"]["managedFields"] = fields
        return self._resources.create(call.kind, obj, dry_run=options.dry_run)

    async def delete(self, call: Call) -> web.StreamResponse:
        assert call.kind is not None
        kind = call.kind
        _, media = accepted(call.request.headers.get("Accept", ""))
        options = await delete_options(call)
        if strategies.is_core(kind, "namespaces") and call.name in IMMORTAL_NAMESPACES:
            raise errors.ApiError(403, f'namespaces "{call.name}" is forbidden: this namespace may not be deleted', details=errors.details("", "namespaces", call.name))
        obj = self._resources.delete(kind, object_namespace(call), call.name, **options)
        held = self._resources.store.entry(kind, object_namespace(call), call.name)
        if (held is not None and not options["dry_run"]) or (not kind.custom and kind.plural in RETURN_DELETED):
            return answer(orjson.dumps(in_call_version(call, obj)), media=media)
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                  "details": errors.details(kind.group, kind.plural, call.name, uid=obj["metadata"]["uid"])}
        return answer(orjson.dumps(status), media=media)

    async def delete_collection(self, call: Call) -> web.StreamResponse:
        assert call.kind is not None
        kind = call.kind
        if strategies.is_core(kind, "namespaces"):
            raise method_not_supported(call)
        _, media = accepted(call.request.headers.get("Accept", ""))
        listing: ListOptions = parse_options(call.query)
        options = await delete_options(call)
        chosen = selection(kind, call.namespace, listing.label_selector, listing.field_selector)
        entries = chosen.filter(self._resources.store.entries(kind, call.namespace))
        if listing.limit > 0:
            entries = entries[: listing.limit]
        for entry in entries:
            if self._resources.store.entry(kind, *entry.key):  # deleting one may have taken another with it
                self._resources.delete(kind, entry.key[0], entry.key[1], **options)
        page = Page(entries, self._resources.store.revision, "", None)
        return answer(encode_list(kind, call.api_version, page, f"{kind.kind}List", map(item_encoder(kind, call.api_version), entries)), media=media)

    # The checks.

    def _check_type(self, call: Call, obj: Object) -> None:
        """The body must be of the kind and version that the URL names."""
        kind = call.kind
        assert kind is not None
        said_kind, said_version = obj.get("kind") or "", obj.get("apiVersion") or ""
        name = (obj.get("metadata") or {}).get("name", "") if isinstance(obj.get("metadata"), dict | None) else ""
        if kind.custom:
            if not said_kind or not said_version:
                what = "kind" if not said_kind else "apiVersion"
                text = orjson.dumps(obj).decode()
                raise errors.ApiError(400, f"the object provided is unrecognized (must be of type {kind.kind}): Object '{what.capitalize() if what == 'kind' else what}' is missing in "
                                           f"'{text}' ({text if len(text) <= 30 else text[:30] + ' ...'})")
            causes = []
            if said_kind != kind.kind:
                causes.append(Cause("kind", f'Invalid value: "{said_kind}": must be {kind.kind}'))
            if said_version != call.api_version:
                causes.append(Cause("apiVersion", f'Invalid value: "{said_version}": must be {call.api_version}'))
            if causes:
                raise errors.invalid(str(said_kind), str(said_version).rpartition("/")[0], name, causes)
        else:
            if said_kind and said_kind != kind.kind:
                raise errors.ApiError(400, f'{said_kind} in version "{str(said_version or call.api_version).rpartition("/")[2]}" cannot be handled as a {kind.kind}: '
                                           f"converting ({said_kind}) to ({kind.kind}): unknown conversion")
            if said_version and said_version != call.api_version:
                raise errors.ApiError(400, f"the API version in the data ({said_version}) does not match the expected API version ({call.api_version})")
        if call.api_version == event_view.API_VERSION:
            event_view.to_core(obj)
        obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind

    def _check_patched_type(self, call: Call, obj: Object) -> None:
        """As _check_type, for what a patch made."""
        kind = call.kind
        assert kind is not None
        said_kind, said_version = obj.get("kind"), obj.get("apiVersion")
        if kind.custom and not (said_kind and said_version):
            raise errors.Undecodable(kind.kind, kind.version, f"Object '{'apiVersion' if said_kind else 'Kind'}' is missing in '{orjson.dumps(obj).decode()}'")
        if not kind.custom and (said_kind or kind.kind, said_version or call.api_version) != (kind.kind, call.api_version):
            raise errors.Undecodable(kind.kind, kind.version, f'no kind "{said_kind}" is registered for version "{said_version}" in scheme "pkg/runtime/scheme.go:111"')
        self._check_type(call, obj)

    def _metadata(self, kind: Kind, obj: Object) -> Object:
        meta = obj.get("metadata")
        if meta is None:
            meta = obj["metadata"] = {}
        why = metadata.decode_error(meta) if isinstance(meta, dict) else f"json: cannot unmarshal {go_type(meta)} into Go {'value' if kind.custom else f'struct field {kind.kind}.metadata'} of type v1.ObjectMeta"
        if why:
            raise errors.Undecodable(kind.kind, kind.version, why)
        found: Object = meta
        return found

    def _prune(self, kind: Kind, obj: Object, options: WriteOptions, *, patch: str = "", twice: Iterable[str] = ()) -> list[str]:
        """Drop unknown fields. Returns the warnings, or raises where validation is strict; `patch` is how that quotes a patch,
        `twice` what the body said more than once."""
        unknown = [f'duplicate field "{path}"' for path in twice] + [f'unknown field "{path}"' for path in self._schemas.prune(kind, obj)]
        if not unknown or options.field_validation == "Ignore":
            return []
        if options.field_validation == "Strict":
            text = f"strict decoding error: {', '.join(unknown)}"
            if patch:
                raise _bad_patch(patch, text)
            raise errors.ApiError(400, f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {text}')
        return unknown

    def _check_namespace(self, call: Call, obj: Object) -> None:
        """What the admission plugin NamespaceLifecycle refuses."""
        kind = call.kind
        assert kind is not None
        if not kind.namespaced:
            return
        namespace = self._resources.find(self._resources.kind("namespaces"), "", call.namespace)
        if namespace is None:
            raise errors.not_found("namespaces", "", call.namespace)
        if "deletionTimestamp" in namespace["metadata"]:
            name = obj["metadata"].get("name", "")
            cause = Cause("metadata.namespace", f"namespace {call.namespace} is being terminated", "NamespaceTerminating")
            raise errors.ApiError(403, f'{errors.qualified(kind.plural, kind.group)} "{name}" is forbidden: unable to create new content in namespace {call.namespace} because it is being terminated',
                                  details=errors.details(kind.group, kind.plural, name, [cause]))

    def _admit(self, kind: Kind, obj: Object, old: Object | None, *, status: bool = False) -> None:
        """Validate, let admission see what is valid, and validate what it made of it. A status passes no admission."""
        self._raise_if(kind, obj, metadata.causes(kind, obj["metadata"]) + self._schemas.validate(kind, obj, old))
        admission = () if status else self._admission.get(kind, ())
        for admit in admission:
            admit(obj, old)
        if admission:
            self._raise_if(kind, obj, self._schemas.validate(kind, obj, old))

    @staticmethod
    def _raise_if(kind: Kind, obj: Object, causes: list[Cause]) -> None:
        if not causes:
            return
        if kind.custom and any(cause.reason in BLOCKING for cause in causes):
            causes = [cause for cause in causes if cause != UNCHECKED] + [UNCHECKED]
        raise errors.invalid(kind.kind, kind.group, obj["metadata"].get("name", ""), causes)

    def _track(self, kind: Kind, old: Object | None, new: Object, options: WriteOptions, call: Call) -> None:
        """Keep metadata.managedFields, by which server-side apply knows whose a field is."""
        apply.track_update(kind, old, new, options.manager, "Update", self._clock.timestamp(), call.subresource)


def _bad_patch(patch: str, why: str) -> errors.ApiError:
    """422 for a patch whose result is none of its kind."""
    return errors.invalid("", "", "", [Cause("patch", f"Invalid value: {orjson.dumps(patch).decode()}: {why}")])


def in_call_version(call: Call, obj: Object) -> Object:
    return event_view.from_core(obj) if call.api_version == event_view.API_VERSION else {**obj, "apiVersion": call.api_version}


def method_not_supported(call: Call) -> errors.ApiError:
    """405. What is built in does not name the resource."""
    if call.kind is not None and not call.kind.custom:
        return errors.ApiError(405, "the server does not allow this method on the requested resource", details={})
    return errors.ApiError(405, f'{call.verb} is not supported on resources of kind "{errors.qualified(call.plural, call.group)}"', details=errors.details(call.group, call.plural))
