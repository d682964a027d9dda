"""A question with named answers; the safe one comes first and is selected."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, getters
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from cortex_tui.dialogs.base import Dialog
from cortex_tui.table import Column, Row, cell
from cortex_tui.widgets.live_table import LiveTable


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its letter, what it does, and what that costs."""

    key: str
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, the facts that matter to the answer, and the answers."""

    title: str
    facts: str
    choices: Sequence[Choice]
    danger: bool = True


class ChoiceDialog(Dialog[str]):
    """Dismissed with the letter of the answer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "accept", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("up,k", "move(-1)", show=False),
    ]
    question = Question("", "", ())
    table = getters.query_one("#choices", LiveTable)

    def content(self) -> ComposeResult:
        columns = (
            Column("key", "", 1, 1),
            Column("text", "", 26, 1),
            Column("detail", "", 10, 2, flex=200),
        )
        yield LiveTable("", columns, id="choices", titles=False, always_selected=True)

    def fill(self) -> None:
        question = self.question
        self.set_class(question.danger, "-danger")
        self.box.border_title = question.title
        self.table.glyphs = self.glyphs
        self.table.ruled = False
        self.table.label(question.facts)
        self.table.styles.height = 1 + len(question.choices)
        self.table.set_rows(
            [
                Row(
                    choice.key,
                    {
                        "key": cell(choice.key, "accent"),
                        "text": cell(choice.text, "strong"),
                        "detail": cell(choice.detail, "muted"),
                    },
                )
                for choice in question.choices
            ]
        )
        self.table.clear_selection()
        enter = self.glyphs.enter
        self.show_keys((enter, "choose"), ("esc", "cancel"))

    def on_key(self, event: events.Key) -> None:
        if any(event.character == choice.key for choice in self.question.choices):
            event.stop()
            self.finish(event.character)

    def action_move(self, step: int) -> None:
        self.table.move(step)

    def action_accept(self) -> None:
        self.finish(self.table.selected)

    def on_live_table_chosen(self) -> None:
        self.action_accept()
