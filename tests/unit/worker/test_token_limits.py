"""Tokens that may, and words that may not come, alone and under grammars."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from neuron.engines.base import EngineError, GenerationRequest, TokenConstraint
from neuron.engines.constrained import Constrained
from neuron.text.chat import ChatTemplate
from neuron.text.grammar import GrammarCompiler, GrammarSpec
from neuron.text.output import OutputSyntax
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.preparation import prepare
from neuron.worker.prompts import ServedModel
from neuron.worker.schema import CompletionBody
from neuron.worker.token_limits import LimitedTokens, TokenLimits
from tests.unit.worker.conftest import Start
from tests.unit.worker.scripted_engine import INFO

EOS = 2
ENDS = frozenset({EOS})
VOCAB = INFO.vocab_size


@pytest.fixture
def model(tokenizer: TextTokenizer, grammars: GrammarCompiler) -> ServedModel:
    template = ChatTemplate(None, tokenizer.special_tokens)
    return ServedModel(INFO, tokenizer, template, OutputSyntax(), grammars, 256)


class Choices:
    """What an engine would find allowed, token by token."""

    def __init__(
        self, constraint: TokenConstraint, stop_ids: frozenset[int] = ENDS
    ) -> None:
        self._request = GenerationRequest("a", (1,), 8, stop_ids=stop_ids)
        self._constraint = constraint

    def allowed(self) -> list[int]:
        with ThreadPoolExecutor(1) as threads:
            constrained = Constrained(self._constraint, self._request, VOCAB, threads)
            found = constrained.allowed(may_stop=True)
        return [int(token) for token in np.flatnonzero(found)]

    def after(self, tokens: Sequence[int]) -> list[int]:
        for token in tokens:
            self._constraint.accept(token)
        return self.allowed()


def limits(
    model: ServedModel, stop_ids: frozenset[int] = ENDS, **fields: Any
) -> TokenLimits:
    body = CompletionBody.model_validate({"model": "m", "prompt": "x", **fields})
    found = TokenLimits.of(body, model, stop_ids)
    assert found is not None
    return found


def choices(
    model: ServedModel,
    inner: TokenConstraint | None = None,
    stop_ids: frozenset[int] = ENDS,
    **fields: Any,
) -> Choices:
    found = limits(model, stop_ids, **fields)
    return Choices(LimitedTokens(found, inner), found.stop_ids)


def test_only_allowed_tokens_may_come_the_end_among_them_if_it_is_one(
    model: ServedModel,
) -> None:
    assert choices(model, allowed_token_ids=[5, 900]).allowed() == [5, 900]
    assert choices(model, allowed_token_ids=[5, EOS]).after([5]) == [EOS, 5]
    two_ends = frozenset({EOS, 7})
    found = choices(model, stop_ids=two_ends, allowed_token_ids=[5, 7])
    assert found.allowed() == [5, 7]


def test_a_word_of_one_token_never_comes(
    model: ServedModel, tokenizer: TextTokenizer
) -> None:
    (dog,) = tokenizer.encode("dog", add_bos=False)
    allowed = choices(model, bad_words=["dog"]).allowed()
    assert set(range(VOCAB)) - set(allowed) == {dog}


def test_a_longer_word_is_refused_at_its_last_token_only(
    model: ServedModel, tokenizer: TextTokenizer
) -> None:
    the, big, dog = tokenizer.encode("the big dog", add_bos=False)
    found = choices(model, bad_words=["the big dog"])
    everything = [*range(VOCAB)]
    assert found.after([dog, big]) == everything
    assert found.after([the]) == everything
    assert set(everything) - set(found.after([big])) == {dog}
    assert found.after([the]) == everything


def test_the_end_can_be_a_bad_word(model: ServedModel) -> None:
    assert EOS not in choices(model, bad_words=["</s>"]).allowed()


def letters(tokenizer: TextTokenizer, wanted: str) -> list[int]:
    """The tokens that are these letters and no more."""
    ids = {tokenizer.token(token): token for token in range(VOCAB)}
    return [ids[letter] for letter in wanted]


async def grammar_of(grammars: GrammarCompiler, pattern: str) -> TokenConstraint:
    return await grammars.constraint(GrammarSpec("regex", pattern))


async def test_a_grammar_holds_too(
    model: ServedModel, tokenizer: TextTokenizer, grammars: GrammarCompiler
) -> None:
    x, y = letters(tokenizer, "xy")
    inner = await grammar_of(grammars, "[xyz]{2}")
    found = choices(model, inner, allowed_token_ids=[x, y, 900, EOS])
    assert found.allowed() == sorted([x, y])
    assert found.after([y]) == sorted([x, y])
    assert found.after([x]) == [EOS]


async def test_what_can_only_end_may_end(
    model: ServedModel, tokenizer: TextTokenizer, grammars: GrammarCompiler
) -> None:
    (x,) = letters(tokenizer, "x")
    inner = await grammar_of(grammars, "x(yy)?")
    found = choices(model, inner, allowed_token_ids=[x])
    assert found.allowed() == [x]
    assert found.after([x]) == [EOS]


async def test_what_limits_and_grammar_make_impossible_is_said(
    model: ServedModel, tokenizer: TextTokenizer, grammars: GrammarCompiler
) -> None:
    (x,) = letters(tokenizer, "x")
    inner = await grammar_of(grammars, "x[yz]")
    found = choices(model, inner, allowed_token_ids=[x])
    assert found.allowed() == [x]
    with pytest.raises(EngineError, match="leaves no token") as caught:
        found.after([x])
    assert caught.value.param == "allowed_token_ids"
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [VOCAB]}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
        ({"allowed_token_ids": [True]}, "allowed_token_ids[0]"),
        ({"bad_words": ["fine", ""]}, "bad_words[1]"),
        ({"bad_words": ["  "]}, "bad_words[0]"),
        ({"bad_words": "dog"}, "bad_words"),
        ({"bad_words": ["so</s>"]}, "bad_words[0]"),
    ],
)
async def test_what_is_wrong_is_named(
    start: Start, fields: dict[str, Any], param: str
) -> None:
    async with start("x") as worker:
        status, answer = await worker.complete(**fields)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_an_end_that_cannot_come_is_no_stop(model: ServedModel) -> None:
    body = CompletionBody(
        model="m", prompt="x", stop_token_ids=[7], allowed_token_ids=[5, 7]
    )
    (prepared,) = await prepare(model, "a", body)
    assert prepared.request.stop_ids == {7}
    assert prepared.request.constraint is not None
