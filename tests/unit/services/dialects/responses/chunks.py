"""Answers of a neuron, whole and cut into chunks, and what a client makes of events."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from neuron.protocol import sse
from services.gateway.dialects.base import Json

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
USED = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 12,
}
_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@dataclass(frozen=True, slots=True)
class Call:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a neuron has to say."""

    thought: str = ""
    text: str = ""
    calls: Sequence[Call] = ()
    cut: bool = False
    logprobs: list[Json] = field(default_factory=list)

    @property
    def reason(self) -> str:
        return "length" if self.cut else "tool_calls" if self.calls else "stop"

    @property
    def message(self) -> Json:
        blank = self.calls and not self.text.strip()
        message: Json = {"role": "assistant", "content": None if blank else self.text}
        if self.thought:
            message["reasoning_content"] = self.thought
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.calls
            ]
        return message

    @property
    def whole(self) -> Json:
        choice = {
            "index": 0,
            "message": self.message,
            "logprobs": {"content": self.logprobs} if self.logprobs else None,
            "finish_reason": self.reason,
        }
        return {"id": "chatcmpl-1", "choices": [choice], "usage": USAGE}


def chunk(delta: Json, **choice: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta, **choice}], "usage": USAGE}


def called(index: int, call: Call) -> Json:
    function = {"name": call.name, "arguments": ""}
    begun = {"index": index, "id": call.id, "type": "function", "function": function}
    return chunk({"tool_calls": [begun]})


def more(index: int, arguments: str) -> Json:
    call = {"index": index, "function": {"arguments": arguments}}
    return chunk({"tool_calls": [call]})


def cut_up(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, none of them empty."""
    cuts = draw(st.lists(st.integers(1, max(1, len(text) - 1)), max_size=4))
    bounds = [0, *sorted(set(cuts)), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    return [piece for piece in pieces if piece]


@st.composite
def chunked(draw: st.DrawFn, answer: Answer) -> list[Json]:
    """A stream that says the answer."""
    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"reasoning_content": t}) for t in cut_up(draw, answer.thought)]
    chunks += [chunk({"content": t}) for t in cut_up(draw, answer.text)]
    for index, call in enumerate(answer.calls):
        chunks.append(called(index, call))
        chunks += [more(index, piece) for piece in cut_up(draw, call.arguments)]
    chunks.append(chunk({}, finish_reason=answer.reason))
    return [*chunks, {"choices": [], "usage": USAGE}]


NAMES = st.sampled_from(["look", "sql", "crm__find"])
CALLS = st.builds(
    Call,
    id=st.uuids().map(lambda u: f"call_{u.hex}"),
    name=NAMES,
    arguments=st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2).map(
        lambda value: orjson.dumps(value).decode()
    ),
)
ANSWERS = st.builds(
    Answer,
    thought=st.text(max_size=20),
    text=st.text(max_size=20),
    calls=st.lists(CALLS, max_size=3),
    cut=st.booleans(),
)


def encoded(chunks: Iterable[Json]) -> bytes:
    return b"".join(sse.encode(orjson.dumps(each)) for each in chunks) + sse.DONE


def events_of(stream: bytes) -> list[Json]:
    """The events, which say what type they are twice."""
    events = []
    for event in sse.SseParser().feed(stream):
        fields = orjson.loads(event.data)
        assert event.event == fields["type"]
        events.append(fields)
    return events


def read_by_client(events: Iterable[Json]) -> Any:
    """What the official client's own state machine makes of them in the end."""
    state = ResponseStreamState[None](input_tools=omit, text_format=omit)
    last: Any = None
    for event in events:
        for fired in state.handle_event(_EVENTS.validate_python(event)):
            last = fired
    return last.response
