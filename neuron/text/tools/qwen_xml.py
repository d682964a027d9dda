"""Qwen's coding models: tags for the function and for every parameter.

<tool_call>
<function=name>
<parameter=key>
value
</parameter>
</function>
</tool_call>
"""

from collections.abc import Mapping, Sequence
from typing import Any

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.coerce import types_of
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.lark import Lark, listed, property_schema
from neuron.text.tools.spec import ToolSpec
from neuron.text.tools.tagged import END, START, read_tagged
from neuron.text.tools.xml_function import (
    FUNCTION,
    FUNCTION_END,
    PARAMETER,
    PARAMETER_END,
)


class QwenXml(ToolFormat):
    name = "qwen_xml"
    markers = (START, FUNCTION)
    """Models that leave the outer tag out write the inner one all the same."""
    tokens = (END,)

    def in_template(self, template: str) -> str | None:
        both = FUNCTION in template and PARAMETER in template
        return f"{FUNCTION} and {PARAMETER}" if both else None

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return None  # The tokens are those of `Hermes`, which is far more common.

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        yield from read_tagged(reader, sink)

    def grammar(self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool) -> str:
        call = lark.either([_call(lark, tool) for tool in tools])
        return listed(call, parallel, lark.text("\n"))


def _call(lark: Lark, tool: ToolSpec) -> str:
    """The parameters in declared order; those that are not required may be missing."""
    required = tool.parameters.get("required", [])
    parts = [lark.text(START, f"\n{FUNCTION}{tool.name}>\n")]
    for key, schema in tool.properties.items():
        parameter = _parameter(lark, tool, key, schema)
        parts.append(parameter if key in required else f"({parameter})?")
    parts.append(lark.text(f"{FUNCTION_END}\n", END))
    return " ".join(parts)


def _parameter(lark: Lark, tool: ToolSpec, key: str, schema: object) -> str:
    head = lark.text(f"{PARAMETER}{key}>\n")
    tail = f"\n{PARAMETER_END}\n"
    types = types_of(schema, tool.parameters)
    if not types or "string" in types:
        return f"{head} {_text(lark, schema, tail)}"
    return f"{head} {lark.json(property_schema(tool, key))} {lark.text(tail)}"


def _text(lark: Lark, schema: object, tail: str) -> str:
    """A string without quotes: only a list of values can be held to."""
    values = _values(schema)
    if values and all(isinstance(value, str) for value in values):
        return lark.either([lark.text(f"{value}{tail}") for value in values])
    return lark.text_up_to(tail)


def _values(schema: object) -> list[Any]:
    if not isinstance(schema, Mapping):
        return []
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else []
