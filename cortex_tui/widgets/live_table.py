"""A table for live data: repaints the rows that changed, and those only."""

from collections.abc import Iterable, Sequence

from textual import events
from textual.message import Message
from textual.strip import Strip

from cortex_tui.table import Column, Layout, Row, draw_row, header, lay_out
from cortex_tui.widgets.panel import Panel

_MARGIN = 1


class LiveTable(Panel):
    """Rows below a rule and, unless `titles` is false, a line of column titles.

    The selection stays with its row's key when rows move; where the row is gone, it
    stays at its place. `always_selected` keeps it visible without focus, for the
    table whose selection the keys act on.
    """

    class Selected(Message):
        """Another row is selected."""

        def __init__(self, table: "LiveTable") -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> "LiveTable":
            return self.table

    class Chosen(Selected):
        """A row was double-clicked."""

    def __init__(
        self,
        title: str,
        columns: Sequence[Column],
        *,
        id: str,  # noqa: A002
        titles: bool = True,
        always_selected: bool = False,
        empty: str = "",
    ) -> None:
        super().__init__(title, id=id)
        self._columns = columns
        self._layout: Layout = ()
        self._rows: Sequence[Row] = ()
        self._titles = titles
        self._always_selected = always_selected
        self._empty = empty
        self._cursor = 0
        self._top = 0

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    @property
    def cursor(self) -> int:
        return self._cursor

    @property
    def selected(self) -> str | None:
        """Key of the selected row."""
        return self._rows[self._cursor].key if self._rows else None

    @property
    def page(self) -> int:
        """Rows that are visible at once."""
        return max(1, self.size.height - self._first_line)

    @property
    def note(self) -> str:
        """Its label, else `3-9 of 31` where not every row is visible."""
        if self._note or len(self._rows) <= self.page:
            return self._note
        last = min(len(self._rows), self._top + self.page)
        return f"{self._top + 1}-{last} of {len(self._rows)}"

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show `rows`; lines that stay the same are not painted again."""
        selected, old, top = self.selected, self._rows, self._top
        cursor = self._cursor
        self._rows = rows
        self._cursor = self._find(selected)
        self._scroll_to_cursor()
        if self._top != top or bool(old) != bool(rows):
            self.refresh()
            return
        moved = {cursor, self._cursor} if cursor != self._cursor else set()
        for line in range(self.page):
            index = top + line
            before = old[index] if index < len(old) else None
            after = rows[index] if index < len(rows) else None
            if before != after or index in moved:
                self.refresh_line(self._first_line + line)

    def move(self, step: int) -> None:
        """Select the row `step` further down, as far as there are rows."""
        self._select(self._cursor + step)

    def clear_selection(self) -> None:
        """Back to the first row, without a message."""
        self._cursor = self._top = 0
        self.refresh()

    @property
    def _first_line(self) -> int:
        return 2 if self._titles else 1

    def _find(self, key: str | None) -> int:
        for index, row in enumerate(self._rows):
            if row.key == key and (self.has_focus or self._always_selected):
                return index
        if not (self.has_focus or self._always_selected):
            return 0
        return min(self._cursor, max(0, len(self._rows) - 1))

    def _select(self, index: int) -> None:
        index = min(max(0, index), max(0, len(self._rows) - 1))
        if index != self._cursor:
            before, self._cursor = self._cursor, index
            top = self._top
            self._scroll_to_cursor()
            if self._top != top:
                self.refresh()
            else:
                self.refresh_line(self._first_line + before - top)
                self.refresh_line(self._first_line + index - top)
            self.post_message(self.Selected(self))

    def _scroll_to_cursor(self) -> None:
        lowest = max(0, len(self._rows) - self.page)
        top = min(self._top, self._cursor, lowest)
        self._top = max(top, self._cursor - self.page + 1)

    def on_resize(self) -> None:
        self._layout = lay_out(self._columns, self.size.width - 2 * _MARGIN)
        self._scroll_to_cursor()
        self.refresh()

    def on_mouse_scroll_down(self) -> None:
        self.move(1)

    def on_mouse_scroll_up(self) -> None:
        self.move(-1)

    def on_click(self, event: events.Click) -> None:
        index = self._top + event.y - self._first_line
        if event.y >= self._first_line and index < len(self._rows):
            self._select(index)
            if event.chain == 2:
                self.post_message(self.Chosen(self))

    def render_line(self, y: int) -> Strip:
        index = self._top + y - self._first_line
        if y < self._first_line or not self._is_marked(index):
            return super().render_line(y)
        under = self.rich_style + self.tone("panel--selected")
        return self.strip(self.body_line(y - 1), under)

    def body_line(self, y: int) -> Iterable[tuple[str, str]]:
        if self._titles and y == 0:
            yield " " * _MARGIN + header(self._layout), "panel--header"
            return
        index = self._top + y - (1 if self._titles else 0)
        if index >= len(self._rows):
            if not self._rows and index == 0:
                yield " " * _MARGIN + self._empty, "muted"
            return
        row = self._rows[index]
        mark = self.glyphs.select if self._is_marked(index) else " "
        yield mark, "panel--cursor"
        for text, tone in draw_row(self._layout, row, self.glyphs.ellipsis):
            yield text, "muted" if row.dim else tone

    def _is_marked(self, index: int) -> bool:
        return (
            index == self._cursor
            and index < len(self._rows)
            and (self._always_selected or self.has_focus)
        )
