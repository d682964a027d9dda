"""Who guesses what sequences say next."""

from collections.abc import Sequence as Batch
from typing import Protocol
from weakref import WeakKeyDictionary

from neuron.engines.exllamav2.generator import PagedGenerator
from neuron.engines.exllamav2.sequence import Sequence
from neuron.engines.exllamav2.speculation.history import History


class Proposer(Protocol):
    """Told of every decode step before it is computed."""

    def propose(
        self, generator: PagedGenerator, batch: Batch[Sequence], counts: Batch[int]
    ) -> list[list[int]]:
        """Tokens that may follow each sequence: as many as `counts` says, or fewer."""

    def skip(self, generator: PagedGenerator, batch: Batch[Sequence]) -> None:
        """Nothing is to be guessed for these."""


class NgramProposer:
    """Guesses that a request repeats itself."""

    def __init__(self) -> None:
        self._histories: WeakKeyDictionary[Sequence, History] = WeakKeyDictionary()

    def propose(
        self, generator: PagedGenerator, batch: Batch[Sequence], counts: Batch[int]
    ) -> list[list[int]]:
        pairs = zip(batch, counts, strict=True)
        return [self._guess(sequence, count) if count else []
                for sequence, count in pairs]  # fmt: skip

    def skip(self, generator: PagedGenerator, batch: Batch[Sequence]) -> None:
        pass

    def _guess(self, sequence: Sequence, count: int) -> list[int]:
        history = self._histories.setdefault(sequence, History())
        history.update(sequence.tokens)
        return history.continuation(count)
