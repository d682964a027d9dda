"""A streamed answer's content blocks, one after the other."""

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from neuron.protocol import sse
from services.gateway.dialects.anthropic.answer import tool_use
from services.gateway.dialects.anthropic.thoughts import signature
from services.gateway.dialects.base import Json
from services.gateway.dialects.json_end import JsonEnd


def event(kind: str, **fields: Any) -> bytes:
    return sse.encode(orjson.dumps({"type": kind, **fields}), event=kind)


@dataclass(slots=True)
class _Text:
    kind: Literal["text", "thinking"]
    text: str
    """Its first piece."""
    more: list[str] = field(default_factory=list)
    """Further pieces of a thought, which its signature is of."""


@dataclass(slots=True)
class _Call:
    index: int
    id: str
    name: str
    end: JsonEnd = field(default_factory=JsonEnd)


class Blocks:
    """Opens, fills and closes blocks; each method returns the events for it.

    The neuron may tell of a call before the arguments of the one before it are all
    there. Blocks do not overlap: what belongs after an unfinished call waits for it.
    """

    def __init__(self, *, hide_thoughts: bool) -> None:
        self._hide_thoughts = hide_thoughts
        self._open: _Text | _Call | None = None
        self._index = -1
        self._waiting: list[_Text | _Call] = []
        self._blank = ""
        """Whitespace that only text may follow: before a call it is nothing."""
        self._called = False

    def text(self, kind: Literal["text", "thinking"], text: str) -> bytes:
        return self._next(_Text(kind, text))

    def call(self, index: int, id_: str, name: str) -> bytes:
        return self._next(_Call(index, id_, name))

    def arguments(self, index: int, more: str) -> bytes:
        """More of a call's arguments.

        Raises:
            ValueError: there is no such call, or it is over.
        """
        events = b""
        while not (isinstance(self._open, _Call) and self._open.index == index):
            if not self._waiting:
                raise ValueError(f"arguments of call {index}, which is not open")
            events += self._show(self._waiting.pop(0))
        self._open.end.feed(more)
        events += self._delta("input_json_delta", partial_json=more)
        return events + self._go_on()

    def end(self) -> bytes:
        """Nothing more comes."""
        events = b""
        while self._waiting:
            events += self._show(self._waiting.pop(0))
        if self._blank and not self._called:
            events += self._begin(_Text("text", ""), {"type": "text", "text": ""})
            events += self._delta("text_delta", text=self._blank)
        return events + self._close()

    def _next(self, item: _Text | _Call) -> bytes:
        self._waiting.append(item)
        return self._go_on()

    def _go_on(self) -> bytes:
        """Show what waits, up to the next unfinished call."""
        events = b""
        while self._waiting and not self._unfinished:
            events += self._show(self._waiting.pop(0))
        return events

    @property
    def _unfinished(self) -> bool:
        return isinstance(self._open, _Call) and not self._open.end.reached

    def _show(self, item: _Text | _Call) -> bytes:
        if isinstance(item, _Call):
            self._called, self._blank = True, ""
            return self._begin(item, tool_use(item.id, item.name))
        if item.kind == "thinking":
            return self._think(item)
        return self._say(item)

    def _think(self, item: _Text) -> bytes:
        events, now = b"", self._open
        if isinstance(now, _Text) and now.kind == "thinking":
            now.more.append(item.text)
        else:
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            events = self._begin(item, empty)
        if self._hide_thoughts:
            return events
        return events + self._delta("thinking_delta", thinking=item.text)

    def _say(self, item: _Text) -> bytes:
        events, now = b"", self._open
        if not (isinstance(now, _Text) and now.kind == "text"):
            self._blank += item.text
            if not self._blank.strip():
                return b""
            item.text, self._blank = self._blank, ""
            events = self._begin(item, {"type": "text", "text": ""})
        return events + self._delta("text_delta", text=item.text)

    def _begin(self, item: _Text | _Call, block: Json) -> bytes:
        events = self._close()
        self._open = item
        self._index += 1
        return events + event(
            "content_block_start", index=self._index, content_block=block
        )

    def _close(self) -> bytes:
        now, self._open = self._open, None
        if now is None:
            return b""
        events = b""
        if isinstance(now, _Text) and now.kind == "thinking":
            thought = "".join((now.text, *now.more))
            sign = signature(thought, carried=self._hide_thoughts)
            events = self._delta("signature_delta", signature=sign)
        return events + event("content_block_stop", index=self._index)

    def _delta(self, kind: str, **fields: str) -> bytes:
        return event(
            "content_block_delta", index=self._index, delta={"type": kind, **fields}
        )
