"""A model and a cache for exllamav2's generator where there is no GPU.

Both have the surface that the generator and our driver call, in float32 on the CPU:
weights through our own EXL2 reader, keys and values in pages laid out as the library's,
attention through whatever provides it. Only for Llama-like models.

To be imported after `neuron.engines.exllamav2.backend.load_backend`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exllamav2
import numpy as np
import torch
from exllamav2.attn import ExLlamaV2Attention
from exllamav2.cache import ExLlamaV2CacheBase
from exllamav2.embedding import EMBEDDING_INDEX

from neuron.engines.reference.config import ModelConfig, read_config
from neuron.exl2 import DenseLinear, TensorDirectory, open_model

CHUNK = 512
"""Prompt tokens of one forward pass."""
LOGITS = 48
"""Positions with logits of one forward pass."""


class TorchCache(ExLlamaV2CacheBase):  # type: ignore[misc]
    """Keys and values in float32: [1, tokens, kv heads, head_dim] per layer."""

    def __init__(self, model: "TorchModel", tokens: int) -> None:
        super().__init__(
            model, 1, tokens, torch.float, 1, 1, has_scales=False, fixed_device="cpu"
        )
        self.create_state_tensors(None)

    def all_tensors(self) -> list[torch.Tensor]:
        """Of every layer."""
        return [*self.key_states, *self.value_states]


@dataclass(frozen=True, slots=True)
class _Module:
    """A stage of the forward pass, as `forward_chunk`'s callers may see it."""

    forward: Callable[..., torch.Tensor]
    padding: int = 0
    device_idx: str = "cpu"


@dataclass(frozen=True, slots=True)
class Call:
    """One forward pass that was asked for."""

    rows: int
    tokens: int
    logits: bool


@dataclass(slots=True)
class _Layer:
    attention_norm: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    mlp_norm: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


