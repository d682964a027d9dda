"""What every dialog is: a box over the screen, built once and used again.

A fresh screen for each use would leak: Textual's style cache keeps what it drew.
"""

from typing import ClassVar, Generic, TypeVar

from textual import getters
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from cortex_tui.format import UNICODE, Glyphs
from cortex_tui.widgets.status_bar import Bar

T = TypeVar("T")


class Dialog(ModalScreen[T | None], Generic[T]):
    """Escape dismisses it with None; `fill` runs each time it opens."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", show=False)
    ]
    AUTO_FOCUS = ""
    box = getters.query_one(".dialog--box", Vertical)
    hints = getters.query_one("#hints", Bar)
    glyphs: Glyphs = UNICODE

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog--box"):
            yield from self.content()
            yield Bar(id="hints")

    def content(self) -> ComposeResult:
        """The widgets inside the box, above the line of keys."""
        raise NotImplementedError

    def fill(self) -> None:
        """Show what it is about this time."""
        raise NotImplementedError

    def on_screen_resume(self) -> None:
        for bar in self.query(Bar):
            bar.glyphs = self.glyphs
        self.fill()

    def show_keys(self, *keys: tuple[str, str]) -> None:
        """The line of keys at the bottom: (key, what it does)."""
        spans: list[tuple[str, str]] = []
        for key, verb in keys:
            spans += [(key, "bar--key"), (f" {verb}", ""), ("   ", "")]
        self.hints.show(spans)

    def finish(self, result: T | None) -> None:
        """Close with `result`; not awaited, since the caller is this very dialog."""
        _ = self.dismiss(result)

    def action_cancel(self) -> None:
        self.finish(None)
