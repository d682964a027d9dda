"""A titled area drawn line by line: what every live part of the screen is.

The first line is a rule with the title and a note; below it a subclass draws its own
lines. Only lines that changed are painted again (Textual's DataTable repaints all).
"""

from collections.abc import Iterable
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from cortex_tui.format import UNICODE, Glyphs, cells, fit
from cortex_tui.table import Tone

TONES: tuple[Tone, ...] = (
    "strong", "muted", "good", "busy", "warn", "bad", "accent", "bar",
)  # fmt: skip
TONE_CLASSES = {f"tone--{tone}" for tone in TONES}


class LineWidget(Widget):
    """Draws spans of text, each with a tone, in its own rows of cells."""

    COMPONENT_CLASSES: ClassVar[set[str]] = TONE_CLASSES
    glyphs: Glyphs = UNICODE
    dimmed = False
    """Everything in one muted tone: what is shown is old."""

    def tone(self, tone: Tone | str) -> Style:
        """The style of a tone, or of a component class named in full."""
        name = tone
        if tone in TONES or not tone:
            name = "tone--muted" if self.dimmed else f"tone--{tone}"
        if name == "tone--":
            return Style.null()
        return self.get_component_rich_style(name, partial=True)

    def strip(self, spans: Iterable[tuple[str, str]], under: Style) -> Strip:
        """One line exactly as wide as the widget; `under` lies below each span."""
        segments = [
            Segment(text, under + self.tone(tone)) for text, tone in spans if text
        ]
        return Strip(segments).adjust_cell_length(self.size.width, under)

    def refresh_line(self, y: int) -> None:
        self.refresh(Region(0, y, self.size.width, 1))

    def dim(self, dimmed: bool) -> None:
        if dimmed != self.dimmed:
            self.dimmed = dimmed
            self.refresh()


class Panel(LineWidget, can_focus=True):
    """A rule with title and note, and lines below it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "panel--rule",
        "panel--title",
        "panel--note",
        "panel--header",
        "panel--selected",
        "panel--cursor",
    }

    ruled = True
    """False: the first line is the title as plain text, for use in dialogs."""

    def __init__(self, title: str, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._title = title
        self._note = ""

    @property
    def note(self) -> str:
        """The rule's text on the right."""
        return self._note

    def label(self, title: str, note: str = "") -> None:
        """Change the rule's texts."""
        if (title, note) != (self._title, self._note):
            self._title, self._note = title, note
            self.refresh_line(0)

    def render_line(self, y: int) -> Strip:
        spans = self._rule() if y == 0 else self.body_line(y - 1)
        return self.strip(spans, self.rich_style)

    def body_line(self, y: int) -> Iterable[tuple[str, str]]:
        """Spans of the `y`-th line below the rule."""
        raise NotImplementedError

    def _rule(self) -> Iterable[tuple[str, str]]:
        width = self.size.width
        if not self.ruled:
            title = fit(self._title, width - 1, ellipsis=self.glyphs.ellipsis)
            yield f" {title.rstrip()}", "muted"
            return
        rule = self.glyphs.rule
        note = f" {self.note} " if self.note else ""
        title = f" {self._title} "
        room = width - 4 - cells(title)
        if cells(note) > room:
            note = fit(note, max(0, room)) if room > 8 else ""
        yield rule * 2, "panel--rule"
        yield title, "panel--title"
        yield rule * (room - cells(note)), "panel--rule"
        yield note, "panel--note"
        yield rule * 2, "panel--rule"
