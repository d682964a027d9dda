"""Headers by which a gateway tells a neuron for whom it asks.

A neuron trusts whoever reaches it, so a gateway sets them itself and lets no client's
own copies through.
"""

import re
from collections.abc import Mapping
from typing import Final

from neuron.protocol.errors import ApiError

CALLER: Final = "X-Cortex-Caller"
"""Who shares the slots fairly with others; requests without it count as those of one
caller."""
PRIORITY: Final = "X-Cortex-Priority"
"""The request's class, a whole number: a higher one is served first. Default: 0."""

ADMISSION: Final = (CALLER, PRIORITY)
MAX_PRIORITY: Final = 1000
_MAX_CALLER: Final = 128
_WHOLE: Final = re.compile(r"-?[0-9]{1,4}")


def caller_value(name: str) -> str:
    """`name` as a header can carry it."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in name)
    return plain[:_MAX_CALLER].strip()


def caller(headers: Mapping[str, str]) -> str:
    """Who asks; empty where nobody says."""
    return caller_value(headers.get(CALLER, ""))


def priority(headers: Mapping[str, str]) -> int:
    """The request's class.

    Raises:
        ApiError: 400, it is not a whole number, or beyond `MAX_PRIORITY`.
    """
    text = headers.get(PRIORITY, "0")
    if not _WHOLE.fullmatch(text) or abs(int(text)) > MAX_PRIORITY:
        raise ApiError(
            400,
            f"{PRIORITY}: should be a whole number from {-MAX_PRIORITY} to"
            f" {MAX_PRIORITY}",
            code="invalid_header",
            param=PRIORITY,
        )
    return int(text)
