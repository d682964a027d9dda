"""EXL2 and GPTQ folders give what their dequantized weights give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuron.exl2 import open_model
from neuron.exl2.bitstream import pack_columns, pack_nibbles
from neuron.exl2.quantize import quantize_linear
from tests.goldens.tiny_models import hashed, tensors, write_folder
from tests.unit.reference.support import logits_of, tiny

Tensors = dict[str, NDArray[Any]]


def as_exl2(key: str, weight: NDArray[Any]) -> Tensors:
    """[outputs, inputs] in two widths, rows reordered."""
    inputs = weight.shape[1]
    order = np.argsort(hashed(f"{key}/order", (inputs,)))
    groups = [(6, 32), (4, inputs - 32)]
    layer = quantize_linear(weight.T.astype(np.float32), groups, order=order)
    return {f"{key}.{name}": array for name, array in layer.tensors().items()}


def as_gptq(key: str, weight: NDArray[Any]) -> Tensors:
    """Four bits in groups of 32, zero points in the middle."""
    outputs, inputs = weight.shape
    scale = np.abs(weight.T.astype(np.float32)).reshape(-1, 32, outputs).max(1) / 7
    scales = scale.astype(np.float16)
    levels = np.rint(weight.T / scales.repeat(32, axis=0)) + 8
    zeros = np.full((inputs // 32, outputs), 7, np.uint8)
    return {
        f"{key}.qweight": pack_columns(levels.astype(np.uint8), 4).view(np.int32),
        f"{key}.qzeros": pack_nibbles(zeros).view(np.int32),
        f"{key}.scales": scales,
        f"{key}.g_idx": (np.arange(inputs) // 32).astype(np.int32),
    }


@pytest.mark.parametrize("quantize", [as_exl2, as_gptq])
@pytest.mark.parametrize("name", ["qwen2-tied", "llama-llama3-biases"])
def test_quantized_is_as_its_dequantized_weights(
    tmp_path: Path, quantize: Callable[[str, NDArray[Any]], Tensors], name: str
) -> None:
    model = tiny(name)
    quantized: Tensors = {}
    for tensor, array in tensors(model).items():
        key = tensor.removesuffix(".weight")
        if array.ndim == 2 and "embed_tokens" not in tensor:
            quantized |= quantize(key, array)
        else:
            quantized[tensor] = array
    folder = write_folder(tmp_path / "quantized", model.config, quantized)
    source = open_model(folder)
    dense: Tensors = {}
    for tensor, array in tensors(model).items():
        dense[tensor] = array
        if tensor not in quantized:
            weight = source.linear(tensor.removesuffix(".weight")).dequantize()
            dense[tensor] = np.ascontiguousarray(weight.T)
    twin = write_folder(tmp_path / "dense", model.config, dense)
    prompt, pages = model.prompt, [0, 1, 2]
    found = logits_of(folder, prompt, [len(prompt)], pages)
    np.testing.assert_array_equal(found, logits_of(twin, prompt, [len(prompt)], pages))
    original = write_folder(tmp_path / "original", model.config, tensors(model))
    exact = logits_of(original, prompt, [len(prompt)], pages)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.5
