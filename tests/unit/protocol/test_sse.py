"""Server-sent events, written and read."""

import pytest
from hypothesis import given, strategies as st

from neuron.protocol.sse import SseEvent, SseParser, comment, encode, event_number


def parse(raw: bytes, size: int) -> list[SseEvent]:
    parser = SseParser()
    events: list[SseEvent] = []
    for start in range(0, len(raw), size):
        events += parser.feed(raw[start : start + size])
    return events


@given(
    texts=st.lists(st.text(alphabet=st.sampled_from("ab:é\n ")), max_size=4),
    size=st.integers(1, 9),
)
def test_any_split_gives_what_was_written(texts: list[str], size: int) -> None:
    raw = b"".join(
        encode(text, "name", str(index)) + comment("x")
        for index, text in enumerate(texts)
    )
    assert parse(raw, size) == [
        SseEvent(text, "name", str(index)) for index, text in enumerate(texts)
    ]


@given(size=st.integers(1, 9))
def test_every_line_end_of_the_standard(size: int) -> None:
    raw = b"data: a\r\n\r\ndata: b\r\rdata: c\n\n"
    assert [event.data for event in parse(raw, size)] == ["a", "b", "c"]


def test_comments_and_empty_events_dispatch_nothing() -> None:
    assert parse(b": hello\n\nevent: x\n\n\n", 64) == []


def test_a_line_without_end_is_given_up() -> None:
    parser = SseParser()
    parser.MAX_BUFFER = 10
    with pytest.raises(ValueError, match="exceeds"):
        list(parser.feed(b"data: 0123456789"))


@pytest.mark.parametrize(
    ("header", "number"),
    [("17", 17), ("", None), ("-1", None), ("x", None), ("9" * 5000, None)],
)
def test_the_number_to_resume_from(header: str, number: int | None) -> None:
    assert event_number(header) == number
