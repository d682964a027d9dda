"""The spans over which budgets are counted: whole hours, so that sums by the hour are
exact."""

import re
import time
from typing import Final

HOUR_S: Final = 3600
_HOURS: Final = {"h": 1, "d": 24, "w": 7 * 24}
_FORM: Final = re.compile(r"([1-9][0-9]{0,4})([hdw])")
MAX_HOURS: Final = 366 * 24


def hours(text: str) -> int:
    """Hours of `12h`, `1d`, `4w`.

    Raises:
        ValueError: it is none of these, or longer than a year.
    """
    form = _FORM.fullmatch(text)
    length = int(form[1]) * _HOURS[form[2]] if form else 0
    if not 0 < length <= MAX_HOURS:
        raise ValueError('should be hours, days or weeks, "366d" at most, as in "30d"')
    return length


def hour_of(moment: float) -> int:
    """The hour of epoch seconds, counted from the epoch, too."""
    return int(moment // HOUR_S)


def hour_now() -> int:
    return hour_of(time.time())


def began(now: float, length: int, first: float) -> int:
    """The hour in which the present window of `length` hours began; windows follow one
    another from the hour of `first` on."""
    anchor = hour_of(first)
    return anchor + (hour_of(now) - anchor) // length * length
