"""A gateway at the wire: speaks the admin API, and does what a test tells it.

For fleets that no test machine has (GPUs, several hosts) and for the moments between
a request and its confirmation, which the real gateway passes too quickly.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from cortex_tui.target import Target
from neuron.protocol import routes, sse
from services import schema

Action = tuple[str, schema.ModelAction]


@dataclass(slots=True)
class FakeGateway:
    """`actions` has what it was asked, newest last."""

    snapshot: schema.FleetSnapshot
    target: Target = field(default_factory=lambda: Target("http://127.0.0.1:1"))
    actions: list[Action] = field(default_factory=list)
    keys: schema.KeyList = field(default_factory=schema.KeyList)
    authorizations: list[str | None] = field(default_factory=list)
    """What those showed who asked for the keys."""
    refusal: str | None = None
    page: str | None = None
    """What is at the fleet's address instead of a fleet."""
    outcome: dict[str, object] = field(default_factory=lambda: {"state": "done"})
    """How its operations end."""
    last_event_ids: list[str | None] = field(default_factory=list)
    pieces: list[str] = field(default_factory=lambda: ["there", " was", " a fox"])
    piece_pause_s: float = 0.0
    nonsense: bytes = b""
    """Sent after the pieces."""
    prompts: list[dict[str, object]] = field(default_factory=list)
    prompts_cut: int = 0
    """Prompts whose client went away before the end."""
    _streams: list[asyncio.Queue[bytes | None]] = field(default_factory=list)

    def delta(self, delta: schema.FleetDelta) -> None:
        """Send what changed to every console."""
        self._send(sse.encode(delta.model_dump_json(), event="delta"))

    def event(self, event: schema.FleetEvent) -> None:
        self._send(sse.encode(event.model_dump_json(), "event", str(event.seq)))

    def hang_up(self) -> None:
        """End every stream, as a gateway that goes away does."""
        for stream in self._streams:
            stream.put_nowait(None)
        self._streams.clear()

    def _send(self, data: bytes) -> None:
        for stream in self._streams:
            stream.put_nowait(data)

    async def handle_events(self, request: web.Request) -> web.StreamResponse:
        self.last_event_ids.append(request.headers.get("Last-Event-ID"))
        response = web.StreamResponse(headers={"Content-Type": sse.CONTENT_TYPE})
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams.append(queue)
        queue.put_nowait(sse.encode(self.snapshot.model_dump_json(), "snapshot"))
        while (data := await queue.get()) is not None:
            await response.write(data)
        return response

    async def handle_fleet(self, request: web.Request) -> web.Response:
        return web.json_response(text=self.page or self.snapshot.model_dump_json())

    async def handle_keys(self, request: web.Request) -> web.Response:
        self.authorizations.append(request.headers.get("Authorization"))
        if self.refusal is not None:
            return self._refused()
        return web.json_response(text=self.keys.model_dump_json())

    def _refused(self) -> web.Response:
        envelope = {"error": {"message": self.refusal, "code": "refused"}}
        return web.json_response(envelope, status=409)

    async def handle_action(self, request: web.Request) -> web.Response:
        kind = request.path.rpartition("/")[2]
        action = schema.ModelAction.model_validate(await request.json())
        self.actions.append((kind, action))
        if self.refusal is not None:
            return self._refused()
        operation = schema.Operation.model_validate(
            {"id": f"op-{len(self.actions)}", "kind": kind, **action.model_dump()}
        )
        return web.json_response(text=operation.model_dump_json())

    async def handle_operation(self, request: web.Request) -> web.Response:
        """Ended, as `outcome` says, by the time anybody asks."""
        number = int(request.match_info["id"].removeprefix("op-"))
        kind, action = self.actions[number - 1]
        operation = schema.Operation.model_validate(
            {
                **action.model_dump(),
                "id": f"op-{number}",
                "kind": kind,
                "created_at": 100.0,
                "finished_at": 101.5,
                **self.outcome,
            }
        )
        return web.json_response(text=operation.model_dump_json())

    async def handle_prompt(self, request: web.Request) -> web.StreamResponse:
        self.prompts.append(await request.json())
        response = web.StreamResponse(headers={"Content-Type": sse.CONTENT_TYPE})
        await response.prepare(request)
        chat = request.path == routes.V1_CHAT_COMPLETIONS
        try:
            for piece in self.pieces:
                content = {"delta": {"content": piece}} if chat else {"text": piece}
                await response.write(sse.encode(json.dumps({"choices": [content]})))
                await asyncio.sleep(self.piece_pause_s)
        except (ConnectionError, asyncio.CancelledError):
            self.prompts_cut += 1
            raise
        if self.nonsense:
            await response.write(self.nonsense)
        usage = {"completion_tokens": len(self.pieces)}
        last = {"choices": [{"finish_reason": "stop"}], "usage": usage}
        await response.write(sse.encode(json.dumps(last)) + sse.DONE)
        return response

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get(schema.EVENTS, self.handle_events)
        app.router.add_get(schema.FLEET, self.handle_fleet)
        for path in (schema.LOAD, schema.UNLOAD, schema.PIN, schema.UNPIN):
            app.router.add_post(path, self.handle_action)
        app.router.add_get(schema.KEYS, self.handle_keys)
        app.router.add_get(schema.OPERATION, self.handle_operation)
        app.router.add_post(routes.V1_COMPLETIONS, self.handle_prompt)
        app.router.add_post(routes.V1_CHAT_COMPLETIONS, self.handle_prompt)
        return app


@asynccontextmanager
async def fake_gateway(snapshot: schema.FleetSnapshot) -> AsyncIterator[FakeGateway]:
    """Listening on a free port of the loopback interface."""
    fake = FakeGateway(snapshot)
    runner = web.AppRunner(
        fake.app(), shutdown_timeout=1, handler_cancellation=True, access_log=None
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    fake.target = Target(f"http://127.0.0.1:{port}")
    try:
        yield fake
    finally:
        fake.hang_up()
        await runner.cleanup()
