"""What torch's caching allocator takes from a device for tensors that are kept.

It cuts small tensors from segments of 2 MiB, middling ones from segments of 20 MiB, and
gives larger ones a segment of their own, a multiple of 2 MiB. With a few hundred
tensors of a few megabytes the difference to their sum is several percent.
Source: PyTorch, c10/cuda/CUDACachingAllocator.cpp, default settings.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final

_MIB: Final = 1 << 20
_UNIT: Final = 512
_SMALL: Final = _MIB
_SMALL_SEGMENT: Final = 2 * _MIB
_LARGE: Final = 10 * _MIB
_LARGE_SEGMENT: Final = 20 * _MIB
_SEGMENT_UNIT: Final = 2 * _MIB


def reserved_bytes(tensors: Iterable[int]) -> int:
    """Bytes of the segments that hold tensors of these sizes, allocated in order.

    Args:
        tensors: bytes of each tensor; none is freed before the last one is there.
    """
    small, large = _Pool(_UNIT), _Pool(_SMALL + 1)
    for nbytes in tensors:
        size = max(_UNIT, -(-nbytes // _UNIT) * _UNIT)
        if size <= _SMALL:
            small.allocate(size, _SMALL_SEGMENT)
        elif size < _LARGE:
            large.allocate(size, _LARGE_SEGMENT)
        else:
            large.allocate(size, -(-size // _SEGMENT_UNIT) * _SEGMENT_UNIT)
    return small.reserved + large.reserved


class _Pool:
    """Segments of one pool and what is free in them, smallest first."""

    def __init__(self, smallest_rest: int) -> None:
        self._smallest_rest = smallest_rest
        self._free: list[int] = []
        self.reserved = 0

    def allocate(self, size: int, segment: int) -> None:
        found = bisect_left(self._free, size)
        if found < len(self._free):
            block = self._free.pop(found)
        else:
            block = segment
            self.reserved += segment
        # Less than that stays with the tensor.
        if block - size >= self._smallest_rest:
            insort(self._free, block - size)
