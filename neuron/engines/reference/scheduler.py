"""Who is computed in a step: continuous batching over a fixed number of slots.

Requests start in the order of their arrival. One prompt is prefilled at a time, a
chunk per step while the others go on decoding; the next request starts when it is
done, and so finds the prefix they share in the cache.

A request holds pages for what it has and a piece more, not for all it may become. It
starts when the pool has that and a piece for everyone running. When the pool is empty
nevertheless, the youngest is preempted: it gives its pages up, waits in front of those
who came later, and is computed again; no number changes by that, and nobody sees it.
The oldest always goes on, since every request fits into an empty pool.
"""

import math
from collections import deque
from concurrent.futures import Executor
from typing import Final, Literal

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
from neuron.engines.constrained import Constrained
from neuron.engines.reference.attention import Span
from neuron.engines.reference.cache import PagePool
from neuron.engines.reference.forward import Forward
from neuron.engines.reference.prompt_scores import score_prompt
from neuron.engines.reference.sampler import Sampler
from neuron.engines.reference.sequence import Sequence
from neuron.engines.reference.tiles import Floats

CHUNK: Final = 128
"""Prompt tokens computed in one step, over all requests: bounds what decoding waits."""


class Scheduler:
    """The requests of one loaded model."""

    def __init__(
        self, forward: Forward, pool: PagePool, slots: int, masks: Executor
    ) -> None:
        """`masks` computes those of constrained requests."""
        self._forward = forward
        self._pool = pool
        self._slots = slots
        self._masks = masks
        self._waiting: deque[Sequence] = deque()
        self._prefilling: Sequence | None = None
        self._decoding: list[Sequence] = []
        self._steps = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0
        self._preemptions = 0

    def add(self, request: GenerationRequest) -> None:
        """Queue a request that fits; its id must be new."""
        constrained = None
        if request.constraint is not None:
            constrained = Constrained(
                request.constraint, request, self._forward.vocab, self._masks
            )
        tokens = list(request.prompt_ids)
        self._waiting.append(Sequence(request, Sampler(request), constrained, tokens))

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
            preemptions=self._preemptions,
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
        """Oldest first: who prefills has started last."""
        return [*self._decoding, *filter(None, [self._prefilling])]

    def _decode(self, events: list[EngineEvent]) -> None:
        self._make_room()
        batch = list(self._decoding)
        if not batch:
            return
        spans = [sequence.next_span(1) for sequence in batch]
        tokens = [sequence.tokens[-1] for sequence in batch]
        logits, _ = self._forward.run(tokens, spans, range(len(batch)))
        for sequence, row in zip(batch, logits, strict=True):
            self._emit(sequence, 1, row, events)

    def _make_room(self) -> None:
        """A page for everyone's next token, at the cost of the youngest."""
        for sequence in list(self._decoding):
            while sequence in self._decoding and sequence.is_full:
                if not sequence.grow(self._pool):
                    self._preempt(self._running()[-1])

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        self._waiting.appendleft(sequence)
        self._preemptions += 1

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
            self._prefill_span(sequence, span, events)

    def _prefill_span(
        self, sequence: Sequence, span: Span, events: list[EngineEvent]
    ) -> None:
        end = span.start + span.count
        tokens = sequence.tokens[span.start : end]
        _, is_finite = self._forward.run(tokens, [span], [])
        if not is_finite:
            self._fail_numbers(sequence, events)
            return
        try:
            scores = score_prompt(self._forward, sequence, span)
        except EngineError as error:
            self._fail(sequence, error, events)
            return
        if scores is not None:
            events.append(scores)
        if not sequence.is_prefilled and end > sequence.prefilled:
            name, total = sequence.request.id, sequence.prompt_tokens
            events.append(PrefillProgress(name, end, total))
        if end < len(sequence.tokens):
            sequence.advance(span.count, self._pool)
            return
        self._prefilling = None
        self._decoding.append(sequence)
        if sequence.request.max_new_tokens:
            [logits] = self._forward.logits([span.count - 1])
            self._emit(sequence, span.count, logits, events)
        else:
            sequence.advance(span.count, self._pool)
            self._finish(sequence, "length", events)

    def _start_next(self, events: list[EngineEvent]) -> bool:
        """Give the longest waiting request a slot and pages, if there are any."""
        if not self._waiting or len(self._decoding) >= self._slots:
            return False
        sequence = self._waiting[0]
        spare = sum(running.may_take for running in self._decoding)
        if not sequence.take_pages(self._pool, spare):
            return False
        self._waiting.popleft()
        self._prefilling = sequence
        if sequence.constrained is not None:
            sequence.constrained.prepare()
        if not sequence.started:
            sequence.started = True
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
            self._fail_numbers(sequence, events)
            return
        sequence.advance(computed, self._pool)
        try:
            token, logprobs, is_last = sequence.choose(logits, likeliest)
        except EngineError as error:
            self._fail(sequence, error, events)
            return
        self._generated_tokens += 1
        events.append(TokenEvent(request.id, token, logprobs))
        if is_last:
            self._finish(sequence, "stop", events)
        elif sequence.generated >= request.max_new_tokens:
            self._finish(sequence, "length", events)
        elif sequence.constrained is not None:
            sequence.constrained.prepare()

    def _finish(
        self,
        sequence: Sequence,
        reason: Literal["stop", "length"],
        events: list[EngineEvent],
    ) -> None:
        self._drop(sequence)
        events.append(Finished(sequence.request.id, reason))

    def _fail_numbers(self, sequence: Sequence, events: list[EngineEvent]) -> None:
        """The weights make no sense of these tokens; the others must not notice."""
        self._forward.clear(sequence.unnamed_pages)
        error = EngineError("the model's output is not finite", code="engine_error")
        self._fail(sequence, error, events)

    def _fail(
        self, sequence: Sequence, error: EngineError, events: list[EngineEvent]
    ) -> None:
        self._drop(sequence)
        events.append(Failed(sequence.request.id, error))

    def _drop(self, sequence: Sequence) -> None:
        """The request is over."""
        if sequence.constrained is not None:
            sequence.constrained.close()
        self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Out of wherever it is, without its pages."""
        sequence.drop_pages(self._pool)
        if sequence is self._prefilling:
            self._prefilling = None
        elif sequence in self._decoding:
            self._decoding.remove(sequence)
        else:
            self._waiting.remove(sequence)
