"""What local engines offer beyond OpenAI, through its client, on real tokens."""

import json
from typing import Any

import httpx2
import openai
import pytest

from tests.clients.conftest import AGENT, MODEL
from tests.clients.test_parameters import chat, complete, extra, stream, texts

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


def tokens(client: openai.OpenAI, text: str) -> list[int]:
    """The text's tokens, without the beginning of a sequence."""
    body = {"model": MODEL, "prompt": text, "add_special_tokens": False}
    answer = client.post("/tokenize", body=body, cast_to=httpx2.Response)
    found: list[int] = answer.json()["tokens"]
    return found


@pytest.mark.parametrize("more", [{"top_k": 1}, {"min_p": 1.0}])
def test_only_the_likeliest_is_the_greedy_answer(
    client: openai.OpenAI, more: dict[str, Any]
) -> None:
    greedy = texts(complete(client, temperature=0))
    assert texts(complete(client, temperature=2, seed=5, extra_body=more)) == greedy


def test_a_repetition_penalty_changes_what_would_repeat(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    plain = texts(complete(client, **fields))
    assert texts(
        complete(client, **fields, extra_body={"repetition_penalty": 1.8})
    ) != (plain)


def test_stop_tokens_wait_for_the_least_number_of_tokens(client: openai.OpenAI) -> None:
    ids = {"return_token_ids": True}
    free = complete(client, temperature=0, extra_body=ids).choices[0]
    third = extra(free, "token_ids")[2]
    for least, finish in ((0, "stop"), (12, "length")):
        more = ids | {"stop_token_ids": [third], "min_tokens": least}
        choice = complete(client, temperature=0, extra_body=more).choices[0]
        assert choice.finish_reason == finish
        assert (third in extra(choice, "token_ids")[:-1]) is False


def test_an_end_that_is_ignored_is_gone_past(client: openai.OpenAI) -> None:
    biased: dict[str, Any] = {"logit_bias": {"2": 100}, "max_tokens": 5}
    assert complete(client, **biased).choices[0].finish_reason == "stop"
    choice = complete(client, **biased, extra_body={"ignore_eos": True}).choices[0]
    assert choice.finish_reason == "length"


def test_goes_on_with_the_last_message(client: openai.OpenAI) -> None:
    more = {"continue_final_message": True, "add_generation_prompt": False}
    messages: Any = [
        {"role": "user", "content": "Tell me."},
        {"role": "assistant", "content": "Once upon a"},
    ]
    answer = chat(client, messages=messages, temperature=0, extra_body=more)
    assert (answer.choices[0].message.content or "").lstrip().startswith("time")


def test_any_json_parses_at_every_temperature(client: openai.OpenAI) -> None:
    marks = {str(token): 9 for text in '}"' for token in tokens(client, text)}
    ended = 0
    for seed in range(6):
        choice = chat(
            client, response_format={"type": "json_object"}, temperature=2, seed=seed,
            max_completion_tokens=200, logit_bias=marks,
        ).choices[0]  # fmt: skip
        if choice.finish_reason == "stop":
            ended += 1
            assert isinstance(json.loads(choice.message.content or ""), dict)
    assert ended


def test_a_lark_grammar_is_followed(client: openai.OpenAI) -> None:
    grammar = 'start: "The " ("cat" | "dog") " sat."'
    more = {"structured_outputs": {"grammar": grammar}}
    [text] = texts(complete(client, max_tokens=30, temperature=2, extra_body=more))
    assert text in {"The cat sat.", "The dog sat."}


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_must_be_made_is_made_once(
    client: openai.OpenAI, choice: Any
) -> None:
    answer = chat(
        client, model=AGENT, tools=[WEATHER], tool_choice=choice, temperature=2,
        parallel_tool_calls=False, max_completion_tokens=120,
        extra_body={"thinking_token_budget": 4},
    ).choices[0]  # fmt: skip
    assert answer.finish_reason == "tool_calls"
    [call] = answer.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in {"Oslo", "Rome"}


def test_a_thought_can_be_bounded_and_left_out(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": AGENT, "max_completion_tokens": 30}
    bounded = chat(client, **fields, extra_body={"thinking_token_budget": 4})
    assert bounded.usage is not None
    details = bounded.usage.completion_tokens_details
    assert details is not None
    assert 0 < (details.reasoning_tokens or 0) < 20
    without = chat(client, **fields, extra_body={"enable_thinking": False})
    assert without.usage is not None
    details = without.usage.completion_tokens_details
    assert details is not None
    assert details.reasoning_tokens == 0


def test_a_chat_counts_what_it_is_charged(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Once upon a time"}]
    counted = client.post(
        "/tokenize", body={"model": MODEL, "messages": messages},
        cast_to=httpx2.Response,
    ).json()  # fmt: skip
    usage = chat(client).usage
    assert usage is not None
    assert counted["count"] == usage.prompt_tokens


def test_a_stream_tells_its_usage_and_how_long_each_phase_took(
    client: openai.OpenAI,
) -> None:
    chunks = stream(client, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    last = chunks[-1]
    assert last.usage is not None
    assert last.usage.completion_tokens <= 12
    timings = extra(last, "timings")
    assert set(timings) == {"queue_s", "prefill_s", "decode_s"}
    assert all(seconds >= 0 for seconds in timings.values())


def test_unknown_fields_are_tolerated_and_suffixes_are_not(
    client: openai.OpenAI,
) -> None:
    assert texts(complete(client, temperature=0, extra_body={"nobody_knows": 1})) == (
        texts(complete(client, temperature=0))
    )
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, suffix="the end")
    assert refused.value.param == "suffix"
