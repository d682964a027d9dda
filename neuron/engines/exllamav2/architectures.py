"""exllamav2's model architectures, and what each one can and cannot do there.

The library takes any name that it does not know for a Llama, with a printed warning
and nonsense for output; only what is listed here is loaded.
Source: exllamav2 0.3.2, architecture.py, attn.py, lora.py and tensor_p.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Architecture:
    """One entry of config.json's `architectures`."""

    prefix: str = ""
    """What the names of the decoder's tensors begin with."""
    vision: str | None = None
    """What the names of the vision tower's begin with; None where there is none."""
    vision_model_type: str | None = None
    """The one `vision_config.model_type` that the library reads."""
    tensor_parallel: bool = False
    """Whether its layers can be split; QK norms and post norms are left out there."""
    lora: bool = True
    """False where the library refuses adapters or leaves them out silently."""
    experts: bool = False
    gated: bool = True
    """Whether the MLP has a gate beside up and down."""
    qk_norm: bool = False
    windowed: bool = False
    """Whether some layers attend to a sliding window only."""
    ignores_window: bool = False
    """Whether config.json's sliding window is passed over by the library."""
    softcap: bool = False
    rope: bool = True
    rope_tables: int = 1
    head_norm: bool = False
    """Whether a float head is normalized at load, which takes a copy of it."""


_PIXTRAL: Final = Architecture(
    prefix="language_model.",
    vision="vision_tower.",
    vision_model_type="pixtral",
    lora=False,
)
_QWEN_VL: Final = Architecture(vision="visual.")
_MULTI_QUERY: Final = Architecture(gated=False, rope=False)

ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {
        "LlamaForCausalLM": Architecture(tensor_parallel=True),
        "MistralForCausalLM": Architecture(tensor_parallel=True, ignores_window=True),
        "MixtralForCausalLM": Architecture(experts=True, lora=False),
        "Mistral3ForConditionalGeneration": _PIXTRAL,
        "LlavaForConditionalGeneration": _PIXTRAL,
        "YiForCausalLM": Architecture(),
        "OrionForCausalLM": Architecture(),
        "Qwen2ForCausalLM": Architecture(tensor_parallel=True, ignores_window=True),
        "Qwen3ForCausalLM": Architecture(qk_norm=True, ignores_window=True),
        "Qwen3MoeForCausalLM": Architecture(qk_norm=True, experts=True, lora=False),
        "Qwen2VLForConditionalGeneration": _QWEN_VL,
        "Qwen2_5_VLForConditionalGeneration": _QWEN_VL,
        "GemmaForCausalLM": Architecture(),
        "Gemma2ForCausalLM": Architecture(lora=False, windowed=True, softcap=True),
        "Gemma3ForConditionalGeneration": Architecture(
            prefix="language_model.",
            vision="vision_tower.",
            vision_model_type="siglip_vision_model",
            lora=False,
            qk_norm=True,
            windowed=True,
            rope_tables=2,
        ),
        "GemmoeForCausalLM": Architecture(experts=True, lora=False),
        "CohereForCausalLM": Architecture(lora=False),
        "Cohere2ForCausalLM": Architecture(lora=False, windowed=True),
        "DbrxForCausalLM": Architecture(experts=True, lora=False),
        "Phi3ForCausalLM": Architecture(),
        "GPTBigCodeForCausalLM": _MULTI_QUERY,
        "GPT2LMHeadModel": _MULTI_QUERY,
        "MiniCPMForCausalLM": Architecture(),
        "InternLM2ForCausalLM": Architecture(),
        "IndexForCausalLM": Architecture(head_norm=True),
        "GraniteForCausalLM": Architecture(),
        "Glm4ForCausalLM": Architecture(),
        "Starcoder2ForCausalLM": Architecture(gated=False),
    }
)

NEAR_MISSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Gemma3ForCausalLM": "exllamav2 loads Gemma 3 only as "
        "Gemma3ForConditionalGeneration, with its vision tower",
    }
)
"""Names that look as if they were supported, and what to do about them."""
