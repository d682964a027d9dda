"""GET /v1/models for clients that send `anthropic-version`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json
from services.schema import ModelView

_DEFAULT_LIMIT: Final = 20
_MOST: Final = 1000


def model_entry(view: ModelView, created: int) -> Json:
    """One model; `created` in seconds since the epoch."""
    lengths = [r.max_seq_len for r in view.replicas if r.max_seq_len]
    longest = max(lengths, default=view.context)
    return {
        "type": "model",
        "id": view.id,
        "display_name": view.id,
        "created_at": _rfc3339(created),
        "lifecycle": "active",
        "max_input_tokens": longest,
        "max_tokens": longest,
    }


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def models_page(
    views: Sequence[ModelView], created: int, query: Mapping[str, str]
) -> Json:
    """Some of the models, as `limit`, `after_id` and `before_id` ask for them.

    Raises:
        ApiError: 400, one of these is malformed, or names no model.
    """
    limit = _limit(query.get("limit"))
    known = {view.id: index for index, view in enumerate(views)}
    begin, end = 0, len(views)
    if (after := query.get("after_id")) is not None:
        begin = _place(known, "after_id", after) + 1
    if (before := query.get("before_id")) is not None:
        end = _place(known, "before_id", before)
    found = views[begin:end]
    shown = found[-limit:] if before is not None else found[:limit]
    return {
        "data": [model_entry(view, created) for view in shown],
        "has_more": len(found) > len(shown),
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
    }


def _limit(given: str | None) -> int:
    if given is None:
        return _DEFAULT_LIMIT
    sane = given.isascii() and given.isdecimal() and len(given) <= len(str(_MOST))
    if sane and 1 <= int(given) <= _MOST:
        return int(given)
    raise _refused("limit", f"must be a number from 1 to {_MOST}")


def _place(known: Mapping[str, int], name: str, given: str) -> int:
    if given not in known:
        raise _refused(name, "must be the id of a model that this list has")
    return known[given]


def _refused(name: str, why: str) -> ApiError:
    return ApiError(400, f"{name}: {why}", code="invalid_query", param=name)
