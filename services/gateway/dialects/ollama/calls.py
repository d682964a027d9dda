"""Tool calls, which come in pieces of JSON and leave as objects."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.gateway.dialects.base import Json
from services.gateway.dialects.json_end import JsonEnd
from services.gateway.dialects.ollama.lines import Said


@dataclass(slots=True)
class _Call:
    index: int
    id: str | None = None
    name: str = ""
    arguments: str = ""
    end: JsonEnd = field(default_factory=JsonEnd)
    """Of the arguments."""

    def said(self) -> Said:
        """As an object; one that was cut off as the text that there is of it."""
        if (arguments := _object(self.arguments or "{}")) is None:
            begun = orjson.dumps({"name": self.name}).decode()[:-1]
            return Said(text=f'{begun},"arguments":{self.arguments}')
        function = {"index": self.index, "name": self.name, "arguments": arguments}
        id_ = {} if self.id is None else {"id": self.id}
        return Said(calls=[{**id_, "function": function}])


class Calls:
    """The calls of one answer, told one after another.

    The neuron may tell of a call before the arguments of the one before it are all
    there.
    """

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}
        self._told = 0

    def feed(self, pieces: list[Json]) -> list[Said]:
        """More of the calls; returns those that are complete."""
        for piece in pieces:
            index = piece.get("index") or 0
            call = self._calls.setdefault(index, _Call(index))
            function = piece.get("function") or {}
            call.id = piece.get("id") or call.id
            call.name += function.get("name") or ""
            more = function.get("arguments") or ""
            call.arguments += more
            call.end.feed(more)
        complete = itertools.takewhile(lambda call: call.end.reached, self._untold())
        return self._tell([*complete])

    def flush(self) -> list[Said]:
        """The calls that were not told, which nothing more comes for."""
        return self._tell(self._untold())

    def _untold(self) -> list[_Call]:
        return [*self._calls.values()][self._told :]

    def _tell(self, calls: list[_Call]) -> list[Said]:
        self._told += len(calls)
        return [call.said() for call in calls]


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
