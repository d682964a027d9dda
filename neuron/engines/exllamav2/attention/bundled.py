"""Attention kernels that torch itself bundles (FlashAttention 2), without a host sync.

They take whole chunks of a prompt: compute-bound work, for which they are better tuned
than kernels of our own. They know no softcap.
"""

import torch

from neuron.engines.exllamav2.attention.problem import Cache, Mask


def can_take(query: torch.Tensor, mask: Mask) -> bool:
    """Whether torch's kernel does such heads and such a mask."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] % 8 == 0
        and not mask.softcap
    )


def over_pages(
    query: torch.Tensor,
    cache: Cache,
    lengths: torch.Tensor,
    new_tokens: int,
    mask: Mask,
) -> torch.Tensor:
    """As `launch.attend`, over a cache in pages.

    They are gathered: the kernel that reads pages by itself, where torch has it, takes
    half as many queries at once, which costs more than the copy.
    """
    assert cache.table is not None
    batch, queries, heads, head_dim = query.shape
    pages = cache.table.long()
    shape = (batch * cache.room, *cache.keys.shape[2:])
    result = _forward(
        query.reshape(batch * queries, heads, head_dim),
        cache.keys[pages].view(shape),
        cache.values[pages].view(shape),
        mask,
        tuple(_starts(batch, each, query.device) for each in (queries, cache.room)),
        (queries, cache.room),
        lengths + new_tokens,
    )
    return result.view(query.shape)


def over_rows(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask
) -> torch.Tensor:
    """Of [batch, queries, heads, head_dim] over [batch, keys, kv heads, head_dim]."""
    return _forward(
        query, keys, values, mask, (None, None), (query.shape[1], keys.shape[1])
    )


def over_segments(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: Mask,
    starts: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
) -> torch.Tensor:
    """Of [tokens, heads, head_dim]: sequences one after the other.

    Args:
        starts: int32 [sequences + 1] each, of queries and of keys.
        longest: a bound on the length of any sequence, of queries and of keys.
    """
    return _forward(query, keys, values, mask, starts, longest)


def _forward(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: Mask,
    starts: tuple[torch.Tensor | None, torch.Tensor | None],
    longest: tuple[int, int],
    used: torch.Tensor | None = None,
) -> torch.Tensor:
    result = torch.ops.aten._flash_attention_forward(
        query,
        keys,
        values,
        *starts,
        *longest,
        0.0,
        mask.causal,
        False,
        scale=mask.scale,
        window_size_left=mask.left,
        window_size_right=mask.right,
        seqused_k=used,
    )
    attended: torch.Tensor = result[0]
    return attended


def _starts(count: int, length: int, device: torch.device) -> torch.Tensor:
    """0, length, 2 length, … up to count lengths."""
    return torch.arange(
        0, (count + 1) * length, length, dtype=torch.int32, device=device
    )
