"""Lists: what of a kind, at which revision, and how many at a time."""

from __future__ import annotations

import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from . import errors
from .errors import Cause
from .kinds import Kind
from .selectors import Selection
from .store import Entry, Store
from .watches import in_version

PAGED_LISTS_KEPT = 8
MOST = 2**64 - 1


@dataclass(frozen=True)
class ListOptions:
    """The query parameters of a list or watch. `resource_version` None means that none was given."""

    label_selector: str
    field_selector: str
    limit: int
    continue_token: str
    resource_version: int | None
    match: str
    watch: bool
    timeout_seconds: int
    bookmarks: bool
    send_initial_events: bool | None


@dataclass(frozen=True)
class Page:
    """A part of a list, and how to go on."""

    entries: list[Entry]
    revision: int
    next_token: str
    remaining: int | None


def parse_options(query: dict[str, str]) -> ListOptions:
    """ApiError 400 or 422, worded as the real server's."""
    def integer(name: str) -> int:
        text = query.get(name, "")
        if text and not re.fullmatch(r"[+-]?[0-9]+", text):
            raise errors.ApiError(400, f'strconv.ParseInt: parsing "{text}": invalid syntax')
        if len(text) > 20 or not -(2**63) <= int(text or 0) < 2**63:
            raise errors.ApiError(400, f'strconv.ParseInt: parsing "{text}": value out of range')
        return int(text or 0)

    def flag(name: str) -> bool:
        # Go's conversion takes anything but these for true.
        return name in query and query[name].lower() not in ("false", "0")

    watch = flag("watch")
    initial = flag("sendInitialEvents") if "sendInitialEvents" in query else None
    options = ListOptions(query.get("labelSelector", ""), query.get("fieldSelector", ""), integer("limit"), query.get("continue", ""),
                          _version(query.get("resourceVersion", ""), watch), query.get("resourceVersionMatch", ""), watch,
                          integer("timeoutSeconds"), flag("allowWatchBookmarks"), initial)
    _check_match(options, query)
    return options


def _version(text: str, watch: bool) -> int | None:
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= MOST:
        return int(text)
    why = "value out of range" if text.isascii() and text.isdigit() else "invalid syntax"
    message = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": {why}'
    raise errors.ApiError(500, message, "") if watch else errors.ApiError(400, f"invalid resource version: {message}")


def get_version(query: dict[str, str]) -> int:
    """The least version that one object may be read at."""
    return _version(query.get("resourceVersion", ""), True) or 0


