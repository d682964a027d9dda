"""Where the library's modules get their tensors from while a model is loaded.

The library reads tensor after tensor, each into memory of its own, and reorders the
columns of gate and up on the CPU. Here all tensors of a model are on their way from the
start, into one block per device that is exactly as large as they are; a module waits
for those that it asks for, and columns are reordered on the device.
Source: exllamav2 0.3.2: stloader.py, module.py, linear.py.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from neuron.engines.base import LoadCancelledError
from neuron.engines.exllamav2.loading.columns import DeviceReordering
from neuron.engines.exllamav2.loading.staging import Staging, Transfer, TransferStats
from neuron.engines.exllamav2.loading.wanted import Wanted
from neuron.engines.exllamav2.memory.modules import FLOATS, aligned

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) after each tensor."""

DTYPES: Final = {
    "I32": torch.int32,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}


class TensorSource:
    """The tensors of one model, on their way to its devices."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        device: Callable[[int], Any],
        progress: Progress,
        cancelled: Callable[[], bool],
        **staging: Any,
    ) -> None:
        """
        Args:
            wanted: what the modules will ask for, in that order.
            device: torch's device of the library's index, -1 among them.
            progress: told after every tensor.
            cancelled: whether to give up; asked before every tensor.
            staging: passed on to `Staging`.
        """
        self._progress = progress
        self._cancelled = cancelled
        self._done = 0
        self._total = sum(one.nbytes for one in wanted)
        self._index = {(one.key, one.device_idx < 0): i for i, one in enumerate(wanted)}
        self._wanted = list(wanted)
        with torch.inference_mode():
            targets = _allocate(wanted, device)
        transfers = [
            Transfer(one.file, one.offset, one.nbytes, DTYPES[one.dtype], target)
            for one, target in zip(wanted, targets, strict=True)
        ]
        self._staging = Staging(transfers, cancelled, **staging)

    @property
    def stats(self) -> TransferStats:
        return self._staging.stats

    def has(self, key: str) -> bool:
        """Whether a tensor is on its way and was not taken yet."""
        return (key, False) in self._index or (key, True) in self._index

    def start(self) -> None:
        """Begin to read.

        Raises:
            OSError: a file cannot be opened.
        """
        self._staging.start()

    def close(self) -> None:
        """Stop reading and forget every tensor that no module holds."""
        self._staging.close()

    def get(self, key: str, device: Any, out_dtype: Any = None) -> Any:
        """One tensor as the library's loader would give it, floats in float16.

        What the library wants on the CPU only in order to reorder its columns is given
        where it belongs.

        Raises:
            LoadCancelledError: the load was given up.
            EngineError: it cannot be read.
        """
        if self._cancelled():
            raise LoadCancelledError
        on_host = torch.device(device).type == "cpu"
        where = on_host if (key, on_host) in self._index else not on_host
        index = self._index.pop((key, where))
        tensor = self._staging.wait(index).view(self._wanted[index].shape)
        if self._wanted[index].passing:
            # It is made into something else, and kept by nobody.
            tensor = tensor.to(device)
        self._done += self._wanted[index].nbytes
        self._progress(self._done, self._total)
        return tensor if out_dtype is None else tensor.to(out_dtype)


def _allocate(wanted: Sequence[Wanted], device: Callable[[int], Any]) -> list[Any]:
    """A place for each tensor: what stays is in one block per device."""
    sizes: dict[int, int] = defaultdict(int)
    for one in wanted:
        if _in_block(one):
            sizes[one.device_idx] += aligned(_kept_bytes(one))
    blocks = {
        index: torch.empty(nbytes, dtype=torch.uint8, device=device(index))
        for index, nbytes in sizes.items()
    }
    used: dict[int, int] = defaultdict(int)
    targets = []
    for one in wanted:
        dtype = _kept_dtype(one)
        if not _in_block(one):
            # On its way to something else: small orders of rows wait on the CPU.
            where = device(-1) if one.dtype == "I32" else device(one.device_idx)
            targets.append(torch.empty(one.numel, dtype=dtype, device=where))
            continue
        start, nbytes = used[one.device_idx], _kept_bytes(one)
        used[one.device_idx] += aligned(nbytes)
        block = blocks[one.device_idx][start : start + nbytes]
        targets.append(block.view(dtype))
    return targets


def _in_block(one: Wanted) -> bool:
    return one.device_idx >= 0 and not one.passing


def _kept_dtype(one: Wanted) -> Any:
    return torch.float16 if one.dtype in FLOATS else DTYPES[one.dtype]


def _kept_bytes(one: Wanted) -> int:
    return one.numel * int(_kept_dtype(one).itemsize)


@contextmanager
def supplied(library: Any, source: TensorSource | None) -> Iterator[DeviceReordering]:
    """Let the library's modules load from `source` while this lasts.

    Gives what reorders columns meanwhile.

    Args:
        library: the module `exllamav2`.
        source: what is on its way; without one every tensor is read alone.
    """
    stored = library.stloader.STFile
    theirs, extension = stored.get_tensor, library.linear.ext_c

    def get_tensor(self: Any, key: str, device: Any, out_dtype: Any = None) -> Any:
        if source is not None and source.has(key):
            return source.get(key, device, out_dtype)
        return read_alone(self, key, device, out_dtype)

    stored.get_tensor = get_tensor
    library.linear.ext_c = reordering = DeviceReordering(extension)
    try:
        yield reordering
    finally:
        stored.get_tensor = theirs
        library.linear.ext_c = extension


def read_alone(stored: Any, key: str, device: Any, out_dtype: Any) -> Any:
    """One tensor of an `STFile`, read when it is asked for.

    Raises:
        OSError: the file cannot be read, or is shorter than its header says.
    """
    entry = stored.header[key]
    begin, end = entry["data_offsets"]
    raw = torch.empty(end - begin, dtype=torch.uint8)
    with Path(stored.filename).open("rb") as stream:
        stream.seek(stored.header_size + begin)
        if stream.readinto(memoryview(raw.numpy())) != end - begin:
            raise OSError(f"{stored.filename} ends within {key}")
    tensor = raw.view(DTYPES[entry["dtype"]]).view(entry["shape"])
    return tensor.to(device=device, dtype=out_dtype)
