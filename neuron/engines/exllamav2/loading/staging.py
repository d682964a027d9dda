"""Weights from disk to devices, as fast as both allow.

Several threads read the files in pieces into page-locked buffers; each piece goes on to
its device at once, on a stream of its own, while the next ones are read. Nobody waits
for a copy but the one who needs its tensor, and only on the device.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import torch

from neuron.engines.base import EngineError, LoadCancelledError

PIECE_BYTES: Final = 16 << 20
"""Large enough that a read and a copy run at full speed, and that eight of them are
little memory."""
READERS: Final = 4
"""An NVMe disk needs a few requests at a time; so does the page cache's memcpy."""
_BUFFERS: Final = 2 * READERS
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Transfer:
    """One tensor's way from a file to where it is wanted."""

    file: Path
    offset: int
    nbytes: int
    dtype: Any
    """The torch dtype on disk."""
    target: Any
    """Contiguous tensor of as many numbers; floats are converted to its dtype."""


@dataclass(slots=True)
class TransferStats:
    """How fast it went."""

    nbytes: int = 0
    seconds: float = 0.0
    """From the first read to the last piece handed on."""
    reading_s: float = 0.0
    """Time in reads, over all threads."""

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.nbytes / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Buffer:
    memory: Any
    """uint8, page-locked where there is a GPU."""
    copied: Any = None
    """Event after which the buffer may be written again."""


@dataclass(frozen=True, slots=True)
class _Piece:
    transfer: int
    start: int
    nbytes: int


