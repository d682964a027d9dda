"""Which device holds which layer."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuron.engines.exllamav2.memory.modules import ModuleCost


@dataclass(frozen=True, slots=True)
class Unit:
    """Modules that stay together: one decoder layer, or the last norm and the head."""

    modules: tuple[ModuleCost, ...]
    cache_bytes: int
    """Its part of the KV cache."""

    @property
    def nbytes(self) -> int:
        weights = sum(m.arena_bytes + m.loose_bytes for m in self.modules)
        return weights + self.cache_bytes


def units_of(modules: Sequence[ModuleCost], cache_bytes: int) -> tuple[Unit, ...]:
    """The layers, then norm and head; the embedding is left out.

    Args:
        modules: in the order in which they run.
        cache_bytes: KV cache of one layer.
    """
    layers = sorted({m.layer for m in modules if m.layer is not None})
    found = [
        Unit(tuple(m for m in modules if m.layer == layer), cache_bytes)
        for layer in layers
    ]
    last = tuple(m for m in modules if m.kind in ("norm", "head"))
    return (*found, Unit(last, 0))


def split(units: Sequence[Unit], room: Sequence[int]) -> tuple[int, ...] | None:
    """Device of each unit, as an index into `room`; None where they do not fit.

    Devices are filled one after the other, so that a token crosses from one to the
    next as seldom as can be, and the first ones are the fullest.

    Args:
        units: in the order in which they run.
        room: bytes that units may take on each device.
    """
    devices = []
    device, left = 0, room[0] if room else 0
    for unit in units:
        while unit.nbytes > left:
            device += 1
            if device >= len(room):
                return None
            left = room[device]
        left -= unit.nbytes
        devices.append(device)
    return tuple(devices)
