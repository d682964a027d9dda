"""Everyone's next token, from one batch of logits."""

from collections.abc import Mapping, Sequence as Batch
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from neuron.engines.base import EngineError, SamplingParams
from neuron.engines.exllamav2.failures import NotFiniteError
from neuron.engines.exllamav2.sampling.batch import (
    BatchSampler,
    RowSampling,
    Sampled,
    Sampling,
)
from neuron.engines.exllamav2.sampling.transfer import upload
from neuron.engines.exllamav2.sequence import Sequence

_UNUSED: Final = RowSampling(
    params=SamplingParams(temperature=0),
    uniform=0.0,
    prompt_ids=(),
    output_ids=(),
    mask=None,
    blocked=frozenset(),
    top_logprobs=None,
)
"""Of a row whose choice is thrown away."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a token is to be chosen: behind a sequence, and behind guesses at it."""

    sequence: Sequence
    ahead: Batch[int] = ()
    """Tokens that are taken to be the sequence's next."""
    last: torch.Tensor | None = None
    """int64 [1]: one more behind those, which only the device knows."""

    @property
    def generated(self) -> int:
        known = self.sequence.generated + len(self.ahead)
        return known + (self.last is not None)

    @property
    def must_go_on(self) -> bool:
        """Whether stop ids are still forbidden."""
        return self.generated < self.sequence.request.min_new_tokens


class Chooser:
    """Samples at some places, at each as its request says."""

    def __init__(self, vocab: int, *, on_device: bool) -> None:
        """`on_device` samples where the logits are, else on the CPU."""
        self._sampler = BatchSampler(vocab)
        self._on_device = on_device

    def choose(
        self, logits: torch.Tensor, places: Batch[Place]
    ) -> list[Sampled | EngineError]:
        """The token at each place, or why there is none.

        Args:
            logits: [places, padded vocab], on any device.
            places: in the order of the rows.
        """
        return self.begin(logits, places).wait()

    def begin(self, logits: torch.Tensor, places: Batch[Place]) -> "Choices":
        """As `choose`, not waiting for a device that samples; logits are not looked at
        again."""
        if not self._on_device:
            logits = logits.float().cpu()
        problems: dict[int, EngineError] = {}
        rows = []
        for index, place in enumerate(places):
            try:
                rows.append(_row(place, logits.device))
            except EngineError as error:
                problems[index] = error
                rows.append(_UNUSED)
        return Choices(self._sampler.begin(logits, rows), problems)


@dataclass(frozen=True, slots=True)
class Choices:
    """Everyone's next tokens, on their way."""

    sampling: Sampling
    problems: Mapping[int, EngineError]
    """What is known already to have none."""

    def wait(self) -> list[Sampled | EngineError]:
        """The token at each place, or why there is none."""
        return [
            self.problems.get(index) or _problem(choice) or choice
            for index, choice in enumerate(self.sampling.wait())
        ]


def _problem(choice: Sampled) -> EngineError | None:
    """Why it is no token, if it is none."""
    if not choice.is_finite:
        return NotFiniteError()
    if not choice.is_possible:
        return EngineError(
            "no token is left that may come next", code="sampling_failed"
        )
    return None


def _row(place: Place, device: torch.device) -> RowSampling:
    """What to sample there, with logits on that device.

    Raises:
        EngineError: the request's constraint failed, or leaves nothing.
    """
    sequence = place.sequence
    request = sequence.request
    mask, blocked = None, frozenset[int]()
    if sequence.constrained is not None:
        allowed = sequence.constrained.allowed(may_stop=not place.must_go_on)
        mask = _packed(allowed)
    elif place.must_go_on:
        blocked = request.stop_ids
    penalty = request.sampling.repetition_penalty != 1
    return RowSampling(
        params=request.sampling,
        uniform=sequence.uniforms.at(place.generated),
        prompt_ids=_distinct_prompt(sequence, device) if penalty else (),
        output_ids=_output(place),
        mask=mask,
        blocked=blocked,
        top_logprobs=request.top_logprobs,
        last=place.last,
    )


def _distinct_prompt(sequence: Sequence, device: torch.device) -> torch.Tensor:
    if sequence.distinct_prompt is None:
        ids = sorted(set(sequence.request.prompt_ids))
        sequence.distinct_prompt = upload(ids, torch.int64, device)
    return sequence.distinct_prompt


def _output(place: Place) -> list[int]:
    """The known tokens before it, if they matter for the one there."""
    sequence = place.sequence
    params = sequence.request.sampling
    if (
        params.repetition_penalty == 1
        and params.frequency_penalty == 0
        and params.presence_penalty == 0
    ):
        return []
    return [*sequence.tokens[sequence.prompt_tokens :], *place.ahead]


def _packed(allowed: NDArray[np.bool_]) -> NDArray[np.int32]:
    """32 tokens a word, the lowest first."""
    bits = np.packbits(allowed, bitorder="little")
    words = np.zeros(-(-len(bits) // 4) * 4, np.uint8)
    words[: len(bits)] = bits
    return words.view(np.int32)
