"""Label and field selectors, as the query parameters `labelSelector` and `fieldSelector` carry them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from . import errors
from .kinds import Kind
from .store import Entry

OPERATORS = {"=", "==", "!=", "in", "notin", "gt", "lt", ">", "<"}
TOKEN = re.compile(r"\s*(==|!=|=|!|\(|\)|,|>|<|[^\s=!(),<>]+)")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
LABEL_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")

Test = Callable[[dict[str, str]], bool]


@dataclass(frozen=True)
class Selection:
    """Which objects of a kind a request means."""

    namespace: str = ""
    labels: tuple[Test, ...] = ()
    fields: tuple[Test, ...] = ()
    name: str = ""  # from metadata.name=X: the one object it can be

    def matches(self, entry: Entry) -> bool:
        if self.namespace and entry.key[0] != self.namespace:
            return False
        if self.name and entry.key[1] != self.name:
            return False
        if self.labels and not all(test(entry.labels) for test in self.labels):
            return False
        if self.fields:
            fields = {**entry.selectable, "metadata.name": entry.key[1], "metadata.namespace": entry.key[0]}
            return all(test(fields) for test in self.fields)
        return True

    def filter(self, entries: list[Entry]) -> list[Entry]:
        """Those that match; a requirement at a time, which for a long list is several times faster than `matches`."""
        if self.everything:
            return [entry for entry in entries if entry.key[0] == self.namespace] if self.namespace else entries
        for test in self.labels:
            entries = [entry for entry in entries if test(entry.labels)]
        if self.fields or self.name or self.namespace:
            entries = [entry for entry in entries if self.matches(entry)]
        return entries

    @property
    def everything(self) -> bool:
        """True if only the namespace decides."""
        return not (self.labels or self.fields or self.name)


def selection(kind: Kind, namespace: str, label_selector: str, field_selector: str) -> Selection:
    """ApiError 400 for a selector that cannot be parsed or names a field that cannot be selected by."""
    labels = label_tests(label_selector) if label_selector else ()
    if not field_selector:
        return Selection(namespace, labels)
    terms = field_terms(field_selector)
    known = {"metadata.name", "metadata.namespace", *kind.selectable_fields}
    tests, name = [], ""
    for path, operator, value in terms:
        if path not in known or (path == "metadata.namespace" and not kind.namespaced):
            raise errors.ApiError(400, _unsupported(kind, path))
        if path == "metadata.name" and operator == "=":
            name = value
        tests.append(_field_test(path, operator, value))
    return Selection(namespace, labels, tuple(tests), name)


def _unsupported(kind: Kind, path: str) -> str:
    return f"field label not supported: {path}" if kind.custom or kind.group else f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"' \
        if not kind.selectable_fields else f"field label not supported: {path}"


def _field_test(path: str, operator: str, value: str) -> Test:
    return (lambda fields: fields.get(path, "") == value) if operator == "=" else (lambda fields: fields.get(path, "") != value)


def field_terms(text: str) -> list[tuple[str, str, str]]:
    """`a=b,c!=d` as (path, "=" or "!=", value); a backslash escapes a comma, an equals sign or itself."""
    terms = []
    for part in re.split(r"(?<!\\),", text):
        if not part:
            continue
        found = re.match(r"((?:[^=!\\]|\\.)*)(!=|==|=)(.*)", part, re.DOTALL)
        if not found:
            raise errors.ApiError(400, f"invalid selector: '{text}'; can't understand '{part}'")
        value = re.sub(r"\\([\\,=])", r"\1", found[3])
        terms.append((found[1], "!=" if found[2] == "!=" else "=", value))
    return terms


@lru_cache(maxsize=512)
def label_tests(text: str) -> tuple[Test, ...]:
    """The requirements of a label selector: equality, in, notin, exists, !exists, gt and lt."""
    tokens = _tokens(text)
    tests: list[Test] = []
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1] if position <= len(tokens) else ""

    while position < len(tokens):
        if peek() == "!":
            take()
            key = _key(take())
            tests.append(lambda labels, key=key: key not in labels)  # type: ignore[misc]
        else:
            key = _key(take())
            if peek() in ("", ","):
                tests.append(lambda labels, key=key: key in labels)  # type: ignore[misc]
            else:
                operator = take()
                if operator not in OPERATORS:
                    raise _bad(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")
                values = _values(operator, take, peek)
                tests.append(_label_test(key, operator, values))
        if peek() == ",":
            take()
            if not peek():
                raise _bad("found '', expected: identifier after ','")
        elif peek():
            raise _bad(f"found '{peek()}', expected: ',' or 'end of string'")
    return tuple(tests)


def _tokens(text: str) -> list[str]:
    found, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match:
            break
        found.append(match[1])
        position = match.end()
    return found


def _values(operator: str, take: Callable[[], str], peek: Callable[[], str]) -> frozenset[str]:
    if operator not in ("in", "notin"):
        value = "" if peek() in ("", ",") else take()
        if operator in ("gt", "lt", ">", "<") and not re.fullmatch(r"[+-]?\d+", value):
            raise errors.ApiError(400, f'unable to parse requirement: values[0]: Invalid value: "{value}": for \'Gt\', \'Lt\' operators, the value must be an integer')
        return frozenset({_value(value)})
    if (opening := take()) != "(":
        raise _bad(f"found '{opening}' expected: '('")
    values, expected = set(), True
    while True:
        token = take()
        if token == ")":
            if expected:
                values.add("")
            return frozenset(values)
        if token == ",":
            if expected:
                values.add("")
            expected = True
        elif token and expected and token not in ("(", "=", "==", "!=", "!", "<", ">"):
            values.add(_value(token))
            expected = False
        else:
            raise _bad(f"found '{token}', expected: ',' or ')'" if not expected else f"found '{token}', expected: ',', ')' or identifier")


def _bad(why: str) -> errors.ApiError:
    return errors.ApiError(400, f"unable to parse requirement: {why}")


def _key(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if not LABEL_NAME.fullmatch(name) or len(name) > 63 or (slash and not prefix):
        if text in ("", ",", "(", ")", "=", "==", "!=", "<", ">"):
            raise _bad(f"found '{text}', expected: !, identifier, or 'end of string'")
        raise _bad(f'<nil>: Invalid value: "{text}": name part must consist of alphanumeric characters, \'-\', \'_\' or \'.\', and must start and end with an '
                   "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")
    return text


def _value(text: str) -> str:
    if not LABEL_VALUE.fullmatch(text) or len(text) > 63:
        raise _bad(f'values[0][<nil>]: Invalid value: "{text}": a valid label must be an empty string or consist of alphanumeric characters, \'-\', \'_\' or \'.\', and must '
                   "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')")
    return text


def _label_test(key: str, operator: str, values: frozenset[str]) -> Test:
    if operator in ("=", "==", "in"):
        return lambda labels: key in labels and labels[key] in values
    if operator in ("!=", "notin"):
        return lambda labels: key not in labels or labels[key] not in values
    bound, above = int(next(iter(values))), operator in ("gt", ">")

    def compare(labels: dict[str, str]) -> bool:
        try:
            value = int(labels[key])
        except (KeyError, ValueError):
            return False
        return value > bound if above else value < bound

    return compare
