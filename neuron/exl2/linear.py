"""What every linear layer offers, however its weights are stored."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Linear(Protocol):
    """One linear layer: y = x @ dequantize() + bias."""

    @property
    def in_features(self) -> int: ...

    @property
    def out_features(self) -> int:
        """Columns of the weight; those that only pad are counted where the reader
        was not told how many are real."""

    @property
    def bias(self) -> NDArray[Any] | None:
        """[out_features] float16 or float32, or None."""

    def dequantize(self) -> NDArray[np.float16]:
        """The weight, [in_features, out_features]."""


@dataclass(frozen=True, slots=True)
class DenseLinear:
    """Unquantized weights, stored [out_features, in_features]."""

    weight: NDArray[Any]
    bias: NDArray[Any] | None = None

    @property
    def in_features(self) -> int:
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        return int(self.weight.shape[0])

    def dequantize(self) -> NDArray[np.float16]:
        """The weight, [in_features, out_features]; a view where it is float16.

        Numbers beyond float16's range become infinite.
        """
        with np.errstate(all="ignore"):
            return self.weight.T.astype(np.float16, copy=False)
