"""Making GGUF files with the `gguf` package's own writer, as llama.cpp's converter of
Hugging Face folders does."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray

from tests.goldens.tiny_models import TinyModel, tensors

Metadata = dict[str, Any]
Tensors = dict[str, NDArray[Any]]

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def plain_tokenizer(size: int) -> Metadata:
    """A vocabulary of that size that nothing is asked of."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab"]
        + [f"<{number}>" for number in range(6, size)],
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (size - 3),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def metadata_of(model: TinyModel) -> Metadata:
    """The keys that say what the model's config.json says."""
    config = model.config
    name = _ARCHITECTURES[config["architectures"][0]]
    found: Metadata = {
        "general.architecture": name,
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config["num_key_value_heads"],
        f"{name}.attention.key_length": config["head_dim"],
        f"{name}.attention.value_length": config["head_dim"],
        f"{name}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{name}.rope.dimension_count": config["head_dim"],
        f"{name}.rope.freq_base": _rope(config).get("rope_theta", config["rope_theta"]),
        **plain_tokenizer(config["vocab_size"]),
    }
    kind = _rope(config).get("rope_type", _rope(config).get("type"))
    if kind in ("linear", "yarn"):
        found[f"{name}.rope.scaling.type"] = kind
        found[f"{name}.rope.scaling.factor"] = _rope(config)["factor"]
    if kind == "yarn":
        original = _rope(config)["original_max_position_embeddings"]
        found[f"{name}.rope.scaling.original_context_length"] = original
    if "sliding_window" in config:
        found[f"{name}.attention.sliding_window"] = config["sliding_window"]
    return found


def tensors_of(model: TinyModel) -> Tensors:
    """Its tensors under GGUF's names, rows of queries and keys as llama has them.

    Vectors are float32, without which llama.cpp does not run.
    """
    config = model.config
    found: dict[str, NDArray[Any]] = {}
    for name, half in tensors(model).items():
        tensor = half.astype(np.float32) if half.ndim == 1 else half
        key, _, part = name.rpartition(".")
        if key in _NAMES:
            found[f"{_NAMES[key]}.{part}"] = tensor
            continue
        _, _, layer, inner = key.split(".", 3)
        heads = {
            "self_attn.q_proj": config["num_attention_heads"],
            "self_attn.k_proj": config["num_key_value_heads"],
        }.get(inner)
        if heads and _ARCHITECTURES[config["architectures"][0]] == "llama":
            found[f"blk.{layer}.{_NAMES[inner]}.{part}"] = interleaved(tensor, heads)
        else:
            found[f"blk.{layer}.{_NAMES[inner]}.{part}"] = tensor
    if _rope(config).get("rope_type") == "llama3":
        found["rope_freqs.weight"] = divisors(_rope(config), config["head_dim"])
    return found


def interleaved(tensor: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows i and i + half of each head made neighbours."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


def divisors(rope: Mapping[str, Any], head_dim: int) -> NDArray[np.float32]:
    """What Llama 3.1 divides each frequency by, one at a time."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    found = []
    for pair in range(head_dim // 2):
        frequency = rope["rope_theta"] ** (-2 * pair / head_dim)
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
        if turns > high:
            found.append(1.0)
        elif turns < low:
            found.append(rope["factor"])
        else:
            kept = (turns - low) / (high - low)
            found.append(1 / ((1 - kept) / rope["factor"] + kept))
    return np.array(found, np.float32)


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def write_gguf(
    file: Path,
    metadata: Metadata,
    contents: Tensors,
    kinds: Mapping[str, GGMLQuantizationType] | None = None,
) -> Path:
    """Write the file; tensors of which `kinds` holds the name are quantized."""
    writer = GGUFWriter(file, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for name, tensor in contents.items():
        kind = (kinds or {}).get(name)
        if kind is None:
            writer.add_tensor(name, tensor)
        else:
            packed = quantize(tensor.astype(np.float32), kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    kind = GGUFValueType.get_type(value)
    if isinstance(value, list):
        inner = GGUFValueType.get_type(value[0]) if value else GGUFValueType.STRING
        writer.add_key_value(key, value, kind, sub_type=inner)
    else:
        unsigned = kind is GGUFValueType.INT32 and value >= 0
        writer.add_key_value(key, value, GGUFValueType.UINT32 if unsigned else kind)
