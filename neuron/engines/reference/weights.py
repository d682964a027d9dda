"""Weights as the forward pass wants them: float32, fused, cut into panels.

What can be folded into a matrix is: the weight of the norm before it (times √inputs,
since the forward pass divides by the root of the sum and not of the mean), and the
1/√head_dim of attention into the queries. The gate is negated, because silu begins with
exp(-x). Query and key columns are reordered so that the two numbers RoPE turns together
lie side by side; scores do not change by it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.engines.base import LoadCancelledError, ProgressCallback
from neuron.engines.reference.config import ModelConfig, UnsupportedModelError
from neuron.engines.reference.tiles import Floats, Layout, panelize
from neuron.exl2 import TensorDirectory
from neuron.exl2.gptq_linear import GptqLinear
from neuron.exl2.linear import DenseLinear, Linear

STAGE: Final = "weights"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight in panels, and its bias padded to whole panels (None is no bias)."""

    panels: Floats
    bias: Floats | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block."""

    qkv: Matrix
    o: Matrix
    gate_up: Matrix
    down: Matrix
    qk_norm: Floats | None
    """[heads + kv_heads, head_dim], where queries and keys are normalized."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model."""

    embedding: NDArray[Any]
    """[vocab, hidden], float16 or float32 as it is on disk."""
    layers: tuple[Layer, ...]
    head: Matrix

    @property
    def nbytes(self) -> int:
        matrices = [self.head]
        norms = 0
        for layer in self.layers:
            matrices += [layer.qkv, layer.o, layer.gate_up, layer.down]
            norms += 0 if layer.qk_norm is None else layer.qk_norm.nbytes
        total = self.embedding.nbytes + norms
        for matrix in matrices:
            total += matrix.panels.nbytes
            total += 0 if matrix.bias is None else matrix.bias.nbytes
        return total


@dataclass(frozen=True, slots=True)
class Layouts:
    """How each kind of matrix is cut up; the same in every layer."""

    qkv: Layout
    o: Layout
    gate_up: Layout
    down: Layout
    head: Layout

    @classmethod
    def of(cls, config: ModelConfig) -> "Layouts":
        attended = config.heads * config.head_dim
        turned = (config.heads + 2 * config.kv_heads) * config.head_dim
        return cls(
            qkv=Layout.of(config.hidden, turned),
            o=Layout.of(attended, config.hidden),
            gate_up=Layout.of(config.hidden, 2 * config.intermediate),
            down=Layout.of(config.intermediate, config.hidden),
            head=Layout.of(config.hidden, config.vocab),
        )

    def __iter__(self) -> Iterator[Layout]:
        return (getattr(self, field.name) for field in fields(self))

    def nbytes(self, layers: int) -> int:
        """Of all panels of a model with so many layers."""
        block = self.qkv.nbytes + self.o.nbytes
        block += self.gate_up.nbytes + self.down.nbytes
        return layers * block + self.head.nbytes


