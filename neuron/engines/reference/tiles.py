"""Matrix products whose rows do not depend on each other, to the bit.

A BLAS picks its kernel by the shape of the operands, and kernels add in different
orders: one and the same row may come out differently alone and among others. So every
product here is cut into small ones of few fixed shapes: at most `TILE` rows, `WIDTH`
columns and `DEPTH` terms of a sum. Rows are padded to a number that `row_sizes` has
tried on this machine's BLAS. The weight is stored cut up (`panelize`), which also
spares the BLAS from repacking it: a product of two rows runs at memory speed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from neuron.engines.reference.threads import Threads

TILE: Final = 8
WIDTH: Final = 64
DEPTH: Final = 512
"""TILE · WIDTH · DEPTH is what OpenBLAS still does in one thread without packing."""

CACHE: Final = 1 << 18
"""Bytes of weight that stay close to a core while all tiles pass."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight of [inputs, outputs] is cut up."""

    inputs: int
    outputs: int
    blocks: int
    depth: int

    @classmethod
    def of(cls, inputs: int, outputs: int) -> "Layout":
        fewest = -(-inputs // DEPTH)
        for blocks in range(fewest, 2 * fewest):
            if inputs % blocks == 0:
                return cls(inputs, outputs, blocks, inputs // blocks)
        return cls(inputs, outputs, fewest, -(-inputs // fewest))

    @property
    def panels(self) -> int:
        return -(-self.outputs // WIDTH)

    @property
    def padded_inputs(self) -> int:
        return self.blocks * self.depth

    @property
    def padded_outputs(self) -> int:
        return self.panels * WIDTH

    @property
    def partial_size(self) -> int:
        """Numbers of scratch that one row of a product needs."""
        return self.blocks * self.padded_outputs if self.blocks > 1 else 0

    @property
    def nbytes(self) -> int:
        return 4 * self.padded_inputs * self.padded_outputs


def panelize(weight: Floats, into: Floats | None = None) -> Floats:
    """Cut [inputs, outputs] into [blocks, panels, 1, depth, WIDTH], padded by zeros.

    `into` is where to put the numbers, `layout.nbytes / 4` of them.
    """
    layout = Layout.of(*weight.shape)
    if into is None:
        into = np.empty(layout.nbytes // 4, np.float32)
    padded = weight
    if weight.shape != (layout.padded_inputs, layout.padded_outputs):
        padded = np.zeros((layout.padded_inputs, layout.padded_outputs), np.float32)
        padded[: layout.inputs, : layout.outputs] = weight
    cut = padded.reshape(layout.blocks, layout.depth, layout.panels, WIDTH)
    panels = into.reshape(layout.blocks, layout.panels, 1, layout.depth, WIDTH)
    panels[:, :, 0] = cut.transpose(0, 2, 1, 3)
    return panels


class RowSizes:
    """The numbers of rows, up to `TILE`, at which a product's rows agree to the bit."""

    def __init__(self, smallest: int) -> None:
        self.smallest = smallest
        self.tile = TILE if smallest > 1 else 1

    def padded(self, rows: int) -> int:
        """The next larger number of rows that can be computed."""
        if rows > self.tile:
            return -(-rows // self.tile) * self.tile
        size = self.smallest
        while size < rows:
            size *= 2
        return size


def row_sizes(rights: Iterable[Floats]) -> RowSizes:
    """Try products with each of `rights`, [terms, columns] laid out as in use.

    One row at a time (a vector product each) is what remains, and always right, where
    no number of rows does.
    """
    kept = tuple(rights)
    for smallest in (2, 4, TILE):
        if all(_rows_agree(right, smallest) for right in kept):
            return RowSizes(smallest)
    return RowSizes(1)


def _rows_agree(right: Floats, smallest: int) -> bool:
    random = np.random.default_rng(0)
    rows = random.standard_normal((TILE, right.shape[0])).astype(np.float32)
    wanted = rows @ right
    if not np.array_equal(np.roll(rows, 1, 0) @ right, np.roll(wanted, 1, 0)):
        return False
    size = smallest
    while size < TILE:
        for start in range(TILE - size + 1):
            part = slice(start, start + size)
            if not np.array_equal(rows[part] @ right, wanted[part]):
                return False
        size *= 2
    return True


class Product:
    """`outputs = inputs @ weight` between fixed buffers, for any weight of a layout.

    `inputs` is [rows, padded_inputs], zero where it pads, `outputs` [rows,
    padded_outputs], `partial` at least `partial_size` numbers of scratch; `rows` is one
    that `RowSizes.padded` gave.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Floats,
        outputs: Floats,
        partial: Floats,
        sizes: RowSizes,
        threads: Threads,
    ) -> None:
        rows = len(inputs)
        tile = min(rows, sizes.tile)
        self._outputs = outputs
        self._partial = outputs[None]
        if layout.blocks > 1:
            size = layout.blocks * outputs.size
            self._partial = partial[:size].reshape(layout.blocks, *outputs.shape)
        self._left = inputs.reshape(
            rows // tile, tile, layout.blocks, 1, layout.depth
        ).transpose(2, 3, 0, 1, 4)
        self._result = self._partial.reshape(
            layout.blocks, rows // tile, tile, layout.panels, WIDTH
        ).transpose(0, 3, 1, 2, 4)
        self._threads = threads
        # Up to four rows take as long as one: the time it takes to read the weight.
        shares = threads.shares(max(rows, 4) * layout.nbytes // 4)
        self._shares = [
            _pieces(share, layout, rows > tile)
            for share in even_slices(layout.panels, shares)
        ]

    def __call__(self, weight: Floats) -> None:
        """`weight` as `panelize` made it."""
        if len(self._shares) == 1:
            self._multiply(weight, self._shares[0])
        else:
            self._threads.run(
                self._multiply, [(weight, share) for share in self._shares]
            )
        if len(self._partial) > 1:
            np.add.reduce(self._partial, axis=0, out=self._outputs)

    def _multiply(self, weight: Floats, pieces: Sequence[slice]) -> None:
        left, result = self._left, self._result
        for piece in pieces:
            np.matmul(left, weight[:, piece], out=result[:, piece])


def _pieces(share: slice, layout: Layout, has_tiles: bool) -> list[slice]:
    """Panels that one call computes: NumPy goes through all of them tile by tile, so
    with several tiles they had better stay in the processor's cache."""
    panel_bytes = layout.nbytes // layout.panels
    count = share.stop - share.start
    calls = max(1, count * panel_bytes // CACHE) if has_tiles else 1
    return [
        slice(share.start + piece.start, share.start + piece.stop)
        for piece in even_slices(count, min(count, calls))
    ]


def even_slices(count: int, parts: int) -> list[slice]:
    """Cut `range(count)` into so many parts."""
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
