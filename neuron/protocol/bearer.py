"""The token that a neuron may ask of whoever uses it."""

import hmac
import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from neuron.protocol.config_file import SECRET

VARIABLE: Final = "NEURON_TOKEN"
"""Environment variable that gives a neuron its token."""
_SCHEME: Final = "bearer"
_SENDABLE: Final = re.compile(r"[!-~]+")


def _token(value: object) -> str:
    if isinstance(value, str) and _SENDABLE.fullmatch(value):
        return value
    raise PydanticCustomError(SECRET, "should be text without blanks, in ASCII")


Token = Annotated[str, BeforeValidator(_token)]
"""What a header can carry, and an error does not show."""


def header(token: str | None) -> dict[str, str]:
    """The header that shows `token`; none where there is none."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def is_shown(token: str, headers: Mapping[str, str]) -> bool:
    """Whether `headers` show it; how long that takes tells nothing of the token."""
    scheme, _, shown = headers.get("Authorization", "").partition(" ")
    same = hmac.compare_digest(
        shown.strip().encode(errors="surrogateescape"), token.encode()
    )
    return same and scheme.lower() == _SCHEME
