"""Content of messages and of tools' outputs."""

from typing import Any

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import (
    expect,
    objects,
    optional,
    refused,
    required,
    unsupported,
)

_TEXTS = ("input_text", "output_text", "text")
_DETAILS = {"auto": "auto", "low": "low", "high": "high", "original": "high"}


def content_of(fields: Json, name: str, place: str) -> str | list[Json]:
    """A string, or parts, as the neuron has them; one text alone is a string.

    Raises:
        ApiError: 400, malformed, or of a kind that no model here takes.
    """
    at = f"{place}.{name}"
    given: Any = fields.get(name)
    if not isinstance(given, list):
        return expect(given, str, at)
    parts = [_part(part, where) for where, part in objects(fields, name, place)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _part(part: Json, place: str) -> Json:
    kind = required(part, "type", str, place)
    if kind in _TEXTS:
        return {"type": "text", "text": required(part, "text", str, place)}
    if kind == "refusal":
        return {"type": kind, "refusal": required(part, "refusal", str, place)}
    if kind == "input_image":
        return {"type": "image_url", "image_url": _image(part, place)}
    raise unsupported(
        f"{place}.type", f"'{kind}' is not taken here; text and images are"
    )


def _image(part: Json, place: str) -> Json:
    if optional(part, "file_id", str, place) is not None:
        raise unsupported(f"{place}.file_id", "there is no file store; send image_url")
    image: Json = {"url": required(part, "image_url", str, place)}
    if detail := optional(part, "detail", str, place):
        if detail not in _DETAILS:
            raise refused(f"{place}.detail", f"should be one of {', '.join(_DETAILS)}")
        image["detail"] = _DETAILS[detail]
    return image
