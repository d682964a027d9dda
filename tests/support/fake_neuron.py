"""A neuron at the wire, for what a real one cannot be made to do: hang, die, lie.

It runs in the test's own loop on a real port; the gateway under test sees no more of
it than of any other neuron.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from neuron.protocol import routes, sse
from neuron.protocol.errors import ApiError
from neuron.protocol.headers import PROMPT_TOKENS
from neuron.protocol.types import (
    Discovery,
    Event,
    Health,
    LoadPlan,
    LoadProgress,
    LoadRequest,
    LoadResult,
    Model,
    ModelList,
    ModelLoad,
    ModelState,
    UnloadRequest,
    UnloadResult,
    Version,
    Wire,
)

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]
PLAN_BYTES = 1000
PROMPT = 7
"""Tokens of every prompt."""


@dataclass(frozen=True, slots=True)
class Received:
    """One inference request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class FakeNeuron:
    """Behaves well until told otherwise."""

    models: dict[str, Model] = field(default_factory=dict)
    available_bytes: int = 10 * PLAN_BYTES
    """What `/models/plan` says is free."""
    reply: Reply = field(default_factory=lambda: story(["Once", " upon", " a time"]))
    load_gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Loads end once this is set; it is at first."""
    load_refusal: ApiError | None = None
    """Answered at once, with its status, instead of a load."""
    load_error: ApiError | None = None
    """Told in the stream of a load that had begun."""
    loads_to: ModelState = ModelState.READY
    """State of a model whose load is said to have succeeded."""
    token: str | None = None
    """Whoever does not show it gets a 401."""
    draining: bool = False
    nonsense: bytes | None = None
    """What `/health` answers instead of what it should."""
    silent: bool = False
    """Answers nothing at all, while the port stays open."""
    loads: list[LoadRequest] = field(default_factory=list)
    plans: list[LoadRequest] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)
    """A client went away before its answer was complete."""
    url: str = ""
    stop: Callable[[], Awaitable[None]] = field(init=False)
    """Close the port and every connection."""
    _seq: int = 100
    _started: float = field(default_factory=time.monotonic)
    _events: list[asyncio.Queue[Event]] = field(default_factory=list)

    @classmethod
    def with_models(
        cls, *ids: str, state: ModelState = ModelState.READY
    ) -> "FakeNeuron":
        fake = cls({id_: Model(id=id_, state=state, weight_bytes=1) for id_ in ids})
        fake.load_gate.set()
        return fake

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["FakeNeuron"]:
        app = web.Application(client_max_size=2**27, middlewares=[self._check_token])
        app.add_routes(
            [
                web.get(
                    routes.DISCOVERY, self._answer(lambda: Discovery(version="fake"))
                ),
                web.get(routes.HEALTH, self._answer(self._health)),
                web.get(routes.VERSION, self._answer(Version)),
                web.get(routes.MODELS, self._answer(self._models)),
                web.get(routes.EVENTS, self._stream_events),
                web.post(routes.MODELS_LOAD, self._load),
                web.post(routes.MODELS_PLAN, self._plan),
                web.post(routes.MODELS_UNLOAD, self._unload),
                *(web.post(path, self._infer) for path in routes.INFERENCE),
            ]
        )
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.stop = runner.cleanup
        try:
            yield self
        finally:
            await runner.cleanup()

    @web.middleware
    async def _check_token(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        shown = request.headers.get("Authorization")
        if self.token is not None and shown != f"Bearer {self.token}":
            return web.Response(status=401)
        return await handler(request)

    def count_event(self) -> None:
        """An event that no follower hears of."""
        self._seq += 1

    def set_state(
        self,
        model: str,
        state: ModelState,
        error: str | None = None,
        progress: LoadProgress | None = None,
    ) -> None:
        """Change a model's state and tell the followers."""
        self.models[model] = self.models[model].model_copy(
            update={"state": state, "error": error, "progress": progress}
        )
        self._tell(self.models[model])

    def put_on_disk(self, model: str) -> None:
        """A new model folder, told as a neuron tells it: of no model by name."""
        self.models[model] = Model(id=model, state=ModelState.UNLOADED, weight_bytes=1)
        self._tell(None)

    def _tell(self, model: Model | None) -> None:
        self._seq += 1
        event = Event(seq=self._seq, time=time.time(), model=model)
        for queue in self._events:
            queue.put_nowait(event)

    def _answer(
        self, make: Callable[[], Wire]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(_: web.Request) -> web.Response:
            if self.silent:
                await asyncio.sleep(3600)
            answer = make()
            if self.nonsense is not None and isinstance(answer, Health):
                return web.Response(body=self.nonsense)
            return _json(answer)

        return handle

    def _health(self) -> Health:
        loaded = [m.id for m in self.models.values() if m.state is ModelState.READY]
        return Health(
            status="draining" if self.draining else "ready",
            uptime_s=time.monotonic() - self._started,
            models=[ModelLoad(id=id_) for id_ in loaded],
            event_seq=self._seq,
        )

    def _models(self) -> ModelList:
        return ModelList(models=list(self.models.values()))

    async def _stream_events(self, request: web.Request) -> web.StreamResponse:
        response = await _open_stream(request)
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._events.append(queue)
        try:
            while True:
                event = await queue.get()
                if not self.silent:
                    await response.write(sse.encode(event.model_dump_json()))
        finally:
            self._events.remove(queue)

    async def _plan(self, request: web.Request) -> web.Response:
        wanted = LoadRequest.model_validate_json(await request.read())
        self.plans.append(wanted)
        return _json(
            LoadPlan(
                model=wanted.model,
                fits=self.available_bytes >= PLAN_BYTES,
                need_bytes=PLAN_BYTES,
                available_bytes=self.available_bytes,
            )
        )

    async def _load(self, request: web.Request) -> web.StreamResponse:
        wanted = LoadRequest.model_validate_json(await request.read())
        if self.load_refusal is not None:
            return _refused(self.load_refusal)
        self.loads.append(wanted)
        progress = LoadProgress(stage="reading", done=1, total=2)
        self.set_state(wanted.model, ModelState.LOADING, progress=progress)
        response = await _open_stream(request)
        await response.write(sse.encode(progress.model_dump_json(), "progress"))
        await self.load_gate.wait()
        if self.load_error is not None:
            self.set_state(wanted.model, ModelState.FAILED, str(self.load_error))
            body = orjson.dumps(self.load_error.envelope())
            await response.write(sse.encode(body, "error"))
            return response
        self.set_state(wanted.model, self.loads_to)
        result = LoadResult(model=self.models[wanted.model], load_s=0.1)
        await response.write(sse.encode(result.model_dump_json(), "result"))
        return response

    async def _unload(self, request: web.Request) -> web.Response:
        wanted = UnloadRequest.model_validate_json(await request.read())
        self.set_state(wanted.model, ModelState.UNLOADED)
        return _json(UnloadResult(model=wanted.model, freed_bytes=PLAN_BYTES))

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.received.append(Received(request.path, request.headers, body))
        try:
            return await self.reply(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.abandoned.set()
            raise


def _json(value: Wire) -> web.Response:
    return web.Response(
        body=value.model_dump_json().encode(), content_type="application/json"
    )


def _refused(error: ApiError) -> web.Response:
    return web.Response(
        status=error.status,
        body=orjson.dumps(error.envelope()),
        content_type="application/json",
        headers=error.headers(),
    )


async def _open_stream(request: web.Request) -> web.StreamResponse:
    headers = {"Content-Type": sse.CONTENT_TYPE, PROMPT_TOKENS: str(PROMPT)}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    return response


# How it answers inference requests.


_NAMED = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "m"}


def chunk(*choices: dict[str, object], **more: object) -> bytes:
    """One event of a chat stream."""
    kind = {"object": "chat.completion.chunk"}
    return sse.encode(orjson.dumps({**_NAMED, **kind, "choices": choices, **more}))


def token(text: str) -> bytes:
    """One event with a token."""
    return chunk({"index": 0, "delta": {"content": text}, "finish_reason": None})


def usage(completion: int) -> dict[str, object]:
    return {
        "prompt_tokens": PROMPT,
        "completion_tokens": completion,
        "total_tokens": PROMPT + completion,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def story(words: list[str], pace_s: float = 0.0) -> Reply:
    """A whole answer, streamed or not, with its usage."""

    async def reply(request: web.Request) -> web.StreamResponse:
        wanted = orjson.loads(await request.read())
        if not wanted.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {
                **_NAMED,
                "object": "chat.completion",
                "choices": [choice],
                "usage": usage(len(words)),
            }
            return web.Response(
                body=orjson.dumps(answer), content_type="application/json"
            )
        response = await _open_stream(request)
        for word in words:
            await response.write(token(word))
            await asyncio.sleep(pace_s)
        end = chunk({"index": 0, "delta": {}, "finish_reason": "stop"})
        await response.write(end + chunk(usage=usage(len(words))) + sse.DONE)
        return response

    return reply


def answers(body: str) -> Reply:
    """The body, whatever it is, as an answer that does not stream."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body, content_type="application/json")

    return reply


def endless(pace_s: float = 0.01) -> Reply:
    """Never stops by itself."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await _open_stream(request)
        while True:
            await response.write(token("x"))
            await asyncio.sleep(pace_s)

    return reply


def dies_after(data: bytes) -> Reply:
    """Sends `data` and loses the connection; before the headers where it is empty."""

    async def reply(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        if not data:
            request.transport.abort()
            return web.Response()
        response = await _open_stream(request)
        await response.write(data)
        await asyncio.sleep(0.05)
        request.transport.abort()
        return response

    return reply


def ends_after(data: bytes) -> Reply:
    """Sends `data` and ends in good order, as if that were all."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await _open_stream(request)
        await response.write(data)
        return response

    return reply


def lingers_after(data: bytes) -> Reply:
    """Sends `data` and keeps the connection, as if there were more."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await _open_stream(request)
        await response.write(data)
        await asyncio.sleep(3600)
        return response

    return reply


def hangs() -> Reply:
    """Takes the request and is never heard of again."""

    async def reply(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError("unreachable")

    return reply


def refuses(error: ApiError) -> Reply:
    """The envelope, with its status."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return _refused(error)

    return reply
