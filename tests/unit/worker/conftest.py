"""A worker's HTTP surface over a scripted engine and the bundled tokenizer."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, web

from neuron.models.bundled import bundled_root
from neuron.models.vision import VisionInfo
from neuron.protocol.sse import SseParser
from neuron.text.chat import ChatTemplate
from neuron.text.grammar import GrammarCompiler
from neuron.text.output import recognise
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.admission import Admission
from neuron.worker.engine_host import EngineHost
from neuron.worker.images import ImageReader
from neuron.worker.inference import Inference
from neuron.worker.prompts import ServedModel
from neuron.worker.routes import WorkerApi
from neuron.worker.vitals import Tally
from tests.unit.worker.scripted_engine import INFO, SPEC, Script, ScriptedEngine


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(bundled_root() / "tinystories-15m")


@dataclass
class Worker:
    """A running surface, and what is behind it."""

    engine: ScriptedEngine
    host: EngineHost
    admission: Admission
    inference: Inference
    session: ClientSession
    tokenizer: TextTokenizer
    tally: Tally

    async def post(self, path: str, body: object, **more: Any) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.session.post(path, data=raw, **more) as response:
            return response.status, await response.json()

    async def complete(self, **fields: object) -> tuple[int, Any]:
        body = {"model": "scripted", "prompt": "Once", **fields}
        return await self.post("/v1/completions", body)

    async def chat(self, **fields: object) -> tuple[int, Any]:
        body = {
            "model": "scripted",
            "messages": [{"role": "user", "content": "Hi"}],
            **fields,
        }
        return await self.post("/v1/chat/completions", body)

    async def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """Events of a whole stream: parsed chunks, and "[DONE]" last."""
        parser = SseParser()
        events = []
        async with self.session.post(path, json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            async for chunk in response.content.iter_any():
                events += [event.data for event in parser.feed(chunk)]
        return [e if e == "[DONE]" else orjson.loads(e) for e in events]


Start = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture(scope="session")
def grammars() -> Iterator[GrammarCompiler]:
    folder = bundled_root() / "tinystories-15m"
    compiler = GrammarCompiler(folder, INFO.eos_ids, INFO.vocab_size)
    yield compiler
    compiler.close()


@pytest.fixture
def start(tokenizer: TextTokenizer, grammars: GrammarCompiler) -> Start:
    """`start(script, manual=…, slots=…)` runs a worker's surface."""

    @asynccontextmanager
    async def run(
        script: Script | str,
        *,
        manual: bool = False,
        slots: int = 2,
        max_queue: int = 4,
        template: str | None = None,
        max_body_bytes: int = 1_000_000,
        vision: VisionInfo | None = None,
    ) -> AsyncIterator[Worker]:
        if isinstance(script, str):
            tokens = [*tokenizer.encode(script, add_bos=False), 2]
            engine = ScriptedEngine(lambda request: tokens, manual=manual)
        else:
            engine = ScriptedEngine(script, manual=manual)
        if manual:
            engine.allow()
        host = EngineHost(lambda error: None)
        await host.load(lambda: (engine, SPEC), lambda stage, done, total: None)
        admission = Admission(slots, max_queue, wait_s=60)
        chat = ChatTemplate(template, tokenizer.special_tokens)
        model = ServedModel(
            INFO,
            tokenizer,
            chat,
            recognise(template, tokenizer, chat.tool_support(tools=True)),
            grammars,
            256,
            images=ImageReader.of(vision, tokenizer),
        )
        tally = Tally()
        inference = Inference(model, host, admission, tally)
        app = WorkerApi(model, inference).app(max_body_bytes)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with ClientSession(f"http://127.0.0.1:{port}") as session:
                yield Worker(
                    engine, host, admission, inference, session, tokenizer, tally
                )
        finally:
            if manual:
                engine.allow(10_000)
            await runner.cleanup()
            await host.close()

    return run
