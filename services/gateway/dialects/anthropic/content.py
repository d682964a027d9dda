"""Content blocks as parts of a chat message."""

from collections.abc import Callable, Collection
from typing import Any, Final

from neuron.protocol.errors import ApiError
from services.gateway.dialects.anthropic.fields import Fields
from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import refused, unsupported


def content(owner: Fields, kinds: Collection[str], name: str = "content") -> Any:
    """A string as it is; blocks, of these kinds, as a list of parts.

    Raises:
        ApiError: 400, it is neither, or a block is of another kind.
    """
    value = owner.values.get(name)
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise refused(
            owner.at(name), "should be a string or an array of content blocks"
        )
    return [part for block in owner.each(name) for part in parts(block, kinds)]


def parts(block: Fields, kinds: Collection[str]) -> list[Json]:
    """A block's parts.

    Raises:
        ApiError: 400, it is malformed, or of another kind.
    """
    if block.kind not in kinds:
        raise other_kind(block, kinds)
    return _PARTS[block.kind](block)


def other_kind(block: Fields, kinds: Collection[str]) -> ApiError:
    *most, last = (f"'{kind}'" for kind in kinds)
    allowed = f"{', '.join(most)} and {last} are" if most else f"{last} is"
    return unsupported(
        block.at("type"), f"'{block.kind}' is not supported here; {allowed}"
    )


def text_part(text: str) -> Json:
    return {"type": "text", "text": text}


def _text(block: Fields) -> list[Json]:
    return [text_part(block.need("text", str))]


def _source(block: Fields) -> Fields:
    values: Json = block.need("source", dict)
    return Fields(values, block.at("source"))


def _image(block: Fields) -> list[Json]:
    source = _source(block)
    match source.kind:
        case "base64":
            media, data = source.need("media_type", str), source.need("data", str)
            url = f"data:{media};base64,{data}"
        case "url":
            url = source.need("url", str)
        case _:
            raise other_kind(source, ("base64", "url"))
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Fields) -> list[Json]:
    """Title and context come before the document's own text."""
    about = (block.may("title", str), block.may("context", str))
    told = [text_part(text) for text in about if text is not None]
    source = _source(block)
    match source.kind:
        case "text":
            return [*told, text_part(source.need("data", str))]
        case "content":
            inner = content(source, ("text", "image"))
            return [*told, *([text_part(inner)] if isinstance(inner, str) else inner)]
        case _:
            raise other_kind(source, ("text", "content"))


def _search_result(block: Fields) -> list[Json]:
    about = (block.need("title", str), block.need("source", str))
    texts = [
        part for inner in block.each("content") for part in parts(inner, ("text",))
    ]
    return [*map(text_part, about), *texts]


_PARTS: Final[dict[str, Callable[[Fields], list[Json]]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
}

WHAT_USERS_SAY: Final = tuple(_PARTS)
"""Kinds of blocks in a user's message and in a tool's result."""
