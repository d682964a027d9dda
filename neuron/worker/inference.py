"""One request from its body to its last byte: admission, engine, answer, log line."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Final

from aiohttp import web

from neuron.engines.base import EngineError
from neuron.protocol import headers
from neuron.protocol.errors import ApiError
from neuron.web import (
    COMMENT_INTERVAL_S,
    EventStream,
    json_response,
)
from neuron.worker.admission import Admission, Ticket
from neuron.worker.engine_host import EngineHost
from neuron.worker.exchange import Exchange
from neuron.worker.formats import TokenWords
from neuron.worker.generation import Generation
from neuron.worker.prompts import ServedModel
from neuron.worker.schema import ChatBody, CompletionBody

_STATUS: Final = {
    "context_length_exceeded": 400,
    "invalid_value": 400,
    "unsupported_parameter": 400,
}


class Inference:
    """Answers generation requests with one loaded model."""

    def __init__(
        self, model: ServedModel, host: EngineHost, admission: Admission
    ) -> None:
        self._model = model
        self._host = host
        self._admission = admission
        self._running: set[Generation] = set()
        self._words = TokenWords(model.tokenizer)

    def stop(self, reason: ApiError) -> None:
        """End every running request with `reason`."""
        error = EngineError(str(reason), code=reason.code, retryable=True)
        for generation in list(self._running):
            generation.fail(error)

    async def answer(
        self, request: web.Request, body: ChatBody | CompletionBody
    ) -> web.StreamResponse:
        """Answer, streaming or whole as the body asks.

        Raises:
            ApiError: it failed before the first byte of the answer.
        """
        exchange = Exchange(request, body, self._model, self._words)
        place = self._admission.enter(
            caller=headers.caller(request.headers),
            priority=headers.priority(request.headers),
        )
        with exchange.logged(), place as ticket:
            # In a thread: long prompts take long, and others are being answered.
            exchange.prepared = await asyncio.to_thread(
                self._model.request, exchange.id, body
            )
            answer = self._stream if body.stream else self._whole
            return await answer(exchange, ticket)

    @contextlib.contextmanager
    def _generation(self, exchange: Exchange, ticket: Ticket) -> Iterator[Generation]:
        """A running generation; leaving in any way takes it from the engine."""
        prepared = exchange.prepared
        assert prepared is not None
        exchange.times.admitted = time.monotonic()

        def end() -> None:
            # The engine is done, or forgets it: a slow client holds no slot.
            self._host.cancel(prepared.id)
            ticket.release()

        generation = Generation(
            prepared, self._model.tokenizer, exchange.body.stop, exchange.times, end
        )
        exchange.generation = generation
        self._running.add(generation)
        self._host.submit(prepared, generation.accept)
        try:
            yield generation
        except EngineError as error:
            raise _as_api_error(error) from error
        finally:
            self._running.discard(generation)
            end()

    async def _whole(self, exchange: Exchange, ticket: Ticket) -> web.Response:
        await ticket.wait()
        with self._generation(exchange, ticket) as generation:
            total = await generation.whole()
        return json_response(exchange.whole(total), headers=exchange.headers)

    async def _stream(self, exchange: Exchange, ticket: Ticket) -> web.StreamResponse:
        stream = EventStream(exchange.request, exchange.headers)
        # Opened late, so that a line that is closed at once is a clean status.
        while not await ticket.wait(COMMENT_INTERVAL_S):
            await stream.open()
            await stream.comment("queued")
        await stream.open()
        with self._generation(exchange, ticket) as generation:
            await stream.send(exchange.opening())
            await self._send_deltas(exchange, generation, stream)
        return stream.response

    async def _send_deltas(
        self, exchange: Exchange, generation: Generation, stream: EventStream
    ) -> None:
        while True:
            delta = await generation.next(COMMENT_INTERVAL_S)
            if delta is None:
                await stream.comment(generation.phase)
                continue
            events = exchange.part(delta) if delta.text or delta.tokens else b""
            if delta.finish_reason is not None:
                await stream.send(events + exchange.ending(generation))
                return
            await stream.send(events)


def _as_api_error(error: EngineError) -> ApiError:
    status = 503 if error.retryable else _STATUS.get(error.code, 500)
    return ApiError(
        status,
        str(error),
        code=error.code,
        type="invalid_request_error" if status == 400 else "server_error",
        param=error.param,
        retry_after=3 if error.retryable else None,
    )
