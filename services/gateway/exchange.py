"""One inference request on its way: a replica, its answer, its end."""

import asyncio
import logging

import aiohttp
import orjson
from aiohttp import web

from neuron.protocol import sse
from neuron.protocol.errors import ApiError, unavailable
from neuron.protocol.headers import MODEL, plain_value
from neuron.protocol.types import ModelState
from services.fleet.requests import InFlight, RequestBook
from services.gateway import relay
from services.gateway.client_request import REQUEST_ID, Call
from services.gateway.client_stream import ClientStream
from services.gateway.context import Gateway
from services.gateway.dialect_choice import dialect_of
from services.gateway.dialects.base import Translation
from services.gateway.ending import (
    BROKEN_STREAM,
    CLIENT_CLOSED,
    UPSTREAM_ERROR,
    UPSTREAM_LOST,
    Ending,
)
from services.gateway.errors import internal_error
from services.gateway.meter import BodyMeter, StreamMeter, Usage
from services.gateway.refusal import ELSEWHERE, Refusal
from services.gateway.relay import UpstreamError
from services.gateway.replica_search import find_replica
from services.gateway.sending import finish
from services.gateway.wording import (
    Translated,
    Untouched,
    Wording,
    read_answer,
)
from services.schema import RequestPhase

log = logging.getLogger(__name__)

WARNING = "X-Cortex-Warning"
ATTEMPTS = 4
"""How many neurons may fail one request before it is given up."""
DEATHS = 2
"""After so many workers died while they had it, a request is suspected of it; a few
more, and the neuron gives the model up."""
SECOND_LOOK_S = 0.25


