"""How fast weights come, as a share of what the disk and PCIe give alone."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuron.engines.exllamav2.loading.staging import PIECE_BYTES, READERS, TransferStats

_COPIES: Final = 64


@dataclass(frozen=True, slots=True)
class LoadSpeed:
    """Bytes per second."""

    loaded: float
    """Weights, from the first read to the last copy handed on."""
    disk: float
    """The same files read by as many threads into memory that nobody uses."""
    pcie: float
    """Page-locked memory of the same size copied to the device."""

    @property
    def share_of_disk(self) -> float:
        return self.loaded / self.disk

    @property
    def share_of_pcie(self) -> float:
        return self.loaded / self.pcie


def load_speed(stats: TransferStats, files: Iterable[Path], device: str) -> LoadSpeed:
    """Compare a load with its limits.

    The files are read from the page cache where the load was, else from the disk:
    both have to begin alike (`forget`).
    """
    return LoadSpeed(stats.rate, read_rate(files), copy_rate(device))


def forget(files: Iterable[Path]) -> None:
    """Let the page cache drop these files, so that they come from the disk next."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_rate(files: Iterable[Path]) -> float:
    """Bytes per second that the loader's number of threads read."""
    here = threading.local()

    def prepare() -> None:
        # Kept and touched, as the loader's are: fresh pages take as long as the read.
        here.buffer = bytearray(b"x") * PIECE_BYTES

    def read(piece: tuple[Path, int]) -> int:
        file, offset = piece
        with file.open("rb", buffering=0) as stream:
            return os.preadv(stream.fileno(), [here.buffer], offset)

    with ThreadPoolExecutor(READERS, initializer=prepare) as pool:
        pieces = list(_pieces(files))
        began = time.perf_counter()
        total = sum(pool.map(read, pieces))
        return total / (time.perf_counter() - began)


def _pieces(files: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    for file in files:
        for offset in range(0, file.stat().st_size, PIECE_BYTES):
            yield file, offset


def copy_rate(device: str) -> float:
    """Bytes per second from page-locked memory to the device."""
    import torch

    source = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(PIECE_BYTES, dtype=torch.uint8, device=device)
    target.copy_(source, non_blocking=True)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(_COPIES):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize(device)
    return _COPIES * PIECE_BYTES / (time.perf_counter() - began)
