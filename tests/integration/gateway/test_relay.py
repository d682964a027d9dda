"""Requests to neurons that behave, hang, die, refuse and lie."""

import asyncio
import io
import logging

import aiohttp
import orjson
import pytest

from neuron.protocol import sse
from neuron.protocol.errors import ApiError, overloaded
from neuron.protocol.types import ModelState
from tests.integration.gateway.gateways import (
    decoded,
    gateway_before,
    text_of,
    until,
)
from tests.support import fake_neuron
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_bytes_go_through_unchanged(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        body = b'{ "model":"m", "stream":true , "x": [1.50, "\\u00e9"] }'
        headers = {
            "Content-Type": "application/json",
            "Authorization": "Bearer the-clients-own",
            "X-Request-Id": "mine-1",
            "Cookie": "a=b",
            "X-Secret": "s",
            "X-Cortex-Caller": "somebody else",
            "X-Cortex-Priority": "9",
            "User-Agent": "curl/8 é",
        }
        async with client.http.post(
            "/v1/completions?beta=1", data=body, headers=headers
        ) as response:
            answer = await response.read()
            assert response.headers["X-Request-Id"] == "mine-1"
            assert response.content_type == "text/event-stream"
        (received,) = fake.received
        assert received.body == body
        assert received.path == "/v1/completions"
        assert received.headers["Authorization"] == "Bearer token-of-a"
        assert received.headers["X-Request-Id"] == "mine-1"
        withheld = {"Cookie", "X-Secret", "X-Cortex-Priority"}
        assert not withheld & received.headers.keys()
        assert received.headers["X-Cortex-Caller"] == "127.0.0.1 curl/8"
        words = b"".join(map(fake_neuron.token, ["Once", " upon", " a time"]))
        assert answer.startswith(words)
        assert answer.endswith(b"data: [DONE]\n\n")
        assert client.outcomes(caplog) == ["status=200 outcome=done"]


async def test_an_answer_without_a_stream(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
        client.chat() as response,
    ):
        answer = await response.json()
        assert answer["choices"][0]["message"]["content"] == "Once upon a time"
        assert response.content_length is not None


async def test_requests_spread_over_replicas_by_what_is_in_flight(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as a,
        FakeNeuron.with_models("m").serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        a.reply = b.reply = fake_neuron.story(["x"] * 20, pace_s=0.02)
        await asyncio.gather(*(client.stream() for _ in range(6)))
        assert (len(a.received), len(b.received)) == (3, 3)


async def test_a_client_that_leaves_cancels_the_neuron_in_prefill(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.hangs()
        request = asyncio.ensure_future(client.stream())
        await until(lambda: bool(fake.received))
        (view,) = client.snapshot().requests
        assert (view.model, view.node, view.phase) == ("m", "a", "waiting")
        request.cancel()
        await asyncio.wait_for(fake.abandoned.wait(), 5)
        await until(lambda: not client.snapshot().requests)
        assert client.outcomes(caplog) == ["status=499 outcome=client_gone"]
        assert client.gateway.fleet.state.requests.placed() == {}


async def test_a_client_that_leaves_cancels_the_neuron_in_decode(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.endless()
        async with client.chat(stream=True) as response:
            await response.content.readany()
            (view,) = client.snapshot().requests
            assert view.phase == "decoding"
            assert view.ttft_s is not None
            response.close()
        await asyncio.wait_for(fake.abandoned.wait(), 5)


async def test_a_client_that_leaves_with_the_last_event_has_had_everything(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        final = sse.encode(orjson.dumps({"usage": fake_neuron.usage(1)}))
        whole = fake_neuron.token("x") + final + sse.DONE
        fake.reply = fake_neuron.lingers_after(whole)
        body = {"model": "m", "stream": True}
        async with client.http.post("/v1/completions", json=body) as response:
            assert await response.content.readexactly(len(whole)) == whole
            response.close()
        await until(lambda: not client.snapshot().requests)
        assert client.outcomes(caplog) == ["status=200 outcome=done"]
        tokens = 'cortex_completion_tokens_total{model="m",node="a"} 1.0'
        assert tokens in await client.metrics()


@pytest.mark.parametrize("cut", [b"", b"\n\n"])
async def test_a_neuron_that_dies_in_the_middle_ends_the_stream_with_an_error(
    home: Home, caplog: pytest.LogCaptureFixture, cut: bytes
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.dies_after(fake_neuron.token("Once").removesuffix(cut))
        events = await client.stream()
        assert text_of(events) == "Once"
        assert events[-1]["error"]["code"] == "upstream_lost"
        assert "[DONE]" not in events
        assert client.outcomes(caplog) == ["status=502 outcome=upstream_lost"]
        assert client.snapshot().models[0].errors == 1


async def test_a_stream_that_ends_without_its_end_is_no_success(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.ends_after(fake_neuron.token("Once"))
        assert (await client.stream())[-1]["error"]["code"] == "upstream_lost"


async def test_an_error_that_the_neuron_told_is_not_told_twice(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    told = b'data: {"error":{"message":"worker lost","code":"worker_lost"}}\n\n'
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.ends_after(fake_neuron.token("Once") + told)
        events = await client.stream()
        assert [e["error"]["code"] for e in events if "error" in e] == ["worker_lost"]
        assert client.outcomes(caplog) == ["status=502 outcome=upstream_error"]


@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_first_byte_another_replica_answers(
    home: Home, stream: bool
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as a,
        FakeNeuron.with_models("m").serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        a.reply = fake_neuron.dies_after(b"")
        async with client.chat(stream=stream) as response:
            assert response.status == 200
            assert b"upon" in await response.read()
        assert (len(a.received), len(b.received)) == (1, 1)


@pytest.mark.parametrize("stream", [True, False])
async def test_without_another_replica_a_clear_502(home: Home, stream: bool) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.dies_after(b"")
        async with client.chat(stream=stream) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (502, "upstream_failed")
            assert "Retry-After" in response.headers


async def test_a_neuron_that_never_begins_is_given_up(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as a,
        FakeNeuron.with_models("m").serving() as b,
        gateway_before(home, {"a": a, "b": b}, first_byte_timeout_s=0.2) as client,
    ):
        a.reply = fake_neuron.hangs()
        assert text_of(await client.stream()) == "Once upon a time"
        assert len(a.received) == 1


async def test_a_silent_stream_is_given_up(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}, idle_timeout_s=0.2) as client,
    ):
        fake.reply = fake_neuron.endless(pace_s=60)
        events = await client.stream()
        assert events[-1]["error"]["code"] == "upstream_lost"


async def test_a_busy_neurons_refusal_goes_elsewhere_or_through(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as a,
        FakeNeuron.with_models("m").serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        a.reply = fake_neuron.refuses(overloaded("the queue is full", 7))
        assert text_of(await client.stream()) == "Once upon a time"
        b.reply = a.reply
        async with client.chat(stream=True) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (429, "rate_limit_exceeded")
            assert response.headers["Retry-After"] == "7"


async def test_a_refusal_of_the_request_goes_through_unchanged(home: Home) -> None:
    refusal = ApiError(400, "maximum context length is 7 tokens", "context_length")
    async with (
        FakeNeuron.with_models("m").serving() as a,
        FakeNeuron.with_models("m").serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        a.reply = fake_neuron.refuses(refusal)
        async with client.chat() as response:
            assert response.status == 400
            assert await response.json() == refusal.envelope()
        assert b.received == []


async def test_a_worker_that_died_a_moment_ago_is_waited_for(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        lost = ApiError(502, "the worker went away", "worker_lost")
        fake.reply = fake_neuron.refuses(lost)
        request = asyncio.ensure_future(client.stream())
        await until(lambda: bool(fake.received))
        fake.set_state("m", ModelState.RECOVERING, "killed")
        await asyncio.sleep(0.4)
        assert not request.done()
        fake.reply = fake_neuron.story(["again"])
        fake.set_state("m", ModelState.READY)
        assert text_of(await request) == "again"
        assert fake.loads == []


@pytest.mark.parametrize("code", ["worker_lost", "engine_failed"])
async def test_a_request_that_workers_die_of_is_not_sent_on_and_on(
    home: Home, code: str
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.refuses(ApiError(503, "it broke", code))
        request = asyncio.ensure_future(client.stream())
        for deaths in (1, 2):
            await until(lambda n=deaths: len(fake.received) == n)  # type: ignore[misc]
            fake.set_state("m", ModelState.RECOVERING, "killed")
            await asyncio.sleep(0.4)
            fake.set_state("m", ModelState.READY)
        with pytest.raises(AssertionError, match=code):
            await request
        assert len(fake.received) == 2


async def test_a_model_that_was_unloaded_behind_its_back_is_loaded(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        not_loaded = ApiError(409, "not loaded", "model_not_loaded")
        fake.reply = fake_neuron.refuses(not_loaded)
        fake.load_gate.clear()
        fake.models["m"].state = ModelState.UNLOADED
        request = asyncio.ensure_future(client.stream())
        await until(lambda: bool(fake.loads))
        fake.reply = fake_neuron.story(["back"])
        fake.load_gate.set()
        assert text_of(await request) == "back"


async def test_a_liar_that_answers_without_a_stream_is_relayed_as_it_is(
    home: Home,
) -> None:
    async def reply(_: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        return aiohttp.web.json_response({"not": "a stream"})

    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = reply
        async with client.chat(stream=True) as response:
            assert await response.json() == {"not": "a stream"}


async def test_usage_and_ttft_are_measured(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.story(["x"] * 5, pace_s=0.02)
        await client.stream()
        async with client.chat():
            pass
        async with client.chat(model="unknown"):
            pass
        text = await client.metrics()
    labels = 'model="m",node="a"'
    route = 'route="/v1/chat/completions"'
    for line in (
        f'cortex_requests_total{{{labels},{route},status="200"}} 2.0',
        f'cortex_requests_total{{model="",node="",{route},status="404"}} 1.0',
        f"cortex_prompt_tokens_total{{{labels}}} 14.0",
        f"cortex_completion_tokens_total{{{labels}}} 10.0",
        f"cortex_cached_prompt_tokens_total{{{labels}}} 8.0",
        f"cortex_time_to_first_token_seconds_count{{{labels}}} 1.0",
        f'cortex_time_to_first_token_seconds_bucket{{le="60.0",{labels}}} 1.0',
        f"cortex_request_duration_seconds_count{{{labels}}} 2.0",
        f"cortex_tokens_per_second_count{{{labels}}} 1.0",
        f'cortex_tokens_per_second_bucket{{le="80.0",{labels}}} 1.0',
        'cortex_node_up{node="a"} 1.0',
        f"cortex_model_loaded{{{labels}}} 1.0",
    ):
        assert line in text, text
    assert "cortex_in_flight{" not in text


async def test_the_body_is_looked_at_no_more_than_needed(home: Home) -> None:
    cases: list[tuple[bytes, int, str]] = [
        (b"{", 400, "malformed_json"),
        (b"[]", 400, "invalid_request_body"),
        (b"{}", 400, "missing_model_field"),
        (b'{"model": 3}', 400, "missing_model_field"),
        (b'{"model": "nope"}', 404, "model_not_found"),
        (b"[" * 100_000, 400, "malformed_json"),
    ]
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}, max_body_mb=1) as client,
    ):
        for body, status, code in cases:
            async with client.http.post("/v1/completions", data=body) as response:
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (status, code)
        big = orjson.dumps({"model": "m", "prompt": "x" * (1 << 20)})
        async with client.http.post(
            "/v1/completions", data=io.BytesIO(big)
        ) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (413, "request_too_large")
        assert fake.received == []


async def test_a_long_prompt_fits(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        body = orjson.dumps({"model": "m", "prompt": "word " * 600_000})
        async with client.http.post(
            "/v1/completions", data=io.BytesIO(body)
        ) as response:
            assert response.status == 200
        assert fake.received[0].body == body


async def test_a_stream_of_a_thousand_events_is_whole(home: Home) -> None:
    words = [f"w{n} " for n in range(1000)]
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.story(words)
        async with client.chat(stream=True) as response:
            assert text_of(decoded(await response.read())) == "".join(words)
