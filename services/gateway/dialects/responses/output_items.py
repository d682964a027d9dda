"""Items of a response while they are generated, and the events that tell of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import orjson

from services.gateway.dialects.base import Json
from services.gateway.dialects.responses.custom_input import InputReader
from services.gateway.dialects.responses.tool_names import ToolName
from services.gateway.dialects.sealing import sealed

Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(slots=True)
class OutputItem(ABC):
    """One item. Its events lack the sequence number, which is the stream's."""

    id: str
    index: int
    """Its place in the response's output."""
    status: Status = "in_progress"

    @abstractmethod
    def json(self) -> Json:
        """As it is now."""

    def begin(self) -> list[Json]:
        return [self._item_event("response.output_item.added")]

    def finish(self, status: Status) -> list[Json]:
        """There is no more of it."""
        self.status = status
        return [*self._finished(), self._item_event("response.output_item.done")]

    def _finished(self) -> list[Json]:
        return []

    def _item_event(self, type_: str) -> Json:
        return {"type": type_, "output_index": self.index, "item": self.json()}

    def _event(self, type_: str, **more: object) -> Json:
        return {
            "type": f"response.{type_}",
            "item_id": self.id,
            "output_index": self.index,
            **more,
        }


@dataclass(slots=True)
class MessageItem(OutputItem):
    """Text."""

    _text: list[str] = field(default_factory=list)
    _logprobs: list[Json] = field(default_factory=list)

    def json(self) -> Json:
        begun = self._text or self.status != "in_progress"
        return {
            "id": self.id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": [self._part()] if begun else [],
        }

    def _part(self) -> Json:
        return {
            "type": "output_text",
            "text": "".join(self._text),
            "annotations": [],
            "logprobs": [*self._logprobs],
        }

    def begin(self) -> list[Json]:
        part = self._event("content_part.added", content_index=0, part=self._part())
        return [*OutputItem.begin(self), part]

    def more(self, text: str, logprobs: list[Json]) -> list[Json]:
        self._text.append(text)
        self._logprobs += logprobs
        delta = self._event(
            "output_text.delta", content_index=0, delta=text, logprobs=logprobs
        )
        return [delta]

    def _finished(self) -> list[Json]:
        part = self._part()
        told = {"text": part["text"], "logprobs": part["logprobs"]}
        return [
            self._event("output_text.done", content_index=0, **told),
            self._event("content_part.done", content_index=0, part=part),
        ]


@dataclass(slots=True)
class ReasoningItem(OutputItem):
    """A thought: as its summary where one is wanted, else as its content."""

    as_summary: bool = False
    sealed: bool = False
    """With a token that carries it, too."""
    _text: list[str] = field(default_factory=list)

    def json(self) -> Json:
        begun = self._text or self.status != "in_progress"
        parts = [self._part()] if begun else []
        item: Json = {
            "id": self.id,
            "type": "reasoning",
            "status": self.status,
            "summary": parts if self.as_summary else [],
        }
        if not self.as_summary:
            item["content"] = parts
        if self.sealed:
            over = self.status != "in_progress"
            item["encrypted_content"] = sealed(self._whole) if over else None
        return item

    @property
    def _whole(self) -> str:
        return "".join(self._text)

    def _part(self) -> Json:
        kind = "summary_text" if self.as_summary else "reasoning_text"
        return {"type": kind, "text": self._whole}

    def _told(self, of_part: str, of_text: str, **more: object) -> Json:
        """An event of the part, or of its text, under the names its kind has."""
        if self.as_summary:
            name = (
                f"reasoning_summary_part.{of_part}"
                if of_part
                else (f"reasoning_summary_text.{of_text}")
            )
            return self._event(name, summary_index=0, **more)
        name = f"content_part.{of_part}" if of_part else f"reasoning_text.{of_text}"
        return self._event(name, content_index=0, **more)

    def begin(self) -> list[Json]:
        return [*OutputItem.begin(self), self._told("added", "", part=self._part())]

    def more(self, text: str) -> list[Json]:
        self._text.append(text)
        return [self._told("", "delta", delta=text)]

    def _finished(self) -> list[Json]:
        return [
            self._told("", "done", text=self._whole),
            self._told("done", "", part=self._part()),
        ]


@dataclass(slots=True)
class CallItem(OutputItem):
    """A call of one of the client's functions."""

    call_id: str = ""
    tool: ToolName = field(default_factory=lambda: ToolName(""))
    _arguments: list[str] = field(default_factory=list)

    def json(self) -> Json:
        return self._call("function_call") | {"arguments": "".join(self._arguments)}

    def _call(self, type_: str) -> Json:
        of = {} if self.tool.namespace is None else {"namespace": self.tool.namespace}
        return {
            "id": self.id,
            "type": type_,
            "status": self.status,
            "call_id": self.call_id,
            "name": self.tool.name,
            **of,
        }

    def more(self, arguments: str) -> list[Json]:
        self._arguments.append(arguments)
        return [self._event("function_call_arguments.delta", delta=arguments)]

    def finish(self, status: Status) -> list[Json]:
        # The rest of a call that breaks off may follow as text, or as another call.
        return OutputItem.finish(self, "incomplete" if self._broken() else status)

    def _broken(self) -> bool:
        """Whether it cannot be read as it is."""
        try:
            orjson.loads("".join(self._arguments))
        except orjson.JSONDecodeError:
            return True
        return False

    def _finished(self) -> list[Json]:
        arguments = "".join(self._arguments)
        return [
            self._event(
                "function_call_arguments.done",
                name=self.tool.name,
                arguments=arguments,
            )
        ]


@dataclass(slots=True)
class CustomCallItem(CallItem):
    """A call of one of the client's custom tools."""

    _input: InputReader = field(default_factory=InputReader)

    def json(self) -> Json:
        return self._call("custom_tool_call") | {"input": self._input.text}

    def more(self, arguments: str) -> list[Json]:
        return self._deltas(self._input.feed(arguments))

    def _broken(self) -> bool:
        return not self._input.over

    def _deltas(self, text: str) -> list[Json]:
        return [self._event("custom_tool_call_input.delta", delta=text)] if text else []

    def _finished(self) -> list[Json]:
        return [
            *self._deltas(self._input.finish()),
            self._event("custom_tool_call_input.done", input=self._input.text),
        ]
