"""Timing profiles: every duration, rate and limit of the embedded cluster, named, with its source (timing/*.yaml).

A profile is sections of entries, each `name: {value: ..., source: "..."}`. `extends: OTHER` takes what it does
not say from another profile; it may change only what that one has. `reference` is the root of them all.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from . import yamls

PROFILES_FOLDER = Path(__file__).with_name("timing")
ROOT = "reference"
TOP_LEVEL = ("description", "extends")


class TimingError(ValueError):
    """A profile that cannot be used. The message names the file, the line and the key."""


class Section:
    """One section of a profile: its entries are attributes. Durations are seconds of cluster time."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._name, self._values = name, dict(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"timing profiles have no entry {self._name}.{name}") from None

    def replaced(self, **values: Any) -> Section:
        """A copy with some values changed. KeyError for a name it does not have."""
        for name in values:
            if name not in self._values:
                raise KeyError(f"{self._name}.{name}")
        return Section(self._name, {**self._values, **values})

    def items(self) -> Mapping[str, Any]:
        return self._values


class Timing:
    """A profile, read and checked: `timing.virt_controller.client_qps`."""

    def __init__(self, name: str, sections: Mapping[str, Section], sources: Mapping[str, str], description: str = "") -> None:
        self.name, self.sources, self.description = name, dict(sources), description
        self._sections = dict(sections)

    def __getattr__(self, name: str) -> Section:
        try:
            return self._sections[name]
        except KeyError:
            raise AttributeError(f"timing profiles have no section {name}") from None

    def replaced(self, section: str, **values: Any) -> Timing:
        """A copy with some values of one section changed, for tests and experiments."""
        changed = {**self._sections, section: self._sections[section].replaced(**values)}
        return Timing(self.name, changed, self.sources, self.description)


def profiles(folder: Path = PROFILES_FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load(name: str = ROOT, folder: Path = PROFILES_FOLDER) -> Timing:
    """Read a profile by name, or by the path of a file. TimingError if it is not there or not right."""
    return _load(name, folder, (), Path())


def _load(name: str, folder: Path, seen: tuple[Path, ...], beside: Path) -> Timing:
    """`beside`: the folder that a file's name is relative to."""
    path = beside / name if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if path in seen:
        raise TimingError(f"{path}: extends itself, by way of {' -> '.join(str(each) for each in seen)}")
    if path.parent == folder and not path.exists():
        raise TimingError(f"{name}: is no timing profile; there are {', '.join(profiles(folder))}, or name a file (my-timing.yaml)")
    root = yamls.compose(path, TimingError)
    if not isinstance(root, yaml.MappingNode):
        raise TimingError(f"{path}: a profile is a mapping of sections")
    top = {key.value: (key, value) for key, value in root.value}
    plain = {word: str(_value(top[word][1])) for word in TOP_LEVEL if word in top}
    base = _load(plain["extends"], folder, (*seen, path), path.parent) if "extends" in plain else None
    if base is None and not (folder == path.parent and path.stem == ROOT):
        raise TimingError(f"{path}: a profile says `extends: {ROOT}`, or another profile's name")
    found = {word: (key, node) for word, (key, node) in top.items() if word not in TOP_LEVEL}
    return _merge(path, plain.get("description", ""), found, base)


def _merge(path: Path, description: str, found: Mapping[str, tuple[yaml.Node, yaml.Node]], base: Timing | None) -> Timing:
    sections = dict(base._sections) if base else {}
    sources = dict(base.sources) if base else {}
    for section, (key, node) in found.items():
        if base and section not in sections:
            raise TimingError(_unknown(path, key, f"section {section}", section, list(sections)))
        if not isinstance(node, yaml.MappingNode):
            raise TimingError(f"{path}:{_line(node)}: {section} must be a mapping of entries")
        old = sections[section].items() if section in sections else {}
        values = dict(old)
        for entry, body in node.value:
            name = f"{section}.{entry.value}"
            if base and entry.value not in old:
                raise TimingError(_unknown(path, entry, f"entry {name}", entry.value, list(old)))
            content = _value(body)
            if not isinstance(content, dict) or set(content) != {"value", "source"}:
                raise TimingError(f"{path}:{_line(entry)}: {name} must be {{value: ..., source: ...}}")
            if not content["source"] or not isinstance(content["source"], str):
                raise TimingError(f"{path}:{_line(entry)}: {name} needs a source (`assumed` is an honest one)")
            value = content["value"]
            if base and not _alike(old[entry.value], value):
                raise TimingError(f"{path}:{_line(entry)}: {name} must be like {old[entry.value]!r}, not {value!r}")
            _check(path, entry, name, value)
            values[entry.value], sources[name] = value, content["source"]
        sections[section] = Section(section, values)
    return Timing(path.stem, sections, sources, description)


def _check(path: Path, node: yaml.Node, name: str, value: Any) -> None:
    """No negative durations, rates or counts, however deep."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check(path, node, name, each)
    elif not value >= 0:
        raise TimingError(f"{path}:{_line(node)}: {name} must not be negative, as {value!r} is")


def _alike(old: Any, new: Any) -> bool:
    if old is None or new is None:
        return True  # null means unlimited
    numbers = (int, float)
    if isinstance(old, numbers) and not isinstance(old, bool):
        return isinstance(new, numbers) and not isinstance(new, bool)
    return isinstance(new, type(old))


def _value(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    return loader.construct_object(node, deep=True)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _unknown(path: Path, node: yaml.Node, what: str, word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
    return f"{path}:{_line(node)}: {ROOT} has no {what}{hint}"
