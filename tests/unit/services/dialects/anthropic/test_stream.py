"""Streams: whatever the chunks, the same message comes of them as of the whole."""

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings, strategies as st

from neuron.protocol import sse
from neuron.protocol.errors import ApiError, shutting_down
from services.gateway.dialects.anthropic import translate_messages
from services.gateway.dialects.base import MALFORMED, Json, StreamWriter
from services.gateway.dialects.json_end import JsonEnd
from services.gateway.wording import Translated
from tests.unit.services.dialects.anthropic.accumulate import events, message
from tests.unit.services.dialects.anthropic.test_answer import USAGE, answer
from tests.unit.services.dialects.anthropic.test_conversation import json_values, names
from tests.unit.services.dialects.anthropic.test_request import HELLO

START_USAGE = USAGE | {"completion_tokens": 0, "completion_tokens_details": None}


def writer(**fields: Any) -> StreamWriter:
    return translate_messages(HELLO | {"stream": True} | fields).writer()


def chunk(finish: str | None = None, stop: Any = None, **delta: Any) -> Json:
    choice = {
        "index": 0, "delta": delta, "finish_reason": finish, "stop_reason": stop,
    }  # fmt: skip
    return {
        "id": "chatcmpl-abc",
        "object": "chat.completion.chunk",
        "model": "claude-x",
        "choices": [choice],
        "usage": START_USAGE,
    }


ROLE = chunk(role="assistant", content="")
LAST = chunk() | {"choices": [], "usage": USAGE}


def begun(index: int) -> Json:
    function = {"name": f"f{index}", "arguments": ""}
    call = {"index": index, "id": f"call_{index}", "type": "function"}
    return chunk(tool_calls=[call | {"function": function}])


def given_to(index: int, arguments: str) -> Json:
    call = {"index": index, "function": {"arguments": arguments}}
    return chunk(tool_calls=[call])


def stream(
    *chunks: Json, finish: str = "stop", stop: Any = None, **fields: Any
) -> bytes:
    words = writer(**fields)
    told = [*map(words.chunk, (ROLE, *chunks, chunk(finish, stop), LAST))]
    return b"".join(told) + words.end()


def kinds(raw: bytes) -> list[str]:
    return [event["type"] for event in events(raw)]


