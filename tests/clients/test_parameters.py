"""What requests can ask for, as the official OpenAI client sends it, on real tokens."""

import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from neuron.engines.reference.cache import pages_for
from neuron.models.bundled import bundled_root
from tests.clients.conftest import MODEL
from tests.unit.reference.support import logits_of

STORY: Any = [{"role": "user", "content": "Once upon a time"}]


def complete(client: openai.OpenAI, **fields: Any) -> Completion:
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, **fields}
    answer: Completion = client.completions.create(**body)
    return answer


def chat(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    body = {"model": MODEL, "messages": STORY, "max_completion_tokens": 12, **fields}
    answer: ChatCompletion = client.chat.completions.create(**body)
    return answer


def stream(client: openai.OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    body = {"model": MODEL, "messages": STORY, "max_completion_tokens": 12, **fields}
    return [*client.chat.completions.create(**body, stream=True)]


def texts(answer: Completion) -> list[str]:
    return [choice.text for choice in answer.choices]


def extra(choice: object, name: str) -> Any:
    return getattr(choice, name)


def model_logprobs(ids: Sequence[int]) -> NDArray[np.float64]:
    """[tokens, vocab]: what the model itself makes of every prefix of `ids`."""
    pages = range(pages_for(len(ids)))
    logits = logits_of(bundled_root() / MODEL, ids, [len(ids)], pages)
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    logprobs: NDArray[np.float64] = shifted - np.log(
        np.exp(shifted).sum(axis=-1, keepdims=True)
    )
    return logprobs


IDS: Any = {"return_token_ids": True, "return_tokens_as_token_ids": True}


def scored_as_by_the_model(choice: CompletionChoice, top: int, echo: bool) -> None:
    prompt, answer = extra(choice, "prompt_token_ids"), extra(choice, "token_ids")
    ids = [*prompt, *answer]
    expected = model_logprobs(ids)
    scores = choice.logprobs
    assert scores is not None
    assert scores.tokens is not None
    assert scores.token_logprobs is not None
    assert scores.top_logprobs is not None
    first = 0 if echo else len(prompt)
    assert scores.tokens == [f"token_id:{i}" for i in ids[first:]][: len(scores.tokens)]
    for offset, token in enumerate(ids[first : first + len(scores.tokens)]):
        if (position := first + offset) == 0:
            assert [scores.token_logprobs[0], scores.top_logprobs[0]] == [None, None]
            continue
        row = expected[position - 1]
        likeliest = np.argsort(-row, kind="stable")[:top]
        wanted = {f"token_id:{i}": row[i] for i in {*likeliest.tolist(), token}}
        assert scores.top_logprobs[offset] == pytest.approx(wanted, abs=1e-4)
        assert scores.token_logprobs[offset] == pytest.approx(row[token], abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "more", "top"),
    [
        ({"temperature": 0}, {}, 0),
        ({"temperature": 1.8, "seed": 1}, {"top_k": 5, "repetition_penalty": 1.5}, 20),
        ({"logit_bias": {"300": 100}, "presence_penalty": 2}, {}, 3),
        ({"stop": ["."], "max_tokens": 30, "temperature": 0}, {}, 20),
        ({"seed": 3}, {"structured_outputs": {"regex": "[0-9]{2} é日🙂"}}, 2),
        ({"echo": True, "prompt": "The café – 日本 🙂", "temperature": 0}, {}, 20),
    ],
)
def test_logprobs_are_the_models_own_whatever_is_sampled(
    client: openai.OpenAI, fields: dict[str, Any], more: dict[str, Any], top: int
) -> None:
    answer = complete(client, logprobs=top, extra_body=IDS | more, **fields)
    scored_as_by_the_model(answer.choices[0], top, "echo" in fields)


def test_chat_logprobs_spell_what_was_said(client: openai.OpenAI) -> None:
    wanted = {"structured_outputs": {"regex": "naïve 日本 🙂"}}
    answer = chat(
        client, logprobs=True, top_logprobs=3, max_completion_tokens=40,
        extra_body=wanted,
    )  # fmt: skip
    (choice,) = answer.choices
    assert choice.message.content == "naïve 日本 🙂"
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    spelt = b"".join(bytes(token.bytes or ()) for token in content)
    assert spelt.decode().strip() == "naïve 日本 🙂"
    for token in content:
        assert len(token.top_logprobs) == 3
        best = token.top_logprobs[0].logprob
        assert token.logprob <= best <= 0
        assert sum(math.exp(each.logprob) for each in token.top_logprobs) <= 1.0001


def test_streamed_logprobs_are_those_of_the_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "temperature": 0}
    asked["stop"] = " a little"
    whole = chat(client, **asked).choices[0]
    assert whole.logprobs is not None
    streamed = [
        token
        for chunk in stream(client, **asked)
        for choice in chunk.choices
        if choice.logprobs is not None
        for token in choice.logprobs.content or ()
    ]
    assert streamed == whole.logprobs.content
    assert (
        "".join(t.token for t in streamed).strip()
        == (whole.message.content or "").strip()
    )


def test_chunks_are_strictly_what_the_client_expects(client: openai.OpenAI) -> None:
    chunks = stream(client, n=2, logprobs=True, stream_options={"include_usage": True})
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])
    whole = chat(client, n=2, logprobs=True)
    ChatCompletion.model_validate(whole.model_dump(), strict=True)


