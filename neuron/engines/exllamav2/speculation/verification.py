"""Which guesses come true.

Every position of a pass is sampled as if it were the only one: with the logits after
the guesses before it, and with the random number, penalties and constraint that it
would have without any guess. As long as that gives the guess, the next position stands.
So the output is what it is without speculation, token for token.
"""

from collections.abc import Callable, Iterable, Sequence as Batch
from dataclasses import dataclass
from itertools import chain

import torch

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.sampling.batch import Sampled
from neuron.engines.exllamav2.sampling.choosing import Chooser, Place
from neuron.engines.exllamav2.sampling.transfer import upload
from neuron.engines.exllamav2.sequence import Sequence

Take = Callable[[Sequence, Sampled | EngineError], bool]
"""Gives a sequence its next token, or what happened instead; whether it goes on."""


def verify(
    chooser: Chooser,
    logits: torch.Tensor,
    batch: Batch[Sequence],
    drafts: Batch[list[int]],
    take: Take,
) -> int:
    """Choose everyone's next tokens: those guessed right, and one more.

    Args:
        chooser: samples.
        logits: [batch, tokens, padded vocab] after each sequence's last token and the
            tokens of its draft; what is beyond a shorter draft means nothing.
        batch: in the order of the rows.
        drafts: of each sequence.
        take: called for each token, one sequence's in order.

    Returns:
        How many guesses came true.
    """
    every = [_Check(*each) for each in zip(batch, drafts, strict=True)]
    flat, width = logits.flatten(0, 1), logits.shape[1]
    checks = list(enumerate(every))
    while checks:
        places = [check.places() for _, check in checks]
        wanted = [
            row * width + check.right + number
            for (row, check), some in zip(checks, places, strict=True)
            for number in range(len(some))
        ]
        choices = iter(chooser.choose(_picked(flat, wanted), [*chain(*places)]))
        checks = [
            (row, check)
            for (row, check), some in zip(checks, places, strict=True)
            if check.go_on([next(choices) for _ in some], take)
        ]
    return sum(check.right for check in every)


@dataclass(slots=True)
class _Check:
    """How far a sequence has come in a step."""

    sequence: Sequence
    draft: list[int]
    right: int = 0
    """Guesses that came true."""

    def places(self) -> list[Place]:
        """What can be chosen at once: a constraint has to be told of every token before
        it says what may come next."""
        if self.sequence.constrained is not None:
            return [Place(self.sequence)]
        left = self.draft[self.right :]
        return [Place(self.sequence, left[:end]) for end in range(len(left) + 1)]

    def go_on(self, choices: Iterable[Sampled | EngineError], take: Take) -> bool:
        """Take choices as long as they were guessed; whether more can be chosen."""
        for choice in choices:
            guess = self.draft[self.right : self.right + 1]
            is_right = isinstance(choice, Sampled) and guess == [choice.token_id]
            self.right += is_right
            if not take(self.sequence, choice) or not is_right:
                return False
        return True


def _picked(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    if len(rows) == len(logits):
        return logits
    return logits[upload(rows, torch.int64, logits.device)]
