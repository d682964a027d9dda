"""Every key of this console, generated from the registry."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from cortex_tui.actions import ACTIONS, Action, Group
from cortex_tui.dialogs.base import Dialog

_KEY_NAMES = {
    "down": "↓", "up": "↑", "pagedown": "PgDn", "pageup": "PgUp",
    "home": "Home", "end": "End", "escape": "esc",
}  # fmt: skip
_ASCII_NAMES = _KEY_NAMES | {"down": "Down", "up": "Up"}


class HelpDialog(Dialog[None]):
    """Closed by the keys that open it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,q,enter", "cancel", show=False)
    ]
    AUTO_FOCUS = "VerticalScroll"
    actions: Sequence[Action] = ACTIONS
    readonly = False

    def content(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(id="keys", markup=False)

    def fill(self) -> None:
        self.box.border_title = "Keys"
        names = _ASCII_NAMES if self.glyphs.spark.isascii() else _KEY_NAMES
        self.query_one("#keys", Static).update(
            help_text(self.actions, names, readonly=self.readonly)
        )
        self.show_keys(("esc", "close"))


def help_text(
    actions: Sequence[Action], names: dict[str, str], *, readonly: bool
) -> Content:
    """Groups with a heading each; keys in a column of their own."""
    lines: list[Content] = []
    for group in Group:
        members = [action for action in actions if action.group is group]
        if members:
            lines.append(Content.styled(group.value, "bold $primary"))
            lines += [_line(action, names) for action in members]
            lines.append(Content())
    if readonly:
        note = "Read-only: everything that changes the fleet is left out."
        lines.append(Content.styled(note, "$warning"))
    return Content("\n").join(lines)


def _line(action: Action, names: dict[str, str]) -> Content:
    keys = " ".join(names.get(key, key) for key in action.keys)
    return Content.assemble((f"  {keys:<9} ", "bold"), action.help)
