"""What a chat template may use up: a model's files are not to be trusted with more.

Jinja's sandbox keeps a template from reaching out; it does not keep it from running
for ever or filling the memory. Bounded here are

- time: every loop iteration, call and filter looks at a deadline;
- the size of every value that the template makes (characters of a string, digits of a
  number, everything inside a list or mapping, counted as often as it occurs, and
  16 for each element), before it is made where an operation can multiply: `*`, `**`,
  `%`, `replace`, `join`, `center`, `format`, ...;
- all of them together, the output included.

The bounds grow with the conversation, which has its own limit elsewhere.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from jinja2 import TemplateRuntimeError

_LOOK_EVERY: Final = 16
_CHECK_EVERY: Final = 1024
_ELEMENT: Final = 16
"""What an element of a collection counts, in characters."""
_LONG_NUMBER: Final = re.compile(r"\d{7,}")
_NESTED_FIELD: Final = re.compile(r"\{[^{}]*\{")

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
        """
        self._ticks += 1
        if self._ticks % _LOOK_EVERY == 0 and time.thread_time() > self._deadline:
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
                stack.extend(item.keys())
                stack.extend(item.values())
            elif isinstance(item, list | tuple | set | frozenset):
                stack.extend(item)
            visited += 1
            if visited % _CHECK_EVERY == 0:
                self.tick()
            self.check(size)
        return size


def own_size(value: object) -> int:
    """Characters of a string, digits of an integer; without what elements have."""
    if isinstance(value, str):
        return len(value) + 1
    if isinstance(value, int):
        return 1 + value.bit_length() // 3
    if isinstance(value, list | tuple | set | frozenset | Mapping):
        return 1 + _ELEMENT * len(value)
    return 1


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
    elif isinstance(value, list | tuple | dict | set):
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


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse `left operator right` where it would be too large.

    Raises:
        BoundExceededError: it would.
    """
    budget = current_budget()
    if operator == "%" and isinstance(left, str):
        budget.check(_formatted(left, [right]))
    elif operator == "+" and not isinstance(left, int | float):
        budget.check(own_size(left) + own_size(right))
    elif operator == "*":
        budget.check(_times(left, right))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        budget.check(own_size(left) * max(abs(right), 1))


def _times(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return own_size(left) + own_size(right)
    if isinstance(left, int):
        left, right = right, left
    times = max(right, 1) if isinstance(right, int) else 1
    return own_size(left) * times


def check_call(name: str, subject: Any, arguments: Iterable[Any]) -> None:
    """Refuse a string method or filter that multiplies too much.

    Raises:
        BoundExceededError: the result could be too large.
    """
    if (estimate := _ESTIMATES.get(name)) is not None:
        current_budget().check(estimate(subject, list(arguments)))


def _product(subject: Any, arguments: list[Any]) -> int:
    """Padding, indenting, batches: nothing beyond each piece as often as asked."""
    sizes = [
        abs(value) if isinstance(value, int) else _size(value) for value in arguments
    ]
    return _size(subject) * max([1, *sizes])


def _replaced(subject: Any, arguments: list[Any]) -> int:
    text = str(subject)
    if len(arguments) < 2:
        return len(text)
    old, new = str(arguments[0]), str(arguments[1])
    return len(text) + text.count(old) * len(new)


def _joined_size(subject: Any, arguments: list[Any]) -> int:
    """`separator.join(items)` and `items|join(separator)`."""
    if isinstance(subject, str) and arguments and not isinstance(arguments[0], str):
        subject, arguments = arguments[0], [subject]
    separator = max(
        (len(value) for value in arguments if isinstance(value, str)), default=0
    )
    return _size(subject) * (1 + separator)


def _formatted(subject: Any, arguments: list[Any]) -> int:
    """`%`, `format`: each field as wide as the largest argument, or as it says."""
    text = str(subject)
    budget = current_budget()
    widths = [_number(digits) for digits in _LONG_NUMBER.findall(text)]
    if "*" in text or _NESTED_FIELD.search(text):
        widths += [abs(value) for value in _numbers(arguments)]
    widest = max([*widths, *map(budget.measure, arguments), 1])
    return len(text) + (text.count("{") + text.count("%")) * widest


def _number(digits: str) -> int:
    return int(digits) if len(digits) < 20 else 10**20


def _numbers(arguments: Iterable[Any]) -> Iterator[int]:
    for value in arguments:
        if isinstance(value, int):
            yield value
        elif isinstance(value, list | tuple | set | frozenset):
            yield from _numbers(value)
        elif isinstance(value, Mapping):
            yield from _numbers(value.values())


def _size(value: Any) -> int:
    return current_budget().measure(value)


_ESTIMATES: Final[Mapping[str, Callable[[Any, list[Any]], int]]] = {
    "replace": _replaced,
    "join": _joined_size,
    "format": _formatted,
    "format_map": _formatted,
    **dict.fromkeys(
        (
            "batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice",
            "translate", "urlize", "wordwrap", "xmlattr", "zfill",
        ),
        _product,
    ),
}  # fmt: skip
"""Upper bounds for what multiplies; all else makes no more than it is given."""
