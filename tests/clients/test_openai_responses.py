"""The Responses API by the official OpenAI client, on a real gateway and neuron."""

import json
import re
from enum import Enum
from typing import Any

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from tests.clients.conftest import AGENT, ASSISTANT, MODEL
from tests.clients.gateway_log import GatewayLog
from tests.support.processes import Process

ONCE = "Once upon a time"
TALE: Any = {
    "model": MODEL,
    "input": ONCE,
    "max_output_tokens": 16,
    "temperature": 0,
}
CLOCK: Any = {
    "type": "function",
    "name": "clock",
    "description": "Tells the time.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"zone": {"enum": ["utc", "cet"]}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}
CALL: Any = {
    "model": ASSISTANT,
    "input": "What is the time?",
    "tools": [CLOCK],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_output_tokens": 120,
}
THINK: Any = {
    "model": AGENT,
    "input": "Why?",
    "max_output_tokens": 24,
    "extra_body": {"thinking_token_budget": 6},
}


class Mood(Enum):
    GLAD = "glad"
    SAD = "sad"


class Feeling(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mood: Mood
    strong: bool


# Text.


def test_makes_a_response(client: openai.OpenAI) -> None:
    response = client.responses.create(**TALE, metadata={"a": "b"}, user="me")
    assert response.model == MODEL
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert len(response.output_text.split()) > 8
    assert response.usage is not None
    assert response.usage.output_tokens == 16
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert response.metadata == {"a": "b"}
    assert response.user == "me"
    assert response.model_extra is not None
    assert response.model_extra["store"] is False


def test_says_what_chat_completions_say(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model=ASSISTANT,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": ONCE},
        ],
        max_tokens=16,
        temperature=0,
    )
    response = client.responses.create(
        **TALE | {"model": ASSISTANT}, instructions="Be brief."
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens


def test_streams_the_same_words(client: openai.OpenAI) -> None:
    whole = client.responses.create(**TALE)
    events = list(client.responses.create(**TALE, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert len(deltas) > 1  # On a busy machine, tokens come together.
    assert "".join(deltas) == whole.output_text
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    assert last.response.usage is not None
    assert whole.usage is not None
    assert last.response.usage.input_tokens == whole.usage.input_tokens
    assert last.response.usage.output_tokens == whole.usage.output_tokens


def test_the_stream_helper_puts_it_together(client: openai.OpenAI) -> None:
    fields = TALE | {"max_output_tokens": 400}
    with client.responses.stream(**fields, extra_body={"stop": ["."]}) as stream:
        for _ in stream:
            pass
        response = stream.get_final_response()
    assert response.status == "completed"
    assert response.output_text
    assert "." not in response.output_text


async def test_async_streams(gateway: Process) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="x", max_retries=0
    ) as client:
        stream = await client.responses.create(**TALE, stream=True)
        types = [event.type async for event in stream]
        whole = await client.responses.create(**TALE)
    assert types[0] == "response.created"
    assert types[-1] == "response.incomplete"
    assert types.count("response.output_text.delta") > 1
    assert len(whole.output_text.split()) > 8


def test_goes_on_with_what_was_said(client: openai.OpenAI) -> None:
    first = client.responses.create(**TALE | {"model": ASSISTANT})
    said: Any = [{"role": "user", "content": ONCE}, *first.output]
    more: Any = [*said, {"role": "developer", "content": "And then?"}]
    response = client.responses.create(**TALE | {"model": ASSISTANT, "input": more})
    assert response.usage is not None
    assert first.usage is not None
    assert response.usage.input_tokens > first.usage.total_tokens


def test_says_what_the_prefix_cache_held(client: openai.OpenAI) -> None:
    long = TALE | {"input": " ".join([ONCE] * 60)}
    once, again = (client.responses.create(**long).usage for _ in range(2))
    assert once is not None
    assert again is not None
    assert once.input_tokens_details.cached_tokens == 0
    assert 0 < again.input_tokens_details.cached_tokens < again.input_tokens


def test_scores_the_words(client: openai.OpenAI) -> None:
    response = client.responses.create(
        **TALE, include=["message.output_text.logprobs"], top_logprobs=2
    )
    [message] = response.output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert len(part.logprobs) == 16
    assert all(len(score.top_logprobs) == 2 for score in part.logprobs)
    spelt = b"".join(bytes(score.bytes) for score in part.logprobs)
    assert spelt.decode() == part.text


# Thoughts.


def test_a_thought_is_an_item_of_its_own(client: openai.OpenAI) -> None:
    response = client.responses.create(**THINK, include=["reasoning.encrypted_content"])
    thought, message = response.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text
    assert thought.summary == []
    assert thought.encrypted_content
    assert message.type == "message"
    assert response.usage is not None
    assert 0 < response.usage.output_tokens_details.reasoning_tokens < 24
    shown: Any = [{"role": "user", "content": "Why?"}, thought, message]
    token: Any = {"type": "reasoning", "id": "rs_1", "summary": [],
                  "encrypted_content": thought.encrypted_content}  # fmt: skip
    sealed: Any = [shown[0], token, message]
    counts = [
        client.responses.input_tokens.count(model=AGENT, input=items).input_tokens
        for items in (shown, sealed)
    ]
    assert counts[0] == counts[1]


def test_a_thought_is_streamed_as_a_summary(client: openai.OpenAI) -> None:
    with client.responses.stream(**THINK, reasoning={"summary": "auto"}) as stream:
        events: Any = list(stream)
    told = [e for e in events if e.type == "response.reasoning_summary_text.delta"]
    done = next(e for e in events if e.type == "response.reasoning_summary_text.done")
    assert "".join(event.delta for event in told) == done.text
    types = [event.type for event in events]
    assert types.index("response.reasoning_summary_part.done") < types.index(
        "response.output_text.delta"
    )


# Tools.


def test_a_tool_round_trip(client: openai.OpenAI) -> None:
    response = client.responses.create(**CALL)
    [call] = response.output
    assert call.type == "function_call"
    assert call.name == "clock"
    assert json.loads(call.arguments)["zone"] in ("utc", "cet")
    items: Any = [
        {"role": "user", "content": CALL["input"]},
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "noon"},
    ]
    answer = client.responses.create(
        model=ASSISTANT, input=items, tools=[CLOCK], tool_choice="none",
        max_output_tokens=8,
    )  # fmt: skip
    assert answer.output_text


def test_a_tool_call_is_streamed_as_it_is_made(client: openai.OpenAI) -> None:
    with client.responses.stream(**CALL) as stream:
        events: Any = list(stream)
        response = stream.get_final_response()
    kind = "response.function_call_arguments.delta"
    deltas = [event.delta for event in events if event.type == kind]
    assert len(deltas) > 1
    [call] = response.output
    assert call.type == "function_call"
    assert "".join(deltas) == call.arguments
    assert call.parsed_arguments == json.loads(call.arguments)


@pytest.mark.parametrize(
    ("syntax", "definition"),
    [
        ("regex", r"SELECT [a-z]{1,6} FROM \"[a-z]{1,6}\"\n"),
        (
            "lark",
            r"""
            start: "SELECT " name " FROM " "\"" name "\"" LF
            name: /[a-z]{1,6}/
            %import common.LF
            """,
        ),
    ],
    ids=["regex", "lark"],
)
def test_a_custom_tool_by_its_grammar(
    client: openai.OpenAI, syntax: str, definition: str
) -> None:
    format_ = {"type": "grammar", "syntax": syntax, "definition": definition}
    query: Any = {"type": "custom", "name": "query", "format": format_}
    stream = client.responses.create(
        model=ASSISTANT,
        input="Look it up.",
        tools=[query],
        tool_choice={"type": "custom", "name": "query"},
        max_output_tokens=120,
        stream=True,
    )
    events: Any = list(stream)
    last = events[-1]
    assert last.type == "response.completed"
    [call] = last.response.output
    assert call.type == "custom_tool_call"
    assert re.fullmatch(r'SELECT [a-z]{1,6} FROM "[a-z]{1,6}"\n', call.input)
    kind = "response.custom_tool_call_input.delta"
    assert "".join(e.delta for e in events if e.type == kind) == call.input
    items: Any = [
        {"role": "user", "content": "Look it up."},
        call,
        {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "3"},
    ]
    answer = client.responses.create(model=ASSISTANT, input=items, max_output_tokens=8)
    assert answer.output_text


def test_what_an_agent_sends_beside_its_functions(client: openai.OpenAI) -> None:
    inner = {"type": "function", "name": "clock", "parameters": CLOCK["parameters"]}
    space: Any = {"type": "namespace", "name": "mcp__time", "description": "Clocks.",
                  "tools": [inner]}  # fmt: skip
    search: Any = {"type": "web_search", "external_web_access": False}
    raw = client.responses.with_raw_response.create(
        model=ASSISTANT,
        input=[{"type": "message", "role": "developer", "content": [
            {"type": "input_text", "text": "Be brief."}]},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "Time?"}]}],
        instructions="You are an agent.",
        tools=[space, search],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=120,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="a-b",
        store=False,
        extra_body={"client_metadata": {"x": "y"}},
    )  # fmt: skip
    [call] = raw.parse().output
    assert call.type == "function_call"
    assert (call.name, call.namespace) == ("clock", "mcp__time")
    warning = raw.headers["X-Cortex-Warning"]
    assert "tools[1]: 'web_search'" in warning
    assert "client_metadata" in warning


