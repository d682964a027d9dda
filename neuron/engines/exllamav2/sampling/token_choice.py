"""One token of each row by a random number: temperature, top_k, top_p and min_p.

Candidates are in one order, that of the reference engine, so that the same number
chooses the same token: by id where only min_p cuts, else the likeliest first and equals
by lowest id. All is fp64, and nothing waits for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from neuron.engines.exllamav2.sampling.row import RowSampling
from neuron.engines.exllamav2.sampling.transfer import upload

FEW: Final = 1024
"""Tokens that nearly always hold the share `top_p` asks for."""


@dataclass(frozen=True, slots=True)
class Filters:
    """The numbers of some rows, each fp64 [rows, 1] on the device."""

    temperature: torch.Tensor
    top_k: torch.Tensor
    """The vocabulary's size where there is none."""
    top_p: torch.Tensor
    min_p: torch.Tensor
    uniform: torch.Tensor
    any_whole: bool
    """Whether a row has no top_k."""

    @classmethod
    def of(
        cls, rows: Sequence[RowSampling], vocab: int, device: torch.device
    ) -> "Filters":
        """Uploaded in one piece."""
        values = [
            (p.temperature, cut_at(row, vocab), p.top_p, p.min_p, row.uniform)
            for row in rows
            for p in (row.params,)
        ]
        any_whole = any(cut_at(row, vocab) == vocab for row in rows)
        columns = upload(list(zip(*values, strict=True)), torch.float64, device)
        temperature, top_k, top_p, min_p, uniform = columns[:, :, None]
        return cls(temperature, top_k, top_p, min_p, uniform, any_whole)


def cut_at(row: RowSampling, vocab: int) -> int:
    """How many candidates top_k leaves."""
    return row.params.top_k if 0 < row.params.top_k < vocab else vocab


def needs_order(row: RowSampling, vocab: int) -> bool:
    """Whether the likeliest have to be found."""
    return cut_at(row, vocab) < vocab or row.params.top_p < 1


def choose_by_id(adjusted: torch.Tensor, filters: Filters) -> torch.Tensor:
    """Ids [rows] from adjusted logits [rows, vocab], where at most min_p cuts."""
    scaled, likeliest = _scaled(adjusted, filters)
    weights = scaled.exp_()
    weights.masked_fill_(weights < filters.min_p, 0.0)
    sums = weights.cumsum(-1)
    index = _drawn(sums, sums[:, -1:].contiguous(), filters)
    # A device adds up in an order of its own; then rounding alone may have chosen a
    # token of no weight.
    return torch.where(weights.gather(1, index) > 0, index, likeliest)[:, 0]


def choose_in_order(
    adjusted: torch.Tensor, filters: Filters, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [rows], and whether the `count` likeliest were enough to tell.

    Args:
        adjusted: [rows, vocab].
        filters: of the rows.
        count: candidates that are looked at; no less than any row's top_k unless that
            is none at all.
    """
    vocab = adjusted.shape[1]
    scaled, _ = _scaled(adjusted, filters)
    values, ids = largest(scaled, count)
    weights = values.exp_()
    sums = weights.cumsum(-1)
    top_k = filters.top_k.long()
    is_cut = top_k < vocab
    whole = sums.gather(1, top_k.clamp(max=count) - 1)
    if filters.any_whole and count < vocab:
        everything = scaled.exp_().cumsum(-1)[:, -1:].contiguous()
        whole = torch.where(is_cut, whole, everything)
    share = filters.top_p * whole
    likely = ((weights >= filters.min_p) & (weights > 0)).sum(-1, keepdim=True)
    kept = torch.where(filters.top_p < 1, torch.searchsorted(sums, share) + 1, vocab)
    kept = kept.minimum(likely).minimum(top_k).clamp(min=1)
    index = _drawn(sums, sums.gather(1, kept - 1), filters).minimum(kept - 1)
    enough = is_cut | (likely < count) | (sums[:, -1:] >= share)
    if count == vocab:
        enough = torch.ones_like(enough)
    return ids.gather(1, index)[:, 0], enough[:, 0]


def largest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of each row and their ids.

    Largest first, equals by lowest id. `topk` finds equals in any order, and at the end
    any of them.
    """
    rows, width = values.shape
    if count >= width:
        return tuple(values.sort(dim=-1, descending=True, stable=True))
    found, ids = values.topk(count)
    by_id = ids.argsort(-1)
    found, ids = found.gather(1, by_id), ids.gather(1, by_id)
    found, order = found.sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(1, order)
    smallest = found[:, -1:]
    above = (found > smallest).sum(-1, keepdim=True)
    rank = (values == smallest).cumsum(-1)
    place = torch.arange(count, device=values.device).expand(rows, count)
    equal = torch.searchsorted(rank, (place - above + 1).clamp(min=1))
    return found, torch.where(place < above, ids, equal.clamp(max=width - 1))


def _scaled(
    adjusted: torch.Tensor, filters: Filters
) -> tuple[torch.Tensor, torch.Tensor]:
    """0 for the likeliest, less for others; and the likeliest's id, [rows, 1].

    A temperature near 0 leaves one token: all else overflows to no weight.
    """
    best, likeliest = adjusted.max(-1, keepdim=True)
    return (adjusted - best) / filters.temperature, likeliest


def _drawn(sums: torch.Tensor, total: torch.Tensor, filters: Filters) -> torch.Tensor:
    """Where the random number falls."""
    index = torch.searchsorted(sums, filters.uniform * total, right=True)
    return index.clamp(max=sums.shape[1] - 1)
