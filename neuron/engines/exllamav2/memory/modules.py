"""What each module of the library's model takes on a device, from headers alone.

The library uploads a quantized layer's tensors as they lie on disk, except that it
keeps both permutations as int16 and adds a map of groups; unquantized tensors become
float16. Nothing here reads weights.
Source: exllamav2 0.3.2: linear.py, module.py, ext.py, attn.py, mlp.py, moe_mlp.py.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final, Literal

from neuron.engines.exllamav2.memory.architectures import Architecture
from neuron.exl2.header import TensorSpec

Kind = Literal["embedding", "attention", "mlp", "experts", "norm", "head"]

ALIGNMENT: Final = 512
"""Of every tensor on a device, in bytes; what CUDA's and torch's allocators give."""
FLOATS: Final = ("F16", "BF16", "F32")
_HALF: Final = 2
_PARTS: Final = frozenset(
    {
        *("weight", "bias"),
        *("q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm"),
        *("qweight", "qzeros", "scales", "g_idx"),
    }
)
"""Tensors that a module reads; `q_perm` is computed anew, and others are not asked."""
_LAYER: Final = re.compile(r"\.(?:layers|h)\.(\d+)\.(.*)")
_ATTENTION: Final = re.compile(r"(self_attn|attention|attn)\.(?!.*norm\d)")
_EXPERT: Final = re.compile(r"\.experts\.")
_EMBEDDING: Final = ("embed_tokens", "tok_embeddings", "wte")
_HEADS: Final = ("lm_head", "output")
_DOWN: Final = ("down_proj", "mlp.c_proj", "feed_forward.w2")


@dataclass(frozen=True, slots=True)
class LinearCost:
    """One linear layer on a device."""

    key: str
    rows: int
    """in_features."""
    columns: int
    """out_features, padding included."""
    quantized: bool
    arena_bytes: int
    """Tensors that are uploaded as they are, each aligned."""
    loose_bytes: int
    """Tensors that the library makes on the device, each aligned."""

    @property
    def numel(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class ModuleCost:
    """One module of the model: what goes to a device together."""

    kind: Kind
    layer: int | None
    linears: tuple[LinearCost, ...]
    other_bytes: int
    """Norms and whatever else is no linear layer, each tensor aligned."""

    @property
    def arena_bytes(self) -> int:
        return self.other_bytes + sum(part.arena_bytes for part in self.linears)

    @property
    def loose_bytes(self) -> int:
        return sum(part.loose_bytes for part in self.linears)

    @property
    def quantized(self) -> bool:
        return any(part.quantized for part in self.linears)

    def largest(self, max_dq_size: int) -> int:
        """Numbers of the largest matrix that is dequantized here at once."""
        sizes = (part.numel for part in self.linears if part.quantized)
        return max((min(size, max_dq_size) for size in sizes), default=0)


def aligned(nbytes: int) -> int:
    """What a tensor of so many bytes takes of its block."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def module_costs(
    specs: Mapping[str, TensorSpec], architecture: Architecture
) -> tuple[ModuleCost, ...]:
    """The decoder's modules in the order in which they run; where the folder's tensors
    have no head, the embedding is one.
    """
    groups: dict[tuple[int, Kind], dict[str, TensorSpec]] = defaultdict(dict)
    for name, spec in specs.items():
        if _is_read(name, spec, architecture):
            groups[_place(name)][name] = spec
    if not any(kind == "head" for _, kind in groups):
        groups[_LAST, "head"] = groups[-1, "embedding"]
    if (_LAST - 1, "norm") not in groups:
        groups[_LAST - 1, "norm"] = {}
    return tuple(
        _module(layer, kind, tensors)
        for (layer, kind), tensors in sorted(groups.items(), key=_running_order)
    )


_LAST: Final = 1 << 40
_ORDER: Final = ("embedding", "attention", "mlp", "experts", "norm", "head")


