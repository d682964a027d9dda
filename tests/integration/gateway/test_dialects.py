"""What all dialects have in common: their paths, their errors, their ends."""

import asyncio
import io
import json
import logging
from typing import Any

import orjson
import pytest

from neuron.protocol import sse
from neuron.protocol.errors import ApiError, overloaded
from neuron.protocol.types import ModelState
from tests.integration.gateway.gateways import Client, gateway_before, until
from tests.support import fake_neuron
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home

HELLO = [{"role": "user", "content": "hello"}]
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/messages": {"messages": HELLO, "max_tokens": 9},
    "/v1/responses": {"input": "hello"},
    "/api/chat": {"messages": HELLO},
}
DIALECTS = pytest.mark.parametrize("path", ASKS)
TRANSLATED = pytest.mark.parametrize("path", [p for p in ASKS if "chat/c" not in p])
ENDS = (b"[DONE]", b"message_stop", b"response.completed", b'"done":true')
"""What only a good end has."""
ONCE = fake_neuron.token("Once")
REASON = fake_neuron.chunk({"index": 0, "delta": {}, "finish_reason": "stop"})


def message_of(path: str, body: dict[str, object]) -> str:
    """The words of an error, wherever the dialect has them."""
    error = body["error"]
    if path.startswith("/api"):
        assert body == {"error": error}
        return str(error)
    assert isinstance(error, dict)
    if path.startswith("/v1/messages"):
        assert body["type"] == "error"
        assert body["request_id"]
        assert error.keys() == {"type", "message", "details"}
    else:
        assert error.keys() >= {"message", "type", "code", "param"}
    return str(error["message"])


async def refusal(
    client: Client, method: str, path: str, **how: Any
) -> tuple[int, str]:
    async with client.http.request(method, path, **how) as response:
        body = await response.json()
        assert response.headers["X-Request-Id"]
        return response.status, message_of(path, body)


@DIALECTS
async def test_every_error_comes_in_the_dialect_of_its_path(
    home: Home, path: str
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}, max_body_mb=1) as client,
    ):
        fine = {"model": "m", **ASKS[path]}
        for status, method, at, how in (
            (404, "GET", f"{path}/nowhere/at/all", {}),
            (405, "PUT", path, {}),
            (400, "POST", path, {"data": b"{"}),
            (400, "POST", path, {"data": b"[]"}),
            (400, "POST", path, {"json": ASKS[path]}),
            (404, "POST", path, {"json": fine | {"model": "nobody"}}),
            (413, "POST", path, {"data": io.BytesIO(bytes(2_000_000))}),
        ):
            got, message = await refusal(client, method, at, **how)
            assert got == status, message
            assert message
        assert not fake.received


@TRANSLATED
async def test_what_is_nested_too_deeply_is_refused(home: Home, path: str) -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"properties": {"a": deep}}
    function = {"name": "f", "parameters": deep}
    tool = {"type": "function", "function": function, **function, "input_schema": deep}
    if path == "/v1/messages":
        tool["type"] = "custom"
    body = json.dumps({"model": "m", **ASKS[path], "tools": [tool]})
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        status, message = await refusal(client, "POST", path, data=body)
        assert (status, message) == (400, "the body is nested too deeply")


