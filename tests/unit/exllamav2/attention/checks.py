"""What is checked of the kernels: interpreted, and on a GPU."""

from typing import Any, Final

import torch

from neuron.engines.exllamav2.attention import flash, launch, plain
from neuron.engines.exllamav2.attention.problem import Cache, Mask
from tests.unit.exllamav2.attention.cases import Case
from tests.unit.exllamav2.attention.reference import (
    Call,
    expected_cache,
    expected_result,
)

_TOLERANCE: Final = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
_MODULES: Final = {"launch": launch, "plain": plain}


def agrees(case: Case, module: str = "launch", device: str = "cpu") -> None:
    """Cache bit for bit, result within the rounding of its type."""
    use: Any = _MODULES[module]
    call = Call.of(case)
    wanted, wanted_cache = expected_result(call), expected_cache(call)
    call = call.on(device)
    new_tokens = 0
    if call.keys is not None:
        use.append(call.keys, call.values, call.cache, call.lengths)
        new_tokens = case.queries
    assert _same_bits(call.cache.keys, wanted_cache.keys)
    assert _same_bits(call.cache.values, wanted_cache.values)
    got = use.attend(call.query, call.cache, call.lengths, new_tokens, call.mask)
    _assert_close(got, wanted)


def agrees_as_called(case: Case, device: str = "cpu") -> None:
    """The same through flash-attn's own function, with exllamav2's arguments."""
    call = Call.of(case)
    wanted, wanted_cache = expected_result(call), expected_cache(call)
    call = call.on(device)
    more: dict[str, Any] = {}
    if case.window != (-1, -1):
        more["window_size"] = case.window
    if case.softcap:
        more["softcap"] = case.softcap
    got = flash.flash_attn_with_kvcache(
        q=call.query,
        k=call.keys,
        v=call.values,
        k_cache=call.cache.keys,
        v_cache=call.cache.values,
        cache_seqlens=call.lengths,
        block_table=call.cache.table,
        causal=True,
        softmax_scale=call.mask.scale,
        **more,
    )
    _assert_close(got, wanted)
    assert _same_bits(call.cache.keys, wanted_cache.keys)


def agrees_by_position(case: Case) -> None:
    """And through the binary module's, as the tensor-parallel code calls it."""
    call = Call.of(case)
    wanted = expected_result(call)
    out = torch.full_like(call.query, torch.nan)
    got = flash.fwd_kvcache(
        call.query, call.cache.keys, call.cache.values, call.keys, call.values,
        call.lengths, None, None, None, None, call.cache.table, None, out,
        call.mask.scale, True, 10_000_000, -1, 0.0, True, 0,
    )  # fmt: skip
    assert got[0] is out
    _assert_close(out, wanted)


def agrees_without_cache(case: Case, device: str = "cpu") -> None:
    """Queries over keys that are slices of something larger."""
    call = Call.of(case)
    wanted = expected_result(call)
    call = call.on(device)
    length = case.lengths[0]
    keys, values = (t[:, :length] for t in (call.cache.keys, call.cache.values))
    got = flash.flash_attn_func(
        call.query,
        keys,
        values,
        causal=case.causal,
        window_size=case.window,
        softcap=case.softcap,
    )
    _assert_close(got, wanted)


def stays_within_its_table() -> None:
    """Tokens behind the last page are neither written nor looked for."""
    call = Call.of(Case((30, 0), queries=4, page=16))
    table = call.cache.table
    assert table is not None
    full = Cache(call.cache.keys, call.cache.values, table[:, :1].clone())
    before = full.keys.clone()
    lengths = torch.tensor([14, 16], dtype=torch.int32)
    assert call.keys is not None
    assert call.values is not None
    launch.append(call.keys, call.values, full, lengths)
    before[int(table[0, 0]), 14:] = call.keys[0, :2]
    assert _same_bits(full.keys, before)
    query = call.query[1:]
    mask = Mask(1.0, causal=False)
    cache = Cache(full.keys[:1], full.values[:1], torch.zeros(1, 1, dtype=torch.int32))
    cache.keys[:] = 1
    cache.values[:] = 3
    beyond = torch.tensor([40], dtype=torch.int32)
    got = launch.attend(query, cache, beyond, 0, mask)
    assert (got == 3).all()


def takes_a_part_of_a_wider_table() -> None:
    """As captured steps hand one in: a view with longer rows, not aligned."""
    call = Call.of(Case((90, 61)))
    wanted, wanted_cache = expected_result(call), expected_cache(call)
    table = call.cache.table
    assert table is not None
    assert call.keys is not None
    assert call.values is not None
    wider = torch.zeros((2, 9), dtype=torch.int32)
    wider[:, 1 : 1 + table.shape[1]] = table
    view = wider[:, 1 : 1 + table.shape[1]]
    cache = Cache(call.cache.keys, call.cache.values, view)
    launch.append(call.keys, call.values, cache, call.lengths)
    assert _same_bits(cache.keys, wanted_cache.keys)
    got = launch.attend(call.query, cache, call.lengths, 1, call.mask)
    _assert_close(got, wanted)


def reaches_the_end_of_a_large_cache() -> None:
    """Behind 2^31 elements; the memory before it is never touched."""
    page, tail = 256, (8, 128)
    pages = (1 << 31) // (page * 8 * 128) + 3
    keys = torch.empty((pages, page, *tail), dtype=torch.float16)
    table = torch.tensor([[pages - 1]], dtype=torch.int32)
    cache = Cache(keys, keys, table)
    new = torch.randn((1, 3, *tail), generator=torch.Generator().manual_seed(1)).half()
    lengths = torch.zeros(1, dtype=torch.int32)
    launch.append(new, new, cache, lengths)
    assert _same_bits(keys[-1, :3], new[0])
    query = new[:, 2:]
    got = launch.attend(query, cache, lengths, 3, Mask(0.1, causal=True))
    small = Cache(keys[-1:].clone(), keys[-1:].clone(), torch.zeros_like(table))
    assert _same_bits(got, launch.attend(query, small, lengths, 3, Mask(0.1, True)))


def _assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.shape == wanted.shape
    tolerance = _TOLERANCE[got.dtype]
    got = got.cpu().double()
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.equal(one.cpu().view(torch.int16), other.view(torch.int16)))
