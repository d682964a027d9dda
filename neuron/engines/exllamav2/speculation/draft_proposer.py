"""A smaller model guesses, greedily, for all sequences at once.

It has a cache of its own on the model's page table. The generator's prefill goes
through both models, so that what is found in the cache is there for both. Tokens of a
decode step are only computed by the draft when it guesses: whoever it falls behind is
made up for in one pass. A token that it misses makes its guesses worse and no output
wrong.
"""

from collections.abc import Sequence as Batch
from typing import Final
from weakref import WeakKeyDictionary

import torch

from neuron.engines.exllamav2.generator import PagedGenerator
from neuron.engines.exllamav2.job import PagedJob
from neuron.engines.exllamav2.sequence import Sequence

FAR_BEHIND: Final = 128
"""Tokens that the draft lets pass, at most, while nothing is guessed: a pass computes
them at the cost of one, and who finds them in the cache later misses few."""
DRAFT_PASSES: Final = (2, 1)
"""Tokens of each sequence in the first pass of a step, and in those that follow."""


class DraftProposer:
    """Drives the generator's draft model."""

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[PagedJob, int] = WeakKeyDictionary()
        """Of each job's tokens, how many the draft has in its cache."""

    def propose(
        self, generator: PagedGenerator, batch: Batch[Sequence], counts: Batch[int]
    ) -> list[list[int]]:
        chosen = [
            index
            for index, (sequence, count) in enumerate(zip(batch, counts, strict=True))
            if count and sequence.run.computed
        ]
        self.skip(generator, [s for i, s in enumerate(batch) if i not in chosen])
        drafts: list[list[int]] = [[] for _ in batch]
        if chosen:
            guesses = self._guess(
                generator,
                [batch[index] for index in chosen],
                max(counts[index] for index in chosen),
            )
            for index, guess in zip(chosen, guesses, strict=True):
                drafts[index] = guess[: counts[index]]
        return drafts

    def skip(self, generator: PagedGenerator, batch: Batch[Sequence]) -> None:
        for sequence in batch:
            job = sequence.run
            if job.computed - self._seen_of(job) >= FAR_BEHIND:
                self._catch_up(generator, sequence, job.computed)

    def _guess(
        self, generator: PagedGenerator, batch: Batch[Sequence], count: int
    ) -> list[list[int]]:
        """`count` tokens for each; all have two tokens already."""
        jobs = [sequence.run for sequence in batch]
        for sequence, job in zip(batch, jobs, strict=True):
            self._catch_up(generator, sequence, job.computed - 1)
            self._seen[job] = job.computed + count
        # The last but one again: the draft has not seen it where it was its own last
        # guess, and came true.
        first, _ = DRAFT_PASSES
        ids = torch.tensor([sequence.tokens[-first:] for sequence in batch])
        lengths = torch.tensor([job.computed - 1 for job in jobs], dtype=torch.int32)
        guesses = []
        for _ in range(count):
            logits = generator.draft(jobs, ids, lengths)
            lengths = lengths + ids.shape[1]
            # It stays where it is: the next pass does not wait for the host.
            ids = logits[:, -1:].argmax(-1)
            guesses.append(ids)
        found: list[list[int]] = torch.cat(guesses, 1).tolist()
        return found

    def _catch_up(
        self, generator: PagedGenerator, sequence: Sequence, end: int
    ) -> None:
        """Let the draft compute what it lacks of the first `end` tokens."""
        job = sequence.run
        seen = self._seen_of(job)
        if seen < end:
            generator.draft_prompt(job, sequence.tokens[seen:end], seen)
            self._seen[job] = end

    def _seen_of(self, job: PagedJob) -> int:
        """A new job's tokens went through both models. Guesses that did not come true
        count no more."""
        seen = min(self._seen.get(job, job.computed), job.computed)
        self._seen[job] = seen
        return seen
