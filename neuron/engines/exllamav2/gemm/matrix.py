"""An EXL2 matrix on the device, as exllamav2 holds it, and products with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from neuron.engines.exllamav2.gemm.layout import UNITS

_BLOCK_N: Final = 64
_UNITS: Final = 16
"""Units computed at once: the tensor cores' depth."""
_PROGRAMS_PER_PROCESSOR: Final = 4
"""As many as its registers have room for: one's loads are hidden behind the others."""
_MAX_PARTS: Final = 16
_REDUCE: Final = 1024
_STAGES: Final = 1
"""Other programs hide the loads; a pipeline of them would not fit small GPUs."""


@dataclass(frozen=True, slots=True)
class Exl2Matrix:
    """Tensors of one quantized layer, on the device and in the library's bit order."""

    q_weight: Any
    """int32 [words, columns]"""
    q_scale: Any
    """int32 [groups, columns / 8]"""
    q_scale_max: Any
    """float16 [groups], divided by 256 as the library does at load."""
    q_group_map: Any
    """int16 [2 · depth]: (group, rows left in it) of each packed row."""
    order: Any
    """int32 [places]: the input of each place that the kernel reads; see
    `input_order`."""
    bias: Any
    """float16 [columns] or None"""
    ends: Mapping[int, int]
    """Width in bits, from 8 down → where its packed rows end."""

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> "Exl2Matrix":
        """From the `q_tensors` of a loaded `ExLlamaV2Linear`.

        Its `q_groups` is read: a synchronization, once.
        """
        import torch

        words, _ = tensors["q_weight"].shape
        depth = tensors["q_group_map"].shape[0] // 2
        ends = row_ends(tensors["q_groups"].tolist(), words, depth)
        rows: Sequence[int] = range(depth)
        if (permutation := tensors.get("q_perm")) is not None:
            rows = [row & 0xFFFF for row in permutation.tolist()]
        order = torch.tensor(input_order(ends, rows), dtype=torch.int32)
        return cls(
            tensors["q_weight"],
            tensors["q_scale"],
            tensors["q_scale_max"],
            tensors["q_group_map"],
            order.to(tensors["q_weight"].device),
            tensors.get("bias"),
            ends,
        )

    @property
    def columns(self) -> int:
        return int(self.q_weight.shape[1])

    def multiply(self, x: Any, multiprocessors: int) -> Any:
        """float16 [rows, columns] of x float16 [rows, depth].

        Args:
            multiprocessors: of the device; the work is cut to keep them all busy.
        """
        import torch

        from neuron.engines.exllamav2.gemm import kernels

        rows = x.shape[0]
        a = x.index_select(1, self.order)
        block_m = 16 if rows <= 16 else 32 if rows <= 32 else 64
        grid = (-(-self.columns // _BLOCK_N), -(-rows // block_m))
        programs = _PROGRAMS_PER_PROCESSOR * multiprocessors
        parts = max(1, min(_MAX_PARTS, programs // (grid[0] * grid[1])))
        sums = torch.empty(
            (parts, rows, self.columns), dtype=torch.float32, device=x.device
        )
        kernels.multiply[(*grid, parts)](
            a, self.q_weight, self.q_scale, self.q_scale_max, self.q_group_map, sums,
            rows, self.columns, a.shape[1], *self.ends.values(),
            WIDTHS=self._widths(), UNITS=_UNITS, BLOCK_M=block_m, BLOCK_N=_BLOCK_N,
            num_warps=4 if block_m < 64 else 8, num_stages=_STAGES,
        )  # fmt: skip
        out = torch.empty((rows, self.columns), dtype=torch.float16, device=x.device)
        kernels.add_parts[(-(-out.numel() // _REDUCE),)](
            sums, out if self.bias is None else self.bias, out, out.numel(),
            self.columns, parts, HAS_BIAS=self.bias is not None, BLOCK=_REDUCE,
        )  # fmt: skip
        return out

    def _widths(self) -> int:
        """Bit b - 1 for each width b that has rows."""
        spans = zip(self.ends, pairwise((0, *self.ends.values())), strict=True)
        return sum(1 << width - 1 for width, (start, end) in spans if end > start)


def input_order(ends: Mapping[int, int], rows: Sequence[int]) -> list[int]:
    """Which input each place of the kernel's left operand holds.

    The kernel multiplies the same row of several units at once, so those lie side by
    side; for units that are missing to that number it has weights of zero.

    Args:
        ends: as `row_ends`.
        rows: the original row of each packed one.
    """
    order: list[int] = []
    start = 0
    for width, end in ends.items():
        unit = len(UNITS[width].rows)
        for tile in range(start, end, unit * _UNITS):
            for row in range(tile, tile + unit):
                places = range(row, row + unit * _UNITS, unit)
                order += [rows[at] if at < end else 0 for at in places]
        start = end
    return order


def row_ends(q_groups: list[int], words: int, depth: int) -> dict[int, int]:
    """Width, from 8 down → where its packed rows end.

    Args:
        q_groups: the format's pairs of (bits, first word).
    """
    pairs = [number & 0xFFFF for number in q_groups]
    bits, firsts = pairs[::2], [*pairs[1::2], words]
    counts = dict.fromkeys(sorted(UNITS)[::-1], 0)
    for width, (first, end) in zip(bits, pairwise(firsts), strict=True):
        counts[width] += (end - first) * 32 // width
    total, ends = 0, {}
    for width, count in counts.items():
        total += count
        ends[width] = total
    if total != depth:
        raise ValueError(f"groups hold {total} rows, and there are {depth}")
    return ends
