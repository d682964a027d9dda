"""What is told of a stream from its bytes, however they are cut."""

import itertools

import orjson
from hypothesis import given, settings, strategies as st

from neuron.protocol import sse
from services.gateway.dialects.usage import Usage
from services.gateway.meter import (
    MAX_PARSED_BODY,
    TAIL_BYTES,
    BodyMeter,
    StreamMeter,
)
from tests.support.fake_neuron import token, usage

ROLE = sse.encode(b'{"choices":[{"delta":{"role":"assistant","content":""}}]}')
FINAL = sse.encode(orjson.dumps({"choices": [], "usage": usage(3)}))
COMMENT = sse.comment("queued")
STREAM = COMMENT + ROLE + b"".join(map(token, "abc")) + FINAL + sse.DONE


def metered(*chunks: bytes) -> StreamMeter:
    meter = StreamMeter()
    for chunk in chunks:
        meter.feed(chunk)
    return meter


def test_the_first_token_is_the_first_content() -> None:
    assert not metered(COMMENT, ROLE).started
    assert metered(COMMENT, ROLE, token("a")).started
    assert metered(COMMENT, ROLE, token("a")).events == 1


def test_reasoning_tools_and_plain_text_are_content() -> None:
    for choice in (
        {"delta": {"reasoning_content": "hm"}},
        {"delta": {"tool_calls": [{"index": 0}]}},
        {"text": "once"},
    ):
        assert metered(sse.encode(orjson.dumps({"choices": [choice]}))).started
    for nothing in (b"{}", b"[]", b'{"choices":[3]}', b'{"choices":3}', b"no json"):
        assert not metered(sse.encode(nothing)).started


@given(st.lists(st.integers(1, len(STREAM)), max_size=12))
@settings(deadline=None)
def test_usage_and_end_are_found_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    meter = metered(*(STREAM[a:b] for a, b in itertools.pairwise(bounds)))
    assert meter.started
    assert meter.done
    assert meter.ending() == (Usage(prompt=7, completion=3, cached=4), None)


def test_events_are_counted_while_whole_chunks_come() -> None:
    meter = metered(ROLE, *map(token, "abc"))
    assert meter.events == 3


def test_a_long_stream_keeps_a_short_tail() -> None:
    meter = metered(*[token("word " * 100)] * 100, FINAL, sse.DONE)
    assert meter.ending()[0] == Usage(7, 3, 4)
    assert meter.done
    assert len(meter._tail) <= TAIL_BYTES


def test_a_stream_that_is_cut_is_not_done() -> None:
    meter = metered(ROLE, token("a"), token("b")[:-9])
    assert not meter.done
    assert meter.ending() == (None, None)


def test_a_model_that_writes_the_end_of_a_stream_does_not_end_it() -> None:
    assert not metered(ROLE, token("data: [DONE]")).done


def test_an_error_event_is_told() -> None:
    meter = metered(token("a"), sse.encode(b'{"error":{"message":"worker lost"}}'))
    assert meter.ending() == (None, "worker lost")


def test_a_stream_that_is_none_is_still_measured() -> None:
    meter = StreamMeter()
    for _ in range(10):
        meter.feed(b"x" * sse.SseParser.MAX_BUFFER)
    assert not meter.done
    assert meter.ending() == (None, None)


def test_the_usage_of_a_body() -> None:
    meter = BodyMeter()
    body = orjson.dumps({"choices": [], "usage": usage(9)})
    for byte in body:
        meter.feed(bytes([byte]))
    assert meter.usage() == Usage(7, 9, 4)


def test_a_body_without_usage() -> None:
    for body in (b"", b"no json", b"[]", b"{}", b'{"usage":3}'):
        meter = BodyMeter()
        meter.feed(body)
        assert meter.usage() is None


def test_numbers_that_are_none_count_nothing() -> None:
    assert (
        Usage.of({"usage": {"prompt_tokens": "7", "completion_tokens": -1}}) == Usage()
    )


def test_a_huge_body_is_not_kept() -> None:
    meter = BodyMeter()
    for _ in range(5):
        meter.feed(b" " * (MAX_PARSED_BODY // 4))
    assert meter.usage() is None
