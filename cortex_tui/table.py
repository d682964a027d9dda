"""Columns, rows and cells, and how they share a width: plain data, no terminal.

Both front ends use it: the live tables of the console and the command line's output.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cortex_tui.format import Align, cells, fit, middle

Tone = Literal["", "strong", "muted", "good", "busy", "warn", "bad", "accent", "bar"]
"""What a piece of text means; the widget decides what that looks like."""

Span = tuple[str, Tone]
Cell = tuple[Span, ...]


def cell(text: str, tone: Tone = "") -> Cell:
    """A cell of one tone."""
    return ((text, tone),)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: how wide, and how long it is kept when the screen gets narrow."""

    key: str
    title: str
    width: int
    priority: int
    """1 is kept longest."""
    align: Align = "left"
    flex: int = 0
    """Cells it may grow by where width is left over; earlier columns go first."""
    keep_end: bool = False
    """Too long a text loses its middle: model names differ at their ends."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row; equal rows draw the same."""

    key: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    dim: bool = False


Layout = Sequence[tuple[Column, int]]
GAP = 1


def lay_out(columns: Sequence[Column], width: int) -> Layout:
    """The columns that fit in `width` cells, with their widths, in table order.

    Columns are taken by priority until one does not fit; the flexible ones then share
    what is left.
    """
    used = -GAP
    kept: set[str] = set()
    for column in sorted(columns, key=lambda c: c.priority):
        if used + GAP + column.width > width and kept:
            break
        used += GAP + column.width
        kept.add(column.key)
    spare = max(0, width - used)
    layout = []
    for column in columns:
        if column.key in kept:
            extra = min(spare, column.flex)
            spare -= extra
            layout.append((column, column.width + extra))
    return layout


def draw_row(layout: Layout, row: Row, ellipsis: str = "…") -> Iterable[Span]:
    """Spans of one line, each column in exactly its width, one blank between them."""
    for index, (column, width) in enumerate(layout):
        if index:
            yield " " * GAP, ""
        yield from _draw_cell(row.cells.get(column.key, ()), column, width, ellipsis)


def _draw_cell(
    content: Cell, column: Column, width: int, ellipsis: str
) -> Iterable[Span]:
    used = sum(cells(text) for text, _ in content)
    if len(content) == 1 or used > width:
        text = "".join(text for text, _ in content)
        if column.keep_end:
            text = middle(text, width, ellipsis)
        yield fit(text, width, column.align, ellipsis), content[0][1]
        return
    padding = " " * (width - used)
    if column.align == "right":
        yield padding, ""
    yield from content
    if column.align == "left":
        yield padding, ""


def header(layout: Layout) -> str:
    """The line of titles."""
    return (" " * GAP).join(fit(c.title, width, c.align) for c, width in layout)


def plain(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Aligned lines for a pipe or a terminal: every column as wide as it must be."""
    layout = [(column, _widest(column, rows)) for column in columns]
    lines = ["  ".join(fit(c.title, w, c.align) for c, w in layout)]
    for row in rows:
        texts = (
            fit("".join(t for t, _ in row.cells.get(c.key, ())), w, c.align)
            for c, w in layout
        )
        lines.append("  ".join(texts))
    return [line.rstrip() for line in lines]


def _widest(column: Column, rows: Sequence[Row]) -> int:
    texts = ("".join(t for t, _ in row.cells.get(column.key, ())) for row in rows)
    return max([cells(column.title), *map(cells, texts)])
