"""One pass of tokens through the model: [tokens] to logits, keys and values stored."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from neuron.engines.reference.attention import Attention, Span
from neuron.engines.reference.block import Block, BlockBuffers, Head, HeadBuffers
from neuron.engines.reference.cache import PAGE
from neuron.engines.reference.config import ModelConfig
from neuron.engines.reference.threads import Threads, quiet
from neuron.engines.reference.tiles import WIDTH, Floats, row_sizes
from neuron.engines.reference.weights import Layouts, Weights


class Forward:
    """Weights, cache and scratch of one loaded model."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        pages: int,
        context: int,
        rows: int,
        wanted: int,
    ) -> None:
        """`rows` tokens are computed at most at a time, logits of `wanted` of them."""
        layouts = Layouts.of(config)
        sizes = row_sizes(_trials(config, layouts))
        self._config = config
        self._weights = weights
        self._sizes = sizes
        self._threads = Threads()
        self._attention = Attention(config, pages=pages, context=context, sizes=sizes)
        self._turns = config.rope.table(context, config.head_dim)
        self._block_buffers = BlockBuffers(config, layouts, sizes.padded(rows))
        self._head_buffers = HeadBuffers(config, layouts.head, sizes.padded(wanted))
        self._blocks: dict[int, Block] = {}
        self._heads: dict[int, Head] = {}
        self._x = self._block_buffers.x
        """[tokens of the last run, hidden]"""
        self.wanted = wanted
        self.vocab = config.vocab

    @property
    def nbytes(self) -> int:
        """Weights, cache and scratch."""
        fixed = self._weights.nbytes + self._turns.nbytes + self._attention.nbytes
        return fixed + self._block_buffers.nbytes + self._head_buffers.nbytes

    def close(self) -> None:
        self._threads.close()

    def run(
        self, tokens: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]
    ) -> tuple[Floats, bool]:
        """Compute spans of equal length whose tokens are `tokens`, one after another.

        Returns the logits after the tokens with the indices `wanted`, [wanted, vocab]:
        a view that the next call overwrites; and whether all that was computed is
        finite.
        """
        count = len(tokens)
        block = self._block(self._sizes.padded(count))
        block.x[:count] = self._weights.embedding[np.asarray(tokens)]
        block.x[count:] = 0
        positions, pages = _places(spans)
        offsets = positions % PAGE
        turns = self._turns[positions][:, None]
        self._attention.plan(spans, block.queries, block.attended)
        turned, keys_values = block.turned[:count], block.keys_values[:count]
        with quiet():
            for index, layer in enumerate(self._weights.layers):
                block.project(layer)
                turned *= turns
                self._attention.store(index, pages, offsets, keys_values)
                self._attention.run(index)
                block.finish(layer)
            is_finite = math.isfinite(block.x[:count].sum())
        self._x = block.x
        return self.logits(wanted), is_finite

    def logits(self, wanted: Sequence[int]) -> Floats:
        """After the tokens of the last `run` with these indices, [wanted, vocab].

        A view that the next call overwrites.
        """
        if not wanted:
            return np.empty((0, self._config.vocab), np.float32)
        head = self._head(self._sizes.padded(len(wanted)))
        with quiet():
            return head.logits(self._weights.head, self._x, wanted)

    def clear(self, pages: Sequence[int]) -> None:
        """Forget what is in the pages: not even 0 · NaN must get out of them."""
        self._attention.clear(pages)

    def _block(self, rows: int) -> Block:
        if rows not in self._blocks:
            self._blocks[rows] = Block(
                self._block_buffers, rows, self._sizes, self._threads
            )
        return self._blocks[rows]

    def _head(self, rows: int) -> Head:
        if rows not in self._heads:
            self._heads[rows] = Head(
                self._head_buffers, rows, self._sizes, self._threads
            )
        return self._heads[rows]


def _places(spans: Sequence[Span]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Position and page of every token."""
    positions = [
        position
        for span in spans
        for position in range(span.start, span.start + span.count)
    ]
    pages = [
        span.table.pages[position // PAGE]
        for span in spans
        for position in range(span.start, span.start + span.count)
    ]
    return np.array(positions, np.intp), np.array(pages, np.intp)


def _trials(config: ModelConfig, layouts: Layouts) -> Iterator[Floats]:
    """Right-hand sides of every kind of product, as they lie in memory."""
    random = np.random.default_rng(1)

    def some(*shape: int) -> Floats:
        return random.standard_normal(shape).astype(np.float32)

    for depth in {layout.depth for layout in layouts}:
        yield some(depth, WIDTH)
    yield some(PAGE, config.head_dim).T
    yield some(PAGE, config.head_dim)
