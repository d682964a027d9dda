"""The line at the bottom: keys, a question, or what has just happened."""

from collections.abc import Sequence

from cortex_tui.actions import Action, Situation
from cortex_tui.format import cells
from cortex_tui.widgets.status_bar import Bar

_LAST = "quit"


class KeyBar(Bar):
    """Keys from the registry; the least useful ones give way on narrow screens."""

    def keys(self, actions: Sequence[Action], situation: Situation) -> None:
        """Show what can be done now; what cannot is greyed, not hidden."""
        self.remove_class("-asking")
        shown = [a for a in actions if a.footer is not None and a.id != _LAST]
        last = next((a for a in actions if a.id == _LAST), None)
        right = _key(last, situation) if last else ()
        room = self.size.width - 2 - sum(cells(text) for text, _ in right)
        left: list[tuple[str, str]] = []
        for action in sorted(shown, key=lambda a: a.footer or 0):
            spans = (*_key(action, situation), ("  ", ""))
            size = sum(cells(text) for text, _ in spans)
            if size > room:
                break
            room -= size
            left += spans
        self.show((" ", ""), right) if not left else self.show(
            [(" ", ""), *left], right
        )

    def say(self, text: str, tone: str = "") -> None:
        """One line in the keys' place."""
        self.remove_class("-asking")
        self.show(((f" {text}", tone),))

    def ask(self, question: str) -> None:
        """A question that waits for `y`."""
        self.add_class("-asking")
        self.show(((f" {question}", "strong"),), (("y/N", "bar--key"),))


def _key(action: Action, situation: Situation) -> tuple[tuple[str, str], ...]:
    if not action.enabled(situation):
        return ((f"{action.label} {action.verb}", "bar--disabled"),)
    return ((action.label, "bar--key"), (f" {action.verb}", ""))
