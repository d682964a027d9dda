"""`/v1/*` requests that name a model: find a replica, relay, and tell how it ended."""

import asyncio
import logging
import time

import aiohttp
import orjson
from aiohttp import web

from neuron.protocol import sse
from neuron.protocol.errors import ApiError, shutting_down, unavailable
from neuron.protocol.types import ModelState
from services.fleet.requests import InFlight, RequestBook
from services.gateway import relay
from services.gateway.client_request import (
    REQUEST_ID,
    client_name,
    read_call,
    request_id,
)
from services.gateway.context import GATEWAY, Gateway
from services.gateway.ending import (
    BROKEN_STREAM,
    CLIENT_CLOSED,
    UPSTREAM_ERROR,
    UPSTREAM_LOST,
    Ending,
    record,
)
from services.gateway.errors import internal_error
from services.gateway.meter import BodyMeter, StreamMeter
from services.gateway.relay import Call, UpstreamError
from services.gateway.sending import finish, send
from services.schema import RequestPhase

log = logging.getLogger(__name__)

COMMENT_S = 1.0
"""How often a client that waits for a load is told so."""
ATTEMPTS = 4
"""How many neurons may fail one request before it is given up."""
ELSEWHERE = frozenset({404, 409, 429, 502, 503})
"""Answers of a neuron after which another replica, or the same one later, may do."""
TOO_BUSY = 429
DEADLY = frozenset({"worker_lost", "engine_failed"})
"""Codes that say: a worker died while it had this request."""
DEATHS = 2
"""After so many the request is suspected of it; a few more, and the neuron gives the
model up."""
SECOND_LOOK_S = 0.25
STILL_LOADING_RETRY_S = 10
STREAM_HEADERS = {
    "Content-Type": f"{sse.CONTENT_TYPE}; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


async def handle(request: web.Request) -> web.StreamResponse:
    """One inference request, from its body to its log line."""
    gateway = request.app[GATEWAY]
    id_ = request_id(request)
    try:
        if gateway.stopping.is_set():
            raise shutting_down()
        call = await read_call(request, id_)
        await gateway.fleet.dispatcher.wait_to_hear_of(call.model)
    except (ApiError, web.HTTPException) as error:
        gateway.metrics.refused(request.path, error.status)
        log.info("request id=%s refused: %d %s", id_, error.status, error)
        raise
    entry = gateway.fleet.state.requests.open(
        id_, call.model, client_name(request), call.path
    )
    exchange = Exchange(gateway, request, call, entry)
    try:
        return await exchange.run()
    finally:
        record(gateway, entry, exchange.ending)


class Exchange:
    """One request on its way through the gateway."""

    def __init__(
        self, gateway: Gateway, request: web.Request, call: Call, entry: InFlight
    ) -> None:
        self._gateway = gateway
        self._fleet = gateway.fleet
        self._request = request
        self._call = call
        self._entry = entry
        self._response: web.StreamResponse | None = None
        """The stream, where it had to be opened before a replica was found."""
        self._meter: StreamMeter | None = None
        self.ending = Ending()

    async def run(self) -> web.StreamResponse:
        """The answer; `ending` says how it went, also when this raises."""
        try:
            return await self._answer()
        except ApiError as error:
            self.ending.status, self.ending.outcome = error.status, error.code
            if self._response is None:
                raise
            return await self._end_with_error(self._response, error)
        except (asyncio.CancelledError, ConnectionResetError):
            self._client_left()
            self._abort()
            raise
        except Exception:
            if self._response is None:
                raise
            log.exception("request id=%s failed", self._entry.id)
            return await self._end_with_error(self._response, internal_error())

    def _client_left(self) -> None:
        """Some leave with `[DONE]`, before the connection's own end: all is well."""
        if self._meter is not None and self._meter.done:
            self.ending.usage, _ = self._meter.ending()
            self.ending.status, self.ending.outcome = 200, "done"
        else:
            self.ending.status, self.ending.outcome = CLIENT_CLOSED, "client_gone"

    async def _answer(self) -> web.StreamResponse:
        failed: frozenset[str] = frozenset()
        deaths = 0
        for attempt in range(1, ATTEMPTS + 1):
            node = await self._replica(failed)
            self._books.place(self._entry, node, RequestPhase.WAITING)
            client = self._fleet.clients[node]
            try:
                async with relay.upstream(
                    client, self._call, self._gateway.limits
                ) as upstream:
                    if upstream.status not in ELSEWHERE or attempt == ATTEMPTS:
                        return await self._relay(upstream)
                    refusal = await self._refusal(upstream)
            except UpstreamError as error:
                log.warning("request id=%s: %s: %s", self._entry.id, node, error)
                failed |= {node}
                continue
            deaths += _code_of(refusal[2]) in DEADLY
            if deaths == DEATHS:
                return await self._pass_on(*refusal)
            if refusal[0] == TOO_BUSY or await self._stays_refused(node):
                failed |= {node}
                if not self._fleet.dispatcher.has_another(self._call.model, failed):
                    return await self._pass_on(*refusal)
        raise unavailable(
            f"'{self._call.model}': {ATTEMPTS} attempts failed; see the gateway's log",
            code="upstream_failed",
        )

    # Finding a replica.

    async def _replica(self, failed: frozenset[str]) -> str:
        """The node that takes it, after a load if need be.

        Raises:
            ApiError: nobody can, or not in time.
        """
        if ready := self._fleet.dispatcher.ready_replica(self._call.model, failed):
            return ready
        self._books.place(self._entry, None, RequestPhase.LOADING)
        search = asyncio.create_task(
            self._fleet.dispatcher.replica_for(self._call.model, failed)
        )
        stopping = asyncio.create_task(self._gateway.stopping.wait())
        try:
            await self._wait_for(search, stopping)
            return search.result()
        finally:
            search.cancel()
            stopping.cancel()
            await asyncio.gather(search, stopping, return_exceptions=True)

    async def _wait_for(
        self, search: "asyncio.Task[str]", stopping: "asyncio.Task[bool]"
    ) -> None:
        deadline = time.monotonic() + self._gateway.limits.load_timeout_s
        while True:
            left = deadline - time.monotonic()
            await asyncio.wait(
                {search, stopping},
                timeout=max(0.0, min(COMMENT_S, left)),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if search.done():
                return
            if stopping.done():
                raise shutting_down()
            if left <= 0:
                raise unavailable(
                    f"'{self._call.model}' is still being loaded",
                    code="model_loading",
                    retry_after=STILL_LOADING_RETRY_S,
                )
            if self._call.stream:
                stream = await self._open_stream()
                progress = self._fleet.dispatcher.progress(self._call.model)
                await send(stream, sse.comment(progress))

    # Answering.

    async def _open_stream(self) -> web.StreamResponse:
        """The event stream to the client, opened now if it is not open yet."""
        if self._response is None:
            self._response = web.StreamResponse(
                headers={**STREAM_HEADERS, REQUEST_ID: self._entry.id}
            )
            await self._response.prepare(self._request)
        return self._response

    async def _relay(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        if upstream.status != 200:
            return await self._pass_on(*await self._refusal(upstream))
        if self._call.stream and relay.is_stream(upstream):
            return await self._relay_stream(upstream)
        if self._response is not None:
            raise ApiError(
                502,
                "the neuron answered without a stream",
                code="upstream_failed",
                type="server_error",
            )
        return await self._relay_body(upstream)

    async def _relay_stream(
        self, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        first = await relay.first_chunk(upstream)
        response = await self._open_stream()
        meter, entry = StreamMeter(), self._entry
        self._meter = meter

        def on_chunk() -> None:
            entry.tokens = meter.events
            if entry.first_token is None and meter.started:
                self._books.first_token(entry)

        problem: str | None = None
        try:
            await relay.pump(first, upstream, response, meter, on_chunk)
        except UpstreamError as error:
            problem = str(error)
        self.ending.usage, told = meter.ending()
        if told is not None:
            self.ending.status, self.ending.outcome = BROKEN_STREAM, UPSTREAM_ERROR
            log.warning("request id=%s: the neuron's stream: %s", entry.id, told)
        elif meter.done:
            self.ending.status, self.ending.outcome = 200, "done"
        else:
            return await self._broken(response, meter, problem or "it ended early")
        await finish(response)
        return response

    async def _broken(
        self, response: web.StreamResponse, meter: StreamMeter, problem: str
    ) -> web.StreamResponse:
        entry = self._entry
        log.warning("request id=%s: %s broke off: %s", entry.id, entry.node, problem)
        self.ending.status, self.ending.outcome = BROKEN_STREAM, UPSTREAM_LOST
        if not meter.between_events:
            await send(response, b"\n\n")
        error = ApiError(
            502,
            f"{entry.node} stopped in the middle of the answer",
            code=UPSTREAM_LOST,
            type="server_error",
        )
        return await self._end_with_error(response, error)

    async def _relay_body(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                **relay.response_headers(upstream),
                REQUEST_ID: self._entry.id,
            }
        )
        response.content_length = upstream.content_length
        meter = BodyMeter()
        first = await relay.first_chunk(upstream)
        await response.prepare(self._request)
        try:
            await relay.pump(first, upstream, response, meter, lambda: None)
        except UpstreamError as error:
            self.ending.status, self.ending.outcome = BROKEN_STREAM, UPSTREAM_LOST
            log.warning("request id=%s: %s", self._entry.id, error)
            # What was begun cannot be completed: only a reset is honest.
            self._abort()
            return response
        self.ending.usage = meter.usage()
        self.ending.status, self.ending.outcome = 200, "done"
        await finish(response)
        return response

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _end_with_error(
        self, response: web.StreamResponse, error: ApiError
    ) -> web.StreamResponse:
        await finish(response, sse.encode(orjson.dumps(error.envelope())))
        return response

    # Refusals by the neuron.

    async def _refusal(
        self, upstream: aiohttp.ClientResponse
    ) -> tuple[int, dict[str, str], bytes]:
        body = await relay.error_body(upstream)
        log.info(
            "request id=%s: %s answered %d: %s",
            self._entry.id,
            self._entry.node,
            upstream.status,
            body[:600].decode(errors="replace"),
        )
        return upstream.status, relay.response_headers(upstream), body

    async def _stays_refused(self, node: str) -> bool:
        """Whether the node refuses although its model is ready, asked twice.

        A worker's death may reach the client before the news of it reaches anybody.
        """
        for pause in (0.0, SECOND_LOOK_S):
            await asyncio.sleep(pause)
            await self._fleet.refresh(node)
            if (
                self._fleet.dispatcher.model_state(node, self._call.model)
                is not ModelState.READY
            ):
                return False
        return True

    async def _pass_on(
        self, status: int, headers: dict[str, str], body: bytes
    ) -> web.StreamResponse:
        """The neuron's refusal, unchanged."""
        self.ending.status, self.ending.outcome = status, "refused"
        if self._response is not None:
            await finish(self._response, sse.encode(body))
            return self._response
        return web.Response(
            status=status, body=body, headers={**headers, REQUEST_ID: self._entry.id}
        )

    @property
    def _books(self) -> RequestBook:
        return self._fleet.state.requests


def _code_of(body: bytes) -> str | None:
    """The error code in a neuron's refusal, where it has one."""
    try:
        return str(orjson.loads(body)["error"]["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
