"""Images as Ollama has them, base64 and nothing more, as URLs that say their type."""

import base64
import binascii
from typing import Any, Final

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import expect, join, optional, refused

_TYPES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_HEAD: Final = 16
"""Characters of base64 that have the first bytes of a file: 12 of them."""


def image_parts(fields: Json, at: str) -> list[Json]:
    """Content parts for the `images` of a message, or of a request.

    Raises:
        ApiError: 400, one is no image.
    """
    place = join(at, "images")
    return [
        {
            "type": "image_url",
            "image_url": {"url": _data_url(image, f"{place}[{index}]")},
        }
        for index, image in enumerate(optional(fields, "images", list, at) or [])
    ]


def _data_url(image: Any, place: str) -> str:
    text = expect(image, str, place)
    try:
        head = base64.b64decode(text[:_HEAD], validate=True)
    except (binascii.Error, ValueError) as error:
        why = "should be base64 of an image's file, without a prefix"
        raise refused(place, why) from error
    return f"data:{_type(head, place)};base64,{text}"


def _type(head: bytes, place: str) -> str:
    for beginning, kind in _TYPES:
        if head.startswith(beginning):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    raise refused(place, "should be an image: PNG, JPEG, WebP or GIF")
