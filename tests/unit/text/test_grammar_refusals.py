"""Grammars that cannot be followed: refused, with what is wrong and where."""

from pathlib import Path
from typing import Any

import pytest

from neuron.text.grammar import GrammarCompiler, GrammarError, GrammarSpec
from tests.unit.text.grammars import EOS, FOLDER, PADDED, json_schema

BAD_SCHEMAS: list[tuple[dict[str, Any], str, str]] = [
    (
        {"properties": {"a/b": {"items": {"not": {}}}}},
        "#/properties/a~1b/items/not",
        "not is not supported",
    ),
    (
        {"$defs": {"x": {"uniqueItems": True}}, "anyOf": [{}, {"$ref": "#/$defs/x"}]},
        "#/$defs/x/uniqueItems",
        "not supported",
    ),
    ({"properties": {"a": {"if": {}, "then": {}}}}, "#/properties/a", "if, then are"),
    ({"allOf": [{"pattern": "[a", "type": "string"}]}, "#/allOf/0/pattern", "unclosed"),
    ({"properties": {"a": {"type": "text"}}}, "#/properties/a", "Invalid type: text"),
    ({"anyOf": [{"type": "string", "format": "x"}]}, "#/anyOf/0", "Unknown format"),
    (
        {"items": {"oneOf": [{"type": "string"}, {"type": "string"}]}},
        "#/items",
        "use anyOf",
    ),
    ({"$ref": "#/$defs/a"}, "#/$ref", "there is no #/\\$defs/a"),
    ({"items": {"$ref": "http://a/b"}}, "#/items/$ref", "another document"),
    ({"items": [{}]}, "#/items", "use prefixItems"),
    ({"items": {"additionalItems": False}}, "#/items/additionalItems", "prefixItems"),
    ({"type": "string", "nullable": True}, "#/nullable", "null"),
    ({"minProperties": 2}, "#/minProperties", "not supported with 0"),
    ({"properties": {"a": 1}}, "#/properties/a", "an object or a boolean"),
    ({"properties": []}, "#/properties", "must be an object"),
    ({"anyOf": {}}, "#/anyOf", "must be an array"),
    ({"type": {}}, "#/type", "must be a string"),
    ({"items": {"type": ["null", []]}}, "#/items/type", "must be a string"),
    ({"required": "a"}, "#/required", "must be an array of strings"),
    ({"required": [{}]}, "#/required", "must be an array of strings"),
    ({"minimum": 2, "maximum": 1, "type": "integer"}, "#", "greater than maximum"),
    (
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
        "#",
        "without end",
    ),
    (
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        "#",
        "without end",
    ),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
        "#",
        "without end",
    ),
]


@pytest.mark.parametrize(("schema", "place", "message"), BAD_SCHEMAS)
def test_bad_schema_is_refused_with_its_place(
    compiler: GrammarCompiler, schema: dict[str, Any], place: str, message: str
) -> None:
    with pytest.raises(GrammarError, match=message) as caught:
        compiler.compile(json_schema(schema))
    assert caught.value.place == place


def test_the_schema_cannot_loosen_the_rules(compiler: GrammarCompiler) -> None:
    with pytest.raises(GrammarError, match="not is not supported"):
        compiler.compile(json_schema({"not": {}, "x-guidance": {"lenient": True}}))
    lenient = GrammarSpec("json_schema", {"type": "null", "not": {}}, lenient=True)
    assert not compiler.compile(lenient).may_end()


@pytest.mark.parametrize(
    ("spec", "place", "message"),
    [
        (GrammarSpec("regex", "ab(c"), "character 3", "unclosed group"),
        (GrammarSpec("regex", "a(?=b)"), "character 2", "look-around"),
        (GrammarSpec("regex", r"\bx"), "", "lookarounds not supported"),
        (GrammarSpec("regex", ""), "", "not an empty one"),
        (GrammarSpec("lark", {"a": 1}), "", "must be a string"),
        (GrammarSpec("lark", "start: a\na: b\n"), "line 2, column 4", "unknown name"),
        (GrammarSpec("lark", "start: /[a/"), "line 1, column 8", "unclosed character"),
        (GrammarSpec("lark", 'foo: "a"'), "", "no start rule"),
        (GrammarSpec("lark", 'start: start "a"'), "", "no text"),
        (GrammarSpec("lark", "root ::= ("), "", "not GBNF"),
        (
            GrammarSpec("lark", 'start: %json {"x-guidance":{"lenient":true},"not":1}'),
            "",
            'Unimplemented keys: \\["not"\\]',
        ),
        (GrammarSpec("json_schema", "{}"), "#", "must be a JSON object"),
        (GrammarSpec("json_schema", {"const": float("nan")}), "", "not JSON"),
        (GrammarSpec("lark", "a" * 600_000), "", "600"),
        (GrammarSpec("regex", "a" * 20_000), "", "more than 16384"),
    ],
)
def test_bad_grammar_is_refused(
    compiler: GrammarCompiler, spec: GrammarSpec, place: str, message: str
) -> None:
    with pytest.raises(GrammarError, match=message) as caught:
        compiler.compile(spec)
    assert caught.value.place == place


def test_depth_is_bounded(compiler: GrammarCompiler) -> None:
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="levels deep"):
        compiler.compile(json_schema(schema))


def test_size_is_bounded(compiler: GrammarCompiler) -> None:
    either = [
        {"anyOf": [{"properties": {f"{i}.{j}": {"type": "null"}}} for i in range(12)]}
        for j in range(6)
    ]
    with pytest.raises(GrammarError, match="too large"):
        compiler.compile(json_schema({"allOf": either}))


def test_tokenizers_that_do_not_allow_for_grammars(tmp_path: Path) -> None:
    spec = GrammarSpec("json_object")
    with pytest.raises(GrammarError, match="does not allow for grammars"):
        GrammarCompiler(tmp_path, [EOS], PADDED).compile(spec)
    with pytest.raises(GrammarError, match="does not allow for grammars"):
        GrammarCompiler(FOLDER, [], PADDED).compile(spec)
