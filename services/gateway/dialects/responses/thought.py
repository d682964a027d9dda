"""Thoughts that come back: as the text of a reasoning item, or in its token."""

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import objects, optional, refused
from services.gateway.dialects.sealing import unsealed


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
    try:
        thought = None if token is None else unsealed(token)
    except ValueError as error:
        where = f"{place}.encrypted_content"
        raise refused(where, "is not what was sent with this item") from error
    if thought is None and token is not None and not summary:
        warnings.append(f"{place}.encrypted_content: not made here, and left out")
    return thought if thought is not None else summary


def _texts(item: Json, name: str, place: str) -> str:
    parts = objects(item, name, place)
    return "\n\n".join(optional(part, "text", str, at) or "" for at, part in parts)
