"""Grammars compiled for the bundled model's vocabulary."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer

from neuron.models.bundled import bundled_root
from neuron.text import grammar
from neuron.text.grammar import GrammarCompiler, GrammarError, GrammarSpec, json_rule
from neuron.text.grammar_match import ConstraintError, GrammarConstraint
from neuron.text.tokenizer import TextTokenizer

FOLDER = bundled_root() / "tinystories-15m"
EOS = 2
VOCAB = 8640
"""Padded: the tokenizer has 8599."""


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(FOLDER, [EOS], VOCAB)
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def spellings() -> dict[int, bytes]:
    """What each token adds to a text; special ones add nothing."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    found = {}
    for token in range(3, tokenizer.get_vocab_size()):
        name = tokenizer.id_to_token(token) or ""
        byte = name.startswith("<0x") and len(name) == 6
        text = name.replace("▁", " ").encode()
        found[token] = bytes([int(name[3:5], 16)]) if byte else text
    return found


def allowed(constraint: GrammarConstraint) -> set[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def write(
    constraint: GrammarConstraint, text: str, spellings: dict[int, bytes]
) -> bool:
    """Whether the text can be written, in the longest tokens that are allowed."""
    rest = text.encode()
    while rest:
        fitting = [
            token
            for token in allowed(constraint)
            if token in spellings and rest.startswith(spellings[token])
        ]
        if not fitting:
            return False
        longest = max(fitting, key=lambda token: len(spellings[token]))
        constraint.accept(longest)
        rest = rest[len(spellings[longest]) :]
    return True


def takes(
    constraint: GrammarConstraint, text: str, spellings: dict[int, bytes]
) -> bool:
    """Whether this text, and then an end, is allowed."""
    return write(constraint, text, spellings) and (
        EOS in allowed(constraint) and constraint.may_end()
    )


def json_schema(schema: dict[str, Any]) -> GrammarSpec:
    return GrammarSpec("json_schema", schema)


THINKING = GrammarSpec("json_schema", {"const": 1}, after="</think>")
MAY_THINK = GrammarSpec(
    "lark",
    'start: "<call>" r0\nr0: %json {"type": "object"}',
    thought=("<think>", "</think>"),
    alternative=json_schema({"const": 1}),
)


@pytest.mark.parametrize(
    ("spec", "text", "fits"),
    [
        (GrammarSpec("json_object"), '{"a": [1, {"é😀": null}]}', True),
        (GrammarSpec("json_object"), '{\n  "a":\t1}', False),
        (GrammarSpec("json_object"), '{\n  "a": 1\n}', True),
        (GrammarSpec("json_object"), '{  "a": 1}', False),
        (GrammarSpec("json_object"), "[1]", False),
        (GrammarSpec("json_object"), '{"a": "\\ud800"}', False),
        (json_schema({"const": "\u0001"}), '"\\u0001"', True),
        (json_schema({"type": "string", "minLength": 2}), '"😀"', False),
        (json_schema({"type": "string", "pattern": "b"}), '"abc"', True),
        (json_schema({"type": "integer"}), "1.0", False),
        (json_schema({"$defs": {"a": {"const": 1}}, "$ref": "#/$defs/a"}), "1", True),
        (
            json_schema({"$defs": {"a b": {"const": 1}}, "$ref": "#/$defs/a%20b"}),
            "1",
            True,
        ),
        (GrammarSpec("regex", r"\d{3}|x"), "123", True),
        (GrammarSpec("regex", r"\d{3}|x"), "12", False),
        (GrammarSpec("regex", "a/b"), "a/b", True),
        (GrammarSpec("lark", 'start: "a" start "b" | "c"'), "aacbb", True),
        (GrammarSpec("lark", 'start: "a" start "b" | "c"'), "aacb", False),
        (GrammarSpec("lark", 'root ::= "a" b\nb ::= [0-9]+\n'), "a17", True),
        (
            GrammarSpec(
                "lark", f"start: {json_rule({'type': 'object'})} END\nEND: /!/"
            ),
            "{ }!",
            True,
        ),
        (THINKING, "say { and\n then </think>\n\n1", True),
        (THINKING, "</think>1", True),
        (THINKING, "1", False),
        (MAY_THINK, "1", True),
        (MAY_THINK, "<call>{}", True),
        (MAY_THINK, "<think>2 or {?</think>\n1", True),
        (MAY_THINK, "<think></think><call>{}", True),
        (MAY_THINK, "so it is.</think>1", False),
        (MAY_THINK, "<call>1", False),
    ],
)
def test_what_fits(
    compiler: GrammarCompiler,
    spellings: dict[int, bytes],
    spec: GrammarSpec,
    text: str,
    fits: bool,
) -> None:
    assert takes(compiler.compile(spec), text, spellings) is fits


def test_marker_that_is_a_token(
    compiler: GrammarCompiler, spellings: dict[int, bytes]
) -> None:
    spec = GrammarSpec("regex", "x", after="</s>")
    constraint = compiler.compile(spec)
    assert write(constraint, "hm", spellings)
    assert not constraint.may_end()
    constraint.accept(EOS)
    assert takes(constraint, "\nx", spellings)
    assert not takes(compiler.compile(spec), "hm</s>x", spellings)


def test_masks_hold_whole_tokens_ends_and_nothing_beyond(
    compiler: GrammarCompiler, spellings: dict[int, bytes]
) -> None:
    constraint = compiler.compile(GrammarSpec("regex", "(once )?upon"))
    bits = constraint.mask()
    assert bits.dtype == np.int32
    assert bits.shape == (VOCAB // 32,)
    texts = {spellings[token] for token in allowed(constraint)}
    assert {b"on", b"up", b"u"} <= texts
    assert all(
        b"once upon".startswith(text) or b"upon".startswith(text) for text in texts
    )
    assert not constraint.may_end()
    assert write(constraint, "upon", spellings)
    assert constraint.may_end()
    assert constraint.is_finished()
    assert allowed(constraint) == {EOS}


def test_ends_that_more_may_follow(
    compiler: GrammarCompiler, spellings: dict[int, bytes]
) -> None:
    constraint = compiler.compile(GrammarSpec("regex", "a+"))
    assert not constraint.may_end()
    assert write(constraint, "a", spellings)
    assert constraint.may_end()
    assert not constraint.is_finished()
    assert {spellings.get(token) for token in allowed(constraint)} >= {None, b"a"}
    constraint.accept(EOS)
    assert constraint.is_finished()


def test_byte_level_vocabulary(byte_level: TextTokenizer, tmp_path: Path) -> None:
    byte_level._tokenizer.save(str(tmp_path / "tokenizer.json"))
    end = byte_level.encode("<|end|>", add_bos=False)
    compiler = GrammarCompiler(tmp_path, end, 400)
    constraint = compiler.compile(json_schema({"type": "string"}))
    for token in byte_level.encode('"naïve 日本 dog"', add_bos=False):
        assert token in allowed(constraint)
        constraint.accept(token)
    assert allowed(constraint) == {*end}
    compiler.close()


def test_several_end_tokens() -> None:
    compiler = GrammarCompiler(FOLDER, [EOS, 1, VOCAB + 5], VOCAB)
    assert {1, EOS} <= allowed(compiler.compile(GrammarSpec("regex", "a*")))


def test_what_does_not_fit_is_an_error(
    compiler: GrammarCompiler, spellings: dict[int, bytes]
) -> None:
    constraint = compiler.compile(GrammarSpec("json_object"))
    [x] = [token for token, text in spellings.items() if text == b"x"][:1]
    with pytest.raises(ConstraintError, match="cannot go on") as caught:
        constraint.accept(x)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConstraintError):
        constraint.mask()


def test_outputs_go_their_own_ways(
    compiler: GrammarCompiler, spellings: dict[int, bytes]
) -> None:
    spec = GrammarSpec("regex", "ab|ba")
    one, other = compiler.compile(spec), compiler.compile(spec)
    assert write(one, "a", spellings)
    fork = one.fork()
    assert write(fork, "b", spellings)
    assert fork.is_finished()
    assert not write(one, "a", spellings)
    assert write(one, "b", spellings)
    assert write(other, "ba", spellings)


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


def test_recursion_that_ends_is_fine(compiler: GrammarCompiler) -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    tree = {"type": "array", "items": {"$ref": "#"}}
    for schema in (node, tree):
        assert not compiler.compile(json_schema(schema)).is_finished()


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


@pytest.mark.parametrize(
    "spec",
    [
        json_schema(
            {
                "$defs": {
                    "0": {"const": 1},
                    **{str(i + 1): {"$ref": f"#/$defs/{i}"} for i in range(9000)},
                },
                "$ref": "#/$defs/9000",
            }
        ),
        GrammarSpec(
            "lark",
            "\n".join(
                [
                    "start: r9000",
                    'r0: "b"',
                    *(f'r{i + 1}: "a" r{i}' for i in range(9000)),
                ]
            ),
        ),
    ],
    ids=["schema", "lark"],
)
def test_long_chains_of_references(
    compiler: GrammarCompiler, spec: GrammarSpec
) -> None:
    assert not compiler.compile(spec).may_end()


def test_size_is_bounded(compiler: GrammarCompiler) -> None:
    either = [
        {"anyOf": [{"properties": {f"{i}.{j}": {"type": "null"}}} for i in range(12)]}
        for j in range(6)
    ]
    with pytest.raises(GrammarError, match="too large"):
        compiler.compile(json_schema({"allOf": either}))


MANY_STATES = json_schema(
    {
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 200},
            "b": {"type": "string", "pattern": "^(ab|ba|[c-z]{1,30}x)*$"},
        },
        "required": ["a", "b"],
    }
)


