"""The official Anthropic client against a real gateway, neuron and worker."""

import asyncio
import itertools
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.conftest import AGENT, ASSISTANT, MODEL
from tests.clients.gateway_log import GatewayLog
from tests.support import python_clients
from tests.support.processes import Process

python_clients.require("anthropic")
import anthropic  # noqa: E402

pytestmark = pytest.mark.clients

ASK: Any = [{"role": "user", "content": "Once upon a time"}]
CLOCK: Any = {
    "name": "clock",
    "description": "Tells the time.",
    "input_schema": {
        "type": "object",
        "properties": {"zone": {"enum": ["utc", "cet"]}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}
GREEDY: Any = {"extra_body": {"temperature": 0}}
THINK: Any = {"type": "enabled", "budget_tokens": 6}
CHAT: Any = {"model": MODEL, "max_tokens": 24, "messages": ASK}
CALL: Any = {
    "model": AGENT,
    "max_tokens": 120,
    "messages": [{"role": "user", "content": "What is the time?"}],
    "tools": [CLOCK],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "thinking": THINK,
}


@pytest.fixture
def claude(gateway: Process) -> Iterator[Any]:
    with anthropic.Anthropic(
        base_url=gateway.url, api_key="x", max_retries=0
    ) as client:
        yield client


def prompt_tokens(usage: Any) -> int:
    found: int = usage.input_tokens + usage.cache_read_input_tokens
    return found


def said(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_lists_the_models(claude: Any) -> None:
    listed = list(claude.models.list(limit=1))
    assert {model.id for model in listed} == {AGENT, ASSISTANT, MODEL}
    model = claude.models.retrieve(MODEL)
    assert model == next(each for each in listed if each.id == MODEL)
    assert model.type == "model"
    assert model.max_input_tokens > 0


def test_answers(claude: Any) -> None:
    answer = claude.messages.create(**CHAT, **GREEDY)
    assert answer.model == MODEL
    assert (answer.stop_reason, answer.stop_sequence) == ("max_tokens", None)
    assert answer.usage.output_tokens == 24
    assert answer.usage.cache_read_input_tokens >= 0
    assert len(said(answer).split()) > 10
    assert answer.id.startswith("msg_")
    assert answer._request_id


def test_streams_the_same_words(claude: Any) -> None:
    whole = claude.messages.create(**CHAT, **GREEDY)
    with claude.messages.stream(**CHAT, **GREEDY) as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 1  # On a busy machine, tokens come together.
    assert "".join(pieces) == said(whole)
    final = stream.get_final_message()
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert prompt_tokens(final.usage) == prompt_tokens(whole.usage)
    assert final.stop_reason == "max_tokens"


def test_the_first_event_knows_the_prompt(claude: Any) -> None:
    counted = claude.messages.count_tokens(model=MODEL, messages=ASK)
    events = list(claude.messages.create(**CHAT, stream=True))
    assert [event.type for event in events if event.type != "content_block_delta"] == [
        "message_start", "content_block_start", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    assert prompt_tokens(events[0].message.usage) == counted.input_tokens


def test_a_tool_is_called_and_its_result_read(claude: Any) -> None:
    called = claude.messages.create(**CALL)
    assert called.stop_reason == "tool_use"
    thought, *others = called.content
    assert (thought.type, bool(thought.signature)) == ("thinking", True)
    use = others[-1]
    assert use.input["zone"] in ("utc", "cet")
    result = {
        "type": "tool_result",
        "tool_use_id": use.id,
        "content": [{"type": "text", "text": "12:30"}],
        "is_error": True,
        "cache_control": {"type": "ephemeral"},
    }
    after = [
        *CALL["messages"],
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    asked = CALL | {"messages": after, "tool_choice": {"type": "none"}}
    answered = claude.messages.create(**asked | {"max_tokens": 40})
    assert {block.type for block in answered.content} <= {"thinking", "text"}
    # What the model has seen before comes from its cache.
    again = claude.messages.create(**asked | {"max_tokens": 1})
    assert again.usage.cache_read_input_tokens > 0
    assert prompt_tokens(again.usage) == prompt_tokens(answered.usage)


async def test_the_streaming_helper_puts_calls_together(gateway: Process) -> None:
    async with (
        anthropic.AsyncAnthropic(
            base_url=gateway.url, auth_token="x", api_key=None, max_retries=0
        ) as claude,
        claude.messages.stream(**CALL) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_message()
    kinds = {event.type for event in events}
    assert {"thinking", "signature", "input_json"} <= kinds
    assert final.stop_reason == "tool_use"
    assert final.content[0].type == "thinking"
    assert final.content[0].signature
    assert final.content[-1].input["zone"] in ("utc", "cet")
    pieces = [event for event in events if event.type == "input_json"]
    assert len(pieces) > 1


def test_thinking_is_had_as_asked(claude: Any) -> None:
    plain = CALL | {"max_tokens": 40, "tools": [], "tool_choice": {"type": "none"}}
    shown = claude.messages.create(**plain)
    assert shown.content[0].type == "thinking"
    assert shown.usage.output_tokens_details.thinking_tokens >= 6
    hidden = claude.messages.create(
        **plain | {"thinking": THINK | {"display": "omitted"}}
    )
    assert (hidden.content[0].type, hidden.content[0].thinking) == ("thinking", "")
    # The model thinks of it all the same.
    turn = {"role": "assistant", "content": hidden.content}
    last = {"role": "user", "content": "And then?"}
    asked = plain | {"messages": [*plain["messages"], turn, last]}
    assert claude.messages.create(**asked).stop_reason
    none = claude.messages.create(**plain | {"thinking": {"type": "disabled"}})
    assert {block.type for block in none.content} == {"text"}


def test_stops_where_it_is_told(claude: Any) -> None:
    free = said(claude.messages.create(**CHAT, **GREEDY))
    word = free.split()[5]
    stopped = claude.messages.create(**CHAT, **GREEDY, stop_sequences=["¶", word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert said(stopped) == free[: free.index(word)]
    with claude.messages.stream(**CHAT, **GREEDY, stop_sequences=[word]) as stream:
        assert stream.get_final_message().stop_sequence == word


def test_goes_on_with_its_own_words(claude: Any) -> None:
    begun = [*ASK, {"role": "assistant", "content": "there was a little"}]
    counted = claude.messages.count_tokens(model=MODEL, messages=begun)
    answer = claude.messages.create(**CHAT | {"messages": begun}, **GREEDY)
    assert prompt_tokens(answer.usage) == counted.input_tokens
    assert said(answer).split()[0] in ("girl", "boy")


def test_output_has_the_form_that_it_should(claude: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "dog"]}, "good": {"type": "boolean"}},
        "required": ["kind", "good"],
        "additionalProperties": False,
    }
    answer = claude.messages.create(
        **CHAT | {"model": ASSISTANT, "max_tokens": 100},
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    value = json.loads(said(answer))
    assert value["kind"] in ("cat", "dog")
    assert isinstance(value["good"], bool)


COUNTED: list[Any] = [
    {"model": MODEL, "messages": ASK},
    {"model": MODEL, "messages": ASK, "system": [{"type": "text", "text": "Be kind."}]},
    {name: CALL[name] for name in ("model", "messages", "tools", "tool_choice")},
    {"model": AGENT, "messages": ASK, "thinking": {"type": "adaptive"}},
    {"model": AGENT, "messages": [*ASK, {"role": "system", "content": "Be brief."}]},
]


@pytest.mark.parametrize("asked", COUNTED)
def test_a_count_is_what_is_charged(claude: Any, asked: Any) -> None:
    counted = claude.messages.count_tokens(**asked)
    charged = claude.messages.create(**asked, max_tokens=1)
    assert counted.input_tokens == prompt_tokens(charged.usage)


def test_betas_and_fields_that_do_nothing_are_tolerated(claude: Any) -> None:
    raw = claude.beta.messages.with_raw_response.create(
        **CHAT,
        betas=["context-management-2025-06-27", "nobody-knows-2030-01-01"],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        metadata={"user_id": "u"},
        system=[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        extra_query={"beta": "true"},
    )
    assert "context_management" in raw.headers["X-Cortex-Warning"]
    assert raw.headers["request-id"] == raw.headers["X-Request-Id"]
    assert said(raw.parse())


def test_says_what_is_wrong(claude: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(**CHAT | {"model": "nope"})
    assert unknown.value.type == "not_found_error"
    assert unknown.value.error_code == "model_not_found"
    assert unknown.value.request_id
    assert MODEL in unknown.value.api_message
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(
            **CHAT | {"messages": [{"role": "user", "content": [{"type": "odd"}]}]}
        )
    assert "messages.0.content.0.type: 'odd'" in refused.value.api_message
    with pytest.raises(anthropic.BadRequestError, match="web_search"):
        claude.messages.create(
            **CHAT, tools=[{"type": "web_search_20250305", "name": "web_search"}]
        )
    with pytest.raises(anthropic.NotFoundError) as no_route:
        claude.post("/v1/messages/batches", body={}, cast_to=object)
    assert no_route.value.type == "not_found_error"


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_is_too_long_says_so_as_agents_know_it(
    claude: Any, stream: bool
) -> None:
    long = [{"role": "user", "content": "word " * 30_000}]
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(**CHAT | {"messages": long}, stream=stream)
    assert refused.value.api_message.startswith("prompt is too long: ")


def test_every_way_to_say_who_asks_will_do(gateway: Process) -> None:
    ways: tuple[dict[str, str], ...] = (
        {"x-api-key": "any"},
        {"Authorization": "Bearer any"},
        {},
    )
    body = json.dumps(CHAT | {"max_tokens": 1}).encode()
    versions = ("2023-06-01", "2026-10-21")
    for way, version in itertools.product(ways, versions):
        headers = {**way, "anthropic-version": version}
        request = urllib.request.Request(
            f"{gateway.url}/v1/messages?beta=true", body,
            {**headers, "Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["type"] == "message"
    root = urllib.request.Request(f"{gateway.url}/", method="HEAD")
    with urllib.request.urlopen(root) as response:
        assert response.status == 200


async def test_leaving_is_noticed(gateway: Process) -> None:
    asked = CHAT | {
        "model": AGENT,
        "max_tokens": 2000,
        "thinking": {"type": "adaptive"},
    }
    log = GatewayLog(gateway)
    async with (
        anthropic.AsyncAnthropic(
            base_url=gateway.url, api_key="x", max_retries=0
        ) as claude,
        await claude.messages.create(**asked, stream=True) as stream,
    ):
        async for event in stream:
            if event.type == "content_block_delta":
                break
    [ended] = await asyncio.to_thread(log.ended, 1)
    assert ended.outcome == "client_gone"
