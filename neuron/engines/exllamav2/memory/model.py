"""What a load takes on every device, part by part, before anything is allocated."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from neuron.engines.exllamav2.memory.allocator import reserved_bytes
from neuron.engines.exllamav2.memory.cache_modes import CacheMode
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.limits import Limits
from neuron.engines.exllamav2.memory.modules import ModuleCost
from neuron.engines.exllamav2.memory.placement import Unit, split, units_of
from neuron.engines.exllamav2.memory.scratch import (
    activation_bytes,
    device_scratch,
    logits_bytes,
    max_dq_size,
    rope_bytes,
    unquantized_bytes,
)

CONTEXT_BYTES: Final = 640 << 20
"""CUDA's context, the kernels' code and cuBLAS' workspaces, until it was measured."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The KV cache of one model."""

    mode: CacheMode
    tokens: int


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One device's part of a load, in bytes by name."""

    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def passing(self) -> int:
        """What is taken only while something is computed."""
        return self.parts.get("activations", 0) + self.parts.get("logits", 0)

    def __add__(self, other: "DeviceMemory") -> "DeviceMemory":
        return DeviceMemory(dict(Counter(self.parts) + Counter(other.parts)))


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """One model's needs with given settings, wherever its layers will be."""

    model: Description
    limits: Limits
    max_seq_len: int
    cache: CacheShape
    device_embedding: bool = False

    @property
    def dq(self) -> int:
        return max_dq_size(self.model.modules, self.limits)

    def units(self) -> tuple[Unit, ...]:
        """The layers, with their cache, in order."""
        return units_of(self.model.modules, sum(self._layer_cache()))

    def place(self, room: Sequence[int]) -> tuple[int, ...] | None:
        """Device of each unit, as an index into `room`; None where it does not fit.

        Args:
            room: bytes that the model may take on each device.
        """
        units, left = self.units(), list(room)
        for _ in units:
            places = split(units, left)
            if places is None:
                return None
            needs = self.at(places, len(room))
            over = [need.total - free for need, free in zip(needs, room, strict=True)]
            if max(over) <= 0:
                return places
            # What a device takes beside its units is known once they are; those that
            # are too much go on to the next device.
            for device, much in enumerate(over):
                if much > 0:
                    held = (
                        u for u, at in zip(units, places, strict=True) if at == device
                    )
                    left[device] = sum(unit.nbytes for unit in held) - much
        return None

    def at(self, places: Sequence[int], devices: int) -> tuple[DeviceMemory, ...]:
        """What each of the `devices` takes with each unit at its place."""
        units = self.units()
        return tuple(
            self._device(
                [m for u, at in zip(units, places, strict=True) if at == device
                 for m in u.modules],
                layers=sum(at == device for at in places[:-1]),
                first=device == places[0],
            )
            for device in range(devices)
        )  # fmt: skip

    def _layer_cache(self) -> tuple[int, ...]:
        sizes = self.model.sizes
        return self.cache.mode.tensors(
            self.cache.tokens, sizes.kv_heads, sizes.head_dim
        )

    def _device(
        self, modules: Sequence[ModuleCost], *, layers: int, first: bool
    ) -> DeviceMemory:
        """One device that holds `modules`; nothing where there are none."""
        if not modules:
            return DeviceMemory()
        sizes, rows = self.model.sizes, self.limits.max_input
        held = [m for m in modules if m.kind != "embedding"]
        weights = [sum(m.arena_bytes for m in held)]
        if first and self.device_embedding:
            weights.append(sizes.vocab * sizes.hidden * 2)
        loose = [part.loose_bytes for m in held for part in m.linears]
        cache = [*self._layer_cache()] * layers
        if layers:
            cache += self.cache.mode.temporaries(
                self.cache.tokens, sizes.kv_heads, sizes.head_dim
            )
        tables = rope_bytes(sizes, self.max_seq_len)
        fixed = [tables // 2, tables // 2, device_scratch(held, sizes, rows, self.dq)]
        passing = activation_bytes(sizes, self.limits, self.max_seq_len)
        if not all(m.quantized for m in held if m.kind in ("attention", "mlp")):
            passing += unquantized_bytes(sizes, self.limits)
        parts = {
            "weights": reserved_bytes(weights) + reserved_bytes(filter(None, loose)),
            "cache": reserved_bytes(cache),
            "scratch": reserved_bytes(filter(None, fixed)),
            "activations": reserved_bytes([passing]),
        }
        if any(m.kind == "head" for m in held):
            parts["logits"] = reserved_bytes([logits_bytes(sizes, self.limits)])
        return DeviceMemory(parts)
