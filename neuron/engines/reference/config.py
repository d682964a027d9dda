"""What config.json says of a model this engine can run, or why it cannot.

Defaults of absent keys are those of the Hugging Face configuration classes, because
their `save_pretrained` leaves such keys out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neuron.engines.reference.rope import Rope, parse_rope

ARCHITECTURES: Final = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)


class UnsupportedModelError(Exception):
    """The model is not one this engine can run; the text names field and value."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Hyper-parameters, every default filled in."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    eps: float
    rope: Rope
    tied: bool
    qk_norm: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    windows: tuple[int | None, ...]
    """Per layer: how many tokens back, itself included, a token sees; None is all."""

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads


def read_config(path: Path) -> ModelConfig:
    """Parse the config.json of a model folder.

    Raises:
        UnsupportedModelError: it is missing, malformed, or of another kind of model.
    """
    try:
        raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(f"config.json cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise UnsupportedModelError("config.json holds no JSON object")
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Check and complete the contents of a config.json.

    Raises:
        UnsupportedModelError: a key has a value this engine does not know.
    """
    family = _family(raw)
    heads = _count(raw, "num_attention_heads")
    kv_heads = _count(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise UnsupportedModelError(
            f"num_attention_heads {heads} is no multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    hidden = _count(raw, "hidden_size")
    default_dim = 128 if family == "Qwen3" else hidden // heads
    head_dim = _count(raw, "head_dim", default_dim)
    if head_dim % 2:
        raise UnsupportedModelError(f"head_dim {head_dim} is odd")
    layers = _count(raw, "num_hidden_layers")
    context = _count(raw, "max_position_embeddings")
    has_bias = family in ("Llama", "Qwen3") and _flag(raw, "attention_bias")
    return ModelConfig(
        layers=layers,
        hidden=hidden,
        intermediate=_count(raw, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_count(raw, "vocab_size"),
        context=context,
        eps=_epsilon(raw),
        rope=_rope(raw, context),
        tied=_flag(raw, "tie_word_embeddings"),
        qk_norm=family == "Qwen3",
        qkv_bias=has_bias or family == "Qwen2",
        o_bias=has_bias,
        mlp_bias=family == "Llama" and _flag(raw, "mlp_bias"),
        windows=_windows(raw, family, layers),
    )


def _family(raw: Mapping[str, Any]) -> str:
    architectures = raw.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else ""
    if name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"architecture {name or 'unknown'} is not one of {', '.join(ARCHITECTURES)}"
        )
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"hidden_act {activation!r} is not 'silu'")
    return str(name).removesuffix("ForCausalLM")


def _count(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedModelError(f"{key} {value!r} is not a positive integer")
    return value


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise UnsupportedModelError(f"{key} {value!r} is neither true nor false")
    return value


def _epsilon(raw: Mapping[str, Any]) -> float:
    value = raw.get("rms_norm_eps", 1e-6)
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise UnsupportedModelError(f"rms_norm_eps {value!r} is not a number > 0")
    return float(value)


def _rope(raw: Mapping[str, Any], context: int) -> Rope:
    try:
        return parse_rope(raw, context)
    except ValueError as error:
        raise UnsupportedModelError(str(error)) from None


def _windows(
    raw: Mapping[str, Any], family: str, layers: int
) -> tuple[int | None, ...]:
    """Mistral has one window for every layer, Qwen one for some; Llama has none."""
    if family == "Llama":
        return (None,) * layers
    if family == "Mistral":
        size = raw.get("sliding_window", 4096)
        return (None if size is None else _count(raw, "sliding_window", 4096),) * layers
    if not _flag(raw, "use_sliding_window"):
        return (None,) * layers
    window = _count(raw, "sliding_window", 4096)
    kinds = raw.get("layer_types")
    if kinds is None:
        first = raw.get("max_window_layers", 28)
        if not isinstance(first, int) or first < 0:
            raise UnsupportedModelError(f"max_window_layers {first!r} is not a count")
        return tuple(window if layer >= first else None for layer in range(layers))
    known = {"full_attention": None, "sliding_attention": window}
    if not isinstance(kinds, list) or [k for k in kinds if k not in known]:
        kinds = []
    if len(kinds) != layers:
        raise UnsupportedModelError(
            f"layer_types must name one of {', '.join(known)} for each layer"
        )
    return tuple(known[kind] for kind in kinds)