def _running_order(
    item: tuple[tuple[int, Kind], dict[str, TensorSpec]],
) -> tuple[int, int]:
    layer, kind = item[0]
    return layer, _ORDER.index(kind)


def _is_read(name: str, spec: TensorSpec, architecture: Architecture) -> bool:
    if not name.startswith(architecture.prefix):
        return False
    if not architecture.prefix and name.startswith(architecture.vision or "\0"):
        return False
    _, _, part = name.rpartition(".")
    # A causal mask may be stored as `attn.bias`; a real one has one dimension.
    return part in _PARTS and not (part == "bias" and len(spec.shape) != 1)


def _place(name: str) -> tuple[int, Kind]:
    key = name.rpartition(".")[0]
    found = _LAYER.search(f".{name}")
    if found is None:
        last = key.rpartition(".")[2]
        if last in _EMBEDDING:
            return -1, "embedding"
        return (_LAST, "head") if last in _HEADS else (_LAST - 1, "norm")
    layer, inner = int(found[1]), found[2]
    if _EXPERT.search(f".{inner}") or inner.startswith("block_sparse_moe."):
        return layer, "experts"
    return layer, "attention" if _ATTENTION.match(inner) else "mlp"


def _module(layer: int, kind: Kind, tensors: Mapping[str, TensorSpec]) -> ModuleCost:
    linears: dict[str, dict[str, TensorSpec]] = defaultdict(dict)
    other = 0
    for name, spec in tensors.items():
        key, _, part = name.rpartition(".")
        if _in_linear(key, tensors):
            linears[key][part] = spec
        else:
            other += aligned(half_bytes(spec))
    costs = tuple(_linear(key, parts, kind=kind) for key, parts in linears.items())
    return ModuleCost(kind, layer if 0 <= layer < _LAST - 1 else None, costs, other)


def _in_linear(key: str, tensors: Mapping[str, TensorSpec]) -> bool:
    if f"{key}.q_weight" in tensors or f"{key}.qweight" in tensors:
        return True
    weight = tensors.get(f"{key}.weight")
    # The norm of each head is a matrix as well, and no linear layer.
    return weight is not None and len(weight.shape) == 2 and "norm" not in key


def half_bytes(spec: TensorSpec) -> int:
    """A tensor's bytes on a device, where floats are float16."""
    return prod(spec.shape) * _HALF if spec.dtype in FLOATS else spec.nbytes


def _linear(key: str, parts: Mapping[str, TensorSpec], *, kind: Kind) -> LinearCost:
    def arena(names: Iterable[str]) -> int:
        return sum(aligned(half_bytes(parts[n])) for n in names if n in parts)

    if "q_weight" in parts:
        rows = prod(parts["q_invperm"].shape)
        columns = parts["q_weight"].shape[-1]
        # The MLP's down projection takes its rows as they come; gate and up are
        # reordered instead.
        orders = 0 if kind == "mlp" and key.endswith(_DOWN) else 2
        stored = arena(("q_weight", "q_scale", "q_scale_max", "q_groups", "bias"))
        made = orders * aligned(2 * rows) + aligned(4 * rows)
        return LinearCost(key, rows, columns, True, stored, made)
    if "qweight" in parts:
        rows, columns = 8 * parts["qweight"].shape[0], parts["qweight"].shape[-1]
        stored = arena(("qweight", "qzeros", "scales", "g_idx", "bias"))
        # Rows are put in order unless `g_idx` has them all in the first group.
        ordered = "g_idx" in parts and prod(parts["qzeros"].shape[:1]) > 1
        made = 2 * aligned(2 * rows) if ordered else 0
        return LinearCost(key, rows, columns, True, stored, made)
    columns, rows = parts["weight"].shape
    columns += -columns % 32
    stored = aligned(rows * columns * _HALF) + arena(("bias",))
    return LinearCost(key, rows, columns, False, stored, 0)
