"""The machine under test, and what it reaches by itself.

`python -m tests.gpu.machine OUT [FILE]` notes the machine and versions, or with a large
FILE the ceilings.
"""

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Final

from neuron.engines.exllamav2.host.gpus import find_gpus
from neuron.engines.exllamav2.host.installed import torch_build
from tests.gpu.results import Ceilings, Machine, Notebook

_GIB: Final = 1 << 30
_COPY_BYTES: Final = 4 * _GIB
_STAGED_BYTES: Final = _GIB
_REPEATS: Final = 7


def machine() -> Machine:
    """The first GPU, and its host; CUDA is not started."""
    found = find_gpus()
    gpu = found.devices[0] if found.devices else None
    return Machine(
        gpu="none" if gpu is None else gpu.name,
        vram_gib=0.0 if gpu is None else round(_vram(gpu.index) / _GIB, 1),
        compute_capability="".join(found.architectures[:1]),
        driver=found.driver or "none",
        cpu=_processor(),
        cores=len(os.sched_getaffinity(0)),
        ram_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB),
    )


def versions() -> dict[str, str]:
    """Of all that numbers depend on."""
    found = {"Python": platform.python_version()}
    if (torch := torch_build()) is not None and torch.cuda is not None:
        found["CUDA"] = torch.cuda
    for package in ("torch", "triton", "exllamav2", "flash-attn", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def ceilings(file: Path) -> Ceilings:
    """Bandwidths of device memory, of the bus, and of reading `file`."""
    from tests.gpu.bench.loading import read_rate

    return Ceilings(
        device_copy_gb_s=_device_copy(),
        pinned_to_device_gb_s=_pinned_to_device(),
        file_read_gb_s=max(read_rate([file]) for _ in range(2)) / 1e9,
    )


def _device_copy() -> float:
    import torch

    source = torch.randint(256, (_COPY_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = _timed(lambda: target.copy_(source))
    return 2 * _COPY_BYTES / seconds / 1e9


def _pinned_to_device() -> float:
    import torch

    source = torch.empty(_STAGED_BYTES, dtype=torch.uint8, pin_memory=True).random_()
    target = torch.empty_like(source, device="cuda")
    seconds = _timed(lambda: target.copy_(source, non_blocking=True))
    return _STAGED_BYTES / seconds / 1e9


def _timed(work: Callable[[], object]) -> float:
    """Median seconds of the device's time for `work`, after a warm-up."""
    import torch

    work()
    times = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(median(times))


def _vram(index: int) -> int:
    import pynvml

    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    finally:
        pynvml.nvmlShutdown()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> int:
    """Note what the arguments ask for."""
    notebook = Notebook(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        notebook.add(ceilings=ceilings(Path(sys.argv[2])))
    else:
        notebook.add(machine=machine(), versions=versions())
    return 0


if __name__ == "__main__":
    sys.exit(main())
