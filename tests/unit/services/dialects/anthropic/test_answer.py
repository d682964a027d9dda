"""The neuron's whole answers and refusals in Anthropic's words."""

from typing import Any

import pytest

from neuron.protocol.errors import ApiError, overloaded, shutting_down
from services.gateway.dialects.anthropic import Anthropic, translate_messages
from services.gateway.dialects.anthropic.thoughts import signature
from services.gateway.dialects.base import MALFORMED, Json
from tests.unit.services.dialects.anthropic.test_request import HELLO

USAGE: Json = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
CALL: Json = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"a": 1}'},
}


def answer(finish: Any = "stop", stop: Any = None, **message: Any) -> Json:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "hi", **message},
        "finish_reason": finish,
        "stop_reason": stop,
    }
    return {
        "id": "chatcmpl-abc",
        "object": "chat.completion",
        "model": "claude-x",
        "choices": [choice],
        "usage": USAGE,
    }


def worded(told: Json, **fields: Any) -> Json:
    return translate_messages(HELLO | fields).whole(told)


def test_an_answer_is_a_message() -> None:
    assert worded(answer()) == {
        "id": "msg_abc",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 16,
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
        },
    }


def test_thoughts_and_calls_are_blocks() -> None:
    told = answer(
        "tool_calls", content=None, reasoning_content="hm", tool_calls=[CALL, CALL]
    )
    said = worded(told)
    use = {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}}
    thought = {
        "type": "thinking",
        "thinking": "hm",
        "signature": signature("hm", carried=False),
    }
    assert said["content"] == [thought, use, use]
    assert said["stop_reason"] == "tool_use"
    omitted = {"type": "adaptive", "display": "omitted"}
    [hidden, *_] = worded(told, thinking=omitted)["content"]
    assert hidden["thinking"] == ""
    assert hidden["signature"] == signature("hm", carried=True)


@pytest.mark.parametrize(
    ("finish", "stop", "reason", "sequence"),
    [
        ("stop", None, "end_turn", None),
        ("stop", "END", "stop_sequence", "END"),
        ("stop", 2, "end_turn", None),
        ("length", None, "max_tokens", None),
        ("tool_calls", None, "tool_use", None),
    ],
)
def test_why_it_stopped(
    finish: str, stop: Any, reason: str, sequence: str | None
) -> None:
    said = worded(answer(finish, stop))
    assert (said["stop_reason"], said["stop_sequence"]) == (reason, sequence)


def test_nothing_said_is_no_block() -> None:
    assert worded(answer(content=""))["content"] == []
    assert worded(answer(content=None))["content"] == []


@pytest.mark.parametrize(
    "told",
    [
        {},
        answer() | {"choices": []},
        answer() | {"choices": [None]},
        answer(finish=None),
        answer(finish="boredom"),
        answer(tool_calls=[{"id": "x"}]),
        answer(tool_calls=[CALL | {"function": {"name": "f", "arguments": "{"}}]),
        answer(tool_calls=[CALL | {"function": {"name": "f", "arguments": "[]"}}]),
    ],
)
def test_what_is_no_answer_is_not_worded(told: Json) -> None:
    with pytest.raises(MALFORMED):
        worded(told)


@pytest.mark.parametrize(
    ("status", "shown", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (401, 401, "authentication_error"),
        (403, 403, "permission_error"),
        (404, 404, "not_found_error"),
        (405, 405, "invalid_request_error"),
        (413, 413, "request_too_large"),
        (422, 400, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (500, 500, "api_error"),
        (502, 502, "api_error"),
        (503, 529, "overloaded_error"),
        (504, 504, "timeout_error"),
    ],
)
def test_errors_have_anthropics_types_and_statuses(
    status: int, shown: int, kind: str
) -> None:
    error = ApiError(status, "so it is", code="c", details={"n": 3})
    dialect = Anthropic()
    assert dialect.status(error) == shown
    assert dialect.error(error, "req-1") == {
        "type": "error",
        "error": {
            "type": kind,
            "message": "so it is",
            "details": {"error_code": "c", "n": 3},
        },
        "request_id": "req-1",
    }
    assert dialect.headers("req-1") == {"request-id": "req-1"}


def test_our_own_refusals_keep_when_to_come_back() -> None:
    assert Anthropic().status(overloaded("full", 3)) == 429
    assert overloaded("full", 3).headers() == {"Retry-After": "3"}
    assert Anthropic().status(shutting_down()) == 529


@pytest.mark.parametrize("least", ["", "at least "])
def test_agents_recognise_a_prompt_that_is_too_long(least: str) -> None:
    message = (
        "This model's maximum context length is 4096 tokens. However, your messages"
        f" came to {least}5000 tokens, and at least one is needed for the answer."
    )
    error = ApiError(400, message, code="context_length_exceeded")
    told = Anthropic().error(error, "r")["error"]["message"]
    assert told == "prompt is too long: 5000 tokens > 4095 maximum"
    error.message = "it does not fit"
    told = Anthropic().error(error, "r")["error"]["message"]
    assert told == "prompt is too long: it does not fit"
