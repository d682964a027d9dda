"""Taking values off a GGUF header, of which nothing is believed."""

import mmap
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.errors import shown_name
from neuron.models.errors import ModelError

Value = int | float | bool | str | list[str] | NDArray[Any]
"""Of one key; an array is a list of strings or a NumPy array of numbers."""

MAX_HEADER_BYTES: Final = 256 << 20
"""Vocabularies of a quarter million tokens take 16 MB."""
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: Final = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    _BOOL: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""NumPy's name of each of GGUF's scalar types."""


class Cursor:
    """A place in the header that moves on with each value taken."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.position = 0
        self._data = data
        self._end = min(len(data), MAX_HEADER_BYTES)

    def take(self, count: int, what: str) -> bytes:
        """The next bytes.

        Raises:
            ModelError: there are not as many; `what` is in the message.
        """
        start, end = self.position, self.position + count
        if end > self._end:
            raise ModelError(
                self.path,
                f"{what} ends at byte {end}, beyond the header's {self._end}: "
                "truncated, or not a model",
            )
        self.position = end
        return self._data[start:end]

    def integer(self, size: int, what: str) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, what), "little")

    def string(self, what: str) -> str:
        """A length and so many bytes of UTF-8."""
        raw = self.take(self.integer(8, what), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ModelError(self.path, f"{what} is not UTF-8") from None

    def value(self, key: str) -> Value:
        """A type and a value of it."""
        what = shown_name(key)
        kind = self.integer(4, what)
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(what)
        value = self._numbers(kind, 1, what)[0]
        if isinstance(value, np.float32):
            return float(str(value))  # 1e-05, not 9.999999747378752e-06
        scalar: int | float | bool = value.item()
        return scalar

    def _array(self, what: str) -> list[str] | NDArray[Any]:
        kind = self.integer(4, what)
        count = self.integer(8, what)
        if kind == _STRING:
            return self._strings(count, what)
        if kind == _ARRAY:
            raise ModelError(self.path, f"{what} is an array of arrays")
        return self._numbers(kind, count, what).copy()

    def _numbers(self, kind: int, count: int, what: str) -> NDArray[Any]:
        if kind not in _NUMBERS:
            raise ModelError(self.path, f"{what} is of the unknown type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)

    def _strings(self, count: int, what: str) -> list[str]:
        if count * 8 > self._end - self.position:
            raise ModelError(
                self.path, f"{what} claims {count} strings, more than the file can hold"
            )
        data, position, end = self._data, self.position, self._end
        found: list[bytes] = []
        length_of = struct.Struct("<Q").unpack_from
        for _ in range(count):
            start = position + 8
            position = start + length_of(data, position)[0] if start <= end else end + 1
            if position > end:
                raise ModelError(self.path, f"{what} is truncated")
            found.append(data[start:position])
        self.position = position
        try:
            return [raw.decode("utf-8") for raw in found]
        except UnicodeDecodeError:
            raise ModelError(self.path, f"{what} is not UTF-8") from None
