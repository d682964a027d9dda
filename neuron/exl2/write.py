"""Writing safetensors files of which the sizes are known before the contents."""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.header import ITEM_BYTES

_NAMES: Final = {"float16": "F16", "float32": "F32", "int16": "I16", "int32": "I32"}


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor that is going to be written; `dtype` is the format's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def shard(plans: Sequence[TensorPlan], max_bytes: int) -> list[list[TensorPlan]]:
    """Split in the given order, none over `max_bytes` unless one tensor alone is."""
    shards: list[list[TensorPlan]] = []
    used = 0
    for plan in plans:
        if not shards or used + plan.nbytes > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(plan)
        used += plan.nbytes
    return shards


class TensorWriter:
    """Files laid out up front and filled tensor by tensor, in any order.

    Use it as a context manager; leaving it without an error says so if a tensor was
    planned and never written.
    """

    def __init__(
        self, folder: Path, stem: str, shards: Sequence[Sequence[TensorPlan]]
    ) -> None:
        self._folder = folder
        self._stem = stem
        self._shards = shards
        self._places: dict[str, tuple[BinaryIO, int, TensorPlan]] = {}
        self._files = ExitStack()
        self._streams: list[BinaryIO] = []

    def __enter__(self) -> Self:
        total = len(self._shards)
        with ExitStack() as files:
            for number, plans in enumerate(self._shards, start=1):
                suffix = "" if total == 1 else f"-{number:05}-of-{total:05}"
                file = self._folder / f"{self._stem}{suffix}.safetensors"
                stream = files.enter_context(file.open("wb"))
                self._streams.append(stream)
                self._lay_out(stream, plans)
            self._files = files.pop_all()
        return self

    def _lay_out(self, stream: BinaryIO, plans: Sequence[TensorPlan]) -> None:
        # Wide numbers first: then every tensor is aligned to its own size.
        ordered = sorted(plans, key=lambda plan: -ITEM_BYTES[plan.dtype])
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for plan in ordered:
            header[plan.name] = {
                "dtype": plan.dtype,
                "shape": list(plan.shape),
                "data_offsets": [offset, offset + plan.nbytes],
            }
            offset += plan.nbytes
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        stream.write(len(raw).to_bytes(8, "little") + raw)
        place = 8 + len(raw)
        stream.truncate(place + offset)
        for plan in ordered:
            self._places[plan.name] = (stream, place, plan)
            place += plan.nbytes

    def write(self, name: str, tensor: NDArray[Any]) -> None:
        """Put a planned tensor into its place.

        Raises:
            KeyError: it was not planned, or is written already.
            ValueError: its dtype or shape is not as planned.
        """
        stream, place, plan = self._places.pop(name)
        if (_NAMES.get(tensor.dtype.name), tensor.shape) != (plan.dtype, plan.shape):
            raise ValueError(f"{name}: {tensor.dtype}{tensor.shape} is not {plan}")
        stream.seek(place)
        little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
        stream.write(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._files:
            if kind is None:
                if self._places:
                    raise ValueError(f"never written: {sorted(self._places)}")
                for stream in self._streams:
                    stream.flush()
                    os.fsync(stream.fileno())
