"""Charts over the last minutes, from zero up: what doubled looks twice as high."""

from collections.abc import Callable, Iterable, Sequence

from cortex_tui.format import Glyphs, fit, nice_ceiling
from cortex_tui.table import Tone
from cortex_tui.widgets.panel import Panel

WINDOW_S = 300
_LABEL = 6
Point = tuple[float, float | None]
"""(epoch seconds, value)"""


def buckets(points: Iterable[Point], now: float, columns: int) -> list[float | None]:
    """Means of the last `columns` time slots, oldest first; None where there is none.

    Slots start at whole multiples of their length, so that the picture only moves
    when a slot is complete.
    """
    length = max(1, round(WINDOW_S / max(1, columns)))
    last = int(now) // length
    sums = [0.0] * columns
    counts = [0] * columns
    for time, value in points:
        slot = columns - 1 - (last - int(time) // length)
        if value is not None and 0 <= slot < columns:
            sums[slot] += value
            counts[slot] += 1
    return [s / n if n else None for s, n in zip(sums, counts, strict=True)]


def area(
    values: Sequence[float | None], peak: float, height: int, g: Glyphs
) -> list[str]:
    """Lines from top to bottom, a cell a value; above zero is never drawn as zero."""
    steps = len(g.spark) - 1
    levels = [round((value or 0) / peak * height * steps) for value in values]
    levels = [max(1, n) if v else 0 for n, v in zip(levels, values, strict=True)]
    return [
        "".join(g.spark[min(steps, max(0, level - line * steps))] for level in levels)
        for line in range(height - 1, -1, -1)
    ]


class Chart(Panel, can_focus=False):
    """One series as an area with an axis: largest value, half of it, zero."""

    def __init__(
        self,
        title: str,
        *,
        id: str,  # noqa: A002
        write: Callable[[float], str],
        tone: Tone = "bar",
    ) -> None:
        super().__init__(title, id=id)
        self._lines: list[str] = []
        self._peak = 1.0
        self._write = write
        self._tone: Tone = tone

    def show(self, points: Iterable[Point], now: float) -> None:
        """Draw the points of the last minutes."""
        columns = max(1, self.size.width - _LABEL - 3)
        values = buckets(points, now, columns)
        peak = nice_ceiling(max((v for v in values if v is not None), default=0.0))
        height = max(1, self.size.height - 1)
        lines = area(values, peak, height, self.glyphs)
        if (lines, peak) != (self._lines, self._peak):
            self._lines, self._peak = lines, peak
            self.refresh()

    def body_line(self, y: int) -> Iterable[tuple[str, str]]:
        if y >= len(self._lines):
            return
        height = len(self._lines)
        bottom = height - 1
        marks = {0: self._peak, bottom: 0.0}
        if height % 2 == 0 and height > 2:
            marks[height // 2] = self._peak / 2
        label = marks.get(y)
        text = fit("" if label is None else self._write(label), _LABEL, "right")
        axis = self.glyphs.axis_zero if y == bottom else self.glyphs.axis
        yield f"{text} ", "muted"
        yield axis, "panel--rule"
        yield self._lines[y], self._tone


def pulse(points: Iterable[Point], now: float, width: int, g: Glyphs) -> str:
    """A chart in one line of `width` cells, from zero to the largest value shown."""
    values = buckets(points, now, width)
    peak = max((v for v in values if v is not None), default=0.0)
    return area(values, peak or 1.0, 1, g)[0]
