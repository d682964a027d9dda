"""Causal attention of a batch over paged keys and values.

The scores of a page are one small product of fixed shape, and so is what its values
add; pages are summed in order. Hence a token's result depends on its own context alone:
not on the batch, not on where its pages lie, not on how its prompt was cut up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from neuron.engines.reference.cache import PAGE
from neuron.engines.reference.config import ModelConfig
from neuron.engines.reference.tiles import Floats, RowSizes

SCRATCH: Final = 1 << 22
"""Numbers in the scratch of one product, unless a single row needs more."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence that are computed together."""

    start: int
    """Position of the first."""
    count: int
    pages: Sequence[int]
    """Of the whole sequence, from its first token on."""


@dataclass(slots=True)
class _Piece:
    """One sequence's consecutive pages, over all layers: operands and results."""

    queries: Floats
    keys: Floats
    scores: Floats
    values: Floats
    partial: Floats


@dataclass(slots=True)
class _Batch:
    """Spans of equal length whose scratch fits: every array is a view of scratch."""

    rows: slice
    """Of the qkv matrix."""
    spans: int
    count: int
    queries: Floats
    scores: Floats
    weights: Floats
    partial: Floats
    masks: dict[int | None, Floats]
    pieces: list[_Piece]


class Attention:
    """Keys and values of all layers, and the scratch to attend over them."""

    def __init__(self, config: ModelConfig, pages: int, sizes: RowSizes) -> None:
        self._config = config
        self._sizes = sizes
        self._cache = np.zeros(
            (config.layers, 2, pages, config.kv_heads, PAGE, config.head_dim),
            np.float32,
        )
        self._scratch: dict[str, Floats] = {}
        self.nbytes = self._cache.nbytes
        """Of cache and scratch."""

    def store(
        self,
        layer: int,
        pages: NDArray[np.intp],
        offsets: NDArray[np.intp],
        keys_values: Floats,
    ) -> None:
        """Put [tokens, 2, kv_heads, head_dim] where the tokens' pages are."""
        self._cache[layer][:, pages, :, offsets] = keys_values

    def plan(self, spans: Sequence[Span]) -> "list[_Batch]":
        """Lay out one step: all spans have the same length."""
        count = spans[0].count
        batches, first = [], 0
        while first < len(spans):
            last = first + 1
            while last < len(spans) and self._fits(spans[first : last + 1]):
                last += 1
            chosen = spans[first:last]
            row = first * count
            if len(chosen) == 1 and not self._fits(chosen):
                batches += self._plan_parts(chosen[0], row)
            else:
                batches.append(self._plan_batch(chosen, row))
            first = last
        return batches

    def run(self, layer: int, batch: _Batch, queries: Floats, attended: Floats) -> None:
        """Attend: `queries` and `attended` are [rows, heads · head_dim]."""
        config = self._config
        grouped = (
            batch.spans,
            batch.count,
            config.kv_heads,
            config.group,
            config.head_dim,
        )
        slots = batch.count * config.group
        by_head = (0, 2, 1, 3, 4)
        batch.queries[:, :, :slots].reshape(
            batch.spans, config.kv_heads, batch.count, config.group, config.head_dim
        )[...] = queries[batch.rows].reshape(grouped).transpose(by_head)
        for piece in batch.pieces:
            np.matmul(piece.queries, piece.keys[layer], out=piece.scores)
        scores = batch.scores
        scores += batch.masks[config.windows[layer]]
        scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        for piece in batch.pieces:
            np.matmul(piece.scores, piece.values[layer], out=piece.partial)
        # Page by page, because NumPy's own order over a row depends on its length.
        total = np.add.reduce(np.add.reduce(batch.weights, axis=-2), axis=-1)
        mixed = np.add.reduce(batch.partial, axis=1)
        flat = mixed.reshape(batch.spans, config.kv_heads, -1, config.head_dim)
        np.divide(
            flat[:, :, :slots].reshape(
                batch.spans, config.kv_heads, batch.count, config.group, -1
            ),
            total[:, :, :slots].reshape(
                batch.spans, config.kv_heads, batch.count, config.group, 1
            ),
            out=attended[batch.rows].reshape(grouped).transpose(by_head),
        )

    def _slots(self, count: int) -> tuple[int, int]:
        """(tiles, rows per tile) for the queries of so many tokens at one kv head."""
        size = self._sizes.padded(count * self._config.group)
        rows = min(size, self._sizes.tile)
        return size // rows, rows

    def _fits(self, spans: Sequence[Span]) -> bool:
        tiles, rows = self._slots(spans[0].count)
        longest = max(_pages(span) for span in spans)
        numbers = len(spans) * longest * tiles * rows * self._config.kv_heads
        return numbers * max(PAGE, self._config.head_dim) <= SCRATCH

    def _plan_parts(self, span: Span, row: int) -> "list[_Batch]":
        """A span too long for the scratch: as few tokens at a time as a tile holds."""
        step = max(1, self._sizes.tile // self._config.group)
        return [
            self._plan_batch(
                [Span(span.start + done, min(step, span.count - done), span.pages)],
                row + done,
            )
            for done in range(0, span.count, step)
        ]

    def _plan_batch(self, spans: Sequence[Span], row: int) -> _Batch:
        config = self._config
        many, count = len(spans), spans[0].count
        tiles, rows = self._slots(count)
        longest = max(_pages(span) for span in spans)
        heads = (many, config.kv_heads, tiles, rows)
        queries = self._array("queries", (*heads, config.head_dim))
        scores = self._array("scores", (*heads, longest * PAGE))
        weights = scores.reshape(*heads, longest, PAGE)
        partial = self._array(
            "partial",
            (many, longest, config.kv_heads, tiles, rows, config.head_dim),
        )
        by_page = weights.transpose(0, 4, 1, 2, 3, 5)
        pieces = []
        for index, span in enumerate(spans):
            used = _pages(span)
            # What no product fills must be neither a number nor an old result.
            scores[index, ..., used * PAGE :] = -np.inf
            partial[index, used:] = 0
            for first, last in _runs(span.pages, used):
                page = span.pages[first]
                held = self._cache[:, :, page : page + last - first, :, None]
                pieces.append(
                    _Piece(
                        queries[index],
                        held[:, 0].swapaxes(-1, -2),
                        by_page[index, first:last],
                        held[:, 1],
                        partial[index, first:last],
                    )
                )
        slots = tiles * rows
        return _Batch(
            rows=slice(row, row + many * count),
            spans=many,
            count=count,
            queries=queries.reshape(many, config.kv_heads, slots, config.head_dim),
            scores=scores.reshape(many, config.kv_heads, slots, longest * PAGE),
            weights=weights.reshape(many, config.kv_heads, slots, longest, PAGE),
            partial=partial,
            masks={
                window: self._mask(spans, slots, longest * PAGE, window)
                for window in set(config.windows)
            },
            pieces=pieces,
        )

    def _mask(
        self, spans: Sequence[Span], slots: int, length: int, window: int | None
    ) -> Floats:
        """[spans, 1, slots or 1, length]: 0 where a token is seen, else -inf."""
        count = spans[0].count
        token = np.minimum(np.arange(slots) // self._config.group, count - 1)
        if count == 1:
            token = token[:1]
        start = np.array([span.start for span in spans])
        position = (start[:, None] + token)[:, None, :, None]
        context = np.arange(length)
        seen = context <= position
        if window is not None:
            seen &= context > position - window
        return np.where(seen, np.float32(0), np.float32(-np.inf))

    def _array(self, name: str, shape: tuple[int, ...]) -> Floats:
        """A view of scratch that grows as needed; contents are left over."""
        size = int(np.prod(shape))
        scratch = self._scratch.get(name)
        if scratch is None or scratch.size < size:
            self.nbytes += 4 * size - (0 if scratch is None else scratch.nbytes)
            scratch = self._scratch[name] = np.zeros(size, np.float32)
        return scratch[:size].reshape(shape)


def _pages(span: Span) -> int:
    return -(-(span.start + span.count) // PAGE)


def _runs(pages: Sequence[int], used: int) -> list[tuple[int, int]]:
    """Stretches of neighbouring page numbers, as (first, last + 1) indices."""
    breaks = [i for i in range(1, used) if pages[i] != pages[i - 1] + 1]
    bounds = [0, *breaks, used]
    return list(pairwise(bounds))
