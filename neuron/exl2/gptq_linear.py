"""A linear layer in 4-bit GPTQ.

With K input features, N output features and G groups:

- `qweight` int32 [K/8, N]: levels, packed down each column
- `qzeros` int32 [G, N/8]: 4-bit zero points, eight to a word along the row; less one
  in the usual checkpoint format, as they are in `gptq_v2`
- `scales` float16 [G, N]
- `g_idx` int32 [K], optional: the group of each row

A weight is half((level - zero) · scale).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.bitstream import unpack_columns, unpack_nibbles

BITS = 4
_CHUNK_ROWS = 256


def default_groups(in_features: int, groups: int) -> NDArray[np.int32]:
    """The group of each row where `g_idx` does not say: runs of a power of two."""
    size = 1
    while size * groups < in_features:
        size *= 2
    return (np.arange(in_features) // size).astype(np.int32)


@dataclass(frozen=True, slots=True)
class GptqLinear:
    """One 4-bit GPTQ layer whose parts are known to fit."""

    qweight: NDArray[np.uint32]
    qzeros: NDArray[np.uint32]
    scales: NDArray[np.float16]
    group_of_row: NDArray[np.int32]
    zeros_are_less_one: bool = True
    bias: NDArray[Any] | None = None

    @property
    def in_features(self) -> int:
        return int(self.qweight.shape[0]) * 8

    @property
    def out_features(self) -> int:
        return int(self.qweight.shape[1])

    def dequantize(self) -> NDArray[np.float16]:
        """The weight, [in_features, out_features]."""
        zeros = unpack_nibbles(self.qzeros).astype(np.float32)
        if self.zeros_are_less_one:
            zeros += np.float32(1)
        scales = self.scales.astype(np.float32)
        weight = np.empty((self.in_features, self.out_features), dtype=np.float16)
        for start in range(0, self.in_features, _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            words = self.qweight[start // 8 : (start + _CHUNK_ROWS) // 8]
            group = self.group_of_row[rows]
            levels = unpack_columns(words, BITS).astype(np.float32)
            levels -= zeros[group]
            with np.errstate(all="ignore"):  # a file may hold infinities and NaN
                levels *= scales[group]
                weight[rows] = levels.astype(np.float16)
        return weight
