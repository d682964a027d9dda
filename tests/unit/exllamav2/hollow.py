"""Model folders whose tensors are all zeros and take no room: headers and holes.

What a load takes is told from headers alone, so that models of any size can be planned
for in a test.
"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from neuron.exl2.header import ITEM_BYTES
from neuron.models.bundled import bundled_root
from neuron.models.info import ModelInfo
from neuron.models.inspect import inspect_model
from tests.support.synthetic_model import LLAMA_8B, ModelShape

Tensors = Mapping[str, tuple[str, Sequence[int]]]
"""Name → (dtype, shape)."""

GROUP: Final = 128
SMALL: Final = ModelShape(
    hidden=256, intermediate=512, layers=3, heads=8, kv_heads=2, head_dim=32,
    vocab=1000, context=1024,
)  # fmt: skip
BIG: Final = LLAMA_8B


def quantized(key: str, rows: int, columns: int, bits: int) -> Tensors:
    """One EXL2 linear with one width throughout."""
    groups = -(-rows // GROUP)
    columns += -columns % 32
    return {
        f"{key}.q_weight": ("I32", (rows * bits // 32, columns)),
        f"{key}.q_scale": ("I32", (groups, columns // 8)),
        f"{key}.q_scale_max": ("F16", (groups,)),
        f"{key}.q_groups": ("I16", (2 * groups,)),
        f"{key}.q_invperm": ("I32", (rows,)),
    }


def gptq(key: str, rows: int, columns: int) -> Tensors:
    """One GPTQ linear of 4 bits."""
    groups = rows // GROUP
    return {
        f"{key}.qweight": ("I32", (rows // 8, columns)),
        f"{key}.qzeros": ("I32", (groups, columns // 8)),
        f"{key}.scales": ("F16", (groups, columns)),
        f"{key}.g_idx": ("I32", (rows,)),
    }


def dense(key: str, rows: int, columns: int, dtype: str = "F16") -> Tensors:
    return {f"{key}.weight": (dtype, (columns, rows))}


def llama(shape: ModelShape, kind: str = "exl2") -> dict[str, Any]:
    """Tensors of a Llama in one of the engine's formats."""
    tensors: dict[str, Any] = dict(
        dense("model.embed_tokens", shape.hidden, shape.vocab)
    )
    for layer in range(shape.layers):
        for key, size in shape.linears(layer):
            rows, columns = size.in_features, size.out_features
            if kind == "exl2":
                tensors |= quantized(key, rows, columns, shape.bits)
            elif kind == "gptq":
                tensors |= gptq(key, rows, columns)
            else:
                tensors |= dense(key, rows, columns, "BF16")
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = f"model.layers.{layer}.{norm}.weight"
            tensors[name] = ("F16", (shape.hidden,))
    tensors["model.norm.weight"] = ("F16", (shape.hidden,))
    if kind == "exl2":
        tensors |= quantized("lm_head", shape.hidden, shape.vocab, shape.head_bits)
    else:
        tensors |= dense("lm_head", shape.hidden, shape.vocab)
    return tensors


def config_of(shape: ModelShape, kind: str = "exl2", **changes: Any) -> dict[str, Any]:
    config = shape.config()
    if kind == "gptq":
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    if kind == "fp16":
        del config["quantization_config"]
    return {k: v for k, v in {**config, **changes}.items() if v is not None}


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Tensors,
    *,
    seed: int | None = None,
) -> ModelInfo:
    """Make the folder and inspect it; with a seed its tensors are random numbers."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    vocabulary = {f"t{i}": i for i in range(16)}
    tokenizer = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        nbytes = prod(shape) * ITEM_BYTES[dtype]
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [end, end + nbytes],
        }
        end += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        if seed is not None:
            rng = np.random.default_rng(seed)
            for name, (dtype, shape) in tensors.items():
                stream.write(_contents(name, dtype, shape, rng))
        stream.truncate(8 + len(text) + end)
    return inspect_model(folder, folder.name)


def _contents(
    name: str, dtype: str, shape: Sequence[int], rng: np.random.Generator
) -> bytes:
    if name.endswith(".q_invperm"):
        return rng.permutation(shape[0]).astype("<i4").tobytes()
    if name.endswith(".q_groups"):
        groups = shape[0] // 2
        pairs = [(4, GROUP * 4 // 32 * group) for group in range(groups)]
        return np.array(pairs, "<i2").tobytes()
    if dtype == "BF16":
        wide = rng.standard_normal(shape).astype("<f4").view("<u4")
        return (wide >> 16).astype("<u2").tobytes()
    if dtype == "F16":
        return rng.standard_normal(shape).astype("<f2").tobytes()
    return (
        rng.integers(-(1 << 31), 1 << 31, shape, dtype=np.int64).astype("<i4").tobytes()
    )


def write_llama(
    folder: Path, shape: ModelShape = SMALL, kind: str = "exl2", **changes: Any
) -> ModelInfo:
    """A Llama of that shape in that format."""
    return write(folder, config_of(shape, kind, **changes), llama(shape, kind))


def with_the_bundled_tokenizer(folder: Path) -> None:
    """Replace the tokenizer by one that the library can load."""
    tokenizer = bundled_root() / "tinystories-15m" / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
