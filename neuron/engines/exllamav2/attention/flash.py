"""flash-attn's functions, as far as exllamav2 calls them.

Their names, parameters and layouts are flash-attn 2's own, because exllamav2 finds and
calls them as such; it takes from `flash_attn_func`'s signature that sliding windows and
softcap are possible. What it never asks for is refused by name.

Kernels of ours take a few queries per sequence, and any with softcap; chunks of a
prompt go to the kernel that torch bundles.
"""

from typing import Any, Final

import torch
import triton

from neuron.engines.exllamav2.attention import bundled, launch, plain
from neuron.engines.exllamav2.attention.problem import Cache, Mask, check

_FEW_QUERIES: Final = 64
"""Decoding, and what a long chat goes on with: torch's kernel does not divide keys, and
its few programs would leave most of a GPU idle."""
_NO_WINDOW: Final = 10_000_000
"""How exllamav2's tensor-parallel code says that there is no window to the left."""

_INTERPRETED: Final[bool] = triton.knobs.runtime.interpret


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> torch.Tensor:
    """Attention of [batch, queries, heads, head_dim] over [batch, keys, …].

    Raises:
        ValueError: an argument is out of range, or one that is not supported.
    """
    _refuse(
        dropout_p=dropout_p,
        alibi_slopes=alibi_slopes,
        return_attn_probs=return_attn_probs,
    )
    mask = Mask.of(q, softmax_scale, causal, window_size, softcap)
    if k.stride() != v.stride() or k.stride(-1) != 1:
        k, v = k.contiguous(), v.contiguous()
    cache = Cache(k, v, None)
    check(q, cache)
    if bundled.can_take(q, mask):
        return bundled.over_rows(q, k, v, mask)
    nothing = torch.zeros(q.shape[0], dtype=torch.int32, device=q.device)
    return _implementation(q).attend(q, cache, nothing, k.shape[1], mask)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of sequences one after the other, [tokens, heads, head_dim].

    Raises:
        ValueError: an argument is out of range, or one that is not supported.
    """
    _refuse(
        dropout_p=dropout_p,
        alibi_slopes=alibi_slopes,
        return_attn_probs=return_attn_probs,
        block_table=block_table,
    )
    mask = Mask.of(q, softmax_scale, causal, window_size, softcap)
    check(q[None], Cache(k[None], v[None], None))
    starts = (cu_seqlens_q, cu_seqlens_k)
    if bundled.can_take(q, mask):
        longest = (max_seqlen_q, max_seqlen_k)
        return bundled.over_segments(q, k, v, mask, starts, longest)
    if q.is_cuda:
        raise ValueError("softcap is not supported for sequences of different lengths")
    return plain.segments(q, k, v, mask, starts)


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    rotary_cos: torch.Tensor | None = None,
    rotary_sin: torch.Tensor | None = None,
    cache_seqlens: torch.Tensor | int | None = None,
    cache_batch_idx: torch.Tensor | None = None,
    cache_leftpad: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: torch.Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> torch.Tensor:
    """Attention over a KV cache, written to first where `k` and `v` are given.

    Args:
        q: [batch, queries, heads, head_dim].
        k_cache: [pages, page, kv heads, head_dim]; [batch, tokens, …] without a table.
        k: [batch, tokens, kv heads, head_dim], to go behind `cache_seqlens`.
        cache_seqlens: int32 [batch]: keys that are in the cache before `k`.
        block_table: int32 [batch, width]: each sequence's pages, in order.

    Raises:
        ValueError: an argument is out of range, or one that is not supported.
    """
    _refuse(
        rotary_cos=rotary_cos,
        rotary_sin=rotary_sin,
        cache_batch_idx=cache_batch_idx,
        cache_leftpad=cache_leftpad,
        alibi_slopes=alibi_slopes,
        return_softmax_lse=return_softmax_lse,
    )
    mask = Mask.of(q, softmax_scale, causal, window_size, softcap)
    cache = Cache(k_cache, v_cache, block_table)
    return _with_cache(q, cache, k, v, _lengths(cache_seqlens, q, cache), mask)


def fwd_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None,
    v: torch.Tensor | None,
    cache_seqlens: torch.Tensor | None,
    rotary_cos: torch.Tensor | None,
    rotary_sin: torch.Tensor | None,
    cache_batch_idx: torch.Tensor | None,
    cache_leftpad: torch.Tensor | None,
    block_table: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    out: torch.Tensor | None,
    softmax_scale: float,
    is_causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    is_rotary_interleaved: bool,
    num_splits: int,
) -> list[torch.Tensor | None]:
    """What the tensor-parallel code in exllamav2's extension calls, by position.

    Returns:
        The result (`out` where given) and nothing for the log-sum-exp, which no caller
        reads.

    Raises:
        ValueError: an argument is out of range, or one that is not supported.
    """
    _refuse(
        rotary_cos=rotary_cos,
        rotary_sin=rotary_sin,
        cache_batch_idx=cache_batch_idx,
        cache_leftpad=cache_leftpad,
        alibi_slopes=alibi_slopes,
    )
    left = -1 if window_size_left >= _NO_WINDOW else window_size_left
    window = (left, window_size_right)
    mask = Mask.of(q, softmax_scale, is_causal, window, softcap)
    cache = Cache(k_cache, v_cache, block_table)
    lengths = _lengths(cache_seqlens, q, cache)
    return [_with_cache(q, cache, k, v, lengths, mask, out), None]


def _with_cache(
    query: torch.Tensor,
    cache: Cache,
    keys: torch.Tensor | None,
    values: torch.Tensor | None,
    lengths: torch.Tensor,
    mask: Mask,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    check(query, cache)
    use = _implementation(query)
    new_tokens = 0
    if keys is not None:
        if values is None or values.shape != keys.shape:
            raise ValueError("k and v go together, shaped alike")
        if cache.keys.stride(2) != query.shape[3]:
            raise ValueError("the cache's key heads must be one after the other")
        use.append(keys, values, cache, lengths)
        new_tokens = keys.shape[1]
    in_pages = cache.table is not None
    if query.shape[1] > _FEW_QUERIES and in_pages and bundled.can_take(query, mask):
        result = bundled.over_pages(query, cache, lengths, new_tokens, mask)
        return result if out is None else out.copy_(result)
    return use.attend(query, cache, lengths, new_tokens, mask, out)


def _implementation(query: torch.Tensor) -> Any:
    """Kernels where something runs them, else plain torch."""
    return launch if query.is_cuda or _INTERPRETED else plain


def _lengths(
    given: torch.Tensor | int | None, query: torch.Tensor, cache: Cache
) -> torch.Tensor:
    if isinstance(given, torch.Tensor):
        if given.dtype != torch.int32 or not given.is_contiguous():
            raise ValueError("cache_seqlens must be int32 and contiguous")
        return given
    length = cache.room if given is None else given
    return torch.full((query.shape[0],), length, dtype=torch.int32, device=query.device)


def _refuse(**arguments: object) -> None:
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) or value:
            raise ValueError(f"{name} is not supported by this attention provider")
