"""`keep_alive`: seconds, or a duration as Go writes them, such as `1h30m`."""

import math
import re
from typing import Any, Final

from services.gateway.dialects.fields import refused

FOREVER: Final = math.inf
_LONGEST: Final = 2.0**63 / 1e9
"""What Go can count, 292 years."""
_SECONDS: Final = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0,
    "h": 3600.0,
}  # fmt: skip
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE: Final = re.compile(rf"([-+]?)((?:{_PART.pattern})+|[0-9]+)")


def keep_alive(value: Any) -> float | None:
    """Seconds; `FOREVER` where it is negative, None where nothing is said.

    Raises:
        ApiError: 400, it is no duration.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (found := _WHOLE.fullmatch(value)):
        seconds = _seconds(found[2]) * (-1 if found[1] == "-" else 1)
    else:
        raise refused("keep_alive", 'should be seconds, or a duration such as "5m"')
    return seconds if 0 <= seconds < _LONGEST else FOREVER


def _seconds(text: str) -> float:
    if text.isdecimal():
        return float(text)
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
