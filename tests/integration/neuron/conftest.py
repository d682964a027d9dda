"""A real `neuron` and a client for it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest

from neuron.protocol import routes
from neuron.protocol.sse import SseEvent, SseParser
from neuron.protocol.types import Event, Model, ModelLoad, ModelState
from tests.support.processes import (
    Home,
    Process,
    running_neuron,
    temporary_home,
)

MODEL = "tinystories-15m"
DEADLINE_S = 30.0

STORY: dict[str, Any] = {
    "model": MODEL,
    "prompt": "Once upon a time",
    "max_tokens": 24,
    "temperature": 0,
}
LONG: dict[str, Any] = STORY | {"max_tokens": 240, "ignore_eos": True}


@dataclass
class Neuron:
    """A running daemon."""

    process: Process
    http: httpx.Client

    def post(self, path: str, body: object) -> httpx.Response:
        return self.http.post(path, json=body)

    def load(self, **fields: object) -> dict[str, Any]:
        response = self.post(routes.MODELS_LOAD, {"model": MODEL, **fields})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def model(self) -> Model:
        models = self.http.get(routes.MODELS).json()["models"]
        return next(Model.model_validate(m) for m in models if m["id"] == MODEL)

    def worker(self) -> ModelLoad:
        (load,) = self.http.get(routes.HEALTH).json()["models"]
        return ModelLoad.model_validate(load)

    def worker_pid(self) -> int:
        pid = self.worker().pid
        assert pid is not None
        return pid

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.process.log_text()
            time.sleep(0.02)

    def until_state(self, state: ModelState) -> None:
        self.until(lambda: self.model().state is state)

    @contextmanager
    def stream(
        self, body: dict[str, Any], path: str = routes.V1_COMPLETIONS
    ) -> Iterator[Iterator[SseEvent]]:
        with self.http.stream("POST", path, json=body | {"stream": True}) as response:
            assert response.status_code == 200, response.read()
            yield events_of(response)

    def story(self) -> str:
        response = self.post(routes.V1_COMPLETIONS, STORY)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["text"])

    def refusal(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        response = self.post(path, body)
        return response.status_code, response.json()["error"]


def events_of(response: httpx.Response) -> Iterator[SseEvent]:
    parser = SseParser()
    for chunk in response.iter_bytes():
        yield from parser.feed(chunk)


def text_of(events: Iterator[SseEvent]) -> str:
    """The text of a whole completions stream; it must end with `[DONE]`."""
    *chunks, done = [event.data for event in events]
    assert done == "[DONE]"
    return "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)


def follow(response: httpx.Response) -> Iterator[Event]:
    """Events of GET /events."""
    for event in events_of(response):
        yield Event.model_validate_json(event.data)


Start = Callable[..., AbstractContextManager[Neuron]]


@contextmanager
def client_of(process: Process) -> Iterator[Neuron]:
    with httpx.Client(
        base_url=process.url, timeout=httpx.Timeout(DEADLINE_S), trust_env=False
    ) as http:
        yield Neuron(process, http)


@pytest.fixture
def start(home: Home) -> Start:
    """`start(*arguments, config=…)` runs a neuron with a neuron.toml of its own."""

    @contextmanager
    def run(*arguments: str, config: str = "") -> Iterator[Neuron]:
        home.config_file("neuron.toml", config)
        with (
            running_neuron(home, *arguments) as process,
            client_of(process) as neuron,
        ):
            yield neuron

    return run


@pytest.fixture(scope="session")
def shared() -> Iterator[Neuron]:
    """A neuron with the model loaded, for tests that change nothing."""
    with (
        temporary_home() as home,
        running_neuron(home) as process,
        client_of(process) as neuron,
    ):
        neuron.load()
        yield neuron
