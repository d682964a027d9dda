"""A text field in one line."""

from textual.widgets import Input


class Line(Input):
    """Without border and blinking cursor; as quiet as the lines around it."""

    def __init__(self, *, id: str, placeholder: str = "") -> None:  # noqa: A002
        super().__init__(id=id, placeholder=placeholder, select_on_focus=False)
        self.cursor_blink = False
