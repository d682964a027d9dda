"""Causal attention of a batch over paged keys and values.

The scores of a page are one small product of fixed shape, and so is what its values
add; pages are summed in order. Hence a token's result depends on its own context alone:
not on the batch, not on where its pages lie, not on how its prompt was cut up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from neuron.engines.reference.cache import PAGE, PageTable, pages_for
from neuron.engines.reference.config import ModelConfig
from neuron.engines.reference.tiles import TILE, Floats, RowSizes

SCRATCH: Final = 1 << 22
"""Numbers in either scratch array, unless a single token needs more."""

PASS: Final = 32
"""Tokens of a prompt that attend together: the earlier ones then need not pass over
what only the later ones see."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence that are computed together."""

    start: int
    """Position of the first."""
    count: int
    table: PageTable
    """Of the whole sequence."""

    @property
    def used(self) -> int:
        """Pages that hold the context of its last token."""
        return pages_for(self.start + self.count)


@dataclass(slots=True)
class _Piece:
    """Neighbouring pages of one sequence: operands (over all layers) and results."""

    queries: Floats
    keys: Floats
    scores: Floats
    values: Floats
    mixed: Floats


@dataclass(slots=True)
class _Batch:
    """Spans of one length that are attended together; arrays are views of scratch, or
    of what `plan` was given, so that a layer makes none."""

    tokens: int
    """Of each span."""
    last_row: int
    """Of the qkv matrix, plus one."""
    source: Floats
    """Of the queries: [spans, kv_heads, tokens, group, head_dim]."""
    queries: Floats
    """As `source`."""
    scores: Floats
    """[spans, kv_heads, tokens · group, context]"""
    scores_by_page: Floats
    """[spans, kv_heads, tokens · group, pages, PAGE]"""
    totals: Floats
    """[spans, kv_heads, tokens · group]"""
    mixed_by_page: Floats
    """[spans, pages, kv_heads, tiles, rows, head_dim]"""
    mixed: Floats
    """[spans, kv_heads, tiles, rows, head_dim]"""
    dividend: Floats
    """Of the result, as `source`."""
    divisor: Floats
    """Of the result: [spans, kv_heads, tokens, group, 1]."""
    target: Floats
    """Where the result goes, as `source`."""
    pieces: list[_Piece]
    blanks: list[Floats]
    """What shorter sequences leave of `mixed_by_page` and `scores`."""
    masks: dict[int | None, Floats] = field(default_factory=dict)


