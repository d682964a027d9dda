"""Who is computed in a step: continuous batching over a fixed number of slots.

Requests start in the order of their arrival. One prompt is prefilled at a time, a
chunk per step while the others go on decoding; short ones share a chunk.

A request holds pages for what it has and a piece more, not for all it may become. It
starts when the pool has that and a piece for everyone running. When the pool is empty
nevertheless, the youngest is preempted: it gives its pages up, waits in front of those
who came later, and is computed again, as far as the cache has forgotten it. The oldest
always goes on, since every request fits into an empty pool.

While nobody can start, decode steps run ahead of the host by one (`decode_step`).
"""

from functools import partial
from typing import Final, Literal

from neuron.engines.base import (
    EngineError,
    EngineEvent,
    Failed,
    Finished,
    PrefillProgress,
    Started,
    TokenEvent,
)
from neuron.engines.exllamav2.decode_step import DecodeStep
from neuron.engines.exllamav2.failures import NotFiniteError, interrupted
from neuron.engines.exllamav2.generator import PagedGenerator
from neuron.engines.exllamav2.prompt_scores import score_prompt
from neuron.engines.exllamav2.roster import Roster
from neuron.engines.exllamav2.sampling.batch import Sampled
from neuron.engines.exllamav2.sampling.choosing import Chooser
from neuron.engines.exllamav2.sequence import Sequence
from neuron.engines.exllamav2.speculation.speculator import Speculator
from neuron.engines.exllamav2.speculation.verification import verify
from neuron.engines.exllamav2.vision.eyes import Eyes

_LEAST_COST: Final = 256
"""Tokens that a prefill counts for at least: a short one costs its launches."""


