"""The sampler against plain definitions of what each parameter means."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from neuron.engines.base import EngineError, GenerationRequest, SamplingParams
from neuron.engines.reference.sampler import (
    Sampler,
    candidates,
    log_probabilities,
)

VOCAB = 12
LOGITS = np.array([1, 3, -2, 0.5, 3, 2.5, -1, 0, 2, -4, 1.5, -0.5], np.float32)


def sampler(prompt: tuple[int, ...] = (0,), **fields: Any) -> Sampler:
    own = {"min_new_tokens", "stop_ids", "top_logprobs"}
    rest = {key: fields.pop(key) for key in fields.keys() & own}
    return Sampler(
        GenerationRequest("a", prompt, 100, SamplingParams(**fields), **rest)
    )


def draw(sampler: Sampler, logits: NDArray[np.float32]) -> int:
    """The next token."""
    return sampler.sample(logits, int(logits.argmax()))[0]


def plain_distribution(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """Token → probability, step by step as the parameters are documented."""
    scaled = {token: value / params.temperature for token, value in enumerate(logits)}
    order = sorted(scaled, key=lambda token: (-scaled[token], token))
    if params.top_k:
        order = order[: params.top_k]
    weights = {token: math.exp(scaled[token] - max(scaled.values())) for token in order}
    total = sum(weights.values())
    kept, mass = [], 0.0
    for token in order:
        kept.append(token)
        mass += weights[token] / total
        if params.top_p < 1 and mass >= params.top_p:  # 1 keeps all, however rounded
            break
    best = max(weights.values())
    kept = [token for token in kept if weights[token] >= params.min_p * best]
    total = sum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept}


def distribution(
    logits: NDArray[np.floating[Any]], params: SamplingParams
) -> dict[int, float]:
    ids, weights = candidates(logits.astype(np.float64), params)
    assert len(set(ids.tolist())) == len(ids)
    return dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))


def assert_same(found: Mapping[int, float], wanted: Mapping[int, float]) -> None:
    assert found.keys() == wanted.keys()
    for token, probability in wanted.items():
        assert found[token] == pytest.approx(probability, rel=1e-9)


def params_with(top_k: st.SearchStrategy[int]) -> st.SearchStrategy[SamplingParams]:
    return st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.3, 0.77, 1.0, 1.9]),
        top_k=top_k,
        top_p=st.sampled_from([0.05, 0.33, 0.71, 0.93, 1.0]),
        min_p=st.sampled_from([0.0, 0.013, 0.21, 0.87, 1.0]),
    )


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=14),
    params_with(st.integers(0, 14)),
)
def test_candidates_follow_the_definitions(
    values: list[int], params: SamplingParams
) -> None:
    logits = np.array(values, np.float32) / 2
    assert_same(
        distribution(logits, params), plain_distribution(logits.tolist(), params)
    )


@settings(max_examples=15, deadline=None)
@given(params_with(st.sampled_from([0, 7, 900, 6000])), st.integers(0, 99))
def test_candidates_of_a_large_vocabulary(params: SamplingParams, seed: int) -> None:
    spread = 1 + seed % 4
    logits = np.random.default_rng(seed).normal(0, spread, 5000).astype(np.float32)
    assert_same(
        distribution(logits, params), plain_distribution(logits.tolist(), params)
    )


def test_a_temperature_near_zero_is_greedy() -> None:
    ids, weights = candidates(
        LOGITS[:4].astype(np.float64), SamplingParams(temperature=5e-324)
    )
    assert ids[weights > 0].tolist() == [1]


def test_equals_are_kept_by_lowest_id() -> None:
    logits = np.array([0, 2, 1, 2, 2, 0], np.float32)
    ids, _ = candidates(logits.astype(np.float64), SamplingParams(top_k=2))
    assert ids.tolist() == [1, 3]
    ids, _ = candidates(logits.astype(np.float64), SamplingParams(top_p=0.5))
    assert ids.tolist() == [1, 3]
    assert draw(sampler(temperature=0), logits) == 1


def test_draws_follow_the_distribution() -> None:
    params = SamplingParams(temperature=1.3, top_k=6, min_p=0.05, seed=3)
    one = Sampler(GenerationRequest("a", (0,), 10_000, params))
    count = 6000
    drawn = Counter(draw(one, LOGITS) for _ in range(count))
    wanted = plain_distribution(LOGITS.tolist(), params)
    assert drawn.keys() == wanted.keys()
    for token, probability in wanted.items():
        deviation = math.sqrt(probability * (1 - probability) / count)
        assert abs(drawn[token] / count - probability) < 5 * deviation


def test_a_draw_is_used_up_whatever_the_candidates() -> None:
    """Equal seeds stay in step although one sampler has nothing to choose from."""
    free, bound = sampler(seed=8), sampler(seed=8, top_k=1)
    for _ in range(5):
        draw(free, LOGITS)
        assert draw(bound, LOGITS) == 1
    flat = np.zeros(VOCAB, np.float32)
    loose = sampler(seed=8)
    for _ in range(5):
        draw(loose, LOGITS)
    assert draw(free, flat) == draw(loose, flat)


def test_logit_bias_is_added() -> None:
    assert draw(sampler(temperature=0, logit_bias={9: 100.0}), LOGITS) == 9
    assert draw(sampler(temperature=0, logit_bias={1: -100.0}), LOGITS) == 4


def test_repetition_penalty_covers_prompt_and_output() -> None:
    logits = np.array([2, 1.9, -1, -1.5], np.float32)
    penalized = sampler((0,), temperature=0, repetition_penalty=2.0)
    assert draw(penalized, logits) == 1  # 2 / 2 < 1.9
    assert draw(penalized, logits) == 0  # 1.9 / 2 < 2 / 2
    negative = np.array([-1, -1.5, -9], np.float32)
    assert draw(sampler((0,), temperature=0, repetition_penalty=2.0), negative) == 1


def test_frequency_penalty_counts_the_output_only() -> None:
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    penalized = sampler((0, 0, 0), temperature=0, frequency_penalty=0.6)
    assert [draw(penalized, logits) for _ in range(5)] == [0, 0, 1, 0, 1]


def test_presence_penalty_is_subtracted_once() -> None:
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    penalized = sampler((0,), temperature=0, presence_penalty=1.5)
    assert [draw(penalized, logits) for _ in range(4)] == [0, 1, 0, 0]


def test_bias_comes_before_penalties() -> None:
    """4 + 4 halved is 4; 4 halved and 4 added would be 6."""
    logits = np.array([4.0, 5.0], np.float32)
    both = sampler((0,), temperature=0, repetition_penalty=2.0, logit_bias={0: 4.0})
    assert draw(both, logits) == 1


def test_stop_ids_are_not_sampled_too_early() -> None:
    early = sampler(temperature=0, min_new_tokens=2, stop_ids=frozenset({1, 4}))
    assert [draw(early, LOGITS) for _ in range(3)] == [5, 5, 1]


def test_logits_are_left_alone() -> None:
    logits = LOGITS.copy()
    sampler(
        temperature=0.5, logit_bias={1: 3.0}, repetition_penalty=1.2, top_logprobs=3
    ).sample(logits, 1)
    np.testing.assert_array_equal(logits, LOGITS)


def test_log_probabilities_are_the_models_own() -> None:
    wanted = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum())
    biased = sampler(temperature=0, logit_bias={9: 100.0}, top_k=1, top_logprobs=3)
    token, logprobs = biased.sample(LOGITS, 1)
    assert logprobs is not None
    assert token == 9
    assert logprobs.chosen == pytest.approx(wanted[9])
    assert [token for token, _ in logprobs.top] == [1, 4, 5]
    assert [value for _, value in logprobs.top] == pytest.approx(wanted[[1, 4, 5]])


def test_more_log_probabilities_than_tokens() -> None:
    logprobs = log_probabilities(LOGITS, 0, 99)
    assert len(logprobs.top) == VOCAB
    assert sum(math.exp(value) for _, value in logprobs.top) == pytest.approx(1)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {}, {"top_k": 3}])
def test_nothing_beyond_the_mask_is_ever_chosen(params: dict[str, Any]) -> None:
    nothing = np.zeros(VOCAB, np.bool_)
    with pytest.raises(EngineError, match="no token is left"):
        sampler(**params).sample(LOGITS, int(LOGITS.argmax()), nothing)
