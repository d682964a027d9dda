"""What is refused, and in which words."""

from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton")

import torch

from neuron.engines.exllamav2.attention import flash, launch


def _call(**changed: Any) -> Any:
    dim = changed.pop("head_dim", 32)
    pages = torch.zeros((2, 16, 2, dim), dtype=torch.float16)
    arguments: dict[str, Any] = {
        "q": torch.zeros((1, 1, 4, dim), dtype=torch.float16),
        "k_cache": pages,
        "v_cache": pages.clone(),
        "cache_seqlens": torch.tensor([3], dtype=torch.int32),
        "block_table": torch.zeros((1, 1), dtype=torch.int32),
        "causal": True,
    }
    return flash.flash_attn_with_kvcache(**(arguments | changed))


def test_a_plain_call_is_taken() -> None:
    assert _call().shape == (1, 1, 4, 32)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"head_dim": 288}, "head_dim is 288; at most 256 is possible"),
        ({"rotary_cos": torch.zeros(1)}, "rotary_cos is not supported"),
        ({"cache_batch_idx": torch.zeros(1)}, "cache_batch_idx is not supported"),
        ({"alibi_slopes": torch.zeros(4)}, "alibi_slopes is not supported"),
        ({"return_softmax_lse": True}, "return_softmax_lse is not supported"),
        (
            {"q": torch.zeros((1, 1, 3, 32)).half()},
            "3 query heads are no multiple of 2",
        ),
        ({"q": torch.zeros((1, 1, 4, 64)).half()}, "must end in head_dim 64"),
        ({"q": torch.zeros((1, 1, 4, 32))}, "queries are torch.float32, keys torch.f"),
        ({"block_table": torch.zeros((1, 1)).long()}, "block_table must be int32"),
        ({"cache_seqlens": torch.tensor([3])}, "cache_seqlens must be int32"),
        ({"k": torch.zeros((1, 1, 2, 32)).half()}, "k and v go together"),
        (
            {"v_cache": torch.zeros((2, 2, 16, 32)).half().transpose(1, 2)},
            "laid out alike",
        ),
    ],
)
def test_a_call_is_refused_by_the_argument_s_name(
    changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        _call(**changed)


def test_pages_that_tiles_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="pages of 40 tokens; the kernels need a mult"):
        launch.tiles_for(1, 64, 40)


@pytest.mark.parametrize(
    ("programs", "room", "splits"),
    [
        (8, 256, 2),  # little to share
        (8, 32_768, 33),  # one sequence of a Llama 8B on 132 processors
        (128, 32_768, 2),  # 16 of them
        (160, 32_768, 1),
        (4096, 32_768, 1),
        (1, 1 << 20, 128),
    ],
)
def test_splits_fill_the_gpu_and_no_more(programs: int, room: int, splits: int) -> None:
    assert launch.splits_for(programs, room, processors=132) == splits
