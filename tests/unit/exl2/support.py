"""Builders of files, and a slow reader of EXL2 that shares no code with ours."""

import json
import math
import struct
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray

reproducible = settings(derandomize=True, deadline=None, max_examples=50, database=None)
"""For property tests: the same examples in every run, and not many of them."""

DTYPES = {
    "float16": "F16",
    "float32": "F32",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
}


@dataclass
class Peak:
    """The most memory in use inside a `memory_peak` block, in bytes, once it ended."""

    bytes: int = 0


@contextmanager
def memory_peak() -> Iterator[Peak]:
    """Measure what Python and NumPy allocate."""
    peak = Peak()
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak.bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def entry(dtype: str, shape: Sequence[int], start: int, end: int) -> dict[str, object]:
    """One tensor's header entry."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def file_bytes(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header at all."""
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def save(
    file: Path,
    tensors: Mapping[str, NDArray[Any]],
    bfloat16: Mapping[str, NDArray[np.uint16]] | None = None,
) -> None:
    """Write a well-formed file; `bfloat16` are bit patterns."""
    header: dict[str, object] = {}
    data = b""
    every = [(name, DTYPES[t.dtype.name], t) for name, t in tensors.items()]
    every += [(name, "BF16", t) for name, t in (bfloat16 or {}).items()]
    for name, dtype, tensor in every:
        start = len(data)
        data += tensor.tobytes()
        header[name] = entry(dtype, tensor.shape, start, len(data))
    file.write_bytes(file_bytes(header, data))


def half(number: float) -> float:
    """Rounded to float16, ties to even, by the struct module."""
    try:
        rounded: float = struct.unpack("<e", struct.pack("<e", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)
    return rounded


def scalar_dequantize(tensors: Mapping[str, NDArray[Any]]) -> list[list[float]]:
    """EXL2 tensors to weights, one bit at a time, padded columns included."""
    words = (tensors["q_weight"].astype(np.int64) & 0xFFFFFFFF).tolist()
    nibbles = (tensors["q_scale"].astype(np.int64) & 0xFFFFFFFF).tolist()
    pairs = (tensors["q_groups"].astype(np.int64) & 0xFFFF).tolist()
    largest = [float(value) for value in tensors["q_scale_max"]]
    columns = len(words[0])
    packed: list[list[float]] = []
    for group in range(len(largest)):
        bits, first = pairs[2 * group : 2 * group + 2]
        end = pairs[2 * group + 3] if group + 1 < len(largest) else len(words)
        scales = []
        for column in range(columns):
            index = (nibbles[group][column // 8] >> (4 * (column % 8)) & 15) + 1
            scales.append(half(index * index * half(largest[group] / 256)))
        for row in range((end - first) * 32 // bits):
            values = [
                sum(
                    (words[first + place // 32][column] >> (place % 32) & 1) << bit
                    for bit in range(bits)
                    for place in [row * bits + bit]
                )
                for column in range(columns)
            ]
            packed.append(
                [
                    half((value - (1 << (bits - 1))) * scale)
                    for value, scale in zip(values, scales, strict=True)
                ]
            )
    return [packed[place] for place in tensors["q_invperm"].tolist()]


def tiny_model(
    folder: Path,
    architecture: str = "LlamaForCausalLM",
    *,
    tied: bool = False,
    bfloat16: bool = False,
    shards: int = 1,
    hidden: int = 64,
    inner: int = 96,
) -> dict[str, NDArray[np.float32]]:
    """Write a random model of two layers; its tensors are returned as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    heads, kv_heads, vocab = 4, 2, 75
    head = hidden // heads
    rng = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (heads * head, hidden),
            f"{prefix}.self_attn.k_proj.weight": (kv_heads * head, hidden),
            f"{prefix}.self_attn.v_proj.weight": (kv_heads * head, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, heads * head),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }
        if architecture == "Qwen2ForCausalLM":
            for name, size in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (size * head,)
        if architecture == "Qwen3ForCausalLM":
            for name in ("q_norm", "k_norm"):
                shapes[f"{prefix}.self_attn.{name}.weight"] = (head,)
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    tensors = {
        name: (rng.standard_normal(shape) * 0.05).astype(np.float16)
        for name, shape in shapes.items()
    }
    described = {
        "architectures": [architecture],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16" if bfloat16 else "float16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "tokenizer.json").write_text("{}")
    return _save_shards(folder, tensors, bfloat16=bfloat16, shards=shards)


def _save_shards(
    folder: Path,
    tensors: dict[str, NDArray[np.float16]],
    *,
    bfloat16: bool,
    shards: int,
) -> dict[str, NDArray[np.float32]]:
    exact = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    # bfloat16 is the upper half of a float32
    bits = {n: (t.view(np.uint32) >> 16).astype(np.uint16) for n, t in exact.items()}
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        mine = names[number::shards]
        file = "model.safetensors" if shards == 1 else f"model-{number}.safetensors"
        weight_map |= dict.fromkeys(mine, file)
        halves = {name: tensors[name] for name in mine}
        brains = {name: bits[name] for name in mine}
        save(folder / file, *(({}, brains) if bfloat16 else (halves, {})))
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if bfloat16:
        wide = {name: b.astype(np.uint32) << 16 for name, b in bits.items()}
        return {name: w.view(np.float32) for name, w in wide.items()}
    return exact