class Staging:
    """Transfers under way; they are made in order, but for a few at a time."""

    def __init__(
        self,
        transfers: Sequence[Transfer],
        cancelled: Callable[[], bool],
        *,
        piece_bytes: int = PIECE_BYTES,
        through_buffers: bool = False,
    ) -> None:
        """
        Args:
            transfers: what to read, in the order in which it will be waited for.
            cancelled: whether to give up; asked while waiting.
            piece_bytes: size of a buffer; a multiple of every dtype's size.
            through_buffers: let tensors in system memory go through the buffers too.
        """
        self._transfers: list[Transfer | None] = list(transfers)
        self._cancelled = cancelled
        self._through_buffers = through_buffers
        self._pieces = iter(_pieces(transfers, piece_bytes))
        self._left = [-(-t.nbytes // piece_bytes) for t in transfers]
        self._copied: dict[int, list[Any]] = defaultdict(list)
        self._changed = threading.Condition()
        self._stopping = False
        self._error: BaseException | None = None
        self._files: dict[Path, int] = {}
        self._streams: dict[Any, Any] = {}
        self._free: SimpleQueue[_Buffer] = SimpleQueue()
        self.stats = TransferStats()
        self._piece_bytes = piece_bytes
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open the files and begin to read.

        Raises:
            OSError: a file cannot be opened.
            RuntimeError: no page-locked memory is to be had.
        """
        for transfer in filter(None, self._transfers):
            if transfer.file not in self._files:
                self._files[transfer.file] = os.open(transfer.file, os.O_RDONLY)
            device = transfer.target.device
            if device.type == "cuda" and device not in self._streams:
                self._streams[device] = stream = torch.cuda.Stream(device)
                # What the targets' memory was last used for may not be over.
                stream.wait_stream(torch.cuda.current_stream(device))
        pinned = bool(self._streams)
        for _ in range(_BUFFERS):
            memory = torch.empty(
                self._piece_bytes, dtype=torch.uint8, pin_memory=pinned
            )
            self._free.put(_Buffer(memory))
        self._began = time.perf_counter()
        for number in range(READERS):
            thread = threading.Thread(
                target=self._read_all, name=f"weights-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def wait(self, index: int) -> Any:
        """The target of a transfer, once work on its device may use it; only once.

        Raises:
            LoadCancelledError: the load was given up meanwhile.
            EngineError: a file could not be read.
        """
        with self._changed:
            while self._left[index] and self._error is None:
                self._changed.wait(_POLL_S)
                self._raise_if_cancelled()
            if self._error is not None:
                raise _unreadable(self._error) from self._error
        self._raise_if_cancelled()
        transfer, self._transfers[index] = self._transfers[index], None
        assert transfer is not None
        target = transfer.target
        for event in self._copied.pop(index, ()):
            torch.cuda.current_stream(target.device).wait_event(event)
        return target

    def close(self) -> None:
        """Stop reading, wait for what is on its way, and give the buffers back."""
        with self._changed:
            self._stopping = True
        for thread in self._threads:
            thread.join()
        for stream in self._streams.values():
            stream.synchronize()
        while not self._free.empty():
            self._free.get()
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        self._copied.clear()
        self._transfers.clear()

    def _raise_if_cancelled(self) -> None:
        if self._cancelled():
            raise LoadCancelledError

    # In the reading threads.

    def _read_all(self) -> None:
        try:
            # Tensors made in inference mode may be written only in it.
            with torch.inference_mode():
                while (piece := self._next()) is not None:
                    self._read(piece)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._stopping = True
                self._changed.notify_all()

    def _next(self) -> _Piece | None:
        with self._changed:
            return None if self._stopping else next(self._pieces, None)

    def _read(self, piece: _Piece) -> None:
        transfer = self._transfers[piece.transfer]
        assert transfer is not None
        target = transfer.target
        item = transfer.dtype.itemsize
        where = slice(piece.start // item, (piece.start + piece.nbytes) // item)
        event = None
        if target.device.type == "cpu" and self._is_direct(transfer):
            self._fill(transfer, piece, target.view(-1)[where].view(torch.uint8))
        else:
            buffer = self._free.get()
            try:
                if buffer.copied is not None:
                    buffer.copied.synchronize()
                part = buffer.memory[: piece.nbytes]
                self._fill(transfer, piece, part)
                event = self._hand_on(part.view(transfer.dtype), target.view(-1)[where])
                buffer.copied = event
            finally:
                self._free.put(buffer)
        self._done(piece, event)

    def _is_direct(self, transfer: Transfer) -> bool:
        return not self._through_buffers and transfer.dtype == transfer.target.dtype

    def _fill(self, transfer: Transfer, piece: _Piece, memory: Any) -> None:
        began = time.perf_counter()
        view = memoryview(memory.numpy())
        done = 0
        while done < piece.nbytes:
            position = transfer.offset + piece.start + done
            got = os.preadv(self._files[transfer.file], [view[done:]], position)
            if not got:
                raise OSError(f"{transfer.file} became shorter while it was read")
            done += got
        with self._changed:
            self.stats.reading_s += time.perf_counter() - began

    def _hand_on(self, part: Any, target: Any) -> Any:
        stream = self._streams.get(target.device)
        if stream is None:
            target.copy_(part)
            return None
        with torch.cuda.stream(stream):
            if part.dtype != target.dtype:
                # Converted there: on the CPU it would take longer than the copy.
                part = part.to(target.device, non_blocking=True)
            target.copy_(part, non_blocking=True)
            return stream.record_event()

    def _done(self, piece: _Piece, event: Any) -> None:
        with self._changed:
            self._left[piece.transfer] -= 1
            if event is not None:
                self._copied[piece.transfer].append(event)
            self.stats.nbytes += piece.nbytes
            self.stats.seconds = time.perf_counter() - self._began
            self._changed.notify_all()


def _pieces(transfers: Sequence[Transfer], size: int) -> list[_Piece]:
    return [
        _Piece(index, start, min(size, transfer.nbytes - start))
        for index, transfer in enumerate(transfers)
        for start in range(0, transfer.nbytes, size)
    ]


def _unreadable(error: BaseException) -> EngineError:
    return EngineError(f"the weights cannot be read: {error}", code="load_failed")
