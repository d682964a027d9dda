"""Responses before neurons that break off, and what is stored of them."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from neuron.protocol.types import ModelState
from services.config import ResponsesSection
from services.gateway.replica_search import COMMENT_S
from services.responses.store import ResponsesStore
from tests.integration.gateway.gateways import Client, gateway_before
from tests.support import fake_neuron
from tests.support.fake_neuron import FakeNeuron, token
from tests.support.processes import Home
from tests.unit.services.dialects.responses.chunks import events_of

REASON = sse.encode(orjson.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
USAGE = sse.encode(orjson.dumps({"choices": [], "usage": fake_neuron.usage(2)}))
ANSWER = token("Once") + token(" upon") + REASON + USAGE + sse.DONE


async def streamed(client: Client, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "m", "input": "hello", "stream": True, **fields}
    async with client.http.post("/v1/responses", json=body) as response:
        assert response.status == 200
        return events_of(await response.read())


async def test_a_stream_is_translated_both_ways(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.ends_after(ANSWER)
        *_, last = await streamed(client, instructions="Be brief.")
        assert last["type"] == "response.completed"
        assert last["response"]["output"][0]["content"][0]["text"] == "Once upon"
        assert last["response"]["usage"]["input_tokens_details"]["cached_tokens"] == 4
        (received,) = fake.received
        assert received.path == "/v1/chat/completions"
        assert orjson.loads(received.body)["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ]


async def test_a_break_is_a_failure_and_is_not_stored(
    home: Home, tmp_path: Path
) -> None:
    section = ResponsesSection(store=True)
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
        ResponsesStore(tmp_path / "r.sqlite", section) as store,
    ):
        client.gateway.responses = store
        ends = {
            "response.failed": fake_neuron.dies_after(token("Once")),
            "response.completed": fake_neuron.ends_after(ANSWER),
        }
        for kind, reply in ends.items():
            fake.reply = reply
            *_, last = await streamed(client)
            assert last["type"] == kind
            response = last["response"]
            kept = kind == "response.completed"
            assert response["store"] is kept
            found = await client.get(
                f"/v1/responses/{response['id']}", 200 if kept else 404
            )
            assert (found == response) is kept
        refused = await client.get("/v1/responses/resp_1?stream=true", status=400)
        assert refused["error"]["param"] == "stream"


async def test_a_failure_before_anything_is_an_error_event(home: Home) -> None:
    fake = FakeNeuron.with_models("m", state=ModelState.UNLOADED)
    fake.load_gate.clear()
    async with (
        fake.serving(),
        gateway_before(home, {"a": fake}, load_timeout_s=COMMENT_S * 1.5) as client,
    ):
        [event] = await streamed(client)
    assert event["type"] == "error"
    assert event["code"] == "server_error"
    assert "still being loaded" in event["message"]
    assert event["error"]["message"] == event["message"]


async def test_an_error_in_the_neurons_stream_fails_the_response(home: Home) -> None:
    error = ApiError(502, "the worker went away", code="worker_lost")
    told = sse.encode(orjson.dumps(error.envelope()))
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.ends_after(token("Once") + told)
        *_, last = await streamed(client)
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"] == "the worker went away"


@pytest.mark.parametrize(
    ("path", "words"), [("compact", "compacted"), ("resp_1/cancel", "closes")]
)
async def test_what_is_absent_is_told(home: Home, path: str, words: str) -> None:
    async with (
        gateway_before(home, {}) as client,
        client.http.post(f"/v1/responses/{path}", json={}) as response,
    ):
        assert response.status == 404
        told = await response.json()
    assert words in told["error"]["message"]
