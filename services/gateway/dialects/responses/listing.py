"""Items of a stored response: as they are kept, and page by page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import page_limit, refused

_LIMIT = 20
_MOST = 100
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def kept(items: Sequence[Json], unique: str) -> list[Json]:
    """The items with an id each: their own, where no other before has it."""
    found, met = [], set()
    for index, item in enumerate(items):
        id_ = item.get("id")
        if not isinstance(id_, str) or id_ in met:
            item = _with_id(item, f"{unique}{index:04x}")
        met.add(item["id"])
        found.append(item)
    return found


def _with_id(item: Json, unique: str) -> Json:
    kind = item.get("type") or "message"
    named = {"id": f"{_PREFIXES[kind]}_{unique}", "type": kind}
    content = item.get("content")
    if kind != "message" or not isinstance(content, str):
        return {**item, **named}
    type_ = "output_text" if item["role"] == "assistant" else "input_text"
    part: Json = {"type": type_, "text": content}
    if type_ == "output_text":
        part["annotations"] = []
    return {**item, **named, "status": "completed", "content": [part]}


@dataclass(frozen=True, slots=True)
class Page:
    """Which items are asked for."""

    limit: int
    after: str | None
    ascending: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """
        Raises:
            ApiError: 400, naming the parameter that is wrong.
        """
        limit = page_limit(query, _LIMIT, _MOST)
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise refused("order", "should be asc or desc")
        return cls(limit, query.get("after"), order == "asc")


def listed(items: Sequence[Json], page: Page) -> Json:
    """One page of them.

    Raises:
        ApiError: 400, it is to begin after an item that is none of them.
    """
    ordered = list(items) if page.ascending else list(reversed(items))
    if page.after is not None:
        ids = [item["id"] for item in ordered]
        if page.after not in ids:
            raise _unknown(page.after)
        ordered = ordered[ids.index(page.after) + 1 :]
    data = ordered[: page.limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(ordered) > len(data),
    }


def _unknown(id_: str) -> ApiError:
    return refused("after", f"there is no item '{id_}'")
