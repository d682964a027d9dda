"""The GPUs of this host and what its driver can run, through NVML.

Source: NVML API reference (nvidia-ml-py is its thin binding, imported as pynvml).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pynvml

NO_DRIVER: Final = "no NVIDIA driver"
"""The problem of a host that has none."""
_NO_DRIVER: Final = {9, 12}
"""NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device."""

    index: int
    name: str
    capability: tuple[int, int] | None
    """Compute capability; None where the driver does not say."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """What NVML says; `problem` says why there is nothing to say."""

    devices: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    """The newest CUDA version that the driver runs."""
    problem: str | None = None

    @property
    def architectures(self) -> tuple[str, ...]:
        """Their compute capabilities, each once and lowest first: `8.0`, `9.0`."""
        known = {gpu.capability for gpu in self.devices if gpu.capability}
        return tuple(f"{major}.{minor}" for major, minor in sorted(known))


def find_gpus(library: Any = pynvml) -> Gpus:
    """Ask NVML; `library` is its binding, which tests replace."""
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return Gpus(problem=_explain(error))
    try:
        found = (_device(library, i) for i in range(library.nvmlDeviceGetCount()))
        devices = tuple(gpu for gpu in found if gpu is not None)
        version = library.nvmlSystemGetCudaDriverVersion_v2()
        return Gpus(
            devices,
            driver=_text(library.nvmlSystemGetDriverVersion()),
            cuda=(version // 1000, version % 1000 // 10),
            problem=None if devices else "the NVIDIA driver finds no GPU",
        )
    except library.NVMLError as error:
        return Gpus(problem=_explain(error))
    finally:
        library.nvmlShutdown()


@cache
def host_gpus() -> Gpus:
    """What NVML said first in this process: to start it takes up to a second, and
    neither GPUs nor their driver change under a process that could use them."""
    return find_gpus()


def _device(library: Any, index: int) -> Gpu | None:
    """None for a GPU that cannot be opened; the others still serve."""
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        name = _text(library.nvmlDeviceGetName(handle))
    except library.NVMLError:
        return None
    try:
        major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
    except library.NVMLError:
        return Gpu(index, name, None)
    return Gpu(index, name, (major, minor))


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _explain(error: Any) -> str:
    if error.value in _NO_DRIVER:
        return NO_DRIVER
    return f"NVML does not start: {error}"
