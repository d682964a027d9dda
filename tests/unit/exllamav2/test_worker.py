"""The engine behind all that is above it: its host, and a worker's whole process."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from aiohttp import ClientSession, UnixConnector

from neuron.daemon.worker_process import WorkerProcess
from neuron.engines.base import (
    Engine,
    EngineEvent,
    Failed,
    Finished,
    LoadSpec,
    TokenEvent,
)
from neuron.ipc import LoadFailed, Ready, Report, WorkerSpec
from neuron.worker.engine_host import EngineHost
from tests.support.torch_worker import FATAL_PROMPT
from tests.unit.exllamav2.torch_engine import TorchEngine
from tests.unit.reference.support import (
    BUNDLED,
    Output,
    generate,
    info_of,
    loaded,
    request,
)

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

DEADLINE_S = 90.0
PROMPT = (1, 300, 400, 500)


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
        return [
            event.token_id for event in self.events if isinstance(event, TokenEvent)
        ]


async def test_the_host_runs_it_in_its_thread() -> None:
    host = EngineHost(lambda error: None)
    spec = LoadSpec(info_of(BUNDLED), 256, 2, "fp16", 512)

    def prepare() -> tuple[Engine, LoadSpec]:
        return TorchEngine(), spec

    async with asyncio.timeout(DEADLINE_S):
        await host.load(prepare, lambda stage, done, total: None)
        collectors = {name: Collector() for name in "abc"}
        for name, collector in collectors.items():
            host.submit(request(name, PROMPT, 12), collector)
        refused = Collector()
        host.submit(request("refused", PROMPT, 999), refused)
        for collector in (*collectors.values(), refused):
            await collector.over.wait()
        assert [type(event) for event in refused.events] == [Failed]
        last = collectors["a"].events[-1]
        assert isinstance(last, Finished)
        assert collectors["b"].events[2:-1] == [
            type(event)("b", *_after_id(event))
            for event in collectors["a"].events[2:-1]
        ]
        await host.close()


def _after_id(event: EngineEvent) -> tuple[Any, ...]:
    return tuple(getattr(event, name) for name in event.__slots__[1:])


@dataclass
class Worker:
    process: WorkerProcess
    session: ClientSession

    async def post(self, path: str, **body: Any) -> Any:
        async with self.session.post(path, json={"model": "m", **body}) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer


Start = Callable[[], AbstractAsyncContextManager[Worker]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    real = asyncio.create_subprocess_exec

    async def start_ours(*command: str, **options: Any) -> asyncio.subprocess.Process:
        ours = ("tests.support.torch_worker" if part == "neuron.worker" else part
                for part in command)  # fmt: skip
        return await real(*ours, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_ours)

    @asynccontextmanager
    async def run() -> AsyncIterator[Worker]:
        spec = WorkerSpec(
            model="m",
            path=BUNDLED,
            engine="exllamav2",
            max_seq_len=256,
            slots=4,
            cache_mode="fp16",
            cache_tokens=1024,
            socket=tmp_path / "s",
        )
        loaded: asyncio.Future[Report] = asyncio.get_running_loop().create_future()

        def on_report(report: Report) -> None:
            if isinstance(report, Ready | LoadFailed) and not loaded.done():
                loaded.set_result(report)

        async with asyncio.timeout(DEADLINE_S):
            process = await WorkerProcess.start(spec, on_report)
            try:
                assert isinstance(await loaded, Ready)
                connector = UnixConnector(str(spec.socket))
                async with ClientSession("http://w", connector=connector) as session:
                    yield Worker(process, session)
            finally:
                await process.stop()

    return run


@pytest.fixture(scope="module")
def expected() -> Output:
    """What the reference engine makes of the prompt."""
    with loaded(BUNDLED, slots=2) as reference:
        return generate(reference, request("a", PROMPT, 20, top_logprobs=2))["a"]


async def test_a_worker_answers_as_one_with_the_reference_engine(
    start: Start, expected: Output
) -> None:
    async with start() as worker:
        greedy = {"prompt": list(PROMPT), "max_tokens": 20, "temperature": 0}
        answers = await asyncio.gather(
            *(worker.post("/v1/completions", **greedy, logprobs=2) for _ in range(6))
        )
        texts = {answer["choices"][0]["text"] for answer in answers}
        assert len(texts) == 1
        detokenized = await worker.post("/v1/detokenize", tokens=expected.tokens)
        assert {text.lstrip() for text in texts} == {detokenized["prompt"]}
        found = answers[0]["choices"][0]["logprobs"]["token_logprobs"]
        wanted = [each.chosen for each in expected.logprobs if each is not None]
        assert found == pytest.approx(wanted, abs=1e-3)
        usage = answers[0]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (4, 20)


async def test_structured_output(start: Start) -> None:
    schema = {
        "type": "object",
        "properties": {"likes": {"type": "boolean"}},
        "required": ["likes"],
        "additionalProperties": False,
    }
    async with start() as worker:
        answer = await worker.post(
            "/v1/completions",
            prompt="Once upon a time",
            max_tokens=200,
            temperature=0,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": schema, "strict": True},
            },
        )
        [choice] = answer["choices"]
        assert choice["finish_reason"] == "stop"
        assert json.loads(choice["text"])["likes"] in (True, False)


async def test_a_sticky_error_replaces_the_process(start: Start) -> None:
    async with start() as worker:
        prompt = [5] * FATAL_PROMPT
        body = {"model": "m", "prompt": prompt, "max_tokens": 5}
        async with worker.session.post("/v1/completions", json=body) as response:
            assert response.status == 503
        assert await worker.process.wait() == "exited with code 75"
