"""The whole product on one host: gateway, its local neuron, workers, real tokens."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from neuron.protocol.sse import SseParser
from services import schema
from tests.support.processes import Home, Process, running_gateway

MODEL = "tinystories-15m"
DEADLINE_S = 60.0

STORY = {
    "model": MODEL,
    "prompt": "Once upon a time",
    "max_tokens": 200,
    "temperature": 0,
    "stream": True,
}


@pytest.fixture
def gateway(home: Home) -> Iterator[Process]:
    environ = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
    with running_gateway(home, environ=environ) as process:
        yield process


@pytest.fixture
async def http(gateway: Process) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url) as session:
        yield session


async def events(
    http: aiohttp.ClientSession, body: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """The stream's JSON events; one that ends well ends with `{"done": True}`."""
    parser = SseParser()
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for chunk in response.content.iter_any():
            for event in parser.feed(chunk):
                if event.data == "[DONE]":
                    yield {"done": True}
                else:
                    yield json.loads(event.data)


def text_of(received: list[dict[str, Any]]) -> str:
    choices = [choice for event in received for choice in event.get("choices", ())]
    return "".join(choice["text"] for choice in choices)


async def snapshot(http: aiohttp.ClientSession) -> schema.FleetSnapshot:
    async with http.get(schema.FLEET) as response:
        return schema.FleetSnapshot.model_validate_json(await response.read())


async def worker_pid(http: aiohttp.ClientSession) -> int:
    """Of the loaded model, as its neuron's health says."""
    endpoint = (await snapshot(http)).nodes[0].endpoint
    async with aiohttp.ClientSession() as direct, direct.get(endpoint + "/health") as r:
        health = await r.json()
    pid = health["models"][0]["pid"]
    assert isinstance(pid, int)
    return pid


async def test_streams_a_story_from_a_cold_model(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(DEADLINE_S):
        received = [event async for event in events(http, STORY)]
    assert received[-1] == {"done": True}
    assert len(received) > 2  # tokens that the reader is late for come together
    assert len(text_of(received).split()) > 50


async def test_two_clients_of_a_cold_model_cause_one_load(
    http: aiohttp.ClientSession,
) -> None:
    async def tell() -> str:
        return text_of([event async for event in events(http, STORY)])

    async with asyncio.timeout(DEADLINE_S):
        first, second = await asyncio.gather(tell(), tell())
        fleet = await snapshot(http)
        endpoint = fleet.nodes[0].endpoint
        async with (
            aiohttp.ClientSession() as direct,
            direct.get(endpoint + "/metrics") as response,
        ):
            metrics = await response.text()
    assert first == second
    loads = [
        line
        for line in metrics.splitlines()
        if line.startswith("neuron_model_loads_total{")
    ]
    assert [float(line.rpartition(" ")[2]) for line in loads] == [1]


async def test_a_killed_worker_ends_its_stream_with_an_error_and_comes_back(
    http: aiohttp.ClientSession,
) -> None:
    async with asyncio.timeout(DEADLINE_S):
        received = []
        async for event in events(http, STORY):
            received.append(event)
            if len(received) == 5:
                os.kill(await worker_pid(http), signal.SIGKILL)
        assert "error" in received[-1], received[-3:]
        assert received[-1]["error"]["message"]

        again = [event async for event in events(http, STORY)]
    assert again[-1] == {"done": True}
    assert len(text_of(again).split()) > 50


async def test_nothing_of_it_outlives_the_gateway(
    gateway: Process, http: aiohttp.ClientSession
) -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert [event async for event in events(http, STORY)]
        pid = await worker_pid(http)
        code = await asyncio.to_thread(gateway.stop)
    assert code == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
