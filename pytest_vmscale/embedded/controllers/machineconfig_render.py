"""What a pool's machine configs come to: Ignition configs checked and merged, the merge's name, and what differs between two of them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import orjson

from ..api.store import Object

VERSION = "3.2.0"  # the newest that machine-config-operator 4.9 writes
VERSIONS_3 = ("3.0.0", "3.1.0", "3.2.0")
VERSION_2 = "2.2.0"
KERNEL_TYPES = ("", "default", "realtime")
SCHEMES = ("", "data", "http", "https", "tftp", "s3", "gs")
MOST_MODE = 0o777  # of a file: no special bits

# What of Ignition's spec 3 there is; a key that is not here is dropped, with a warning that nobody reads.
FILE_KEYS = ("path", "overwrite", "mode", "user", "group", "contents", "append")
# The keys by which lists are merged: the later config's item is laid over the earlier one's of the same key.
LISTS = {"files": "path", "directories": "path", "links": "path", "units": "name", "dropins": "name", "users": "name", "groups": "name",
         "disks": "device", "raid": "name", "filesystems": "device"}

# Files whose change needs no reboot: nothing to do, or CRI-O to be reloaded.
NO_ACTION = ("/etc/kubernetes/kubelet-ca.crt", "/var/lib/kubelet/config.json")
REGISTRIES = "/etc/containers/registries.conf"
RELOAD_CRIO = (REGISTRIES, "/etc/containers/policy.json", "/etc/machine-config-daemon/no-reboot/containers-gpg.pub")


class RenderError(ValueError):
    """A machine config that cannot be used; the message is what the pool says of it."""


# Files.

def file(path: str, text: str, mode: int = 0o644) -> Object:
    """An Ignition file with this content."""
    return {"contents": {"source": f"data:,{quote(text)}"}, "mode": mode, "overwrite": True, "path": path}


def text_of(config: Object, path: str) -> str | None:
    """The content of a file of an Ignition config; None if it has no such file. Only data URLs without base64 are read."""
    for each in (config.get("storage") or {}).get("files") or ():
        if each["path"] == path:
            source = str((each.get("contents") or {}).get("source") or "")
            return unquote_to_bytes(source.partition(",")[2]).decode()
    return None


# One config.

def parse(config: Object | None) -> Object:
    """An Ignition config as spec 3.2. RenderError if it is not valid."""
    if config is None:
        return {"ignition": {"version": VERSION}}
    version = (config.get("ignition") or {}).get("version")
    if not isinstance(version, str) or version.count(".") != 2:
        raise RenderError("parsing Ignition config spec v3.2 failed with error: invalid config version (couldn't parse)\nReport: ")
    if version == VERSION_2:
        parsed = _from_2(config)
    elif version in VERSIONS_3:
        parsed = _known(config)
    else:
        raise RenderError("parsing Ignition config failed: unknown version. Supported spec versions: 2.2, 3.0, 3.1, 3.2")
    errors = list(_errors(parsed))
    if errors:
        report = "".join(f"error at $.{where}: {what}\n" for where, what in errors)
        raise RenderError(f"parsing Ignition config spec v{version.rpartition('.')[0]} failed with error: config is not valid\nReport: {report}")
    for each in (parsed.get("storage") or {}).get("files") or ():
        if (each.get("mode") or 0) > MOST_MODE:
            raise RenderError(f"invalid mode {each['mode']:#o} for {each['path']}, cannot exceed {MOST_MODE:#o}".replace("0o", "0"))
    return parsed


def _known(config: Object) -> Object:
    """Without the keys that spec 3 does not have."""
    known: Object = {"ignition": {**config["ignition"], "version": VERSION}}
    if config.get("passwd"):
        known["passwd"] = copy.deepcopy(config["passwd"])
    storage = copy.deepcopy({key: value for key, value in (config.get("storage") or {}).items() if key in LISTS and value})
    for each in storage.get("files", ()):
        for key in [key for key in each if key not in FILE_KEYS]:
            del each[key]
    if storage:
        known["storage"] = storage
    units = (config.get("systemd") or {}).get("units")
    if units:
        known["systemd"] = {"units": copy.deepcopy(units)}
    return known


def _from_2(config: Object) -> Object:
    """Spec 2.2: its files name a file system, and write over what is there."""
    known = _known({**config, "ignition": {"version": VERSION}})
    for each in (known.get("storage") or {}).get("files") or ():
        each.setdefault("overwrite", True)
    return known


def _errors(config: Object) -> Iterable[tuple[str, str]]:
    """Where in the config what is wrong."""
    for section, lists in (("storage", ("files", "directories", "links")), ("systemd", ("units",))):
        for name in lists:
            seen = set()
            for index, each in enumerate((config.get(section) or {}).get(name) or ()):
                key, where = LISTS[name], f"{section}.{name}.{index}"
                if not each.get(key):
                    yield f"{where}.{key}", f"{key} not specified"
                elif key == "path" and not str(each[key]).startswith("/"):
                    yield f"{where}.path", "path not absolute"
                elif each[key] in seen:
                    yield where, "duplicate entry defined"
                seen.add(each.get(key))
                source = (each.get("contents") or {}).get("source") if name == "files" else None
                if source and source.partition(":")[0] not in SCHEMES:
                    yield f"{where}.contents.source", "invalid url scheme"


def _overlay(old: Any, new: Any, name: str = "") -> Any:
    """The later config laid over the earlier one: maps by key, lists as LISTS says, all else replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _overlay(old.get(key), value, key) for key, value in new.items() if value is not None}}
    if isinstance(old, list) and isinstance(new, list):
        key = LISTS.get(name)
        if key is None:
            return [*old, *new]
        later = {each[key]: each for each in new}
        return [*(_overlay(each, later.pop(each[key])) if each[key] in later else each for each in old), *later.values()]
    return new


