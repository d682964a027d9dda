"""EXL2 layers as exllamav2 holds them on a device, made without one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron.engines.exllamav2.gemm.layout import UNITS, Unit
from neuron.exl2.bitstream import unpack_columns
from neuron.exl2.exl2_linear import Exl2Linear
from neuron.exl2.quantize import quantize_linear

Plan = tuple[tuple[int, int], ...]
"""(bits, rows) of each group."""


def random_layer(plan: Plan, columns: int, *, bias: bool = False) -> Exl2Linear:
    """Quantized noise; equal arguments give equal layers."""
    rng = np.random.default_rng(len(plan) * 1000 + columns)
    rows = sum(count for _, count in plan)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    offset = rng.standard_normal(columns).astype(np.float16) if bias else None
    return quantize_linear(weight, plan, order=rng.permutation(rows), bias=offset)


def device_tensors(layer: Exl2Linear) -> dict[str, Any]:
    """What `ExLlamaV2Linear.q_tensors` holds after the load, as tensors on the CPU."""
    import torch

    packed_from = np.empty(layer.in_features, np.uint16)
    packed_from[layer.q_invperm] = np.arange(layer.in_features)
    stored = layer.tensors()
    arrays = {
        "q_weight": _reordered(layer).view(np.int32),
        "q_scale": stored["q_scale"],
        "q_scale_max": (stored["q_scale_max"].astype("f4") / 256).astype(np.float16),
        "q_groups": stored["q_groups"],
        "q_group_map": _group_map(layer),
        "q_perm": packed_from.view(np.int16),
    }
    if layer.bias is not None:
        arrays["bias"] = layer.bias
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def packed_unit(unit: Unit, levels: NDArray[np.integer[Any]]) -> NDArray[np.uint32]:
    """Words [words, columns] of levels [rows, columns], by the layout's table."""
    words = np.zeros((unit.words, levels.shape[1]), np.uint32)
    for row, parts in zip(levels.astype(np.uint32), unit.rows, strict=True):
        for part in parts:
            bits = (row >> np.uint32(part.left)) & np.uint32(part.mask)
            words[part.word] |= bits << np.uint32(part.shift)
    return words


def _reordered(layer: Exl2Linear) -> NDArray[np.uint32]:
    words = layer.q_weight.copy()
    for group in layer.groups:
        unit = UNITS[group.bits]
        stream = layer.q_weight[group.first_word : group.first_word + group.words]
        levels = unpack_columns(stream, group.bits)
        for index in range(group.rows // len(unit.rows)):
            rows = slice(index * len(unit.rows), (index + 1) * len(unit.rows))
            first = group.first_word + index * unit.words
            words[first : first + unit.words] = packed_unit(unit, levels[rows])
    return words


def _group_map(layer: Exl2Linear) -> NDArray[np.int16]:
    pairs = [
        (index, group.rows - row)
        for index, group in enumerate(layer.groups)
        for row in range(group.rows)
    ]
    return np.array(pairs, np.int16).reshape(-1)
