"""Models as Ollama lists, shows and counts them."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from neuron.protocol.types import ModelState
from services.gateway.dialects.base import Json
from services.schema import ModelView

_MIB: Final = 1024 * 1024
_FAMILY: Final = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")
_CAPABILITIES: Final = {
    "chat": "completion",
    "tools": "tools",
    "vision": "vision",
    "reasoning": "thinking",
}
_UNITS: Final = ((1e9, "B"), (1e6, "M"), (1e3, "K"))
_NEVER: Final = timedelta(days=365 * 290)
"""How far ahead Ollama's clients see what does not expire."""


def listed(view: ModelView, name: str, modified_at: float) -> Json:
    """For /api/tags."""
    return {
        **_named(view, name),
        "modified_at": rfc3339(modified_at),
        # Some clients take nothing but a number.
        "size": view.weight_bytes or 0,
        "details": _details(view),
    }


def running(view: ModelView, expires_at: float | None, on_gpu: frozenset[str]) -> Json:
    """For /api/ps: a model that is loaded, on nodes of which some have GPUs."""
    loaded = [r for r in view.replicas if r.state is ModelState.READY]
    sizes = {r.node: (r.memory_mb or 0) * _MIB for r in loaded}
    return {
        **_named(view, view.id),
        "size": sum(sizes.values()),
        "size_vram": sum(size for node, size in sizes.items() if node in on_gpu),
        "details": _details(view),
        "expires_at": rfc3339(expires_at),
        "context_length": view.max_model_len,
    }


def shown(view: ModelView, modified_at: float) -> Json:
    """For /api/show."""
    family = _family(view)
    # Some editors call the model by its base name.
    facts: Json = {"general.architecture": family, "general.basename": view.id}
    if view.parameters is not None:
        facts["general.parameter_count"] = view.parameters
    if (context := view.max_model_len) is not None:
        facts[f"{family}.context_length"] = context
    return {
        "modified_at": rfc3339(modified_at),
        "details": _details(view),
        "model_info": facts,
        "capabilities": [
            theirs
            for ours, theirs in _CAPABILITIES.items()
            if ours in view.capabilities
        ],
    }


def rfc3339(epoch: float | None) -> str:
    """Of None, or what is too far off to be written, a moment that nobody awaits."""
    moment = datetime.now(UTC) + _NEVER
    if epoch is not None and epoch < moment.timestamp():
        moment = datetime.fromtimestamp(epoch, UTC)
    return moment.isoformat().replace("+00:00", "Z")


def _named(view: ModelView, name: str) -> Json:
    return {"name": name, "model": name, "digest": _digest(view)}


def _digest(view: ModelView) -> str:
    """The same for as long as the model is: its files are not read for it."""
    facts = (view.id, view.format, view.bpw, view.weight_bytes)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _details(view: ModelView) -> Json:
    family = _family(view)
    return {
        "parent_model": "",
        "format": view.format or "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _parameters(view),
        "quantization_level": "" if view.bpw is None else f"{view.bpw:g}bpw",
    }


def _family(view: ModelView) -> str:
    """`LlamaForCausalLM` is one of `llama`."""
    return _FAMILY.sub("", view.architecture or "").lower()


def _parameters(view: ModelView) -> str:
    """Such as `7.6B`."""
    count = view.parameters or 0
    for unit, letter in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f}{letter}"
    return str(count or "")
