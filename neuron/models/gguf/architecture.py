"""config.json of the model that a GGUF file holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from neuron.exl2.errors import shown_name
from neuron.models.gguf.file import GgufFile
from neuron.models.gguf.metadata import Metadata
from neuron.models.gguf.rope import rope_scaling


@dataclass(frozen=True, slots=True)
class Family:
    """What an architecture of GGUF is called elsewhere, and how it differs."""

    architecture: str
    model_type: str
    interleaved: bool = False
    """Whether rows of queries and keys are stored so that the two numbers which rotary
    embedding turns together are neighbours; elsewhere they are half a head apart."""
    qkv_bias: bool = False
    qk_norm: bool = False
    optional_biases: bool = False
    """Whether attention and MLP may have biases, all of one or none."""
    window: bool = False
    """Whether it may have a sliding window, which makes it a Mistral."""


FAMILIES: Final[Mapping[str, Family]] = {
    "llama": Family(
        "LlamaForCausalLM",
        "llama",
        interleaved=True,
        optional_biases=True,
        window=True,
    ),
    "qwen2": Family("Qwen2ForCausalLM", "qwen2", qkv_bias=True),
    "qwen3": Family("Qwen3ForCausalLM", "qwen3", qk_norm=True),
}

_UNDERSTOOD: Final = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "vocab_size",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_log_multiplier",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
    }
)
_HARMLESS: Final[Mapping[str, object]] = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "tensor_data_layout": "Meta AI original pth",
}
"""Keys that are fine with this one value."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a model."""

    family: Family
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    eps: float
    theta: float
    rope_scaling: Mapping[str, object] | None
    window: int | None
    tied: bool
    attention_bias: bool
    mlp_bias: bool

    def config(self) -> dict[str, object]:
        """As config.json, token ids aside."""
        family = self.family
        config: dict[str, object] = {
            "architectures": [family.architecture],
            "model_type": family.model_type,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.eps,
            "rope_theta": self.theta,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "torch_dtype": "float16",
        }
        if self.rope_scaling is not None:
            config["rope_scaling"] = dict(self.rope_scaling)
        if family.optional_biases or family.qk_norm:
            config["attention_bias"] = self.attention_bias
        if family.optional_biases:
            config["mlp_bias"] = self.mlp_bias
        if self.window is not None:
            config["architectures"] = ["MistralForCausalLM"]
            config["model_type"] = "mistral"
            config["sliding_window"] = self.window
        return config


def read_architecture(file: GgufFile, metadata: Metadata) -> Architecture:
    """What the metadata say, checked; shapes of tensors are for the tensors to check.

    Raises:
        ModelError: a key is missing, malformed, or asks for what is not supported.
    """
    name = _architecture_name(metadata)
    family = FAMILIES[name]
    _refuse_unknown(metadata, name)
    heads, kv_heads = _heads(metadata, name)
    hidden = metadata.integer(f"{name}.embedding_length")
    head_dim = _head_dim(metadata, name, hidden, heads)
    theta = _positive(metadata, f"{name}.rope.freq_base", 10000.0)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise metadata.error("tensor 'token_embd.weight'", "is missing")
    return Architecture(
        family=family,
        layers=_layers(metadata, name, len(file.tensors)),
        hidden=hidden,
        intermediate=metadata.integer(f"{name}.feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=embedding.shape[0],
        context=metadata.integer(f"{name}.context_length"),
        eps=_positive(metadata, f"{name}.attention.layer_norm_rms_epsilon"),
        theta=theta,
        rope_scaling=rope_scaling(file, metadata, name, theta, head_dim),
        window=_window(metadata, name),
        tied="output.weight" not in file.tensors,
        attention_bias=family.optional_biases and "blk.0.attn_q.bias" in file.tensors,
        mlp_bias=family.optional_biases and "blk.0.ffn_up.bias" in file.tensors,
    )


def _architecture_name(metadata: Metadata) -> str:
    kind = metadata.text("general.type", "model")
    if kind != "model":
        raise metadata.error(
            "general.type", f"is {shown_name(kind)}; only models are imported"
        )
    name = metadata.text("general.architecture")
    if name not in FAMILIES:
        raise metadata.error(
            "general.architecture",
            f"{shown_name(name)} is not supported; these are: {', '.join(FAMILIES)}",
        )
    if metadata.number("split.count", 1) > 1:
        raise metadata.error(
            "split.count",
            "says that this is one file of several; "
            "merge them first, with llama-gguf-split --merge",
        )
    return name


def _refuse_unknown(metadata: Metadata, name: str) -> None:
    """What is not understood may change what the model computes."""
    for key, value in metadata.values.items():
        if not key.startswith(f"{name}."):
            continue
        short = key.removeprefix(f"{name}.")
        # Types too: an array is equal to nothing in particular.
        fine = _HARMLESS.get(short)
        harmless = type(value) is type(fine) and value == fine
        if short not in _UNDERSTOOD and not harmless:
            raise metadata.error(key, "is not supported")


def _heads(metadata: Metadata, name: str) -> tuple[int, int]:
    """(of queries, of keys and values)."""
    heads = metadata.integer(f"{name}.attention.head_count")
    kv_heads = metadata.integer(f"{name}.attention.head_count_kv", heads)
    if heads % kv_heads:
        raise metadata.error(
            f"{name}.attention.head_count_kv", f"{kv_heads} does not divide {heads}"
        )
    return heads, kv_heads


def _layers(metadata: Metadata, name: str, tensors: int) -> int:
    layers = metadata.integer(f"{name}.block_count")
    if layers > tensors:
        raise metadata.error(
            f"{name}.block_count", f"{layers} is more than the tensors of the file"
        )
    return layers


def _window(metadata: Metadata, name: str) -> int | None:
    key = f"{name}.attention.sliding_window"
    if key not in metadata:
        return None
    if not FAMILIES[name].window:
        raise metadata.error(key, "is not supported in this architecture")
    return metadata.integer(key)


def _positive(metadata: Metadata, key: str, default: float | None = None) -> float:
    number = metadata.number(key, default)
    if number <= 0:
        raise metadata.error(key, f"must be above 0, not {number}")
    return number


def _head_dim(metadata: Metadata, name: str, hidden: int, heads: int) -> int:
    head_dim = metadata.integer(f"{name}.attention.key_length", max(1, hidden // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        size = metadata.integer(f"{name}.{key}", head_dim)
        if size != head_dim:
            raise metadata.error(
                f"{name}.{key}", f"is {size}, must be the {head_dim} of a whole head"
            )
    if head_dim % 2:
        raise metadata.error(f"{name}.attention.key_length", f"{head_dim} is odd")
    return head_dim
