"""processedtemplates of template.openshift.io: a Template's parameters worked out and put into its objects, as `oc process` asks for it."""

from __future__ import annotations

import random
import re
import string
from typing import Any

from aiohttp import web

from . import errors
from .calls import Call
from .errors import Cause
from .representations import answer_object, parse_json, read_object
from .store import Object
from .writes import method_not_supported

GROUP, VERSION = "template.openshift.io", "v1"
TEXT = re.compile(r"\$\{([A-Za-z0-9_]+)\}")
WHOLE = re.compile(r"\$\{\{([A-Za-z0-9_]+)\}\}")  # takes the quotes with it: a number, a boolean, an object
PATTERN = re.compile(r"\[([^\]]+)\]\{(\d+)\}")  # of a generated value: characters, and how many
CLASSES = {r"\w": string.ascii_letters + string.digits + "_", r"\d": string.digits, r"\a": string.ascii_letters + string.digits,
           r"\A": "~!@#$%^&*()-_+={}[]\\|<,>.?/\"';:`"}


class Templates:
    """Serves .../processedtemplates."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    @staticmethod
    def discovery() -> dict[tuple[str, str], list[Object]]:
        return {(GROUP, VERSION): [{"name": "processedtemplates", "singularName": "processedtemplate", "namespaced": True, "kind": "Template", "verbs": ["create"]}]}

    @staticmethod
    def serves(call: Call) -> bool:
        return (call.group, call.version, call.plural) == (GROUP, VERSION, "processedtemplates") and not call.name

    async def answer(self, call: Call) -> web.StreamResponse:
        if call.request.method != "POST":
            raise method_not_supported(call)
        template = await read_object(call.request, "Template")
        causes: list[Cause] = []
        values = {each.get("name", ""): self._value(number, each, causes) for number, each in enumerate(template.get("parameters") or ())}
        if causes:
            raise errors.invalid("Template", GROUP, (template.get("metadata") or {}).get("name", ""), causes)
        labels = {_text(key, values): _text(value, values) for key, value in (template.get("labels") or {}).items()}
        if template.get("message"):
            template["message"] = _text(template["message"], values)
        template.update(apiVersion=f"{GROUP}/{VERSION}", kind="Template", labels=labels, objects=[_object(each, values, labels) for each in template.get("objects") or ()])
        return answer_object(template, 201)

    def _value(self, number: int, parameter: Object, causes: list[Cause]) -> str:
        """What a parameter stands for, which is kept in it: its value, or one that is drawn."""
        where = f"template.parameters[{number}]"
        if not parameter.get("value") and parameter.get("generate"):
            if parameter["generate"] != "expression":
                causes.append(Cause(where, f'Invalid value: "{parameter["generate"]}": Unknown generator name \'{parameter["generate"]}\' for parameter {parameter.get("name")}'))
            else:
                try:
                    parameter["value"] = PATTERN.sub(self._draw, parameter.get("from") or "")
                except ValueError as error:
                    causes.append(Cause(where, f"Invalid value: {error}"))
        if not parameter.get("value") and parameter.get("required") and not causes:
            causes.append(Cause(where, f"Required value: template.parameters[{number}]: parameter {parameter.get('name')} is required and must be specified", "FieldValueRequired"))
        return str(parameter.get("value") or "")

    def _draw(self, pattern: re.Match[str]) -> str:
        """Of [a-z0-9]{8} eight characters. ValueError for a range that runs backwards."""
        found = ""
        for each in re.findall(r"\\[wdaA]|.-.|.", pattern[1]):
            if len(each) == 3 and each[0] > each[2]:
                raise ValueError(f"invalid range specified: {each}")
            found += CLASSES.get(each) or ("".join(map(chr, range(ord(each[0]), ord(each[2]) + 1))) if len(each) == 3 else each)
        return "".join(self._random.choices(found, k=int(pattern[2])))


def _object(obj: Object, values: dict[str, str], labels: dict[str, str]) -> Object:
    """An object of a template, with the template's labels. A namespace that is written out is the template's own affair, and goes."""
    meta = obj.get("metadata") if isinstance(obj.get("metadata"), dict) else {}
    if meta and "namespace" in meta and not TEXT.search(str(meta["namespace"])):
        del meta["namespace"]
    found: Object = _substituted(obj, values)
    if labels:
        found.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
    return found


def _substituted(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {_text(key, values): _substituted(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [_substituted(each, values) for each in value]
    if not isinstance(value, str):
        return value
    whole = WHOLE.fullmatch(value)
    if whole is None or whole[1] not in values:
        return _text(value, values)
    text = values[whole[1]]
    try:
        return parse_json(text.encode())
    except ValueError:
        return text


def _text(text: str, values: dict[str, str]) -> str:
    """With what is known put in; the rest stays as it is written."""
    return TEXT.sub(lambda found: values.get(found[1], found[0]), text)
