"""exllamav2's real loader on the CPU.

Its modules read, convert, permute and keep tensors as on a GPU; only what its kernels
make of them (matrices and blocks behind integer handles) is replaced by numbers, and
its streams are left out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from neuron.engines.exllamav2.backend import Backend
from neuron.engines.exllamav2.loading.vram import DeviceUse, MeasuredMemory, Vram
from tests.support import cuda_stack


class Handles:
    """Stands in for the extension's C++ objects; counts those that live."""

    def __init__(self, extension: Any) -> None:
        self._extension = extension
        self._numbers = count(1)
        self.living: dict[int, str] = {}
        self.loras: list[Mapping[int, Any]] = []
        self.graphs: set[bool] = set()
        """What blocks were told of recording graphs of their own."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("make_q_"):
            return lambda *given: self._make(name.removeprefix("make_"), given)
        if name.startswith("free_q_"):
            return lambda handle: self.living.pop(handle)
        return getattr(self._extension, name)

    def _make(self, kind: str, given: tuple[Any, ...]) -> int:
        handle = next(self._numbers)
        if kind in ("q_attn", "q_mlp"):
            self.graphs.add(given[-1])
        self.living[handle] = kind
        return handle

    def make_group_map(self, groups: Any, rows: int) -> Any:
        from exllamav2 import ext

        return ext.make_group_map_py(groups, rows)

    def q_attn_set_loras(self, _: int, *adapters: Mapping[int, Any]) -> int:
        self.loras += adapters
        return 8

    q_mlp_set_loras = q_attn_set_loras

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.living.values())


class CpuMemory(Vram):
    """Devices of so many bytes each, as this process would see them."""

    def __init__(self, free: list[int]) -> None:
        self.devices = tuple(range(len(free)))
        self._free = free
        self.given_back = 0

    def free(self) -> list[int]:
        return list(self._free)

    def measure(self) -> MeasuredMemory:
        return MeasuredMemory(
            tuple(DeviceUse(device, None, 0, 0) for device in self.devices)
        )

    def give_back(self) -> None:
        self.given_back += 1


@contextmanager
def library_on_the_cpu() -> Iterator[tuple[Backend, Handles]]:
    """The backend, and what its extension would have made on a GPU."""
    cuda_stack.use_cpu_extension()
    import exllamav2
    import exllamav2.generator

    handles = Handles(exllamav2.linear.ext_c)
    modules = (
        exllamav2.ext, exllamav2.linear, exllamav2.attn, exllamav2.mlp,
        exllamav2.moe_mlp,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "ext_c", handles)
        for module in (exllamav2.module, exllamav2.device):
            patch.setattr(module, "_torch_device", lambda _: "cpu")
        patch.setattr(exllamav2.device, "global_streams", dict.fromkeys(range(4)))
        for module in (exllamav2.device, exllamav2.model):
            patch.setattr(module, "set_device_streams", lambda: None)
        for name in ("window", "softcap", "paged"):
            patch.setattr(exllamav2.attn, f"has_flash_attn_with_{name}", True)
        patch.setattr(exllamav2.attn, "has_flash_attn", True)
        attention = cast("Any", SimpleNamespace(name="none", version="0"))
        yield Backend(torch, exllamav2, attention), handles
