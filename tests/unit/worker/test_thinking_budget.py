"""A thought that is closed for the model."""

from collections.abc import Sequence

import numpy as np
import pytest

from neuron.engines.base import TokenConstraint
from neuron.text.detokenizer import Detokenizer
from neuron.text.grammar import GrammarCompiler, GrammarSpec
from neuron.text.reasoning import ReasoningSyntax
from neuron.text.thought import ThoughtTracker
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.thinking_budget import ThinkingBudget
from tests.unit.worker.scripted_engine import INFO

SYNTAX = ReasoningSyntax("<think>", "</think>")


def budget(
    tokenizer: TextTokenizer,
    tokens: int,
    inner: TokenConstraint | None = None,
    *,
    inside: bool = True,
) -> ThinkingBudget:
    return ThinkingBudget(
        inner,
        tokens,
        vocab=INFO.vocab_size,
        end=tokenizer.encode("</think>", add_bos=False),
        tracker=ThoughtTracker(SYNTAX, inside=inside),
        detokenizer=Detokenizer(tokenizer),
    )


def allowed(constraint: TokenConstraint) -> list[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def write(
    constraint: TokenConstraint, tokenizer: TextTokenizer, wanted: Sequence[int]
) -> str:
    """What comes out when the model wants these tokens and gets what is allowed."""
    written = []
    queue = list(wanted)
    while queue:
        may = allowed(constraint)
        token = queue.pop(0) if queue[0] in may else may[0]
        written.append(token)
        constraint.accept(token)
    return tokenizer.decode(written)


def test_the_thought_is_closed_after_so_many_tokens(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("one two three four five six", add_bos=False)
    text = write(budget(tokenizer, 3), tokenizer, ids)
    assert text == "one two three </think> four five six"


def test_a_thought_that_ends_by_itself_is_left_alone(tokenizer: TextTokenizer) -> None:
    text = "one</think> two three four five six"
    ids = tokenizer.encode(text, add_bos=False)
    assert write(budget(tokenizer, 9), tokenizer, ids) == text


def test_an_answer_without_a_thought_is_left_alone(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("one two three four", add_bos=False)
    constraint = budget(tokenizer, 0, inside=False)
    assert write(constraint, tokenizer, ids) == "one two three four"


def test_none_at_all(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("yes", add_bos=False)
    assert write(budget(tokenizer, 0), tokenizer, ids) == "</think> yes"
    ids = tokenizer.encode("<think> one two", add_bos=False)
    text = write(budget(tokenizer, 0, inside=False), tokenizer, ids)
    assert text.startswith("<think> </think>")


@pytest.mark.parametrize(
    ("text", "inside"),
    [("one</think> two", True), ("one two three four", True), ("two", False)],
)
def test_once_the_answer_has_begun_nothing_is_limited(
    tokenizer: TextTokenizer, text: str, inside: bool
) -> None:
    constraint = budget(tokenizer, 2, inside=inside)
    assert not constraint.is_free()
    written = write(constraint, tokenizer, tokenizer.encode(text, add_bos=False))
    assert ("</think>" in written) == inside
    assert constraint.is_free()
    # A second thought is none.
    ids = tokenizer.encode("<think> one two three four", add_bos=False)
    assert write(constraint, tokenizer, ids).endswith("one two three four")


def test_between_thought_and_answer_another_thought_may_begin(
    tokenizer: TextTokenizer,
) -> None:
    constraint = budget(tokenizer, 9)
    write(constraint, tokenizer, tokenizer.encode("one</think>", add_bos=False))
    assert not constraint.is_free()


@pytest.mark.parametrize("tokens", [0, 1, 4])
def test_what_follows_obeys_the_grammar(
    tokenizer: TextTokenizer, grammars: GrammarCompiler, tokens: int
) -> None:
    spec = GrammarSpec("regex", "[0-9]+;", after="</think>")
    constraint = budget(tokenizer, tokens, grammars.compile(spec))
    ids = tokenizer.encode("one two three four 12;", add_bos=False)
    for token in ids[:tokens]:
        assert not constraint.may_end()
        constraint.accept(token)
    (first,) = allowed(constraint)
    assert first == tokenizer.encode("</think>", add_bos=False)[0]
    for token in tokenizer.encode("</think>", add_bos=False):
        assert allowed(constraint) == [token]
        assert not constraint.may_end()
        constraint.accept(token)
    for token in tokenizer.encode("12;", add_bos=False):
        assert token in allowed(constraint)
        assert not constraint.is_finished()
        constraint.accept(token)
    assert constraint.is_finished()
    assert not constraint.is_free()
    assert constraint.end_ids == grammars.compile(spec).end_ids


def test_a_code_point_is_finished_first(
    tokenizer: TextTokenizer, grammars: GrammarCompiler
) -> None:
    spec = GrammarSpec("regex", "x", after="</think>")
    constraint = budget(tokenizer, 1, grammars.compile(spec))
    _, first, *others = tokenizer.encode("😀", add_bos=False)
    assert tokenizer.byte_of(first) is not None
    constraint.accept(first)
    for token in others:
        assert token in allowed(constraint)
        constraint.accept(token)
    assert len(allowed(constraint)) == 1