def write_anything(constraint: GrammarConstraint, chosen: random.Random) -> None:
    for _ in range(60):
        constraint.accept(chosen.choice(sorted(allowed(constraint) - {EOS})))
        if constraint.is_finished():
            return


def test_one_output_does_not_use_up_the_limits_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammar, "_STATES", 1200)
    compiler = GrammarCompiler(FOLDER, [EOS], VOCAB)
    made = []
    original = GrammarCompiler._matcher

    def counted(self: GrammarCompiler, source: str) -> LLMatcher:
        made.append(source)
        return original(self, source)

    monkeypatch.setattr(GrammarCompiler, "_matcher", counted)
    chosen = random.Random(1)
    for _ in range(12):
        write_anything(compiler.compile(MANY_STATES), chosen)
    assert 1 < len(made) < 12
    compiler.close()


def test_an_output_may_use_up_its_own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "_STATES", 200)
    compiler = GrammarCompiler(FOLDER, [EOS], VOCAB)
    with pytest.raises(ConstraintError, match="too many states") as caught:
        write_anything(compiler.compile(MANY_STATES), random.Random(1))
    assert "\n" not in str(caught.value)
    compiler.close()


def test_gbnf_is_not_what_a_schema_speaks_of(compiler: GrammarCompiler) -> None:
    rule = json_rule({"type": "null", "description": "a ::= b"})
    assert not compiler.compile(GrammarSpec("lark", f"start: {rule}")).may_end()


