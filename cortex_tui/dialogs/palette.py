"""Every action by name: type a part of it, press enter."""

from collections.abc import Sequence
from typing import ClassVar

from textual import getters
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.fuzzy import Matcher

from cortex_tui.actions import Action, Group, Situation
from cortex_tui.dialogs.base import Dialog
from cortex_tui.table import Column, Row, cell
from cortex_tui.widgets.line_input import Line
from cortex_tui.widgets.live_table import LiveTable

COLUMNS = (
    Column("verb", "", 10, 1),
    Column("help", "", 20, 2, flex=200),
    Column("key", "", 4, 3, "right"),
)


class PaletteDialog(Dialog[str]):
    """Dismissed with the id of the chosen action."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,ctrl+n", "move(1)", show=False),
        Binding("up,ctrl+p", "move(-1)", show=False),
    ]
    actions: Sequence[Action] = ()
    situation = Situation()
    table = getters.query_one("#commands", LiveTable)
    line = getters.query_one("#query", Line)

    def content(self) -> ComposeResult:
        yield Line(id="query", placeholder="what to do")
        yield LiveTable(
            "", COLUMNS, id="commands", titles=False, always_selected=True,
            empty="nothing by that name",
        )  # fmt: skip

    def fill(self) -> None:
        self.box.border_title = "Commands"
        self.table.glyphs = self.glyphs
        self.table.ruled = False
        self.line.value = ""
        self.line.focus()
        self._search("")
        self.show_keys((self.glyphs.enter, "do it"), ("esc", "close"))

    def on_input_changed(self, event: Line.Changed) -> None:
        self._search(event.value)

    def on_input_submitted(self) -> None:
        self.finish(self.table.selected)

    def on_live_table_chosen(self) -> None:
        self.finish(self.table.selected)

    def action_move(self, step: int) -> None:
        self.table.move(step)

    def _search(self, query: str) -> None:
        found = search(self.actions, self.situation, query)
        self.table.set_rows([_row(action) for action in found])
        self.table.clear_selection()


def search(actions: Sequence[Action], situation: Situation, query: str) -> list[Action]:
    """Actions that can be done now and match, the best match first."""
    possible = [a for a in actions if a.group is not Group.MOVE or query]
    possible = [a for a in possible if a.id != "palette" and a.enabled(situation)]
    if not query:
        return possible
    matcher = Matcher(query)
    scored = [(max(matcher.match(a.verb), matcher.match(a.help)), a) for a in possible]
    ranked = sorted((s for s in scored if s[0] > 0), key=lambda s: -s[0])
    return [action for _, action in ranked]


def _row(action: Action) -> Row:
    return Row(
        action.id,
        {
            "verb": cell(action.verb, "strong"),
            "help": cell(action.help, "muted"),
            "key": cell(action.label, "accent"),
        },
    )
