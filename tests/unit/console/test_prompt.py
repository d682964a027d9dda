"""Figures of a test prompt, and what the stream's pieces say."""

import json

import pytest

from cortex_tui.client import GatewayClient, Piece, _piece
from cortex_tui.dialogs.test import Answer
from cortex_tui.plain_http import Refused, Unreachable, error_message
from cortex_tui.target import parse
from neuron.protocol.sse import SseEvent


def test_figures() -> None:
    answer = Answer(sent=10.0)
    assert (answer.ttft_s, answer.tok_s) == (None, None)
    answer.add(Piece(), 10.1)
    assert answer.ttft_s is None, "a role without text is no token"
    answer.add(Piece("Once"), 10.25)
    assert answer.ttft_s == pytest.approx(0.25)
    assert answer.tok_s is None, "one token has no speed"
    answer.add(Piece(" upon"), 10.5)
    answer.add(Piece(" a"), 10.75)
    assert answer.tok_s == pytest.approx(4.0)
    answer.add(Piece(finish="stop", completion_tokens=5), 10.8)
    assert (answer.text, answer.tokens, answer.finish) == ("Once upon a", 5, "stop")
    assert answer.tok_s == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("data", "piece"),
    [
        ({"choices": [{"text": "a"}]}, Piece("a")),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, Piece()),
        ({"choices": [{"delta": {"content": "b"}}]}, Piece("b")),
        ({"choices": [{"delta": {"reasoning_content": "c"}}]}, Piece("c")),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, Piece(finish="stop")),
        (
            {"choices": [], "usage": {"completion_tokens": 7}},
            Piece(completion_tokens=7),
        ),
        ({"choices": [{"text": "a"}], "usage": None}, Piece("a")),
    ],
)
def test_pieces_of_both_dialects(data: dict[str, object], piece: Piece) -> None:
    assert _piece(SseEvent(json.dumps(data))) == piece


def test_an_error_in_the_stream_is_the_answer() -> None:
    event = SseEvent('{"error": {"message": "the worker died"}}')
    with pytest.raises(Refused, match="the worker died"):
        _piece(event)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": {"message": "no room"}}', "no room"),
        (b'{"error": "odd"}', '{"error": "odd"}'),
        (b"<html>bad gateway</html>", "<html>bad gateway</html>"),
        (b"", "HTTP 502"),
    ],
)
def test_error_messages_of_any_server(content: bytes, message: str) -> None:
    assert error_message(502, content) == message


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: connection refused"),
        ("unix:/nowhere/gateway.sock", "local: no such file or directory"),
    ],
)
async def test_no_connection_is_said_in_plain_words(address: str, reason: str) -> None:
    async with GatewayClient(parse(address)) as client:
        with pytest.raises(Unreachable) as caught:
            await anext(client.events())
    assert str(caught.value) == reason
