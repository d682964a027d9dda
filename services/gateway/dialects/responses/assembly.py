"""A response made of what the neuron tells, and the events that tell of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import NO_REASON, Json
from services.gateway.dialects.responses.output_items import (
    CallItem,
    CustomCallItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
)
from services.gateway.dialects.responses.response import failure, usage_of
from services.gateway.dialects.responses.scores import TextScores
from services.gateway.dialects.responses.tool_names import ToolNames
from services.gateway.dialects.usage import Usage


@dataclass(frozen=True, slots=True)
class Shape:
    """How a response is to look."""

    response: Json
    """At its beginning."""
    names: ToolNames
    summary: bool = False
    """Thoughts are told as summaries."""
    sealed: bool = False
    """Thoughts come with a token that carries them, too."""


class Assembly:
    """Takes the neuron's chunks and returns the events that follow from each."""

    def __init__(self, shape: Shape) -> None:
        self.response = dict(shape.response)
        """As it is now."""
        self._shape = shape
        self._sequence = 0
        self._created = False
        self._items: list[OutputItem] = []
        self._text: MessageItem | ReasoningItem | None = None
        """The item that text goes to."""
        self._calls: dict[int, CallItem] = {}
        """Those that may still get arguments, by the neuron's index."""
        self._called = False
        self._blanks = ""
        """Before a text, or before a call, where they are none of the answer's."""
        self._scores = TextScores()
        self._reason: str | None = None

    def chunk(self, chunk: Json) -> list[Json]:
        """More of the answer."""
        events = [] if self._created else self._begin()
        if usage := Usage.of(chunk):
            self.response["usage"] = usage_of(usage)
        for choice in chunk.get("choices") or ():
            events += self._delta(choice.get("delta") or {}, choice.get("logprobs"))
            if choice.get("finish_reason") is not None:
                self._reason = str(choice["finish_reason"])
                events += self._finish_items()
        return self._numbered(events)

    def end(self) -> list[Json]:
        """There is no more.

        Raises:
            ValueError: it was not said why.
        """
        if self._reason is None:
            raise ValueError(NO_REASON)
        cut = self._reason == "length"
        if cut:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        return self._numbered([self._state("incomplete" if cut else "completed")])

    def fail(self, error: ApiError) -> list[Json]:
        """There should have been more."""
        told = failure(error)
        if not self._created:
            # Twice: some clients look for it in `error`, some beside it.
            return self._numbered([{**told, "type": "error", "error": told}])
        for item in self._items:
            if item.status == "in_progress":
                item.status = "incomplete"
        self.response |= {"error": told, "store": False}
        return self._numbered([self._state("failed")])

    def _begin(self) -> list[Json]:
        self._created = True
        return [
            {"type": f"response.{name}", "response": dict(self.response)}
            for name in ("created", "in_progress")
        ]

    def _state(self, status: str) -> Json:
        self.response["status"] = status
        self.response["output"] = [item.json() for item in self._items]
        return {"type": f"response.{status}", "response": self.response}

    def _numbered(self, events: list[Json]) -> list[Json]:
        for event in events:
            event["sequence_number"] = self._sequence
            self._sequence += 1
        return events

    # What a chunk holds.

    def _delta(self, delta: Mapping[str, Any], logprobs: Any) -> list[Json]:
        if isinstance(logprobs, Mapping):
            self._scores.add(logprobs.get("content") or [])
        events: list[Json] = []
        if thought := delta.get("reasoning_content"):
            self._scores.take(thought)
            events += self._thought(thought)
        if text := delta.get("content"):
            events += self._message(text)
        for call in delta.get("tool_calls") or ():
            events += self._call(call)
        return events

    def _thought(self, text: str) -> list[Json]:
        events: list[Json] = []
        if not isinstance(self._text, ReasoningItem):
            events = self._finish_text()
            item = ReasoningItem(
                *self._next("rs"),
                as_summary=self._shape.summary,
                sealed=self._shape.sealed,
            )
            self._text = item
            events += self._added(item)
        else:
            item = self._text
        return events + item.more(text)

    def _message(self, text: str) -> list[Json]:
        if isinstance(self._text, MessageItem):
            return self._text.more(text, self._scores.take(text))
        self._blanks += text
        return self._new_message() if self._blanks.strip() else []

    def _new_message(self) -> list[Json]:
        text, self._blanks = self._blanks, ""
        events = self._finish_text()
        item = MessageItem(*self._next("msg"))
        self._text = item
        events += self._added(item)
        return events + (item.more(text, self._scores.take(text)) if text else [])

    def _call(self, call: Mapping[str, Any]) -> list[Json]:
        index = call.get("index") or 0
        function = call.get("function") or {}
        events: list[Json] = []
        if index not in self._calls:
            events = self._new_call(index, str(call.get("id")), function)
        if arguments := function.get("arguments"):
            # The model writes one call after the other.
            events += self._finish_calls(before=index)
            events += self._calls[index].more(arguments)
        return events

    def _new_call(
        self, index: int, id_: str, function: Mapping[str, Any]
    ) -> list[Json]:
        self._blanks = ""
        self._called = True
        events = self._finish_text()
        tool = self._shape.names.tool(str(function.get("name")))
        kind, prefix = (CustomCallItem, "ctc") if tool.custom else (CallItem, "fc")
        item = kind(*self._next(prefix), call_id=id_, tool=tool)
        self._calls[index] = item
        return events + self._added(item)

    def _next(self, prefix: str) -> tuple[str, int]:
        """Id and place of the next item."""
        index = len(self._items)
        unique = str(self.response["id"]).removeprefix("resp_")
        return f"{prefix}_{unique}{index:02x}", index

    def _added(self, item: OutputItem) -> list[Json]:
        self._items.append(item)
        return item.begin()

    # How items end.

    def _finish_text(self) -> list[Json]:
        item, self._text = self._text, None
        return [] if item is None else item.finish("completed")

    def _finish_calls(self, before: int) -> list[Json]:
        events: list[Json] = []
        for index in sorted(i for i in self._calls if i < before):
            call = self._calls[index]
            if call.status == "in_progress":
                events += call.finish("completed")
        return events

    def _finish_items(self) -> list[Json]:
        cut = self._reason == "length"
        events: list[Json] = []
        if self._blanks and not self._called:
            events += self._new_message()
        if not cut and all(isinstance(item, ReasoningItem) for item in self._items):
            events += self._new_message()
        for item in self._items:
            if item.status == "in_progress":
                last = item is self._items[-1]
                events += item.finish("incomplete" if cut and last else "completed")
        self._text = None
        return events