def test_a_seed_holds_whatever_else_runs(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str]:
        return texts(complete(client, seed=seed, n=3))

    alone = ask(7)
    assert len({*alone}) == 3
    with ThreadPoolExecutor(6) as threads:
        together = [*threads.map(ask, [1, 7, 2, 7, 3, 7])]
    assert together[1::2] == [alone] * 3
    assert texts(complete(client, seed=7)) == alone[:1]


def test_several_prompts_come_back_in_order(client: openai.OpenAI) -> None:
    words = ["Lily", "The dog", "A big red"]
    answer = complete(client, prompt=words, n=2, echo=True, max_tokens=1)
    assert [choice.index for choice in answer.choices] == [*range(6)]
    for word, text in zip([w for w in words for _ in "ab"], texts(answer), strict=True):
        assert text.startswith(word)
    of_ids = complete(client, prompt=[[1, 300], [1, 301, 302]], max_tokens=1)
    assert of_ids.usage is not None
    assert of_ids.usage.prompt_tokens == 5


def test_a_prompt_can_be_scored_alone(client: openai.OpenAI) -> None:
    answer = complete(
        client, prompt="Lily had a dog.", echo=True, logprobs=1, max_tokens=0
    )
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("Lily had a dog.", "length")
    assert choice.logprobs is not None
    assert answer.usage is not None
    assert len(choice.logprobs.token_logprobs or ()) == answer.usage.prompt_tokens
    scored = complete(
        client, prompt="Lily had a dog.", max_tokens=1,
        extra_body={"prompt_logprobs": 1},
    )  # fmt: skip
    first, *rest = extra(scored.choices[0], "prompt_logprobs")
    assert first is None
    found = [next(iter(each.values()))["logprob"] for each in rest]
    assert found == (choice.logprobs.token_logprobs or [])[1:]


def test_a_repeated_prompt_is_cached_and_says_so(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "One day a girl went to the park. " * 6}]
    chat(client, messages=long)
    usage = chat(client, messages=long).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens or 0
    assert 32 <= cached < usage.prompt_tokens


def test_biases_limits_and_bad_words(client: openai.OpenAI) -> None:
    (forced,) = texts(complete(client, logit_bias={"300": 100}, max_tokens=3))
    assert forced == " l" * 3
    allowed = {"allowed_token_ids": [300, 301]}
    (answer,) = complete(client, extra_body=allowed | IDS).choices
    assert {*extra(answer, "token_ids")} <= {300, 301}
    (free,) = texts(complete(client, temperature=0))
    word = max(free.split(), key=len).strip(",.")
    (without,) = texts(
        complete(client, temperature=0, extra_body={"bad_words": [word]})
    )
    assert word in free
    assert word not in without.split()


def test_the_newer_cap_wins_and_stops_are_left_out(client: openai.OpenAI) -> None:
    usage = chat(client, max_tokens=9, max_completion_tokens=2).usage
    assert usage is not None
    assert usage.completion_tokens == 2
    (free,) = texts(complete(client, temperature=0))
    last = free.split()[-1]
    answer = complete(client, temperature=0, stop=["never", last, "nor", "this"])
    assert answer.choices[0].finish_reason == "stop"
    assert last not in answer.choices[0].text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"n": 0}, "n"),
        ({"logit_bias": {"300": 101}}, "logit_bias[300]"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, **fields)
    assert refused.value.param == param


def test_a_prompt_that_never_fits_is_told_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context") as refused:
        complete(client, prompt="dog " * 3000)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "prompt"


def test_token_healing_goes_on_as_the_text_itself_does(client: openai.OpenAI) -> None:
    heal = {"token_healing": True, **IDS}
    whole = complete(client, prompt="Once upon", temperature=0, max_tokens=9)
    cut = complete(
        client, prompt="Once up", temperature=0, max_tokens=10, logprobs=2, echo=True,
        extra_body=heal,
    )  # fmt: skip
    (choice,) = cut.choices
    assert choice.text == f"Once upon{whole.choices[0].text}"
    scored_as_by_the_model(choice, 2, echo=True)
    prompt, answer = extra(choice, "prompt_token_ids"), extra(choice, "token_ids")
    assert cut.usage is not None
    assert cut.usage.prompt_tokens == len(prompt) == 2
    assert cut.usage.completion_tokens == len(answer) == 10
    short = complete(
        client, prompt="Once up", temperature=0, max_tokens=1, extra_body=heal
    )
    assert (short.choices[0].text, short.choices[0].finish_reason) == ("on", "length")


def test_token_healing_of_several_prompts_in_a_stream_under_a_grammar(
    client: openai.OpenAI,
) -> None:
    more = {"token_healing": True, "guided_regex": "(lo|p) [a-z]{2,9}\\."}
    body: dict[str, Any] = {
        "model": MODEL, "prompt": ["She said Hel", "Hel"], "max_tokens": 12, "seed": 1,
        "n": 2,
    }  # fmt: skip
    pieces = ["", "", "", ""]
    for chunk in client.completions.create(**body, extra_body=more, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    for text in pieces:
        assert re.fullmatch(r"(lo|p) [a-z]{2,9}\.", text), pieces
