"""Tiny models with made-up weights, one for each thing a configuration can ask for.

The weights come from an integer hash of tensor name and index, so that they are the
same on every machine and only logits need to be stored.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.write import TensorPlan, TensorWriter

Config = dict[str, Any]

PROMPT_TOKENS = 45
"""More than two pages of the KV cache, and not a whole number of them."""


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A config.json, and which optional tensors go with it."""

    name: str
    config: Config
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def prompt(self) -> list[int]:
        """Tokens to compute the golden logits for."""
        noise = hashed(f"{self.name}/prompt", (PROMPT_TOKENS,))
        vocab = int(self.config["vocab_size"])
        return [int((value + 1) / 2 * vocab) for value in noise]


def _config(architecture: str, **changes: Any) -> Config:
    return {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "vocab_size": 96,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 16}

TINY_MODELS = (
    TinyModel("llama", _config("LlamaForCausalLM")),
    TinyModel(
        "llama-gqa-tied-linear",
        _config(
            "LlamaForCausalLM",
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_scaling={"type": "linear", "factor": 2.0},
        ),
    ),
    TinyModel(
        "llama-llama3-biases",
        _config(
            "LlamaForCausalLM",
            attention_bias=True,
            mlp_bias=True,
            rope_parameters=_LLAMA3,
        ),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
    ),
    TinyModel(
        "llama-yarn-mscale",
        _config(
            "LlamaForCausalLM",
            num_key_value_heads=1,
            rope_scaling={
                "rope_type": "yarn",
                **_YARN,
                "mscale": 0.7,
                "mscale_all_dim": 1.0,
            },
        ),
    ),
    TinyModel(
        "llama-uneven-sizes",
        _config(
            "LlamaForCausalLM",
            hidden_size=84,
            head_dim=14,
            num_attention_heads=6,
            num_key_value_heads=2,
            intermediate_size=1042,
            vocab_size=101,
            num_hidden_layers=1,
        ),
    ),
    TinyModel(
        "mistral-window-many-queries",
        _config(
            "MistralForCausalLM",
            num_attention_heads=24,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=20,
        ),
    ),
    TinyModel(
        "qwen2-tied",
        _config("Qwen2ForCausalLM", num_key_value_heads=2, tie_word_embeddings=True),
        qkv_bias=True,
    ),
    TinyModel(
        "qwen2-window-in-last-layer",
        _config(
            "Qwen2ForCausalLM",
            use_sliding_window=True,
            sliding_window=17,
            max_window_layers=1,
        ),
        qkv_bias=True,
    ),
    TinyModel(
        "qwen3",
        _config(
            "Qwen3ForCausalLM",
            num_key_value_heads=2,
            head_dim=32,
            rms_norm_eps=1e-6,
            rope_theta=1e6,
        ),
        qk_norm=True,
    ),
    TinyModel(
        "qwen3-yarn-biases",
        _config(
            "Qwen3ForCausalLM",
            attention_bias=True,
            rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, **_YARN},
        ),
        qkv_bias=True,
        o_bias=True,
        qk_norm=True,
    ),
)


def hashed(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers in [-1, 1) that depend on name and index only (SplitMix64)."""
    mixed = np.arange(int(np.prod(shape)), dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed += np.uint64(zlib.crc32(name.encode()) << 32)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)) / 2.0**52 - 1).reshape(shape)


def tensors(model: TinyModel) -> dict[str, NDArray[np.float16]]:
    """All tensors under their Hugging Face names; linears are [outputs, inputs]."""
    return {
        name: (offset + spread * hashed(f"{model.name}/{name}", shape)).astype("f2")
        for name, shape, offset, spread in _shapes(model)
    }


def _shapes(
    model: TinyModel,
) -> Iterator[tuple[str, tuple[int, ...], float, float]]:
    """(name, shape, mean, half the width of its distribution)."""
    config = model.config
    hidden, size = config["hidden_size"], config["head_dim"]
    queries = config["num_attention_heads"] * size
    keys = config["num_key_value_heads"] * size
    middle = config["intermediate_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden), 0, 1.7
    yield "model.norm.weight", (hidden,), 1, 0.5
    if not config["tie_word_embeddings"]:
        yield _linear("lm_head", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        yield f"{prefix}.input_layernorm.weight", (hidden,), 1, 0.5
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,), 1, 0.5
        for name, outputs in (("q", queries), ("k", keys), ("v", keys)):
            yield _linear(f"{attention}.{name}_proj", outputs, hidden)
            if model.qkv_bias:
                yield f"{attention}.{name}_proj.bias", (outputs,), 0, 1
        yield _linear(f"{attention}.o_proj", hidden, queries)
        if model.o_bias:
            yield f"{attention}.o_proj.bias", (hidden,), 0, 1
        if model.qk_norm:
            yield f"{attention}.q_norm.weight", (size,), 1, 0.5
            yield f"{attention}.k_norm.weight", (size,), 1, 0.5
        shapes = {"gate": (middle, hidden), "up": (middle, hidden)}
        for name, (outputs, inputs) in {**shapes, "down": (hidden, middle)}.items():
            yield _linear(f"{mlp}.{name}_proj", outputs, inputs)
            if model.mlp_bias:
                yield f"{mlp}.{name}_proj.bias", (outputs,), 0, 1


def _linear(
    key: str, outputs: int, inputs: int
) -> tuple[str, tuple[int, ...], float, float]:
    """Wide enough that attention is far from even and every layer matters."""
    return f"{key}.weight", (outputs, inputs), 0, 2.5 * inputs**-0.5


def write_folder(
    folder: Path, config: Config, contents: Mapping[str, NDArray[Any]]
) -> Path:
    """A model folder as Hugging Face lays it out; returns `folder`."""
    names = {"float16": "F16", "float32": "F32", "int16": "I16", "int32": "I32"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    plans = [
        TensorPlan(name, names[array.dtype.name], array.shape)
        for name, array in contents.items()
    ]
    with TensorWriter(folder, "model", [plans]) as writer:
        for name, array in contents.items():
            writer.write(name, array)
    return folder


def write_tiny_model(folder: Path, model: TinyModel) -> Path:
    """The model with dense float16 weights; returns `folder`."""
    return write_folder(folder, model.config, tensors(model))
