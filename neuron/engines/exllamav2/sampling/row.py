"""What one row of logits is sampled for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuron.engines.base import SamplingParams, TokenLogprobs


@dataclass(frozen=True, slots=True)
class RowSampling:
    """How the next token of one sequence is chosen."""

    params: SamplingParams
    uniform: float
    """The random number that chooses, in [0, 1)."""
    prompt_ids: Sequence[int] | torch.Tensor
    """Looked at for a repetition penalty only. Uploaded at every step, unless it is a
    tensor where the logits are."""
    output_ids: Sequence[int]
    """Looked at for penalties only."""
    mask: NDArray[np.int32] | None
    """Bits of the tokens that may come, token 0 the lowest of the first word; at least
    as many as the model has tokens."""
    blocked: frozenset[int]
    """Tokens that may not come. They do not count where there is a mask."""
    top_logprobs: int | None
    """None: no log-probabilities; n: the chosen token's, and the n likeliest."""
    last: torch.Tensor | None = None
    """int64 [1]: the output's last token behind `output_ids`, where only the device
    knows it."""

    @property
    def is_adjusted(self) -> bool:
        """Whether the logits are changed before a token is chosen."""
        params = self.params
        return (
            self.mask is not None
            or bool(self.blocked)
            or bool(params.logit_bias)
            or params.repetition_penalty != 1
            or params.frequency_penalty != 0
            or params.presence_penalty != 0
        )


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of one sequence."""

    token_id: int
    logprobs: TokenLogprobs | None
    """Of the model itself: temperature 1, before penalties and masks."""
    is_finite: bool = True
    """False: the logits hold a NaN or an infinity above all."""
    is_possible: bool = True
    """False: they do, or nothing may come; the token means nothing then, and the other
    rows are as they would be without it."""
    is_early: bool = True
    """False: the device had chosen another one first; see `Sampling.tokens`."""
