"""How grammars are compiled: kept, in threads, within limits."""

import asyncio
import json
import random
import subprocess
import sys
import time

import pytest
from llguidance import LLMatcher

from neuron.text import grammar
from neuron.text.grammar import GrammarCompiler, GrammarError, GrammarSpec
from neuron.text.grammar_match import ConstraintError, GrammarConstraint
from tests.unit.text.grammars import EOS, FOLDER, PADDED, allowed, json_schema

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
    compiler = GrammarCompiler(FOLDER, [EOS], PADDED)
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
    compiler = GrammarCompiler(FOLDER, [EOS], PADDED)
    with pytest.raises(ConstraintError, match="too many states") as caught:
        write_anything(compiler.compile(MANY_STATES), random.Random(1))
    assert "\n" not in str(caught.value)
    compiler.close()


def string(pattern: str) -> GrammarSpec:
    text = {"type": "string", "pattern": pattern}
    return json_schema({"type": "array", "items": text})


def test_a_pattern_that_explodes_holds_no_step_for_long() -> None:
    compiler = GrammarCompiler(FOLDER, [EOS], PADDED)
    exploding = "a"
    for _ in range(5):
        exploding = f"({exploding}){{99}}"
    constraint = compiler.compile(string(f"^{exploding}$"))
    begun = time.process_time()
    with pytest.raises(ConstraintError, match="too many expressions"):
        write_anything(constraint, random.Random(1))
    assert time.process_time() - begun < 1.5
    compiler.close()


def test_a_large_pattern_is_no_explosion() -> None:
    compiler = GrammarCompiler(FOLDER, [EOS], PADDED)
    words = "|".join(f"{number:020b}" for number in range(700))
    for pattern in (f"^({words})$", "^(/[A-Za-z0-9_.-]{1,255}){1,40}$"):
        write_anything(compiler.compile(string(pattern)), random.Random(1))
    compiler.close()


async def test_compiled_in_a_thread_and_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = GrammarCompiler(FOLDER, [EOS], PADDED)
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
    compiler = GrammarCompiler(FOLDER, [EOS], PADDED)
    monkeypatch.setattr(grammar, "TIMEOUT", 0)
    with pytest.raises(GrammarError, match="within 0 s"):
        await compiler.constraint(GrammarSpec("json_object"))
    compiler.close()


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