class Attention:
    """Keys and values of all layers, and the scratch to attend over them."""

    def __init__(
        self, config: ModelConfig, *, pages: int, context: int, sizes: RowSizes
    ) -> None:
        self._config = config
        self._sizes = sizes
        # Not np.zeros, which would not get huge pages.
        self._cache = np.empty(
            (config.layers, 2, pages, config.kv_heads, PAGE, config.head_dim),
            np.float32,
        )
        self._cache.fill(0)
        self._scratch: dict[str, Floats] = {}
        self._masks = {
            window: _mask_table(pages_for(context) * PAGE, window)
            for window in set(config.windows)
        }
        self._planned: list[tuple[PageTable, int, int]] = []
        self._batches: list[_Batch] = []
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

    def clear(self, pages: Sequence[int]) -> None:
        """Fill pages with zeros."""
        self._cache[:, :, list(pages)] = 0

    def plan(self, spans: Sequence[Span], queries: Floats, attended: Floats) -> None:
        """Lay out one pass over spans of equal length.

        `run` will attend with `queries` and fill `attended`, both [rows, heads ·
        head_dim]; they are taken for the same as long as they have as many rows.
        """
        groups = self._grouped(spans)
        # While the same sequences decode within the same pages, only masks change.
        planned = [(s.table, s.used, s.count) for group in groups for s in group]
        if planned != self._planned:
            self._batches = []
            for group in groups:
                row = self._batches[-1].last_row if self._batches else 0
                self._batches.append(self._batch(group, row, queries, attended))
            self._planned = planned
        for batch, group in zip(self._batches, groups, strict=True):
            self._set_masks(batch, group)

    def run(self, layer: int) -> None:
        """Attend as planned, over keys and values that are stored already."""
        window = self._config.windows[layer]
        for batch in self._batches:
            if len(self._batches) > 1:  # the others have used the same scratch
                _clear(batch)
            _attend(batch, layer, batch.masks[window])

    def _grouped(self, spans: Sequence[Span]) -> list[Sequence[Span]]:
        """Cut up so that the scratch of each group fits, as far as that can be."""
        count, longest = spans[0].count, max(span.used for span in spans)
        if count <= PASS and self._fits(len(spans), count, longest):
            return [spans]
        if len(spans) > 1:
            middle = len(spans) // 2
            return self._grouped(spans[:middle]) + self._grouped(spans[middle:])
        span, step = spans[0], PASS
        while step > 1 and not self._fits(1, step, longest):
            step //= 2
        return [
            [Span(span.start + done, min(step, count - done), span.table)]
            for done in range(0, count, step)
        ]

    def _tiles(self, count: int) -> tuple[int, int]:
        """(tiles, rows per tile) for the queries of so many tokens at one kv head."""
        size = self._sizes.padded(count * self._config.group)
        rows = min(size, self._sizes.tile)
        return size // rows, rows

    def _fits(self, spans: int, count: int, pages: int) -> bool:
        config = self._config
        tiles, rows = self._tiles(count)
        numbers = spans * pages * tiles * rows * config.kv_heads
        return numbers * max(PAGE, config.head_dim) <= SCRATCH

    def _batch(
        self, spans: Sequence[Span], row: int, queries: Floats, attended: Floats
    ) -> _Batch:
        config = self._config
        many, count, group = len(spans), spans[0].count, config.group
        kv_heads, size = config.kv_heads, config.head_dim
        longest = max(span.used for span in spans)
        tiles, rows = self._tiles(count)
        slots = count * group
        padded_queries = self._array("queries", (many, kv_heads, tiles, rows, size))
        scores = self._array("scores", (many, kv_heads, tiles, rows, longest, PAGE))
        by_page = self._array("pages", (many, longest, kv_heads, tiles, rows, size))
        mixed = self._array("mixed", (many, kv_heads, tiles, rows, size))
        totals = self._array("totals", (many, kv_heads, slots))
        last = row + many * count

        def by_head(array: Floats) -> Floats:
            split = array[row:last].reshape(many, count, kv_heads, group, size)
            return split.transpose(0, 2, 1, 3, 4)

        def in_use(array: Floats, *rest: int) -> Floats:
            return array.reshape(many, kv_heads, -1, *rest)[:, :, :slots]

        by_token = (many, kv_heads, count, group, size)
        batch = _Batch(
            tokens=count,
            last_row=last,
            source=by_head(queries),
            queries=in_use(padded_queries, size).reshape(by_token),
            scores=in_use(scores, longest * PAGE),
            scores_by_page=in_use(scores, longest, PAGE),
            totals=totals,
            mixed_by_page=by_page,
            mixed=mixed,
            dividend=in_use(mixed, size).reshape(by_token),
            divisor=totals.reshape(*by_token[:-1], 1),
            target=by_head(attended),
            pieces=[
                piece
                for index, span in enumerate(spans)
                for piece in self._pieces(
                    span, padded_queries[index], scores[index], by_page[index]
                )
            ],
            blanks=[
                blank
                for index, span in enumerate(spans)
                if span.used < longest
                for blank in (
                    by_page[index, span.used :],
                    scores[index, ..., span.used :, :],
                )
            ],
        )
        _clear(batch)
        return batch

    def _pieces(
        self, span: Span, queries: Floats, scores: Floats, mixed: Floats
    ) -> Iterator[_Piece]:
        """One for each run of neighbouring pages."""
        scores = scores.transpose(3, 0, 1, 2, 4)
        for index, page, length in span.table.runs(span.used):
            held = self._cache[:, :, page : page + length, :, None]
            part = slice(index, index + length)
            keys, values = held[:, 0].swapaxes(-1, -2), held[:, 1]
            yield _Piece(queries, keys, scores[part], values, mixed[part])

    def _set_masks(self, batch: _Batch, spans: Sequence[Span]) -> None:
        """[spans, 1, tokens · group or 1, context]: 0 where a token is seen or -inf."""
        length = batch.scores.shape[-1]
        many, count, group = len(spans), batch.tokens, self._config.group
        rows: int | NDArray[np.intp] = spans[0].start
        if many * count > 1:
            start = np.array([span.start for span in spans])
            rows = (start[:, None] + np.arange(count)).repeat(
                group if count > 1 else 1, axis=1
            )
        for window, table in self._masks.items():
            mask = table[:, :length][rows]
            batch.masks[window] = mask.reshape(many, 1, -1, length)

    def _array(self, name: str, shape: tuple[int, ...]) -> Floats:
        """A view of scratch that grows as needed; contents are left over."""
        size = int(np.prod(shape))
        scratch = self._scratch.get(name)
        if scratch is None or scratch.size < size:
            self.nbytes += 4 * size - (0 if scratch is None else scratch.nbytes)
            scratch = self._scratch[name] = np.zeros(size, np.float32)
        return scratch[:size].reshape(shape)


def scratch_numbers(config: ModelConfig, slots: int, context: int) -> int:
    """At most that many are in the scratch of so many sequences of that length."""
    decoding = slots * -(-config.group // TILE) * TILE
    rows = max(decoding, -(-PASS * config.group // TILE) * TILE) * config.kv_heads
    width = max(PAGE, config.head_dim)
    return 2 * min(SCRATCH, rows * width * pages_for(context)) + 3 * rows * width


def _clear(batch: _Batch) -> None:
    for blank in batch.blanks:
        blank.fill(0)


def _attend(batch: _Batch, layer: int, mask: Floats) -> None:
    batch.queries[...] = batch.source
    for piece in batch.pieces:
        np.matmul(piece.queries, piece.keys[layer], out=piece.scores)
    scores = batch.scores
    scores += mask
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    for piece in batch.pieces:
        np.matmul(piece.scores, piece.values[layer], out=piece.mixed)
    # Page by page, because NumPy's own order over a row depends on its length.
    totals = np.add.reduce(batch.scores_by_page, axis=-2)
    np.add.reduce(totals, axis=-1, out=batch.totals)
    np.add.reduce(batch.mixed_by_page, axis=1, out=batch.mixed)
    np.divide(batch.dividend, batch.divisor, out=batch.target)


def _mask_table(context: int, window: int | None) -> Floats:
    """[position, context]: what a token sees; one row shifted, so hardly any memory."""
    distance = np.arange(context - 1, -context, -1)  # back from the token looking
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    row = np.where(seen, np.float32(0), np.float32(-np.inf))
    step = row.itemsize
    table: Floats = as_strided(
        row[context - 1 :],
        (context, context),
        (-step, step),
        writeable=False,
    )
    return table
