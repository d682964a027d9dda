"""What a transformer block does between its products, and the output head.

Buffers are made once for the largest number of rows; a `Block` is the set of views for
one smaller number. Rows beyond the tokens are computed and not used.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from neuron.engines.reference.config import ModelConfig
from neuron.engines.reference.threads import Threads
from neuron.engines.reference.tiles import Floats, Layout, Product, RowSizes
from neuron.engines.reference.weights import Layer, Layouts, Matrix

_ALIGNMENT: Final = 16
"""Numbers in a cache line."""


class BlockBuffers:
    """Activations of one block, [rows, …], shared by all layers."""

    def __init__(self, config: ModelConfig, layouts: Layouts, rows: int) -> None:
        self.config = config
        self.layouts = layouts
        self.x = _residuals(rows, config)
        """The residual stream."""
        self.normed = _zeros(rows, layouts.qkv.padded_inputs)
        self.qkv = _zeros(rows, layouts.qkv.padded_outputs)
        self.attended = _zeros(rows, layouts.o.padded_inputs)
        self.gate_up = _zeros(rows, layouts.gate_up.padded_outputs)
        self.activated = _zeros(rows, layouts.down.padded_inputs)
        self.update = _zeros(rows, layouts.o.padded_outputs)
        """What attention or the MLP adds to the residual stream."""
        widest = max(layout.partial_size for layout in layouts)
        self.partial = np.zeros(rows * widest, np.float32)
        self.nbytes = _nbytes(self)


class HeadBuffers:
    """Activations of the output head, [rows, …]."""

    def __init__(self, config: ModelConfig, layout: Layout, rows: int) -> None:
        self.config = config
        self.layout = layout
        self.x = _residuals(rows, config)
        self.normed = _zeros(rows, layout.padded_inputs)
        self.logits = _zeros(rows, layout.padded_outputs)
        self.partial = np.zeros(rows * layout.partial_size, np.float32)
        self.nbytes = _nbytes(self)


def _zeros(rows: int, columns: int) -> Floats:
    return np.zeros((rows, columns), np.float32)


def _residuals(rows: int, config: ModelConfig) -> Floats:
    """The residual stream, and a column whose square is what a norm adds."""
    stream = _zeros(rows, config.hidden + _ALIGNMENT)
    stream[:, config.hidden] = math.sqrt(config.hidden * config.eps)
    return stream


def _nbytes(buffers: BlockBuffers | HeadBuffers) -> int:
    arrays = vars(buffers).values()
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


class _Norm:
    """`outputs = inputs / √(Σ squared² + floor)`, along the last axis."""

    def __init__(
        self, squared: Floats, inputs: Floats, outputs: Floats, floor: float = 0
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._left, self._right = squared[..., None, :], squared[..., :, None]
        self._squares = np.empty((*squared.shape[:-1], 1, 1), np.float32)
        self._divisor = self._squares[..., 0]
        self._floor = np.float32(floor)

    def __call__(self) -> None:
        squares = self._squares
        np.matmul(self._left, self._right, out=squares)
        if self._floor:
            squares += self._floor
        np.sqrt(squares, out=squares)
        np.divide(self._inputs, self._divisor, out=self._outputs)


class _Linear:
    """A product and its bias, between two buffers."""

    def __init__(self, product: Product, outputs: Floats) -> None:
        self._product = product
        self._outputs = outputs

    def __call__(self, matrix: Matrix) -> None:
        self._product(matrix.panels)
        if matrix.bias is not None:
            self._outputs += matrix.bias


class Block:
    """The transformer blocks for one number of rows."""

    def __init__(
        self, buffers: BlockBuffers, rows: int, sizes: RowSizes, threads: Threads
    ) -> None:
        config, layouts = buffers.config, buffers.layouts
        stream = buffers.x[:rows]
        self.x = stream[:, : config.hidden]
        normed, qkv = buffers.normed[:rows], buffers.qkv[:rows]
        attended, update = buffers.attended[:rows], buffers.update[:rows]
        gate_up, activated = buffers.gate_up[:rows], buffers.activated[:rows]

        def linear(layout: Layout, inputs: Floats, outputs: Floats) -> _Linear:
            partial = buffers.partial
            product = Product(layout, inputs, outputs, partial, sizes, threads)
            return _Linear(product, outputs)

        self._qkv = linear(layouts.qkv, normed, qkv)
        self._o = linear(layouts.o, attended, update)
        self._gate_up = linear(layouts.gate_up, normed, gate_up)
        self._down = linear(layouts.down, activated, update)
        self._norm = _Norm(stream, self.x, normed[:, : config.hidden])

        queries = config.heads * config.head_dim
        keys = config.kv_heads * config.head_dim
        self.queries = qkv[:, :queries]
        self.keys_values = qkv[:, queries : queries + 2 * keys].reshape(
            rows, 2, config.kv_heads, config.head_dim
        )
        self.attended = attended[:, :queries]
        self._heads = qkv[:, : queries + keys].reshape(rows, -1, config.head_dim)
        floor = config.head_dim * config.eps
        self._head_norm = _Norm(self._heads, self._heads, self._heads, floor)
        self.turned = self._heads.view(np.complex64)
        """Queries and keys as pairs, [rows, heads + kv_heads, head_dim / 2]."""
        self._minus_gate = gate_up[:, : config.intermediate]
        self._up = gate_up[:, config.intermediate : 2 * config.intermediate]
        self._activated = activated[:, : config.intermediate]
        self._update = update[:, : config.hidden]

    def project(self, layer: Layer) -> None:
        """Queries, keys and values, not yet turned to their positions."""
        self._norm()
        self._qkv(layer.qkv)
        if layer.qk_norm is not None:
            self._head_norm()
            self._heads *= layer.qk_norm

    def finish(self, layer: Layer) -> None:
        """From what attention gave to the input of the next block."""
        self._o(layer.o)
        self.x += self._update
        self._norm()
        self._gate_up(layer.gate_up)
        activated, minus_gate = self._activated, self._minus_gate
        np.exp(minus_gate, out=activated)
        activated += 1
        np.divide(minus_gate, activated, out=activated)
        activated *= self._up
        self._down(layer.down)
        self.x += self._update


class Head:
    """The output head for one number of rows."""

    def __init__(
        self, buffers: HeadBuffers, rows: int, sizes: RowSizes, threads: Threads
    ) -> None:
        config = buffers.config
        normed, logits = buffers.normed[:rows], buffers.logits[:rows]
        stream = buffers.x[:rows]
        self._x = stream[:, : config.hidden]
        self._norm = _Norm(stream, self._x, normed[:, : config.hidden])
        self._product = Product(
            buffers.layout, normed, logits, buffers.partial, sizes, threads
        )
        self._logits = logits[:, : config.vocab]

    def logits(self, head: Matrix, x: Floats, wanted: Sequence[int]) -> Floats:
        """[wanted, vocab], from rows of the residual stream."""
        np.take(x, wanted, axis=0, out=self._x[: len(wanted)])
        self._norm()
        self._product(head.panels)
        return self._logits[: len(wanted)]
