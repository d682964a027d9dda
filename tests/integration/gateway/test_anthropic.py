"""What Anthropic's clients get, before neurons that hang and refuse."""

import asyncio
import logging
import threading
from typing import Any

import orjson
import pytest

from neuron.protocol import sse
from neuron.protocol.errors import ApiError, unavailable
from neuron.protocol.types import ModelState
from tests.integration.gateway.gateways import Client, gateway_before, until
from tests.support import fake_neuron
from tests.support.fake_neuron import FakeNeuron, token
from tests.support.processes import Home
from tests.unit.services.dialects.anthropic.accumulate import events, message

ASK = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hello"}],
}
REASON = sse.encode(orjson.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
USAGE = sse.encode(orjson.dumps({"choices": [], "usage": fake_neuron.usage(2)}))
ANSWER = token("Once") + token(" upon") + REASON + USAGE + sse.DONE


async def ask(client: Client, **fields: Any) -> tuple[int, dict[str, str], bytes]:
    headers = {"x-api-key": "the-clients-own", "anthropic-version": "2026-10-21"}
    async with client.http.post(
        "/v1/messages?beta=true", json=ASK | fields, headers=headers
    ) as response:
        shown = {name.lower(): value for name, value in response.headers.items()}
        return response.status, shown, await response.read()


async def test_a_stream_is_translated_both_ways(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.ends_after(ANSWER)
        status, headers, body = await ask(client, stream=True)
        assert status == 200
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["request-id"] == headers["x-request-id"]
        told = message(body)
        assert told["content"] == [{"type": "text", "text": "Once upon"}]
        assert told["usage"]["input_tokens"] == 3
        assert told["usage"]["cache_read_input_tokens"] == 4
        (received,) = fake.received
        assert received.path == "/v1/chat/completions"
        assert orjson.loads(received.body)["messages"] == ASK["messages"]
        assert "x-api-key" not in received.headers
        assert "anthropic-version" not in received.headers


async def test_who_waits_for_a_load_reads_comments_and_then_pings(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.replica_search.COMMENT_S", 0.05)
    cold = ModelState.UNLOADED
    async with (
        FakeNeuron.with_models("m", state=cold).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        queued = sse.comment("queued")
        fake.reply = fake_neuron.ends_after(token("Once") + queued + ANSWER)
        fake.load_gate.clear()
        asking = asyncio.ensure_future(ask(client, stream=True))
        await until(lambda: bool(fake.loads))
        await asyncio.sleep(0.3)
        fake.load_gate.set()
        _, _, body = await asking
        before, _, _ = body.partition(b"event: ")
        assert before.startswith(b": ")
        kinds = [event["type"] for event in events(body)]
        assert kinds[:5] == [
            "message_start", "ping", "content_block_start", "content_block_delta",
            "ping",
        ]  # fmt: skip
        assert kinds[-1] == "message_stop"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_load_that_fails_is_told(
    home: Home, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("services.gateway.replica_search.COMMENT_S", 0.05)
    async with (
        FakeNeuron.with_models("m", state=ModelState.UNLOADED).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        fake.load_error = ApiError(507, "no room", code="insufficient_vram")
        asking = asyncio.ensure_future(ask(client, stream=stream))
        await until(lambda: bool(fake.loads))
        await asyncio.sleep(0.2)
        fake.load_gate.set()
        status, _, body = await asking
        if stream:
            assert status == 200
            [told] = events(body)
        else:
            assert status >= 500
            told = orjson.loads(body)
        assert told["type"] == "error"
        assert told["error"]["type"] in ("api_error", "overloaded_error")


@pytest.mark.parametrize(
    ("error", "status", "kind", "words"),
    [
        (unavailable("full of work", retry_after=7), 529, "overloaded_error", "full"),
        (
            ApiError(422, "no such turn", code="template_render_failed"),
            400, "invalid_request_error", "no such turn",
        ),
        (
            ApiError(
                400,
                "This model's maximum context length is 64 tokens. However, your"
                " messages came to 70 tokens, and at least one is needed for the"
                " answer.",
                code="context_length_exceeded",
                param="messages",
            ),
            400, "invalid_request_error", "prompt is too long: 70 tokens > 63 maximum",
        ),
        (
            ApiError(
                400, "messages[0].content[0]: not seen", code="c",
                param="messages[0].content[0]",
            ),
            400, "invalid_request_error", "messages.0.content: not seen",
        ),
    ],
)  # fmt: skip
async def test_what_the_neuron_refuses_comes_in_anthropics_words(
    home: Home, error: ApiError, status: int, kind: str, words: str
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.refuses(error)
        for stream in (True, False):
            got, headers, body = await ask(client, stream=stream)
            told = orjson.loads(body)
            assert got == status, told
            assert told["error"]["type"] == kind
            assert words in told["error"]["message"]
            assert told["request_id"] == headers["request-id"]
            after = headers.get("retry-after")
            assert after == (None if error.retry_after is None else "7")


async def test_what_was_used_until_the_client_left_is_known(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said = {"index": 0, "delta": {"content": "Once"}}
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        used = fake_neuron.chunk(said, usage=fake_neuron.usage(1))
        fake.reply = fake_neuron.lingers_after(used)
        asked = ASK | {"stream": True}
        async with client.http.post("/v1/messages", json=asked) as response:
            await response.content.readany()
            response.close()
        await until(lambda: not client.snapshot().requests)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "cortex.requests"]
    assert "outcome=client_gone" in line
    assert "prompt=7 completion=1 cached=4" in line


async def test_a_body_is_kept_as_bytes_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    monkeypatch.setattr(
        "services.gateway.dialects.anthropic.request.refuse_foreign", decoded.append
    )
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.hangs()
        asking = asyncio.ensure_future(ask(client))
        await until(lambda: bool(fake.received))
        assert [body.values for body in decoded] == [{}]
        asking.cancel()


async def test_the_loop_goes_on_while_a_large_body_is_translated(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    monkeypatch.setattr(
        "services.gateway.dialects.anthropic.request.refuse_foreign",
        lambda _: threads.append(threading.current_thread()),
    )
    many = [{"role": "user", "content": "hello"}] * 10_000
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        status, _, _ = await ask(client, messages=many)
        assert status == 200
        (received,) = fake.received
        assert orjson.loads(received.body)["messages"] == many
    assert threading.main_thread() not in threads
    assert threads