@DIALECTS
@pytest.mark.parametrize("stream", [False, True])
async def test_a_neurons_refusal_is_told_in_the_dialect(
    home: Home, path: str, stream: bool
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.refuses(overloaded("all slots are taken", 7))
        asked = {"model": "m", "stream": stream, **ASKS[path]}
        async with client.http.post(path, json=asked) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "7"
            assert "slots" in message_of(path, await response.json())


async def reads_once_and_an_error(client: Client, path: str) -> None:
    asked = {"model": "m", "stream": True, **ASKS[path]}
    async with client.http.post(path, json=asked) as response:
        assert response.status == 200
        body = await response.read()
    assert b"Once" in body
    assert b"error" in body
    assert not [end for end in ENDS if end in body]


@DIALECTS
async def test_a_stream_that_breaks_off_has_no_clean_end(
    home: Home, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        for reply in (fake_neuron.dies_after(ONCE), fake_neuron.ends_after(ONCE)):
            fake.reply = reply
            await reads_once_and_an_error(client, path)
        outcomes = client.outcomes(caplog)
    assert outcomes == ["status=502 outcome=upstream_lost"] * 2


@TRANSLATED
async def test_a_stream_that_is_no_answer_has_no_clean_end(
    home: Home, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    odd = sse.encode(b'{"choices": [[]]}')
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        for said in (ONCE, ONCE + odd + REASON, ONCE + REASON + odd):
            fake.reply = fake_neuron.ends_after(said + sse.DONE)
            await reads_once_and_an_error(client, path)
        outcomes = client.outcomes(caplog)
    assert outcomes == ["status=502 outcome=upstream_lost"] * 3


@TRANSLATED
@pytest.mark.parametrize("said", ["[]", "7", "null", "{}", "{", '{"choices": [null]}'])
async def test_another_replica_answers_where_one_has_no_answer(
    home: Home, path: str, said: str
) -> None:
    asked = {"model": "m", "stream": False, **ASKS[path]}
    async with (
        FakeNeuron.with_models("m").serving() as odd,
        FakeNeuron.with_models("m").serving() as fine,
        gateway_before(home, {"a": odd, "b": fine}) as client,
    ):
        odd.reply = fake_neuron.answers(said)
        for _ in range(2):
            async with client.http.post(path, json=asked) as response:
                assert response.status == 200
                assert "Once upon a time" in await response.text()
        fine.reply = odd.reply
        status, message = await refusal(client, "POST", path, json=asked)
        assert status == 502
        assert message


@DIALECTS
async def test_an_error_in_the_neurons_stream_is_passed_on(
    home: Home, path: str
) -> None:
    error = ApiError(502, "the worker went away", code="worker_lost")
    told = sse.encode(orjson.dumps(error.envelope()))
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.ends_after(ONCE + told)
        asked = {"model": "m", "stream": True, **ASKS[path]}
        async with client.http.post(path, json=asked) as response:
            body = await response.read()
        assert body.count(b"the worker went away") == 1


@TRANSLATED
@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_before_the_answer_cancels_the_neuron(
    home: Home, path: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = {"model": "m", "stream": stream, **ASKS[path]}
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.hangs()
        asking = asyncio.ensure_future(client.http.post(path, json=asked))
        await until(lambda: bool(fake.received))
        asking.cancel()
        await asyncio.wait_for(fake.abandoned.wait(), 5)
        await until(lambda: not client.snapshot().requests)
        assert client.outcomes(caplog) == ["status=499 outcome=client_gone"]


@TRANSLATED
@pytest.mark.parametrize(
    "reply",
    [fake_neuron.endless(), fake_neuron.lingers_after(ONCE + REASON + sse.DONE)],
    ids=["in the middle", "before the dialect's own end"],
)
async def test_who_leaves_in_mid_stream_cancels_the_neuron(
    home: Home, path: str, reply: fake_neuron.Reply, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = {"model": "m", "stream": True, **ASKS[path]}
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = reply
        async with client.http.post(path, json=asked) as response:
            await response.content.readany()
            response.close()
        await asyncio.wait_for(fake.abandoned.wait(), 5)
        await until(lambda: not client.snapshot().requests)
        assert client.outcomes(caplog) == ["status=499 outcome=client_gone"]


@TRANSLATED
@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_during_a_load_asks_nothing_of_the_neuron(
    home: Home, path: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = {"model": "m", "stream": stream, **ASKS[path]}
    async with (
        FakeNeuron.with_models("m", state=ModelState.UNLOADED).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        asking = asyncio.ensure_future(client.http.post(path, json=asked))
        await until(lambda: bool(fake.loads))
        asking.cancel()
        await until(lambda: not client.snapshot().requests)
        assert client.outcomes(caplog) == ["status=499 outcome=client_gone"]
        fake.load_gate.set()
        await until(lambda: fake.models["m"].state is ModelState.READY)
        assert not fake.received
