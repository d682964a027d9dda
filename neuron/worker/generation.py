"""One request between the engine and its client."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from neuron.engines.base import (
    EngineError,
    EngineEvent,
    Failed,
    Finished,
    GenerationRequest,
    PrefillProgress,
    PromptLogprobs,
    Started,
    TokenEvent,
    TokenLogprobs,
)
from neuron.text.detokenizer import Detokenizer
from neuron.text.stop import StopMatcher
from neuron.text.tokenizer import TextTokenizer

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its log-probabilities."""

    token_id: int
    logprobs: TokenLogprobs


@dataclass(slots=True)
class Delta:
    """What came since the last one: all of it, however slow the reader is."""

    text: str = ""
    tokens: list[ScoredToken] = field(default_factory=list)
    """Filled where log-probabilities were asked for."""
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Times:
    """Moments of one request on the monotonic clock."""

    arrived: float
    admitted: float | None = None
    first_token: float | None = None
    ended: float | None = None


class Generation:
    """Turns engine events into text as they come, and keeps it for the client.

    Decoding and stop strings do not wait for the client: a slow one cannot keep the
    engine at work, and what it has not read yet is one text, not a queue.
    """

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: TextTokenizer,
        stops: Sequence[str],
        times: Times,
        on_end: Callable[[], None],
    ) -> None:
        self.request = request
        self.times = times
        self.cached_tokens = 0
        self.prefilled = 0
        self.prompt_scored: list[ScoredToken] = []
        """Of the prompt's tokens but the first, where they were asked for."""
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.error: EngineError | None = None
        self._detokenizer = Detokenizer(tokenizer, request.prompt_ids)
        self._stops = StopMatcher(stops)
        self._on_end = on_end
        self._text: list[str] = []
        self._scored: list[tuple[int, ScoredToken]] = []
        self._decoded_chars = 0
        self._passed_chars = 0
        self._news = asyncio.Event()
        self._done = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    @property
    def phase(self) -> str:
        """What the engine is at, in words."""
        if self.times.first_token is not None:
            return "decoding"
        return f"prefill {self.prefilled}/{len(self.request.prompt_ids)}"

    def accept(self, events: Sequence[EngineEvent]) -> None:
        """Take one step's events; the engine host calls this on the loop."""
        try:
            self._accept(events)
        except Exception as error:
            # Others are served by the same callback, and this client waits.
            log.exception("%s: events cannot be handled", self.request.id)
            self.error = EngineError(f"internal error: {error}", code="internal_error")
            self._end(None)

    def _accept(self, events: Sequence[EngineEvent]) -> None:
        for event in events:
            if self.over:
                break
            match event:
                case Started():
                    self.cached_tokens = event.cached_tokens
                case PrefillProgress():
                    self.prefilled = event.done
                case PromptLogprobs():
                    self.prompt_scored += map(
                        ScoredToken, event.token_ids, event.logprobs
                    )
                case TokenEvent():
                    self._take(event)
                case Finished():
                    self._pass(self._detokenizer.flush())
                    if not self.over:
                        self._text.append(self._stops.flush())
                        self._passed_chars = self._decoded_chars
                        self._end(event.reason)
                case Failed():
                    self.error = event.error
                    self._end(None)

    def fail(self, error: EngineError) -> None:
        """End it from outside."""
        self.accept([Failed(self.request.id, error)])

    def _take(self, event: TokenEvent) -> None:
        self.completion_tokens += 1
        if self.times.first_token is None:
            self.times.first_token = time.monotonic()
        if event.token_id in self.request.stop_ids:
            return
        text = self._detokenizer.feed(event.token_id)
        if event.logprobs is not None:
            end = self._decoded_chars + len(text)
            self._scored.append((end, ScoredToken(event.token_id, event.logprobs)))
        self._pass(text)

    def _pass(self, text: str) -> None:
        self._decoded_chars += len(text)
        passed = self._stops.feed(text)
        if passed:
            self._text.append(passed)
            self._passed_chars += len(passed)
            self._news.set()
        if self._stops.matched is not None:
            self._end("stop")

    def _end(self, reason: FinishReason | None) -> None:
        self.finish_reason = reason
        self.times.ended = time.monotonic()
        self._news.set()
        self._done.set()
        self._on_end()

    async def next(self, timeout: float | None) -> Delta | None:
        """What came since the last call; None after `timeout` seconds without any.

        Raises:
            EngineError: the generation failed.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return None
        self._news.clear()
        if self.error is not None:
            raise self.error
        return self._take_all()

    async def whole(self) -> Delta:
        """Everything, once it is over.

        Raises:
            EngineError: the generation failed.
        """
        await self._done.wait()
        if self.error is not None:
            raise self.error
        return self._take_all()

    def _take_all(self) -> Delta:
        text = "".join(self._text)
        self._text.clear()
        passed = [token for end, token in self._scored if end <= self._passed_chars]
        del self._scored[: len(passed)]
        return Delta(text, passed, self.finish_reason)
