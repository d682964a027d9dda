"""The GPUs, as NVML knows them: named, measured, and chosen for this process.

NVML's numbers are the ones that operators see (`nvidia-smi`). CUDA counts in the same
order once it is told to, and only over the devices that are visible to it.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.host.gpus import find_gpus

log = logging.getLogger(__name__)

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

    It names them by number or by the beginning of their UUID.
    """
    allowed = os.environ.get(VISIBLE)
    if allowed is None:
        return list(devices)
    entries = [entry.strip() for entry in allowed.split(",") if entry.strip()]
    known = uuids(devices) if any(not e.isdigit() for e in entries) else {}
    return [
        device
        for device in devices
        if str(device) in entries
        or any(known.get(device, "").startswith(e) for e in entries if not e.isdigit())
    ]


def uuids(devices: Sequence[int]) -> dict[int, str]:
    """UUID of each GPU, such as `GPU-5c3e…`; those that NVML knows."""
    return _each(devices, lambda nvml, handle: str(nvml.nvmlDeviceGetUUID(handle)))


def names() -> dict[int, str]:
    """Model and driver of each GPU, such as `NVIDIA H200, driver 580.65`.

    A host without NVML has none.
    """
    found = find_gpus()
    return {gpu.index: f"{gpu.name}, driver {found.driver}" for gpu in found.devices}


def used_bytes(devices: Sequence[int]) -> dict[int, int]:
    """VRAM in use on each GPU, by whomever; it needs no CUDA context to tell."""
    return _each(
        devices, lambda nvml, handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    )


_Answer = TypeVar("_Answer")


def _each(
    devices: Sequence[int], ask: Callable[[Any, Any], _Answer]
) -> dict[int, _Answer]:
    """What NVML answers of each GPU; nothing where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    found = {}
    for device in devices:
        try:
            found[device] = ask(pynvml, pynvml.nvmlDeviceGetHandleByIndex(device))
        except pynvml.NVMLError:
            log.warning("NVML does not answer for GPU %d", device)
    pynvml.nvmlShutdown()
    return found
