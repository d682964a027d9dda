"""Tiny decoders of exllamav2's architectures, with made-up weights, and what
transformers computes with them.

Linear layers are packed as EXL2; in float16 they are the same to the bit. Names and
shapes are those of transformers' own files, and kept with the results.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.exl2_linear import Exl2Linear, Group
from tests.goldens.tiny_models import hashed

FILE: Final = Path(__file__).with_name("decoders.json")
Tensors = dict[str, NDArray[Any]]
_LINEAR: Final = re.compile(
    r"(?:lm_head|\.(?:[a-z]+_proj|qkv_proj|gate_up_proj|c_fc|w[123]))\.weight$"
)
_FUSED: Final = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")
}  # fmt: skip
"""What is one matrix in float16 and several in EXL2."""
_WIDE_ROWS: Final = 32
_SPREAD: Final = 1.2


@dataclass(frozen=True, slots=True)
class Decoder:
    """One model, and the result for one prompt."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    prompt: tuple[int, ...]
    chosen: tuple[float, ...]
    """Log-probability of each token of the prompt but the first."""


@cache
def decoders() -> Mapping[str, Decoder]:
    """All of them, by name."""
    raw = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Decoder(
            one["config"],
            {key: tuple(shape) for key, shape in one["shapes"].items()},
            tuple(one["prompt"]),
            tuple(one["chosen"]),
        )
        for name, one in raw.items()
    }


def dense(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """In float16, as transformers has them."""
    found = {}
    for name, shape in shapes.items():
        parts = [part.dequantize().T for _, part in _linears(name, shape, config)]
        found[name] = np.concatenate(parts) if parts else _loose(name, shape, config)
    return found


def packed(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """As the same model is in EXL2."""
    found: Tensors = {}
    for name, shape in shapes.items():
        parts = list(_linears(name, shape, config))
        for key, linear in parts:
            found |= _tensors(key, linear)
        if not parts:
            found[name] = _loose(name, shape, config)
    return found


def _linears(
    name: str, shape: tuple[int, ...], config: Mapping[str, Any]
) -> Iterator[tuple[str, Exl2Linear]]:
    if not _LINEAR.search(name) or len(shape) != 2:
        return
    key = name.removesuffix(".weight")
    outputs, inputs = shape
    if key.endswith("qkv_proj"):
        heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
        of_queries = outputs * heads // (heads + 2 * shared)
        rest = (outputs - of_queries) // 2
        sizes = [of_queries, rest, rest]
    else:
        sizes = [outputs // 2] * 2 if key.endswith("gate_up_proj") else [outputs]
    before, _, last = key.rpartition(".")
    for part, size in zip(_FUSED.get(last, (last,)), sizes, strict=True):
        full = f"{before}.{part}" if before else part
        yield full, _linear(full, inputs, size)


def _linear(key: str, rows: int, columns: int) -> Exl2Linear:
    """Six bits and then four, rows in another order, mean nearly 0."""
    groups = [Group(6, 0, _WIDE_ROWS)]
    if rows > _WIDE_ROWS:
        groups.append(Group(4, groups[0].words, rows - _WIDE_ROWS))
    deviations = np.array([2**group.bits / 12**0.5 for group in groups])
    words = sum(group.words for group in groups)
    largest = 2.5 * _SPREAD / rows**0.5 / deviations
    return Exl2Linear(
        q_weight=_words(f"{key}/levels", (words, columns)),
        q_scale=_words(f"{key}/scales", (len(groups), columns // 8)),
        q_scale_max=largest.astype(np.float16),
        q_invperm=np.argsort(hashed(f"{key}/order", (rows,))).astype(np.int32),
        groups=tuple(groups),
        out_features=columns,
    )


def _words(name: str, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    return ((hashed(name, shape) + 1) * 2.0**31).astype(np.uint32)


def _tensors(key: str, linear: Exl2Linear) -> Tensors:
    pairs = [(group.bits, group.first_word) for group in linear.groups]
    return {
        f"{key}.q_weight": linear.q_weight.view(np.int32),
        f"{key}.q_scale": linear.q_scale.view(np.int32),
        f"{key}.q_scale_max": linear.q_scale_max,
        f"{key}.q_groups": np.array(pairs, np.int16).reshape(-1),
        f"{key}.q_invperm": linear.q_invperm,
    }


def _loose(
    name: str, shape: tuple[int, ...], config: Mapping[str, Any]
) -> NDArray[np.float16]:
    """Embeddings, norms, biases, and what routes tokens to experts."""
    noise = hashed(name, shape)
    if "norm" in name:
        # Gemma's norms are one more than what is stored.
        offset = 0 if str(config["architectures"][0]).startswith("Gemma") else 1
        return (offset * name.endswith("weight") + 0.3 * noise).astype(np.float16)
    spread = 0.4 if name.endswith("bias") else 1.7
    return (spread * noise).astype(np.float16)
