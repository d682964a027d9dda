"""Reading a safetensors header, and nothing of the weights behind it.

Layout of the file: 8 bytes little-endian length N, N bytes of JSON, then the data.
Every offset is checked against the file's size before anybody may use it, so a
header can neither point outside its file nor ask for more memory than the file has.
Source: https://huggingface.co/docs/safetensors (format section).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from neuron.exl2.errors import FormatError, shown_name

MAX_HEADER_BYTES: Final = 32 << 20
"""A hundred thousand tensors need half of this."""
MAX_DIMENSIONS: Final = 8

ITEM_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""Bytes of one number, by the format's dtype name."""

_FOREIGN: Final = (
    (b"PK\x03\x04", "is a zip archive (a PyTorch pickle)"),
    (b"\x80\x02", "is a Python pickle"),
    (b"\x80\x03", "is a Python pickle"),
    (b"\x80\x04", "is a Python pickle"),
    (b"\x80\x05", "is a Python pickle"),
    (b"GGUF", "is a GGUF file"),
    (b"version https://git-lfs", "is a Git LFS pointer; the weights were not fetched"),
)
_MAX_DIMENSION: Final = 1 << 48


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies; `offset` counts from the start of the file."""

    name: str
    dtype: str
    """The format's name, such as `F16`."""
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


def read_header(file: Path) -> dict[str, TensorSpec]:
    """All tensors of one file, by name, in the order of their data.

    Raises:
        FormatError: the file is not a well-formed safetensors file.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(64)
        length = int.from_bytes(start[:8], "little")
        # Lengths can look like a pickle's first bytes, so the brace has the say.
        if size < 8 or length > size - 8 or start[8:9] != b"{":
            raise FormatError(file, None, _not_a_header(start, size, length))
        if length > MAX_HEADER_BYTES:
            raise FormatError(
                file, None, f"header of {length} bytes is over {MAX_HEADER_BYTES}"
            )
        stream.seek(8)
        raw = stream.read(length)
    if len(raw) != length:
        raise FormatError(file, None, "it became shorter while it was read")
    entries = _parse(file, raw)
    return _check(file, entries, data_start=8 + length, data_bytes=size - 8 - length)


def _not_a_header(start: bytes, size: int, length: int) -> str:
    """Why a file whose first bytes are `start` is not safetensors."""
    for magic, what in _FOREIGN:
        if start.startswith(magic):
            return f"{what}, not safetensors"
    if size < 8:
        return f"{size} bytes are too few for a header"
    if length > size - 8:
        return (
            f"its header claims {length} bytes, the file has {size - 8} after the "
            "length: truncated, or not safetensors"
        )
    return "its header is not a JSON object"


def _parse(file: Path, raw: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise FormatError(file, key, "is named twice in the header")
            found[key] = value
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError:
        raise FormatError(file, None, "its header is nested too deeply") from None
    except ValueError as error:
        raise FormatError(file, None, f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise FormatError(file, None, "its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise FormatError(file, None, "__metadata__ is not a JSON object")
    return header


def _check(
    file: Path, entries: Mapping[str, object], *, data_start: int, data_bytes: int
) -> dict[str, TensorSpec]:
    """Turn header entries into specs that tile the data without gap or overlap."""
    specs = [_spec(file, name, entry, data_start) for name, entry in entries.items()]
    specs.sort(key=lambda spec: (spec.offset, spec.nbytes))
    end, before = data_start, None
    for spec in specs:
        if spec.offset < end and before is not None:
            raise FormatError(file, spec.name, f"overlaps tensor {shown_name(before)}")
        if spec.offset != end:
            raise FormatError(
                file, spec.name, f"{spec.offset - end} unused bytes lie before it"
            )
        end, before = spec.offset + spec.nbytes, spec.name
        if end > data_start + data_bytes:
            raise FormatError(
                file,
                spec.name,
                f"ends at byte {end} of a file of {data_start + data_bytes}: truncated",
            )
    if end != data_start + data_bytes:
        unused = data_start + data_bytes - end
        raise FormatError(file, None, f"{unused} bytes follow its last tensor")
    return {spec.name: spec for spec in specs}


def _spec(file: Path, name: str, entry: object, data_start: int) -> TensorSpec:
    if not isinstance(entry, dict):
        raise FormatError(file, name, "its header entry is not a JSON object")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str):
        raise FormatError(file, name, "dtype must be a string")
    if dtype not in ITEM_BYTES:
        raise FormatError(file, name, f"unknown dtype {dtype[:40]!a}")
    shape = _naturals(entry.get("shape"))
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise FormatError(
            file, name, f"shape must be at most {MAX_DIMENSIONS} non-negative integers"
        )
    offsets = _naturals(entry.get("data_offsets"))
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(file, name, "data_offsets must be two ascending integers")
    nbytes = offsets[1] - offsets[0]
    needed = prod(shape) * ITEM_BYTES[dtype]
    if nbytes != needed:
        raise FormatError(
            file, name, f"{dtype} {list(shape)} needs {needed} bytes, has {nbytes}"
        )
    return TensorSpec(name, dtype, shape, file, data_start + offsets[0], nbytes)


def _naturals(value: object) -> tuple[int, ...] | None:
    """A JSON list of integers in a sane range as a tuple, else None."""
    if not isinstance(value, list):
        return None
    if not all(type(item) is int and 0 <= item <= _MAX_DIMENSION for item in value):
        return None
    return tuple(value)
