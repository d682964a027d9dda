"""Whatever a constrained model writes is a call of a tool that it may call."""

from pathlib import Path

import jsonschema
import pytest

from neuron.text.output import OutputSyntax
from neuron.text.tools.constraint import constraint_for
from neuron.text.tools.spec import NamedTool, ToolChoice, ToolSpec
from tests.unit.text.tools.constrained import (
    TOKENS,
    accepts,
    model,
    read,
    schema,
    wander,
)
from tests.unit.text.tools.support import BY_NAME, WRITERS

UNIT = {"enum": ["C", "F"]}
DAYS = {"type": "integer", "minimum": 0, "maximum": 99}
TOOLS = [
    ToolSpec("weather", "", schema({"unit": UNIT, "days": DAYS}, "unit")),
    ToolSpec("stop", "", schema({})),
    ToolSpec("set", "", {
        **schema({"on": {"type": "boolean"}, "list": {"$ref": "#/$defs/few"}}, "list"),
        "$defs": {"few": {"type": "array", "items": DAYS, "maxItems": 3}},
    }),
]  # fmt: skip
BY_TOOL = {tool.name: tool for tool in TOOLS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("parallel", [True, False])
def test_whatever_is_written_is_a_valid_call(
    layout: str, parallel: bool, root: Path
) -> None:
    format_ = WRITERS[layout][0]
    of = model(root, TOKENS.get(layout, ()))
    syntax = of.syntax(format_)
    spec = constraint_for(syntax, TOOLS, "required", parallel)
    assert spec is not None
    several = 0
    for seed in range(6):
        ids = wander(of.compiler.compile(spec), of.eos, seed)
        reply = read(of, ids, syntax, TOOLS)
        assert (reply.content, reply.unparsed, reply.incomplete) == ("", 0, [])
        assert reply.calls
        for name, arguments in reply.parsed():
            jsonschema.validate(arguments, BY_TOOL[name].parameters)
        several += len(reply.calls) > 1
    assert bool(several) is parallel


@pytest.mark.parametrize("layout", WRITERS)
def test_what_the_model_would_write_anyway_is_allowed(layout: str, root: Path) -> None:
    format_, writer = WRITERS[layout]
    of = model(root, TOKENS.get(layout, ()))
    spec = constraint_for(of.syntax(format_), TOOLS, "required")
    assert spec is not None
    unit = {"unit": "C", "days": 7}
    if layout != "pythonic":
        assert accepts(
            of.compiler.compile(spec),
            of.text.encode(writer([("weather", unit), ("stop", {})]), add_bos=False),
        )
    for text in ("Hello", writer([("other", {})]), writer([("weather", {"days": 7})])):
        ids = of.text.encode(text, add_bos=False)
        assert not accepts(of.compiler.compile(spec), ids)


def test_python_is_constrained_to_values_that_are_json(root: Path) -> None:
    of = model(root, ())
    spec = constraint_for(of.syntax("pythonic"), TOOLS, "required")
    assert spec is not None
    text = '[weather(unit="C", days=7), stop(), set(list=[1], on=true)]'
    assert accepts(of.compiler.compile(spec), of.text.encode(text, add_bos=False))


def test_tags_hold_text_without_quotes(root: Path) -> None:
    either = {"type": ["string", "null"]}
    write = ToolSpec(
        "write", "", schema({"text": {"type": "string"}, "n": DAYS, "to": either})
    )
    of = model(root, TOKENS["qwen_xml"])
    spec = constraint_for(of.syntax("qwen_xml"), [write], "required")
    assert spec is not None
    text = WRITERS["qwen_xml"][1]([
        ("write", {"text": 'a "b"\n</p> é', "n": 1, "to": "me"})
    ])  # fmt: skip
    assert accepts(of.compiler.compile(spec), of.text.encode(text, add_bos=False))


def test_tags_hold_only_the_listed_values(root: Path) -> None:
    unit = {"unit": {"type": "string", "enum": ["C", "F"]}, "v": {"const": "x"}}
    of = model(root, TOKENS["qwen_xml"])
    tools = [ToolSpec("f", "", schema(unit, "unit", "v"))]
    spec = constraint_for(of.syntax("qwen_xml"), tools, "required")
    assert spec is not None
    for value, fits in [("C", True), ("K", False)]:
        text = WRITERS["qwen_xml"][1]([("f", {"unit": value, "v": "x"})])
        ids = of.text.encode(text, add_bos=False)
        assert accepts(of.compiler.compile(spec), ids) is fits


@pytest.mark.parametrize("layout", WRITERS)
def test_a_named_tool_is_called_once(layout: str, root: Path) -> None:
    of = model(root, TOKENS.get(layout, ()))
    syntax = of.syntax(WRITERS[layout][0])
    spec = constraint_for(syntax, TOOLS, NamedTool("stop"))
    assert spec is not None
    reply = read(of, wander(of.compiler.compile(spec), of.eos, 1), syntax, TOOLS)
    assert reply.parsed() == [("stop", {})]


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_what_need_not_be_called_is_not_enforced(choice: ToolChoice) -> None:
    assert constraint_for(OutputSyntax(None, BY_NAME["hermes"]), TOOLS, choice) is None


def test_what_cannot_be_enforced_is_refused() -> None:
    syntax = OutputSyntax(None, BY_NAME["pythonic"])
    with pytest.raises(ValueError, match="there is no tool 'other'"):
        constraint_for(syntax, TOOLS, NamedTool("other"))
    with pytest.raises(ValueError, match="no tools to choose from"):
        constraint_for(syntax, [], "required")
    spaced = ToolSpec("f", "", schema({"a b": DAYS}))
    with pytest.raises(ValueError, match="'a b'"):
        constraint_for(syntax, [spaced], "required")
