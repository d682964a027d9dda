"""What one request keeps for a client that is slow to read."""

import pytest

from neuron.engines.base import (
    EngineError,
    Finished,
    GenerationRequest,
    TokenEvent,
    TokenLogprobs,
)
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.generation import Generation, Times
from neuron.worker.reply import ReplyShape


def generation(
    tokenizer: TextTokenizer, stops: list[str] | None = None
) -> tuple[Generation, list[int]]:
    ended: list[int] = []
    request = GenerationRequest(
        "a", (1,), max_new_tokens=100, stop_ids=frozenset({2}), top_logprobs=0
    )
    made = Generation(
        request,
        ReplyShape(stops=stops or []),
        tokenizer,
        Times(arrived=0),
        on_news=lambda: None,
        on_end=lambda: ended.append(1),
    )
    return made, ended


def tokens(tokenizer: TextTokenizer, text: str) -> list[TokenEvent]:
    ids = tokenizer.encode(text, add_bos=False)
    return [TokenEvent("a", token_id, TokenLogprobs(-1.0)) for token_id in ids]


async def test_a_slow_reader_gets_everything_at_once(tokenizer: TextTokenizer) -> None:
    made, ended = generation(tokenizer)
    for event in tokens(tokenizer, "one two three"):
        made.accept([event])
    made.accept([TokenEvent("a", 2), Finished("a", "stop")])
    assert ended == [1]
    delta = made.taken()
    assert delta.text == "one two three"
    assert len(delta.tokens) == 3
    assert delta.finish_reason == "stop"
    assert made.reply.tokens == 4


async def test_nothing_new_is_nothing(tokenizer: TextTokenizer) -> None:
    made, _ = generation(tokenizer)
    assert not made.taken()


async def test_a_stop_string_ends_it_without_the_reader(
    tokenizer: TextTokenizer,
) -> None:
    made, ended = generation(tokenizer, [" two"])
    made.accept(tokens(tokenizer, "one two three"))
    assert ended == [1]
    made.accept(tokens(tokenizer, "four"))
    delta = made.taken()
    assert (delta.text, delta.finish_reason) == ("one", "stop")
    assert [t.token_id for t in delta.tokens] == tokenizer.encode("one", add_bos=False)


async def test_a_stop_string_that_only_the_end_completes(
    tokenizer: TextTokenizer,
) -> None:
    """Bytes that are no character yet are one when nothing follows."""
    made, _ = generation(tokenizer, ["\ufffd"])
    (*_, half) = tokens(tokenizer, "one \u2603")[:-1]
    made.accept([*tokens(tokenizer, "one"), half, Finished("a", "length")])
    delta = made.taken()
    assert (delta.text.strip(), delta.finish_reason) == ("one", "stop")
    assert delta.stop_reason == "\ufffd"


async def test_held_back_text_comes_at_the_end(tokenizer: TextTokenizer) -> None:
    made, _ = generation(tokenizer, [" two!"])
    made.accept([*tokens(tokenizer, "one two"), Finished("a", "length")])
    delta = made.taken()
    assert (delta.text, delta.finish_reason) == ("one two", "length")
    assert len(delta.tokens) == 2


async def test_a_failure_is_raised(tokenizer: TextTokenizer) -> None:
    made, ended = generation(tokenizer)
    made.fail(EngineError("gone", code="engine_failed"))
    assert ended == [1]
    with pytest.raises(EngineError, match="gone"):
        await made.ended()


async def test_one_token_prompts_have_nothing_to_score(
    tokenizer: TextTokenizer,
) -> None:
    request = GenerationRequest("a", (7,), max_new_tokens=0, prompt_logprobs=0)
    made = Generation(
        request, ReplyShape(echo=" upon"), tokenizer, Times(arrived=0),
        on_news=lambda: None, on_end=lambda: None,
    )  # fmt: skip
    made.accept([Finished("a", "length")])
    assert made.taken().text == " upon"
