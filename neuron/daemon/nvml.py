"""The GPUs of this host through NVML, and what to say where there are none.

Blocking calls; the sampler makes them in a thread of its own.
Source: NVML API reference (nvidia-ml-py is its thin binding, imported as pynvml).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from neuron.protocol.types import Device, DeviceHealth

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024
_NO_DRIVER: Final = {9, 12}
"""NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND: a host without NVIDIA."""
_MISMATCH: Final = 18
"""NVML_ERROR_LIB_RM_VERSION_MISMATCH."""
_LOST: Final = {15, 16}
"""NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED."""
_NOT_SUPPORTED: Final = 3


@dataclass(frozen=True, slots=True)
class GpuInventory:
    """What was found at start."""

    devices: tuple[Device, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    problem: str | None = None


@dataclass(slots=True)
class GpuSample:
    """One look at every device."""

    devices: list[DeviceHealth] = field(default_factory=list)
    vram_of_process: dict[int, dict[int, int]] = field(default_factory=dict)
    """Device index → process id → bytes of VRAM."""


class Nvml:
    """NVML behind its binding, `library`, which tests replace."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._handles: dict[int, Any] = {}
        self._last: dict[int, DeviceHealth] = {}
        self._lost: set[int] = set()

    def discover(self) -> GpuInventory:
        """Find the devices; anything short of them is said in `problem`."""
        library = self._library
        try:
            library.nvmlInit()
            driver = _text(library.nvmlSystemGetDriverVersion())
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            return GpuInventory(problem=_explain(error))
        version = self._ask(library.nvmlSystemGetCudaDriverVersion_v2)
        cuda = f"{version // 1000}.{version % 1000 // 10}" if version else None
        devices = [device for index in range(count) if (device := self._find(index))]
        return GpuInventory(tuple(devices), driver, cuda)

    def _find(self, index: int) -> Device | None:
        library = self._library
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
        except library.NVMLError as error:
            log.warning("GPU %d cannot be opened: %s", index, error)
            return None
        self._handles[index] = handle
        memory = self._ask(library.nvmlDeviceGetMemoryInfo, handle)
        capability = self._ask(library.nvmlDeviceGetCudaComputeCapability, handle)
        return Device(
            index=index,
            uuid=_text(self._ask(library.nvmlDeviceGetUUID, handle) or ""),
            name=_text(self._ask(library.nvmlDeviceGetName, handle) or ""),
            vram_total_mb=memory.total // _MIB if memory else None,
            compute_capability=".".join(map(str, capability)) if capability else None,
            pcie_generation=self._ask(
                library.nvmlDeviceGetMaxPcieLinkGeneration, handle
            ),
            pcie_width=self._ask(library.nvmlDeviceGetMaxPcieLinkWidth, handle),
        )

    def sample(self) -> GpuSample:
        """Look at every device; a passing failure leaves its last values standing."""
        sample = GpuSample()
        for index, handle in self._handles.items():
            sample.devices.append(self._sample_device(index, handle))
            if index not in self._lost:
                sample.vram_of_process[index] = self._processes(handle)
        return sample

    def _sample_device(self, index: int, handle: Any) -> DeviceHealth:
        library = self._library
        if index in self._lost:
            return DeviceHealth(index=index)
        try:
            memory = library.nvmlDeviceGetMemoryInfo(handle)
        except library.NVMLError as error:
            if error.value not in _LOST:
                return self._last.get(index, DeviceHealth(index=index))
            log.error("GPU %d is lost: %s", index, error)
            self._lost.add(index)
            return DeviceHealth(index=index)
        last = self._last.get(index, DeviceHealth(index=index))
        load = self._ask(library.nvmlDeviceGetUtilizationRates, handle)
        power = self._ask(library.nvmlDeviceGetPowerUsage, handle)
        limit = self._ask(library.nvmlDeviceGetEnforcedPowerLimit, handle)
        temperature = self._ask(library.nvmlDeviceGetTemperature, handle, 0)
        health = DeviceHealth(
            index=index,
            vram_used_mb=memory.used // _MIB,
            vram_free_mb=memory.free // _MIB,
            utilization_pct=load.gpu if load else last.utilization_pct,
            temperature_c=last.temperature_c if temperature is None else temperature,
            power_w=last.power_w if power is None else power / 1000,
            power_limit_w=last.power_limit_w if limit is None else limit / 1000,
        )
        self._last[index] = health
        return health

    def _processes(self, handle: Any) -> dict[int, int]:
        running = self._ask(self._library.nvmlDeviceGetComputeRunningProcesses, handle)
        return {
            process.pid: process.usedGpuMemory
            for process in running or []
            if process.usedGpuMemory is not None
        }

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None where this device or driver has none."""
        try:
            return function(*arguments)
        except self._library.NVMLError as error:
            if error.value != _NOT_SUPPORTED:
                log.debug("%s: %s", getattr(function, "__name__", function), error)
            return None

    def close(self) -> None:
        self._ask(self._library.nvmlShutdown)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _explain(error: Any) -> str | None:
    """None where nothing is wrong: the host simply has no NVIDIA driver."""
    if error.value in _NO_DRIVER:
        return None
    if error.value == _MISMATCH:
        return (
            "driver/library version mismatch: the NVIDIA driver was updated but the old"
            " kernel module still runs; reboot this host (or reload the module)"
        )
    return f"NVML does not start: {error}"
