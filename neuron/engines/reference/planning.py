"""What a load needs, before anything is loaded."""

from typing import Final

from neuron.engines.base import EngineError, HostMemory
from neuron.engines.reference.attention import scratch_numbers
from neuron.engines.reference.cache import PAGE, pages_for
from neuron.engines.reference.config import (
    ModelConfig,
    UnsupportedModelError,
    read_config,
)
from neuron.engines.reference.scheduler import CHUNK
from neuron.engines.reference.weights import Layouts
from neuron.models.info import ModelInfo
from neuron.protocol.types import LoadPlan, LoadRequest

CACHE_MODE: Final = "fp32"
DEFAULT_SLOTS: Final = 16
_FLOAT: Final = 4
_CACHE_SHARE: Final = 0.5
"""Of what the weights leave, a default cache takes at most this."""


def plan_load(
    engine: str, info: ModelInfo, request: LoadRequest, memory: HostMemory
) -> LoadPlan:
    """Fill in defaults and add up what they take from the host's RAM.

    Raises:
        EngineError: a field of the request cannot be honoured; `param` names it.
    """
    config = _config(info)
    _refuse_unknown(request, config)
    weights = _weight_bytes(config)
    per_token = 2 * _FLOAT * config.layers * config.kv_heads * config.head_dim
    room = None
    if memory.ram_available is not None:
        most = _scratch_bytes(config, request.slots or DEFAULT_SLOTS, config.context)
        left = max(0, memory.ram_available - weights - most)
        room = max(1, int(left * _CACHE_SHARE) // (per_token * PAGE)) * PAGE
    slots, max_seq_len = _defaults(request, config.context, room)
    cache_tokens = request.cache_tokens or slots * max_seq_len
    pages = pages_for(cache_tokens)
    parts = {
        "weights": weights,
        "cache": pages * PAGE * per_token,
        "scratch": _scratch_bytes(config, slots, max_seq_len),
    }
    # The copies that loading makes are gone before there is a cache.
    parts["scratch"] = max(parts["scratch"], _loading_bytes(config) - parts["cache"])
    need = sum(parts.values())
    reason = None
    if memory.ram_available is not None and need > memory.ram_available:
        reason = (
            f"needs {need >> 20} MiB of RAM, {memory.ram_available >> 20} MiB are free"
        )
    return LoadPlan(
        model=info.id,
        engine=engine,
        fits=reason is None,
        reason=reason,
        need_bytes=need,
        parts=parts,
        available_bytes=memory.ram_available,
        devices=[],
        max_seq_len=max_seq_len,
        slots=slots,
        cache_mode=CACHE_MODE,
        cache_tokens=pages * PAGE,
    )


def _config(info: ModelInfo) -> ModelConfig:
    try:
        return read_config(info.path)
    except UnsupportedModelError as error:
        raise EngineError(str(error), code="unsupported", param="model") from None


_LACKS: Final = {
    "devices": "this engine runs on the CPU; leave devices out",
    "tensor_parallel": "this engine runs on the CPU; leave tensor_parallel out",
    "draft": "this engine has no speculative decoding",
    "draft_tokens": "this engine has no speculative decoding",
    "ngram": "this engine has no speculative decoding",
    "rope_scale": "this engine extends no context beyond what config.json says",
    "rope_alpha": "this engine extends no context beyond what config.json says",
    "yarn_factor": "this engine extends no context beyond what config.json says",
    "loras": "this engine applies no LoRA adapters",
}


def _refuse_unknown(request: LoadRequest, config: ModelConfig) -> None:
    refused = {param: getattr(request, param) and why for param, why in _LACKS.items()}
    if request.cache_mode not in (None, CACHE_MODE):
        refused["cache_mode"] = (
            f"cache_mode {request.cache_mode!r} is not {CACHE_MODE!r}"
        )
    if (request.max_seq_len or 0) > config.context:
        refused["max_seq_len"] = (
            f"max_seq_len {request.max_seq_len} is over the model's {config.context}"
        )
    for param, reason in refused.items():
        if reason:
            raise EngineError(reason, code="unsupported", param=param)


def _defaults(request: LoadRequest, context: int, room: int | None) -> tuple[int, int]:
    """(slots, max_seq_len); `room` is how many tokens a default cache may hold."""
    max_seq_len = request.max_seq_len or context
    if room is None or request.cache_tokens is not None:
        return request.slots or DEFAULT_SLOTS, max_seq_len
    if request.max_seq_len is None:
        each = room // (request.slots or 1) // PAGE * PAGE
        max_seq_len = min(context, max(PAGE, each))
    slots = request.slots or max(1, min(DEFAULT_SLOTS, room // max_seq_len))
    return slots, max_seq_len


def _weight_bytes(config: ModelConfig) -> int:
    embedding = _FLOAT * config.vocab * config.hidden
    return embedding + Layouts.of(config).nbytes(config.layers)


def _loading_bytes(config: ModelConfig) -> int:
    """The largest matrix dequantized, put together, and padded."""
    return 3 * max(layout.nbytes for layout in Layouts.of(config))


def _scratch_bytes(config: ModelConfig, slots: int, max_seq_len: int) -> int:
    """Activations of a chunk, logits of every slot, attention, RoPE's table."""
    layouts = Layouts.of(config)
    row = config.hidden + sum(
        layout.padded_inputs + layout.padded_outputs + layout.partial_size
        for layout in (layouts.qkv, layouts.o, layouts.gate_up, layouts.down)
    )
    head = layouts.head.padded_inputs + layouts.head.padded_outputs + config.hidden
    table = max_seq_len * config.head_dim
    attention = scratch_numbers(config, slots, max_seq_len)
    return _FLOAT * (max(CHUNK, slots) * row + slots * head + attention + table)
