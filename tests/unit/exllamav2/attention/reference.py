"""Attention written down as plainly as can be, in float64, to judge the others by."""

from dataclasses import dataclass

import torch

from neuron.engines.exllamav2.attention.problem import Cache, Mask
from tests.unit.exllamav2.attention.cases import Case


@dataclass(frozen=True, slots=True)
class Call:
    """The tensors of a case. Where nothing was written the cache holds NaN."""

    query: torch.Tensor
    keys: torch.Tensor | None
    values: torch.Tensor | None
    cache: Cache
    lengths: torch.Tensor
    mask: Mask

    @classmethod
    def of(cls, case: Case) -> "Call":
        """Random, but the same each time."""
        random = torch.Generator().manual_seed(7)
        dtype = getattr(torch, case.dtype)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=random).to(dtype)

        batch = len(case.lengths)
        shape = (batch, case.queries, case.kv_heads, case.head_dim)
        keys, values = (
            (normal(*shape), normal(*shape)) if case.appends else (None, None)
        )
        cache = _empty_cache(case, dtype, random)
        for index, length in enumerate(case.lengths):
            for position in range(length):
                place = place_of(cache, index, position)
                cache.keys[place] = normal(case.kv_heads, case.head_dim)
                cache.values[place] = normal(case.kv_heads, case.head_dim)
        query = normal(batch, case.queries, case.heads, case.head_dim)
        mask = Mask.of(query, None, case.causal, case.window, case.softcap)
        lengths = torch.tensor(case.lengths, dtype=torch.int32)
        return cls(query, keys, values, cache, lengths, mask)

    def on(self, device: str) -> "Call":
        """The same, its tensors moved."""
        cache = self.cache
        return Call(
            self.query.to(device),
            None if self.keys is None else self.keys.to(device),
            None if self.values is None else self.values.to(device),
            Cache(
                cache.keys.to(device),
                cache.values.to(device),
                None if cache.table is None else cache.table.to(device),
            ),
            self.lengths.to(device),
            self.mask,
        )


def _empty_cache(case: Case, dtype: torch.dtype, random: torch.Generator) -> Cache:
    batch = len(case.lengths)
    most = max(case.lengths) + case.queries * case.appends
    tail = (case.kv_heads, case.head_dim)
    if case.page is None:
        shape: tuple[int, ...] = (batch, most + 5, *tail)
        table = None
    else:
        width = max(1, -(-most // case.page))
        pages = batch * width + 2
        shape = (pages, case.page, *tail)
        order = torch.randperm(pages - 1, generator=random) + 1  # page 0 is padding
        table = torch.zeros((batch, width + case.spare_columns), dtype=torch.int32)
        table[:, :width] = order[: batch * width].view(batch, width)
        for index, length in enumerate(case.lengths):
            used = -(-(length + case.queries * case.appends) // case.page)
            table[index, used:] = 0
    keys = torch.full(shape, torch.nan, dtype=dtype)
    return Cache(keys, keys.clone(), table)


def place_of(cache: Cache, index: int, position: int) -> tuple[int, int]:
    if cache.table is None or cache.page is None:
        return index, position
    return int(cache.table[index, position // cache.page]), position % cache.page


def expected_cache(call: Call) -> Cache:
    """After the new tokens were written, one at a time."""
    cache = Cache(call.cache.keys.clone(), call.cache.values.clone(), call.cache.table)
    if call.keys is not None and call.values is not None:
        for index, length in enumerate(call.lengths.tolist()):
            for token in range(call.keys.shape[1]):
                place = place_of(cache, index, length + token)
                cache.keys[place] = call.keys[index, token]
                cache.values[place] = call.values[index, token]
    return cache


def expected_result(call: Call) -> torch.Tensor:
    """[batch, queries, heads, head_dim], float64."""
    cache = expected_cache(call)
    new = 0 if call.keys is None else call.keys.shape[1]
    rows = []
    for index, length in enumerate(call.lengths.tolist()):
        keys = cache.keys.new_empty((length + new, *cache.keys.shape[2:]))
        values = torch.empty_like(keys)
        for position in range(length + new):
            place = place_of(cache, index, position)
            keys[position], values[position] = cache.keys[place], cache.values[place]
        rows.append(attention(call.query[index], keys, values, call.mask))
    return torch.stack(rows)


def attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask
) -> torch.Tensor:
    """Of [queries, heads, head_dim], one query and head after the other."""
    result = torch.zeros(query.shape, dtype=torch.float64)
    count, heads, _ = query.shape
    group = heads // keys.shape[1]
    for q in range(count):
        own = keys.shape[0] - count + q
        first = max(0, own - mask.left) if mask.left >= 0 else 0
        last = min(keys.shape[0] - 1, own + mask.right if mask.right >= 0 else 1 << 40)
        if last < first:
            continue
        for head in range(heads):
            seen = keys[first : last + 1, head // group].double()
            score = seen @ query[q, head].double() * mask.scale
            if mask.softcap:
                score = torch.tanh(score / mask.softcap) * mask.softcap
            weights = torch.softmax(score, 0)
            result[q, head] = weights @ values[first : last + 1, head // group].double()
    return result