def test_a_stream_has_the_events_that_clients_wait_for() -> None:
    raw = stream(chunk(content="a"), chunk(content="b"))
    assert kinds(raw) == [
        "message_start", "ping", "content_block_start", "content_block_delta",
        "content_block_delta", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    start, *_, delta, _ = events(raw)
    assert start["message"]["usage"]["input_tokens"] == 4
    assert start["message"]["usage"]["cache_read_input_tokens"] == 16
    assert delta["usage"]["output_tokens"] == 9
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert message(raw)["content"] == [{"type": "text", "text": "ab"}]


def test_arguments_are_told_as_they_are_generated() -> None:
    words = writer()
    words.chunk(ROLE)
    assert kinds(words.chunk(begun(0))) == ["content_block_start"]
    for piece in ('{"a', '": 1', "}"):
        [delta] = events(words.chunk(given_to(0, piece)))
        assert delta["delta"] == {"type": "input_json_delta", "partial_json": piece}


def test_what_keeps_waiting_clients_waiting() -> None:
    words = writer()
    assert words.comment("loading 3/9") == b": loading 3/9\n\n"
    words.chunk(ROLE)
    assert words.comment("queued") == b'event: ping\ndata: {"type":"ping"}\n\n'


def test_the_stop_sequence_is_told() -> None:
    delta = events(stream(chunk(content="a"), stop="END"))[-2]["delta"]
    assert delta == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


def test_a_signature_ends_a_thought() -> None:
    thought = chunk(reasoning_content="hm")
    raw = stream(thought, thought, chunk(content="a"))
    deltas = [e["delta"]["type"] for e in events(raw) if "index" in e and "delta" in e]
    assert deltas == [
        "thinking_delta",
        "thinking_delta",
        "signature_delta",
        "text_delta",
    ]
    omitted = {"type": "adaptive", "display": "omitted"}
    raw = stream(thought, thought, chunk(content="a"), thinking=omitted)
    deltas = [e["delta"]["type"] for e in events(raw) if "index" in e and "delta" in e]
    assert deltas == ["signature_delta", "text_delta"]
    assert message(raw)["content"][0]["thinking"] == ""


def test_a_stream_that_stops_without_a_reason_failed() -> None:
    for chunks in ([], [ROLE], [ROLE, chunk(content="a")], [LAST]):
        words = writer()
        for each in chunks:
            words.chunk(each)
        with pytest.raises(ValueError, match="why it ended"):
            words.end()


def test_a_failure_is_told_in_the_middle_and_before_anything() -> None:
    words = writer()
    assert kinds(words.fail(shutting_down())) == ["error"]
    words = writer()
    words.chunk(ROLE)
    words.chunk(chunk(content="a"))
    [failure] = events(words.fail(ApiError(502, "lost", code="upstream_lost")))
    assert failure["error"] == {
        "type": "api_error",
        "message": "lost",
        "details": {"error_code": "upstream_lost"},
    }


def test_text_waits_for_an_unfinished_call() -> None:
    raw = stream(
        begun(0), given_to(0, '{"a": '), chunk(content="after"), begun(1),
        given_to(0, "1}"), given_to(1, "{}"), finish="tool_calls",
    )  # fmt: skip
    first, between, second = message(raw)["content"]
    assert first["input"] == {"a": 1}
    assert between == {"type": "text", "text": "after"}
    assert (second["name"], second["input"]) == ("f1", {})


def test_the_rest_of_a_broken_call_is_text() -> None:
    raw = stream(begun(0), given_to(0, '{"a'), chunk(content=" and so on"))
    blocks = [e for e in events(raw) if e["type"] == "content_block_start"]
    assert [e["content_block"]["type"] for e in blocks] == ["tool_use", "text"]
    assert kinds(raw)[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_broken_call_does_not_hold_up_the_next_one() -> None:
    raw = stream(begun(0), given_to(0, '{"a'), begun(1), given_to(1, "{}"))
    starts = [e["index"] for e in events(raw) if e["type"] == "content_block_start"]
    stops = [e["index"] for e in events(raw) if e["type"] == "content_block_stop"]
    assert starts == stops == [0, 1]


def test_arguments_without_a_call_are_no_answer() -> None:
    words = writer()
    words.chunk(ROLE)
    with pytest.raises(ValueError, match="call 0"):
        words.chunk(given_to(0, "{}"))
    for broken in (
        {},
        chunk() | {"choices": [None]},
        chunk("boredom"),
        begun(0) | {"choices": 1},
    ):
        with pytest.raises(MALFORMED):
            writer().chunk(broken)


# However an answer is cut into chunks.


def cut(text: str, lengths: list[int]) -> list[str]:
    pieces, at = [], 0
    for length in lengths:
        pieces.append(text[at : at + length])
        at += length
    return [piece for piece in (*pieces, text[at:]) if piece]


lengths = st.lists(st.integers(1, 7), max_size=6)
answers = st.fixed_dictionaries({
    "thought": st.text(max_size=20),
    "text": st.text(max_size=20) | st.sampled_from(["", " \n", "\n\nyes"]),
    "calls": st.lists(st.dictionaries(names, json_values, max_size=3), max_size=3),
    "stop": st.none() | st.text(max_size=3),
    "cuts": st.tuples(lengths, lengths, lengths),
    "names_first": st.booleans(),
})  # fmt: skip


def chunks_of(told: Json) -> list[Json]:
    """As the neuron sends them: names of calls may come before arguments of others."""
    thoughts, texts, arguments = told["cuts"]
    chunks = [chunk(reasoning_content=p) for p in cut(told["thought"], thoughts)]
    chunks += [chunk(content=piece) for piece in cut(told["text"], texts)]
    if told["names_first"]:
        chunks += [begun(index) for index in range(len(told["calls"]))]
    for index, call in enumerate(told["calls"]):
        chunks += [] if told["names_first"] else [begun(index)]
        pieces = cut(orjson.dumps(call).decode(), arguments)
        chunks += [given_to(index, piece) for piece in pieces]
    return chunks


def whole_of(told: Json, finish: str) -> Json:
    calls = [
        {"id": f"call_{i}", "function": {"name": f"f{i}", "arguments": orjson.dumps(c)}}
        for i, c in enumerate(told["calls"])
    ]
    only_calls = calls and not told["text"].strip()
    return answer(
        finish, told["stop"], content=None if only_calls else told["text"],
        reasoning_content=told["thought"], tool_calls=calls,
    )  # fmt: skip


HIDDEN = {"type": "adaptive", "display": "omitted"}


@given(answers, st.booleans())
@settings(deadline=None)
@example(
    {"thought": "", "text": " ", "calls": [{}], "stop": None, "cuts": ([], [], []),
     "names_first": True}, False,
)  # fmt: skip
def test_a_stream_says_what_the_whole_answer_says(told: Json, hidden: bool) -> None:
    finish = "tool_calls" if told["calls"] else "stop"
    fields = {"thinking": HIDDEN} if hidden else {}
    raw = stream(*chunks_of(told), finish=finish, stop=told["stop"], **fields)
    whole = translate_messages(HELLO | fields).whole(whole_of(told, finish))
    assert message(raw) == whole


@given(answers, st.lists(st.integers(0, 2000), max_size=8))
@settings(deadline=None)
def test_the_same_events_come_however_the_bytes_are_cut(
    told: Json, cuts: list[int]
) -> None:
    ends = [chunk("stop", told["stop"]), LAST]
    chunks = [ROLE, *chunks_of(told), *ends]
    raw = b"".join(sse.encode(orjson.dumps(each)) for each in chunks) + sse.DONE
    bounds = [0, *sorted(min(at, len(raw)) for at in cuts), len(raw)]
    wording = Translated(writer())
    pieces = [wording.feed(raw[a:b]) for a, b in itertools.pairwise(bounds)]
    said = b"".join(pieces) + wording.end()
    assert said == stream(*chunks_of(told), stop=told["stop"])


@given(st.dictionaries(names, json_values | st.text(), max_size=4), st.data())
def test_the_end_of_json_is_found_where_it_is(value: Json, data: st.DataObject) -> None:
    text = orjson.dumps(value).decode()
    at = data.draw(st.integers(0, len(text) - 1))
    end = JsonEnd()
    end.feed(text[:at])
    assert not end.reached
    end.feed(text[at:])
    assert end.reached