# Structured output.


def test_parses_structured_output(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        model=ASSISTANT,
        input="How are you?",
        text_format=Feeling,
        max_output_tokens=200,
    )
    assert isinstance(response.output_parsed, Feeling)


def test_streams_structured_output(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=ASSISTANT,
        input="How are you?",
        text_format=Feeling,
        max_output_tokens=200,
    ) as stream:
        stream.until_done()
        assert isinstance(stream.get_final_response().output_parsed, Feeling)


# Counting.


def test_counts_what_is_charged(client: openai.OpenAI) -> None:
    fields: Any = {
        "model": ASSISTANT,
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": ONCE}],
        "tools": [CLOCK],
        "tool_choice": "none",
    }
    counted = client.responses.input_tokens.count(**fields)
    assert counted.object == "response.input_tokens"
    response = client.responses.create(**fields, max_output_tokens=1)
    assert response.usage is not None
    assert counted.input_tokens == response.usage.input_tokens


# What goes wrong.


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"include": ["dreams"]}, "include[0]"),
        ({"temperature": 3}, "temperature"),
        (
            {"tools": [CLOCK | {"parameters": {"type": "array"}}]},
            "tools[0].parameters.type",
        ),
    ],
)
def test_says_which_field_is_wrong(
    client: openai.OpenAI, fields: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**TALE | fields)
    assert refused.value.param == param
    assert param in refused.value.message


def test_says_that_a_conversation_is_too_long(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**TALE | {"input": ONCE * 2000}, truncation="auto")
    assert refused.value.code == "context_length_exceeded"


def test_says_which_model_would_have_been_right(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL) as refused:
        client.responses.create(model="nope", input="hi")
    assert refused.value.code == "model_not_found"


def test_says_that_nothing_is_stored(client: openai.OpenAI) -> None:
    for ask in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match=r"cortex\.toml") as refused:
            ask("resp_1")
        assert refused.value.code == "responses_not_stored"


def test_is_cancelled_where_the_client_leaves(
    client: openai.OpenAI, gateway: Process
) -> None:
    log = GatewayLog(gateway)
    stream = client.responses.create(
        **TALE | {"max_output_tokens": 400},
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    stream.close()
    [ended] = log.ended(1)
    assert ended.outcome == "client_gone"
