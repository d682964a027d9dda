"""A gateway in the test's own loop, before fake neurons: fast to start, and its clocks
can be turned. What belongs to the process is tested on real processes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from neuron.protocol.sse import SseEvent, SseParser
from services.catalogue import Catalogue, ModelEntry
from services.config import (
    CortexConfig,
    GatewaySection,
    LocalSection,
    NeuronSection,
    Settings,
)
from services.fleet.fleet import Fleet
from services.gateway.context import Gateway
from services.gateway.listeners import listening
from services.keys.file import Keys, KeySection
from services.schema import FleetSnapshot
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home


@dataclass(frozen=True, slots=True)
class Client:
    """What a client, and an operator, do with it."""

    gateway: Gateway
    http: aiohttp.ClientSession

    def chat(
        self, model: str = "m", *, stream: bool = False, **fields: Any
    ) -> "aiohttp.client._RequestContextManager":
        body = {"model": model, "stream": stream, "messages": [], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    async def stream(self, model: str = "m") -> list[Any]:
        """A whole stream: comments as text, events decoded, `[DONE]` as it is."""
        async with self.chat(model, stream=True) as response:
            assert response.status == 200, await response.text()
            return decoded(await response.read())

    async def post(self, path: str, status: int = 200, **body: Any) -> Any:
        async with self.http.post(path, json=body) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer

    async def get(self, path: str, status: int = 200) -> Any:
        async with self.http.get(path) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer

    async def metrics(self) -> str:
        assert self.gateway.metrics_url
        async with self.http.get(self.gateway.metrics_url) as response:
            return await response.text()

    def snapshot(self) -> FleetSnapshot:
        return self.gateway.snapshot()

    def events(self) -> list[str]:
        return [event.text for event in self.snapshot().events]

    def outcomes(self, caplog: Any) -> list[str]:
        """The ends of the log lines that tell how requests ended."""
        lines = [r.getMessage() for r in caplog.records if r.name == "cortex.requests"]
        return [
            line[line.index("status=") : line.index(" duration=")] for line in lines
        ]


def decoded(body: bytes) -> list[Any]:
    comments = [line for line in body.decode().split("\n") if line.startswith(":")]
    events = [e.data for e in SseParser().feed(body)]
    return comments + [e if e == "[DONE]" else orjson.loads(e) for e in events]


def text_of(events: list[Any]) -> str:
    """The generated text of a decoded chat stream."""
    return "".join(
        choice["delta"].get("content", "")
        for event in events
        if isinstance(event, dict)
        for choice in event.get("choices", [])
    )


async def until(condition: Callable[[], bool], timeout: float = 10) -> None:
    """Look every 10 ms; TimeoutError where it never comes true."""
    async with asyncio.timeout(timeout):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


class EventReader:
    """Events of a stream, one after another."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._parser = SseParser()
        self._events: deque[SseEvent] = deque()

    async def next(self, kind: str) -> SseEvent:
        """The next event of that name; others are passed over."""
        async with asyncio.timeout(10):
            while True:
                while self._events:
                    event = self._events.popleft()
                    if event.event == kind:
                        return event
                chunk = await self._response.content.readany()
                assert chunk, f"the stream ended without {kind}"
                self._events.extend(self._parser.feed(chunk))


@asynccontextmanager
async def gateway_before(
    home: Home,
    neurons: dict[str, FakeNeuron | str],
    *,
    models: tuple[ModelEntry, ...] = (),
    default_model: str | None = None,
    keys: tuple[KeySection, ...] = (),
    **limits: Any,
) -> AsyncIterator[Client]:
    """A gateway whose neurons are at these places; the first poll has happened."""
    endpoints = {
        name: place if isinstance(place, str) else place.url
        for name, place in neurons.items()
    }
    ports = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}
    config = CortexConfig(
        gateway=GatewaySection.model_validate(ports | limits),
        neurons=tuple(
            NeuronSection(name=name, endpoint=url, token=f"token-of-{name}")
            for name, url in endpoints.items()
        ),
        local=LocalSection(neuron="off"),
    )
    catalogue = Catalogue(
        {m.id: m for m in models},
        home.root / "models.toml",
        found=bool(models),
        default_model=default_model,
    )
    in_force = Keys(keys, home.root / "keys.toml", found=bool(keys))
    fleet = Fleet(Settings(config, None, catalogue, in_force))
    gateway = Gateway.before(fleet)
    socket = home.root / "run" / "gateway.sock"
    async with listening(gateway, socket), fleet:
        async with aiohttp.ClientSession(gateway.url) as http:
            await heard(gateway, neurons)
            yield Client(gateway, http)
        gateway.closing.set()


async def heard(gateway: Gateway, neurons: dict[str, FakeNeuron | str]) -> None:
    """Until every fake has been heard of once."""
    state = gateway.fleet.state
    fakes = [n for n, place in neurons.items() if not isinstance(place, str)]
    while not all(state.nodes[name].last_seen for name in fakes):
        await state.signal.wait_beyond(state.signal.version, 5)
