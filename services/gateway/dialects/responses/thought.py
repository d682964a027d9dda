"""Thoughts on their way to the client and back.

A thought leaves as the text of a reasoning item, and on request as an opaque token too,
which needs no store to be understood again.
"""

import base64
import binascii

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import objects, optional

_MARK = "cortex1:"


def sealed(thought: str) -> str:
    """The thought as `encrypted_content`. It hides nothing, only looks opaque."""
    raw = thought.encode()
    return _MARK + base64.urlsafe_b64encode(raw).decode("ascii")


def unsealed(token: str) -> str | None:
    """The thought in a token of ours; None for anybody else's."""
    if not token.startswith(_MARK):
        return None
    try:
        raw = base64.b64decode(token[len(_MARK) :], altchars=b"-_", validate=True)
        return raw.decode()
    except (binascii.Error, ValueError):
        return None


def told(item: Json, place: str, warnings: list[str]) -> str:
    """The thought in a reasoning item that is sent back.

    Its text is preferred to its token, and that to its summary.

    Raises:
        ApiError: 400, the item is malformed.
    """
    content = _texts(item, "content", place)
    token = optional(item, "encrypted_content", str, place)
    summary = _texts(item, "summary", place)
    if content:
        return content
    thought = None if token is None else unsealed(token)
    if thought is None and token is not None and not summary:
        warnings.append(f"{place}.encrypted_content: not made here, and left out")
    return thought if thought is not None else summary


def _texts(item: Json, name: str, place: str) -> str:
    parts = objects(item, name, place)
    return "\n\n".join(optional(part, "text", str, at) or "" for at, part in parts)
