"""Whether an output is inside a thought, token by token."""

from neuron.text.reasoning import ReasoningSyntax


class ThoughtTracker:
    """Follows a reply's text as `read_reasoning` would, and only says where it is."""

    def __init__(self, syntax: ReasoningSyntax | None, *, inside: bool = False) -> None:
        """
        Args:
            syntax: None for a model that does not think: nothing is inside a thought.
            inside: the prompt ends inside a thought.
        """
        self.inside = inside and syntax is not None
        self._syntax = syntax
        self._held = ""

    @property
    def is_over(self) -> bool:
        """Whether the answer has begun, so that no thought can follow."""
        return self._syntax is None

    def feed(self, text: str) -> bool:
        """Take more of the reply; whether some of it belongs to a thought."""
        if self._syntax is None:
            return False
        touched = self.inside
        self._held += text
        while (syntax := self._syntax) is not None:
            if self.inside:
                _, found, after = self._held.partition(syntax.end)
                if not found:
                    self._held = self._held[1 - len(syntax.end) :]
                    break
                self.inside, self._held = False, after
            rest = self._held.lstrip()
            if rest.startswith(syntax.start):
                self.inside = touched = True
                self._held = rest[len(syntax.start) :]
            elif syntax.start.startswith(rest):
                self._held = rest
                break
            else:
                self._syntax = None  # The answer has begun.
        return touched
