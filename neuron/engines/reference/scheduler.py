"""Who is computed in a step: continuous batching over a fixed number of slots.

Requests start in the order of their arrival, each with all the pages it can need, so
that a running one never has to be thrown out. One prompt is prefilled at a time, a
chunk per step while the others go on decoding; the next request starts when it is
done, and so finds the prefix they share in the cache.
"""

import math
from collections import deque
from typing import Final

from neuron.engines.base import (
    EngineError,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    GenerationRequest,
    PrefillProgress,
    Started,
    TokenEvent,
)
from neuron.engines.reference.cache import PagePool
from neuron.engines.reference.forward import Forward
from neuron.engines.reference.sequence import Sequence
from neuron.engines.reference.tiles import Floats

CHUNK: Final = 128
"""Prompt tokens computed in one step, over all requests: bounds what decoding waits."""


class Scheduler:
    """The requests of one loaded model."""

    def __init__(self, forward: Forward, pool: PagePool, slots: int) -> None:
        self._forward = forward
        self._pool = pool
        self._slots = slots
        self._waiting: deque[Sequence] = deque()
        self._prefilling: Sequence | None = None
        self._decoding: list[Sequence] = []
        self._steps = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0

    def add(self, request: GenerationRequest) -> None:
        """Queue a request that fits; its id must be new."""
        self._waiting.append(Sequence.of(request))

    def knows(self, request_id: str) -> bool:
        everyone = (*self._waiting, *self._running())
        return any(sequence.request.id == request_id for sequence in everyone)

    def remove(self, request_id: str) -> None:
        """Forget a request wherever it is; unknown ones are none."""
        for sequence in (*self._waiting, *self._running()):
            if sequence.request.id == request_id:
                self._drop(sequence)
                return

    def has_work(self) -> bool:
        return bool(self._waiting or self._decoding or self._prefilling)

    def stats(self) -> EngineStats:
        """May be called from any thread; the counters may be a step apart."""
        return EngineStats(
            running=len(self._decoding) + (self._prefilling is not None),
            waiting=len(self._waiting),
            steps=self._steps,
            kv_pages_used=self._pool.used,
            kv_pages_total=self._pool.total,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            memory_bytes=self._forward.nbytes,
        )

    def step(self) -> list[EngineEvent]:
        """One token for everyone decoding, then a chunk of prompt tokens."""
        events: list[EngineEvent] = []
        self._decode(events)
        self._prefill(events)
        self._steps += 1
        return events

    def _running(self) -> list[Sequence]:
        return [*self._decoding, *filter(None, [self._prefilling])]

    def _decode(self, events: list[EngineEvent]) -> None:
        batch = list(self._decoding)
        if not batch:
            return
        spans = [sequence.next_span(1) for sequence in batch]
        tokens = [sequence.tokens[-1] for sequence in batch]
        logits, _ = self._forward.run(tokens, spans, range(len(batch)))
        for sequence, row in zip(batch, logits, strict=True):
            self._emit(sequence, 1, row, events)

    def _prefill(self, events: list[EngineEvent]) -> None:
        budget = CHUNK
        while budget > 0:
            if self._prefilling is None and not self._start_next(events):
                return
            sequence = self._prefilling
            if sequence is None:
                return
            span = sequence.next_span(budget)
            budget -= span.count
            end = span.start + span.count
            is_last = end == sequence.prompt_tokens
            logits, is_finite = self._forward.run(
                sequence.tokens[span.start : end],
                [span],
                [span.count - 1] if is_last else [],
            )
            if not is_finite:
                self._fail(sequence, events)
                continue
            events.append(
                PrefillProgress(sequence.request.id, end, sequence.prompt_tokens)
            )
            if is_last:
                self._prefilling = None
                self._decoding.append(sequence)
                self._emit(sequence, span.count, logits[0], events)
            else:
                sequence.advance(span.count, self._pool)

    def _start_next(self, events: list[EngineEvent]) -> bool:
        """Give the longest waiting request a slot and pages, if there are any."""
        if not self._waiting or len(self._decoding) >= self._slots:
            return False
        sequence = self._waiting[0]
        if not sequence.take_pages(self._pool):
            return False
        self._waiting.popleft()
        self._prefilling = sequence
        self._prompt_tokens += sequence.prompt_tokens
        self._cached_tokens += sequence.computed
        events.append(Started(sequence.request.id, sequence.computed))
        return True

    def _emit(
        self,
        sequence: Sequence,
        computed: int,
        logits: Floats,
        events: list[EngineEvent],
    ) -> None:
        """Sample the next token, and end the request if that was its last."""
        request = sequence.request
        likeliest = int(logits.argmax())
        if not math.isfinite(logits[likeliest]):
            self._fail(sequence, events)
            return
        sequence.advance(computed, self._pool)
        token, logprobs = sequence.sampler.sample(logits, likeliest)
        sequence.tokens.append(token)
        self._generated_tokens += 1
        events.append(TokenEvent(request.id, token, logprobs))
        stopped = token in request.stop_ids
        if stopped or sequence.generated >= request.max_new_tokens:
            self._drop(sequence)
            events.append(Finished(request.id, "stop" if stopped else "length"))

    def _fail(self, sequence: Sequence, events: list[EngineEvent]) -> None:
        """The weights make no sense of these tokens; the others must not notice."""
        self._forward.clear(sequence.unnamed_pages)
        self._drop(sequence)
        error = EngineError("the model's output is not finite", code="engine_error")
        events.append(Failed(sequence.request.id, error))

    def _drop(self, sequence: Sequence) -> None:
        sequence.drop_pages(self._pool)
        if sequence is self._prefilling:
            self._prefilling = None
        elif sequence in self._decoding:
            self._decoding.remove(sequence)
        else:
            self._waiting.remove(sequence)
