"""One request from its body to its last byte: admission, engine, answer, log line."""

import asyncio
import contextlib
import time

from aiohttp import web

from neuron.protocol.errors import ApiError
from neuron.protocol.headers import PROMPT_TOKENS
from neuron.web import COMMENT_INTERVAL_S, EventStream, json_response
from neuron.worker.admission import Admission, Ticket
from neuron.worker.choices import Choices, Runner
from neuron.worker.engine_host import EngineHost
from neuron.worker.exchange import Exchange
from neuron.worker.preparation import Body, Prepared, prepare
from neuron.worker.prompts import ServedModel
from neuron.worker.text_work import TextWork
from neuron.worker.token_words import TokenWords
from neuron.worker.vitals import Tally


class Inference:
    """Answers generation requests with one loaded model."""

    def __init__(
        self,
        model: ServedModel,
        host: EngineHost,
        admission: Admission,
        tally: Tally,
    ) -> None:
        self._model = model
        self._admission = admission
        self._tally = tally
        self._runner = Runner(host, model.tokenizer)
        self._words = TokenWords(model.tokenizer)
        self.text_work = TextWork(admission)

    def stop(self, reason: ApiError) -> None:
        """End every running request with `reason`."""
        self._runner.stop(reason)

    async def answer(self, request: web.Request, body: Body) -> web.StreamResponse:
        """Answer, streaming or whole as the body asks.

        Raises:
            ApiError: it failed before the first byte of the answer.
        """
        exchange = Exchange(request, body, self._words)
        with exchange.logged(), contextlib.ExitStack() as places:
            tickets = self._enter(exchange, places)
            choices = Choices(
                self._runner,
                lambda: self._prepare(exchange),
                tickets,
                exchange.arrived,
            )
            exchange.begin(choices)
            answer = self._stream if body.stream else self._whole
            async with choices:
                try:
                    return await answer(exchange, choices)
                finally:
                    self._tally.unparsed_calls += exchange.account.unparsed_calls

    def _enter(self, exchange: Exchange, places: contextlib.ExitStack) -> list[Ticket]:
        """A place in line for every choice, all at once or none.

        Raises:
            ApiError: 400, there will never be so many; 429 or 503 as of `Admission`.
        """
        wanted, capacity = exchange.body.total_choices, self._admission.capacity
        if wanted > capacity:
            raise ApiError(
                400, f"n: {wanted} answers in all are more than the {capacity} that"
                " this model takes at once, those waiting included",
                code="invalid_request_body", param="n",
            )  # fmt: skip
        return [
            places.enter_context(
                self._admission.enter(
                    caller=exchange.caller, priority=exchange.priority
                )
            )
            for _ in range(wanted)
        ]

    async def _prepare(self, exchange: Exchange) -> list[Prepared]:
        return await self.text_work.run(
            lambda: prepare(self._model, exchange.id, exchange.body),
            caller=exchange.caller,
            priority=exchange.priority,
        )

    async def _whole(self, exchange: Exchange, choices: Choices) -> web.Response:
        while not choices.over:
            await choices.news(None)
        # In a thread: the log-probabilities of a long prompt take a while to word.
        whole = await asyncio.to_thread(exchange.whole)
        return json_response(whole, headers=exchange.headers)

    async def _stream(self, exchange: Exchange, choices: Choices) -> web.StreamResponse:
        said = time.monotonic()
        # Opened late, so that a line that is closed at once is a clean status.
        await choices.news(COMMENT_INTERVAL_S)
        headers = exchange.headers
        if choices.prepared:
            headers[PROMPT_TOKENS] = str(exchange.account.prompt_tokens)
        stream = await EventStream(exchange.request, headers).open()
        while True:
            events, done = exchange.news()
            if events:
                await stream.send(events)
            elif time.monotonic() - said >= COMMENT_INTERVAL_S:
                await stream.comment(choices.phase)
            else:
                await choices.news(said + COMMENT_INTERVAL_S - time.monotonic())
                continue
            if done:
                return stream.response
            said = time.monotonic()
