"""Which tensors of a Hugging Face model are quantized and which are kept."""

import re
from collections.abc import Collection
from typing import Final

SUPPORTED: Final = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Architectures with the tensor names below; all of them decoders of Llama's make."""

HEAD: Final = "lm_head"
EMBEDDING: Final = "model.embed_tokens.weight"
_LINEARS: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_KEPT: Final = re.compile(
    r"model\.norm\.weight"
    r"|model\.layers\.\d+\."
    r"(input_layernorm|post_attention_layernorm|self_attn\.[qk]_norm)\.weight"
)
_COMPUTED: Final = re.compile(r".*\.rotary_emb\.inv_freq")
"""Old exports carry these; every reader computes them from config.json."""


def linear_keys(layers: int) -> list[str]:
    """Keys of the linear layers that are quantized, head excluded, in model order."""
    return [
        f"model.layers.{layer}.{linear}"
        for layer in range(layers)
        for linear in _LINEARS
    ]


def required_names(layers: int) -> list[str]:
    """Kept tensors that every one of the architectures has."""
    norms = ("input_layernorm", "post_attention_layernorm")
    return [
        EMBEDDING,
        "model.norm.weight",
        *(f"model.layers.{n}.{norm}.weight" for n in range(layers) for norm in norms),
    ]


def kept_names(
    names: Collection[str], linears: Collection[str], *, tied: bool
) -> list[str]:
    """Names of the tensors that are kept as float16, biases of linears excluded.

    Raises:
        ValueError: a tensor has no place in these architectures; it is named.
    """
    consumed = {f"{key}.{part}" for key in linears for part in ("weight", "bias")}
    consumed |= {f"{HEAD}.weight", f"{HEAD}.bias"}
    if tied:
        consumed.discard(f"{HEAD}.bias")
    kept = []
    for name in names:
        if name in consumed or _COMPUTED.fullmatch(name):
            continue
        if name != EMBEDDING and not _KEPT.fullmatch(name):
            raise ValueError(f"tensor {name!r} has no place in such a model")
        kept.append(name)
    return kept