# All of a pool's.

def merge(configs: list[Object], os_image_url: str) -> Object:
    """The spec of the rendered MachineConfig. RenderError names what cannot be used."""
    configs = sorted(configs, key=lambda each: each["metadata"]["name"])
    specs = [each.get("spec") or {} for each in configs]
    merged: Object | None = None
    for spec in specs:
        if (spec.get("kernelType") or "") not in KERNEL_TYPES:
            raise RenderError(f"kernelType={spec['kernelType']} is invalid")
        if spec.get("config") is not None:
            config = parse(spec["config"])
            merged = config if merged is None else _overlay(merged, config)
    kernel_type = "realtime" if any(spec.get("kernelType") == "realtime" for spec in specs) else "default"
    extensions = [each for spec in specs for each in spec.get("extensions") or ()]
    if kernel_type != "default" and "kernel-devel" in extensions:
        raise RenderError(f"installing kernel-devel extension is not supported with kernelType: {kernel_type}")
    return {"config": merged or parse(None), "extensions": extensions, "fips": any(spec.get("fips") for spec in specs),
            "kernelArguments": [each for spec in specs for each in spec.get("kernelArguments") or ()],
            "kernelType": kernel_type, "osImageURL": os_image_url}


def rendered_name(pool: str, spec: Object) -> str:
    """By content alone: the same content has the same name, whatever it was merged from."""
    return f"rendered-{pool}-{hashlib.md5(orjson.dumps(spec, option=orjson.OPT_SORT_KEYS), usedforsecurity=False).hexdigest()}"


# From one to another.

@dataclass(frozen=True)
class Difference:
    """What changes from one rendered config to the next."""

    os_update: bool
    kernel: bool  # its arguments or type, or extensions
    units: bool
    files: frozenset[str]  # paths

    @property
    def reboot(self) -> bool:
        return self.os_update or self.kernel or self.units or any(path not in (*NO_ACTION, *RELOAD_CRIO) for path in self.files)

    @property
    def reload_crio(self) -> bool:
        return not self.reboot and any(path in RELOAD_CRIO for path in self.files)

    @property
    def drain(self) -> bool:
        return self.reboot or REGISTRIES in self.files


def difference(old: Object, new: Object) -> Difference:
    """Between the specs of two rendered configs. RenderError if a running machine cannot be brought from one to the other."""
    before, after = parse(old.get("config")), parse(new.get("config"))
    _reconcilable(before, after, old, new)
    files = [{each["path"]: each for each in (config.get("storage") or {}).get("files") or ()} for config in (before, after)]
    changed = {path for path in {*files[0], *files[1]} if files[0].get(path) != files[1].get(path)}
    kernel = any((old.get(key) or []) != (new.get(key) or []) for key in ("kernelArguments", "extensions")) or (
        (old.get("kernelType") or "default") != (new.get("kernelType") or "default"))
    return Difference((old.get("osImageURL") or "") != (new.get("osImageURL") or ""), kernel,
                      (before.get("systemd") or {}) != (after.get("systemd") or {}), frozenset(changed))


def _reconcilable(before: Object, after: Object, old: Object, new: Object) -> None:
    passwd = [config.get("passwd") or {} for config in (before, after)]
    if (passwd[0].get("groups") or []) != (passwd[1].get("groups") or []):
        raise RenderError("ignition Passwd Groups section contains changes")
    users = [each.get("users") or [] for each in passwd]
    if users[0] != users[1]:
        if users[0] and not users[1]:
            raise RenderError("ignition passwd user section contains unsupported changes: user core may not be deleted")
        for user in users[1]:
            if user["name"] != "core":
                raise RenderError("ignition passwd user section contains unsupported changes: non-core user")
            if set(user) - {"name", "sshAuthorizedKeys"}:
                raise RenderError("ignition passwd user section contains unsupported changes: non-sshKey changes")
    storage = [config.get("storage") or {} for config in (before, after)]
    for section in ("disks", "filesystems", "raid", "directories"):
        if (storage[0].get(section) or []) != (storage[1].get(section) or []):
            raise RenderError(f"ignition {section} section contains changes")
    if storage[1].get("links") and storage[0].get("links") != storage[1]["links"]:
        raise RenderError("ignition links section contains changes")
    for each in storage[1].get("files") or ():
        if each.get("append"):
            raise RenderError(f"ignition file {each['path']} includes append")
    if bool(old.get("fips")) != bool(new.get("fips")):
        raise RenderError("detected change to FIPS flag; refusing to modify FIPS on a running cluster")
