"""How large a result could be, before a template is let make it.

For what makes much of little: operators, string methods, filters. All else makes little
more than it is given, and is counted once it is there (`neuron.text.template_bounds`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from neuron.text.template_bounds import current_budget, int_size, own_size

_FEW: Final = 100
_LONG_NUMBER: Final = re.compile(r"\d{7,}")
_NESTED_FIELD: Final = re.compile(r"\{[^{}]*\{")


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
        budget.check(int_size(left.bit_length() * abs(right)))


def _times(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return own_size(left) + own_size(right)
    if isinstance(left, int):
        left, right = right, left
    times = max(right, 1) if isinstance(right, int) else 1
    return own_size(left) * times


def check_call(name: str, subject: Any, arguments: Iterable[Any]) -> None:
    """Refuse a string method or filter that makes, or works, too much.

    Raises:
        BoundExceededError: it could.
    """
    if (estimate := _ESTIMATES.get(name)) is not None:
        current_budget().check(estimate(subject, list(arguments)))


def _product(subject: Any, arguments: list[Any]) -> int:
    """Padding, indenting, batches: nothing beyond each piece as often as asked."""
    sizes = [
        abs(value) if isinstance(value, int) else _size(value) for value in arguments
    ]
    return _size(subject) * max([1, *sizes])


def _stripped(subject: Any, arguments: list[Any]) -> int:
    """Each character is looked for among those to strip, so these should be few."""
    few = all(len(str(value)) <= _FEW for value in arguments)
    return 0 if few else _product(subject, arguments)


def _rounded(subject: Any, arguments: list[Any]) -> int:
    """By way of a power of ten, its exponent the number of digits."""
    return sum(abs(value) for value in _numbers(arguments)) << 16


def _summed(subject: Any, arguments: list[Any]) -> int:
    """Lists are copied for each one that is added."""
    lists = any(isinstance(value, list | tuple) for value in arguments)
    return _size(subject) ** 2 if lists else 0


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
            "translate", "zfill",
        ),
        _product,
    ),
    **dict.fromkeys(("strip", "lstrip", "rstrip", "trim"), _stripped),
    "round": _rounded,
    "sum": _summed,
}  # fmt: skip
