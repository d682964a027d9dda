"""The tensors of a GGUF model under the names, and in the order of rows, that Hugging
Face gives them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.errors import FormatError, shown_name
from neuron.exl2.header import TensorSpec
from neuron.models.errors import ModelError
from neuron.models.gguf.architecture import Architecture
from neuron.models.gguf.file import GgufFile, GgufTensor
from neuron.models.gguf.rope import FREQUENCIES

_ATTENTION: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_MLP: Final = {
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS: Final = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_HEAD_NORMS: Final = {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor that the model must have."""

    source: str
    """Its name in the GGUF file."""
    name: str
    """Its name elsewhere."""
    shape: tuple[int, ...]
    heads: int | None = None
    """Heads of which the rows are interleaved, where they are."""


class GgufTensors:
    """A `neuron.exl2.source.TensorSource` over a GGUF file."""

    def __init__(self, file: GgufFile, model: Architecture) -> None:
        """Match what the file holds with what the model must have.

        Raises:
            ModelError: a tensor is missing, of another shape, or has no place in the
                model.
        """
        self.path = file.path
        self._file = file
        self._wanted = {wanted.name: wanted for wanted in wanted_tensors(model)}
        self._tensors = {
            wanted.name: _matched(file, wanted) for wanted in self._wanted.values()
        }
        known = {wanted.source for wanted in self._wanted.values()} | {FREQUENCIES}
        for name in file.tensors:
            if name not in known:
                raise ModelError(
                    file.path, f"tensor {shown_name(name)} has no place in such a model"
                )
        self.specs: Mapping[str, TensorSpec] = MappingProxyType(
            {
                name: TensorSpec(
                    name, "F32", t.shape, file.path, t.offset, 4 * int(np.prod(t.shape))
                )
                for name, t in self._tensors.items()
            }
        )

    def spec(self, name: str) -> TensorSpec:
        """What `read` is going to give; FormatError where there is none."""
        if name not in self.specs:
            raise FormatError(self.path, name, "is missing")
        return self.specs[name]

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor, dequantized; FormatError where there is none."""
        self.spec(name)
        heads = self._wanted[name].heads
        tensor = self._tensors[name]
        rows = None if heads is None else halves_first(tensor.shape[0], heads)
        return self._file.read(tensor, rows)


def halves_first(rows: int, heads: int) -> NDArray[np.intp]:
    """Which interleaved row each row is: first halves of all pairs of a head, then the
    second ones."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def wanted_tensors(model: Architecture) -> Iterator[Wanted]:
    """Every tensor the model has."""
    embedding = (model.vocab, model.hidden)
    yield Wanted("token_embd.weight", "model.embed_tokens.weight", embedding)
    yield Wanted("output_norm.weight", "model.norm.weight", (model.hidden,))
    if not model.tied:
        yield Wanted("output.weight", "lm_head.weight", embedding)
    for layer in range(model.layers):
        for wanted in _layer(model):
            yield Wanted(
                f"blk.{layer}.{wanted.source}",
                f"model.layers.{layer}.{wanted.name}",
                wanted.shape,
                wanted.heads,
            )


def _layer(model: Architecture) -> Iterator[Wanted]:
    family, hidden, inner = model.family, model.hidden, model.intermediate
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    for source, name in _NORMS.items():
        yield Wanted(f"{source}.weight", f"{name}.weight", (hidden,))
    if family.qk_norm:
        for source, name in _HEAD_NORMS.items():
            yield Wanted(f"{source}.weight", f"{name}.weight", (model.head_dim,))
    shapes = {
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    turned = {"attn_q": model.heads, "attn_k": model.kv_heads}
    for source, name in (_ATTENTION | _MLP).items():
        shape = shapes[source]
        heads = turned.get(source) if family.interleaved else None
        yield Wanted(f"{source}.weight", f"{name}.weight", shape, heads)
        if _has_bias(model, source):
            yield Wanted(f"{source}.bias", f"{name}.bias", shape[:1], heads)


def _has_bias(model: Architecture, source: str) -> bool:
    if source in _MLP:
        return model.mlp_bias
    if source == "attn_output":
        return model.attention_bias
    return model.attention_bias or model.family.qkv_bias


def _matched(file: GgufFile, wanted: Wanted) -> GgufTensor:
    tensor = file.tensors.get(wanted.source)
    if tensor is None:
        raise ModelError(file.path, f"tensor {wanted.source!a} is missing")
    if tensor.shape != wanted.shape:
        raise ModelError(
            file.path,
            f"tensor {wanted.source!a} is {list(tensor.shape)}, the metadata say "
            f"{list(wanted.shape)}",
        )
    return tensor
