"""exllamav2's model architectures, and what each one can and cannot do there.

The library takes any name that it does not know for a Llama, with a printed warning
and nonsense for output; only what is listed here is loaded.
Source: exllamav2 0.3.2, architecture.py, attn.py, lora.py and tensor_p.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Architecture:
    """One entry of config.json's `architectures`."""

    prefix: str = ""
    """What the names of the decoder's tensors begin with."""
    vision: str | None = None
    """What the names of a vision tower's begin with, where the decoder's have nothing
    in common."""
    vision_model_type: str | None = None
    """The one `vision_config.model_type` that the library reads."""
    tensor_parallel: bool = False
    """Whether its layers can be split; QK norms and post norms are left out there."""
    lora: bool = True
    """False where the library refuses adapters or leaves them out silently."""
    experts: bool = False
    """Whether MLPs are mixtures of experts."""
    window: Literal["always", "asked"] | None = None
    """Whether models have windows that the library passes over: always, or where
    config.json asks for them by `use_sliding_window`."""
    qk_norm: Literal["layer", "rms"] | None = None
    """How each head's queries and keys are normalized before they are turned."""
    rope: bool = True
    """Whether positions are rotations; learned ones cannot be extended."""
    rope_tables: int = 1
    """Two where windowed layers have a base of their own."""
    mrope: bool = False
    """Whether parts of an image are turned by row and column, by tables of a prompt's.
    """


_PIXTRAL: Final = Architecture(
    prefix="language_model.",
    vision_model_type="pixtral",
    lora=False,
)
_QWEN_VL: Final = Architecture(vision="visual.", mrope=True)
_LEARNED_POSITIONS: Final = Architecture(rope=False)

ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {
        "LlamaForCausalLM": Architecture(tensor_parallel=True),
        "MistralForCausalLM": Architecture(tensor_parallel=True, window="always"),
        "MixtralForCausalLM": Architecture(experts=True),
        "Mistral3ForConditionalGeneration": _PIXTRAL,
        "LlavaForConditionalGeneration": _PIXTRAL,
        "YiForCausalLM": Architecture(),
        "OrionForCausalLM": Architecture(),
        "Qwen2ForCausalLM": Architecture(tensor_parallel=True, window="asked"),
        "Qwen3ForCausalLM": Architecture(window="asked", qk_norm="rms"),
        "Qwen3MoeForCausalLM": Architecture(experts=True, qk_norm="rms"),
        "Qwen2VLForConditionalGeneration": _QWEN_VL,
        "Qwen2_5_VLForConditionalGeneration": _QWEN_VL,
        "GemmaForCausalLM": Architecture(),
        "Gemma2ForCausalLM": Architecture(lora=False),
        "Gemma3ForConditionalGeneration": Architecture(
            prefix="language_model.",
            vision_model_type="siglip_vision_model",
            lora=False,
            rope_tables=2,
            qk_norm="rms",
        ),
        "GemmoeForCausalLM": Architecture(experts=True),
        "CohereForCausalLM": Architecture(lora=False, qk_norm="layer"),
        "Cohere2ForCausalLM": Architecture(lora=False),
        "Phi3ForCausalLM": Architecture(window="always"),
        "GPTBigCodeForCausalLM": _LEARNED_POSITIONS,
        "GPT2LMHeadModel": _LEARNED_POSITIONS,
        "MiniCPMForCausalLM": Architecture(),
        "InternLM2ForCausalLM": Architecture(),
        "IndexForCausalLM": Architecture(),
        "GraniteForCausalLM": Architecture(),
        "Glm4ForCausalLM": Architecture(),
        "Starcoder2ForCausalLM": Architecture(window="always"),
    }
)

NEAR_MISSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Gemma3ForCausalLM": "exllamav2 loads Gemma 3 only as "
        "Gemma3ForConditionalGeneration, with its vision tower",
        "DbrxForCausalLM": "exllamav2 reads of DBRX only what has tensors of their own "
        "for every expert; checkpoints keep them as one",
    }
)
"""Names that look as if they were supported, and what to do about them."""
