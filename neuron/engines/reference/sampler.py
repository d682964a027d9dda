"""Choosing the next token of one sequence from its logits.

Every sequence has a generator of its own (Philox, keyed by the seed) and takes exactly
one number from it per sampled token, so that neither the batch nor anything else it
goes through changes its output.
"""

import secrets
from typing import Final

import numpy as np
from numpy.typing import NDArray

from neuron.engines.base import (
    EngineError,
    GenerationRequest,
    SamplingParams,
    TokenLogprobs,
)
from neuron.engines.reference.tiles import Floats

Ids = NDArray[np.intp]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FIRST_GUESS: Final = 256
"""Tokens that usually hold the share `top_p` asks for."""


class Sampler:
    """The choices of one request; `sample` once per token."""

    def __init__(self, request: GenerationRequest) -> None:
        self._params = request.sampling
        self._min_new_tokens = request.min_new_tokens
        self._top_logprobs = request.top_logprobs
        self._stop_ids = np.array(sorted(request.stop_ids), np.intp)
        self._bias_ids = np.array([*request.sampling.logit_bias], np.intp)
        self._bias = np.array([*request.sampling.logit_bias.values()], np.float64)
        self._counts: dict[int, int] = {}
        """How often each token is in the output."""
        self._seen = set(request.prompt_ids)
        seed = request.sampling.seed
        key = secrets.randbits(64) if seed is None else seed % (1 << 64)
        self._random = np.random.Generator(np.random.Philox(key=key))
        self._generated = 0

    def sample(
        self, logits: Floats, likeliest: int, allowed: Mask | None = None
    ) -> tuple[int, TokenLogprobs | None]:
        """The next token, counted as part of the output from now on.

        Args:
            logits: [vocab], finite; left as they are.
            likeliest: where they are largest, the lowest id among equals.
            allowed: [vocab], at least one; has the last word on stop ids, too.

        Raises:
            EngineError: no token is left to choose.
        """
        if self._is_plain_greedy and (allowed is None or allowed[likeliest]):
            token = likeliest
        else:
            adjusted = self._adjusted(logits)
            if allowed is not None:
                adjusted[~allowed] = -np.inf
            elif self.must_go_on:
                adjusted[self._stop_ids] = -np.inf
            token = self._choose(adjusted)
        logprobs = None
        if self._top_logprobs is not None:
            logprobs = log_probabilities(logits, token, self._top_logprobs)
        self._counts[token] = self._counts.get(token, 0) + 1
        self._seen.add(token)
        self._generated += 1
        return token, logprobs

    @property
    def must_go_on(self) -> bool:
        """Whether stop ids are still forbidden."""
        return self._generated < self._min_new_tokens

    @property
    def _is_plain_greedy(self) -> bool:
        params = self._params
        return (
            params.temperature == 0
            and not len(self._bias_ids)
            and not self.must_go_on
            and params.repetition_penalty == 1
            and params.frequency_penalty == 0
            and params.presence_penalty == 0
        )

    def _adjusted(self, logits: Floats) -> Doubles:
        """After logit_bias and penalties."""
        params = self._params
        adjusted = logits.astype(np.float64)
        adjusted[self._bias_ids] += self._bias
        if params.repetition_penalty != 1:
            seen = np.fromiter(self._seen, np.intp, len(self._seen))
            values = adjusted[seen]
            penalty = params.repetition_penalty
            adjusted[seen] = np.where(values > 0, values / penalty, values * penalty)
        if self._counts and (params.frequency_penalty or params.presence_penalty):
            ids = np.fromiter(self._counts, np.intp, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float64, len(ids))
            adjusted[ids] -= params.frequency_penalty * counts + params.presence_penalty
        return adjusted

    def _choose(self, adjusted: Doubles) -> int:
        token = int(adjusted.argmax())
        if self._params.temperature > 0 and adjusted[token] > -np.inf:
            token = self._drawn(adjusted)
        if not adjusted[token] > -np.inf:
            raise EngineError(
                "no token is left that may come next", code="sampling_failed"
            )
        return token

    def _drawn(self, adjusted: Doubles) -> int:
        draw = float(self._random.random())
        ids, weights = candidates(adjusted, self._params)
        sums = np.cumsum(weights)
        last = np.searchsorted(sums, sums[-1])  # that has any weight
        index = np.searchsorted(sums, draw * sums[-1], side="right")
        return int(ids[min(index, last)])


def candidates(adjusted: Doubles, params: SamplingParams) -> tuple[Ids, Doubles]:
    """Tokens left by temperature, top_k, top_p and min_p, and their weights.

    Likeliest first, equals by lowest id; in id order where only min_p cuts. Each filter
    keeps a prefix of the former order, so the shortest prefix is kept by all.
    """
    with np.errstate(over="ignore"):  # a temperature near 0 leaves one token
        scaled = (adjusted - adjusted.max()) / params.temperature
    if 0 < params.top_k < len(scaled):
        ids = _largest(scaled, params.top_k)
        weights = np.exp(scaled[ids])
        whole = weights.sum()
    else:
        weights = np.exp(scaled)
        if params.top_p == 1:
            likely = np.flatnonzero(weights >= params.min_p)
            return likely, weights[likely]
        whole = weights.sum()
        ids = _enough(weights, params.top_p * whole)
        weights = weights[ids]
    kept = len(ids)
    if params.top_p < 1:
        sums = np.cumsum(weights)
        kept = min(kept, int(np.searchsorted(sums, params.top_p * whole)) + 1)
    if params.min_p > 0:
        kept = min(kept, int(np.count_nonzero(weights >= params.min_p)))
    return ids[:kept], weights[:kept]


def log_probabilities(logits: Floats, chosen: int, top: int) -> TokenLogprobs:
    """Of the model itself: at temperature 1, nothing added or taken away."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    likeliest = _largest(shifted, min(top, len(shifted))).tolist() if top else ()
    return TokenLogprobs(
        float(shifted[chosen]), tuple((i, float(shifted[i])) for i in likeliest)
    )


def _largest(values: Doubles, count: int) -> Ids:
    """Ids of the `count` largest, largest first, equals by lowest id."""
    if count < len(values):
        smallest_kept = np.partition(values, len(values) - count)[-count]
        above = np.flatnonzero(values > smallest_kept)
        equal = np.flatnonzero(values == smallest_kept)[: count - len(above)]
        ids: Ids = np.sort(np.concatenate([above, equal]))
    else:
        ids = np.arange(len(values))
    order: Ids = ids[np.argsort(-values[ids], kind="stable")]
    return order


def _enough(weights: Doubles, wanted: float) -> Ids:
    """The largest, in order: so many that they add up to `wanted`, and some more."""
    count = _FIRST_GUESS
    while count < len(weights):
        ids = _largest(weights, count)
        if weights[ids].sum() >= wanted:
            return ids
        count *= 8
    return _largest(weights, len(weights))
