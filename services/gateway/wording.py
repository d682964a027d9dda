"""How a streamed answer reaches its client: the neuron's bytes, or a dialect's."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import orjson

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import MALFORMED, Json, StreamWriter

T = TypeVar("T")

_LONGEST_END = 4
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Wording(Protocol):
    """Each method returns the bytes to send now, which may be none."""

    def comment(self, text: str) -> bytes:
        """Keeps the client waiting."""

    def feed(self, data: bytes) -> bytes:
        """More of the neuron's stream, cut anywhere.

        Raises:
            ValueError: it is no stream of answers.
        """

    def end(self) -> bytes:
        """The neuron's stream came to its good end.

        Raises:
            ValueError: it did not say all that an answer says.
        """

    def fail(self, error: ApiError) -> bytes:
        """It did not."""


class Untouched:
    """The neuron's own bytes."""

    def __init__(self) -> None:
        self._tail = b""

    def comment(self, text: str) -> bytes:
        return sse.comment(text)

    def feed(self, data: bytes) -> bytes:
        self._tail = (self._tail + data[-_LONGEST_END:])[-_LONGEST_END:]
        return data

    def end(self) -> bytes:
        return b""

    def fail(self, error: ApiError) -> bytes:
        between_events = not self._tail or self._tail.endswith(_EVENT_ENDS)
        event = sse.encode(orjson.dumps(error.envelope()))
        return event if between_events else b"\n\n" + event


class Translated:
    """A dialect's words for what the neuron's events say."""

    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer
        self._words: list[bytes] = []
        self._parser = sse.SseParser(self._comment)
        self._failed = False

    def comment(self, text: str) -> bytes:
        return self._writer.comment(text)

    def feed(self, data: bytes) -> bytes:
        for event in self._parser.feed(data):
            if event.data != "[DONE]" and not self._failed:
                self._words.append(read_answer(event.data, self._event))
        return self._taken()

    def _event(self, value: Json) -> bytes:
        if isinstance(error := value.get("error"), dict):
            self._failed = True
            return self._writer.fail(told_error(502, error))
        return self._writer.chunk(value)

    def _taken(self) -> bytes:
        words, self._words = self._words, []
        return b"".join(words)

    def _comment(self, text: str) -> None:
        if not self._failed:
            self._words.append(self._writer.comment(text))

    def end(self) -> bytes:
        return b"" if self._failed else self._writer.end()

    def fail(self, error: ApiError) -> bytes:
        return b"" if self._failed else self._taken() + self._writer.fail(error)


def read_answer(data: str | bytes, read: Callable[[Json], T]) -> T:
    """What `read` makes of an answer or an event of a neuron's.

    Raises:
        ValueError: it is none.
    """
    value: Any = orjson.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"no object: {str(value)[:60]}")
    try:
        return read(value)
    except MALFORMED as error:
        raise ValueError(f"{type(error).__name__} {error}") from error


def told_error(status: int, told: Any, retry_after: float | None = None) -> ApiError:
    """What the `error` of OpenAI's envelope tells, of a refusal or in a stream."""
    fields = told if isinstance(told, dict) else {}
    param = fields.get("param")
    return ApiError(
        status,
        str(fields.get("message") or "the neuron failed; the gateway's log has more"),
        code=str(fields.get("code") or "upstream_failed"),
        type=str(fields.get("type") or "server_error"),
        param=param if isinstance(param, str) else None,
        retry_after=retry_after,
    )