class Loader:
    """Reads the tensors of one model; `load` is to be called once."""

    def __init__(
        self,
        source: TensorDirectory,
        config: ModelConfig,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> None:
        self._source = source
        self._config = config
        self._progress = progress
        self._cancelled = cancelled
        self._done = 0
        self._total = 2 + 7 * config.layers
        # In one piece, because NumPy asks for huge pages where an array is large: the
        # weights are read from end to end for every token.
        size = Layouts.of(config).nbytes(config.layers) // 4
        self._free = np.empty(size, np.float32)

    def load(self) -> Weights:
        """Everything, dequantized.

        Raises:
            LoadCancelledError: `cancelled()` became true between two tensors.
            UnsupportedModelError: a tensor is missing, of a wrong shape, or too many.
            FormatError: a file is malformed.
        """
        config = self._config
        self._progress(STAGE, 0, self._total)
        self._advance(0)
        embedding = self._embedding()
        self._advance()
        layers = tuple(self._layer(index) for index in range(config.layers))
        norm = self._vector("model.norm", config.hidden)
        head = self._head(embedding, norm[:, None] * math.sqrt(config.hidden))
        self._advance()
        return Weights(embedding, layers, head)

    def _advance(self, steps: int = 1) -> None:
        if self._cancelled():
            raise LoadCancelledError
        if steps:
            self._done += steps
            self._progress(STAGE, self._done, self._total)

    def _embedding(self) -> NDArray[Any]:
        name = "model.embed_tokens.weight"
        shape = (self._config.vocab, self._config.hidden)
        table = self._source.read(name)
        if table.shape != shape or table.dtype.kind != "f":
            raise _unfit(
                name, f"{table.dtype}{list(table.shape)}", f"float{list(shape)}"
            )
        return np.array(table)  # out of the file, which may change while we serve

    def _vector(self, key: str, size: int) -> Floats:
        name = f"{key}.weight"
        vector = self._source.read(name)
        if vector.shape != (size,):
            raise _unfit(name, list(vector.shape), [size])
        return vector.astype(np.float32)

    def _linear(
        self, key: str, inputs: int, outputs: int, *, bias: bool
    ) -> tuple[Floats, Floats | None]:
        """Weight [inputs, outputs] and bias [outputs]."""
        linear = self._source.linear(key, outputs)
        if linear.in_features != inputs:
            raise _unfit(key, f"{linear.in_features} input features", inputs)
        if linear.bias is not None and not bias:
            raise UnsupportedModelError(f"{key} has a bias, which this model must not")
        weight = _dequantized(linear)
        if not bias:
            return weight, None
        if linear.bias is not None:
            return weight, linear.bias.astype(np.float32)
        if not isinstance(linear, GptqLinear):  # whose writers drop a bias of zeros
            raise UnsupportedModelError(
                f"{key} has no bias, which this model must have"
            )
        return weight, np.zeros(outputs, np.float32)

    def _joined(
        self, keys: Mapping[str, int], inputs: int, *, bias: bool
    ) -> tuple[Floats, Floats | None]:
        """Several linears of one input, side by side."""
        parts = []
        for key, outputs in keys.items():
            parts.append(self._linear(key, inputs, outputs, bias=bias))
            self._advance()
        weight = np.concatenate([weight for weight, _ in parts], axis=1)
        if not bias:
            return weight, None
        return weight, np.concatenate([b for _, b in parts if b is not None])

    def _layer(self, index: int) -> Layer:
        config = self._config
        prefix = f"model.layers.{index}"
        qkv = self._qkv(prefix)
        attended = config.heads * config.head_dim
        o = self._joined(
            {f"{prefix}.self_attn.o_proj": config.hidden}, attended, bias=config.o_bias
        )
        gate_up, down = self._mlp(prefix)
        return Layer(
            qkv=qkv,
            o=self._matrix(*o),
            gate_up=gate_up,
            down=down,
            qk_norm=self._qk_norm(prefix) if config.qk_norm else None,
        )

    def _mlp(self, prefix: str) -> tuple[Matrix, Matrix]:
        """Gate and up, and down; the gate is negated, and down to make up for it."""
        config = self._config
        middle = config.intermediate
        weight, bias = self._joined(
            {f"{prefix}.mlp.gate_proj": middle, f"{prefix}.mlp.up_proj": middle},
            config.hidden,
            bias=config.mlp_bias,
        )
        norm = self._vector(f"{prefix}.post_attention_layernorm", config.hidden)
        weight *= norm[:, None] * math.sqrt(config.hidden)
        for array in (weight, bias):
            if array is not None:
                array[..., :middle] *= -1
        down, down_bias = self._joined(
            {f"{prefix}.mlp.down_proj": config.hidden}, middle, bias=config.mlp_bias
        )
        down *= -1
        return self._matrix(weight, bias), self._matrix(down, down_bias)

    def _matrix(self, weight: Floats, bias: Floats | None) -> Matrix:
        layout = Layout.of(*weight.shape)
        size = layout.nbytes // 4
        panels = panelize(weight, self._free[:size])
        self._free = self._free[size:]
        if bias is None:
            return Matrix(panels)
        padded = np.zeros(layout.padded_outputs, np.float32)
        padded[: len(bias)] = bias
        return Matrix(panels, padded)

    def _qkv(self, prefix: str) -> Matrix:
        config = self._config
        queries = config.heads * config.head_dim
        keys = config.kv_heads * config.head_dim
        weight, bias = self._joined(
            {
                f"{prefix}.self_attn.q_proj": queries,
                f"{prefix}.self_attn.k_proj": keys,
                f"{prefix}.self_attn.v_proj": keys,
            },
            config.hidden,
            bias=config.qkv_bias,
        )
        norm = self._vector(f"{prefix}.input_layernorm", config.hidden)
        weight *= norm[:, None] * math.sqrt(config.hidden)
        scale = 1.0 if config.qk_norm else config.head_dim**-0.5
        for array in (weight, bias):
            if array is not None:
                array[..., :queries] *= scale
                turned = array[..., : queries + keys]
                turned[...] = pairwise(turned, config.head_dim)
        return self._matrix(weight, bias)

    def _qk_norm(self, prefix: str) -> Floats:
        config = self._config
        root = math.sqrt(config.head_dim)
        query = self._vector(f"{prefix}.self_attn.q_norm", config.head_dim)
        key = self._vector(f"{prefix}.self_attn.k_norm", config.head_dim) * root
        # √head_dim of the norm and 1/√head_dim of attention cancel for the queries.
        rows = [query] * config.heads + [key] * config.kv_heads
        return pairwise(np.stack(rows).astype(np.float32), config.head_dim)

    def _head(self, embedding: NDArray[Any], scale: Floats) -> Matrix:
        config = self._config
        if config.tied and not _has_linear(self._source, "lm_head"):
            weight = embedding.T.astype(np.float32)
        else:
            weight, _ = self._linear("lm_head", config.hidden, config.vocab, bias=False)
        weight *= scale
        return self._matrix(weight, None)


def pairwise(array: Floats, head_dim: int) -> Floats:
    """Make x[i] and x[i + head_dim / 2] of each head on the last axis neighbours."""
    halves = array.reshape(*array.shape[:-1], -1, 2, head_dim // 2)
    return halves.swapaxes(-1, -2).reshape(array.shape)


def _dequantized(linear: Linear) -> Floats:
    """In float32; a dense weight keeps what float16 could not hold."""
    if isinstance(linear, DenseLinear):
        return linear.weight.T.astype(np.float32, order="C")
    return linear.dequantize().astype(np.float32)


def _has_linear(source: TensorDirectory, key: str) -> bool:
    kinds = ("q_weight", "qweight", "weight")
    return any(f"{key}.{kind}" in source.specs for kind in kinds)


def _unfit(name: str, found: object, wanted: object) -> UnsupportedModelError:
    return UnsupportedModelError(f"tensor {name} is {found}, config.json says {wanted}")
