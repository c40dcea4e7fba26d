"""The rules of metadata: names, labels, finalizers, and what may never change."""

from __future__ import annotations

import re
from typing import Any

import orjson

from . import strategies
from .errors import Cause
from .kinds import Kind
from .store import Object

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

SUBDOMAIN_TEXT = ("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character "
                  "(e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')")
LABEL_TEXT = ("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character "
              "(e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')")
LABEL_1035_TEXT = ("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character "
                   "(e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')")
QUALIFIED_TEXT = ("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
                  "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")
VALUE_TEXT = ("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
              "(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')")
ANNOTATIONS_BYTES = 256 * 1024

IMMUTABLE = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
SERVER_SET = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "managedFields")
TYPES: dict[str, tuple[type, str]] = {
    "name": (str, "string"), "generateName": (str, "string"), "namespace": (str, "string"), "labels": (dict, "map[string]string"), "annotations": (dict, "map[string]string"),
    "finalizers": (list, "[]string"), "ownerReferences": (list, "[]v1.OwnerReference"), "uid": (str, "types.UID"), "resourceVersion": (str, "string"),
    "managedFields": (list, "[]v1.ManagedFieldsEntry"), "generation": (int, "int64"), "deletionGracePeriodSeconds": (int, "int64"),
    "creationTimestamp": (str, "string"), "deletionTimestamp": (str, "string"), "selfLink": (str, "string"),
}


def decode_error(meta: Object) -> str | None:
    """Why this metadata cannot be one at all (a 400), as Go's decoder words it; else None. Nulls are dropped."""
    for key, value in list(meta.items()):
        if value is None:
            del meta[key]
            continue
        if key not in TYPES:
            continue
        wanted, go_name = TYPES[key]
        if not isinstance(value, wanted) or isinstance(value, bool):
            return f"json: cannot unmarshal {_json_type(value)} into Go struct field ObjectMeta.metadata.{key} of type {go_name}"
        members: Any = value  # a dict or list by now, where it is looked into
        inner: list[Any] = []
        if key in ("labels", "annotations"):
            for name in [name for name, each in members.items() if each is None]:
                members[name] = ""
            inner = [each for each in members.values() if not isinstance(each, str)]
        elif key == "finalizers":
            inner = [each for each in members if not isinstance(each, str)]
        elif key in ("ownerReferences", "managedFields"):
            inner = [each for each in members if not isinstance(each, dict)]
        if inner:
            return f"json: cannot unmarshal {_json_type(inner[0])} into Go struct field ObjectMeta.metadata.{key} of type {go_name.rpartition(']')[2]}"
    for key in ("labels", "annotations", "finalizers", "ownerReferences"):
        if key in meta and not meta[key]:
            del meta[key]
    return None


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "string" if isinstance(value, str) else "number"


def causes(kind: Kind, meta: Object) -> list[Cause]:
    """What is wrong with a new or changed object's metadata."""
    found = []
    name, generate = meta.get("name", ""), meta.get("generateName", "")
    if not name:
        found.append(Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired"))
    else:
        if generate and name.startswith(generate) and (why := _name_problem(kind, generate, prefix=True)):
            found.append(Cause("metadata.generateName", f'Invalid value: "{generate}": {why}'))
        if why := _name_problem(kind, name):
            found.append(Cause("metadata.name", f'Invalid value: "{name}": {why}'))
    for key, value in (meta.get("labels") or {}).items():
        if why := qualified_problem(key):
            found.append(Cause("metadata.labels", f'Invalid value: "{key}": {why}'))
        if len(value) > 63:
            found.append(Cause("metadata.labels", f'Invalid value: "{value}": must be no more than 63 bytes'))
        elif not VALUE.fullmatch(value):
            found.append(Cause("metadata.labels", f'Invalid value: "{value}": {VALUE_TEXT}'))
    annotations = meta.get("annotations") or {}
    for key in annotations:
        if why := qualified_problem(key.lower()):
            found.append(Cause("metadata.annotations", f'Invalid value: "{key}": {why}'))
    if sum(len(key) + len(value) for key, value in annotations.items()) > ANNOTATIONS_BYTES:
        found.append(Cause("metadata.annotations", f"Too long: may not be more than {ANNOTATIONS_BYTES} bytes", "FieldValueTooLong"))
    for finalizer in meta.get("finalizers") or []:
        if why := qualified_problem(finalizer):
            found.append(Cause("metadata.finalizers", f'Invalid value: "{finalizer}": {why}'))
        elif "/" not in finalizer and finalizer not in (strategies.FOREGROUND, strategies.ORPHAN, "kubernetes") and not kind.custom:
            found.append(Cause("metadata.finalizers", f'Invalid value: "{finalizer}": name is neither a standard finalizer name nor is it fully qualified'))
    for owner in meta.get("ownerReferences") or []:
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                found.append(Cause(f"metadata.ownerReferences.{key}", f'Invalid value: "{owner.get(key, "")}": {"version" if key == "apiVersion" else key} must not be empty'))
    controllers = [f"{owner.get('kind')}/{owner.get('name')}" for owner in meta.get("ownerReferences") or [] if owner.get("controller") is True]
    if len(controllers) > 1:
        found.append(Cause("metadata.ownerReferences", f"Invalid value: {orjson.dumps(meta['ownerReferences']).decode()}: Only one reference can have Controller set to true. "
                                                       f'Found "true" in references for {controllers[0]} and {controllers[1]}'))
    return found


def update_causes(old: Object, new: Object) -> list[Cause]:
    """What of the metadata may not be changed so. The real server checks twice, and says so twice."""
    found = []
    if "deletionTimestamp" in old:
        added = sorted(set(new.get("finalizers") or []) - set(old.get("finalizers") or []))
        if added:
            names = ", ".join(f'"{name}"' for name in added)
            found.append(Cause("metadata.finalizers", "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
                               f"[]string{{{names}}}", "FieldValueForbidden"))
    for key in IMMUTABLE:
        value = new.get(key)
        if value not in (None, "") and value != old.get(key):
            found.append(Cause(f"metadata.{key}", f"Invalid value: {orjson.dumps(value).decode()}: field is immutable"))
    return found + found


def _name_problem(kind: Kind, name: str, *, prefix: bool = False) -> str | None:
    if kind.group == "rbac.authorization.k8s.io":
        if name in (".", ".."):
            return f"may not be '{name}'"
        return next((f"may not contain '{letter}'" for letter in "/%" if letter in name), None)
    text = re.sub(r"-+$", "", name) + "a" if prefix else name
    rule, words, most = SUBDOMAIN, SUBDOMAIN_TEXT, 253
    if strategies.is_core(kind, "namespaces"):
        rule, words, most = LABEL, LABEL_TEXT, 63
    elif strategies.is_core(kind, "services"):
        rule, words, most = LABEL_1035, LABEL_1035_TEXT, 63
    if len(text) > most:
        return f"must be no more than {most} bytes"
    return None if rule.fullmatch(text) else words


def qualified_problem(text: str) -> str | None:
    """Why this is no qualified name (`prefix/name`, the prefix a DNS subdomain), else None."""
    prefix, slash, name = text.rpartition("/")
    if slash and not prefix:
        return "prefix part must be non-empty"
    if "/" in prefix:
        return "a valid label key must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
    if prefix and not SUBDOMAIN.fullmatch(prefix):
        return f"prefix part {SUBDOMAIN_TEXT}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    return None if QUALIFIED.fullmatch(name) else QUALIFIED_TEXT
