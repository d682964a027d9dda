"""The GPUs, as NVML knows them: named, measured, and chosen for this process.

NVML's numbers are the ones that operators see (`nvidia-smi`). CUDA counts in the same
order once it is told to, and only over the devices that are visible to it.
"""

import os
from collections.abc import Sequence
from typing import Any, Final

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.gpus import find_gpus

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"


def restrict_to(devices: Sequence[int]) -> None:
    """Let this process's CUDA see these devices only, in this order.

    A device that CUDA can see costs a context as soon as anything synchronizes on it,
    and exllamav2 does. Called before torch initializes CUDA.

    Raises:
        EngineError: CUDA runs already, over other devices.
    """
    wanted = ",".join(str(device) for device in devices)
    if os.environ.get(VISIBLE) == wanted and os.environ.get(ORDER) == "PCI_BUS_ID":
        return
    import torch

    if torch.cuda.is_initialized():
        raise EngineError(
            f"this process uses GPUs {os.environ.get(VISIBLE, 'all')} already and "
            f"cannot change to {wanted}",
            code="load_failed",
            param="devices",
        )
    os.environ[ORDER] = "PCI_BUS_ID"
    os.environ[VISIBLE] = wanted


def visible_to_operator(devices: Sequence[int]) -> list[int]:
    """Those of `devices` that the environment lets this process use.

    An entry that is no number (a UUID, a MIG instance) cannot be told from here; such
    a list restricts nothing until CUDA reads it.
    """
    allowed = os.environ.get(VISIBLE)
    if allowed is None or allowed.strip() == "":
        return list(devices)
    entries = [entry.strip() for entry in allowed.split(",")]
    if not all(entry.isdigit() for entry in entries):
        return list(devices)
    return [device for device in devices if str(device) in entries]


def names() -> dict[int, str]:
    """Model and driver of each GPU, such as `NVIDIA H200, driver 580.65`.

    A host without NVML has none.
    """
    found = find_gpus()
    return {gpu.index: f"{gpu.name}, driver {found.driver}" for gpu in found.devices}


def used_bytes(devices: Sequence[int]) -> dict[int, int]:
    """VRAM in use on each GPU, by whomever; it needs no CUDA context to tell."""
    nvml = _nvml()
    if nvml is None:
        return {}
    found = {}
    for device in devices:
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(device)
            found[device] = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        except nvml.NVMLError:
            continue
    return found


def _nvml() -> Any:
    """The initialized module, or None where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
