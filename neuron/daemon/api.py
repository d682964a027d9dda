"""The neuron API: one handler a route."""

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from neuron.daemon.catalogue import Catalogue
from neuron.daemon.events import EventLog, LaggedError
from neuron.daemon.hardware import Hardware, host_facts
from neuron.daemon.instance import Instance
from neuron.daemon.manager import ModelManager
from neuron.daemon.metrics import render
from neuron.daemon.operations import OPERATIONS
from neuron.daemon.relay import Relay
from neuron.operation import JSON, register
from neuron.protocol import routes, sse
from neuron.protocol.errors import ApiError, model_not_found, unavailable
from neuron.protocol.types import (
    Discovery,
    Endpoint,
    Event,
    Health,
    LoadRequest,
    LoadResult,
    ModelList,
    ModelState,
    UnloadRequest,
    Version,
)
from neuron.web import (
    COMMENT_INTERVAL_S,
    EventStream,
    error_event,
    json_response,
    read_json,
    validate,
)

_START_DEADLINE_S: Final = 30.0
_MIB: Final = 1024 * 1024


class NeuronApi:
    """Handlers over the daemon's parts."""

    def __init__(
        self,
        catalogue: Catalogue,
        hardware: Hardware,
        events: EventLog,
        manager: ModelManager,
        document: Callable[[], bytes],
    ) -> None:
        self._catalogue = catalogue
        self._hardware = hardware
        self._events = events
        self._manager = manager
        self._document = document
        self._relay = Relay(manager)
        self._started = time.monotonic()
        self.started_up = asyncio.Event()
        """Hardware and models have been looked at once."""

    def add_routes(self, app: web.Application) -> None:
        register(app, OPERATIONS, self)
        for path in routes.INFERENCE:
            app.router.add_post(path, self.inference)

    async def _look_around(self) -> None:
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                await self.started_up.wait()
        except TimeoutError as error:
            raise unavailable("still looking at hardware and models") from error

    async def discovery(self, request: web.Request) -> web.Response:
        await self._look_around()
        inventory = self._hardware.inventory
        total = self._hardware.ram_total_bytes
        return json_response(
            Discovery(
                driver=inventory.driver,
                cuda=inventory.cuda,
                driver_problem=inventory.problem,
                ram_total_mb=None if total is None else total // _MIB,
                devices=list(inventory.devices),
                engines=list(self._catalogue.engines),
                **host_facts(),
            )
        )

    async def health(self, request: web.Request) -> web.Response:
        return json_response(self.health_now())

    def health_now(self) -> Health:
        """From caches only."""
        available = self._hardware.ram_available_bytes
        return Health(
            status="draining" if self._manager.draining else "ready",
            uptime_s=time.monotonic() - self._started,
            ram_free_mb=None if available is None else available // _MIB,
            devices=self._hardware.devices(self._manager.pids()),
            models=self._manager.loads(),
            event_seq=self._events.seq,
        )

    async def version(self, request: web.Request) -> web.Response:
        return json_response(Version(python=platform.python_version(), pid=os.getpid()))

    async def openapi(self, request: web.Request) -> web.Response:
        # In a thread: the first time, everything that it describes is imported.
        body = await asyncio.to_thread(self._document)
        return web.Response(body=body, content_type=JSON)

    async def models(self, request: web.Request) -> web.Response:
        await self._look_around()
        return json_response(ModelList(models=self._manager.models()))

    async def endpoint(self, request: web.Request) -> web.Response:
        await self._look_around()
        model_id = request.match_info["id"]
        known = [model.id for model in self._manager.models()]
        if model_id not in known:
            raise model_not_found(model_id, known)
        return json_response(Endpoint(url=str(request.url.origin())))

    async def metrics(self, request: web.Request) -> web.Response:
        body = render(self.health_now(), self._manager.models(), self._manager.counts())
        return web.Response(
            body=body, headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    async def v1_models(self, request: web.Request) -> web.Response:
        """What answers now, as OpenAI lists it."""
        data = [
            {
                "id": model.id,
                "object": "model",
                "created": int(model.loaded_at or 0),
                "owned_by": "neuron",
                "max_model_len": model.max_seq_len,
            }
            for model in self._manager.models()
            if model.state is ModelState.READY
        ]
        return json_response({"object": "list", "data": data})

    async def inference(self, request: web.Request) -> web.StreamResponse:
        await self._look_around()
        return await self._relay.handle(request)

    # Life of a model.

    async def plan(self, request: web.Request) -> web.Response:
        await self._look_around()
        wanted = validate(LoadRequest, await read_json(request))
        return json_response(await self._manager.plan(wanted))

    async def load(self, request: web.Request) -> web.StreamResponse:
        await self._look_around()
        wanted = validate(LoadRequest, await read_json(request))
        instance, already = await self._manager.load(wanted)
        if sse.CONTENT_TYPE in request.headers.get("Accept", ""):
            return await self._stream_load(request, instance, already)
        await instance.ready()
        return json_response(self._load_result(instance, already))

    async def _stream_load(
        self, request: web.Request, instance: Instance, already: bool
    ) -> web.StreamResponse:
        stream = await EventStream(request).open()
        settled = asyncio.create_task(instance.ready())
        try:
            await self._report_progress(stream, instance, settled)
            await settled
            result = self._load_result(instance, already)
            await stream.send(sse.encode(result.model_dump_json(), "result"))
        except ApiError as error:
            await stream.send(error_event(error, "error"))
        finally:
            # Without its client the load goes on: others may wait for it.
            settled.cancel()
            await asyncio.gather(settled, return_exceptions=True)
        return stream.response

    async def _report_progress(
        self, stream: EventStream, instance: Instance, settled: "asyncio.Task[None]"
    ) -> None:
        sent = None
        while not settled.done():
            if instance.progress is not None and instance.progress != sent:
                sent = instance.progress
                await stream.send(sse.encode(sent.model_dump_json(), "progress"))
            changed = asyncio.create_task(instance.changed(COMMENT_INTERVAL_S))
            await asyncio.wait({changed, settled}, return_when=asyncio.FIRST_COMPLETED)
            if changed.done() and not changed.result():
                await stream.comment("loading")
            changed.cancel()

    def _load_result(self, instance: Instance, already: bool) -> LoadResult:
        return LoadResult(
            model=self._manager.model(instance.entry),
            already_loaded=already,
            load_s=None if already else instance.load_s,
        )

    async def unload(self, request: web.Request) -> web.Response:
        await self._look_around()
        wanted = validate(UnloadRequest, await read_json(request))
        return json_response(await self._manager.unload(wanted))

    # Events.

    async def events(self, request: web.Request) -> web.StreamResponse:
        await self._look_around()
        stream = EventStream(request)
        with (
            contextlib.suppress(LaggedError),
            self._events.subscribe() as subscription,
        ):
            last = sse.event_number(request.headers.get("Last-Event-ID", ""))
            missed = self._missed(last)
            await stream.open()
            for event in missed:
                await stream.send(_encode(event))
            while not self._events.closed:
                news = await subscription.next(COMMENT_INTERVAL_S)
                await stream.send(_encode(news) if news else sse.comment(""))
        return stream.response

    def _missed(self, last: int | None) -> list[Event]:
        """What the follower has to catch up on: the events it missed, or everything."""
        missed = None if last is None else self._events.since(last)
        if missed is not None:
            return missed
        models = [model.model_dump(mode="json") for model in self._manager.models()]
        return [
            Event(
                seq=self._events.seq,
                time=time.time(),
                kind="node",
                message="snapshot",
                data={"models": models},
            )
        ]


def _encode(event: Event) -> bytes:
    name = "snapshot" if event.message == "snapshot" else "event"
    return sse.encode(event.model_dump_json(), name, str(event.seq))
