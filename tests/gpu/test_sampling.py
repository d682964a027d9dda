"""The sampler on a real GPU."""

import warnings

import numpy as np
import pytest

from tests.support import cuda_stack

cuda_stack.require("torch")

import torch

from neuron.engines.base import SamplingParams
from neuron.engines.exllamav2.sampling.batch import BatchSampler, RowSampling

VOCAB = 128_256


def _row(params: SamplingParams, uniform: float, index: int) -> RowSampling:
    mask = None
    if index % 5 == 4:
        mask = np.full(-(-VOCAB // 32), 0x5A5A5A5A, np.int32)
    return RowSampling(
        params,
        uniform,
        prompt_ids=(1, 2, 3, index),
        output_ids=(5, 5, index),
        mask=mask,
        blocked=frozenset({7, index}),
        top_logprobs=index if index % 2 else None,
    )


def _batch(count: int) -> tuple[torch.Tensor, list[RowSampling]]:
    random = np.random.default_rng(1)
    logits = torch.from_numpy(random.normal(0, 4, (count, VOCAB + 64))).half()
    params = [
        SamplingParams(temperature=0),
        SamplingParams(),
        SamplingParams(temperature=0.6, min_p=0.05),
        SamplingParams(top_k=40, top_p=0.9),
        SamplingParams(top_p=0.8, repetition_penalty=1.1),
        SamplingParams(frequency_penalty=0.5, logit_bias={9: 3.0}),
    ]
    rows = [
        _row(params[index % len(params)], float(random.random()), index)
        for index in range(count)
    ]
    return logits, rows


@pytest.mark.parametrize("count", [1, 6, 70])
def test_a_gpu_chooses_as_a_cpu_does(count: int) -> None:
    logits, rows = _batch(count)
    sampler = BatchSampler(VOCAB)
    wanted = sampler.sample(logits, rows)
    found = sampler.sample(logits.cuda(), rows)
    assert [one.token_id for one in found] == [one.token_id for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert (one.logprobs is None) is (other.logprobs is None)
        if one.logprobs is not None and other.logprobs is not None:
            assert one.logprobs.chosen == pytest.approx(other.logprobs.chosen, abs=1e-9)
            assert [i for i, _ in one.logprobs.top] == [
                i for i, _ in other.logprobs.top
            ]


def test_a_step_begins_without_waiting_for_the_gpu() -> None:
    logits, rows = _batch(6)
    on_device = logits.cuda()
    sampler = BatchSampler(VOCAB)
    sampler.sample(on_device, rows)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sampling = sampler.begin(on_device, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not [one for one in caught if "synchroniz" in str(one.message)]
    assert sampling.wait() == sampler.sample(on_device, rows)
