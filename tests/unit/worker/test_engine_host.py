"""One thread owns the engine; the loop only sends and receives."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from neuron.engines.base import (
    Engine,
    EngineError,
    EngineEvent,
    Failed,
    Finished,
    GenerationRequest,
    LoadSpec,
    TokenEvent,
)
from neuron.worker.engine_host import EngineHost
from tests.unit.worker.scripted_engine import SPEC, ScriptedEngine
from tests.unit.worker.waiting import DEADLINE_S, until


class Collector:
    """Gathers one request's events."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self.over = asyncio.Event()

    def __call__(self, events: Sequence[EngineEvent]) -> None:
        self.events += events
        if isinstance(events[-1], Finished | Failed):
            self.over.set()

    @property
    def tokens(self) -> list[int]:
        return [e.token_id for e in self.events if isinstance(e, TokenEvent)]

    async def wait(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.over.wait()


@asynccontextmanager
async def hosting(
    engine: ScriptedEngine, fatal: list[EngineError] | None = None
) -> AsyncIterator[EngineHost]:
    host = EngineHost((fatal if fatal is not None else []).append)

    def prepare() -> tuple[Engine, LoadSpec]:
        return engine, SPEC

    await host.load(prepare, lambda stage, done, total: None)
    try:
        yield host
    finally:
        async with asyncio.timeout(DEADLINE_S):
            await host.close()


def request(name: str, prompt: tuple[int, ...] = (1,)) -> GenerationRequest:
    return GenerationRequest(name, prompt, max_new_tokens=100)


async def test_everything_happens_in_one_other_thread() -> None:
    engine = ScriptedEngine(lambda request: [7, 8, 9])
    async with hosting(engine) as host:
        collectors = [Collector() for _ in range(3)]
        for index, collector in enumerate(collectors):
            host.submit(request(str(index)), collector)
        for collector in collectors:
            await collector.wait()
            assert collector.tokens == [7, 8, 9]
    assert engine.unloaded
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


async def test_a_cancelled_request_is_gone_after_the_step_under_way() -> None:
    engine = ScriptedEngine(lambda request: [7] * 1000, manual=True)
    engine.allow()  # For the load.
    async with hosting(engine) as host:
        collector = Collector()
        host.submit(request("a"), collector)
        engine.allow(3)
        await until(lambda: len(collector.tokens) == 2)
        host.cancel("a")
        engine.allow()
        await until(lambda: not host.busy)
        assert engine.cancelled == ["a"]
        assert engine.steps <= 4
        assert len(collector.tokens) == 2


async def test_a_refused_request_fails_alone() -> None:
    engine = ScriptedEngine(lambda request: [7])
    async with hosting(engine) as host:
        engine.refuse = EngineError("too long", code="context_length_exceeded")
        refused = Collector()
        host.submit(request("a"), refused)
        await refused.wait()
        assert [type(event) for event in refused.events] == [Failed]
        engine.refuse = None
        taken = Collector()
        host.submit(request("b"), taken)
        await taken.wait()
        assert taken.tokens == [7]


async def test_a_broken_engine_fails_everybody_and_says_so_once() -> None:
    engine = ScriptedEngine(lambda request: [7] * 1000)
    engine.break_at = 5
    fatal: list[EngineError] = []
    async with hosting(engine, fatal) as host:
        collectors = [Collector(), Collector()]
        for index, collector in enumerate(collectors):
            host.submit(request(str(index)), collector)
        for collector in collectors:
            await collector.wait()
            last = collector.events[-1]
            assert isinstance(last, Failed)
            assert last.error.fatal
            assert isinstance(last.error.__cause__, RuntimeError)
        assert [error.code for error in fatal] == ["engine_failed"]


async def test_a_load_can_be_given_up(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine(lambda request: [], manual=True)
    host = EngineHost(lambda error: None)
    loading = asyncio.create_task(
        host.load(lambda: (engine, SPEC), lambda stage, done, total: None)
    )
    await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    async with asyncio.timeout(DEADLINE_S):
        await host.close()
    del loading
    gc.collect()
    assert not caplog.records


async def test_what_the_load_raises_arrives_here() -> None:
    def prepare() -> tuple[Engine, LoadSpec]:
        raise EngineError("no such architecture", code="model_not_supported")

    host = EngineHost(lambda error: None)
    with pytest.raises(EngineError, match="no such architecture"):
        await host.load(prepare, lambda stage, done, total: None)
    async with asyncio.timeout(DEADLINE_S):
        await host.close()
