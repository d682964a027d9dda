"""Launching the kernels: sizes of tiles, number of splits, what they write to."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any, Final

import torch
import triton

from neuron.engines.exllamav2.attention import kernels
from neuron.engines.exllamav2.attention.problem import Cache, Mask

_SPLIT_TOKENS: Final = 128
"""Fewer keys than this are not worth a split of their own."""
_MAX_SPLITS: Final = 128
_PROGRAMS_PER_PROCESSOR: Final = 2
"""While one computes, another's keys are on their way; more cost more to merge."""
_INTERPRETED_PROCESSORS: Final = 8
_MERGED_AT_ONCE: Final = 64
"""Loaded together: their latency is most of the time that merging takes."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Sizes of one program of `kernels.attend`."""

    rows: int
    keys: int
    dim: int
    warps: int
    stages: int


@lru_cache
def tiles_for(rows: int, head_dim: int, page: int | None) -> Tiles:
    """Tiles for that many rows (queries times heads of a group) per sequence.

    Rows fill tensor-core tiles of at least 16. A tile of keys lies within one page. A
    third stage is for the table: a page's number is read before its keys are due. All
    of it fits into the 99 KiB of shared memory that the smallest supported GPU (compute
    capability 8.9) gives one program.

    Raises:
        ValueError: the page size is no multiple of 16.
    """
    if page is not None and page % 16:
        raise ValueError(f"pages of {page} tokens; the kernels need a multiple of 16")
    dim = max(16, triton.next_power_of_2(head_dim))
    height = min(max(16, triton.next_power_of_2(rows)), 128 if dim <= 128 else 64)
    keys = 64 if dim <= 128 else 32
    while page is not None and page % keys:
        keys //= 2
    warps, stages = 8 if height == 128 else 4, 2 if page is None else 3
    return Tiles(height, keys, dim, warps, stages)


def splits_for(programs: int, room: int, processors: int) -> int:
    """Into how many parts keys are divided, from shapes alone.

    Args:
        programs: that one split takes.
        room: the most keys that a sequence can have.
        processors: multiprocessors of the GPU.
    """
    wanted = _PROGRAMS_PER_PROCESSOR * processors // programs
    useful = ceil(room / _SPLIT_TOKENS)
    return max(1, min(wanted, useful, _MAX_SPLITS))


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes it the one that Triton launches on, whichever is the process's own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def append(
    keys: torch.Tensor, values: torch.Tensor, cache: Cache, lengths: torch.Tensor
) -> None:
    """Write [batch, tokens, kv heads, head_dim] behind each sequence's length."""
    batch, tokens, kv_heads, head_dim = keys.shape
    row = kv_heads * head_dim
    keys, values = _with_whole_rows(keys), _with_whole_rows(values)
    with _current(keys.device):
        kernels.append_rows[(batch * tokens,)](
            keys,
            values,
            cache.keys,
            cache.values,
            lengths,
            cache.table_or_lengths(lengths),
            cache.width,
            cache.table_stride,
            tokens,
            *keys.stride()[:2],
            *values.stride()[:2],
            *cache.keys.stride()[:2],
            **appending(row, cache.page),
        )


def appending(row: int, page: int | None) -> dict[str, int]:
    """What `kernels.append_rows` is compiled for."""
    return {
        "ROW": row,
        "PAGE": page or 1,
        "PAGED": page is not None,
        "BLOCK": min(1024, triton.next_power_of_2(row)),
        "num_warps": 4,
    }


def _with_whole_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Heads of one token one after the other, wherever the tokens are."""
    _, _, _, head_dim = tensor.shape
    if tensor.stride(3) == 1 and tensor.stride(2) == head_dim:
        return tensor
    return tensor.contiguous()


def attend(
    query: torch.Tensor,
    cache: Cache,
    lengths: torch.Tensor,
    new_tokens: int,
    mask: Mask,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of [batch, queries, heads, head_dim] over `lengths + new_tokens` keys.

    Args:
        lengths: int32 [batch], on the queries' device.
        out: where the result goes; contiguous, shaped like `query`.
    """
    query = query.contiguous()
    batch, queries, heads, head_dim = query.shape
    kv_heads = cache.keys.shape[2]
    rows = queries * (heads // kv_heads)
    tiles = tiles_for(rows, head_dim, cache.page)
    row_tiles = ceil(rows / tiles.rows)
    programs = batch * row_tiles * kv_heads
    splits = splits_for(programs, cache.room, _processors(query.device))
    out = torch.empty_like(query) if out is None else out
    parts = (batch, kv_heads, splits, rows) if splits > 1 else (0,)
    sums = query.new_empty((*parts, head_dim), dtype=torch.float32)
    stats = query.new_empty((*parts, 2), dtype=torch.float32)
    model = heads_of(heads, kv_heads, head_dim)
    with _current(query.device):
        kernels.attend[(batch * row_tiles, kv_heads, splits)](
            query,
            cache.keys,
            cache.values,
            lengths,
            cache.table_or_lengths(lengths),
            out,
            sums,
            stats,
            cache.width,
            cache.table_stride,
            new_tokens,
            queries,
            splits,
            mask.scale,
            mask.softcap,
            mask.left,
            mask.right,
            *cache.keys.stride()[:3],
            **model,
            **variant_of(cache.page, mask, tiles),
        )
        if splits > 1:
            kernels.merge_splits[(batch * kv_heads, rows)](
                sums, stats, out, queries, splits, **model, **merging(tiles)
            )
    return out


def heads_of(heads: int, kv_heads: int, head_dim: int) -> dict[str, int]:
    """What a kernel is compiled for, of the model."""
    return {"KV_HEADS": kv_heads, "GROUP": heads // kv_heads, "HEAD_DIM": head_dim}


def variant_of(page: int | None, mask: Mask, tiles: Tiles) -> dict[str, int]:
    """What `kernels.attend` is compiled for besides.

    No length, batch or width of a table: a warm-up meets all that serving needs.
    """
    return {
        "PAGE": page or 1,
        "PAGED": page is not None,
        "CAUSAL": mask.causal,
        "LEFT": mask.left >= 0,
        "RIGHT": mask.right >= 0,
        "SOFTCAP": mask.softcap > 0,
        "BLOCK_M": tiles.rows,
        "BLOCK_N": tiles.keys,
        "BLOCK_D": tiles.dim,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def merging(tiles: Tiles) -> dict[str, int]:
    """What `kernels.merge_splits` is compiled for besides."""
    return {"BLOCK_D": tiles.dim, "BLOCK_S": _MERGED_AT_ONCE, "num_warps": 4}