def _check_match(options: ListOptions, query: dict[str, str]) -> None:
    causes = []
    match, version = options.match, query.get("resourceVersion", "")
    forbidden = "FieldValueForbidden"
    if options.watch:
        if match and options.send_initial_events is None:
            causes.append(Cause("resourceVersionMatch", "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided", forbidden))
        if options.send_initial_events is not None:
            if not match:
                causes.append(Cause("resourceVersionMatch", "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan", forbidden))
            elif match != "NotOlderThan":
                causes.append(Cause("resourceVersionMatch", f'Unsupported value: "{match}": supported values: "NotOlderThan"', "FieldValueNotSupported"))
    else:
        if options.send_initial_events is not None:
            causes.append(Cause("sendInitialEvents", "Forbidden: sendInitialEvents is forbidden for list", forbidden))
        if match and not version:
            causes.append(Cause("resourceVersionMatch", "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided", forbidden))
        elif match and options.continue_token:
            causes.append(Cause("resourceVersionMatch", "Forbidden: resourceVersionMatch is forbidden when continue is provided", forbidden))
        elif match and match not in ("Exact", "NotOlderThan"):
            causes.append(Cause("resourceVersionMatch", f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""', "FieldValueNotSupported"))
        elif match == "Exact" and options.resource_version == 0:
            causes.append(Cause("resourceVersionMatch", 'Forbidden: resourceVersionMatch "Exact" is forbidden for resourceVersion "0"', forbidden))
    if causes:
        raise errors.invalid("ListOptions", "meta.k8s.io", "", causes)


def too_large(asked: int, current: int) -> errors.ApiError:
    return errors.ApiError(504, f"Timeout: Too large resource version: {asked}, current: {current}", headers={"Retry-After": "1"},
                           details={"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1})


class Lists:
    """Consistent pages: every page of a list is of the revision of its first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[Kind, str, int], list[Entry]] = OrderedDict()

    def page(self, kind: Kind, selection: Selection, options: ListOptions) -> Page:
        revision, after = self._store.revision, ("", "")
        if options.continue_token:
            if options.resource_version not in (None, 0):
                raise errors.ApiError(400, "specifying resource version is not allowed when using continue")
            asked, after = _decode(options.continue_token)
            revision = asked if asked > 0 else revision
        elif options.match == "Exact" or (options.limit and not options.match and options.resource_version):
            assert options.resource_version is not None
            revision = options.resource_version
        asked_version = max(revision, options.resource_version or 0)
        if asked_version > self._store.revision:
            raise too_large(asked_version, self._store.revision)
        # As the watch cache does: with version 0, or none that must be exact, a limit is not needed but honoured.
        limit = 0 if options.resource_version == 0 and not options.continue_token else options.limit
        entries = self._entries(kind, selection, revision, paged=bool(options.continue_token or limit))
        if entries is None:
            raise self._expired(options.continue_token, after)
        if options.continue_token:
            entries = entries[_after(entries, after):]
        if not selection.everything:
            entries = selection.filter(entries)
        if limit <= 0 or len(entries) <= limit:
            return Page(entries, revision, "", None)
        rest = len(entries) - limit if selection.everything else None
        return Page(entries[:limit], revision, _encode(revision, entries[limit - 1].key), rest)

    def forget(self) -> None:
        """Let go of lists that are being paged through: what compaction does to them."""
        self._kept.clear()

    def _entries(self, kind: Kind, selection: Selection, revision: int, *, paged: bool) -> list[Entry] | None:
        if selection.name and selection.namespace and revision == self._store.revision:
            entry = self._store.entry(kind, selection.namespace, selection.name)
            return [entry] if entry else []
        key = (kind, selection.namespace, revision)
        entries = self._kept.get(key)
        if entries is None:
            entries = self._store.entries_at(kind, selection.namespace, revision)
        if entries is not None and paged:
            self._kept[key] = entries
            self._kept.move_to_end(key)
            while len(self._kept) > PAGED_LISTS_KEPT:
                self._kept.popitem(last=False)
        return entries

    def _expired(self, token: str, after: tuple[str, str]) -> errors.ApiError:
        if not token:
            return errors.ApiError(410, "The resourceVersion for the provided list is too old.")
        error = errors.ApiError(410, "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, "
                                     "or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - "
                                     "objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
        error.metadata = {"continue": _encode(-1, after)}
        return error


def _after(entries: list[Entry], key: tuple[str, str]) -> int:
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if entries[middle].key <= key:
            low = middle + 1
        else:
            high = middle
    return low


def _encode(revision: int, last: tuple[str, str]) -> str:
    """A continue token in the real server's form: the revision and the key to start from."""
    namespace, name = last
    start = (f"{namespace}/{name}" if namespace else name) + "\0"
    return base64.urlsafe_b64encode(orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": start})).decode().rstrip("=")


def _decode(token: str) -> tuple[int, tuple[str, str]]:
    def bad(why: str) -> errors.ApiError:
        return errors.ApiError(400, f"invalid continue token: continue key is not valid: {why}")

    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise bad("illegal base64 data at input byte 0") from None
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        first = raw[:1].decode("latin-1")
        raise bad(f"invalid character '{first}' looking for beginning of value" if first else "unexpected end of JSON input") from None
    if not isinstance(value, dict) or value.get("v") != "meta.k8s.io/v1" or not isinstance(value.get("start"), str) or not isinstance(value.get("rv"), int):
        raise bad("server does not recognize this encoded version")
    if value["rv"] == 0:
        raise bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
    namespace, slash, name = value["start"].rstrip("\0").rpartition("/")
    return value["rv"], (namespace if slash else "", name)


def encode_list(kind: Kind, api_version: str, page: Page, list_kind: str, items: Iterable[bytes]) -> bytes:
    """The list's JSON around items that are JSON already."""
    meta: dict[str, object] = {"resourceVersion": str(page.revision)}
    if page.next_token or kind.custom:
        meta["continue"] = page.next_token
    if page.next_token and page.remaining is not None:
        meta["remainingItemCount"] = page.remaining
    return b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[%b]}\n' % (list_kind.encode(), api_version.encode(), orjson.dumps(meta), b",".join(items))


def item_encoder(kind: Kind, api_version: str) -> Callable[[Entry], bytes]:
    """How an object stands in a list: items of built-in kinds do not repeat apiVersion and kind."""
    if kind.custom:
        return lambda entry: in_version(kind, api_version, entry.raw)
    if api_version != kind.api_version:
        shown = len(kind.prefix) - len(kind.api_version) + len(api_version)
        return lambda entry: b"{" + in_version(kind, api_version, entry.raw)[shown:]
    length = len(kind.prefix)
    return lambda entry: b"{" + entry.raw[length:]
