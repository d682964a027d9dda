"""Choosing the scales of one group of rows so that its squared error is least.

The group's largest scale (`q_scale_max`) is tried at several sizes; for each, every
column takes the best of the few 4-bit indices around the one that would just cover
its largest weight. Errors are taken at the very scales that the reader will compute,
roundings included. Only operations that IEEE 754 rounds exactly are used, in a fixed
order, so that the same weights give the same bytes on every machine.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_COLUMNS: Final = 512
"""Columns at a time: scratch for 128 rows stays in the processor's cache."""
_RATIOS: Final = tuple(np.float32(step / 32) for step in range(18, 38))
"""Largest scale tried, over the one that covers the largest weight."""
_OFFSETS: Final = (-2, -1, 0, 1)
"""Indices tried, around the one that covers the column's largest weight."""


@dataclass(frozen=True, slots=True)
class GroupScales:
    """`index` uint8 [columns], 1 to 16, of `largest`, the group's q_scale_max."""

    largest: np.float16
    index: NDArray[np.uint8]

    @property
    def effective(self) -> NDArray[np.float32]:
        """[columns] scales as the reader computes them."""
        return _table(self.largest)[self.index - 1]


def _table(largest: np.float16) -> NDArray[np.float32]:
    """The 16 scales that a group with this q_scale_max can choose from."""
    index = np.arange(1, 17, dtype=np.float32)
    unit = np.float32(np.float16(np.float32(largest) / np.float32(256)))
    return (index * index * unit).astype(np.float16).astype(np.float32)


def to_levels(
    weights: NDArray[np.float32], scales: NDArray[np.float32], bits: int
) -> NDArray[np.float32]:
    """[rows, columns] weights rounded to levels -2^(bits-1) … 2^(bits-1)-1."""
    divisor: NDArray[np.float32] = np.where(scales > 0, scales, np.float32(1))
    levels: NDArray[np.float32] = weights / divisor
    np.rint(levels, out=levels)
    half = 1 << (bits - 1)
    np.clip(levels, np.float32(-half), np.float32(half - 1), out=levels)
    return levels


def search_scales(weights: NDArray[np.float32], bits: int) -> GroupScales:
    """Scales for one group, [rows, columns], rounded to `bits`.

    Magnitudes must be within float16's range.
    """
    cover = np.abs(weights).max(axis=0) / np.float32(((1 << bits) - 1) / 2)
    limit = cover.max()
    candidates = sorted({np.float16(limit * ratio) for ratio in _RATIOS}, reverse=True)
    chunks = [
        (np.ascontiguousarray(weights[:, start : start + _COLUMNS]), start)
        for start in range(0, weights.shape[1], _COLUMNS)
    ]
    errors = [
        sum(
            float(_best_index(chunk, cover[start : start + _COLUMNS], largest, bits)[1])
            for chunk, start in chunks
        )
        for largest in candidates
    ]
    largest = candidates[int(np.argmin(errors))]
    indices = [
        _best_index(chunk, cover[start : start + _COLUMNS], largest, bits)[0]
        for chunk, start in chunks
    ]
    return GroupScales(largest, np.concatenate(indices))


def _best_index(
    weights: NDArray[np.float32],
    cover: NDArray[np.float32],
    largest: np.float16,
    bits: int,
) -> tuple[NDArray[np.uint8], np.float64]:
    """The best index of each column, and the squared error of all together."""
    table = _table(largest)
    reach = table[15] if table[15] > 0 else np.float32(1)
    middle = np.rint(np.sqrt(cover / reach) * np.float32(16)).astype(np.int32)
    best_index = np.ones(weights.shape[1], dtype=np.uint8)
    best_error = np.full(weights.shape[1], np.inf, dtype=np.float32)
    for offset in _OFFSETS:
        index = np.clip(middle + offset, 1, 16).astype(np.uint8)
        scales = table[index - 1]
        error = to_levels(weights, scales, bits)
        error *= scales
        error -= weights
        error *= error
        column_error = np.add.reduce(error, axis=0)
        better = column_error < best_error
        best_index[better] = index[better]
        best_error[better] = column_error[better]
    return best_index, best_error.sum(dtype=np.float64)
