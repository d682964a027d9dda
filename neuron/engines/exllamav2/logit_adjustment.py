"""What is done to logits before a token is chosen: biases, penalties, masks."""

from collections.abc import Sequence

import numpy as np
import torch

from neuron.engines.exllamav2.row_sampling import RowSampling
from neuron.engines.exllamav2.transfer import upload


def adjust(logits: torch.Tensor, rows: Sequence[RowSampling]) -> None:
    """Change fp64 [rows, vocab] in place, each row as its request says.

    In this order: logit_bias, repetition penalty, frequency and presence penalty, then
    what may come at all.
    """
    for index, row in enumerate(rows):
        if not row.is_adjusted:
            continue
        values = logits[index]
        _add_bias(values, row)
        _penalize_repetition(values, row)
        _penalize_output(values, row)
        _forbid(values, row)


def _add_bias(values: torch.Tensor, row: RowSampling) -> None:
    bias = row.params.logit_bias
    if bias:
        ids = upload(list(bias), torch.int64, values.device)
        values.index_add_(0, ids, upload([*bias.values()], values.dtype, values.device))


def _penalize_repetition(values: torch.Tensor, row: RowSampling) -> None:
    penalty = row.params.repetition_penalty
    if penalty == 1:
        return
    seen = _spare_column(values, torch.bool)
    for ids in (row.prompt_ids, row.output_ids):
        seen.index_fill_(0, _ids(ids, values), True)
    penalized = torch.where(values > 0, values / penalty, values * penalty)
    torch.where(seen[:-1], penalized, values, out=values)


def _penalize_output(values: torch.Tensor, row: RowSampling) -> None:
    frequency, presence = row.params.frequency_penalty, row.params.presence_penalty
    if not (frequency or presence):
        return
    counts = _spare_column(values, values.dtype)
    ids = _ids(row.output_ids, values)
    counts.index_add_(0, ids, torch.ones_like(ids, dtype=counts.dtype))
    counts = counts[:-1]
    values -= frequency * counts + presence * (counts > 0)


def _forbid(values: torch.Tensor, row: RowSampling) -> None:
    if row.mask is not None:
        words = row.mask[: -(-len(values) // 32)]
        packed = upload(np.ascontiguousarray(words), torch.int32, values.device)
        places = torch.arange(32, dtype=torch.int32, device=values.device)
        bits = packed[:, None] >> places
        allowed = (bits & 1).bool().flatten()[: len(values)]
        values.masked_fill_(~allowed, -torch.inf)
    elif row.blocked:
        ids = upload(sorted(row.blocked), torch.int64, values.device)
        values.index_fill_(0, ids, -torch.inf)


def _spare_column(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Zeros [vocab + 1]; the last is for ids that are no tokens, such as an image's."""
    return torch.zeros(len(values) + 1, dtype=dtype, device=values.device)


def _ids(ids: Sequence[int] | torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    if isinstance(ids, torch.Tensor):
        tensor = ids.to(values.device, torch.int64, non_blocking=True)
    else:
        tensor = upload(ids, torch.int64, values.device)
    return tensor.clamp(max=len(values))