@dataclass
class TorchModel:
    """Stands in for a loaded `ExLlamaV2`."""

    config: Any
    """A real `ExLlamaV2Config`."""
    ours: ModelConfig
    embedding: torch.Tensor
    layers: list[_Layer]
    norm: torch.Tensor
    head: torch.Tensor
    cache_map: dict[int, str] = field(default_factory=dict)
    tp_context: None = None
    calls: list[Call] = field(default_factory=list)
    before_call: Callable[[Call], None] = lambda _: None
    """Called with every pass, and may raise."""
    poison: int | None = None
    """A token after which nothing is finite."""

    @classmethod
    def load(cls, folder: Path) -> "TorchModel":
        """Of a model folder in any format that our reader takes."""
        ours, source = read_config(folder), open_model(folder)
        config = exllamav2.ExLlamaV2Config(str(folder))
        config.max_seq_len = ours.context
        config.max_input_len, config.max_output_len = CHUNK, LOGITS
        embedding = _vector(source, "model.embed_tokens")
        tied = ours.tied and not any("lm_head" in name for name in source.specs)
        head = embedding.T if tied else _matrix(source, "lm_head", ours.vocab)
        return cls(
            config,
            ours,
            embedding,
            [_layer(source, ours, index) for index in range(ours.layers)],
            _vector(source, "model.norm"),
            head.contiguous(),
        )

    def __post_init__(self) -> None:
        self._turns = torch.from_numpy(
            self.ours.rope.table(self.ours.context, self.ours.head_dim)
        )
        padding = -self.ours.vocab % 32
        head = torch.nn.functional.pad(self.head, (0, padding))
        self.modules = [
            _Module(lambda ids, **_: self.embedding[ids]),
            _Module(lambda x, **_: self._normed(x, self.norm)),
            _Module(lambda x, **_: self._padded(x @ head, padding), padding),
        ]
        self.head_layer_idx = 2

    def forward_chunk(
        self,
        input_ids: torch.Tensor,
        cache: TorchCache,
        attn_params: Any,
        *,
        preprocess_only: bool = False,
        last_id_only: bool = False,
        return_last_state: bool = False,
        loras: None = None,
        indexed_embeddings: Sequence[Any] = (),
    ) -> dict[str, torch.Tensor]:
        """As the library's, for paged batches without adapters."""
        assert not loras
        assert isinstance(attn_params, ExLlamaV2Attention.PagedParams)
        rows, tokens = input_ids.shape
        assert rows * tokens <= self.config.max_input_len
        assert preprocess_only or last_id_only or tokens <= self.config.max_output_len
        call = Call(rows, tokens, logits=not preprocess_only)
        self.calls.append(call)
        self.before_call(call)
        x = self._embedded(input_ids, indexed_embeddings)
        if self.poison is not None:
            x[input_ids == self.poison] = torch.nan
        turns = self._turns_of(tokens, attn_params)[:, :, None]
        for index, layer in enumerate(self.layers):
            x = self._block(index, layer, x, turns, cache, attn_params)
        if preprocess_only:
            return {}
        result = {"last_state": x.clone()} if return_last_state else {}
        x = x[:, -1:] if last_id_only else x
        for module in self.modules[self.head_layer_idx - 1 :]:
            x = module.forward(x)
        return {**result, "logits": x}

    def _embedded(self, ids: torch.Tensor, images: Sequence[Any]) -> torch.Tensor:
        """Rows of the token embedding, and of images where an id is one of theirs."""
        standard = ids < EMBEDDING_INDEX
        assert images or standard.all()
        x = self.embedding[ids.where(standard, 0)]
        for image in images:
            at = (ids >= image.first_index) & (ids < image.first_index + image.length)
            if at.any():
                x[at] = image.embeddings[ids[at] - image.first_index].to(x.dtype)
        return x

    def _turns_of(self, tokens: int, params: Any) -> torch.Tensor:
        """Complex [rows, tokens, head_dim / 2]: the prompt's own, or the model's."""
        positions = params.cache_seqlens[:, None] + torch.arange(tokens)
        own = params.get_alt_rope_embed("cpu")
        if own is not None:
            sin, cos = (table[0, 0].float() for table in own)
            turns = torch.complex(cos, sin)[positions]
            return turns[..., : turns.shape[-1] // 2]
        if params.rope_offsets is not None:
            positions = positions + params.rope_offsets[:, None]
        return self._turns[positions]

    def _block(
        self,
        index: int,
        layer: _Layer,
        x: torch.Tensor,
        turns: torch.Tensor,
        cache: TorchCache,
        params: Any,
    ) -> torch.Tensor:
        def heads(weight: torch.Tensor) -> torch.Tensor:
            return (normed @ weight).unflatten(-1, (-1, self.ours.head_dim))

        normed = self._normed(x, layer.attention_norm)
        query = _turned(heads(layer.query), turns)
        key = _turned(heads(layer.key), turns)
        attended = _attend(query, key, heads(layer.value), index, cache, params)
        x = x + attended.flatten(-2) @ layer.output
        normed = self._normed(x, layer.mlp_norm)
        gate = torch.nn.functional.silu(normed @ layer.gate)
        return x + (gate * (normed @ layer.up)) @ layer.down

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, weight.shape, weight, self.ours.eps)

    def _padded(self, logits: torch.Tensor, padding: int) -> torch.Tensor:
        if padding:
            logits[:, :, -padding:] = -65504.0
        return logits


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    cache: TorchCache,
    params: Any,
) -> torch.Tensor:
    """As the library's paged forward pass calls it, sequential pages and all."""
    from flash_attn import flash_attn_with_kvcache

    keys, values = cache.key_states[layer], cache.value_states[layer]
    lengths = params.cache_seqlens
    new: tuple[torch.Tensor | None, torch.Tensor | None] = (key, value)
    if params.is_sequential:
        place = slice(params.first_index, params.first_index + key.shape[1])
        keys[:, place], values[:, place] = key, value
        lengths, new = params.cache_seqlens_after, (None, None)
    result: torch.Tensor = flash_attn_with_kvcache(
        q=query,
        k=new[0],
        v=new[1],
        k_cache=keys.view(-1, params.page_size, *keys.shape[2:]),
        v_cache=values.view(-1, params.page_size, *values.shape[2:]),
        cache_seqlens=lengths,
        block_table=params.block_index,
        causal=True,
        softmax_scale=query.shape[-1] ** -0.5,
    )
    return result


def _turned(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """[rows, tokens, heads, head_dim], number i and i + head_dim / 2 as one pair."""
    real, imaginary = heads.chunk(2, -1)
    pairs = torch.complex(real, imaginary) * turns
    return torch.cat([pairs.real, pairs.imag], -1)


def _layer(source: TensorDirectory, config: ModelConfig, index: int) -> _Layer:
    prefix = f"model.layers.{index}"
    attended = config.heads * config.head_dim
    shared = config.kv_heads * config.head_dim
    return _Layer(
        _vector(source, f"{prefix}.input_layernorm"),
        _matrix(source, f"{prefix}.self_attn.q_proj", attended),
        _matrix(source, f"{prefix}.self_attn.k_proj", shared),
        _matrix(source, f"{prefix}.self_attn.v_proj", shared),
        _matrix(source, f"{prefix}.self_attn.o_proj", config.hidden),
        _vector(source, f"{prefix}.post_attention_layernorm"),
        _matrix(source, f"{prefix}.mlp.gate_proj", config.intermediate),
        _matrix(source, f"{prefix}.mlp.up_proj", config.intermediate),
        _matrix(source, f"{prefix}.mlp.down_proj", config.hidden),
    )


def _vector(source: TensorDirectory, key: str) -> torch.Tensor:
    return torch.from_numpy(source.read(f"{key}.weight").astype(np.float32))


def _matrix(source: TensorDirectory, key: str, outputs: int) -> torch.Tensor:
    """[inputs, outputs]"""
    linear = source.linear(key, outputs)
    if isinstance(linear, DenseLinear):  # which may be float32 on disk
        weight = linear.weight.T.astype(np.float32, order="C")
    else:
        weight = linear.dequantize().astype(np.float32, order="C")
    return torch.from_numpy(weight)
