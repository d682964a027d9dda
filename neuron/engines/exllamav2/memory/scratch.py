"""Memory that a forward pass needs beside weights and cache.

What the library takes once per device at load is exact; what one pass allocates and
gives back is bounded. Rows are tokens of one pass; numbers are float16 unless said.
Source: exllamav2 0.3.2: attn.py, mlp.py, moe_mlp.py, linear.py, device.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from neuron.engines.exllamav2.memory.limits import FUSED_ROWS, Limits
from neuron.engines.exllamav2.memory.modules import ModuleCost

_HALF: Final = 2
_FLOAT: Final = 4
_SLACK: Final = 128
"""The library adds so many bytes to every buffer."""
_ROW_STEP: Final = 128
"""The library dequantizes whole blocks of so many rows, or leaves it be."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The decoder's sizes, as the library reads them."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    experts: int = 0
    rope_tables: int = 1
    rotary_dim: int | None = None
    """Numbers of a head that are rotated; None for all, 0 for none."""

    @property
    def padded_vocab(self) -> int:
        return self.vocab + -self.vocab % 32


def max_dq_size(modules: Sequence[ModuleCost], limits: Limits) -> int:
    """Numbers of the largest matrix that is to be dequantized at once.

    The head's is often the largest by far; a decode step of few rows never dequantizes
    it, and leaving it out saves a gigabyte with the vocabularies of today. Where decode
    steps have more rows than the fused kernel takes well it has to be in: the library's
    default of 512 Mi numbers leaves larger heads on the slow kernel.
    """
    head_too = limits.decode_rows > FUSED_ROWS
    sizes = (
        linear.columns * -(-linear.rows // _ROW_STEP) * _ROW_STEP
        for module in modules
        for linear in module.linears
        if linear.quantized and (head_too or module.kind != "head")
    )
    return max(sizes, default=_ROW_STEP)


def fixed_scratch(module: ModuleCost, sizes: Dimensions, rows: int, dq: int) -> int:
    """Bytes of the device's shared scratch that a quantized module needs.

    Args:
        rows: `max_input_len` times `max_batch_size`.
        dq: `max_dq_size`.
    """
    if not module.quantized:
        return 0
    dequantized = _HALF * module.largest(dq)
    if module.kind == "attention":
        width = max(sizes.heads * sizes.head_dim, sizes.hidden)
        return _buffer(rows, width) + dequantized
    if module.kind == "mlp":
        width = max(sizes.hidden, sizes.intermediate)
        return _buffer(rows, sizes.hidden) + 2 * _buffer(rows, width) + dequantized
    if module.kind == "experts":
        states = 2 * (_buffer(rows, sizes.hidden) + _buffer(rows, sizes.intermediate))
        return states + _buffer(rows, sizes.experts) + dequantized
    return dequantized


def device_scratch(
    modules: Iterable[ModuleCost], sizes: Dimensions, rows: int, dq: int
) -> int:
    """Bytes of the scratch that a device's modules share."""
    return max((fixed_scratch(m, sizes, rows, dq) for m in modules), default=0)


def _buffer(rows: int, width: int) -> int:
    return rows * width * _HALF + _SLACK


def rope_bytes(sizes: Dimensions, max_seq_len: int) -> int:
    """Sines and cosines of every position, per device."""
    rotary = sizes.head_dim if sizes.rotary_dim is None else sizes.rotary_dim
    return 2 * sizes.rope_tables * max_seq_len * rotary * _HALF


def activation_bytes(sizes: Dimensions, limits: Limits, max_seq_len: int) -> int:
    """What a prefill pass of full length allocates outside the scratch, at its peak.

    The hidden states and their copy, queries, keys, values and attention's output, and
    one sequence's keys and values gathered from their pages.
    """
    queries = sizes.heads * sizes.head_dim
    keys = sizes.kv_heads * sizes.head_dim
    states = limits.max_input * (2 * sizes.hidden + 2 * queries + 2 * keys) * _HALF
    return states + 2 * max_seq_len * keys * _HALF


def unquantized_bytes(sizes: Dimensions, limits: Limits) -> int:
    """What a pass through unquantized layers allocates for want of a scratch."""
    width = max(sizes.intermediate, sizes.heads * sizes.head_dim)
    return limits.max_input * (sizes.hidden + 3 * width) * _HALF


def logits_bytes(sizes: Dimensions, limits: Limits) -> int:
    """Logits of a full decode step in float16, and the sampler's float32 ones.

    The sampler holds the logits, their sorted copy and the probabilities at once.
    """
    rows = max(limits.decode_rows, FUSED_ROWS)
    sampled = limits.slots * 3 * _FLOAT
    return (rows * _HALF + sampled) * sizes.padded_vocab
