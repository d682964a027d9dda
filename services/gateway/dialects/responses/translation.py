"""A request to make a response, and one to count its tokens, in the internal form."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from services.gateway.dialects.base import (
    Json,
    StreamWriter,
    Translation,
    counted,
)
from services.gateway.dialects.responses.assembly import Assembly, Shape
from services.gateway.dialects.responses.listing import kept
from services.gateway.dialects.responses.places import Places
from services.gateway.dialects.responses.writer import Writer

Keep = Callable[[Json, list[Json]], Awaitable[None]]
"""Stores a response that ended well, with all the items that led to it."""


@dataclass(slots=True)
class _Placed(Translation):
    """Knows where everything stands in the client's request."""

    places: Places = field(default_factory=Places)

    def place(self, param: str) -> str:
        return self.places.as_sent(param)


@dataclass(slots=True, kw_only=True)
class ResponsesTranslation(_Placed):
    """`POST /v1/responses`."""

    shape: Shape
    context: list[Json] = field(default_factory=list)
    """All the items that the response answers."""
    keep: Keep | None = None
    """None: it is not stored."""
    _assembly: Assembly | None = None

    def whole(self, answer: Json) -> Json:
        assembly = self._assembly = Assembly(self.shape)
        assembly.chunk(_as_chunk(answer))
        assembly.end()
        return assembly.response

    def writer(self) -> StreamWriter:
        self._assembly = Assembly(self.shape)
        return Writer(self._assembly)

    async def settle(self) -> None:
        if self.keep is not None and self._assembly is not None:
            response = self._assembly.response
            unique = response["id"].removeprefix("resp_")
            await self.keep(response, kept(self.context, unique))


@dataclass(slots=True)
class CountTranslation(_Placed):
    """`POST /v1/responses/input_tokens`."""

    def whole(self, answer: Json) -> Json:
        return {"object": "response.input_tokens", "input_tokens": counted(answer)}

    def writer(self) -> StreamWriter:
        raise AssertionError("a count is never streamed")


def _as_chunk(answer: Json) -> Json:
    """A whole answer as a stream of one chunk would tell it."""
    choice: Any = answer["choices"][0]
    message = choice.get("message") or {}
    calls = enumerate(message.get("tool_calls") or ())
    delta = message | {"tool_calls": [{"index": i, **call} for i, call in calls]}
    return {"choices": [choice | {"delta": delta}], "usage": answer.get("usage")}
