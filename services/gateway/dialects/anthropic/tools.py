"""Tools, and which of them must be called."""

from typing import Any, Final

from services.gateway.dialects.anthropic.fields import Fields
from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import refused, unsupported

_CUSTOM: Final = (None, "custom")
_CHOICES: Final[dict[str, str]] = {"auto": "auto", "any": "required", "none": "none"}


def tool_fields(body: Fields) -> Json:
    """`tools`, `tool_choice` and `parallel_tool_calls` of the chat request.

    Raises:
        ApiError: 400, they are malformed, or of a kind that is not supported.
    """
    fields: Json = {}
    if tools := [_tool(tool) for tool in body.each("tools")]:
        fields["tools"] = tools
    if choice := body.inner("tool_choice"):
        fields["tool_choice"] = _choice(choice)
        if choice.may("disable_parallel_tool_use", bool):
            fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Fields) -> Json:
    if (kind := tool.may("type", str)) not in _CUSTOM:
        raise unsupported(
            tool.at("type"),
            f"'{kind}' is not supported here; give a tool of your own with an"
            " input_schema",
        )
    function: Json = {"name": tool.need("name", str)}
    if (description := tool.may("description", str)) is not None:
        function["description"] = description
    schema: Json = tool.need("input_schema", dict)
    function["parameters"] = schema
    if (strict := tool.may("strict", bool)) is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def _choice(choice: Fields) -> Any:
    if (kind := choice.kind) == "tool":
        name = choice.need("name", str)
        return {"type": "function", "function": {"name": name}}
    if kind not in _CHOICES:
        raise refused(choice.at("type"), "should be 'auto', 'any', 'tool' or 'none'")
    return _CHOICES[kind]
