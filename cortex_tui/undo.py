"""The inverse of what was done last."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

Verb = Literal["load", "unload", "pin", "unpin"]

_INVERSE: dict[Verb, Verb] = {
    "pin": "unpin",
    "unpin": "pin",
    "load": "unload",
    "unload": "load",
}
DEPTH = 20


@dataclass(frozen=True, slots=True)
class Step:
    """One change; an unload remembers from which node, to load there again."""

    verb: Verb
    model: str
    node: str | None = None

    @property
    def inverse(self) -> Step:
        return Step(_INVERSE[self.verb], self.model, self.node)


class UndoStack:
    """What this console did, newest last; bounded."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque(maxlen=DEPTH)

    def __bool__(self) -> bool:
        return bool(self._steps)

    def done(self, step: Step) -> None:
        self._steps.append(step)

    def pop(self) -> Step | None:
        """The change that takes the last one back; None where there was none."""
        return self._steps.pop().inverse if self._steps else None
