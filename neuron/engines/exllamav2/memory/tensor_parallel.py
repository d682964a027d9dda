"""Splitting every layer over several GPUs, as far as the library can.

Source: exllamav2 0.3.2, tensor_p.py, attn.py, mlp.py. Its C++ calls flash-attn's
`fwd_kvcache` with twenty positions and knows no window, softcap or QK norm.
"""

from collections.abc import Sequence
from typing import Final

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.memory.allocator import reserved_bytes
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.model import DeviceMemory, ModelMemory
from neuron.engines.exllamav2.memory.scratch import (
    activation_bytes,
    logits_bytes,
    rope_bytes,
)

_HALF: Final = 2
_UNIT: Final = 128
"""Columns of an MLP that stay together."""
_LEAST_SHARE: Final = 256
"""Columns of an MLP or the hidden state that the library gives a device, or none."""
_COLUMNS: Final = 32
"""Columns of the hidden state or the vocabulary that stay together."""


def check_tensor_parallel(model: Description, devices: Sequence[int]) -> None:
    """Refuse a split that the library cannot do.

    Raises:
        EngineError: `param` is `tensor_parallel`.
    """
    if len(devices) < 2:
        raise _refused(f"it takes two GPUs or more, here are {len(devices)}")
    if not model.architecture.tensor_parallel:
        raise _refused(f"exllamav2 cannot split {model.info.architecture}")
    if model.info.format != "exl2":
        raise _refused(f"exllamav2 splits EXL2 models, not {model.info.format}")
    if model.sizes.intermediate % _UNIT:
        raise _refused(
            f"intermediate_size {model.sizes.intermediate} is no multiple of {_UNIT}"
        )
    if model.config.get("mlp_bias"):
        raise _refused("exllamav2 adds an MLP's biases to other columns than their own")
    if model.sizes.kv_heads < len(devices):
        raise _refused(
            f"{model.sizes.kv_heads} key-value heads cannot be split over "
            f"{len(devices)} GPUs"
        )
    _check_attention_width(model)
    narrowest = min(model.sizes.hidden, model.sizes.intermediate)
    if narrowest < _LEAST_SHARE * len(devices):
        # It reads past its lists of buffers where some have a share and some have none.
        raise _refused(
            f"a width of {narrowest} cannot be split over {len(devices)} GPUs: each "
            f"takes {_LEAST_SHARE} columns or more"
        )


def _check_attention_width(model: Description) -> None:
    """The library splits what attention adds to the hidden state as it splits heads,
    and writes the hidden state to buffers that are as wide as all heads."""
    sizes = model.sizes
    width = sizes.heads * sizes.head_dim
    if width != sizes.hidden:
        raise _refused(
            f"{sizes.heads} heads of {sizes.head_dim} are {width} columns, and "
            f"exllamav2 splits them only where they are as many as hidden_size, "
            f"{sizes.hidden}"
        )


def shares(memory: ModelMemory, devices: int) -> tuple[DeviceMemory, ...]:
    """What each of the `devices` takes when all take the same.

    The library rounds its splits to whole heads and to 32 or 128 columns, so that one
    device may have a little more than another.
    """
    sizes = memory.model.sizes
    held = [m for m in memory.model.modules if m.kind != "embedding"]
    linears = [part for m in held for part in m.linears]
    weights = [-(-part.arena_bytes // devices) for part in linears]
    norms = sum(m.other_bytes for m in held)
    orders = sum(part.loose_bytes for part in linears)
    cache = memory.cache.mode.tensors(
        memory.cache.tokens, -(-sizes.kv_heads // devices), sizes.head_dim
    )
    temporaries = memory.cache.mode.temporaries(
        memory.cache.tokens, -(-sizes.kv_heads // devices), sizes.head_dim
    )
    tables = rope_bytes(sizes, memory.max_seq_len)
    parts = {
        "weights": reserved_bytes([*weights, norms, orders]),
        "cache": reserved_bytes([*cache * sizes.layers, *temporaries]),
        # The library puts the tables together once more for its own calls.
        "scratch": reserved_bytes([split_scratch(memory, devices), 2 * tables]),
        "activations": reserved_bytes(
            [activation_bytes(sizes, memory.limits, memory.max_seq_len)]
        ),
        "logits": reserved_bytes([logits_bytes(sizes, memory.limits)]),
    }
    return (DeviceMemory(parts),) * devices


def split_scratch(memory: ModelMemory, devices: int) -> int:
    """Bytes of the scratch of the device that has the largest share of each layer."""
    sizes, rows = memory.model.sizes, memory.limits.max_input
    heads = -(-sizes.kv_heads // devices) * (sizes.heads // sizes.kv_heads)
    queries = heads * sizes.head_dim
    keys = -(-sizes.kv_heads // devices) * sizes.head_dim
    inner = _share(sizes.intermediate, devices, _UNIT)
    hidden = _share(sizes.hidden, devices, _COLUMNS)
    vocab = _share(sizes.padded_vocab, devices, _COLUMNS)
    whole = sizes.heads * sizes.head_dim

    def dequantized(*shapes: tuple[int, int]) -> int:
        return _HALF * max(min(a * b, memory.dq) for a, b in shapes)

    attention = dequantized(
        (sizes.hidden, queries), (sizes.hidden, keys), (whole, queries)
    ) + _HALF * rows * (3 * whole + 2 * queries + 2 * keys)
    mlp = dequantized(
        (sizes.hidden, inner), (sizes.intermediate, hidden)
    ) + _HALF * rows * (2 * sizes.hidden + sizes.intermediate + 2 * inner + hidden)
    return max(attention, mlp, dequantized((sizes.hidden, vocab)))


def _share(columns: int, devices: int, unit: int) -> int:
    """The largest part when `columns` are split in whole units."""
    units = -(-columns // unit)
    return -(-units // devices) * unit


def _refused(reason: str) -> EngineError:
    return EngineError(
        f"tensor_parallel: {reason}", code="unsupported", param="tensor_parallel"
    )
