"""NVML's functions as pynvml has them, over GPUs that a test makes up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 1024**3


class NVMLError(Exception):
    """As pynvml's: `value` is NVML's return code."""

    def __init__(self, value: int, text: str = "failed") -> None:
        super().__init__(text)
        self.value = value


@dataclass
class Gpu:
    """One made-up device; `failing` maps a function to the code it fails with."""

    name: str = "NVIDIA GeForce RTX 4090"
    total: int = 24 * GIB
    used: int = 4 * GIB
    processes: dict[int, int | None] = field(default_factory=dict)
    failing: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    """The library boundary; a device handle is the device itself."""

    NVMLError = NVMLError

    def __init__(self, *gpus: Gpu, init_error: int | None = None) -> None:
        self.gpus = gpus
        self._init_error = init_error

    def nvmlInit(self) -> None:
        if self._init_error is not None:
            raise NVMLError(self._init_error, "cannot initialise")

    def nvmlShutdown(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13000

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def _answer(self, gpu: Gpu, function: str, value: Any) -> Any:
        if function in gpu.failing:
            raise NVMLError(gpu.failing[function])
        return value

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Callable[[Gpu], Any]] = {
            "nvmlDeviceGetUUID": lambda gpu: f"GPU-{gpu.name}",
            "nvmlDeviceGetName": lambda gpu: gpu.name,
            "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(
                total=gpu.total, used=gpu.used, free=gpu.total - gpu.used
            ),
            "nvmlDeviceGetCudaComputeCapability": lambda gpu: (8, 9),
            "nvmlDeviceGetMaxPcieLinkGeneration": lambda gpu: 4,
            "nvmlDeviceGetMaxPcieLinkWidth": lambda gpu: 16,
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=87),
            "nvmlDeviceGetTemperature": lambda gpu: 61,
            "nvmlDeviceGetPowerUsage": lambda gpu: 312_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 450_000,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
                SimpleNamespace(pid=pid, usedGpuMemory=used)
                for pid, used in gpu.processes.items()
            ],
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda gpu, *_: self._answer(gpu, name, answers[name](gpu))
