"""Strict tools that may be called: text is free, and calls are what they must be."""

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from neuron.text.grammar import GrammarError, GrammarSpec
from neuron.text.grammar_match import GrammarConstraint
from neuron.text.output import OutputSyntax
from neuron.text.tools.constraint import constraint_for
from neuron.text.tools.spec import ToolSpec
from tests.unit.text.tools.constrained import (
    TOKENS,
    Model,
    accepts,
    allowed,
    model,
    read,
    schema,
    wander,
)
from tests.unit.text.tools.support import BY_NAME, THINK, WRITERS, Call

CITY = {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1}}
STRICT = ToolSpec("get", "", schema(CITY, "city", "days"), strict=True)
LOOSE = ToolSpec("get_all", "", schema({"n": {"type": "integer"}}, "n"))
TOOLS = [STRICT, LOOSE]
VALID = ("get", {"city": "Rome", "days": 3})
INVALID = ("get", {"city": "Bonn", "days": 3})
OTHER = ("get_all", {"n": "many", "x": "y"})
BARE = {"llama_json", "pythonic", "generic", "glm"}
SPECIAL = ("<|extra|>", "<|other|>")

BEGINNINGS = [
    '{"name": "get", "arguments": {"city": "Bonn"}}',
    ' {\n"type": "function", "name": "get", "parameters": {"days": 0}}',
    '{"n\\u0061me": "get", "parameters": {}}',
    '[ {"name": "get", "arguments": {"days": 0}}]',
    '```json\n{"name": "get", "arguments": {"days": 0}}\n```',
    "[get(days=0)]",
    '\n[ get (city="Bonn")]',
    '<tool_call>{"name": "get", "arguments": {}}</tool_call>',
    "<function=get><parameter=days>0</parameter></function>",
    'Action:\n```json\n[{"tool_name": "get", "parameters": {}}]```',
    'Action: nothing. functools[0], functools[ {"name": "get", "arguments": {}}]',
    '<|python_tag|>{"name": "get", "parameters": {}}',
    '[TOOL_CALLS][{"name": "get", "arguments": {}}]',
    "<｜tool▁call▁begin｜>get<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
    '<|START_ACTION|>[{"tool_name": "get", "parameters": {}}]',
]
"""What is read as a call by one format or another, and is none that may be made."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def written(layout: str, *calls: Call) -> str:
    """As a constrained model writes it, whose Python is JSON as well."""
    text = WRITERS[layout][1](calls)
    return text.replace("'", '"') if layout == "pythonic" else text


def spec_of(
    syntax: OutputSyntax, *tools: ToolSpec, parallel: bool = True
) -> GrammarSpec:
    spec = constraint_for(syntax, tools or TOOLS, "auto", parallel)
    assert spec is not None
    return spec


def of_layout(layout: str, root: Path) -> Model:
    return model(root, (*SPECIAL, *TOKENS.get(layout, ())))


def fits(of: Model, spec: GrammarSpec, text: str) -> bool:
    ids = of.text.encode(text, add_bos=False)
    return accepts(of.compiler.compile(spec), ids)


@pytest.mark.parametrize("layout", WRITERS)
def test_text_is_free(layout: str, root: Path) -> None:
    of = of_layout(layout, root)
    spec = spec_of(of.syntax(WRITERS[layout][0]))
    for text in (
        "",
        "\n \n",
        'Hello é😀.\n\n```json\n{"a": [1]}\n```\nAction: none',
        'a/b \\ "c" <tool> functools[0] {[get()',
        "<|extra|>Hi<|other|><|extra|> you<|extra|>",
        "<|extra|>\n<|other|>",
    ):
        assert fits(of, spec, text), text
    if layout not in BARE:
        assert fits(of, spec, '{"name": "get"}')
    if layout != "pythonic":
        assert fits(of, spec, "[1] says so")


@pytest.mark.parametrize("layout", WRITERS)
def test_calls_are_of_these_tools_and_strict_ones_valid(
    layout: str, root: Path
) -> None:
    of = of_layout(layout, root)
    spec = spec_of(of.syntax(WRITERS[layout][0]))
    before = ["", "\n", "<|extra|>"] if layout in BARE else ["", "I see.\n", "\n a "]
    for text in before:
        assert fits(of, spec, text + written(layout, VALID))
        assert fits(of, spec, text + written(layout, OTHER))
        assert fits(of, spec, text + written(layout, VALID, OTHER))
        assert not fits(of, spec, text + written(layout, VALID, INVALID))
        assert not fits(of, spec, text + written(layout, INVALID))
        unknown = text + written(layout, ("unknown", {}))
        # Only a known name makes a line a call of GLM's: this is text.
        assert fits(of, spec, unknown) is (layout == "glm")
        assert not fits(of, spec, text + written(layout, VALID)[:-1] + "x")


def test_a_marker_begins_a_call_where_one_without_would_be_text(root: Path) -> None:
    of, writer = of_layout("llama_json", root), WRITERS["llama_json"][1]
    spec = spec_of(of.syntax("llama_json"))
    assert fits(of, spec, "I see. <|python_tag|>" + writer([VALID]))
    assert not fits(of, spec, "I see. <|python_tag|>" + writer([INVALID]))
    assert fits(of, spec, "I see. " + writer([INVALID]))


@pytest.mark.parametrize("layout", WRITERS)
def test_one_call_where_only_one_may_be_made(layout: str, root: Path) -> None:
    of = of_layout(layout, root)
    spec = spec_of(of.syntax(WRITERS[layout][0]), parallel=False)
    assert not fits(of, spec, written(layout, VALID, VALID))
    if layout != "generic":
        assert fits(of, spec, written(layout, VALID))


def press(constraint: GrammarConstraint, ids: list[int]) -> list[int]:
    """Of these tokens in turn, each that is allowed."""
    taken = []
    for token in ids:
        if token in allowed(constraint):
            constraint.accept(token)
            taken.append(token)
    return taken


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("thinks", [False, True])
def test_whatever_is_read_as_a_call_is_a_valid_one(
    layout: str, thinks: bool, root: Path
) -> None:
    of, (name, writer) = of_layout(layout, root), WRITERS[layout]
    syntax = of.syntax(name, THINK if thinks else None)
    spec = spec_of(syntax, STRICT)
    called = 0
    beginnings = [*BEGINNINGS, writer([INVALID]), writer([VALID])[:-20]]
    for seed, beginning in enumerate(
        before + text
        for text in beginnings
        for before in ("", "So ", "\x1c\xa0<|extra|>", "<think>")
    ):
        constraint = of.compiler.compile(spec)
        ids = press(constraint, of.text.encode(beginning, add_bos=False))
        ids += wander(constraint, of.eos, seed)
        reply = read(of, ids, syntax, [STRICT])
        assert not reply.reasoning, beginning
        assert (reply.unparsed, reply.incomplete) == (0, []), beginning
        for tool, arguments in reply.parsed():
            assert tool == "get"
            jsonschema.validate(arguments, STRICT.parameters)
        called += len(reply.calls)
    assert called


def test_nothing_is_constrained_without_a_strict_tool() -> None:
    syntax = OutputSyntax(None, BY_NAME["hermes"])
    assert constraint_for(syntax, [LOOSE], "auto") is None


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string", "not": {}}
    for _ in range(depth):
        inner = schema({"a": inner}, "a")
    return inner


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("layout", ["hermes", "qwen_xml", "pythonic"])
def test_a_strict_schema_that_cannot_be_followed_is_refused_with_its_place(
    layout: str, choice: Any, root: Path
) -> None:
    of = of_layout(layout, root)
    bad = ToolSpec(
        "bad", "", nested(2), strict=True, place="tools[1].function.parameters"
    )
    spec = constraint_for(of.syntax(layout), [STRICT, bad], choice)
    assert spec is not None
    with pytest.raises(GrammarError, match="not is not supported") as caught:
        of.compiler.compile(spec)
    assert caught.value.part == "tools[1].function.parameters of the strict tool 'bad'"
    assert caught.value.place == "#/properties/a/properties/a/not"


NULLABLE = {"anyOf": [{"$ref": "#/$defs/Kind"}, {"type": "null"}]}
TAGGED = ToolSpec(
    "note",
    "",
    {
        **schema(
            {
                "kind": {"$ref": "#/$defs/Kind", "description": "Which."},
                "to": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "To"},
                "also": NULLABLE,
                "short": {"type": "string", "minLength": 1, "maxLength": 3},
                "root": {"type": "array", "items": {"$ref": "#/properties/count"}},
                "count": {"type": "integer", "maximum": 5},
            },
            "kind", "to", "also", "short", "root", "count",
        ),
        "$defs": {"Kind": {"type": "string", "enum": ["a", "b"]}},
    },
    strict=True,
)  # fmt: skip
NOTE = {"kind": "a", "to": "me", "also": None, "short": "abc", "root": [1], "count": 5}


def test_text_between_tags_satisfies_a_strict_schema(root: Path) -> None:
    of, writer = of_layout("qwen_xml", root), WRITERS["qwen_xml"][1]
    syntax = of.syntax("qwen_xml")
    spec = spec_of(syntax, TAGGED)
    assert fits(of, spec, writer([("note", NOTE)]))
    for wrong in (
        {"kind": "c"}, {"also": "c"}, {"short": ""}, {"short": "abcd"}, {"count": 6},
        {"root": [6]}, {"to": "x</parameter>\n<parameter=also>\na"},
    ):  # fmt: skip
        assert not fits(of, spec, writer([("note", NOTE | wrong)])), wrong
    for seed in range(5):
        constraint, chance = of.compiler.compile(spec), random.Random(seed)
        ids = press(constraint, of.text.encode("<tool_call>", add_bos=False))
        while not constraint.may_end():
            piece = chance.choice(["\n</parameter>\n<", "null", *"[]5abn"])
            ids += press(constraint, of.text.encode(piece, add_bos=False))
            while len(forced := allowed(constraint)) == 1:
                ids += press(constraint, forced)
        [(_, arguments)] = read(of, ids, syntax, [TAGGED]).parsed()[:1]
        jsonschema.validate(arguments, TAGGED.parameters)


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        (schema({"a": {"type": "string", "pattern": "^x"}}), ".properties.a.pattern"),
        (schema({"a": {"type": ["string", "integer"]}}), ".properties.a.type"),
        (
            schema({"a": {"anyOf": [{"type": "string"}, {"enum": [1]}]}}),
            ".properties.a.anyOf[1].enum",
        ),
        ({"type": "object", "anyOf": [{}]}, ".anyOf"),
        ({"type": "object", "required": ["a"]}, ".required"),
        (schema({"a": False}), ".properties.a.false"),
    ],
)
def test_what_tags_cannot_promise_is_refused(
    parameters: dict[str, Any], place: str
) -> None:
    syntax = OutputSyntax(None, BY_NAME["qwen_xml"])
    tool = ToolSpec("f", "", parameters, strict=True, place="tools[0]")
    with pytest.raises(ValueError, match="strict tool 'f'") as caught:
        constraint_for(syntax, [tool], "auto")
    assert str(caught.value).partition(":")[0] == f"tools[0]{place}"


def test_schemas_as_sdks_send_them(root: Path) -> None:
    """Everything required, nothing else allowed, optional values null, shared parts."""
    address = schema({"street": {"type": "string", "title": "Street"}}, "street")
    parameters = {
        **schema(
            {
                "who": {"$ref": "#/$defs/Person"},
                "at": {"type": "string", "format": "date-time"},
                "unit": {"anyOf": [{"enum": ["C", "F"], "type": "string"},
                                   {"type": "null"}]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "who", "at", "unit", "tags",
        ),
        "$defs": {
            "Address": address,
            "Person": schema(
                {"home": {"$ref": "#/$defs/Address"},
                 "friends": {"type": "array", "items": {"$ref": "#/$defs/Person"}}},
                "home", "friends",
            ),
        },
        "title": "plan_args",
    }  # fmt: skip
    of = of_layout("hermes", root)
    tool = ToolSpec("plan", "", parameters, strict=True)
    spec = spec_of(
        of.syntax("hermes"), tool, ToolSpec("now", "", schema({}), strict=True)
    )
    person = {"home": {"street": "x"}, "friends": []}
    arguments = {
        "who": {**person, "friends": [person]},
        "at": "2024-05-01T10:00:00Z", "unit": None, "tags": ["a"],
    }  # fmt: skip
    for call, valid in (
        (("plan", arguments), True),
        (("now", {}), True),
        (("plan", arguments | {"at": "tomorrow"}), False),
        (("plan", arguments | {"more": 1}), False),
    ):
        assert fits(of, spec, WRITERS["hermes"][1]([call])) is valid, json.dumps(call)
