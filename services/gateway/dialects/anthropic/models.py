"""GET /v1/models for clients that send `anthropic-version`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import page_limit, refused

Entry = Mapping[str, Any]
"""A model as OpenAI's clients see it."""

_DEFAULT_LIMIT: Final = 20
_MOST: Final = 1000


def model_entry(entry: Entry) -> Json:
    """One model; all that fits may be prompt, and nearly all of it answer."""
    created = datetime.fromtimestamp(entry["created"], UTC)
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": entry["max_model_len"],
        "max_tokens": entry["max_model_len"],
    }


def models_page(entries: Sequence[Entry], query: Mapping[str, str]) -> Json:
    """Some of the models, as `limit`, `after_id` and `before_id` ask for them.

    Raises:
        ApiError: 400, one of these is malformed, or names no model.
    """
    limit = page_limit(query, _DEFAULT_LIMIT, _MOST)
    ids = [entry["id"] for entry in entries]
    begin, end = 0, len(entries)
    if (after := query.get("after_id")) is not None:
        begin = _place(ids, "after_id", after) + 1
    if (before := query.get("before_id")) is not None:
        end = _place(ids, "before_id", before)
    found = entries[begin:end]
    shown = found[:limit] if before is None else found[-limit:]
    return {
        "data": [*map(model_entry, shown)],
        "has_more": len(found) > len(shown),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def _place(ids: Sequence[str], name: str, given: str) -> int:
    if given not in ids:
        raise refused(name, "should be the id of a model that this list has")
    return ids.index(given)
