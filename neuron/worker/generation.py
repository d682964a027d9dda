"""One answer between the engine and its client."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.reply import Delta, FinishReason, Reply, ReplyShape

log = logging.getLogger(__name__)


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
        shape: ReplyShape,
        tokenizer: TextTokenizer,
        times: Times,
        *,
        on_news: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.request = request
        self.times = times
        self.reply = Reply(shape, tokenizer, request.prompt_ids)
        self.started = False
        """The engine has looked for its prompt in the cache."""
        self.cached_tokens = 0
        self.prefilled = 0
        self.finish_reason: FinishReason | None = None
        self.error: EngineError | None = None
        self._prompt_scores: list[TokenLogprobs | None] = [None]
        self._on_news = on_news
        self._on_end = on_end
        self._ended = asyncio.Event()
        if request.prompt_logprobs is None:
            self.reply.echo()
        else:
            self._echo_if_scored()

    @property
    def over(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    @property
    def prompt_scores(self) -> Sequence[TokenLogprobs | None]:
        """Of the prompt's tokens, where they were asked for; the first has none."""
        return self._prompt_scores

    @property
    def phase(self) -> str:
        """What the engine is at, in words."""
        if self.times.first_token is not None:
            return "decoding"
        return f"prefill {self.prefilled}/{len(self.request.prompt_ids)}"

    def accept(self, events: Sequence[EngineEvent]) -> None:
        """Take one step's events; the engine host calls this on the loop."""
        try:
            for event in events:
                if not self.over:
                    self._accept(event)
        except Exception as error:
            # Others are served by the same callback, and this client waits.
            log.exception("%s: events cannot be handled", self.request.id)
            self.error = EngineError(f"internal error: {error}", code="internal_error")
            self._end(None)

    def _accept(self, event: EngineEvent) -> None:
        match event:
            case Started():
                self.started, self.cached_tokens = True, event.cached_tokens
                self._on_news()
            case PrefillProgress():
                self.prefilled = event.done
            case PromptLogprobs():
                self._score(event)
            case TokenEvent():
                self._take(event)
            case Finished():
                self.reply.finish()
                self._end("stop" if self.reply.stopped else event.reason)
            case Failed():
                self.error = event.error
                self._end(None)

    def fail(self, error: EngineError) -> None:
        """End it from outside."""
        self.accept([Failed(self.request.id, error)])

    def _score(self, event: PromptLogprobs) -> None:
        self._prompt_scores += event.logprobs
        self._echo_if_scored()
        self._on_news()

    def _echo_if_scored(self) -> None:
        if len(self._prompt_scores) == len(self.request.prompt_ids):
            self.reply.echo(self.request.prompt_ids, self._prompt_scores)

    def _take(self, event: TokenEvent) -> None:
        if self.times.first_token is None:
            self.times.first_token = time.monotonic()
        self.reply.take(event, silent=event.token_id in self.request.stop_ids)
        if self.reply.stopped:
            self._end("stop")
        else:
            self._on_news()

    def _end(self, reason: FinishReason | None) -> None:
        if reason == "stop" and self.reply.calls:
            reason = "tool_calls"
        self.finish_reason = reason
        self.times.ended = time.monotonic()
        self._on_end()
        self._ended.set()
        self._on_news()

    async def ended(self) -> None:
        """Wait for the end.

        Raises:
            EngineError: the generation failed.
        """
        await self._ended.wait()
        if self.error is not None:
            raise self.error

    def taken(self) -> Delta:
        """What came since the last call."""
        return self.reply.taken(self.finish_reason)
