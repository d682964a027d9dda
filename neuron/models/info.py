"""What is known of a model before it is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron.models.vision import VisionInfo

Format = Literal["exl2", "gptq", "fp16"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts of one model directory, from its JSON files and safetensors headers."""

    id: str
    path: Path
    format: Format
    architecture: str
    """First entry of config.json's `architectures`, such as `LlamaForCausalLM`."""
    bpw: float
    """Bits per weight over the quantized layers, head excluded."""
    head_bits: float | None
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    """Longest context the model was trained for, in tokens."""
    weight_bytes: int
    """Tensor data on disk, all shards together."""
    eos_ids: tuple[int, ...]
    """generation_config.json's over config.json's; all of them, not only the first."""
    bos_id: int | None
    has_chat_template: bool
    thinks: bool = False
    """Whether its chat template knows thoughts before answers."""
    vision: VisionInfo | None = None
    """How it takes images; None where it takes none."""
    parameters: int | None = None
    """All its weights, counted from the shapes of its tensors."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token over all layers, at two bytes a number."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim
