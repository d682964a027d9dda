"""Prompts whose last token is taken back, and what clients get of the answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron.engines.base import EngineError, TokenConstraint
from neuron.protocol.errors import ApiError
from neuron.text.chat import ChatTemplate
from neuron.text.grammar import GrammarCompiler, GrammarSpec
from neuron.text.output import OutputSyntax
from neuron.text.tokenizer import TextTokenizer
from neuron.text.vocabulary import Vocabulary
from neuron.worker.preparation import prepare
from neuron.worker.prompts import ServedModel
from neuron.worker.schema import CompletionBody
from neuron.worker.token_healing import RespellingFirst, TakenBack, TokenHealing
from tests.unit.worker.conftest import Start
from tests.unit.worker.scripted_engine import INFO

EOS = 2
ENDS = frozenset({EOS})
VOCAB = INFO.vocab_size
TOY = Vocabulary({
    0: b"", 3: b"a", 4: b"ab", 5: b"abc", 6: b"abcd", 7: b"b", 8: b"bc", 9: b"bx",
    10: b"abc", 11: b"\xe6\x97",
})  # fmt: skip


@pytest.fixture
def model(tokenizer: TextTokenizer, grammars: GrammarCompiler) -> ServedModel:
    template = ChatTemplate(None, tokenizer.special_tokens)
    return ServedModel(INFO, tokenizer, template, OutputSyntax(), grammars, 256)


def allowed(constraint: TokenConstraint) -> list[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits[:VOCAB])]


def named(tokenizer: TextTokenizer, names: Sequence[str]) -> list[int]:
    ids = {tokenizer.token(token): token for token in range(VOCAB)}
    return [ids[name] for name in names]


def spelt(tokenizer: TextTokenizer, ids: Sequence[int]) -> set[str]:
    return {tokenizer.token(token) for token in ids}


def test_tokens_are_found_by_what_they_begin_with() -> None:
    assert TOY.that_begin_with(b"abc") == [5, 10, 6]
    assert TOY.beginnings_of(b"abc") == [3, 4, 5, 10]
    assert TOY.that_begin_with(b"x") == TOY.beginnings_of(b"x") == []
    assert (TOY.spelling(9), TOY.spelling(0), TOY.spelling(99)) == (b"bx", b"", b"")


def test_several_tokens_may_spell_it_and_the_last_go_beyond() -> None:
    free = RespellingFirst(TakenBack(TOY, b"abc", 3), 12, None)
    assert allowed(free) == [3, 4, 5, 6, 10]
    assert not free.may_end()
    assert not free.is_free()
    free.accept(3)
    assert not free.is_free()
    assert allowed(free) == [7, 8]
    free.accept(8)
    assert free.may_end()
    assert not free.is_finished()
    assert allowed(free) == [*range(32)]
    assert free.is_free()
    over = RespellingFirst(TakenBack(TOY, b"ab", 2), 12, None)
    over.accept(6)
    assert over.may_end()
    assert over.end_ids == frozenset()


async def test_a_grammar_begins_where_the_prompt_ends(
    grammars: GrammarCompiler, tokenizer: TextTokenizer
) -> None:
    prefix = ' "\n é🙂 Hel'
    spec = GrammarSpec("regex", "lo|p", prefix=prefix)
    constraint = await grammars.constraint(spec)
    for token in tokenizer.encode(prefix.strip(), add_bos=False)[:-1]:
        constraint.accept(token)
    ids = allowed(constraint)
    assert {"▁Hel", "▁Hello", "▁Help", "▁He", "▁"} <= spelt(tokenizer, ids)
    assert "▁Helen" not in spelt(tokenizer, ids)
    assert not constraint.may_end()
    constraint.accept(next(i for i in ids if tokenizer.token(i) == "▁Hello"))
    assert constraint.is_finished()


async def test_part_of_a_letter_is_spelt_before_a_grammar_begins(
    grammars: GrammarCompiler, tokenizer: TextTokenizer
) -> None:
    vocabulary = await grammars.vocabulary(tokenizer.is_silent)
    *_, last = tokenizer.encode("日", add_bos=False)
    taken = TakenBack(vocabulary, vocabulary.spelling(last), 1)
    assert taken.as_text == ""
    inner = await grammars.constraint(GrammarSpec("regex", "[xy]"))
    both = RespellingFirst(taken, VOCAB, inner)
    assert allowed(both) == [last]
    both.accept(last)
    assert not both.may_end()
    assert spelt(tokenizer, allowed(both)) >= {"x", "y"}
    both.accept(next(i for i in allowed(both) if tokenizer.token(i) == "x"))
    assert both.may_end()
    assert both.is_finished()
    assert not both.is_free()
    assert both.end_ids == {EOS}


async def test_a_prompt_is_taken_back_by_its_last_token(model: ServedModel) -> None:
    healing = await TokenHealing.of(model)
    prompt = model.encode("Say Hel")
    cut, taken = healing.take(prompt, ENDS)
    assert (cut.ids, cut.text) == (prompt.ids[:-1], "Say Hel")
    assert taken is not None
    assert (taken.spelling, taken.chars) == (b" Hel", 4)
    # At the very beginning, texts of this kind have no space.
    _, taken = healing.take(model.encode("Hel"), ENDS)
    assert taken is not None
    assert (taken.spelling, taken.chars) == (b" Hel", 3)


async def test_some_prompts_are_left_as_they_are(model: ServedModel) -> None:
    healing = await TokenHealing.of(model)
    alone = model.encode("Hel", add_bos=False)
    special = model.encode([*alone.ids, EOS])
    ending = model.encode("Say Hel")
    assert len(alone.ids) == 1
    assert healing.take(alone, ENDS) == (alone, None)
    assert healing.take(special, frozenset()) == (special, None)
    assert healing.take(ending, frozenset({ending.ids[-1]})) == (ending, None)


async def test_a_model_whose_tokens_cannot_be_told_is_refused(
    model: ServedModel, tmp_path: Path
) -> None:
    compiler = GrammarCompiler(tmp_path, [EOS], VOCAB)
    with pytest.raises(ApiError, match="token_healing") as caught:
        await TokenHealing.of(replace(model, grammars=compiler))
    assert (caught.value.code, caught.value.param) == (
        "unsupported_parameter", "token_healing",
    )  # fmt: skip
    compiler.close()


async def constraint_of(model: ServedModel, **fields: Any) -> TokenConstraint:
    asked = {"model": "m", "prompt": "Say Hel", "token_healing": True, **fields}
    (prepared,) = await prepare(model, "r", CompletionBody.model_validate(asked))
    assert prepared.request.constraint is not None
    return prepared.request.constraint


async def test_limits_and_grammars_hold_for_the_same_tokens(model: ServedModel) -> None:
    some = named(model.tokenizer, ["▁Hello", "▁Help", "▁you"])
    limited = await constraint_of(model, allowed_token_ids=some)
    assert allowed(limited) == sorted(some[:2])
    limited.accept(some[0])
    assert allowed(limited) == sorted(some)
    assert not limited.is_free()
    both = await constraint_of(model, allowed_token_ids=some, guided_regex="lo|en")
    assert allowed(both) == some[:1]
    without = await constraint_of(model, bad_words=["Hello"])
    found = spelt(model.tokenizer, allowed(without))
    assert found == {"▁", "▁H", "▁He", "▁Hel", "▁Helen", "▁Help", "<0x20>"}
    nothing = await constraint_of(model, allowed_token_ids=some[2:])
    with pytest.raises(EngineError, match="leaves no token") as caught:
        nothing.mask()
    assert caught.value.param == "allowed_token_ids"


async def told(start: Start, answer: Sequence[str], **fields: Any) -> Any:
    """What is said of a model that answers with these tokens."""
    script: list[int] = []
    async with start(lambda request: script) as worker:
        script += [*named(worker.tokenizer, answer), EOS]
        asked = {"prompt": "Say Hel", "token_healing": True, **fields}
        status, body = await worker.complete(**asked)
    assert status == 200, body
    return body


@pytest.mark.parametrize("answer", [["▁Hello"], ["▁H", "el", "lo"], ["▁Hel", "lo"]])
async def test_only_what_goes_beyond_is_told(
    start: Start, tokenizer: TextTokenizer, answer: list[str]
) -> None:
    answer = [*answer, "▁you"]
    body = await told(start, answer, return_token_ids=True, n=2)
    before = named(tokenizer, ["<s>", "▁Say"])
    for choice in body["choices"]:
        assert choice["text"] == "lo you"
        assert choice["prompt_token_ids"] == before
        assert choice["token_ids"] == [*named(tokenizer, answer), EOS]
    assert body["usage"]["prompt_tokens"] == len(before)
    assert body["usage"]["completion_tokens"] == 2 * (len(answer) + 1)


async def test_every_prompt_is_healed_on_its_own(
    start: Start, tokenizer: TextTokenizer
) -> None:
    prompts = ["Say Hel", "Hel", "Do not Hel"]
    body = await told(start, ["▁Hello"], prompt=prompts, n=2)
    assert [choice["text"] for choice in body["choices"]] == ["lo"] * 6
    assert body["usage"]["prompt_tokens"] == 2 + 1 + 3
    ids = [named(tokenizer, names) for names in (["▁Say", "▁Hel"], ["▁Hel"])]
    body = await told(start, ["▁Hello"], prompt=ids)
    # A prompt of one token is left as it is, so that all of the answer is new.
    assert [choice["text"] for choice in body["choices"]] == ["lo", " Hello"]
    assert body["usage"]["prompt_tokens"] == 1 + 1


async def test_an_end_before_it_is_spelt_tells_nothing(start: Start) -> None:
    body = await told(start, ["▁H"])
    assert body["choices"][0]["text"] == ""
    assert body["usage"]["completion_tokens"] == 2


async def test_stop_strings_are_looked_for_beyond_it(start: Start) -> None:
    body = await told(start, ["▁Hello", "▁you", "▁Hel"], stop=["Hel", "o"])
    assert body["choices"][0]["text"] == "l"
    body = await told(start, ["▁Hello", "▁you"], stop="Hel")
    assert body["choices"][0]["text"] == "lo you"


@pytest.mark.parametrize("echo", [False, True])
async def test_logprobs_have_the_tokens_at_their_places(
    start: Start, echo: bool
) -> None:
    body = await told(start, ["▁Hello", "▁you"], logprobs=0, echo=echo)
    (choice,) = body["choices"]
    scores = choice["logprobs"]
    if echo:
        assert choice["text"] == "Say Hello you"
        assert scores["tokens"] == ["<s>", " Say", " Hello", " you"]
        assert scores["text_offset"] == [0, 0, 3, 9]
    else:
        assert choice["text"] == "lo you"
        assert scores["tokens"] == [" Hello", " you"]
        assert scores["text_offset"] == [0, 2]


async def test_an_echo_alone_is_the_prompt_as_it_was_sent(start: Start) -> None:
    body = await told(start, [], echo=True, max_tokens=0)
    assert body["choices"][0]["text"] == "Say Hel"
    assert body["usage"]["prompt_tokens"] == 3


async def test_a_stream_begins_beyond_the_prompt(start: Start) -> None:
    asked = {"model": "scripted", "prompt": "Say Hel", "token_healing": True}
    script: list[int] = []
    async with start(lambda request: script) as worker:
        script += [*named(worker.tokenizer, ["▁H", "el", "lo", "▁you"]), EOS]
        *chunks, done = await worker.stream("/v1/completions", asked)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "lo you"


async def test_conversations_are_not_healed(start: Start) -> None:
    async with start("x") as worker:
        status, answer = await worker.chat(token_healing=True)
        assert (await worker.chat(token_healing=False))[0] == 200
    error = answer["error"]
    assert (status, error["code"], error["param"]) == (
        400, "unsupported_parameter", "token_healing",
    )  # fmt: skip
    assert "/v1/completions" in error["message"]
