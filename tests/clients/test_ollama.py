"""The official Ollama client against a real gateway, neuron and worker."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import openai
import pytest

from tests.clients.conftest import AGENT, ASSISTANT, MODEL
from tests.clients.gateway_log import GatewayLog
from tests.support import python_clients
from tests.support.processes import Process

python_clients.require("ollama")
import ollama  # noqa: E402

pytestmark = pytest.mark.clients

ASK: Any = [{"role": "user", "content": "Once upon a time"}]
SHORT: Any = {"num_predict": 24, "temperature": 0}
CALLS: Any = [{"zone": "utc"}, {"zone": "cet"}]
BRIEF: Any = {"num_predict": 200, "seed": 1}
CHAT: Any = {"model": MODEL, "messages": ASK, "options": SHORT}
KINDS: Any = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "good": {"type": "boolean"}},
    "required": ["kind", "good"],
    "additionalProperties": False,
}
# One pixel, as anybody may send it.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)


CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time.",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string", "enum": ["utc", "cet"]}},
            "required": ["zone"],
        },
    },
}


class _Demanding:
    """A client that asks for what Ollama has no words for: that a tool is called, with
    nothing but its own arguments."""

    def _request(self, *args: Any, **kwargs: Any) -> Any:
        for tool in kwargs["json"]["tools"]:
            tool["function"]["parameters"]["additionalProperties"] = False
        kwargs["json"]["tool_choice"] = "required"
        return super()._request(*args, **kwargs)  # type: ignore[misc]


class Demanding(_Demanding, ollama.Client):  # type: ignore[misc]
    pass


class AsyncDemanding(_Demanding, ollama.AsyncClient):  # type: ignore[misc]
    pass


@pytest.fixture
def llama(gateway: Process) -> Iterator[Any]:
    with ollama.Client(host=gateway.url) as client:
        yield client


def loaded(llama: Any) -> dict[str, Any]:
    """Model → what is said of it while it is loaded."""
    return {model.model: model for model in llama.ps().models}


def test_lists_and_shows_models(llama: Any) -> None:
    listed = {model.model: model for model in llama.list().models}
    assert listed.keys() == {AGENT, ASSISTANT, MODEL}
    assert len({model.digest for model in listed.values()}) == 3
    model = listed[MODEL]
    assert model.size > 1_000_000
    assert (model.details.format, model.details.family) == ("exl2", "llama")
    assert model.details.parameter_size == "10.9M"
    shown = llama.show(f"{MODEL}:latest")
    assert shown.details == model.details
    assert shown.modelinfo["llama.context_length"] > 0
    assert "completion" in shown.capabilities
    assert {"completion", "tools", "thinking"} <= set(llama.show(AGENT).capabilities)


def test_answers(llama: Any) -> None:
    answer = llama.chat(**CHAT)
    assert answer.model == MODEL
    assert (answer.done, answer.done_reason) == (True, "length")
    assert (answer.eval_count, answer.message.role) == (24, "assistant")
    assert len(answer.message.content.split()) > 10
    assert answer.prompt_eval_count > 0
    parts = (
        answer.load_duration, answer.prompt_eval_duration, answer.eval_duration,
    )  # fmt: skip
    assert all(part > 0 for part in parts)
    assert answer.total_duration == pytest.approx(sum(parts), abs=10)


def test_streams_the_same_words(llama: Any) -> None:
    whole = llama.chat(**CHAT)
    parts = list(llama.chat(**CHAT, stream=True))
    assert len(parts) > 2  # On a busy machine, tokens come together.
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last.done_reason == "length"
    assert (last.prompt_eval_count, last.eval_count) == (
        whole.prompt_eval_count,
        whole.eval_count,
    )
    moments = [datetime.fromisoformat(part.created_at) for part in parts]
    assert all(a <= b for a, b in pairwise(moments))


async def test_streams_to_the_asynchronous_client(gateway: Process) -> None:
    async with ollama.AsyncClient(host=gateway.url) as llama:
        whole = await llama.generate(MODEL, "Once upon a time", options=SHORT)
        parts = [
            part
            async for part in await llama.generate(
                MODEL, "Once upon a time", options=SHORT, stream=True
            )
        ]
    assert "".join(part.response for part in parts) == whole.response
    assert parts[-1].eval_count == whole.eval_count == 24


def test_a_generation_is_a_chat_of_one_message(llama: Any) -> None:
    chat = [{"role": "system", "content": "Be kind."}, *ASK]
    said = llama.chat(model=ASSISTANT, messages=chat, options=SHORT)
    written = llama.generate(
        ASSISTANT, "Once upon a time", system="Be kind.", options=SHORT
    )
    assert written.response == said.message.content
    assert written.prompt_eval_count == said.prompt_eval_count


def test_a_raw_prompt_is_continued_as_it_is(llama: Any, client: openai.OpenAI) -> None:
    expected = client.completions.create(
        model=ASSISTANT, prompt="Once upon", max_tokens=12, temperature=0
    )
    options = {"num_predict": 12, "temperature": 0}
    raw = {"raw": True, "options": options}
    written = llama.generate(ASSISTANT, "Once upon", **raw)
    assert written.response == expected.choices[0].text
    assert expected.usage is not None
    assert written.prompt_eval_count == expected.usage.prompt_tokens
    parts = list(llama.generate(ASSISTANT, "Once upon", **raw, stream=True))
    assert "".join(part.response for part in parts) == written.response
    scored = llama.generate(
        ASSISTANT, "Once upon", **raw, logprobs=True, top_logprobs=2
    )
    assert len(scored.logprobs) == 12
    first = scored.logprobs[0]
    assert first.logprob == max(top.logprob for top in first.top_logprobs)


def test_stops_where_it_is_told(llama: Any) -> None:
    free = llama.chat(**CHAT).message.content
    word = free.split()[5]
    asked = CHAT | {"options": SHORT | {"stop": ["¶", word]}}
    stopped = llama.chat(**asked)
    assert stopped.message.content == free[: free.index(word)]
    assert stopped.done_reason == "stop"


def test_scores_what_it_says(llama: Any) -> None:
    scored = llama.chat(**CHAT, logprobs=True, top_logprobs=3)
    assert len(scored.logprobs) == 24
    for each in scored.logprobs:
        assert each.logprob <= 0
        assert len(each.top_logprobs) == 3
    parts = list(llama.chat(**CHAT, logprobs=True, stream=True))
    tokens = [each.token for part in parts for each in part.logprobs or ()]
    assert tokens == [each.token for each in scored.logprobs]


@pytest.mark.parametrize("stream", [True, False])
def test_output_has_the_form_that_it_should(llama: Any, stream: bool) -> None:
    for wanted in (KINDS, "json"):
        asked = CHAT | {"model": ASSISTANT, "format": wanted}
        asked["options"] = {"num_predict": 200, "seed": 3}
        told = llama.chat(**asked, stream=stream)
        parts = list(told) if stream else [told]
        text = "".join(part.message.content for part in parts)
        if wanted == "json":
            assert text.lstrip()[0] == "{"
        else:
            value = json.loads(text)
            assert value["kind"] in ("cat", "dog")
            assert isinstance(value["good"], bool)


def test_a_tool_is_called_and_its_result_read(gateway: Process, llama: Any) -> None:
    question = {"role": "user", "content": "What is the time?"}
    asked: Any = {"model": ASSISTANT, "tools": [CLOCK], "options": BRIEF}
    with Demanding(host=gateway.url) as demanding:
        called = demanding.chat(messages=[question], **asked)
    (call, *_) = called.message.tool_calls
    assert call.function.name == "clock"
    assert call.function.arguments in CALLS
    result = {"role": "tool", "tool_name": "clock", "content": "12:30"}
    answered = llama.chat(messages=[question, called.message, result], **asked)
    assert answered.eval_count > 0
    # The model has seen the call and its result.
    assert answered.prompt_eval_count > called.prompt_eval_count


async def test_calls_come_whole_in_a_stream(gateway: Process) -> None:
    async with AsyncDemanding(host=gateway.url) as llama:
        parts = [
            part
            async for part in await llama.chat(
                model=ASSISTANT,
                messages=ASK,
                tools=[CLOCK],
                options=BRIEF,
                stream=True,
            )
        ]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert calls
    assert all(call.function.arguments in CALLS for call in calls)
    assert parts[-1].done


def test_thinking_is_had_as_asked(llama: Any) -> None:
    asked = CHAT | {"model": AGENT}
    thought = llama.chat(**asked, think=True)
    assert thought.message.thinking
    assert thought.message.content == ""
    parts = list(llama.chat(**asked, think="low", stream=True))
    said = "".join(part.message.thinking or "" for part in parts)
    assert said == thought.message.thinking
    plain = llama.chat(**asked, think=False)
    assert plain.message.thinking is None
    assert plain.message.content
    written = llama.generate(AGENT, "Once upon a time", think=True, options=SHORT)
    assert written.thinking == thought.message.thinking
    # What it thought is part of the conversation.
    again = [*ASK, thought.message, *ASK]
    assert llama.chat(**asked | {"messages": again}).done


def test_loads_and_unloads(llama: Any) -> None:
    llama.generate(AGENT, keep_alive="10m")
    entry = loaded(llama)[AGENT]
    left = entry.expires_at - datetime.now(UTC)
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    assert entry.size > 1_000_000
    assert entry.size_vram == 0
    assert entry.context_length > 0
    told = llama.generate(AGENT, keep_alive=0)
    assert (told.done, told.done_reason) == (True, "unload")
    assert AGENT not in loaded(llama)
    told = llama.chat(AGENT)
    assert (told.done, told.done_reason) == (True, "load")
    forever = loaded(llama)[AGENT].expires_at - datetime.now(UTC)
    assert forever > timedelta(days=365)
    for wish in ("1s", 0):
        llama.chat(**CHAT | {"model": AGENT}, keep_alive=wish)
        deadline = time.monotonic() + 20
        while AGENT in loaded(llama):
            assert time.monotonic() < deadline
            time.sleep(0.1)


SEEN: Any = [{"role": "user", "content": "What is it?", "images": [PNG]}]
LONG: Any = [{"role": "user", "content": "word " * 30_000}]
REFUSED: Any = [
    (404, "'nope'", lambda llama: llama.chat(**CHAT | {"model": "nope"})),
    (404, "'nope'", lambda llama: llama.show("nope")),
    (404, "'nope'", lambda llama: llama.generate("nope")),
    (400, "options.temperature", lambda llama: llama.chat(**with_options(3))),
    (400, "template", lambda llama: llama.generate(MODEL, "a", template="b")),
    (400, "format", lambda llama: llama.chat(**CHAT, format={"type": "odd"})),
    (400, "messages[0].images[0]", lambda llama: llama.chat(MODEL, SEEN)),
    (400, "images[0]", lambda llama: llama.generate(MODEL, "a", images=[PNG])),
    (400, "context length", lambda llama: llama.chat(MODEL, LONG)),
    (501, "embed", lambda llama: llama.embed(MODEL, "a")),
    (501, "models_dirs", lambda llama: llama.pull("llama3")),
    (501, "models_dirs", lambda llama: llama.delete(MODEL)),
]


def with_options(temperature: float) -> Any:
    return CHAT | {"options": {"temperature": temperature}}


@pytest.mark.parametrize(("status", "named", "ask"), REFUSED)
def test_says_what_is_wrong(llama: Any, status: int, named: str, ask: Any) -> None:
    with pytest.raises(ollama.ResponseError) as refused:
        ask(llama)
    assert refused.value.status_code == status, refused.value
    assert named in refused.value.error


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_stream_is_refused_as_a_whole_answer_is(llama: Any, path: str) -> None:
    asked: Any = {"model": "nope", "stream": True}
    ask = llama.chat if path == "/api/chat" else llama.generate
    with pytest.raises(ollama.ResponseError) as refused:
        next(ask(**asked))
    assert refused.value.status_code == 404


async def test_leaving_is_noticed(gateway: Process) -> None:
    asked = CHAT | {"model": AGENT, "options": {"num_predict": 2000}}
    log = GatewayLog(gateway)
    async with ollama.AsyncClient(host=gateway.url) as llama:
        stream = await llama.chat(**asked, stream=True)
        async for part in stream:
            assert part.message.thinking
            break
        await stream.aclose()
    [ended] = await asyncio.to_thread(log.ended, 1)
    assert ended.outcome == "client_gone"
