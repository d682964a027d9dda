"""Where a conversion takes its tensors from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.errors import FormatError
from neuron.exl2.header import TensorSpec

FLOATS: Final = ("F16", "BF16", "F32")
"""Dtypes that can be quantized, or kept as float16."""


class TensorSource(Protocol):
    """The tensors of one model, each read when it is asked for."""

    @property
    def path(self) -> Path:
        """The folder that config.json is in, or the file that stands for it."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """By name; shapes are [out_features, in_features]."""

    def spec(self, name: str) -> TensorSpec:
        """Where a tensor lies; FormatError where there is none of that name."""

    def read(self, name: str) -> NDArray[Any]:
        """One tensor; FormatError where there is none or it cannot be read."""


def read_half(tensors: TensorSource, name: str) -> NDArray[np.float16]:
    """One tensor as float16.

    Raises:
        FormatError: it is not made of floats, or float16 cannot hold them.
    """
    spec = tensors.spec(name)
    if spec.dtype not in FLOATS:
        raise FormatError(spec.file, name, f"is {spec.dtype}, must be a float")
    tensor = tensors.read(name)
    if tensor.size and not np.abs(tensor).max() <= np.finfo(np.float16).max:
        raise FormatError(spec.file, name, "has numbers beyond float16's range")
    return tensor.astype(np.float16, copy=False)
