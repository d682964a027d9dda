"""Fields that have no effect here, in a request's inner objects."""

from collections.abc import Iterable
from typing import Final

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import no_effect

ITEM: Final = frozenset({
    "arguments", "call_id", "content", "encrypted_content", "id", "input", "name",
    "namespace", "output", "role", "status", "summary", "type",
})  # fmt: skip
PART: Final = frozenset({
    "annotations", "detail", "file_id", "image_url", "logprobs", "refusal", "text",
    "type",
})  # fmt: skip
TOOL: Final = frozenset({
    "description", "format", "name", "parameters", "strict", "tools", "type",
})  # fmt: skip
REASONING: Final = frozenset({
    "context", "effort", "generate_summary", "mode", "summary",
})  # fmt: skip
TEXT: Final = frozenset({"format", "verbosity"})


def ignored(fields: Json, known: frozenset[str]) -> set[str]:
    """Names of those that ask for something and are not known."""
    return {name for name, value in fields.items() if value and name not in known}


def told(place: str, names: Iterable[str]) -> list[str]:
    """Warnings of them, once each, however often they stand there."""
    return [no_effect(f"{place}.{name}") for name in sorted(names)]
