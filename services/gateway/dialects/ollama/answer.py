"""What is said in answer to one request."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import (
    NO_REASON,
    Json,
    StreamWriter,
    Translation,
)
from services.gateway.dialects.ollama.calls import Calls, whole_calls
from services.gateway.dialects.ollama.dialect import Ollama
from services.gateway.dialects.ollama.lines import Said, as_message, ending, line
from services.gateway.dialects.ollama.places import place_as_sent
from services.gateway.dialects.usage import Usage


def _nothing() -> None:
    pass


@dataclass(slots=True, kw_only=True)
class OllamaTranslation(Translation):
    """A request of /api/chat or /api/generate."""

    asked: str
    """The client's word for the model."""
    word: Callable[[Said], Json]
    keep_alive: float | None = None
    """Seconds that the model should stay loaded without a request."""
    when_done: Callable[[], None] = _nothing
    """What `settle` does."""
    started: float = field(default_factory=time.monotonic)

    def whole(self, answer: Json) -> Json:
        choice = answer["choices"][0]
        if (reason := choice["finish_reason"]) is None:
            raise ValueError(NO_REASON)
        calls = (choice.get("message") or {}).get("tool_calls") or []
        said = Said.of(choice)
        for call in whole_calls(calls):
            said.text += call.text
            said.calls += call.calls
        return self.last(said, reason, answer)

    def writer(self) -> StreamWriter:
        return _Writer(self)

    def place(self, param: str) -> str:
        return place_as_sent(param, chat=self.word is as_message)

    async def settle(self) -> None:
        self.when_done()

    def last(self, said: Said, reason: str, told: Json) -> Json:
        """The object that ends the answer."""
        taken = time.monotonic() - self.started
        end = ending(reason, Usage.of(told), told.get("timings"), taken)
        return line(self.asked, self.word(said), end)


class _Writer:
    """NDJSON, which has no comments: before the first object there is nothing."""

    def __init__(self, translation: OllamaTranslation) -> None:
        self._translation = translation
        self._calls = Calls()
        self._reason: str | None = None
        self._told: Json = {}

    def comment(self, text: str) -> bytes:
        return b""

    def chunk(self, chunk: Json) -> bytes:
        self._told |= {
            name: chunk[name] for name in ("usage", "timings") if chunk.get(name)
        }
        lines: list[bytes] = []
        for choice in chunk.get("choices") or []:
            lines += [self._line(said) for said in self._said(choice)]
        return b"".join(lines)

    def _said(self, choice: Json) -> list[Said]:
        said = Said.of(choice)
        parts = [said] if said else []
        parts += self._calls.feed((choice.get("delta") or {}).get("tool_calls") or [])
        if (reason := choice.get("finish_reason")) is not None:
            self._reason = reason
            parts += self._calls.flush()
        return parts

    def end(self) -> bytes:
        if self._reason is None:
            raise ValueError(NO_REASON)
        return _encoded(self._translation.last(Said(), self._reason, self._told))

    def fail(self, error: ApiError) -> bytes:
        return _encoded(Ollama().error(error, ""))

    def _line(self, said: Said) -> bytes:
        translation = self._translation
        return _encoded(line(translation.asked, translation.word(said)))


def _encoded(value: Json) -> bytes:
    return orjson.dumps(value) + b"\n"
