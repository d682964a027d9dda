"""What a GGUF file holds: its metadata, and where its tensors lie.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and
3, little-endian. The header is read here and not with the `gguf` package, whose reader
makes several arrays for each element of an array, which takes seconds for a vocabulary,
and believes whatever the file says of its own size.
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
)
from gguf.quants import dequantize
from numpy.typing import NDArray

from neuron.exl2.errors import shown_name
from neuron.models.errors import ModelError
from neuron.models.gguf.cursor import Cursor, Value

MAX_ENTRIES: Final = 1 << 16
"""Metadata keys, or tensors; the largest models have under two thousand."""
_MAX_DIMENSIONS: Final = 4
_MAX_SIZE: Final = 1 << 40
_CHUNK: Final = 1 << 22
"""Weights dequantized at a time."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor; `shape` is [out_features, in_features], the slowest axis first."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    """From the start of the file."""
    nbytes: int


class GgufFile:
    """An open file; tensors stay on disk until they are read."""

    def __init__(
        self,
        path: Path,
        mapped: mmap.mmap,
        metadata: Mapping[str, Value],
        tensors: Mapping[str, GgufTensor],
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self._mapped = mapped

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the header.

        Raises:
            ModelError: the file is not a well-formed GGUF file; the message names key
                or tensor.
            OSError: it cannot be read.
        """
        with path.open("rb") as stream:
            if not stream.read(4):
                raise ModelError(path, "is empty")
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = Cursor(path, mapped)
        tensor_count, key_count = _preamble(cursor)
        metadata = _metadata(cursor, key_count)
        entries = [_entry(cursor) for _ in range(tensor_count)]
        alignment = _alignment(path, metadata)
        start = -(-cursor.position // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, kind, shape, offset in entries:
            if name in tensors:
                raise ModelError(path, f"tensor {shown_name(name)} is there twice")
            if offset % alignment:
                raise ModelError(
                    path,
                    f"tensor {shown_name(name)} lies at no multiple of {alignment}",
                )
            tensors[name] = _tensor(path, name, kind, shape, start + offset)
            if tensors[name].offset + tensors[name].nbytes > len(mapped):
                raise ModelError(
                    path,
                    f"tensor {shown_name(name)} ends beyond the file's {len(mapped)} "
                    "bytes: truncated",
                )
        return cls(path, mapped, metadata, tensors)

    def read(
        self, tensor: GgufTensor, rows: NDArray[np.intp] | None = None
    ) -> NDArray[np.float32]:
        """The tensor's numbers, in its shape.

        Args:
            rows: which row of the file each row of the result is; as they are if None.
        """
        packed = np.frombuffer(
            self._mapped, np.uint8, count=tensor.nbytes, offset=tensor.offset
        )
        if len(tensor.shape) == 1:
            vector: NDArray[np.float32] = _dequantized(packed[None], tensor.kind)[0]
            return vector if rows is None else vector[rows]
        count, width = prod(tensor.shape[:-1]), tensor.shape[-1]
        packed = packed.reshape(count, -1)
        result = np.empty((count, width), np.float32)
        step = max(1, _CHUNK // width)
        for start in range(0, count, step):
            part = slice(start, start + step)
            chosen = packed[part] if rows is None else packed[rows[part]]
            result[part] = _dequantized(chosen, tensor.kind)
        return result.reshape(tensor.shape)


def _dequantized(
    packed: NDArray[np.uint8], kind: GGMLQuantizationType
) -> NDArray[np.float32]:
    """Rows of bytes as rows of numbers; what is not finite is for the caller to see."""
    with np.errstate(all="ignore"):
        numbers: NDArray[np.float32] = dequantize(packed, kind).astype(
            np.float32, copy=False
        )
    return numbers


def _preamble(cursor: Cursor) -> tuple[int, int]:
    """(tensors, metadata keys)."""
    path = cursor.path
    if cursor.take(4, "the magic") != b"GGUF":
        raise ModelError(path, "is not a GGUF file: it does not begin with GGUF")
    version = cursor.integer(4, "the version")
    if version & 0xFFFF == 0:
        raise ModelError(path, "is a big-endian GGUF file; only little-endian is read")
    if version not in (2, 3):
        raise ModelError(path, f"is GGUF version {version}; 2 and 3 are read")
    counts = []
    for what in ("tensors", "metadata keys"):
        count = cursor.integer(8, f"the number of {what}")
        if count > MAX_ENTRIES:
            raise ModelError(path, f"claims {count} {what}; at most {MAX_ENTRIES}")
        counts.append(count)
    return counts[0], counts[1]


def _metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.string("a metadata key")
        if key in metadata:
            raise ModelError(cursor.path, f"{shown_name(key)} is there twice")
        metadata[key] = cursor.value(key)
    return metadata


def _entry(cursor: Cursor) -> tuple[str, int, tuple[int, ...], int]:
    """(name, type, shape, offset into the data) of the next tensor."""
    name = cursor.string("a tensor's name")
    what = f"tensor {shown_name(name)}"
    dimensions = cursor.integer(4, what)
    if not 0 < dimensions <= _MAX_DIMENSIONS:
        raise ModelError(cursor.path, f"{what} has {dimensions} dimensions")
    sizes = [cursor.integer(8, what) for _ in range(dimensions)]
    if not all(0 < size <= _MAX_SIZE for size in sizes):
        raise ModelError(cursor.path, f"{what} has the impossible shape {sizes}")
    kind = cursor.integer(4, what)
    return name, kind, tuple(reversed(sizes)), cursor.integer(8, what)


def _alignment(path: Path, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if type(value) is not int or value <= 0 or value & (value - 1):
        raise ModelError(path, "general.alignment must be a power of two")
    return value


def _tensor(
    path: Path, name: str, number: int, shape: tuple[int, ...], offset: int
) -> GgufTensor:
    what = f"tensor {shown_name(name)}"
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise ModelError(path, f"{what} is of the unknown type {number}") from None
    if not _is_readable(kind):
        raise ModelError(path, f"{what} is {kind.name}, which cannot be dequantized")
    block, size = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ModelError(
            path,
            f"{what} is {kind.name} in rows of {shape[-1]}, no multiple of {block}",
        )
    return GgufTensor(name, kind, shape, offset, prod(shape) // block * size)


@cache
def _is_readable(kind: GGMLQuantizationType) -> bool:
    """Whether `gguf` can dequantize the type, tried on one block of zeros."""
    block: NDArray[Any] = np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
        _dequantized(block, kind)
    except NotImplementedError:
        return False
    return True
