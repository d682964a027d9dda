"""The next token of every sequence of a batch, on whatever device its logits are.

To `SamplingParams`' order and to the reference engine's choices, token for token. Rows
are sorted by what they need: a greedy row takes one maximum, one with a temperature no
sort, and only a row with top_k or top_p has its likeliest tokens found. What is chosen
comes to the host in one copy at the end, which is the only wait; a second one follows
where the share that top_p asks for is spread over very many tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from neuron.engines.base import TokenLogprobs
from neuron.engines.exllamav2.sampling.logit_adjustment import adjust
from neuron.engines.exllamav2.sampling.row import RowSampling, Sampled
from neuron.engines.exllamav2.sampling.token_choice import (
    FEW,
    Filters,
    choose_by_id,
    choose_in_order,
    cut_at,
    largest,
    needs_order,
)
from neuron.engines.exllamav2.sampling.transfer import Download, upload

__all__ = ["BatchSampler", "RowSampling", "Sampled", "Sampling"]

_ROWS_AT_ONCE: Final = 32
"""Bounds what a step needs of the device: up to 50 bytes a row and token."""


class BatchSampler:
    """Chooses among the first `vocab` columns; what pads a vocabulary is no token."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab

    def sample(
        self, logits: torch.Tensor, rows: Sequence[RowSampling]
    ) -> list[Sampled]:
        """The next token of each row.

        Args:
            logits: [rows, padded vocab], of any floating type; left as they are.
            rows: what each row is sampled for.
        """
        return self.begin(logits, rows).wait()

    def begin(self, logits: torch.Tensor, rows: Sequence[RowSampling]) -> "Sampling":
        """As `sample`, not waiting for the device; logits are not looked at again."""
        if logits.device.type != "cpu":
            return self.begin_together(logits, rows)
        # A library may add up a row of many in another order than one alone.
        alone = [
            self.begin_together(logits[index : index + 1], [row])
            for index, row in enumerate(rows)
        ]
        tokens = torch.cat([sampling.tokens for sampling in alone])
        return Sampling(tokens, [part for each in alone for part in each.parts])

    def begin_together(
        self, logits: torch.Tensor, rows: Sequence[RowSampling]
    ) -> "Sampling":
        """As `begin`, all in one go on any device."""
        with torch.inference_mode():
            logits = logits[:, : self._vocab]
            table = self._table(logits, rows, FEW)
            kept = logits.clone() if any(map(self._may_fall_short, rows)) else None
            part = _Part(self, rows, kept, Download(table))
            return Sampling(table[:, 0].long(), [part])

    def all_of(
        self, logits: torch.Tensor, rows: Sequence[RowSampling]
    ) -> list[list[float]]:
        """Lines as `_table` has them, with the whole vocabulary as candidates."""
        table: list[list[float]] = self._table(logits, rows, self._vocab).tolist()
        return table

    def _may_fall_short(self, row: RowSampling) -> bool:
        """Whether the share that it asks for may be spread over more than `FEW`."""
        is_open = cut_at(row, self._vocab) == self._vocab and self._vocab > FEW
        return row.params.temperature != 0 and row.params.top_p < 1 and is_open

    def _table(
        self, logits: torch.Tensor, rows: Sequence[RowSampling], few: int
    ) -> torch.Tensor:
        """What comes to the host: fp64, which holds any id, [rows, columns].

        Columns are the token, whether the row is finite, whether any token may come,
        whether `few` candidates were enough; then, where anyone wants them, what
        `_logprobs` gives.
        """
        best, tokens = logits.max(-1)
        finite = best.isfinite()
        possible, enough = finite.clone(), torch.ones_like(finite)
        for part in self._parts(rows):
            # No one has to be picked where all go the same way.
            where: slice | torch.Tensor = slice(None)
            if len(part) < len(rows):
                where = upload(part, torch.int64, logits.device)
            some = [rows[index] for index in part]
            adjusted = logits[where].to(torch.float64, copy=True)
            adjust(adjusted, some)
            possible[where] &= adjusted.amax(-1).isfinite()
            tokens[where], enough[where] = self._choose(adjusted, some, few)
        table = torch.stack([tokens, finite, possible, enough], 1).double()
        if any(row.top_logprobs is not None for row in rows):
            table = torch.cat([table, self._logprobs(logits, tokens, rows)], 1)
        return table

    def _parts(self, rows: Sequence[RowSampling]) -> list[list[int]]:
        """Rows that go the same way, but for those that the plain maximum serves."""
        greedy: list[int] = []
        by_id: list[int] = []
        in_order: list[int] = []
        for index, row in enumerate(rows):
            if row.params.temperature == 0:
                if row.is_adjusted:
                    greedy.append(index)
            elif needs_order(row, self._vocab):
                in_order.append(index)
            else:
                by_id.append(index)
        return [part for way in (greedy, by_id, in_order) for part in _bounded(way)]

    def _choose(
        self, adjusted: torch.Tensor, rows: Sequence[RowSampling], few: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of rows that go the same way; whether `few` candidates were enough."""
        enough = adjusted.new_ones(len(rows), dtype=torch.bool)
        if rows[0].params.temperature == 0:
            return adjusted.argmax(-1), enough
        filters = Filters.of(rows, self._vocab, adjusted.device)
        if not needs_order(rows[0], self._vocab):
            return choose_by_id(adjusted, filters), enough
        cuts = [cut_at(row, self._vocab) for row in rows]
        count = max(cut if cut < self._vocab else few for cut in cuts)
        return choose_in_order(adjusted, filters, min(count, self._vocab))

    def _logprobs(
        self, logits: torch.Tensor, tokens: torch.Tensor, rows: Sequence[RowSampling]
    ) -> torch.Tensor:
        """fp64 [rows, 1 + 2 n], zeros for rows that want none."""
        asked = [row.top_logprobs for row in rows]
        wanted = [index for index, top in enumerate(asked) if top is not None]
        top = min(max((top or 0 for top in asked), default=0), self._vocab)
        table = tokens.new_zeros((len(rows), 1 + 2 * top), dtype=torch.float64)
        for part in _bounded(wanted):
            where = upload(part, torch.int64, logits.device)
            values = logits[where].double().log_softmax(-1)
            own = values.gather(1, tokens[where][:, None])
            if top:
                likeliest, ids = largest(values, top)
                own = torch.cat([own, ids.double(), likeliest], 1)
            table[where] = own
        return table


def _bounded(rows: list[int]) -> list[list[int]]:
    """No more at once than there is to be room for."""
    starts = range(0, len(rows), _ROWS_AT_ONCE)
    return [rows[start : start + _ROWS_AT_ONCE] for start in starts]


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows whose tokens come in one piece."""

    sampler: BatchSampler
    rows: Sequence[RowSampling]
    logits: torch.Tensor | None
    """[rows, vocab], where they may have to be looked at again."""
    lines: Download

    def wait(self) -> list[Sampled]:
        lines = self.lines.wait().tolist()
        sampled = [_sampled(*each) for each in zip(lines, self.rows, strict=True)]
        short = [i for i, (_, _, possible, enough, *_) in enumerate(lines)
                 if possible > enough]  # fmt: skip
        if short and self.logits is not None:
            where = upload(short, torch.int64, self.logits.device)
            some = [self.rows[index] for index in short]
            again = self.sampler.all_of(self.logits[where], some)
            for index, line in zip(short, again, strict=True):
                sampled[index] = _sampled(line, self.rows[index], is_early=False)
        return sampled


@dataclass(frozen=True, slots=True)
class Sampling:
    """Tokens that a device is choosing."""

    tokens: torch.Tensor
    """int64 [rows], where the logits are: those of which `Sampled.is_early` is true."""
    parts: Sequence[_Part]

    def wait(self) -> list[Sampled]:
        """What was chosen for each row."""
        with torch.inference_mode():
            return [sampled for part in self.parts for sampled in part.wait()]


def _sampled(line: list[float], row: RowSampling, *, is_early: bool = True) -> Sampled:
    token, finite, possible, _, *scores = line
    logprobs = None
    if row.top_logprobs is not None and possible:
        own, *top = scores
        half = len(top) // 2
        pairs = list(zip(map(int, top[:half]), top[half:], strict=True))
        logprobs = TokenLogprobs(own, tuple(pairs[: row.top_logprobs]))
    return Sampled(int(token), logprobs, bool(finite), bool(possible), is_early)
