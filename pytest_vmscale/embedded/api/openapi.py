"""OpenAPI: what kubectl reads before it creates, applies, diffs, replaces or explains.

Version 3 is a document per group and version, version 2 one for all; each is made and encoded when first asked for.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from .. import yamls
from . import swagger
from .kinds import Kind, Kinds
from .schema import MISSING, Node, object_meta, schema_of

Spec = dict[str, Any]
DESCRIPTIONS = Path(__file__).with_name("descriptions.yaml")
APPLY, JSON_PATCH, MERGE, STRATEGIC = ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json",
                                       "application/strategic-merge-patch+json")
# Fields whose list keys are for server-side apply alone: strategic merge patches replace these lists.
NOT_MERGED = ("claims", "resources", "bindMountOptions")
# Strategic merge patches of these drop the fields that the patch does not name.
RETAIN_KEYS = {"volumes": "merge,retainKeys", "resourceClaims": "merge,retainKeys", "strategy": "retainKeys"}
CONSTRAINTS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "enum")


@functools.cache
def documents(kinds: Kinds) -> Documents:
    """The documents by path: openapi/v3, openapi/v3/api/v1, openapi/v3/apis/GROUP/VERSION."""
    return Documents(kinds)


class Documents(Mapping[str, bytes]):
    """Encoded documents. Iterating, or the index, makes none of the others."""

    def __init__(self, kinds: Kinds) -> None:
        self._by_path: dict[str, list[tuple[Kind, str]]] = {}
        for kind in kinds.all:
            for version in (kind.version, *kind.also_served):
                self._by_path.setdefault(f"openapi/v3/{_root(kind, version)[1:]}", []).append((kind, version))
        self._made: dict[str, bytes] = {}

    def __getitem__(self, path: str) -> bytes:
        if path not in self._made:
            self._made[path] = orjson.dumps(self._index() if path == "openapi/v3" else _document(self._by_path[path]))
        return self._made[path]

    @functools.cached_property
    def version_2(self) -> bytes:
        """Everything in one document of OpenAPI v2."""
        return orjson.dumps(self._swagger())

    @functools.cached_property
    def version_2_protobuf(self) -> bytes:
        """`version_2`, as Go clients read it."""
        return swagger.encode(self._swagger())

    def _swagger(self) -> Spec:
        whole = _document([each for kinds in self._by_path.values() for each in kinds])
        return swagger.document(whole["paths"], whole["components"]["schemas"])

    def __iter__(self) -> Iterator[str]:
        return iter(["openapi/v3", *self._by_path])

    def __len__(self) -> int:
        return len(self._by_path) + 1

    def _index(self) -> Spec:
        """The hash names the document's version, by which clients cache it: here, what is served is fixed, so its names will do."""
        def url(path: str) -> str:
            digest = hashlib.sha256(repr([(str(kind), version) for kind, version in self._by_path[path]]).encode()).hexdigest()
            return f"/{path}?hash={digest.upper()}"

        return {"paths": {path.removeprefix("openapi/v3/"): {"serverRelativeURL": url(path)} for path in self._by_path}}


def _root(kind: Kind, version: str) -> str:
    return f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"


def _document(kinds: list[tuple[Kind, str]]) -> Spec:
    components = Components()
    paths: Spec = {}
    for kind, version in kinds:
        paths.update(_paths(kind, version, components.root(kind, version)))
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "unversioned"}, "paths": paths,
            "components": {"schemas": dict(sorted(components.schemas.items()))}}


# Paths.

def _paths(kind: Kind, version: str, reference: Spec) -> Spec:
    collection = f"{_root(kind, version)}{'/namespaces/{namespace}' if kind.namespaced else ''}/{kind.plural}"
    found = {collection: {"get": _operation(kind, version, "list"), "post": _operation(kind, version, "post", reference),
                          "delete": _operation(kind, version, "deletecollection"), "parameters": _path_parameters(kind, named=False)}}
    if kind.namespaced:
        found[f"{_root(kind, version)}/{kind.plural}"] = {"get": _operation(kind, version, "list"), "parameters": []}
    for path in (f"{collection}/{{name}}", *([f"{collection}/{{name}}/status"] if kind.status else [])):
        found[path] = {"get": _operation(kind, version, "get"), "put": _operation(kind, version, "put", reference),
                       "patch": _operation(kind, version, "patch"), "parameters": _path_parameters(kind, named=True)}
    found[f"{collection}/{{name}}"]["delete"] = _operation(kind, version, "delete")
    return found


def _path_parameters(kind: Kind, *, named: bool) -> list[Spec]:
    names = (["name"] if named else []) + (["namespace"] if kind.namespaced else [])
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "uniqueItems": True}} for name in names]


def _operation(kind: Kind, version: str, action: str, reference: Spec | None = None) -> Spec:
    names = {"list": "limit continue labelSelector fieldSelector resourceVersion resourceVersionMatch timeoutSeconds watch allowWatchBookmarks "
                     "sendInitialEvents",
             "deletecollection": "dryRun gracePeriodSeconds propagationPolicy labelSelector fieldSelector limit continue",
             "delete": "dryRun gracePeriodSeconds propagationPolicy", "post": "dryRun fieldManager fieldValidation",
             "put": "dryRun fieldManager fieldValidation", "patch": "dryRun fieldManager fieldValidation force"}.get(action, "").split()
    types = {"limit": "integer", "timeoutSeconds": "integer", "gracePeriodSeconds": "integer", "watch": "boolean",
             "allowWatchBookmarks": "boolean",
             "sendInitialEvents": "boolean", "force": "boolean"}
    operation: Spec = {
        "operationId": f"{action}_{kind.group}_{version}_{kind.plural}",
        "parameters": [{"name": name, "in": "query", "schema": {"type": types.get(name, "string"), "uniqueItems": True}} for name in names],
        "responses": {"200": {"description": "OK"}}, "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": version, "kind": kind.kind}}
    if action == "patch":
        media = (APPLY, JSON_PATCH, MERGE) if kind.custom else (APPLY, JSON_PATCH, MERGE, STRATEGIC)
        operation["requestBody"] = {"required": True, "content": {each: {"schema": {"type": "object"}} for each in media}}
    elif reference is not None:
        operation["requestBody"] = {"required": True, "content": {each: {"schema": reference} for each in ("application/json",
                                                                                                           "application/yaml")}}
    return operation


