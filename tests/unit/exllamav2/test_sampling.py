"""The torch sampler against the reference engine's, whose choices it must make."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from neuron.engines.base import GenerationRequest, SamplingParams, TokenLogprobs
from neuron.engines.exllamav2.sampling.uniforms import Uniforms
from neuron.engines.reference.sampler import Sampler, candidates, log_probabilities
from tests.support import cuda_stack

cuda_stack.require("torch")

import torch

from neuron.engines.exllamav2.sampling import batch
from neuron.engines.exllamav2.sampling.batch import BatchSampler, RowSampling, Sampled

PADDING: Final = 7
"""Columns behind the vocabulary, as a padded output layer has them."""

Logits = NDArray[np.float32]
Rows = list[RowSampling]


def row(params: SamplingParams | None = None, **fields: Any) -> RowSampling:
    defaults: dict[str, Any] = {
        "uniform": 0.5,
        "prompt_ids": (),
        "output_ids": (),
        "mask": None,
        "blocked": frozenset(),
        "top_logprobs": None,
    }
    return RowSampling(params or SamplingParams(), **(defaults | fields))


def padded(logits: Logits) -> torch.Tensor:
    """With a temptation behind the vocabulary."""
    return torch.nn.functional.pad(torch.from_numpy(logits), (0, PADDING), value=1e4)


def sample(logits: Logits, rows: Rows) -> list[Sampled]:
    return BatchSampler(logits.shape[1]).sample(padded(logits), rows)


def sample_together(logits: Logits, rows: Rows) -> list[Sampled]:
    return BatchSampler(logits.shape[1]).begin_together(padded(logits), rows).wait()


def normal(seed: int, *shape: int, spread: float = 3.0) -> Logits:
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.int32]:
    bits = np.zeros(-(-len(allowed) // 32) * 32, bool)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.int32)


PARAMS: Final = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-3, 0.3, 0.77, 1.0, 1.9]),
    top_k=st.sampled_from([0, 0, 1, 3, 8, 500]),
    top_p=st.sampled_from([0.0, 0.05, 0.5, 0.93, 1.0, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.013, 0.21, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.4, -0.3]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.9, -1.1]),
    logit_bias=st.dictionaries(
        st.integers(0, 39), st.sampled_from([-100.0, -2.0, 1.5, 100.0]), max_size=3
    ),
    seed=st.integers(0, 1 << 40),
)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[GenerationRequest, NDArray[np.bool_] | None]:
    request = GenerationRequest(
        id="a",
        prompt_ids=tuple(draw(st.lists(st.integers(0, 39), min_size=1, max_size=6))),
        max_new_tokens=100,
        sampling=draw(PARAMS),
        min_new_tokens=draw(st.sampled_from([0, 0, 2])),
        stop_ids=draw(st.frozensets(st.integers(0, 39), max_size=3)),
        top_logprobs=draw(st.sampled_from([None, None, 0, 5])),
    )
    if draw(st.booleans()):
        return request, None
    ids = draw(st.sets(st.integers(0, 39), min_size=1, max_size=12))
    allowed = np.zeros(40, bool)
    allowed[sorted(ids)] = True
    return request, allowed


@given(st.lists(_requests(), min_size=1, max_size=4), st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_outputs_are_those_of_the_reference_engine(
    requests: list[tuple[GenerationRequest, NDArray[np.bool_] | None]], seed: int
) -> None:
    """Several steps of several requests, all together; logits with many equals."""
    random = np.random.default_rng(seed)
    references = [Sampler(request) for request, _ in requests]
    uniforms = [Uniforms(request.sampling.seed) for request, _ in requests]
    outputs: list[list[int]] = [[] for _ in requests]
    for step in range(4):
        logits = random.integers(-8, 9, (len(requests), 40)).astype(np.float32)
        logits /= 2
        rows, wanted = [], []
        for index, (request, allowed) in enumerate(requests):
            reference = references[index]
            blocked = request.stop_ids if reference.must_go_on else frozenset()
            rows.append(
                row(
                    request.sampling,
                    uniform=uniforms[index].at(step),
                    prompt_ids=request.prompt_ids,
                    output_ids=tuple(outputs[index]),
                    mask=None if allowed is None else packed(allowed),
                    blocked=blocked,
                    top_logprobs=request.top_logprobs,
                )
            )
            line = logits[index]
            wanted.append(reference.sample(line, int(line.argmax()), allowed))
        for ways in (sample, sample_together):
            found = ways(logits, rows)
            assert [one.token_id for one in found] == [token for token, _ in wanted]
            for one, (_, logprobs) in zip(found, wanted, strict=True):
                _assert_same_logprobs(one.logprobs, logprobs)
        for output, (token, _) in zip(outputs, wanted, strict=True):
            output.append(token)


def _assert_same_logprobs(
    found: TokenLogprobs | None, wanted: TokenLogprobs | None
) -> None:
    if found is None or wanted is None:
        assert found is wanted
        return
    assert found.chosen == pytest.approx(wanted.chosen, abs=1e-12)
    assert [token for token, _ in found.top] == [token for token, _ in wanted.top]
    for (_, one), (_, other) in zip(found.top, wanted.top, strict=True):
        assert one == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize("together", [sample, sample_together])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7, min_p=0.02),
        SamplingParams(top_k=40),
        SamplingParams(top_k=40, top_p=0.8),
        SamplingParams(top_p=0.9, min_p=0.01),
        SamplingParams(temperature=3.0, top_p=0.95),  # over more than a few tokens
    ],
)
def test_every_token_has_its_share_of_the_numbers(
    params: SamplingParams, together: Callable[[Logits, Rows], list[Sampled]]
) -> None:
    """Where one token's numbers end and the next one's begin, to 1e-9."""
    logits = normal(5, 1, 5000, spread=2)
    ids, weights = candidates(logits[0].astype(np.float64), params)
    ends = np.cumsum(weights) / weights.sum()
    step = max(1, len(ids) // 12)
    places = range(0, len(ids) - 1, step)
    rows, wanted = [], []
    for place in places:
        rows += [row(params, uniform=float(ends[place]) + eps) for eps in (-1e-9, 1e-9)]
        wanted += [int(ids[np.searchsorted(ends, r.uniform)]) for r in rows[-2:]]
    found = together(np.repeat(logits, len(rows), 0), rows)
    assert [one.token_id for one in found] == wanted


def test_frequencies_are_the_probabilities() -> None:
    """Chi-square, 9 degrees of freedom: 27.9 is passed by chance once in 1000."""
    logits = np.log(np.arange(1, 11, dtype=np.float32))[None]
    uniforms = Uniforms(seed=11)
    draws = 4000
    rows = [row(uniform=uniforms.at(i)) for i in range(draws)]
    found = sample_together(np.repeat(logits, draws, 0), rows)
    counts = Counter(one.token_id for one in found)
    expected = np.arange(1, 11) / 55 * draws
    observed = np.array([counts[token] for token in range(10)])
    assert ((observed - expected) ** 2 / expected).sum() < 27.9


MIXED: Final = (
    row(SamplingParams(temperature=0)),
    row(SamplingParams(temperature=0, repetition_penalty=1.5), prompt_ids=(3, 4)),
    row(),
    row(SamplingParams(temperature=2.0), blocked=frozenset({1, 2})),
    row(SamplingParams(top_k=3), top_logprobs=3),
    row(SamplingParams(top_k=1200, top_p=0.9)),
    row(SamplingParams(top_k=50, top_p=0.7)),
    row(SamplingParams(temperature=5.0, top_p=0.99)),  # a second look
    row(SamplingParams(top_p=0.4, min_p=0.1), top_logprobs=0),
)


def _mixed(uniforms: Iterable[float]) -> Rows:
    return [
        row(
            one.params,
            uniform=uniform,
            prompt_ids=one.prompt_ids,
            blocked=one.blocked,
            top_logprobs=one.top_logprobs,
        )
        for one, uniform in zip(MIXED, uniforms, strict=True)
    ]


@pytest.mark.parametrize("at_once", [1, 32])
def test_a_row_does_not_depend_on_the_others(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(batch, "_ROWS_AT_ONCE", at_once)
    random = np.random.default_rng(2)
    logits = normal(2, len(MIXED), 1501)
    rows = _mixed(random.random(len(MIXED)))
    together = sample(logits, rows)
    for found, wanted in zip(sample_together(logits, rows), together, strict=True):
        assert found.token_id == wanted.token_id
        _assert_same_logprobs(found.logprobs, wanted.logprobs)
    order = random.permutation(len(rows))
    shuffled = sample(logits[order], [rows[i] for i in order])
    assert [shuffled[i] for i in np.argsort(order)] == together
    for index, one in enumerate(rows):
        assert sample(logits[index : index + 1], [one]) == [together[index]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_row_is_named_and_the_others_go_on(bad: float) -> None:
    logits = normal(3, len(MIXED), 1501)
    rows = _mixed(np.random.default_rng(3).random(len(MIXED)))
    whole = sample_together(logits, rows)
    assert all(one.is_possible for one in whole)
    for index in (0, 2, 5, 7):
        broken = logits.copy()
        broken[index, 17] = bad
        for ways in (sample, sample_together):
            found = ways(broken, rows)
            assert not found[index].is_possible
            assert 0 <= found[index].token_id < 1501
            assert found[index].logprobs is None
            assert found[:index] + found[index + 1 :] == [
                *whole[:index], *whole[index + 1 :]
            ]  # fmt: skip


def test_a_row_that_nothing_may_follow_is_named() -> None:
    logits = np.zeros((2, 40), np.float32)
    nothing = row(mask=packed(np.zeros(40, bool)))
    assert [one.is_possible for one in sample_together(logits, [nothing, row()])] == [
        False,
        True,
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_type_of_logits_and_no_padding_is_chosen(
    dtype: str, temperature: float
) -> None:
    logits = torch.zeros((2, 64 + PADDING), dtype=getattr(torch, dtype))
    logits[:, 64:] = 100
    logits[:, 9] = 50
    before = logits.clone()
    params = SamplingParams(temperature=temperature, logit_bias={3: 1.0})
    rows = [row(params), row(SamplingParams(temperature=temperature))]
    for found in BatchSampler(64).sample(logits, rows):
        assert found.token_id == 9
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 1), (0.49, 1), (0.5, 2), (1 - 2**-53, 2)],
)
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_k=3)])
def test_a_number_at_an_end_chooses_no_token_without_weight(
    params: SamplingParams, uniform: float, token: int
) -> None:
    """Tokens 1 and 2 share the numbers; what comes before and behind has none."""
    logits = np.zeros((1, 4), np.float32)
    one = row(params, uniform=uniform, blocked=frozenset({0, 3}))
    assert sample(logits, [one])[0].token_id == token


def test_no_rounding_of_a_device_s_sums_chooses_a_token_without_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They may differ, and even fall, from one token without weight to the next."""
    original = torch.Tensor.cumsum

    def uneven(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        sums = original(tensor, dim)
        if sums.is_floating_point():
            sums[..., 1::2] += 0.05
        return sums

    monkeypatch.setattr(torch.Tensor, "cumsum", uneven)
    logits = np.zeros((1, 40), np.float32)
    blocked = frozenset(range(40)) - {0, 20, 30}
    for params in (SamplingParams(), SamplingParams(top_k=10)):
        for uniform in np.linspace(0, 1, 997, endpoint=False):
            found = sample(logits, [row(params, uniform=uniform, blocked=blocked)])
            assert found[0].token_id in (0, 20, 30)
    logits = np.full((2, 40), np.log(0.02), np.float32)
    logits[:, 0] = 0
    for uniform in np.linspace(0.9, 1, 97, endpoint=False):
        rows = [row(SamplingParams(top_k=k), uniform=uniform) for k in (2, 10)]
        assert sample_together(logits, rows)[0].token_id in (0, 1)


def test_a_repetition_penalty_divides_what_is_above_zero_and_multiplies_the_rest() -> (
    None
):
    params = SamplingParams(temperature=0, repetition_penalty=1.5)
    above, below = np.array([[0.5, 0.4], [-0.4, -0.5]], np.float32)
    for line in (above, below):
        assert sample(line[None], [row(params, prompt_ids=(0,))])[0].token_id == 1


def test_penalties_take_ids_as_tensors_and_pass_over_images() -> None:
    """A vision model's prompt has ids that are no tokens where its images are."""
    logits = np.zeros((1, 40), np.float32)
    logits[0, 4] = logits[0, 30] = 1
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    ids = (4, 1_000_000_000)
    for given_ids in (ids, torch.tensor(ids), torch.tensor(ids, dtype=torch.int32)):
        found = sample(logits, [row(params, prompt_ids=given_ids)])
        assert found[0].token_id == 30


def test_a_mask_has_the_last_word_and_may_be_longer_and_not_writable() -> None:
    allowed = np.zeros(64, bool)
    allowed[[31, 50]] = True  # the sign bit, and a bit behind the vocabulary
    mask = packed(allowed)
    mask.setflags(write=False)
    one = row(mask=mask, blocked=frozenset({31}))
    longer = row(mask=np.append(mask, np.int32(-1)))
    found = sample_together(np.zeros((2, 40), np.float32), [one, longer])
    assert [each.token_id for each in found] == [31, 31]


def test_log_probabilities_are_the_model_s_own() -> None:
    logits = normal(4, 1, 300)
    params = SamplingParams(temperature=0.5, top_k=5, logit_bias={7: 100.0})
    found = sample(logits, [row(params, top_logprobs=4)])[0]
    assert found.token_id == 7
    _assert_same_logprobs(found.logprobs, log_probabilities(logits[0], 7, 4))


@pytest.mark.parametrize(
    "rows",
    [
        _mixed([0.3] * len(MIXED)),
        [row(SamplingParams(temperature=0))] * 3,
        [
            row(
                SamplingParams(
                    frequency_penalty=1.0, presence_penalty=1.0, logit_bias={3: 1.0}
                ),
                output_ids=(1, 1, 2),
            ),
            row(mask=packed(np.ones(1501, bool)), top_logprobs=2),
            row(
                SamplingParams(repetition_penalty=1.2),
                prompt_ids=torch.empty(3, dtype=torch.int64, device="meta"),
                output_ids=(5,),
            ),
        ],
    ],
)
def test_a_step_begins_without_waiting_for_the_device(rows: Rows) -> None:
    """Tensors on `meta` have no values: whatever asked for one would raise."""
    logits = torch.empty((len(rows), 1501 + PADDING), device="meta")
    assert BatchSampler(1501).begin(logits, rows).tokens.shape == (len(rows),)


def test_logits_may_be_overwritten_once_it_has_begun() -> None:
    logits = normal(7, 2, 5000)
    rows = [row(SamplingParams(temperature=9.0, top_p=0.99)), row()]
    wanted = sample(logits, rows)
    given = padded(logits)
    sampling = BatchSampler(5000).begin(given, rows)
    given.zero_()
    assert sampling.wait() == wanted
    early = [one.is_early for one in wanted]
    assert early == [False, True]
    assert int(sampling.tokens[1]) == wanted[1].token_id


def test_a_second_look_is_taken_only_where_few_candidates_do_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    original = BatchSampler._table

    def table(self: BatchSampler, logits: Any, rows: Rows, few: int) -> torch.Tensor:
        looks.append(len(rows))
        return original(self, logits, rows, few)

    monkeypatch.setattr(BatchSampler, "_table", table)
    logits = normal(6, 3, 5000)
    wide = row(SamplingParams(temperature=9.0, top_p=0.99))
    sample_together(logits, [row(SamplingParams(top_p=0.9)), wide, row()])
    assert looks == [3, 1]
