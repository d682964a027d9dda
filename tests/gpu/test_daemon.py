"""A real neuron with workers on the GPU."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest

from neuron.protocol import routes
from neuron.protocol.types import ModelState
from tests.gpu.bench.stack import serving_environ
from tests.gpu.loads import used_vram
from tests.integration.neuron.conftest import LONG, STORY, Neuron
from tests.support.processes import running_neuron, temporary_home

pytestmark = [pytest.mark.allow_blocking, pytest.mark.timeout(120)]

ENGINE = "exllamav2"
_SETTLES_S = 10.0
_LOADS_WITHIN_S = 90.0
"""The first worker may have kernels to compile."""


@contextmanager
def _neuron() -> Iterator[Neuron]:
    with (
        temporary_home() as home,
        running_neuron(home, environ=serving_environ()) as process,
        httpx.Client(
            base_url=process.url, timeout=_LOADS_WITHIN_S, trust_env=False
        ) as http,
    ):
        yield Neuron(process, http)


@pytest.fixture(scope="module")
def running() -> Iterator[Neuron]:
    """One that has the bundled model."""
    with _neuron() as neuron:
        yield neuron


@pytest.fixture
def neuron(running: Neuron) -> Iterator[Neuron]:
    """It has the model not loaded, whatever became of the check before."""
    yield running
    if running.model().state is not ModelState.UNLOADED:
        _unload(running)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SETTLES_S
    while not condition():
        assert time.monotonic() < deadline, used_vram()
        time.sleep(0.05)


def _unload(neuron: Neuron) -> dict[str, Any]:
    answer = neuron.post(routes.MODELS_UNLOAD, {"model": STORY["model"]})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_an_unload_gives_every_byte_back(neuron: Neuron) -> None:
    before = used_vram()
    neuron.load(engine=ENGINE, slots=8)
    assert neuron.model().engine == ENGINE
    assert sum(used_vram().values()) > sum(before.values())
    body = STORY | {"n": 8, "max_tokens": 100, "ignore_eos": True, "temperature": 1}
    answer = neuron.post(routes.V1_COMPLETIONS, body).json()
    assert answer["usage"]["completion_tokens"] == 800
    assert len({choice["text"] for choice in answer["choices"]}) > 1
    assert _unload(neuron)["freed_bytes"]
    _until(lambda: used_vram() == before)


def test_a_worker_killed_mid_stream_comes_back(neuron: Neuron) -> None:
    before = used_vram()
    neuron.load(engine=ENGINE, slots=4)
    assert neuron.story()
    with neuron.stream(LONG) as events:
        next(events)
        os.kill(neuron.worker_pid(), signal.SIGKILL)
        last = [event.data for event in events][-1]
    assert json.loads(last)["error"]["code"] == "worker_lost"
    neuron.until_state(ModelState.READY)
    assert neuron.story()
    _unload(neuron)
    _until(lambda: used_vram() == before)


def test_a_load_that_cannot_fit_is_refused_with_numbers(neuron: Neuron) -> None:
    before = used_vram()
    body = {"model": STORY["model"], "engine": ENGINE, "cache_tokens": 1 << 36}
    status, error = neuron.refusal(routes.MODELS_LOAD, body)
    assert status == 507
    assert "MiB of VRAM" in error["message"]
    assert neuron.model().state is ModelState.UNLOADED
    assert used_vram() == before


def test_a_neuron_that_is_stopped_leaves_nothing() -> None:
    before = used_vram()
    with _neuron() as neuron:
        neuron.load(engine=ENGINE, slots=4)
        assert neuron.story()
    _until(lambda: used_vram() == before)
