"""Grammar of a call in tags, as `xml_function` reads it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuron.text.grammar_spec import BLANK
from neuron.text.schema_check import pointed_at
from neuron.text.tools.coerce import types_of
from neuron.text.tools.lark import Lark, quoted
from neuron.text.tools.named_arguments import (
    check_named,
    is_silent,
    not_followed,
    property_schema,
)
from neuron.text.tools.spec import ToolSpec
from neuron.text.tools.tagged import END
from neuron.text.tools.xml_function import (
    FUNCTION,
    FUNCTION_END,
    PARAMETER,
    PARAMETER_END,
)

_ANY: Final = "/(?s:.*)/"
_NULL: Final = quoted("null")
_TAIL: Final = f"\n{PARAMETER_END}\n"
_ENDS: Final = (
    f"{_ANY} ({quoted(PARAMETER_END)} /{BLANK}*/"
    f" ({quoted(PARAMETER)} | {quoted(FUNCTION_END)})"
    f" | {quoted(FUNCTION_END)} /{BLANK}*/ {quoted(END)}) {_ANY}"
)
"""Text in which the reader would see the end of a value."""
_KEY: Final = r"/[^<>\n]+/"
_MAX_REFERENCES: Final = 16


def xml_call(lark: Lark, tool: ToolSpec) -> str:
    """The body of a rule for a call, without its first tag.

    The parameters come in declared order; those that are not required may be missing.

    Raises:
        ValueError: it cannot be called so.
    """
    parts = [lark.text(f"\n{FUNCTION}{tool.name}>\n")]
    if not tool.parameters:
        text = _value(lark, [_ANY])
        parts.append(f'({lark.text(PARAMETER)} {_KEY} {lark.text(">")} "\\n" {text})*')
    check_named(tool)
    required = tool.parameters.get("required", [])
    for key in tool.properties:
        parameter = _parameter(lark, tool, key)
        parts.append(parameter if key in required else f"({parameter})?")
    parts.append(lark.text(f"{FUNCTION_END}\n", END))
    return " ".join(parts)


def _parameter(lark: Lark, tool: ToolSpec, key: str) -> str:
    head = lark.text(f"{PARAMETER}{key}>\n")
    types = types_of(tool.properties[key], tool.parameters)
    if not types or "string" in types:
        return f"{head} {_text(lark, tool, key)}"
    value = lark.json(property_schema(tool, key), strict=tool.strict)
    return f"{head} {value} {lark.text(_TAIL)}"


def _text(lark: Lark, tool: ToolSpec, key: str) -> str:
    """A string without quotes, so that its schema is of little use."""
    try:
        values = _values(tool, tool.properties[key], f"{tool.place}.properties.{key}")
    except ValueError:
        if tool.strict:
            raise
        values = [_ANY]
    return _value(lark, values)


def _value(lark: Lark, values: Sequence[str]) -> str:
    return lark.lazy(f"(({' | '.join(values)}) & ~({_ENDS})) {quoted(_TAIL)}")


def _values(
    tool: ToolSpec, schema: object, place: str, references: int = 0
) -> list[str]:
    """What a text may be so that it satisfies the schema, as Lark terminals.

    Raises:
        ValueError: that cannot be told.
    """
    if schema is True:
        return [_ANY]
    if not isinstance(schema, Mapping):
        raise not_followed(tool, place, "false")
    match {key: value for key, value in schema.items() if not is_silent(key)}:
        case {"$ref": reference, **rest} if not rest and references < _MAX_REFERENCES:
            target = pointed_at(tool.parameters, reference)
            return _values(tool, target, place, references + 1)
        case {"anyOf": list(options), **rest} if not rest:
            return [
                value
                for index, option in enumerate(options)
                for value in _values(
                    tool, option, f"{place}.anyOf[{index}]", references
                )
            ]
        case {"const": value, **rest} if not rest.keys() - {"type"}:
            return [_fixed(tool, place, value)]
        case {"enum": list(values), **rest} if not rest.keys() - {"type"}:
            return [_fixed(tool, place, value) for value in values]
        case demands:
            return _typed(tool, place, demands)


def _fixed(tool: ToolSpec, place: str, value: object) -> str:
    if value is None:
        return _NULL
    if not isinstance(value, str):
        raise not_followed(tool, place, "enum")
    return quoted(value)


def _typed(tool: ToolSpec, place: str, demands: dict[str, Any]) -> list[str]:
    type_ = demands.pop("type", "string")
    types = set(type_) if isinstance(type_, list) else {type_}
    least, most = demands.pop("minLength", 0), demands.pop("maxLength", "")
    for keyword in demands:
        raise not_followed(tool, place, keyword)
    if types - {"string", "null"}:
        raise not_followed(tool, place, "type")
    text = _ANY if not least and most == "" else f"/(?s:.{{{least},{most}}})/"
    return [text] * ("string" in types) + [_NULL] * ("null" in types)
