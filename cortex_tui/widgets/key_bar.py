"""The line at the bottom: keys, a question, or what has just happened."""

from collections.abc import Sequence

from cortex_tui.actions import Action, Situation
from cortex_tui.format import cells, clean, middle
from cortex_tui.widgets.status_bar import Bar

Spans = tuple[tuple[str, str], ...]


class KeyBar(Bar):
    """Keys from the registry; the last ones give way on narrow screens."""

    def keys(self, actions: Sequence[Action], situation: Situation) -> None:
        """Show what can be done now; what cannot is greyed, not hidden."""
        self.remove_class("-asking")
        shown = sorted((a for a in actions if a.footer), key=lambda a: a.footer or 0)
        right: Spans = ()
        for action in shown:
            if action.always:
                right += (("  ", ""), *_key(action, situation))
        room = self.size.width - 2 - sum(cells(text) for text, _ in right)
        left: Spans = ((" ", ""),)
        for action in shown:
            if not action.always:
                spans = (*_key(action, situation), ("  ", ""))
                room -= sum(cells(text) for text, _ in spans)
                if room < 0:
                    break
                left += spans
        self.show(left, right)

    def say(self, text: str, tone: str = "") -> None:
        """One line in the keys' place."""
        self.remove_class("-asking")
        self.show(((f" {clean(text)}", tone),))

    def ask(self, question: str) -> None:
        """A question that waits for `y`."""
        self.add_class("-asking")
        room = self.size.width - len("   y/N ") - 1
        asked = middle(clean(question), room, self.glyphs.ellipsis)
        self.show(((f" {asked}  ", "strong"), ("y/N", "bar--key")))


def _key(action: Action, situation: Situation) -> Spans:
    verb = action.verb_in(situation)
    if not action.enabled(situation):
        return ((f"{action.label} {verb}", "bar--disabled"),)
    return ((action.label, "bar--key"), (f" {verb}", ""))