# Schemas.

class Components:
    """components.schemas of one document: the kinds, and the shared types that the built-in ones refer to.
    Custom resource definitions have no shared types but metadata's: theirs are written out where they are used."""

    def __init__(self) -> None:
        self.schemas: Spec = {}
        self._names: dict[int, str] = {}  # by the identity of a type's fields, which its variants share

    def root(self, kind: Kind, version: str) -> Spec:
        """A kind's own schema; returns the reference to it."""
        name = ".".join([*reversed(kind.group.split(".")), version,
                         kind.kind]) if kind.custom else f"io.k8s.api.{kind.group or 'core'}.{version}.{kind.kind}"
        node = schema_of(kind)
        words = {**_descriptions()["Object"], **_descriptions().get(f"{kind.kind}.{kind.group}", {})}
        schema = self._object(node, kind.custom, words)
        if text := words.get("$") or node.description:
            schema["description"] = text
        schema["x-kubernetes-group-version-kind"] = [{"group": kind.group, "version": version, "kind": kind.kind}]
        self.schemas[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}

    def _schema(self, node: Node, custom: bool, field: str = "", words: Any = None) -> Spec:
        words = {"$": words} if isinstance(words, str) else words or {}
        if custom and node.name:
            words = {**_descriptions().get(node.name, {}), **words}
        about: Spec = {"description": text} if (text := words.get("$") or node.description) else {}
        if node.default is not MISSING:
            about["default"] = node.default
        if node.nullable:
            about["nullable"] = True
        if node.type == "object" and node.name and (not custom or node is object_meta()):
            reference = {"$ref": f"#/components/schemas/{self._component(node)}"}
            if field in RETAIN_KEYS and not custom:
                about["x-kubernetes-patch-strategy"] = RETAIN_KEYS[field]
            return {"allOf": [reference], **about} if about else reference
        if node.type == "object":
            return {**self._object(node, custom, words), **about}
        if node.type == "array":
            return {**self._array(node, custom, field, words), **about}
        if node.type == "any":
            return {"type": "object", **({"x-kubernetes-preserve-unknown-fields": True} if custom else {}), **about}
        return {**_scalar(node, custom), **about}

    def _component(self, node: Node) -> str:
        key = id(node.fields)
        if key not in self._names:
            shared = node is object_meta()
            name = f"io.k8s.apimachinery.pkg.apis.meta.v1.{node.name}" if shared else f"io.k8s.api.{node.name}"
            while name in self._names.values():  # another type of that name: of another group's schemas
                name += "_"
            self._names[key] = name
            self.schemas[name] = {}  # before its fields: types may refer to themselves
            self.schemas[name] = self._object(node, False, _descriptions()[node.name] if shared else {})
        return self._names[key]

    def _object(self, node: Node, custom: bool, words: Spec) -> Spec:
        schema: Spec = {"type": "object"}
        if node.values is not None:
            schema["additionalProperties"] = self._schema(node.values, custom)
        elif node.fields:
            schema["properties"] = {name: self._schema(child, custom, name, words.get(name)) for name, child in sorted(node.fields.items())}
        if node.required:
            schema["required"] = list(node.required)
        if node.open:
            schema["x-kubernetes-preserve-unknown-fields"] = True
        if node.atomic:
            schema["x-kubernetes-map-type"] = "atomic"
        return schema

    def _array(self, node: Node, custom: bool, field: str, words: Spec) -> Spec:
        of_items = {name: text for name, text in words.items() if name != "$"}
        schema: Spec = {"type": "array", "items": self._schema(node.items, custom, words=of_items) if node.items else {},
                        "x-kubernetes-list-type": node.list_type,
                        **_constraints(node)}
        if node.keys:
            schema["x-kubernetes-list-map-keys"] = list(node.keys)
            if not custom and field not in NOT_MERGED:
                schema |= {"x-kubernetes-patch-merge-key": node.keys[0], "x-kubernetes-patch-strategy": RETAIN_KEYS.get(field, "merge")}
        elif field == "finalizers" and not custom:
            schema["x-kubernetes-patch-strategy"] = "merge"
        return schema


@functools.cache
def _descriptions() -> dict[str, Any]:
    """What `kubectl explain` says of fields: read with the first document, and no sooner."""
    return dict(yamls.load(DESCRIPTIONS.read_text(encoding="utf-8")))


def _scalar(node: Node, custom: bool) -> Spec:
    if node.type != "intOrString":
        return {"type": node.type, **({"format": node.format} if node.format else {}), **({"pattern": node.pattern_text}
                                                                                          if node.pattern_text else {}),
                **_constraints(node)}
    if not custom:
        return {"type": "string"} if node.format == "quantity" else {"format": "int-or-string", "oneOf": [{"type": "integer"},
                                                                                                          {"type": "string"}]}
    return {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True,
            **({"pattern": node.pattern_text} if node.pattern_text else {})}


def _constraints(node: Node) -> Spec:
    return {name: getattr(node, name) for name in CONSTRAINTS if getattr(node, name) is not None}
