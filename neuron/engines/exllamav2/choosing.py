"""Everyone's next token, from one batch of logits."""

from collections.abc import Sequence as Batch
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.engines.base import EngineError, SamplingParams
from neuron.engines.exllamav2.failures import NotFiniteError
from neuron.engines.exllamav2.sampling import BatchSampler, RowSampling, Sampled
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


class Chooser:
    """Samples for the sequences of a batch, each as its request says."""

    def __init__(self, vocab: int, *, on_device: bool) -> None:
        """`on_device` samples where the logits are, else on the CPU."""
        self._sampler = BatchSampler(vocab)
        self._on_device = on_device

    def choose(
        self, logits: Any, batch: Batch[Sequence]
    ) -> list[Sampled | EngineError]:
        """The next token of each, or why that one has none.

        Args:
            logits: [batch, padded vocab], on any device.
            batch: in the order of the rows.
        """
        if not self._on_device:
            logits = logits.float().cpu()
        problems: dict[int, EngineError] = {}
        rows = []
        for index, sequence in enumerate(batch):
            try:
                rows.append(_row(sequence))
            except EngineError as error:
                problems[index] = error
                rows.append(_UNUSED)
        sampled = self._sampler.sample(logits, rows)
        for index, choice in enumerate(sampled):
            if not choice.is_finite and index not in problems:
                problems[index] = _problem(logits[index])
        return [problems.get(index, choice) for index, choice in enumerate(sampled)]


def _problem(logits: Any) -> EngineError:
    """Why nothing could be chosen from logits [padded vocab]."""
    if not logits.amax().isfinite():
        return NotFiniteError()
    return EngineError("no token is left that may come next", code="sampling_failed")


def _row(sequence: Sequence) -> RowSampling:
    """
    Raises:
        EngineError: the request's constraint failed, or leaves nothing.
    """
    request = sequence.request
    mask, blocked = None, frozenset[int]()
    if sequence.constrained is not None:
        allowed = sequence.constrained.allowed(may_stop=not sequence.must_go_on)
        mask = _packed(allowed)
    elif sequence.must_go_on:
        blocked = request.stop_ids
    penalized = _is_penalized(request.sampling)
    return RowSampling(
        params=request.sampling,
        uniform=sequence.uniforms.at(sequence.generated),
        prompt_ids=request.prompt_ids if penalized else (),
        output_ids=sequence.tokens[sequence.prompt_tokens :] if penalized else (),
        mask=mask,
        blocked=blocked,
        top_logprobs=request.top_logprobs,
    )


def _is_penalized(params: SamplingParams) -> bool:
    """Whether the tokens so far matter for the next one."""
    return (
        params.repetition_penalty != 1
        or params.frequency_penalty != 0
        or params.presence_penalty != 0
    )


def _packed(allowed: NDArray[np.bool_]) -> NDArray[np.int32]:
    """32 tokens a word, the lowest first."""
    bits = np.packbits(allowed, bitorder="little")
    words = np.zeros(-(-len(bits) // 4) * 4, np.uint8)
    words[: len(bits)] = bits
    return words.view(np.int32)
