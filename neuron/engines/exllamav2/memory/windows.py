"""Sliding windows of models whose layers see all keys in the library.

Source: transformers' configurations of Mistral, Phi3, Starcoder2, Qwen2 and Qwen3.
"""

from typing import Final

from neuron.engines.exllamav2.memory.architectures import Architecture
from neuron.models.settings import Settings

_FIRST: Final = 28
"""The first windowed layer of a Qwen whose config.json does not say."""


def layer_windows(
    architecture: Architecture, config: Settings, layers: int
) -> tuple[int | None, ...]:
    """Of each layer: keys that a token sees, its own among them; None for all."""
    size, first = config.get("sliding_window"), 0
    if not architecture.window or not isinstance(size, int) or size <= 0:
        return (None,) * layers
    if architecture.window == "asked":
        if not config.get("use_sliding_window"):
            return (None,) * layers
        said = config.get("max_window_layers")
        first = said if isinstance(said, int) else _FIRST
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return tuple(size if kind == "sliding_attention" else None for kind in kinds)
    return tuple(size if layer >= first else None for layer in range(layers))
