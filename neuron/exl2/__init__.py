"""The EXL2 weight format: read, dequantize, quantize, write. NumPy only."""

from neuron.exl2.directory import TensorDirectory, open_model
from neuron.exl2.errors import FormatError
from neuron.exl2.header import TensorSpec
from neuron.exl2.linear import DenseLinear, Linear

__all__ = [
    "DenseLinear",
    "FormatError",
    "Linear",
    "TensorDirectory",
    "TensorSpec",
    "open_model",
]
