"""A linear layer in EXL2: checked, dequantized, and as tensors to write.

With K input features, N columns (output features rounded up to 32) and G groups:

- `q_weight` int32 [words, N]: levels, packed down each column, group after group
- `q_scale` int32 [G, N/8]: 4-bit scale indices less one, eight to a word
- `q_scale_max` float16 [G]: the scale that index 16 stands for
- `q_groups` int16 [2G], read unsigned: pairs (bits, first row of q_weight)
- `q_invperm` int32 [K]: original row i lies at packed row q_invperm[i]

A weight is half(level · scale) with level = value - 2^(bits-1) and
scale = half(half(index²) · half(q_scale_max / 256)): the roundings of exllamav2's
kernel, so that the result is the same to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.bitstream import (
    BLOCK_ROWS,
    WIDTHS,
    unpack_columns,
    unpack_nibbles,
)

COLUMN_MULTIPLE: Final = 32
MAX_IN_FEATURES: Final = 65535
"""exllamav2 keeps the permutation in 16 bits."""
_CHUNK_NUMBERS: Final = 1 << 18
"""Dequantized at a time, so that scratch stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive packed rows of one width that share their scales."""

    bits: int
    first_word: int
    """Row of q_weight at which the group starts."""
    rows: int

    @property
    def words(self) -> int:
        return self.rows * self.bits // 32


def parse_groups(q_groups: NDArray[np.uint16], words: int) -> tuple[Group, ...]:
    """Read the pairs of `q_groups` for a `q_weight` of `words` rows.

    Raises:
        ValueError: a width, an order or a boundary that the format does not allow.
    """
    pairs = q_groups.astype(np.int64).reshape(-1, 2).tolist()
    groups: list[Group] = []
    for index, (bits, first) in enumerate(pairs):
        end = pairs[index + 1][1] if index + 1 < len(pairs) else words
        if bits not in WIDTHS:
            raise ValueError(f"group {index} has {bits} bits; {WIDTHS} exist")
        if groups and bits > groups[-1].bits:
            raise ValueError(
                f"group {index} has more bits than the one before: {bits} after "
                f"{groups[-1].bits}, and the order must descend"
            )
        if first != (groups[-1].first_word + groups[-1].words if groups else 0):
            raise ValueError(f"group {index} starts at word {first}, off a boundary")
        if end <= first or (end - first) % bits or end > words:
            raise ValueError(
                f"group {index} spans words {first} to {end} of {words}, which is no "
                f"multiple of {BLOCK_ROWS} rows at {bits} bits"
            )
        groups.append(Group(bits, first, (end - first) * 32 // bits))
    return tuple(groups)


def effective_scales(
    q_scale: NDArray[np.uint32], q_scale_max: NDArray[np.float16]
) -> NDArray[np.float16]:
    """Scales [groups, columns], rounded as the kernel rounds them."""
    index = unpack_nibbles(q_scale).astype(np.float32) + np.float32(1)
    with np.errstate(all="ignore"):  # a file may hold infinities and NaN
        unit = (q_scale_max.astype(np.float32) / np.float32(256)).astype(np.float16)
        scales = index * index * unit.astype(np.float32)[:, None]
        return scales.astype(np.float16)


@dataclass(frozen=True, slots=True)
class Exl2Linear:
    """One EXL2 layer; build it with `checked` unless its parts are known to fit."""

    q_weight: NDArray[np.uint32]
    q_scale: NDArray[np.uint32]
    q_scale_max: NDArray[np.float16]
    q_invperm: NDArray[np.int32]
    groups: tuple[Group, ...]
    out_features: int
    bias: NDArray[Any] | None = None

    @property
    def in_features(self) -> int:
        return int(self.q_invperm.shape[0])

    @property
    def columns(self) -> int:
        """Output features with the padding."""
        return int(self.q_weight.shape[1])

    @property
    def stored_bits(self) -> int:
        """All that the layer takes on disk but its bias."""
        pairs = 2 * 2 * len(self.groups)
        arrays = (self.q_weight, self.q_scale, self.q_scale_max, self.q_invperm)
        return 8 * (sum(array.nbytes for array in arrays) + pairs)

    def dequantize(self) -> NDArray[np.float16]:
        """The weight, [in_features, out_features], rows in their original order."""
        scales = effective_scales(self.q_scale, self.q_scale_max).astype(np.float32)
        original = np.empty(self.in_features, dtype=np.intp)
        original[self.q_invperm] = np.arange(self.in_features)
        weight = np.empty((self.in_features, self.columns), dtype=np.float16)
        first_row = 0
        for run in _runs(self.groups):
            rows = self._dequantize_run(run, scales, weight, original[first_row:])
            scales = scales[len(run) :]
            first_row += rows
        return weight[:, : self.out_features]

    def _dequantize_run(
        self,
        run: Sequence[Group],
        scales: NDArray[np.float32],
        weight: NDArray[np.float16],
        original: NDArray[np.intp],
    ) -> int:
        """Fill the rows of groups of one width; `scales` and `original` start there."""
        bits, start = run[0].bits, run[0].first_word
        of_block = np.repeat(
            np.arange(len(run)), [group.rows // BLOCK_ROWS for group in run]
        )
        blocks = len(of_block)
        step = max(1, _CHUNK_NUMBERS // (BLOCK_ROWS * self.columns))
        zero = np.float32(1 << (bits - 1))
        for begin in range(0, blocks, step):
            end = min(begin + step, blocks)
            packed = self.q_weight[start + begin * bits : start + end * bits]
            levels = unpack_columns(packed, bits).astype(np.float32)
            levels -= zero
            chunk = levels.reshape(end - begin, BLOCK_ROWS, self.columns)
            with np.errstate(all="ignore"):
                chunk *= scales[of_block[begin:end]][:, None, :]
                half = levels.astype(np.float16)
            weight[original[begin * BLOCK_ROWS : end * BLOCK_ROWS]] = half
        return blocks * BLOCK_ROWS

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The layer as the format stores it, by the tensor's last name."""
        pairs = [number for g in self.groups for number in (g.bits, g.first_word)]
        stored: dict[str, NDArray[Any]] = {
            "q_groups": np.array(pairs, dtype=np.uint16).view(np.int16),
            "q_invperm": self.q_invperm,
            "q_scale": self.q_scale.view(np.int32),
            "q_scale_max": self.q_scale_max,
            "q_weight": self.q_weight.view(np.int32),
        }
        if self.bias is not None:
            stored["bias"] = self.bias
        return stored


def _runs(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups in stretches of one width."""
    runs: list[list[Group]] = []
    for group in groups:
        if runs and runs[-1][0].bits == group.bits:
            runs[-1].append(group)
        else:
            runs.append([group])
    return runs