class Scheduler:
    """The requests of one loaded model."""

    def __init__(
        self,
        generator: PagedGenerator,
        chooser: Chooser,
        speculator: Speculator,
        slots: int,
        chunk: int,
        eyes: Eyes | None = None,
        *,
        runs_ahead: bool = False,
    ) -> None:
        """
        Args:
            generator: computes; its chunk is what an idle engine prefills at once.
            chooser: samples.
            speculator: guesses.
            slots: requests that may run at a time.
            chunk: prompt tokens of a step in which others decode.
            eyes: look at images; None where no request has any.
            runs_ahead: whether a decode step may be launched before the one before it
                is over; without guesses only.
        """
        self._eyes = eyes
        self._generator = generator
        self._chooser = chooser
        self._speculator = speculator
        self._roster = Roster(slots)
        self._longest_chunk: int = generator.max_chunk_size
        self._chunk = min(chunk, self._longest_chunk)
        self._runs_ahead = runs_ahead
        self._launched: DecodeStep | None = None
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.preemptions = 0
        self.accepted_draft_tokens = 0
        self.rejected_draft_tokens = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a request that fits; its id must be new."""
        self._roster.waiting.append(sequence)

    def remove(self, request_id: str) -> None:
        """Forget a request wherever it is; unknown ones are none."""
        sequence = self._roster.find(request_id)
        if sequence is not None:
            self._roster.drop(sequence)

    def knows(self, request_id: str) -> bool:
        return self._roster.find(request_id) is not None

    @property
    def running(self) -> int:
        return len(self._roster.running)

    @property
    def waiting(self) -> int:
        return len(self._roster.waiting)

    def step(self, events: list[EngineEvent]) -> None:
        """A chunk of prompt tokens, then a token for everyone who is prefilled.

        No chunk where a decode step was launched ahead: its tokens come first.
        """
        if self._launched is None:
            self._prefill(events)
        self._decode(events)

    def restart(
        self,
        generator: PagedGenerator,
        error: BaseException,
        events: list[EngineEvent],
    ) -> None:
        """Go on with a new generator after the old one failed in a step.

        Who has no output yet is queued again, once; the other running ones fail.
        """
        self._generator, self._launched = generator, None
        again = []
        for sequence in self._roster.stop():
            if sequence.generated or sequence.retried:
                sequence.close()
                events.append(Failed(sequence.request.id, interrupted(error)))
            else:
                sequence.retried = True
                again.append(sequence)
        self._roster.waiting.extendleft(reversed(again))

    def close(self) -> None:
        """Forget everyone."""
        for sequence in self._roster.everyone:
            self._roster.drop(sequence)

    # Prefill.

    def _prefill(self, events: list[EngineEvent]) -> None:
        budget = self._chunk if self._roster.decoding else self._longest_chunk
        while budget >= self._generator.page_size:
            sequence = self._roster.prefilling or self._start_next()
            if sequence is None:
                return
            budget -= self._prefill_some(sequence, budget, events)

    def _start_next(self) -> Sequence | None:
        """Who starts, with a slot and pages, if there are any."""
        sequence = self._roster.next
        if sequence is None:
            return None
        job = sequence.prepare(self._generator)
        spare = sum(running.may_take for running in self._roster.decoding)
        if job.current_new_pages_required() + spare > self._generator.pages_free:
            return None
        self._roster.start()
        job.allocate_pages()
        if sequence.constrained is not None:
            sequence.constrained.prepare()
        return sequence

    def _prefill_some(
        self, sequence: Sequence, budget: int, events: list[EngineEvent]
    ) -> int:
        """Compute at most `budget` of its tokens; returns what that cost, in tokens."""
        job, cost = sequence.run, 0
        if not job.is_prefill_done():
            try:
                if self._look(sequence):
                    return budget
                cost = max(_LEAST_COST, self._compute(sequence, budget, events))
            except EngineError as error:
                self._fail(sequence, error, events)
                return budget
        self._announce(sequence, events)
        done = sequence.prompt_tokens
        if not job.is_prefill_done():
            done = min(done, job.computed)
        if done > sequence.prefilled:
            sequence.prefilled = done
            events.append(
                PrefillProgress(sequence.request.id, done, sequence.prompt_tokens)
            )
        if job.is_prefill_done():
            self._roster.decode()
            sequence.forget_images()
            if not sequence.request.max_new_tokens:
                self._finish(sequence, "length", events)
        return cost

    def _look(self, sequence: Sequence) -> bool:
        """Look at its images, at one new one at most: others decode in between.

        Returns:
            Whether there was a new one.

        Raises:
            EngineError: one cannot be looked at.
        """
        if self._eyes is None:
            return False
        unseen = (image for image in sequence.images if image.embeddings is None)
        return any(map(self._eyes.look, unseen))

    def _compute(
        self, sequence: Sequence, budget: int, events: list[EngineEvent]
    ) -> int:
        """As far as `budget` goes; returns how many tokens that was.

        Raises:
            EngineError: what its prompt gives is not finite.
        """
        if not sequence.scores_prompt:
            size = self._generator.page_size
            return self._generator.prefill(sequence.run, budget // size * size)
        self._announce(sequence, events)
        start = sequence.run.computed
        scores = score_prompt(self._generator, sequence, budget)
        if scores is not None:
            events.append(scores)
        return sequence.run.computed - start

    def _announce(self, sequence: Sequence, events: list[EngineEvent]) -> None:
        """Say that it has started, and with how much out of the cache."""
        if sequence.started:
            return
        sequence.started = True
        reused = sequence.run.reused
        self.prompt_tokens += sequence.prompt_tokens
        self.cached_tokens += reused
        events.append(Started(sequence.request.id, reused))

    # Decode.

    def _decode(self, events: list[EngineEvent]) -> None:
        step, self._launched = self._launched, None
        if step is None:
            self._make_room()
            batch = list(self._roster.decoding)
            if not batch:
                return
            drafts = self._speculator.propose(self._generator, batch)
            if any(drafts):
                self._check(batch, drafts, events)
                return
            step = DecodeStep.launch(self._generator, self._chooser, batch)
        self._finish_step(step, events)

    def _finish_step(self, step: DecodeStep, events: list[EngineEvent]) -> None:
        """Take its tokens, while the device is at the next step if it can be."""
        launched = None
        if (
            self._runs_ahead
            and not self._roster.next
            and not self._roster.prefilling
            and step.concerns.issuperset(self._roster.decoding)
        ):
            launched = step.launch_next(self._generator, self._chooser)
        for sequence, choice in step.results():
            self._take(sequence, choice, events)
            if launched and isinstance(choice, Sampled) and not choice.is_early:
                launched.forget(sequence)
        if launched is not None and launched.concerns:
            self._launched = launched

    def _check(
        self,
        batch: list[Sequence],
        drafts: list[list[int]],
        events: list[EngineEvent],
    ) -> None:
        """A decode step with guesses."""
        logits = self._generator.decode(
            [sequence.run for sequence in batch],
            [[s.tokens[-1], *draft] for s, draft in zip(batch, drafts, strict=True)],
        )
        take = partial(self._take, events=events, speculates=True)
        accepted = verify(self._chooser, logits, batch, drafts, take)
        self.accepted_draft_tokens += accepted
        self.rejected_draft_tokens += sum(map(len, drafts)) - accepted

    def _take(
        self,
        sequence: Sequence,
        choice: Sampled | EngineError,
        events: list[EngineEvent],
        *,
        speculates: bool = False,
    ) -> bool:
        """Its last token is computed, and this is the next; whether it goes on."""
        if speculates and isinstance(choice, NotFiniteError):
            # A guess may have done that, and it takes but one in the batch.
            self._generator.wipe_guesses(sequence.run)
            self._speculator.pause()
            return False
        sequence.run.advance(sequence.tokens[-1:])
        try:
            if isinstance(choice, EngineError):
                raise choice
            return self._accept(sequence, choice, events)
        except EngineError as error:
            self._fail(sequence, error, events)
            return False

    def _make_room(self) -> None:
        """A page for everyone's next token, at the cost of the youngest."""
        for sequence in list(self._roster.decoding):
            while sequence in self._roster.decoding and not sequence.room:
                pages = min(sequence.may_take, self._generator.pages_free)
                if pages:
                    sequence.run.grow(pages)
                else:
                    self._roster.preempt(self._roster.running[-1])
                    self.preemptions += 1

    def _accept(
        self, sequence: Sequence, choice: Sampled, events: list[EngineEvent]
    ) -> bool:
        """That is its next token; whether it is not its last.

        Raises:
            EngineError: its constraint failed.
        """
        request, constrained = sequence.request, sequence.constrained
        token = choice.token_id
        is_last = token in request.stop_ids
        if constrained is not None and not is_last:
            is_last = constrained.accept(token)
            if constrained.is_free:
                sequence.constrained = None
        sequence.tokens.append(token)
        self.generated_tokens += 1
        events.append(TokenEvent(request.id, token, choice.logprobs))
        if is_last or sequence.generated >= request.max_new_tokens:
            self._finish(sequence, "stop" if is_last else "length", events)
            return False
        if sequence.constrained is not None:
            sequence.constrained.prepare()
        return True

    # Ends.

    def _finish(
        self,
        sequence: Sequence,
        reason: Literal["stop", "length"],
        events: list[EngineEvent],
    ) -> None:
        self._roster.drop(sequence)
        events.append(Finished(sequence.request.id, reason))

    def _fail(
        self, sequence: Sequence, error: EngineError, events: list[EngineEvent]
    ) -> None:
        if isinstance(error, NotFiniteError):
            self._generator.wipe(sequence.run.give_back(keep=False))
        self._roster.drop(sequence)
        events.append(Failed(sequence.request.id, error))
