"""Tool calls, which come in pieces of JSON and leave as objects."""

from dataclasses import dataclass
from typing import Any

import orjson

from services.gateway.dialects.base import Json
from services.gateway.dialects.ollama.lines import Said


@dataclass(slots=True)
class _Call:
    index: int
    id: str | None = None
    name: str = ""
    arguments: str = ""

    def said(self) -> Said:
        """As an object; one that was cut off as the text that there is of it."""
        if (arguments := _object(self.arguments or "{}")) is None:
            begun = orjson.dumps({"name": self.name}).decode()[:-1]
            return Said(text=f'{begun},"arguments":{self.arguments}')
        function = {"index": self.index, "name": self.name, "arguments": arguments}
        id_ = {} if self.id is None else {"id": self.id}
        return Said(calls=[{**id_, "function": function}])


class Calls:
    """The calls of one answer, one after another."""

    def __init__(self) -> None:
        self._open: _Call | None = None

    def feed(self, pieces: list[Json]) -> list[Said]:
        """More of the calls; returns those that are complete."""
        complete: list[Said] = []
        for piece in pieces:
            index = piece.get("index") or 0
            if self._open is None or self._open.index != index:
                complete += self.flush()
                self._open = _Call(index)
            call, function = self._open, piece.get("function") or {}
            call.id = piece.get("id") or call.id
            call.name += function.get("name") or ""
            call.arguments += function.get("arguments") or ""
        return complete

    def flush(self) -> list[Said]:
        """The call that is open, which nothing more comes for."""
        call, self._open = self._open, None
        return [] if call is None else [call.said()]


def whole_calls(calls: list[Json]) -> list[Said]:
    """All calls of an answer that is not streamed."""
    numbered = [call | {"index": index} for index, call in enumerate(calls)]
    gathered = Calls()
    return gathered.feed(numbered) + gathered.flush()


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
