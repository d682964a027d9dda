"""What a chat template may use up: a model's files are not to be trusted with more.

Jinja's sandbox keeps a template from reaching out; it does not keep it from running
for ever or filling the memory. Bounded here are

- time: every loop iteration, call and filter looks at a deadline;
- the size of every value that the template makes (characters of a string, digits of a
  number, everything inside a list or mapping, counted as often as it occurs, and
  16 for each element), before it is made where an operation can multiply
  (`neuron.text.template_estimates`);
- all of them together, the output included.

The bounds grow with the conversation, which has its own limit elsewhere.
"""

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeVar

from jinja2 import TemplateRuntimeError

from neuron.text.abandonment import stop_if_abandoned

_LOOK_EVERY: Final = 16
_CHECK_EVERY: Final = 1024
_ELEMENT: Final = 16
"""What an element of a collection counts, in characters."""

_Value = TypeVar("_Value")


class BoundExceededError(TemplateRuntimeError):
    """The template takes too long, or makes too much."""


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """What one rendering may use."""

    seconds: float = 5.0
    """Of the thread's CPU time, so that a busy host changes nothing."""
    value: int = 16 << 20
    """Characters of one value, beside 4 times the conversation's."""
    total: int = 256 << 20
    """Of all values together, beside 64 times the conversation's."""


class Budget:
    """What is left of the limits in one rendering."""

    def __init__(self, limits: RenderLimits, inputs: object = ()) -> None:
        self._seconds = limits.seconds
        self._deadline = time.thread_time() + limits.seconds
        self._ticks = 0
        self._left = self._largest = limits.total
        given = self.measure(inputs)
        self._largest = limits.value + 4 * given
        self._left = limits.total + 64 * given

    def tick(self) -> None:
        """Look at the clock, though not every time: it is slower than a step.

        Raises:
            BoundExceededError: the deadline is over.
            AbandonedError: nobody waits for the text any more.
        """
        self._ticks += 1
        if self._ticks % _LOOK_EVERY:
            return
        stop_if_abandoned()
        if time.thread_time() > self._deadline:
            raise BoundExceededError(f"it takes longer than {self._seconds:g} s")

    def check(self, size: int) -> None:
        """Refuse a value of this size before it is made.

        Raises:
            BoundExceededError: it is too large.
        """
        if size > self._largest:
            raise BoundExceededError(
                f"it makes a value of more than {self._largest} characters"
            )

    def charge(self, size: int) -> None:
        """Take a value that was made from what is left.

        Raises:
            BoundExceededError: it, or all of them together, are too large.
        """
        self.check(size)
        self._left -= size
        if self._left < 0:
            raise BoundExceededError("it makes too much text")

    def measure(self, value: object) -> int:
        """Characters of `value` and all in it, of shared parts repeatedly.

        Raises:
            BoundExceededError: more than any value may have.
        """
        size = visited = 0
        stack = [value]
        while stack:
            item = stack.pop()
            size += own_size(item)
            if isinstance(item, Mapping):
                stack.extend(item.values())
            if isinstance(item, Collection) and not isinstance(item, str):
                stack.extend(item)
            visited += 1
            if visited % _CHECK_EVERY == 0:
                self.tick()
            self.check(size)
        return size


def own_size(value: object) -> int:
    """Characters of a string, and as many for the rest; without what elements have."""
    if isinstance(value, str):
        return len(value) + 1
    if isinstance(value, int):
        return 1 + int_size(value.bit_length())
    if isinstance(value, Collection):
        return 1 + _ELEMENT * len(value)
    return 1


def int_size(bits: int) -> int:
    """Long numbers count more than they are long: to multiply them takes its time."""
    return bits // 64 * 1000


_budget: ContextVar[Budget | None] = ContextVar("template budget", default=None)


@contextlib.contextmanager
def bounded_by(budget: Budget) -> Iterator[None]:
    """Everything that templates do in here is charged to `budget`."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


def current_budget() -> Budget:
    """The budget of the rendering that goes on.

    Raises:
        RuntimeError: none does.
    """
    budget = _budget.get()
    if budget is None:
        raise RuntimeError("templates are rendered inside bounded_by()")
    return budget


def tick() -> str:
    """Once in every loop iteration."""
    current_budget().tick()
    return ""


def bounded(value: _Value) -> _Value:
    """A value that the template made, once it is known to be small enough."""
    budget = current_budget()
    if isinstance(value, str):
        budget.charge(len(value))
    elif isinstance(value, Collection):
        budget.charge(budget.measure(value))
    elif isinstance(value, int):
        budget.charge(own_size(value))
    return value


def bounded_concat(pieces: Iterable[str]) -> str:
    """`"".join`, charged piece by piece."""
    budget = current_budget()
    kept = []
    size = 0
    for piece in pieces:
        size += len(piece)
        budget.check(size)
        budget.charge(len(piece))
        kept.append(piece)
    return "".join(kept)


def joined(*values: object) -> str:
    """The operator `~`."""
    return bounded_concat(str(value) for value in values)
