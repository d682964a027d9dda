"""This host's hardware, looked at once a second away from every request."""

import asyncio
import logging
import os
import platform
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from neuron.daemon.nvml import GpuInventory, GpuSample, Nvml
from neuron.protocol.types import DeviceHealth

log = logging.getLogger(__name__)

SAMPLE_INTERVAL_S: Final = 1.0
_MIB: Final = 1024 * 1024


def read_meminfo(path: Path = Path("/proc/meminfo")) -> Mapping[str, int]:
    """`/proc/meminfo` in bytes; empty where it cannot be read."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        log.warning("%s: %s", path, error)
        return {}
    sizes = {}
    for line in lines:
        name, _, rest = line.partition(":")
        number = rest.split()
        if number and number[0].isdecimal():
            sizes[name] = int(number[0]) * 1024
    return sizes


class Hardware:
    """Answers from the last sample; one thread does all the asking."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hardware")
        self._gpu = GpuSample()
        self._memory: Mapping[str, int] = {}
        self.inventory = GpuInventory()

    async def start(self) -> None:
        """Find the devices and take the first sample."""
        loop = asyncio.get_running_loop()
        self.inventory = await loop.run_in_executor(self._thread, self._nvml.discover)
        if self.inventory.problem:
            log.error("%s", self.inventory.problem)
        await self.refresh()

    async def watch(self) -> None:
        """Sample until cancelled; what fails leaves the last sample standing."""
        while True:
            await asyncio.sleep(SAMPLE_INTERVAL_S)
            try:
                await self.refresh()
            except Exception:
                log.exception("the hardware cannot be sampled")

    async def refresh(self) -> None:
        """Sample now."""
        loop = asyncio.get_running_loop()
        memory, gpu = await loop.run_in_executor(self._thread, self._sample)
        self._memory = memory or self._memory
        self._gpu = gpu

    def _sample(self) -> tuple[Mapping[str, int], GpuSample]:
        return read_meminfo(), self._nvml.sample()

    @property
    def ram_total_bytes(self) -> int | None:
        return self._memory.get("MemTotal")

    @property
    def ram_available_bytes(self) -> int | None:
        return self._memory.get("MemAvailable")

    def vram_free_bytes(self) -> dict[int, int]:
        """Free VRAM by device index; devices whose state is unknown are left out."""
        return {
            device.index: device.vram_free_mb * _MIB
            for device in self._gpu.devices
            if device.vram_free_mb is not None
        }

    def vram_of(self, pid: int | None) -> int | None:
        """Bytes of VRAM that a process holds on all devices; None where unknown."""
        held = [
            processes[pid]
            for processes in self._gpu.vram_of_process.values()
            if pid is not None and pid in processes
        ]
        return sum(held) if held else None

    def devices(self, our_pids: Iterable[int]) -> list[DeviceHealth]:
        """Every device, with the share that `our_pids` hold."""
        pids = set(our_pids)
        return [
            device.model_copy(update={"vram_ours_mb": self._ours(device.index, pids)})
            for device in self._gpu.devices
        ]

    def _ours(self, index: int, pids: set[int]) -> int | None:
        processes = self._gpu.vram_of_process.get(index)
        if processes is None:
            return None
        return sum(processes[pid] for pid in pids & processes.keys()) // _MIB

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._nvml.close)
        self._thread.shutdown(wait=False)


def host_facts() -> dict[str, str]:
    """Name, system and kernel of this host."""
    system = os.uname()
    return {
        "hostname": platform.node(),
        "os": system.sysname,
        "kernel": system.release,
    }