class Exchange:
    """`ending` says how it went, also when `run` raises."""

    def __init__(
        self, gateway: Gateway, request: web.Request, call: Call, entry: InFlight
    ) -> None:
        self._gateway = gateway
        self._fleet = gateway.fleet
        self._request = request
        self._call = call
        self._entry = entry
        dialect = dialect_of(request)
        self._headers = {
            **dialect.headers(entry.id),
            REQUEST_ID: entry.id,
            MODEL: call.model,
            **warning_header(call.translation),
        }
        self._stream = ClientStream(
            request,
            _wording(call),
            {
                **self._headers,
                "Content-Type": f"{dialect.stream_type}; charset=utf-8",
            },
        )
        self._meter: StreamMeter | None = None
        self.ending = Ending()

    async def run(self) -> web.StreamResponse:
        """The answer."""
        try:
            return await self._answer()
        except ApiError as error:
            self.ending.status, self.ending.outcome = error.status, error.code
            if self._stream.response is None:
                raise
            return await self._stream.fail(error)
        except (asyncio.CancelledError, ConnectionResetError):
            self._client_left()
            self._abort()
            raise
        except Exception:
            if self._stream.response is None:
                raise
            log.exception("request id=%s failed", self._entry.id)
            return await self._stream.fail(internal_error())

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
            deaths += refusal.deadly
            if deaths == DEATHS:
                return await self._pass_on(refusal)
            if refusal.too_busy or await self._stays_refused(node):
                failed |= {node}
                if not self._fleet.dispatcher.has_another(self._call.model, failed):
                    return await self._pass_on(refusal)
        raise unavailable(
            f"'{self._call.model}': {ATTEMPTS} attempts failed; see the gateway's log",
            code="upstream_failed",
        )

    async def _replica(self, failed: frozenset[str]) -> str:
        """The node that takes it, after a load if need be.

        Raises:
            ApiError: nobody can, or not in time.
        """
        model = self._call.model
        if ready := self._fleet.dispatcher.ready_replica(model, failed):
            return ready
        self._books.place(self._entry, None, RequestPhase.LOADING)
        return await find_replica(self._gateway, model, failed, self._tell)

    async def _tell(self, progress: str) -> None:
        if self._call.stream:
            await self._stream.comment(progress)

    # Answering.

    async def _relay(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        if upstream.status != 200:
            return await self._pass_on(await self._refusal(upstream))
        translation = self._call.translation
        if self._call.stream and relay.is_stream(upstream):
            return await self._relay_stream(upstream)
        if self._stream.response is not None or (translation and self._call.stream):
            raise ApiError(
                502,
                "the neuron answered without a stream",
                code="upstream_failed",
                type="server_error",
            )
        if translation:
            return await self._word_body(upstream, translation)
        return await self._relay_body(upstream)

    async def _relay_stream(
        self, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        first = await relay.first_chunk(upstream)
        response = await self._stream.open()
        self._entry.prompt_tokens = relay.prompt_tokens(upstream)
        self._meter = meter = StreamMeter()
        last, problem = b"", None
        try:
            last = await self._pump(first, upstream, response, meter)
        except (UpstreamError, ValueError) as error:
            problem = str(error)
        self.ending.usage, told = meter.ending()
        if told is not None:
            self.ending.status, self.ending.outcome = BROKEN_STREAM, UPSTREAM_ERROR
            log.warning("request id=%s: the neuron's stream: %s", self._entry.id, told)
            await finish(response)
            return response
        if problem is not None:
            return await self._broken(problem)
        await self._settle()
        self.ending.status, self.ending.outcome = 200, "done"
        await finish(response, last)
        return response

    async def _pump(
        self,
        first: bytes,
        upstream: aiohttp.ClientResponse,
        response: web.StreamResponse,
        meter: StreamMeter,
    ) -> bytes:
        """Pass a stream on, and return the words that end it.

        Raises:
            UpstreamError: it did not come to its good end.
            ValueError: it says what is no answer.
        """
        entry, wording = self._entry, self._stream.wording

        def on_chunk() -> None:
            entry.tokens = meter.events
            if entry.first_token is None and meter.started:
                self._books.first_token(entry)

        try:
            await relay.pump(first, upstream, response, meter, wording, on_chunk)
        except UpstreamError:
            if not meter.done:
                raise
        if not meter.done:
            raise UpstreamError("it ended early")
        return wording.end()

    async def _settle(self) -> None:
        if self._call.translation is not None:
            await self._call.translation.settle()

    async def _broken(self, problem: str) -> web.StreamResponse:
        entry = self._entry
        log.warning("request id=%s: %s broke off: %s", entry.id, entry.node, problem)
        self.ending.status, self.ending.outcome = BROKEN_STREAM, UPSTREAM_LOST
        error = ApiError(
            502,
            f"{entry.node} stopped in the middle of the answer",
            code=UPSTREAM_LOST,
            type="server_error",
        )
        return await self._stream.fail(error)

    async def _word_body(
        self, upstream: aiohttp.ClientResponse, translation: Translation
    ) -> web.StreamResponse:
        body = await relay.answer_body(upstream)
        try:
            usage, words = read_answer(
                body,
                lambda answer: (
                    Usage.of(answer),
                    orjson.dumps(translation.whole(answer)),
                ),
            )
        except ValueError as error:
            raise UpstreamError(f"its answer is none: {error}") from error
        await self._settle()
        self.ending.usage = usage
        self.ending.status, self.ending.outcome = 200, "done"
        return web.Response(
            body=words, headers={**self._headers, "Content-Type": "application/json"}
        )

    async def _relay_body(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**relay.response_headers(upstream), **self._headers}
        )
        response.content_length = upstream.content_length
        meter = BodyMeter()
        first = await relay.first_chunk(upstream)
        await response.prepare(self._request)
        try:
            await relay.pump(
                first, upstream, response, meter, Untouched(), lambda: None
            )
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

    # Refusals by the neuron.

    async def _refusal(self, upstream: aiohttp.ClientResponse) -> Refusal:
        refusal = await Refusal.read(upstream)
        log.info(
            "request id=%s: %s answered %d: %s",
            self._entry.id,
            self._entry.node,
            refusal.status,
            refusal.body[:600].decode(errors="replace"),
        )
        return refusal

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

    async def _pass_on(self, refusal: Refusal) -> web.StreamResponse:
        """The neuron's refusal, unchanged where the dialect is its own.

        Raises:
            ApiError: what it says, for a dialect to word.
        """
        if self._call.translation is not None:
            raise self._call.translation.refused(refusal.error())
        self.ending.status, self.ending.outcome = refusal.status, "refused"
        if (response := self._stream.response) is not None:
            await finish(response, sse.encode(refusal.body))
            return response
        return web.Response(
            status=refusal.status,
            body=refusal.body,
            headers={**refusal.headers, **self._headers},
        )

    @property
    def _books(self) -> RequestBook:
        return self._fleet.state.requests


def _wording(call: Call) -> Wording:
    if call.translation is None or not call.stream:
        return Untouched()
    return Translated(call.translation.writer())


def warning_header(translation: Translation | None) -> dict[str, str]:
    """What of the request has no effect; none where everything has."""
    if translation is None or not translation.warnings:
        return {}
    return {WARNING: plain_value("; ".join(translation.warnings))}
