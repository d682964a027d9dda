"""Which shapes a decode step is captured for: few graphs, little padding."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

_GEMM_ROWS: Final = 4
"""The quantized GEMM computes this many rows at once; fewer cost as much."""
_MAX_GEMM_ROWS: Final = 32
"""Above it the library dequantizes the weights, and rows cost next to nothing."""
_COARSE_STEP: Final = 16
_WIDTH_STEP: Final = 4


@dataclass(frozen=True, slots=True)
class GraphShapes:
    """The ladder of row counts and of block table widths, both ascending."""

    rows: tuple[int, ...]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, max_rows: int, max_pages: int) -> "GraphShapes":
        """Ladders that end at what the engine can hold.

        Args:
            max_rows: sequences that decode at once.
            max_pages: pages of the longest sequence.
        """
        return cls(_rows(max_rows), _widths(max_pages))

    def fit(self, rows: int, width: int) -> tuple[int, int]:
        """The smallest captured shape that holds a batch.

        Raises:
            ValueError: none does.
        """
        row, column = bisect_left(self.rows, rows), bisect_left(self.widths, width)
        if row == len(self.rows) or column == len(self.widths):
            raise ValueError(
                f"{rows} sequences of {width} pages; the largest shape is"
                f" {self.rows[-1]} of {self.widths[-1]}"
            )
        return self.rows[row], self.widths[column]


def _rows(most: int) -> tuple[int, ...]:
    steps = [
        *range(1, _GEMM_ROWS),
        *range(_GEMM_ROWS, _MAX_GEMM_ROWS + 1, _GEMM_ROWS),
        *range(_MAX_GEMM_ROWS + _COARSE_STEP, most + _COARSE_STEP, _COARSE_STEP),
    ]
    return (*(step for step in steps if step < most), most)


def _widths(most: int) -> tuple[int, ...]:
    """Wide steps: an attention kernel passes over the pages that are not there."""
    steps = []
    width = _WIDTH_STEP
    while width < most:
        steps.append(width)
        width *= _WIDTH_STEP
    return (*steps, most)
