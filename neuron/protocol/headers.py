"""Headers by which a gateway tells a neuron what it asks for, and for whom.

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

MODEL: Final = "X-Cortex-Model"
"""The id of the model that is to answer, whatever the body calls it. Default: what the
body says. Answers call it what the body does."""

PROMPT_TOKENS: Final = "X-Cortex-Prompt-Tokens"
"""Of a stream's answer: the length of its prompt, where that was known so soon."""

ADMISSION: Final = (CALLER, PRIORITY)
INFERENCE: Final = (MODEL, *ADMISSION)
"""Those that a request for an answer may have."""
MAX_PRIORITY: Final = 1000
_MAX_CALLER: Final = 128
_MAX_TEXT: Final = 1000
_WHOLE: Final = re.compile(r"-?[0-9]{1,4}")


def caller_value(name: str) -> str:
    """`name` as a header can carry it."""
    return plain_value(name, _MAX_CALLER)


def plain_value(text: str, limit: int = _MAX_TEXT) -> str:
    """The first `limit` characters of `text`, as any header can carry them."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:limit]).strip()


def caller(headers: Mapping[str, str]) -> str:
    """Who asks; empty where nobody says."""
    return caller_value(headers.get(CALLER, ""))


def model(headers: Mapping[str, str]) -> str | None:
    """Who is to answer; None where only the body says so.

    Raises:
        ApiError: 400, the header is empty.
    """
    name = headers.get(MODEL)
    if name is not None and not name.strip():
        raise ApiError(
            400, f"{MODEL}: name the model, or leave it out",
            code="invalid_header", param=MODEL,
        )  # fmt: skip
    return name


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
