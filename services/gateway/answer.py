"""The answer that one client gets: a stream, a whole one, or why there is none."""

import logging

import aiohttp
import orjson
from aiohttp import web

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from neuron.protocol.headers import MODEL, plain_value
from services.fleet.requests import InFlight, RequestBook
from services.gateway import relay
from services.gateway.client_request import REQUEST_ID, Call
from services.gateway.client_stream import ClientStream
from services.gateway.dialect_choice import dialect_of
from services.gateway.dialects.base import Translation
from services.gateway.dialects.usage import Usage
from services.gateway.ending import (
    BROKEN_STREAM,
    UPSTREAM_ERROR,
    UPSTREAM_LOST,
    Ending,
)
from services.gateway.errors import internal_error
from services.gateway.meter import BodyMeter, StreamMeter
from services.gateway.refusal import Refusal
from services.gateway.relay import UpstreamError
from services.gateway.sending import finish
from services.gateway.wording import Translated, Untouched, Wording, read_answer

log = logging.getLogger(__name__)

WARNING = "X-Cortex-Warning"


class Answer:
    """`ending` says how it went.

    Methods raise ConnectionResetError where the client is gone, or takes nothing.
    """

    def __init__(
        self, request: web.Request, call: Call, entry: InFlight, books: RequestBook
    ) -> None:
        self._request = request
        self._call = call
        self._entry = entry
        self._books = books
        dialect = dialect_of(request)
        self._headers = {
            **dialect.headers(entry.id),
            REQUEST_ID: entry.id,
            MODEL: call.model,
            **warning_header(call.translation),
        }
        content_type = f"{dialect.stream_type}; charset=utf-8"
        self._stream = ClientStream(
            request, _wording(call), {**self._headers, "Content-Type": content_type}
        )
        self._meter: StreamMeter | None = None
        self.ending = Ending()

    async def tell(self, progress: str) -> None:
        """What keeps a client waiting that reads a stream."""
        if self._call.stream:
            await self._stream.comment(progress)

    async def relay(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        """The neuron's answer.

        Raises:
            UpstreamError: it is none, and nothing of it was sent.
            ApiError: it is not of the kind that was asked for.
        """
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

    async def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """The neuron's refusal, unchanged where the dialect is its own.

        Raises:
            ApiError: what it says, for a dialect to word.
        """
        if self._call.translation is not None:
            raise self._call.translation.refused(refusal.error())
        self.ending.tell(refusal.status, "refused")
        if (response := self._stream.response) is not None:
            await finish(response, sse.encode(refusal.body))
            return response
        return web.Response(
            status=refusal.status,
            body=refusal.body,
            headers={**refusal.headers, **self._headers},
        )

    async def fail(self, error: Exception) -> web.StreamResponse:
        """An error, told in the stream.

        Raises:
            Exception: no stream has begun: the error itself.
        """
        told = error if isinstance(error, ApiError) else internal_error()
        self.ending.tell(told.status, told.code)
        if self._stream.response is None:
            raise error
        if told is not error:
            log.error("request id=%s failed", self._entry.id, exc_info=error)
        return await self._stream.fail(told)

    def client_left(self) -> None:
        """Some leave with `[DONE]`, before the connection's own end: all is well."""
        usage = self._meter.ending()[0] if self._meter else None
        if self._meter and self._meter.done and self._call.translation is None:
            self.ending.done(usage)
        else:
            self.ending.client_gone(usage)
        self._abort()

    # Streams.

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
            self.ending.tell(BROKEN_STREAM, UPSTREAM_ERROR)
            log.warning("request id=%s: the neuron's stream: %s", self._entry.id, told)
        elif problem is not None:
            return await self._broken(problem)
        else:
            await self._settle()
            self.ending.done(self.ending.usage)
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

    async def _broken(self, problem: str) -> web.StreamResponse:
        entry = self._entry
        log.warning("request id=%s: %s broke off: %s", entry.id, entry.node, problem)
        self.ending.tell(BROKEN_STREAM, UPSTREAM_LOST)
        error = ApiError(
            502,
            f"{entry.node} stopped in the middle of the answer",
            code=UPSTREAM_LOST,
            type="server_error",
        )
        return await self._stream.fail(error)

    # Whole answers.

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
        self.ending.done(usage)
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
            self.ending.tell(BROKEN_STREAM, UPSTREAM_LOST)
            log.warning("request id=%s: %s", self._entry.id, error)
            # What was begun cannot be completed: only a reset is honest.
            self._abort()
            return response
        self.ending.done(meter.usage())
        await finish(response)
        return response

    async def _settle(self) -> None:
        if self._call.translation is not None:
            await self._call.translation.settle()

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def warning_header(translation: Translation | None) -> dict[str, str]:
    """What of the request has no effect; none where everything has."""
    if translation is None or not translation.warnings:
        return {}
    return {WARNING: plain_value("; ".join(translation.warnings))}


def _wording(call: Call) -> Wording:
    if call.translation is None or not call.stream:
        return Untouched()
    return Translated(call.translation.writer())
