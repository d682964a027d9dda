"""What torch's own kernel is handed; the kernel itself runs on GPUs alone."""

from functools import partial
from typing import Any

import pytest

from tests.support import cuda_stack
from tests.unit.exllamav2.attention.cases import Case

cuda_stack.require("torch", "triton")

import torch

from neuron.engines.exllamav2.attention import bundled, flash, plain
from neuron.engines.exllamav2.attention.problem import Mask
from tests.unit.exllamav2.attention.reference import Call, expected_result

PROMPTS = [
    Case((0,), queries=40),
    Case((70,), queries=40, window=(30, 30)),
    Case((70, 5), queries=20, heads=6, spare_columns=2),
    Case((90,), queries=20, appends=False),
    Case((300,), queries=40, page=256),
]


def _like_torch_s(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cum_seq_q: torch.Tensor,
    cum_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    dropout: float,
    is_causal: bool,
    debug: bool,
    *,
    scale: float,
    window_size_left: int,
    window_size_right: int,
    seqused_k: torch.Tensor,
) -> tuple[torch.Tensor]:
    """The documented meaning of the operator's arguments, in plain torch."""
    mask = Mask(scale, is_causal, window_size_left, window_size_right)
    assert (cum_seq_q.dtype, cum_seq_k.dtype, seqused_k.dtype) == (torch.int32,) * 3
    rows = []
    starts, key_starts = cum_seq_q.tolist(), cum_seq_k.tolist()
    for index, used in enumerate(seqused_k.tolist()):
        first, end = starts[index], starts[index + 1]
        mine = slice(key_starts[index], key_starts[index] + used)
        assert end - first <= max_q
        assert used <= max_k
        rows.append(plain.attention(query[first:end], keys[mine], values[mine], mask))
    return (torch.cat(rows),)


@pytest.mark.parametrize("case", PROMPTS, ids=str)
def test_pages_are_gathered_and_counted(
    monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    aten = torch.ops.aten
    monkeypatch.setattr(aten, "_flash_attention_forward", _like_torch_s, raising=False)
    call = Call.of(case)
    wanted = expected_result(call)
    new_tokens = 0
    if call.keys is not None and call.values is not None:
        plain.append(call.keys, call.values, call.cache, call.lengths)
        new_tokens = case.queries
    got = bundled.over_pages(
        call.query, call.cache, call.lengths, new_tokens, call.mask
    )
    torch.testing.assert_close(got.double(), wanted, rtol=2e-3, atol=2e-3)


def _on_meta(case: Case) -> tuple[Any, ...]:
    call = Call.of(case)
    cache = type(call.cache)(
        call.cache.keys.to("meta"),
        call.cache.values.to("meta"),
        None if call.cache.table is None else call.cache.table.to("meta"),
    )
    return (
        call.query.to("meta"),
        cache,
        call.lengths.to("meta"),
        case.queries,
        call.mask,
    )


@pytest.mark.parametrize("case", PROMPTS, ids=str)
def test_torch_takes_what_the_gathered_pages_are_handed_in_as(case: Case) -> None:
    query, cache, *more = _on_meta(case)
    assert bundled.over_pages(query, cache, *more).shape == query.shape


@pytest.mark.parametrize("case", PROMPTS, ids=str)
def test_torch_s_kernel_is_reached(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """Its checks come first; they let our arguments through, to where a GPU is due."""
    if torch.version.cuda is None or torch.cuda.is_available():
        pytest.skip("for a CUDA build of torch on a host without a GPU")
    aten = torch.ops.aten
    redispatch = aten._flash_attention_forward.default.redispatch
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    monkeypatch.setattr(aten, "_flash_attention_forward", partial(redispatch, cuda))
    call = Call.of(case)
    with pytest.raises(RuntimeError, match="driver"):
        bundled.over_pages(call.query, call.cache, call.lengths, 0, call.mask)


def test_torch_takes_dense_rows_and_segments() -> None:
    query = torch.empty((2, 9, 4, 72), dtype=torch.float16, device="meta")
    keys = torch.empty((2, 20, 4, 72), dtype=torch.float16, device="meta")
    mask = Mask(0.1, causal=False)
    assert bundled.over_rows(query, keys, keys, mask).shape == query.shape
    starts = torch.empty(3, dtype=torch.int32, device="meta")
    got = bundled.over_segments(
        query.flatten(0, 1), keys.flatten(0, 1), keys.flatten(0, 1), mask,
        (starts, starts), (9, 20),
    )  # fmt: skip
    assert got.shape == (18, 4, 72)


def test_only_what_torch_s_kernel_knows_is_left_to_it() -> None:
    query = torch.empty((1, 1, 1, 64), dtype=torch.float16)
    assert not bundled.can_take(query, Mask(1.0, causal=True))  # no GPU


def test_segments_of_a_vision_tower() -> None:
    """Images of different sizes, one after the other; nothing is causal."""
    random = torch.Generator().manual_seed(3)
    query, keys, values = torch.randn((3, 17, 4, 72), generator=random).half()
    starts = torch.tensor([0, 5, 5, 17], dtype=torch.int32)
    got = flash.flash_attn_varlen_func(query, keys, values, starts, starts, 12, 12)
    for first, end in ((0, 5), (5, 17)):
        wanted = torch.nn.functional.scaled_dot_product_attention(
            *(t[first:end].float().transpose(0, 1) for t in (query, keys, values))
        ).transpose(0, 1)
        torch.testing.assert_close(got[first:end].float(), wanted, rtol=2e-3, atol=2e-3)