async def test_compiled_in_a_thread_and_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = GrammarCompiler(FOLDER, [EOS], VOCAB)
    compiled: list[GrammarSpec] = []
    original = GrammarCompiler._compile

    def counted(self: GrammarCompiler, spec: GrammarSpec) -> GrammarConstraint:
        compiled.append(spec)
        return original(self, spec)

    monkeypatch.setattr(GrammarCompiler, "_compile", counted)
    monkeypatch.setattr(grammar, "CACHED", 2)
    specs = [GrammarSpec("regex", text) for text in "abc"]
    first, other = await asyncio.gather(*map(compiler.constraint, specs[:2]))
    assert not first.may_end()
    assert await compiler.constraint(specs[0]) is not first
    assert len(compiled) == 2
    await compiler.constraint(specs[2])
    await compiler.constraint(specs[0])
    assert len(compiled) == 3
    await compiler.constraint(specs[1])
    assert len(compiled) == 4
    assert other is not None
    with pytest.raises(GrammarError, match="unclosed"):
        await compiler.constraint(GrammarSpec("regex", "("))
    compiler.close()


async def test_a_compilation_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = GrammarCompiler(FOLDER, [EOS], VOCAB)
    monkeypatch.setattr(grammar, "TIMEOUT", 0)
    with pytest.raises(GrammarError, match="within 0 s"):
        await compiler.constraint(GrammarSpec("json_object"))
    compiler.close()


def test_tokenizers_that_do_not_allow_for_grammars(tmp_path: Path) -> None:
    spec = GrammarSpec("json_object")
    with pytest.raises(GrammarError, match="does not allow for grammars"):
        GrammarCompiler(tmp_path, [EOS], VOCAB).compile(spec)
    with pytest.raises(GrammarError, match="does not allow for grammars"):
        GrammarCompiler(FOLDER, [], VOCAB).compile(spec)


def test_nothing_is_imported_before_the_first_grammar() -> None:
    code = """
import sys
from pathlib import Path
from neuron.text.grammar import GrammarCompiler
import neuron.text.grammar_request
GrammarCompiler(Path("/"), [2], 10).close()
print("llguidance" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_equal_specs_have_equal_keys() -> None:
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert json_schema(one).key() == json_schema(dict(one)).key()
    # The order of properties is the order in which they are written.
    assert json_schema(one).key() != json_schema(other).key()
    assert json.loads(GrammarSpec("json_object").key())[0] == "json_object"
