"""The engines of this build, in order of preference, each imported only when used."""

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from neuron.engines.base import Engine
    from neuron.models.info import ModelInfo

_ENGINES: Final = {
    "exllamav2": "neuron.engines.exllamav2.engine:ExLlamaV2Engine",
    "reference": "neuron.engines.reference.engine:ReferenceEngine",
}


def names() -> tuple[str, ...]:
    """Names of all engines, preferred one first."""
    return tuple(_ENGINES)


def engine_class(name: str) -> "type[Engine]":
    """The engine's class; its backend is imported by `load`, not by this.

    Raises:
        KeyError: there is no engine of that name.
    """
    module, _, attribute = _ENGINES[name].partition(":")
    return cast("type[Engine]", getattr(import_module(module), attribute))


def choose(info: "ModelInfo") -> tuple[str | None, str | None]:
    """(name of the first engine that can serve the model, None) or (None, why none)."""
    reasons = []
    for name in names():
        engine = engine_class(name)
        probe = engine.probe()
        reason = engine.supports(info) if probe.available else probe.reason
        if reason is None:
            return name, None
        reasons.append(f"{name}: {reason}")
    return None, "; ".join(reasons)
