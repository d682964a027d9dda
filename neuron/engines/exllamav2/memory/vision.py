"""What a vision tower takes on its device, from headers alone.

Source: exllamav2 0.3.2: vlm/vision_tower.py, module.py (`load_weight_fused`), mlp.py.
"""

from collections.abc import Mapping
from typing import Final

from neuron.engines.exllamav2.memory.allocator import reserved_bytes
from neuron.engines.exllamav2.memory.model import DeviceMemory, ModelMemory
from neuron.engines.exllamav2.memory.modules import aligned, half_bytes
from neuron.engines.exllamav2.memory.scratch import rope_bytes
from neuron.exl2.header import TensorSpec
from neuron.models.vision import VisionInfo

_TOWERS: Final = ("vision_tower.", "visual.")
_PROJECTOR: Final = "multi_modal_projector."
"""What the names of tensors begin with. Qwen's projector, its merger, is in the tower.
"""
_MERGER: Final = "visual.merger."
_FUSED: Final = ".qkv."
"""Read three times, and kept as three tensors each on its own."""
_HALF: Final = 2
_STATES: Final = 6
"""Rows of the tower's width that a layer has at once: hidden states, their norm,
queries, keys, values, attention's output."""
_INNER: Final = 4
"""Rows of the MLP's width that its activation has at once."""


def vision_memory(
    memory: ModelMemory, vision: VisionInfo, beside: DeviceMemory
) -> DeviceMemory:
    """What the tower adds to a device that holds `beside` already.

    A pass through it and one through the language model never overlap.
    """
    model = memory.model
    specs = {
        name: spec
        for name, spec in model.tensors.specs.items()
        if name.startswith((*_TOWERS, _PROJECTOR))
    }
    kept = sum(aligned(half_bytes(s)) for n, s in specs.items() if _FUSED not in n)
    fused = [half_bytes(s) // 3 for n, s in specs.items() if _FUSED in n]
    loose = [size for size in fused for _ in range(3)]
    if model.architecture.mrope:
        loose.append(rope_bytes(model.sizes, memory.max_seq_len))
    weights = reserved_bytes([kept]) + reserved_bytes(loose)
    taken = beside.parts.get("activations", 0)
    passing = reserved_bytes([_activations(specs, vision)])
    return DeviceMemory({"vision": weights, "activations": max(0, passing - taken)})


def _activations(specs: Mapping[str, TensorSpec], vision: VisionInfo) -> int:
    """Of the largest image."""
    matrices = [
        spec.shape
        for name, spec in specs.items()
        if len(spec.shape) == 2 and not name.startswith((_PROJECTOR, _MERGER))
    ]
    width = min((min(shape) for shape in matrices), default=0)
    widest = max((max(shape) for shape in matrices), default=0)
    return vision.sizing.most_patches * _HALF * (_STATES * width + _INNER * widest)
