"""One request and its answer: ids, wording, and the line that says how it ended."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from neuron.web import ClientGoneError
from neuron.worker.formats import (
    ChatFormat,
    CompletionFormat,
    Envelope,
    Format,
    TokenWords,
    timings,
    usage,
)
from neuron.worker.generation import Delta, Generation, Times
from neuron.worker.prompts import ServedModel
from neuron.worker.schema import ChatBody, CompletionBody

if TYPE_CHECKING:
    from neuron.engines.base import GenerationRequest

log = logging.getLogger(__name__)


class Exchange:
    """What is known of one request, from its arrival to its log line."""

    def __init__(
        self,
        request: web.Request,
        body: ChatBody | CompletionBody,
        model: ServedModel,
        words: TokenWords,
    ) -> None:
        self.request = request
        self.body = body
        self.times = Times(arrived=time.monotonic())
        self.prepared: GenerationRequest | None = None
        self.generation: Generation | None = None
        chat = isinstance(body, ChatBody)
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        scored = body.scored is not None
        self._format: Format = (
            ChatFormat(words, scored) if chat else CompletionFormat(words, scored)
        )
        kind = self._format.CHUNK if body.stream else self._format.WHOLE
        self._envelope = Envelope.new(self.id, model.info.id, kind)

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Request-Id": self.request.headers.get("X-Request-Id", self.id)}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        if self.body.include_usage:
            more.setdefault("usage", None)
        return sse.encode(orjson.dumps(self._envelope.wrap(choices, **more)))

    def opening(self) -> bytes:
        choice = self._format.opening()
        return self._chunk([choice]) if choice else sse.comment("started")

    def part(self, delta: Delta) -> bytes:
        return self._chunk([self._format.part(delta)])

    def ending(self, generation: Generation) -> bytes:
        """The last choice, the usage in a chunk of its own where asked for, `[DONE]`.

        Usage is always told: else it rides on the last choice, as a chunk without
        choices surprises clients that did not ask for one.
        """
        assert generation.finish_reason is not None
        last = self._format.end(generation.finish_reason)
        told = {"usage": usage(generation), "timings": timings(self.times)}
        if self.body.include_usage:
            return self._chunk([last]) + self._chunk([], **told) + sse.DONE
        return self._chunk([last], **told) + sse.DONE

    def whole(self, total: Delta) -> dict[str, Any]:
        assert self.generation is not None
        return self._envelope.wrap(
            [self._format.whole(total)],
            usage=usage(self.generation),
            timings=timings(self.times),
        )

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """One line at the end, saying how it ended; refusals are the middleware's."""
        try:
            yield
        except (asyncio.CancelledError, ClientGoneError):
            self._log("client_gone")
            raise
        except ApiError as error:
            if self.generation is not None:
                self._log(error.code)
            raise
        assert self.generation is not None
        self._log(str(self.generation.finish_reason))

    def _log(self, outcome: str) -> None:
        spans = timings(self.times)
        generation = self.generation
        log.info(
            "%s %s: %s; prompt %s (cached %s), completion %s tokens;"
            " queue %s s, prefill %s s, decode %s s; total %.3f s",
            self.request.path,
            self.id,
            outcome,
            len(self.prepared.prompt_ids) if self.prepared else "-",
            generation.cached_tokens if generation else "-",
            generation.completion_tokens if generation else "-",
            *("-" if span is None else f"{span:.3f}" for span in spans.values()),
            time.monotonic() - self.times.arrived,
        )
