"""Whether to guess in a step, for whom and how far."""

from collections.abc import Sequence as Batch

from neuron.engines.exllamav2.generator import PagedGenerator
from neuron.engines.exllamav2.sequence import Sequence
from neuron.engines.exllamav2.speculation.proposer import Proposer


class Speculator:
    """Guesses what is cheap to check and can be kept if it comes true."""

    def __init__(self, proposer: Proposer | None, tokens: int, up_to: int) -> None:
        """
        Args:
            proposer: guesses; None where nobody does.
            tokens: guesses for one sequence in one step, at most.
            up_to: sequences of a batch for which checking costs less than it gives.
        """
        self._proposer = proposer
        self._tokens = tokens
        self._up_to = up_to
        self._paused = False

    def pause(self) -> None:
        """Guess nothing in the next step."""
        self._paused = True

    def propose(
        self, generator: PagedGenerator, batch: Batch[Sequence]
    ) -> list[list[int]]:
        """Tokens that may follow each sequence, and have pages."""
        proposer, paused = self._proposer, self._paused
        self._paused = False
        if proposer is None:
            return [[] for _ in batch]
        if not paused and self._can_check(generator, batch):
            counts = [self._most(generator, sequence) for sequence in batch]
            if any(counts):
                return proposer.propose(generator, batch, counts)
        proposer.skip(generator, batch)
        return [[] for _ in batch]

    def _can_check(self, generator: PagedGenerator, batch: Batch[Sequence]) -> bool:
        """Whether a pass of the whole batch may go so far.

        It goes equally far for everyone, and there are no positions beyond the model's
        longest sequence.
        """
        furthest = max(sequence.run.computed for sequence in batch)
        within = furthest + 1 + self._tokens <= generator.max_seq_len
        return len(batch) <= self._up_to and within

    def _most(self, generator: PagedGenerator, sequence: Sequence) -> int:
        """How many guesses it can have; takes free pages for them, from nobody."""
        if sequence.images:
            return 0  # their tokens are nobody else's
        left = sequence.request.max_new_tokens - sequence.generated
        wanted = min(self._tokens, left - 1)
        while sequence.room <= wanted and sequence.may_take and generator.pages_free:
            sequence.run.grow(1)
        return min(wanted, sequence.room - 1)
