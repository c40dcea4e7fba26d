"""YAML files that people write: read into a pydantic model, with errors that name the file, the line and the key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import yaml

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound="BaseModel")
Where = tuple[str | int, ...]


class FileError(ValueError):
    """What is wrong with a file, in one line."""


def read(path: Path) -> tuple[Any, dict[Where, int]]:
    """The document, and the line (from 1) of each key and list item. FileError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is not UTF-8: {error}") from None
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        lines: dict[Where, int] = {}
        _check(node, (), lines, path)
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise FileError(f"{path}:{mark.line + 1 if mark else 1}: is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:  # a character that YAML does not have
        raise FileError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    except FileError:
        raise
    except (ValueError, RecursionError) as error:  # a date that is none; what contains itself
        raise FileError(f"{path}: cannot be read: {error}") from None


def _check(node: yaml.Node | None, where: Where, lines: dict[Where, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise FileError(f"{path}:{key.start_mark.line + 1}: a key must be a word or a number")
            name = yaml.safe_load(key.value) if key.tag.endswith((":int", ":float")) else key.value
            inside = (*where, name)
            if inside in lines:
                named = ".".join(map(str, inside))
                raise FileError(f"{path}:{key.start_mark.line + 1}: {named!r} is given twice (first on line {lines[inside]})")
            lines[inside] = key.start_mark.line + 1
            _check(value, inside, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*where, index] = value.start_mark.line + 1
            _check(value, (*where, index), lines, path)


def load(path: Path, model: type[Model]) -> Model:
    """Read and validate. FileError names the first thing that is wrong."""
    from pydantic import ValidationError

    data, lines = read(path)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise FileError(f"{path}:1: must be a mapping of keys to values, not {_short(data)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise FileError(describe(path, lines, error, model)) from None


def describe(path: Path, lines: dict[Where, int], error: ValidationError, model: type[BaseModel]) -> str:
    """`FILE:LINE: key: what is wrong`, for the first error; a misspelt key gets the nearest known one."""
    import difflib

    first = error.errors()[0]
    where: Where = tuple(part for part in first["loc"] if part != "[key]")
    line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), 1)
    name = ".".join(str(part) for part in where) or "(file)"
    if first["type"] == "extra_forbidden":
        known = _fields(model, where[:-1])
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{path}:{line}: unknown key {name!r}; {hint}"
    words = _WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    given = "" if first["type"] in ("missing", "value_error") else f", not {_short(first['input'])}"
    return f"{path}:{line}: {name}: {words}{given}"


# pydantic's words for what it wants are Python's: these are of who writes the file.
_WORDS = {
    "missing": "is missing",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a mapping"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    "string_type": "must be text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields(model: type[BaseModel], where: Where) -> list[str]:
    """The keys that the model knows at this place; none where it takes any."""
    current: Any = model
    for part in where:
        current = _inside(current, part)
    found = _model_in(current)
    return [info.alias or name for name, info in found.model_fields.items() if not info.exclude] if found else []


def _inside(annotation: Any, part: str | int) -> Any:
    """The type of the value that `part` names in a model, a dict or a list."""
    found = _model_in(annotation)
    if found is not None and get_origin(annotation) not in (dict, list):
        return next((info.annotation for name, info in found.model_fields.items() if part in (name, info.alias)), None)
    return get_args(annotation)[-1] if get_args(annotation) else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model in a type such as Model, Model | None or Annotated[Model, ...]."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (dict, list):
        return None
    return next((found for found in map(_model_in, get_args(annotation)) if found), None)
