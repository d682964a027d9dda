"""Arguments that a model writes without quotes, as the JSON their schema asks for."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from neuron.text.tools.python_literal import to_json

_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?")
_BOOLEANS: Final = {"true": "true", "false": "false"}
_NULLS: Final = ("null", "none")
_TYPE_OF: Final = {
    str: "string", bool: "boolean", int: "integer", float: "number",
    list: "array", dict: "object", type(None): "null",
}  # fmt: skip
_MAX_REFERENCES: Final = 16


def types_of(schema: object, root: Mapping[str, Any]) -> tuple[str, ...]:
    """The JSON types that a schema allows, in its own order; none where it is open.

    Args:
        root: the whole document, for references such as `#/$defs/color`.
    """
    return tuple(dict.fromkeys(_types(schema, root, _MAX_REFERENCES)))


def coerce(text: str, types: tuple[str, ...]) -> str:
    """The JSON of a value written as plain text.

    The first type that fits counts; text that fits none is a string, and what the
    caller's schema says about it is the caller's to say.
    """
    plain = text.strip()
    may_be_null = "null" in types or (types and "string" not in types)
    if may_be_null and plain.lower() in _NULLS:
        return "null"
    for type_ in types:
        if (value := _as_type(plain, type_)) is not None:
            return value
        if type_ == "string":
            break
    return json.dumps(text, ensure_ascii=False)


def _as_type(text: str, type_: str) -> str | None:
    match type_:
        case "integer":
            return text if _INTEGER.fullmatch(text) else None
        case "number":
            return text if _NUMBER.fullmatch(text) else None
        case "boolean":
            return _BOOLEANS.get(text.lower())
        case "object" | "array":
            return _container(text, "{" if type_ == "object" else "[")
        case _:
            return None


def _container(text: str, opening: str) -> str | None:
    """An object or array in JSON, or as Python would print it."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        converted = to_json(text)
    else:
        converted = text
    return converted if converted and converted.startswith(opening) else None


def _types(schema: object, root: Mapping[str, Any], depth: int) -> list[str]:
    if not isinstance(schema, Mapping) or not depth:
        return []
    match schema:
        case {"type": str(type_)}:
            return [type_]
        case {"type": list(types)}:
            return [type_ for type_ in types if isinstance(type_, str)]
        case {"const": value}:
            return [_TYPE_OF.get(type(value), "string")]
        case {"enum": list(values)}:
            return [_TYPE_OF.get(type(value), "string") for value in values]
        case {"$ref": str(reference)}:
            return _types(_resolve(reference, root), root, depth - 1)
        case {"anyOf": list(options)} | {"oneOf": list(options)}:
            return [t for option in options for t in _types(option, root, depth - 1)]
        case {"allOf": list(options)} if options:
            return _types(options[0], root, depth - 1)
    return []


def _resolve(reference: str, root: Mapping[str, Any]) -> object:
    """What `#/a/b` points at; None where that is nothing."""
    found: object = root
    for part in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(found, Mapping):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found
