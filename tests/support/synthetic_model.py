"""EXL2 models of any shape with random weights, written in seconds.

Speed and memory do not ask what the weights say. Levels are drawn as raw bits, so an
8B-shaped model takes as long as its file takes to write; scales make each layer keep
the variance of what it is given, so that activations stay finite through any depth.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.exl2_linear import Exl2Linear, Group
from neuron.exl2.recipe import LayerShape, uniform
from neuron.exl2.write import TensorPlan, TensorWriter, shard
from neuron.models.bundled import bundled_root

_GROUP_ROWS: Final = 128
_SHARD_BYTES: Final = 8 << 30
_FULL_SCALE: Final = np.uint32(0xFFFFFFFF)
"""Scale index 16 for eight columns: the group's largest scale itself."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama's dimensions and the widths of its weights."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    bits: int = 4
    head_bits: int = 6
    rope_theta: float = 500_000.0

    def linears(self, layer: int) -> Iterator[tuple[str, LayerShape]]:
        """Key and shape of each linear of one layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for name, rows, columns in (
            ("self_attn.q_proj", self.hidden, queries),
            ("self_attn.k_proj", self.hidden, keys),
            ("self_attn.v_proj", self.hidden, keys),
            ("self_attn.o_proj", queries, self.hidden),
            ("mlp.gate_proj", self.hidden, self.intermediate),
            ("mlp.up_proj", self.hidden, self.intermediate),
            ("mlp.down_proj", self.intermediate, self.hidden),
        ):
            yield f"model.layers.{layer}.{name}", LayerShape(rows, columns)

    def config(self) -> dict[str, object]:
        """Its config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "quantization_config": {
                "quant_method": "exl2",
                "bits": float(self.bits),
                "head_bits": self.head_bits,
            },
        }


LLAMA_1B: Final = ModelShape(
    hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8, head_dim=64,
    vocab=128_256, context=8192,
)  # fmt: skip
LLAMA_8B: Final = ModelShape(
    hidden=4096, intermediate=14_336, layers=32, heads=32, kv_heads=8, head_dim=128,
    vocab=128_256, context=8192,
)  # fmt: skip


def write_synthetic(folder: Path, shape: ModelShape, *, seed: int = 0) -> None:
    """Write a model of that shape, with the bundled model's tokenizer filled up.

    Equal seeds give equal bytes, however many threads there are.

    Raises:
        FileExistsError: there is something at `folder`.
        ValueError: the vocabulary is smaller than that tokenizer's.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True)
    jobs = [
        _Job(key, size, shape.bits)
        for layer in range(shape.layers)
        for key, size in shape.linears(layer)
    ]
    jobs.append(_Job("lm_head", LayerShape(shape.hidden, shape.vocab), shape.head_bits))
    plans = [plan for job in jobs for plan in job.tensors()]
    plans += _dense_plans(shape)
    with TensorWriter(folder, "output", shard(plans, _SHARD_BYTES)) as writer:
        for name, tensor in _dense(shape, seed):
            writer.write(name, tensor)
        for name, tensor in _linears(jobs, seed):
            writer.write(name, tensor)
    _write_tokenizer(folder, shape.vocab)
    text = json.dumps(shape.config(), indent=1)
    (folder / "config.json").write_text(text, encoding="utf-8")


def _write_tokenizer(folder: Path, vocab: int) -> None:
    """The bundled one, with a piece for every further token that there is."""
    source = bundled_root() / "tinystories-15m"
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = tokenizer["model"]["vocab"]
    if vocab < len(pieces):
        raise ValueError(f"vocab {vocab} is less than the tokenizer's {len(pieces)}")
    for token in range(len(pieces), vocab):
        pieces[f"<unused{token}>"] = token
    text = json.dumps(tokenizer, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    shutil.copy(source / "tokenizer_config.json", folder)


@dataclass(frozen=True, slots=True)
class _Job:
    """One linear to make up."""

    key: str
    size: LayerShape
    bits: int

    def groups(self) -> tuple[Group, ...]:
        groups, word = [], 0
        for bits, rows in uniform(self.size, self.bits, _GROUP_ROWS):
            groups.append(Group(bits, word, rows))
            word += groups[-1].words
        return tuple(groups)

    def tensors(self) -> Iterator[TensorPlan]:
        groups = self.groups()
        columns, count = self.size.columns, len(groups)
        words = sum(group.words for group in groups)
        for part, dtype, shape in (
            ("q_weight", "I32", (words, columns)),
            ("q_scale", "I32", (count, columns // 8)),
            ("q_scale_max", "F16", (count,)),
            ("q_groups", "I16", (2 * count,)),
            ("q_invperm", "I32", (self.size.in_features,)),
        ):
            yield TensorPlan(f"{self.key}.{part}", dtype, shape)

    def make(self, rng: np.random.Generator) -> Exl2Linear:
        """Weights of mean nearly 0 and variance 1 / in_features."""
        groups = self.groups()
        rows, columns = self.size.in_features, self.size.columns
        words = sum(group.words for group in groups)
        deviation = 2**self.bits / 12**0.5
        scale = np.float16(1 / (deviation * rows**0.5))
        return Exl2Linear(
            q_weight=rng.integers(0, 1 << 32, (words, columns), dtype=np.uint32),
            q_scale=np.full((len(groups), columns // 8), _FULL_SCALE),
            q_scale_max=np.full(len(groups), scale),
            q_invperm=rng.permutation(rows).astype(np.int32),
            groups=groups,
            out_features=self.size.out_features,
        )


def _linears(jobs: Sequence[_Job], seed: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every tensor of every job; a few jobs are in memory at a time."""

    def make(index: int) -> Exl2Linear:
        return jobs[index].make(np.random.default_rng((seed, index)))

    at_once = os.cpu_count() or 1
    with ThreadPoolExecutor(at_once) as pool:
        for first in range(0, len(jobs), at_once):
            indexes = range(first, min(first + at_once, len(jobs)))
            for index, linear in zip(indexes, pool.map(make, indexes), strict=True):
                for part, tensor in linear.tensors().items():
                    yield f"{jobs[index].key}.{part}", tensor


def _dense_plans(shape: ModelShape) -> Iterator[TensorPlan]:
    yield TensorPlan("model.embed_tokens.weight", "F16", (shape.vocab, shape.hidden))
    for name in _norms(shape):
        yield TensorPlan(name, "F16", (shape.hidden,))


def _dense(shape: ModelShape, seed: int) -> Iterator[tuple[str, NDArray[Any]]]:
    rng = np.random.default_rng((seed, 1 << 31))
    octets = rng.integers(0, 256, (shape.vocab, shape.hidden), dtype=np.uint8)
    embedding = np.empty(octets.shape, np.float16)
    np.multiply(octets, np.float16(1 / 64), out=embedding, casting="unsafe")
    embedding -= np.float16(2)
    yield "model.embed_tokens.weight", embedding
    for name in _norms(shape):
        yield name, np.ones(shape.hidden, np.float16)


def _norms(shape: ModelShape) -> Iterator[str]:
    for layer in range(shape.layers):
        yield f"model.layers.{layer}.input_layernorm.weight"
        yield f"model.layers.{layer}.post_attention_layernorm.weight"
    yield "model.norm.weight"
