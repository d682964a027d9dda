"""What a recorded step tells the library of its batch."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "exllamav2")
import torch

from neuron.engines.exllamav2.steps.whole_step import device_params, why_not

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

WIDTH = 3


@pytest.fixture(scope="module")
def library() -> Any:
    cuda_stack.use_cpu_extension()
    return importlib.import_module("exllamav2")


def test_says_what_the_librarys_own_parameters_say(library: Any) -> None:
    lengths = torch.tensor([5, 300], dtype=torch.int32)
    table = torch.tensor([[4, 0, 0], [7, 1, 0]], dtype=torch.int32)
    own = device_params(library, 256)(lengths, table)
    theirs = library.attn.ExLlamaV2Attention.PagedParams(
        batch_size=2, block_index=table, cache_seqlens=lengths,
        max_cache_seqlen=300, page_size=256, q_len=1,
    )  # fmt: skip
    assert own.get_cache_seqlens(0) is lengths
    assert own.get_block_index(0) is table
    for name in ("batch_size", "page_size", "is_sequential", "paged"):
        assert getattr(own, name) == getattr(theirs, name)
    assert own.get_alt_rope_embed(0) is theirs.get_alt_rope_embed(0) is None
    assert own.get_rope_offsets(0) is theirs.get_rope_offsets(0) is None
    assert own.max_cache_seqlen == WIDTH * 256


def test_one_sequence_is_no_stretch_of_the_cache(library: Any) -> None:
    """The library would copy to a place that only the recorded batch had."""
    own = device_params(library, 256)(
        torch.tensor([5], dtype=torch.int32), torch.tensor([[4]], dtype=torch.int32)
    )
    assert not own.is_sequential


def config_of(
    experts: int = 0, positions: str | None = None, kind: str = "q_weight"
) -> Any:
    lm = SimpleNamespace(is_moe=experts > 0, keys={"learned_pos_emb": positions})
    weight = f"model.layers.0.mlp.experts.0.up_proj.{kind}"
    return SimpleNamespace(
        arch=SimpleNamespace(lm=lm), num_experts=experts, tensor_file_map={weight: ""}
    )


@pytest.mark.parametrize(
    ("config", "devices", "rows", "tensor_parallel", "reason"),
    [
        (config_of(), {0}, 99, False, None),
        (config_of(8), {1}, 4, False, None),
        (config_of(8, kind="qweight"), {1}, 4, False, None),
        (config_of(8), {0}, 5, False, "5 tokens among 8 experts"),
        (config_of(6), {0}, 1, False, "1 tokens among 6 experts"),
        (config_of(128), {0}, 1, False, "128 experts"),
        (config_of(8, kind="weight"), {0}, 1, False, "8 experts"),
        (config_of(positions="model.wpe"), {0}, 1, False, "looks positions up"),
        (config_of(), {0, 1}, 1, False, "2 devices"),
        (config_of(), {0, 1}, 1, True, "split over GPUs"),
    ],
)
def test_says_why_a_step_cannot_be_recorded(
    config: Any, devices: set[int], rows: int, tensor_parallel: bool, reason: str | None
) -> None:
    said = why_not(config, devices, rows, tensor_parallel=tensor_parallel)
    assert said is None if reason is None else reason in (said or "")
