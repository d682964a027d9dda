"""Rounding one linear layer to EXL2."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.bitstream import BLOCK_ROWS, pack_columns, pack_nibbles
from neuron.exl2.exl2_linear import (
    COLUMN_MULTIPLE,
    MAX_IN_FEATURES,
    Exl2Linear,
    Group,
)
from neuron.exl2.scale_search import search_scales, to_levels


def group_sizes(in_features: int, group_rows: int) -> list[int]:
    """Rows of each group; the last one takes what is left.

    Raises:
        ValueError: a size that the format does not allow.
    """
    if in_features % BLOCK_ROWS or not 0 < in_features <= MAX_IN_FEATURES:
        raise ValueError(
            f"{in_features} input features: must be a positive multiple of "
            f"{BLOCK_ROWS}, at most {MAX_IN_FEATURES}"
        )
    if group_rows % BLOCK_ROWS or group_rows <= 0:
        raise ValueError(
            f"groups of {group_rows} rows: must be a positive multiple of {BLOCK_ROWS}"
        )
    whole, rest = divmod(in_features, group_rows)
    return [group_rows] * whole + [rest] * bool(rest)


def quantize_linear(
    weight: NDArray[np.floating[Any]],
    groups: Sequence[tuple[int, int]],
    *,
    order: NDArray[np.integer[Any]] | None = None,
    bias: NDArray[Any] | None = None,
) -> Exl2Linear:
    """Quantize a [in_features, out_features] weight, round to nearest.

    Args:
        weight: finite, within float16's range.
        groups: (bits, rows) of each group, bits descending, rows adding up.
        order: [in_features], the original row at each packed row, so that the rows
            worth more bits can come first; as they are where None.
        bias: [out_features], kept as float16.

    Raises:
        ValueError: the weight or the groups are not what the format allows.
    """
    rows, features = weight.shape
    _check(weight, groups)
    if order is None:
        order = np.arange(rows)
    inverse = np.empty(rows, dtype=np.int32)
    inverse[order] = np.arange(rows, dtype=np.int32)
    columns = features + -features % COLUMN_MULTIPLE
    words, nibbles, largest, placed = [], [], [], []
    first_row = first_word = 0
    for bits, count in groups:
        rows_here = order[first_row : first_row + count]
        packed, index, top = _quantize_group(weight[rows_here], bits, columns)
        words.append(packed)
        nibbles.append(index)
        largest.append(top)
        placed.append(Group(bits, first_word, count))
        first_row += count
        first_word += packed.shape[0]
    return Exl2Linear(
        q_weight=np.concatenate(words),
        q_scale=pack_nibbles(np.stack(nibbles)),
        q_scale_max=np.array(largest, dtype=np.float16),
        q_invperm=inverse,
        groups=tuple(placed),
        out_features=features,
        bias=None if bias is None else bias.astype(np.float16),
    )


def _quantize_group(
    weight: NDArray[np.floating[Any]], bits: int, columns: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint8], np.float16]:
    """(words, scale indices less one, q_scale_max); the columns that pad hold zeros."""
    exact = weight.astype(np.float32)
    rows, features = exact.shape
    scales = search_scales(exact, bits)
    levels = to_levels(exact, scales.effective, bits)
    zero = 1 << (bits - 1)
    values = np.full((rows, columns), zero, dtype=np.uint8)
    values[:, :features] = levels + np.float32(zero)
    index = np.zeros(columns, dtype=np.uint8)
    index[:features] = scales.index - 1
    return pack_columns(values, bits), index, scales.largest


def _check(
    weight: NDArray[np.floating[Any]], groups: Sequence[tuple[int, int]]
) -> None:
    rows, features = weight.shape
    if not features:
        raise ValueError("it has no output features")
    group_sizes(rows, BLOCK_ROWS)
    widths = [bits for bits, _ in groups]
    if widths != sorted(widths, reverse=True):
        raise ValueError(f"groups must come in descending order of bits, not {widths}")
    if any(count % BLOCK_ROWS or count <= 0 for _, count in groups):
        raise ValueError(f"groups must have positive multiples of {BLOCK_ROWS} rows")
    if sum(count for _, count in groups) != rows:
        raise ValueError(f"the groups do not add up to {rows} rows")
    largest = np.abs(weight).max()
    if not largest <= np.finfo(np.float16).max:  # also false for NaN
        raise ValueError(f"its largest weight is {largest}, beyond float16's range")
