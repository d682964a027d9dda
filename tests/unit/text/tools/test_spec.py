"""Tools are checked where they come in; errors name the place."""

import re
from typing import Any

import pytest

from neuron.text.tools.spec import ToolSpec


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def test_a_tool_of_the_request() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": True}}
    tool = ToolSpec.parse(function(description="Does.", parameters=schema), "tools[0]")
    assert tool == ToolSpec("f", "Does.", schema)
    assert [*tool.properties] == ["a", "b"]


def test_description_and_parameters_may_be_missing_or_null() -> None:
    bare = ToolSpec("f")
    assert ToolSpec.parse(function(), "tools[0]") == bare
    nulls = function(description=None, parameters=None)
    assert ToolSpec.parse(nulls, "tools[0]") == bare
    assert not bare.properties


@pytest.mark.parametrize(
    ("tool", "place"),
    [
        ("f", "tools[1]:"),
        ({"type": "retrieval"}, "tools[1].type:"),
        ({"type": "function"}, "tools[1].function:"),
        ({"type": "function", "function": {}}, "tools[1].function.name:"),
        (function(name="a b"), "tools[1].function.name:"),
        (function(name="x" * 129), "tools[1].function.name:"),
        (function(name=""), "tools[1].function.name:"),
        (function(name="f\n"), "tools[1].function.name:"),
        (function(description=1), "tools[1].function.description:"),
        (function(parameters=[]), "tools[1].function.parameters:"),
        (function(parameters={"type": "array"}), "tools[1].function.parameters.type:"),
        (
            function(parameters={"properties": []}),
            "tools[1].function.parameters.properties:",
        ),
        (
            function(parameters={"properties": {"a": 1}}),
            "tools[1].function.parameters.properties.a:",
        ),
        (
            function(parameters={"required": "a"}),
            "tools[1].function.parameters.required:",
        ),
    ],
)
def test_errors_name_the_place(tool: object, place: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(place)} "):
        ToolSpec.parse(tool, "tools[1]")
