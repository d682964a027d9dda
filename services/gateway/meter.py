"""What can be told of an answer while its bytes pass, without decoding each chunk."""

from typing import Any

import orjson

from neuron.protocol.sse import SseParser
from services.gateway.dialects.usage import Usage

TAIL_BYTES = 8192
"""Holds the last events: finish, usage, `[DONE]`."""
MAX_PARSED_BODY = 4 * 1024 * 1024
"""A larger answer that does not stream is relayed without its usage being read."""
_DATA = b"data: "
_DONE = b"\ndata: [DONE]"


class BodyMeter:
    """Reads the usage of an answer that does not stream."""

    def __init__(self) -> None:
        self._body: bytearray | None = bytearray()

    def feed(self, chunk: bytes) -> None:
        if self._body is None:
            return
        self._body += chunk
        if len(self._body) > MAX_PARSED_BODY:
            self._body = None

    def usage(self) -> Usage | None:
        if not self._body:
            return None
        try:
            return Usage.of(orjson.loads(self._body))
        except orjson.JSONDecodeError:
            return None


class StreamMeter:
    """Counts a stream's events, finds its first token and reads its last events.

    Chunks are decoded only until the first token has been seen.
    """

    def __init__(self) -> None:
        self.events = 0
        """Events that carry tokens, about: all from the first token on."""
        self.started = False
        """Whether a token has been seen."""
        self._parser: SseParser | None = SseParser()
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        if self._parser is None:
            self.events += chunk.count(_DATA)
            return
        try:
            for event in self._parser.feed(chunk):
                self.started = self.started or _has_content(event.data)
                self.events += self.started and event.data != "[DONE]"
        except ValueError:
            self._parser = None  # No event stream that anybody can read.
        if self.started:
            self._parser = None

    @property
    def done(self) -> bool:
        # At the start of a line only: inside a token's JSON no line starts.
        return _DONE in b"\n" + self._tail

    def ending(self) -> tuple[Usage | None, str | None]:
        """(usage, error message) that the last events told."""
        usage, problem = None, None
        for line in self._tail.splitlines():
            if not line.startswith(b"data: {"):
                continue
            try:
                event = orjson.loads(line[len(_DATA) :])
            except orjson.JSONDecodeError:
                continue  # Cut off, by the tail's limit or by a dying upstream.
            usage = Usage.of(event) or usage
            if isinstance(error := event.get("error"), dict):
                problem = str(error.get("message"))
        return usage, problem


def _has_content(data: str) -> bool:
    """Whether an event carries generated text, reasoning or a tool call."""
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    choices = event.get("choices") if isinstance(event, dict) else None
    if not isinstance(choices, list):
        return False
    return any(_choice_has_content(choice) for choice in choices)


def _choice_has_content(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    fields = ("content", "reasoning_content", "tool_calls")
    return isinstance(delta, dict) and any(delta.get(field) for field in fields)
