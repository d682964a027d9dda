"""The neuron's stream on its way to a client: as it is, and in a dialect's words."""

import itertools

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json
from services.gateway.wording import Translated, Untouched

LOST = ApiError(502, "atlas stopped", code="upstream_lost", type="server_error")


class Spy:
    """Words that can be told apart."""

    def comment(self, text: str) -> bytes:
        return f"({text})".encode()

    def chunk(self, chunk: Json) -> bytes:
        return f"[{chunk['n']}]".encode()

    def end(self) -> bytes:
        return b"."

    def fail(self, error: ApiError) -> bytes:
        return f"!{error.code}".encode()


def numbered(n: int) -> bytes:
    return sse.encode(orjson.dumps({"n": n}))


STREAM = sse.comment("prefill 1/2") + numbered(1) + numbered(2) + sse.DONE
FAILURE = sse.encode(b'{"error":{"message":"gone","code":"worker_lost"}}')


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
@settings(deadline=None)
def test_any_split_is_worded_alike(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    wording = Translated(Spy())
    words = [wording.feed(STREAM[a:b]) for a, b in itertools.pairwise(bounds)]
    assert b"".join(words) + wording.end() == b"(prefill 1/2)[1][2]."


def test_an_error_of_the_neuron_is_the_last_word() -> None:
    wording = Translated(Spy())
    assert wording.feed(numbered(1) + FAILURE + numbered(2)) == b"[1]!worker_lost"
    assert wording.feed(sse.comment("still here") + numbered(3)) == b""
    assert wording.end() == b""
    assert wording.fail(LOST) == b""


@pytest.mark.parametrize(
    "bad", [b"data: {half\n\n", b"data: [1]\n\n", b'data: {"m": 1}\n\n']
)
def test_what_is_no_answer_is_refused_after_what_is_one(bad: bytes) -> None:
    wording = Translated(Spy())
    with pytest.raises(ValueError, match=r"object|character|KeyError 'n'"):
        wording.feed(numbered(1) + bad + numbered(2))
    assert wording.fail(LOST) == b"[1]!upstream_lost"


@pytest.mark.parametrize(
    ("sent", "separator"),
    [
        (b"", b""),
        (STREAM, b""),
        (STREAM.replace(b"\n", b"\r\n"), b""),
        (STREAM + b'data: {"n"', b"\n\n"),
    ],
)
def test_an_error_begins_an_event_of_its_own(sent: bytes, separator: bytes) -> None:
    wording = Untouched()
    for byte in sent:
        assert wording.feed(bytes([byte])) == bytes([byte])
    event = sse.encode(orjson.dumps(LOST.envelope()))
    assert wording.fail(LOST) == separator + event
