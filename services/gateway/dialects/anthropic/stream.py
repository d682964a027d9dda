"""One streamed answer as a message's events."""

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from services.gateway.dialects.anthropic.answer import (
    message_envelope,
    stop_of,
    usage_of,
)
from services.gateway.dialects.anthropic.blocks import Blocks, event
from services.gateway.dialects.anthropic.errors import worded
from services.gateway.dialects.base import NO_REASON, Json
from services.gateway.dialects.usage import Usage


class MessageWriter:
    """The neuron's chunks in, Anthropic's events out."""

    def __init__(self, *, hide_thoughts: bool) -> None:
        self._blocks = Blocks(hide_thoughts=hide_thoughts)
        self._begun = False
        self._usage: Usage | None = None
        self._reason: str | None = None
        self._sequence: str | None = None

    def comment(self, text: str) -> bytes:
        """Clients that are in a message know pings; before it they know comments."""
        return event("ping") if self._begun else sse.comment(text)

    def chunk(self, chunk: Json) -> bytes:
        return self._begin(chunk) + self._more(chunk)

    def _begin(self, chunk: Json) -> bytes:
        self._usage = Usage.of(chunk) or self._usage
        if self._begun:
            return b""
        message = message_envelope(chunk) | {"usage": usage_of(self._usage)}
        self._begun = True
        return event("message_start", message=message) + event("ping")

    def _more(self, chunk: Json) -> bytes:
        events = b""
        for choice in chunk["choices"]:
            events += self._said(choice["delta"])
            reason, sequence = stop_of(choice)
            if reason is not None:
                self._reason, self._sequence = reason, sequence
        return events

    def _said(self, delta: Json) -> bytes:
        events = b""
        if thought := delta.get("reasoning_content"):
            events += self._blocks.text("thinking", thought)
        if text := delta.get("content"):
            events += self._blocks.text("text", text)
        for call in delta.get("tool_calls") or ():
            index, function = call["index"], call["function"]
            if "name" in function:
                events += self._blocks.call(index, call["id"], function["name"])
            if more := function.get("arguments"):
                events += self._blocks.arguments(index, more)
        return events

    def end(self) -> bytes:
        if self._reason is None:
            raise ValueError(NO_REASON)
        delta = {"stop_reason": self._reason, "stop_sequence": self._sequence}
        return (
            self._blocks.end()
            + event("message_delta", delta=delta, usage=usage_of(self._usage))
            + event("message_stop")
        )

    def fail(self, error: ApiError) -> bytes:
        return event("error", error=worded(error))
