"""What is done to logits before a token is chosen: biases, penalties, masks.

All rows of a part at once, so that a large batch costs no more calls than a small one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from neuron.engines.exllamav2.sampling.row import RowSampling
from neuron.engines.exllamav2.sampling.transfer import upload

Ids = NDArray[np.int64]


def adjust(logits: torch.Tensor, rows: Sequence[RowSampling]) -> None:
    """Change fp64 [rows, vocab] in place, each row as its request says.

    In this order: logit_bias, repetition penalty, frequency and presence penalty, then
    what may come at all.
    """
    _add_bias(logits, rows)
    _penalize_repetition(logits, rows)
    _penalize_output(logits, rows)
    _mask(logits, rows)
    _block(logits, rows)


def _add_bias(logits: torch.Tensor, rows: Sequence[RowSampling]) -> None:
    biases = [row.params.logit_bias for row in rows]
    values = [value for bias in biases for value in bias.values()]
    if values:
        ids = _flat([_array(list(bias)) for bias in biases], logits)
        amounts = upload(values, logits.dtype, logits.device)
        logits.view(-1).index_add_(0, ids, amounts)


def _penalize_repetition(logits: torch.Tensor, rows: Sequence[RowSampling]) -> None:
    penalized = [i for i, r in enumerate(rows) if r.params.repetition_penalty != 1]
    if not penalized:
        return
    some = [rows[index] for index in penalized]
    seen = _seen(logits, some)
    factors = [[row.params.repetition_penalty] for row in some]
    factor = upload(factors, logits.dtype, logits.device)
    where = upload(penalized, torch.int64, logits.device)
    values = logits[where]
    changed = torch.where(values > 0, values / factor, values * factor)
    logits[where] = torch.where(seen, changed, values)


def _seen(logits: torch.Tensor, rows: Sequence[RowSampling]) -> torch.Tensor:
    """Which tokens are in prompt or output, [rows, vocab]."""
    vocab = logits.shape[1]
    seen = _spare_column(len(rows), logits, torch.bool)
    ids = []
    for index, row in enumerate(rows):
        prompt, output = row.prompt_ids, _array(row.output_ids)
        if isinstance(prompt, torch.Tensor):
            there = prompt.to(logits.device, torch.int64).clamp(max=vocab)
            seen[index].index_fill_(0, there, True)
            ids.append(output)
        else:
            ids.append(np.append(_array(prompt), output))
    flat = seen.view(-1).index_fill_(0, _spared(ids, seen), True)
    for last in _last(rows, seen):
        flat.index_fill_(0, last, True)
    return seen[:, :vocab]


def _penalize_output(logits: torch.Tensor, rows: Sequence[RowSampling]) -> None:
    amounts = [(r.params.frequency_penalty, r.params.presence_penalty) for r in rows]
    penalized = [index for index, amount in enumerate(amounts) if any(amount)]
    if not penalized:
        return
    vocab = logits.shape[1]
    counts = _spare_column(len(penalized), logits, logits.dtype)
    some = [rows[index] for index in penalized]
    known = _spared([_array(row.output_ids) for row in some], counts)
    for ids in (known, *_last(some, counts)):
        counts.view(-1).index_add_(0, ids, counts.new_ones(len(ids)))
    counts = counts[:, :vocab]
    chosen = [amounts[index] for index in penalized]
    columns = upload(list(zip(*chosen, strict=True)), logits.dtype, logits.device)
    frequency, presence = columns[:, :, None]
    where = upload(penalized, torch.int64, logits.device)
    logits[where] -= frequency * counts + presence * (counts > 0)


def _mask(logits: torch.Tensor, rows: Sequence[RowSampling]) -> None:
    vocab = logits.shape[1]
    words = -(-vocab // 32)
    masks = {i: r.mask[:words] for i, r in enumerate(rows) if r.mask is not None}
    if not masks:
        return
    packed = upload(np.stack([*masks.values()]), torch.int32, logits.device)
    places = torch.arange(32, dtype=torch.int32, device=logits.device)
    allowed = ((packed[:, :, None] >> places) & 1).bool().flatten(1)[:, :vocab]
    where = upload(list(masks), torch.int64, logits.device)
    logits[where] = logits[where].masked_fill(~allowed, -torch.inf)


def _block(logits: torch.Tensor, rows: Sequence[RowSampling]) -> None:
    blocked = [sorted(r.blocked) if r.mask is None else [] for r in rows]
    if any(blocked):
        ids = _flat([_array(ids) for ids in blocked], logits)
        logits.view(-1).index_fill_(0, ids, -torch.inf)


def _array(ids: Sequence[int]) -> Ids:
    return np.asarray(ids, np.int64)


def _flat(ids: Sequence[Ids], table: torch.Tensor) -> torch.Tensor:
    """Of each row's ids, into the table [rows, width] as one line."""
    width = table.shape[1]
    rows = [index * width + one for index, one in enumerate(ids)]
    return upload(np.concatenate(rows), torch.int64, table.device)


def _spared(ids: Sequence[Ids], table: torch.Tensor) -> torch.Tensor:
    """As `_flat`; ids that are no tokens, such as an image's, go to the last column."""
    return _flat([np.minimum(one, table.shape[1] - 1) for one in ids], table)


def _last(rows: Sequence[RowSampling], table: torch.Tensor) -> list[torch.Tensor]:
    """As `_flat`, of the last tokens that only the device knows; none where the host
    knows all."""
    lasts = {i: row.last for i, row in enumerate(rows) if row.last is not None}
    if not lasts:
        return []
    starts = [index * table.shape[1] for index in lasts]
    start = upload(starts, torch.int64, table.device)
    return [torch.cat([*lasts.values()]) + start]


def _spare_column(count: int, logits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Zeros [count, vocab + 1]."""
    shape = (count, logits.shape[1] + 1)
    return torch.zeros(shape, dtype=dtype, device=logits.device)
