"""A decode step that is launched and not waited for, and the one behind it.

While the device computes a step the host has nothing to do; while the host takes its
tokens, tells them and launches the next one, the device has nothing to do. So the next
step is launched behind the one that runs, on tokens that only the device knows. What
it computes for a sequence that turns out to be over, or to have another token, is
thrown away: it is written behind all that counts.
"""

from collections.abc import Iterator, Sequence as Batch
from dataclasses import dataclass, field

import torch

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.generator import PagedGenerator
from neuron.engines.exllamav2.job import PagedJob
from neuron.engines.exllamav2.sampling.batch import Sampled
from neuron.engines.exllamav2.sampling.choosing import Choices, Chooser, Place
from neuron.engines.exllamav2.sampling.transfer import upload
from neuron.engines.exllamav2.sequence import Sequence


@dataclass(slots=True)
class DecodeStep:
    """One token for each of some sequences, on its way."""

    batch: Batch[Sequence]
    jobs: Batch[PagedJob]
    choices: Choices
    _void: set[Sequence] = field(default_factory=set)

    @classmethod
    def launch(
        cls, generator: PagedGenerator, chooser: Chooser, batch: Batch[Sequence]
    ) -> "DecodeStep":
        """Behind each sequence's last token, which has room."""
        jobs = [sequence.run for sequence in batch]
        logits = generator.decode(jobs, [sequence.tokens[-1:] for sequence in batch])
        choices = chooser.begin(logits[:, 0], [Place(sequence) for sequence in batch])
        return cls(batch, jobs, choices)

    def launch_next(
        self, generator: PagedGenerator, chooser: Chooser
    ) -> "DecodeStep | None":
        """The step behind this one, for whoever goes on as far as can be known.

        None where nobody does, or the host is needed in between.
        """
        rows = [
            row
            for row, sequence in enumerate(self.batch)
            if self._is_live(row) and not _is_last(sequence)
        ]
        batch = [self.batch[row] for row in rows]
        if not batch or not all(_can_go_on(generator, each) for each in batch):
            return None
        tokens = self.choices.sampling.tokens
        if len(rows) < len(tokens):
            tokens = tokens[upload(rows, torch.int64, tokens.device)]
        jobs = [self.jobs[row] for row in rows]
        logits = generator.decode_behind(jobs, tokens)
        places = [
            Place(sequence, last=last)
            for sequence, last in zip(batch, tokens.split(1), strict=True)
        ]
        return DecodeStep(batch, jobs, chooser.begin(logits[:, 0], places))

    def results(self) -> Iterator[tuple[Sequence, Sampled | EngineError]]:
        """Waits; what is chosen for each sequence that still is what it was."""
        for row, choice in enumerate(self.choices.wait()):
            if self._is_live(row):
                yield self.batch[row], choice

    def forget(self, sequence: Sequence) -> None:
        """It has another token than the device took for its last."""
        self._void.add(sequence)

    @property
    def concerns(self) -> set[Sequence]:
        """Whose results still matter."""
        return {s for row, s in enumerate(self.batch) if self._is_live(row)}

    def _is_live(self, row: int) -> bool:
        sequence = self.batch[row]
        return sequence.job is self.jobs[row] and sequence not in self._void


def _is_last(sequence: Sequence) -> bool:
    """Whether the token that is on its way is the last that it may have."""
    return sequence.generated + 1 >= sequence.request.max_new_tokens


def _can_go_on(generator: PagedGenerator, sequence: Sequence) -> bool:
    """Whether its next token can be chosen without the host, and has a place.

    Takes a free page for it, from nobody.
    """
    if sequence.constrained is not None or sequence.run.turned_back:
        return False
    if sequence.room < 2 and sequence.may_take and generator.pages_free:
        sequence.run.grow(1)
    return sequence.room >= 2
