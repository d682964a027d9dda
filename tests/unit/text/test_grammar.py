"""What outputs may be under grammars compiled for the bundled model's vocabulary."""

from pathlib import Path

import numpy as np
import pytest

from neuron.text.grammar import GrammarCompiler, GrammarSpec, json_rule
from neuron.text.grammar_match import ConstraintError
from neuron.text.tokenizer import TextTokenizer
from tests.unit.text.grammars import (
    EOS,
    FOLDER,
    PADDED,
    allowed,
    json_schema,
    takes,
    write,
)

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
    assert bits.shape == (PADDED // 32,)
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
    compiler = GrammarCompiler(FOLDER, [EOS, 1, PADDED + 5], PADDED)
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


def test_recursion_that_ends_is_fine(compiler: GrammarCompiler) -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    tree = {"type": "array", "items": {"$ref": "#"}}
    for schema in (node, tree):
        assert not compiler.compile(json_schema(schema)).is_finished()


def test_gbnf_is_not_what_a_schema_speaks_of(compiler: GrammarCompiler) -> None:
    rule = json_rule({"type": "null", "description": "a ::= b"})
    assert not compiler.compile(GrammarSpec("lark", f"start: {rule}")).may_end()
