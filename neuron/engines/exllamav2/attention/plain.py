"""The same attention in plain torch, for where nothing runs the kernels.

One sequence after the other, whole score matrices in fp32: right, and slow.
"""

from itertools import pairwise

import torch

from neuron.engines.exllamav2.attention.problem import Cache, Mask


def append(
    keys: torch.Tensor, values: torch.Tensor, cache: Cache, lengths: torch.Tensor
) -> None:
    """Write [batch, tokens, kv heads, head_dim] behind each sequence's length."""
    tokens = keys.shape[1]
    for index, length in enumerate(lengths.tolist()):
        count = min(tokens, cache.room - length)
        place = _places(cache, index, length, length + count)
        cache.keys[place] = keys[index, :count]
        cache.values[place] = values[index, :count]


def attend(
    query: torch.Tensor,
    cache: Cache,
    lengths: torch.Tensor,
    new_tokens: int,
    mask: Mask,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `launch.attend`."""
    result = torch.empty_like(query) if out is None else out
    for index, length in enumerate(lengths.tolist()):
        place = _places(cache, index, 0, min(length + new_tokens, cache.room))
        one = attention(query[index], cache.keys[place], cache.values[place], mask)
        result[index] = one
    return result


def attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask
) -> torch.Tensor:
    """Of [queries, heads, head_dim] over [keys, kv heads, head_dim].

    A query that sees no key has a result of zeros.
    """
    group = query.shape[1] // keys.shape[1]
    keys = keys.repeat_interleave(group, 1).float()
    values = values.repeat_interleave(group, 1).float()
    score = torch.einsum("qhd,khd->hqk", query.float(), keys) * mask.scale
    if mask.softcap:
        score = torch.tanh(score / mask.softcap) * mask.softcap
    count, length = query.shape[0], keys.shape[0]
    own = torch.arange(length - count, length, device=query.device)[:, None]
    position = torch.arange(length, device=query.device)[None, :]
    hidden = torch.zeros((count, length), dtype=torch.bool, device=query.device)
    if mask.right >= 0:
        hidden |= position > own + mask.right
    if mask.left >= 0:
        hidden |= position < own - mask.left
    score = score.masked_fill(hidden, -torch.inf)
    weights = torch.softmax(score, -1).nan_to_num(0.0)
    return torch.einsum("hqk,khd->qhd", weights, values).to(query.dtype)


def segments(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: Mask,
    starts: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Of [tokens, heads, head_dim]: sequences one after the other, from `starts` on."""
    result = torch.empty_like(query)
    spans = zip(*(pairwise(each.tolist()) for each in starts), strict=True)
    for (first, end), (first_key, end_key) in spans:
        mine = slice(first_key, end_key)
        result[first:end] = attention(query[first:end], keys[mine], values[mine], mask)
    return result


def _places(
    cache: Cache, index: int, start: int, end: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a sequence's tokens from `start` to `end` are: page and slot of each."""
    position = torch.arange(start, end, device=cache.keys.device)
    if cache.table is None or cache.page is None:
        return torch.full_like(position, index), position
    pages = cache.table[index].long()
    return pages[position // cache.page], position % cache.page
