"""Server-sent events, both ways.

Source: WHATWG HTML, "Server-sent events" (event stream interpretation).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

CONTENT_TYPE = "text/event-stream"
_MAX_DIGITS = 20
DONE = b"data: [DONE]\n\n"
"""What ends an OpenAI stream that ended well."""


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One dispatched event: `data` lines joined by newlines, as text."""

    data: str
    event: str = "message"
    id: str | None = None


def encode(data: str | bytes, event: str | None = None, id: str | None = None) -> bytes:  # noqa: A002
    """One event's bytes; `data` may hold newlines."""
    head = b""
    if event is not None:
        head += b"event: " + event.encode() + b"\n"
    if id is not None:
        head += b"id: " + id.encode() + b"\n"
    raw = data.encode() if isinstance(data, str) else data
    return head + b"data: " + raw.replace(b"\n", b"\ndata: ") + b"\n\n"


def comment(text: str) -> bytes:
    """A comment line, which keeps a connection warm and which clients ignore."""
    return b": " + text.encode() + b"\n\n"


def event_number(last_event_id: str) -> int | None:
    """A `Last-Event-ID` header as a number; None where it is none of ours."""
    ours = last_event_id.isdecimal() and len(last_event_id) <= _MAX_DIGITS
    return int(last_event_id) if ours else None


class SseParser:
    """Turns any split of a stream's bytes into the same events."""

    MAX_BUFFER = 8 * 1024 * 1024

    def __init__(self, on_comment: Callable[[str], None] | None = None) -> None:
        """`on_comment` gets the comments, in their place between the events."""
        self._on_comment = on_comment
        self._buffer = b""
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """Events completed by `chunk`.

        Raises:
            ValueError: a line grew beyond `MAX_BUFFER` bytes.
        """
        self._buffer += chunk
        # A carriage return at the very end may be half of a CRLF: it waits.
        held = b"\r" if self._buffer.endswith(b"\r") else b""
        text = self._buffer.removesuffix(b"\r").replace(b"\r\n", b"\n")
        *lines, rest = text.replace(b"\r", b"\n").split(b"\n")
        self._buffer = rest + held
        if len(self._buffer) > self.MAX_BUFFER:
            raise ValueError(f"an event-stream line exceeds {self.MAX_BUFFER} bytes")
        for line in lines:
            event = self._line(line.decode("utf-8", errors="replace"))
            if event is not None:
                yield event

    def _line(self, line: str) -> SseEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name and self._on_comment is not None:
            self._on_comment(value)
        elif name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> SseEvent | None:
        data, self._data = self._data, []
        event, self._event = self._event, ""
        if not data:
            return None
        return SseEvent("\n".join(data), event or "message", self._id)
