"""What this process really takes on its GPUs."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from neuron.engines.exllamav2.host.devices import used_bytes


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """One GPU, in bytes."""

    device: int
    """As operators count them."""
    used: int | None
    """What it has less than before this process came; None where NVML is silent."""
    reserved: int
    """What torch has taken of it."""
    allocated: int
    """What tensors take of that."""

    @property
    def total(self) -> int:
        """The best figure there is."""
        return self.reserved if self.used is None else max(self.used, self.reserved)


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """What a loaded model takes."""

    devices: tuple[DeviceUse, ...] = ()

    @property
    def total(self) -> int:
        return sum(device.total for device in self.devices)


@cache
def used_at_start(devices: tuple[int, ...]) -> Mapping[int, int]:
    """VRAM that others used before CUDA took anything for this process."""
    return used_bytes(devices)


class Vram:
    """The GPUs of a load."""

    def __init__(self, devices: Sequence[int]) -> None:
        """`devices` as operators count them; CUDA counts them from 0."""
        self.devices = tuple(devices)
        self._before = used_at_start(self.devices)

    def free(self) -> list[int]:
        """Bytes free on each device now; CUDA has started there afterwards."""
        return [
            int(torch.cuda.mem_get_info(index)[0]) for index in range(len(self.devices))
        ]

    def measure(self) -> MeasuredMemory:
        """What this process takes on each device now."""
        now = used_bytes(self.devices)
        return MeasuredMemory(
            tuple(
                DeviceUse(
                    device,
                    now[device] - self._before[device]
                    if device in now and device in self._before
                    else None,
                    int(torch.cuda.memory_reserved(index)),
                    int(torch.cuda.memory_allocated(index)),
                )
                for index, device in enumerate(self.devices)
            )
        )

    def give_back(self) -> None:
        """Let go of what nothing refers to any more, when all work on it is done."""
        gc.collect()
        for index in range(len(self.devices)):
            torch.cuda.synchronize(index)
        torch.cuda.empty_cache()
