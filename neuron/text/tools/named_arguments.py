"""Arguments that are written one by one, each after its name, and not as an object."""

from collections.abc import Mapping
from typing import Any, Final

from neuron.text.schema_check import moved, subschemas
from neuron.text.tools.spec import ToolSpec

_FOLLOWED: Final = frozenset({"type", "properties", "required", "additionalProperties"})
"""Keywords of the arguments object that are followed by writing what is declared."""
_SILENT: Final = frozenset({
    "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated",
    "description", "examples", "title",
})  # fmt: skip
"""Keywords that demand nothing."""
_PREFIXES: Final = ("#/$defs/", "#/definitions/")


def check_named(tool: ToolSpec) -> None:
    """See that a strict tool demands nothing that only a whole object can satisfy.

    Raises:
        ValueError: it does; the message begins with the place.
    """
    if not tool.strict:
        return
    for keyword in tool.parameters:
        if keyword not in _FOLLOWED | _SILENT:
            raise not_followed(tool, tool.place, keyword)
    for name in tool.parameters.get("required", ()):
        if name not in tool.properties:
            raise ValueError(
                f"{tool.place}.required: the strict tool {tool.name!r} requires"
                f" {name!r}, which is not in its properties"
            )


def not_followed(tool: ToolSpec, place: str, keyword: str) -> ValueError:
    """What to raise where a strict tool asks for more than the format can promise."""
    return ValueError(
        f"{place}.{keyword}: {keyword} cannot be enforced here in this model's notation"
        f" of calls, as the strict tool {tool.name!r} would need"
    )


def is_silent(keyword: str) -> bool:
    """Whether a keyword demands nothing of a value."""
    return keyword in _SILENT


def property_schema(tool: ToolSpec, key: str) -> Mapping[str, Any]:
    """Of one parameter, with what it refers to."""
    schema = tool.properties[key]
    if not isinstance(schema, Mapping):
        if schema is False and tool.strict:
            raise not_followed(tool, f"{tool.place}.properties.{key}", "false")
        return {}
    if not _references(schema):
        return schema
    if all(name.startswith(_PREFIXES) for name in _references(tool.parameters)):
        shared = {part: tool.parameters[part] for part in ("$defs", "definitions")
                  if part in tool.parameters}  # fmt: skip
        return {**shared, **schema}
    pointer = key.replace("~", "~0").replace("/", "~1")
    return {
        "$ref": f"#/$defs/tool/properties/{pointer}",
        "$defs": {"tool": moved(tool.parameters, "#/$defs/tool")},
    }


def _references(schema: Mapping[str, Any]) -> list[str]:
    return [
        part["$ref"]
        for _, part in subschemas(schema)
        if isinstance(part, Mapping) and isinstance(part.get("$ref"), str)
    ]
